//! Tables without Raft: one command after the other, as an edge or the leader would have proposed it.

use std::collections::BTreeMap;

use cluster_proto::{
    AppId, Audience, Incarnation, NodeId, Outcome, PushId, PushKind, Qos, State, TerminalId, TerminalNo,
    TerminalSet, Will,
    link::{
        ExchangeStep, Inbound, Lane, Origin, Outbound, OutboundStage, Receipt, Step, Subscription,
        SubscriptionOptions, Unacknowledged, WillFate,
    },
};
use raft_store::{
    Applied, Command, CommandBatch, CommandBody, Effect,
    command::{AcceptPush, Holder, NewTerminal, OpenSession, PushOptions, Quotas},
    tables::{self, EntryPosition, RetainedPage, StateMachine, Tables, TablesOptions},
};
use tempfile::TempDir;

use super::{id, message};

pub struct Store {
    directory: TempDir,
    pub tables: Tables,
    pub machine: StateMachine,
    pub at_ms: u64,
    /// Of the last entry.
    pub effects: Vec<Effect>,
    seqs: BTreeMap<(NodeId, Incarnation, Lane), u64>,
}

impl Store {
    /// With edges 1 and 2 in their first lives.
    pub fn new() -> Self {
        Self::with(TablesOptions::default())
    }

    pub fn with(options: TablesOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = TablesOptions { cache_bytes: 1 << 20, ..options };
        let (tables, machine) = tables::open(directory.path(), options).unwrap();
        let (effects, seqs) = Default::default();
        let mut store = Self { directory, tables, machine, at_ms: 1_000, effects, seqs };
        for edge in [1, 2] {
            store.apply(CommandBody::EdgeStarted { edge: NodeId(edge), incarnation: Incarnation(1) });
        }
        store
    }

    /// Closed and opened again.
    pub fn reopened(self) -> Self {
        let Self { directory, tables, machine, at_ms, effects, seqs } = self;
        machine.flush().unwrap();
        drop((tables, machine));
        let options = TablesOptions { cache_bytes: 1 << 20, ..TablesOptions::default() };
        let (tables, machine) = tables::open(directory.path(), options).unwrap();
        Self { directory, tables, machine, at_ms, effects, seqs }
    }

    pub fn apply(&mut self, body: CommandBody) -> Applied {
        self.entry(vec![Command::own(body)]).pop().unwrap()
    }

    /// Several commands in one entry.
    pub fn entry(&mut self, commands: Vec<Command>) -> Vec<Applied> {
        let EntryPosition { index, .. } = self.machine.applied_position();
        let position = EntryPosition { term: 1, index: index + 1 };
        let batch = CommandBatch { at_ms: self.at_ms, commands };
        self.effects.clear();
        self.machine.apply(vec![(position, Some(batch))], None, &mut self.effects).unwrap().pop().unwrap()
    }

    /// The next command of a lane of the edge that a connection is on.
    pub fn lane(&mut self, holder: &Holder, lane: Lane, body: CommandBody) -> Applied {
        let command = self.numbered(holder, lane, body);
        self.entry(vec![command]).pop().unwrap()
    }

    pub fn numbered(&mut self, holder: &Holder, lane: Lane, body: CommandBody) -> Command {
        let (edge, incarnation) = (holder.edge, holder.incarnation);
        let seq = self.seqs.entry((edge, incarnation, lane)).or_default();
        *seq += 1;
        Command { origin: Some(Origin { edge, incarnation, lane, seq: *seq }), body }
    }

    pub fn register(&mut self, count: u32) {
        for first in (0..count).step_by(10_000) {
            let last = count.min(first + 10_000);
            let terminals =
                (first..last).map(|n| NewTerminal { id: id(n), tags: None, alias: None }).collect();
            self.apply(CommandBody::RegisterTerminals { app: AppId::DEFAULT, terminals });
        }
    }

    pub fn connect(&mut self, open: OpenSession) -> Opened {
        Opened::of(self.apply(CommandBody::OpenSession(open)))
    }

    /// The connection is gone without DISCONNECT.
    pub fn lose(&mut self, holder: &Holder, expiry_s: u32) {
        self.detach(holder, expiry_s, WillFate::Publish, Vec::new());
    }

    pub fn detach(
        &mut self,
        holder: &Holder,
        expiry_s: u32,
        will: WillFate,
        unacknowledged: Vec<Unacknowledged>,
    ) {
        let holder = holder.clone();
        let answer = self.apply(CommandBody::DetachSession { holder, expiry_s, will, unacknowledged });
        assert_eq!(answer, Applied::Done);
    }

    pub fn end_edge(&mut self, edge: u64, incarnation: u64) {
        let (edge, incarnation) = (NodeId(edge), Incarnation(incarnation));
        self.apply(CommandBody::EdgeEnded { edge, incarnation });
    }

    pub fn subscribe(&mut self, holder: &Holder, filter: &str) -> Opened {
        self.subscribe_with(holder, filter, Qos::ExactlyOnce)
    }

    pub fn subscribe_with(&mut self, holder: &Holder, filter: &str, qos: Qos) -> Opened {
        Opened::of(self.apply(subscribe(holder, filter, qos)))
    }

    pub fn unsubscribe(&mut self, holder: &Holder, filter: &str) {
        let filters = vec![filter.to_owned()];
        self.apply(CommandBody::Unsubscribe { holder: holder.clone(), filters });
    }

    pub fn push(&mut self, kind: PushKind, audience: Audience) -> PushId {
        self.push_to("a", kind, audience)
    }

