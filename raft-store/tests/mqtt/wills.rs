//! Wills (MQTT section 3.1.2.5).

use cluster_proto::{Incarnation, Message, NodeId, PushId, Qos, Will, link::WillFate};
use raft_store::{
    Command, CommandBody, Effect,
    command::{Holder, NewTerminal, OpenSession},
    tables::TablesOptions,
};

use crate::world::{
    id, message,
    store::{Opened, Store, connection, kept, open, will},
};

/// What was published by the last command: topics, in order.
fn published(store: &Store) -> Vec<String> {
    let topic = |effect: &Effect| match effect {
        Effect::Accepted(push) => Some(push.message.topic.clone()),
        _ => None,
    };
    store.effects.iter().filter_map(topic).collect()
}

fn connect(store: &mut Store, holder: &Holder, expiry_s: u32, will: Will) -> Opened {
    store.connect(OpenSession { will: Some(will), ..open(holder, expiry_s) })
}

fn publish_due(store: &mut Store, after_ms: u64) -> Vec<String> {
    store.at_ms += after_ms;
    assert!(!store.tables.wills_due(store.at_ms - 1), "not before its time");
    let is_due = store.tables.wills_due(store.at_ms);
    store.apply(CommandBody::PublishWills { limit: 9 });
    assert_eq!(is_due, !published(store).is_empty());
    assert!(!store.tables.wills_due(store.at_ms));
    published(store)
}

#[test]
fn a_will_is_published_when_its_connection_is_lost() {
    let mut store = Store::new();
    let (holder, watcher) = (connection(1, 1, 1), connection(2, 1, 2));
    let no = store.subscribe(&watcher, "down/+").no;
    connect(&mut store, &holder, 60, will("down/1", 0));
    store.lose(&holder, 60);
    assert_eq!(published(&store), ["down/1"]);
    assert!(store.tables.is_pending(PushId(1), no), "a push like any other");
    let ttl_ms = TablesOptions::default().will_ttl_default_ms;
    assert_eq!(store.tables.push(PushId(1)).unwrap().expires_at_ms, store.at_ms + ttl_ms);
    store.lose(&holder, 60);
    assert!(published(&store).is_empty(), "once");
}

#[test]
fn a_will_is_discarded_by_disconnect() {
    let mut store = Store::new();
    let holder = connection(1, 1, 1);
    for expiry_s in [0, 60] {
        connect(&mut store, &holder, 60, will("down", 5));
        store.detach(&holder, expiry_s, WillFate::Discard, Vec::new());
        assert!(published(&store).is_empty());
        assert!(publish_due(&mut store, 70_000).is_empty());
        store.apply(CommandBody::ExpireSessions { limit: 9 });
        assert!(published(&store).is_empty());
    }
}

#[test]
fn a_will_waits_for_its_delay() {
    let mut store = Store::new();
    let holder = connection(1, 1, 1);
    connect(&mut store, &holder, 60, will("down", 5));
    store.lose(&holder, 60);
    assert!(published(&store).is_empty());
    store.apply(CommandBody::PublishWills { limit: 9 });
    assert!(published(&store).is_empty());
    assert_eq!(publish_due(&mut store, 5_000), ["down"]);
    store.at_ms += 60_000;
    store.apply(CommandBody::ExpireSessions { limit: 9 });
    assert!(published(&store).is_empty(), "once");
}

#[test]
fn a_delay_ends_with_the_session() {
    let mut store = Store::new();
    let holder = connection(1, 1, 1);
    // DISCONNECT with 0x04 may set the expiry the delay is bounded by.
    connect(&mut store, &holder, 60, will("down", 30));
    store.lose(&holder, 10);
    assert_eq!(publish_due(&mut store, 10_000), ["down"]);
    // The end of the session comes first.
    connect(&mut store, &connection(1, 1, 2), 60, will("down", 30));
    store.lose(&connection(1, 1, 2), 10);
    store.at_ms += 10_000;
    store.apply(CommandBody::ExpireSessions { limit: 9 });
    assert_eq!(published(&store), ["down"]);
    assert!(!store.tables.wills_due(u64::MAX - 1));
    // Or at once.
    connect(&mut store, &connection(1, 1, 3), 60, will("down", 30));
    store.lose(&connection(1, 1, 3), 0);
    assert_eq!(published(&store), ["down"]);
}

#[test]
fn a_session_that_is_resumed_before_the_delay_is_over_discards_the_will() {
    let mut store = Store::new();
    let holder = connection(1, 1, 1);
    connect(&mut store, &holder, 60, will("down", 5));
    store.lose(&holder, 60);
    store.at_ms += 4_999;
    assert!(store.connect(open(&connection(1, 2, 1), 60)).present);
    assert!(published(&store).is_empty());
    assert!(!store.tables.wills_due(u64::MAX - 1));
    store.lose(&connection(1, 2, 1), 0);
    assert!(published(&store).is_empty(), "the new connection has no will");
}

