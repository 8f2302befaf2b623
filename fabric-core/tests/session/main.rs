//! Scripted conversations with the session machine. They read like the specification: what is sent, what comes back.

#![allow(clippy::unwrap_used, reason = "test code: a panic is a failed test")]

mod random;
mod support;

use std::sync::Arc;

use bytes::Bytes;
use cluster_proto::{
    DropReason, Message, MessageProperties, Outcome, PushId, PushKind, Qos, SessionId, TerminalNo,
    limits::{INFLIGHT_PER_TERMINAL_MAX, OWED_PER_PULL_MAX, QUEUED_PER_TERMINAL_MAX},
    link::{Bound, PublishOutcome, RefuseReason, Subscription, SubscriptionOptions, UnbindReason},
};
use fabric_core::mqtt::{
    Action, AuthRefusal, Changed, CloseCause, Grant, Malformed, Matching, Packet, Permissions,
    ProtocolVersion, Reason, SessionConfig, Shown,
    packet::{Ack, Connect, ConnectProperties, Disconnect, Publish, Subscribe, Will},
};
use support::*;

const V311: ProtocolVersion = ProtocolVersion::V311;
const V5: ProtocolVersion = ProtocolVersion::V5;

fn changed() -> Changed {
    Changed { no: TerminalNo(1 << 31), session: SessionId(9) }
}

fn receipt(push: u64, outcome: Outcome) -> Out {
    Action::Receipt { push: PushId(push), outcome, group: None }
}

// ---------------------------------------------------------------- CONNECT

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
    let out = terminal.answer(|session, at, out| session.handle_bound(at, Ok(bound()), out));
    assert_eq!(connack(&out).reason, Reason::SUCCESS);
    let pull = Action::Pull { after: PushId(0), max: OWED_PER_PULL_MAX as u16 };
    assert_eq!(out[1..], [pull]);
    assert!(terminal.session.may_read());
}

#[test]
fn connack_announces_what_this_version_lacks_and_what_was_lowered() {
    let mut terminal = Terminal::new(SessionConfig { keep_alive_s_max: 30, ..SessionConfig::default() });
    let mut connect = connect(V5);
    connect.client_id.clear();
    connect.properties.session_expiry_s = Some(u32::MAX);
    terminal.send(Packet::Connect(Box::new(connect)));
    terminal.authenticate();
    let out = terminal.answer(|session, at, out| session.handle_bound(at, Ok(bound()), out));
    let properties = &connack(&out).properties;
    assert_eq!(properties.maximum_qos, Some(Qos::AtLeastOnce));
    assert_eq!(properties.retain_available, Some(false));
    assert_eq!(properties.shared_available, Some(false));
    assert_eq!(properties.topic_alias_maximum.unwrap_or(0), 0);
    assert_eq!(properties.server_keep_alive_s, Some(30));
    assert_eq!(properties.session_expiry_s, Some(3600));
    assert_eq!(properties.assigned_client_id.as_deref(), Some("tv-1"));
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
    for connect in [empty(V311, false), empty(ProtocolVersion::V31, true)] {
        let out = Terminal::new(SessionConfig::default()).send(Packet::Connect(Box::new(connect)));
        assert_eq!(connack(&out).reason, Reason::CLIENT_ID_NOT_VALID);
        assert_eq!(closed(&out).cause, CloseCause::Refused(Reason::CLIENT_ID_NOT_VALID));
    }
}

#[test]
fn a_will_is_refused_rather_than_dropped_in_silence() {
    let will = Will {
        topic: "gone".to_owned(),
        payload: Bytes::new(),
        qos: Qos::AtMostOnce,
        retain: false,
        delay_s: 0,
        expiry_s: None,
        properties: MessageProperties::default(),
    };
    for version in [V311, V5] {
        let connect = Connect { will: Some(Box::new(will.clone())), ..connect(version) };
        let out = Terminal::new(SessionConfig::default()).send(Packet::Connect(Box::new(connect)));
        assert_eq!(connack(&out).reason, Reason::IMPLEMENTATION_SPECIFIC);
        assert_eq!(connack(&out).properties.reason_string.is_some(), version == V5);
        assert_eq!(connack(&out).reason.connack_v3(), 3);
        assert!(!closed(&out).bound);
    }
}

