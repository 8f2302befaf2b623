//! Linearizable reads: one round to a majority answers everybody who waited when it began.
//!
//! A lease would save the round, but a process that was stopped and continued (or a machine that was suspended)
//! believes in a lease that is long over. So a majority is asked every time.

use std::{future::Future, time::Duration};

use cluster_proto::NodeId;
use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    group::Raft,
    tables::{Position, Tables},
    type_config::TypeConfig,
};

/// Reads waiting. When full, further ones wait for room: their callers are bounded elsewhere.
const QUEUE_LEN_MAX: usize = 4 * 1024;
/// A majority out of reach, or apply far behind.
const ROUND_MAX: Duration = Duration::from_secs(2);

/// Why a linearizable read is not possible here and now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Only the leader can tell.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who is, as far as known.
        leader: Option<NodeId>,
    },
    /// No majority answered in time.
    #[error("no majority of the control group answers")]
    NoQuorum,
    /// This node is shutting down.
    #[error("this node is stopping")]
    Stopped,
}

type Reply = oneshot::Sender<Result<Position, ReadError>>;

/// A handle to the task.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    queue: mpsc::Sender<Reply>,
}

impl Reads {
    /// Makes the handle and the task, which ends when all handles are gone.
    pub(crate) fn new(raft: Raft, tables: Tables) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, waiting) = mpsc::channel(QUEUE_LEN_MAX);
        (Self { queue }, run(raft, tables, waiting))
    }

    pub(crate) async fn linearize(&self) -> Result<Position, ReadError> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(reply).await.map_err(|_| ReadError::Stopped)?;
        answer.await.map_err(|_| ReadError::Stopped)?
    }
}

async fn run(raft: Raft, tables: Tables, mut waiting: mpsc::Receiver<Reply>) {
    let mut round = Vec::new();
    while waiting.recv_many(&mut round, QUEUE_LEN_MAX).await > 0 {
        let result = ask(&raft, &tables).await;
        for reply in round.drain(..) {
            drop(reply.send(result.clone()));
        }
    }
}

async fn ask(raft: &Raft, tables: &Tables) -> Result<Position, ReadError> {
    let asked = timeout(ROUND_MAX, raft.ensure_linearizable(ReadPolicy::ReadIndex)).await;
    match asked.map_err(|_| ReadError::NoQuorum)? {
        Ok(_) => Ok(tables.applied()),
        Err(error) => Err(read_error(error)),
    }
}

fn read_error(error: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> ReadError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
            ReadError::NotLeader { leader: forward.leader_id.map(NodeId) }
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => ReadError::NoQuorum,
        RaftError::Fatal(_) => ReadError::Stopped,
    }
}
