//! The states of one block (65,536 terminals) of a broad push, decoded.

use std::collections::BTreeMap;

use cluster_proto::{AppReceipt, State};
use roaring::RoaringBitmap;
use rocksdb::DBRawIterator;

use super::{
    error::StoreError,
    keys,
    value::{self, KIND_AUDIENCE, KIND_QOS0},
};

/// Who of a block is in which state. Disjoint, and together the audience (I5).
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockSets {
    pub(crate) audience: RoaringBitmap,
    pub(crate) qos0: RoaringBitmap,
    /// Not stored: what the final states leave of the audience.
    pub(crate) pending: RoaringBitmap,
    /// By state code.
    pub(crate) settled: BTreeMap<u8, RoaringBitmap>,
    /// What applications reported, in the order of [`AppReceipt::ALL`]. Beside the states: in any of them, or in both.
    reported: [RoaringBitmap; 2],
    /// Of the delivered, those who were sent before: the stored set of *sent* still has them.
    late: RoaringBitmap,
}

/// What a report changed.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    /// How many of those who report are in the audience.
    pub(crate) known: u64,
    /// Those of them who had not reported it before: what the stored set must gain.
    pub(crate) gained: RoaringBitmap,
}

/// What settling changed: who is newly in the state.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Those who were pending.
    pub(crate) from_pending: RoaringBitmap,
    /// Those who were sent.
    pub(crate) from_sent: RoaringBitmap,
}

impl BlockSets {
    pub(crate) fn new(audience: RoaringBitmap, qos0: RoaringBitmap) -> Self {
        Self { pending: audience.clone(), audience, qos0, ..Self::default() }
    }

    /// Reads the committed sets of a block from its rows, [`keys::set_block`].
    pub(super) fn load(mut rows: DBRawIterator<'_>) -> Result<Self, StoreError> {
        let mut sets = Self::default();
        while let Some((key, bytes)) = rows.item() {
            let set = value::decode_set(key, bytes)?;
            match keys::block_and_kind_of(key) {
                Some((_, KIND_AUDIENCE)) => sets.audience = set,
                Some((_, KIND_QOS0)) => sets.qos0 = set,
                Some((_, kind)) if let Some(what) = app_receipt(kind) => sets.reported[what as usize] = set,
                Some((_, state)) => drop(sets.settled.insert(state, set)),
                None => return Err(StoreError::damaged("set", key)),
            }
            rows.next();
        }
        rows.status()?;
        sets.derive();
        Ok(sets)
    }

    /// Moves `terminals` to `state`, those whose state allows it (I4).
    pub(crate) fn settle(&mut self, terminals: &RoaringBitmap, state: State) -> Settled {
        let from_pending = &self.pending & terminals;
        self.pending -= &from_pending;
        let mut from_sent = RoaringBitmap::new();
        if State::Sent.may_become(state)
            && let Some(sent) = self.settled.get_mut(&State::Sent.code())
        {
            from_sent = &*sent & terminals;
            *sent -= &from_sent;
            self.late |= &from_sent;
        }
        if !from_pending.is_empty() || !from_sent.is_empty() {
            let settled = self.settled.entry(state.code()).or_default();
            *settled |= &from_pending;
            *settled |= &from_sent;
        }
        debug_assert!(self.is_conserved(), "a block lost or doubled a terminal");
        Settled { from_pending, from_sent }
    }

    /// Adds those of `terminals` that are in the audience to who reported `what`.
    pub(crate) fn report(&mut self, terminals: &RoaringBitmap, what: AppReceipt) -> Reported {
        let known = &self.audience & terminals;
        let gained = &known - &self.reported[what as usize];
        self.reported[what as usize] |= &gained;
        Reported { known: known.len(), gained }
    }

    pub(crate) fn reported(&self, what: AppReceipt) -> &RoaringBitmap {
        &self.reported[what as usize]
    }

