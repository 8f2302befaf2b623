//! Shared subscriptions (section 4.8.2).

use std::sync::Arc;

use super::support::*;

fn options(identifier: u32) -> SubscriptionOptions {
    SubscriptionOptions { identifier: Some(identifier), ..SubscriptionOptions::default() }
}

fn member(identifier: u32) -> Terminal {
    let mut terminal = Terminal::live(V5);
    let filters = vec![
        subscription("$share/g/news/+", QOS2, options(identifier)),
        subscription("news/#", QOS1, options(99)),
    ];
    terminal.subscribed(filters);
    terminal
}

fn withdraw(terminal: &mut Terminal, id: u64) -> Vec<Out> {
    terminal.answer(|session, at, out| session.withdraw(at, PushId(id), Some(GROUP), out))
}

/// A group has members on other edges: it is never kept by this one alone. [MQTT-3.3.1-9] does not hold for it.
#[test]
fn a_shared_subscription_is_always_replicated_and_gets_nothing_retained() {
    let mut terminal = Terminal::live_with(connect(V5), bound_clean());
    let out = terminal.send(subscribe(1, &[("$share/g/a/+", QOS0)]));
    let subscriptions = vec![replicated("$share/g/a/+", QOS0)];
    assert_eq!(out, [Action::Subscribe { request: request(&out), subscriptions }]);
    let out = terminal.changed(&out);
    assert_eq!(codes(&out), [Reason::SUCCESS]);
    let nothing = |action: &Out| !matches!(action, Action::Retained { .. } | Action::Subscribed { .. });
    assert!(out.iter().all(nothing), "{out:?}");
    assert_eq!(terminal.session.subscriptions().collect::<Vec<_>>(), [("$share/g/a/+", false)]);
    let out = terminal.send(unsubscribe(2, &["$share/g/a/+"]));
    assert_eq!(codes(&terminal.changed(&out)), [Reason::SUCCESS]);
}

/// [MQTT-3.8.3-4].
#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    let filters = vec![subscription("$share/g/a", QOS0, options)];
    let out = Terminal::live(V5).send(Packet::Subscribe(Subscribe { packet_id: 1, filters }));
    assert_eq!(disconnected(&out).0, Some(Reason::PROTOCOL_ERROR));
}

#[test]
fn the_permission_is_that_of_the_plain_filter() {
    let mut terminal = Terminal::restricted(V5, permissions(&[], &["a/#"]));
    let out = terminal.send(subscribe(1, &[("$share/g/a/b", QOS1), ("$share/g/b", QOS1)]));
    assert_eq!(codes(&terminal.changed(&out)), [Reason::GRANTED_QOS_1, Reason::NOT_AUTHORIZED]);
}

/// [MQTT-4.8.2-3]: at most the QoS that was granted, with the identifier of that subscription and no other.
#[test]
fn a_delivery_is_that_of_its_subscription() {
    let mut terminal = member(5);
    let granted = |granted| Some(Shared { group: GROUP, granted });
    let out = terminal.queue(Queued { shared: granted(QOS1), ..queued(1, message(QOS2)) });
    let delivery = deliveries(&out)[0];
    assert_eq!((delivery.qos, &*delivery.subscription_ids), (QOS1, &[5][..]));
    let out = terminal.puback(delivery.packet_id);
    assert_eq!(receipts(&out), [(1, Outcome::Delivered, Some(GROUP))]);
    let out = terminal.queue(Queued { shared: granted(QOS0), ..queued(2, message(QOS2)) });
    assert_eq!(receipts(&out), [(2, Outcome::Sent, Some(GROUP))]);
}

/// The same push may come for the terminal and for its group.
#[test]
fn the_groups_push_and_the_terminals_own_are_two() {
    let mut terminal = member(5);
    terminal.push(4);
    let out = terminal.queue(shared(4, QOS1));
    assert_eq!(deliveries(&out).len(), 1);
    assert_eq!(deliveries(&terminal.queue(shared(4, QOS1))).len(), 0, "once");
    assert_eq!(deliveries(&terminal.queue(shared(3, QOS1))).len(), 1, "a group has no order with the rest");
    let in_flight: Vec<_> = terminal.session.in_flight().collect();
    assert_eq!(in_flight, [(PushId(4), None), (PushId(4), Some(GROUP)), (PushId(3), Some(GROUP))]);
}

