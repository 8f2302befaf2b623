//! PUBLISH from the terminal with QoS 0 and 1 (section 3.3).

use super::support::*;

#[test]
fn a_qos_1_publish_is_acknowledged_after_its_commit_in_order() {
    let mut terminal = Terminal::live(V5);
    let expiry_s = Some(9);
    let first = terminal.send(Packet::Publish(Box::new(Publish { expiry_s, ..publish(QOS1, 4, "a") })));
    let [Action::Accept(incoming)] = &first[..] else { panic!("{first:?}") };
    assert_eq!((incoming.ttl_ms, incoming.message.publisher), (Some(9_000), Some(TerminalNo(7))));
    let second = terminal.send(Packet::Publish(Box::new(publish(QOS1, 2, "a"))));
    let (first, second) = (request(&first), request(&second));
    let answer = |terminal: &mut Terminal, request, outcome| {
        terminal.answer(|session, at, out| session.handle_published(at, request, Ok(outcome), out))
    };
    assert_eq!(answer(&mut terminal, second, PublishOutcome::NoSubscribers), []);
    let out = answer(&mut terminal, first, PublishOutcome::Accepted);
    let puback = |packet_id, reason| Action::Send(Packet::PubAck(Ack { packet_id, reason }));
    assert_eq!(out, [puback(4, Reason::SUCCESS), puback(2, Reason::NO_MATCHING_SUBSCRIBERS)]);
}

#[test]
fn a_qos_0_publish_is_relayed_without_an_answer() {
    let out = Terminal::live(V311).send(Packet::Publish(Box::new(publish(QOS0, 0, "a"))));
    assert!(matches!(&out[..], [Action::Relay(_)]));
}

#[test]
fn more_publishes_than_the_receive_maximum_close_the_connection() {
    let mut terminal = Terminal::live(V5);
    for packet_id in 1..=128 {
        terminal.send(Packet::Publish(Box::new(publish(QOS1, packet_id, "a"))));
    }
    let out = terminal.send(Packet::Publish(Box::new(publish(QOS1, 129, "a"))));
    assert_eq!(disconnected(&out).0, Some(Reason::RECEIVE_MAXIMUM_EXCEEDED));
}

#[test]
fn a_repeated_publish_that_is_being_committed_is_committed_once() {
    let mut terminal = Terminal::live(V311);
    terminal.send(Packet::Publish(Box::new(publish(QOS1, 1, "a"))));
    let again = Publish { dup: true, ..publish(QOS1, 1, "a") };
    assert_eq!(terminal.send(Packet::Publish(Box::new(again))), []);
    let reused = terminal.send(Packet::Publish(Box::new(publish(QOS1, 1, "b"))));
    assert_eq!(closed(&reused).cause, CloseCause::Peer(Reason::PROTOCOL_ERROR));
}

#[test]
fn a_refused_commit_is_a_negative_puback_or_the_end() {
    for version in [V5, V311] {
        let mut terminal = Terminal::live(version);
        let out = terminal.send(Packet::Publish(Box::new(publish(QOS1, 1, "a"))));
        let request = request(&out);
        let out = terminal
            .answer(|session, at, out| session.handle_published(at, request, Err(RefuseReason::Quota), out));
        let puback = Action::Send(Packet::PubAck(Ack { packet_id: 1, reason: Reason::QUOTA_EXCEEDED }));
        assert_eq!(out.contains(&puback), version == V5);
        assert_eq!(terminal.session.is_closed(), version == V311);
    }
}

#[test]
fn a_broken_rule_of_publish_closes_with_its_reason() {
    let base = publish(QOS1, 1, "a");
    let response_topic = Some("a/#".to_owned());
    let properties = MessageProperties { response_topic, ..MessageProperties::default() };
    for (publish, reason) in [
        // [MQTT-4.7.3-1] and section 3.3.2.1: no topic, and no alias for it.
        (Publish { topic: String::new(), ..base.clone() }, Reason::PROTOCOL_ERROR),
        // [MQTT-3.3.2-2].
        (Publish { topic: "a/+".to_owned(), ..base.clone() }, Reason::TOPIC_NAME_INVALID),
        // [MQTT-3.3.4-6].
        (Publish { subscription_ids: vec![1], ..base.clone() }, Reason::PROTOCOL_ERROR),
        // [MQTT-3.3.2-14].
        (Publish { properties, ..base }, Reason::PROTOCOL_ERROR),
    ] {
        let out = Terminal::live(V5).publish(publish.clone());
        assert_eq!(disconnected(&out), (Some(reason), CloseCause::Peer(reason)), "{publish:?}");
        let out = Terminal::live(V311).publish(publish);
        assert_eq!(disconnected(&out), (None, CloseCause::Peer(reason)));
    }
}

