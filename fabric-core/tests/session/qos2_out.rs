//! QoS 2 to the terminal (sections 4.3.3, 4.6, 4.9).

use super::support::*;

const DELIVERED: Outcome = Outcome::Delivered;

fn pubrel(packet_id: u16) -> Out {
    Action::Send(Packet::PubRel(ack(packet_id)))
}

fn begin(push: u64) -> Step {
    Step::Begin { push: PushId(push), target: NO }
}

/// Has a push begun and written; its packet id.
fn written(terminal: &mut Terminal, id: u64) -> u16 {
    let begun = terminal.queue(identity(id, QOS2));
    let out = terminal.recorded(step(&begun));
    match &packet_ids(&out)[..] {
        [packet_id] => *packet_id,
        other => panic!("{other:?}"),
    }
}

/// Each step is on disk before the packet that follows from it ([MQTT-4.3.3-1] to [MQTT-4.3.3-7]).
#[test]
fn each_packet_follows_the_commit_of_its_step() {
    let mut terminal = Terminal::live(V5);
    let out = terminal.queue(identity(1, QOS2));
    assert_eq!(steps(&out), [(1, begin(1), Some(step(&out)))]);
    assert_eq!(out.len(), 1, "no PUBLISH before Begin is recorded");
    let out = terminal.recorded(step(&out));
    assert_eq!(
        (deliveries(&out)[0].qos, deliveries(&out)[0].packet_id, deliveries(&out)[0].dup),
        (QOS2, 1, false)
    );
    let out = terminal.pubrec(1);
    assert_eq!(out[0], receipt(1, DELIVERED));
    assert_eq!(steps(&out), [(1, Step::Receive, Some(step(&out)))]);
    assert_eq!(terminal.pubrec(1), [], "PUBREL is on its way");
    let out = terminal.recorded(step(&out));
    assert_eq!(out, [pubrel(1)]);
    assert_eq!(terminal.pubrec(1), [pubrel(1)], "a repetition");
    let out = terminal.pubcomp(1);
    assert_eq!(out, [Action::Step { request: None, packet_id: 1, step: Step::Complete }]);
    assert_eq!(terminal.session.in_flight().count(), 0);
}

#[test]
fn in_a_session_that_ends_with_its_connection_memory_is_enough() {
    let mut terminal = Terminal::passing(V311);
    let out = terminal.queue(identity(1, QOS2));
    assert_eq!((packet_ids(&out), deliveries(&out)[0].qos), (vec![1], QOS2));
    assert_eq!(terminal.pubrec(1), [receipt(1, DELIVERED), pubrel(1)]);
    assert_eq!(terminal.pubcomp(1), []);
}

/// [MQTT-4.6.0-6]: as many as the window takes are begun ahead, and written in their order all the same.
#[test]
fn commits_overlap_and_the_order_stays() {
    let mut terminal = Terminal::live(V311);
    let first = step(&terminal.queue(identity(1, QOS2)));
    assert_eq!(terminal.push(2), [], "behind it");
    let third = step(&terminal.queue(identity(3, QOS2)));
    assert_eq!(terminal.queue(identity(4, QOS0)), []);
    assert_eq!(terminal.recorded(third), []);
    let out = terminal.recorded(first);
    let order: Vec<_> = deliveries(&out).iter().map(|delivery| delivery.qos).collect();
    assert_eq!(order, [QOS2, QOS1, QOS2, QOS0]);
}

/// [MQTT-3.3.4-9], section 4.9: QoS 2 counts until PUBCOMP, and what is begun ahead counts too.
#[test]
fn no_more_are_begun_than_the_terminal_takes() {
    let connect = connect_with(|properties| properties.receive_maximum = Some(2));
    let mut terminal = Terminal::live_with(connect, bound());
    terminal.room = 0;
    assert_eq!(terminal.push(1), []);
    let second = step(&terminal.queue(identity(2, QOS2)));
    assert_eq!(terminal.queue(identity(3, QOS2)), [], "QoS 1 in front keeps its place");
    terminal.room = ROOM;
    assert_eq!(packet_ids(&terminal.recorded(second)), [2, 1]);
    let out = terminal.puback(2);
    assert_eq!(steps(&out)[0].1, begin(3));
    terminal.recorded(step(&out));
    assert_eq!(terminal.queue(identity(4, QOS2)), []);
    let received = step(&terminal.pubrec(1));
    assert_eq!(terminal.recorded(received), [pubrel(1)]);
    let out = terminal.pubcomp(1);
    assert_eq!((steps(&out)[0].1, steps(&out)[1].1), (Step::Complete, begin(4)));
    assert_eq!(steps(&out)[1].0, 4, "in order behind Complete");
}

/// [MQTT-4.3.3-4]: a PUBREC that refuses ends the exchange.
#[test]
fn a_refusing_pubrec_is_the_end_of_it() {
    let mut terminal = Terminal::live(V5);
    let packet_id = written(&mut terminal, 1);
    let out = terminal.send(Packet::PubRec(Ack { packet_id, reason: Reason::QUOTA_EXCEEDED }));
    assert_eq!(steps(&out), [(packet_id, Step::Complete, None)]);
    assert_eq!(receipts(&out), [(1, Outcome::Dropped(DropReason::Refused), None)]);
    assert!(sent(&out).is_empty(), "no PUBREL");
}

