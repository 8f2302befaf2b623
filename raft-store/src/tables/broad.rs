//! Audiences of many terminals: bitmaps by block, and a row for each block where something is pending.

use cluster_proto::{PushId, State};
use roaring::RoaringBitmap;

use super::{
    blocks::BlockSets,
    db::Read,
    error::StoreError,
    keys,
    small::Of,
    txn::Txn,
    value::{KIND_AUDIENCE, OwedValue},
};
use crate::tables::resolve::Resolved;

/// Makes the sets of a new push; answers its counts.
pub(crate) fn accept(
    txn: &mut Txn<'_>,
    Of { push, urgent, .. }: Of<'_>,
    audience: Resolved,
    value: OwedValue,
) -> Vec<(u8, u64)> {
    let len = audience.len();
    for (block, part) in audience.blocks {
        txn.insert(keys::block_pending(urgent, block, push), &value);
        txn.insert_block(push, block, part.any, part.qos0);
    }
    vec![(State::Pending.code(), len)]
}

/// Settles terminals of one block. Answers who is newly in the state, and whether some were pending and none is any
/// more.
pub(crate) fn settle(
    txn: &mut Txn<'_>,
    push: PushId,
    counts: &mut Vec<(u8, u64)>,
    block: u16,
    terminals: &RoaringBitmap,
    state: State,
) -> Result<(RoaringBitmap, bool), StoreError> {
    let (settled, is_settled) = txn.settle_block(push, block, terminals, state)?;
    add(counts, state, settled.from_pending + settled.from_sent);
    subtract(counts, State::Pending, settled.from_pending);
    subtract(counts, State::Sent, settled.from_sent);
    Ok((settled.gained, settled.from_pending > 0 && is_settled))
}

/// The union over all blocks.
pub(crate) fn union(
    tables: &impl Read,
    push: PushId,
    part: impl Fn(&BlockSets) -> RoaringBitmap,
) -> Result<RoaringBitmap, StoreError> {
    let mut all = RoaringBitmap::new();
    for block in blocks(tables, push)? {
        all |= part(&*tables.block(push, block)?);
    }
    Ok(all)
}

/// The blocks the audience lies in.
pub(crate) fn blocks(tables: &impl Read, push: PushId) -> Result<Vec<u16>, StoreError> {
    let mut blocks = Vec::new();
    tables.scan_prefix(&keys::set_blocks(push), &mut |key, _| {
        if let Some((block, KIND_AUDIENCE)) = keys::block_and_kind_of(key) {
            blocks.push(block);
        }
        Ok(true)
    })?;
    Ok(blocks)
}

fn add(counts: &mut Vec<(u8, u64)>, state: State, by: u64) {
    match counts.iter_mut().find(|(code, _)| *code == state.code()) {
        Some((_, count)) => *count += by,
        None if by > 0 => counts.push((state.code(), by)),
        None => {}
    }
}

fn subtract(counts: &mut [(u8, u64)], state: State, by: u64) {
    if let Some((_, count)) = counts.iter_mut().find(|(code, _)| *code == state.code()) {
        debug_assert!(*count >= by, "more left {state:?} than were there");
        *count = count.saturating_sub(by);
    }
}
