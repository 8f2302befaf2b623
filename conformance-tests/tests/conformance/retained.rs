//! Section 3.3.1.3: retained messages, and their options in SUBSCRIBE (section 3.8.3.1).

use crate::prelude::*;

/// Forgets a retained message, so that `#` subscriptions of other tests are not flooded.
fn forget(topic: &str) {
    open(V311).retain(topic, "", 1);
}

/// What a fresh subscriber gets before anything new: (text, QoS, RETAIN).
fn kept(version: Version, filter: &str, options: u8) -> Vec<(String, u8, bool)> {
    let mut subscriber = open(version);
    let packet = subscriber.fresh();
    // Retained messages may come before SUBACK (section 3.8.4).
    subscriber.send(&build::subscribe(version, packet, &[(filter, options)], &[]));
    let got = until_retained_fence(&mut subscriber);
    got.iter().map(|message| (message.text(), message.qos, message.retain)).collect()
}

// [MQTT-3.3.1-5], [MQTT-3.3.1-9], 3.1.1 [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-8].
#[test]
fn a_new_subscription_gets_the_retained_message_with_retain_set() {
    for version in BOTH {
        for qos in [0, 1, 2] {
            for granted in [0, 1, 2] {
                let topic = unique("kept");
                open(version).retain(&topic, "value", qos);
                assert_eq!(kept(version, &topic, granted), [("value".to_owned(), qos.min(granted), true)]);
                forget(&topic);
            }
        }
    }
}

// [MQTT-3.3.1-5], 3.1.1 [MQTT-3.3.1-5], [MQTT-3.3.1-7].
#[test]
fn only_the_last_retained_message_is_kept_whatever_its_qos() {
    for version in BOTH {
        let topic = unique("last");
        let mut publisher = open(version);
        publisher.retain(&topic, "old", 2);
        publisher.retain(&topic, "new", 0);
        assert_eq!(kept(version, &topic, 2), [("new".to_owned(), 0, true)]);
        publisher.retain(&topic, "newest", 1);
        assert_eq!(kept(version, &topic, 2), [("newest".to_owned(), 1, true)]);
        forget(&topic);
    }
}

// [MQTT-3.3.1-6], [MQTT-3.3.1-7], 3.1.1 [MQTT-3.3.1-10], [MQTT-3.3.1-11].
#[test]
fn an_empty_retained_message_removes_the_kept_one_and_is_not_kept() {
    for version in BOTH {
        for qos in [0, 1, 2] {
            let topic = unique("removed");
            let mut subscriber = open(version);
            subscriber.subscribe(&topic, 1);
            let mut publisher = open(version);
            publisher.retain(&topic, "value", 1);
            publisher.retain(&topic, "", qos);
            publisher.publish(&topic, "fence", 1);
            let live: Vec<_> = subscriber.until("fence").iter().map(|m| (m.text(), m.retain)).collect();
            assert_eq!(live, [("value".to_owned(), false), (String::new(), false)]);
            assert_eq!(kept(version, &topic, 1), []);
        }
    }
}

// [MQTT-3.3.1-8], 3.1.1 [MQTT-3.3.1-12].
#[test]
fn a_message_without_retain_leaves_the_kept_one_alone() {
    for version in BOTH {
        let topic = unique("untouched");
        let mut publisher = open(version);
        publisher.retain(&topic, "kept", 1);
        publisher.publish(&topic, "passing", 1);
        publisher.publish(&topic, "", 1);
        assert_eq!(kept(version, &topic, 1), [("kept".to_owned(), 1, true)]);
        forget(&topic);
    }
}

// [MQTT-3.3.1-12], 3.1.1 [MQTT-3.3.1-9].
#[test]
fn a_live_message_comes_with_retain_clear() {
    for version in BOTH {
        let topic = unique("live");
        let mut subscriber = open(version);
        subscriber.subscribe(&topic, 2);
        for qos in [0, 1, 2] {
            open(version).retain(&topic, "x", qos);
            assert!(!subscriber.take().retain);
        }
        forget(&topic);
    }
}

