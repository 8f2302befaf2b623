//! DISCONNECT, and every other end of a connection (sections 3.14, 4.13).

use super::support::*;

#[test]
fn each_cause_of_a_close_has_its_reason_in_version_5_and_none_in_3_1_1() {
    for (cause, reason) in [
        (CloseCause::Unbound(UnbindReason::TakenOver), 0x8E),
        (CloseCause::Unbound(UnbindReason::Kicked), 0x98),
        (CloseCause::Unbound(UnbindReason::Revoked), 0x87),
        (CloseCause::ServerShuttingDown, 0x8B),
    ] {
        let out = Terminal::live(V5).answer(|session, _, out| session.close(cause, out));
        assert_eq!(disconnected(&out), (Some(Reason(reason)), cause));
        let out = Terminal::live(V311).answer(|session, _, out| session.close(cause, out));
        assert_eq!(disconnected(&out), (None, cause));
    }
}

#[test]
fn silence_ends_the_connection_after_one_and_a_half_times_the_keep_alive() {
    let mut terminal = Terminal::live(V5);
    assert_eq!(terminal.session.deadline(), Some(90_000));
    terminal.now = 50_000;
    assert_eq!(terminal.send(Packet::PingReq), [Action::Send(Packet::PingResp)]);
    assert_eq!(terminal.tick(139_999), []);
    assert_eq!(disconnected(&terminal.tick(140_000)).0, Some(Reason::KEEP_ALIVE_TIMEOUT));
}

#[test]
fn an_expired_credential_ends_the_connection() {
    let mut terminal = Terminal::new(SessionConfig::default());
    terminal.send(Packet::Connect(Box::new(connect(V5))));
    let grant = Grant { expires_at_ms: Some(5_000), ..grant() };
    terminal.answer(|session, at, out| session.handle_authenticated(at, Ok(grant), out));
    terminal.answer(|session, at, out| session.handle_bound(at, Ok((bound(), Vec::new())), out));
    assert_eq!(terminal.session.deadline(), Some(5_000));
    let out = terminal.tick(5_000);
    assert_eq!(disconnected(&out), (Some(Reason::NOT_AUTHORIZED), CloseCause::CredentialExpired));
}

#[test]
fn a_connection_lost_before_its_bind_is_answered_leaves_the_session_its_expiry() {
    let mut terminal = Terminal::new(SessionConfig::default());
    terminal.send(Packet::Connect(Box::new(connect(V311))));
    terminal.authenticate();
    let out = terminal.answer(|session, _, out| session.handle_connection_lost(out));
    assert_eq!(closed(&out).session_expiry_s, SessionConfig::default().session_expiry_s_max);
}

#[test]
fn disconnect_may_change_the_session_expiry_but_not_from_zero() {
    let bye = |session_expiry_s| {
        Packet::Disconnect(Box::new(Disconnect { session_expiry_s, ..Disconnect::default() }))
    };
    let out = Terminal::live(V5).send(bye(Some(60)));
    assert_eq!((closed(&out).cause, closed(&out).session_expiry_s), (CloseCause::Disconnected, 60));
    assert_eq!(closed(&Terminal::live(V5).send(bye(None))).session_expiry_s, 3600);
    let out = Terminal::live_with(connect(V5), bound_clean()).send(bye(Some(60)));
    assert_eq!(disconnected(&out).0, Some(Reason::PROTOCOL_ERROR));
}

#[test]
fn nothing_is_said_after_the_end() {
    let mut terminal = Terminal::live(V5);
    terminal.answer(|session, _, out| session.handle_connection_lost(out));
    assert!(terminal.session.is_closed() && !terminal.session.may_read());
    assert_eq!(terminal.send(Packet::PingReq), []);
    assert_eq!(terminal.push(1), []);
    assert_eq!(terminal.tick(1_000_000), []);
    assert_eq!(terminal.answer(|session, at, out| session.withdraw(at, PushId(1), None, out)), []);
    assert_eq!(terminal.session.deadline(), None);
}

/// Section 4.11.
#[test]
fn a_terminal_that_is_sent_elsewhere_is_told_where() {
    let redirect = |terminal: &mut Terminal, cause| {
        terminal.answer(|session, _, out| session.redirect(cause, Some("edge-2:1883"), out))
    };
    for (cause, reason) in [
        (CloseCause::UseAnotherServer, Reason::USE_ANOTHER_SERVER),
        (CloseCause::ServerMoved, Reason::SERVER_MOVED),
    ] {
        let out = redirect(&mut Terminal::live(V5), cause);
        let told = disconnect(&out).unwrap();
        assert_eq!((told.reason, told.server_reference.as_deref()), (reason, Some("edge-2:1883")));
        assert_eq!(disconnected(&redirect(&mut Terminal::live(V311), cause)).0, None);
        let mut terminal = Terminal::new(SessionConfig::default());
        terminal.connect(connect(V5));
        let out = redirect(&mut terminal, cause);
        assert_eq!(connack(&out).reason, reason);
        assert_eq!(connack(&out).properties.server_reference.as_deref(), Some("edge-2:1883"));
    }
}

/// [MQTT-3.14.2-3], [MQTT-3.1.2-29]: a Reason String only where it is welcome and fits.
#[test]
fn a_malformed_packet_is_told_with_words_where_there_is_room_for_them() {
    let bytes = |connect| {
        let mut terminal = Terminal::live_with(connect, bound());
        let malformed = Malformed::packet("packet ends too early");
        let out = terminal.answer(|session, _, out| session.handle_malformed(malformed, out));
        let told = disconnect(&out).unwrap();
        assert_eq!(told.reason, Reason::MALFORMED_PACKET);
        told.reason_string.is_some()
    };
    assert!(bytes(connect(V5)));
    assert!(!bytes(connect_with(|properties| properties.packet_len_max = Some(20))));
    assert!(!bytes(connect_with(|properties| properties.request_problem_information = Some(false))));
}
