//! Retained messages (MQTT section 3.3.1.3).

use std::collections::BTreeMap;

use bytes::Bytes;
use cluster_proto::{
    AppId, Audience, Message, PushId, PushKind, Qos,
    limits::{PAYLOAD_LEN_MAX, RETAINED_PAGE_LEN_MAX},
};
use fabric_core::subscriptions::filter;
use raft_store::{
    Applied, Command, CommandBody, Refusal,
    command::AcceptPush,
    tables::{RetainedPage, TablesOptions},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use crate::world::{
    message,
    store::{Store, accept, connection, create, kept, subscribe, terminals},
};

const APP: AppId = AppId::DEFAULT;

fn retained(topic: &str, payload: &str) -> Message {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    Message { retain: true, payload, ..message(PushKind::Topic, topic, None) }
}

fn retain(topic: &str, payload: &str) -> CommandBody {
    CommandBody::Retain { message: retained(topic, payload), ttl_ms: None }
}

fn page(store: &Store, filter: &str) -> RetainedPage {
    store.tables.retained(APP, filter, u64::MAX, None, store.at_ms)
}

/// Payloads by topic, all pages together.
fn all(store: &Store, filter: &str) -> Vec<(String, String)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.tables.retained(APP, filter, u64::MAX, after.as_deref(), store.at_ms);
        let text = |message: Message| (message.topic, String::from_utf8(message.payload.to_vec()).unwrap());
        found.extend(page.messages.into_iter().map(|kept| text(kept.message)));
        match page.next {
            Some(next) => assert!(after.replace(next.clone()).is_none_or(|before| before < next)),
            None => return found,
        }
    }
}

fn topics(store: &Store, filter: &str) -> Vec<String> {
    all(store, filter).into_iter().map(|(topic, _)| topic).collect()
}

#[test]
fn the_last_message_of_a_topic_is_kept_and_an_empty_one_removes_it() {
    let mut store = Store::new();
    let before = store.tables.row_count().unwrap();
    assert_eq!(store.apply(retain("a", "1")), Applied::Done);
    store.apply(retain("a", "2"));
    store.apply(retain("b", "3"));
    assert_eq!(all(&store, "#"), [("a".into(), "2".into()), ("b".into(), "3".into())]);
    assert_eq!(store.tables.retained_len(APP), 2);
    store.apply(retain("a", ""));
    store.apply(retain("never", ""));
    assert_eq!(topics(&store, "#"), ["b"]);
    store.apply(retain("b", ""));
    assert_eq!(store.tables.retained_len(APP), 0);
    assert_eq!(store.tables.row_count().unwrap(), before);
    assert!(store.effects.is_empty(), "no push");
}

#[test]
fn a_retained_push_is_a_push_and_is_kept_as_it_was_published() {
    let mut store = Store::new();
    let holder = connection(1, 1, 1);
    let no = store.subscribe(&holder, "a").no;
    let properties =
        cluster_proto::MessageProperties { content_type: Some("text/plain".into()), ..Default::default() };
    let message = Message { properties, qos: Qos::ExactlyOnce, publisher: Some(no), ..retained("a", "1") };
    store.apply(CommandBody::AcceptPush(accept(message.clone(), Audience::Topic)));
    assert!(store.tables.is_pending(PushId(1), no));
    // For ever, however long the push itself stays deliverable.
    assert_eq!(kept(page(&store, "a")), [(message, None)]);
    // Its end is delivered as well.
    store.apply(CommandBody::AcceptPush(accept(retained("a", ""), Audience::Topic)));
    assert!(store.tables.is_pending(PushId(2), no));
    assert!(page(&store, "a").messages.is_empty());
}

#[test]
fn a_push_without_the_flag_leaves_the_retained_message_alone() {
    let mut store = Store::new();
    store.apply(retain("a", "1"));
    store.publish("a");
    assert_eq!(all(&store, "a"), [("a".into(), "1".into())]);
}

