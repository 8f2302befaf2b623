//! Section 4.9: Receive Maximum in both directions; and Maximum Packet Size (sections 3.1.2.11.4 and 3.2.2.3.6).

use crate::prelude::*;

/// A subscriber that takes so many at a time.
fn narrow(most: u16, topic: &str, qos: u8) -> Client {
    let connect = Connect::new(V5, &unique("narrow")).with(property::two(id::RECEIVE_MAXIMUM, most));
    let (mut client, _) = Client::open_with(mqtt(), &connect);
    client.subscribe(topic, qos);
    client
}

// [MQTT-3.3.4-9], [MQTT-4.9.0-1], [MQTT-4.9.0-2].
#[test]
fn no_more_than_receive_maximum_are_sent_unacknowledged() {
    for qos in [1, 2] {
        let topic = unique("quota");
        let mut subscriber = narrow(3, &topic, 2);
        let mut publisher = open(V5);
        for n in 0..8 {
            publisher.publish(&topic, &n.to_string(), qos);
        }
        let first: Vec<_> = (0..3).map(|_| subscriber.message()).collect();
        // A QoS 0 message passes; a fourth of QoS 1 or 2 does not ([MQTT-3.3.4-10], [MQTT-4.9.0-3]).
        subscriber.ping();
        std::thread::sleep(Duration::from_millis(300));
        subscriber.ping();
        subscriber.acknowledge(&first[0]);
        assert_eq!(subscriber.message().text(), "3");
        subscriber.ping();
    }
}

// [MQTT-3.3.4-9]: PUBREC alone gives nothing back, PUBCOMP does, and so does a PUBREC that refuses.
#[test]
fn the_quota_comes_back_with_pubcomp_or_an_error() {
    let topic = unique("back");
    let mut subscriber = narrow(1, &topic, 2);
    let mut publisher = open(V5);
    for n in 0..3 {
        publisher.publish(&topic, &n.to_string(), 2);
    }
    let first = subscriber.message();
    subscriber.send(&build::ack(PUBREC, first.id));
    subscriber.ack(PUBREL, first.id);
    subscriber.ping();
    std::thread::sleep(Duration::from_millis(300));
    subscriber.ping();
    subscriber.send(&build::ack(PUBCOMP, first.id));
    let second = subscriber.message();
    subscriber.send(&build::ack_reason(PUBREC, second.id, 0x80));
    assert_eq!(subscriber.message().text(), "2");
}

// [MQTT-3.3.4-10], [MQTT-4.9.0-3]: everything else goes on.
#[test]
fn a_full_quota_holds_back_nothing_else() {
    let topic = unique("else");
    let mut subscriber = narrow(1, &topic, 1);
    let mut publisher = open(V5);
    publisher.publish(&topic, "one", 1);
    publisher.publish(&topic, "two", 1);
    let first = subscriber.message();
    assert_eq!(subscriber.subscribe(&unique("other"), 1), 1);
    assert_eq!(subscriber.publish(&unique("nobody"), "x", 2) & 0x80, 0);
    subscriber.unsubscribe(&[&unique("other")]);
    subscriber.ping();
    subscriber.acknowledge(&first);
    assert_eq!(subscriber.take().text(), "two");
}

// Section 3.3.4 and 4.9: a client that exceeds what the server announced (absent: 65,535).
#[test]
fn a_client_that_exceeds_the_servers_receive_maximum_is_disconnected() {
    let (mut client, answer) = Client::open_with(mqtt(), &Connect::new(V5, &unique("eager")));
    let most = answer.properties.number(id::RECEIVE_MAXIMUM).unwrap_or(65_535);
    if most == 65_535 {
        return;
    }
    // PUBREL never comes, so each of them stays open.
    let topic = unique("nobody");
    let bytes: Vec<u8> =
        (1..=most as u16 + 1).flat_map(|packet| Publish::new(&topic, "x").qos(2, packet).bytes(V5)).collect();
    client.send_anyway(&bytes);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match client.next(deadline) {
            Some(Packet::Ack(ack)) => assert_eq!(ack.kind, PUBREC),
            Some(Packet::Disconnect(end)) => break assert_eq!(end.reason, 0x93),
            other => panic!("DISCONNECT 0x93 expected, not {other:?}"),
        }
    }
    client.is_closed();
}

