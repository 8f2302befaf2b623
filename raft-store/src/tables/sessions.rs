//! Sessions of terminals: who holds them, when they end, and what their end settles.

use std::collections::BTreeMap;

use cluster_proto::{
    AppId, DropReason, Incarnation, NodeId, PushId, SessionId, State, TerminalId, TerminalNo, Will,
    link::Origin,
};
use roaring::RoaringBitmap;

use super::{
    apps,
    blocks::by_block,
    db::Read as _,
    error::StoreError,
    exchanges,
    keys::{self, Key},
    numbers, owed,
    push::PushSets,
    subscriptions,
    txn::Txn,
    value::{EdgeRow, OwedValue, SessionRow, Stored as _, TerminalRow, WillState},
    wills,
};
use crate::{Refusal, command::Holder};

/// The session of a holder's terminal before a command.
#[derive(Debug)]
pub(crate) struct Found {
    /// The terminal's number, if it has one.
    pub(crate) no: Option<TerminalNo>,
    /// Its session, if it has one.
    pub(crate) row: Option<SessionRow>,
    /// This very connection holds the session.
    pub(crate) is_own: bool,
}

/// Finds it, unless the holder may not act any more.
pub(crate) fn find(txn: &Txn<'_>, holder: &Holder) -> Result<Result<Found, Refusal>, StoreError> {
    if apps::find(txn, holder.app)?.is_none() {
        return Ok(Err(Refusal::UnknownApp));
    }
    let no = numbers::find(txn, holder.app, &holder.terminal)?;
    let row = no.map(|no| txn.read::<SessionRow>(&keys::session(no))).transpose()?.flatten();
    let same_life =
        row.as_ref().filter(|row| (row.edge, row.incarnation) == (holder.edge, holder.incarnation));
    let is_older = same_life.is_some_and(|row| row.connection > holder.connection);
    if is_older || is_over(txn, holder.edge, holder.incarnation)? {
        return Ok(Err(Refusal::Stale));
    }
    let is_own = same_life.is_some_and(|row| row.connection == holder.connection);
    Ok(Ok(Found { no, row, is_own }))
}

/// The session of a number, if a connection of an edge holds it, or held it last.
pub(crate) fn held(
    txn: &Txn<'_>,
    no: TerminalNo,
    origin: &Origin,
    connection: u64,
) -> Result<Option<SessionRow>, StoreError> {
    let row = txn.read::<SessionRow>(&keys::session(no))?;
    let holder = (origin.edge, origin.incarnation, connection);
    Ok(row.filter(|row| (row.edge, row.incarnation, row.connection) == holder))
}

/// Whether this life of an edge has ended: a session it opened now would never end.
fn is_over(txn: &Txn<'_>, edge: NodeId, incarnation: Incarnation) -> Result<bool, StoreError> {
    let row = txn.read::<EdgeRow>(&keys::edge(edge))?;
    Ok(row.is_some_and(|row| row.incarnation > incarnation || (row.incarnation == incarnation && row.ended)))
}

/// Makes a session for a terminal without one.
pub(crate) fn create(
    txn: &mut Txn<'_>,
    holder: &Holder,
    expiry_s: u32,
) -> Result<(TerminalNo, SessionRow), StoreError> {
    let no = numbers::find_or_lend(txn, holder.app, &holder.terminal)?;
    txn.head.last_session += 1;
    txn.head.sessions += 1;
    let row = SessionRow {
        session: SessionId(txn.head.last_session),
        edge: holder.edge,
        incarnation: holder.incarnation,
        connection: holder.connection,
        expiry_s,
        detached_at_ms: None,
        present: false,
        subscriptions: 0,
        will: WillState::None,
    };
    txn.put(keys::session(no), &row);
    txn.put(keys::edge_session(holder.edge, no), &());
    Ok((no, row))
}

/// A connection takes over a session that was there before it.
pub(crate) fn resume(
    txn: &mut Txn<'_>,
    no: TerminalNo,
    row: &mut SessionRow,
    holder: &Holder,
    expiry_s: u32,
) {
    unindex(txn, no, row);
    (row.edge, row.incarnation, row.connection) = (holder.edge, holder.incarnation, holder.connection);
    row.expiry_s = expiry_s;
    row.detached_at_ms = None;
    txn.put(keys::session(no), row);
    txn.put(keys::edge_session(holder.edge, no), &());
}

/// Its connection ended; it ends later.
pub(crate) fn detach(txn: &mut Txn<'_>, no: TerminalNo, row: &mut SessionRow, expiry_s: u32) {
    unindex(txn, no, row);
    row.expiry_s = expiry_s;
    row.detached_at_ms = Some(txn.now_ms());
    if let Some(ends_at_ms) = row.ends_at_ms() {
        txn.put(keys::session_expiry(ends_at_ms, no), &());
    }
    txn.put(keys::session(no), row);
}

/// Sessions that end, and wills that are published, together with the life of their edge. The others are due at once,
/// and follow a part at a time ([`crate::CommandBody::ExpireSessions`], [`crate::CommandBody::PublishWills`]).
const RELEASED_AT_ONCE_MAX: usize = 1_000;

/// A life of an edge is over, and every earlier one: its sessions without expiry end, the others are detached.
pub(crate) fn release_edge(txn: &mut Txn<'_>, edge: NodeId, upto: Incarnation) -> Result<(), StoreError> {
    let (mut ending, mut wills) = (Vec::new(), Vec::new());
    for key in txn.keys(&keys::edge_sessions(edge), usize::MAX)? {
        let Some(no) = keys::no_of(&key) else { continue };
        match txn.read::<SessionRow>(&keys::session(no))? {
            Some(row) if row.incarnation > upto => {}
            Some(row) if row.expiry_s == 0 && ending.len() < RELEASED_AT_ONCE_MAX => ending.push(no),
            Some(mut row) => {
                let expiry_s = row.expiry_s;
                if expiry_s > 0 {
                    let may_publish = wills.len() < RELEASED_AT_ONCE_MAX;
                    wills.extend(wills::lost(txn, no, &mut row, expiry_s, may_publish)?);
                }
                detach(txn, no, &mut row, expiry_s);
            }
            None => txn.delete(key),
        }
    }
    end(txn, &ending)?;
    wills::publish(txn, wills)
}