// [MQTT-3.3.1-13].
#[test]
fn retain_as_published_passes_the_flag_on() {
    let topic = unique("as-published");
    let mut subscriber = open(V5);
    subscriber.subscribe(&topic, 2 | AS_PUBLISHED);
    for qos in [0, 1, 2] {
        let mut publisher = open(V5);
        publisher.retain(&topic, "x", qos);
        assert!(subscriber.take().retain, "QoS {qos}");
        publisher.publish(&topic, "y", qos);
        assert!(!subscriber.take().retain, "QoS {qos}");
    }
    forget(&topic);
}

// [MQTT-3.3.1-10], [MQTT-3.3.1-11], [MQTT-3.8.4-4].
#[test]
fn retain_handling_says_whether_retained_messages_are_sent() {
    let topic = unique("handling");
    open(V5).retain(&topic, "kept", 1);
    for (handling, at_first, again) in [(0, 1, 1), (ONLY_NEW, 1, 0), (NO_RETAINED, 0, 0)] {
        let mut subscriber = open(V5);
        for expected in [at_first, again] {
            let packet = subscriber.fresh();
            subscriber.send(&build::subscribe(V5, packet, &[(&topic, 1 | handling)], &[]));
            let got = until_retained_fence(&mut subscriber);
            assert_eq!(got.len(), expected, "handling {handling:#04x}");
        }
    }
    forget(&topic);
}

// 3.1.1 [MQTT-3.8.4-3]; [MQTT-3.8.4-4].
#[test]
fn subscribing_again_sends_retained_messages_again() {
    for version in BOTH {
        let topic = unique("resubscribed");
        open(version).retain(&topic, "kept", 1);
        let mut subscriber = open(version);
        for _ in 0..3 {
            subscriber.subscribe(&topic, 1);
            let message = subscriber.take();
            assert_eq!((message.text(), message.retain), ("kept".to_owned(), true));
        }
        forget(&topic);
    }
}

// Section 3.3.1.3: each matching topic.
#[test]
fn a_wildcard_subscription_gets_the_retained_message_of_each_matching_topic() {
    for version in BOTH {
        let root = unique("tree");
        let topics = ["", "/a", "/a/b", "/c"].map(|tail| format!("{root}{tail}"));
        topics.iter().for_each(|topic| {
            open(version).retain(topic, topic, 1);
        });
        let found = |filter: &str| {
            let mut texts: Vec<String> =
                kept(version, filter, 1).into_iter().map(|(text, ..)| text.replace(&root, "")).collect();
            texts.sort();
            texts
        };
        assert_eq!(found(&format!("{root}/#")), ["", "/a", "/a/b", "/c"]);
        assert_eq!(found(&format!("{root}/+")), ["/a", "/c"]);
        assert_eq!(found(&format!("{root}/+/b")), ["/a/b"]);
        topics.iter().for_each(|topic| forget(topic));
    }
}

// Many of them, more than any page or window: all come, in bounded pieces.
#[test]
fn hundreds_of_retained_messages_all_come() {
    let root = unique("many");
    let mut publisher = open(V5);
    for n in 0..600 {
        publisher.send(&Publish::new(&format!("{root}/{n}"), &n.to_string()).retain().bytes(V5));
    }
    publisher.retain(&format!("{root}/last"), "last", 1);
    let mut subscriber = open(V5);
    subscriber.subscribe(&format!("{root}/#"), 1);
    let mut seen: Vec<String> = (0..601).map(|_| subscriber.take().text()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 601);
    for n in 0..600 {
        publisher.send(&Publish::new(&format!("{root}/{n}"), "").retain().bytes(V5));
    }
    forget(&format!("{root}/last"));
}

// 3.1.1 [MQTT-3.1.2-7]; [MQTT-3.1.2-4] does not touch them either.
#[test]
fn retained_messages_outlive_the_session_that_published_them() {
    for version in BOTH {
        let topic = unique("outlives");
        let (mut publisher, _) = Client::open_with(mqtt(), &Connect::new(version, &unique("gone")));
        publisher.retain(&topic, "kept", 1);
        publisher.bye();
        assert_eq!(kept(version, &topic, 1).len(), 1);
        forget(&topic);
    }
}