// [MQTT-3.3.4-7]: exactly the maximum is served.
#[test]
fn a_client_may_use_the_servers_whole_receive_maximum() {
    let (mut client, answer) = Client::open_with(mqtt(), &Connect::new(V5, &unique("exact")));
    let most = answer.properties.number(id::RECEIVE_MAXIMUM).unwrap_or(65_535).min(200) as u16;
    let topic = unique("nobody");
    for packet in 1..=most {
        client.send(&Publish::new(&topic, "x").qos(2, packet).bytes(V5));
    }
    (1..=most).for_each(|packet| {
        client.ack(PUBREC, packet);
    });
    for packet in 1..=most {
        client.send(&build::ack(PUBREL, packet));
        client.ack(PUBCOMP, packet);
    }
}

// Section 4.9: the quota begins anew with every connection.
#[test]
fn exchanges_of_an_earlier_connection_do_not_use_up_the_receive_maximum() {
    let name = unique("again");
    let (mut client, answer) = Client::open_with(mqtt(), &Connect::new(V5, &name).lasting());
    let most = answer.properties.number(id::RECEIVE_MAXIMUM).unwrap_or(65_535).min(200) as u16;
    let topic = unique("nobody");
    for round in 0..2 {
        for packet in round * most + 1..=(round + 1) * most {
            client.send(&Publish::new(&topic, "x").qos(2, packet).bytes(V5));
            client.ack(PUBREC, packet);
        }
        client.hang_up();
        (client, _) = Client::open_with(mqtt(), &Connect::new(V5, &name).resume());
    }
    for packet in 1..=2 * most {
        client.send(&build::ack(PUBREL, packet));
        client.ack(PUBCOMP, packet);
    }
}

// [MQTT-3.1.2-24], [MQTT-3.1.2-25].
#[test]
fn a_message_too_large_for_a_client_is_left_out() {
    for qos in [0, 1, 2] {
        let topic = unique("size");
        let connect = Connect::new(V5, &unique("small")).with(property::four(id::MAXIMUM_PACKET_SIZE, 200));
        let (mut subscriber, _) = Client::open_with(mqtt(), &connect);
        subscriber.subscribe(&topic, qos);
        let mut publisher = open(V5);
        publisher.publish(&topic, "before", qos);
        publisher.publish(&topic, &"x".repeat(300), qos);
        publisher.publish(&topic, "after", qos);
        publisher.publish(&topic, "fence", qos);
        assert_eq!(subscriber.texts_until("fence"), ["before", "after"], "QoS {qos}");
    }
}

// [MQTT-3.2.2-19], [MQTT-3.2.2-20], [MQTT-3.4.2-2], [MQTT-3.9.2-1] and their like: the client checks every packet.
#[test]
fn a_tiny_maximum_packet_size_is_kept_by_every_answer() {
    let connect = Connect::new(V5, &unique("tiny")).with(property::four(id::MAXIMUM_PACKET_SIZE, 60));
    let (mut client, _) = Client::open_with(mqtt(), &connect);
    client.subscribe("$SYS/#", 0);
    client.publish("$SYS/x", "x", 1);
    client.publish("$SYS/x", "x", 2);
    client.unsubscribe(&["never"]);
    client.send(&build::packet(0xC1, &[]));
    client.ends(&[0x81]);
}

// [MQTT-3.1.2-24]: what cannot be left out of an answer is not sent in part, and the server must not keep silent.
#[test]
fn an_answer_that_would_be_too_large_ends_the_connection_instead() {
    let small = |size| Connect::new(V5, &unique("small")).with(property::four(id::MAXIMUM_PACKET_SIZE, size));
    let names: Vec<String> = (0..60).map(|n| format!("a/{n}")).collect();
    let filters: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let (mut client, _) = Client::open_with(mqtt(), &small(60));
    client.send(&build::subscribe(V5, 1, &filters, &[]));
    client.is_thrown_out(&[0x95]);
    let (mut client, _) = Client::open_with(mqtt(), &small(60));
    client.send(&build::unsubscribe(V5, 1, &names.iter().map(String::as_str).collect::<Vec<_>>()));
    client.is_thrown_out(&[0x95]);
    let (mut client, answer) = Client::ask(mqtt(), &small(8));
    assert_eq!(answer.reason, 0x95);
    client.is_closed();
}

// Section 3.2.2.3.6; [MQTT-3.2.2-15].
#[test]
fn a_packet_beyond_the_announced_size_is_refused() {
    for version in BOTH {
        let (mut client, answer) = Client::open_with(mqtt(), &Connect::new(version, &unique("huge")));
        let most = answer.properties.number(id::MAXIMUM_PACKET_SIZE).unwrap_or(4 * 1024 * 1024);
        // Only the header: nothing needs to be buffered to see it.
        let mut header = vec![0x30];
        build::variable(most + 1, &mut header);
        client.send(&header);
        client.is_thrown_out(&[0x95]);
    }
}
