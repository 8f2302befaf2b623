//! QoS 2 from the terminal (sections 4.3.3, 3.3.4, 4.9).

use super::support::*;

const ACCEPTED: PublishOutcome = PublishOutcome::Accepted;

fn incoming(out: &[Out]) -> Option<u16> {
    match out {
        [Action::Accept(incoming)] => incoming.exchange,
        other => panic!("{other:?}"),
    }
}

fn pubrec(packet_id: u16) -> Out {
    Action::Send(Packet::PubRec(ack(packet_id)))
}

fn pubcomp(packet_id: u16, reason: Reason) -> Out {
    Action::Send(Packet::PubComp(Ack { packet_id, reason }))
}

/// Publishes with this packet id, up to PUBREC.
fn taken(terminal: &mut Terminal, packet_id: u16) {
    let out = terminal.publish(publish(QOS2, packet_id, "a"));
    assert_eq!(terminal.accepted(&out), [pubrec(packet_id)]);
}

/// [MQTT-4.3.3-8], [MQTT-4.3.3-11]: PUBREC after the commit, PUBCOMP after that of the release.
#[test]
fn each_answer_follows_its_commit_where_the_session_outlives_the_connection() {
    let mut terminal = Terminal::live(V5);
    let out = terminal.publish(publish(QOS2, 5, "a"));
    assert_eq!(incoming(&out), Some(5));
    assert_eq!(terminal.accepted(&out), [pubrec(5)]);
    let out = terminal.pubrel(5);
    assert_eq!(out, [Action::Release { request: request(&out), packet_id: 5 }]);
    assert_eq!(terminal.pubrel(5), [], "its answer is under way");
    assert_eq!(terminal.accepted(&out), [pubcomp(5, Reason::SUCCESS)]);
    assert_eq!(incoming(&terminal.publish(publish(QOS2, 5, "a"))), Some(5), "the packet id is free");
}

#[test]
fn in_a_session_that_ends_with_its_connection_memory_is_enough() {
    let mut terminal = Terminal::passing(V311);
    let out = terminal.publish(publish(QOS2, 5, "a"));
    assert_eq!(incoming(&out), None);
    assert_eq!(terminal.accepted(&out), [pubrec(5)]);
    assert_eq!(terminal.pubrel(5), [pubcomp(5, Reason::SUCCESS)]);
}

/// [MQTT-4.3.3-10]: whatever DUP says.
#[test]
fn a_publish_comes_once_until_it_is_released() {
    for terminal in [&mut Terminal::live(V311), &mut Terminal::passing(V5)] {
        let first = terminal.publish(publish(QOS2, 5, "a"));
        for dup in [true, false] {
            assert_eq!(terminal.publish(Publish { dup, ..publish(QOS2, 5, "a") }), [], "being committed");
        }
        terminal.accepted(&first);
        for dup in [true, false] {
            assert_eq!(terminal.publish(Publish { dup, ..publish(QOS2, 5, "a") }), [pubrec(5)]);
        }
    }
}

/// [MQTT-4.3.3-11], section 3.7.2.1.
#[test]
fn a_release_of_nothing_is_completed_all_the_same() {
    let out = Terminal::live(V5).pubrel(9);
    assert_eq!(out, [pubcomp(9, Reason::PACKET_ID_NOT_FOUND)]);
}

/// [MQTT-4.4.0-1]: a resumed session knows what it has taken.
#[test]
fn a_resumed_session_neither_takes_twice_nor_forgets_to_release() {
    let bound = Bound { session_present: true, inbound: vec![5, 6], ..bound() };
    let mut terminal = Terminal::live_with(connect(V311), bound);
    assert_eq!(terminal.publish(Publish { dup: true, ..publish(QOS2, 5, "a") }), [pubrec(5)]);
    let out = terminal.pubrel(6);
    assert_eq!(terminal.accepted(&out), [pubcomp(6, Reason::SUCCESS)]);
}

