//! Gathers commands into log entries.
//!
//! Idle: a command is proposed at once. While an entry is in flight, what comes is gathered into the next, up to
//! [`PROPOSAL_BATCH_LEN_MAX`] bytes; two may be in flight, so that the second is on its way to the followers while
//! the first is being fsynced. So the load itself sets the batch size.
//!
//! Order: commands enter the log in the order they were queued, also over retries.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cluster_proto::{NodeId, limits::PROPOSAL_BATCH_LEN_MAX};
use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};

use crate::{
    Applied, Command, telemetry,
    type_config::{EncodedCommand, Proposal},
};

/// Calls waiting. When full, further ones are refused as [`ProposeError::Full`] and nothing is kept of them.
const QUEUE_LEN_MAX: usize = 16 * 1024;
/// Bytes waiting; the same happens when it is full.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// One call's commands share one entry, which must fit into a frame between nodes beside its envelope.
pub const PROPOSAL_LEN_MAX: usize = cluster_proto::limits::FRAME_LEN_MAX - 1024 * 1024;
const IN_FLIGHT_MAX: usize = 2;
/// A leader whose lease lapsed for a moment (just elected, or starved of CPU) refuses writes; it is asked again.
const RETRY_EVERY: Duration = Duration::from_millis(15);
const RETRY_FOR: Duration = Duration::from_secs(2);

/// Why a command was not (or perhaps not) done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not done: this node does not lead.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who is, as far as known.
        leader: Option<NodeId>,
    },
    /// May or may not commit: leadership was lost, or the answer took too long, after it entered the log.
    #[error("the outcome is unknown")]
    Unknown,
    /// Certainly not done: too much is waiting, or this call alone exceeds [`PROPOSAL_LEN_MAX`].
    #[error("too many commands are waiting")]
    Full,
    /// Certainly not done: new pushes are refused while the disk is nearly full.
    #[error("the disk is nearly full")]
    DiskFull,
    /// Certainly not done: this node is shutting down.
    #[error("this node is stopping")]
    Stopped,
}

/// How one entry ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Not in the log; asking again soon may help.
    Retry,
    NotLeader(Option<NodeId>),
    Unknown,
    Stopped,
}

pub(crate) type Outcome = Result<Vec<Applied>, Refused>;

/// The log, as far as the proposer needs it.
pub(crate) trait Log: Send + Sync + 'static {
    /// Hands over one entry; when this returns, its place behind all earlier ones is fixed. The future it gives
    /// resolves when the entry is applied or its fate is known.
    fn submit(&self, proposal: Proposal) -> impl Future<Output = BoxFuture<'static, Outcome>> + Send;

    /// Milliseconds since the epoch, never before what was already applied.
    fn now_ms(&self) -> u64;
}

/// A handle to the task.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Request>,
    queued_bytes: Arc<AtomicUsize>,
}

struct Request {
    commands: Vec<EncodedCommand>,
    bytes: Queued,
    reply: oneshot::Sender<Result<Vec<Applied>, ProposeError>>,
}

/// Bytes counted against [`QUEUE_BYTES_MAX`] until dropped.
struct Queued {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Queued {
    fn new(bytes: usize, total: &Arc<AtomicUsize>) -> Result<Self, ProposeError> {
        let before = total.fetch_add(bytes, Ordering::Relaxed);
        let queued = Self { bytes, total: total.clone() };
        if before + bytes > QUEUE_BYTES_MAX { Err(ProposeError::Full) } else { Ok(queued) }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Proposer {
    /// Makes the handle and the task, which ends when all handles are gone.
    pub(crate) fn new(log: impl Log) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, requests) = mpsc::channel(QUEUE_LEN_MAX);
        let task = Task {
            log,
            requests,
            in_flight: VecDeque::new(),
            retry: VecDeque::new(),
            spill: None,
            last_ms: 0,
        };
        (Self { queue, queued_bytes: Arc::default() }, task.run())
    }

    /// Proposes `commands` in one entry, in order, and waits until they are applied here.
    pub(crate) async fn propose(&self, commands: &[Command]) -> Result<Vec<Applied>, ProposeError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let commands: Vec<_> =
            commands.iter().map(EncodedCommand::new).collect::<Result<_, _>>().map_err(|error| {
                tracing::error!(%error, "a command does not encode");
                ProposeError::Stopped
            })?;
        let bytes = commands.iter().map(EncodedCommand::len).sum();
        if bytes > PROPOSAL_LEN_MAX {
            tracing::warn!(bytes, max = PROPOSAL_LEN_MAX, "a proposal is refused for its size");
            return Err(ProposeError::Full);
        }
        let (reply, answer) = oneshot::channel();
        let request = Request { commands, bytes: Queued::new(bytes, &self.queued_bytes)?, reply };
        self.queue.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Full,
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        // The task was cut off with the request in hand: whether it had been handed on is not known.
        answer.await.map_err(|_| ProposeError::Unknown)?
    }
}

