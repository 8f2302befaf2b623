//! The transaction apply works in: an overlay over the committed tables. Apply reads its own writes; nothing
//! reaches the database before the whole slice of entries is done, and then as one batch sorted by key.
//!
//! Two layers: the changes of the current entry, and those of earlier entries of the same slice. When an entry
//! ends, its changes are hashed into the digest chain and folded into the slice. So the digest depends on entries
//! only, never on how many of them were applied together.

use std::{
    cell::RefCell,
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
};

use cluster_proto::{AppId, AppReceipt, PushId, State};
use roaring::RoaringBitmap;
use rocksdb::WriteBatch;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::{
    TablesOptions,
    blocks::{BlockSets, Reported, Settled},
    cache::BlockCache,
    db::{Db, Read, Visit, read},
    error::StoreError,
    groups::GroupChange,
    keys::{self, Family, Key},
    memory::Memory,
    receipts::{self, Noted},
    value::{self, FilterChunk, Head, Stored},
};
use crate::effect::Effect;

/// One of so many changes of a stored set writes the whole set instead of what it gains, so that a read has a bounded
/// number of parts to unite, however often a set changes before it is flushed. More often where assertions are on, so
/// that tests see both.
const WHOLE_SET_OF: u64 = if cfg!(debug_assertions) { 3 } else { 64 };

/// One slice of entries being applied.
pub(crate) struct Txn<'a> {
    db: &'a Db,
    cache: &'a Mutex<BlockCache>,
    /// Derived from the tables; never read by queries.
    pub(crate) memory: &'a mut Memory,
    pub(crate) options: &'a TablesOptions,
    pub(crate) effects: &'a mut Vec<Effect>,
    pub(crate) head: Head,
    /// For the index of groups, which changes with the commit.
    pub(crate) group_changes: Vec<GroupChange>,
    entry: BTreeMap<Key, Change>,
    slice: BTreeMap<Key, Change>,
    /// What became of terminals in the current entry, for the receipt streams.
    noted: Noted,
    /// Blocks of broad pushes as this slice left them; the cache keeps them after the commit.
    blocks: RefCell<BTreeMap<(PushId, u16), Arc<BlockSets>>>,
}

/// What becomes of a key.
enum Change {
    /// `fresh`: the database does not have the key, so that deleting it again costs nothing.
    Put {
        bytes: Vec<u8>,
        fresh: bool,
    },
    Delete,
    /// Add to the stored set.
    Union(RoaringBitmap),
    /// An index chunk, decoded as long as its entry lasts. Empty: deleted.
    Set(RoaringBitmap),
    /// As above.
    Filter(FilterChunk),
}

/// What a slice leaves to be committed.
pub(super) struct Outcome {
    pub(super) batch: WriteBatch,
    pub(super) head: Head,
    pub(super) blocks: BTreeMap<(PushId, u16), Arc<BlockSets>>,
    pub(super) group_changes: Vec<GroupChange>,
}

impl<'a> Txn<'a> {
    pub(super) fn new(
        db: &'a Db,
        cache: &'a Mutex<BlockCache>,
        memory: &'a mut Memory,
        options: &'a TablesOptions,
        head: Head,
        effects: &'a mut Vec<Effect>,
    ) -> Self {
        let (group_changes, entry, slice, noted, blocks) = Default::default();
        Self { db, cache, memory, options, effects, head, group_changes, entry, slice, noted, blocks }
    }

    /// The time of the entry.
    pub(crate) fn now_ms(&self) -> u64 {
        self.head.at_ms
    }