#[test]
fn an_answer_to_nothing_is_answered_where_the_terminal_waits() {
    let mut terminal = Terminal::live(V5);
    let reason = Reason::PACKET_ID_NOT_FOUND;
    assert_eq!(terminal.pubrec(9), [Action::Send(Packet::PubRel(Ack { packet_id: 9, reason }))]);
    assert_eq!(terminal.send(Packet::PubRec(Ack { packet_id: 9, reason: Reason::QUOTA_EXCEEDED })), []);
    assert_eq!(terminal.pubcomp(9), []);
    assert_eq!(terminal.puback(9), []);
}

#[test]
fn an_answer_of_another_qos_is_a_protocol_error() {
    let mut terminal = Terminal::live(V5);
    let packet_id = written(&mut terminal, 1);
    assert_eq!(disconnected(&terminal.puback(packet_id)).0, Some(Reason::PROTOCOL_ERROR));
    let mut terminal = Terminal::live(V5);
    terminal.push(1);
    assert_eq!(disconnected(&terminal.pubrec(1)).0, Some(Reason::PROTOCOL_ERROR));
    let mut terminal = Terminal::live(V5);
    let packet_id = written(&mut terminal, 1);
    assert_eq!(disconnected(&terminal.pubcomp(packet_id)).0, Some(Reason::PROTOCOL_ERROR));
}

/// [MQTT-3.8.4-8]: the highest QoS of the subscriptions that match.
#[test]
fn a_topic_push_is_delivered_with_what_was_granted() {
    let subscriptions = vec![replicated("news/#", QOS1), replicated("news/today", QOS2)];
    let mut terminal = Terminal::live_with(connect(V5), Bound { subscriptions, ..bound() });
    let begun = terminal.queue(queued(1, message(QOS2)));
    assert_eq!(steps(&begun)[0].1, begin(1));
    let out = terminal.recorded(step(&begun));
    assert_eq!(deliveries(&out)[0].qos, QOS2);
    let out = terminal.queue(queued(2, message_on("news/old", QOS2)));
    assert_eq!(deliveries(&out)[0].qos, QOS1);
    let out = terminal.queue(Queued { qos0: true, ..queued(3, message(QOS2)) });
    assert_eq!(deliveries(&out)[0].qos, QOS0);
}

#[test]
fn a_recall_takes_back_what_was_not_written() {
    let mut terminal = Terminal::live(V5);
    terminal.room = 0;
    let request = step(&terminal.queue(identity(1, QOS2)));
    let out = terminal.withdraw(1);
    assert_eq!(steps(&out), [(1, Step::Complete, None)]);
    assert_eq!(receipts(&out), [(1, Outcome::NotWritten, None)]);
    terminal.room = ROOM;
    assert_eq!(terminal.recorded(request), []);
    let packet_id = written(&mut terminal, 2);
    assert_eq!(terminal.withdraw(2), [], "answered when it is known");
    assert_eq!(receipts(&terminal.pubrec(packet_id)), [(2, DELIVERED, None)]);
    assert_eq!(terminal.withdraw(2), [], "and it was");
}

#[test]
fn what_expires_or_is_too_large_is_not_begun_or_given_up() {
    let connect = connect_with(|properties| properties.packet_len_max = Some(40));
    let mut terminal = Terminal::live_with(connect, bound());
    let payload = vec![0; 90].into();
    let large = Message { payload, kind: PushKind::Identity, ..(*message(QOS2)).clone() };
    assert_eq!(terminal.queue(queued(1, large.into())), [receipt(1, Outcome::Dropped(DropReason::TooLarge))]);
    let short = Queued { expires_at_ms: Some(10), ..identity(2, QOS2) };
    let request = step(&terminal.queue(short));
    terminal.now = 10;
    let out = terminal.recorded(request);
    assert_eq!(out, [Action::Step { request: None, packet_id: 1, step: Step::Complete }], "no receipt (I3)");
}

#[test]
fn what_turns_out_too_large_makes_room_for_the_next() {
    let mut connect = connect_with(|properties| properties.packet_len_max = Some(24));
    connect.properties.receive_maximum = Some(1);
    let options = SubscriptionOptions { identifier: Some(268_435_455), ..SubscriptionOptions::default() };
    let subscriptions = vec![Subscription { options, ..replicated("news/today", QOS2) }];
    let mut terminal = Terminal::live_with(connect, Bound { subscriptions, ..bound() });
    let first = step(&terminal.queue(queued(1, message(QOS2))));
    assert_eq!(terminal.queue(identity(2, QOS2)), []);
    let out = terminal.recorded(first);
    assert_eq!(receipts(&out), [(1, Outcome::Dropped(DropReason::TooLarge), None)]);
    assert_eq!((steps(&out)[0].1, steps(&out)[1].1), (Step::Complete, begin(2)));
}