#[test]
fn a_push_to_named_terminals_is_retained_too() {
    let mut store = Store::new();
    store.register(2);
    let message = Message { kind: PushKind::Identity, ..retained("a", "1") };
    let push = accept(message.clone(), Audience::Terminals(terminals(0..2)));
    store.apply(CommandBody::AcceptPush(push));
    assert_eq!(kept(page(&store, "+")), [(message.clone(), None)]);
    // Refused for its audience, it is not.
    let push = accept(Message { topic: "b".into(), ..message }, Audience::Terminals(terminals(5..6)));
    assert!(matches!(store.apply(CommandBody::AcceptPush(push)), Applied::Refused(_)));
    assert_eq!(topics(&store, "#"), ["a"]);
}

#[test]
fn a_subscription_gets_what_was_retained_before_it_even_within_one_entry() {
    let mut store = Store::new();
    let holder = connection(1, 1, 1);
    let push = |topic: &str| CommandBody::AcceptPush(accept(retained(topic, "1"), Audience::Topic));
    let commands = [push("a/before"), subscribe(&holder, "a/+", Qos::AtLeastOnce), push("a/after")];
    let answers = store.entry(commands.map(Command::own).into());
    let [Applied::Accepted { audience: 0, .. }, Applied::Session { index, .. }, after] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert!(matches!(after, Applied::Accepted { audience: 1, .. }), "live");
    let page = store.tables.retained(APP, "a/+", *index, None, store.at_ms);
    assert_eq!(kept(page), [(retained("a/before", "1"), None)]);
    assert_eq!(store.tables.command_index(), index + 1);
    // One that came again is a new one: the subscription got it live.
    store.apply(push("a/before"));
    assert!(store.tables.retained(APP, "a/+", *index, None, store.at_ms).messages.is_empty());
}

#[test]
fn what_edges_relay_beside_the_log_is_there_for_every_subscription() {
    let mut store = Store::new();
    let index = store.subscribe(&connection(1, 1, 1), "a").index;
    // Shown live before the edge knew of the subscription, kept after it.
    store.apply(retain("a", "1"));
    let page = store.tables.retained(APP, "a", index, None, store.at_ms);
    assert_eq!(kept(page), [(retained("a", "1"), None)]);
}

#[test]
fn a_filter_finds_the_topics_it_matches() {
    let mut store = Store::new();
    for topic in ["a", "a!", "a-/b", "a/", "a/b", "a/b/c", "a0", "b", "/", "/a", "$SYS/a", "é/ü"] {
        store.apply(retain(topic, "x"));
    }
    let found = |filter: &str| topics(&store, filter).join(" ");
    assert_eq!(found("a/#"), "a a/ a/b a/b/c");
    assert_eq!(found("a"), "a");
    assert_eq!(found("a/+"), "a/ a/b");
    assert_eq!(found("+/b"), "a-/b a/b");
    assert_eq!(found("/#"), "/ /a");
    assert_eq!(found("+/+"), "/ /a a-/b a/ a/b é/ü");
    assert_eq!(found("é/+"), "é/ü");
    assert_eq!(found("$SYS/#"), "$SYS/a");
    assert!(!found("#").contains('$') && !found("+/a").contains('$'), "[MQTT-4.7.2-1]");
    assert_eq!(topics(&store, "#").len(), 11);
    assert_eq!(found("x/#") + &found("c") + &found("$share/g/a") + &found("a#"), "");
    assert!(store.tables.retained(AppId(2), "#", u64::MAX, None, 0).messages.is_empty());
}

