//! The answering side of Raft, and who may speak it.
//!
//! # Who may speak
//! 1. Only a node whose certificate has the control role; the endpoint refuses everyone else in the handshake,
//!    and [`RaftServer::serve`] checks again. An edge can never speak Raft.
//! 2. Vote, PreVote and TransferLeader are refused from a node that this node knows to have been *removed*: it was
//!    a member in a membership seen here, and is not in the current one. It has missed its removal and must not
//!    disturb elections. Node ids are never reused, so it does not come back under this one.
//! 3. Everything else is served.
//!
//! Not "current members only", because this node's membership may be older than the caller's. A member that was
//! down while another was added does not know the newcomer; if that one leads, its AppendEntries are the only way
//! to learn of it, and in an election its vote may be the one that counts. A leader that removes itself replicates
//! until the removal is committed, to followers that no longer list it. And a node that is joining knows nobody.
//! What keeps strangers out is the certificate.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use cluster_proto::{
    NodeId,
    raft_rpc::{RaftAnswer, RaftCall, RaftRequest, RaftStream},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use raft_store::transport::{BoxFuture, SnapshotStream};
use tokio::{sync::Semaphore, task::JoinSet};
use tracing::{debug, info, warn};

use super::snapshot_io;
use crate::transport::{
    Connection,
    frames::{self, Accepted, FrameError, FrameReceiver, FrameSender},
    quic::{Alpn, close},
};

/// Calls of one stream being handled. When reached, no more are read and the caller's queue fills.
const CALLS_MAX: usize = 256;
/// Snapshots received at once from one node; a further one is refused, and openraft tries again.
const SNAPSHOTS_MAX: usize = 1;
/// Answers encoded and not taken by QUIC: beyond it no requests are read.
const UNFLUSHED_MAX: usize = 64 * 1024;

/// Who answers the calls: the control group.
pub trait RaftHandler: Send + Sync + 'static {
    /// Handles one call; both bodies are opaque here.
    fn call(&self, from: NodeId, call: RaftCall, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>>;

    /// Receives a snapshot.
    fn snapshot(&self, stream: SnapshotStream) -> BoxFuture<'_, Result<(), String>>;

    /// Voters and learners as this node knows them; empty while it belongs to no group.
    fn members(&self) -> Vec<NodeId>;
}

/// Serves Raft connections. Cheap to clone.
#[derive(Clone)]
pub struct RaftServer(Arc<Inner>);

struct Inner {
    handler: Arc<dyn RaftHandler>,
    admission: Mutex<Admission>,
}

/// Why a call is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was a member once.
    #[error("node {0} was removed from the control group")]
    Removed(NodeId),
}

/// Remembers who was a member, for rule 2. Empty after a restart: then a removed node is a stranger, served until
/// pre-vote shows it that it cannot win.
#[derive(Debug, Default)]
struct Admission {
    seen: BTreeSet<NodeId>,
}

impl Admission {
    fn admit(&mut self, members: &[NodeId], from: NodeId, call: RaftCall) -> Result<(), Refusal> {
        self.seen.extend(members);
        let elects = match call {
            RaftCall::Vote | RaftCall::PreVote | RaftCall::TransferLeader => true,
            RaftCall::AppendEntries | RaftCall::InstallSnapshot => false,
        };
        let removed = !members.is_empty() && !members.contains(&from) && self.seen.contains(&from);
        if elects && removed { Err(Refusal::Removed(from)) } else { Ok(()) }
    }
}

impl RaftServer {
    /// Serves with `handler`.
    pub fn new(handler: Arc<dyn RaftHandler>) -> Self {
        Self(Arc::new(Inner { handler, admission: Mutex::default() }))
    }

    /// Serves one connection until it ends. Dropping the future ends it, and what is being handled.
    pub async fn serve(&self, connection: Connection) {
        let peer = connection.peer;
        if connection.alpn != Alpn::Raft || !peer.roles.control {
            warn!(%peer, "refused: may not speak Raft");
            return connection.quic.close(close::REFUSED, b"may not speak Raft");
        }
        info!(%peer, "Raft connection accepted");
        let reason = self.serve_streams(&connection).await;
        debug!(%peer, %reason, "Raft connection ended");
        connection.quic.close(reason.close_code(), b"");
    }

    /// A task per stream: an append being decoded must not hold up a vote.
    async fn serve_streams(&self, connection: &Connection) -> FrameError {
        let from = connection.peer.node;
        let snapshots = Arc::new(Semaphore::new(SNAPSHOTS_MAX));
        let mut streams = JoinSet::new();
        loop {
            match frames::accept_bi::<RaftStream>(&connection.quic).await {
                Ok(stream) => {
                    let (inner, quic) = (Arc::clone(&self.0), connection.quic.clone());
                    streams.spawn(inner.serve_stream(from, quic, stream, Arc::clone(&snapshots)))
                }
                Err(reason @ (FrameError::Connection(_) | FrameError::Codec(_))) => return reason,
                // Given up before its header arrived.
                Err(reason) => {
                    debug!(node = %from, %reason, "Raft stream ended at once");
                    continue;
                }
            };
            // The finished ones; at most as many as QUIC allows streams are left.
            while streams.try_join_next().is_some() {}
        }
    }
}

