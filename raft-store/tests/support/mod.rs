//! Several control group members in one process, over streams in memory.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cluster_proto::{
    AppId, Audience, Message, MessageProperties, NodeId, PushKind, Qos, link::NodeAddresses,
    raft_rpc::RaftCall,
};
use raft_store::{
    Applied, Command, CommandBody, ControlGroup, Leadership, OpenError, Options, Positions, ProposeError,
    command::{AcceptPush, PushOptions},
    tables::Position,
    transport::{BoxFuture, SnapshotStream, Transport, TransportError},
};
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};

/// Nothing in these tests takes longer unless it hangs; generous, because machines are shared.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Who can reach whom.
#[derive(Debug, Default)]
pub(crate) struct Wires {
    groups: Mutex<BTreeMap<NodeId, ControlGroup>>,
    cut: Mutex<BTreeSet<NodeId>>,
    snapshots: AtomicUsize,
}

impl Wires {
    /// Separates a node from all others, or joins it again.
    pub(crate) fn cut(&self, node: NodeId, cut: bool) {
        let mut nodes = self.cut.lock().expect("cut");
        if cut {
            nodes.insert(node)
        } else {
            nodes.remove(&node)
        };
    }

    pub(crate) fn snapshots_sent(&self) -> usize {
        self.snapshots.load(Ordering::Relaxed)
    }

    fn reach(&self, from: NodeId, to: NodeId) -> Result<ControlGroup, TransportError> {
        let cut = self.cut.lock().expect("cut");
        let group = self.groups.lock().expect("groups").get(&to).cloned();
        group.filter(|_| !cut.contains(&from) && !cut.contains(&to)).ok_or_else(|| {
            TransportError::Unreachable { target: to, address: String::new(), reason: "no wire".to_owned() }
        })
    }
}

#[derive(Debug)]
struct Wire {
    own: NodeId,
    wires: Arc<Wires>,
}

impl Transport for Wire {
    fn call<'a>(
        &'a self,
        target: NodeId,
        _addresses: &'a NodeAddresses,
        call: RaftCall,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Bytes, TransportError>> {
        Box::pin(async move {
            let group = self.wires.reach(self.own, target)?;
            let answer = timeout(limit, group.handle_call(self.own, call, body)).await;
            let answer = answer.map_err(|_| TransportError::Timeout { target })?;
            self.wires.reach(self.own, target)?;
            answer.map_err(|reason| TransportError::Broken { target, reason })
        })
    }

    fn open_snapshot<'a>(
        &'a self,
        target: NodeId,
        _addresses: &'a NodeAddresses,
    ) -> BoxFuture<'a, Result<SnapshotStream, TransportError>> {
        Box::pin(async move {
            let group = self.wires.reach(self.own, target)?;
            self.wires.snapshots.fetch_add(1, Ordering::Relaxed);
            let (writer, far_reader) = tokio::io::duplex(64 * 1024);
            let (far_writer, reader) = tokio::io::duplex(64 * 1024);
            let far = SnapshotStream { writer: Box::new(far_writer), reader: Box::new(far_reader) };
            tokio::spawn(async move { group.receive_snapshot(far).await });
            Ok(SnapshotStream { writer: Box::new(writer), reader: Box::new(reader) })
        })
    }
}

/// The members, their directories and the wires between them.
pub(crate) struct World {
    pub(crate) wires: Arc<Wires>,
    dirs: TempDir,
    tune: fn(&mut Options),
}

impl World {
    /// Starts members 1 to `size` as one group.
    pub(crate) async fn start(size: u64, tune: fn(&mut Options)) -> Self {
        let world = Self { wires: Arc::default(), dirs: tempfile::tempdir().expect("temp"), tune };
        let ids: Vec<_> = (1..=size).map(NodeId).collect();
        for &id in &ids {
            world.start_node(id).await;
        }
        let nodes = ids.iter().map(|&id| (id, addresses(id))).collect();
        world.group(ids[0]).initialize(nodes).await.expect("initialize");
        world
    }

    /// Starts a member, or starts it again.
    pub(crate) async fn start_node(&self, id: NodeId) -> ControlGroup {
        let mut options = Options::new(id, addresses(id), self.dir(id));
        (self.tune)(&mut options);
        let wire = Arc::new(Wire { own: id, wires: self.wires.clone() });
        let opened = async {
            loop {
                match ControlGroup::start(options.clone(), wire.clone()).await {
                    // A call of another member still holds the one that was stopped.
                    Err(OpenError::Database { .. }) => tokio::task::yield_now().await,
                    // Effects are of no interest here: a queue that nobody reads must not hold anything up either.
                    opened => return opened.expect("start").0,
                }
            }
        };
        let group = timeout(LIMIT, opened).await.expect("opened in time");
        self.wires.groups.lock().expect("groups").insert(id, group.clone());
        group
    }

