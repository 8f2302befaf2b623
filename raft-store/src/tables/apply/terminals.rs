//! Terminals: registered, changed, revoked, deleted.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{AppId, DropReason, State, TerminalId, TerminalNo, TerminalSet, limits::TAGS_MAX};
use roaring::RoaringBitmap;

use super::app_exists;
use crate::{
    Applied, Effect, Refusal,
    command::{LabelChange, NewTerminal},
    tables::{
        apps,
        blocks::by_block,
        db::Read as _,
        error::StoreError,
        keys, labels, numbers, seen, sessions,
        txn::Txn,
        value::{self, AppRow, Labels, TerminalRow},
    },
};

pub(super) fn register(
    txn: &mut Txn<'_>,
    app: AppId,
    terminals: &[NewTerminal],
) -> Result<Applied, StoreError> {
    let Some(row) = apps::find(txn, app)? else { return Ok(Applied::Refused(Refusal::UnknownApp)) };
    if let Err(refusal) = check_quota(txn, app, &row, terminals)? {
        return Ok(Applied::Refused(refusal));
    }
    let mut nos = Vec::with_capacity(terminals.len());
    let mut new = BTreeMap::<u16, RoaringBitmap>::new();
    for terminal in terminals {
        let known = numbers::find(txn, app, &terminal.id)?.filter(|no| no.is_registered());
        let no = match known {
            Some(no) => update(txn, no, terminal)?,
            None => {
                let no = add(txn, app, terminal)?;
                new.entry(no.block()).or_default().insert(no.0);
                no
            }
        };
        nos.push(no);
    }
    let count = new.values().map(RoaringBitmap::len).sum();
    for (block, added) in new {
        seen::registered(txn, block, &added)?;
        *txn.set_mut(keys::registered(app, block))? |= added;
    }
    apps::count_terminals(txn, app, count as i64)?;
    Ok(Applied::Registered { nos, new: count })
}

/// All of them, or none: a command that would register too many changes nothing.
fn check_quota(
    txn: &Txn<'_>,
    app: AppId,
    row: &AppRow,
    terminals: &[NewTerminal],
) -> Result<Result<(), Refusal>, StoreError> {
    if row.quotas.terminals == 0 {
        return Ok(Ok(()));
    }
    let mut new = BTreeSet::new();
    for terminal in terminals {
        if numbers::find(txn, app, &terminal.id)?.is_none_or(|no| !no.is_registered()) {
            new.insert(&terminal.id);
        }
    }
    apps::check_terminals(txn, app, row, new.len() as u64)
}

/// Changes tags and alias.
pub(super) fn change_labels(
    txn: &mut Txn<'_>,
    app: AppId,
    terminals: &TerminalSet,
    change: &LabelChange,
) -> Result<Applied, StoreError> {
    if !app_exists(txn, app)? {
        return Ok(Applied::Refused(Refusal::UnknownApp));
    }
    let (mut changed, mut full) = (0, 0);
    for no in registered_of(txn, app, terminals)? {
        let Some(row) = txn.read::<TerminalRow>(&keys::terminal(no))? else { continue };
        let labels = changed_by(change, &row.labels);
        if labels.tags.len() > TAGS_MAX && labels.tags.len() > row.labels.tags.len() {
            full += 1;
        } else if labels != row.labels {
            labels::follow(txn, app, no, &row.labels, &labels)?;
            txn.put(keys::terminal(no), &TerminalRow { labels, ..row });
            changed += 1;
        }
    }
    Ok(Applied::Changed { changed, full })
}

/// Deletes terminals with all that is theirs. What remains is until when their credentials are void: an old one must
/// not let anybody in who registers the id again.
pub(super) fn delete(txn: &mut Txn<'_>, app: AppId, terminals: &TerminalSet) -> Result<Applied, StoreError> {
    let Some(row) = apps::find(txn, app)? else { return Ok(Applied::Refused(Refusal::UnknownApp)) };
    let nos = registered_of(txn, app, terminals)?;
    let deleted = remove(txn, app, &nos)?;
    // The largest time any of them may have been issued at: one issued in the second of a revocation is dated after it.
    let mut issued_until = (txn.now_ms() / 1_000).max(row.revoked_until.saturating_add(1));
    for (_, id) in &deleted {
        let before = txn.read::<u64>(&keys::revoked(app, id))?.unwrap_or(0);
        issued_until = issued_until.max(before.saturating_add(1));
    }
    for (_, id) in &deleted {
        txn.put(keys::revoked(app, id), &issued_until);
    }
    let changed = deleted.len() as u64;
    if changed > 0 {
        txn.effects.push(Effect::Deleted { app, terminals: deleted, issued_until });
    }
    Ok(Applied::Changed { changed, full: 0 })
}

