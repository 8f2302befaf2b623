//! Section 2.2.2 and the properties of each packet.

use crate::prelude::*;

fn connect_with(properties: Vec<property::Property>) -> Client {
    let mut client = Client::dial(mqtt(), V5);
    client.send(&Connect { properties, ..Connect::new(V5, &unique("c")) }.bytes());
    client
}

// Section 3.1.2.11 and 2.2.2.2: each of them once only.
#[test]
fn a_property_that_comes_twice_in_connect_is_refused() {
    let twice = [
        property::four(id::SESSION_EXPIRY, 1),
        property::two(id::RECEIVE_MAXIMUM, 1),
        property::four(id::MAXIMUM_PACKET_SIZE, 1_000),
        property::two(id::TOPIC_ALIAS_MAXIMUM, 1),
        property::byte(id::REQUEST_RESPONSE, 1),
        property::byte(id::REQUEST_PROBLEM, 1),
        property::text(id::AUTH_METHOD, "m"),
    ];
    for property in twice {
        connect_with(vec![property.clone(), property]).ends(&[0x81, 0x82]);
    }
}

// Sections 3.1.2.11.3, .4, .6 and .7.
#[test]
fn values_that_connect_must_not_have_are_refused() {
    for property in [
        property::two(id::RECEIVE_MAXIMUM, 0),
        property::four(id::MAXIMUM_PACKET_SIZE, 0),
        property::byte(id::REQUEST_RESPONSE, 2),
        property::byte(id::REQUEST_PROBLEM, 2),
    ] {
        connect_with(vec![property]).ends(&[0x81, 0x82]);
    }
}

// Section 2.2.2.2: an identifier that is unknown, or not for this packet, is malformed.
#[test]
fn properties_of_other_packets_are_refused_in_connect() {
    for property in [
        property::two(id::TOPIC_ALIAS, 1),
        property::number(id::SUBSCRIPTION_ID, 1),
        property::text(id::REASON_STRING, "x"),
        property::byte(id::MAXIMUM_QOS, 1),
        property::four(id::WILL_DELAY, 1),
        property::byte(0x7E, 1),
        property::byte(0x04, 1),
    ] {
        connect_with(vec![property]).ends(&[0x81, 0x82]);
    }
}

// Section 3.1.2.11.10 and 3.1.4: Authentication Data without a method is a protocol error.
#[test]
fn authentication_data_without_a_method_is_refused() {
    connect_with(vec![property::binary(id::AUTH_DATA, b"x")]).ends(&[0x81, 0x82]);
}

// Section 3.1.3.2 and 2.2.2.2.
#[test]
fn will_properties_are_checked_as_well() {
    let twice = [property::four(id::WILL_DELAY, 1), property::four(id::WILL_DELAY, 1)];
    for properties in [
        twice.to_vec(),
        vec![property::byte(id::PAYLOAD_FORMAT, 2)],
        vec![property::two(id::TOPIC_ALIAS, 1)],
        vec![property::text(id::RESPONSE_TOPIC, "a/#")],
        vec![property::four(id::SESSION_EXPIRY, 1)],
    ] {
        let mut client = Client::dial(mqtt(), V5);
        let will = Will { properties, ..Will::new("t", "x") };
        client.send(&Connect::new(V5, &unique("c")).will(will).bytes());
        client.ends(&[0x81, 0x82, 0x90]);
    }
}

// Sections 3.3.2.3.2 to 3.3.2.3.9; [MQTT-3.3.2-14], [MQTT-3.3.4-6].
#[test]
fn properties_that_publish_must_not_have_end_the_connection() {
    let twice = |property: property::Property| vec![property.clone(), property];
    for properties in [
        twice(property::byte(id::PAYLOAD_FORMAT, 0)),
        twice(property::four(id::MESSAGE_EXPIRY, 1)),
        twice(property::text(id::CONTENT_TYPE, "a")),
        twice(property::text(id::RESPONSE_TOPIC, "a")),
        twice(property::binary(id::CORRELATION_DATA, b"a")),
        twice(property::two(id::TOPIC_ALIAS, 1)),
        vec![property::byte(id::PAYLOAD_FORMAT, 2)],
        vec![property::text(id::RESPONSE_TOPIC, "a/+")],
        vec![property::text(id::RESPONSE_TOPIC, "#")],
        vec![property::number(id::SUBSCRIPTION_ID, 1)],
        vec![property::four(id::SESSION_EXPIRY, 1)],
        vec![property::text(id::REASON_STRING, "x")],
    ] {
        for qos in [0, 1] {
            let mut client = open(V5);
            let publish = Publish { properties: properties.clone(), ..Publish::new("t", "x") };
            client.send(&publish.qos(qos, 1).bytes(V5));
            client.is_thrown_out(&[0x81, 0x82, 0x90]);
        }
    }
}

