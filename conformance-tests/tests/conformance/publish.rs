//! Section 3.3: PUBLISH, and sections 4.3.1 and 4.3.2: QoS 0 and 1.

use crate::prelude::*;

// [MQTT-3.8.4-8], [MQTT-3.3.4-1], [MQTT-4.3.1-1], [MQTT-4.3.2-2], [MQTT-3.3.2-3],
// 3.1.1 [MQTT-3.8.4-6], [MQTT-3.3.4-1], [MQTT-4.3.1-1], [MQTT-4.3.2-1], [MQTT-4.3.2-2].
#[test]
fn a_message_comes_with_the_lower_of_its_qos_and_the_granted_one() {
    for version in BOTH {
        for granted in [0, 1, 2] {
            let topic = unique("min");
            let mut subscriber = open(version);
            assert_eq!(subscriber.subscribe(&topic, granted), granted);
            let mut publisher = open(version);
            for sent in [0, 1, 2] {
                assert!(publisher.publish(&topic, "x", sent) < 0x80);
                let message = subscriber.take();
                assert_eq!(message.qos, sent.min(granted), "sent {sent}, granted {granted}");
                assert_eq!((message.topic, message.dup, message.retain), (topic.clone(), false, false));
            }
        }
    }
}

// [MQTT-4.5.0-1], 3.1.1 [MQTT-4.5.0-1]: between versions too.
#[test]
fn every_subscriber_gets_a_message_whatever_its_version() {
    let topic = unique("everyone");
    let mut subscribers: Vec<Client> = [V311, V5, V311, V5].map(open).into();
    subscribers.iter_mut().for_each(|one| {
        one.subscribe(&topic, 2);
    });
    for version in BOTH {
        for qos in [0, 1, 2] {
            open(version).publish(&topic, "all", qos);
            for subscriber in &mut subscribers {
                assert_eq!(subscriber.take().text(), "all");
            }
        }
    }
}

#[test]
fn payloads_arrive_byte_for_byte_empty_and_large_ones_too() {
    let large: Vec<u8> = (0..1024 * 1024).map(|i| (i % 251) as u8).collect();
    for version in BOTH {
        let topic = unique("payload");
        let (mut subscriber, mut publisher) = (open(version), open(version));
        subscriber.subscribe(&topic, 1);
        for payload in [Vec::new(), vec![0, 0xFF, 0xC0, 0x80], large.clone()] {
            for qos in [0, 1] {
                let publish = Publish { payload: payload.clone(), ..Publish::new(&topic, "") }.qos(qos, 7);
                publisher.publish_this(&publish);
                let message = subscriber.take();
                assert!(message.payload == payload, "{} bytes, QoS {qos}", payload.len());
            }
        }
    }
}

// [MQTT-3.3.1-3], [MQTT-4.3.2-5], 3.1.1 [MQTT-3.3.1-3], [MQTT-4.3.2-2].
#[test]
fn dup_is_not_passed_on_and_a_repeated_identifier_is_a_new_message() {
    for version in BOTH {
        let topic = unique("dup");
        let (mut subscriber, mut publisher) = (open(version), open(version));
        subscriber.subscribe(&topic, 1);
        for _ in 0..2 {
            publisher.publish_this(&Publish::new(&topic, "again").qos(1, 5).dup());
            let message = subscriber.take();
            assert!(!message.dup);
            assert_eq!(message.text(), "again");
        }
    }
}

// [MQTT-3.3.1-2], 3.1.1 [MQTT-3.3.1-2].
#[test]
fn dup_with_qos_0_is_malformed() {
    for version in BOTH {
        let mut client = open(version);
        client.send(&Publish::new("t", "x").dup().bytes(version));
        client.is_thrown_out(&[0x81, 0x82]);
    }
}

// [MQTT-3.3.1-4], 3.1.1 [MQTT-3.3.1-4].
#[test]
fn qos_3_is_malformed() {
    for version in BOTH {
        let mut client = open(version);
        client.send(&Publish::new("t", "x").qos(3, 1).bytes(version));
        client.is_thrown_out(&[0x81]);
    }
}

// [MQTT-3.3.2-2], [MQTT-4.7.0-1], 3.1.1 [MQTT-3.3.2-2], [MQTT-4.7.1-1].
#[test]
fn a_topic_name_with_wildcards_ends_the_connection() {
    for version in BOTH {
        for topic in ["+", "#", "a/+/b", "a/#", "a+"] {
            for qos in [0, 1] {
                let mut client = open(version);
                client.send(&Publish::new(topic, "x").qos(qos, 1).bytes(version));
                client.is_thrown_out(&[0x81, 0x82, 0x90]);
            }
        }
    }
}

