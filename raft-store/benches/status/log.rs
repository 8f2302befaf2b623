//! The tables behind a log that is not kept: entries are encoded as the log has them, and applied as the apply thread
//! does.

use std::path::{Path, PathBuf};

use cluster_proto::{
    AppId, Audience, Incarnation, Message, MessageProperties, NodeId, Outcome, PushId, PushKind, Qos,
    TerminalSet,
    link::{Lane, Origin, Receipt},
};
use raft_store::{
    Applied, Command, CommandBatch, CommandBody,
    command::{AcceptPush, PushOptions},
    tables::{self, EntryPosition, StateMachine, Tables, TablesOptions},
};

use crate::{Result, clock::Cost};

pub(crate) const APP: AppId = AppId::DEFAULT;
/// Where receipts come from.
const EDGE: NodeId = NodeId(99);
/// Of a record besides its batch: version and checksum of the record, log id, payload kind and length, version of
/// the batch.
const RECORD_LEN: u64 = 9 + 6 + 4 + 1;
/// 27 days, so that nothing expires while this runs.
const TTL_MS: u64 = 27 * 24 * 3_600_000;

pub(crate) struct Log {
    path: PathBuf,
    pub(crate) tables: Tables,
    machine: StateMachine,
    receipts: u64,
}

/// One entry, applied.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) answers: Vec<Applied>,
    pub(crate) cost: Cost,
    /// What it takes in the log.
    pub(crate) len: u64,
}

impl Log {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (tables, machine) = tables::open(path, TablesOptions::default())?;
        let mut log = Self { path: path.to_owned(), tables, machine, receipts: 0 };
        let incarnation = log.incarnation();
        log.apply(vec![Command::own(CommandBody::EdgeStarted { edge: EDGE, incarnation })])?;
        Ok(log)
    }

    /// Everything on disk, nothing in memory.
    pub(crate) fn reopened(self) -> Result<Self> {
        let path = self.path.clone();
        self.close()?;
        Self::open(&path)
    }

    pub(crate) fn close(mut self) -> Result<()> {
        let incarnation = self.incarnation();
        self.apply(vec![Command::own(CommandBody::EdgeEnded { edge: EDGE, incarnation })])?;
        self.machine.flush()?;
        Ok(())
    }

    /// A new one each time the tables are opened.
    fn incarnation(&self) -> Incarnation {
        let known = self.tables.edge_seqs(EDGE).map(|(incarnation, _)| incarnation);
        known.unwrap_or(Incarnation(now_ms()))
    }

    pub(crate) fn apply(&mut self, commands: Vec<Command>) -> Result<Entry> {
        let batch = CommandBatch { at_ms: now_ms(), commands };
        let bytes = postcard::to_stdvec(&batch)?;
        let at = self.machine.applied_position();
        let position = EntryPosition { term: at.term.max(1), index: at.index + 1 };
        let (applied, cost) = Cost::of(|| -> Result<_> {
            let batch = postcard::from_bytes(&bytes)?;
            Ok(self.machine.apply(vec![(position, Some(batch))], None, &mut Vec::new())?)
        });
        let answers = applied?.pop().ok_or("no answers")?;
        if let Some(refused) = answers.iter().find(|answer| matches!(answer, Applied::Refused(_))) {
            return Err(format!("a command was refused: {refused:?}").into());
        }
        Ok(Entry { answers, cost, len: bytes.len() as u64 + RECORD_LEN })
    }

    pub(crate) fn push(&mut self, audience: Audience) -> Result<(PushId, u64, Entry)> {
        let entry = self.apply(vec![Command::own(accept(audience))])?;
        match entry.answers[..] {
            [Applied::Accepted { push, audience, .. }] => Ok((push, audience, entry)),
            _ => Err(format!("not accepted: {:?}", entry.answers).into()),
        }
    }

    /// A batch of an edge.
    pub(crate) fn delivered(&mut self, push: PushId, terminals: TerminalSet) -> Result<Entry> {
        self.receipts += 1;
        let (incarnation, seq) = (self.incarnation(), self.receipts);
        let origin = Some(Origin { edge: EDGE, incarnation, lane: Lane::Receipts, seq });
        let items = vec![Receipt { push, outcome: Outcome::Delivered, terminals }];
        self.apply(vec![Command { origin, body: CommandBody::RecordReceipts { items, steps: Vec::new() } }])
    }

    pub(crate) fn flush(&self) -> Result<()> {
        self.machine.flush()?;
        Ok(())
    }

    pub(crate) fn compact(&self) -> Result<()> {
        self.tables.compact()?;
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes on disk of the families a push's status lies in.
    pub(crate) fn status_on_disk(&self) -> Result<u64> {
        self.on_disk(&["pushes", "sets", "owed"])
    }

    pub(crate) fn on_disk(&self, families: &[&str]) -> Result<u64> {
        let all = self.tables.disk_usage()?;
        Ok(all.into_iter().filter(|(family, _)| families.contains(family)).map(|(_, bytes)| bytes).sum())
    }
}

fn accept(audience: Audience) -> CommandBody {
    CommandBody::AcceptPush(AcceptPush {
        message: Message {
            app: APP,
            kind: PushKind::Identity,
            topic: "news/today".to_owned(),
            qos: Qos::AtLeastOnce,
            payload: vec![b'.'; 200].into(),
            properties: MessageProperties::default(),
            publisher: None,
            retain: false,
            tells_expiry: false,
        },
        audience,
        online: None,
        ttl_ms: TTL_MS,
        options: PushOptions::default(),
        retained_ttl_ms: None,
        exchange: None,
        idempotency: None,
    })
}

pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
