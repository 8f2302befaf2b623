//! The edge against a leader in memory, over real QUIC and TCP.

#[path = "edge/exchanges.rs"]
mod exchanges;
#[path = "edge/limits.rs"]
mod limits;
#[path = "edge/retained.rs"]
mod retained;
#[path = "edge/sessions.rs"]
mod sessions;
#[path = "edge/shared.rs"]
mod shared;
mod support;
#[path = "edge/sys.rs"]
mod sys;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use carillon::{
    auth::{Keyring, generate_key, issue_terminal, public_key},
    edge::{self, EdgeHandle, EdgeOptions, Kind, Limits, Listener, Listeners},
    transport::{
        Endpoint,
        certs::{CertificatePaths, Certificates},
        tls::{TerminalTls, TlsSlot},
    },
};
use cluster_proto::{
    AppId, NodeId, Outcome, TerminalId,
    credential::{AUDIENCE_TERMINAL, TerminalClaims},
    link::{FilterUse, LeaderControl, NodeAddresses, Transient, UnbindReason},
};
use fabric_core::mqtt::SessionConfig;
use raft_store::command::SigningKey;
use rand::{SeedableRng, rngs::StdRng};

use support::{
    leader::{FakeLeader, message},
    mqtt::{Client, Connect},
};

struct Fixture {
    leader: FakeLeader,
    edge: EdgeHandle,
    mqtt: SocketAddr,
    ca: Vec<u8>,
    key: SigningKey,
    _dir: tempfile::TempDir,
}

fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

struct Setting {
    anonymous: bool,
    shards: usize,
    limits: Limits,
    with_leader: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self { anonymous: true, shards: 2, limits: Limits::default(), with_leader: true }
    }
}

impl Fixture {
    async fn new() -> Self {
        Self::with(Setting::default()).await
    }

