//! Terminal numbers. Registered terminals have dense ones from 1, for good. Clients that are not registered are
//! lent one when they first need it, which is with a session, and so are shared subscription groups; it can be lent to
//! another when the session or group has ended and every push accepted before that end is purged, because no set can
//! name it then.

use cluster_proto::{AppId, PushId, TerminalId, TerminalNo};

use super::{
    GROUP,
    db::Read as _,
    error::StoreError,
    keys,
    txn::Txn,
    value::{Labels, TerminalRow},
};

/// The number of a terminal, registered or lent.
pub(crate) fn find(txn: &Txn<'_>, app: AppId, id: &TerminalId) -> Result<Option<TerminalNo>, StoreError> {
    txn.read(&keys::terminal_id(app, id))
}

/// Gives the next registered number.
pub(crate) fn register(txn: &mut Txn<'_>, app: AppId, id: &TerminalId, labels: Labels) -> TerminalNo {
    txn.head.last_registered += 1;
    let no = TerminalNo(txn.head.last_registered);
    debug_assert!(no.is_registered(), "more than 2^31 terminals");
    insert(txn, app, id, no, labels);
    no
}

/// The number of a client that needs one: its own, or one lent to it.
pub(crate) fn find_or_lend(txn: &mut Txn<'_>, app: AppId, id: &TerminalId) -> Result<TerminalNo, StoreError> {
    if let Some(no) = find(txn, app, id)? {
        keep(txn, no)?;
        return Ok(no);
    }
    let no = lend(txn)?;
    insert(txn, app, id, no, Labels::default());
    Ok(no)
}

/// A number of nobody's.
pub(crate) fn lend(txn: &mut Txn<'_>) -> Result<TerminalNo, StoreError> {
    let returned = txn.keys(&keys::lent_free_all(), 1)?.first().and_then(|key| keys::no_of(key));
    Ok(match returned {
        Some(no) => {
            txn.delete(keys::lent_free(no));
            no
        }
        None => {
            let no = TerminalNo(TerminalNo::UNREGISTERED_FIRST.0 + txn.head.lent);
            txn.head.lent += 1;
            no
        }
    })
}

/// What a number that is not a terminal's is shown as; no terminal is found by that id.
pub(crate) fn insert_unnamed(txn: &mut Txn<'_>, app: AppId, shown: &TerminalId, no: TerminalNo) {
    put_row(txn, app, shown, no, Labels::default());
}

/// Its session or group ended: a lent number waits for the pushes that may name it.
pub(crate) fn release(txn: &mut Txn<'_>, no: TerminalNo) -> Result<(), StoreError> {
    if no.is_registered() {
        return Ok(());
    }
    if txn.head.oldest_push > txn.head.last_push {
        return give_back(txn, no);
    }
    if let Some(mut row) = txn.read::<TerminalRow>(&keys::terminal(no))? {
        let upto = PushId::new(GROUP, txn.head.last_push);
        row.waits_for = Some(upto);
        txn.put(keys::terminal(no), &row);
        txn.put(keys::lent_waiting(upto, no), &());
    }
    Ok(())
}

/// Gives back numbers whose pushes are purged, at most `limit`.
pub(crate) fn give_back_purged(txn: &mut Txn<'_>, limit: usize) -> Result<(), StoreError> {
    let oldest = PushId::new(GROUP, txn.head.oldest_push);
    let mut purged = Vec::new();
    txn.scan(&keys::lent_waiting_all(), keys::lent_waiting(oldest, TerminalNo(0)), &mut |key, _| {
        purged.push(key.to_vec());
        Ok(purged.len() < limit)
    })?;
    for key in purged {
        if let Some(no) = keys::no_of(&key) {
            give_back(txn, no)?;
        }
        txn.delete(key);
    }
    Ok(())
}

/// A lent number that waits, and that no push can name any more: its app is removed, with all its pushes.
pub(crate) fn give_back_waiting(txn: &mut Txn<'_>, upto: PushId, no: TerminalNo) -> Result<(), StoreError> {
    txn.delete(keys::lent_waiting(upto, no));
    give_back(txn, no)
}

fn insert(txn: &mut Txn<'_>, app: AppId, id: &TerminalId, no: TerminalNo, labels: Labels) {
    txn.put(keys::terminal_id(app, id), &no);
    put_row(txn, app, id, no, labels);
}

fn put_row(txn: &mut Txn<'_>, app: AppId, id: &TerminalId, no: TerminalNo, labels: Labels) {
    let registered_at_ms = txn.now_ms();
    let row = TerminalRow { app, id: id.clone(), labels, registered_at_ms, waits_for: None };
    txn.put(keys::terminal(no), &row);
}

/// A number that waits to be given back is used again.
fn keep(txn: &mut Txn<'_>, no: TerminalNo) -> Result<(), StoreError> {
    let Some(mut row) = txn.read::<TerminalRow>(&keys::terminal(no))? else { return Ok(()) };
    if let Some(upto) = row.waits_for.take() {
        txn.delete(keys::lent_waiting(upto, no));
        txn.put(keys::terminal(no), &row);
    }
    Ok(())
}

fn give_back(txn: &mut Txn<'_>, no: TerminalNo) -> Result<(), StoreError> {
    if let Some(row) = txn.read::<TerminalRow>(&keys::terminal(no))? {
        // Unless it was registered in the meantime, under another number, or is a group's and never was its.
        if find(txn, row.app, &row.id)? == Some(no) {
            txn.delete(keys::terminal_id(row.app, &row.id));
        }
        txn.delete(keys::terminal(no));
        txn.put(keys::lent_free(no), &());
    }
    Ok(())
}
