//! The receipt stream and webhooks, against real processes: what they tell, put together, is how every push stands.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and tells what it saw"
)]

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    convert::Infallible,
    env, fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chaos_tests::cluster::{Cluster, Doors, Node};
use cluster_proto::admin::{
    Audience, ClusterStatusRequest, CreateAppRequest, ListTargetsRequest, NewTerminal, PushRequest,
    ReceiptsRequest, ReceiptsResponse, RegisterRequest, SetWebhookRequest, StatusRequest, TargetState,
    Webhook, WebhookRequest, apps_client::AppsClient, audience::Of, cluster_client::ClusterClient,
    pushes_client::PushesClient, terminals_client::TerminalsClient,
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request as HttpRequest, Response as HttpResponse, body::Incoming, service::service_fn};
use roaring::RoaringBitmap;
use rumqttc::{AsyncClient, MqttOptions};
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

/// Nothing here takes longer unless it hangs; generous, because machines are shared.
const LIMIT: Duration = Duration::from_secs(60);
const ANONYMOUS: Doors = Doors { anonymous: true, websocket: false };

/// Idempotency keys that were used.
static KEYS: AtomicU64 = AtomicU64::new(0);

type Id = String;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_over_the_loss_of_the_leader_are_how_every_push_stands() {
    let mut world = World::start("leader", 3, "").await;
    world.register(90).await;
    let _online: Vec<_> = (0..12).map(|n| world.connect(n)).collect();
    let follower = Follower::start(&world, true);
    let sets = Follower::start(&world, false);
    let mut pushes = Vec::new();
    for n in 0..6 {
        pushes.push(world.push("all", 600_000, 1).await);
        pushes.push(world.push(&format!("terminal:{},tv-80", id(n)), 1_500, 1).await);
        pushes.push(world.push("terminal:tv-1,tv-2,tv-81", 600_000, 0).await);
        if n == 2 {
            let leader = world.leader().await;
            println!("kill node {leader}, the leader");
            world.cluster.node(leader).kill().await.unwrap();
            world.killed.push(leader);
        }
    }
    let cancelled = world.push("all", 600_000, 1).await;
    world
        .call(|channel, token| async move {
            let request = cluster_proto::admin::CancelRequest { push: cancelled, app: String::new() };
            PushesClient::new(channel).cancel(asked(request, &token)).await
        })
        .await
        .unwrap();
    pushes.push(cancelled);
    // Until nothing changes any more: those connected have everything, the short-lived ones are expired.
    for push in &pushes {
        world
            .until(&format!("push {push} is settled for those online"), async || {
                let pending = world.targets(*push, TargetState::Pending).await;
                pending.iter().all(|id| number(id) >= 12)
                    && !(pending.contains("tv-80") && world.is_short(*push))
            })
            .await;
    }
    for push in &pushes {
        world
            .until(&format!("the receipts of push {push} are how it stands"), async || {
                let stands = world.stands(*push).await;
                let told = follower.told(*push);
                let counted = sets.counted(*push);
                let expected: BTreeMap<_, _> =
                    stands.iter().map(|(state, ids)| (state.clone(), ids.len() as u64)).collect();
                told == stands && counted == expected
            })
            .await;
    }
    assert!(follower.broken() > 0, "the stream did not notice the loss of the leader");
    // Everything is told at most twice, by cursors that lead on.
    assert!(follower.most_often() <= 2, "a delta came {} times", follower.most_often());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_too_old_is_told_how_every_push_stands_and_then_what_happens() {
    let settings = "[receipts]\nretention = \"1s\"\n";
    let world = World::start("old", 1, settings).await;
    world.register(80).await;
    let first = world.receipts(ReceiptsRequest { until_now: true, ..Default::default() }).await.unwrap();
    assert_eq!((first.len(), first[0].began_at), (1, 0), "nothing happened yet: {first:?}");
    let old = first[0].cursor.clone();
    let broad = world.push("all", 300, 1).await;
    let offline = world.push("terminal:tv-1,tv-2", 600_000, 0).await;
    world
        .until("the first deltas are removed", async || {
            world.receipts(ReceiptsRequest { until_now: true, ..Default::default() }).await.unwrap()[0]
                .began_at
                > 0
                && world.targets(broad, TargetState::Expired).await.len() == 80
        })
        .await;
    world
        .until("all deltas are removed", async || {
            world.receipts(ReceiptsRequest { until_now: true, ..Default::default() }).await.unwrap().len()
                == 1
        })
        .await;
    for expand in [true, false] {
        let request = ReceiptsRequest { cursor: old.clone(), expand, until_now: true, ..Default::default() };
        let told = world.receipts(request).await.unwrap();
        assert!(told[1..].iter().all(|message| message.coalesced && message.began_at > 0), "{told:?}");
        let mut sets: Vec<_> = told.iter().flat_map(|message| &message.deltas).collect();
        sets.retain(|delta| delta.state != "accepted");
        let seen: Vec<_> = sets.iter().map(|d| (d.push, d.state.as_str(), d.terminals)).collect();
        assert_eq!(seen, [(broad, "expired", 80), (offline, "dropped", 2)], "one set per push and state");
        assert_eq!(sets[1].reason, "offline");
        // Going on in the middle misses nothing of what comes after.
        let middle = told.iter().find(|message| message.deltas.iter().any(|d| d.push == broad)).unwrap();
        let request =
            ReceiptsRequest { cursor: middle.cursor.clone(), expand, until_now: true, ..Default::default() };
        let rest = world.receipts(request).await.unwrap();
        assert!(rest.iter().flat_map(|message| &message.deltas).all(|delta| delta.push == offline));
        assert!(rest.len() > 1);
    }
    // The same stream goes on with what happens then.
    let mut stream = world.open(ReceiptsRequest { cursor: old, ..Default::default() }).await.unwrap();
    let mut last = 0;
    let mut after = None;
    while last < 2 {
        let message = tokio::time::timeout(LIMIT, stream.message()).await.unwrap().unwrap().unwrap();
        last = if message.deltas.iter().any(|delta| delta.push == offline) { 2 } else { last };
    }
    let new = world.push("terminal:tv-3", 600_000, 0).await;
    while after.is_none() {
        let message = tokio::time::timeout(LIMIT, stream.message()).await.unwrap().unwrap().unwrap();
        after = message.deltas.iter().any(|d| d.push == new && d.state == "dropped").then_some(message);
    }
    assert!(!after.unwrap().coalesced);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_is_none_is_refused_and_says_what_to_do() {
    let world = World::start("bad", 1, "").await;
    world.register(1).await;
    world
        .call(|channel, token| async move {
            AppsClient::new(channel).create(asked(CreateAppRequest { name: "shop".into() }, &token)).await
        })
        .await
        .unwrap();
    world.push("all", 600_000, 0).await;
    let good = world.receipts(ReceiptsRequest { until_now: true, ..Default::default() }).await.unwrap();
    let good = good.last().unwrap().cursor.clone();
    let shop = ReceiptsRequest { app: "shop".into(), until_now: true, ..Default::default() };
    let shop = world.receipts(shop).await.unwrap()[0].cursor.clone();
    let refused = async |cursor: &str| {
        let request = ReceiptsRequest { cursor: cursor.to_owned(), ..Default::default() };
        let status = world.receipts(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{cursor}: {status}");
        assert!(status.message().contains("an empty one to begin with"), "{status}");
        status.message().to_owned()
    };
    assert!(refused("garbage").await.contains("no cursor"));
    assert!(refused(&format!("{good}00")).await.contains("no cursor"));
    assert!(refused(&shop).await.contains("another app"));
    // Of another cluster, which has come further.
    let other = World::start("further", 1, "").await;
    other.register(1).await;
    for _ in 0..40 {
        other.push("all", 600_000, 0).await;
    }
    let further = other.receipts(ReceiptsRequest { until_now: true, ..Default::default() }).await.unwrap();
    assert!(refused(&further.last().unwrap().cursor).await.contains("has not reached"));
    let both = ReceiptsRequest { cursor: good, from_now: true, ..Default::default() };
    assert_eq!(world.receipts(both).await.unwrap_err().code(), Code::InvalidArgument);
    other.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settled_pushes_go_after_their_retention_and_whoever_asks_is_told_so() {
    let settings = "[push]\nretention = \"1s\"\n\n[receipts]\nretention = \"1s\"\n";
    let world = World::start("retention", 1, settings).await;
    world.register(2).await;
    let stays = world.push("terminal:tv-0", 600_000, 1).await;
    let begun = Instant::now();
    let settled = world.push("terminal:tv-1", 600_000, 0).await;
    assert_eq!(world.targets(settled, TargetState::Dropped).await.len(), 1);
    let status = async |push| {
        world
            .call(|channel, token| async move {
                let request = StatusRequest { push, app: String::new() };
                PushesClient::new(channel).status(asked(request, &token)).await
            })
            .await
    };
    world.until("the settled push is removed", async || status(settled).await.is_err()).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "it was removed before its time");
    let gone = status(settled).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    assert!(gone.message().contains("push.retention"), "{gone}");
    let listed = world
        .call(|channel, token| async move {
            let state = TargetState::Dropped.into();
            let request = ListTargetsRequest { push: settled, app: String::new(), state };
            PushesClient::new(channel).list_targets(asked(request, &token)).await
        })
        .await;
    assert_eq!(listed.unwrap_err().code(), Code::NotFound);
    assert_eq!(status(stays).await.unwrap().pending, 1, "one that is not settled stays");
    // The stream says where it begins, and the removed push is not told any more.
    world
        .until("the stream begins later", async || {
            let told =
                world.receipts(ReceiptsRequest { until_now: true, ..Default::default() }).await.unwrap();
            told[0].began_at > 0 && told.iter().flat_map(|message| &message.deltas).next().is_none()
        })
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_gets_every_receipt_signed_and_in_order_over_failures_and_the_loss_of_the_leader() {
    let settings = "[webhook]\nretry_min = \"50ms\"\nretry_max = \"400ms\"\n";
    let mut world = World::start("webhook", 3, settings).await;
    world.register(70).await;
    let _online: Vec<_> = (0..8).map(|n| world.connect(n)).collect();
    let receiver = Receiver::start().await;
    let set = |url: String| SetWebhookRequest { url, expand: true, ..Default::default() };
    let refused = world.set_webhook(set("http://192.0.2.1/hook".into())).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("https"), "{refused}");
    assert_eq!(world.webhook().await.unwrap_err().code(), Code::NotFound);
    let secret = world.set_webhook(set(receiver.url())).await.unwrap();
    let again = world.set_webhook(set(receiver.url())).await.unwrap();
    assert!(secret.starts_with("whsec_") && again.is_empty(), "it is shown once");
    receiver.expect(&secret);
    let mut pushes = Vec::new();
    for n in 0..6 {
        pushes.push(world.push("all", 600_000, 1).await);
        pushes.push(world.push("terminal:tv-1,tv-60", 600_000, 0).await);
        if n == 2 {
            world.until("some were posted", async || receiver.taken() > 0).await;
            let leader = world.leader().await;
            println!("kill node {leader}, the leader");
            world.cluster.node(leader).kill().await.unwrap();
            world.killed.push(leader);
        }
    }
    for push in &pushes {
        world
            .until(&format!("all receipts of push {push} were posted"), async || {
                let stands = world.stands(*push).await;
                let online =
                    stands.get("delivered").map_or(0, |ids| ids.iter().filter(|id| number(id) < 8).count());
                stands == receiver.told(*push) && (online == 8 || stands.contains_key("dropped"))
            })
            .await;
    }
    assert!(receiver.failed() > 0, "no post was answered with a failure");
    world
        .until("the place is committed, and there is no lag", async || {
            let webhook = world.webhook().await.unwrap();
            webhook.lag_ms == 0 && webhook.failures == 0 && webhook.cursor == receiver.cursor()
        })
        .await;
    // A receiver that is down is tried again, and says so; one that is gone is not.
    receiver.answer(503);
    pushes.push(world.push("terminal:tv-60", 600_000, 0).await);
    world
        .until("failures are told", async || {
            let webhook = world.webhook().await.unwrap();
            webhook.failures >= 2 && webhook.last_error.contains("503") && webhook.lag_ms > 0
        })
        .await;
    receiver.answer(410);
    world.until("it is gone", async || world.webhook().await.unwrap().gone).await;
    receiver.answer(204);
    // Set again, it goes on where it was.
    world.set_webhook(set(receiver.url())).await.unwrap();
    let last = *pushes.last().unwrap();
    world.until("what was missed is posted", async || receiver.told(last) == world.stands(last).await).await;
    world
        .call(|channel, token| async move {
            AppsClient::new(channel).remove_webhook(asked(WebhookRequest::default(), &token)).await
        })
        .await
        .unwrap();
    assert_eq!(world.webhook().await.unwrap_err().code(), Code::NotFound);
    for node in &world.cluster.nodes {
        let log = fs::read_to_string(node.log_path()).unwrap();
        assert!(!log.contains(&secret["whsec_".len()..]), "node {} logged the secret", node.id);
    }
    world.stop().await;
}

/// A cluster, and calls to it.
struct World {
    cluster: Cluster,
    dir: PathBuf,
    channels: Vec<(u64, Channel)>,
    token: String,
    killed: Vec<u64>,
    short: Mutex<BTreeSet<u64>>,
}

fn asked<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn id(n: u32) -> Id {
    format!("tv-{n}")
}

fn number(id: &str) -> u32 {
    id["tv-".len()..].parse().unwrap()
}

impl World {
    async fn start(name: &str, control: u64, settings: &str) -> Self {
        let dir = env::temp_dir().join(format!("carillon-receipts-{name}-{}", std::process::id()));
        println!("nodes in {}", dir.display());
        let cluster = Cluster::start_tuned(&dir, control, 0, ANONYMOUS, settings).await.unwrap();
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&cluster.ca)).domain_name("carillon");
        let channel = |node: &Node| {
            let uri = format!("https://127.0.0.1:{}", node.ports.api);
            let endpoint = Endpoint::from_shared(uri).unwrap().tls_config(tls.clone()).unwrap();
            (node.id, endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy())
        };
        let channels = cluster.nodes.iter().map(channel).collect();
        let token = cluster.admin_token.clone();
        Self { cluster, dir, channels, token, killed: Vec::new(), short: Mutex::default() }
    }

    /// At a node that runs, until it is answered.
    async fn call<T, F>(&self, call: impl Fn(Channel, String) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + LIMIT;
        let mut alive = self.channels.iter().filter(|(id, _)| !self.killed.contains(id)).cycle();
        loop {
            let (_, channel) = alive.next().unwrap();
            match call(channel.clone(), self.token.clone()).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => match status.code() {
                    Code::Unavailable | Code::Unknown if Instant::now() < deadline => {
                        sleep(Duration::from_millis(50)).await;
                    }
                    _ => return Err(status),
                },
            }
        }
    }

    /// Waits for a condition, within the limit.
    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds().await {
            assert!(Instant::now() < deadline, "not in time: {what}");
            sleep(Duration::from_millis(30)).await;
        }
    }

    async fn register(&self, count: u32) {
        let new = |n| NewTerminal { id: id(n), ..Default::default() };
        let terminals: Vec<_> = (0..count).map(new).collect();
        let answer = self.call(|channel, token| {
            let request = RegisterRequest { app: String::new(), terminals: terminals.clone() };
            async move { TerminalsClient::new(channel).register(asked(request, &token)).await }
        });
        answer.await.unwrap();
    }

    /// A terminal that acknowledges what it gets, and comes back after every loss, at the next node.
    fn connect(&self, n: u32) -> Task {
        let ports: Vec<_> = self.cluster.nodes.iter().map(|node| node.ports.mqtt).collect();
        Task(tokio::spawn(async move {
            for port in ports.iter().cycle().skip(n as usize) {
                let mut options = MqttOptions::new(id(n), "127.0.0.1", *port);
                options.set_keep_alive(Duration::from_secs(5));
                let (_client, mut events) = AsyncClient::new(options, 16);
                while events.poll().await.is_ok() {}
                sleep(Duration::from_millis(50)).await;
            }
        }))
    }

    async fn push(&self, to: &str, ttl_ms: u64, qos: u32) -> u64 {
        let key = format!("key-{}", KEYS.fetch_add(1, Ordering::Relaxed));
        let request = PushRequest {
            audience: Some(Audience { of: Some(Of::Expression(to.to_owned())) }),
            topic: "news".into(),
            payload: b"x".to_vec(),
            qos,
            ttl_ms,
            idempotency_key: key,
            ..Default::default()
        };
        let answer = self.call(|channel, token| {
            let request = request.clone();
            async move { PushesClient::new(channel).push(asked(request, &token)).await }
        });
        let push = answer.await.unwrap().push;
        if ttl_ms < 10_000 {
            self.short.lock().unwrap().insert(push);
        }
        push
    }

    fn is_short(&self, push: u64) -> bool {
        self.short.lock().unwrap().contains(&push)
    }

    async fn targets(&self, push: u64, state: TargetState) -> BTreeSet<Id> {
        let answer = self.call(|channel, token| async move {
            let request = ListTargetsRequest { push, app: String::new(), state: state.into() };
            let mut stream =
                PushesClient::new(channel).list_targets(asked(request, &token)).await?.into_inner();
            let mut ids = BTreeSet::new();
            while let Some(page) = stream.message().await? {
                ids.extend(page.ids);
            }
            Ok(tonic::Response::new(ids))
        });
        answer.await.unwrap()
    }

    /// Who is in which state, those settled.
    async fn stands(&self, push: u64) -> BTreeMap<String, BTreeSet<Id>> {
        use TargetState::{Cancelled, Collapsed, Delivered, Dropped, Expired, Sent};
        let mut stands = BTreeMap::new();
        for state in [Delivered, Sent, Expired, Cancelled, Collapsed, Dropped] {
            let ids = self.targets(push, state).await;
            if !ids.is_empty() {
                stands.insert(state.as_str_name().to_ascii_lowercase(), ids);
            }
        }
        stands
    }

    async fn leader(&self) -> u64 {
        let answer = self.call(|channel, token| async move {
            ClusterClient::new(channel).status(asked(ClusterStatusRequest {}, &token)).await
        });
        answer.await.unwrap().leader.unwrap()
    }

    async fn open(&self, request: ReceiptsRequest) -> Result<tonic::Streaming<ReceiptsResponse>, Status> {
        self.call(|channel, token| {
            let request = request.clone();
            async move { PushesClient::new(channel).receipts(asked(request, &token)).await }
        })
        .await
    }

    /// All of a stream that ends.
    async fn receipts(&self, request: ReceiptsRequest) -> Result<Vec<ReceiptsResponse>, Status> {
        let mut stream = self.open(request).await?;
        let mut all = Vec::new();
        while let Some(message) = stream.message().await? {
            all.push(message);
        }
        Ok(all)
    }

    /// The secret, if a new one was made.
    async fn set_webhook(&self, request: SetWebhookRequest) -> Result<String, Status> {
        let answer = self.call(|channel, token| {
            let request = request.clone();
            async move { AppsClient::new(channel).set_webhook(asked(request, &token)).await }
        });
        Ok(answer.await?.secret)
    }

    async fn webhook(&self) -> Result<Webhook, Status> {
        self.call(|channel, token| async move {
            AppsClient::new(channel).get_webhook(asked(WebhookRequest::default(), &token)).await
        })
        .await
    }

    async fn stop(self) {
        assert_eq!(self.cluster.panics().unwrap(), Vec::<String>::new());
        let killed = self.killed;
        let mut cluster = self.cluster;
        for node in cluster.nodes.iter_mut().filter(|node| !killed.contains(&node.id)) {
            node.stop().await.unwrap();
        }
        fs::remove_dir_all(self.dir).unwrap();
    }
}

