//! A whole run: load and faults, calm with a probe after each, quiescence at the end, and then the verdict.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    api::Api,
    checks,
    cluster::{Cluster, Node},
    evidence::{Digest, Evidence, FinalStatus, Key, Probe, State, Terminal, now_ms},
    faults::{Fault, Schedule, Step},
    load::{Load, World, push_to},
    terminal::{Handle, Profile},
};

/// Terminals that want to be must be connected within this once every node is ready.
const ONLINE_LIMIT: Duration = Duration::from_secs(30);
/// Every accepted push must be settled within this once every node is ready and every terminal connected.
const QUIET_LIMIT: Duration = Duration::from_secs(60);
/// A probe is given up after this; the promise is less (see the check).
const PROBE_LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);
/// One terminal in so many is offline through a fault and its probe.
const OFFLINE_ONE_IN: u32 = 8;
const READERS: usize = 4;
/// Violations printed of each kind.
const VIOLATIONS_EACH: usize = 5;

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// After so many faults.
    Faults(usize),
    /// With the first fault that ends after so long.
    Time(Duration),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides schedule, audiences and who is offline (not the timing of processes).
    pub seed: u64,
    /// When it ends.
    pub length: Length,
    /// How many terminals.
    pub terminals: u32,
    /// Everything the nodes write; kept when something is wrong.
    pub dir: PathBuf,
}

/// What a run found.
#[derive(Debug)]
pub struct Report {
    /// Broken promises; empty is a pass.
    pub violations: Vec<String>,
    /// Faults that happened.
    pub faults: usize,
    /// Pushes accepted.
    pub accepted: usize,
    /// Messages that terminals received.
    pub receptions: usize,
}

/// A seed nobody chose.
pub fn random_seed() -> u64 {
    StdRng::from_os_rng().random()
}

/// Runs it. An error is a failure too: something did not happen within its limit.
pub async fn run(options: &Options, mut tell: impl FnMut(String)) -> Result<Report> {
    let mut run = Run::start(options).await?;
    tell(format!("{} nodes and {} terminals are up", run.cluster.nodes.len(), options.terminals));
    let load = Load::start(&run.api, &run.world, &run.terminals, options.seed);
    let started = Instant::now();
    let mut faults = 0;
    for step in Schedule::new(options.seed) {
        let over = match options.length {
            Length::Faults(count) => faults >= count,
            Length::Time(time) => started.elapsed() >= time,
        };
        if over {
            break;
        }
        let healed = run.step(step).await.with_context(|| format!("{step}"))?;
        faults += 1;
        tell(format!("{:4} s  {step}; {healed}", started.elapsed().as_secs()));
    }
    load.finish().await.context("the load")?;
    run.settle().await?;
    tell(format!("{:4} s  all is quiet", started.elapsed().as_secs()));
    run.judge(faults).await
}

struct Run {
    cluster: Cluster,
    api: Arc<Api>,
    world: Arc<World>,
    terminals: Vec<Terminal>,
    handles: Vec<Handle>,
    rng: StdRng,
}

