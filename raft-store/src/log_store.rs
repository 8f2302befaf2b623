//! openraft's log storage: an in-memory view of the log in front of the [`LogWriter`] and the [`LogDb`].
//!
//! Positions: `purged <= durable position of the tables`, `purged < every index read`, `written <= end`. An entry is
//! readable from the moment `append` returns, and durable when its callback runs.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use futures_util::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use openraft::{
    EntryPayload, LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::oneshot;

use crate::{
    log_db::{Found, LogDb},
    log_size::LogSize,
    log_tail::Tail,
    log_writer::{LogWriter, Op},
    type_config::{Entry, LogId, TypeConfig, Vote},
};

/// Bytes in one AppendEntries request and in one slice of apply. At least one entry is always taken.
pub(crate) const READ_LEN_MAX: usize = 2 * 1024 * 1024;
/// Bytes of entries kept in memory behind those that wait for the disk.
pub(crate) const TAIL_LEN_MAX: usize = 64 * 1024 * 1024;
/// A read that keeps meeting truncations gives up; each means a change of leader.
const READ_ATTEMPTS_MAX: usize = 8;

/// A cheap handle; openraft holds one as store and one per reader.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    db: Arc<LogDb>,
    writer: LogWriter,
    state: Arc<Mutex<State>>,
    /// Nothing behind this index leaves the disk: the tables could not be rebuilt without it.
    durable_applied: Arc<AtomicU64>,
}

struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Index of the first entry; where it will be, in an empty log.
    begin: u64,
    last: Option<LogId>,
    tail: Tail,
    ticket: u64,
    /// Counts truncations, so that a read that overlapped with one starts over.
    truncations: u64,
    size: LogSize,
}

impl LogStore {
    /// Loads the pointers and starts the writer thread. `durable_applied` is kept by the apply thread.
    pub(crate) fn open(
        db: LogDb,
        tail_len_max: usize,
        durable_applied: Arc<AtomicU64>,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let meta = db.load()?;
        let next = meta.last.map_or(0, |last| last.index + 1);
        let state = Arc::new(Mutex::new(State {
            vote: meta.vote,
            committed: meta.committed,
            purged: meta.purged,
            begin: meta.purged.map_or(0, |purged| purged.index + 1).max(meta.first.unwrap_or(next)),
            last: meta.last,
            tail: Tail::new(next, tail_len_max),
            ticket: 0,
            truncations: 0,
            size: LogSize::new(next),
        }));
        let db = Arc::new(db);
        let tail_owner = state.clone();
        let on_written = Box::new(move |ticket| lock(&tail_owner).tail.written(ticket));
        let (writer, join) = LogWriter::spawn(db.clone(), on_written)?;
        Ok((Self { shared: Arc::new(Shared { db, writer, state, durable_applied }) }, join))
    }

    /// Writes what waits and ends the writer thread, which the caller then joins.
    pub(crate) fn close(&self) {
        self.shared.writer.stop();
    }

    /// The newest index such that at least `keep` entries or `keep_bytes` bytes follow it, whichever is less.
    pub(crate) fn purge_candidate(&self, keep: u64, keep_bytes: u64) -> Option<u64> {
        let state = self.state();
        let last = state.last?.index;
        let by_count = last.checked_sub(keep);
        let by_bytes = state.size.index_with_bytes_behind(keep_bytes);
        by_count.max(by_bytes)
    }

    /// Index of the first entry.
    pub(crate) fn first_index(&self) -> u64 {
        self.state().begin
    }

    /// Bytes appended since the start of this process.
    pub(crate) fn bytes_appended(&self) -> u64 {
        self.state().size.bytes()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// Entries of `[start, end)` that the log holds, up to `bytes_max` but at least one; only purged entries may be
    /// missing, at the start, and entries never appended, at the end.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        for _ in 0..READ_ATTEMPTS_MAX {
            let plan = self.plan(start, end, bytes_max);
            if plan.disk.is_empty() {
                return Ok(plan.cached);
            }
            let found = self.read_disk(plan.disk.clone(), bytes_max).await?;
            if let Some(entries) = self.join(plan, found)? {
                return Ok(entries);
            }
        }
        Err(io::Error::other(format!("log entries {start}..{end} keep changing while they are read")))
    }

    fn plan(&self, start: u64, end: u64, bytes_max: usize) -> Plan {
        let state = self.state();
        let start = start.max(state.begin);
        let end = end.min(state.tail.end());
        let disk_end = end.min(state.tail.first());
        let disk = start..disk_end.max(start);
        // What is on disk comes first; if there is much of it, the cached part is of no use yet.
        let cached =
            if start < end { state.tail.range(disk_end.max(start), end, bytes_max) } else { Vec::new() };
        Plan { disk, cached, truncations: state.truncations }
    }

    async fn read_disk(&self, range: std::ops::Range<u64>, bytes_max: usize) -> io::Result<Found> {
        let db = self.shared.db.clone();
        tokio::task::spawn_blocking(move || db.read(range.start, range.end, bytes_max))
            .await
            .map_err(io::Error::other)?
    }

    /// Checks what the disk gave against the log as it is now, and adds what was in memory. `None` if the log was
    /// truncated meanwhile.
    fn join(&self, plan: Plan, found: Found) -> io::Result<Option<Vec<Entry>>> {
        let (truncations, begin) = {
            let state = self.state();
            (state.truncations, state.begin)
        };
        if truncations != plan.truncations {
            return Ok(None);
        }
        let mut entries = found.entries;
        // A purge that ran meanwhile may have taken the beginning; nothing else may.
        let first = entries.first().map_or(plan.disk.end, |entry| entry.log_id.index);
        if first > plan.disk.start.max(begin) {
            return Err(missing(plan.disk.start, first));
        }
        if found.limited {
            return Ok(Some(entries));
        }
        let next = entries.last().map_or(plan.disk.end, |entry| entry.log_id.index + 1);
        if next != plan.disk.end {
            return Err(missing(next, plan.disk.end));
        }
        entries.extend(plan.cached);
        Ok(Some(entries))
    }

    /// Never further than the tables are durable. openraft does not ask for more; if it did, what it believes purged
    /// stays on disk and is purged for good by a later call.
    fn purgeable(&self, asked: LogId) -> Option<LogId> {
        let durable = self.shared.durable_applied.load(Ordering::Acquire);
        if asked.index <= durable {
            return Some(asked);
        }
        tracing::warn!(
            asked = asked.index,
            durable,
            "log entries are kept: the tables are not durable that far"
        );
        None
    }
}

