//! Who keeps pushing, who keeps asking, and the book in which everything is written down.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use cluster_proto::admin::{Audience, Everyone, PushRequest, Subscribers, TerminalList, audience::Of};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{
    api::Api,
    evidence::{Evidence, Key, Observation, Origin, Push, Reception, State, Terminal, now_ms},
    terminal::{NEWS_TOPICS, Profile, news_topic},
};

const PUSHERS: u64 = 3;
const BETWEEN_PUSHES: Duration = Duration::from_millis(60);
const BETWEEN_OBSERVATIONS: Duration = Duration::from_millis(250);
/// Observations look at pushes among so many newest, where something happens.
const OBSERVED_NEWEST: usize = 60;

/// The book, shared by all tasks of a run. Its locks are held for moments, never across an await.
#[derive(Debug, Default)]
pub struct World {
    evidence: Mutex<Evidence>,
    online: Mutex<BTreeSet<Terminal>>,
    /// Filter to the persistent terminals whose SUBACK arrived.
    subscriptions: Mutex<BTreeMap<String, BTreeSet<Terminal>>>,
    keys: AtomicU64,
    connections: AtomicU64,
    calm: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// The evidence so far.
    pub fn evidence(&self) -> MutexGuard<'_, Evidence> {
        lock(&self.evidence)
    }

    /// Writes down that a push is about to be made.
    pub fn propose(&self, push: Push) -> Key {
        let key = Key(self.keys.fetch_add(1, Ordering::Relaxed));
        self.evidence().pushes.insert(key, push);
        key
    }

    /// Writes down that it was accepted, under which id, and when it expires at the latest.
    pub fn accepted(&self, key: Key, id: Option<u64>, expires_at_ms: Option<u64>) {
        if let Some(push) = self.evidence().pushes.get_mut(&key) {
            push.accepted = true;
            push.ids.extend(id);
            push.expires_at_ms = expires_at_ms;
        }
    }

    /// Writes down a reception.
    pub fn received(&self, reception: Reception) {
        self.evidence().receptions.push(reception);
    }

    /// Writes down that a persistent session was gone.
    pub fn lost_session(&self, terminal: Terminal) {
        self.evidence().lost_sessions.push((terminal, now_ms()));
    }

    /// Writes down that all of a persistent terminal's subscriptions were acknowledged.
    pub fn subscribed(&self, profile: &Profile) {
        let mut subscriptions = lock(&self.subscriptions);
        for filter in &profile.filters {
            subscriptions.entry(filter.clone()).or_default().insert(profile.terminal);
        }
    }

    /// The persistent terminals known to be subscribed to this topic.
    pub fn subscribers(&self, topic: &str) -> BTreeSet<Terminal> {
        lock(&self.subscriptions).get(topic).cloned().unwrap_or_default()
    }

    /// A terminal has its CONNACK; returns the connection's number.
    pub fn went_online(&self, terminal: Terminal) -> u64 {
        lock(&self.online).insert(terminal);
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// A terminal's connection is over.
    pub fn went_offline(&self, terminal: Terminal) {
        lock(&self.online).remove(&terminal);
    }

    /// Who has a CONNACK now.
    pub fn online(&self) -> BTreeSet<Terminal> {
        lock(&self.online).clone()
    }

    /// In the calm, terminals acknowledge everything and publish nothing.
    pub fn set_calm(&self, calm: bool) {
        self.calm.store(calm, Ordering::Relaxed);
    }

    /// Whether it is calm.
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }
}

/// What a back-end pushes next.
#[derive(Debug)]
struct Plan {
    origin: Origin,
    audience: Of,
    topic: String,
    ttl_ms: u64,
    promised: BTreeSet<Terminal>,
}

impl Plan {
    fn next(rng: &mut StdRng, world: &World, terminals: &[Terminal]) -> Self {
        let topic = news_topic(rng.random_range(0..NEWS_TOPICS));
        match rng.random_range(0..20) {
            0 => Self::everyone(topic, terminals),
            1..=7 => Self::subscribers(topic, world),
            8..=9 => Self { ttl_ms: rng.random_range(1_000..4_000), ..Self::named(rng, topic, terminals) },
            _ => Self::named(rng, topic, terminals),
        }
    }

    fn everyone(topic: String, terminals: &[Terminal]) -> Self {
        let promised = terminals.iter().copied().collect();
        Self { origin: Origin::Identity, audience: Of::All(Everyone {}), topic, ttl_ms: 0, promised }
    }