impl Inner {
    async fn serve_stream(
        self: Arc<Self>,
        from: NodeId,
        quic: quinn::Connection,
        stream: Accepted<RaftStream>,
        snapshots: Arc<Semaphore>,
    ) {
        let served = match stream.header {
            RaftStream::Calls => self.serve_calls(from, stream).await,
            RaftStream::Snapshot => self.serve_snapshot(from, stream, &snapshots).await,
        };
        let Err(reason) = served else { return };
        debug!(node = %from, %reason, "Raft stream ended");
        if matches!(reason, FrameError::Codec(_)) {
            quic.close(reason.close_code(), b"unreadable frame");
        }
    }

    /// Calls begin in the order they came (appends rely on it) and are answered as they finish.
    async fn serve_calls(&self, from: NodeId, stream: Accepted<RaftStream>) -> Result<(), FrameError> {
        let (mut sender, mut receiver): (FrameSender<RaftAnswer>, FrameReceiver<RaftRequest>) =
            stream.into_bi()?;
        let mut running = FuturesUnordered::new();
        loop {
            let has_room = running.len() < CALLS_MAX && sender.unflushed() < UNFLUSHED_MAX;
            tokio::select! {
                request = receiver.recv(), if has_room => match request? {
                    Some(request) => running.push(self.answer(from, request)),
                    None => return Ok(()),
                },
                Some(answer) = running.next(), if !running.is_empty() => push_answer(&mut sender, answer)?,
                flushed = sender.flush(), if sender.unflushed() > 0 => flushed?,
            }
        }
    }

    async fn answer(&self, from: NodeId, request: RaftRequest) -> RaftAnswer {
        let RaftRequest { id, frame } = request;
        let result = match self.admit(from, frame.call) {
            Ok(()) => self.handler.call(from, frame.call, frame.body).await,
            Err(refusal) => {
                debug!(%refusal, call = ?frame.call, "Raft call refused");
                Err(refusal.to_string())
            }
        };
        RaftAnswer { id, result }
    }

    fn admit(&self, from: NodeId, call: RaftCall) -> Result<(), Refusal> {
        if call == RaftCall::AppendEntries {
            return Ok(());
        }
        let members = self.handler.members();
        self.admission.lock().unwrap_or_else(PoisonError::into_inner).admit(&members, from, call)
    }

    async fn serve_snapshot(
        &self,
        from: NodeId,
        stream: Accepted<RaftStream>,
        snapshots: &Semaphore,
    ) -> Result<(), FrameError> {
        let (sender, receiver) = stream.into_bi()?;
        let Ok(_permit) = snapshots.try_acquire() else {
            // Dropping the halves resets both directions.
            drop(snapshot_io::stream(sender, receiver));
            warn!(node = %from, "refused a snapshot beside another one");
            return Ok(());
        };
        info!(node = %from, "receiving a snapshot");
        if let Err(reason) = self.handler.snapshot(snapshot_io::stream(sender, receiver)).await {
            warn!(node = %from, reason, "snapshot not received");
        }
        Ok(())
    }
}

fn push_answer(sender: &mut FrameSender<RaftAnswer>, answer: RaftAnswer) -> Result<(), FrameError> {
    let id = answer.id;
    match sender.push(&answer) {
        Err(FrameError::Codec(error)) => sender.push(&RaftAnswer { id, result: Err(error.to_string()) }),
        pushed => pushed,
    }
}

impl fmt::Debug for RaftServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RaftServer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);
    const THREE: NodeId = NodeId(3);

    #[test]
    fn a_joining_node_listens_to_everybody() {
        let mut admission = Admission::default();
        for call in [RaftCall::AppendEntries, RaftCall::InstallSnapshot, RaftCall::Vote] {
            assert_eq!(admission.admit(&[], TWO, call), Ok(()));
        }
    }

    #[test]
    fn a_removed_member_cannot_ask_for_votes_and_a_removed_leader_can_finish() {
        let mut admission = Admission::default();
        assert_eq!(admission.admit(&[ONE, TWO, THREE], THREE, RaftCall::Vote), Ok(()));
        for call in [RaftCall::Vote, RaftCall::PreVote, RaftCall::TransferLeader] {
            assert_eq!(admission.admit(&[ONE, TWO], THREE, call), Err(Refusal::Removed(THREE)));
        }
        assert_eq!(admission.admit(&[ONE, TWO], THREE, RaftCall::AppendEntries), Ok(()));
        assert_eq!(admission.admit(&[ONE, TWO], TWO, RaftCall::Vote), Ok(()));
    }

    #[test]
    fn a_newcomer_this_node_has_not_heard_of_may_be_elected_and_lead() {
        let mut admission = Admission::default();
        for call in [RaftCall::PreVote, RaftCall::Vote, RaftCall::AppendEntries, RaftCall::InstallSnapshot] {
            assert_eq!(admission.admit(&[ONE, TWO], THREE, call), Ok(()));
        }
    }
}
