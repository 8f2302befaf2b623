use super::*;

#[test]
fn a_receipt_is_answered_only_once_it_is_committed() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let push = w.push_to(&["tv-1"]);
    w.take(a);
    w.commits = false;
    w.receipt(a, 1, push, nos[0], Outcome::Delivered);
    assert!(w.take(a).is_empty(), "not committed yet");
    let (token, command) = w.held.pop().expect("a proposal");
    let applied = w.commit(command);
    w.event(Event::Applied(token, Ok(applied)));
    assert!(matches!(w.take(a)[..], [Sent::Committed(Committed { seq: 1 })]));
}

#[test]
fn a_subscription_lends_an_anonymous_client_a_number_and_makes_it_an_audience() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let bound = w.online(a, "guest");
    assert_eq!(bound.no, None);
    let subscription =
        Subscription { filter: "news".to_owned(), qos: Qos::AtLeastOnce, options: Default::default() };
    let subscribe = Subscribe {
        seq: 1,
        app: APP,
        terminal: terminal("guest"),
        epoch: bound.epoch,
        connection: 1,
        subscriptions: vec![subscription],
    };
    w.request(a, SessionRequestBody::Subscribe(subscribe));
    let sent = w.take(a);
    let [Sent::Session(SessionReply { body: SessionReplyBody::Changed { no, .. }, .. })] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert!(!no.is_registered());
    w.pull(a, *no, bound.epoch, PushId(0));
    w.push(Audience::Topic, Qos::AtLeastOnce);
    assert_eq!(deliveries(&w.take(a))[0].targets, TerminalSet::one(*no));
}

#[test]
fn a_late_subscribe_of_an_old_connection_is_refused_and_leaves_no_gap() {
    let mut w = World::new();
    w.register(&["tv-1"]);
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    let old = w.online(a, "tv-1");
    w.event(Event::LinkClosed(a));
    w.online(b, "tv-1");
    let again = LinkId(4_711);
    w.hello(again, 1);
    w.event(Event::Control(again, EdgeControl::ResumeDone));
    w.take(again);
    let subscribe = |seq| Subscribe {
        seq,
        app: APP,
        terminal: terminal("tv-1"),
        epoch: old.epoch,
        connection: 1,
        subscriptions: vec![Subscription {
            filter: "news".to_owned(),
            qos: Qos::AtLeastOnce,
            options: Default::default(),
        }],
    };
    for seq in 1..=2 {
        w.request(again, SessionRequestBody::Subscribe(subscribe(seq)));
        let sent = w.take(again);
        assert!(
            matches!(&sent[..], [Sent::Session(SessionReply { body: SessionReplyBody::Refused(_), .. })]),
            "{sent:?}"
        );
    }
}
