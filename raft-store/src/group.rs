//! The control group as the rest of the node sees it: propose, read, watch, change members.
//!
//! openraft runs on a runtime of its own, so that no load elsewhere delays a heartbeat; RocksDB on threads outside
//! it (`log-writer`, `apply`).

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use cluster_proto::{NodeId, link::NodeAddresses, raft_rpc::RaftCall};
use openraft::{Config, SnapshotPolicy};
use tokio::{
    runtime::{self, Runtime},
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    Applied, Command, CommandBody, Effect,
    housekeeping::Housekeeping,
    leadership::{self, Leadership, Positions},
    log_db::LogDb,
    log_store::{LogStore, TAIL_LEN_MAX},
    membership::{self, Member, MembershipError},
    network::{self, Network},
    open::{DataDir, OpenError},
    proposer::{ProposeError, Proposer},
    raft_log::RaftLog,
    reads::{ReadError, Reads},
    snapshot::SnapshotStore,
    state_machine::{ApplyProgress, ApplyThread, RaftTables},
    tables::{self, Position, StateMachine, Tables, TablesOptions},
    telemetry,
    transport::{SnapshotStream, Transport},
    type_config::TypeConfig,
};

pub(crate) type Raft = openraft::Raft<TypeConfig, RaftTables>;

/// openraft does little but wait; two threads so that a long step on one does not hold heartbeats up.
const RAFT_THREADS: usize = 2;
/// Hints for the leader's work. When full, further hints are dropped, and found by the leader's rescan (I7).
const EFFECTS_MAX: usize = 16 * 1024;
const SHUTDOWN_STEP_MAX: Duration = Duration::from_secs(5);
const CATCH_UP_BEFORE_TRANSFER_MAX: Duration = Duration::from_secs(1);

/// How to run a member of the control group. [`Options::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its id; never reused for another machine.
    pub node: NodeId,
    /// Where it listens.
    pub addresses: NodeAddresses,
    /// Everything it stores.
    pub data_dir: PathBuf,
    /// Leader to followers.
    pub heartbeat: Duration,
    /// Without a heartbeat for so long, a follower asks to be elected. Failover takes about the larger plus a random
    /// time between both, so the interval is narrow.
    pub election_timeout: (Duration, Duration),
    /// Entries kept behind a snapshot, so that a follower that was away needs no snapshot. At least 100,000 outside
    /// tests; less if they exceed a bound in bytes.
    pub log_keep: u64,
    /// Entries between snapshots.
    pub snapshot_every: u64,
    /// Most pushes owed to one terminal; the same on every member.
    pub owed_per_terminal_max: usize,
    /// Most messages an app retains; the same on every member.
    pub retained_max: u64,
    /// Most bytes of messages an app retains; the same on every member.
    pub retained_bytes_max: u64,
    /// How long a will stays deliverable that does not say; the same on every member.
    pub will_ttl_default: Duration,
    /// Memory for the sets of broad pushes.
    pub cache_bytes: usize,
    /// With less free than this, new pushes are refused; everything else goes on.
    pub disk_reserve_bytes: u64,
}

impl Options {
    /// The defaults.
    pub fn new(node: NodeId, addresses: NodeAddresses, data_dir: PathBuf) -> Self {
        let tables = TablesOptions::default();
        Self {
            node,
            addresses,
            data_dir,
            heartbeat: Duration::from_millis(50),
            election_timeout: (Duration::from_millis(300), Duration::from_millis(400)),
            log_keep: 100_000,
            snapshot_every: 200_000,
            owed_per_terminal_max: tables.owed_per_terminal_max,
            retained_max: tables.retained_max,
            retained_bytes_max: tables.retained_bytes_max,
            will_ttl_default: cluster_proto::limits::PUSH_TTL_DEFAULT,
            cache_bytes: tables.cache_bytes,
            disk_reserve_bytes: 1024 * 1024 * 1024,
        }
    }
}

/// A member of the control group. Clones share it; [`ControlGroup::shutdown`] or dropping the last one stops it.
#[derive(Clone)]
pub struct ControlGroup {
    inner: Arc<Inner>,
}

struct Inner {
    addresses: NodeAddresses,
    raft: Raft,
    tables: Tables,
    progress: ApplyProgress,
    snapshots: SnapshotStore,
    /// Gone once shutting down.
    proposer: Mutex<Option<Proposer>>,
    reads: Reads,
    leadership: watch::Receiver<Leadership>,
    positions: watch::Receiver<Positions>,
    failed: watch::Receiver<Option<String>>,
    disk_full: Arc<AtomicBool>,
    running: Mutex<Option<Running>>,
}

impl fmt::Debug for ControlGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlGroup").field("node", self.inner.raft.node_id()).finish_non_exhaustive()
    }
}

