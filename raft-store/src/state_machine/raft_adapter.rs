//! openraft's view of the tables. All work is done by the [`ApplyThread`].

use std::io;

use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};

use super::{ApplyThread, apply_thread::Committed};
use crate::{
    log_store::READ_LEN_MAX,
    snapshot::{SnapshotDir, SnapshotStore, Stored},
    tables::EntryPosition,
    type_config::{Answers, Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig},
};

/// Most entries in one atomic write of the tables.
const SLICE_ENTRIES_MAX: usize = 256;

/// See the module.
#[derive(Clone)]
pub(crate) struct RaftTables {
    thread: ApplyThread,
    snapshots: SnapshotStore,
}

impl RaftTables {
    pub(crate) fn new(thread: ApplyThread, snapshots: SnapshotStore) -> Self {
        Self { thread, snapshots }
    }

    async fn apply_slice(&self, slice: &mut Slice) -> io::Result<()> {
        let Slice { entries, responders, membership, .. } = std::mem::take(slice);
        if entries.is_empty() {
            return Ok(());
        }
        let answers = self.thread.apply(entries, membership).await?;
        for (responder, answers) in responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(Answers(answers));
            }
        }
        Ok(())
    }
}

/// Entries that go to the tables in one write.
#[derive(Default)]
struct Slice {
    entries: Vec<Committed>,
    responders: Vec<Option<ApplyResponder<TypeConfig>>>,
    membership: Option<StoredMembership>,
    bytes: usize,
}

impl Slice {
    fn push(&mut self, entry: Entry, responder: Option<ApplyResponder<TypeConfig>>) {
        let position = EntryPosition { term: entry.log_id.leader_id.term, index: entry.log_id.index };
        let proposal = match entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(proposal) => Some(proposal),
            EntryPayload::Membership(membership) => {
                self.membership = Some(StoredMembership::new(Some(entry.log_id), membership));
                None
            }
        };
        self.bytes += proposal.as_ref().map_or(0, |proposal| proposal.len());
        self.entries.push((position, proposal));
        self.responders.push(responder);
    }

    fn is_full(&self) -> bool {
        self.bytes >= READ_LEN_MAX || self.entries.len() >= SLICE_ENTRIES_MAX
    }
}

impl RaftStateMachine<TypeConfig> for RaftTables {
    type SnapshotData = SnapshotDir;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.thread.applied_state().await
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut slice = Slice::default();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            slice.push(entry, responder);
            if slice.is_full() {
                self.apply_slice(&mut slice).await?;
            }
        }
        self.apply_slice(&mut slice).await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotDir,
    ) -> Result<(), io::Error> {
        self.thread.install(meta.clone(), snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshots.current().map(into_snapshot))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for RaftTables {
    type SnapshotData = SnapshotDir;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.thread.snapshot().await.map(into_snapshot)
    }
}

fn into_snapshot(stored: Stored) -> Snapshot {
    Snapshot { meta: stored.meta, snapshot: stored.dir }
}