    pub(crate) fn read<T: Stored>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        read(self, key)
    }

    pub(crate) fn put<T: Stored>(&mut self, key: Key, value: &T) {
        let fresh = matches!(self.entry.get(&key), Some(Change::Put { fresh: true, .. }));
        self.entry.insert(key, Change::Put { bytes: value.encode(), fresh });
    }

    /// As [`Self::insert`], of bytes that are encoded already.
    pub(crate) fn insert_bytes(&mut self, key: Key, bytes: Vec<u8>) {
        self.entry.insert(key, Change::Put { bytes, fresh: true });
    }

    /// Like `put` of a key that certainly does not exist.
    pub(crate) fn insert<T: Stored>(&mut self, key: Key, value: &T) {
        // What was deleted before it may still be in the database.
        let is_gone = |change: Option<&Change>| {
            matches!(change, Some(Change::Delete | Change::Set(_) | Change::Filter(_)))
        };
        let fresh = !is_gone(self.entry.get(&key)) && !is_gone(self.slice.get(&key));
        self.entry.insert(key, Change::Put { bytes: value.encode(), fresh });
    }

    pub(crate) fn delete(&mut self, key: Key) {
        self.entry.insert(key, Change::Delete);
    }

    /// An index chunk to change; written when the entry ends.
    pub(crate) fn set_mut(&mut self, key: Key) -> Result<&mut RoaringBitmap, StoreError> {
        if !matches!(self.entry.get(&key), Some(Change::Set(_))) {
            let set = self.get(&key)?.map(|bytes| value::decode_set(&key, &bytes)).transpose()?;
            self.entry.insert(key.clone(), Change::Set(set.unwrap_or_default()));
        }
        match self.entry.get_mut(&key) {
            Some(Change::Set(set)) => Ok(set),
            _ => Err(StoreError::damaged("set", &key)),
        }
    }

    /// As [`Self::set_mut`], of the filter index.
    pub(crate) fn filter_mut(&mut self, key: Key) -> Result<&mut FilterChunk, StoreError> {
        if !matches!(self.entry.get(&key), Some(Change::Filter(_))) {
            let chunk = self.get(&key)?.map(|bytes| FilterChunk::decode(&key, &bytes)).transpose()?;
            self.entry.insert(key.clone(), Change::Filter(chunk.unwrap_or_default()));
        }
        match self.entry.get_mut(&key) {
            Some(Change::Filter(chunk)) => Ok(chunk),
            _ => Err(StoreError::damaged("filter", &key)),
        }
    }

    /// Writes the audience of one block of a new broad push.
    pub(crate) fn insert_block(
        &mut self,
        push: PushId,
        block: u16,
        mut audience: RoaringBitmap,
        mut qos0: RoaringBitmap,
    ) {
        let bytes = value::encode_set(&mut audience);
        self.entry.insert(keys::set(push, block, value::KIND_AUDIENCE), Change::Put { bytes, fresh: true });
        if !qos0.is_empty() {
            let bytes = value::encode_set(&mut qos0);
            self.entry.insert(keys::set(push, block, value::KIND_QOS0), Change::Put { bytes, fresh: true });
        }
        self.blocks.get_mut().insert((push, block), Arc::new(BlockSets::new(audience, qos0)));
    }

    /// Settles terminals of one block; says what changed.
    pub(crate) fn settle_block(
        &mut self,
        push: PushId,
        block: u16,
        terminals: &RoaringBitmap,
        state: State,
    ) -> Result<Settled, StoreError> {
        let blocks = self.blocks.get_mut();
        let sets = match blocks.entry((push, block)) {
            Entry::Occupied(entry) => entry.into_mut(),
            // Taken, so that changing it copies nothing; the commit gives it back.
            Entry::Vacant(entry) => {
                let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).take(push, block);
                entry.insert(match cached {
                    Some(sets) => sets,
                    None => Arc::new(BlockSets::load(self.db.set_rows(push, block)?)?),
                })
            }
        };
        if sets.pending.is_disjoint(terminals) && !State::Sent.may_become(state) {
            return Ok(Settled::default());
        }
        let settled = Arc::make_mut(sets).settle(terminals, state);
        if !settled.from_pending.is_empty() || !settled.from_sent.is_empty() {
            let key = keys::set(push, block, state.code());
            self.add_to_set(key.clone(), &settled.from_pending);
            self.add_to_set(key, &settled.from_sent);
        }
        Ok(settled)
    }

    /// Records what applications on terminals of one block report.
    pub(crate) fn report_block(
        &mut self,
        push: PushId,
        block: u16,
        terminals: &RoaringBitmap,
        what: AppReceipt,
    ) -> Result<Reported, StoreError> {
        let known = self.block(push, block)?;
        let is_new = !(terminals & &known.audience).is_subset(known.reported(what));
        drop(known);
        let Some(sets) = self.blocks.get_mut().get_mut(&(push, block)) else {
            return Ok(Reported::default());
        };
        if !is_new {
            return Ok(Reported { known: sets.audience.intersection_len(terminals), ..Reported::default() });
        }
        let reported = Arc::make_mut(sets).report(terminals, what);
        self.add_to_set(keys::set(push, block, what.code()), &reported.gained);
        Ok(reported)
    }

    fn add_to_set(&mut self, key: Key, gained: &RoaringBitmap) {
        match self.entry.entry(key).or_insert(Change::Union(RoaringBitmap::new())) {
            Change::Union(operand) => *operand |= gained,
            change => *change = Change::Union(gained.clone()),
        }
    }

    /// Whoever moves terminals to a state says so here: the receipt stream of the app tells it.
    pub(crate) fn note(&mut self, app: AppId, push: PushId, kind: u8, gained: RoaringBitmap) {
        self.noted.gained(app, push, kind, gained);
    }

    /// A push is accepted and kept.
    pub(crate) fn note_accepted(&mut self, app: AppId, push: PushId, audience_len: u64) {
        self.noted.accepted(app, push, audience_len);
    }

    /// Ends an entry: chains its changes into the digest. Independent of slices, and of how the database stores it.
    pub(super) fn finish_entry(&mut self, term: u64, index: u64) -> Result<(), StoreError> {
        (self.head.term, self.head.index) = (term, index);
        let noted = std::mem::take(&mut self.noted);
        receipts::write(self, noted)?;
        let mut hash = Xxh3::new();
        hash.update(&self.head.digest.to_be_bytes());
        for (key, mut change) in std::mem::take(&mut self.entry) {
            change.settle_down();
            change.hash(&key, &mut hash);
            self.fold(key, change);
        }
        // The counters, with the digest before this entry.
        hash.update(&self.head.encode());
        self.head.digest = hash.digest128();
        Ok(())
    }

    pub(super) fn put_membership(&mut self, membership: Vec<u8>) {
        self.slice.insert(keys::membership(), Change::Put { bytes: membership, fresh: false });
    }

    pub(super) fn finish(mut self) -> Result<Outcome, StoreError> {
        self.slice.insert(keys::head(), Change::Put { bytes: self.head.encode(), fresh: false });
        let mut batch = WriteBatch::default();
        for (key, change) in self.slice {
            let family = self.db.family(Family::of(&key))?;
            match change {
                Change::Put { bytes, .. } => batch.put_cf(family, key, bytes),
                Change::Union(mut set) => match whole_set(&self.blocks, &key, self.head.index) {
                    Some(mut whole) => batch.put_cf(family, key, value::encode_set(&mut whole)),
                    None => batch.merge_cf(family, key, value::encode_set(&mut set)),
                },
                Change::Delete | Change::Set(_) | Change::Filter(_) => batch.delete_cf(family, key),
            }
        }
        let (head, group_changes) = (self.head, self.group_changes);
        Ok(Outcome { batch, head, blocks: self.blocks.into_inner(), group_changes })
    }

    /// Adds a change of the entry to those of the slice.
    fn fold(&mut self, key: Key, change: Change) {
        let before = self.slice.remove(&key);
        let after = match (before, change) {
            (Some(Change::Put { fresh: true, .. }), Change::Delete) => return,
            (Some(Change::Put { fresh: true, .. }), Change::Put { bytes, .. }) => {
                Change::Put { bytes, fresh: true }
            }
            (Some(Change::Union(before)), Change::Union(after)) => Change::Union(before | after),
            (_, change) => change,
        };
        self.slice.insert(key, after);
    }
}