struct Task<L> {
    log: L,
    requests: mpsc::Receiver<Request>,
    in_flight: VecDeque<InFlight>,
    /// Refused for now. While there are any, nothing newer is proposed.
    retry: VecDeque<Batch>,
    /// Taken from the queue, but too large for the batch that was being made.
    spill: Option<Request>,
    last_ms: u64,
}

struct InFlight {
    batch: Batch,
    outcome: BoxFuture<'static, Outcome>,
}

struct Batch {
    requests: Vec<Request>,
    since: Instant,
}

impl<L: Log> Task<L> {
    async fn run(mut self) {
        loop {
            if !self.retry.is_empty() && self.in_flight.is_empty() {
                sleep(RETRY_EVERY).await;
                self.resubmit().await;
                continue;
            }
            let may_submit = self.in_flight.len() < IN_FLIGHT_MAX && self.retry.is_empty();
            if may_submit && let Some(first) = self.spill.take() {
                self.submit_with(first).await;
                continue;
            }
            tokio::select! {
                biased;
                outcome = first_outcome(&mut self.in_flight), if !self.in_flight.is_empty() => self.finish(outcome),
                request = self.requests.recv(), if may_submit => match request {
                    Some(first) => self.submit_with(first).await,
                    None if self.in_flight.is_empty() => return,
                    // The last handle is gone; wait for what is in flight.
                    None => {
                        let outcome = first_outcome(&mut self.in_flight).await;
                        self.finish(outcome);
                    }
                },
            }
        }
    }

    /// Proposes `first` and what else waits and fits.
    async fn submit_with(&mut self, first: Request) {
        let mut bytes = first.bytes.bytes;
        let mut requests = vec![first];
        while bytes < PROPOSAL_BATCH_LEN_MAX {
            let Ok(next) = self.requests.try_recv() else { break };
            if bytes + next.bytes.bytes > PROPOSAL_BATCH_LEN_MAX {
                self.spill = Some(next);
                break;
            }
            bytes += next.bytes.bytes;
            requests.push(next);
        }
        // Whoever gave up waiting before anything happened is not proposed at all.
        requests.retain(|request| !request.reply.is_closed());
        if !requests.is_empty() {
            self.submit(Batch { requests, since: Instant::now() }).await;
        }
    }

    async fn resubmit(&mut self) {
        if let Some(batch) = self.retry.pop_front() {
            self.submit(batch).await;
        }
    }

    async fn submit(&mut self, batch: Batch) {
        self.last_ms = self.log.now_ms().max(self.last_ms);
        let commands: Vec<_> =
            batch.requests.iter().flat_map(|request| request.commands.iter()).cloned().collect();
        telemetry::proposed(commands.len());
        let outcome = self.log.submit(Proposal::join(self.last_ms, &commands)).await;
        self.in_flight.push_back(InFlight { batch, outcome });
    }

    fn finish(&mut self, outcome: Outcome) {
        let Some(InFlight { batch, .. }) = self.in_flight.pop_front() else { return };
        let refusal = match outcome {
            Ok(answers) => return batch.answer(answers),
            Err(Refused::Retry) if batch.since.elapsed() < RETRY_FOR => return self.retry.push_back(batch),
            Err(Refused::Retry) => ProposeError::NotLeader { leader: None },
            Err(Refused::NotLeader(leader)) => ProposeError::NotLeader { leader },
            Err(Refused::Unknown) => ProposeError::Unknown,
            Err(Refused::Stopped) => ProposeError::Stopped,
        };
        batch.refuse(&refusal);
    }
}

async fn first_outcome(in_flight: &mut VecDeque<InFlight>) -> Outcome {
    match in_flight.front_mut() {
        Some(first) => (&mut first.outcome).await,
        None => std::future::pending().await,
    }
}

impl Batch {
    /// A caller that is gone does not need its answer; so sends are not checked.
    fn answer(self, mut answers: Vec<Applied>) {
        for request in self.requests {
            let rest = answers.split_off(request.commands.len().min(answers.len()));
            let own = std::mem::replace(&mut answers, rest);
            let complete = own.len() == request.commands.len();
            drop(request.reply.send(if complete { Ok(own) } else { Err(ProposeError::Unknown) }));
        }
    }

    fn refuse(self, error: &ProposeError) {
        for request in self.requests {
            drop(request.reply.send(Err(error.clone())));
        }
    }
}

#[cfg(test)]
#[path = "proposer_tests.rs"]
mod tests;
