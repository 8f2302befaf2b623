//! Section 3.14: DISCONNECT.

use crate::prelude::*;

// [MQTT-3.14.4-1], [MQTT-3.14.4-2], 3.1.1 [MQTT-3.14.4-1], [MQTT-3.14.4-2]: the server closes too, and reads nothing after it.
#[test]
fn after_disconnect_the_server_closes_and_hears_nothing() {
    for version in BOTH {
        let topic = unique("after");
        let mut subscriber = open(version);
        subscriber.subscribe(&topic, 1);
        let mut client = open(version);
        let mut bytes = build::DISCONNECT.to_vec();
        bytes.extend(Publish::new(&topic, "late").qos(1, 1).bytes(version));
        client.send(&bytes);
        client.is_closed();
        open(version).publish(&topic, "fence", 1);
        assert_eq!(subscriber.texts_until("fence"), [""; 0]);
    }
}

// What came before DISCONNECT is not lost by it.
#[test]
fn messages_sent_before_disconnect_are_delivered() {
    for version in BOTH {
        let topic = unique("before");
        let mut subscriber = open(version);
        subscriber.subscribe(&topic, 1);
        let mut client = open(version);
        let mut bytes = Vec::new();
        for n in 0..20 {
            bytes.extend(Publish::new(&topic, &n.to_string()).qos(n % 2, u16::from(n) + 1).bytes(version));
        }
        bytes.extend(build::DISCONNECT);
        client.send(&bytes);
        let mut got: Vec<u8> = (0..20).map(|_| subscriber.take().text().parse().unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, (0..20).collect::<Vec<u8>>());
    }
}

// [MQTT-3.14.1-1], 3.1.1 [MQTT-3.14.1-1].
#[test]
fn reserved_bits_in_disconnect_are_malformed() {
    for version in BOTH {
        for flags in [1, 2, 4, 8] {
            let mut client = open(version);
            client.send(&[0xE0 | flags, 0]);
            client.is_thrown_out(&[0x81]);
        }
    }
}

// Section 3.14.2.1: Remaining Length below 1 means 0x00, below 2 no properties; reason codes are those of the table.
#[test]
fn every_form_of_disconnect_is_understood() {
    for form in [build::DISCONNECT.to_vec(), build::packet(0xE0, &[0]), build::disconnect(0, &[])] {
        let mut client = open(V5);
        client.send(&form);
        client.is_closed();
    }
    let told = [property::text(id::REASON_STRING, "tired"), property::user("a", "b")];
    let mut client = open(V5);
    client.send(&build::disconnect(0x80, &told));
    client.is_closed();
}

// Section 3.14.2.1 and 2.4: values that no client may send are a protocol error.
#[test]
fn a_disconnect_reason_that_is_none_is_an_error() {
    for reason in [0x01, 0x7F, 0xFF] {
        let mut client = open(V5);
        client.send(&build::disconnect(reason, &[]));
        client.ends(&[0x81, 0x82]);
    }
}
