//! Registration and revocation.

use std::collections::BTreeMap;

use cluster_proto::{AppId, TerminalId, TerminalNo};
use roaring::RoaringBitmap;

use super::app_exists;
use crate::{
    Applied, Effect, Refusal,
    command::NewTerminal,
    tables::{
        error::StoreError,
        keys, labels, numbers, sessions,
        txn::Txn,
        value::{AppRow, Labels, TerminalRow},
    },
};

pub(super) fn register(
    txn: &mut Txn<'_>,
    app: AppId,
    terminals: &[NewTerminal],
) -> Result<Applied, StoreError> {
    if !app_exists(txn, app)? {
        return Ok(Applied::Refused(Refusal::UnknownApp));
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
        *txn.set_mut(keys::registered(app, block))? |= added;
    }
    Ok(Applied::Registered { nos, new: count })
}

pub(super) fn revoke(
    txn: &mut Txn<'_>,
    app: AppId,
    terminal: Option<TerminalId>,
    issued_until: u64,
) -> Result<Applied, StoreError> {
    let Some(mut row) = txn.read::<AppRow>(&keys::app(app))? else {
        return Ok(Applied::Refused(Refusal::UnknownApp));
    };
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
