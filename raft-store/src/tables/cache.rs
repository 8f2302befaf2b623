//! Decoded blocks of active broad pushes, least recently used out first, bounded by bytes. Holds committed state
//! only; when something is not here it is read from the tables.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use cluster_proto::PushId;

use super::blocks::BlockSets;

type Id = (PushId, u16);

/// See the module.
#[derive(Debug)]
pub(crate) struct BlockCache {
    blocks: HashMap<Id, Slot>,
    /// By last use. Eviction takes from the front.
    order: BTreeMap<u64, Id>,
    uses: u64,
    len: usize,
    len_max: usize,
}

#[derive(Debug)]
struct Slot {
    sets: Arc<BlockSets>,
    len: usize,
    used: u64,
}

impl BlockCache {
    pub(super) fn new(len_max: usize) -> Self {
        Self { blocks: HashMap::new(), order: BTreeMap::new(), uses: 0, len: 0, len_max }
    }

    pub(super) fn get(&mut self, push: PushId, block: u16) -> Option<Arc<BlockSets>> {
        let slot = self.blocks.get_mut(&(push, block))?;
        self.order.remove(&slot.used);
        self.uses += 1;
        slot.used = self.uses;
        self.order.insert(slot.used, (push, block));
        Some(slot.sets.clone())
    }

    /// Takes a block out, to be changed in place and inserted again: until then it is read from the tables.
    pub(super) fn take(&mut self, push: PushId, block: u16) -> Option<Arc<BlockSets>> {
        self.remove((push, block))
    }

    pub(super) fn insert(&mut self, push: PushId, block: u16, sets: Arc<BlockSets>) {
        self.remove((push, block));
        self.uses += 1;
        let slot = Slot { len: sets.size(), sets, used: self.uses };
        self.len += slot.len;
        self.order.insert(slot.used, (push, block));
        self.blocks.insert((push, block), slot);
        self.evict();
    }

    fn evict(&mut self) {
        while self.len > self.len_max
            && let Some((_, id)) = self.order.pop_first()
        {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: Id) -> Option<Arc<BlockSets>> {
        let slot = self.blocks.remove(&id)?;
        self.order.remove(&slot.used);
        self.len -= slot.len;
        Some(slot.sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_block_leaves_first() {
        let sets = Arc::new(BlockSets::new((0..100).collect(), Default::default()));
        let mut cache = BlockCache::new(sets.size() * 2);
        cache.insert(PushId(1), 0, sets.clone());
        cache.insert(PushId(2), 0, sets.clone());
        assert!(cache.get(PushId(1), 0).is_some());
        cache.insert(PushId(3), 0, sets);
        assert!(cache.get(PushId(2), 0).is_none());
        assert!(cache.get(PushId(1), 0).is_some() && cache.get(PushId(3), 0).is_some());
    }

    #[test]
    fn a_block_larger_than_the_cache_does_not_stay() {
        let mut cache = BlockCache::new(10);
        cache.insert(PushId(1), 0, Arc::new(BlockSets::default()));
        assert!(cache.get(PushId(1), 0).is_none());
        assert_eq!((cache.len, cache.order.len()), (0, 0));
    }
}
