//! Session commands.

use std::collections::BTreeSet;

use cluster_proto::{
    TerminalNo,
    limits::SUBSCRIPTIONS_PER_SESSION_MAX,
    link::{Subscription, Unacknowledged, WillFate},
};

use super::{changed, no_session, opened};
use crate::{
    Applied, Refusal,
    command::{Holder, OpenSession},
    tables::{
        db::Read as _,
        error::StoreError,
        exchanges, keys,
        sessions::{self, Found},
        subscriptions,
        txn::Txn,
        value::SessionRow,
        wills,
    },
};

pub(super) fn open(txn: &mut Txn<'_>, open: &OpenSession) -> Result<Applied, StoreError> {
    let found = match sessions::find(txn, &open.holder)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Applied::Refused(refusal)),
    };
    match found {
        // The same CONNECT again: a proposal may be repeated around a leader change.
        Found { no: Some(no), row: Some(row), is_own: true } => go_on(txn, no, row, open, true),
        Found { no: Some(no), row: Some(mut row), .. } if !open.clean_start && row.expiry_s > 0 => {
            row.present = true;
            let will = wills::replaced(txn, no, &mut row)?;
            let answer = go_on(txn, no, row, open, false)?;
            wills::publish(txn, will)?;
            Ok(answer)
        }
        Found { no, row, .. } => {
            // A session without expiry ends with its connection, which this one replaces.
            end_found(txn, no, row.as_ref())?;
            if open.expiry_s == 0 && open.will.is_none() {
                return Ok(no_session(txn, no));
            }
            let (no, mut row) = sessions::create(txn, &open.holder, open.expiry_s)?;
            wills::set(txn, no, &mut row, open.will.as_ref());
            txn.put(keys::session(no), &row);
            Ok(changed(txn, no, &row))
        }
    }
}

/// The connection holds the session from now on: the same CONNECT again, or another one.
fn go_on(
    txn: &mut Txn<'_>,
    no: TerminalNo,
    mut row: SessionRow,
    open: &OpenSession,
    is_own: bool,
) -> Result<Applied, StoreError> {
    wills::set(txn, no, &mut row, open.will.as_ref());
    sessions::resume(txn, no, &mut row, &open.holder, open.expiry_s);
    if row.present {
        exchanges::take_over(txn, no, &open.unacknowledged, is_own)?;
    }
    opened(txn, no, &row)
}

pub(super) fn detach(
    txn: &mut Txn<'_>,
    holder: &Holder,
    expiry_s: u32,
    will: WillFate,
    unacknowledged: &[Unacknowledged],
) -> Result<Applied, StoreError> {
    // A newer connection may hold the session by now: what the older one says of it is void.
    let Ok(Found { no: Some(no), row: Some(mut row), is_own: true }) = sessions::find(txn, holder)? else {
        return Ok(Applied::Done);
    };
    if row.detached_at_ms.is_none() && will == WillFate::Discard {
        wills::discard(txn, no, &mut row);
        txn.put(keys::session(no), &row);
    }
    if expiry_s == 0 {
        sessions::end(txn, &[no])?;
    } else if row.detached_at_ms.is_none() {
        let will = wills::lost(txn, no, &mut row, expiry_s, true)?;
        exchanges::leave(txn, no, unacknowledged)?;
        sessions::detach(txn, no, &mut row, expiry_s);
        wills::publish(txn, will)?;
    }
    Ok(Applied::Done)
}

pub(super) fn subscribe(
    txn: &mut Txn<'_>,
    holder: &Holder,
    wanted: &[Subscription],
) -> Result<Applied, StoreError> {
    let found = match sessions::find(txn, holder)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Applied::Refused(refusal)),
    };
    if is_foreign(&found) {
        return Ok(Applied::Refused(Refusal::Stale));
    }
    let wanted: Vec<_> = wanted.iter().filter(|wanted| subscriptions::is_valid(&wanted.filter)).collect();
    if count_after(txn, &found, &wanted)? > SUBSCRIPTIONS_PER_SESSION_MAX {
        return Ok(Applied::Refused(Refusal::TooManySubscriptions));
    }
    let (no, mut row) = match found {
        Found { no: Some(no), row: Some(row), is_own: true } => (no, row),
        Found { no, row, .. } => {
            end_found(txn, no, row.as_ref())?;
            sessions::create(txn, holder, 0)?
        }
    };
    let before = row.subscriptions;
    for subscription in wanted {
        row.subscriptions += u32::from(subscriptions::insert(txn, holder.app, no, subscription)?);
    }
    if row.subscriptions != before {
        txn.put(keys::session(no), &row);
    }
    Ok(changed(txn, no, &row))
}

pub(super) fn unsubscribe(
    txn: &mut Txn<'_>,
    holder: &Holder,
    filters: &[String],
) -> Result<Applied, StoreError> {
    let found = match sessions::find(txn, holder)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Applied::Refused(refusal)),
    };
    if is_foreign(&found) {
        return Ok(Applied::Refused(Refusal::Stale));
    }
    let Found { no: Some(no), row: Some(mut row), is_own: true } = found else {
        return Ok(no_session(txn, found.no));
    };
    let mut emptied = Vec::new();
    for filter in filters {
        let removed = subscriptions::remove(txn, holder.app, no, filter)?;
        row.subscriptions -= u32::from(removed.was_there);
        emptied.extend(removed.emptied);
    }
    txn.put(keys::session(no), &row);
    sessions::retire(txn, &emptied)?;
    Ok(changed(txn, no, &row))
}

pub(super) fn expire(txn: &mut Txn<'_>, limit: u32) -> Result<Applied, StoreError> {
    let mut due = Vec::new();
    if limit > 0 {
        let end = keys::session_expiry(txn.now_ms().saturating_add(1), TerminalNo(0));
        txn.scan(&keys::session_expiries(), end, &mut |key, _| {
            due.extend(keys::no_of(key));
            Ok(due.len() < limit as usize)
        })?;
    }
    sessions::end(txn, &due)?;
    Ok(Applied::Done)
}

pub(super) fn publish_wills(txn: &mut Txn<'_>, limit: u32) -> Result<Applied, StoreError> {
    wills::publish_due(txn, limit)?;
    Ok(Applied::Done)
}

/// A session that outlives connections belongs to the one that opened it last.
fn is_foreign(found: &Found) -> bool {
    !found.is_own && found.row.as_ref().is_some_and(|row| row.expiry_s > 0)
}

fn end_found(txn: &mut Txn<'_>, no: Option<TerminalNo>, row: Option<&SessionRow>) -> Result<(), StoreError> {
    match (no, row) {
        (Some(no), Some(_)) => sessions::end(txn, &[no]),
        _ => Ok(()),
    }
}

/// How many subscriptions the session would have.
fn count_after(txn: &Txn<'_>, found: &Found, wanted: &[&Subscription]) -> Result<usize, StoreError> {
    let filters: BTreeSet<_> = wanted.iter().map(|wanted| wanted.filter.as_str()).collect();
    let (Some(no), Some(row), true) = (found.no, &found.row, found.is_own) else { return Ok(filters.len()) };
    let mut count = row.subscriptions as usize;
    for filter in filters {
        count += usize::from(txn.get(&keys::subscription(no, filter))?.is_none());
    }
    Ok(count)
}
