//! The thread that applies. It owns the write side of the tables, so everything that changes or copies them is
//! in one line: apply, snapshot, install.
//!
//! RocksDB calls and apply itself may take long; on a thread of their own they never delay a heartbeat.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc::Sender as EffectSender, oneshot};

use crate::{
    Applied, Effect,
    snapshot::{SnapshotDir, SnapshotStore, Stored},
    tables::{EntryPosition, Flusher, StateMachine},
    telemetry,
    type_config::{LogId, Proposal, SnapshotMeta, StoredMembership, log_id},
};

/// One committed entry; no proposal for blank and membership entries.
pub(crate) type Committed = (EntryPosition, Option<Proposal>);

enum Job {
    Apply {
        entries: Vec<Committed>,
        membership: Option<StoredMembership>,
        reply: oneshot::Sender<io::Result<Vec<Vec<Applied>>>>,
    },
    AppliedState {
        reply: oneshot::Sender<io::Result<(Option<LogId>, StoredMembership)>>,
    },
    Snapshot {
        reply: oneshot::Sender<io::Result<Stored>>,
    },
    Install {
        meta: SnapshotMeta,
        data: SnapshotDir,
        reply: oneshot::Sender<io::Result<()>>,
    },
    Stop,
}

/// What others may know of the thread without asking it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ApplyProgress {
    /// Index up to which the tables survive a power loss; the log keeps all behind it.
    pub(crate) durable: Arc<AtomicU64>,
    /// Since when it has been busy with one job.
    busy_since: Arc<Mutex<Option<Instant>>>,
    /// A hint was dropped that no rescan of the tables finds.
    credentials_unknown: Arc<AtomicBool>,
}

