//! Shared subscription groups (MQTT section 4.8.2).

use cluster_proto::{
    AppId, DropReason, PushId, Qos, State, TerminalId, TerminalNo,
    limits::{SUBSCRIPTIONS_PER_SESSION_MAX, TERMINAL_ID_LEN_MAX},
    link::{Subscription, SubscriptionOptions, WillFate},
};
use raft_store::{
    Applied, CommandBody, Refusal,
    command::{Holder, NewTerminal, OpenSession},
    tables::TablesOptions,
};

use crate::world::store::{Store, connection, create, open, set};

const APP: AppId = AppId::DEFAULT;

/// Members of `$share/g/a/+`, by terminal, and the group.
fn group(store: &mut Store, members: std::ops::Range<u32>) -> (Vec<Holder>, TerminalNo) {
    let holders: Vec<_> = members.map(|n| connection(n, 1, n.into())).collect();
    for holder in &holders {
        store.connect(open(holder, 60));
        store.subscribe(holder, "$share/g/a/+");
    }
    let group = store.tables.groups_of(store.no(&holders[0]))[0];
    (holders, group)
}

#[test]
fn a_push_is_for_the_group_and_not_for_its_members() {
    let mut store = Store::new();
    assert!(!store.tables.has_groups());
    let (holders, group) = group(&mut store, 1..4);
    let nos: Vec<_> = holders.iter().map(|holder| store.no(holder)).collect();
    assert!(store.tables.has_groups() && store.tables.is_group(group) && !store.tables.is_group(nos[0]));
    let members: Vec<_> = nos.iter().map(|no| (*no, Qos::ExactlyOnce)).collect();
    assert_eq!(store.tables.group_members(group), members);
    assert!(nos.iter().all(|no| store.tables.groups_of(*no) == [group]));

    let push = store.publish("a/b");
    assert_eq!(store.tables.audience(push), Some(set([group.0])));
    store.deliver(push, group);
    assert_eq!(store.count(push, State::Delivered), 1);
    assert_eq!(store.tables.owed_len(nos[0], 9), 0);
}

#[test]
fn groups_are_told_apart_by_app_name_and_filter() {
    let mut store = Store::new();
    let holder = connection(1, 1, 1);
    let filters = ["$share/g/a/+", "$share/h/a/+", "$share/g/a/b", "$share/g/a/#", "$share/g/+/b"];
    for filter in filters {
        store.subscribe(&holder, filter);
    }
    let no = store.no(&holder);
    let groups = store.tables.groups_of(no);
    assert_eq!(groups.len(), 5);
    let push = store.publish("a/b");
    assert_eq!(store.tables.audience(push).unwrap(), groups.iter().copied().collect());
    let matching = |topic: &str| store.tables.groups_matching(APP, topic).len();
    assert_eq!((matching("a/b"), matching("a/c"), matching("a"), matching("b")), (5, 3, 1, 0));
    assert!(store.tables.groups_matching(AppId(2), "a/b").is_empty());

    let Applied::App(app) = store.apply(create("other")) else { panic!() };
    let other = Holder { app, ..connection(1, 2, 1) };
    store.subscribe(&other, "$share/g/a/+");
    assert_ne!(store.tables.groups_of(store.no(&other)), groups[..1]);
    assert_eq!(store.tables.groups_matching(app, "a/b").len(), 1);
}

#[test]
fn a_member_that_also_subscribes_plainly_gets_its_own() {
    let mut store = Store::new();
    let (holders, group) = group(&mut store, 1..3);
    let no = store.subscribe(&holders[0], "a/b").no;
    let push = store.publish("a/b");
    assert_eq!(store.tables.audience(push), Some(set([no.0, group.0])));
}

#[test]
fn the_group_is_owed_with_whatever_qos_its_members_are_granted() {
    let mut store = Store::new();
    let (holders, group) = group(&mut store, 1..3);
    store.subscribe_with(&holders[0], "$share/g/a/+", Qos::AtMostOnce);
    let push = store.publish("a/b");
    assert!(store.tables.audience_qos0(push).is_empty());
    let members = store.tables.group_members(group);
    assert_eq!(members.iter().map(|(_, qos)| *qos).collect::<Vec<_>>(), [Qos::AtMostOnce, Qos::ExactlyOnce]);
    let record = store.tables.subscriptions(store.no(&holders[0]));
    assert_eq!((record[0].filter.as_str(), record[0].qos), ("$share/g/a/+", Qos::AtMostOnce));
}

#[test]
fn the_last_member_settles_what_the_group_is_owed() {
    let mut store = Store::new();
    let (holders, group) = group(&mut store, 1..3);
    let push = store.publish("a/b");
    store.unsubscribe(&holders[0], "$share/g/a/+");
    assert_eq!(store.count(push, State::Pending), 1);
    assert_eq!(store.tables.group_members(group).len(), 1);
    // The end of its session is the end of its membership.
    store.detach(&holders[1], 0, WillFate::Discard, Vec::new());
    assert_eq!(store.tables.targets(push, State::Dropped(DropReason::SessionGone)), Some(set([group.0])));
    assert!(!store.tables.has_groups() && !store.tables.is_group(group));
    assert!(store.tables.groups_matching(APP, "a/b").is_empty());
    assert_eq!(store.publish("a/b"), PushId(push.0 + 1));
    assert_eq!(store.tables.audience(PushId(push.0 + 1)), Some(set([])), "nobody subscribes");
}

