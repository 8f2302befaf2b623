//! Audiences beyond one block, numbers that are lent and returned, and what stays after a purge.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints its seed")]

mod world;

use cluster_proto::{
    AppId, Incarnation, NodeId, Outcome, PushId, PushKind, Qos, State, TerminalNo, TerminalSet,
    limits::{SMALL_AUDIENCE_MAX, SUBSCRIPTIONS_PER_SESSION_MAX},
    link::{Receipt, Subscription, SubscriptionOptions},
};
use raft_store::{
    Applied, Command, CommandBatch, CommandBody, Effect, Refusal,
    command::{AcceptPush, Audience, Holder, NewTerminal, OpenSession},
    tables::{self, EntryPosition, StateMachine, Tables, TablesOptions},
};
use tempfile::TempDir;
use world::{id, message};

struct Store {
    _directory: TempDir,
    tables: Tables,
    machine: StateMachine,
    at_ms: u64,
    effects: Vec<Effect>,
}

impl Store {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = TablesOptions { cache_bytes: 1 << 20, ..TablesOptions::default() };
        let (tables, machine) = tables::open(directory.path(), options).unwrap();
        let mut store = Self { _directory: directory, tables, machine, at_ms: 1_000, effects: Vec::new() };
        store.apply(CommandBody::EdgeStarted { edge: NodeId(1), incarnation: Incarnation(1) });
        store
    }

    fn apply(&mut self, body: CommandBody) -> Applied {
        let EntryPosition { index, .. } = self.machine.applied_position();
        let position = EntryPosition { term: 1, index: index + 1 };
        let batch = CommandBatch { at_ms: self.at_ms, commands: vec![Command::own(body)] };
        self.effects.clear();
        let mut answers = self.machine.apply(vec![(position, Some(batch))], None, &mut self.effects).unwrap();
        answers.pop().unwrap().pop().unwrap()
    }

    fn register(&mut self, count: u32) {
        for first in (0..count).step_by(10_000) {
            let last = count.min(first + 10_000);
            let terminals = (first..last).map(|n| NewTerminal { id: id(n), tags: None }).collect();
            self.apply(CommandBody::RegisterTerminals { app: AppId::DEFAULT, terminals });
        }
    }

    fn push(&mut self, kind: PushKind, audience: Audience) -> PushId {
        let accept = AcceptPush {
            message: message(kind, "a", None),
            audience,
            ttl_ms: 1_000,
            idempotency: None,
            exchange: None,
        };
        match self.apply(CommandBody::AcceptPush(accept)) {
            Applied::Accepted { push, .. } => push,
            answer => panic!("{answer:?}"),
        }
    }

    fn subscribe(&mut self, n: u32, filter: &str) -> TerminalNo {
        let subscription = Subscription {
            filter: filter.into(),
            qos: Qos::AtLeastOnce,
            options: SubscriptionOptions::default(),
        };
        let answer =
            self.apply(CommandBody::Subscribe { holder: holder(n), subscriptions: vec![subscription] });
        let Applied::Session { no: Some(no), .. } = answer else { panic!("{answer:?}") };
        no
    }

    fn end(&mut self, no: TerminalNo) {
        let session = self.tables.session(no).unwrap();
        let record = self.tables.terminal_by_no(no).unwrap();
        let holder = Holder {
            app: record.app,
            terminal: record.id,
            edge: session.edge,
            incarnation: session.incarnation,
            connection: session.connection,
        };
        self.apply(CommandBody::DetachSession {
            holder,
            expiry_s: 0,
            unacknowledged: Vec::new(),
            will: cluster_proto::link::WillFate::Publish,
        });
    }

    fn receipt(&mut self, push: PushId, outcome: Outcome, terminals: TerminalSet) {
        self.apply(CommandBody::RecordReceipts {
            items: vec![Receipt { push, outcome, terminals }],
            steps: Vec::new(),
        });
    }

    fn purge(&mut self) {
        self.at_ms += 10_000;
        self.apply(CommandBody::PurgePushes { settled_before_ms: self.at_ms, limit: 1_000 });
    }

    fn count(&self, push: PushId, state: State) -> u64 {
        self.tables.targets(push, state).unwrap().len()
    }
}