/// A task that ends with its handle.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Log index, push, state, and who.
type Delta = (u64, u64, String, Vec<Id>, Vec<u8>);

/// What a consumer knows that unites what it is told. Delivered wins over sent.
#[derive(Default)]
struct Told {
    ids: BTreeMap<(u64, String), BTreeSet<Id>>,
    sets: BTreeMap<(u64, String), RoaringBitmap>,
    /// How often each was told.
    times: BTreeMap<Delta, usize>,
    broken: usize,
}

impl Told {
    fn take(&mut self, message: ReceiptsResponse) {
        for delta in message.deltas.into_iter().filter(|delta| delta.state != "accepted") {
            let key =
                (message.log_index, delta.push, delta.state.clone(), delta.ids.clone(), delta.set.clone());
            *self.times.entry(key).or_default() += 1;
            let of = (delta.push, delta.state);
            if !delta.set.is_empty() {
                let set = RoaringBitmap::deserialize_from(&delta.set[..]).unwrap();
                assert_eq!(set.len(), delta.terminals);
                *self.sets.entry(of.clone()).or_default() |= set;
            }
            self.ids.entry(of).or_default().extend(delta.ids);
        }
    }

    fn of(&self, push: u64) -> BTreeMap<String, BTreeSet<Id>> {
        by_state(&self.ids, push)
    }
}