/// [MQTT-3.3.5-2]: a positive answer, or the end; and a positive one would be a lie.
#[test]
fn a_publish_that_is_not_permitted_is_never_acknowledged_as_if_it_were() {
    let restricted = |version| Terminal::restricted(version, permissions(&["own/{terminal}"], &["#"]));
    for (qos, answer) in [
        (QOS1, Packet::PubAck(Ack { packet_id: 1, reason: Reason::NOT_AUTHORIZED })),
        (QOS2, Packet::PubRec(Ack { packet_id: 1, reason: Reason::NOT_AUTHORIZED })),
    ] {
        let out = restricted(V5).publish(publish(qos, 1, "other"));
        assert_eq!(out, [Action::Send(answer)]);
        let out = restricted(V311).publish(publish(qos, 1, "other"));
        assert_eq!(closed(&out).cause, CloseCause::Peer(Reason::NOT_AUTHORIZED));
    }
    let out = restricted(V5).publish(publish(QOS0, 0, "other"));
    assert_eq!(disconnected(&out).0, Some(Reason::NOT_AUTHORIZED));
    let out = restricted(V311).publish(publish(QOS1, 1, "own/tv-1"));
    assert!(matches!(&out[..], [Action::Accept(_)]));
}

/// Section 4.7.2; nobody may publish as the servers do, whatever its credential says.
#[test]
fn topics_of_the_servers_are_not_published_to() {
    for (topic, reason) in
        [("$SYS/broker/version", Reason::NOT_AUTHORIZED), ("$share/group/a", Reason::TOPIC_NAME_INVALID)]
    {
        let mut terminal = Terminal::restricted(V5, permissions(&["#", "$SYS/#", "$share/#"], &["#"]));
        let out = terminal.publish(publish(QOS1, 1, topic));
        assert_eq!(out, [Action::Send(Packet::PubAck(Ack { packet_id: 1, reason }))], "{topic}");
        let out = Terminal::live(V5).publish(publish(QOS0, 0, topic));
        assert_eq!(disconnected(&out).0, Some(reason), "{topic}");
    }
    let out = Terminal::live(V5).publish(publish(QOS1, 1, "$own/topic"));
    assert!(matches!(&out[..], [Action::Accept(_)]), "{out:?}");
}

/// Section 3.3.2.3.2.
#[test]
fn a_payload_that_is_not_the_text_it_says_is_refused() {
    let properties = MessageProperties { payload_is_utf8: Some(true), ..MessageProperties::default() };
    let text = |qos, packet_id, payload: &'static [u8]| {
        let payload = payload.into();
        Publish { properties: properties.clone(), payload, ..publish(qos, packet_id, "a") }
    };
    let reason = Reason::PAYLOAD_FORMAT_INVALID;
    let out = Terminal::live(V5).publish(text(QOS1, 1, b"\xFF"));
    assert_eq!(out, [Action::Send(Packet::PubAck(Ack { packet_id: 1, reason }))]);
    let out = Terminal::live(V5).publish(text(QOS2, 1, b"\xFF"));
    assert_eq!(out, [Action::Send(Packet::PubRec(Ack { packet_id: 1, reason }))]);
    assert_eq!(disconnected(&Terminal::live(V5).publish(text(QOS0, 0, b"\xFF"))).0, Some(reason));
    assert!(matches!(&Terminal::live(V5).publish(text(QOS1, 1, "ü".as_bytes()))[..], [Action::Accept(_)]));
}

#[test]
fn properties_are_bounded_and_empty_ones_are_not_for_nothing() {
    let with = |count| {
        let user_properties = vec![(String::new(), String::new()); count];
        let properties = MessageProperties { user_properties, ..MessageProperties::default() };
        Publish { properties, ..publish(QOS1, 1, "a") }
    };
    assert!(matches!(&Terminal::live(V5).publish(with(4_096))[..], [Action::Accept(_)]));
    let out = Terminal::live(V5).publish(with(4_097));
    assert_eq!(out, [Action::Send(Packet::PubAck(Ack { packet_id: 1, reason: Reason::QUOTA_EXCEEDED }))]);
}

/// [MQTT-3.3.1-5]: kept, and given to subscribers as every other.
#[test]
fn a_retained_publish_says_so_on_its_way() {
    for qos in [QOS0, QOS1, QOS2] {
        let packet_id = if qos == QOS0 { 0 } else { 5 };
        let out = Terminal::live(V311).publish(Publish { retain: true, ..publish(qos, packet_id, "a") });
        match &out[..] {
            [Action::Relay(relay)] => assert!(relay.message.retain && qos == QOS0),
            [Action::Accept(incoming)] => assert!(incoming.message.retain && qos > QOS0),
            other => panic!("{other:?}"),
        }
    }
}
