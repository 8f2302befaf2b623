//! Sections 3.1 and 3.2: CONNECT and CONNACK.

use crate::prelude::*;

// [MQTT-3.1.0-1], 3.1.1 [MQTT-3.1.0-1]; [MQTT-3.14.0-1]: no DISCONNECT before CONNACK.
#[test]
fn the_first_packet_must_be_connect() {
    for version in BOTH {
        for first in [
            build::PINGREQ.to_vec(),
            build::DISCONNECT.to_vec(),
            Publish::new("t", "x").bytes(version),
            build::subscribe(version, 1, &[("t", 0)], &[]),
            build::ack(PUBACK, 1),
        ] {
            let mut client = Client::dial(mqtt(), version);
            client.send(&first);
            client.is_closed();
        }
    }
}

// [MQTT-3.1.0-2], [MQTT-3.2.0-2], 3.1.1 [MQTT-3.1.0-2].
#[test]
fn a_second_connect_ends_the_connection() {
    for version in BOTH {
        let connect = Connect::new(version, &unique("twice"));
        let (mut client, _) = Client::open_with(mqtt(), &connect);
        client.send(&connect.bytes());
        client.is_thrown_out(&[0x82]);
    }
}

// [MQTT-3.1.2-1], 3.1.1 [MQTT-3.1.2-1].
#[test]
fn another_protocol_name_is_not_served() {
    for version in BOTH {
        for name in ["MQTX", "mqtt", "", "MQTT\u{0}", "MQIsdp"] {
            let connect = Connect { protocol: name.into(), ..Connect::new(version, &unique("name")) };
            let mut client = Client::dial(mqtt(), version);
            client.send(&connect.bytes());
            let said = client.raw_until_closed();
            assert!(said.is_empty() || unsupported(&said), "{name:?} is answered with {said:02x?}");
        }
    }
}

// [MQTT-3.1.2-2], 3.1.1 [MQTT-3.1.2-2].
#[test]
fn an_unknown_protocol_level_is_told_that_it_is() {
    for level in [0, 1, 2, 6, 127, 255] {
        let mut client = Client::dial(mqtt(), V311);
        client.send(&Connect { level, ..Connect::new(V311, &unique("level")) }.bytes());
        let said = client.raw_until_closed();
        assert!(unsupported(&said), "level {level} is answered with {said:02x?}");
    }
}

// [MQTT-3.1.2-3], 3.1.1 [MQTT-3.1.2-3], [MQTT-3.1.4-1].
#[test]
fn the_reserved_connect_flag_must_be_zero() {
    for version in BOTH {
        refused_as_malformed(&Connect { flip: 0x01, ..Connect::new(version, &unique("flag")) });
    }
}

// [MQTT-3.1.2-11] to [MQTT-3.1.2-13], 3.1.1 [MQTT-3.1.2-11], [MQTT-3.1.2-13], [MQTT-3.1.2-15].
#[test]
fn without_a_will_its_qos_and_retain_must_be_zero() {
    for version in BOTH {
        for flip in [0x08, 0x10, 0x20] {
            refused_as_malformed(&Connect { flip, ..Connect::new(version, &unique("flags")) });
        }
    }
}

// [MQTT-3.1.2-12], 3.1.1 [MQTT-3.1.2-14].
#[test]
fn a_will_with_qos_3_is_malformed() {
    for version in BOTH {
        let will = Will::new("t", "x").qos(3);
        refused_as_malformed(&Connect::new(version, &unique("will")).will(will));
    }
}

// [MQTT-3.1.2-9], [MQTT-3.1.2-16] to [MQTT-3.1.2-19], [MQTT-3.1.3-1], [MQTT-3.1.4-1],
// 3.1.1 [MQTT-3.1.2-9], [MQTT-3.1.2-18] to [MQTT-3.1.2-21], [MQTT-3.1.3-1], [MQTT-3.1.3-3].
#[test]
fn fields_are_there_exactly_when_their_flags_say_so() {
    for version in BOTH {
        let plain = || Connect::new(version, &unique("fields"));
        // Will, user name and both credentials announced, and missing.
        for flip in [0x04, 0x80, 0xC0] {
            refused_as_malformed(&Connect { flip, ..plain() });
        }
        // A user name that is there, and not announced: bytes too many.
        refused_as_malformed(&Connect { flip: 0x80, ..plain().login("", "x") });
        refused_as_malformed(&Connect { flip: 0x40, ..plain().login("default", "x") });
        let mut client = Client::dial(mqtt(), version);
        let mut body = plain().body();
        body.truncate(body.len() - 1);
        client.send(&build::packet(0x10, &body));
        client.ends(&[0x81, 0x82]);
    }
}

