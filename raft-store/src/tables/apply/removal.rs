//! Removing a deleted app, a bounded step at a time. A step is lost or repeated without harm: how far the removal is
//! stands in the row of the app.
//!
//! ```text
//!  Terminals ──► Pushes ──► Numbers ──► Rest ──► gone, and its name is free
//! ```
//! Terminals and clients go first, so that every push is settled when it is removed; lent numbers return last, when no
//! push can name them.

use cluster_proto::{AppId, PushId, TerminalNo};

use super::{pushes, terminals};
use crate::{
    Applied, Effect,
    tables::{
        GROUP,
        db::Read as _,
        error::StoreError,
        keys, numbers, owed, retained, sessions,
        txn::Txn,
        value::{AppRow, PushRow, Removal, Stored as _, TerminalRow},
    },
};

pub(super) fn step(txn: &mut Txn<'_>, app: AppId, limit: u32) -> Result<Applied, StoreError> {
    let Some(row) = txn.read::<AppRow>(&keys::app(app))? else { return Ok(Applied::Done) };
    let (Some(removal), 1..) = (row.removal, limit) else { return Ok(Applied::Done) };
    let limit = limit as usize;
    let next = match removal {
        // Each may be owed thousands of pushes, which are settled.
        Removal::Terminals => remove_terminals(txn, app, limit.div_ceil(8))?,
        Removal::Pushes(after) => remove_pushes(txn, app, after, limit)?,
        Removal::Numbers(upto, no) => return_numbers(txn, app, (upto, no), limit)?,
        Removal::Rest => match remove_rest(txn, app, limit)? {
            true => return finish(txn, app, &row.name),
            false => Removal::Rest,
        },
    };
    txn.put(keys::app(app), &AppRow { removal: Some(next), ..row });
    Ok(Applied::Done)
}

/// Registered terminals, and the sessions of others.
fn remove_terminals(txn: &mut Txn<'_>, app: AppId, limit: usize) -> Result<Removal, StoreError> {
    let (mut registered, mut lent) = (Vec::new(), Vec::new());
    let mut ids = Vec::new();
    txn.scan_prefix(&keys::terminal_ids(app), &mut |key, bytes| {
        let no = TerminalNo::decode(key, bytes)?;
        if no.is_registered() {
            registered.push(no);
        } else {
            ids.push(key.to_vec());
            lent.push(no);
        }
        Ok(registered.len() + lent.len() < limit)
    })?;
    let is_last = registered.len() + lent.len() < limit;
    terminals::remove(txn, app, &registered)?;
    sessions::end_in_silence(txn, &lent)?;
    // A client is not found by its id any more; its number waits.
    ids.into_iter().for_each(|key| txn.delete(key));
    Ok(if is_last { Removal::Pushes(PushId(0)) } else { Removal::Terminals })
}

/// Its pushes among the next ones of all apps.
fn remove_pushes(txn: &mut Txn<'_>, app: AppId, after: PushId, limit: usize) -> Result<Removal, StoreError> {
    let first = after.max(PushId::new(GROUP, txn.head.oldest_push.saturating_sub(1)));
    let (mut found, mut last, mut looked_at) = (Vec::new(), after, 0);
    let end = keys::push(PushId::new(GROUP, txn.head.last_push + 1));
    txn.scan(&keys::after(keys::push(first)), end, &mut |key, bytes| {
        let row = PushRow::decode(key, bytes)?;
        last = owed::push_of(key)?;
        looked_at += 1;
        if row.app == app {
            found.push((last, row.settled_at_ms));
        }
        Ok(looked_at < limit)
    })?;
    for (push, settled_at_ms) in found {
        debug_assert!(settled_at_ms.is_some(), "a push to nobody is settled");
        pushes::remove(txn, push)?;
        if let Some(at_ms) = settled_at_ms {
            txn.delete(keys::retention(at_ms, push));
        }
    }
    if looked_at < limit {
        pushes::find_oldest(txn)?;
        return Ok(Removal::Numbers(PushId(0), TerminalNo(0)));
    }
    Ok(Removal::Pushes(last))
}

/// Its lent numbers, of clients and of shared groups, among the next that wait.
fn return_numbers(
    txn: &mut Txn<'_>,
    app: AppId,
    (upto, no): (PushId, TerminalNo),
    limit: usize,
) -> Result<Removal, StoreError> {
    let mut waiting = Vec::new();
    let end = keys::prefix_end(&keys::lent_waiting_all());
    txn.scan(&keys::after(keys::lent_waiting(upto, no)), end, &mut |key, _| {
        let at = keys::time_of(key).map(PushId).zip(keys::no_of(key));
        waiting.push(at.ok_or_else(|| StoreError::damaged("waiting number", key))?);
        Ok(waiting.len() < limit)
    })?;
    let next = match waiting.last() {
        Some((upto, no)) if waiting.len() == limit => Removal::Numbers(*upto, *no),
        _ => Removal::Rest,
    };
    for (upto, no) in waiting {
        if txn.read::<TerminalRow>(&keys::terminal(no))?.is_some_and(|row| row.app == app) {
            numbers::give_back_waiting(txn, upto, no)?;
        }
    }
    Ok(next)
}

/// Whether nothing is left.
fn remove_rest(txn: &mut Txn<'_>, app: AppId, limit: usize) -> Result<bool, StoreError> {
    let mut left = limit;
    for all in [keys::revocations(app), keys::receipts_of(app)] {
        let some = txn.keys(&all, left)?;
        left -= some.len();
        some.into_iter().for_each(|key| txn.delete(key));
    }
    Ok(left > 0 && retained::remove_of_app(txn, app, left)? < left)
}

fn finish(txn: &mut Txn<'_>, app: AppId, name: &str) -> Result<Applied, StoreError> {
    txn.delete(keys::app_count(app));
    txn.delete(keys::retained_count(app));
    txn.delete(keys::receipt_count(app));
    txn.delete(keys::webhook(app));
    txn.delete(keys::webhook_place(app));
    txn.delete(keys::app_name(name));
    txn.delete(keys::app(app));
    txn.effects.push(Effect::AppsChanged);
    Ok(Applied::Done)
}