// [MQTT-4.7.3-1], [MQTT-3.3.2-1], 3.1.1 [MQTT-4.7.3-1], [MQTT-3.3.2-1]. In 5.0 with no alias: section 3.3.2.1.
#[test]
fn an_empty_topic_name_ends_the_connection() {
    for version in BOTH {
        let mut client = open(version);
        client.send(&Publish::new("", "x").bytes(version));
        client.is_thrown_out(&[0x81, 0x82, 0x90]);
    }
}

// [MQTT-2.2.1-3], 3.1.1 [MQTT-2.3.1-1].
#[test]
fn packet_identifier_0_ends_the_connection() {
    for version in BOTH {
        for qos in [1, 2] {
            let mut client = open(version);
            client.send(&Publish::new("t", "x").qos(qos, 0).bytes(version));
            client.is_thrown_out(&[0x81, 0x82]);
        }
    }
}

// [MQTT-2.2.1-2], 3.1.1 [MQTT-2.3.1-5]: what would be an identifier is payload.
#[test]
fn qos_0_has_no_packet_identifier() {
    for version in BOTH {
        let topic = unique("no-id");
        let mut client = open(version);
        client.subscribe(&topic, 0);
        client.send(&Publish::new(&topic, "\u{1}\u{2}x").bytes(version));
        assert_eq!(client.message().text(), "\u{1}\u{2}x");
    }
}

// [MQTT-2.2.1-4], 3.1.1 [MQTT-2.3.1-4]: unused identifiers, and [MQTT-2.2.1-5].
#[test]
fn messages_in_flight_have_identifiers_of_their_own() {
    for version in BOTH {
        let topic = unique("ids");
        let (mut subscriber, mut publisher) = (open(version), open(version));
        subscriber.subscribe(&topic, 2);
        for (n, qos) in [1, 2, 1, 2, 1, 2].into_iter().enumerate() {
            publisher.publish(&topic, &n.to_string(), qos);
        }
        let mut ids: Vec<u16> = (0..6).map(|_| subscriber.message().id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 6);
    }
}

// [MQTT-4.6.0-5], [MQTT-4.6.0-6], 3.1.1 [MQTT-4.6.0-5], [MQTT-4.6.0-6].
#[test]
fn messages_of_one_publisher_and_qos_keep_their_order() {
    for version in BOTH {
        for qos in [0, 1, 2] {
            let topic = unique("order");
            let (mut subscriber, mut publisher) = (open(version), open(version));
            subscriber.subscribe(&topic, qos);
            let texts: Vec<String> = (0..60).map(|n| n.to_string()).collect();
            let bytes: Vec<u8> = texts
                .iter()
                .zip(1..)
                .flat_map(|(text, id)| Publish::new(&topic, text).qos(qos, id).bytes(version))
                .collect();
            publisher.send(&bytes);
            if qos > 0 {
                // [MQTT-4.6.0-2] and -3 bind clients; a server that keeps the order helps them.
                let kind = if qos == 1 { PUBACK } else { PUBREC };
                (1..=60).for_each(|id| {
                    publisher.ack(kind, id);
                });
            }
            if qos == 2 {
                for id in 1..=60 {
                    publisher.send(&build::ack(PUBREL, id));
                    publisher.ack(PUBCOMP, id);
                }
            }
            publisher.publish(&topic, "fence", qos.max(1));
            assert_eq!(subscriber.texts_until("fence"), texts, "QoS {qos}");
        }
    }
}

// [MQTT-3.3.4-2] to [MQTT-3.3.4-5], 3.1.1 [MQTT-3.3.5-1].
#[test]
fn overlapping_subscriptions_deliver_with_the_highest_granted_qos() {
    for version in BOTH {
        let topic = unique("overlap");
        let (mut subscriber, mut publisher) = (open(version), open(version));
        let filters = [format!("{topic}/#"), format!("{topic}/+"), format!("{topic}/x")];
        for (filter, qos) in filters.iter().zip([0, 2, 1]) {
            subscriber.subscribe(filter, qos);
        }
        publisher.publish(&format!("{topic}/x"), "once", 2);
        publisher.publish(&format!("{topic}/x"), "fence", 2);
        let got = subscriber.until("fence");
        assert!(got.iter().any(|message| message.qos == 2), "{got:?}");
        assert_eq!(got.len(), 1, "a copy each is allowed, but not what this server does");
    }
}

#[test]
fn a_publisher_that_subscribes_hears_itself() {
    for version in BOTH {
        let topic = unique("self");
        let mut client = open(version);
        client.subscribe(&topic, 0);
        client.send(&Publish::new(&topic, "me").bytes(version));
        assert_eq!(client.message().text(), "me");
    }
}