/// Ends sessions, settles the topic pushes they were owed, and publishes their wills, for which the end of the session
/// is the end of any delay.
pub(crate) fn end(txn: &mut Txn<'_>, nos: &[TerminalNo]) -> Result<(), StoreError> {
    let wills = end_without_wills(txn, nos)?;
    wills::publish(txn, wills)
}

/// Ends sessions whose terminals are removed: their wills are not published.
pub(crate) fn end_in_silence(txn: &mut Txn<'_>, nos: &[TerminalNo]) -> Result<(), StoreError> {
    end_without_wills(txn, nos).map(drop)
}

fn end_without_wills(txn: &mut Txn<'_>, nos: &[TerminalNo]) -> Result<Vec<Will>, StoreError> {
    let (mut ended, mut wills) = (Vec::new(), Vec::new());
    for no in nos {
        let Some(mut row) = txn.read::<SessionRow>(&keys::session(*no))? else { continue };
        let Some(terminal) = txn.read::<TerminalRow>(&keys::terminal(*no))? else { continue };
        for key in txn.keys(&keys::subscriptions(*no), usize::MAX)? {
            let filter = keys::text_of(&key).ok_or_else(|| StoreError::damaged("subscription key", &key))?;
            ended.extend(subscriptions::remove(txn, terminal.app, *no, filter)?.emptied);
        }
        exchanges::clear(txn, *no)?;
        wills.extend(wills::take(txn, *no, &mut row)?);
        unindex(txn, *no, &row);
        txn.delete(keys::session(*no));
        txn.head.sessions -= 1;
        ended.push(*no);
    }
    retire(txn, &ended)?;
    Ok(wills)
}

/// Settles the topic pushes that sessions or groups without any subscription left are owed, and releases their numbers.
pub(crate) fn retire(txn: &mut Txn<'_>, nos: &[TerminalNo]) -> Result<(), StoreError> {
    let ended: RoaringBitmap = nos.iter().map(|no| no.0).collect();
    settle(txn, &ended, topic_pushes, State::Dropped(DropReason::SessionGone))?;
    for no in &ended {
        numbers::release(txn, TerminalNo(no))?;
    }
    Ok(())
}

/// The number of an id that is being registered, if it was lent one: its session cannot go on under another.
pub(crate) fn end_of_lent(txn: &mut Txn<'_>, app: AppId, id: &TerminalId) -> Result<(), StoreError> {
    match numbers::find(txn, app, id)? {
        Some(no) if !no.is_registered() => end(txn, &[no]),
        _ => Ok(()),
    }
}

/// Removes a session from the indexes that depend on who holds it.
fn unindex(txn: &mut Txn<'_>, no: TerminalNo, row: &SessionRow) {
    match row.ends_at_ms() {
        Some(ends_at_ms) => txn.delete(keys::session_expiry(ends_at_ms, no)),
        None => txn.delete(keys::edge_session(row.edge, no)),
    }
}

/// Settles everything that terminals are owed, in flight or not.
pub(crate) fn settle_owed(
    txn: &mut Txn<'_>,
    terminals: &RoaringBitmap,
    state: State,
) -> Result<(), StoreError> {
    settle(txn, terminals, all_pushes, state)
}

/// Finds pushes of a part of the index of what is owed.
type Find = fn(&Txn<'_>, &Key) -> Result<Vec<PushId>, StoreError>;

fn settle(txn: &mut Txn<'_>, terminals: &RoaringBitmap, find: Find, state: State) -> Result<(), StoreError> {
    let mut pushes = BTreeMap::<PushId, RoaringBitmap>::new();
    for no in terminals {
        let by = [keys::owed_by, keys::owed_broad_by];
        for rows in [true, false].into_iter().flat_map(|urgent| by.map(|by| by(urgent, TerminalNo(no)))) {
            for push in find(txn, &rows)? {
                pushes.entry(push).or_default().insert(no);
            }
        }
    }
    for (block, part) in by_block(terminals) {
        for rows in [true, false].map(|urgent| keys::block_pendings(urgent, block)) {
            for push in find(txn, &rows)? {
                *pushes.entry(push).or_default() |= &part;
            }
        }
    }
    for (push, terminals) in pushes {
        if let Some(mut push) = PushSets::open(txn, push)? {
            push.settle(txn, &terminals, state)?;
            push.close(txn)?;
        }
    }
    Ok(())
}

fn all_pushes(txn: &Txn<'_>, prefix: &Key) -> Result<Vec<PushId>, StoreError> {
    let mut pushes = Vec::new();
    txn.scan_prefix(prefix, &mut |key, bytes| {
        pushes.push(owed::whole_of(key, &OwedValue::decode(key, bytes)?)?);
        Ok(true)
    })?;
    Ok(pushes)
}

/// Topic pushes are owed to the session.
fn topic_pushes(txn: &Txn<'_>, prefix: &Key) -> Result<Vec<PushId>, StoreError> {
    let mut pushes = Vec::new();
    txn.scan_prefix(prefix, &mut |key, bytes| {
        let value = OwedValue::decode(key, bytes)?;
        if value.topic {
            pushes.push(owed::whole_of(key, &value)?);
        }
        Ok(true)
    })?;
    Ok(pushes)
}
