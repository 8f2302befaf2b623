//! Sections 3.1.2.5 to 3.1.2.7 and 3.1.3.2: will messages.

use crate::prelude::*;

/// A subscriber of `topic`, and a client with this will.
fn scene(version: Version, topic: &str, connect: Connect, will: Will) -> (Client, Client) {
    let mut subscriber = open(version);
    subscriber.subscribe(topic, 2);
    let (client, _) = Client::open_with(mqtt(), &connect.will(will));
    (subscriber, client)
}

/// That nothing comes on `topic` but what this publishes now.
fn nothing_comes(subscriber: &mut Client, topic: &str) {
    open(V311).publish(topic, "fence", 1);
    assert_eq!(subscriber.texts_until("fence"), [""; 0]);
}

// [MQTT-3.1.2-7], [MQTT-3.1.2-8], [MQTT-3.1.2-14], 3.1.1 [MQTT-3.1.2-8], [MQTT-3.1.2-9], [MQTT-3.1.2-16].
#[test]
fn a_will_is_published_when_the_connection_is_lost() {
    for version in BOTH {
        for qos in [0, 1, 2] {
            let topic = unique("lost");
            let connect = Connect::new(version, &unique("dying"));
            let (mut subscriber, client) =
                scene(version, &topic, connect, Will::new(&topic, "gone").qos(qos));
            client.hang_up();
            let message = subscriber.take();
            assert_eq!((message.text(), message.qos, message.retain), ("gone".to_owned(), qos, false));
        }
    }
}

// [MQTT-3.1.2-8], [MQTT-3.1.2-22], 3.1.1 [MQTT-3.1.2-8], [MQTT-3.1.2-24].
#[test]
fn a_will_is_published_when_the_keep_alive_runs_out() {
    for version in BOTH {
        let topic = unique("silent");
        let connect = Connect::new(version, &unique("silent")).keep_alive(1);
        let (mut subscriber, _client) = scene(version, &topic, connect, Will::new(&topic, "gone").qos(1));
        assert_eq!(subscriber.take().text(), "gone");
    }
}

// [MQTT-3.1.2-8], 3.1.1 [MQTT-3.1.2-8], [MQTT-4.8.0-1]: the server closes because of a violation.
#[test]
fn a_will_is_published_when_the_client_is_thrown_out() {
    for version in BOTH {
        let topic = unique("violation");
        let connect = Connect::new(version, &unique("violent"));
        let (mut subscriber, mut client) = scene(version, &topic, connect, Will::new(&topic, "gone").qos(1));
        client.send(&Publish::new("a/#", "x").bytes(version));
        client.is_thrown_out(&[0x81, 0x82, 0x90]);
        assert_eq!(subscriber.take().text(), "gone");
    }
}

// [MQTT-3.1.2-8], [MQTT-3.1.4-3], 3.1.1 [MQTT-3.1.2-8]: a takeover ends the old connection too.
#[test]
fn a_will_is_published_when_a_connection_is_taken_over() {
    for version in BOTH {
        let topic = unique("taken");
        let connect = Connect::new(version, &unique("taken"));
        let (mut subscriber, mut old) =
            scene(version, &topic, connect.clone(), Will::new(&topic, "gone").qos(1));
        Client::open_with(mqtt(), &connect);
        old.is_thrown_out(&[0x8E]);
        assert_eq!(subscriber.take().text(), "gone");
    }
}

// [MQTT-3.14.4-3], [MQTT-3.1.2-10], 3.1.1 [MQTT-3.14.4-3], [MQTT-3.1.2-10].
#[test]
fn a_normal_disconnect_discards_the_will() {
    for version in BOTH {
        let topic = unique("orderly");
        let connect = Connect::new(version, &unique("orderly")).resume();
        let (mut subscriber, client) =
            scene(version, &topic, connect.clone(), Will::new(&topic, "gone").qos(1));
        client.bye();
        // And it does not come back with the session.
        Client::open_with(mqtt(), &connect).0.hang_up();
        nothing_comes(&mut subscriber, &topic);
    }
}