    pub(crate) fn dir(&self, id: NodeId) -> PathBuf {
        self.dirs.path().join(format!("node-{id}"))
    }

    pub(crate) fn group(&self, id: NodeId) -> ControlGroup {
        self.wires.groups.lock().expect("groups").get(&id).expect("running").clone()
    }

    pub(crate) fn groups(&self) -> Vec<ControlGroup> {
        self.wires.groups.lock().expect("groups").values().cloned().collect()
    }

    fn take(&self, id: NodeId) -> ControlGroup {
        self.wires.groups.lock().expect("groups").remove(&id).expect("running")
    }

    /// Stops a member without a word to the others.
    pub(crate) async fn kill(&self, id: NodeId) {
        self.take(id).shutdown_now().await;
    }

    /// Stops a member as an operator would.
    pub(crate) async fn stop(&self, id: NodeId) {
        let group = self.group(id);
        group.shutdown().await;
        drop(self.take(id));
    }

    pub(crate) async fn stop_all(&self) {
        for id in self.ids() {
            self.kill(id).await;
        }
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.wires.groups.lock().expect("groups").keys().copied().collect()
    }

    /// Waits until some running member leads, with everything applied, and is not one of `except`.
    pub(crate) async fn leader(&self, except: &[NodeId]) -> (NodeId, ControlGroup) {
        let mut waits = Vec::new();
        for id in self.ids().into_iter().filter(|id| !except.contains(id)) {
            let group = self.group(id);
            waits.push(Box::pin(async move {
                leads(&group).await;
                (id, group)
            }));
        }
        let first = futures_util::future::select_all(waits);
        timeout(LIMIT, first).await.expect("a leader in time").0
    }

    /// Applies a command through whoever leads, however long it takes to find one.
    pub(crate) async fn write(&self, name: &str) -> Applied {
        let attempt = async {
            loop {
                let (_, leader) = self.leader(&[]).await;
                match leader.propose(create_app(name)).await {
                    Ok(applied) => return applied,
                    Err(ProposeError::NotLeader { .. } | ProposeError::Unknown) => {
                        tokio::task::yield_now().await
                    }
                    Err(error) => panic!("write {name}: {error}"),
                }
            }
        };
        timeout(LIMIT, attempt).await.expect("a write in time")
    }

    /// Waits until every running member has applied what the leader has, and returns that position.
    pub(crate) async fn same_everywhere(&self) -> Position {
        let (_, leader) = self.leader(&[]).await;
        let position = leader.linearize().await.expect("linearize");
        for group in self.groups() {
            until(group.positions(), |at: &Positions| at.applied >= Some(position.index)).await;
            assert_eq!(group.tables().applied(), position, "{group:?}");
        }
        position
    }
}

pub(crate) async fn leads(group: &ControlGroup) {
    until(group.leadership(), |now: &Leadership| now.is_leader).await;
}

/// Waits for a condition, within the limit.
pub(crate) async fn until<T: Copy + std::fmt::Debug>(
    mut watch: watch::Receiver<T>,
    condition: impl Fn(&T) -> bool,
) -> T {
    let waited = timeout(LIMIT, watch.wait_for(condition)).await.map(|seen| seen.map(|seen| *seen));
    match waited {
        Ok(Ok(seen)) => seen,
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => panic!("not in time; last seen {:?}", *watch.borrow()),
    }
}

pub(crate) fn addresses(id: NodeId) -> NodeAddresses {
    NodeAddresses { link: format!("node-{id}:7401"), api: format!("node-{id}:7400"), mqtt: String::new() }
}

pub(crate) fn create_app(name: &str) -> Command {
    Command::own(CommandBody::CreateApp { name: name.to_owned(), quotas: Default::default() })
}

pub(crate) fn accept_push() -> Command {
    let message = Message {
        app: AppId::DEFAULT,
        kind: PushKind::Identity,
        topic: "news".to_owned(),
        qos: Qos::AtLeastOnce,
        payload: Bytes::from_static(b"hello"),
        properties: MessageProperties::default(),
        publisher: None,
        retain: false,
        tells_expiry: false,
    };
    Command::own(CommandBody::AcceptPush(AcceptPush {
        message,
        audience: Audience::All,
        online: None,
        ttl_ms: 60_000,
        options: PushOptions::default(),
        idempotency: None,
        retained_ttl_ms: None,
        exchange: None,
    }))
}