#[test]
fn an_authentication_method_is_not_known() {
    let mut connect = connect(V5);
    connect.properties.authentication_method = Some("SCRAM-SHA-1".to_owned());
    let out = Terminal::new(SessionConfig::default()).send(Packet::Connect(Box::new(connect)));
    assert_eq!(connack(&out).reason, Reason::BAD_AUTHENTICATION_METHOD);
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
        terminal.answer(|session, at, out| session.handle_bound(at, Ok(bound()), out)),
        [],
        "too late"
    );
}

// ---------------------------------------------------------------- the end

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
    terminal.answer(|session, at, out| session.handle_bound(at, Ok(bound()), out));
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
    assert_eq!(terminal.answer(|session, at, out| session.withdraw(at, PushId(1), out)), []);
    assert_eq!(terminal.session.deadline(), None);
}

// ---------------------------------------------------------------- SUBSCRIBE

#[test]
fn a_subscription_is_committed_before_suback() {
    let mut terminal = Terminal::live(V5);
    let out = terminal.send(subscribe(5, &[("a/+", Qos::ExactlyOnce), ("b", Qos::AtMostOnce)]));
    let subscriptions = vec![replicated("a/+", Qos::AtLeastOnce), replicated("b", Qos::AtMostOnce)];
    assert_eq!(out, [Action::Subscribe { request: request(&out), subscriptions }]);
    let request = request(&out);
    let out = terminal.answer(|session, at, out| session.handle_changed(at, request, Ok(changed()), out));
    assert!(matches!(&out[0], Action::Subscribed { filter, best_effort: false } if &**filter == "a/+"));
    assert_eq!(codes(&out), [Reason::GRANTED_QOS_1, Reason::SUCCESS], "QoS 2 is granted as QoS 1");
}

#[test]
fn each_refused_filter_has_its_own_code() {
    let mut terminal = Terminal::live(V5);
    let filters = [("a/#/b", Qos::AtMostOnce), ("$share/g/a", Qos::AtMostOnce), ("$SYS/#", Qos::AtMostOnce)];
    let out = terminal.send(subscribe(1, &filters));
    let expected =
        [Reason::TOPIC_FILTER_INVALID, Reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED, Reason::NOT_AUTHORIZED];
    assert_eq!(codes(&out), expected);
}

#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    let filters = vec![subscription("$share/g/a", Qos::AtMostOnce, options)];
    let out = Terminal::live(V5).send(Packet::Subscribe(Subscribe { packet_id: 1, filters }));
    assert_eq!(disconnected(&out).0, Some(Reason::PROTOCOL_ERROR));
}

#[test]
fn a_qos_0_subscription_of_a_session_that_ends_with_its_connection_costs_no_commit() {
    let mut terminal = Terminal::live_with(connect(V311), bound_clean());
    let out = terminal.send(subscribe(1, &[("a", Qos::AtMostOnce)]));
    assert!(matches!(
        &out[..],
        [Action::Subscribed { best_effort: true, .. }, Action::Send(Packet::SubAck(_))]
    ));
    // Raised to QoS 1 it is replicated, and back again it stays so.
    for qos in [Qos::AtLeastOnce, Qos::AtMostOnce] {
        let out = terminal.send(subscribe(2, &[("a", qos)]));
        let request = request(&out);
        terminal.answer(|session, at, out| session.handle_changed(at, request, Ok(changed()), out));
        assert_eq!(terminal.session.subscriptions().collect::<Vec<_>>(), [("a", false)]);
    }
}

#[test]
fn a_first_replicated_subscription_gives_a_number_and_begins_to_catch_up() {
    let mut terminal = Terminal::live_with(connect(V311), bound_clean());
    assert_eq!(terminal.session.no(), None);
    let out = terminal.send(subscribe(1, &[("a", Qos::AtLeastOnce)]));
    let request = request(&out);
    let out = terminal.answer(|session, at, out| session.handle_changed(at, request, Ok(changed()), out));
    assert!(matches!(out.last(), Some(Action::Pull { after: PushId(0), .. })), "{out:?}");
    assert_eq!(terminal.session.no(), Some(changed().no));
    assert_eq!(terminal.session.session(), Some(changed().session));
}

