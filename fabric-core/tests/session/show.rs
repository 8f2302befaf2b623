//! Messages without status, and what subscriptions make of a message (sections 3.3.4, 3.8.3).

use super::support::*;

#[test]
fn a_message_without_status_is_shown_once_or_dropped() {
    let mut terminal = Terminal::live_with(connect(V311), bound_clean());
    terminal.send(subscribe(1, &[("news/#", QOS0)]));
    let news = message(QOS0);
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
        subscription("news/#", QOS0, options(Some(11), true)),
        subscription("+/today", QOS0, options(Some(12), true)),
        subscription("other", QOS0, options(Some(13), false)),
    ];
    terminal.subscribed(filters);
    let news = message(QOS0);
    let (at, mut out) = (terminal.at(), Vec::new());
    let shown = terminal.session.show(at, &news, false, Matching::Any, None, &mut out);
    assert_eq!((shown, &*deliveries(&out)[0].subscription_ids), (Shown::Delivered, &[11, 12][..]));
    assert_eq!(
        terminal.session.show(at, &news, true, Matching::Any, None, &mut Vec::new()),
        Shown::NotWanted
    );
}

#[test]
fn a_topic_push_carries_the_identifiers_of_its_subscriptions_and_an_identity_push_none() {
    let options = SubscriptionOptions { identifier: Some(5), ..SubscriptionOptions::default() };
    let subscriptions = vec![Subscription { options, ..replicated("news/+", QOS1) }];
    let mut terminal = Terminal::live_with(connect(V5), Bound { subscriptions, ..bound() });
    assert_eq!(&*deliveries(&terminal.push(1))[0].subscription_ids, [5]);
    let identity = Message { kind: PushKind::Identity, ..(*message(QOS1)).clone() };
    let out = terminal.queue(queued(2, identity.into()));
    assert!(deliveries(&out)[0].subscription_ids.is_empty());
}

/// [MQTT-3.3.1-12], [MQTT-3.3.1-13].
#[test]
fn retain_is_kept_as_published_where_the_subscription_asks() {
    let kept: std::sync::Arc<Message> = Message { retain: true, ..(*message(QOS0)).clone() }.into();
    for (retain_as_published, retain) in [(false, false), (true, true)] {
        let options = SubscriptionOptions { retain_as_published, ..SubscriptionOptions::default() };
        let subscriptions = vec![Subscription { options, ..replicated("news/+", QOS1) }];
        let mut terminal = Terminal::live_with(connect(V5), Bound { subscriptions, ..bound() });
        let out = terminal.queue(queued(1, kept.clone()));
        assert_eq!(deliveries(&out)[0].retain, retain);
        let out = terminal.queue(queued(2, message(QOS0)));
        assert!(!deliveries(&out)[0].retain, "it was not published with RETAIN");
        let (at, mut out) = (terminal.at(), Vec::new());
        terminal.session.show(at, &kept, false, Matching::Any, None, &mut out);
        assert_eq!(deliveries(&out)[0].retain, retain);
    }
}

/// [MQTT-3.3.4-2]: one delivery, with the identifiers of all that match.
#[test]
fn a_push_that_comes_with_its_status_is_not_shown_beside_it() {
    let mut terminal = Terminal::live_with(connect(V5), bound_clean());
    terminal.subscribed(vec![subscription("news/#", QOS0, Default::default())]);
    let out = terminal.send(subscribe(2, &[("news/today", QOS1)]));
    terminal.changed(&out);
    let at = terminal.at();
    let mut show = |topic| {
        terminal.session.show(
            at,
            &message_on(topic, QOS1),
            false,
            Matching::BestEffort,
            None,
            &mut Vec::new(),
        )
    };
    assert_eq!(show("news/today"), Shown::NotWanted);
    assert_eq!(show("news/old"), Shown::Delivered);
}

/// [MQTT-3.8.3-3]: pushes name their publisher.
#[test]
fn a_push_of_its_own_is_not_shown_with_no_local() {
    let options =
        SubscriptionOptions { no_local: true, identifier: Some(1), ..SubscriptionOptions::default() };
    let plain = SubscriptionOptions { identifier: Some(2), ..SubscriptionOptions::default() };
    let subscriptions = vec![
        Subscription { options, ..replicated("news/+", QOS2) },
        Subscription { options: plain, ..replicated("news/#", QOS1) },
    ];
    let mut terminal = Terminal::live_with(connect(V5), Bound { subscriptions, ..bound() });
    let own = Message { publisher: Some(NO), ..(*message(QOS2)).clone() };
    let out = terminal.queue(queued(1, own.into()));
    let delivery = deliveries(&out)[0];
    assert_eq!(
        (delivery.qos, &*delivery.subscription_ids),
        (QOS1, &[2][..]),
        "as if the other were not there"
    );
}