fn by_state(all: &BTreeMap<(u64, String), BTreeSet<Id>>, push: u64) -> BTreeMap<String, BTreeSet<Id>> {
    let of_push = all.iter().filter(|((of, _), _)| *of == push);
    let mut states: BTreeMap<_, _> = of_push.map(|((_, state), ids)| (state.clone(), ids.clone())).collect();
    let delivered = states.get("delivered").cloned().unwrap_or_default();
    if let Some(sent) = states.get_mut("sent") {
        sent.retain(|id| !delivered.contains(id));
    }
    states.retain(|_, ids| !ids.is_empty());
    states
}

/// Follows the stream with its cursor, at one node after the other.
struct Follower {
    told: Arc<Mutex<Told>>,
    _task: Task,
}

impl Follower {
    fn start(world: &World, expand: bool) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let (channels, token, shared) = (world.channels.clone(), world.token.clone(), told.clone());
        let task = tokio::spawn(async move {
            let mut cursor = String::new();
            for (_, channel) in channels.iter().cycle() {
                let request = ReceiptsRequest { cursor: cursor.clone(), expand, ..Default::default() };
                let opened = PushesClient::new(channel.clone()).receipts(asked(request, &token)).await;
                if let Ok(opened) = opened {
                    let mut stream = opened.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(message)) => {
                                cursor = message.cursor.clone();
                                shared.lock().unwrap().take(message);
                            }
                            Ok(None) => panic!("a stream that follows does not end"),
                            Err(_) => break,
                        }
                    }
                    shared.lock().unwrap().broken += 1;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        Self { told, _task: Task(task) }
    }

