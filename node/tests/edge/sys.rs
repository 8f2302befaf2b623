//! `$SYS` topics.

use std::time::Duration;

use carillon::edge::Limits;
use cluster_proto::link::Stats;

use super::{
    Fixture, Setting,
    support::mqtt::{Client, Connect},
};

fn often() -> Setting {
    let limits = Limits { sys_interval: Duration::from_millis(50), anonymous_sys: true, ..Limits::default() };
    Setting { limits, ..Setting::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_is_shown_the_cluster_at_once_as_retained_and_then_what_changes() {
    let fixture = Fixture::with(often()).await;
    fixture.leader.with(|log| log.cluster = Stats { connected: 7, sessions: 9, ..Stats::default() });
    let mut client = fixture.join("tv").await;
    client.subscribe("$SYS/broker/clients/+", 0).await;
    let mut seen = Vec::new();
    while !seen.contains(&("$SYS/broker/clients/disconnected".to_owned(), "2".to_owned())) {
        let received = client.next_publish().await;
        seen.push((received.topic, received.payload));
    }
    fixture.leader.with(|log| log.cluster = Stats { connected: 8, sessions: 9, ..Stats::default() });
    loop {
        let received = client.next_publish().await;
        if received.topic == "$SYS/broker/clients/connected" && received.payload == "8" {
            assert!(!received.retain, "a change is a message like any other");
            break;
        }
    }
    let mut late = fixture.join("late").await;
    late.subscribe("$SYS/broker/version", 1).await;
    let version = late.next_publish().await;
    assert!(version.retain && version.payload.starts_with("carillon "), "{version:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_counts_what_its_terminals_do_and_tells_the_leader() {
    let fixture = Fixture::new().await;
    let mut client = fixture.join("tv").await;
    client.subscribe("a", 0).await;
    client.publish("a", "x", 0, 0).await;
    assert_eq!(client.take().await, "x");
    let counted = |stats: Stats| {
        (stats.connected, stats.connects, stats.subscriptions, stats.publishes_received, stats.publishes_sent)
            == (1, 1, 1, 1, 1)
            && (stats.packets_received, stats.packets_sent) == (3, 3)
            && stats.bytes_received > 20
            && stats.bytes_sent > 10
    };
    fixture.leader.until("the counts", |log| counted(log.stats)).await;
    drop(client);
    let gone = |stats: Stats| (stats.connected, stats.connects, stats.subscriptions) == (0, 1, 0);
    fixture.leader.until("nobody", |log| gone(log.stats)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sys_topics_are_denied_unless_they_are_allowed_by_name() {
    let fixture = Fixture::with(Setting { anonymous: false, ..Setting::default() }).await;
    for (filters, code) in [(None, 0x87), (Some(&["#"][..]), 0x87), (Some(&["$SYS/broker/#"][..]), 0)] {
        let token = fixture.token_to_read("tv", 7, 1_000, filters);
        let connect = Connect { id: "tv", v5: true, password: Some(&token), ..Connect::default() };
        let (mut client, _) = Client::connect(fixture.mqtt, &connect).await;
        assert_eq!(client.subscribe("$SYS/broker/uptime", 0).await, code, "{filters:?}");
        if code == 0 {
            assert!(client.take().await.ends_with(" seconds"));
        }
    }
    let anonymous = Fixture::new().await;
    assert_eq!(anonymous.join("tv").await.subscribe("$SYS/#", 0).await, 0x80);
}
