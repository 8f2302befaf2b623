//! CONNECT and CONNACK (sections 3.1 and 3.2).

use super::support::*;

#[test]
fn connect_is_authenticated_then_bound_then_acknowledged_then_pulled() {
    let mut terminal = Terminal::new(SessionConfig::default());
    let out = terminal.send(Packet::Connect(Box::new(connect(V311))));
    assert!(
        matches!(&out[..], [Action::Authenticate(c)] if c.client_id.as_ref().unwrap().as_str() == "tv-1")
    );
    assert!(!terminal.session.may_read(), "what follows CONNECT waits for its answer");
    let out = terminal.authenticate();
    let session_expiry_s = SessionConfig::default().session_expiry_s_max;
    assert_eq!(out, [Action::Bind { clean_start: false, session_expiry_s, will: None }]);
    let out = terminal.answer(|session, at, out| session.handle_bound(at, Ok((bound(), Vec::new())), out));
    assert_eq!(connack(&out).reason, Reason::SUCCESS);
    let pull = Action::Pull { after: ordinary(0), max: OWED_PER_PULL_MAX as u16 };
    assert_eq!(out[1..], [pull]);
    assert!(terminal.session.may_read());
}

/// [MQTT-3.2.2-21], [MQTT-3.2.2-16], section 3.2.2.3.
#[test]
fn connack_announces_what_there_is_and_what_was_lowered() {
    let mut terminal = Terminal::new(SessionConfig { keep_alive_s_max: 30, ..SessionConfig::default() });
    let mut connect = connect_with(|properties| properties.session_expiry_s = Some(u32::MAX));
    connect.client_id.clear();
    terminal.connect(connect);
    terminal.authenticate();
    let out = terminal.bind(bound());
    let properties = &connack(&out).properties;
    assert_eq!(properties.maximum_qos, None, "absent: 2");
    assert_eq!(properties.retain_available, Some(true));
    assert_eq!(properties.shared_available, Some(true));
    assert_eq!(properties.wildcard_available, Some(true));
    assert_eq!(properties.subscription_ids_available, Some(true));
    assert_eq!(properties.topic_alias_maximum, Some(32));
    assert_eq!(properties.receive_maximum, Some(128));
    assert_eq!(properties.server_keep_alive_s, Some(30));
    assert_eq!(properties.session_expiry_s, Some(3600));
    assert_eq!(properties.assigned_client_id.as_deref(), Some("tv-1"));
    assert_eq!(properties.authentication_method, None);
}

/// [MQTT-3.1.2-24]: no packet is larger than the terminal takes.
#[test]
fn a_terminal_that_takes_little_is_told_little() {
    let mut connect = connect_with(|properties| {
        properties.packet_len_max = Some(40);
        properties.request_response_information = Some(true);
    });
    connect.client_id.clear();
    let mut terminal =
        Terminal::new(SessionConfig { response_information: Some("x".repeat(90)), ..Default::default() });
    terminal.connect(connect);
    terminal.authenticate();
    let out = terminal.bind(bound());
    let properties = &connack(&out).properties;
    assert_eq!((properties.retain_available, properties.response_information.as_deref()), (None, None));
    assert_eq!(properties.assigned_client_id.as_deref(), Some("tv-1"));
}

/// [MQTT-3.1.2-28].
#[test]
fn response_information_is_told_to_those_who_ask() {
    for (asked, told) in [(Some(true), Some("replies/")), (Some(false), None), (None, None)] {
        let mut terminal = Terminal::new(SessionConfig {
            response_information: Some("replies/".to_owned()),
            ..SessionConfig::default()
        });
        terminal.connect(connect_with(|properties| properties.request_response_information = asked));
        terminal.authenticate();
        let out = terminal.bind(bound());
        assert_eq!(connack(&out).properties.response_information.as_deref(), told);
    }
}