#[test]
fn a_refused_subscription_is_told_per_filter() {
    let mut terminal = Terminal::live(V5);
    let out = terminal.send(subscribe(1, &[("$SYS/#", Qos::AtMostOnce), ("a", Qos::AtLeastOnce)]));
    let request = request(&out);
    let out = terminal
        .answer(|session, at, out| session.handle_changed(at, request, Err(RefuseReason::Quota), out));
    assert_eq!(codes(&out), [Reason::NOT_AUTHORIZED, Reason::QUOTA_EXCEEDED]);
    assert_eq!(terminal.session.subscriptions().count(), 0);
}

#[test]
fn unsubscribe_tells_what_existed_and_keeps_it_until_the_commit() {
    let bound = Bound { subscriptions: vec![replicated("a", Qos::AtLeastOnce)], ..bound() };
    let mut terminal = Terminal::live_with(connect(V5), bound);
    let out = terminal.send(unsubscribe(3, &["a", "b", "#/x"]));
    let request = request(&out);
    assert_eq!(terminal.session.subscriptions().count(), 1);
    let out = terminal.answer(|session, at, out| session.handle_changed(at, request, Ok(changed()), out));
    let expected = [Reason::SUCCESS, Reason::NO_SUBSCRIPTION_EXISTED, Reason::TOPIC_FILTER_INVALID];
    assert_eq!(codes(&out), expected);
    assert_eq!(terminal.session.subscriptions().count(), 0);
}

#[test]
fn too_many_requests_at_a_time_stop_reading_and_the_keep_alive_with_it() {
    let mut terminal = Terminal::live(V311);
    let mut last = Vec::new();
    let mut packet_id = 0;
    while terminal.session.may_read() {
        packet_id += 1;
        last = terminal.send(subscribe(packet_id, &[(&format!("a/{packet_id}"), Qos::AtLeastOnce)]));
    }
    assert_eq!(terminal.session.deadline(), None, "we do not read: silence is not the terminal's");
    terminal.now = 500_000;
    let request = request(&last);
    terminal.answer(|session, at, out| session.handle_changed(at, request, Ok(changed()), out));
    assert!(terminal.session.may_read());
    assert_eq!(terminal.session.deadline(), Some(590_000));
}

// ---------------------------------------------------------------- PUBLISH in

#[test]
fn a_qos_1_publish_is_acknowledged_after_its_commit_in_order() {
    let mut terminal = Terminal::live(V5);
    let expiry_s = Some(9);
    let first =
        terminal.send(Packet::Publish(Box::new(Publish { expiry_s, ..publish(Qos::AtLeastOnce, 4, "a") })));
    let [Action::Accept(incoming)] = &first[..] else { panic!("{first:?}") };
    assert_eq!((incoming.ttl_ms, incoming.message.publisher), (Some(9_000), Some(TerminalNo(7))));
    let second = terminal.send(Packet::Publish(Box::new(publish(Qos::AtLeastOnce, 2, "a"))));
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
    let out = Terminal::live(V311).send(Packet::Publish(Box::new(publish(Qos::AtMostOnce, 0, "a"))));
    assert!(matches!(&out[..], [Action::Relay(_)]));
}

#[test]
fn what_is_not_supported_in_publish_closes_with_its_reason() {
    let base = publish(Qos::AtLeastOnce, 1, "a");
    for (publish, reason) in [
        (Publish { retain: true, ..base.clone() }, Reason::RETAIN_NOT_SUPPORTED),
        (Publish { qos: Qos::ExactlyOnce, ..base.clone() }, Reason::QOS_NOT_SUPPORTED),
        (Publish { topic_alias: Some(1), ..base.clone() }, Reason::TOPIC_ALIAS_INVALID),
        (Publish { topic: String::new(), ..base.clone() }, Reason::PROTOCOL_ERROR),
        (Publish { topic: "a/+".to_owned(), ..base.clone() }, Reason::TOPIC_NAME_INVALID),
        (Publish { subscription_ids: vec![1], ..base }, Reason::PROTOCOL_ERROR),
    ] {
        let out = Terminal::live(V5).send(Packet::Publish(Box::new(publish.clone())));
        assert_eq!(disconnected(&out), (Some(reason), CloseCause::Peer(reason)), "{publish:?}");
        let out = Terminal::live(V311).send(Packet::Publish(Box::new(publish)));
        assert_eq!(disconnected(&out), (None, CloseCause::Peer(reason)));
    }
}