// [MQTT-3.3.2-5], [MQTT-3.3.2-6].
#[test]
fn a_retained_message_expires() {
    let topic = unique("expires");
    for qos in [0, 1] {
        let retained = Publish::new(&topic, "brief").qos(qos, 1).retain();
        let mut publisher = open(V5);
        publisher.publish_this(&retained.clone().with(property::four(id::MESSAGE_EXPIRY, 100)));
        publisher.publish(&unique("behind"), "", 1);
        let mut subscriber = open(V5);
        subscriber.subscribe(&topic, 1);
        let left = subscriber.take().properties.number(id::MESSAGE_EXPIRY);
        assert!(left.is_some_and(|left| (90..=100).contains(&left)), "{left:?}");
        publisher.publish_this(&retained.with(property::four(id::MESSAGE_EXPIRY, 1)));
        std::thread::sleep(Duration::from_millis(1_600));
        assert_eq!(kept(V5, &topic, 1), []);
    }
}

// [MQTT-3.3.2-4], [MQTT-3.3.2-15] to [MQTT-3.3.2-20].
#[test]
fn a_retained_message_keeps_its_properties() {
    let topic = unique("with-properties");
    let properties = [
        property::byte(id::PAYLOAD_FORMAT, 1),
        property::text(id::CONTENT_TYPE, "text/plain"),
        property::text(id::RESPONSE_TOPIC, "answers"),
        property::binary(id::CORRELATION_DATA, &[1, 0, 2]),
        property::user("b", "1"),
        property::user("a", "2"),
        property::user("b", "3"),
    ];
    let mut publish = Publish::new(&topic, "value").retain();
    publish.properties = properties.to_vec();
    let mut publisher = open(V5);
    publisher.publish_this(&publish);
    publisher.publish(&unique("behind"), "", 1);
    let mut subscriber = open(V5);
    subscriber.subscribe(&topic, 1);
    let message = subscriber.take();
    assert_eq!(message.properties.pairs(), [("b", "1"), ("a", "2"), ("b", "3")]);
    for property in &properties[..4] {
        assert_eq!(message.properties.find(property.id), Some(&property.value));
    }
    forget(&topic);
}

// [MQTT-3.3.4-3]: the identifier of the subscription that asked.
#[test]
fn a_retained_message_comes_with_the_subscription_identifier() {
    let topic = unique("identified");
    open(V5).retain(&topic, "value", 1);
    let mut subscriber = open(V5);
    subscriber.subscribe_all(&[(&topic, 1)], &[property::number(id::SUBSCRIPTION_ID, 42)]);
    assert_eq!(subscriber.take().properties.subscription_ids(), [42]);
    forget(&topic);
}

// A resumed session made no subscription: nothing retained is sent.
#[test]
fn a_resumed_session_gets_no_retained_messages() {
    for version in BOTH {
        let topic = unique("no-new-subscription");
        let mut subscriber = lasting(version);
        let id = subscriber.id.clone();
        subscriber.subscribe(&topic, 1);
        subscriber.bye();
        open(version).retain(&topic, "while away", 1);
        let mut subscriber = resume(version, &id);
        let message = subscriber.take();
        assert_eq!((message.text(), message.retain), ("while away".to_owned(), false));
        assert_eq!(until_retained_fence(&mut subscriber), []);
        forget(&topic);
    }
}

// [MQTT-4.4.0-1]: in MQTT 3.1.1 and 5.
#[test]
fn a_retained_message_that_was_not_acknowledged_comes_again_with_its_identifier() {
    for (version, qos) in BOTH.into_iter().flat_map(|version| [(version, 1), (version, 2)]) {
        let topic = unique("kept-unacknowledged");
        open(version).retain(&topic, "kept", qos);
        let mut subscriber = lasting(version);
        let id = subscriber.id.clone();
        subscriber.subscribe(&topic, qos);
        let first = subscriber.message();
        subscriber.hang_up();
        let mut subscriber = resume(version, &id);
        let again = subscriber.message();
        assert_eq!((again.id, again.dup, again.retain), (first.id, true, true));
        assert_eq!(again.text(), "kept");
        subscriber.acknowledge(&again);
        subscriber.ping();
        subscriber.hang_up();
        let mut subscriber = resume(version, &id);
        open(version).publish(&topic, "fence", qos);
        assert_eq!(subscriber.texts_until("fence"), [""; 0], "acknowledged once");
    }
}
