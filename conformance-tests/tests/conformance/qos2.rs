//! Section 4.3.3: exactly once, in both directions.

use conformance_tests::packet::Ack;

use crate::prelude::*;

/// Sends PUBLISH with QoS 2 and reads PUBREC.
fn begin(client: &mut Client, topic: &str, text: &str, packet: u16) {
    client.send(&Publish::new(topic, text).qos(2, packet).bytes(client.version));
    assert!(client.ack(PUBREC, packet).reason < 0x80);
}

/// Sends PUBREL and reads PUBCOMP.
fn finish(client: &mut Client, packet: u16) -> Ack {
    client.send(&build::ack(PUBREL, packet));
    client.ack(PUBCOMP, packet)
}

// [MQTT-4.3.3-8], [MQTT-4.3.3-11], [MQTT-2.2.1-5], 3.1.1 [MQTT-4.3.3-2], [MQTT-2.3.1-6].
#[test]
fn publish_is_answered_with_pubrec_and_pubrel_with_pubcomp() {
    for version in BOTH {
        let mut client = open(version);
        for packet in [1, 2, 65_535] {
            begin(&mut client, &unique("t"), "x", packet);
            assert_eq!(finish(&mut client, packet).reason, 0);
        }
    }
}

// [MQTT-4.3.3-10], 3.1.1 [MQTT-4.3.3-2].
#[test]
fn a_repeated_publish_is_acknowledged_again_and_delivered_once() {
    for version in BOTH {
        let topic = unique("repeated");
        let (mut subscriber, mut client) = (open(version), open(version));
        subscriber.subscribe(&topic, 2);
        begin(&mut client, &topic, "once", 9);
        for _ in 0..3 {
            client.send(&Publish::new(&topic, "once").qos(2, 9).dup().bytes(version));
            client.ack(PUBREC, 9);
        }
        finish(&mut client, 9);
        client.publish(&topic, "fence", 2);
        assert_eq!(subscriber.texts_until("fence"), ["once"]);
    }
}

// [MQTT-4.3.3-12], 3.1.1 [MQTT-4.3.3-2].
#[test]
fn after_pubcomp_the_identifier_is_free_for_a_new_message() {
    for version in BOTH {
        let topic = unique("free");
        let (mut subscriber, mut client) = (open(version), open(version));
        subscriber.subscribe(&topic, 2);
        for text in ["one", "two"] {
            begin(&mut client, &topic, text, 9);
            finish(&mut client, 9);
        }
        client.publish(&topic, "fence", 2);
        assert_eq!(subscriber.texts_until("fence"), ["one", "two"]);
    }
}

// [MQTT-3.7.2.1-1]; section 4.3.3, figure 4-3. 3.1.1 [MQTT-4.3.3-2].
#[test]
fn a_pubrel_of_an_unknown_identifier_is_completed() {
    for version in BOTH {
        let mut client = open(version);
        let reason = finish(&mut client, 77).reason;
        assert_eq!(reason, if version == V5 { 0x92 } else { 0 });
        client.ping();
    }
}

// [MQTT-4.3.3-10], [MQTT-3.1.2-5], 3.1.1 [MQTT-4.3.3-2], [MQTT-3.1.2-4].
#[test]
fn a_publish_repeated_after_a_resume_is_delivered_once() {
    for version in BOTH {
        for polite in [false, true] {
            let topic = unique("resumed");
            let mut subscriber = open(version);
            subscriber.subscribe(&topic, 2);
            let mut client = lasting(version);
            let id = client.id.clone();
            begin(&mut client, &topic, "once", 9);
            if polite {
                client.bye()
            } else {
                client.hang_up()
            }
            let mut client = resume(version, &id);
            client.send(&Publish::new(&topic, "once").qos(2, 9).dup().bytes(version));
            client.ack(PUBREC, 9);
            assert_eq!(finish(&mut client, 9).reason, 0);
            client.publish(&topic, "fence", 2);
            assert_eq!(subscriber.texts_until("fence"), ["once"]);
        }
    }
}