    fn told(&self, push: u64) -> BTreeMap<String, BTreeSet<Id>> {
        self.told.lock().unwrap().of(push)
    }

    fn counted(&self, push: u64) -> BTreeMap<String, u64> {
        let told = self.told.lock().unwrap();
        let of = |state: &str| told.sets.get(&(push, state.to_owned())).cloned().unwrap_or_default();
        let of_push = told.sets.keys().filter(|(of, _)| *of == push);
        let len = |state: &str| match state {
            "sent" => (of("sent") - of("delivered")).len(),
            state => of(state).len(),
        };
        of_push.map(|(_, state)| (state.clone(), len(state))).filter(|(_, len)| *len > 0).collect()
    }

    fn broken(&self) -> usize {
        self.told.lock().unwrap().broken
    }

    fn most_often(&self) -> usize {
        self.told.lock().unwrap().times.values().copied().max().unwrap_or(0)
    }
}

/// An HTTP server that takes posts, and fails every third try.
struct Receiver {
    address: SocketAddr,
    posts: Arc<Mutex<Posts>>,
    _task: Task,
}

#[derive(Default)]
struct Posts {
    secret: Vec<u8>,
    /// Answered to everything; 0: as it comes.
    answer: u16,
    tries: usize,
    taken: usize,
    failed: usize,
    last_index: u64,
    cursor: String,
    ids: BTreeMap<(u64, String), BTreeSet<Id>>,
    /// Which receipts were taken, to tell those that come again from those that come late.
    seen: HashSet<String>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let posts = Arc::new(Mutex::new(Posts { answer: 503, ..Posts::default() }));
        let shared = posts.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let posts = shared.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(posts.clone(), request));
                    let io = hyper_util::rt::TokioIo::new(stream);
                    // A connection that breaks is the client's affair.
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
        Self { address, posts, _task: Task(task) }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?a=b", self.address)
    }

    /// Verifies with this from now on, and takes posts.
    fn expect(&self, secret: &str) {
        let mut posts = self.posts.lock().unwrap();
        posts.secret = STANDARD.decode(&secret["whsec_".len()..]).unwrap();
        posts.answer = 0;
    }

    fn answer(&self, status: u16) {
        self.posts.lock().unwrap().answer = status;
    }

    fn taken(&self) -> usize {
        self.posts.lock().unwrap().taken
    }

    fn failed(&self) -> usize {
        self.posts.lock().unwrap().failed
    }

    fn cursor(&self) -> String {
        self.posts.lock().unwrap().cursor.clone()
    }

    fn told(&self, push: u64) -> BTreeMap<String, BTreeSet<Id>> {
        by_state(&self.posts.lock().unwrap().ids, push)
    }
}