#[test]
fn a_publish_that_is_not_permitted_is_never_acknowledged_as_if_it_were() {
    let permissions = Permissions::new(&grant().terminal, Some(&["own/{terminal}".to_owned()]), None);
    let restricted = |version| {
        let mut terminal = Terminal::new(SessionConfig::default());
        terminal.send(Packet::Connect(Box::new(connect(version))));
        let grant = Grant { permissions: permissions.clone(), ..grant() };
        terminal.answer(|session, at, out| session.handle_authenticated(at, Ok(grant), out));
        terminal.answer(|session, at, out| session.handle_bound(at, Ok(bound()), out));
        terminal
    };
    let foreign = || Packet::Publish(Box::new(publish(Qos::AtLeastOnce, 1, "other")));
    let out = restricted(V5).send(foreign());
    assert_eq!(out, [Action::Send(Packet::PubAck(Ack { packet_id: 1, reason: Reason::NOT_AUTHORIZED }))]);
    assert_eq!(closed(&restricted(V311).send(foreign())).cause, CloseCause::Peer(Reason::NOT_AUTHORIZED));
    let own = Packet::Publish(Box::new(publish(Qos::AtLeastOnce, 1, "own/tv-1")));
    assert!(matches!(&restricted(V311).send(own)[..], [Action::Accept(_)]));
}

#[test]
fn more_publishes_than_the_receive_maximum_close_the_connection() {
    let mut terminal = Terminal::live(V5);
    for packet_id in 1..=128 {
        terminal.send(Packet::Publish(Box::new(publish(Qos::AtLeastOnce, packet_id, "a"))));
    }
    let out = terminal.send(Packet::Publish(Box::new(publish(Qos::AtLeastOnce, 129, "a"))));
    assert_eq!(disconnected(&out).0, Some(Reason::RECEIVE_MAXIMUM_EXCEEDED));
}

#[test]
fn a_repeated_publish_that_is_being_committed_is_committed_once() {
    let mut terminal = Terminal::live(V311);
    terminal.send(Packet::Publish(Box::new(publish(Qos::AtLeastOnce, 1, "a"))));
    let again = Publish { dup: true, ..publish(Qos::AtLeastOnce, 1, "a") };
    assert_eq!(terminal.send(Packet::Publish(Box::new(again))), []);
    let reused = terminal.send(Packet::Publish(Box::new(publish(Qos::AtLeastOnce, 1, "b"))));
    assert_eq!(closed(&reused).cause, CloseCause::Peer(Reason::PROTOCOL_ERROR));
}

#[test]
fn a_refused_commit_is_a_negative_puback_or_the_end() {
    for version in [V5, V311] {
        let mut terminal = Terminal::live(version);
        let out = terminal.send(Packet::Publish(Box::new(publish(Qos::AtLeastOnce, 1, "a"))));
        let request = request(&out);
        let out = terminal
            .answer(|session, at, out| session.handle_published(at, request, Err(RefuseReason::Quota), out));
        let puback = Action::Send(Packet::PubAck(Ack { packet_id: 1, reason: Reason::QUOTA_EXCEEDED }));
        assert_eq!(out.contains(&puback), version == V5);
        assert_eq!(terminal.session.is_closed(), version == V311);
    }
}

// ---------------------------------------------------------------- PUBLISH out

