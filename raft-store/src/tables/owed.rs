//! What terminals are owed: rows for small pushes, and for broad ones rows too where few are pending in a block
//! ([`super::broad`]), or else one for the block.
//!
//! The cost of reading follows what is owed, not how many pushes live. The quota counts small pushes only: a count
//! of the broad ones would cost a look at every broad push of the block at every accept, and would depend on whether
//! others of the block have got them.

use std::collections::BTreeSet;

use cluster_proto::{PushId, TerminalNo, link::After};

use super::{
    collapse,
    db::{Read, Visit},
    error::StoreError,
    keys,
    records::OwedRow,
    txn::Txn,
    value::{OwedValue, Stored as _},
};

pub(crate) fn insert(txn: &mut Txn<'_>, urgent: bool, no: TerminalNo, push: PushId, value: OwedValue) {
    txn.insert(keys::owed(urgent, no, push), &value);
    txn.memory.change_owed(no, 1);
}

pub(crate) fn remove(txn: &mut Txn<'_>, urgent: bool, no: TerminalNo, push: PushId) {
    txn.delete(keys::owed(urgent, no, push));
    txn.memory.change_owed(no, -1);
}

/// Whether the terminal is owed the most it may be.
pub(crate) fn is_over_quota(txn: &mut Txn<'_>, no: TerminalNo) -> Result<bool, StoreError> {
    let count = match txn.memory.owed(no) {
        Some(count) => count,
        None => {
            let count = small_len(txn, no, u32::MAX as usize)? as u32;
            txn.memory.remember_owed(no, count);
            count
        }
    };
    Ok(count as usize >= txn.options.owed_per_terminal_max)
}

/// Pushes pending for a terminal with ids in `after..=upto`, ascending whatever their priority, that may still be
/// handed out at `now_ms`.
pub(crate) fn list(
    tables: &impl Read,
    no: TerminalNo,
    (after, upto): (PushId, PushId),
    now_ms: u64,
    limit: usize,
) -> Result<Vec<OwedRow>, StoreError> {
    let mut owed = of_priority(tables, true, no, (after, upto), now_ms, limit)?;
    owed.extend(of_priority(tables, false, no, (after, upto), now_ms, limit)?);
    owed.sort_unstable_by_key(|row| row.push);
    owed.truncate(limit);
    Ok(owed)
}

/// The same in the order in which a terminal gets them: urgent ones first, each priority from behind its own `after`.
pub(crate) fn page(
    tables: &impl Read,
    no: TerminalNo,
    (after, upto): (After, PushId),
    now_ms: u64,
    limit: usize,
) -> Result<Vec<OwedRow>, StoreError> {
    let mut owed = of_priority(tables, true, no, (after.urgent, upto), now_ms, limit)?;
    let rest = limit - owed.len();
    owed.extend(of_priority(tables, false, no, (after.ordinary, upto), now_ms, rest)?);
    Ok(owed)
}

/// How many come before `push`.
pub(crate) fn before(
    tables: &impl Read,
    no: TerminalNo,
    push: PushId,
    urgent: bool,
    limit: usize,
) -> Result<usize, StoreError> {
    let (all, older) = (PushId(u64::MAX), PushId(push.0.saturating_sub(1)));
    let first = of_priority(tables, true, no, (PushId(0), if urgent { older } else { all }), 0, limit)?.len();
    if urgent {
        return Ok(first);
    }
    Ok(first + of_priority(tables, false, no, (PushId(0), older), 0, limit - first)?.len())
}

