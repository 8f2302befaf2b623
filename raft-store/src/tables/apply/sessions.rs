//! Session commands.

use std::collections::BTreeSet;

use cluster_proto::{TerminalNo, limits::SUBSCRIPTIONS_PER_SESSION_MAX, link::Subscription};

use super::{no_session, session_answer};
use crate::{
    Applied, Refusal,
    command::{Holder, OpenSession},
    tables::{
        db::Read as _,
        error::StoreError,
        keys,
        sessions::{self, Found},
        subscriptions,
        txn::Txn,
        value::SessionRow,
    },
};

pub(super) fn open(txn: &mut Txn<'_>, open: &OpenSession) -> Result<Applied, StoreError> {
    let found = match sessions::find(txn, &open.holder)? {
        Ok(found) => found,
        Err(refusal) => return Ok(Applied::Refused(refusal)),
    };
    match found {
        // The same CONNECT again: a proposal may be repeated around a leader change.
        Found { no: Some(no), row: Some(mut row), is_own: true } => {
            sessions::resume(txn, no, &mut row, &open.holder, open.expiry_s);
            Ok(session_answer(no, &row, subscriptions::list(txn, no)?))
        }
        Found { no: Some(no), row: Some(mut row), .. } if !open.clean_start && row.expiry_s > 0 => {
            row.present = true;
            sessions::resume(txn, no, &mut row, &open.holder, open.expiry_s);
            Ok(session_answer(no, &row, subscriptions::list(txn, no)?))
        }
        Found { no, row, .. } => {
            // A session without expiry ends with its connection, which this one replaces.
            end_found(txn, no, row.as_ref())?;
            if open.expiry_s == 0 {
                return Ok(no_session(no));
            }
            let (no, row) = sessions::create(txn, &open.holder, open.expiry_s)?;
            Ok(session_answer(no, &row, Vec::new()))
        }
    }
}

pub(super) fn detach(txn: &mut Txn<'_>, holder: &Holder, expiry_s: u32) -> Result<Applied, StoreError> {
    // A newer connection may hold the session by now: what the older one says of it is void.
    let Ok(Found { no: Some(no), row: Some(mut row), is_own: true }) = sessions::find(txn, holder)? else {
        return Ok(Applied::Done);
    };
    if expiry_s == 0 {
        sessions::end(txn, &[no])?;
    } else if row.detached_at_ms.is_none() {
        sessions::detach(txn, no, &mut row, expiry_s);
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
    let wanted: Vec<_> = wanted.iter().filter(|wanted| subscriptions::is_indexable(&wanted.filter)).collect();
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
    Ok(session_answer(no, &row, Vec::new()))
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
        return Ok(no_session(found.no));
    };
    for filter in filters {
        row.subscriptions -= u32::from(subscriptions::remove(txn, holder.app, no, filter)?);
    }
    txn.put(keys::session(no), &row);
    Ok(session_answer(no, &row, Vec::new()))
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