#[test]
fn a_push_is_delivered_when_the_terminal_acknowledges() {
    let mut terminal = Terminal::live(V311);
    let out = terminal.push(1);
    assert_eq!(packet_ids(&out), [1]);
    assert_eq!(out.len(), 1, "no receipt before PUBACK (I2)");
    assert_eq!(terminal.puback(1), [receipt(1, Outcome::Delivered)]);
    assert_eq!(terminal.puback(1), [], "once");
}

#[test]
fn the_window_is_the_receive_maximum_and_never_more_than_ours() {
    for (receive_maximum, window) in [(Some(2), 2), (None, INFLIGHT_PER_TERMINAL_MAX)] {
        let mut connect = connect(V5);
        connect.properties = ConnectProperties { receive_maximum, ..connect.properties };
        let mut terminal = Terminal::live_with(connect, bound());
        let written: usize = (1..=100).map(|id| deliveries(&terminal.push(id)).len()).sum();
        assert_eq!(written, window);
        let out = terminal.puback(1);
        assert_eq!(out[0], receipt(1, Outcome::Delivered));
        assert_eq!(packet_ids(&out), [window as u16 + 1], "the next takes its place");
    }
}

#[test]
fn a_refusing_puback_drops_the_push() {
    let mut terminal = Terminal::live(V5);
    terminal.push(1);
    let out = terminal.send(Packet::PubAck(Ack { packet_id: 1, reason: Reason::QUOTA_EXCEEDED }));
    assert_eq!(out, [receipt(1, Outcome::Dropped(DropReason::Refused))]);
}

#[test]
fn a_push_over_the_maximum_packet_size_is_dropped_as_too_large() {
    let mut connect = connect(V5);
    connect.properties.packet_len_max = Some(20);
    let mut terminal = Terminal::live_with(connect, bound());
    assert_eq!(terminal.push(1), [receipt(1, Outcome::Dropped(DropReason::TooLarge))]);
    assert_eq!(terminal.session.after(), PushId(1));
}

#[test]
fn a_push_at_qos_0_is_sent_and_waits_for_nothing() {
    let mut terminal = Terminal::live(V311);
    let out = terminal.queue(queued(1, message(Qos::AtMostOnce)));
    assert_eq!((packet_ids(&out), out.last()), (vec![0], Some(&receipt(1, Outcome::Sent))));
    let mut lowered = queued(2, message(Qos::AtLeastOnce));
    (lowered.qos0, lowered.dup) = (true, true);
    let out = terminal.queue(lowered);
    assert_eq!(deliveries(&out)[0].qos, Qos::AtMostOnce);
    assert!(!deliveries(&out)[0].dup, "DUP is 0 with QoS 0");
}

#[test]
fn without_room_pushes_are_queued_and_leave_in_order() {
    let mut terminal = Terminal::live(V311);
    terminal.room = 0;
    assert_eq!(terminal.push(1), []);
    assert_eq!(terminal.queue(queued(2, message(Qos::AtMostOnce))), []);
    assert!(terminal.session.has_waiting());
    assert_eq!(terminal.session.in_flight().collect::<Vec<_>>(), [PushId(1), PushId(2)]);
    terminal.room = 1;
    let out = terminal.answer(|session, at, out| session.handle_writable(at, out));
    assert_eq!(packet_ids(&out), [1], "one packet may go beyond the room");
    terminal.room = ROOM;
    let out = terminal.answer(|session, at, out| session.handle_writable(at, out));
    assert_eq!(packet_ids(&out), [0]);
    assert!(!terminal.session.has_waiting());
}

#[test]
fn an_expired_push_is_not_written_and_the_leader_is_told_when_it_asks() {
    let mut terminal = Terminal::live(V5);
    terminal.room = 0;
    let mut short = queued(1, message(Qos::AtLeastOnce));
    short.expires_at_ms = Some(1_000);
    terminal.queue(short);
    let mut long = queued(2, message(Qos::AtLeastOnce));
    long.expires_at_ms = Some(61_001);
    terminal.queue(long);
    (terminal.room, terminal.now) = (ROOM, 1_000);
    let out = terminal.answer(|session, at, out| session.handle_writable(at, out));
    assert_eq!(deliveries(&out)[0].expiry_s, Some(61), "what remains, rounded up");
    assert_eq!(out.len(), 1);
    let out = terminal.answer(|session, at, out| session.withdraw(at, PushId(1), out));
    assert_eq!(out, [receipt(1, Outcome::NotWritten)]);
}