    fn subscribers(topic: String, world: &World) -> Self {
        let promised = world.subscribers(&topic);
        Self { origin: Origin::Topic, audience: Of::Topic(Subscribers {}), topic, ttl_ms: 0, promised }
    }

    fn named(rng: &mut StdRng, topic: String, terminals: &[Terminal]) -> Self {
        let count = rng.random_range(1..=8);
        let promised = (0..count).map(|_| terminals[rng.random_range(0..terminals.len())]).collect();
        Self { origin: Origin::Identity, audience: named(&promised), topic, ttl_ms: 0, promised }
    }
}

fn named(terminals: &BTreeSet<Terminal>) -> Of {
    Of::Terminals(TerminalList { ids: terminals.iter().map(Terminal::to_string).collect() })
}

fn request(key: Key, topic: String, audience: Of, ttl_ms: u64) -> PushRequest {
    PushRequest {
        audience: Some(Audience { of: Some(audience) }),
        topic,
        payload: key.payload(),
        qos: 1,
        ttl_ms,
        idempotency_key: format!("key-{}", key.0),
        priority: i32::from(key.is_urgent()),
        ..PushRequest::default()
    }
}

/// The tasks that push and observe. Dropping it ends them at once; [`Load::finish`] lets what was begun end.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<()>>,
}

impl Load {
    /// Starts pushing and observing.
    pub fn start(api: &Arc<Api>, world: &Arc<World>, terminals: &[Terminal], seed: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for n in 0..PUSHERS {
            let rng = StdRng::seed_from_u64(seed.wrapping_add(1 + n));
            tasks.spawn(keep_pushing(api.clone(), world.clone(), terminals.to_vec(), rng, stopped.clone()));
        }
        tasks.spawn(keep_observing(api.clone(), world.clone(), StdRng::seed_from_u64(seed), stopped));
        Self { stop, tasks }
    }

    /// No new pushes; waits until the outcome of every one that was begun is known.
    pub async fn finish(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

async fn keep_pushing(
    api: Arc<Api>,
    world: Arc<World>,
    terminals: Vec<Terminal>,
    mut rng: StdRng,
    stopped: watch::Receiver<bool>,
) -> Result<()> {
    while !*stopped.borrow() {
        let plan = Plan::next(&mut rng, &world, &terminals);
        push(&api, &world, plan).await?;
        sleep(BETWEEN_PUSHES).await;
    }
    Ok(())
}

async fn push(api: &Api, world: &World, plan: Plan) -> Result<Key> {
    let Plan { origin, audience, topic, ttl_ms, promised } = plan;
    let push = Push { origin, ids: [].into(), accepted: false, promised, expires_at_ms: None };
    let key = world.propose(push);
    let answer = api.push(request(key, topic, audience, ttl_ms)).await?;
    // It was accepted before now, so it expires before this.
    let expires_at_ms = (ttl_ms > 0).then(|| now_ms() + ttl_ms);
    world.accepted(key, Some(answer.push), expires_at_ms);
    Ok(key)
}

/// One push to exactly these terminals.
pub async fn push_to(api: &Api, world: &World, terminals: BTreeSet<Terminal>) -> Result<Key> {
    let audience = named(&terminals);
    let plan =
        Plan { origin: Origin::Identity, audience, topic: news_topic(0), ttl_ms: 0, promised: terminals };
    push(api, world, plan).await
}

async fn keep_observing(
    api: Arc<Api>,
    world: Arc<World>,
    mut rng: StdRng,
    stopped: watch::Receiver<bool>,
) -> Result<()> {
    while !*stopped.borrow() {
        if let Some((key, id)) = pick(&world, &mut rng) {
            let delivered = api.targets(id, State::Delivered).await?;
            // Taken after the answer: whatever it lists had been written down by then.
            let receptions = world.evidence().receptions.len();
            let counts = api.status(id).await?;
            world.evidence().observations.push(Observation { key, counts, delivered, receptions });
        }
        sleep(BETWEEN_OBSERVATIONS).await;
    }
    Ok(())
}

fn pick(world: &World, rng: &mut StdRng) -> Option<(Key, u64)> {
    let evidence = world.evidence();
    let known = evidence.pushes.iter().rev().filter_map(|(key, push)| Some((*key, *push.ids.first()?)));
    let newest: Vec<_> = known.take(OBSERVED_NEWEST).collect();
    (!newest.is_empty()).then(|| newest[rng.random_range(0..newest.len())])
}
