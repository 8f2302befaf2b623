//! Retained messages for new subscriptions (sections 3.3.1.3, 3.8.3.1, 3.8.4).

use std::sync::Arc;

use super::support::*;

type Page = Result<(Vec<Kept<Arc<Message>>>, Option<String>), RefuseReason>;

const ID: u64 = 5;

fn kept(topic: &str, qos: Qos) -> Kept<Arc<Message>> {
    let message = Arc::new(Message { retain: true, ..(*message_on(topic, qos)).clone() });
    Kept { id: PushId::retained(ID), message, expires_at_ms: None }
}

fn page(terminal: &mut Terminal, request: RequestNo, page: Page) -> Vec<Out> {
    terminal.answer(|session, at, out| session.handle_retained(at, request, page, out))
}

/// What is asked for: the filter, up to where, and behind which topic.
fn asks(out: &[Out]) -> Vec<(&str, u64, Option<&str>)> {
    let mut found = Vec::new();
    for action in out {
        if let Action::Retained { filter, upto, after, .. } = action {
            found.push((&**filter, *upto, after.as_deref()));
        }
    }
    found
}

fn asked(out: &[Out]) -> RequestNo {
    let found = out.iter().find_map(|action| match action {
        Action::Retained { request, .. } => Some(*request),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("nothing asked for in {out:?}"))
}

fn plain(filter: &str, qos: Qos) -> Vec<SubscribeFilter> {
    vec![subscription(filter, qos, SubscriptionOptions::default())]
}

fn handling(retain_handling: u8) -> Vec<SubscribeFilter> {
    vec![subscription("news/+", QOS1, SubscriptionOptions { retain_handling, ..Default::default() })]
}

/// [MQTT-3.3.1-8], [MQTT-3.8.4-4], [MQTT-3.8.4-8]: RETAIN 1, at most the granted QoS, with the identifier.
#[test]
fn a_new_subscription_gets_what_was_kept() {
    let mut terminal = Terminal::passing(V5);
    let options = SubscriptionOptions { identifier: Some(8), ..SubscriptionOptions::default() };
    let out = terminal.subscribed(vec![subscription("news/+", QOS1, options)]);
    assert_eq!(asks(&out), [("news/+", changed().index, None)]);
    let suback = out.iter().position(|action| matches!(action, Action::Send(Packet::SubAck(_))));
    assert!(suback < out.iter().position(|action| matches!(action, Action::Retained { .. })));
    let messages = vec![kept("news/a", QOS0), kept("news/b", QOS1), kept("news/c", QOS2)];
    let out = page(&mut terminal, asked(&out), Ok((messages, None)));
    let qos: Vec<_> = deliveries(&out).iter().map(|delivery| delivery.qos).collect();
    assert_eq!(qos, [QOS0, QOS1, QOS1]);
    for delivery in deliveries(&out) {
        assert!(delivery.retain && !delivery.dup && *delivery.subscription_ids == [8]);
    }
    assert!(receipts(&out).is_empty(), "retained messages are no pushes");
    assert_eq!(terminal.puback(1), []);
    assert_eq!(terminal.session.in_flight().count(), 0);
}

/// [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11].
#[test]
fn retain_handling_says_whether_it_is_sent() {
    for (retain_handling, first, again) in [(0, 1, 1), (1, 1, 0), (2, 0, 0)] {
        let mut terminal = Terminal::passing(V5);
        let out = terminal.subscribed(handling(retain_handling));
        assert_eq!(asks(&out).len(), first, "Retain Handling {retain_handling}");
        if first == 1 {
            page(&mut terminal, asked(&out), Ok((Vec::new(), None)));
        }
        let out = terminal.subscribed(handling(retain_handling));
        assert_eq!(asks(&out).len(), again, "Retain Handling {retain_handling}, again");
    }
}

#[test]
fn the_next_page_is_asked_for_when_the_last_is_written() {
    let mut terminal = Terminal::passing(V5);
    let out = terminal.subscribed(plain("#", QOS0));
    terminal.room = 0;
    let more = Some("news/b".to_owned());
    let messages = vec![kept("news/a", QOS0), kept("news/b", QOS0)];
    assert_eq!(page(&mut terminal, asked(&out), Ok((messages, more))), [], "it does not read");
    terminal.room = ROOM;
    let out = terminal.writable();
    assert_eq!((deliveries(&out).len(), asks(&out)), (2, vec![("#", u64::MAX, Some("news/b"))]));
    let out = page(&mut terminal, asked(&out), Ok((vec![kept("news/c", QOS0)], None)));
    assert_eq!((deliveries(&out).len(), asks(&out).len()), (1, 0));
}

#[test]
fn several_subscriptions_get_theirs_one_after_the_other() {
    let mut terminal = Terminal::live_with(connect(V311), bound_clean());
    let filters =
        [("a", QOS0), ("b", QOS0)].map(|(filter, qos)| subscription(filter, qos, Default::default()));
    let out = terminal.subscribed(filters.into());
    assert_eq!(
        asks(&out),
        [("a", u64::MAX, None)],
        "kept by this edge alone: nothing comes live from the log"
    );
    let out = page(&mut terminal, asked(&out), Ok((Vec::new(), None)));
    assert_eq!(asks(&out), [("b", u64::MAX, None)]);
}

/// [MQTT-3.3.2-5], [MQTT-3.3.2-6].
#[test]
fn what_expired_meanwhile_is_not_sent_and_the_rest_says_what_is_left() {
    let mut terminal = Terminal::passing(V5);
    let out = terminal.subscribed(plain("#", QOS0));
    terminal.now = 10_000;
    let expiring = |at_ms| Kept { expires_at_ms: Some(at_ms), ..kept("a", QOS0) };
    let out = page(&mut terminal, asked(&out), Ok((vec![expiring(10_000), expiring(12_000)], None)));
    assert_eq!(deliveries(&out).iter().map(|delivery| delivery.expiry_s).collect::<Vec<_>>(), [Some(2)]);
}

/// [MQTT-3.8.3-3].
#[test]
fn no_local_leaves_out_what_the_terminal_kept_itself() {
    let mut terminal = Terminal::passing(V5);
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    let out = terminal.subscribed(vec![subscription("#", QOS0, options)]);
    let own = Arc::new(Message { publisher: terminal.session.no(), ..(*message(QOS0)).clone() });
    let out = page(
        &mut terminal,
        asked(&out),
        Ok((vec![Kept { message: own, ..kept("a", QOS0) }, kept("a", QOS0)], None)),
    );
    assert_eq!(deliveries(&out).len(), 1);
}

/// Where the session outlives its connection the packet id is recorded, though there is no push: a terminal must not
/// take another message for a repetition of this one.
#[test]
fn qos_2_is_recorded_by_the_id_of_what_is_kept() {
    let mut terminal = Terminal::live(V5);
    let out = terminal.subscribed(plain("#", QOS2));
    let no = terminal.session.no().unwrap();
    let out = page(&mut terminal, asked(&out), Ok((vec![kept("a", QOS2)], None)));
    assert_eq!(steps(&out)[0].1, Step::Begin { push: PushId::retained(ID), target: no });
    let out = terminal.recorded(step(&out));
    assert_eq!((packet_ids(&out), deliveries(&out)[0].retain), (vec![1], true));
    let out = terminal.pubrec(1);
    assert!(receipts(&out).is_empty());
    terminal.recorded(step(&out));
    assert_eq!(steps(&terminal.pubcomp(1)), [(1, Step::Complete, None)]);
}

/// What an earlier connection had in flight of it.
fn in_flight(packet_id: u16, stage: OutboundStage) -> Outbound {
    Outbound { packet_id, push: PushId::retained(ID), target: NO, stage, expires_at_ms: None }
}

/// [MQTT-4.4.0-1]: with its packet id, DUP, and RETAIN as it was.
#[test]
fn a_retained_message_that_was_not_acknowledged_is_sent_again() {
    let mut terminal = Terminal::live(V5);
    let out = terminal.subscribed(plain("#", QOS1));
    page(&mut terminal, asked(&out), Ok((vec![kept("a", QOS1)], None)));
    let no = terminal.session.no().unwrap();
    let left = Unacknowledged { packet_id: 1, push: PushId::retained(ID), target: no };
    assert_eq!(closed(&terminal.lose()).unacknowledged, [left]);
    for (stage, qos) in [(OutboundStage::Sent, QOS1), (OutboundStage::Begun, QOS2)] {
        let mut terminal = Terminal::opened(connect(V5), grant());
        let again = Queued { dup: true, ..queued(PushId::retained(ID).0, kept("a", qos).message) };
        let out = terminal.resume(Bound { outbound: vec![in_flight(3, stage)], ..bound() }, vec![again]);
        let [delivery] = deliveries(&out)[..] else { panic!("{out:?}") };
        assert!(delivery.dup && delivery.retain && (delivery.packet_id, delivery.qos) == (3, qos));
        let out = if qos == QOS1 { terminal.puback(3) } else { terminal.pubrec(3) };
        assert!(receipts(&out).is_empty(), "retained messages are no pushes");
    }
}

/// What replaced it came live. A terminal that knows its packet id is told to forget it.
#[test]
fn a_retained_message_that_was_replaced_meanwhile_is_not_sent_again() {
    let mut terminal = Terminal::opened(connect(V5), grant());
    let id = PushId::retained(ID).0;
    let missing = Queued { message: None, ..queued(id, message(QOS2)) };
    let outbound = vec![in_flight(3, OutboundStage::Begun)];
    terminal.resume(Bound { outbound, ..bound() }, vec![missing]);
    let out = terminal.payload(id, None);
    assert!(matches!(sent(&out)[..], [Packet::PubRel(Ack { packet_id: 3, .. })]), "{out:?}");
}

#[test]
fn a_subscription_that_was_given_up_gets_no_more() {
    let mut terminal = Terminal::live_with(connect(V311), bound_clean());
    let asking = terminal.subscribed(plain("a", QOS0));
    terminal.send(unsubscribe(1, &["a"]));
    assert_eq!(page(&mut terminal, asked(&asking), Ok((vec![kept("a", QOS0)], None))), []);
}

#[test]
fn without_a_leader_the_page_is_asked_for_again_when_there_is_one() {
    let mut terminal = Terminal::passing(V5);
    let first = asked(&terminal.subscribed(plain("a", QOS0)));
    terminal.session.link_lost();
    assert_eq!(page(&mut terminal, first, Err(RefuseReason::Unavailable)), []);
    let out = terminal.answer(|session, _, out| session.link_ready(out));
    assert_eq!(asks(&out).len(), 1);
    assert_eq!(page(&mut terminal, first, Ok((vec![kept("a", QOS0)], None))), [], "an old answer");
    let out = page(&mut terminal, asked(&out), Ok((vec![kept("a", QOS0)], None)));
    assert_eq!(deliveries(&out).len(), 1);
}
