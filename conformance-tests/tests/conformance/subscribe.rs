//! Sections 3.8 and 3.9: SUBSCRIBE and SUBACK.

use crate::prelude::*;

// [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-3.8.4-5] to [MQTT-3.8.4-7], [MQTT-3.9.3-1], [MQTT-2.2.1-6],
// 3.1.1 [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-3.8.4-4], [MQTT-3.8.4-5], [MQTT-3.9.3-1], [MQTT-2.3.1-7].
#[test]
fn suback_grants_each_filter_in_order() {
    for version in BOTH {
        let mut client = open(version);
        let topic = unique("each");
        let filters: Vec<String> = (0..6).map(|n| format!("{topic}/{n}")).collect();
        let asked: Vec<(&str, u8)> = filters.iter().map(String::as_str).zip([2, 0, 1, 1, 0, 2]).collect();
        assert_eq!(client.subscribe_all(&asked, &[]).reasons, [2, 0, 1, 1, 0, 2]);
        open(version).publish(&filters[2], "third", 2);
        let message = client.take();
        assert_eq!((message.text(), message.qos), ("third".to_owned(), 1));
    }
}

// [MQTT-3.8.3-2], 3.1.1 [MQTT-3.8.3-3].
#[test]
fn a_subscribe_without_filters_ends_the_connection() {
    for version in BOTH {
        let mut client = open(version);
        client.send(&build::subscribe(version, 1, &[], &[]));
        client.is_thrown_out(&[0x81, 0x82]);
    }
}

// [MQTT-3.8.3-5], 3.1.1 [MQTT-3.8.3-4]; QoS 3 and Retain Handling 3 are protocol errors of section 3.8.3.1.
#[test]
fn reserved_option_bits_and_values_end_the_connection() {
    let wrong: [(Version, &[u8]); 2] =
        [(V311, &[0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80]), (V5, &[0x03, 0x30, 0x40, 0x80])];
    for (version, options) in wrong {
        for option in options {
            let mut client = open(version);
            client.send(&build::subscribe(version, 1, &[("t", *option)], &[]));
            client.is_thrown_out(&[0x81, 0x82]);
        }
    }
}

// [MQTT-2.2.1-3], 3.1.1 [MQTT-2.3.1-1].
#[test]
fn packet_identifier_0_ends_the_connection() {
    for version in BOTH {
        let mut client = open(version);
        client.send(&build::subscribe(version, 0, &[("t", 0)], &[]));
        client.is_thrown_out(&[0x81, 0x82]);
        let mut client = open(version);
        client.send(&build::unsubscribe(version, 0, &["t"]));
        client.is_thrown_out(&[0x81, 0x82]);
    }
}

// [MQTT-3.8.4-3], 3.1.1 [MQTT-3.8.4-3].
#[test]
fn subscribing_again_replaces_the_subscription() {
    for version in BOTH {
        let topic = unique("replaced");
        let mut client = open(version);
        for qos in [2, 0, 1] {
            assert_eq!(client.subscribe(&topic, qos), qos);
        }
        open(version).publish(&topic, "once", 2);
        open(version).publish(&topic, "fence", 2);
        let got = client.until("fence");
        assert_eq!(got.iter().map(|message| message.qos).collect::<Vec<_>>(), [1]);
    }
}

// [MQTT-3.8.4-4]: no message is lost while a subscription is replaced.
#[test]
fn replacing_a_subscription_loses_no_message() {
    for version in BOTH {
        let topic = unique("uninterrupted");
        let mut subscriber = open(version);
        subscriber.subscribe(&topic, 1);
        let mut publisher = open(version);
        let texts: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        for (n, text) in texts.iter().enumerate() {
            let packet = subscriber.fresh();
            subscriber.send(&build::subscribe(version, packet, &[(&topic, 1 + (n % 2) as u8)], &[]));
            publisher.publish(&topic, text, 1);
        }
        publisher.publish(&topic, "fence", 1);
        assert_eq!(subscriber.texts_until("fence"), texts);
    }
}

// [MQTT-3.8.3-3].
#[test]
fn no_local_keeps_ones_own_messages_away() {
    let topic = unique("no-local");
    for qos in [0, 1, 2] {
        let mut client = open(V5);
        client.subscribe(&topic, qos | NO_LOCAL);
        client.publish(&topic, "own", qos);
        open(V5).publish(&topic, "other's", qos);
        open(V5).publish(&topic, "fence", qos);
        assert_eq!(client.texts_until("fence"), ["other's"], "QoS {qos}");
    }
}

