//! A cluster of three control nodes (which serve terminals too) and one more edge, shared by the tests that overlap.

use std::{
    fs,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    path::PathBuf,
    process::{Command, Output},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
    time::{Duration, Instant},
};

use chaos_tests::cluster::{Cluster, Doors, find_binary};
use tokio::runtime::Runtime;

use crate::{V311, build::Connect, client::Client, server::scratch, unique};

/// The node that keeps no log: killing it changes no leader.
pub const EDGE: u64 = 4;
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// The cluster of this test binary. Dropping the last handle stops it.
#[derive(Debug)]
pub struct Nodes {
    runtime: Runtime,
    cluster: RwLock<Cluster>,
    addresses: Vec<(SocketAddr, SocketAddr)>,
    /// Of [`EDGE`], which passes every call on.
    api: SocketAddr,
    dir: PathBuf,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if std::env::var_os("CONFORMANCE_KEEP").is_none() {
            // Processes that are being killed may still write; what is left lies in the temporary directory.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A handle of the cluster, started by the first that asks.
pub fn nodes() -> Arc<Nodes> {
    static SHARED: Mutex<Weak<Nodes>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let nodes = Arc::new(Nodes::start(Doors { anonymous: true, websocket: false }));
        *shared = Arc::downgrade(&nodes);
        nodes
    })
}

impl Nodes {
    /// A cluster of one's own.
    pub fn start(doors: Doors) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let dir = scratch(&unique("cluster"));
        let cluster = runtime.block_on(Cluster::start_with(&dir, 3, 1, doors)).expect("a cluster");
        let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses =
            cluster.nodes.iter().map(|node| (here(node.ports.mqtt), here(node.ports.ws))).collect();
        let api = here(cluster.nodes[EDGE as usize - 1].ports.api);
        Self { runtime, cluster: RwLock::new(cluster), addresses, api, dir }
    }

    /// Where node `id` speaks MQTT.
    pub fn mqtt(&self, id: u64) -> SocketAddr {
        self.addresses[id as usize - 1].0
    }

    /// Where node `id` speaks MQTT over WebSocket.
    pub fn ws(&self, id: u64) -> SocketAddr {
        self.addresses[id as usize - 1].1
    }

    /// What `carillon ARGUMENTS` prints when it speaks to the cluster as its administrator.
    pub fn command(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "carillon {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What `carillon ARGUMENTS` complains about: it must not succeed.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "carillon {arguments:?} is not refused: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// What becomes of `carillon ARGUMENTS`.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(find_binary().expect("the product"))
            .args(arguments)
            .env("CARILLON_API", self.api.to_string())
            .env("CARILLON_TOKEN", format!("@{}", self.dir.join("admin.token").display()))
            .env("CARILLON_CA", self.dir.join("certs/ca.pem"))
            .output()
            .expect("the product")
    }

    /// Nobody disturbs the nodes while this is held.
    pub fn steady(&self) -> RwLockReadGuard<'_, Cluster> {
        self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nodes alone; healed when this is dropped.
    pub fn alone(&self) -> Alone<'_> {
        let cluster = self.cluster.write().unwrap_or_else(PoisonError::into_inner);
        Alone { nodes: self, cluster }
    }
}

/// The right to kill and pause nodes.
#[derive(Debug)]
pub struct Alone<'a> {
    nodes: &'a Nodes,
    cluster: RwLockWriteGuard<'a, Cluster>,
}

impl Alone<'_> {
    /// SIGKILL.
    pub fn kill(&mut self, id: u64) {
        self.nodes.runtime.block_on(self.cluster.node(id).kill()).expect("kill");
    }

    /// SIGSTOP.
    pub fn pause(&mut self, id: u64) {
        self.cluster.node(id).pause().expect("pause");
    }

    /// Starts or continues whatever does not run, and waits until every node is ready and lets terminals in.
    pub fn heal(&mut self) {
        // Starting a process needs a runtime around it.
        let inside = self.nodes.runtime.enter();
        self.cluster.heal().expect("heal");
        drop(inside);
        self.nodes.runtime.block_on(self.cluster.wait_ready()).expect("ready");
        let deadline = Instant::now() + SETTLE_LIMIT;
        for (address, _) in &self.nodes.addresses {
            while Client::ask(*address, &Connect::new(V311, &unique("settled"))).1.reason != 0 {
                assert!(Instant::now() < deadline, "no CONNECT is accepted at {address}");
            }
        }
    }
}

impl Deref for Alone<'_> {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Alone<'_> {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A second panic would hide the first; the next test finds out.
            let inside = self.nodes.runtime.enter();
            let _ = self.cluster.heal();
            drop(inside);
            let _ = self.nodes.runtime.block_on(self.cluster.wait_ready());
        } else {
            self.heal();
        }
    }
}