#[test]
fn a_withdrawn_push_is_answered_now_if_queued_and_when_known_if_written() {
    let withdraw = |terminal: &mut Terminal, id| {
        terminal.answer(|session, at, out| session.withdraw(at, PushId(id), out))
    };
    let mut terminal = Terminal::live(V311);
    (1..=2).for_each(|id| drop(terminal.push(id)));
    terminal.room = 0;
    terminal.push(3);
    assert_eq!(withdraw(&mut terminal, 3), [receipt(3, Outcome::NotWritten)]);
    assert_eq!(withdraw(&mut terminal, 1), []);
    assert_eq!(withdraw(&mut terminal, 2), []);
    assert_eq!(terminal.puback(1), [receipt(1, Outcome::Delivered)]);
    let out = terminal.answer(|session, _, out| session.handle_connection_lost(out));
    assert_eq!(out[0], receipt(2, Outcome::Sent));
    assert_eq!(out.len(), 2);
}

#[test]
fn what_is_in_flight_when_the_connection_ends_stays_owed() {
    let mut terminal = Terminal::live(V5);
    terminal.push(1);
    let out = terminal.answer(|session, _, out| session.handle_connection_lost(out));
    assert!(matches!(&out[..], [Action::Close(_)]), "no receipt: nobody knows");
}

#[test]
fn a_qos_0_push_that_was_not_written_when_the_connection_ends_is_offline() {
    let mut terminal = Terminal::live(V5);
    terminal.room = 0;
    terminal.queue(queued(1, message(Qos::AtMostOnce)));
    terminal.push(2);
    let out = terminal.answer(|session, _, out| session.handle_connection_lost(out));
    assert_eq!(out[0], receipt(1, Outcome::Dropped(DropReason::Offline)));
    assert_eq!(out.len(), 2);
}

#[test]
fn a_missing_payload_holds_up_what_is_behind_it() {
    let mut terminal = Terminal::live(V311);
    let mut missing = queued(1, message(Qos::AtLeastOnce));
    missing.message = None;
    assert_eq!(terminal.queue(missing.clone()), []);
    assert_eq!(terminal.push(2), []);
    assert!(!terminal.session.has_waiting());
    let payload = Some(message(Qos::AtLeastOnce));
    let out = terminal.answer(|session, at, out| session.handle_payload(at, PushId(1), payload, out));
    assert_eq!(packet_ids(&out), [1, 2]);
    missing.push = PushId(3);
    terminal.queue(missing);
    terminal.push(4);
    let out = terminal.answer(|session, at, out| session.handle_payload(at, PushId(3), None, out));
    assert_eq!(packet_ids(&out), [3], "the payload is gone: the next goes on");
}

#[test]
fn catching_up_skips_live_pushes_until_the_last_page() {
    let mut terminal = Terminal::bound(connect(V311), bound());
    assert_eq!(terminal.push(9), [], "not live: found in what it is owed");
    let page = |ids: &[u64]| {
        let mut page: Vec<_> = ids.iter().map(|id| queued(*id, message(Qos::AtLeastOnce))).collect();
        page[0].dup = true;
        page
    };
    let out = terminal.answer(|session, at, out| session.handle_owed(at, page(&[3, 5]), false, out));
    assert_eq!(deliveries(&out).iter().map(|delivery| delivery.dup).collect::<Vec<_>>(), [true, false]);
    assert_eq!(out.last(), Some(&Action::Pull { after: PushId(5), max: OWED_PER_PULL_MAX as u16 }));
    let out = terminal.answer(|session, at, out| session.handle_owed(at, page(&[9]), true, out));
    assert_eq!(out.len(), 1);
    assert_eq!(packet_ids(&terminal.push(10)), [4]);
}