#[test]
fn a_session_that_is_resumed_after_the_delay_does_not_stop_the_will() {
    let mut store = Store::new();
    let holder = connection(1, 1, 1);
    connect(&mut store, &holder, 60, will("down", 5));
    store.lose(&holder, 60);
    // Nobody proposed to publish it in time.
    store.at_ms += 5_000;
    connect(&mut store, &connection(1, 2, 1), 60, will("down/2", 5));
    assert_eq!(published(&store), ["down"]);
}

#[test]
fn a_clean_start_ends_the_session_and_publishes_the_will() {
    let mut store = Store::new();
    for is_lost in [false, true] {
        let connections = if is_lost { [3, 4] } else { [1, 2] };
        let [old, new] = connections.map(|c| connection(1, 1, c));
        connect(&mut store, &old, 60, will("down", 30));
        if is_lost {
            store.lose(&old, 60);
        }
        store.connect(OpenSession { clean_start: true, ..open(&new, 60) });
        assert_eq!(published(&store), ["down"]);
        store.detach(&new, 0, WillFate::Discard, Vec::new());
    }
}

#[test]
fn a_takeover_that_goes_on_publishes_a_will_without_delay_only() {
    let mut store = Store::new();
    connect(&mut store, &connection(1, 1, 1), 60, will("at once", 0));
    connect(&mut store, &connection(1, 2, 1), 60, will("delayed", 1));
    assert_eq!(published(&store), ["at once"]);
    store.connect(open(&connection(1, 1, 2), 60));
    assert!(published(&store).is_empty());
    // What the replaced connection says now is void.
    store.lose(&connection(1, 2, 1), 60);
    assert!(published(&store).is_empty());
}

#[test]
fn a_will_makes_a_session_that_ends_with_its_connection() {
    let mut store = Store::new();
    let (first, second, third) = (connection(1, 1, 1), connection(1, 2, 1), connection(1, 1, 2));
    let opened = connect(&mut store, &first, 0, will("down", 9));
    assert!(!opened.present);
    assert_eq!(store.tables.sessions_len(), 1);
    // A connection that takes its place finds no session.
    assert!(!connect(&mut store, &second, 0, will("down/2", 9)).present);
    assert_eq!(published(&store), ["down"]);
    store.detach(&second, 0, WillFate::Discard, Vec::new());
    assert!(published(&store).is_empty());
    assert_eq!(store.tables.sessions_len(), 0);
    connect(&mut store, &third, 0, will("down/3", 9));
    store.lose(&third, 0);
    assert_eq!(published(&store), ["down/3"]);
    assert_eq!(store.tables.sessions_len(), 0);
}

#[test]
fn the_same_connect_again_has_one_will() {
    let mut store = Store::new();
    let holder = connection(1, 1, 1);
    let first = connect(&mut store, &holder, 60, will("down", 5));
    let again = connect(&mut store, &holder, 60, will("down", 5));
    assert_eq!(again, Opened { index: again.index, ..first });
    assert!(published(&store).is_empty());
    store.lose(&holder, 60);
    assert_eq!(publish_due(&mut store, 5_000), ["down"]);
}

#[test]
fn the_end_of_an_edge_publishes_the_wills_of_its_connections() {
    let mut store = Store::new();
    let connections: Vec<_> = (1..=4).map(|n| connection(n, 1, n.into())).collect();
    connect(&mut store, &connections[0], 0, will("down/1", 30));
    connect(&mut store, &connections[1], 60, will("down/2", 0));
    connect(&mut store, &connections[2], 60, will("down/3", 5));
    connect(&mut store, &connections[3], 60, will("down/4", 5));
    // One that left in order before, and one at another edge.
    store.detach(&connections[3], 60, WillFate::Discard, Vec::new());
    connect(&mut store, &connection(5, 2, 1), 0, will("down/5", 0));
    store.end_edge(1, 1);
    assert_eq!(published(&store), ["down/1", "down/2"]);
    store.end_edge(1, 1);
    assert!(published(&store).is_empty());
    assert_eq!(publish_due(&mut store, 5_000), ["down/3"]);
}

