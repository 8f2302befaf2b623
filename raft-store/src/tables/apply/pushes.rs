//! The end of pushes: expired, cancelled, purged.

use cluster_proto::{AppId, PushId, TerminalNo, TerminalSet};

use crate::{
    Applied, Effect, Refusal,
    tables::{
        GROUP, apps, collapse,
        db::Read as _,
        error::StoreError,
        keys, numbers, owed,
        push::PushSets,
        release,
        txn::Txn,
        value::{AudienceRow, CollapseRow, Withdrawn},
    },
};

pub(super) fn expire(txn: &mut Txn<'_>, pushes: &[(PushId, TerminalSet)]) -> Result<Applied, StoreError> {
    for (push, in_flight) in pushes {
        let Some(mut push) = PushSets::open(txn, *push)? else { continue };
        push.withdraw(txn, Withdrawn::Expired, &in_flight.0)?;
        push.close(txn)?;
    }
    Ok(Applied::Done)
}

pub(super) fn cancel(
    txn: &mut Txn<'_>,
    app: AppId,
    push: PushId,
    in_flight: &TerminalSet,
) -> Result<Applied, StoreError> {
    let Some(mut sets) = PushSets::open(txn, push)?.filter(|push| push.row.app == app) else {
        return Ok(Applied::Refused(Refusal::UnknownPush(push)));
    };
    if sets.row.settled_at_ms.is_none() {
        sets.withdraw(txn, Withdrawn::Cancelled, &in_flight.0)?;
        txn.effects.push(Effect::Cancelled(sets.id));
        sets.close(txn)?;
    }
    Ok(Applied::Done)
}

/// `by` replaces older pushes with its collapse key; `pushes` with whom each is in flight to.
pub(super) fn collapse(
    txn: &mut Txn<'_>,
    by: PushId,
    pushes: &[(PushId, TerminalSet)],
    released: u64,
    next: Option<(TerminalNo, PushId)>,
) -> Result<Applied, StoreError> {
    let mark = txn.read::<CollapseRow>(&keys::collapse(by))?;
    if mark.is_none_or(|mark| mark.released != released) {
        return Ok(Applied::Done); // it was done before, or more of it was released meanwhile
    }
    if let Some(new) = PushSets::open(txn, by)? {
        let gets = collapse::gets(txn, &new)?;
        for (push, in_flight) in pushes.iter().filter(|(push, _)| *push < by) {
            let Some(mut old) = PushSets::open(txn, *push)? else { continue };
            let same_key = old.row.options.collapse_key == new.row.options.collapse_key;
            if same_key && old.row.app == new.row.app && old.row.settled_at_ms.is_none() {
                old.collapse(txn, by, &gets, &in_flight.0)?;
                old.close(txn)?;
            }
        }
    }
    match next {
        Some(next) => txn.put(keys::collapse(by), &CollapseRow { after: Some(next), released }),
        None => txn.delete(keys::collapse(by)),
    }
    Ok(Applied::Done)
}

pub(super) fn purge(txn: &mut Txn<'_>, settled_before_ms: u64, limit: u32) -> Result<Applied, StoreError> {
    let mut old = Vec::new();
    if limit > 0 {
        let end = keys::retention(settled_before_ms, PushId(0));
        txn.scan(&keys::retentions(), end, &mut |key, _| {
            old.push(key.to_vec());
            Ok(old.len() < limit as usize)
        })?;
    }
    for key in old {
        remove(txn, owed::push_of(&key)?)?;
        txn.delete(key);
    }
    find_oldest(txn)?;
    numbers::give_back_purged(txn, limit as usize)?;
    Ok(Applied::Done)
}

pub(super) fn release(txn: &mut Txn<'_>, limit: u32) -> Result<Applied, StoreError> {
    release::advance_due(txn, limit)?;
    Ok(Applied::Done)
}

pub(super) fn hold(txn: &mut Txn<'_>, app: AppId, push: PushId) -> Result<Applied, StoreError> {
    let Some(mut sets) = with_plan(txn, app, push)? else {
        return Ok(Applied::Refused(Refusal::NoRelease(push)));
    };
    release::hold(txn, &mut sets);
    sets.close(txn)?;
    Ok(Applied::Done)
}

pub(super) fn resume(txn: &mut Txn<'_>, app: AppId, push: PushId) -> Result<Applied, StoreError> {
    let Some(mut sets) = with_plan(txn, app, push)? else {
        return Ok(Applied::Refused(Refusal::NoRelease(push)));
    };
    release::resume(txn, &mut sets)?;
    sets.close(txn)?;
    Ok(Applied::Done)
}

fn with_plan(txn: &Txn<'_>, app: AppId, push: PushId) -> Result<Option<PushSets>, StoreError> {
    let sets = PushSets::open(txn, push)?;
    Ok(sets.filter(|sets| sets.row.app == app && sets.row.release.is_some()))
}

/// Removes a settled push, all but its place in the queue of those.
pub(super) fn remove(txn: &mut Txn<'_>, id: PushId) -> Result<(), StoreError> {
    let Some(push) = PushSets::open(txn, id)? else { return Ok(()) };
    release::remove_waves(txn, &push)?;
    if let AudienceRow::Broad(_) = push.row.audience {
        for key in txn.keys(&keys::set_blocks(id), usize::MAX)? {
            txn.delete(key);
        }
    }
    if let Some(key) = &push.row.idempotency {
        txn.delete(keys::idempotency(push.row.app, key));
    }
    apps::count_bytes(txn, push.row.app, -(push.row.size as i64))?;
    if push.keyed().is_some() {
        // A mark that the leader did not come to: there is nobody left to replace anything for.
        txn.delete(keys::collapse(id));
    }
    txn.delete(keys::payload(id));
    txn.delete(keys::push(id));
    Ok(())
}

/// Moves the counter over what is purged, so that nothing scans over it again.
pub(super) fn find_oldest(txn: &mut Txn<'_>) -> Result<(), StoreError> {
    let next = PushId::new(GROUP, txn.head.last_push + 1);
    let mut oldest = None;
    txn.scan(&keys::push(PushId::new(GROUP, txn.head.oldest_push)), keys::push(next), &mut |key, _| {
        oldest = keys::push_of(key);
        Ok(false)
    })?;
    txn.head.oldest_push = oldest.unwrap_or(next).0;
    Ok(())
}