// [MQTT-4.1.0-1]: the state of an exchange ends with its session.
#[test]
fn an_exchange_does_not_outlive_its_session() {
    for version in BOTH {
        let topic = unique("ended");
        let mut subscriber = open(version);
        subscriber.subscribe(&topic, 2);
        let mut client = lasting(version);
        let id = client.id.clone();
        begin(&mut client, &topic, "one", 9);
        client.bye();
        let (mut client, _) = Client::open_with(mqtt(), &Connect::new(version, &id));
        begin(&mut client, &topic, "two", 9);
        finish(&mut client, 9);
        client.publish(&topic, "fence", 2);
        assert_eq!(subscriber.texts_until("fence"), ["one", "two"]);
    }
}

// [MQTT-4.3.3-1], [MQTT-4.3.3-2], [MQTT-4.3.3-4], 3.1.1 [MQTT-4.3.3-1].
#[test]
fn a_delivery_goes_through_all_four_packets_with_one_identifier() {
    for version in BOTH {
        let topic = unique("four");
        let (mut subscriber, mut publisher) = (open(version), open(version));
        subscriber.subscribe(&topic, 2);
        publisher.publish(&topic, "x", 2);
        let message = subscriber.message();
        assert_eq!((message.qos, message.dup), (2, false));
        subscriber.send(&build::ack(PUBREC, message.id));
        assert_eq!(subscriber.ack(PUBREL, message.id).reason, 0);
        subscriber.send(&build::ack(PUBCOMP, message.id));
        subscriber.ping();
    }
}

// [MQTT-4.3.3-3], [MQTT-4.4.0-1], [MQTT-3.3.1-1], 3.1.1 [MQTT-4.3.3-1], [MQTT-4.4.0-1].
#[test]
fn without_pubrec_the_publish_comes_again_with_dup() {
    for version in BOTH {
        for polite in [false, true] {
            let topic = unique("unreceived");
            let mut subscriber = lasting(version);
            let id = subscriber.id.clone();
            subscriber.subscribe(&topic, 2);
            open(version).publish(&topic, "x", 2);
            let first = subscriber.message();
            if polite {
                subscriber.bye()
            } else {
                subscriber.hang_up()
            }
            let mut subscriber = resume(version, &id);
            let again = subscriber.message();
            assert_eq!((again.text(), again.id, again.dup), (first.text(), first.id, true));
            subscriber.acknowledge(&again);
            open(version).publish(&topic, "fence", 2);
            assert_eq!(subscriber.texts_until("fence"), [""; 0]);
        }
    }
}

// [MQTT-4.3.3-5], [MQTT-4.3.3-6], [MQTT-4.4.0-1], 3.1.1 [MQTT-4.3.3-1], [MQTT-4.4.0-1].
#[test]
fn after_pubrec_only_the_pubrel_comes_again() {
    for version in BOTH {
        for polite in [false, true] {
            let topic = unique("uncompleted");
            let mut subscriber = lasting(version);
            let id = subscriber.id.clone();
            subscriber.subscribe(&topic, 2);
            open(version).publish(&topic, "x", 2);
            let message = subscriber.message();
            subscriber.send(&build::ack(PUBREC, message.id));
            subscriber.ack(PUBREL, message.id);
            if polite {
                subscriber.bye()
            } else {
                subscriber.hang_up()
            }
            let mut subscriber = resume(version, &id);
            subscriber.ack(PUBREL, message.id);
            subscriber.send(&build::ack(PUBCOMP, message.id));
            open(version).publish(&topic, "fence", 2);
            assert_eq!(subscriber.texts_until("fence"), [""; 0]);
        }
    }
}

// [MQTT-4.4.0-1]: after PUBCOMP there is nothing left to send.
#[test]
fn a_completed_delivery_leaves_nothing_for_the_next_connection() {
    for version in BOTH {
        let topic = unique("completed");
        let mut subscriber = lasting(version);
        let id = subscriber.id.clone();
        subscriber.subscribe(&topic, 2);
        open(version).publish(&topic, "x", 2);
        subscriber.take();
        subscriber.ping();
        subscriber.hang_up();
        let mut subscriber = resume(version, &id);
        open(version).publish(&topic, "fence", 2);
        assert_eq!(subscriber.texts_until("fence"), [""; 0]);
    }
}

