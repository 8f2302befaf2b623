use super::*;

fn retained(topic: &str) -> Message {
    Message { retain: true, ..published(topic, Qos::AtLeastOnce) }
}

fn keep(topic: &str, ttl_ms: Option<u64>) -> PublishBody {
    PublishBody::Retain { message: retained(topic), ttl_ms }
}

/// The topics of a page, and where it goes on.
fn ask(
    w: &mut World,
    link: LinkId,
    filter: &str,
    upto: u64,
    after: Option<&str>,
) -> (Vec<String>, Option<String>) {
    let after = after.map(str::to_owned);
    let ask = RetainedAsk { app: APP, filter: filter.to_owned(), upto, after };
    w.request(link, SessionRequestBody::Retained(ask));
    match w.reply(link) {
        SessionReplyBody::Retained { messages, next } => {
            (messages.into_iter().map(|m| m.message.topic).collect(), next)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_subscription_is_shown_what_was_kept_before_it_and_gets_the_rest_live() {
    let mut w = World::new();
    let a = w.link_edge(1);
    assert_eq!(w.publish(a, keep("news/1", None)), Ok(PublishOutcome::Accepted));
    let mut client = w.connect(a, w.bind("guest"));
    let (_, index) = w.subscribe(&mut client, "news/#", Qos::AtLeastOnce);
    w.take(a);
    let push = PublishBody::Push { message: retained("news/2"), ttl_ms: None, exchange: None };
    assert_eq!(w.publish(a, push), Ok(PublishOutcome::Accepted));
    assert_eq!(deliveries(&w.take(a)).len(), 1, "live");
    assert_eq!(ask(&mut w, a, "news/#", index, None), (vec!["news/1".to_owned()], None));
    let all = vec!["news/1".to_owned(), "news/2".to_owned()];
    assert_eq!(ask(&mut w, a, "news/#", u64::MAX, None), (all, None));
}

#[test]
fn many_retained_messages_come_page_by_page() {
    let mut w = World::new();
    let a = w.link_edge(1);
    for n in 0..300 {
        w.publish(a, keep(&format!("news/{n:03}"), None)).expect("kept");
    }
    let (first, next) = ask(&mut w, a, "news/+", u64::MAX, None);
    assert!(next.is_some() && first.len() < 300);
    let (rest, end) = ask(&mut w, a, "news/+", u64::MAX, next.as_deref());
    assert_eq!((first.len() + rest.len(), end), (300, None));
}

#[test]
fn a_retained_publish_over_the_quota_is_refused() {
    let mut w = World::with(TablesOptions { retained_max: 1, ..TablesOptions::default() });
    let a = w.link_edge(1);
    assert_eq!(w.publish(a, keep("news/1", None)), Ok(PublishOutcome::Accepted));
    assert_eq!(w.publish(a, keep("news/2", None)), Err(RefuseReason::Quota));
    let push = PublishBody::Push { message: retained("news/2"), ttl_ms: None, exchange: None };
    assert_eq!(w.publish(a, push), Err(RefuseReason::Quota));
}

#[test]
fn a_retained_message_is_removed_when_its_time_is_over_and_without_one_never() {
    let mut w = World::new();
    let a = w.link_edge(1);
    w.publish(a, keep("news/1", Some(5_000))).expect("kept");
    let forever = PublishBody::Push { message: retained("news/2"), ttl_ms: None, exchange: None };
    w.publish(a, forever).expect("kept");
    w.pass(4_000);
    assert_eq!(w.tables.retained_len(APP), 2);
    w.pass(1_000);
    assert_eq!(w.tables.retained_len(APP), 1);
    w.pass(10_000_000);
    assert_eq!(ask(&mut w, a, "#", u64::MAX, None).0, ["news/2"]);
}

#[test]
fn an_app_that_is_not_there_has_nothing_to_ask_for() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let ask = RetainedAsk { app: AppId(99), filter: "#".to_owned(), upto: u64::MAX, after: None };
    w.request(a, SessionRequestBody::Retained(ask));
    assert_eq!(w.reply(a), SessionReplyBody::Refused(RefuseReason::NotAuthorized));
}
