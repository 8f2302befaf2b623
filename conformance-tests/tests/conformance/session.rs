//! Section 4.1, and what CONNECT says of sessions (sections 3.1.2.4 and 3.1.2.11.2).

use crate::prelude::*;

// [MQTT-3.1.2-5], [MQTT-3.1.2-23], [MQTT-3.2.2-3], [MQTT-4.1.0-1], [MQTT-4.5.0-1],
// 3.1.1 [MQTT-3.1.2-4], [MQTT-3.1.2-5], [MQTT-3.2.2-2], [MQTT-4.1.0-1], [MQTT-4.1.0-2].
#[test]
fn a_session_keeps_subscriptions_and_what_came_meanwhile() {
    for version in BOTH {
        for polite in [true, false] {
            let topic = unique("meanwhile");
            let mut subscriber = lasting(version);
            let id = subscriber.id.clone();
            subscriber.subscribe(&topic, 2);
            if polite {
                subscriber.bye()
            } else {
                subscriber.hang_up()
            }
            let mut publisher = open(version);
            let texts: Vec<String> = (0..20).map(|n| n.to_string()).collect();
            for (n, text) in texts.iter().enumerate() {
                publisher.publish(&topic, text, 1 + (n % 2) as u8);
            }
            let mut subscriber = resume(version, &id);
            publisher.publish(&topic, "fence", 1);
            assert_eq!(subscriber.texts_until("fence"), texts);
        }
    }
}

// [MQTT-4.1.0-2]; section 3.1.2.11.2.
#[test]
fn a_session_ends_when_its_expiry_has_passed() {
    let id = unique("brief");
    let connect = Connect { clean: false, ..Connect::new(V5, &id) };
    let brief = connect.clone().with(property::four(id::SESSION_EXPIRY, 1));
    let (client, _) = Client::open_with(mqtt(), &brief);
    client.bye();
    let (client, answer) = Client::open_with(mqtt(), &brief);
    assert!(answer.session_present, "not over yet");
    client.bye();
    // It is over after a second, and swept some time later.
    let deadline = Instant::now() + Duration::from_secs(8);
    std::thread::sleep(Duration::from_millis(2_500));
    loop {
        let probe = connect.clone().with(property::four(id::SESSION_EXPIRY, 1));
        let (client, answer) = Client::open_with(mqtt(), &probe);
        client.bye();
        if !answer.session_present {
            return;
        }
        assert!(Instant::now() < deadline, "the session is still there");
        std::thread::sleep(Duration::from_millis(2_500));
    }
}

// Section 3.1.2.11.2: absent means 0.
#[test]
fn a_session_without_expiry_ends_with_its_connection() {
    for polite in [true, false] {
        let id = unique("none");
        let connect = Connect { clean: false, ..Connect::new(V5, &id) };
        let (mut client, _) = Client::open_with(mqtt(), &connect);
        client.subscribe(&id, 1);
        if polite {
            client.bye()
        } else {
            client.hang_up()
        }
        let (_, answer) = Client::open_with(mqtt(), &connect);
        assert!(!answer.session_present);
    }
}

// Section 3.14.2.2.2: DISCONNECT may shorten or lengthen it.
#[test]
fn disconnect_changes_the_session_expiry() {
    let expiry = |seconds| [property::four(id::SESSION_EXPIRY, seconds)];
    let id = unique("lengthened");
    let connect = Connect { clean: false, ..Connect::new(V5, &id) }.with(expiry(60)[0].clone());
    let (mut client, _) = Client::open_with(mqtt(), &connect);
    client.send(&build::disconnect(0, &expiry(3_600)));
    client.is_closed();
    let (mut client, answer) = Client::open_with(mqtt(), &connect);
    assert!(answer.session_present);
    client.send(&build::disconnect(0, &expiry(0)));
    client.is_closed();
    let (_, answer) = Client::open_with(mqtt(), &connect);
    assert!(!answer.session_present);
}

// Section 3.14.2.2.2: a session that ends with its connection cannot be made to stay.
#[test]
fn disconnect_cannot_raise_a_session_expiry_of_0() {
    let mut client = open(V5);
    client.send(&build::disconnect(0, &[property::four(id::SESSION_EXPIRY, 60)]));
    client.is_thrown_out(&[0x82]);
}