#[test]
fn the_end_of_an_edge_with_very_many_sessions_is_done_a_part_at_a_time() {
    const MANY: u32 = 1_200;
    let mut store = Store::new();
    // Half of them end with their connection, half stay.
    let opens = (0..2 * MANY).map(|n| {
        let will = Some(will("down", 0));
        let open = open(&connection(n, 1, n.into()), if n < MANY { 0 } else { 60 });
        Command::own(CommandBody::OpenSession(OpenSession { will, ..open }))
    });
    store.entry(opens.collect());
    store.end_edge(1, 1);
    assert_eq!(published(&store).len(), 2_000);
    assert_eq!(store.tables.sessions_len(), u64::from(2 * MANY) - 1_000);
    assert!(store.tables.sessions_due(store.at_ms) && store.tables.wills_due(store.at_ms));
    // Who comes back meanwhile finds no session, or its session, and its will is published.
    assert!(!store.connect(open(&connection(MANY - 1, 2, 1), 60)).present);
    assert_eq!(published(&store), ["down"]);
    assert!(store.connect(open(&connection(2 * MANY - 1, 2, 2), 60)).present);
    assert_eq!(published(&store), ["down"]);

    store.apply(CommandBody::ExpireSessions { limit: 1_000 });
    assert_eq!(published(&store).len(), 199);
    store.apply(CommandBody::PublishWills { limit: 1_000 });
    assert_eq!(published(&store).len(), 199);
    assert!(!store.tables.sessions_due(store.at_ms) && !store.tables.wills_due(store.at_ms));
    assert_eq!(store.tables.sessions_len(), u64::from(MANY) + 1);
}

#[test]
fn a_new_life_of_an_edge_publishes_the_wills_of_the_one_before() {
    let mut store = Store::new();
    connect(&mut store, &connection(1, 1, 1), 0, will("down", 30));
    store.apply(CommandBody::EdgeStarted { edge: NodeId(1), incarnation: Incarnation(2) });
    assert_eq!(published(&store), ["down"]);
}

#[test]
fn a_terminal_that_ends_with_others_is_not_sent_their_wills() {
    let mut store = Store::new();
    let (a, b) = (connection(1, 1, 1), connection(2, 1, 2));
    connect(&mut store, &a, 0, will("down", 0));
    store.subscribe(&a, "down");
    connect(&mut store, &b, 0, will("down", 0));
    store.end_edge(1, 1);
    assert_eq!(published(&store).len(), 2);
    assert!(store.tables.push(PushId(1)).is_none() && store.tables.push(PushId(2)).is_none(), "to nobody");
}

#[test]
fn a_will_may_be_retained_and_says_how_long_it_lives() {
    let mut store = Store::new();
    let (holder, watcher) = (connection(1, 1, 1), connection(2, 1, 2));
    store.subscribe(&watcher, "down");
    let retained = |ttl_ms| {
        let message = Message { retain: true, qos: Qos::AtMostOnce, ..will("down", 0).message };
        Will { message, delay_s: 0, ttl_ms }
    };
    connect(&mut store, &holder, 0, retained(Some(7_000)));
    store.lose(&holder, 0);
    let page = store.tables.retained(holder.app, "down", u64::MAX, None, store.at_ms);
    assert_eq!(kept(page), [(retained(None).message, Some(store.at_ms + 7_000))]);
    assert_eq!(store.tables.push(PushId(1)).unwrap().expires_at_ms, store.at_ms + 7_000);
    // Without an expiry it is retained for ever.
    connect(&mut store, &connection(1, 1, 2), 0, retained(None));
    store.lose(&connection(1, 1, 2), 0);
    let page = store.tables.retained(holder.app, "down", u64::MAX, None, u64::MAX - 1);
    assert_eq!(kept(page), [(retained(None).message, None)]);
}

#[test]
fn a_will_that_cannot_be_retained_is_published_all_the_same() {
    let mut store = Store::with(TablesOptions { retained_max: 0, ..TablesOptions::default() });
    let holder = connection(1, 1, 1);
    let message = Message { retain: true, ..message(cluster_proto::PushKind::Topic, "down", None) };
    connect(&mut store, &holder, 0, Will { message, delay_s: 0, ttl_ms: None });
    store.lose(&holder, 0);
    assert_eq!(published(&store), ["down"]);
    assert_eq!(store.tables.retained_len(holder.app), 0);
}

#[test]
fn wills_are_published_a_few_at_a_time() {
    let mut store = Store::new();
    for n in 1..=5 {
        connect(&mut store, &connection(n, 1, n.into()), 60, will(&format!("down/{n}"), n));
        store.lose(&connection(n, 1, n.into()), 60);
    }
    store.at_ms += 5_000;
    let mut batch = |limit| {
        store.apply(CommandBody::PublishWills { limit });
        published(&store)
    };
    assert!(batch(0).is_empty());
    assert_eq!(batch(2), ["down/1", "down/2"]);
    assert_eq!(batch(9), ["down/3", "down/4", "down/5"]);
}

#[test]
fn registering_a_client_ends_its_session_and_publishes_its_will() {
    let mut store = Store::new();
    connect(&mut store, &connection(1, 1, 1), 60, will("down", 5));
    let terminals = vec![NewTerminal { id: id(1), tags: None, alias: None }];
    store.apply(CommandBody::RegisterTerminals { app: cluster_proto::AppId::DEFAULT, terminals });
    assert_eq!(published(&store), ["down"]);
    assert!(!store.tables.wills_due(u64::MAX - 1));
}