// Section 3.14.2.1: 0x04.
#[test]
fn a_disconnect_with_will_message_publishes_it() {
    let topic = unique("with-will");
    let connect = Connect::new(V5, &unique("with-will"));
    let (mut subscriber, mut client) = scene(V5, &topic, connect, Will::new(&topic, "gone").qos(1));
    client.send(&build::disconnect(0x04, &[]));
    client.is_closed();
    assert_eq!(subscriber.take().text(), "gone");
}

// Section 3.14.2.1: any reason but 0x00 leaves the will in force ([MQTT-3.1.2-10]).
#[test]
fn a_disconnect_that_reports_an_error_publishes_the_will() {
    let topic = unique("with-error");
    let connect = Connect::new(V5, &unique("with-error"));
    let (mut subscriber, mut client) = scene(V5, &topic, connect, Will::new(&topic, "gone").qos(1));
    client.send(&build::disconnect(0x80, &[]));
    client.is_closed();
    assert_eq!(subscriber.take().text(), "gone");
}

// 3.1.1 [MQTT-3.1.2-12].
#[test]
fn without_a_will_nothing_is_published() {
    for version in BOTH {
        let topic = unique("no-will");
        let mut subscriber = open(version);
        subscriber.subscribe(&topic, 1);
        // The session had a will, and its next connection has none.
        let connect = Connect::new(version, &unique("no-will")).resume();
        Client::open_with(mqtt(), &connect.clone().will(Will::new(&topic, "gone").qos(1))).0.bye();
        Client::open_with(mqtt(), &connect).0.hang_up();
        nothing_comes(&mut subscriber, &topic);
    }
}

// [MQTT-3.1.2-15], 3.1.1 [MQTT-3.1.2-17].
#[test]
fn a_retained_will_is_kept() {
    for version in BOTH {
        for qos in [0, 1] {
            let topic = unique("kept-will");
            let connect = Connect::new(version, &unique("kept"));
            let will = Will::new(&topic, "gone").qos(qos).retain();
            let (mut subscriber, client) = scene(version, &topic, connect, will);
            client.hang_up();
            assert!(!subscriber.take().retain, "it is live for who subscribes already");
            let mut later = open(version);
            later.subscribe(&topic, 1);
            let message = later.take();
            assert_eq!((message.text(), message.retain), ("gone".to_owned(), true));
            open(version).retain(&topic, "", 1);
        }
    }
}

// Section 3.1.3.2.2: the delay. [MQTT-3.1.2-8].
#[test]
fn a_delayed_will_waits() {
    let topic = unique("delayed");
    let connect = Connect::new(V5, &unique("delayed")).lasting();
    let will = Will::new(&topic, "gone").qos(1).with(property::four(id::WILL_DELAY, 1));
    let (mut subscriber, client) = scene(V5, &topic, connect, will);
    let start = Instant::now();
    client.hang_up();
    assert_eq!(subscriber.take().text(), "gone");
    let after = start.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&after), "after {after:?}");
}

// [MQTT-3.1.3-9].
#[test]
fn a_client_that_is_back_in_time_has_no_will_published() {
    let topic = unique("back");
    let connect = Connect::new(V5, &unique("back")).resume();
    let will = Will::new(&topic, "gone").qos(1).with(property::four(id::WILL_DELAY, 1));
    let (mut subscriber, client) = scene(V5, &topic, connect.clone(), will);
    client.hang_up();
    let (mut client, answer) = Client::open_with(mqtt(), &connect);
    assert!(answer.session_present);
    std::thread::sleep(Duration::from_millis(2_500));
    client.ping();
    nothing_comes(&mut subscriber, &topic);
}