// Section 3.1.2.4: Clean Start says how a session begins, the expiry how long it stays.
#[test]
fn a_clean_start_with_an_expiry_makes_a_session_that_stays() {
    let topic = unique("clean-but-lasting");
    let id = unique("clean");
    let (mut client, _) = Client::open_with(mqtt(), &Connect::new(V5, &id).lasting());
    client.subscribe(&topic, 1);
    client.bye();
    open(V5).publish(&topic, "kept", 1);
    assert_eq!(resume(V5, &id).take().text(), "kept");
}

// [MQTT-3.1.2-5] of 3.1.1 leaves QoS 0 open: this server does not keep it, and nothing else is disturbed.
#[test]
fn qos_0_messages_are_not_kept_for_the_absent() {
    for version in BOTH {
        let topic = unique("fleeting");
        let mut subscriber = lasting(version);
        let id = subscriber.id.clone();
        subscriber.subscribe(&topic, 2);
        subscriber.bye();
        let mut publisher = open(version);
        publisher.publish(&topic, "fleeting", 0);
        publisher.publish(&topic, "kept", 1);
        publisher.publish(&topic, "fence", 1);
        let got = resume(version, &id).texts_until("fence");
        assert!(got == ["kept"] || got == ["fleeting", "kept"], "{got:?}");
    }
}

// [MQTT-3.3.2-5].
#[test]
fn a_message_that_expired_meanwhile_does_not_come() {
    let topic = unique("expired");
    let mut subscriber = lasting(V5);
    let id = subscriber.id.clone();
    subscriber.subscribe(&topic, 1);
    subscriber.bye();
    let mut publisher = open(V5);
    let brief = Publish::new(&topic, "brief").qos(1, 1).with(property::four(id::MESSAGE_EXPIRY, 1));
    publisher.publish_this(&brief);
    publisher.publish(&topic, "long", 1);
    std::thread::sleep(Duration::from_millis(1_500));
    publisher.publish(&topic, "fence", 1);
    assert_eq!(resume(V5, &id).texts_until("fence"), ["long"]);
}

// [MQTT-3.3.2-6].
#[test]
fn the_message_expiry_is_counted_down() {
    let topic = unique("countdown");
    let mut subscriber = lasting(V5);
    let id = subscriber.id.clone();
    subscriber.subscribe(&topic, 1);
    let message = Publish::new(&topic, "x").qos(1, 1).with(property::four(id::MESSAGE_EXPIRY, 100));
    open(V5).publish_this(&message);
    let at_once = subscriber.take().properties.number(id::MESSAGE_EXPIRY);
    assert!(at_once.is_some_and(|left| (98..=100).contains(&left)), "{at_once:?}");
    subscriber.bye();
    open(V5).publish_this(&message);
    std::thread::sleep(Duration::from_millis(2_100));
    let later = resume(V5, &id).take().properties.number(id::MESSAGE_EXPIRY);
    assert!(later.is_some_and(|left| (90..=98).contains(&left)), "{later:?}");
}

// Section 3.3.2.3.3: absent means that it does not expire; none is invented.
#[test]
fn a_message_without_expiry_comes_without_one() {
    let topic = unique("forever");
    let mut subscriber = open(V5);
    subscriber.subscribe(&topic, 1);
    for qos in [0, 1] {
        open(V5).publish(&topic, "x", qos);
        assert_eq!(subscriber.take().properties.number(id::MESSAGE_EXPIRY), None, "QoS {qos}");
    }
}

// The two versions share sessions: a client may upgrade.
#[test]
fn a_session_moves_between_versions() {
    for (before, after) in [(V311, V5), (V5, V311)] {
        let topic = unique("upgraded");
        let mut client = lasting(before);
        let id = client.id.clone();
        client.subscribe(&topic, 1);
        client.bye();
        open(V5).publish(&topic, "kept", 1);
        assert_eq!(resume(after, &id).take().text(), "kept");
    }
}

// [MQTT-3.1.4-3]: a takeover carries the session over, with what was on its way.
#[test]
fn a_takeover_takes_what_was_in_flight_along() {
    for version in BOTH {
        let topic = unique("in-flight");
        let mut old = lasting(version);
        let id = old.id.clone();
        old.subscribe(&topic, 1);
        open(version).publish(&topic, "x", 1);
        let first = old.message();
        let mut new = resume(version, &id);
        let again = new.take();
        assert_eq!((again.text(), again.dup), (first.text(), true));
        old.is_thrown_out(&[0x8E]);
    }
}