impl Run {
    async fn start(options: &Options) -> Result<Self> {
        let cluster = Cluster::start(&options.dir, 3, 1).await?;
        let api = Arc::new(Api::new(&cluster)?);
        let world = Arc::new(World::default());
        let terminals: Vec<Terminal> = (0..options.terminals).map(Terminal).collect();
        let tokens = api.credentials(&terminals).await?;
        let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.ports.mqtt).collect();
        let start = |(terminal, token)| {
            Handle::start(Profile::of(terminal), token, ports.clone(), world.clone(), options.seed)
        };
        let handles: Vec<Handle> = terminals.iter().copied().zip(tokens).map(start).collect();
        let rng = StdRng::seed_from_u64(options.seed);
        let run = Self { cluster, api, world, terminals, handles, rng };
        run.wait_online().await?;
        Ok(run)
    }

    /// One fault, healed and probed. Says how it went.
    async fn step(&mut self, step: Step) -> Result<String> {
        self.world.set_calm(false);
        sleep(step.calm).await;
        for handle in &self.handles {
            handle.set_online(!self.rng.random_ratio(1, OFFLINE_ONE_IN));
        }
        let leader = self.api.leader().await?;
        self.inject(step.fault, leader).await?;
        sleep(step.lasts).await;
        let healing = Instant::now();
        self.cluster.heal()?;
        self.cluster.wait_ready().await?;
        let ready_ms = healing.elapsed().as_millis();
        self.world.set_calm(true);
        self.wait_online().await?;
        let probe_ms = self.probe().await?;
        let digests = self.api.digests().await;
        self.world.evidence().digests.extend(digests);
        Ok(format!("ready again after {ready_ms} ms, a push reached everyone in {probe_ms} ms"))
    }

    async fn inject(&mut self, fault: Fault, leader: u64) -> Result<()> {
        let follower = self.pick(|node| node.control && node.id != leader)?;
        let edge = self.pick(|node| !node.control)?;
        match fault {
            Fault::KillLeader => self.cluster.node(leader).kill().await,
            Fault::KillFollower => self.cluster.node(follower).kill().await,
            Fault::KillEdge => self.cluster.node(edge).kill().await,
            Fault::PauseLeader => self.cluster.node(leader).pause(),
            Fault::PauseFollower => self.cluster.node(follower).pause(),
            Fault::PauseEdge => self.cluster.node(edge).pause(),
            Fault::StopLeader => self.cluster.node(leader).stop().await,
            Fault::KillAll => {
                for node in &mut self.cluster.nodes {
                    node.kill().await?;
                }
                Ok(())
            }
        }
    }

    fn pick(&mut self, which: impl Fn(&Node) -> bool) -> Result<u64> {
        let ids: Vec<u64> =
            self.cluster.nodes.iter().filter(|node| which(node)).map(|node| node.id).collect();
        ensure!(!ids.is_empty(), "no such node");
        Ok(ids[self.rng.random_range(0..ids.len())])
    }

    /// Until everybody who wants to be connected is.
    async fn wait_online(&self) -> Result<()> {
        let deadline = Instant::now() + ONLINE_LIMIT;
        loop {
            let online = self.world.online();
            let missing: Vec<_> = self
                .handles
                .iter()
                .filter(|handle| handle.wants_online() && !online.contains(&handle.terminal))
                .map(|handle| handle.terminal.to_string())
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not connected {ONLINE_LIMIT:?} after all nodes were ready: {missing:?}"
            );
            sleep(POLL).await;
        }
    }

    /// A push to everybody connected; how long until the last of them had it.
    async fn probe(&self) -> Result<u128> {
        let connected = self.world.online();
        let started = Instant::now();
        let from = self.world.evidence().receptions.len();
        let key = push_to(&self.api, &self.world, connected.clone()).await?;
        let accepted_at_ms = now_ms();
        while started.elapsed() < PROBE_LIMIT && !self.everyone_has(key, from, &connected) {
            sleep(POLL).await;
        }
        self.world.evidence().probes.push(Probe { key, accepted_at_ms, connected });
        Ok(started.elapsed().as_millis())
    }

    fn everyone_has(&self, key: Key, from: usize, terminals: &BTreeSet<Terminal>) -> bool {
        let evidence = self.world.evidence();
        let newest = evidence.receptions[from..].iter();
        let have: BTreeSet<_> =
            newest.filter(|reception| reception.key == key).map(|reception| reception.terminal).collect();
        terminals.is_subset(&have)
    }

    /// Faults off, everybody on: every accepted push must settle.
    async fn settle(&mut self) -> Result<()> {
        self.world.set_calm(true);
        self.cluster.heal()?;
        self.cluster.wait_ready().await?;
        self.handles.iter().for_each(|handle| handle.set_online(true));
        self.wait_online().await?;
        let finals = self.final_statuses().await?;
        let digests = self.wait_for_equal_positions().await;
        let mut evidence = self.world.evidence();
        evidence.finals = finals;
        evidence.digests.extend(digests);
        Ok(())
    }

    async fn final_statuses(&self) -> Result<BTreeMap<Key, FinalStatus>> {
        let known: Vec<(Key, u64)> = {
            let evidence = self.world.evidence();
            let ids = evidence.pushes.iter().filter_map(|(key, push)| Some((*key, *push.ids.first()?)));
            ids.collect()
        };
        let deadline = Instant::now() + QUIET_LIMIT;
        let mut readers = JoinSet::new();
        for reader in 0..READERS {
            let mine: Vec<_> = known.iter().copied().skip(reader).step_by(READERS).collect();
            readers.spawn(read_final(self.api.clone(), mine, deadline));
        }
        let mut finals = BTreeMap::new();
        while let Some(read) = readers.join_next().await {
            finals.extend(read??);
        }
        Ok(finals)
    }

    /// Replicas reach the same position when nothing is proposed; the digests found there are compared by the check.
    async fn wait_for_equal_positions(&self) -> Vec<Digest> {
        let deadline = Instant::now() + QUIET_LIMIT;
        loop {
            let digests = self.api.digests().await;
            let voters = self.cluster.nodes.iter().filter(|node| node.control).count();
            let equal =
                digests.len() >= voters && digests.windows(2).all(|pair| pair[0].applied == pair[1].applied);
            if equal || Instant::now() > deadline {
                return digests;
            }
            sleep(POLL).await;
        }
    }

    async fn judge(self, faults: usize) -> Result<Report> {
        drop(self.handles);
        let evidence: Evidence = self.world.evidence().clone();
        let mut violations = checks::violations(&evidence, VIOLATIONS_EACH);
        violations.extend(positions(&evidence, &self.cluster));
        violations.extend(self.cluster.panics()?);
        if let Err(error) = self.cluster.stop().await {
            violations.push(format!("{error:#}"));
        }
        Ok(Report {
            violations,
            faults,
            accepted: evidence.pushes.values().filter(|push| push.accepted).count(),
            receptions: evidence.receptions.len(),
        })
    }
}

/// Without digests of all replicas at one position, agreement would have been checked on nothing.
fn positions(evidence: &Evidence, cluster: &Cluster) -> Option<String> {
    let voters = cluster.nodes.iter().filter(|node| node.control).count();
    let last = evidence.digests.iter().rev().take(voters);
    let mut positions: Vec<u64> = last.map(|digest| digest.applied).collect();
    let told = positions.len();
    positions.dedup();
    (told < voters || positions.len() > 1)
        .then(|| format!("replicas did not reach one position: {positions:?}"))
}

async fn read_final(
    api: Arc<Api>,
    pushes: Vec<(Key, u64)>,
    deadline: Instant,
) -> Result<Vec<(Key, FinalStatus)>> {
    let mut finals = Vec::with_capacity(pushes.len());
    for (key, id) in pushes {
        while Instant::now() < deadline && pending(&api, id).await? > 0 {
            sleep(POLL).await;
        }
        finals.push((key, api.final_status(id).await?));
    }
    Ok(finals)
}

async fn pending(api: &Api, id: u64) -> Result<u64> {
    let counts = api.status(id).await?;
    Ok(counts.by_state.get(&State::Pending).copied().unwrap_or(0))
}