// 3.1.1 [MQTT-3.3.5-2]; 5.0 section 3.3.5: PUBACK and PUBREC with a reason.
#[test]
fn a_publish_that_is_not_permitted_is_refused_as_the_version_has_it() {
    let mut client = open(V5);
    assert!([0x87, 0x90].contains(&client.publish("$SYS/broker/version", "x", 1)));
    assert!([0x87, 0x90].contains(&client.publish("$SYS/broker/version", "x", 2)));
    client.send(&Publish::new("$SYS/broker/version", "x").bytes(V5));
    // QoS 0 has no answer: dropped, or the connection ends.
    client.send_anyway(&build::PINGREQ);
    match client.next(Instant::now() + Duration::from_secs(5)) {
        Some(Packet::Pingresp) | None => {}
        Some(Packet::Disconnect(end)) => assert!([0x87, 0x90].contains(&end.reason)),
        Some(other) => panic!("{other:?}"),
    }
    let mut client = open(V311);
    client.send(&Publish::new("$SYS/broker/version", "x").qos(1, 1).bytes(V311));
    let answer = client.next(Instant::now() + Duration::from_secs(5));
    assert!(matches!(answer, None | Some(Packet::Ack(_))), "{answer:?}");
}

// [MQTT-3.3.1-1], [MQTT-4.4.0-1], 3.1.1 [MQTT-3.3.1-1], [MQTT-4.4.0-1], [MQTT-2.3.1-4].
#[test]
fn what_was_not_acknowledged_comes_again_with_dup_and_its_identifier() {
    for version in BOTH {
        let topic = unique("again");
        let mut subscriber = lasting(version);
        let id = subscriber.id.clone();
        subscriber.subscribe(&topic, 1);
        let mut publisher = open(version);
        for text in ["one", "two", "three"] {
            publisher.publish(&topic, text, 1);
        }
        let first: Vec<_> = (0..3).map(|_| subscriber.message()).collect();
        subscriber.send(&build::ack(PUBACK, first[1].id));
        subscriber.ping();
        subscriber.hang_up();
        let mut subscriber = resume(version, &id);
        for before in [&first[0], &first[2]] {
            let again = subscriber.take();
            assert_eq!((again.text(), again.id, again.dup), (before.text(), before.id, true));
        }
        publisher.publish(&topic, "fence", 1);
        assert_eq!(subscriber.texts_until("fence"), [""; 0]);
    }
}

// [MQTT-4.3.2-3], [MQTT-4.4.0-1]: on an open connection nothing is sent again.
#[test]
fn nothing_is_sent_again_on_an_open_connection() {
    for version in BOTH {
        let topic = unique("patience");
        let (mut subscriber, mut publisher) = (open(version), open(version));
        subscriber.subscribe(&topic, 1);
        publisher.publish(&topic, "waits", 1);
        let message = subscriber.message();
        std::thread::sleep(Duration::from_millis(1_500));
        subscriber.ping();
        subscriber.acknowledge(&message);
        publisher.publish(&topic, "fence", 1);
        assert_eq!(subscriber.texts_until("fence"), [""; 0]);
    }
}

// [MQTT-4.4.0-2]: an acknowledgement that refuses is one all the same.
#[test]
fn a_message_refused_by_puback_is_not_sent_again() {
    let topic = unique("refused");
    let mut subscriber = lasting(V5);
    let id = subscriber.id.clone();
    subscriber.subscribe(&topic, 1);
    open(V5).publish(&topic, "no", 1);
    let message = subscriber.message();
    subscriber.send(&build::ack_reason(PUBACK, message.id, 0x80));
    subscriber.bye();
    let mut subscriber = resume(V5, &id);
    open(V5).publish(&topic, "fence", 1);
    assert_eq!(subscriber.texts_until("fence"), [""; 0]);
}

// Section 3.4.2.1: PUBACK may say that nobody listens.
#[test]
fn acknowledgements_say_success_or_that_nobody_listens() {
    let mut client = open(V5);
    for qos in [1, 2] {
        assert!([0x00, 0x10].contains(&client.publish(&unique("nobody"), "x", qos)));
    }
}

// Acknowledgements nobody waits for (section 4.3.2 does not say; they must not harm).
#[test]
fn an_unexpected_puback_harms_nobody_else() {
    for version in BOTH {
        let topic = unique("unexpected");
        let mut other = open(version);
        other.subscribe(&topic, 1);
        let mut client = open(version);
        client.send(&build::ack(PUBACK, 4_711));
        client.send_anyway(&build::PINGREQ);
        client.next(Instant::now() + Duration::from_secs(5));
        open(version).publish(&topic, "fence", 1);
        assert_eq!(other.texts_until("fence"), [""; 0]);
    }
}
