//! The tables: the replicated state, and apply, which alone changes it.
//!
//! - [`StateMachine`] applies committed entries, one slice after the other, on a thread of its own.
//! - [`Tables`] are read by everybody, at any time.
//!
//! *What is durable when.* Nothing is when [`StateMachine::apply`] returns: the tables have no write-ahead log, the
//! Raft log is theirs. [`StateMachine::flush`] makes everything applied before it durable, all families together
//! with the applied position; the log may be purged up to [`StateMachine::durable_position`], never further.
//!
//! *Order of positions:* durable ≤ applied ≤ committed; a restart continues at the durable one.
//!
//! *Digest.* A hash chain over entries: each link hashes the link before, the entry's changes sorted by key (for
//! sets the terminals added, not the whole set), and the position and counters after it. It does not depend on
//! how entries are grouped into slices, nor on what is cached (I8).

mod accept;
mod apply;
mod apps;
mod blocks;
mod broad;
mod cache;
mod collapse;
mod db;
mod digest;
mod error;
mod exchanges;
mod groups;
mod keys;
mod labels;
mod memory;
mod merge;
mod numbers;
mod owed;
mod push;
mod query;
mod receipts;
mod records;
mod refusals;
mod release;
mod resolve;
mod retained;
mod seen;
mod sessions;
mod small;
mod subscriptions;
mod txn;
mod value;
mod wildcards;
mod wills;