fn of_priority(
    tables: &impl Read,
    urgent: bool,
    no: TerminalNo,
    (after, upto): (PushId, PushId),
    now_ms: u64,
    limit: usize,
) -> Result<Vec<OwedRow>, StoreError> {
    if limit == 0 || after >= upto {
        return Ok(Vec::new());
    }
    let first = PushId(after.0 + 1);
    let is_live = |value: &OwedValue| !value.withdrawn && !value.held && value.expires_at_ms > now_ms;
    let of = |push, value: &OwedValue| value.wave.map_or(push, |wave| wave.push);
    let mut owed = Vec::new();
    for key in [keys::owed, keys::owed_broad] {
        let before = owed.len();
        let visit: Visit<'_> = &mut |key, bytes| {
            let (push, value) = (push_of(key)?, OwedValue::decode(key, bytes)?);
            let of = of(push, &value);
            if is_live(&value) && !is_replaced(tables, &value, of, no)? {
                let OwedValue { qos0, expires_at_ms, .. } = value;
                owed.push(OwedRow { push, of, urgent, qos0, expires_at_ms });
            }
            Ok(owed.len() - before < limit)
        };
        tables.scan(&key(urgent, no, first), keys::after(key(urgent, no, upto)), visit)?;
    }
    let in_rows = owed.len();
    let visit: Visit<'_> = &mut |key, bytes| {
        let (push, value) = (push_of(key)?, OwedValue::decode(key, bytes)?);
        if is_live(&value) && value.wave.is_none_or(|wave| wave.slice.contains(no.0)) {
            let of = of(push, &value);
            let sets = tables.block(of, no.block())?;
            if sets.pending.contains(no.0) && !is_replaced(tables, &value, of, no)? {
                let (qos0, expires_at_ms) = (sets.qos0.contains(no.0), value.expires_at_ms);
                owed.push(OwedRow { push, of, urgent, qos0, expires_at_ms });
            }
        }
        Ok(owed.len() - in_rows < limit)
    };
    let block = no.block();
    let end = keys::after(keys::block_pending(urgent, block, upto));
    tables.scan(&keys::block_pending(urgent, block, first), end, visit)?;
    owed.sort_unstable_by_key(|row| row.push);
    owed.truncate(limit);
    Ok(owed)
}

/// Whether it is handed out to the terminal no more, because a newer push replaces it.
fn is_replaced(
    tables: &impl Read,
    value: &OwedValue,
    push: PushId,
    no: TerminalNo,
) -> Result<bool, StoreError> {
    if !value.collapsing {
        return Ok(false);
    }
    Ok(collapse::set(tables, push)?.contains(no.0))
}

fn small_len(tables: &impl Read, no: TerminalNo, limit: usize) -> Result<usize, StoreError> {
    let urgent = tables.keys(&keys::owed_by(true, no), limit)?.len();
    Ok(urgent + tables.keys(&keys::owed_by(false, no), limit - urgent)?.len())
}

/// How many pushes are pending for a terminal, counted up to `limit`.
pub(crate) fn len(tables: &impl Read, no: TerminalNo, limit: usize) -> Result<usize, StoreError> {
    let mut len = small_len(tables, no, limit)?;
    for urgent in [true, false] {
        len += tables.keys(&keys::owed_broad_by(urgent, no), limit.saturating_sub(len))?.len();
        if len < limit {
            // A push with a plan has several rows in a block, and is owed once.
            let mut in_waves = BTreeSet::new();
            tables.scan_prefix(&keys::block_pendings(urgent, no.block()), &mut |key, bytes| {
                let (push, value) = (push_of(key)?, OwedValue::decode(key, bytes)?);
                let of = value.wave.map_or(push, |wave| wave.push);
                let is_counted = (value.held || value.wave.is_some()) && !in_waves.insert(of);
                if !is_counted && tables.block(of, no.block())?.pending.contains(no.0) {
                    len += 1;
                }
                Ok(len < limit)
            })?;
        }
    }
    Ok(len)
}

/// The push of a row, if that is of a wave: a push with a plan has many rows in a block, and is settled once.
pub(crate) fn whole_of(key: &[u8], value: &OwedValue) -> Result<PushId, StoreError> {
    value.wave.map_or_else(|| push_of(key), |wave| Ok(wave.push))
}

pub(crate) fn push_of(key: &[u8]) -> Result<PushId, StoreError> {
    keys::push_of(key).ok_or_else(|| StoreError::damaged("owed key", key))
}
