//! Audiences of many terminals: bitmaps by block; and for what is pending, a row for each block, or, where few are, a row
//! for each of them.
//!
//! *Sparse.* Reading what a terminal is owed looks at every push with a row for its block, so a push that is nearly
//! settled there would cost each terminal of the block a look. It is *sparse* in a block when few are pending
//! ([`is_sparse`]); then they have rows of their own. What is pending of a block only becomes less, so a push becomes
//! sparse in it once, and never writes rows for more than an eighth of its audience there, or [`ALWAYS_SPARSE`] of them.
//! A push that is released by a plan has rows for blocks only: what is pending of it is not all owed.

use cluster_proto::{AppReceipt, PushId, State, TerminalNo};
use roaring::RoaringBitmap;

use super::{
    blocks::{BlockSets, Reported, Settled},
    db::Read,
    error::StoreError,
    keys::{self, Key},
    small::Of,
    txn::Txn,
    value::{KIND_AUDIENCE, OwedValue},
};
use crate::tables::resolve::Resolved;

/// A block with no more than this pending is sparse, however small its audience: a few rows cost less than a look by
/// everybody in the block.
const ALWAYS_SPARSE: u64 = 16;
/// The most that may be pending in a sparse block: 1 of 64.
const SPARSE_MAX: u64 = 1_024;

/// Whether those pending in a block have rows of their own, rather than one for the block. Depends on what is stored only.
fn is_sparse(audience: u64, pending: u64) -> bool {
    pending <= (audience / 8).clamp(ALWAYS_SPARSE, SPARSE_MAX)
}

/// Makes the sets of a new push; answers its counts.
pub(crate) fn accept(
    txn: &mut Txn<'_>,
    Of { push, urgent, .. }: Of<'_>,
    audience: Resolved,
    value: OwedValue,
) -> Vec<(u8, u64)> {
    let len = audience.len();
    for (block, part) in audience.blocks {
        if !value.held && is_sparse(part.any.len(), part.any.len()) {
            rows(urgent, push, &part.any, &part.qos0, value).for_each(|(key, row)| txn.insert(key, &row));
        } else {
            txn.insert(keys::block_pending(urgent, block, push), &value);
        }
        txn.insert_block(push, block, part.any, part.qos0);
    }
    vec![(State::Pending.code(), len)]
}

/// Settles terminals of one block; answers what changed.
pub(crate) fn settle(
    txn: &mut Txn<'_>,
    push: PushId,
    counts: &mut Vec<(u8, u64)>,
    block: u16,
    terminals: &RoaringBitmap,
    state: State,
) -> Result<Settled, StoreError> {
    let settled = txn.settle_block(push, block, terminals, state)?;
    let (from_pending, from_sent) = (settled.from_pending.len(), settled.from_sent.len());
    add(counts, state.code(), from_pending + from_sent);
    subtract(counts, State::Pending, from_pending);
    subtract(counts, State::Sent, from_sent);
    Ok(settled)
}

/// The owed indexes of a push without a plan after some of a block are not pending any more; `value`: what they say of it.
pub(crate) fn follow_owed(
    txn: &mut Txn<'_>,
    (push, urgent): (PushId, bool),
    block: u16,
    gone: &RoaringBitmap,
    value: OwedValue,
) -> Result<(), StoreError> {
    if gone.is_empty() {
        return Ok(());
    }
    let sets = txn.block(push, block)?;
    let (audience, pending) = (sets.audience.len(), sets.pending.len());
    if is_sparse(audience, pending + gone.len()) {
        for no in gone {
            txn.delete(keys::owed_broad(urgent, TerminalNo(no), push));
        }
    } else if is_sparse(audience, pending) {
        txn.delete(keys::block_pending(urgent, block, push));
        rows(urgent, push, &sets.pending, &sets.qos0, value).for_each(|(key, row)| txn.insert(key, &row));
    }
    Ok(())
}

/// Writes `value` where `pending`, who are pending in a block of a push without a plan, are owed it: in the row of the
/// block for all of them, or in those of each.
pub(crate) fn mark_owed(
    txn: &mut Txn<'_>,
    (push, urgent): (PushId, bool),
    block: u16,
    pending: &RoaringBitmap,
    value: OwedValue,
) -> Result<(), StoreError> {
    let sets = txn.block(push, block)?;
    if is_sparse(sets.audience.len(), sets.pending.len()) {
        rows(urgent, push, pending, &sets.qos0, value).for_each(|(key, row)| txn.put(key, &row));
    } else {
        txn.put(keys::block_pending(urgent, block, push), &value);
    }
    Ok(())
}

/// Rows of their own for those who are pending in a sparse block.
fn rows(
    urgent: bool,
    push: PushId,
    pending: &RoaringBitmap,
    qos0: &RoaringBitmap,
    value: OwedValue,
) -> impl Iterator<Item = (Key, OwedValue)> {
    pending.iter().map(move |no| {
        (keys::owed_broad(urgent, TerminalNo(no), push), OwedValue { qos0: qos0.contains(no), ..value })
    })
}

/// Records what applications on terminals of one block report.
pub(crate) fn report(
    txn: &mut Txn<'_>,
    push: PushId,
    counts: &mut Vec<(u8, u64)>,
    block: u16,
    terminals: &RoaringBitmap,
    what: AppReceipt,
) -> Result<Reported, StoreError> {
    let reported = txn.report_block(push, block, terminals, what)?;
    add(counts, what.code(), reported.gained.len());
    Ok(reported)
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

fn add(counts: &mut Vec<(u8, u64)>, code: u8, by: u64) {
    match counts.iter_mut().find(|(of, _)| *of == code) {
        Some((_, count)) => *count += by,
        None if by > 0 => counts.push((code, by)),
        None => {}
    }
}

fn subtract(counts: &mut [(u8, u64)], state: State, by: u64) {
    if let Some((_, count)) = counts.iter_mut().find(|(code, _)| *code == state.code()) {
        debug_assert!(*count >= by, "more left {state:?} than were there");
        *count = count.saturating_sub(by);
    }
}