use std::{
    cmp::Ordering,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use cluster_proto::{
    PushId,
    limits::{OWED_PER_TERMINAL_MAX, PUSH_TTL_DEFAULT},
    link::Lane,
};

use self::{
    blocks::BlockSets,
    cache::BlockCache,
    db::{Db, Read, Visit, read, visit_rows},
    groups::GroupIndex,
    keys::Key,
    memory::Memory,
    txn::{Outcome, Txn},
    value::{Head, Stored as _},
};
pub use self::{
    collapse::ToCollapse,
    error::{OpenError, StoreError},
    records::{
        AppRecord, Contents, Counts, EntryPosition, OwedRow, Position, PushRecord, ReleasePhase,
        ReleaseRecord, RetainedPage, SessionRecord, TerminalRecord, WebhookRecord, Withdrawn,
    },
};
use crate::{Applied, CommandBatch, Effect};

/// Of the tables as a whole. Another one is refused at open: version 1 was never released.
const FORMAT_VERSION: u32 = 4;
/// Upper 8 bits of every push id: the only Raft group so far.
const GROUP: u8 = 0;
/// The lanes in stored order.
const LANES: [Lane; 3] = [Lane::Session, Lane::Publish, Lane::Receipts];

/// What may be set from outside. Apply depends on all but the cache: they must be the same on every member.
#[derive(Clone, Debug)]
pub struct TablesOptions {
    /// Small pushes a terminal may be owed; beyond, it gets dropped(over quota).
    pub owed_per_terminal_max: usize,
    /// Messages an app may retain; beyond, it is refused.
    pub retained_max: u64,
    /// Bytes of messages an app may retain; beyond, it is refused.
    pub retained_bytes_max: u64,
    /// Milliseconds a will stays deliverable that does not say.
    pub will_ttl_default_ms: u64,
    /// Bytes of decoded sets of broad pushes kept in memory.
    pub cache_bytes: usize,
}

impl Default for TablesOptions {
    fn default() -> Self {
        Self {
            owed_per_terminal_max: OWED_PER_TERMINAL_MAX,
            retained_max: 1_000_000,
            retained_bytes_max: 1024 * 1024 * 1024,
            will_ttl_default_ms: PUSH_TTL_DEFAULT.as_millis() as u64,
            cache_bytes: 256 * 1024 * 1024,
        }
    }
}

/// Opens the tables under `path`, creating them if there are none.
pub fn open(path: &Path, options: TablesOptions) -> Result<(Tables, StateMachine), OpenError> {
    let db = Db::open_current(path)?;
    let view = View::new(db, options.cache_bytes)?;
    let memory = Memory::load(&view)?;
    let durable = view.position();
    let tables = Tables { shared: Arc::new(Shared { view: RwLock::new(view), failure: Mutex::new(None) }) };
    let machine = StateMachine {
        tables: tables.clone(),
        path: path.to_path_buf(),
        options,
        memory,
        durable: Arc::new(Mutex::new(durable)),
    };
    Ok((tables, machine))
}

/// Reads of the committed tables. Cheap to clone; a read waits at most for one batch to be written.
#[derive(Clone, Debug)]
pub struct Tables {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Written only to commit a slice, or to replace the database.
    view: RwLock<View>,
    /// The first read that failed.
    failure: Mutex<Option<StoreError>>,
}

/// The committed tables at one position.
#[derive(Debug)]
struct View {
    db: Arc<Db>,
    head: Head,
    cache: Mutex<BlockCache>,
    groups: GroupIndex,
}

/// Applies entries. One owner; everything else reads through [`Tables`].
#[derive(Debug)]
pub struct StateMachine {
    tables: Tables,
    path: PathBuf,
    options: TablesOptions,
    memory: Memory,
    durable: Arc<Mutex<EntryPosition>>,
}

impl StateMachine {
    /// Applies entries in order, as one atomic write. `None` instead of commands: an entry of Raft's own.
    /// `membership` replaces what is kept. On error nothing of the slice is applied, but memory may be ahead of
    /// the tables: the process must end.
    pub fn apply(
        &mut self,
        entries: Vec<(EntryPosition, Option<CommandBatch>)>,
        membership: Option<Vec<u8>>,
        effects: &mut Vec<Effect>,
    ) -> Result<Vec<Vec<Applied>>, StoreError> {
        let shared = self.tables.shared.clone();
        let view = shared.read();
        let (head, mut results) = (view.head.clone(), Vec::with_capacity(entries.len()));
        let mut txn = Txn::new(&view.db, &view.cache, &mut self.memory, &self.options, head, effects);
        for (position, batch) in entries {
            results.push(apply::entry(&mut txn, position, batch)?);
        }
        if let Some(membership) = membership {
            txn.put_membership(membership);
        }
        let outcome = txn.finish()?;
        drop(view);
        shared.commit(outcome)?;
        Ok(results)
    }

    /// The last entry applied.
    pub fn applied_position(&self) -> EntryPosition {
        self.tables.shared.read().position()
    }

    /// The membership last applied.
    pub fn membership(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.tables.shared.read().db.get(&keys::membership())
    }

    /// Makes everything applied before the call durable. May run while others read and apply.
    pub fn flush(&self) -> Result<EntryPosition, StoreError> {
        self.flusher().flush()
    }

    /// To flush from another thread.
    pub fn flusher(&self) -> Flusher {
        Flusher { tables: self.tables.clone(), durable: self.durable.clone() }
    }

    /// The log is not needed for anything up to here.
    pub fn durable_position(&self) -> EntryPosition {
        *lock(&self.durable)
    }

    /// Writes the tables as they are now into `directory`, which must not exist, as files that never change:
    /// hard links where the file system is the same.
    pub fn checkpoint(&self, directory: &Path) -> Result<Contents, StoreError> {
        let (db, head) = {
            let view = self.tables.shared.read();
            (view.db.clone(), view.head.clone())
        };
        db.checkpoint(directory)?;
        advance(&self.durable, EntryPosition { term: head.term, index: head.index });
        Ok(Contents { position: head.position(), membership: db.get(&keys::membership())? })
    }

    /// Replaces all tables by the checkpoint in `directory`, which is moved; it must lie in the same file system.
    /// Existing [`Tables`] see the new contents. A crash leaves the old or the new tables, whole.
    pub fn replace_with(&mut self, directory: &Path) -> Result<Contents, OpenError> {
        let view = View::new(db::install(&self.path, directory)?, self.options.cache_bytes)?;
        self.memory = Memory::load(&view)?;
        let contents =
            Contents { position: view.head.position(), membership: view.db.get(&keys::membership())? };
        *lock(&self.durable) = view.position();
        let old = std::mem::replace(&mut *self.tables.shared.write(), view);
        let directory = old.db.directory.clone();
        drop(old);
        db::remove(&directory);
        Ok(contents)
    }
}

/// Makes applied entries durable; see [`StateMachine::flush`].
#[derive(Clone, Debug)]
pub struct Flusher {
    tables: Tables,
    durable: Arc<Mutex<EntryPosition>>,
}

impl Flusher {
    /// See [`StateMachine::flush`]. Answers how far the tables are durable now.
    pub fn flush(&self) -> Result<EntryPosition, StoreError> {
        let (db, applied) = {
            let view = self.tables.shared.read();
            (view.db.clone(), view.position())
        };
        db.flush()?;
        Ok(advance(&self.durable, applied))
    }

    /// See [`StateMachine::durable_position`].
    pub fn durable_position(&self) -> EntryPosition {
        *lock(&self.durable)
    }
}

impl Tables {
    /// How far the tables are.
    pub fn applied(&self) -> Position {
        self.shared.read().head.position()
    }

    /// The first failed read, if any failed: answers since then may be incomplete, and the process should end.
    pub fn failure(&self) -> Option<StoreError> {
        lock(&self.shared.failure).clone()
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readers see the whole slice or nothing of it: database, head, groups and cache change under one lock.
    fn commit(&self, outcome: Outcome) -> Result<(), StoreError> {
        let mut view = self.write();
        view.db.write(outcome.batch)?;
        view.head = outcome.head;
        outcome.group_changes.into_iter().for_each(|change| view.groups.follow(change));
        let mut cache = lock(&view.cache);
        for ((push, block), sets) in outcome.blocks {
            cache.insert(push, block, sets);
        }
        Ok(())
    }
}

impl View {
    fn new(db: Db, cache_bytes: usize) -> Result<Self, OpenError> {
        let mut view = Self {
            db: Arc::new(db),
            head: Head::default(),
            cache: Mutex::new(BlockCache::new(cache_bytes)),
            groups: GroupIndex::default(),
        };
        view.check_format()?;
        match read(&view, &keys::head())? {
            Some(head) => view.head = head,
            None => view.create()?,
        }
        view.groups = GroupIndex::load(&view)?;
        Ok(view)
    }

    fn check_format(&self) -> Result<(), OpenError> {
        let found = read::<u32>(self, &keys::format())?.unwrap_or(FORMAT_VERSION);
        let (path, known) = (self.db.directory.clone(), FORMAT_VERSION);
        match found.cmp(&known) {
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(OpenError::NewerVersion { path, found, known }),
            Ordering::Less => Err(OpenError::OlderVersion { path, found, known }),
        }
    }

    /// The tables before the first entry: the same on every member.
    fn create(&mut self) -> Result<(), StoreError> {
        let mut batch = rocksdb::WriteBatch::default();
        let meta = self.db.family(keys::Family::Meta)?;
        batch.put_cf(meta, keys::format(), FORMAT_VERSION.encode());
        self.head = apply::create_default_app(&mut |key, bytes| batch.put_cf(meta, key, bytes));
        batch.put_cf(meta, keys::head(), self.head.encode());
        self.db.write(batch)
    }

    fn position(&self) -> EntryPosition {
        EntryPosition { term: self.head.term, index: self.head.index }
    }
}

impl Read for View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get(key)
    }

    fn scan(&self, from: &[u8], end: Key, visit: Visit<'_>) -> Result<(), StoreError> {
        visit_rows(self.db.iterator(from, end)?, visit)
    }

    fn block(&self, push: PushId, block: u16) -> Result<Arc<BlockSets>, StoreError> {
        if let Some(sets) = lock(&self.cache).get(push, block) {
            return Ok(sets);
        }
        // Read while the caller holds the view, so nothing newer can be in the cache by now.
        let sets = Arc::new(BlockSets::load(self.db.set_rows(push, block)?)?);
        lock(&self.cache).insert(push, block, sets.clone());
        Ok(sets)
    }
}

impl Head {
    fn position(&self) -> Position {
        let last_push = PushId::new(GROUP, self.last_push);
        Position { term: self.term, index: self.index, digest: self.digest, at_ms: self.at_ms, last_push }
    }
}

fn advance(durable: &Mutex<EntryPosition>, to: EntryPosition) -> EntryPosition {
    let mut durable = lock(durable);
    *durable = (*durable).max(to);
    *durable
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_another_version_are_refused_and_say_what_to_do() {
        let newer = format!("reads up to {FORMAT_VERSION}");
        for (found, advice) in [(1, "start with an empty data directory"), (9, newer.as_str())] {
            let directory = tempfile::tempdir().expect("temp");
            drop(open(directory.path(), TablesOptions::default()).expect("new"));
            let db = Db::open_current(directory.path()).expect("open");
            let mut batch = rocksdb::WriteBatch::default();
            batch.put_cf(db.family(keys::Family::Meta).expect("family"), keys::format(), u32::encode(&found));
            db.write(batch).and_then(|()| db.flush()).expect("write");
            drop(db);
            let error = open(directory.path(), TablesOptions::default()).expect_err("refused");
            assert!(error.to_string().contains(advice), "{error}");
        }
    }
}