#[test]
fn a_slow_terminal_falls_behind_and_catches_up_when_half_empty() {
    let mut terminal = Terminal::live(V311);
    terminal.room = 0;
    let count = QUEUED_PER_TERMINAL_MAX as u64;
    (1..=count + 10).for_each(|id| drop(terminal.push(id)));
    assert_eq!(terminal.session.after(), PushId(count));
    terminal.room = ROOM;
    let out = terminal.answer(|session, at, out| session.handle_writable(at, out));
    assert_eq!(deliveries(&out).len(), INFLIGHT_PER_TERMINAL_MAX);
    assert!(
        matches!(out.last(), Some(Action::Pull { after, .. }) if *after == PushId(count)),
        "{:?}",
        out.last()
    );
}

#[test]
fn after_a_leader_change_catching_up_continues_where_it_was() {
    let mut terminal = Terminal::live(V311);
    terminal.push(4);
    terminal.session.link_lost();
    assert_eq!(terminal.push(5), []);
    let out = terminal.answer(|session, _, out| session.link_ready(out));
    assert!(matches!(&out[..], [Action::Pull { after: PushId(4), .. }]));
}

#[test]
fn a_session_bound_by_the_last_word_of_a_lost_link_pulls_on_the_next() {
    let mut terminal = Terminal::live_with(connect(V311), bound());
    // Its first pull was asked for when there was no link any more: no answer comes.
    let out = terminal.answer(|session, _, out| session.link_ready(out));
    assert!(matches!(&out[..], [Action::Pull { after: PushId(0), .. }]), "{out:?}");
}

// ---------------------------------------------------------------- without status

#[test]
fn a_message_without_status_is_shown_once_or_dropped() {
    let mut terminal = Terminal::live_with(connect(V311), bound_clean());
    terminal.send(subscribe(1, &[("news/#", Qos::AtMostOnce)]));
    let news = message(Qos::AtMostOnce);
    let show = |terminal: &mut Terminal| {
        let (at, mut out) = (terminal.at(), Vec::new());
        let shown = terminal.session.show(at, &news, false, Matching::Any, None, &mut out);
        (shown, packet_ids(&out))
    };
    assert_eq!(show(&mut terminal), (Shown::Delivered, vec![0]));
    terminal.room = 0;
    assert_eq!(show(&mut terminal), (Shown::Dropped, vec![]));
}

#[test]
fn subscription_identifiers_come_back_and_no_local_is_kept() {
    let mut terminal = Terminal::live_with(connect(V5), bound_clean());
    let options = |identifier, no_local| SubscriptionOptions { identifier, no_local, ..Default::default() };
    let filters = vec![
        subscription("news/#", Qos::AtMostOnce, options(Some(11), true)),
        subscription("+/today", Qos::AtMostOnce, options(Some(12), true)),
        subscription("other", Qos::AtMostOnce, options(Some(13), false)),
    ];
    terminal.send(Packet::Subscribe(Subscribe { packet_id: 1, filters }));
    let news = message(Qos::AtMostOnce);
    let (at, mut out) = (terminal.at(), Vec::new());
    let shown = terminal.session.show(at, &news, false, Matching::BestEffort, None, &mut out);
    assert_eq!((shown, &*deliveries(&out)[0].subscription_ids), (Shown::Delivered, &[11, 12][..]));
    assert_eq!(
        terminal.session.show(at, &news, true, Matching::Any, None, &mut Vec::new()),
        Shown::NotWanted
    );
}

#[test]
fn a_topic_push_carries_the_identifiers_of_its_subscriptions_and_an_identity_push_none() {
    let options = SubscriptionOptions { identifier: Some(5), ..SubscriptionOptions::default() };
    let subscriptions = vec![Subscription { options, ..replicated("news/+", Qos::AtLeastOnce) }];
    let mut terminal = Terminal::live_with(connect(V5), Bound { subscriptions, ..bound() });
    assert_eq!(&*deliveries(&terminal.push(1))[0].subscription_ids, [5]);
    let identity = Message { kind: PushKind::Identity, ..(*message(Qos::AtLeastOnce)).clone() };
    let out = terminal.queue(queued(2, Arc::new(identity)));
    assert!(deliveries(&out)[0].subscription_ids.is_empty());
}
