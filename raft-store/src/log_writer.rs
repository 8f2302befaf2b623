//! The one thread that writes the log.
//!
//! Whatever waits when it gets to work goes into one write batch with one fsync; then the callbacks run, in the
//! order of the operations. So many appends share one fsync, and an answer never overtakes an earlier one.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use crate::{
    log_db::{LogBatch, LogDb},
    telemetry,
    type_config::{Entry, LogId, TypeConfig, Vote},
};

/// One write, in the order openraft asked for it.
pub(crate) enum Op {
    Append {
        /// Told to the tail when written.
        ticket: u64,
        entries: Vec<Entry>,
        done: IOFlushed<TypeConfig>,
    },
    Vote {
        vote: Vote,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Removes this index and all behind it. An append follows, whose callback covers it.
    Truncate {
        from: u64,
    },
    /// Removes all up to here, inclusive.
    Purge {
        upto: LogId,
    },
}

/// What runs after a write: it is told the ticket of the newest append in it.
pub(crate) type OnWritten = Box<dyn Fn(u64) + Send>;

/// A handle to the thread; dropping the last one does not stop it, [`LogWriter::stop`] does.
#[derive(Clone)]
pub(crate) struct LogWriter {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// Bound: what openraft has in flight. It waits for votes, the leader has two proposals in flight, and a leader
/// waits for its follower's answers.
#[derive(Default)]
struct Queue {
    ops: Vec<Op>,
    /// Rides with the next write; only the newest counts.
    committed: Option<LogId>,
    stopping: bool,
    /// Set after a failed write: what lies on disk is not known any more, so nothing is written after it.
    failed: Option<String>,
}

impl LogWriter {
    pub(crate) fn spawn(db: Arc<LogDb>, on_written: OnWritten) -> io::Result<(Self, JoinHandle<()>)> {
        let shared = Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new() });
        let thread = Thread { db, shared: shared.clone(), on_written };
        let join = thread::Builder::new().name("log-writer".to_owned()).spawn(move || thread.run())?;
        Ok((Self { shared }, join))
    }

    /// Queues a write. After a failure or [`LogWriter::stop`] it is refused, through its own callback.
    pub(crate) fn submit(&self, op: Op) {
        let mut queue = lock(&self.shared.queue);
        let refusal =
            if queue.stopping { Some("the log is closed".to_owned()) } else { queue.failed.clone() };
        match refusal {
            None => {
                queue.ops.push(op);
                self.shared.wake.notify_one();
            }
            Some(reason) => {
                drop(queue);
                complete(op, Err(&reason));
            }
        }
    }

    /// Remembers how far the log is committed, to be written with the next operation or when stopping.
    pub(crate) fn committed(&self, committed: LogId) {
        lock(&self.shared.queue).committed = Some(committed);
    }

    /// Writes what waits, then ends the thread.
    pub(crate) fn stop(&self) {
        lock(&self.shared.queue).stopping = true;
        self.shared.wake.notify_one();
    }
}

struct Thread {
    db: Arc<LogDb>,
    shared: Arc<Shared>,
    on_written: OnWritten,
}

impl Thread {
    fn run(self) {
        while let Some((ops, committed)) = self.next() {
            let result = self.write(&ops, committed);
            if let Err(error) = &result {
                tracing::error!(%error, "writing the log failed");
                lock(&self.shared.queue).failed = Some(error.to_string());
            }
            self.finish(ops, result);
        }
    }

    /// Waits for work; `None` when stopping and nothing is left.
    fn next(&self) -> Option<(Vec<Op>, Option<LogId>)> {
        let mut queue = lock(&self.shared.queue);
        while queue.ops.is_empty() && !queue.stopping {
            queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.ops.is_empty() && (queue.committed.is_none() || queue.failed.is_some()) {
            return None;
        }
        Some((std::mem::take(&mut queue.ops), queue.committed.take()))
    }

    fn write(&self, ops: &[Op], committed: Option<LogId>) -> io::Result<()> {
        let mut batch = self.db.batch();
        for op in ops {
            add(&mut batch, op)?;
        }
        if let Some(committed) = committed {
            batch.committed(&committed)?;
        }
        let begin = Instant::now();
        batch.commit().map_err(io::Error::other)?;
        telemetry::log_written(begin.elapsed());
        Ok(())
    }

    fn finish(&self, ops: Vec<Op>, result: io::Result<()>) {
        let reason = result.as_ref().err().map(ToString::to_string);
        let outcome = reason.as_deref().map_or(Ok(()), Err);
        let mut purged = None;
        for op in ops {
            match &op {
                Op::Append { ticket, .. } if outcome.is_ok() => (self.on_written)(*ticket),
                Op::Purge { upto } => purged = Some(upto.index),
                _ => {}
            }
            complete(op, outcome);
        }
        if let (Some(upto), Ok(())) = (purged, outcome)
            && let Err(error) = self.db.drop_files(upto)
        {
            tracing::warn!(%error, upto, "files of purged log entries stay until compaction");
        }
    }
}

fn add(batch: &mut LogBatch<'_>, op: &Op) -> io::Result<()> {
    match op {
        Op::Append { entries, .. } => entries.iter().try_for_each(|entry| batch.put(entry)),
        Op::Vote { vote, .. } => batch.vote(vote),
        Op::Truncate { from } => {
            batch.truncate(*from);
            Ok(())
        }
        Op::Purge { upto } => batch.purge(upto),
    }
}

/// Tells whoever asked. Must come after the commit of the batch the operation was in.
fn complete(op: Op, outcome: Result<(), &str>) {
    let result = outcome.map_err(|reason| io::Error::other(reason.to_owned()));
    match op {
        Op::Append { done, .. } => done.io_completed(result),
        // Nobody waits any more when openraft stops in between.
        Op::Vote { done, .. } => drop(done.send(result)),
        Op::Truncate { .. } | Op::Purge { .. } => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