    async fn with(setting: Setting) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let key = generate_key(&mut StdRng::seed_from_u64(1)).expect("key");
        let certificates = |node| Certificates::ephemeral(dir.path(), NodeId(node)).expect("certificates");
        let server = certificates(2);
        let paths = CertificatePaths::in_dir(dir.path(), "node-2");
        let tls = TerminalTls { default: (paths.cert, paths.key), by_name: Vec::new(), clients: None };
        let tls = TlsSlot::new("mqtt", move || tls.load()).expect("TLS");
        let listener = |kind| Listener { kind, address: localhost(), proxy_protocol: false };
        let leader = FakeLeader::start(&certificates(1), vec![public_key(&key)]).await;
        let endpoint = Endpoint::bind(localhost(), &server, &[]).expect("bind");
        let seed = if setting.with_leader { leader.address.to_string() } else { "127.0.0.1:9".to_owned() };
        let options = EdgeOptions {
            node: NodeId(2),
            addresses: NodeAddresses::default(),
            listeners: Listeners {
                listeners: vec![listener(Kind::Tcp), listener(Kind::Tls)],
                tls: Some(tls),
            },
            control_seeds: vec![seed],
            shards: setting.shards,
            anonymous: setting.anonymous,
            limits: setting.limits,
        };
        let edge = edge::start(options, endpoint, Arc::new(Keyring::default())).await.expect("start");
        if setting.with_leader {
            edge.ready().wait_for(|ready| *ready).await.expect("ready");
        }
        Self {
            mqtt: edge.address(Kind::Tcp).expect("MQTT"),
            ca: server.ca_pem.clone(),
            leader,
            edge,
            key,
            _dir: dir,
        }
    }

    async fn join(&self, id: &str) -> Client {
        Client::join(self.mqtt, id).await
    }

    /// Connects and waits until live deliveries reach it: a push sent before the pull was answered would do too, but
    /// then by another way.
    async fn join_live(&self, id: &str) -> Client {
        let mut client = self.join(id).await;
        let no = self.leader.no(id);
        self.leader.push(&[no], "hello", true);
        assert_eq!(client.take().await, "hello");
        client
    }

    async fn delivered(&self, id: &str, count: usize) {
        let no = self.leader.no(id);
        let condition = |log: &support::leader::Log| {
            log.receipts.iter().filter(|(_, outcome, n)| *outcome == Outcome::Delivered && *n == no).count()
                == count
        };
        self.leader.until(&format!("{count} receipts of {id}"), condition).await;
    }

    fn token(&self, id: &str, no: u32, iat: u64) -> String {
        self.token_to_read(id, no, iat, None)
    }

    fn token_to_read(&self, id: &str, no: u32, iat: u64, subscribe: Option<&[&str]>) -> String {
        let claims = TerminalClaims {
            aud: AUDIENCE_TERMINAL.to_owned(),
            app: "default".to_owned(),
            app_id: AppId::DEFAULT.0,
            sub: id.to_owned(),
            no,
            iat,
            exp: u64::MAX / 4_000,
            publish: None,
            subscribe: subscribe.map(|filters| filters.iter().map(|f| (*f).to_owned()).collect()),
        };
        issue_terminal(&self.key, &claims).expect("token")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_reaches_a_terminal_and_only_its_acknowledgement_makes_it_delivered() {
    let fixture = Fixture::new().await;
    let mut client = fixture.join("tv").await;
    let push = fixture.leader.push(&[fixture.leader.no("tv")], "hello", true);
    let received = client.next_publish().await;
    assert_eq!((received.topic.as_str(), received.payload.as_str(), received.qos), ("news", "hello", 1));
    assert!(fixture.leader.with(|log| log.receipts.is_empty()));
    client.ack(received.packet_id).await;
    fixture.delivered("tv", 1).await;
    assert_eq!(fixture.leader.with(|log| log.receipts[0].0), push);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_owed_before_and_not_acknowledged_comes_in_order_whatever_the_way_of_its_payload() {
    let fixture = Fixture::new().await;
    let no = fixture.leader.no("tv");
    for i in 0..300 {
        fixture.leader.push(&[no], &i.to_string(), i % 3 == 0);
    }
    let mut client = fixture.join("tv").await;
    for i in 300..310 {
        fixture.leader.push(&[no], &i.to_string(), i % 2 == 0);
    }
    for i in 0..200 {
        assert_eq!(client.take().await, i.to_string());
    }
    fixture.delivered("tv", 200).await;
    drop(client);
    let mut client = fixture.join("tv").await;
    for i in 200..310 {
        assert_eq!(client.take().await, i.to_string());
    }
    fixture.delivered("tv", 310).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_is_acknowledged_after_its_commit() {
    let fixture = Fixture::new().await;
    let mut client = fixture.join("tv").await;
    fixture.leader.with(|log| log.hold_publishes = true);
    client.publish("a/b", "x", 1, 9).await;
    fixture.leader.until("the publish", |log| log.published.len() == 1).await;
    client.ping().await;
    fixture.leader.commit_publish(1);
    let puback = client.next().await.expect("PUBACK");
    assert_eq!((puback.first, &puback.body[..]), (0x40, &[0, 9][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_under_way_when_the_link_is_lost_takes_effect_once_and_is_acknowledged() {
    let fixture = Fixture::new().await;
    let mut client = fixture.join("tv").await;
    fixture.leader.with(|log| log.hold_publishes = true);
    client.publish("a/b", "x", 1, 9).await;
    fixture.leader.until("the publish", |log| log.published.len() == 1).await;
    fixture.leader.drop_link();
    assert_eq!(client.next().await.map(|raw| raw.first), Some(0x40));
    assert_eq!(fixture.leader.with(|log| log.published.len()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminals_stay_connected_over_a_lost_link_and_get_what_came_meanwhile_once() {
    let fixture = Fixture::new().await;
    let mut client = fixture.join_live("tv").await;
    let no = fixture.leader.no("tv");
    fixture.leader.push(&[no], "in flight", true);
    let in_flight = client.next_publish().await;
    fixture.leader.drop_link();
    fixture.leader.push(&[no], "meanwhile", false);
    client.ack(in_flight.packet_id).await;
    assert_eq!(client.take().await, "meanwhile");
    fixture.delivered("tv", 3).await;
    fixture.leader.push(&[no], "after", true);
    assert_eq!(client.take().await, "after");
    let resumed = fixture.leader.with(|log| log.resumes.last().cloned().expect("a resume"));
    assert_eq!(resumed.iter().map(|report| report.terminal.as_str()).collect::<Vec<_>>(), ["tv"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qos_0_goes_to_every_local_subscriber_and_to_others_only_when_asked() {
    let fixture = Fixture::new().await;
    let mut publisher = fixture.join("publisher").await;
    let mut subscribers = Vec::new();
    for i in 0..20 {
        let mut client = fixture.join(&format!("s{i}")).await;
        assert_eq!(client.subscribe(if i % 2 == 0 { "a/+" } else { "a/b" }, 0).await, 0);
        subscribers.push(client);
    }
    let told = |log: &support::leader::Log| {
        log.filters
            .iter()
            .flat_map(|delta| &delta.added)
            .filter(|(_, _, used)| *used == FilterUse::BestEffort)
            .count()
            == 2
    };
    fixture.leader.until("both filters", told).await;
    publisher.publish("a/b", "x", 0, 0).await;
    for client in &mut subscribers {
        assert_eq!(client.take().await, "x");
    }
    assert!(fixture.leader.with(|log| log.transients.is_empty()));

    fixture.leader.control(LeaderControl::ForwardTransient(true));
    // The order above and what follows take different ways: until it has arrived, nothing is forwarded.
    loop {
        publisher.publish("c", "y", 0, 0).await;
        publisher.ping().await;
        if fixture.leader.with(|log| !log.transients.is_empty()) {
            break;
        }
    }
    let body = postcard::to_allocvec(&message("a/b", "from afar")).expect("encode").into();
    let (origin, app, topic) = (NodeId(3), AppId::DEFAULT, "a/b".to_owned());
    fixture.leader.transient(Transient { origin, app, topic, body, members: None, ttl_ms: None });
    for client in &mut subscribers {
        assert_eq!(client.take().await, "from afar");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_push_is_shown_to_best_effort_subscribers_without_status() {
    let fixture = Fixture::new().await;
    let mut client = fixture.join("s").await;
    client.subscribe("a/b", 0).await;
    let push = fixture.leader.push_message(&[], message("a/b", "x"), false, true);
    let received = client.next_publish().await;
    assert_eq!((received.payload.as_str(), received.qos), ("x", 0));
    client.ping().await;
    assert!(fixture.leader.with(|log| log.receipts.iter().all(|(p, _, _)| *p != push)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_connection_takes_over_and_the_first_is_told() {
    let fixture = Fixture::new().await;
    let connect = Connect { id: "tv", v5: true, ..Connect::default() };
    let (mut first, _) = Client::connect(fixture.mqtt, &connect).await;
    let (mut second, code) = Client::connect(fixture.mqtt, &connect).await;
    assert_eq!(code, 0);
    let disconnect = first.next().await.expect("DISCONNECT");
    assert_eq!((disconnect.first, disconnect.body[0]), (0xE0, 0x8E));
    assert_eq!(first.next().await, None);
    fixture.leader.push(&[fixture.leader.no("tv")], "for the second", true);
    assert_eq!(second.take().await, "for the second");
    assert_eq!(fixture.leader.with(|log| log.unbound.len()), 1, "the leader had asked for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_binds_without_asking_leaves_the_first_to_the_edge() {
    let fixture = Fixture::new().await;
    fixture.leader.with(|log| log.binds_at_once = true);
    let connect = Connect { id: "tv", v5: true, ..Connect::default() };
    let (mut first, _) = Client::connect(fixture.mqtt, &connect).await;
    let (mut second, code) = Client::connect(fixture.mqtt, &connect).await;
    assert_eq!(code, 0);
    let disconnect = first.next().await.expect("DISCONNECT");
    assert_eq!((disconnect.first, disconnect.body[0]), (0xE0, 0x8E));
    fixture.leader.push(&[fixture.leader.no("tv")], "for the second", true);
    assert_eq!(second.take().await, "for the second");
    assert!(fixture.leader.with(|log| log.unbinds.is_empty()), "the terminal is still bound");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unbind_of_the_leader_closes_and_is_answered() {
    let fixture = Fixture::new().await;
    let (mut client, _) =
        Client::connect(fixture.mqtt, &Connect { id: "tv", v5: true, ..Connect::default() }).await;
    fixture.leader.unbind("tv", UnbindReason::Kicked);
    let disconnect = client.next().await.expect("DISCONNECT");
    assert_eq!((disconnect.first, disconnect.body[0]), (0xE0, 0x98));
    fixture.leader.until("Unbound", |log| log.unbound.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_is_unbound() {
    let fixture = Fixture::new().await;
    drop(fixture.join("tv").await);
    fixture.leader.until("the unbind", |log| log.unbinds.len() == 1).await;
    assert_eq!(fixture.leader.with(|log| log.unbinds[0].terminal.to_string()), "tv");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recalled_push_is_answered_by_what_became_of_it() {
    let fixture = Fixture::new().await;
    let mut client = fixture.join_live("tv").await;
    let (tv, nobody) = (fixture.leader.no("tv"), fixture.leader.no("nobody"));
    let push = fixture.leader.push(&[tv], "x", true);
    let received = client.next_publish().await;
    fixture.leader.withdraw(push, &[tv, nobody]);
    let not_written =
        move |log: &support::leader::Log| log.receipts.contains(&(push, Outcome::NotWritten, nobody));
    fixture.leader.until("not written", not_written).await;
    client.ack(received.packet_id).await;
    let delivered = move |log: &support::leader::Log| log.receipts.contains(&(push, Outcome::Delivered, tv));
    fixture.leader.until("delivered", delivered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_genuine_credentials_for_this_terminal_and_app_get_in() {
    let fixture = Fixture::with(Setting { anonymous: false, ..Setting::default() }).await;
    let token = fixture.token("tv", 7, 1_000);
    let forged = format!("{}x", &token[..token.len() - 2]);
    for (id, user, password, v3, v5) in [
        ("tv", Some("default"), Some(token.as_str()), 0, 0),
        ("tv", Some("default"), Some(forged.as_str()), 4, 0x86),
        ("other", Some("default"), Some(token.as_str()), 5, 0x87),
        ("tv", Some("foreign"), Some(token.as_str()), 5, 0x87),
        ("tv", None, None, 4, 0x86),
    ] {
        for (is_v5, expected) in [(false, v3), (true, v5)] {
            let connect = Connect { id, v5: is_v5, user, password, ..Connect::default() };
            let (mut client, code) = Client::connect(fixture.mqtt, &connect).await;
            assert_eq!(code, expected, "{id} {user:?} v5 {is_v5}");
            if expected > 0 {
                assert_eq!(client.next().await, None, "refused, and closed");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_disconnects_and_keeps_out() {
    let fixture = Fixture::with(Setting { anonymous: false, ..Setting::default() }).await;
    let (old, new) = (fixture.token("tv", 7, 1_000), fixture.token("tv", 7, 2_000));
    let connect = |token| Connect {
        id: "tv",
        v5: true,
        user: Some("default"),
        password: Some(token),
        ..Connect::default()
    };
    let (mut client, code) = Client::connect(fixture.mqtt, &connect(&old)).await;
    assert_eq!(code, 0);
    let terminal = Some(TerminalId::new("tv").expect("id"));
    fixture.leader.control(LeaderControl::Revoke { app: AppId::DEFAULT, terminal, issued_until: 1_500 });
    let disconnect = client.next().await.expect("DISCONNECT");
    assert_eq!((disconnect.first, disconnect.body[0]), (0xE0, 0x87));
    assert_eq!(Client::connect(fixture.mqtt, &connect(&old)).await.1, 0x87);
    assert_eq!(Client::connect(fixture.mqtt, &connect(&new)).await.1, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_leader_connect_waits_and_is_then_refused_as_unavailable() {
    let limits = Limits { bind_timeout: Duration::from_millis(100), ..Limits::default() };
    let fixture = Fixture::with(Setting { with_leader: false, limits, ..Setting::default() }).await;
    let v5 = Connect { id: "tv", v5: true, ..Connect::default() };
    assert_eq!(Client::connect(fixture.mqtt, &v5).await.1, 0x88);
    let v3 = Connect { id: "tv", ..Connect::default() };
    assert_eq!(Client::connect(fixture.mqtt, &v3).await.1, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_declared_ended_closes_every_terminal_and_begins_a_new_life() {
    let fixture = Fixture::new().await;
    let connect = Connect { id: "tv", v5: true, ..Connect::default() };
    let (mut client, _) = Client::connect(fixture.mqtt, &connect).await;
    client.publish("a", "x", 1, 1).await;
    client.next().await.expect("PUBACK");
    let first_life = fixture.leader.with(|log| log.incarnation);
    let reason = "declared ended".to_owned();
    fixture.leader.control(LeaderControl::Refused { reason, incarnation_over: true });
    let disconnect = client.next().await.expect("DISCONNECT");
    assert_eq!((disconnect.first, disconnect.body[0]), (0xE0, 0x89));
    fixture.leader.until("a new life", |log| log.incarnation > first_life).await;
    let (mut client, code) = Client::connect(fixture.mqtt, &connect).await;
    assert_eq!(code, 0);
    client.publish("a", "y", 1, 1).await;
    assert_eq!(client.next().await.map(|raw| raw.first), Some(0x40), "its lanes count from 1 again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_reaches_no_control_node_sends_its_terminals_elsewhere_and_is_not_ready() {
    let limits = Limits { isolation_grace: Duration::from_millis(1_500), ..Limits::default() };
    let mut fixture = Fixture::with(Setting { limits, ..Setting::default() }).await;
    let (mut client, _) =
        Client::connect(fixture.mqtt, &Connect { id: "tv", v5: true, ..Connect::default() }).await;
    fixture.leader.stop();
    fixture.edge.ready().wait_for(|ready| !*ready).await.expect("not ready");
    let disconnect = client.next().await.expect("DISCONNECT");
    assert_eq!((disconnect.first, disconnect.body[0]), (0xE0, 0x89));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminals_connect_over_tls_and_pushes_reach_them() {
    let fixture = Fixture::new().await;
    let address = fixture.edge.address(Kind::Tls).expect("a TLS listener");
    let mut client = Client::connect_tls(address, &fixture.ca, "tv").await;
    let large = "x".repeat(200_000);
    for i in 0..20 {
        fixture.leader.push(&[fixture.leader.no("tv")], &format!("{i} {large}"), true);
    }
    for i in 0..20 {
        assert_eq!(client.take().await, format!("{i} {large}"));
    }
    fixture.delivered("tv", 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_in_pieces_and_in_one_piece_are_the_same() {
    let fixture = Fixture::new().await;
    let mut client = fixture.join("tv").await;
    client.subscribe("a", 0).await;
    let packet = b"\x30\x04\x00\x01ax";
    let mut other = fixture.join("other").await;
    for byte in packet {
        client.send_bytes(&[*byte]).await;
        // A round trip of another connection: the byte has been seen by itself.
        other.ping().await;
    }
    assert_eq!(client.take().await, "x");
    client.send_bytes(&packet.repeat(5_000)).await;
    for _ in 0..5_000 {
        assert_eq!(client.take().await, "x");
    }
    let mut bad = fixture.join("bad").await;
    bad.send_bytes(&[0x00, 0x00]).await;
    assert_eq!(bad.next().await, None);
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fan_out_reaches_every_terminal_of_every_shard_in_order() {
    let fixture = Fixture::new().await;
    let mut clients = Vec::new();
    for i in 0..100 {
        clients.push(fixture.join_live(&format!("t{i}")).await);
    }
    let nos: Vec<_> = (0..100).map(|i| fixture.leader.no(&format!("t{i}"))).collect();
    for i in 0..20 {
        fixture.leader.push(&nos, &i.to_string(), true);
    }
    for client in &mut clients {
        for i in 0..20 {
            assert_eq!(client.take().await, i.to_string());
        }
    }
    let all = |log: &support::leader::Log| log.owed.values().all(std::collections::BTreeSet::is_empty);
    fixture.leader.until("all receipts", all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_reads_late_gets_everything_and_holds_up_nobody() {
    let fixture = Fixture::new().await;
    let mut slow = fixture.join_live("slow").await;
    let mut quick = fixture.join_live("quick").await;
    let nos = [fixture.leader.no("slow"), fixture.leader.no("quick")];
    let large = "x".repeat(20_000);
    for i in 0..400 {
        fixture.leader.push(&nos, &format!("{i} {large}"), i % 2 == 0);
    }
    for i in 0..400 {
        assert!(quick.take().await.starts_with(&format!("{i} ")));
    }
    for i in 0..400 {
        assert!(slow.take().await.starts_with(&format!("{i} ")));
    }
    fixture.delivered("slow", 401).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_edge_says_good_bye_and_leaves_nothing_uncommitted() {
    let fixture = Fixture::new().await;
    let (mut client, _) =
        Client::connect(fixture.mqtt, &Connect { id: "tv", v5: true, ..Connect::default() }).await;
    fixture.leader.push(&[fixture.leader.no("tv")], "x", true);
    client.take().await;
    client.ping().await;
    fixture.edge.drain(Duration::from_secs(10)).await;
    let disconnect = client.next().await.expect("DISCONNECT");
    assert_eq!((disconnect.first, disconnect.body[0]), (0xE0, 0x8B));
    fixture.leader.with(|log| {
        assert!(log.draining);
        assert_eq!(log.unbinds.len(), 1);
        assert_eq!(log.receipts.len(), 1);
    });
    assert!(tokio::net::TcpStream::connect(fixture.mqtt).await.is_err());
}

/// A link can be live before its first heartbeat is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_lease_is_delivered_when_it_comes() {
    let fixture = Fixture::new().await;
    let mut client = fixture.join_live("tv").await;
    client.ping().await;
    let (window, no) = (usize::from(SessionConfig::default().inflight_max), fixture.leader.no("tv"));
    // As many behind the window as keep it from asking for more.
    for i in 0..window + 100 {
        fixture.leader.push(&[no], &format!("{i}"), true);
    }
    let mut in_flight = Vec::new();
    for _ in 0..window {
        in_flight.push(client.next_publish().await.packet_id);
    }
    fixture.leader.with(|log| log.hold_heartbeats = true);
    tokio::time::sleep(Duration::from_millis(FakeLeader::LEASE_MS + 100)).await;
    // From here on every link is one without a lease.
    let resumes = fixture.leader.with(|log| log.resumes.len());
    fixture.leader.until("a resume", |log| log.resumes.len() > resumes).await;
    for packet_id in in_flight {
        client.ack(packet_id).await;
    }
    client.ping().await;
    fixture.leader.with(|log| log.hold_heartbeats = false);
    assert_eq!(client.take().await, format!("{window}"));
}