/// [MQTT-3.2.2-2], [MQTT-3.2.2-3]; in 3.1 the byte is reserved.
#[test]
fn session_present_says_whether_there_was_one() {
    for (version, present) in [(V31, false), (V311, true), (V5, true)] {
        let mut terminal = Terminal::opened(connect(version), grant());
        let out = terminal.bind(Bound { session_present: true, ..bound() });
        assert_eq!(connack(&out).session_present, present, "{version:?}");
    }
    assert!(!connack(&Terminal::opened(connect(V5), grant()).bind(bound())).session_present);
}

/// Section 3.1.2.11.2: what 3.1.1 calls Clean Session 0 outlives its connection as long as we allow.
#[test]
fn the_session_expiry_is_what_was_asked_up_to_our_maximum() {
    let max = SessionConfig::default().session_expiry_s_max;
    let asked = |connect: Connect| {
        let mut terminal = Terminal::new(SessionConfig::default());
        terminal.connect(connect);
        match &terminal.authenticate()[..] {
            [Action::Bind { session_expiry_s, .. }] => *session_expiry_s,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked(connect(V311)), max);
    assert_eq!(asked(Connect { clean_start: true, ..connect(V311) }), 0);
    for (wanted, granted) in [(None, 0), (Some(0), 0), (Some(60), 60), (Some(u32::MAX), max)] {
        assert_eq!(asked(connect_with(|properties| properties.session_expiry_s = wanted)), granted);
    }
}

#[test]
fn an_empty_client_id_is_assigned_or_refused_as_the_version_has_it() {
    let empty = |version, clean_start| Connect { client_id: String::new(), clean_start, ..connect(version) };
    for connect in [empty(V311, true), empty(V5, false), empty(V5, true)] {
        let out = Terminal::new(SessionConfig::default()).send(Packet::Connect(Box::new(connect)));
        let [Action::Authenticate(credentials)] = &out[..] else { panic!("{out:?}") };
        assert_eq!(credentials.client_id, None);
        assert_eq!(credentials.assigned_id.as_str(), "auto-00000000000000000000000000000abc");
    }
    for connect in [empty(V311, false), empty(V31, true)] {
        let out = Terminal::new(SessionConfig::default()).send(Packet::Connect(Box::new(connect)));
        assert_eq!(connack(&out).reason, Reason::CLIENT_ID_NOT_VALID);
        assert_eq!(closed(&out).cause, CloseCause::Refused(Reason::CLIENT_ID_NOT_VALID));
    }
}

#[test]
fn refused_credentials_and_bindings_are_told_in_connack() {
    let opened = || {
        let mut terminal = Terminal::new(SessionConfig::default());
        terminal.send(Packet::Connect(Box::new(connect(V5))));
        terminal
    };
    for (refused, reason) in [
        (AuthRefusal::BadCredential, Reason::BAD_USER_NAME_OR_PASSWORD),
        (AuthRefusal::NotAuthorized, Reason::NOT_AUTHORIZED),
        (AuthRefusal::Unavailable, Reason::SERVER_UNAVAILABLE),
    ] {
        let out = opened().answer(|session, at, out| session.handle_authenticated(at, Err(refused), out));
        assert_eq!(connack(&out).reason, reason);
        assert!(!closed(&out).bound);
    }
    let mut terminal = opened();
    terminal.authenticate();
    let out =
        terminal.answer(|session, at, out| session.handle_bound(at, Err(RefuseReason::Unavailable), out));
    assert_eq!(connack(&out).reason, Reason::SERVER_UNAVAILABLE);
}

#[test]
fn the_client_id_must_be_the_terminal_of_the_credential() {
    let mut terminal = Terminal::new(SessionConfig::default());
    let foreign = Connect { client_id: "tv-2".to_owned(), ..connect(V311) };
    terminal.send(Packet::Connect(Box::new(foreign)));
    let out = terminal.authenticate();
    assert_eq!(connack(&out).reason, Reason::NOT_AUTHORIZED);
    assert!(closed(&out).cause == CloseCause::Refused(Reason::NOT_AUTHORIZED));
}

#[test]
fn a_packet_before_connect_closes_without_a_word() {
    let out = Terminal::new(SessionConfig::default()).send(Packet::PingReq);
    assert!(matches!(&out[..], [Action::Close(_)]));
}

#[test]
fn a_second_connect_is_a_protocol_error() {
    let out = Terminal::live(V5).send(Packet::Connect(Box::new(connect(V5))));
    assert_eq!(disconnected(&out).0, Some(Reason::PROTOCOL_ERROR));
    let out = Terminal::live(V311).send(Packet::Connect(Box::new(connect(V311))));
    assert_eq!(disconnected(&out).0, None, "3.1.1 servers send no DISCONNECT");
}

#[test]
fn an_unsupported_version_is_answered_and_other_bytes_before_connect_only_in_version_5() {
    let unsupported = Malformed {
        reason: Reason::UNSUPPORTED_VERSION,
        what: "unsupported protocol version",
        version: Some(V311),
    };
    let mut terminal = Terminal::new(SessionConfig::default());
    let out = terminal.answer(|session, _, out| session.handle_malformed(unsupported, out));
    assert_eq!(connack(&out).reason.connack_v3(), 1);
    for (version, answered) in [(None, false), (Some(V311), false), (Some(V5), true)] {
        let malformed = Malformed { version, ..Malformed::packet("reserved flag of CONNECT") };
        let mut terminal = Terminal::new(SessionConfig::default());
        let out = terminal.answer(|session, _, out| session.handle_malformed(malformed, out));
        assert_eq!(out.len() == 2, answered, "{version:?}: {out:?}");
        assert!(terminal.session.is_closed());
    }
}

#[test]
fn connect_and_binding_have_to_come_in_time() {
    let mut terminal = Terminal::new(SessionConfig::default());
    assert_eq!(terminal.session.deadline(), Some(10_000));
    assert_eq!(terminal.tick(9_999), []);
    assert_eq!(closed(&terminal.tick(10_000)).cause, CloseCause::ConnectTimeout);

    let mut terminal = Terminal::new(SessionConfig::default());
    terminal.send(Packet::Connect(Box::new(connect(V5))));
    terminal.authenticate();
    let out = terminal.tick(10_000);
    assert_eq!(connack(&out).reason, Reason::SERVER_UNAVAILABLE);
    assert_eq!(
        terminal.answer(|session, at, out| session.handle_bound(at, Ok((bound(), Vec::new())), out)),
        [],
        "too late"
    );
}

/// [MQTT-3.1.2-24]: what a terminal can do without is left out first.
#[test]
fn connack_is_never_larger_than_the_terminal_takes() {
    let opened = |packet_len_max: u32| {
        let config = SessionConfig { keep_alive_s_max: 30, ..SessionConfig::default() };
        assert!(config.topic_alias_maximum > 0);
        let mut terminal = Terminal::new(config);
        let client_id = String::new();
        let asked = connect_with(|properties| properties.packet_len_max = Some(packet_len_max));
        terminal.connect(Connect { client_id, ..asked });
        terminal.authenticate();
        terminal.bind(bound())
    };
    // Receive Maximum, Maximum Packet Size, the client id and the keep-alive; then the aliases.
    let least = 5 + 3 + 5 + (3 + 4) + 3;
    for (packet_len_max, aliases) in [(least + 3, true), (least + 2, false), (least, false)] {
        let out = opened(packet_len_max);
        let connack = connack(&out);
        assert_eq!((connack.reason, connack.properties.server_keep_alive_s), (Reason::SUCCESS, Some(30)));
        assert_eq!(connack.properties.assigned_client_id.as_deref(), Some("tv-1"));
        assert_eq!(connack.properties.topic_alias_maximum.is_some(), aliases, "{packet_len_max}");
    }
    let out = opened(least - 1);
    assert_eq!(connack(&out).reason, Reason::PACKET_TOO_LARGE);
    assert_eq!(closed(&out).cause, CloseCause::Refused(Reason::PACKET_TOO_LARGE));
    let out = opened(4);
    assert_eq!((sent(&out).len(), closed(&out).will), (0, WillFate::Discard));
}
