//! PUBLISH to the terminal with QoS 0 and 1: queue, window, receipts (sections 3.3, 4.3, 4.6).

use std::sync::Arc;

use super::support::*;

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
    let out = terminal.queue(queued(1, message(QOS0)));
    assert_eq!((packet_ids(&out), out.last()), (vec![0], Some(&receipt(1, Outcome::Sent))));
    let mut lowered = queued(2, message(QOS1));
    (lowered.qos0, lowered.dup) = (true, true);
    let out = terminal.queue(lowered);
    assert_eq!(deliveries(&out)[0].qos, QOS0);
    assert!(!deliveries(&out)[0].dup, "DUP is 0 with QoS 0");
}

#[test]
fn without_room_pushes_are_queued_and_leave_in_order() {
    let mut terminal = Terminal::live(V311);
    terminal.room = 0;
    assert_eq!(terminal.push(1), []);
    assert_eq!(terminal.queue(queued(2, message(QOS0))), []);
    assert!(terminal.session.has_waiting());
    assert_eq!(terminal.session.in_flight().collect::<Vec<_>>(), [(PushId(1), None), (PushId(2), None)]);
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
    let mut short = queued(1, message(QOS1));
    short.expires_at_ms = Some(1_000);
    terminal.queue(short);
    let mut long = queued(2, message(QOS1));
    long.expires_at_ms = Some(61_001);
    terminal.queue(long);
    (terminal.room, terminal.now) = (ROOM, 1_000);
    let out = terminal.answer(|session, at, out| session.handle_writable(at, out));
    assert_eq!(deliveries(&out)[0].expiry_s, Some(61), "what remains, rounded up");
    assert_eq!(out.len(), 1);
    let out = terminal.answer(|session, at, out| session.withdraw(at, PushId(1), None, out));
    assert_eq!(out, [receipt(1, Outcome::NotWritten)]);
}

#[test]
fn a_withdrawn_push_is_answered_now_if_queued_and_when_known_if_written() {
    let withdraw = |terminal: &mut Terminal, id| {
        terminal.answer(|session, at, out| session.withdraw(at, PushId(id), None, out))
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
    let unacknowledged = Unacknowledged { packet_id: 1, push: PushId(1), target: NO };
    assert_eq!(closed(&out).unacknowledged, [unacknowledged], "and it is sent again with its packet id");
}

#[test]
fn a_qos_0_push_that_was_not_written_when_the_connection_ends_is_offline() {
    let mut terminal = Terminal::live(V5);
    terminal.room = 0;
    terminal.queue(queued(1, message(QOS0)));
    terminal.push(2);
    let out = terminal.answer(|session, _, out| session.handle_connection_lost(out));
    assert_eq!(out[0], receipt(1, Outcome::Dropped(DropReason::Offline)));
    assert_eq!(out.len(), 2);
}

#[test]
fn a_missing_payload_holds_up_what_is_behind_it() {
    let mut terminal = Terminal::live(V311);
    let mut missing = queued(1, message(QOS1));
    missing.message = None;
    assert_eq!(terminal.queue(missing.clone()), []);
    assert_eq!(terminal.push(2), []);
    assert!(!terminal.session.has_waiting());
    let payload = Some(message(QOS1));
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
        let mut page: Vec<_> = ids.iter().map(|id| queued(*id, message(QOS1))).collect();
        page[0].dup = true;
        page
    };
    let out = terminal.answer(|session, at, out| session.handle_owed(at, page(&[3, 5]), false, out));
    assert_eq!(deliveries(&out).iter().map(|delivery| delivery.dup).collect::<Vec<_>>(), [true, false]);
    assert_eq!(out.last(), Some(&Action::Pull { after: ordinary(5), max: OWED_PER_PULL_MAX as u16 }));
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
        matches!(out.last(), Some(Action::Pull { after, .. }) if *after == ordinary(count)),
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
    assert!(matches!(&out[..], [Action::Pull { after: After { ordinary: PushId(4), .. }, .. }]));
}

#[test]
fn a_session_bound_by_the_last_word_of_a_lost_link_pulls_on_the_next() {
    // Its first pull was asked for when there was no link any more: no answer comes.
    let mut terminal = Terminal::bound(connect(V311), bound());
    let out = terminal.answer(|session, _, out| session.link_ready(out));
    assert!(matches!(&out[..], [Action::Pull { after: After { ordinary: PushId(0), .. }, .. }]), "{out:?}");
}

/// Section 3.3.2.3.3: an absent Message Expiry Interval says that the message does not expire.
#[test]
fn a_message_whose_publisher_named_no_expiry_goes_without_one() {
    let mut terminal = Terminal::live(V5);
    for (id, tells_expiry) in [(1, true), (2, false)] {
        let message = Message { tells_expiry, ..(*message(QOS1)).clone() };
        let expires_at_ms = Some(terminal.now + 5_000);
        let out = terminal.queue(Queued { expires_at_ms, ..queued(id, Arc::new(message)) });
        let expiry = out.iter().filter_map(|action| match action {
            Action::Deliver(delivery) => Some(delivery.expiry_s),
            _ => None,
        });
        assert_eq!(expiry.collect::<Vec<_>>(), [tells_expiry.then_some(5)]);
    }
}