#[test]
fn a_member_that_cannot_take_it_says_so() {
    let not_written = |id| vec![(id, Outcome::NotWritten, Some(GROUP))];
    let mut behind = Terminal::bound(connect(V5), bound());
    assert_eq!(receipts(&behind.queue(shared(1, QOS1))), not_written(1));
    let mut full = Terminal::live(V5);
    full.room = 0;
    (1..=QUEUED_PER_TERMINAL_MAX as u64).for_each(|id| drop(full.push(id)));
    assert_eq!(receipts(&full.queue(shared(1, QOS1))), not_written(1));
    let mut gone = Terminal::live(V5);
    gone.room = 0;
    gone.queue(shared(1, QOS1));
    assert_eq!(receipts(&gone.lose()), not_written(1), "not written when it left");
}

/// [MQTT-4.8.2-6]: a member's refusal is final.
#[test]
fn a_refused_push_goes_to_nobody_else() {
    let mut terminal = member(5);
    let out = terminal.queue(shared(1, QOS1));
    let packet_id = packet_ids(&out)[0];
    let out = terminal.send(Packet::PubAck(Ack { packet_id, reason: Reason::UNSPECIFIED_ERROR }));
    assert_eq!(receipts(&out), [(1, Outcome::Dropped(DropReason::Refused), Some(GROUP))]);
}

/// [MQTT-4.8.2-4]: QoS 2 stays with its member; QoS 1 is named, and may go to another.
#[test]
fn what_a_member_has_is_recorded_for_its_group() {
    let mut terminal = member(5);
    let out = terminal.queue(shared(1, QOS2));
    assert_eq!(steps(&out)[0].1, Step::Begin { push: PushId(1), target: GROUP });
    terminal.recorded(step(&out));
    terminal.queue(shared(2, QOS1));
    let out = terminal.lose();
    assert!(receipts(&out).is_empty());
    let unacknowledged = Unacknowledged { packet_id: 2, push: PushId(2), target: GROUP };
    assert_eq!(closed(&out).unacknowledged, [unacknowledged]);

    let mut terminal = Terminal::opened(connect(V5), grant());
    let stage = OutboundStage::Begun;
    let outbound =
        vec![Outbound { packet_id: 1, push: PushId(1), target: GROUP, stage, expires_at_ms: None }];
    let again = Queued { dup: true, ..shared(1, QOS2) };
    let out = terminal.resume(Bound { outbound, ..bound() }, vec![again]);
    assert_eq!((packet_ids(&out), deliveries(&out)[0].dup), (vec![1], true));
    let out = terminal.pubrec(1);
    assert_eq!(receipts(&out), [(1, Outcome::Delivered, Some(GROUP))]);
}

#[test]
fn a_recall_names_the_group() {
    let mut terminal = member(5);
    terminal.room = 0;
    terminal.queue(shared(1, QOS1));
    assert_eq!(receipts(&withdraw(&mut terminal, 1)), [(1, Outcome::NotWritten, Some(GROUP))]);
    assert_eq!(receipts(&withdraw(&mut terminal, 9)), [(9, Outcome::NotWritten, Some(GROUP))]);
}

#[test]
fn a_qos_0_message_is_shown_to_the_member_that_was_chosen() {
    let terminal = &mut member(5);
    let (at, mut out) = (terminal.at(), Vec::new());
    let news: Arc<Message> = message(QOS0);
    let shown = terminal.session.show(at, &news, false, Matching::Shared, None, &mut out);
    assert_eq!((shown, &*deliveries(&out)[0].subscription_ids), (Shown::Delivered, &[5][..]));
    let shown =
        terminal.session.show(at, &message_on("other", QOS0), false, Matching::Shared, None, &mut out);
    assert_eq!(shown, Shown::NotWanted);
    out.clear();
    terminal.session.show(at, &news, false, Matching::Any, None, &mut out);
    assert_eq!(*deliveries(&out)[0].subscription_ids, [99], "and to plain subscriptions without the group");
}
