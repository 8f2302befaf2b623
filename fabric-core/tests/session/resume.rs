//! A session that goes on where an earlier connection left it (section 4.4).

use std::sync::Arc;

use super::support::*;

fn outbound(packet_id: u16, push: u64, stage: OutboundStage) -> Outbound {
    Outbound { packet_id, push: PushId(push), target: NO, stage, expires_at_ms: None }
}

/// A terminal with these deliveries under way, and what it is sent at once.
fn resumed(connect: Connect, under_way: Vec<(Outbound, Queued<Arc<Message>>)>) -> (Terminal, Vec<Out>) {
    let (outbound, queued) = under_way.into_iter().unzip();
    let mut terminal = Terminal::opened(connect, grant());
    let out = terminal.resume(Bound { session_present: true, outbound, ..bound() }, queued);
    (terminal, out)
}

/// [MQTT-4.4.0-1], [MQTT-3.3.1-1], [MQTT-4.6.0-1]: with the packet ids it had, in the order it was first sent.
#[test]
fn what_was_not_acknowledged_is_sent_again() {
    let (mut terminal, out) = resumed(
        connect(V311),
        vec![
            (outbound(9, 3, OutboundStage::Received), identity(3, QOS2)),
            (outbound(4, 1, OutboundStage::Sent), identity(1, QOS1)),
            (outbound(2, 2, OutboundStage::Begun), identity(2, QOS2)),
        ],
    );
    assert!(connack(&out).session_present);
    assert!(matches!(sent(&out)[..], [Packet::ConnAck(_), Packet::PubRel(Ack { packet_id: 9, .. })]));
    let again: Vec<_> =
        deliveries(&out).iter().map(|delivery| (delivery.packet_id, delivery.qos, delivery.dup)).collect();
    assert_eq!(again, [(4, QOS1, true), (2, QOS2, true)]);
    assert_eq!(terminal.puback(4), [receipt(1, Outcome::Delivered)]);
    let received = terminal.pubrec(2);
    assert_eq!(steps(&received)[0].1, Step::Receive);
    assert_eq!(steps(&terminal.pubcomp(9)), [(9, Step::Complete, None)]);
}

#[test]
fn what_goes_on_is_not_queued_again() {
    let (mut terminal, _) =
        resumed(connect(V5), vec![(outbound(4, 5, OutboundStage::Sent), identity(5, QOS1))]);
    let page = vec![identity(5, QOS1), identity(6, QOS1)];
    let out = terminal.answer(|session, at, out| session.handle_owed(at, page, true, out));
    assert_eq!(deliveries(&out).len(), 1);
    assert_eq!(terminal.session.after(), PushId(6));
    let in_flight: Vec<_> = terminal.session.in_flight().collect();
    assert_eq!(in_flight, [(PushId(5), None), (PushId(6), None)]);
}

#[test]
fn what_went_on_and_is_acknowledged_is_not_queued_again_while_its_receipt_is_under_way() {
    let (mut terminal, _) =
        resumed(connect(V311), vec![(outbound(4, 5, OutboundStage::Sent), identity(5, QOS1))]);
    assert_eq!(terminal.puback(4), [receipt(5, Outcome::Delivered)]);
    // A leader that does not know of the receipt yet still calls it owed; so does the next one.
    for live in [false, true] {
        let page = vec![identity(5, QOS1)];
        let out = terminal.answer(|session, at, out| session.handle_owed(at, page, live, out));
        assert!(deliveries(&out).is_empty(), "{out:?}");
    }
    assert_eq!(deliveries(&terminal.push(6)).len(), 1);
}

/// Section 4.9: the new connection's Receive Maximum holds for what is sent again too.
#[test]
fn a_smaller_window_is_kept() {
    let connect = connect_with(|properties| properties.receive_maximum = Some(1));
    let under_way =
        (1..=3).map(|id| (outbound(id, id.into(), OutboundStage::Sent), identity(id.into(), QOS1)));
    let (mut terminal, out) = resumed(connect, under_way.collect());
    assert_eq!(packet_ids(&out), [1]);
    assert_eq!(packet_ids(&terminal.puback(1)), [2]);
    assert_eq!(packet_ids(&terminal.puback(2)), [3]);
}