/// [MQTT-4.6.0-2], [MQTT-4.6.0-3].
#[test]
fn answers_leave_in_the_order_the_packets_came() {
    let mut terminal = Terminal::live(V5);
    let first = terminal.publish(publish(QOS2, 5, "a"));
    let second = terminal.publish(publish(QOS1, 6, "a"));
    assert_eq!(terminal.published(request(&second), ACCEPTED), []);
    let puback = Action::Send(Packet::PubAck(ack(6)));
    assert_eq!(terminal.published(request(&first), ACCEPTED), [pubrec(5), puback]);
}

/// [MQTT-3.3.4-7]: QoS 2 counts until PUBCOMP.
#[test]
fn the_receive_maximum_counts_until_pubcomp() {
    let mut terminal = Terminal::passing(V5);
    (1..=128).for_each(|packet_id| taken(&mut terminal, packet_id));
    terminal.pubrel(1);
    taken(&mut terminal, 129);
    let out = terminal.publish(publish(QOS1, 130, "a"));
    assert_eq!(disconnected(&out).0, Some(Reason::RECEIVE_MAXIMUM_EXCEEDED));
}

/// [MQTT-4.3.3-9]: after a refusing PUBREC the packet id is free.
#[test]
fn a_refused_publish_is_over() {
    let mut terminal = Terminal::live(V5);
    let out = terminal.publish(publish(QOS2, 5, "a"));
    let request = request(&out);
    let out = terminal
        .answer(|session, at, out| session.handle_published(at, request, Err(RefuseReason::Quota), out));
    let reason = Reason::QUOTA_EXCEEDED;
    assert_eq!(out, [Action::Send(Packet::PubRec(Ack { packet_id: 5, reason }))]);
    assert_eq!(terminal.pubrel(5), [pubcomp(5, Reason::PACKET_ID_NOT_FOUND)]);
    assert_eq!(incoming(&terminal.publish(publish(QOS2, 5, "b"))), Some(5));
}

/// [MQTT-2.2.1-3].
#[test]
fn a_packet_id_of_another_exchange_is_a_protocol_error() {
    let mut terminal = Terminal::live(V5);
    taken(&mut terminal, 5);
    let out = terminal.publish(publish(QOS1, 5, "a"));
    assert_eq!(disconnected(&out).0, Some(Reason::PROTOCOL_ERROR));
    let mut terminal = Terminal::live(V5);
    terminal.publish(publish(QOS2, 5, "a"));
    assert_eq!(disconnected(&terminal.pubrel(5)).0, Some(Reason::PROTOCOL_ERROR), "PUBREL before PUBREC");
}

#[test]
fn a_release_that_cannot_be_committed_lets_the_terminal_come_again() {
    let mut terminal = Terminal::live(V5);
    taken(&mut terminal, 5);
    let request = request(&terminal.pubrel(5));
    let refused = Err(RefuseReason::Unavailable);
    let out = terminal.answer(|session, at, out| session.handle_published(at, request, refused, out));
    assert_eq!(closed(&out).cause, CloseCause::ServerUnavailable);
}

/// Section 4.9: the quota begins anew with every connection, and what an earlier one began gives one back when it is
/// over, which a terminal may count on as far as it goes.
#[test]
fn receive_maximum_is_that_of_the_connection_and_not_used_up_by_exchanges_of_an_earlier_one() {
    let max = SessionConfig::default().receive_maximum;
    let inbound = (1..=max).collect();
    let mut terminal = Terminal::live_with(connect(V5), Bound { session_present: true, inbound, ..bound() });
    for packet_id in max + 1..=2 * max {
        taken(&mut terminal, packet_id);
    }
    // PUBREL of the earlier connection's, sent again.
    let out = terminal.pubrel(1);
    assert_eq!(terminal.accepted(&out), [pubcomp(1, Reason::SUCCESS)]);
    taken(&mut terminal, 1);
    let out = terminal.publish(publish(QOS1, 2 * max + 1, "a"));
    assert_eq!(disconnected(&out).0, Some(Reason::RECEIVE_MAXIMUM_EXCEEDED));
}