// 3.1.1 [MQTT-3.1.2-22]; 5.0 section 3.1.2.9 lifts it.
#[test]
fn a_password_without_a_user_name_is_a_violation_in_3_1_1_only() {
    refused_as_malformed(&Connect { password: Some("x".into()), ..Connect::new(V311, &unique("c")) });
    let terminal = unique("password-only");
    let password = Some(credential(&terminal).into());
    Client::open_with(mqtt(), &Connect { password, ..Connect::new(V5, &terminal) });
}

// [MQTT-3.1.4-2], [MQTT-3.2.2-6], [MQTT-3.2.2-7], 3.1.1 [MQTT-3.2.2-4], [MQTT-3.2.2-5].
#[test]
fn wrong_credentials_are_refused_and_the_connection_closed() {
    for (version, codes) in [(V311, [4, 5]), (V5, [0x86, 0x87])] {
        let connect = Connect::new(version, &unique("wrong")).login("default", "not a token").resume();
        let (mut client, answer) = Client::ask(mqtt(), &connect);
        assert!(codes.contains(&answer.reason), "{answer:?}");
        assert!(!answer.session_present);
        client.is_closed();
    }
}

#[test]
fn a_credential_opens_the_terminal_it_names_and_no_other() {
    for (version, refusals) in [(V311, [2, 5]), (V5, [0x85, 0x87])] {
        let terminal = unique("named");
        let token = credential(&terminal);
        Client::open_with(mqtt(), &Connect::new(version, &terminal).login("default", &token));
        let other = Connect::new(version, &unique("other")).login("default", &token);
        let (mut client, answer) = Client::ask(mqtt(), &other);
        assert!(refusals.contains(&answer.reason), "{answer:?}");
        client.is_closed();
    }
}

// [MQTT-3.1.4-6], 3.1.1 [MQTT-3.1.4-5].
#[test]
fn what_follows_a_refused_connect_is_not_processed() {
    for version in BOTH {
        let topic = unique("after-refusal");
        let mut subscriber = open(version);
        subscriber.subscribe(&topic, 1);
        let mut refused = Client::dial(mqtt(), version);
        let mut bytes = Connect::new(version, &unique("c")).login("default", "not a token").bytes();
        bytes.extend(Publish::new(&topic, "smuggled").bytes(version));
        bytes.extend(Publish::new(&topic, "smuggled").qos(1, 1).bytes(version));
        refused.send(&bytes);
        assert!(matches!(refused.receive(), Packet::Connack(answer) if answer.reason != 0));
        refused.is_closed();
        open(version).publish(&topic, "fence", 1);
        assert_eq!(subscriber.texts_until("fence"), [""; 0]);
    }
}

// [MQTT-3.2.0-1], [MQTT-3.1.4-5], 3.1.1 [MQTT-3.2.0-1], [MQTT-3.1.4-4]; section 3.1.4, "not need to wait".
#[test]
fn packets_sent_before_connack_are_processed_after_it() {
    for version in BOTH {
        let topic = unique("early");
        let mut bytes = Connect::new(version, &unique("c")).bytes();
        // On its way back to its sender if the subscription is there first, which the standard leaves open.
        bytes.extend(build::subscribe(version, 1, &[(&topic, 1)], &[]));
        bytes.extend(Publish::new(&topic, "early").qos(1, 2).bytes(version));
        bytes.extend(build::PINGREQ);
        let mut client = Client::dial(mqtt(), version);
        client.send(&bytes);
        assert!(matches!(client.receive(), Packet::Connack(answer) if answer.reason == 0));
        // In what order they come is the server's affair.
        let mut answers: Vec<Packet> = Vec::new();
        while answers.len() < 3 {
            match client.receive() {
                Packet::Publish(message) => assert_eq!(message.text(), "early"),
                answer => answers.push(answer),
            }
        }
        assert!(
            answers.iter().any(|packet| matches!(packet, Packet::Suback(answer) if answer.reasons == [1]))
        );
        assert!(answers.iter().any(|packet| matches!(packet, Packet::Ack(ack) if ack.id == 2)));
        assert!(answers.contains(&Packet::Pingresp));
    }
}

// [MQTT-3.1.3-5], 3.1.1 [MQTT-3.1.3-5], [MQTT-3.1.3-4].
#[test]
fn client_ids_of_the_23_safe_characters_are_allowed() {
    for version in BOTH {
        for id in ["a", "0123456789ABCDEFGHIJKLM", "nopqrstuvwxyzNOPQRSTUVW", "XYZabcdefghijklm"] {
            Client::open_with(mqtt(), &Connect::new(version, id)).0.bye();
        }
    }
}

