//! Collapse keys: the newest push of an app with a key replaces older ones that were not handed out, for the terminals
//! that have the newest or may still get it.
//!
//! An index leads from (app, key, terminal) to the small pushes pending there, and from (app, key) to the broad ones. A
//! push that finds something older in it gets a mark. The leader, who knows what is in flight, looks through the marked
//! push's index a part at a time, and proposes who is collapsed; the mark says how far it got, and goes with the last
//! part. Whoever has the older push in flight stays pending until its edge has answered: those are kept with the push.

use std::collections::BTreeSet;

use cluster_proto::{AppId, PushId, State, TerminalNo, TerminalSet};
use roaring::RoaringBitmap;

use super::{
    blocks::by_block,
    db::{Read, read},
    error::StoreError,
    keys,
    push::PushSets,
    release::Waves,
    txn::Txn,
    value::{AudienceRow, CollapseRow, decode_set},
};

/// In the place of the terminal: a broad push.
pub(crate) const BROAD: TerminalNo = TerminalNo(u32::MAX);

/// What a push is indexed by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed<'a> {
    pub(crate) app: AppId,
    pub(crate) key: &'a str,
}

impl Keyed<'_> {
    pub(crate) fn insert(self, txn: &mut Txn<'_>, no: TerminalNo, push: PushId) {
        txn.insert(keys::collapse_key(self.app, self.key, no, push), &());
    }

    pub(crate) fn remove(self, txn: &mut Txn<'_>, no: TerminalNo, push: PushId) {
        txn.delete(keys::collapse_key(self.app, self.key, no, push));
    }
}

/// Older pushes that a marked one replaces: one part of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToCollapse {
    /// For whom each is replaced; the newer push's audience and those who still have to get the older one.
    pub replaced: Vec<(PushId, TerminalSet)>,
    /// How many the newer push was released to when this was found.
    pub released: u64,
    /// Where the next part begins; `None`: this is the last.
    pub next: Option<(TerminalNo, PushId)>,
}

/// Marks a new push, whose index is not written yet, if there is something older for it to replace.
pub(crate) fn mark(
    txn: &mut Txn<'_>,
    of: Keyed<'_>,
    push: PushId,
    small: &[u32],
) -> Result<bool, StoreError> {
    let has_any = |prefix: Vec<u8>| txn.keys(&prefix, 1).map(|keys| !keys.is_empty());
    let mut found = if small.is_empty() {
        has_any(keys::collapse_keys(of.app, of.key))?
    } else {
        has_any(keys::collapse_keys_of(of.app, of.key, BROAD))?
    };
    for no in small {
        found = found || has_any(keys::collapse_keys_of(of.app, of.key, TerminalNo(*no)))?;
    }
    if found {
        txn.put(keys::collapse(push), &CollapseRow::default());
    }
    Ok(found)
}

/// More of a push is released: what it replaces is looked for from the start.
pub(crate) fn mark_again(txn: &mut Txn<'_>, push: PushId, released: u64) {
    txn.put(keys::collapse(push), &CollapseRow { after: None, released });
}

/// Marked pushes, in order.
pub(crate) fn marked(tables: &impl Read, limit: usize) -> Result<Vec<PushId>, StoreError> {
    let found = tables.keys(&keys::collapses(), limit)?;
    Ok(found.iter().filter_map(|key| keys::push_of(key)).collect())
}

