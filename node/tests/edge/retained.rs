//! Retained messages.

use std::fmt::Write as _;

use super::{Fixture, support::leader::message};
use cluster_proto::{Message, Qos};

/// PUBLISH with QoS 0 and RETAIN.
const RETAINED: u8 = 0x31;

impl Fixture {
    fn keep(&self, count: usize, payload: &str) {
        self.leader.with(|log| {
            for i in 0..count {
                let kept =
                    Message { retain: true, qos: Qos::AtMostOnce, ..message(&format!("r/{i:05}"), payload) };
                log.retained.insert(kept.topic.clone(), kept);
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_right_behind_a_retained_qos_0_message_finds_it() {
    let fixture = Fixture::new().await;
    let mut other = fixture.join("other").await;
    other.subscribe("a/#", 0).await;
    let mut client = fixture.join("tv").await;
    for round in 0..20 {
        // In one piece: nothing waits for anything.
        client.publish_with(RETAINED, &format!("a/{round}"), "x", 0).await;
        client.send_subscribe(&format!("a/{round}"), 1).await;
        assert_eq!(client.next().await.map(|raw| raw.first), Some(0x90));
        let received = client.next_publish().await;
        assert_eq!((received.topic, received.retain), (format!("a/{round}"), true));
        let shown = other.next_publish().await;
        assert_eq!(
            (shown.topic, shown.retain),
            (format!("a/{round}"), false),
            "live, it is one like any other"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_payload_ends_what_was_retained() {
    let fixture = Fixture::new().await;
    let mut client = fixture.join("tv").await;
    client.publish_with(RETAINED, "a", "x", 0).await;
    client.publish_with(0x33, "b", "y", 1).await;
    client.expect(0x40, 1).await;
    fixture.leader.until("both", |log| log.retained.len() == 2).await;
    client.publish_with(RETAINED, "a", "", 0).await;
    client.publish_with(0x33, "b", "", 2).await;
    client.expect(0x40, 2).await;
    fixture.leader.until("none", |log| log.retained.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_follow_each_other_until_all_is_there() {
    let fixture = Fixture::new().await;
    fixture.keep(25, "x");
    fixture.leader.with(|log| log.retained_page_len = 10);
    let mut client = fixture.join("tv").await;
    client.subscribe("r/+", 0).await;
    for i in 0..25 {
        let received = client.next_publish().await;
        assert_eq!((received.topic, received.retain, received.qos), (format!("r/{i:05}"), true, 0));
    }
    let asks = fixture.leader.with(|log| log.retained_asks.len());
    assert_eq!(asks, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_reads_nothing_is_asked_for_no_more_than_it_takes() {
    let fixture = Fixture::new().await;
    let mut payload = String::new();
    (0..1_000).for_each(|i| write!(payload, "{i}").expect("write"));
    fixture.keep(20_000, &payload);
    fixture.leader.with(|log| log.retained_page_len = 80);
    let mut slow = fixture.join("slow").await;
    slow.send_subscribe("#", 0).await;
    let mut quick = fixture.join("quick").await;
    quick.subscribe("r/+", 0).await;
    for i in 0..20_000 {
        assert_eq!(quick.next_publish().await.topic, format!("r/{i:05}"));
    }
    // The quick one took all 58 MB; the slow one got what sockets hold (some MB), and no page beyond.
    let asked = fixture.leader.with(|log| log.retained_asks.iter().filter(|ask| ask.filter == "#").count());
    assert!(asked < 100, "{asked} pages of 250");
    assert_eq!(slow.next().await.map(|raw| raw.first), Some(0x90));
    for i in 0..20_000 {
        assert_eq!(slow.next_publish().await.topic, format!("r/{i:05}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_when_the_link_was_lost_is_asked_again() {
    let fixture = Fixture::new().await;
    fixture.keep(3, "x");
    fixture.leader.with(|log| {
        log.retained_page_len = 10;
        log.drop_next_retained = true;
    });
    let mut client = fixture.join("tv").await;
    client.subscribe("r/+", 0).await;
    for i in 0..3 {
        assert_eq!(client.next_publish().await.topic, format!("r/{i:05}"));
    }
    assert_eq!(fixture.leader.with(|log| log.retained_asks.len()), 1);
    client.ping().await;
}