struct Plan {
    disk: std::ops::Range<u64>,
    cached: Vec<Entry>,
    truncations: u64,
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, READ_LEN_MAX).await?;
        match entries.first() {
            Some(first) if first.log_id.index == start => Ok(entries),
            _ if start >= end => Ok(entries),
            _ => Err(missing(start, end)),
        }
    }

    /// For apply: in bounded chunks, since a follower may have much to catch up with.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let store = self.clone();
        let chunks = stream::try_unfold((store, start), move |(store, next)| async move {
            if next >= end {
                return Ok::<_, io::Error>(None);
            }
            let entries = store.read(next, end, READ_LEN_MAX).await?;
            match entries.first().map(|first| first.log_id.index) {
                Some(first) if first == next => {}
                // What is not appended yet may be missing, what is purged may not: apply would skip it silently.
                None if next >= store.state().tail.end() => return Ok(None),
                _ => return Err(missing(next, end)),
            }
            let next = entries.last().map_or(end, |last| last.log_id.index + 1);
            Ok(Some((entries, (store, next))))
        });
        flatten(chunks)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.state().vote)
    }
}

fn flatten<'a>(
    chunks: impl Stream<Item = io::Result<Vec<Entry>>> + Send + 'a,
) -> BoxStream<'a, io::Result<Entry>> {
    chunks.map_ok(|entries| stream::iter(entries.into_iter().map(Ok))).try_flatten().boxed()
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, written) = oneshot::channel();
        self.shared.writer.submit(Op::Vote { vote: *vote, done });
        // DURABILITY: the vote is fsynced before openraft answers anybody.
        written.await.map_err(io::Error::other)??;
        self.state().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.state().committed = committed;
        if let Some(committed) = committed {
            self.shared.writer.committed(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut state = self.state();
        state.ticket += 1;
        let ticket = state.ticket;
        if let (None, Some(first)) = (state.last, entries.first()) {
            state.begin = first.log_id.index;
        }
        for entry in &entries {
            let len = entry_len(entry);
            if !state.tail.push(entry.clone(), len, ticket) {
                let end = state.tail.end();
                return Err(io::Error::other(format!(
                    "entry {} leaves a hole behind {end}",
                    entry.log_id.index
                )));
            }
            state.size.append(entry.log_id.index, len as u64);
            state.last = Some(entry.log_id);
        }
        // Under the lock, so that the writer sees the operations in the order the memory did.
        self.shared.writer.submit(Op::Append { ticket, entries, done: callback });
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |last| last.index + 1);
        let mut state = self.state();
        if from >= state.tail.end() {
            return Ok(());
        }
        state.tail.truncate(from);
        state.size.truncate(from);
        state.truncations += 1;
        state.last = last_log_id.max(state.purged);
        // Not waited for: what follows is written after it, and nothing is answered before that is durable.
        self.shared.writer.submit(Op::Truncate { from });
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mut state = self.state();
        state.tail.purge(log_id.index + 1);
        state.size.purge(log_id.index + 1);
        state.purged = state.purged.max(Some(log_id));
        state.begin = state.begin.max(log_id.index + 1);
        state.last = state.last.max(Some(log_id));
        if let Some(upto) = self.purgeable(log_id) {
            self.shared.writer.submit(Op::Purge { upto });
        }
        Ok(())
    }
}

/// Near enough to the bytes of the record.
fn entry_len(entry: &Entry) -> usize {
    const OVERHEAD: usize = 32;
    const MEMBERSHIP: usize = 512;
    match &entry.payload {
        EntryPayload::Blank => OVERHEAD,
        EntryPayload::Normal(proposal) => OVERHEAD + proposal.len(),
        EntryPayload::Membership(_) => OVERHEAD + MEMBERSHIP,
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

fn missing(start: u64, end: u64) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("log entries {start}..{end} are not in the log"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