#[test]
fn any_filter_over_any_topics_in_any_pages_finds_what_matching_one_by_one_finds() {
    let seed = 5;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut store = Store::new();
    let levels = ["a", "b", "ab", "a-", "$x", ""];
    let mut model = BTreeMap::new();
    for n in 0..400 {
        let topic: Vec<_> = (0..rng.random_range(1..4)).map(|_| *levels.choose(&mut rng).unwrap()).collect();
        let topic = topic.join("/");
        let payload = if rng.random_ratio(1, 3) { String::new() } else { n.to_string() };
        if topic.is_empty() {
            continue;
        }
        store.apply(retain(&topic, &payload));
        model.insert(topic, payload);
        model.retain(|_, payload| !payload.is_empty());
    }
    let levels = ["a", "b", "ab", "+", "+", "$x", ""];
    for _ in 0..300 {
        let mut chosen: Vec<_> =
            (0..rng.random_range(1..4)).map(|_| *levels.choose(&mut rng).unwrap()).collect();
        if rng.random_bool(0.3) {
            chosen.push("#");
        }
        let chosen = chosen.join("/");
        let matching = model.iter().filter(|(topic, _)| filter::matches(topic, &chosen));
        let expected: Vec<_> = matching.map(|(topic, payload)| (topic.clone(), payload.clone())).collect();
        if !chosen.is_empty() {
            assert_eq!(all(&store, &chosen), expected, "{chosen}");
        }
        if let Some((after, _)) = expected.get(expected.len() / 2) {
            let page = store.tables.retained(APP, &chosen, u64::MAX, Some(after), store.at_ms);
            assert_eq!(
                page.messages.len(),
                expected.len() - expected.len() / 2 - 1,
                "{chosen} after {after}"
            );
        }
    }
}

#[test]
fn a_page_ends_with_its_bytes_and_holds_at_least_one_message() {
    let mut store = Store::new();
    let large = "x".repeat(PAYLOAD_LEN_MAX);
    for (topic, payload) in [("a", large.as_str()), ("b", &large[..RETAINED_PAGE_LEN_MAX / 3]), ("c", "1")] {
        store.apply(retain(topic, payload));
    }
    store.apply(retain("d", &large[..RETAINED_PAGE_LEN_MAX / 2]));
    store.apply(retain("e", &large[..RETAINED_PAGE_LEN_MAX / 2]));
    let page = page(&store, "+");
    assert_eq!((page.messages.len(), page.next.as_deref()), (1, Some("a")));
    let page = store.tables.retained(APP, "+", u64::MAX, Some("a"), store.at_ms);
    assert_eq!((page.messages.len(), page.next.as_deref()), (3, Some("d")));
    let page = store.tables.retained(APP, "+", u64::MAX, Some("d"), store.at_ms);
    assert_eq!((page.messages.len(), page.next), (1, None));
}

#[test]
fn a_page_has_a_bounded_number_of_messages_and_looks_at_a_bounded_number_of_topics() {
    let mut store = Store::new();
    for first in (0..5_000).step_by(1_000) {
        let commands = (first..first + 1_000).map(|n| Command::own(retain(&format!("t/{n:04}/x"), "1")));
        store.entry(commands.collect());
    }
    let few = page(&store, "t/#");
    assert_eq!((few.messages.len(), few.next.as_deref()), (256, Some("t/0255/x")));
    assert_eq!(topics(&store, "t/#").len(), 5_000);
    let none = page(&store, "t/+/y");
    assert_eq!((none.messages.len(), none.next.as_deref()), (0, Some("t/4095/x")));
    assert!(topics(&store, "t/+/y").is_empty());
}

#[test]
fn a_retained_message_lives_as_long_as_it_says() {
    let mut store = Store::new();
    let mut retain_for = |topic: &str, ttl_ms| {
        store.apply(CommandBody::Retain { message: retained(topic, "1"), ttl_ms });
    };
    retain_for("a", Some(1_000));
    retain_for("b", Some(2_000));
    // The last one decides.
    retain_for("c", Some(1_000));
    retain_for("c", None);
    retain_for("d", None);
    retain_for("d", Some(3_000));
    let start = store.at_ms;
    assert_eq!(page(&store, "b").messages[0].expires_at_ms, Some(start + 2_000));
    assert!(!store.tables.retained_due(start + 999) && store.tables.retained_due(start + 1_000));

    store.at_ms += 1_000;
    assert_eq!(topics(&store, "#"), ["b", "c", "d"], "not sent any more");
    assert_eq!(store.tables.retained_len(APP), 4, "and still there");
    store.apply(CommandBody::ExpireRetained { limit: 0 });
    assert!(store.tables.retained_due(store.at_ms));
    store.apply(CommandBody::ExpireRetained { limit: 9 });
    assert_eq!(store.tables.retained_len(APP), 3);
    assert!(!store.tables.retained_due(store.at_ms));

    store.at_ms += 5_000;
    store.apply(CommandBody::ExpireRetained { limit: 1 });
    assert_eq!(store.tables.retained_len(APP), 2);
    store.apply(CommandBody::ExpireRetained { limit: 9 });
    assert_eq!(topics(&store, "#"), ["c"]);
    assert!(!store.tables.retained_due(u64::MAX - 1));
}

