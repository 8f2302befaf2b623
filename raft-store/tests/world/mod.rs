//! Random but plausible commands over a small world, for tests that compare or replay.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(unreachable_pub, reason = "a module of tests")]

use std::collections::BTreeMap;

use cluster_proto::{
    AppId, DropReason, Incarnation, Message, MessageProperties, NodeId, Outcome, PushId, PushKind, Qos,
    State, TerminalId, TerminalNo, TerminalSet,
    link::{Lane, Origin, Receipt, Subscription, SubscriptionOptions},
};
use raft_store::{
    Command, CommandBatch, CommandBody,
    command::{AcceptPush, Audience, Holder, IdempotencyKey, NewTerminal, OpenSession},
    tables::{EntryPosition, Tables},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

pub const REGISTERED: u32 = 110;
pub const ANONYMOUS: u32 = 12;
pub const TOPICS: [&str; 5] = ["a", "a/b", "a/c", "b", "$SYS/b"];
pub const FILTERS: [&str; 8] = ["a", "a/b", "a/+", "a/#", "#", "+/b", "b", "$SYS/#"];

pub type Entry = (EntryPosition, Option<CommandBatch>);

/// Draws commands; looks at the tables so that most of them hit something.
pub struct Generator {
    pub rng: StdRng,
    tables: Tables,
    at_ms: u64,
    index: u64,
    incarnations: BTreeMap<u64, u64>,
    seqs: BTreeMap<(u64, u64, Lane), u64>,
}

impl Generator {
    pub fn new(seed: u64, tables: Tables) -> Self {
        println!("seed {seed}");
        let (incarnations, seqs) = Default::default();
        Self { rng: StdRng::seed_from_u64(seed), tables, at_ms: 1_000, index: 0, incarnations, seqs }
    }

    /// The first entry: terminals and edges.
    pub fn world(&mut self) -> Entry {
        let terminals = (0..REGISTERED).map(|n| NewTerminal { id: id(n), tags: None }).collect();
        let mut commands = vec![CommandBody::RegisterTerminals { app: AppId::DEFAULT, terminals }];
        commands.extend([1, 2].map(|edge| self.start_edge(edge)));
        self.wrap(commands.into_iter().map(Command::own).collect())
    }

    pub fn entry(&mut self) -> Entry {
        if self.rng.random_ratio(1, 20) {
            self.index += 1;
            return (EntryPosition { term: 1, index: self.index }, None);
        }
        let commands = (0..self.rng.random_range(1..8)).map(|_| self.command()).collect();
        self.at_ms += self.rng.random_range(0..400);
        self.wrap(commands)
    }

    fn wrap(&mut self, commands: Vec<Command>) -> Entry {
        self.index += 1;
        (EntryPosition { term: 1, index: self.index }, Some(CommandBatch { at_ms: self.at_ms, commands }))
    }

    fn command(&mut self) -> Command {
        let body = match self.rng.random_range(0..100) {
            0..30 => self.accept(),
            30..58 => self.receipts(),
            58..68 => self.subscribe(),
            68..72 => CommandBody::Unsubscribe { holder: self.holder(), filters: vec![self.filter()] },
            72..78 => self.open(),
            78..82 => self.detach(),
            82..84 => CommandBody::ExpireSessions { limit: self.rng.random_range(0..4) },
            84..90 => CommandBody::ExpirePushes {
                pushes: self.tables.due(self.at_ms, 3).into_iter().map(|p| (p, self.in_flight(p))).collect(),
            },
            90..94 => {
                let push = self.push();
                let app = AppId(if self.rng.random_ratio(1, 20) { 9 } else { 1 });
                CommandBody::CancelPush { app, push, in_flight: self.in_flight(push) }
            }
            94..96 => CommandBody::PurgePushes {
                settled_before_ms: self.at_ms.saturating_sub(self.rng.random_range(0..2_000)),
                limit: self.rng.random_range(0..20),
            },
            96 => self.register(),
            97 => self.edge_change(),
            98 => CommandBody::CreateApp { name: "other".into() },
            _ => CommandBody::Revoke {
                app: AppId::DEFAULT,
                terminal: Some(self.terminal()),
                issued_until: self.at_ms,
            },
        };
        let origin = self.origin(&body);
        Command { origin, body }
    }

    fn origin(&mut self, body: &CommandBody) -> Option<Origin> {
        let (edge, incarnation, lane) = match body {
            CommandBody::Subscribe { holder, .. } => (holder.edge.0, holder.incarnation.0, Lane::Session),
            CommandBody::RecordReceipts { .. } => {
                let edge = self.rng.random_range(1..=2);
                (edge, self.incarnations[&edge], Lane::Receipts)
            }
            _ => return None,
        };
        let last = self.seqs.entry((edge, incarnation, lane)).or_default();
        let seq = match self.rng.random_range(0..20) {
            0 => *last,
            1 => *last + 2,
            _ => *last + 1,
        };
        *last = if seq == *last + 1 { seq } else { *last };
        let (edge, incarnation) = (NodeId(edge), Incarnation(incarnation));
        Some(Origin { edge, incarnation, lane, seq })
    }

    fn accept(&mut self) -> CommandBody {
        let audience = match self.rng.random_range(0..10) {
            0..4 => Audience::Terminals((0..self.rng.random_range(0..4)).map(|_| self.terminal()).collect()),
            4 => Audience::All,
            5 => Audience::Terminals((0..self.rng.random_range(60..70)).map(id).collect()),
            _ => Audience::Topic,
        };
        let kind = if audience == Audience::Topic { PushKind::Topic } else { PushKind::Identity };
        let publisher = self.rng.random_bool(0.5).then(|| self.no());
        let idempotency = self.rng.random_ratio(1, 8).then(|| IdempotencyKey {
            key: format!("k{}", self.rng.random_range(0..6)),
            digest: self.rng.random_range(0..2),
        });
        let message = message(kind, TOPICS.choose(&mut self.rng).unwrap(), publisher);
        CommandBody::AcceptPush(AcceptPush {
            message,
            audience,
            ttl_ms: self.rng.random_range(0..3_000),
            idempotency,
            exchange: None,
        })
    }

    fn receipts(&mut self) -> CommandBody {
        let outcomes = [
            Outcome::Delivered,
            Outcome::Delivered,
            Outcome::Sent,
            Outcome::Dropped(DropReason::Offline),
            Outcome::NotWritten,
        ];
        let receipt = |this: &mut Self| {
            let (push, outcome) = (this.push(), *outcomes.choose(&mut this.rng).unwrap());
            Receipt { push, outcome, terminals: this.some_of_audience(push) }
        };
        CommandBody::RecordReceipts {
            items: (0..self.rng.random_range(1..4)).map(|_| receipt(self)).collect(),
            steps: Vec::new(),
        }
    }

    fn some_of_audience(&mut self, push: PushId) -> TerminalSet {
        let audience = self.tables.audience(push).unwrap_or_default();
        let share = [0.05, 0.5, 1.0].choose(&mut self.rng).copied().unwrap();
        let mut some: TerminalSet = audience.iter().filter(|_| self.rng.random_bool(share)).collect();
        if self.rng.random_ratio(1, 4) {
            some.insert(self.no());
        }
        some
    }

    fn in_flight(&mut self, push: PushId) -> TerminalSet {
        let pending = self.tables.targets(push, State::Pending).unwrap_or_default();
        pending.iter().filter(|_| self.rng.random_ratio(1, 3)).collect()
    }

    fn subscribe(&mut self) -> CommandBody {
        let subscription = |this: &mut Self| Subscription {
            filter: this.filter(),
            qos: *[Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce].choose(&mut this.rng).unwrap(),
            options: SubscriptionOptions { no_local: this.rng.random_bool(0.3), ..Default::default() },
        };
        let subscriptions = (0..self.rng.random_range(1..3)).map(|_| subscription(self)).collect();
        CommandBody::Subscribe { holder: self.holder(), subscriptions }
    }

    fn open(&mut self) -> CommandBody {
        let mut holder = self.holder();
        holder.connection += u64::from(self.rng.random_bool(0.5));
        let expiry_s = *[0, 1, 3].choose(&mut self.rng).unwrap();
        CommandBody::OpenSession(OpenSession {
            holder,
            clean_start: self.rng.random_bool(0.3),
            expiry_s,
            unacknowledged: Vec::new(),
            will: None,
        })
    }

    fn detach(&mut self) -> CommandBody {
        CommandBody::DetachSession {
            holder: self.holder(),
            expiry_s: self.rng.random_range(0..3),
            unacknowledged: Vec::new(),
            will: cluster_proto::link::WillFate::Publish,
        }
    }

    fn register(&mut self) -> CommandBody {
        // Sometimes a client that was not registered so far.
        let n =
            if self.rng.random_ratio(1, 3) { REGISTERED + self.rng.random_range(0..ANONYMOUS) } else { 5 };
        let terminals = vec![NewTerminal { id: id(n), tags: Some(vec![("k".into(), "v".into())]) }];
        CommandBody::RegisterTerminals { app: AppId::DEFAULT, terminals }
    }

    fn edge_change(&mut self) -> CommandBody {
        let edge = self.rng.random_range(1..=2);
        if self.rng.random_bool(0.5) {
            let incarnation = Incarnation(self.incarnations[&edge]);
            return CommandBody::EdgeEnded { edge: NodeId(edge), incarnation };
        }
        self.start_edge(edge)
    }

    fn start_edge(&mut self, edge: u64) -> CommandBody {
        let incarnation = self.incarnations.entry(edge).or_default();
        *incarnation += 1;
        CommandBody::EdgeStarted { edge: NodeId(edge), incarnation: Incarnation(*incarnation) }
    }

    /// Mostly whoever holds the terminal's session.
    fn holder(&mut self) -> Holder {
        let terminal = self.terminal();
        let record = self.tables.terminal_by_id(AppId::DEFAULT, &terminal);
        let session = record.and_then(|record| self.tables.session(record.no));
        let (edge, incarnation, connection) = match session {
            Some(session) if self.rng.random_ratio(9, 10) => {
                (session.edge, session.incarnation, session.connection)
            }
            _ => {
                let edge = self.rng.random_range(1..=2);
                (NodeId(edge), Incarnation(self.incarnations[&edge]), self.rng.random_range(1..5))
            }
        };
        Holder { app: AppId::DEFAULT, terminal, edge, incarnation, connection }
    }

    fn push(&mut self) -> PushId {
        let last = self.tables.applied().last_push.0;
        let first = if self.rng.random_bool(0.8) { last.saturating_sub(30) } else { 0 };
        PushId(self.rng.random_range(first..=last + 1))
    }

    fn terminal(&mut self) -> TerminalId {
        id(self.rng.random_range(0..REGISTERED + ANONYMOUS))
    }

    fn no(&mut self) -> TerminalNo {
        let terminal = self.terminal();
        self.tables.terminal_by_id(AppId::DEFAULT, &terminal).map_or(TerminalNo(1), |record| record.no)
    }

    fn filter(&mut self) -> String {
        (*FILTERS.choose(&mut self.rng).unwrap()).to_owned()
    }
}

pub fn id(n: u32) -> TerminalId {
    TerminalId::new(format!("t{n:03}")).unwrap()
}

pub fn message(kind: PushKind, topic: &str, publisher: Option<TerminalNo>) -> Message {
    Message {
        app: AppId::DEFAULT,
        kind,
        topic: topic.to_owned(),
        qos: Qos::AtLeastOnce,
        payload: b"hello".as_slice().into(),
        properties: MessageProperties::default(),
        publisher,
        retain: false,
    }
}