// 3.1.1 [MQTT-3.1.3-6].
#[test]
fn a_clean_3_1_1_client_may_be_without_id() {
    let (mut one, _) = Client::open_with(mqtt(), &Connect::new(V311, ""));
    let (mut other, _) = Client::open_with(mqtt(), &Connect::new(V311, ""));
    one.ping();
    other.ping();
}

// 3.1.1 [MQTT-3.1.3-7] to [MQTT-3.1.3-9].
#[test]
fn a_3_1_1_session_without_id_is_refused_as_identifier_rejected() {
    let (mut client, answer) = Client::ask(mqtt(), &Connect::new(V311, "").resume());
    assert_eq!((answer.reason, answer.session_present), (2, false));
    client.is_closed();
}

// [MQTT-3.1.3-6], [MQTT-3.1.3-7], [MQTT-3.2.2-16].
#[test]
fn a_client_without_id_is_told_the_unique_one_it_got() {
    let (clean, lasting) = (Connect::new(V5, ""), Connect::new(V5, "").resume());
    let mut ids = Vec::new();
    for connect in [&clean, &clean, &lasting, &lasting] {
        let (client, answer) = Client::open_with(mqtt(), connect);
        ids.push((answer.properties.text(id::ASSIGNED_CLIENT_ID).expect("an id").to_owned(), client));
    }
    let mut names: Vec<String> = ids.iter().map(|(id, _)| id.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 4);
    // It names a session like any other.
    let (id, client) = ids.pop().expect("four");
    client.bye();
    resume(V5, &id);
}

// [MQTT-3.1.4-3], [MQTT-3.1.3-2], 3.1.1 [MQTT-3.1.4-2].
#[test]
fn a_client_that_connects_again_takes_over() {
    for version in BOTH {
        for keep in [false, true] {
            let connect = Connect::new(version, &unique("takeover"));
            let connect = if keep { connect.resume() } else { connect };
            let (mut old, _) = Client::open_with(mqtt(), &connect);
            let (mut new, answer) = Client::open_with(mqtt(), &connect);
            assert_eq!(answer.session_present, keep);
            old.is_thrown_out(&[0x8E]);
            new.ping();
        }
    }
}

// [MQTT-3.1.2-4], [MQTT-3.2.2-2], [MQTT-3.1.4-4], 3.1.1 [MQTT-3.1.2-6], [MQTT-3.2.2-1].
#[test]
fn a_clean_start_discards_the_session_there_was() {
    for version in BOTH {
        let topic = unique("discarded");
        let mut client = lasting(version);
        client.subscribe(&topic, 1);
        let id = client.id.clone();
        client.bye();
        let (mut client, answer) = Client::open_with(mqtt(), &Connect::new(version, &id));
        assert!(!answer.session_present);
        client.subscribe(&format!("{topic}/fence"), 1);
        open(version).publish(&topic, "nobody hears it", 1);
        open(version).publish(&format!("{topic}/fence"), "fence", 1);
        assert_eq!(client.texts_until("fence"), [""; 0]);
    }
}

// [MQTT-3.1.2-6], [MQTT-3.2.2-3], 3.1.1 [MQTT-3.1.2-4], [MQTT-3.2.2-3].
#[test]
fn a_session_that_is_not_there_is_created() {
    for version in BOTH {
        let connect = Connect::new(version, &unique("created")).resume();
        let (client, answer) = Client::open_with(mqtt(), &connect);
        assert!(!answer.session_present);
        client.bye();
        let (_, answer) = Client::open_with(mqtt(), &connect);
        assert!(answer.session_present);
    }
}

// [MQTT-3.1.2-22], 3.1.1 [MQTT-3.1.2-24].
#[test]
fn a_silent_client_is_cut_off_after_one_and_a_half_keep_alives() {
    for version in BOTH {
        let (mut client, _) =
            Client::open_with(mqtt(), &Connect::new(version, &unique("silent")).keep_alive(1));
        let start = Instant::now();
        client.ends(&[0x8D]);
        let after = start.elapsed();
        let bounds = Duration::from_millis(1_400)..Duration::from_secs(4);
        assert!(bounds.contains(&after), "cut off after {after:?}");
    }
}

// [MQTT-3.1.2-22], [MQTT-3.12.4-1]: any packet counts; keep alive 0 means none.
#[test]
fn pings_keep_a_connection_alive_and_keep_alive_0_needs_none() {
    let mut without = open(V5);
    let (mut pinging, _) = Client::open_with(mqtt(), &Connect::new(V5, &unique("ping")).keep_alive(1));
    let end = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < end {
        pinging.ping();
        std::thread::sleep(Duration::from_millis(300));
    }
    pinging.ping();
    without.ping();
}

