//! Enhanced authentication (section 4.12).

use bytes::Bytes;

use super::support::*;

fn enhanced() -> Connect {
    let mut connect = connect_with(|properties| {
        properties.authentication_method = Some(AUTH_METHOD.to_owned());
        properties.authentication_data = Some(Bytes::from_static(b"jwt"));
    });
    connect.password = None;
    connect
}

fn auth(reason: Reason, method: Option<&str>, data: Option<&'static [u8]>) -> Packet {
    let (method, data) = (method.map(str::to_owned), data.map(Bytes::from_static));
    Packet::Auth(Box::new(Auth { reason, method, data, ..Auth::default() }))
}

fn fresh() -> Packet {
    auth(Reason::REAUTHENTICATE, Some(AUTH_METHOD), Some(b"jwt2"))
}

fn reauthenticated(terminal: &mut Terminal, result: Result<Grant, AuthRefusal>) -> Vec<Out> {
    terminal.answer(|session, at, out| session.handle_reauthenticated(at, result, out))
}

/// [MQTT-4.12.0-5].
#[test]
fn authentication_data_is_the_credential_and_connack_repeats_the_method() {
    let mut terminal = Terminal::new(SessionConfig::default());
    let out = terminal.connect(enhanced());
    let [Action::Authenticate(credentials)] = &out[..] else { panic!("{out:?}") };
    assert_eq!(credentials.password.as_deref(), Some(&b"jwt"[..]));
    terminal.authenticate();
    let out = terminal.bind(bound());
    assert_eq!(connack(&out).properties.authentication_method.as_deref(), Some(AUTH_METHOD));
}

/// [MQTT-4.12.0-1].
#[test]
fn another_method_is_not_known_and_a_method_without_data_is_nobody() {
    let connect = connect_with(|properties| {
        properties.authentication_method = Some("SCRAM-SHA-1".to_owned());
    });
    let out = Terminal::new(SessionConfig::default()).connect(connect);
    assert_eq!(connack(&out).reason, Reason::BAD_AUTHENTICATION_METHOD);
    let mut connect = enhanced();
    connect.properties.authentication_data = None;
    let out = Terminal::new(SessionConfig::default()).connect(connect);
    assert_eq!(connack(&out).reason, Reason::NOT_AUTHORIZED);
}

/// Section 4.12.1.
#[test]
fn a_fresh_credential_takes_the_place_of_the_old_one() {
    let mut terminal = Terminal::opened(enhanced(), Grant { expires_at_ms: Some(5_000), ..grant() });
    terminal.bind(bound());
    let out = terminal.send(fresh());
    assert_eq!(out, [Action::Reauthenticate(Bytes::from_static(b"jwt2"))]);
    let renewed = Grant { expires_at_ms: Some(9_000), permissions: permissions(&["b"], &["b"]), ..grant() };
    let out = reauthenticated(&mut terminal, Ok(renewed));
    assert_eq!(out, [Action::Send(auth(Reason::SUCCESS, Some(AUTH_METHOD), None))]);
    assert_eq!(terminal.session.deadline(), Some(9_000));
    let out = terminal.publish(publish(QOS1, 1, "a"));
    assert!(matches!(sent(&out)[..], [Packet::PubAck(Ack { reason: Reason::NOT_AUTHORIZED, .. })]));
}

#[test]
fn a_fresh_credential_that_allows_less_ends_what_it_does_not_allow() {
    let subscriptions = ["a", "b"].map(|filter| replicated(filter, QOS1)).into();
    let mut terminal = Terminal::live_with(enhanced(), Bound { subscriptions, ..bound() });
    terminal.send(fresh());
    let less = Grant { permissions: permissions(&[], &["b"]), ..grant() };
    let out = reauthenticated(&mut terminal, Ok(less));
    let filters = vec!["a".to_owned()];
    assert_eq!(out.last(), Some(&Action::Unsubscribe { request: request(&out), filters }));
    assert_eq!(terminal.session.subscriptions().collect::<Vec<_>>(), [("b", false)]);
}

#[test]
fn a_credential_of_somebody_else_or_a_bad_one_ends_the_connection() {
    let other = Grant { terminal: TerminalId::new("tv-2").unwrap(), ..grant() };
    let old = Grant { expires_at_ms: Some(0), ..grant() };
    for (result, reason) in [
        (Ok(other), Reason::NOT_AUTHORIZED),
        (Ok(old), Reason::NOT_AUTHORIZED),
        (Err(AuthRefusal::BadCredential), Reason::NOT_AUTHORIZED),
        (Err(AuthRefusal::Unavailable), Reason::SERVER_BUSY),
    ] {
        let mut terminal = Terminal::live_with(enhanced(), bound());
        terminal.send(fresh());
        assert_eq!(disconnected(&reauthenticated(&mut terminal, result)).0, Some(reason));
    }
}

/// [MQTT-4.12.0-6], [MQTT-4.12.0-7], [MQTT-4.12.1-1].
#[test]
fn auth_needs_the_method_of_connect_and_begins_nothing_else() {
    let protocol = Reason::PROTOCOL_ERROR;
    for (connect, packet, reason) in [
        (connect(V5), fresh(), protocol),
        (enhanced(), auth(Reason::SUCCESS, Some(AUTH_METHOD), Some(b"x")), protocol),
        (enhanced(), auth(Reason::CONTINUE_AUTHENTICATION, Some(AUTH_METHOD), Some(b"x")), protocol),
        (enhanced(), auth(Reason::REAUTHENTICATE, None, None), protocol),
        (enhanced(), auth(Reason::REAUTHENTICATE, Some("X"), Some(b"x")), Reason::BAD_AUTHENTICATION_METHOD),
        (enhanced(), auth(Reason::REAUTHENTICATE, Some(AUTH_METHOD), None), Reason::NOT_AUTHORIZED),
    ] {
        let out = Terminal::live_with(connect, bound()).send(packet);
        assert_eq!(disconnected(&out).0, Some(reason));
    }
    let mut terminal = Terminal::live_with(enhanced(), bound());
    terminal.send(fresh());
    assert_eq!(disconnected(&terminal.send(fresh())).0, Some(protocol), "one at a time");
}
