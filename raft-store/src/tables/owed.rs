//! What terminals are owed: rows for small pushes, and for broad ones the pushes still pending in a block.
//!
//! The cost of reading follows what is owed, not how many pushes live. The quota counts small pushes only: a count
//! of the broad ones would cost a look at every broad push of the block at every accept.

use std::collections::BTreeSet;

use cluster_proto::{PushId, TerminalNo};

use super::{
    db::{Read, Visit},
    error::StoreError,
    keys,
    records::OwedRow,
    txn::Txn,
    value::{OwedValue, Stored as _},
};

pub(crate) fn insert(txn: &mut Txn<'_>, no: TerminalNo, push: PushId, value: OwedValue) {
    txn.insert(keys::owed(no, push), &value);
    txn.memory.change_owed(no, 1);
}

pub(crate) fn remove(txn: &mut Txn<'_>, no: TerminalNo, push: PushId) {
    txn.delete(keys::owed(no, push));
    txn.memory.change_owed(no, -1);
}

/// Whether the terminal is owed the most it may be.
pub(crate) fn is_over_quota(txn: &mut Txn<'_>, no: TerminalNo) -> Result<bool, StoreError> {
    let count = match txn.memory.owed(no) {
        Some(count) => count,
        None => {
            let count = txn.keys(&keys::owed_by(no), u32::MAX as usize)?.len() as u32;
            txn.memory.remember_owed(no, count);
            count
        }
    };
    Ok(count as usize >= txn.options.owed_per_terminal_max)
}

/// Pushes pending for a terminal with ids in `after..=upto`, ascending, that may still be handed out at `now_ms`.
pub(crate) fn list(
    tables: &impl Read,
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
    let visit: Visit<'_> = &mut |key, bytes| {
        let (push, value) = (push_of(key)?, OwedValue::decode(key, bytes)?);
        if is_live(&value) {
            let OwedValue { qos0, expires_at_ms, .. } = value;
            owed.push(OwedRow { push, of: of(push, &value), qos0, expires_at_ms });
        }
        Ok(owed.len() < limit)
    };
    tables.scan(&keys::owed(no, first), keys::after(keys::owed(no, upto)), visit)?;
    let small = owed.len();
    let visit: Visit<'_> = &mut |key, bytes| {
        let (push, value) = (push_of(key)?, OwedValue::decode(key, bytes)?);
        if is_live(&value) && value.wave.is_none_or(|wave| wave.slice.contains(no.0)) {
            let of = of(push, &value);
            let sets = tables.block(of, no.block())?;
            if sets.pending.contains(no.0) {
                let (qos0, expires_at_ms) = (sets.qos0.contains(no.0), value.expires_at_ms);
                owed.push(OwedRow { push, of, qos0, expires_at_ms });
            }
        }
        Ok(owed.len() - small < limit)
    };
    let block = no.block();
    tables.scan(&keys::block_pending(block, first), keys::after(keys::block_pending(block, upto)), visit)?;
    owed.sort_unstable_by_key(|row| row.push);
    owed.truncate(limit);
    Ok(owed)
}

/// How many pushes are pending for a terminal, counted up to `limit`.
pub(crate) fn len(tables: &impl Read, no: TerminalNo, limit: usize) -> Result<usize, StoreError> {
    let mut len = tables.keys(&keys::owed_by(no), limit)?.len();
    if len < limit {
        // A push with a plan has several rows in a block, and is owed once.
        let mut in_waves = BTreeSet::new();
        tables.scan_prefix(&keys::block_pendings(no.block()), &mut |key, bytes| {
            let (push, value) = (push_of(key)?, OwedValue::decode(key, bytes)?);
            let of = value.wave.map_or(push, |wave| wave.push);
            let is_counted = (value.held || value.wave.is_some()) && !in_waves.insert(of);
            if !is_counted && tables.block(of, no.block())?.pending.contains(no.0) {
                len += 1;
            }
            Ok(len < limit)
        })?;
    }
    Ok(len)
}

pub(crate) fn push_of(key: &[u8]) -> Result<PushId, StoreError> {
    keys::push_of(key).ok_or_else(|| StoreError::damaged("owed key", key))
}