/// What a marked push replaces: a part of at most `limit` rows of the index. `None`: it is not marked.
pub(crate) fn to_collapse(
    tables: &impl Read,
    by: PushId,
    limit: usize,
) -> Result<Option<ToCollapse>, StoreError> {
    let Some(CollapseRow { after, released }) = read(tables, &keys::collapse(by))? else { return Ok(None) };
    let Some(new) = PushSets::open(tables, by)? else {
        return Ok(Some(ToCollapse { released, ..ToCollapse::default() }));
    };
    let Some(Keyed { app, key }) = new.keyed() else {
        return Ok(Some(ToCollapse { released, ..ToCollapse::default() }));
    };
    let gets = gets(tables, &new)?;
    let mut found = BTreeSet::new();
    let (mut looked_at, mut last) = (0, None);
    // A small push looks at its own terminals, and at the broad pushes; a broad one at everything with the key.
    let prefixes: Vec<_> = match &new.row.audience {
        AudienceRow::Small(_) => {
            let nos = gets.iter().map(TerminalNo).chain([BROAD]);
            nos.filter(|no| after.is_none_or(|(from, _)| *no >= from))
                .map(|no| keys::collapse_keys_of(app, key, no))
                .collect()
        }
        AudienceRow::Broad(_) => vec![keys::collapse_keys(app, key)],
    };
    let from = after.map(|(no, push)| keys::after(keys::collapse_key(app, key, no, push)));
    for prefix in prefixes {
        let begin = from.clone().filter(|from| *from > prefix).unwrap_or_else(|| prefix.clone());
        tables.scan(&begin, keys::prefix_end(&prefix), &mut |row, _| {
            let (no, push) =
                keys::collapse_key_of(row).ok_or_else(|| StoreError::damaged("collapse key", row))?;
            if push < by && (no == BROAD || gets.contains(no.0)) {
                found.insert(push);
            }
            looked_at += 1;
            last = Some((no, push));
            Ok(looked_at < limit)
        })?;
        if looked_at >= limit {
            break;
        }
    }
    let mut replaced = Vec::new();
    for push in found {
        // All of them, also those whose rows come in a later part: a push is collapsed as a whole.
        let old = PushSets::open(tables, push)?.filter(|old| old.row.withdrawn.is_none());
        let Some(old) = old else { continue };
        let nos = old.pending_of(tables, &gets)?;
        if !nos.is_empty() {
            replaced.push((push, TerminalSet(nos)));
        }
    }
    Ok(Some(ToCollapse { replaced, released, next: last.filter(|_| looked_at >= limit) }))
}

/// Those who have the push or may still get it: whoever it was recalled from, or would not be kept for, keeps the older.
pub(crate) fn gets(tables: &impl Read, push: &PushSets) -> Result<RoaringBitmap, StoreError> {
    let mut gets = RoaringBitmap::new();
    for state in [State::Pending, State::Delivered, State::Sent] {
        gets |= push.whole(tables, state)?;
    }
    // What is not released replaces nothing yet.
    Ok(if push.row.release.is_some() { Waves::of(tables, push)?.released(&gets) } else { gets })
}

/// Pushes that are being collapsed somewhere, after `after`, in order.
pub(crate) fn collapsing(tables: &impl Read, after: PushId, limit: usize) -> Result<Vec<PushId>, StoreError> {
    let mut pushes = Vec::new();
    if limit > 0 {
        let end = keys::prefix_end(&keys::all_collapsing());
        tables.scan(&keys::after(keys::collapsing(after)), end, &mut |key, _| {
            pushes.extend(keys::push_of(key));
            Ok(pushes.len() < limit)
        })?;
    }
    Ok(pushes)
}

/// For whom `push` is replaced, and who may have it in flight.
pub(crate) fn set(tables: &impl Read, push: PushId) -> Result<RoaringBitmap, StoreError> {
    let key = keys::collapsing(push);
    let set = tables.get(&key)?.map(|bytes| decode_set(&key, &bytes)).transpose()?;
    Ok(set.unwrap_or_default())
}

/// The part of `set` that is still pending, without a look at other blocks.
pub(crate) fn pending_in_blocks(
    tables: &impl Read,
    push: PushId,
    set: &RoaringBitmap,
) -> Result<RoaringBitmap, StoreError> {
    let mut pending = RoaringBitmap::new();
    for (block, part) in by_block(set) {
        pending |= &tables.block(push, block)?.pending & &part;
    }
    Ok(pending)
}