// Section 2.2.2.2, in every packet that has properties.
#[test]
fn properties_of_other_packets_end_the_connection_everywhere() {
    let foreign = [property::four(id::MESSAGE_EXPIRY, 1)];
    let acknowledgement = |kind: u8| {
        let mut body = vec![0, 1, 0];
        property::write(&foreign, &mut body);
        build::packet(kind << 4 | if kind == PUBREL { 2 } else { 0 }, &body)
    };
    let mut unsubscribe = vec![0, 1];
    property::write(&[property::number(id::SUBSCRIPTION_ID, 1)], &mut unsubscribe);
    build::text("t", &mut unsubscribe);
    for packet in [
        acknowledgement(PUBACK),
        acknowledgement(PUBREC),
        acknowledgement(PUBREL),
        acknowledgement(PUBCOMP),
        build::subscribe(V5, 1, &[("t", 0)], &foreign),
        build::packet(0xA2, &unsubscribe),
        build::disconnect(0, &foreign),
    ] {
        let mut client = open(V5);
        client.send(&packet);
        client.is_thrown_out(&[0x81, 0x82]);
    }
}

// Section 2.2.2.1: the length says how far they go.
#[test]
fn a_property_length_beyond_the_packet_is_malformed() {
    let mut body = Vec::new();
    build::text("t", &mut body);
    body.extend([200, 0x01, 0x00]);
    let mut client = open(V5);
    client.send(&build::packet(0x30, &body));
    client.is_thrown_out(&[0x81]);
}

// [MQTT-3.3.2-4], [MQTT-3.3.2-15] to [MQTT-3.3.2-18], [MQTT-3.3.2-20].
#[test]
fn the_properties_of_a_message_are_passed_on_unaltered() {
    for qos in [0, 1, 2] {
        let topic = unique("unaltered");
        let mut subscriber = open(V5);
        subscriber.subscribe(&topic, 2);
        let properties = [
            property::byte(id::PAYLOAD_FORMAT, 1),
            property::text(id::CONTENT_TYPE, "text/plain; charset=utf-8"),
            property::text(id::RESPONSE_TOPIC, "answers/\u{20ac}"),
            property::binary(id::CORRELATION_DATA, &[0, 1, 255]),
        ];
        let mut publish = Publish::new(&topic, "x").qos(qos, 3);
        publish.properties = properties.to_vec();
        // The same key more than once, empty ones, and in this order.
        let pairs = [("b", "1"), ("a", "2"), ("b", "1"), ("", ""), ("a", "")];
        publish.properties.extend(pairs.iter().map(|(key, value)| property::user(key, value)));
        open(V5).publish_this(&publish);
        let message = subscriber.take();
        assert_eq!(message.properties.pairs(), pairs);
        for property in &properties {
            assert_eq!(message.properties.find(property.id), Some(&property.value));
        }
        assert_eq!(message.properties.len(), properties.len() + pairs.len(), "and nothing else is added");
    }
}

// Section 3.3.2.3.2: 0 is not the same as absent, but may be told as such.
#[test]
fn a_message_without_properties_comes_without_any() {
    for version in BOTH {
        let topic = unique("plain");
        let mut subscriber = open(V5);
        subscriber.subscribe(&topic, 1);
        for qos in [0, 1] {
            open(version).publish(&topic, "x", qos);
            assert_eq!(subscriber.take().properties, []);
        }
    }
}

// Section 3.3.2.3.2: a payload that says it is text, and is not.
#[test]
fn a_payload_that_is_not_the_text_it_claims_is_refused() {
    let claims = property::byte(id::PAYLOAD_FORMAT, 1);
    let wrong = Publish { payload: vec![0xFF, 0xFE], ..Publish::new("t", "") }.with(claims);
    for qos in [1, 2] {
        let mut client = open(V5);
        client.send(&wrong.clone().qos(qos, 1).bytes(V5));
        match client.receive() {
            Packet::Ack(ack) => assert_eq!(ack.reason, 0x99),
            Packet::Disconnect(end) => assert_eq!(end.reason, 0x99),
            other => panic!("{other:?}"),
        }
    }
}

// [MQTT-3.1.2-29]: without problem information, reasons stay bare.
#[test]
fn without_problem_information_there_are_no_reason_strings() {
    let connect = Connect::new(V5, &unique("bare")).with(property::byte(id::REQUEST_PROBLEM, 0));
    let (mut client, _) = Client::open_with(mqtt(), &connect);
    assert_eq!(client.subscribe_all(&[("$SYS/#", 0)], &[]).properties, []);
    assert_eq!(client.unsubscribe(&["never"]).properties, []);
    for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
        client.send(&Publish::new("$SYS/x", "x").qos(qos, 30).bytes(V5));
        assert_eq!(client.ack(kind, 30).properties, []);
    }
    client.send(&build::ack(PUBREL, 77));
    assert_eq!(client.ack(PUBCOMP, 77).properties, []);
}

