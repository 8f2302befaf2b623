//! Apps, how much they have, and how much they may have.

use cluster_proto::AppId;

use super::{
    db::{Read, read},
    error::StoreError,
    keys, retained,
    txn::Txn,
    value::{AppCount, AppRow},
};
use crate::Refusal;

/// An app, unless it is deleted.
pub(crate) fn find(tables: &impl Read, app: AppId) -> Result<Option<AppRow>, StoreError> {
    Ok(read::<AppRow>(tables, &keys::app(app))?.filter(|row| row.removal.is_none()))
}

/// The app of a name, unless it is deleted.
pub(crate) fn by_name(tables: &impl Read, name: &str) -> Result<Option<AppId>, StoreError> {
    let Some(app) = read::<AppId>(tables, &keys::app_name(name))? else { return Ok(None) };
    Ok(find(tables, app)?.map(|_| app))
}

/// How much it has.
pub(crate) fn count(tables: &impl Read, app: AppId) -> Result<AppCount, StoreError> {
    Ok(read(tables, &keys::app_count(app))?.unwrap_or_default())
}

/// It has more terminals, or fewer.
pub(crate) fn count_terminals(txn: &mut Txn<'_>, app: AppId, by: i64) -> Result<(), StoreError> {
    change(txn, app, |count| count.terminals = count.terminals.saturating_add_signed(by), by)
}

/// It stores more bytes of pushes, or fewer.
pub(crate) fn count_bytes(txn: &mut Txn<'_>, app: AppId, by: i64) -> Result<(), StoreError> {
    change(txn, app, |count| count.bytes = count.bytes.saturating_add_signed(by), by)
}

fn change(
    txn: &mut Txn<'_>,
    app: AppId,
    change: impl FnOnce(&mut AppCount),
    by: i64,
) -> Result<(), StoreError> {
    if by == 0 {
        return Ok(());
    }
    let mut count = count(txn, app)?;
    change(&mut count);
    let key = keys::app_count(app);
    // An app that is removed leaves nothing.
    if count == AppCount::default() {
        txn.delete(key);
    } else {
        txn.put(key, &count);
    }
    Ok(())
}

/// Refuses terminals beyond what the app may have.
pub(crate) fn check_terminals(
    tables: &impl Read,
    app: AppId,
    row: &AppRow,
    new: u64,
) -> Result<Result<(), Refusal>, StoreError> {
    let most = row.quotas.terminals;
    if most == 0 || new == 0 || count(tables, app)?.terminals.saturating_add(new) <= most {
        return Ok(Ok(()));
    }
    Ok(Err(Refusal::TerminalQuota(most)))
}

/// Refuses bytes beyond what the app may store: `retained` is what its retained messages would have, absent: what they
/// have.
pub(crate) fn check_stored(
    tables: &impl Read,
    app: AppId,
    row: &AppRow,
    of_push: u64,
    retained: Option<u64>,
) -> Result<Result<(), Refusal>, StoreError> {
    let most = row.quotas.stored_bytes;
    if most == 0 {
        return Ok(Ok(()));
    }
    let retained = match retained {
        Some(bytes) => bytes,
        None => retained::count(tables, app)?.bytes,
    };
    let all = count(tables, app)?.bytes.saturating_add(of_push).saturating_add(retained);
    Ok(if all <= most { Ok(()) } else { Err(Refusal::StoredQuota(most)) })
}
