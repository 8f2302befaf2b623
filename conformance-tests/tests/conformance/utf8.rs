//! Section 1.5.4 (3.1.1: 1.5.3): strings.

use crate::prelude::*;

/// Ill-formed in a way each: a lone continuation, an overlong slash, a surrogate, beyond U+10FFFF, cut off; and U+0000.
const WRONG: [&[u8]; 6] =
    [b"a\x80", b"a\xC0\xAF", b"a\xED\xA0\x80", b"a\xF4\x90\x80\x80", b"a\xE2\x82", b"a\0b"];

// [MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-3.3.2-1], [MQTT-4.7.3-2], 3.1.1 [MQTT-1.5.3-1], [MQTT-1.5.3-2], [MQTT-4.7.3-2].
#[test]
fn an_ill_formed_topic_name_ends_the_connection() {
    for version in BOTH {
        for topic in WRONG {
            let mut client = open(version);
            let publish = Publish { topic: topic.into(), ..Publish::new("", "x") };
            client.send(&publish.bytes(version));
            client.is_thrown_out(&[0x81, 0x82, 0x90]);
        }
    }
}

// [MQTT-3.8.3-1], [MQTT-3.10.2-1], 3.1.1 [MQTT-3.8.3-1], [MQTT-3.10.3-1].
#[test]
fn an_ill_formed_filter_ends_the_connection() {
    for version in BOTH {
        for filter in WRONG {
            for first in [0x82, 0xA2] {
                let mut body = vec![0, 1];
                if version == V5 {
                    body.push(0);
                }
                build::binary(filter, &mut body);
                if first == 0x82 {
                    body.push(0);
                }
                let mut client = open(version);
                client.send(&build::packet(first, &body));
                client.is_thrown_out(&[0x81, 0x82, 0x8F]);
            }
        }
    }
}

// [MQTT-3.1.3-4], [MQTT-3.1.3-11], [MQTT-3.1.3-12], 3.1.1 [MQTT-3.1.3-4], [MQTT-3.1.3-10], [MQTT-3.1.3-11].
#[test]
fn an_ill_formed_string_in_connect_is_refused() {
    for version in BOTH {
        for wrong in WRONG {
            let plain = Connect::new(version, &unique("c"));
            let will = Will { topic: wrong.into(), ..Will::new("", "x") };
            let user_name = Some(wrong.to_vec());
            for connect in [
                Connect { id: wrong.into(), ..plain.clone() },
                plain.clone().will(will),
                Connect { user_name, password: Some("x".into()), ..plain.clone() },
            ] {
                let mut client = Client::dial(mqtt(), version);
                client.send(&connect.bytes());
                client.ends(if version == V5 { &[0x81, 0x82, 0x85, 0x90] } else { &[2] });
            }
        }
    }
}

// [MQTT-1.5.7-1], [MQTT-3.3.2-13], [MQTT-3.3.2-19].
#[test]
fn an_ill_formed_property_ends_the_connection() {
    for wrong in WRONG {
        let mut pair = vec![0x26];
        build::binary(b"key", &mut pair);
        build::binary(wrong, &mut pair);
        let text = |id: u8| {
            let mut property = vec![id];
            build::binary(wrong, &mut property);
            property
        };
        for property in [pair, text(0x03), text(0x08)] {
            let mut body = Vec::new();
            build::text("t", &mut body);
            body.push(property.len() as u8);
            body.extend(property);
            let mut client = open(V5);
            client.send(&build::packet(0x30, &body));
            client.is_thrown_out(&[0x81, 0x82, 0x90]);
        }
    }
}

// [MQTT-1.5.4-3], 3.1.1 [MQTT-1.5.3-3].
#[test]
fn a_byte_order_mark_is_a_character() {
    for version in BOTH {
        let topic = unique("bom");
        let marked = format!("\u{FEFF}{topic}");
        let mut client = open(version);
        client.subscribe(&marked, 1);
        client.subscribe(&topic, 1);
        open(version).publish(&marked, "marked", 1);
        open(version).publish(&topic, "fence", 1);
        let got = client.until("fence");
        assert_eq!(got.iter().map(|message| message.topic.as_str()).collect::<Vec<_>>(), [marked.as_str()]);
    }
}

#[test]
fn characters_of_every_length_pass() {
    for version in BOTH {
        let topic = format!("{}/\u{e9}/\u{20ac}/\u{10348}/\u{2a6d4}", unique("wide"));
        let mut client = open(version);
        client.subscribe(&topic, 1);
        open(version).publish(&topic, "x", 1);
        assert_eq!(client.take().topic, topic);
    }
}