    /// A topic push.
    pub fn publish(&mut self, topic: &str) -> PushId {
        self.push_to(topic, PushKind::Topic, Audience::Topic)
    }

    fn push_to(&mut self, topic: &str, kind: PushKind, audience: Audience) -> PushId {
        match self.apply(CommandBody::AcceptPush(accept(message(kind, topic, None), audience))) {
            Applied::Accepted { push, .. } => push,
            answer => panic!("{answer:?}"),
        }
    }

    /// Steps of one connection's outbound exchanges.
    pub fn steps(&mut self, holder: &Holder, steps: &[(u16, Step)]) -> Applied {
        let no = self.no(holder);
        let body = steps_of(no, holder, steps);
        self.lane(holder, Lane::Receipts, body)
    }

    /// A QoS 2 PUBLISH.
    pub fn publish_exactly_once(&mut self, holder: &Holder, topic: &str, packet_id: u16) -> Applied {
        let exchange = Some(self.inbound(holder, packet_id));
        let accept =
            AcceptPush { exchange, ..accept(message(PushKind::Topic, topic, None), Audience::Topic) };
        self.lane(holder, Lane::Publish, CommandBody::AcceptPush(accept))
    }

    pub fn release(&mut self, holder: &Holder, packet_id: u16) {
        let release = CommandBody::Release(self.inbound(holder, packet_id));
        assert_eq!(self.lane(holder, Lane::Publish, release), Applied::Done);
    }

    fn inbound(&self, holder: &Holder, packet_id: u16) -> Inbound {
        Inbound { no: self.no(holder), connection: holder.connection, packet_id }
    }

    pub fn no(&self, holder: &Holder) -> TerminalNo {
        self.tables.terminal_no(holder.app, &holder.terminal).unwrap()
    }

    pub fn receipt(&mut self, push: PushId, outcome: Outcome, terminals: TerminalSet) {
        let items = vec![Receipt { push, outcome, terminals }];
        self.apply(CommandBody::RecordReceipts { items, steps: Vec::new() });
    }

    pub fn deliver(&mut self, push: PushId, no: TerminalNo) {
        self.receipt(push, Outcome::Delivered, TerminalSet::one(no));
    }

    pub fn purge(&mut self) {
        self.at_ms += 10_000;
        self.apply(CommandBody::PurgePushes { settled_before_ms: self.at_ms, limit: 1_000 });
    }

    pub fn count(&self, push: PushId, state: State) -> u64 {
        self.tables.targets(push, state).unwrap().len()
    }
}

/// The answer to a session command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub no: TerminalNo,
    pub present: bool,
    pub subscriptions: Vec<String>,
    pub outbound: Vec<(u16, PushId, OutboundStage)>,
    pub inbound: Vec<u16>,
    pub index: u64,
}

impl Opened {
    fn of(answer: Applied) -> Self {
        let Applied::Session { no: Some(no), present, subscriptions, outbound, inbound, index, .. } = answer
        else {
            panic!("{answer:?}")
        };
        let subscriptions = subscriptions.into_iter().map(|subscription| subscription.filter).collect();
        let outbound = outbound.into_iter().map(|o: Outbound| (o.packet_id, o.push, o.stage)).collect();
        Self { no, present, subscriptions, outbound, inbound, index }
    }
}

/// A connection of terminal `n`.
pub fn connection(n: u32, edge: u64, connection: u64) -> Holder {
    Holder {
        app: AppId::DEFAULT,
        terminal: id(n),
        edge: NodeId(edge),
        incarnation: Incarnation(1),
        connection,
    }
}

/// CONNECT that resumes.
pub fn open(holder: &Holder, expiry_s: u32) -> OpenSession {
    let (holder, unacknowledged) = (holder.clone(), Vec::new());
    OpenSession { holder, clean_start: false, expiry_s, will: None, unacknowledged }
}

pub fn subscribe(holder: &Holder, filter: &str, qos: Qos) -> CommandBody {
    let options = SubscriptionOptions::default();
    let subscriptions = vec![Subscription { filter: filter.into(), qos, options }];
    CommandBody::Subscribe { holder: holder.clone(), subscriptions }
}

pub fn steps_of(no: TerminalNo, holder: &Holder, steps: &[(u16, Step)]) -> CommandBody {
    let connection = holder.connection;
    let step =
        |(packet_id, step): &(u16, Step)| ExchangeStep { no, connection, packet_id: *packet_id, step: *step };
    CommandBody::RecordReceipts { items: Vec::new(), steps: steps.iter().map(step).collect() }
}

pub fn create(name: &str) -> CommandBody {
    CommandBody::CreateApp { name: name.to_owned(), quotas: Quotas::default() }
}

pub fn accept(message: cluster_proto::Message, audience: Audience) -> AcceptPush {
    AcceptPush {
        message,
        audience,
        online: None,
        ttl_ms: 1_000,
        options: PushOptions::default(),
        retained_ttl_ms: None,
        exchange: None,
        idempotency: None,
    }
}

pub fn will(topic: &str, delay_s: u32) -> Will {
    Will { message: message(PushKind::Topic, topic, None), delay_s, ttl_ms: None }
}

pub fn set(nos: impl IntoIterator<Item = u32>) -> TerminalSet {
    nos.into_iter().map(TerminalNo).collect()
}

pub fn terminals(range: std::ops::Range<u32>) -> Vec<TerminalId> {
    range.map(id).collect()
}

/// The messages of a page, and when each expires.
pub fn kept(page: RetainedPage) -> Vec<(cluster_proto::Message, Option<u64>)> {
    page.messages.into_iter().map(|kept| (kept.message, kept.expires_at_ms)).collect()
}