#[test]
fn a_groups_number_returns_when_the_last_push_that_may_name_it_is_purged() {
    let mut store = Store::new();
    let (holders, first) = group(&mut store, 1..2);
    store.publish("a/b");
    store.unsubscribe(&holders[0], "$share/g/a/+");
    assert_eq!(
        store.tables.terminal_by_no(first).unwrap().id.as_str(),
        "$share/g/a/+",
        "its targets have a name"
    );
    store.subscribe(&holders[0], "$share/g/a/+");
    let second = store.tables.groups_of(store.no(&holders[0]))[0];
    assert_ne!(second, first);
    store.purge();
    assert!(store.tables.terminal_by_no(first).is_none());
    assert_eq!(store.subscribe(&connection(7, 1, 7), "b").no, first);
    assert!(store.tables.is_group(second));
}

#[test]
fn members_leave_with_their_edge() {
    let mut store = Store::new();
    let (clean, kept) = (connection(1, 1, 1), connection(2, 1, 2));
    store.subscribe(&clean, "$share/g/a");
    store.connect(open(&kept, 60));
    store.subscribe(&kept, "$share/g/a");
    let kept_no = store.no(&kept);
    let group = store.tables.groups_of(kept_no)[0];
    store.end_edge(1, 1);
    assert_eq!(store.tables.group_members(group), [(kept_no, Qos::ExactlyOnce)]);
    let resumed = store.connect(open(&connection(2, 2, 1), 60));
    assert_eq!(resumed.subscriptions, ["$share/g/a"]);
    store.connect(OpenSession { clean_start: true, ..open(&connection(2, 2, 2), 60) });
    assert!(!store.tables.has_groups());
}

#[test]
fn a_group_is_never_taken_for_a_client_of_that_name() {
    let mut store = Store::new();
    let (_, group) = group(&mut store, 1..2);
    let id = TerminalId::new("$share/g/a/+").unwrap();
    assert!(store.tables.terminal_by_id(APP, &id).is_none());
    let client = Holder { terminal: id.clone(), ..connection(0, 1, 50) };
    let lent = store.subscribe(&client, "b").no;
    assert_ne!(lent, group);
    assert_eq!(store.tables.terminal_by_no(lent).unwrap().id, store.tables.terminal_by_no(group).unwrap().id);
    let terminals = vec![NewTerminal { id: id.clone(), tags: None, alias: None }];
    store.apply(CommandBody::RegisterTerminals { app: APP, terminals });
    assert!(store.tables.is_group(group) && !store.tables.is_group(lent));
    store.purge();
    assert_eq!(store.tables.terminal_no(APP, &id), Some(TerminalNo(1)));
    assert_eq!(store.tables.list_terminals(APP, None, 9).len(), 1);
}

#[test]
fn any_filter_makes_a_name_that_can_be_shown() {
    let mut store = Store::new();
    let holder = connection(1, 1, 1);
    let long = "é".repeat(400);
    for filter in [format!("$share/g/{long}"), "$share/g/a\u{1}b".to_owned()] {
        store.subscribe(&holder, &filter);
    }
    let groups = store.tables.groups_of(store.no(&holder));
    let ids: Vec<_> = groups.iter().map(|no| store.tables.terminal_by_no(*no).unwrap().id).collect();
    assert!(ids.iter().any(|id| id.as_str() == "$share/g/a\u{fffd}b"));
    assert!(ids.iter().any(|id| id.as_str().len() == TERMINAL_ID_LEN_MAX - 1), "cut between characters");
}

#[test]
fn shared_subscriptions_count_as_subscriptions_of_their_session() {
    let mut store = Store::new();
    let filters = |range: std::ops::Range<usize>| {
        let subscription = |n| Subscription {
            filter: format!("$share/g/{n}"),
            qos: Qos::AtLeastOnce,
            options: SubscriptionOptions::default(),
        };
        let holder = connection(1, 1, 1);
        CommandBody::Subscribe { holder, subscriptions: range.map(subscription).collect() }
    };
    store.apply(filters(0..SUBSCRIPTIONS_PER_SESSION_MAX));
    assert_eq!(store.apply(filters(999..1001)), Applied::Refused(Refusal::TooManySubscriptions));
    assert_eq!(store.tables.groups_of(store.no(&connection(1, 1, 1))).len(), SUBSCRIPTIONS_PER_SESSION_MAX);
}

#[test]
fn a_group_is_owed_at_most_what_a_terminal_is() {
    let mut store = Store::with(TablesOptions { owed_per_terminal_max: 2, ..TablesOptions::default() });
    let (_, group) = group(&mut store, 1..2);
    let pushes = [store.publish("a/b"), store.publish("a/b"), store.publish("a/b")];
    assert_eq!(store.count(pushes[2], State::Dropped(DropReason::OverQuota)), 1);
    store.deliver(pushes[0], group);
    let push = store.publish("a/b");
    assert_eq!(store.count(push, State::Pending), 1);
}

#[test]
fn groups_are_known_again_after_a_restart_and_from_a_checkpoint() {
    let mut store = Store::new();
    let (holders, group) = group(&mut store, 1..3);
    let mut store = store.reopened();
    assert!(store.tables.is_group(group));
    assert_eq!(store.tables.groups_matching(APP, "a/b"), [group]);
    let push = store.publish("a/b");
    assert_eq!(store.tables.audience(push), Some(set([group.0])));

    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("tables");
    let incoming = directory.path().join("incoming");
    store.machine.checkpoint(&incoming).unwrap();
    let (tables, mut machine) = raft_store::tables::open(&target, TablesOptions::default()).unwrap();
    machine.replace_with(&incoming).unwrap();
    assert_eq!(tables.groups_matching(APP, "a/b"), [group]);
    assert_eq!(tables.group_members(group).len(), holders.len());
}