fn holder(n: u32) -> Holder {
    Holder {
        app: AppId::DEFAULT,
        terminal: id(n),
        edge: NodeId(1),
        incarnation: Incarnation(1),
        connection: 1,
    }
}

fn set(nos: impl IntoIterator<Item = u32>) -> TerminalSet {
    nos.into_iter().map(TerminalNo).collect()
}

#[test]
fn a_push_to_all_spans_blocks_and_each_settles_on_its_own() {
    const ALL: u32 = 70_000;
    let mut store = Store::new();
    store.register(ALL);
    let push = store.push(PushKind::Identity, Audience::All);
    let Some(Effect::Accepted(accepted)) = store.effects.first() else { panic!("no effect") };
    assert_eq!(accepted.pending, set(1..=ALL));

    store.receipt(push, Outcome::Sent, set([1, 65_535, 65_536, ALL]));
    store.receipt(push, Outcome::Delivered, set([2, 65_536, ALL + 5]));
    assert_eq!(store.tables.targets(push, State::Sent), Some(set([1, 65_535, ALL])));
    assert_eq!(store.tables.targets(push, State::Delivered), Some(set([2, 65_536])));
    assert_eq!(store.count(push, State::Pending), u64::from(ALL) - 5);

    store.receipt(push, Outcome::Delivered, set(65_536..=ALL));
    assert_eq!(store.tables.owed(TerminalNo(3), PushId(0), push, 0, 9).len(), 1);
    assert!(store.tables.owed(TerminalNo(65_540), PushId(0), push, 0, 9).is_empty());

    // Recalled while the first ten are in flight.
    store.apply(CommandBody::CancelPush { app: AppId::DEFAULT, push, in_flight: set(3..13) });
    assert_eq!(store.tables.targets(push, State::Pending), Some(set(3..13)));
    assert!(
        store.tables.owed(TerminalNo(3), PushId(0), push, 0, 9).is_empty(),
        "withdrawn is not handed out again"
    );
    assert_eq!(store.tables.unsettled_withdrawn(9), [push]);
    store.receipt(push, Outcome::NotWritten, set(3..13));
    assert_eq!(store.count(push, State::Cancelled), 65_535 - 3);
    assert!(store.tables.unsettled_withdrawn(9).is_empty());
    let counts = store.tables.counts(push).unwrap();
    assert_eq!(counts.by_state.iter().map(|(_, count)| count).sum::<u64>(), u64::from(ALL));
}

#[test]
fn the_audience_at_the_limit_is_small_and_the_next_is_broad_and_both_count_the_same() {
    let mut store = Store::new();
    store.register(100);
    for len in [SMALL_AUDIENCE_MAX as u32, SMALL_AUDIENCE_MAX as u32 + 1] {
        let push = store.push(PushKind::Identity, Audience::Terminals((0..len).map(id).collect()));
        store.receipt(push, Outcome::Delivered, set(1..=10));
        assert_eq!(
            (store.count(push, State::Delivered), store.count(push, State::Pending)),
            (10, u64::from(len) - 10)
        );
        store.apply(CommandBody::ExpirePushes { pushes: vec![(push, TerminalSet::new())] });
        assert_eq!(store.count(push, State::Expired), u64::from(len) - 10);
    }
}

#[test]
fn a_purge_leaves_nothing_of_a_push() {
    let mut store = Store::new();
    store.register(200);
    store.purge();
    let before = rows_besides_head(&store);
    let pushes = [
        store.push(PushKind::Identity, Audience::All),
        store.push(PushKind::Identity, Audience::Terminals((0..3).map(id).collect())),
        store.push(PushKind::Identity, Audience::Terminals(Vec::new())),
    ];
    store.receipt(pushes[0], Outcome::Delivered, set(1..100));
    store.at_ms += 5_000;
    assert_eq!(store.tables.due(store.at_ms, 9), pushes[..2]);
    let all = pushes.iter().map(|push| (*push, TerminalSet::new())).collect();
    store.apply(CommandBody::ExpirePushes { pushes: all });
    store.purge();
    assert!(pushes.iter().all(|push| store.tables.push(*push).is_none()));
    assert_eq!(rows_besides_head(&store), before);
}