impl ControlGroup {
    /// Opens the data directory and starts Raft. Effects arrive as long as somebody takes them.
    pub async fn start(
        options: Options,
        transport: Arc<dyn Transport>,
    ) -> Result<(Self, mpsc::Receiver<Effect>), OpenError> {
        telemetry::describe();
        let (effects, effect_receiver) = mpsc::channel(EFFECTS_MAX);
        let opening = options.clone();
        let opened = tokio::task::spawn_blocking(move || Storage::open(&opening, effects)).await;
        let (storage, tables) = opened.map_err(|e| OpenError::Raft(e.to_string()))??;
        let runtime = build_runtime().map_err(|e| OpenError::Raft(e.to_string()))?;
        let mut running = Running { runtime: Some(runtime), raft: None, storage: Some(storage) };
        match running.start(&options, tables, transport).await {
            Ok(inner) => {
                *lock(&inner.running) = Some(running);
                Ok((Self { inner: Arc::new(inner) }, effect_receiver))
            }
            Err(error) => {
                running.stop_elsewhere().await;
                Err(error)
            }
        }
    }

    /// This member, as [`Options`] named it.
    pub fn own(&self) -> (NodeId, NodeAddresses) {
        (NodeId(*self.inner.raft.node_id()), self.inner.addresses.clone())
    }

    /// The replicated state as applied here; linearizable after [`ControlGroup::linearize`].
    pub fn tables(&self) -> Tables {
        self.inner.tables.clone()
    }

    /// Proposes one command and waits until it is applied here.
    pub async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        let mut answers = self.propose_all(vec![command]).await?;
        answers.pop().ok_or(ProposeError::Unknown)
    }

    /// Proposes commands in one log entry, in order, nothing between them. For lack of disk new pushes are refused, unless
    /// they come with something else: that must not be held up.
    pub async fn propose_all(&self, commands: Vec<Command>) -> Result<Vec<Applied>, ProposeError> {
        if self.disk_full()
            && commands.iter().all(|command| matches!(command.body, CommandBody::AcceptPush(_)))
        {
            return Err(ProposeError::DiskFull);
        }
        let proposer = lock(&self.inner.proposer).clone().ok_or(ProposeError::Stopped)?;
        proposer.propose(&commands).await
    }

    /// Waits until the tables here hold everything committed before this call.
    pub async fn linearize(&self) -> Result<Position, ReadError> {
        self.inner.reads.linearize().await
    }

    /// Every change of leadership.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// How far log, tables and snapshot are here.
    pub fn positions(&self) -> watch::Receiver<Positions> {
        self.inner.positions.clone()
    }

    /// The members as this node knows them.
    pub fn members(&self) -> Vec<Member> {
        membership::members(&self.inner.raft)
    }

    /// Founds the control group; once, on one node.
    pub async fn initialize(&self, nodes: Vec<(NodeId, NodeAddresses)>) -> Result<(), MembershipError> {
        membership::initialize(&self.inner.raft, nodes).await
    }

    /// Adds a node that receives the log and does not vote.
    pub async fn add_learner(&self, id: NodeId, addresses: NodeAddresses) -> Result<(), MembershipError> {
        membership::add_learner(&self.inner.raft, id, addresses).await
    }

    /// Makes a learner that has caught up a voter.
    pub async fn promote(&self, id: NodeId) -> Result<(), MembershipError> {
        membership::promote(&self.inner.raft, id).await
    }

    /// Removes a member.
    pub async fn remove(&self, id: NodeId) -> Result<(), MembershipError> {
        membership::remove(&self.inner.raft, id).await
    }

    /// Hands leadership to `to`, or to whoever is furthest.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<(), MembershipError> {
        membership::transfer_leader(&self.inner.raft, to).await
    }

    /// The receiving side of [`Transport::call`].
    pub async fn handle_call(&self, from: NodeId, call: RaftCall, body: Bytes) -> Result<Bytes, String> {
        let answer = network::serve(&self.inner.raft, call, &body).await;
        if let Err(error) = &answer {
            tracing::debug!(%from, ?call, %error, "a raft call failed");
        }
        answer
    }

    /// The receiving side of [`Transport::open_snapshot`].
    pub async fn receive_snapshot(&self, stream: SnapshotStream) -> Result<(), String> {
        network::serve_snapshot(&self.inner.raft, &self.inner.snapshots, stream).await
    }

    /// Becomes `Some` when this member is of no use any more and the process must exit.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.inner.failed.clone()
    }

    /// Whether [`Effect::Revoked`], [`Effect::Deleted`] or [`Effect::KeysChanged`] was dropped since this was asked last,
    /// for want of room.
    pub fn take_credentials_unknown(&self) -> bool {
        self.inner.progress.take_credentials_unknown()
    }

    /// Whether new pushes are refused for lack of disk.
    pub fn disk_full(&self) -> bool {
        self.inner.disk_full.load(Ordering::Relaxed)
    }

    /// Hands leadership over if it can, stops Raft, joins the threads, flushes and closes the databases. Calls on
    /// other clones fail from now on; their [`Tables`] must be dropped before the process exits.
    pub async fn shutdown(self) {
        drop(lock(&self.inner.proposer).take());
        self.hand_over().await;
        self.shutdown_now().await;
    }

    /// The same without handing leadership over: for the others like a crash, which they notice by themselves.
    pub async fn shutdown_now(self) {
        drop(lock(&self.inner.proposer).take());
        let running = lock(&self.inner.running).take();
        if let Some(running) = running {
            running.stop_elsewhere().await;
        }
    }

    /// Saves the others an election timeout.
    async fn hand_over(&self) {
        if !self.inner.leadership.borrow().is_leader {
            return;
        }
        let caught_up = membership::successor_caught_up(&self.inner.raft);
        if timeout(CATCH_UP_BEFORE_TRANSFER_MAX, caught_up).await.is_err() {
            return;
        }
        if let Err(error) = membership::transfer_leader(&self.inner.raft, None).await {
            tracing::info!(%error, "stopping without handing leadership over");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Like a crash as far as the others can tell, but the databases are closed: a process that exits with
        // RocksDB's threads running may segfault.
        if let Some(running) = lock(&self.running).take() {
            running.stop_on_thread();
        }
    }
}