// [MQTT-3.8.3-3]: by client id, whatever the connection.
#[test]
fn no_local_holds_over_a_reconnection() {
    let topic = unique("no-local-again");
    let mut client = lasting(V5);
    let id = client.id.clone();
    client.subscribe(&topic, 1 | NO_LOCAL);
    client.bye();
    let mut client = resume(V5, &id);
    client.publish(&topic, "own", 1);
    open(V5).publish(&topic, "fence", 1);
    assert_eq!(client.texts_until("fence"), [""; 0]);
}

// [MQTT-3.3.4-3], [MQTT-3.3.4-4]; section 3.8.2.1.2.
#[test]
fn messages_carry_the_identifiers_of_all_matching_subscriptions() {
    let topic = unique("identifiers");
    let mut client = open(V5);
    let filters = [format!("{topic}/#"), format!("{topic}/+"), format!("{topic}/x"), format!("{topic}/y")];
    for (filter, number) in filters.iter().zip([1, 268_435_455, 0, 7]) {
        let properties = [property::number(id::SUBSCRIPTION_ID, number)];
        let properties = if number == 0 { &[][..] } else { &properties[..] };
        client.subscribe_all(&[(filter, 1)], properties);
    }
    for qos in [0, 1] {
        open(V5).publish(&format!("{topic}/x"), "x", qos);
        assert_eq!(client.take().properties.subscription_ids(), [1, 268_435_455], "QoS {qos}");
    }
    // Replacing a subscription replaces its identifier too.
    client.subscribe_all(&[(&filters[1], 1)], &[property::number(id::SUBSCRIPTION_ID, 5)]);
    client.subscribe_all(&[(&filters[0], 1)], &[]);
    open(V5).publish(&format!("{topic}/x"), "x", 1);
    assert_eq!(client.take().properties.subscription_ids(), [5]);
}

// Section 3.8.2.1.2: 0 is a protocol error, and so are two of them.
#[test]
fn a_subscription_identifier_of_0_or_twice_ends_the_connection() {
    let number = |value| property::number(id::SUBSCRIPTION_ID, value);
    for properties in [&[number(0)][..], &[number(1), number(2)][..]] {
        let mut client = open(V5);
        client.send(&build::subscribe(V5, 1, &[("t", 0)], properties));
        client.is_thrown_out(&[0x81, 0x82]);
    }
}

// [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.3-1], [MQTT-3.9.3-2], 3.1.1 [MQTT-4.7.1-2], [MQTT-4.7.1-3], [MQTT-3.9.3-2].
#[test]
fn invalid_filters_are_refused() {
    for version in BOTH {
        for filter in ["", "#/a", "a/#/b", "a#", "a/b#", "#a", "a+", "+a", "a/b+/c", "++", "a/+b"] {
            let mut client = open(version);
            client.send(&build::subscribe(version, 1, &[(filter, 0)], &[]));
            // Either answer is one: a failed subscription, or a protocol violation.
            match client.next(Instant::now() + Duration::from_secs(5)) {
                Some(Packet::Suback(answer)) => assert!(answer.reasons[0] >= 0x80, "{filter:?}"),
                Some(Packet::Disconnect(end)) => assert!([0x81, 0x82, 0x8F].contains(&end.reason)),
                Some(other) => panic!("{filter:?}: {other:?}"),
                None => assert_eq!(version, V311, "{filter:?}: DISCONNECT says why"),
            }
        }
    }
}

// [MQTT-3.8.4-5], [MQTT-3.8.4-7]: one that fails does not harm the others.
#[test]
fn a_filter_that_is_not_permitted_fails_alone() {
    for version in BOTH {
        let topic = unique("beside");
        let mut client = open(version);
        let answer = client.subscribe_all(&[("$SYS/#", 1), (&topic, 1)], &[]);
        let refused = if version == V5 { 0x87 } else { 0x80 };
        assert_eq!(answer.reasons, [refused, 1]);
        open(version).publish(&topic, "comes", 1);
        assert_eq!(client.take().text(), "comes");
    }
}

// Section 3.8.4: the subscription holds from SUBACK on.
#[test]
fn after_suback_every_message_comes() {
    for version in BOTH {
        for qos in [0, 1] {
            let topic = unique("from-suback");
            let (mut subscriber, mut publisher) = (open(version), open(version));
            for n in 0..20 {
                let topic = format!("{topic}/{n}");
                subscriber.subscribe(&topic, qos);
                publisher.publish(&topic, "x", qos);
                assert_eq!(subscriber.take().topic, topic);
            }
        }
    }
}
