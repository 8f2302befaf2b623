//! Releases, against real processes: a push that is scheduled, one at a pace, and roll-outs in stages.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and tells what it saw"
)]

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chaos_tests::cluster::{Cluster, Node};
use cluster_proto::admin::{
    Audience, CancelRequest, ClusterStatusRequest, ExplainRequest, Explanation, HoldRequest,
    IssueCredentialsRequest, OnLow, PushRequest, Release, ReleasePhase, Stage, Stages, StatusRequest,
    StatusResponse, audience::Of, cluster_client::ClusterClient, pushes_client::PushesClient, release::Pace,
    terminals_client::TerminalsClient,
};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, sleep, timeout},
};
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);
const TERMINALS: usize = 40;
const ONLINE: usize = 10;

struct World {
    dir: PathBuf,
    cluster: Cluster,
    channels: Vec<Channel>,
    token: String,
}

impl World {
    async fn start() -> (Self, Vec<String>) {
        let dir = env::temp_dir().join(format!("carillon-product-release-{}", std::process::id()));
        let cluster = Cluster::start(&dir, 3, 1).await.unwrap();
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&cluster.ca)).domain_name("carillon");
        let channel = |node: &Node| {
            let uri = format!("https://{}", Node::address(node.ports.api));
            let endpoint = Endpoint::from_shared(uri).unwrap().tls_config(tls.clone()).unwrap();
            endpoint.timeout(Duration::from_secs(3)).connect_lazy()
        };
        let channels = cluster.nodes.iter().filter(|node| node.control).map(channel).collect();
        let token = format!("Bearer {}", cluster.admin_token);
        let world = Self { dir, cluster, channels, token };
        let ids: Vec<String> = (0..TERMINALS).map(id).collect();
        let request = IssueCredentialsRequest { ids, ..Default::default() };
        let mut client = TerminalsClient::new(world.channels[0].clone());
        let mut pages = client.issue_credentials(world.asked(request)).await.unwrap().into_inner();
        let mut tokens = Vec::new();
        while let Some(page) = pages.message().await.unwrap() {
            tokens.extend(page.credentials.into_iter().map(|credential| credential.token));
        }
        (world, tokens)
    }

    fn asked<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.parse().unwrap());
        request
    }

    /// Asks one node after the other until one answers: some may be gone.
    async fn call<T, F: Future<Output = Result<T, Status>>>(&self, call: impl Fn(Channel) -> F) -> T {
        let deadline = Instant::now() + LIMIT;
        for channel in self.channels.iter().cycle() {
            match call(channel.clone()).await {
                Ok(answer) => return answer,
                Err(error) => {
                    let again = matches!(
                        error.code(),
                        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
                    );
                    assert!(again && Instant::now() < deadline, "{error}");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        unreachable!("there are nodes")
    }

    async fn push(&self, text: &str, release: Release) -> u64 {
        let request = PushRequest {
            audience: Some(Audience { of: Some(Of::Expression("all".to_owned())) }),
            topic: "news".to_owned(),
            payload: text.as_bytes().to_vec(),
            qos: 1,
            idempotency_key: text.to_owned(),
            release: Some(release),
            ..Default::default()
        };
        let push =
            self.call(|channel| async { PushesClient::new(channel).push(self.asked(request.clone())).await });
        push.await.into_inner().push
    }

    async fn status(&self, push: u64) -> StatusResponse {
        let request = StatusRequest { push, app: String::new() };
        let status = self
            .call(|channel| async { PushesClient::new(channel).status(self.asked(request.clone())).await });
        status.await.into_inner()
    }

    async fn until(&self, push: u64, what: &str, is: impl Fn(&StatusResponse) -> bool) -> StatusResponse {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status(push).await;
            if is(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: {status:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn explain(&self, push: u64, terminal: &str) -> Explanation {
        let request = ExplainRequest { push, app: String::new(), terminal: terminal.to_owned() };
        let answer = self
            .call(|channel| async { PushesClient::new(channel).explain(self.asked(request.clone())).await });
        answer.await.into_inner().explanation()
    }

    async fn leader(&self) -> u64 {
        let status = self.call(|channel| async {
            ClusterClient::new(channel).status(self.asked(ClusterStatusRequest {})).await
        });
        status.await.into_inner().leader.unwrap()
    }

    /// Connects a terminal; what it gets comes with the time.
    fn connect(&self, n: usize, token: &str) -> UnboundedReceiver<(String, u64)> {
        let mut options = MqttOptions::new(id(n), "127.0.0.1", self.cluster.nodes[3].ports.mqtt);
        options.set_credentials("default", token);
        let (client, mut events) = AsyncClient::new(options, 16);
        let (sender, receiver) = unbounded_channel();
        tokio::spawn(async move {
            let _connected = client;
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let text = String::from_utf8_lossy(&publish.payload).into_owned();
                        if sender.send((text, now_ms())).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => sleep(Duration::from_millis(50)).await,
                }
            }
        });
        receiver
    }
}

fn id(n: usize) -> String {
    format!("tv-{n}")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn rfc_3339(at_ms: u64) -> String {
    jiff::Timestamp::from_millisecond(at_ms as i64).unwrap().to_string()
}

async fn next(terminal: &mut UnboundedReceiver<(String, u64)>) -> (String, u64) {
    timeout(LIMIT, terminal.recv()).await.expect("a message").expect("connected")
}

#[tokio::test]
async fn pushes_are_released_at_their_time_at_their_pace_and_in_stages() {
    let (mut world, tokens) = World::start().await;
    let mut online: Vec<_> = (0..ONLINE).map(|n| world.connect(n, &tokens[n])).collect();
    let first = world.push("hello", Release::default()).await;
    world.until(first, "terminals are connected", |status| status.delivered == ONLINE as u64).await;
    for terminal in &mut online {
        assert_eq!(next(terminal).await.0, "hello");
    }
    a_schedule_survives_the_leader(&mut world, &mut online).await;
    a_pace_is_kept(&world).await;
    a_roll_out_is_held_resumed_and_halted(&world).await;
    assert_eq!(world.cluster.panics().unwrap(), Vec::<String>::new());
    let World { cluster, dir, .. } = world;
    cluster.stop().await.unwrap();
    fs::remove_dir_all(dir).unwrap();
}

async fn a_schedule_survives_the_leader(world: &mut World, online: &mut [UnboundedReceiver<(String, u64)>]) {
    let at_ms = (now_ms() + 6_000).div_ceil(1_000) * 1_000;
    let scheduled = world.push("later", Release { at: rfc_3339(at_ms), pace: None }).await;
    let status = world.status(scheduled).await;
    assert_eq!((status.audience, status.pending), (TERMINALS as u64, TERMINALS as u64));
    let release = status.release.unwrap();
    assert_eq!((release.phase(), release.next_at_ms), (ReleasePhase::WaitingForTime, at_ms));
    assert_eq!(world.explain(scheduled, &id(0)).await, Explanation::NotReleased);
    let leader = world.leader().await;
    println!("kill node {leader}, the leader");
    world.cluster.node(leader).kill().await.unwrap();
    for terminal in online {
        let (text, came_ms) = next(terminal).await;
        assert_eq!(text, "later");
        assert!(came_ms >= at_ms, "{} ms early", at_ms - came_ms);
    }
    let status = world.until(scheduled, "everyone online has it", |s| s.delivered == ONLINE as u64).await;
    assert_eq!(status.release.unwrap().phase(), ReleasePhase::Released);
    assert_ne!(world.explain(scheduled, &id(ONLINE)).await, Explanation::NotReleased);
    world.cluster.node(leader).start().unwrap();
}

async fn a_pace_is_kept(world: &World) {
    let began_ms = now_ms();
    let paced = world.push("slowly", Release { at: String::new(), pace: Some(Pace::PerSecond(10)) }).await;
    let half = world.until(paced, "half is released", |status| status.release.unwrap().released >= 20).await;
    assert!(half.release.unwrap().released < TERMINALS as u64, "not all at once");
    let hold = HoldRequest { push: paced, app: String::new() };
    let held =
        world.call(|channel| async { PushesClient::new(channel).hold(world.asked(hold.clone())).await });
    let held = held.await.into_inner().release.unwrap();
    if held.released < TERMINALS as u64 {
        assert_eq!(held.phase(), ReleasePhase::Held);
    }
    let resumed =
        world.call(|channel| async { PushesClient::new(channel).resume(world.asked(hold.clone())).await });
    resumed.await;
    world.until(paced, "all is released", |s| s.release.unwrap().phase() == ReleasePhase::Released).await;
    // The first of four parts goes at once.
    assert!(now_ms() - began_ms >= 2_000, "faster than its pace");
}

async fn a_roll_out_is_held_resumed_and_halted(world: &World) {
    let stages = |on_low: OnLow| {
        let half = Stage { upto: 5_000, wait_ms: 1_000, delivered_min: 10_000 };
        let stages = vec![half, Stage { upto: 10_000, wait_ms: 0, delivered_min: 0 }];
        Release { at: String::new(), pace: Some(Pace::Stages(Stages { stages, on_low: on_low as i32 })) }
    };
    let is = |phase: ReleasePhase| move |status: &StatusResponse| status.release.unwrap().phase() == phase;
    let held = world.push("carefully", stages(OnLow::Hold)).await;
    let status = world.until(held, "most are offline", is(ReleasePhase::HeldLow)).await;
    let release = status.release.unwrap();
    assert!(release.released > 0 && release.released < TERMINALS as u64 && release.share < 10_000);
    let resume = HoldRequest { push: held, app: String::new() };
    let resumed =
        world.call(|channel| async { PushesClient::new(channel).resume(world.asked(resume.clone())).await });
    assert_eq!(resumed.await.into_inner().release.unwrap().phase(), ReleasePhase::Released);
    world.until(held, "everyone online has it", |status| status.delivered == ONLINE as u64).await;

    let halted = world.push("bravely", stages(OnLow::Halt)).await;
    let status = world.until(halted, "it is recalled", |status| status.pending == 0).await;
    assert_eq!(status.release.unwrap().phase(), ReleasePhase::Halted);
    assert_eq!(status.delivered + status.cancelled, TERMINALS as u64);
    assert!(status.cancelled >= (TERMINALS - ONLINE) as u64);

    let aborted = world.push("in vain", stages(OnLow::Hold)).await;
    world.until(aborted, "a part is released", |status| status.release.unwrap().released > 0).await;
    let cancel = CancelRequest { push: aborted, app: String::new() };
    let cancelled =
        world.call(|channel| async { PushesClient::new(channel).cancel(world.asked(cancel.clone())).await });
    cancelled.await;
    let status = world.until(aborted, "all is settled", |status| status.pending == 0).await;
    assert_eq!(status.release.unwrap().phase(), ReleasePhase::Released, "as far as it ever will be");
}