#[test]
fn a_payload_that_is_not_here_holds_up_what_is_behind_it() {
    let missing = |id| Queued { message: None, ..identity(id, QOS2) };
    let (mut terminal, out) = resumed(
        connect(V5),
        vec![
            (outbound(1, 1, OutboundStage::Begun), missing(1)),
            (outbound(2, 2, OutboundStage::Sent), identity(2, QOS1)),
        ],
    );
    assert_eq!(deliveries(&out).len(), 0);
    let out = terminal.payload(1, Some(message(QOS2)));
    assert_eq!(packet_ids(&out), [1, 2]);
}

/// Nothing can be sent again; the exchange is ended so that its packet id becomes free.
#[test]
fn a_payload_that_is_gone_ends_its_exchange() {
    let missing = |id| Queued { message: None, ..identity(id, QOS2) };
    let (mut terminal, _) = resumed(
        connect(V5),
        vec![
            (outbound(1, 1, OutboundStage::Begun), missing(1)),
            (outbound(2, 2, OutboundStage::Sent), missing(2)),
        ],
    );
    assert_eq!(terminal.payload(1, None), [Action::Send(Packet::PubRel(ack(1)))]);
    assert_eq!(terminal.payload(2, None), []);
    assert_eq!(steps(&terminal.pubcomp(1)), [(1, Step::Complete, None)]);
    assert!(closed(&terminal.lose()).unacknowledged.is_empty());
}

#[test]
fn what_was_recalled_meanwhile_is_not_sent_again() {
    let missing = |id| Queued { message: None, ..identity(id, QOS2) };
    let (mut terminal, _) = resumed(
        connect(V5),
        vec![
            (outbound(1, 1, OutboundStage::Begun), missing(1)),
            (outbound(2, 2, OutboundStage::Sent), missing(2)),
        ],
    );
    let out = terminal.withdraw(1);
    assert_eq!((sent(&out), receipts(&out)), (vec![&Packet::PubRel(ack(1))], vec![(1, Outcome::Sent, None)]));
    assert_eq!(terminal.withdraw(2), [receipt(2, Outcome::Sent)]);
}

/// What a connection leaves to the next: QoS 1 in its last, QoS 2 in the log already.
#[test]
fn the_end_of_a_connection_names_what_qos_1_was_not_acknowledged() {
    let unacknowledged = |packet_id, push| Unacknowledged { packet_id, push: PushId(push), target: NO };
    let mut terminal = Terminal::live(V5);
    terminal.push(1);
    terminal.push(2);
    terminal.queue(identity(3, QOS2));
    terminal.push(4);
    terminal.puback(1);
    let close = closed(&terminal.lose());
    assert_eq!(close.unacknowledged, [unacknowledged(2, 2)], "4 waits behind 3");
    let mut terminal = Terminal::passing(V5);
    terminal.push(1);
    assert!(closed(&terminal.lose()).unacknowledged.is_empty(), "its session ends");
    let missing = Queued { message: None, ..identity(5, QOS1) };
    let (mut terminal, _) = resumed(connect(V5), vec![(outbound(8, 5, OutboundStage::Sent), missing)]);
    assert_eq!(closed(&terminal.lose()).unacknowledged, [unacknowledged(8, 5)], "sent by an earlier one");
    let (mut terminal, _) =
        resumed(connect(V5), vec![(outbound(8, 5, OutboundStage::Sent), identity(5, QOS1))]);
    let bye = Disconnect { session_expiry_s: Some(0), ..Disconnect::default() };
    let out = terminal.send(Packet::Disconnect(Box::new(bye)));
    assert!(closed(&out).unacknowledged.is_empty(), "DISCONNECT ended the session");
}

/// [MQTT-4.3.3-7]: a QoS 2 exchange goes on, and says what is left to live; QoS 1 does not hand out what expired (I3).
#[test]
fn what_has_expired_meanwhile_goes_on_with_qos_2_alone() {
    let mut terminal = Terminal::opened(connect(V5), grant());
    terminal.now = 50_000;
    let outbound = vec![outbound(1, 1, OutboundStage::Begun), outbound(2, 2, OutboundStage::Sent)];
    let expired = |queued| Queued { expires_at_ms: Some(40_000), ..queued };
    let queued = vec![expired(identity(1, QOS2)), expired(identity(2, QOS1))];
    let out = terminal.resume(Bound { outbound, ..bound() }, queued);
    assert_eq!((packet_ids(&out), deliveries(&out)[0].expiry_s), (vec![1], Some(1)));
    assert_eq!(terminal.session.in_flight().count(), 1);
}