/// Removes registered terminals of an app, without their revocations; answers their ids.
pub(super) fn remove(
    txn: &mut Txn<'_>,
    app: AppId,
    nos: &[TerminalNo],
) -> Result<Vec<(TerminalNo, TerminalId)>, StoreError> {
    let set: RoaringBitmap = nos.iter().map(|no| no.0).collect();
    // Before their sessions end, which would settle what they are owed for that reason.
    sessions::settle_owed(txn, &set, State::Dropped(DropReason::TerminalDeleted))?;
    sessions::end_in_silence(txn, nos)?;
    let mut removed = Vec::with_capacity(nos.len());
    for no in nos {
        let Some(row) = txn.read::<TerminalRow>(&keys::terminal(*no))? else { continue };
        labels::follow(txn, app, *no, &row.labels, &Labels::default())?;
        txn.delete(keys::terminal_id(app, &row.id));
        txn.delete(keys::terminal(*no));
        removed.push((*no, row.id));
    }
    for (block, part) in by_block(&set) {
        *txn.set_mut(keys::registered(app, block))? -= part;
    }
    apps::count_terminals(txn, app, -(removed.len() as i64))?;
    Ok(removed)
}

/// Those of a set that are registered in the app, ascending.
fn registered_of(txn: &Txn<'_>, app: AppId, terminals: &TerminalSet) -> Result<Vec<TerminalNo>, StoreError> {
    let mut nos = Vec::new();
    for (block, part) in by_block(&terminals.0) {
        let key = keys::registered(app, block);
        if let Some(bytes) = txn.get(&key)? {
            nos.extend((part & value::decode_set(&key, &bytes)?).iter().map(TerminalNo));
        }
    }
    Ok(nos)
}

/// What a change makes of labels.
fn changed_by(change: &LabelChange, before: &Labels) -> Labels {
    let mut tags: BTreeMap<String, String> = before.tags.iter().cloned().collect();
    change.remove.iter().for_each(|key| drop(tags.remove(key)));
    tags.extend(change.set.iter().cloned());
    let alias = match &change.alias {
        Some(alias) => Some(alias.clone()).filter(|alias| !alias.is_empty()),
        None => before.alias.clone(),
    };
    Labels { tags: tags.into_iter().collect(), alias }
}

pub(super) fn record_seen(
    txn: &mut Txn<'_>,
    day: u32,
    terminals: &TerminalSet,
) -> Result<Applied, StoreError> {
    seen::record(txn, day, terminals)?;
    Ok(Applied::Done)
}

pub(super) fn revoke(
    txn: &mut Txn<'_>,
    app: AppId,
    terminal: Option<TerminalId>,
    issued_until: u64,
) -> Result<Applied, StoreError> {
    let Some(mut row) = apps::find(txn, app)? else { return Ok(Applied::Refused(Refusal::UnknownApp)) };
    match &terminal {
        Some(id) => {
            let key = keys::revoked(app, id);
            let until = txn.read::<u64>(&key)?.unwrap_or(0).max(issued_until);
            txn.put(key, &until);
        }
        None => {
            row.revoked_until = row.revoked_until.max(issued_until);
            txn.put(keys::app(app), &row);
        }
    }
    txn.effects.push(Effect::Revoked { app, terminal, issued_until });
    Ok(Applied::Done)
}

fn add(txn: &mut Txn<'_>, app: AppId, terminal: &NewTerminal) -> Result<TerminalNo, StoreError> {
    sessions::end_of_lent(txn, app, &terminal.id)?;
    let labels = given(terminal, &Labels::default());
    let no = numbers::register(txn, app, &terminal.id, labels.clone());
    labels::follow(txn, app, no, &Labels::default(), &labels)?;
    Ok(no)
}

fn update(txn: &mut Txn<'_>, no: TerminalNo, terminal: &NewTerminal) -> Result<TerminalNo, StoreError> {
    if let Some(row) = txn.read::<TerminalRow>(&keys::terminal(no))? {
        let labels = given(terminal, &row.labels);
        if labels != row.labels {
            labels::follow(txn, row.app, no, &row.labels, &labels)?;
            txn.put(keys::terminal(no), &TerminalRow { labels, ..row });
        }
    }
    Ok(no)
}

/// The labels a command gives; what it does not mention stays.
fn given(terminal: &NewTerminal, before: &Labels) -> Labels {
    let Labels { tags, alias } = before.clone();
    Labels {
        tags: terminal.tags.clone().unwrap_or(tags),
        alias: terminal.alias.clone().map_or(alias, |alias| Some(alias).filter(|alias| !alias.is_empty())),
    }
}
