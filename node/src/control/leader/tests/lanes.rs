use cluster_proto::{
    AppReceipt,
    link::{AppReceipts, PushName},
};

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
    let mut guest = w.connect(a, w.bind("guest"));
    assert_eq!(guest.bound.no, None);
    let (no, _) = w.subscribe(&mut guest, "news", Qos::AtLeastOnce);
    assert!(!no.is_registered());
    w.push_news(Qos::AtLeastOnce);
    assert_eq!(deliveries(&w.take(a))[0].targets, TerminalSet::one(no));
}

#[test]
fn a_client_that_is_lent_its_old_number_again_is_reached() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let mut guest = w.connect(a, w.bind("guest"));
    let (before, _) = w.subscribe(&mut guest, "news", Qos::AtLeastOnce);
    // While a push is kept, the number stays with the name.
    w.push_news(Qos::AtLeastOnce);
    w.unbind(&guest, 0);
    let mut guest = w.connect(a, w.bind("guest"));
    assert_eq!(guest.bound.no, None);
    let (no, _) = w.subscribe(&mut guest, "news", Qos::AtLeastOnce);
    assert_eq!(no, before);
    w.take(a);
    w.push_news(Qos::AtLeastOnce);
    assert_eq!(deliveries(&w.take(a))[0].targets, TerminalSet::one(no));
}

#[test]
fn a_late_subscribe_of_an_old_connection_is_refused_and_leaves_no_gap() {
    let mut w = World::new();
    w.register(&["tv-1"]);
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    let old = w.connect(a, w.bind("tv-1"));
    w.event(Event::LinkClosed(a));
    w.online(b, "tv-1");
    let again = w.relink(1, Vec::new(), Vec::new());
    let subscription =
        Subscription { filter: "news".to_owned(), qos: Qos::AtLeastOnce, options: Default::default() };
    let subscribe = |seq| Subscribe {
        seq,
        app: APP,
        terminal: terminal("tv-1"),
        epoch: old.bound.epoch,
        connection: 1,
        subscriptions: vec![subscription.clone()],
    };
    for seq in 1..=2 {
        w.request(again, SessionRequestBody::Subscribe(subscribe(seq)));
        assert!(matches!(w.reply(again), SessionReplyBody::Refused(_)));
    }
}

fn push_of(message: Message) -> PublishBody {
    PublishBody::Push { message, ttl_ms: None, exchange: None }
}

#[test]
fn a_publish_says_whether_anybody_subscribes() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let body = || push_of(published("news", Qos::AtLeastOnce));
    assert_eq!(w.publish(a, body()), Ok(PublishOutcome::NoSubscribers));
    let mut guest = w.connect(a, w.bind("guest"));
    w.subscribe(&mut guest, "news", Qos::AtLeastOnce);
    assert_eq!(w.publish(a, body()), Ok(PublishOutcome::Accepted));
    w.unsubscribe(&guest, "news");
    assert_eq!(w.publish(a, body()), Ok(PublishOutcome::NoSubscribers));
    // Whom the edge alone knows is in no audience, and gets it all the same.
    let added = vec![(APP, "news".to_owned(), FilterUse::BestEffort)];
    w.event(Event::Control(a, EdgeControl::Filters(FilterDelta { added, removed: Vec::new() })));
    assert_eq!(w.publish(a, body()), Ok(PublishOutcome::Accepted));
}

#[test]
fn a_report_of_an_application_says_whether_it_counts_on_a_full_disk_too() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2"]);
    let a = w.link_edge(1);
    let push = w.push_to(&["tv-1"]);
    w.leader.set_disk_full(true);
    let report = |no| {
        let pushes = vec![PushName::Id(push)];
        PublishBody::AppReceipts(AppReceipts { app: APP, no, what: AppReceipt::Opened, pushes })
    };
    assert_eq!(w.publish(a, report(nos[0])), Ok(PublishOutcome::Accepted));
    assert_eq!(w.publish(a, report(nos[1])), Ok(PublishOutcome::NoSubscribers), "the push is not for it");
    assert_eq!(w.publish_as(a, 1, report(nos[0])), Ok(PublishOutcome::Accepted), "proposed twice");
    assert_eq!(w.tables.reported_by(push, nos[0]), [AppReceipt::Opened]);
    assert!(w.state_has(push, State::Pending, nos[0]), "it makes nothing delivered");
}

