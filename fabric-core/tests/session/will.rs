//! The will of a CONNECT, and what becomes of it (section 3.1.2.5).

use super::support::*;

fn will() -> Will {
    Will {
        topic: "gone/tv-1".to_owned(),
        payload: b"bye"[..].into(),
        qos: QOS2,
        retain: true,
        delay_s: 5,
        expiry_s: Some(60),
        properties: MessageProperties::default(),
    }
}

fn with_will(version: ProtocolVersion, will: Will) -> Connect {
    Connect { will: Some(Box::new(will)), ..connect(version) }
}

/// [MQTT-3.1.2-7], [MQTT-3.1.3-9].
#[test]
fn a_will_is_bound_with_its_session() {
    let mut terminal = Terminal::new(SessionConfig::default());
    terminal.connect(with_will(V5, will()));
    let out = terminal.authenticate();
    let [Action::Bind { will: Some(will), .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!((will.delay_s, will.ttl_ms), (5, Some(60_000)));
    let message = &will.message;
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("gone/tv-1", &b"bye"[..]));
    assert_eq!((message.qos, message.retain, message.publisher), (QOS2, true, Some(NO)));
}

#[test]
fn a_will_that_could_not_be_published_is_refused_at_once() {
    let not_text = MessageProperties { payload_is_utf8: Some(true), ..MessageProperties::default() };
    let response_topic = Some("a/+".to_owned());
    let wildcard = MessageProperties { response_topic, ..MessageProperties::default() };
    for (will, reason) in [
        (Will { topic: "a/#".to_owned(), ..will() }, Reason::TOPIC_NAME_INVALID),
        (Will { topic: String::new(), ..will() }, Reason::TOPIC_NAME_INVALID),
        (
            Will { payload: b"\xFF"[..].into(), properties: not_text, ..will() },
            Reason::PAYLOAD_FORMAT_INVALID,
        ),
        (Will { properties: wildcard, ..will() }, Reason::PROTOCOL_ERROR),
    ] {
        let out = Terminal::new(SessionConfig::default()).connect(with_will(V5, will));
        assert_eq!(connack(&out).reason, reason);
    }
    for topic in ["gone/tv-1", "$SYS/broker/version"] {
        let mut terminal = Terminal::new(SessionConfig::default());
        terminal.connect(with_will(V5, Will { topic: topic.to_owned(), ..will() }));
        let grant = Grant { permissions: permissions(&["own", "$SYS/#"], &[]), ..grant() };
        let out = terminal.answer(|session, at, out| session.handle_authenticated(at, Ok(grant), out));
        assert_eq!(connack(&out).reason, Reason::NOT_AUTHORIZED, "{topic}");
    }
}

/// 3.1.1 [MQTT-3.2.2-6]: no return code says what is wrong with a will.
#[test]
fn a_3_1_1_will_with_an_impossible_topic_is_closed_without_connack() {
    for topic in ["", "a/#"] {
        let connect = with_will(V311, Will { topic: topic.to_owned(), ..will() });
        let out = Terminal::new(SessionConfig::default()).connect(connect);
        assert!(matches!(out[..], [Action::Close(_)]), "{out:?}");
    }
}

/// [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.14.4-3].
#[test]
fn a_good_bye_discards_the_will_and_everything_else_publishes_it() {
    let bye = |reason| Packet::Disconnect(Box::new(Disconnect { reason, ..Disconnect::default() }));
    for (version, reason, fate) in [
        (V311, Reason::SUCCESS, WillFate::Discard),
        (V5, Reason::SUCCESS, WillFate::Discard),
        (V5, Reason::DISCONNECT_WITH_WILL, WillFate::Publish),
        (V5, Reason::UNSPECIFIED_ERROR, WillFate::Publish),
    ] {
        assert_eq!(closed(&Terminal::live(version).send(bye(reason))).will, fate, "{reason:?}");
    }
    assert_eq!(closed(&Terminal::live(V5).lose()).will, WillFate::Publish);
    assert_eq!(closed(&Terminal::live(V5).tick(90_000)).will, WillFate::Publish, "keep alive");
    let out = Terminal::live(V5).connect(connect(V5));
    assert_eq!(closed(&out).will, WillFate::Publish, "a broken rule");
    for cause in [CloseCause::ServerShuttingDown, CloseCause::Unbound(UnbindReason::TakenOver)] {
        let out = Terminal::live(V5).answer(|session, _, out| session.close(cause, out));
        assert_eq!(closed(&out).will, WillFate::Publish, "{cause:?}");
    }
}

/// A DISCONNECT that breaks a rule is no good-bye.
#[test]
fn a_disconnect_that_raises_the_expiry_from_zero_publishes_the_will() {
    let disconnect = Disconnect { session_expiry_s: Some(9), ..Disconnect::default() };
    let out = Terminal::passing(V5).send(Packet::Disconnect(Box::new(disconnect)));
    assert_eq!((disconnected(&out).0, closed(&out).will), (Some(Reason::PROTOCOL_ERROR), WillFate::Publish));
}

/// [MQTT-3.1.2-7]: a will is kept when CONNECT is accepted.
#[test]
fn a_connect_that_was_never_accepted_leaves_no_will() {
    let mut terminal = Terminal::new(SessionConfig::default());
    terminal.connect(with_will(V5, will()));
    terminal.authenticate();
    assert_eq!(closed(&terminal.lose()).will, WillFate::Discard);
}
