//! One other control node, as seen by the caller: dialled when somebody needs it, kept, dialled again.
//!
//! ```text
//!           demand                     connected
//!   Idle ───────────► (dialling) ────────────────► Linked
//!    ▲                    │                          │
//!    │                    │ failed                   │ lost after a while
//!    │                    ▼                          │ (lost at once counts as failed)
//!    └───────────────  Failed until retry_at ◄───────┘
//! ```
//!
//! Dialling is a task of its own: Raft's calls time out after some ten milliseconds, and on a busy machine no
//! handshake would ever finish if it ended with the call that asked for it.

use std::time::Duration;

use cluster_proto::{
    NodeId,
    raft_rpc::{RaftCall, RaftFrame, RaftStream},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tracing::{debug, info};

use super::lane::{self, Call};
use crate::transport::{
    Endpoint,
    frames::{self, FrameError},
    quic::{Alpn, close},
};

/// First and longest pause after a failed dial. Short, because a restarted member is wanted back at once.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A dead machine answers nothing: give up and start afresh rather than wait for ever longer retransmissions.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection lost sooner than this was refused: that counts as a failed dial, or every call would dial again.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// AppendEntries up to this size travel with the votes: a heartbeat has no entries and some 50 bytes. An append
/// that is taken for one arrives early at worst, and is answered with a conflict.
const HEARTBEAT_LEN_MAX: usize = 128;
/// Heartbeats and votes overtake appends, appends overtake snapshots (which keep `snapshot_io::PRIORITY`).
const URGENT_PRIORITY: i32 = 2;
const APPEND_PRIORITY: i32 = 1;

/// A target of calls. Its task ends, and its connection closes, when it is dropped.
#[derive(Debug)]
pub(super) struct Peer {
    target: NodeId,
    address: String,
    /// Capacity 1: full means that a dial is already asked for.
    demand: mpsc::Sender<()>,
    state: watch::Receiver<State>,
}

#[derive(Clone, Debug)]
enum State {
    Idle,
    Linked(Link),
    Failed { reason: String, retry_at: Instant },
}

/// A working connection to a peer and its two lanes.
#[derive(Clone, Debug)]
pub(super) struct Link {
    connection: quinn::Connection,
    urgent: mpsc::Sender<Call>,
    append: mpsc::Sender<Call>,
}

impl Peer {
    pub(super) fn new(endpoint: Endpoint, target: NodeId, address: String) -> Self {
        let (demand, demanded) = mpsc::channel(1);
        let (publish, state) = watch::channel(State::Idle);
        let runtime = endpoint.runtime().clone();
        runtime.spawn(keep(endpoint, target, address.clone(), demanded, publish));
        Self { target, address, demand, state }
    }

    pub(super) fn target(&self) -> NodeId {
        self.target
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The connection, dialled if there is none. Fails at once while the last failure is fresh, so that a dead
    /// node costs its callers nothing.
    pub(super) async fn link(&self) -> Result<Link, String> {
        let mut state = self.state.clone();
        match &*state.borrow_and_update() {
            State::Linked(link) if link.connection.close_reason().is_none() => return Ok(link.clone()),
            State::Failed { reason, retry_at } if Instant::now() < *retry_at => return Err(reason.clone()),
            _ => {}
        }
        // Full: somebody asked already.
        let _ = self.demand.try_send(());
        loop {
            state.changed().await.map_err(|_| "the endpoint is closed".to_owned())?;
            match &*state.borrow_and_update() {
                State::Linked(link) => return Ok(link.clone()),
                State::Failed { reason, .. } => return Err(reason.clone()),
                State::Idle => {}
            }
        }
    }
}

impl Link {
    /// Where a call travels: votes and heartbeats never behind entries.
    pub(super) fn lane(&self, frame: &RaftFrame) -> &mpsc::Sender<Call> {
        match frame.call {
            RaftCall::AppendEntries if frame.body.len() <= HEARTBEAT_LEN_MAX => &self.urgent,
            RaftCall::Vote | RaftCall::PreVote | RaftCall::TransferLeader => &self.urgent,
            RaftCall::AppendEntries | RaftCall::InstallSnapshot => &self.append,
        }
    }

    pub(super) fn connection(&self) -> &quinn::Connection {
        &self.connection
    }

    /// Why calls break on this connection.
    pub(super) fn close_reason(&self) -> String {
        self.connection
            .close_reason()
            .map_or_else(|| "the stream ended".to_owned(), |reason| reason.to_string())
    }
}

/// Dials on demand and publishes the outcome, until the [`Peer`] is dropped.
async fn keep(
    endpoint: Endpoint,
    target: NodeId,
    address: String,
    mut demand: mpsc::Receiver<()>,
    state: watch::Sender<State>,
) {
    let mut backoff = BACKOFF_MIN;
    while demand.recv().await.is_some() {
        let failure = match dial(&endpoint, target, &address).await {
            Ok(link) => {
                info!(node = %target, %address, "connected for Raft");
                hold(&link, &state).await
            }
            Err(reason) => Some(reason),
        };
        // What was asked meanwhile is answered by what is published now.
        while demand.try_recv().is_ok() {}
        let Some(reason) = failure else {
            backoff = BACKOFF_MIN;
            state.send_replace(State::Idle);
            continue;
        };
        debug!(node = %target, %address, reason, "no Raft connection");
        state.send_replace(State::Failed { reason, retry_at: Instant::now() + backoff });
        backoff = (2 * backoff).min(BACKOFF_MAX);
    }
}

/// Publishes the link and waits until it breaks or is not needed. The reason, if it was too short to count.
async fn hold(link: &Link, state: &watch::Sender<State>) -> Option<String> {
    let since = Instant::now();
    state.send_replace(State::Linked(link.clone()));
    tokio::select! {
        reason = link.connection.closed() => {
            info!(%reason, remote = %link.connection.remote_address(), "Raft connection lost");
            (since.elapsed() < SETTLED_AFTER).then(|| reason.to_string())
        }
        () = state.closed() => {
            link.connection.close(close::DONE, b"not needed");
            None
        }
    }
}

async fn dial(endpoint: &Endpoint, target: NodeId, address: &str) -> Result<Link, String> {
    let connecting = async {
        let connection = endpoint.connect(address, Alpn::Raft).await.map_err(|e| e.to_string())?;
        if connection.peer.node != target {
            connection.quic.close(close::REFUSED, b"another node was expected");
            return Err(format!("{address} answered as {}", connection.peer));
        }
        open_lanes(connection.quic).await.map_err(|e| e.to_string())
    };
    timeout(DIAL_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(format!("{address} does not answer")))
}

async fn open_lanes(connection: quinn::Connection) -> Result<Link, FrameError> {
    let urgent = open_lane(&connection, URGENT_PRIORITY).await?;
    let append = open_lane(&connection, APPEND_PRIORITY).await?;
    Ok(Link { connection, urgent, append })
}

async fn open_lane(connection: &quinn::Connection, priority: i32) -> Result<mpsc::Sender<Call>, FrameError> {
    let (sender, receiver) = frames::open_bi(connection, &RaftStream::Calls).await?;
    sender.set_priority(priority);
    let (calls, queue) = mpsc::channel(lane::QUEUE_MAX);
    tokio::spawn(lane::run(connection.clone(), sender, receiver, queue));
    Ok(calls)
}