/// Both databases with their threads.
struct Storage {
    log: LogStore,
    log_thread: JoinHandle<()>,
    apply: ApplyThread,
    apply_thread: JoinHandle<()>,
    snapshots: SnapshotStore,
    progress: ApplyProgress,
    /// Released last.
    data_dir: DataDir,
}

impl Storage {
    fn open(options: &Options, effects: mpsc::Sender<Effect>) -> Result<(Self, Tables), OpenError> {
        let data_dir = DataDir::open(&options.data_dir, options.node)?;
        let (tables, machine) = open_tables(&data_dir.path("tables"), options)?;
        let log_path = data_dir.path("log");
        let log_db = LogDb::open(&log_path).map_err(database("the log", &log_path))?;
        let snapshots_path = data_dir.path("snapshots");
        let snapshots = SnapshotStore::open(snapshots_path.clone())
            .map_err(database("the snapshots", &snapshots_path))?;
        let progress = ApplyProgress::default();
        let (log, log_thread) = LogStore::open(log_db, TAIL_LEN_MAX, progress.durable.clone())
            .map_err(database("the log", &log_path))?;
        let spawned = ApplyThread::spawn(machine, snapshots.clone(), effects, progress.clone());
        let (apply, apply_thread) = match spawned {
            Ok(spawned) => spawned,
            Err(error) => {
                log.close();
                drop(log_thread.join());
                return Err(OpenError::Raft(error.to_string()));
            }
        };
        Ok((Self { log, log_thread, apply, apply_thread, snapshots, progress, data_dir }, tables))
    }

    /// A panic of a thread has been reported where it happened.
    fn close(self) {
        self.log.close();
        drop(self.log_thread.join());
        self.apply.stop();
        drop(self.apply_thread.join());
        drop(self.log);
        drop(self.data_dir);
    }
}

fn open_tables(path: &Path, options: &Options) -> Result<(Tables, StateMachine), OpenError> {
    let tables_options = TablesOptions {
        owed_per_terminal_max: options.owed_per_terminal_max,
        retained_max: options.retained_max,
        retained_bytes_max: options.retained_bytes_max,
        will_ttl_default_ms: u64::try_from(options.will_ttl_default.as_millis()).unwrap_or(u64::MAX),
        cache_bytes: options.cache_bytes,
    };
    tables::open(path, tables_options).map_err(database("the tables", path))
}