// [MQTT-3.1.2-8]: the end of the session comes before the delay.
#[test]
fn the_end_of_the_session_ends_the_delay() {
    let topic = unique("session-end");
    let delay = property::four(id::WILL_DELAY, 3_600);
    // A session without expiry ends with its connection.
    let will = Will::new(&topic, "one").qos(1).with(delay.clone());
    let (mut subscriber, client) = scene(V5, &topic, Connect::new(V5, &unique("short")), will);
    client.hang_up();
    assert_eq!(subscriber.take().text(), "one");
    // A clean start ends the session there was.
    let connect = Connect::new(V5, &unique("clean")).lasting();
    let will = Will::new(&topic, "two").qos(1).with(delay.clone());
    Client::open_with(mqtt(), &connect.clone().will(will)).0.hang_up();
    Client::open_with(mqtt(), &connect);
    assert_eq!(subscriber.take().text(), "two");
    // And the expiry does.
    let brief = Connect::new(V5, &unique("brief")).with(property::four(id::SESSION_EXPIRY, 1));
    let will = Will::new(&topic, "three").qos(1).with(delay);
    Client::open_with(mqtt(), &brief.will(will)).0.hang_up();
    assert_eq!(subscriber.take().text(), "three");
}

// [MQTT-3.1.3-10]; section 3.1.3.2: what goes with the will.
#[test]
fn a_will_comes_with_its_properties_in_order() {
    let topic = unique("properties");
    let connect = Connect::new(V5, &unique("dying"));
    let will = Will::new(&topic, "gone")
        .qos(1)
        .with(property::byte(id::PAYLOAD_FORMAT, 1))
        .with(property::four(id::MESSAGE_EXPIRY, 100))
        .with(property::text(id::CONTENT_TYPE, "text/plain"))
        .with(property::text(id::RESPONSE_TOPIC, "answers"))
        .with(property::binary(id::CORRELATION_DATA, b"42"))
        .with(property::user("b", "1"))
        .with(property::user("a", "2"))
        .with(property::user("b", "3"));
    let (mut subscriber, client) = scene(V5, &topic, connect, will);
    client.hang_up();
    let properties = subscriber.take().properties;
    assert_eq!(properties.pairs(), [("b", "1"), ("a", "2"), ("b", "3")]);
    assert_eq!(properties.number(id::PAYLOAD_FORMAT), Some(1));
    assert_eq!(properties.text(id::CONTENT_TYPE), Some("text/plain"));
    assert_eq!(properties.text(id::RESPONSE_TOPIC), Some("answers"));
    assert_eq!(properties.find(id::CORRELATION_DATA), Some(&property::Value::Binary(b"42".to_vec())));
    assert!(properties.number(id::MESSAGE_EXPIRY).is_some_and(|left| (95..=100).contains(&left)));
    assert_eq!(properties.find(id::WILL_DELAY), None);
}

// [MQTT-4.7.1-1] of 3.1.1, section 3.1.3.3: a will topic is a topic name.
#[test]
fn a_will_topic_must_be_a_valid_topic_name() {
    for version in BOTH {
        for topic in ["", "a/#", "+"] {
            let mut client = Client::dial(mqtt(), version);
            client.send(&Connect::new(version, &unique("c")).will(Will::new(topic, "x")).bytes());
            client.ends(if version == V5 { &[0x81, 0x82, 0x90] } else { &[] });
        }
    }
}

// A will that could not be published must not wait for its moment: refused at once (section 3.1.4).
#[test]
fn a_will_that_is_not_permitted_is_refused() {
    for (version, code) in [(V311, 5), (V5, 0x87)] {
        let connect = Connect::new(version, &unique("c")).will(Will::new("$SYS/broker/version", "x"));
        let (mut client, answer) = Client::ask(mqtt(), &connect);
        assert!(answer.reason == code || (version == V5 && answer.reason == 0x90), "{answer:?}");
        client.is_closed();
    }
}

// Will payloads may be empty and binary (section 3.1.3.4).
#[test]
fn a_will_payload_is_any_bytes() {
    for version in BOTH {
        for payload in [vec![], vec![0, 0xFF, 0xC0]] {
            let topic = unique("bytes");
            let will = Will { payload: payload.clone(), ..Will::new(&topic, "") };
            let (mut subscriber, client) = scene(version, &topic, Connect::new(version, &unique("c")), will);
            client.hang_up();
            assert_eq!(subscriber.take().payload, payload);
        }
    }
}
