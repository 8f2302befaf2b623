//! Audiences beyond one block, numbers that are lent and returned, and what stays after a purge.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints its seed")]

mod world;

use cluster_proto::{
    AppId, Audience, DropReason, Outcome, PushId, PushKind, Qos, State, TerminalNo, TerminalSet,
    limits::{SMALL_AUDIENCE_MAX, SUBSCRIPTIONS_PER_SESSION_MAX},
    link::{Subscription, SubscriptionOptions, WillFate},
};
use raft_store::{Applied, CommandBody, Effect, Refusal, command::Holder};
use world::{
    id,
    store::{Store, connection, open, set, terminals},
};

fn holder(n: u32) -> Holder {
    connection(n, 1, 1)
}

fn end(store: &mut Store, n: u32) {
    store.detach(&holder(n), 0, WillFate::Publish, Vec::new());
}

fn subscribe(store: &mut Store, n: u32, filter: &str) -> TerminalNo {
    store.subscribe(&holder(n), filter).no
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
    assert_eq!(store.tables.unsettled_withdrawn(PushId(0), 9), [push]);
    store.receipt(push, Outcome::NotWritten, set(3..13));
    assert_eq!(store.count(push, State::Cancelled), 65_535 - 3);
    assert!(store.tables.unsettled_withdrawn(PushId(0), 9).is_empty());
    let counts = store.tables.counts(push).unwrap();
    assert_eq!(counts.by_state.iter().map(|(_, count)| count).sum::<u64>(), u64::from(ALL));
}

#[test]
fn a_terminal_is_owed_the_same_before_and_after_few_are_left_in_its_block() {
    const ALL: u32 = 70_000;
    let mut store = Store::new();
    store.register(ALL);
    store.push(PushKind::Identity, Audience::Terminals(Vec::new()));
    store.purge();
    let one = |store: &Store, no, upto| store.tables.owed(TerminalNo(no), PushId(0), upto, 0, 9);
    // Of the second block, 4,465 are in the audience: sparse is up to 558; of the first, up to 1,024.
    for (left, rows) in
        [(66_100..=66_657, true), (66_100..=66_658, false), (1..=1_024, true), (1..=1_025, false)]
    {
        let before = store.tables.row_count().unwrap();
        let push = store.push(PushKind::Identity, Audience::All);
        let (pending, outside) = (*left.start(), *left.end() + 1);
        store.receipt(push, Outcome::Delivered, set((1..=ALL).filter(|no| !left.contains(no))));
        let stored = store.tables.row_count().unwrap() - before;
        assert_eq!(stored > 500, rows, "{stored} rows of {push} with {left:?} pending");
        assert_eq!(one(&store, pending, push).len(), 1);
        assert_eq!(store.tables.owed_len(TerminalNo(pending), 9), 1);
        assert!(one(&store, outside, push).is_empty() && store.tables.owed_len(TerminalNo(outside), 9) == 0);

        store.deliver(push, TerminalNo(pending));
        assert!(one(&store, pending, push).is_empty());
        // Recalled while two are in flight: they are not handed it again, and settle with their answers.
        let in_flight = set([pending + 1, pending + 2]);
        let cancel = CommandBody::CancelPush { app: AppId::DEFAULT, push, in_flight: in_flight.clone() };
        store.apply(cancel);
        assert!(one(&store, pending + 1, push).is_empty());
        assert_eq!(store.tables.owed_len(TerminalNo(pending + 1), 9), 1);
        store.receipt(push, Outcome::NotWritten, in_flight);
        assert_eq!(store.tables.owed_len(TerminalNo(pending + 1), 9), 0);
        store.purge();
        assert_eq!(store.tables.row_count().unwrap(), before);
    }
}

#[test]
fn the_end_of_a_session_settles_what_it_was_owed_with_few_others() {
    let mut store = Store::new();
    for n in 0..80 {
        subscribe(&mut store, n, "a");
    }
    let push = store.publish("a");
    let nos: Vec<_> = store.tables.audience(push).unwrap().iter().collect();
    store.receipt(push, Outcome::Delivered, nos[..75].iter().copied().collect());
    let left = *nos.last().unwrap();
    let n = (0..80).find(|n| store.tables.terminal_no(AppId::DEFAULT, &id(*n)) == Some(left)).unwrap();
    end(&mut store, n);
    assert_eq!(store.tables.state_of(push, left), Some(State::Dropped(DropReason::SessionGone)));
    assert_eq!(store.count(push, State::Pending), 4);
}

#[test]
fn the_audience_at_the_limit_is_small_and_the_next_is_broad_and_both_count_the_same() {
    let mut store = Store::new();
    store.register(100);
    for len in [SMALL_AUDIENCE_MAX as u32, SMALL_AUDIENCE_MAX as u32 + 1] {
        let push = store.push(PushKind::Identity, Audience::Terminals(terminals(0..len)));
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
    store.push(PushKind::Identity, Audience::Terminals(Vec::new()));
    store.purge();
    let before = rows_besides_head(&store);
    let pushes = [
        store.push(PushKind::Identity, Audience::All),
        store.push(PushKind::Identity, Audience::Terminals(terminals(0..3))),
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
    let first = subscribe(&mut store, 1, "a");
    assert_eq!(first, TerminalNo::UNREGISTERED_FIRST);
    let push = store.push(PushKind::Topic, Audience::Topic);
    end(&mut store, 1);
    assert_eq!(store.count(push, State::Dropped(DropReason::SessionGone)), 1);
    assert_eq!(store.tables.terminal_by_no(first).unwrap().id, id(1), "the push's targets still have a name");

    let second = subscribe(&mut store, 2, "a");
    assert_ne!(second, first);
    end(&mut store, 2);
    store.purge();
    assert!(store.tables.terminal_by_no(first).is_none());
    let lent_again = [subscribe(&mut store, 3, "a"), subscribe(&mut store, 4, "a")];
    assert_eq!(lent_again, [first, second]);
}

#[test]
fn a_client_that_comes_back_in_time_keeps_its_number() {
    let mut store = Store::new();
    let no = subscribe(&mut store, 1, "a");
    store.push(PushKind::Topic, Audience::Topic);
    end(&mut store, 1);
    assert_eq!(subscribe(&mut store, 1, "a"), no);
    store.purge();
    assert_eq!(store.tables.terminal_by_no(no).unwrap().id, id(1));
    assert_ne!(subscribe(&mut store, 2, "a"), no);
}

#[test]
fn registering_a_client_with_a_lent_number_gives_it_a_new_one() {
    let mut store = Store::new();
    let lent = subscribe(&mut store, 1, "a");
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
    let open = |number| CommandBody::OpenSession(open(&connection(1, 1, number), 60));
    store.apply(open(5));
    assert_eq!(store.apply(open(4)), Applied::Refused(Refusal::Stale));
    assert!(
        matches!(store.apply(open(5)), Applied::Session { present: false, .. }),
        "the same CONNECT again"
    );
    assert!(matches!(store.apply(open(6)), Applied::Session { present: true, .. }));
    assert!(matches!(store.apply(open(6)), Applied::Session { present: true, .. }));
}