/// The whole set of a key whose turn it is, by chance. Both ways leave the same set, and the digest knows of neither.
fn whole_set(
    blocks: &RefCell<BTreeMap<(PushId, u16), Arc<BlockSets>>>,
    key: &[u8],
    index: u64,
) -> Option<RoaringBitmap> {
    if !xxh3_64_with_seed(key, index).is_multiple_of(WHOLE_SET_OF) {
        return None;
    }
    let (push, block, kind) = keys::set_of(key)?;
    blocks.borrow().get(&(push, block))?.stored(kind)
}

impl Change {
    /// Turns a decoded chunk into what is written.
    fn settle_down(&mut self) {
        let bytes = match self {
            Self::Set(set) if !set.is_empty() => value::encode_set(set),
            Self::Filter(chunk) if !chunk.any.is_empty() => chunk.encode(),
            Self::Set(_) | Self::Filter(_) => return *self = Self::Delete,
            Self::Put { .. } | Self::Delete | Self::Union(_) => return,
        };
        *self = Self::Put { bytes, fresh: false };
    }

    fn hash(&mut self, key: &[u8], hash: &mut Xxh3) {
        hash.update(&(key.len() as u32).to_be_bytes());
        hash.update(key);
        let mut value = |tag: u8, bytes: &[u8]| {
            hash.update(&[tag]);
            hash.update(&(bytes.len() as u32).to_be_bytes());
            hash.update(bytes);
        };
        match self {
            Self::Put { bytes, .. } => value(1, bytes),
            Self::Union(set) => value(2, &value::encode_set(set)),
            Self::Delete | Self::Set(_) | Self::Filter(_) => value(0, &[]),
        }
    }