// [MQTT-3.1.2-28]: not asked for, not told.
#[test]
fn response_information_comes_to_those_only_who_ask() {
    for connect in [
        Connect::new(V5, &unique("unasked")),
        Connect::new(V5, &unique("no")).with(property::byte(id::REQUEST_RESPONSE, 0)),
    ] {
        let (_, answer) = Client::open_with(mqtt(), &connect);
        assert_eq!(answer.properties.text(id::RESPONSE_INFORMATION), None);
    }
    let asks = Connect::new(V5, &unique("yes")).with(property::byte(id::REQUEST_RESPONSE, 1));
    Client::open_with(mqtt(), &asks);
}

/// What the server takes as its highest alias.
fn alias_maximum(client: &Connect) -> (Client, u16) {
    let (client, answer) = Client::open_with(mqtt(), client);
    let most = answer.properties.number(id::TOPIC_ALIAS_MAXIMUM).unwrap_or(0);
    (client, most as u16)
}

// [MQTT-3.3.2-12]; section 3.3.2.3.4.
#[test]
fn a_topic_alias_stands_for_its_topic_until_it_is_changed() {
    let (one, other) = (unique("alias"), unique("alias"));
    let mut subscriber = open(V5);
    subscriber.subscribe_all(&[(&one, 1), (&other, 1)], &[]);
    let (mut publisher, most) = alias_maximum(&Connect::new(V5, &unique("c")));
    for alias in [1, most] {
        let set = |topic: &str, text: &str| {
            Publish::new(topic, text).qos(1, 1).with(property::two(id::TOPIC_ALIAS, alias))
        };
        for (topic, text, expected) in
            [(&one[..], "a", &one), ("", "b", &one), (&other, "c", &other), ("", "d", &other)]
        {
            publisher.publish_this(&set(topic, text));
            let message = subscriber.take();
            assert_eq!((&message.topic, message.text()), (expected, text.to_owned()));
        }
    }
}

// Section 3.3.2.3.4: 0, too large, and unknown ones.
#[test]
fn a_topic_alias_that_cannot_be_ends_the_connection() {
    let aliased = |topic: &str, alias| Publish::new(topic, "x").with(property::two(id::TOPIC_ALIAS, alias));
    let (mut client, most) = alias_maximum(&Connect::new(V5, &unique("c")));
    client.send(&aliased("t", most + 1).bytes(V5));
    client.is_thrown_out(&[0x94]);
    let mut client = open(V5);
    client.send(&aliased("t", 0).bytes(V5));
    client.is_thrown_out(&[0x94]);
    let mut client = open(V5);
    client.send(&aliased("", 1).bytes(V5));
    client.is_thrown_out(&[0x82, 0x94]);
}

// [MQTT-3.3.2-7].
#[test]
fn topic_aliases_end_with_their_connection() {
    let connect = Connect::new(V5, &unique("aliases")).resume();
    let (mut client, _) = Client::open_with(mqtt(), &connect);
    client.publish_this(&Publish::new(&unique("t"), "x").qos(1, 1).with(property::two(id::TOPIC_ALIAS, 1)));
    client.bye();
    let (mut client, _) = Client::open_with(mqtt(), &connect);
    client.send(&Publish::new("", "x").qos(1, 1).with(property::two(id::TOPIC_ALIAS, 1)).bytes(V5));
    client.is_thrown_out(&[0x82, 0x94]);
}

// [MQTT-3.1.2-26], [MQTT-3.1.2-27], [MQTT-3.3.2-8], [MQTT-3.3.2-11].
#[test]
fn aliases_to_a_client_stay_within_what_it_takes() {
    for most in [None, Some(0), Some(2)] {
        let mut connect = Connect::new(V5, &unique("takes"));
        if let Some(most) = most {
            connect = connect.with(property::two(id::TOPIC_ALIAS_MAXIMUM, most));
        }
        let (mut subscriber, _) = Client::open_with(mqtt(), &connect);
        let root = unique("takes");
        subscriber.subscribe(&format!("{root}/#"), 1);
        let mut publisher = open(V5);
        let mut known = std::collections::BTreeMap::new();
        for n in (0..4).chain(0..4).chain(0..4) {
            publisher.publish(&format!("{root}/{n}"), &n.to_string(), n % 2);
            let message = subscriber.take();
            let alias = message.properties.number(id::TOPIC_ALIAS);
            assert!(alias.is_none_or(|alias| alias >= 1 && alias <= u32::from(most.unwrap_or(0))));
            let topic = match (alias, message.topic.is_empty()) {
                (Some(alias), true) => known.get(&alias).cloned().expect("an alias that was told"),
                (Some(alias), false) => {
                    known.insert(alias, message.topic.clone());
                    message.topic
                }
                (None, _) => message.topic,
            };
            assert_eq!(topic, format!("{root}/{n}"));
        }
    }
}