// [MQTT-3.2.2-9], [MQTT-3.2.2-21], [MQTT-3.2.2-22]; sections 3.2.2.3.4 to 3.2.2.3.13.
#[test]
fn connack_announces_everything_there_is() {
    let (_, answer) = Client::open_with(mqtt(), &Connect::new(V5, &unique("announced")).keep_alive(60));
    let said = |id| answer.properties.number(id);
    assert_eq!(said(id::MAXIMUM_QOS), None, "QoS 2 needs no word");
    for available in
        [id::RETAIN_AVAILABLE, id::WILDCARDS_AVAILABLE, id::SUBSCRIPTION_IDS_AVAILABLE, id::SHARED_AVAILABLE]
    {
        assert_ne!(said(available), Some(0), "0x{available:02X} is available");
    }
    assert!(said(id::TOPIC_ALIAS_MAXIMUM).is_some_and(|most| most > 0), "topic aliases are taken");
    assert!(said(id::MAXIMUM_PACKET_SIZE).is_none_or(|most| most >= 1024 * 1024));
    assert!(said(id::SERVER_KEEP_ALIVE).is_none_or(|seconds| seconds > 0));
    assert_eq!(answer.properties.find(id::AUTH_METHOD), None, "nobody asked [MQTT-4.12.0-6]");
}

// Section 3.2.2.3.2: a shorter session expiry than asked for is told.
#[test]
fn a_session_expiry_that_is_cut_is_told() {
    let connect = Connect::new(V5, &unique("cut")).with(property::four(id::SESSION_EXPIRY, u32::MAX));
    let (client, answer) = Client::open_with(mqtt(), &connect);
    if let Some(told) = answer.properties.number(id::SESSION_EXPIRY) {
        assert!((3_600..u32::MAX).contains(&told));
    }
    client.bye();
}

// Appendix "MQTT 3.1": clients of the version before the standard are served as well.
#[test]
fn an_mqtt_3_1_client_is_served() {
    let topic = unique("isdp");
    let connect = Connect::new(Version::V31, &unique("isdp"));
    let (mut client, _) = Client::open_with(mqtt(), &connect);
    assert_eq!(client.subscribe(&topic, 2), 2);
    for qos in [0, 1, 2] {
        client
            .send(&Publish::new(&topic, &qos.to_string()).qos(qos, 50 + u16::from(qos)).bytes(Version::V31));
        let (mut got, mut done) = (false, qos == 0);
        while !got || !done {
            match client.receive() {
                Packet::Publish(message) => {
                    assert_eq!((message.text(), message.qos), (qos.to_string(), qos));
                    match qos {
                        1 => client.send(&build::ack(PUBACK, message.id)),
                        2 => client.send(&build::ack(PUBREC, message.id)),
                        _ => {}
                    }
                    got = qos != 2;
                }
                Packet::Ack(ack) if ack.kind == PUBREC => client.send(&build::ack(PUBREL, ack.id)),
                Packet::Ack(ack) if ack.kind == PUBREL => {
                    client.send(&build::ack(PUBCOMP, ack.id));
                    got = true;
                }
                Packet::Ack(_) => done = true,
                other => panic!("{other:?}"),
            }
        }
    }
    client.bye();
}

// Section 2.1: a packet may come in pieces of any size.
#[test]
fn packets_may_come_byte_by_byte() {
    for version in BOTH {
        let topic = unique("bytes");
        let mut bytes = Connect::new(version, &unique("slow")).bytes();
        bytes.extend(build::subscribe(version, 1, &[(&topic, 0)], &[]));
        bytes.extend(Publish::new(&topic, "piecemeal").bytes(version));
        let mut client = Client::dial(mqtt(), version);
        bytes.iter().for_each(|byte| client.send(&[*byte]));
        assert!(matches!(client.receive(), Packet::Connack(answer) if answer.reason == 0));
        client.suback(9);
        assert_eq!(client.message().text(), "piecemeal");
    }
}

/// CONNACK with 0x01 in the form of 3.1.1, or with 0x84 in that of 5.0.
fn unsupported(said: &[u8]) -> bool {
    said == [0x20, 2, 0, 1] || matches!(said, [0x20, _, 0, 0x84, ..])
}

/// Closed, in MQTT 5 perhaps with a CONNACK that says why; in 3.1.1 without one ([MQTT-3.1.4-1] of 3.1.1).
fn refused_as_malformed(connect: &Connect) {
    let mut client = Client::dial(mqtt(), connect.version);
    client.send(&connect.bytes());
    if connect.version == V5 {
        client.ends(&[0x81, 0x82]);
    } else {
        client.is_closed();
    }
}
