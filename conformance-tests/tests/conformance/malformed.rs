//! Sections 2.1 and 4.13: packets that are none, and packets where they must not be.

use crate::prelude::*;

// [MQTT-2.1.3-1], [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1], [MQTT-3.15.1-1], [MQTT-4.13.1-1],
// 3.1.1 [MQTT-2.2.2-1], [MQTT-2.2.2-2], [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1].
#[test]
fn wrong_flags_in_the_fixed_header_are_malformed() {
    for version in BOTH {
        let packets = [
            build::ack(PUBACK, 1),
            build::ack(PUBREC, 1),
            build::ack(PUBREL, 1),
            build::ack(PUBCOMP, 1),
            build::subscribe(version, 1, &[("t", 0)], &[]),
            build::unsubscribe(version, 1, &["t"]),
            build::PINGREQ.to_vec(),
        ];
        for packet in packets {
            let right = packet[0] & 0x0F;
            for flags in (0..16).filter(|flags| *flags != right) {
                let mut wrong = packet.clone();
                wrong[0] = wrong[0] & 0xF0 | flags;
                let mut client = open(version);
                client.send(&wrong);
                client.is_thrown_out(&[0x81]);
            }
        }
    }
}

// [MQTT-2.1.3-1], 3.1.1 [MQTT-2.2.2-2].
#[test]
fn wrong_flags_in_connect_are_malformed() {
    for version in BOTH {
        for flags in 1..16 {
            let mut bytes = Connect::new(version, &unique("c")).bytes();
            bytes[0] |= flags;
            let mut client = Client::dial(mqtt(), version);
            client.send(&bytes);
            client.ends(if version == V5 { &[0x81] } else { &[] });
        }
    }
}

// Section 2.1.2: types 0 and (before 5.0) 15 are forbidden, and others go the other way only.
#[test]
fn packets_that_no_client_sends_end_the_connection() {
    for version in BOTH {
        let mut types = vec![0x00, 0x20, 0x90, 0xB0, 0xD0];
        if version == V311 {
            types.push(0xF0);
        }
        for first in types {
            for body in [&[][..], &[0, 0], &[0, 1, 0], &[0, 1, 0, 0, 0]] {
                let mut client = open(version);
                client.send(&build::packet(first, body));
                client.is_thrown_out(&[0x81, 0x82]);
            }
        }
    }
}

// Section 2.1.4 and 1.5.5: four bytes at most.
#[test]
fn a_remaining_length_of_five_bytes_is_malformed() {
    for version in BOTH {
        let mut client = open(version);
        client.send(&[0x30, 0x80, 0x80, 0x80, 0x80, 0x01]);
        client.is_thrown_out(&[0x81, 0x95]);
    }
}

// [MQTT-1.5.5-1]: in as few bytes as possible.
#[test]
fn a_variable_byte_integer_that_is_longer_than_needed_is_malformed_or_read_for_what_it_says() {
    // Section 1.5.5 binds the writer; a reader that is lenient is none the worse.
    let mut client = open(V5);
    client.send(&[0xC0, 0x80, 0x00]);
    client.send_anyway(&build::PINGREQ);
    match client.next(Instant::now() + Duration::from_secs(5)) {
        Some(Packet::Pingresp) | None => {}
        Some(Packet::Disconnect(end)) => assert_eq!(end.reason, 0x81),
        Some(other) => panic!("{other:?}"),
    }
}

// [MQTT-4.13.1-1], 3.1.1 [MQTT-4.8.0-1]: each packet cut at each place, with a length that says so.
#[test]
fn packets_that_end_early_are_malformed() {
    for version in BOTH {
        let properties = [property::user("key", "value")];
        let packets = [
            (Publish::new("topic", "").qos(1, 1).bytes(version), 8),
            (build::subscribe(version, 1, &[("t", 0)], if version == V5 { &properties } else { &[] }), 64),
            (build::unsubscribe(version, 1, &["t"]), 64),
            (build::ack(PUBACK, 1), 64),
            (build::ack(PUBREL, 1), 64),
        ];
        for (packet, most) in packets {
            for len in 0..(packet.len() - 2).min(most) {
                let mut client = open(version);
                client.send(&build::packet(packet[0], &packet[2..2 + len]));
                client.is_thrown_out(&[0x81, 0x82]);
            }
        }
    }
}

// [MQTT-4.13.1-1], 3.1.1 [MQTT-4.8.0-1], [MQTT-3.1.4-1].
#[test]
fn a_connect_that_ends_early_is_refused() {
    for version in BOTH {
        let whole = Connect::new(version, "client").will(Will::new("t", "x")).login("default", "x").body();
        for len in 0..whole.len() {
            let mut client = Client::dial(mqtt(), version);
            client.send(&build::packet(0x10, &whole[..len]));
            client.ends(if version == V5 { &[0x81, 0x82] } else { &[] });
        }
    }
}

// [MQTT-4.13.1-1], 3.1.1 [MQTT-4.8.0-1].
#[test]
fn packets_with_bytes_too_many_are_malformed() {
    for version in BOTH {
        let mut connect = Connect::new(version, &unique("c")).body();
        connect.push(0);
        let mut client = Client::dial(mqtt(), version);
        client.send(&build::packet(0x10, &connect));
        client.ends(if version == V5 { &[0x81] } else { &[] });
        let mut client = open(version);
        client.send(&[0xC0, 1, 0]);
        client.is_thrown_out(&[0x81]);
        if version == V311 {
            for packet in [&[0x40, 3, 0, 1, 0][..], &[0x62, 3, 0, 1, 0], &[0xE0, 1, 0]] {
                let mut client = open(version);
                client.send(packet);
                client.is_closed();
            }
        }
    }
}

// 3.1.1 [MQTT-4.8.0-2]; section 4.13: an error on one connection is that connection's alone.
#[test]
fn others_are_not_disturbed_by_what_one_sends() {
    for version in BOTH {
        let topic = unique("undisturbed");
        let mut subscriber = open(version);
        subscriber.subscribe(&topic, 1);
        for nonsense in
            [&[0xFF; 64][..], &[0x30, 0xFF, 0xFF, 0xFF, 0xFF], b"GET / HTTP/1.1\r\n\r\n", &[0; 32]]
        {
            let mut first = Client::dial(mqtt(), version);
            first.send(nonsense);
            first.raw_until_closed();
            let mut later = open(version);
            later.send(nonsense);
            later.raw_until_closed();
        }
        open(version).publish(&topic, "fence", 1);
        assert_eq!(subscriber.texts_until("fence"), [""; 0]);
    }
}