impl ApplyProgress {
    /// How long the current job has taken.
    pub(crate) fn busy_for(&self) -> Option<Duration> {
        self.busy_since.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    /// Whether hints of credentials or keys were dropped since this was asked last.
    pub(crate) fn take_credentials_unknown(&self) -> bool {
        self.credentials_unknown.swap(false, Ordering::Relaxed)
    }

    fn set_busy(&self, since: Option<Instant>) {
        *self.busy_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn set_durable(&self, position: EntryPosition) {
        self.durable.store(position.index, Ordering::Release);
    }
}

/// A handle to the thread. Bound of its queue: openraft's worker waits for each apply and install, and builds one
/// snapshot at a time, so a handful.
#[derive(Clone)]
pub(crate) struct ApplyThread {
    jobs: mpsc::Sender<Job>,
    flusher: Flusher,
}

impl ApplyThread {
    pub(crate) fn spawn(
        machine: StateMachine,
        snapshots: SnapshotStore,
        effects: EffectSender<Effect>,
        progress: ApplyProgress,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel();
        progress.set_durable(machine.durable_position());
        let flusher = machine.flusher();
        let thread = Thread { machine, snapshots, effects, progress, hints: Vec::new() };
        let join = thread::Builder::new().name("apply".to_owned()).spawn(move || thread.run(&queue))?;
        Ok((Self { jobs, flusher }, join))
    }

    pub(crate) async fn apply(
        &self,
        entries: Vec<Committed>,
        membership: Option<StoredMembership>,
    ) -> io::Result<Vec<Vec<Applied>>> {
        self.ask(|reply| Job::Apply { entries, membership, reply }).await
    }

    pub(crate) async fn applied_state(&self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.ask(|reply| Job::AppliedState { reply }).await
    }

    /// Makes a snapshot of the tables as they are now, and the current one of it.
    pub(crate) async fn snapshot(&self) -> io::Result<Stored> {
        // Most of the flush happens beside apply, so that the checkpoint, which apply waits for, has little left.
        let flusher = self.flusher.clone();
        let flushed = tokio::task::spawn_blocking(move || flusher.flush()).await;
        flushed.map_err(io::Error::other)?.map_err(io::Error::other)?;
        self.ask(|reply| Job::Snapshot { reply }).await
    }

    /// Replaces the tables.
    pub(crate) async fn install(&self, meta: SnapshotMeta, data: SnapshotDir) -> io::Result<()> {
        self.ask(|reply| Job::Install { meta, data, reply }).await
    }

    /// Flushes the tables and ends the thread, which the caller then joins.
    pub(crate) fn stop(&self) {
        // Gone already: nothing to stop.
        let _ = self.jobs.send(Job::Stop);
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Job) -> io::Result<T> {
        let (reply, answer) = oneshot::channel();
        let stopped = || io::Error::other("the apply thread has stopped");
        self.jobs.send(job(reply)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

struct Thread {
    machine: StateMachine,
    snapshots: SnapshotStore,
    effects: EffectSender<Effect>,
    progress: ApplyProgress,
    hints: Vec<Effect>,
}

impl Thread {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            self.progress.set_busy(Some(Instant::now()));
            let go_on = self.handle(job);
            self.progress.set_busy(None);
            if !go_on {
                break;
            }
        }
        // Saves the next start the replay; without it, the log still has everything.
        if let Err(error) = self.machine.flush() {
            tracing::warn!(%error, "flushing the tables failed");
        }
    }

    fn handle(&mut self, job: Job) -> bool {
        // A reply that nobody waits for any more is openraft stopping.
        match job {
            Job::Apply { entries, membership, reply } => drop(reply.send(self.apply(entries, membership))),
            Job::AppliedState { reply } => drop(reply.send(self.applied_state())),
            Job::Snapshot { reply } => drop(reply.send(self.snapshot())),
            Job::Install { meta, data, reply } => drop(reply.send(self.install(&meta, data))),
            Job::Stop => return false,
        }
        true
    }

    fn apply(
        &mut self,
        entries: Vec<Committed>,
        membership: Option<StoredMembership>,
    ) -> io::Result<Vec<Vec<Applied>>> {
        let mut batches = Vec::with_capacity(entries.len());
        // The founding entry only brings its membership, see `raft_state`.
        let founding = entries.iter().take_while(|(position, _)| position.index == 0).count();
        for (position, proposal) in entries.into_iter().skip(founding) {
            let batch = proposal.map(|proposal| proposal.decode()).transpose();
            let batch = batch.map_err(|e| invalid(format!("log entry {}: {e}", position.index)))?;
            batches.push((position, batch));
        }
        let membership = membership.or_else(|| (founding > 0).then(StoredMembership::default));
        let membership = membership.map(|m| postcard::to_stdvec(&m)).transpose().map_err(io::Error::other)?;
        let begin = Instant::now();
        let mut answers =
            self.machine.apply(batches, membership, &mut self.hints).map_err(io::Error::other)?;
        telemetry::applied(begin.elapsed());
        answers.splice(0..0, (0..founding).map(|_| Vec::new()));
        self.pass_on_hints();
        self.progress.set_durable(self.machine.durable_position());
        Ok(answers)
    }

    /// Never waits: apply must not hang on the leader's work. A hint that does not fit is dropped and found again by
    /// a rescan of the tables (I7); where none would find it, the leader is told that it lacks one.
    fn pass_on_hints(&mut self) {
        for hint in self.hints.drain(..) {
            let is_found =
                !matches!(hint, Effect::Revoked { .. } | Effect::Deleted { .. } | Effect::KeysChanged);
            if self.effects.try_send(hint).is_err() {
                telemetry::effect_dropped();
                if !is_found {
                    self.progress.credentials_unknown.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    fn applied_state(&self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let membership = self.machine.membership().map_err(io::Error::other)?;
        raft_state(self.machine.applied_position(), membership)
    }

    fn snapshot(&mut self) -> io::Result<Stored> {
        let dir = self.snapshots.new_dir("building")?;
        let contents = self.machine.checkpoint(&dir.db_path()).map_err(io::Error::other)?;
        self.progress.set_durable(self.machine.durable_position());
        let position = EntryPosition { term: contents.position.term, index: contents.position.index };
        let (last_log_id, last_membership) = raft_state(position, contents.membership)?;
        self.snapshots.publish(dir, SnapshotMeta { last_log_id, last_membership })
    }

    fn install(&mut self, meta: &SnapshotMeta, data: SnapshotDir) -> io::Result<()> {
        // Opening the database changes files of the directory, which the current snapshot needs as they are.
        let data = if self.snapshots.is_current(&data) { self.snapshots.copy(&data)? } else { data };
        self.machine.replace_with(&data.db_path()).map_err(io::Error::other)?;
        let (applied, _) = self.applied_state()?;
        if applied != meta.last_log_id {
            return Err(invalid(format!("the snapshot says {:?} and holds {applied:?}", meta.last_log_id)));
        }
        self.snapshot()?;
        Ok(())
    }
}

/// The tables count from (0, 0), which openraft gives to the first entry: the membership the group is founded with.
/// So at (0, 0) the membership tells whether it is applied.
fn raft_state(
    position: EntryPosition,
    membership: Option<Vec<u8>>,
) -> io::Result<(Option<LogId>, StoredMembership)> {
    let nothing = membership.is_none() && position == EntryPosition::default();
    let membership = match membership {
        Some(bytes) => {
            postcard::from_bytes(&bytes).map_err(|e| invalid(format!("the stored membership: {e}")))?
        }
        None => StoredMembership::default(),
    };
    Ok(((!nothing).then(|| log_id(position.term, position.index)), membership))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
