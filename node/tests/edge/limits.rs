//! Limits per connection and per app, and who does not read.

use std::time::{Duration, Instant};

use carillon::edge::Limits;
use cluster_proto::link::LeaderControl;

use super::{
    Fixture, Setting,
    support::mqtt::{Client, Connect},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_publishes_too_fast_is_read_slowly_and_loses_nothing() {
    let limits = Limits { publish_rate: 20, ..Limits::default() };
    let fixture = Fixture::with(Setting { limits, ..Setting::default() }).await;
    let mut subscriber = fixture.join("subscriber").await;
    subscriber.subscribe("a", 0).await;
    let mut fast = fixture.join("fast").await;
    let began = Instant::now();
    for i in 0..60 {
        fast.publish("a", &i.to_string(), 0, 0).await;
    }
    fixture.join("other").await.ping().await;
    for i in 0..60 {
        assert_eq!(subscriber.take().await, i.to_string());
    }
    fast.ping().await;
    // Two seconds' worth at once, and the rest at the rate.
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_limited_too_and_a_large_message_is_paid_for_afterwards() {
    let limits = Limits { publish_bytes_rate: 100_000, ..Limits::default() };
    let fixture = Fixture::with(Setting { limits, ..Setting::default() }).await;
    let mut client = fixture.join("tv").await;
    let began = Instant::now();
    client.publish("a", &"x".repeat(300_000), 1, 1).await;
    client.expect(0x40, 1).await;
    client.ping().await;
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_has_no_more_connections_than_it_may_and_a_takeover_needs_no_new_one() {
    let limits = Limits { connections_per_app: 2, ..Limits::default() };
    let fixture = Fixture::with(Setting { limits, ..Setting::default() }).await;
    let v5 = |id| Connect { id, v5: true, ..Connect::default() };
    let (first, _) = Client::connect(fixture.mqtt, &v5("a")).await;
    let (_second, _) = Client::connect(fixture.mqtt, &v5("b")).await;
    assert_eq!(Client::connect(fixture.mqtt, &v5("c")).await.1, 0x97);
    let (_second, code) = Client::connect(fixture.mqtt, &v5("b")).await;
    assert_eq!(code, 0);
    let before = fixture.leader.with(|log| log.unbinds.len());
    drop(first);
    fixture.leader.until("the unbind", |log| log.unbinds.len() > before).await;
    assert_eq!(Client::connect(fixture.mqtt, &v5("c")).await.1, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_asks_and_never_reads_is_not_read_from_any_more() {
    let fixture = Fixture::new().await;
    let mut silent = fixture.join("silent").await;
    // Each PINGREQ is answered; what nobody reads fills the connection, and then TCP.
    let pings = [0xC0, 0].repeat(1024 * 1024);
    let written = tokio::time::timeout(Duration::from_secs(2), async {
        for _ in 0..64 {
            silent.send_bytes(&pings).await;
        }
    });
    assert!(written.await.is_err(), "the edge takes no more");
    fixture.join("other").await.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_edge_sends_its_terminals_to_its_peers_in_turn() {
    let fixture = Fixture::new().await;
    let peers = vec!["peer-1:1883".to_owned(), "peer-2:1883".to_owned()];
    fixture.leader.control(LeaderControl::Peers(peers));
    let mut clients = Vec::new();
    for i in 0..4 {
        let id = format!("t{i}");
        clients.push(
            Client::connect(fixture.mqtt, &Connect { id: &id, v5: true, ..Connect::default() }).await.0,
        );
    }
    let mut old = fixture.join("old").await;
    fixture.edge.drain(Duration::from_secs(10)).await;
    let mut named = Vec::new();
    for client in &mut clients {
        let disconnect = client.next().await.expect("DISCONNECT");
        assert_eq!((disconnect.first, disconnect.body[0]), (0xE0, 0x9C));
        // Property 0x1C, Server Reference.
        let text = String::from_utf8_lossy(&disconnect.body).into_owned();
        named.extend(["peer-1:1883", "peer-2:1883"].into_iter().filter(|peer| text.contains(peer)));
    }
    named.sort_unstable();
    assert_eq!(named.len(), 4);
    assert!(named.contains(&"peer-1:1883") && named.contains(&"peer-2:1883"), "{named:?}");
    assert_eq!(old.next().await, None, "3.1.1 cannot be told");
}