fn database<E>(what: &'static str, path: &Path) -> impl FnOnce(E) -> OpenError
where
    E: std::error::Error + Send + Sync + 'static,
{
    let path = path.to_owned();
    move |error| OpenError::Database { what, path, source: Box::new(error) }
}

/// What must be stopped, in the order of [`Running::stop`].
struct Running {
    runtime: Option<Runtime>,
    raft: Option<Raft>,
    storage: Option<Storage>,
}

impl Running {
    async fn start(
        &mut self,
        options: &Options,
        tables: Tables,
        transport: Arc<dyn Transport>,
    ) -> Result<Inner, OpenError> {
        let stopped = || OpenError::Raft("no storage".to_owned());
        let (runtime, storage) = self.runtime.as_ref().zip(self.storage.as_ref()).ok_or_else(stopped)?;
        let raft = start_raft(runtime, options, storage, transport).await?;
        let disk_full = Arc::new(AtomicBool::new(false));
        let (changes, leadership) = watch::channel(Leadership::default());
        let (moves, positions) = watch::channel(Positions::default());
        let (fail, failed) = watch::channel(None);
        let log = RaftLog { raft: raft.clone(), tables: tables.clone(), leadership: leadership.clone() };
        let (proposer, propose) = Proposer::new(log);
        let (reads, read) = Reads::new(raft.clone(), tables.clone());
        let housekeeping = Housekeeping {
            raft: raft.clone(),
            log: storage.log.clone(),
            tables: tables.clone(),
            progress: storage.progress.clone(),
            data_dir: options.data_dir.clone(),
            disk_reserve_bytes: options.disk_reserve_bytes,
            disk_full: disk_full.clone(),
            log_keep: options.log_keep,
            snapshot_every: options.snapshot_every,
            leadership: leadership.clone(),
            positions: positions.clone(),
            failed: fail,
        };
        runtime.spawn(leadership::follow(raft.clone(), changes, moves));
        runtime.spawn(propose);
        runtime.spawn(read);
        runtime.spawn(housekeeping.run());
        let snapshots = storage.snapshots.clone();
        self.raft = Some(raft.clone());
        Ok(Inner {
            addresses: options.addresses.clone(),
            raft,
            tables,
            progress: storage.progress.clone(),
            snapshots,
            proposer: Mutex::new(Some(proposer)),
            reads,
            leadership,
            positions,
            failed,
            disk_full,
            running: Mutex::new(None),
        })
    }

    /// Blocks: the log and the tables are closed when it returns.
    fn stop(mut self) {
        if let Some(runtime) = self.runtime.take() {
            if let Some(raft) = self.raft.take() {
                let stopped = runtime.block_on(async { timeout(SHUTDOWN_STEP_MAX, raft.shutdown()).await });
                if stopped.is_err() {
                    tracing::warn!("raft did not stop in time");
                }
            }
            // Drops every task, and with them their handles of the log.
            runtime.shutdown_timeout(SHUTDOWN_STEP_MAX);
        }
        if let Some(storage) = self.storage.take() {
            storage.close();
        }
    }

    async fn stop_elsewhere(self) {
        if let Err(error) = tokio::task::spawn_blocking(move || self.stop()).await {
            tracing::error!(%error, "stopping the control group member failed");
        }
    }

    /// From a destructor, which may run inside a runtime, where blocking on another is not allowed.
    fn stop_on_thread(self) {
        match std::thread::Builder::new().name("raft-stop".to_owned()).spawn(move || self.stop()) {
            Ok(thread) => drop(thread.join()),
            Err(error) => tracing::error!(%error, "stopping the control group member failed"),
        }
    }
}

fn build_runtime() -> std::io::Result<Runtime> {
    runtime::Builder::new_multi_thread().worker_threads(RAFT_THREADS).thread_name("raft").enable_all().build()
}

async fn start_raft(
    runtime: &Runtime,
    options: &Options,
    storage: &Storage,
    transport: Arc<dyn Transport>,
) -> Result<Raft, OpenError> {
    let config = config(options)?;
    let network = Network::new(options.node, transport);
    let machine = RaftTables::new(storage.apply.clone(), storage.snapshots.clone());
    let log = storage.log.clone();
    let id = options.node.0;
    let starting =
        runtime.spawn(async move { Box::pin(Raft::new(id, Arc::new(config), network, log, machine)).await });
    let started = starting.await.map_err(|e| OpenError::Raft(e.to_string()))?;
    started.map_err(|e| OpenError::Raft(e.to_string()))
}

fn config(options: &Options) -> Result<Config, OpenError> {
    let millis = |duration: Duration| duration.as_millis() as u64;
    let config = Config {
        cluster_name: "carillon".to_owned(),
        heartbeat_interval: millis(options.heartbeat),
        election_timeout_min: millis(options.election_timeout.0),
        election_timeout_max: millis(options.election_timeout.1),
        enable_pre_vote: Some(true),
        // A leader that restarts within its lease must be elected again: its tables may be older than its promises.
        enable_leader_restore: Some(false),
        // Snapshots and purges are asked for by `Housekeeping`, which knows what is durable.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // Replication reads the entry from memory while the local fsync runs.
        broadcast_submitted_on_append: Some(true),
        // A node that comes back is found within the time an election takes.
        backoff: "20ms 40ms 80ms ...200ms".to_owned(),
        ..Config::default()
    };
    config.validate().map_err(|e| OpenError::Raft(e.to_string()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
