//! Who was connected on which day: sets of registered terminals of all apps, by day and block.
//!
//! Days are of UTC, counted from the epoch. A number that is in a set and not registered any more is inert: nobody gets it
//! again, and whoever reads a set looks only for terminals that are registered.

use std::collections::BTreeMap;

use cluster_proto::{TerminalNo, TerminalSet, limits::SEEN_DAYS_MAX};
use roaring::RoaringBitmap;

use super::{blocks::by_block, db::Read, error::StoreError, keys, txn::Txn, value};

/// Sets of days that are over removed at once.
const FORGOTTEN_AT_ONCE_MAX: usize = 256;

const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// The day of a time.
pub(crate) fn day_of(at_ms: u64) -> u32 {
    u32::try_from(at_ms / DAY_MS).unwrap_or(u32::MAX)
}

/// The first day that may be asked for.
fn first_day(at_ms: u64) -> u32 {
    day_of(at_ms).saturating_sub(u32::from(SEEN_DAYS_MAX))
}

/// Terminals of a block, all registered, are new, and count as seen now.
pub(crate) fn registered(txn: &mut Txn<'_>, block: u16, nos: &RoaringBitmap) -> Result<(), StoreError> {
    *txn.set_mut(keys::seen(day_of(txn.now_ms()), block))? |= nos;
    Ok(())
}

/// Terminals were connected on a day. One that is too old to be asked for, or not yet begun, is passed over; a leader's
/// clock may be a little before that of the entry.
pub(crate) fn record(txn: &mut Txn<'_>, day: u32, terminals: &TerminalSet) -> Result<(), StoreError> {
    if (first_day(txn.now_ms())..=day_of(txn.now_ms()).saturating_add(1)).contains(&day) {
        for (block, nos) in by_block(&terminals.0) {
            if TerminalNo(u32::from(block) << 16).is_registered() {
                *txn.set_mut(keys::seen(day, block))? |= nos;
            }
        }
    }
    let mut old = Vec::new();
    txn.scan(&keys::seen_all(), keys::seen_on(first_day(txn.now_ms())), &mut |key, _| {
        old.push(key.to_vec());
        Ok(old.len() < FORGOTTEN_AT_ONCE_MAX)
    })?;
    old.into_iter().for_each(|key| txn.delete(key));
    Ok(())
}

/// Whether there are sets too old to be asked for.
pub(crate) fn has_old(tables: &impl Read, now_ms: u64) -> Result<bool, StoreError> {
    let mut has_old = false;
    tables.scan(&keys::seen_all(), keys::seen_on(first_day(now_ms)), &mut |_, _| {
        has_old = true;
        Ok(false)
    })?;
    Ok(has_old)
}

/// Those of a part of one block that were seen on the day of `now_ms` or on one of the `days` before it.
pub(crate) fn within(
    tables: &impl Read,
    now_ms: u64,
    days: u8,
    block: u16,
    part: &RoaringBitmap,
) -> Result<RoaringBitmap, StoreError> {
    let mut left = part.clone();
    let today = day_of(now_ms);
    for day in (today.saturating_sub(u32::from(days))..=today).rev() {
        if left.is_empty() {
            break;
        }
        left -= on(tables, day, block)?;
    }
    Ok(part - left)
}

/// The last day each of these terminals was seen, of those that may be asked for.
pub(crate) fn last(
    tables: &impl Read,
    now_ms: u64,
    terminals: &RoaringBitmap,
) -> Result<BTreeMap<TerminalNo, u32>, StoreError> {
    let mut last = BTreeMap::new();
    for (block, mut left) in by_block(terminals) {
        for day in (first_day(now_ms)..=day_of(now_ms)).rev() {
            if left.is_empty() {
                break;
            }
            let found = &left & on(tables, day, block)?;
            last.extend(found.iter().map(|no| (TerminalNo(no), day)));
            left -= found;
        }
    }
    Ok(last)
}

fn on(tables: &impl Read, day: u32, block: u16) -> Result<RoaringBitmap, StoreError> {
    let key = keys::seen(day, block);
    let set = tables.get(&key)?.map(|bytes| value::decode_set(&key, &bytes)).transpose()?;
    Ok(set.unwrap_or_default())
}