/// How many rows the tables have.
fn rows_besides_head(store: &Store) -> usize {
    store.tables.row_count().unwrap()
}

#[test]
fn a_lent_number_returns_when_the_last_push_that_may_name_it_is_purged() {
    let mut store = Store::new();
    let first = store.subscribe(1, "a");
    assert_eq!(first, TerminalNo::UNREGISTERED_FIRST);
    let push = store.push(PushKind::Topic, Audience::Topic);
    store.end(first);
    assert_eq!(store.count(push, State::Dropped(cluster_proto::DropReason::SessionGone)), 1);
    assert_eq!(store.tables.terminal_by_no(first).unwrap().id, id(1), "the push's targets still have a name");

    let second = store.subscribe(2, "a");
    assert_ne!(second, first);
    store.end(second);
    store.purge();
    assert!(store.tables.terminal_by_no(first).is_none());
    let lent_again = [store.subscribe(3, "a"), store.subscribe(4, "a")];
    assert_eq!(lent_again, [first, second]);
}

#[test]
fn a_client_that_comes_back_in_time_keeps_its_number() {
    let mut store = Store::new();
    let no = store.subscribe(1, "a");
    store.push(PushKind::Topic, Audience::Topic);
    store.end(no);
    assert_eq!(store.subscribe(1, "a"), no);
    store.purge();
    assert_eq!(store.tables.terminal_by_no(no).unwrap().id, id(1));
    assert_ne!(store.subscribe(2, "a"), no);
}

#[test]
fn registering_a_client_with_a_lent_number_gives_it_a_new_one() {
    let mut store = Store::new();
    let lent = store.subscribe(1, "a");
    store.register(2);
    let record = store.tables.terminal_by_id(AppId::DEFAULT, &id(1)).unwrap();
    assert_eq!(record.no, TerminalNo(2));
    assert!(store.tables.session(lent).is_none() && store.tables.terminal_by_no(lent).is_none());
}

#[test]
fn a_session_refuses_more_subscriptions_than_the_most_and_keeps_what_it_has() {
    let mut store = Store::new();
    let subscriptions = |range: std::ops::Range<usize>| {
        let subscription = |n| Subscription {
            filter: format!("f/{n}"),
            qos: Qos::AtLeastOnce,
            options: SubscriptionOptions::default(),
        };
        CommandBody::Subscribe { holder: holder(1), subscriptions: range.map(subscription).collect() }
    };
    store.apply(subscriptions(0..SUBSCRIPTIONS_PER_SESSION_MAX));
    let refused = Applied::Refused(Refusal::TooManySubscriptions);
    assert_eq!(store.apply(subscriptions(999..1001)), refused);
    assert!(matches!(store.apply(subscriptions(0..3)), Applied::Session { .. }), "replacing is not adding");
    let no = TerminalNo::UNREGISTERED_FIRST;
    assert_eq!(store.tables.subscriptions(no).len(), SUBSCRIPTIONS_PER_SESSION_MAX);
}

#[test]
fn an_older_connection_cannot_take_a_session_back() {
    let mut store = Store::new();
    let open = |connection| {
        let holder = Holder { connection, ..holder(1) };
        CommandBody::OpenSession(OpenSession {
            holder,
            clean_start: false,
            expiry_s: 60,
            unacknowledged: Vec::new(),
            will: None,
        })
    };
    store.apply(open(5));
    assert_eq!(store.apply(open(4)), Applied::Refused(Refusal::Stale));
    assert!(
        matches!(store.apply(open(5)), Applied::Session { present: false, .. }),
        "the same CONNECT again"
    );
    assert!(matches!(store.apply(open(6)), Applied::Session { present: true, .. }));
    assert!(matches!(store.apply(open(6)), Applied::Session { present: true, .. }));
}