// Section 4.6, 3.1.1 [MQTT-4.6.0-1]: as they were sent first.
#[test]
fn unfinished_deliveries_come_again_in_their_order() {
    for version in BOTH {
        let topic = unique("in-order");
        let mut subscriber = lasting(version);
        let id = subscriber.id.clone();
        subscriber.subscribe(&topic, 2);
        let mut publisher = open(version);
        for text in ["a", "b", "c", "d"] {
            publisher.publish(&topic, text, 2);
        }
        let first: Vec<_> = (0..4).map(|_| subscriber.message()).collect();
        subscriber.send(&build::ack(PUBREC, first[1].id));
        subscriber.ack(PUBREL, first[1].id);
        subscriber.hang_up();
        let mut subscriber = resume(version, &id);
        let mut again = Vec::new();
        while again.len() < 4 {
            match subscriber.receive() {
                Packet::Publish(message) => again.push((message.id, message.dup)),
                Packet::Ack(Ack { kind: PUBREL, id, .. }) => again.push((id, false)),
                other => panic!("{other:?}"),
            }
        }
        let place = |id| first.iter().position(|message| message.id == id);
        let publishes: Vec<_> = again.iter().filter(|(_, dup)| *dup).map(|(id, _)| place(*id)).collect();
        assert_eq!(publishes, [Some(0), Some(2), Some(3)]);
        assert!(again.contains(&(first[1].id, false)));
    }
}

// [MQTT-4.4.0-2], [MQTT-3.3.4-9]: a refusal ends the exchange.
#[test]
fn a_pubrec_that_refuses_ends_the_exchange_without_pubrel() {
    let topic = unique("pubrec-error");
    let mut subscriber = lasting(V5);
    let id = subscriber.id.clone();
    subscriber.subscribe(&topic, 2);
    open(V5).publish(&topic, "no", 2);
    let message = subscriber.message();
    subscriber.send(&build::ack_reason(PUBREC, message.id, 0x80));
    subscriber.ping();
    subscriber.hang_up();
    let mut subscriber = resume(V5, &id);
    open(V5).publish(&topic, "fence", 2);
    assert_eq!(subscriber.texts_until("fence"), [""; 0]);
}

// Section 4.3.3: PUBREC of an identifier the server does not know is answered with PUBREL 0x92 in MQTT 5.
#[test]
fn a_pubrec_of_an_unknown_identifier_is_released() {
    let mut client = open(V5);
    client.send(&build::ack(PUBREC, 4_711));
    let answer = client.ack(PUBREL, 4_711);
    assert_eq!(answer.reason, 0x92);
    let mut client = open(V311);
    client.send(&build::ack(PUBREC, 4_711));
    client.ack(PUBREL, 4_711);
}

// [MQTT-4.3.3-9]: a refused identifier is free at once.
#[test]
fn after_a_refusing_pubrec_the_identifier_is_a_new_message() {
    let topic = unique("reuse");
    let (mut subscriber, mut client) = (open(V5), open(V5));
    subscriber.subscribe(&topic, 2);
    client.send(&Publish::new("$SYS/x", "no").qos(2, 9).bytes(V5));
    assert!(client.ack(PUBREC, 9).reason >= 0x80);
    begin(&mut client, &topic, "yes", 9);
    finish(&mut client, 9);
    client.publish(&topic, "fence", 2);
    assert_eq!(subscriber.texts_until("fence"), ["yes"]);
}

// [MQTT-4.3.3-7], [MQTT-4.3.3-13]: what was sent once is not withdrawn by its expiry.
#[test]
fn a_delivery_begun_goes_on_after_its_message_expired() {
    let topic = unique("expired-in-flight");
    let mut subscriber = lasting(V5);
    let id = subscriber.id.clone();
    subscriber.subscribe(&topic, 2);
    let message = Publish::new(&topic, "x").qos(2, 3).with(property::four(id::MESSAGE_EXPIRY, 1));
    open(V5).publish_this(&message);
    let first = subscriber.message();
    subscriber.hang_up();
    std::thread::sleep(Duration::from_millis(1_300));
    let mut subscriber = resume(V5, &id);
    let again = subscriber.message();
    assert_eq!((again.id, again.dup), (first.id, true));
    subscriber.acknowledge(&again);
    subscriber.ping();
}