#[test]
fn a_qos_2_publish_sent_again_is_one_push_until_it_is_released() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let mut watcher = w.connect(a, w.bind("watcher"));
    w.subscribe(&mut watcher, "news", Qos::AtLeastOnce);
    let client = w.connect(a, w.lasting("publisher"));
    w.take(a);
    let exchange = Inbound { no: client.no(), connection: client.connection, packet_id: 9 };
    let body = || PublishBody::Push {
        message: published("news", Qos::ExactlyOnce),
        ttl_ms: None,
        exchange: Some(exchange),
    };
    assert_eq!(w.publish(a, body()), Ok(PublishOutcome::Accepted));
    assert_eq!(w.publish(a, body()), Ok(PublishOutcome::Accepted));
    assert_eq!(deliveries(&w.take(a)).len(), 1);
    w.unbind(&client, 60);
    w.request(a, SessionRequestBody::Bind(w.lasting("publisher")));
    let bound = w.bound(a).expect("bound");
    assert_eq!(bound.inbound, [9]);
    let connection = w.tables.session(client.no()).expect("session").connection;
    let exchange = Inbound { connection, ..exchange };
    assert_eq!(w.publish(a, PublishBody::Release(exchange)), Ok(PublishOutcome::Accepted));
    let next = PublishBody::Push {
        message: published("news", Qos::ExactlyOnce),
        ttl_ms: None,
        exchange: Some(exchange),
    };
    assert_eq!(w.publish(a, next), Ok(PublishOutcome::Accepted));
    assert_eq!(deliveries(&w.take(a)).len(), 1);
}

#[test]
fn on_a_full_disk_pushes_are_refused_and_what_frees_something_is_taken() {
    let mut w = World::new();
    let a = w.link_edge(1);
    w.leader.set_disk_full(true);
    let retained = |payload: &'static str| PublishBody::Retain {
        message: Message { retain: true, payload: payload.into(), ..published("news", Qos::AtMostOnce) },
        ttl_ms: None,
    };
    assert_eq!(w.publish(a, push_of(published("news", Qos::AtLeastOnce))), Err(RefuseReason::Quota));
    assert_eq!(w.publish(a, retained("hello")), Err(RefuseReason::Quota));
    assert_eq!(w.publish(a, retained("")), Ok(PublishOutcome::Accepted));
    let exchange = Inbound { no: TerminalNo(1), connection: 1, packet_id: 1 };
    assert_eq!(w.publish(a, PublishBody::Release(exchange)), Ok(PublishOutcome::Accepted));
}

#[test]
fn a_refusal_whose_answer_was_lost_is_a_refusal_when_it_is_asked_again_also_of_another_leader() {
    let mut w = World::with(TablesOptions { retained_max: 1, ..TablesOptions::default() });
    let a = w.link_edge(1);
    let keep = |topic: &str| PublishBody::Push {
        message: Message { retain: true, ..published(topic, Qos::AtLeastOnce) },
        ttl_ms: None,
        exchange: None,
    };
    assert_eq!(w.publish_as(a, 1, keep("one")), Ok(PublishOutcome::NoSubscribers));
    w.commits = false;
    for (seq, topic) in [(2, "two"), (3, "one")] {
        w.event(Event::Publish(a, Publish { seq, terminal: terminal("publisher"), body: keep(topic) }));
    }
    w.event(Event::LinkClosed(a));
    w.commit_held();
    w.commit_held();
    w.commits = true;
    w.change_leader();
    let link = w.relink(1, Vec::new(), Vec::new());
    let welcome = controls(&w.take(link)).into_iter().find_map(|frame| match frame {
        LeaderControl::Welcome(welcome) => Some(welcome.applied),
        _ => None,
    });
    assert!(welcome.expect("welcome").contains(&(Lane::Publish, 1)), "what follows is to be sent again");
    assert_eq!(w.publish_as(link, 2, keep("two")), Err(RefuseReason::Quota));
    assert_eq!(w.publish_as(link, 3, keep("one")), Ok(PublishOutcome::Accepted));
    w.leader.set_disk_full(true);
    assert_eq!(w.publish_as(link, 3, keep("one")), Ok(PublishOutcome::Accepted), "it was accepted then");
    assert_eq!(w.publish_as(link, 4, keep("one")), Err(RefuseReason::Quota));
    w.leader.set_disk_full(false);
    assert_eq!(w.publish_as(link, 4, keep("one")), Err(RefuseReason::Quota), "nor is that forgotten");
}

#[test]
fn a_late_subscribe_sent_again_is_still_refused() {
    let mut w = World::new();
    w.register(&["tv-1"]);
    let a = w.link_edge(1);
    let client = w.connect(a, w.bind("tv-1"));
    w.unbind(&client, 0);
    let subscribe = Subscribe {
        seq: 1,
        app: APP,
        terminal: terminal("tv-1"),
        epoch: client.bound.epoch,
        connection: client.connection,
        subscriptions: Vec::new(),
    };
    for _ in 0..2 {
        w.request(a, SessionRequestBody::Subscribe(subscribe.clone()));
        assert!(matches!(w.reply(a), SessionReplyBody::Refused(_)));
    }
}