async fn answer(
    posts: Arc<Mutex<Posts>>,
    request: HttpRequest<Incoming>,
) -> Result<HttpResponse<Empty<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let header = |name: &str| parts.headers[name].to_str().unwrap().to_owned();
    let status = posts.lock().unwrap().take(&header, &body);
    let mut response = HttpResponse::new(Empty::new());
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    Ok(response)
}

impl Posts {
    fn take(&mut self, header: &dyn Fn(&str) -> String, body: &[u8]) -> u16 {
        self.tries += 1;
        if self.answer != 0 && self.answer != 204 {
            return self.answer;
        }
        // As a receiver verifies: over id, time and body, with the time not far off.
        let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(timestamp.parse().unwrap()) < 60);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.secret);
        let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
        let signature = STANDARD.decode(header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
        ring::hmac::verify(&key, &signed, &signature).expect("the signature verifies");
        if self.answer == 0 && self.tries.is_multiple_of(3) {
            self.failed += 1;
            return [500, 302, 429][self.failed % 3];
        }
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        for receipt in body["data"]["receipts"].as_array().unwrap() {
            let index = receipt["log_index"].as_u64().unwrap();
            let is_new = self.seen.insert(receipt.to_string());
            // Told again after the loss of a leader, perhaps; never late.
            assert!(
                !is_new || index >= self.last_index,
                "{receipt} comes after log index {}",
                self.last_index
            );
            self.last_index = self.last_index.max(index);
            let (push, state) = (receipt["push"].as_u64().unwrap(), receipt["state"].as_str().unwrap());
            let ids = receipt["ids"].as_array().into_iter().flatten();
            let ids = ids.map(|id| id.as_str().unwrap().to_owned());
            self.ids.entry((push, state.to_owned())).or_default().extend(ids);
            if state == "accepted" {
                self.ids.remove(&(push, state.to_owned()));
            }
        }
        body["data"]["cursor"].as_str().unwrap().clone_into(&mut self.cursor);
        self.taken += 1;
        204
    }
}