#[test]
fn an_app_retains_at_most_so_many_messages() {
    let mut store = Store::with(TablesOptions { retained_max: 2, ..TablesOptions::default() });
    store.apply(retain("a", "1"));
    store.apply(retain("b", "1"));
    let refused = Applied::Refused(Refusal::RetainedQuota);
    assert_eq!(store.apply(retain("c", "1")), refused);
    let push = accept(retained("c", "1"), Audience::Topic);
    assert_eq!(store.apply(CommandBody::AcceptPush(push)), refused);
    assert_eq!(store.tables.applied().last_push, PushId(0), "it is no push either");
    assert_eq!(store.apply(retain("a", "2")), Applied::Done, "replacing is not adding");
    store.apply(retain("b", ""));
    assert_eq!(store.apply(retain("c", "1")), Applied::Done);
    // Another app has its own.
    let Applied::App(other) = store.apply(create("other")) else { panic!() };
    let message = Message { app: other, ..retained("a", "1") };
    assert_eq!(store.apply(CommandBody::Retain { message, ttl_ms: None }), Applied::Done);
    let message = Message { app: AppId(9), ..retained("a", "1") };
    let unknown = Applied::Refused(Refusal::UnknownApp);
    assert_eq!(store.apply(CommandBody::Retain { message, ttl_ms: None }), unknown);
}

#[test]
fn an_app_retains_at_most_so_many_bytes() {
    let size = retained("a", &"x".repeat(100)).size() as u64;
    let options = TablesOptions { retained_bytes_max: 2 * size, ..TablesOptions::default() };
    let mut store = Store::with(options);
    let payload = "x".repeat(100);
    assert_eq!(store.apply(retain("a", &payload)), Applied::Done);
    assert_eq!(store.apply(retain("b", &payload)), Applied::Done);
    let refused = Applied::Refused(Refusal::RetainedQuota);
    assert_eq!(store.apply(retain("c", "1")), refused);
    assert_eq!(store.apply(retain("b", &(payload.clone() + "x"))), refused);
    assert_eq!(all(&store, "b"), [("b".into(), payload.clone())], "nothing changed");
    assert_eq!(store.apply(retain("b", &payload[1..])), Applied::Done);
    store.apply(retain("b", ""));
    assert_eq!(store.apply(retain("c", &payload)), Applied::Done);
}

#[test]
fn a_qos_2_publish_that_is_refused_is_not_remembered() {
    let mut store = Store::with(TablesOptions { retained_max: 0, ..TablesOptions::default() });
    let holder = connection(1, 1, 1);
    let no = store.connect(crate::world::store::open(&holder, 60)).no;
    let exchange = Some(cluster_proto::link::Inbound { no, connection: 1, packet_id: 3 });
    let push = AcceptPush { exchange, ..accept(retained("a", "1"), Audience::Topic) };
    let lane = cluster_proto::link::Lane::Publish;
    let refused = Applied::Refused(Refusal::RetainedQuota);
    assert_eq!(store.lane(&holder, lane, CommandBody::AcceptPush(push)), refused);
    assert!(matches!(store.publish_exactly_once(&holder, "a", 3), Applied::Accepted { repeated: false, .. }));
}