    /// The value a reader sees; `None` where it is gone. Unions are read through [`Read::block`] only.
    fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Put { bytes, .. } => Some(bytes.clone()),
            Self::Delete => None,
            Self::Union(set) => Some(value::encode_set(&mut set.clone())),
            Self::Set(set) => (!set.is_empty()).then(|| value::encode_set(&mut set.clone())),
            Self::Filter(chunk) => (!chunk.any.is_empty()).then(|| chunk.clone().encode()),
        }
    }
}

impl Read for Txn<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.entry.get(key).or_else(|| self.slice.get(key)) {
            Some(change) => Ok(change.bytes()),
            None => self.db.get(key),
        }
    }

    fn scan(&self, from: &[u8], end: Key, visit: Visit<'_>) -> Result<(), StoreError> {
        let range = (Bound::Included(from.to_vec()), Bound::Excluded(end.clone()));
        let mut entry = self.entry.range::<Key, _>(range.clone()).peekable();
        let mut slice = self.slice.range::<Key, _>(range).peekable();
        let mut stored = self.db.iterator(from, end)?;
        loop {
            let keys = [
                entry.peek().map(|(k, _)| k.as_slice()),
                slice.peek().map(|(k, _)| k.as_slice()),
                stored.key(),
            ];
            let Some(key) = keys.into_iter().flatten().min() else { return Ok(stored.status()?) };
            // The newest layer that has the key decides; all that have it move on.
            let in_layer = keys.map(|k| k == Some(key));
            let key = key.to_vec();
            let change = if in_layer[0] { entry.peek() } else { slice.peek().filter(|_| in_layer[1]) };
            let go_on = match change {
                Some((_, change)) => change.bytes().map_or(Ok(true), |bytes| visit(&key, &bytes))?,
                None => visit(&key, stored.value().unwrap_or_default())?,
            };
            if !go_on {
                return Ok(());
            }
            if in_layer[0] {
                entry.next();
            }
            if in_layer[1] {
                slice.next();
            }
            if in_layer[2] {
                stored.next();
            }
        }
    }

    fn block(&self, push: PushId, block: u16) -> Result<Arc<BlockSets>, StoreError> {
        if let Some(sets) = self.blocks.borrow().get(&(push, block)) {
            return Ok(sets.clone());
        }
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(push, block);
        let sets = match cached {
            Some(sets) => sets,
            None => Arc::new(BlockSets::load(self.db.set_rows(push, block)?)?),
        };
        self.blocks.borrow_mut().insert((push, block), sets.clone());
        Ok(sets)
    }
}