    pub(crate) fn in_state(&self, state: State) -> RoaringBitmap {
        match state {
            State::Pending => self.pending.clone(),
            state => self.settled.get(&state.code()).cloned().unwrap_or_default(),
        }
    }

    /// The set of a state as it is stored: all that were ever merged into it.
    pub(super) fn stored(&self, code: u8) -> Option<RoaringBitmap> {
        let set = self.settled.get(&code)?;
        Some(if code == State::Sent.code() { set | &self.late } else { set.clone() })
    }

    /// Memory this takes, roughly: what the cache is bounded by.
    pub(super) fn size(&self) -> usize {
        let fixed = [&self.audience, &self.qos0, &self.pending, &self.late];
        let sets = fixed.into_iter().chain(self.settled.values()).chain(&self.reported);
        128 + sets.map(|set| 64 + set.serialized_size()).sum::<usize>()
    }

    /// Stored sets only grow, so a terminal that went from sent to delivered is in both.
    fn derive(&mut self) {
        let delivered = self.settled.get(&State::Delivered.code()).cloned().unwrap_or_default();
        if let Some(sent) = self.settled.get_mut(&State::Sent.code()) {
            self.late = &*sent & &delivered;
            *sent -= delivered;
        }
        self.pending = self.settled.values().fold(self.audience.clone(), |pending, set| pending - set);
    }

    fn is_conserved(&self) -> bool {
        let total = self.pending.len() + self.settled.values().map(RoaringBitmap::len).sum::<u64>();
        total == self.audience.len()
    }
}

fn app_receipt(kind: u8) -> Option<AppReceipt> {
    AppReceipt::ALL.into_iter().find(|what| what.code() == kind)
}

/// Splits a set by block, ascending.
pub(crate) fn by_block(set: &RoaringBitmap) -> Vec<(u16, RoaringBitmap)> {
    let mut blocks = Vec::new();
    let mut next = set.iter();
    while let Some(first) = next.next() {
        let block = (first >> 16) as u16;
        let last = first | 0xffff;
        let range = u32::from(block) << 16..=last;
        // A range costs a mask over the whole set; taking values one by one, only those.
        if set.range_cardinality(range.clone()) > 256 {
            let mut mask = RoaringBitmap::new();
            mask.insert_range(range);
            mask &= set;
            blocks.push((block, mask));
        } else {
            blocks.push((block, set.range(range).collect()));
        }
        if last == u32::MAX {
            break;
        }
        next.advance_to(last + 1);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_by_block_loses_nothing() {
        let set: RoaringBitmap =
            (0..1000).chain([65_535, 65_536, 200_000]).chain(u32::MAX - 3..=u32::MAX).collect();
        let blocks = by_block(&set);
        assert_eq!(blocks.iter().map(|(block, _)| *block).collect::<Vec<_>>(), [0, 1, 3, 0xffff]);
        assert!(blocks.iter().all(|(block, part)| part.iter().all(|no| (no >> 16) as u16 == *block)));
        assert_eq!(blocks.into_iter().fold(RoaringBitmap::new(), |all, (_, part)| all | part), set);
    }

    #[test]
    fn only_sent_becomes_delivered_later() {
        let mut block = BlockSets::new((0..10).collect(), RoaringBitmap::new());
        block.settle(&(0..5).collect(), State::Sent);
        block.settle(&(5..7).collect(), State::Expired);
        let late = block.settle(&(4..8).collect(), State::Delivered);
        assert_eq!((late.from_sent.len(), late.from_pending.len()), (1, 1));
        assert_eq!(block.in_state(State::Sent), (0..4).collect());
        assert_eq!(block.in_state(State::Delivered), RoaringBitmap::from_iter([4, 7]));
        assert_eq!(block.in_state(State::Expired), (5..7).collect());
        assert_eq!(block.in_state(State::Pending), (8..10).collect());
        assert_eq!(block.stored(State::Sent.code()), Some((0..5).collect()));
        assert_eq!(block.stored(State::Delivered.code()), Some(RoaringBitmap::from_iter([4, 7])));
    }
}
