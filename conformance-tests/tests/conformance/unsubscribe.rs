//! Sections 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK.

use crate::prelude::*;

// [MQTT-3.10.4-1], [MQTT-3.10.4-2], [MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.11.3-2],
// 3.1.1 [MQTT-3.10.4-1], [MQTT-3.10.4-2], [MQTT-3.10.4-4].
#[test]
fn after_unsuback_nothing_comes_any_more() {
    for version in BOTH {
        for qos in [0, 1, 2] {
            let topic = unique("left");
            let mut client = open(version);
            client.subscribe(&topic, qos);
            client.subscribe(&format!("{topic}/fence"), qos);
            let answer = client.unsubscribe(&[&topic]);
            assert_eq!(answer.reasons, if version == V5 { vec![0] } else { vec![] });
            open(version).publish(&topic, "late", qos);
            open(version).publish(&format!("{topic}/fence"), "fence", qos);
            assert_eq!(client.texts_until("fence"), [""; 0]);
        }
    }
}

// [MQTT-3.10.4-5], 3.1.1 [MQTT-3.10.4-5].
#[test]
fn what_was_not_subscribed_is_answered_as_well() {
    for version in BOTH {
        let answer = open(version).unsubscribe(&[&unique("never")]);
        assert_eq!(answer.reasons, if version == V5 { vec![0x11] } else { vec![] });
    }
}

// [MQTT-3.10.4-6], [MQTT-3.11.3-1], 3.1.1 [MQTT-3.10.4-6].
#[test]
fn many_filters_are_answered_in_order() {
    for version in BOTH {
        let mut client = open(version);
        let topic = unique("some");
        client.subscribe_all(&[(&format!("{topic}/a"), 0), (&format!("{topic}/c"), 1)], &[]);
        let names = ["a", "b", "c"].map(|name| format!("{topic}/{name}"));
        let answer = client.unsubscribe(&names.each_ref().map(String::as_str));
        assert_eq!(answer.reasons, if version == V5 { vec![0, 0x11, 0] } else { vec![] });
    }
}

// [MQTT-3.10.4-1], 3.1.1 [MQTT-3.10.4-1]: character by character.
#[test]
fn filters_are_compared_character_by_character() {
    for version in BOTH {
        let topic = unique("exact");
        let mut client = open(version);
        client.subscribe(&format!("{topic}/+"), 1);
        for other in [format!("{topic}/#"), format!("{topic}/a"), format!("{topic}/+/"), topic.to_uppercase()]
        {
            client.unsubscribe(&[&other]);
        }
        open(version).publish(&format!("{topic}/a"), "still", 1);
        assert_eq!(client.take().text(), "still");
    }
}

// [MQTT-3.10.4-3], 3.1.1 [MQTT-3.10.4-3].
#[test]
fn a_delivery_that_was_begun_is_completed() {
    for version in BOTH {
        let topic = unique("begun");
        let mut client = lasting(version);
        let id = client.id.clone();
        client.subscribe(&topic, 2);
        open(version).publish(&topic, "begun", 2);
        let message = client.message();
        client.unsubscribe(&[&topic]);
        client.send(&build::ack(PUBREC, message.id));
        client.ack(PUBREL, message.id);
        client.hang_up();
        let mut client = resume(version, &id);
        client.ack(PUBREL, message.id);
        client.send(&build::ack(PUBCOMP, message.id));
        client.ping();
    }
}

// [MQTT-3.10.2-2], 3.1.1 [MQTT-3.10.3-2].
#[test]
fn an_unsubscribe_without_filters_ends_the_connection() {
    for version in BOTH {
        let mut client = open(version);
        client.send(&build::unsubscribe(version, 1, &[]));
        client.is_thrown_out(&[0x81, 0x82]);
    }
}

// Unsubscribing is remembered with the session.
#[test]
fn an_unsubscription_survives_a_reconnection() {
    for version in BOTH {
        let topic = unique("remembered");
        let mut client = lasting(version);
        let id = client.id.clone();
        client.subscribe(&topic, 1);
        client.unsubscribe(&[&topic]);
        client.subscribe(&format!("{topic}/fence"), 1);
        client.bye();
        open(version).publish(&topic, "late", 1);
        open(version).publish(&format!("{topic}/fence"), "fence", 1);
        assert_eq!(resume(version, &id).texts_until("fence"), [""; 0]);
    }
}
