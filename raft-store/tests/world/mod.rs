//! Random but plausible commands over a small world, for tests that compare or replay.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(unreachable_pub, reason = "a module of tests")]

pub mod audience;
mod mqtt;
pub mod store;

use std::collections::BTreeMap;

use cluster_proto::{
    AppId, Audience, DropReason, Incarnation, Message, MessageProperties, NodeId, Outcome, PushId, PushKind,
    Qos, State, TerminalId, TerminalNo, TerminalSet,
    link::{Lane, Origin, Receipt, Subscription, SubscriptionOptions, WillFate},
};
use raft_store::{
    Command, CommandBatch, CommandBody,
    command::{
        AcceptPush, Holder, IdempotencyKey, LabelChange, NewTerminal, OnLow, OpenSession, Pace, PushOptions,
        QuotaChange, Quotas, ReleasePlan, Stage,
    },
    tables::{EntryPosition, Tables},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

pub const REGISTERED: u32 = 110;
pub const ANONYMOUS: u32 = 12;
pub const TOPICS: [&str; 5] = ["a", "a/b", "a/c", "b", "$SYS/b"];
pub const FILTERS: [&str; 8] = ["a", "a/b", "a/+", "a/#", "#", "+/b", "b", "$SYS/#"];
pub const SHARED: [&str; 4] = ["$share/g/a", "$share/g/a/+", "$share/h/a/+", "$share/g/#"];

pub const DAY_MS: u64 = 24 * 3_600 * 1_000;

pub type Entry = (EntryPosition, Option<CommandBatch>);

/// Draws commands; looks at the tables so that most of them hit something.
pub struct Generator {
    pub rng: StdRng,
    tables: Tables,
    at_ms: u64,
    index: u64,
    incarnations: BTreeMap<u64, u64>,
    seqs: BTreeMap<(u64, u64, Lane), u64>,
    /// Who sends the command being drawn, if it is an edge.
    from: Option<(u64, u64, Lane)>,
}

impl Generator {
    pub fn new(seed: u64, tables: Tables) -> Self {
        println!("seed {seed}");
        let (incarnations, seqs) = Default::default();
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, tables, at_ms: 200 * DAY_MS + 1_000, index: 0, incarnations, seqs, from: None }
    }

    /// The first entry: terminals and edges.
    pub fn world(&mut self) -> Entry {
        let mut new = |n| {
            let (tags, alias) = audience::labels(&mut self.rng);
            NewTerminal { id: id(n), tags: Some(tags), alias }
        };
        let terminals = (0..REGISTERED).map(&mut new).collect();
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

    /// An entry that the test makes by itself takes the next place.
    pub fn skip_entry(&mut self) {
        self.index += 1;
    }

    fn wrap(&mut self, commands: Vec<Command>) -> Entry {
        self.index += 1;
        (EntryPosition { term: 1, index: self.index }, Some(CommandBatch { at_ms: self.at_ms, commands }))
    }

    fn command(&mut self) -> Command {
        self.from = None;
        let body = match self.rng.random_range(0..117) {
            0..24 => self.accept(),
            24..28 => self.collapse(),
            28..46 => self.receipts(),
            46..56 => self.subscribe(),
            56..60 => CommandBody::Unsubscribe { holder: self.holder(), filters: vec![self.filter()] },
            60..69 => self.open(),
            69..75 => self.detach(),
            75..77 => CommandBody::ExpireSessions { limit: self.rng.random_range(0..4) },
            77..82 => CommandBody::ExpirePushes {
                pushes: self.tables.due(self.at_ms, 9).into_iter().map(|p| (p, self.in_flight(p))).collect(),
            },
            82..85 => {
                let push = self.push();
                let app = AppId(if self.rng.random_ratio(1, 20) { 9 } else { 1 });
                CommandBody::CancelPush { app, push, in_flight: self.in_flight(push) }
            }
            85 => CommandBody::PurgePushes {
                settled_before_ms: self.at_ms.saturating_sub(self.rng.random_range(0..2_000)),
                limit: self.rng.random_range(0..20),
            },
            86..88 => self.register(),
            88 => self.edge_change(),
            89 => CommandBody::CreateApp { name: "other".into(), quotas: Quotas::default() },
            90 => CommandBody::Revoke {
                app: AppId::DEFAULT,
                terminal: Some(self.terminal()),
                issued_until: self.at_ms,
            },
            91..93 => CommandBody::PublishWills { limit: self.rng.random_range(0..4) },
            93 => CommandBody::ExpireRetained { limit: self.rng.random_range(0..4) },
            94 => {
                let ttl_ms = self.retained_ttl_ms();
                CommandBody::Retain { message: self.retained(), ttl_ms }
            }
            95 | 96 => CommandBody::Release(self.inbound()),
            97 | 98 => CommandBody::RecordReceipts { items: Vec::new(), steps: self.steps() },
            99..107 => CommandBody::ReleasePushes { limit: self.rng.random_range(0..4) },
            107 => CommandBody::HoldPush { app: AppId::DEFAULT, push: self.push() },
            108 => CommandBody::ResumePush { app: AppId::DEFAULT, push: self.push() },
            // Draws nothing.
            109 | 116 => CommandBody::PurgeReceipts {
                before_ms: self.at_ms.saturating_sub(6_000),
                bytes_max: 6_000,
                limit: 30,
            },
            110 | 111 => self.update(),
            112 => CommandBody::DeleteTerminals { app: AppId::DEFAULT, terminals: self.some_terminals(2) },
            113 | 114 => {
                let day = (self.at_ms / DAY_MS) as u32 + 2 - self.rng.random_range(0..100);
                CommandBody::RecordSeen { day, terminals: self.some_terminals(30) }
            }
            115 => self.quotas(),
            _ => CommandBody::Nothing,
        };
        let origin = self.from.map(|(edge, incarnation, lane)| self.number(edge, incarnation, lane));
        Command { origin, body }
    }

    /// Mostly the next number of the lane; now and then one again, or with a gap.
    fn number(&mut self, edge: u64, incarnation: u64, lane: Lane) -> Origin {
        let last = self.seqs.entry((edge, incarnation, lane)).or_default();
        let seq = match self.rng.random_range(0..20) {
            0 => *last,
            1 => *last + 2,
            _ => *last + 1,
        };
        *last = if seq == *last + 1 { seq } else { *last };
        let (edge, incarnation) = (NodeId(edge), Incarnation(incarnation));
        Origin { edge, incarnation, lane, seq }
    }

    fn from(&mut self, holder: &Holder, lane: Lane) {
        self.from = Some((holder.edge.0, holder.incarnation.0, lane));
    }

    fn accept(&mut self) -> CommandBody {
        let audience = match self.rng.random_range(0..10) {
            0..4 => Audience::Terminals((0..self.rng.random_range(0..4)).map(|_| self.terminal()).collect()),
            4 => Audience::All,
            5 => Audience::Terminals((0..self.rng.random_range(60..70)).map(id).collect()),
            6 => self.expression(),
            7 => Audience::And(vec![Audience::Topic, self.expression()]),
            _ => Audience::Topic,
        };
        let (kind, is_publish) = (audience.kind(), audience == Audience::Topic);
        let online = audience.mentions_online().then(|| self.some_online());
        let publisher = self.rng.random_bool(0.5).then(|| self.no());
        let idempotency = self.rng.random_ratio(1, 4).then(|| IdempotencyKey {
            key: format!("k{}", self.rng.random_range(0..6)),
            digest: self.rng.random_range(0..2),
        });
        let message = match self.rng.random_range(0..4) {
            0 => Message { kind, publisher, ..self.retained() },
            _ => message(kind, TOPICS.choose(&mut self.rng).unwrap(), publisher),
        };
        let exchange = (is_publish && self.rng.random_ratio(2, 3)).then(|| self.inbound());
        CommandBody::AcceptPush(AcceptPush {
            message,
            audience,
            online,
            ttl_ms: self.rng.random_range(0..3_000),
            options: PushOptions {
                urgent: self.rng.random_ratio(1, 3),
                collapse_key: self
                    .rng
                    .random_ratio(1, 2)
                    .then(|| format!("c{}", self.rng.random_range(0..3))),
                release: self.rng.random_ratio(1, 3).then(|| self.plan()),
            },
            retained_ttl_ms: self.retained_ttl_ms(),
            exchange,
            idempotency,
        })
    }

    fn plan(&mut self) -> ReleasePlan {
        let not_before_ms =
            if self.rng.random_bool(0.5) { 0 } else { self.at_ms + self.rng.random_range(0..800) };
        let mut stage = |upto| Stage {
            upto,
            wait_ms: self.rng.random_range(0..800),
            delivered_min: *[0, 3_000, 9_000].choose(&mut self.rng).unwrap(),
        };
        let stages = vec![stage(2_000), stage(6_000), stage(10_000)];
        let on_low = if self.rng.random_bool(0.5) { OnLow::Hold } else { OnLow::Halt };
        let pace = match self.rng.random_range(0..6) {
            0 => Pace::AtOnce,
            1 => Pace::PerSecond(self.rng.random_range(1..40)),
            2 => Pace::Over(self.rng.random_range(1_000..4_000)),
            _ => Pace::Stages { stages, on_low },
        };
        ReleasePlan { not_before_ms, pace }
    }

    /// Over a small vocabulary, so that most of it means someone.
    pub fn expression(&mut self) -> Audience {
        let pushes: Vec<_> = (0..4).map(|_| self.push()).collect();
        let mut terminal = |rng: &mut StdRng| id(rng.random_range(0..REGISTERED + 2));
        let mut push = |rng: &mut StdRng| *pushes.choose(rng).unwrap();
        audience::expression(&mut self.rng, 3, &mut terminal, &mut push)
    }

    /// As the leader might see it: of clients that are registered and of others.
    pub fn some_online(&mut self) -> TerminalSet {
        let registered = (1..=REGISTERED + ANONYMOUS).map(TerminalNo);
        let lent = (0..ANONYMOUS).map(|n| TerminalNo(TerminalNo::UNREGISTERED_FIRST.0 + n));
        registered.chain(lent).filter(|_| self.rng.random_bool(0.5)).collect()
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
        let items = (0..self.rng.random_range(1..4)).map(|_| receipt(self)).collect();
        let edge = self.rng.random_range(1..=2);
        self.from = Some((edge, self.incarnations[&edge], Lane::Receipts));
        let steps = if self.rng.random_ratio(1, 3) { self.steps() } else { Vec::new() };
        CommandBody::RecordReceipts { items, steps }
    }

    fn some_of_audience(&mut self, push: PushId) -> TerminalSet {
        let audience = self.tables.audience(push).unwrap_or_default();
        let share = [0.05, 0.5, 0.9, 1.0].choose(&mut self.rng).copied().unwrap();
        let mut some: TerminalSet = audience.iter().filter(|_| self.rng.random_bool(share)).collect();
        if self.rng.random_ratio(1, 4) {
            some.insert(self.no());
        }
        some
    }

    /// As the leader goes about it, a few at a time; now and then with what it knew before.
    fn collapse(&mut self) -> CommandBody {
        let marked = self.tables.collapses(9);
        let by = marked.choose(&mut self.rng).copied().unwrap_or_else(|| self.push());
        let limit = self.rng.random_range(1..6);
        let found = self.tables.to_collapse(by, limit).unwrap_or_default();
        let mut pushes = Vec::new();
        for (push, nos) in &found.replaced {
            let held = nos.iter().filter(|_| self.rng.random_ratio(1, 3)).collect();
            pushes.push((*push, if self.rng.random_ratio(1, 3) { TerminalSet::new() } else { held }));
        }
        CommandBody::Collapse { by, pushes, released: found.released, next: found.next }
    }

    fn in_flight(&mut self, push: PushId) -> TerminalSet {
        if self.rng.random_bool(0.7) {
            return TerminalSet::new();
        }
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
        let holder = self.holder();
        self.from(&holder, Lane::Session);
        CommandBody::Subscribe { holder, subscriptions }
    }

    fn open(&mut self) -> CommandBody {
        let mut holder = self.session_holder();
        if self.rng.random_ratio(1, 4) {
            let edge = self.rng.random_range(1..=2);
            (holder.edge, holder.incarnation) = (NodeId(edge), Incarnation(self.incarnations[&edge]));
        }
        holder.connection += u64::from(self.rng.random_bool(0.5));
        let expiry_s = *[0, 1, 3].choose(&mut self.rng).unwrap();
        let unacknowledged = self.unacknowledged(&holder.terminal);
        let will = self.rng.random_bool(0.5).then(|| self.will());
        let clean_start = self.rng.random_bool(0.2);
        CommandBody::OpenSession(OpenSession { holder, clean_start, expiry_s, will, unacknowledged })
    }

    fn detach(&mut self) -> CommandBody {
        let holder = self.holder();
        let unacknowledged = self.unacknowledged(&holder.terminal);
        let will = if self.rng.random_ratio(1, 3) { WillFate::Discard } else { WillFate::Publish };
        CommandBody::DetachSession { holder, expiry_s: self.rng.random_range(0..3), will, unacknowledged }
    }

    fn register(&mut self) -> CommandBody {
        // Sometimes a client that was not registered so far.
        let n = if self.rng.random_ratio(1, 3) {
            REGISTERED + self.rng.random_range(0..ANONYMOUS)
        } else {
            self.rng.random_range(0..REGISTERED)
        };
        let (tags, alias) = audience::labels(&mut self.rng);
        let tags = self.rng.random_bool(0.7).then_some(tags);
        // An empty one removes it.
        let alias = self.rng.random_bool(0.7).then(|| alias.unwrap_or_default());
        let terminals = vec![NewTerminal { id: id(n), tags, alias }];
        CommandBody::RegisterTerminals { app: AppId::DEFAULT, terminals }
    }

    fn update(&mut self) -> CommandBody {
        let (tags, alias) = audience::labels(&mut self.rng);
        let alias = self.rng.random_bool(0.3).then(|| alias.unwrap_or_default());
        let remove = audience::TAGS.iter().filter(|_| self.rng.random_ratio(1, 4));
        let remove = remove.map(|(key, _)| (*key).to_owned()).collect();
        let change = LabelChange { set: tags, remove, alias };
        CommandBody::UpdateTerminals { app: AppId::DEFAULT, terminals: self.some_terminals(9), change }
    }

    /// Mostly none, for most of what is drawn would be refused for long.
    fn quotas(&mut self) -> CommandBody {
        let given = |this: &mut Self, most: u64| match this.rng.random_ratio(2, 3) {
            true => Some(0),
            false => this.rng.random_bool(0.5).then_some(most),
        };
        let change = QuotaChange {
            terminals: given(self, u64::from(REGISTERED) + 3),
            stored_bytes: given(self, 900),
            ..QuotaChange::default()
        };
        CommandBody::SetQuotas { app: AppId::DEFAULT, change }
    }

    /// By number: registered, lent or nobody's.
    fn some_terminals(&mut self, most: usize) -> TerminalSet {
        (0..self.rng.random_range(0..=most)).map(|_| self.no()).collect()
    }

    fn edge_change(&mut self) -> CommandBody {
        let edge = self.rng.random_range(1..=2);
        if self.rng.random_ratio(1, 4) {
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

    /// Mostly a recent one, or the oldest that waits for its last receipts.
    fn push(&mut self) -> PushId {
        if self.rng.random_ratio(1, 4)
            && let Some(oldest) = self.tables.unsettled_withdrawn(PushId(0), 1).first()
        {
            return *oldest;
        }
        let last = self.tables.applied().last_push.0;
        let first = if self.rng.random_bool(0.8) { last.saturating_sub(30) } else { 0 };
        PushId(self.rng.random_range(first..=last + 1))
    }

    /// Half of the time one of a few, so that something happens to them one after the other.
    fn terminal(&mut self) -> TerminalId {
        if self.rng.random_bool(0.5) {
            return id(self.rng.random_range(REGISTERED - 3..REGISTERED + 4));
        }
        id(self.rng.random_range(0..REGISTERED + ANONYMOUS))
    }

    fn no(&mut self) -> TerminalNo {
        let terminal = self.terminal();
        self.no_of(&terminal)
    }

    fn no_of(&self, terminal: &TerminalId) -> TerminalNo {
        self.tables.terminal_no(AppId::DEFAULT, terminal).unwrap_or(TerminalNo(1))
    }

    fn filter(&mut self) -> String {
        let filters = if self.rng.random_ratio(1, 4) { &SHARED[..] } else { &FILTERS[..] };
        (*filters.choose(&mut self.rng).unwrap()).to_owned()
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
        tells_expiry: false,
    }
}
