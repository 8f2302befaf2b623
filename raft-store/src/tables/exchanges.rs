//! What a session goes on with when its terminal connects again: outbound deliveries under way, and inbound QoS 2
//! packet ids that are not released (MQTT section 4.1.0, "Session state").
//!
//! A delivery with QoS 2 is here from its first PUBLISH to PUBCOMP, step by step ([`Step`]). One with QoS 1 is here
//! when its connection ended in order and it was not acknowledged: it is sent again with its packet id
//! ([MQTT-4.4.0-1]). What an edge had in flight when it was lost comes again as owed, with a new packet id.
//!
//! What is begun or sent was handed out: should its push be taken back while nobody holds it, that is what its status says
//! ([`handed_out`]).
//!
//! *Order.* The steps of a connection travel in a lane of their own, so they may be applied after the end of their
//! connection, never after another connection took the session over: then they are void. Hence what a detached
//! session has as [`OutboundStage::Sent`] is newer than any step that may still come.

use cluster_proto::{
    PushId, TerminalNo,
    link::{ExchangeStep, Inbound, Origin, Outbound, OutboundStage, Step, Unacknowledged},
};
use roaring::RoaringBitmap;

use super::{
    db::{Read, read},
    error::StoreError,
    keys,
    push::PushSets,
    retained, sessions,
    txn::Txn,
    value::{InboundRow, OutboundRow, Stored as _, Withdrawn},
};

/// Applies a step of a connection that still holds its session, or held it last.
pub(crate) fn step(txn: &mut Txn<'_>, origin: &Origin, step: &ExchangeStep) -> Result<(), StoreError> {
    let Some(session) = sessions::held(txn, step.no, origin, step.connection)? else { return Ok(()) };
    let before = row(txn, step.no, step.packet_id)?;
    let is_sent = before.as_ref().is_some_and(|row| row.stage == OutboundStage::Sent);
    if is_sent && session.detached_at_ms.is_some() {
        return Ok(());
    }
    match (step.step, before) {
        (Step::Begin { push, target }, _) => {
            put(txn, step.no, step.packet_id, push, target, OutboundStage::Begun)?;
        }
        (Step::Receive, Some(OutboundRow { push, target, stage: OutboundStage::Begun, .. })) => {
            put(txn, step.no, step.packet_id, push, target, OutboundStage::Received)?;
        }
        (Step::Complete, Some(row)) if !is_sent => delete(txn, step.no, step.packet_id, &row),
        (Step::Receive | Step::Complete, _) => {}
    }
    Ok(())
}

/// The connection ended in order: what it had not got acknowledged takes the place of what an earlier one had not.
pub(crate) fn leave(
    txn: &mut Txn<'_>,
    no: TerminalNo,
    unacknowledged: &[Unacknowledged],
) -> Result<(), StoreError> {
    let mut sent = Vec::new();
    txn.scan_prefix(&keys::outbounds(no), &mut |key, bytes| {
        let row = OutboundRow::decode(key, bytes)?;
        if row.stage == OutboundStage::Sent {
            sent.push((packet_id_of(key)?, row));
        }
        Ok(true)
    })?;
    for (packet_id, row) in sent {
        delete(txn, no, packet_id, &row);
    }
    for delivery in unacknowledged {
        put_sent(txn, no, delivery)?;
    }
    Ok(())
}

/// A connection takes the session over; `unacknowledged` is of the one it replaces. Rows stay until the next end of a
/// connection, so that the same CONNECT again is answered the same: `is_own`, and then the connection's own steps stand.
pub(crate) fn take_over(
    txn: &mut Txn<'_>,
    no: TerminalNo,
    unacknowledged: &[Unacknowledged],
    is_own: bool,
) -> Result<(), StoreError> {
    for delivery in unacknowledged {
        if !is_own || row(txn, no, delivery.packet_id)?.is_none() {
            put_sent(txn, no, delivery)?;
        }
    }
    Ok(())
}

/// A push that a member has for its group goes to another member instead: nobody knows when this one comes back.
fn put_sent(txn: &mut Txn<'_>, no: TerminalNo, delivery: &Unacknowledged) -> Result<(), StoreError> {
    let Unacknowledged { packet_id, push, target } = *delivery;
    if target != no {
        return Ok(());
    }
    let is_same = |row: &OutboundRow| (row.push, row.stage) == (push, OutboundStage::Sent);
    if !row(txn, no, packet_id)?.as_ref().is_some_and(is_same) {
        put(txn, no, packet_id, push, target, OutboundStage::Sent)?;
    }
    Ok(())
}

fn row(txn: &Txn<'_>, no: TerminalNo, packet_id: u16) -> Result<Option<OutboundRow>, StoreError> {
    txn.read(&keys::outbound(no, packet_id))
}

fn put(
    txn: &mut Txn<'_>,
    no: TerminalNo,
    packet_id: u16,
    push: PushId,
    target: TerminalNo,
    stage: OutboundStage,
) -> Result<(), StoreError> {
    if let Some(before) = row(txn, no, packet_id)? {
        delete(txn, no, packet_id, &before);
    }
    let order = next_order(txn);
    txn.put(keys::outbound(no, packet_id), &OutboundRow { push, target, stage, order });
    if stage != OutboundStage::Received && !push.is_retained() {
        txn.put(keys::handed_out(push, target, no, packet_id), &());
    }
    Ok(())
}

fn delete(txn: &mut Txn<'_>, no: TerminalNo, packet_id: u16, row: &OutboundRow) {
    txn.delete(keys::outbound(no, packet_id));
    if row.stage != OutboundStage::Received && !row.push.is_retained() {
        txn.delete(keys::handed_out(row.push, row.target, no, packet_id));
    }
}

/// Targets of `push` that a connection handed it to, and whose session goes on with it.
pub(crate) fn handed_out(tables: &impl Read, push: PushId) -> Result<RoaringBitmap, StoreError> {
    let mut targets = RoaringBitmap::new();
    tables.scan_prefix(&keys::all_handed_out(push), &mut |key, _| {
        targets.extend(keys::handed_out_target_of(key).map(|no| no.0));
        Ok(true)
    })?;
    Ok(targets)
}

/// Outbound deliveries a session goes on with, as [`crate::Applied::Session`] orders them.
pub(crate) fn outbound(tables: &impl Read, no: TerminalNo) -> Result<Vec<Outbound>, StoreError> {
    let mut rows = Vec::new();
    tables.scan_prefix(&keys::outbounds(no), &mut |key, bytes| {
        let packet_id = packet_id_of(key)?;
        rows.push((packet_id, OutboundRow::decode(key, bytes)?));
        Ok(true)
    })?;
    rows.sort_unstable_by_key(|(_, row)| row.order);
    let (mut received, mut sent, mut begun) = (Vec::new(), Vec::new(), Vec::new());
    for (packet_id, row) in rows {
        if row.push.is_retained() {
            let OutboundRow { push, target, stage, .. } = row;
            let kept = retained::by_id(tables, push)?;
            let expires_at_ms = kept.as_ref().and_then(|kept| kept.expires_at_ms);
            let delivery = Outbound { packet_id, push, target, stage, expires_at_ms };
            match stage {
                OutboundStage::Received => received.push(delivery),
                OutboundStage::Begun => begun.push(delivery),
                // Replaced meanwhile: that came live.
                OutboundStage::Sent => sent.extend(kept.map(|_| delivery)),
            }
            continue;
        }
        let push = PushSets::open(tables, row.push)?;
        let expires_at_ms = Some(push.as_ref().map_or(0, |push| push.row.expires_at_ms));
        let OutboundRow { push: id, target, stage, .. } = row;
        // Recalled: its exchange ends without it, as if PUBREC had come.
        let recalled = push.as_ref().is_some_and(|push| push.row.withdrawn == Some(Withdrawn::Cancelled));
        let stage = if stage == OutboundStage::Begun && recalled { OutboundStage::Received } else { stage };
        let delivery = Outbound { packet_id, push: id, target, stage, expires_at_ms };
        match stage {
            OutboundStage::Received => received.push(delivery),
            OutboundStage::Begun => begun.push(delivery),
            OutboundStage::Sent => {
                // Settled meanwhile (its receipt, an expiry): there is nothing to send again.
                if let Some(push) = push
                    && push.is_pending(tables, target)?
                {
                    sent.push(delivery);
                }
            }
        }
    }
    received.extend(merge(sent, begun));
    Ok(received)
}

/// Each keeps its order. Between them push ids decide, which is the order of dispatch.
fn merge(left: Vec<Outbound>, right: Vec<Outbound>) -> Vec<Outbound> {
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    let mut merged = Vec::with_capacity(left.len() + right.len());
    loop {
        let from_left = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) => a.push <= b.push,
            (Some(_), None) => true,
            (None, _) => false,
        };
        match if from_left { left.next() } else { right.next() } {
            Some(delivery) => merged.push(delivery),
            None => return merged,
        }
    }
}

/// Inbound QoS 2 packet ids that are not released, ascending.
pub(crate) fn inbound(tables: &impl Read, no: TerminalNo) -> Result<Vec<u16>, StoreError> {
    tables.keys(&keys::inbounds(no), usize::MAX)?.iter().map(|key| packet_id_of(key)).collect()
}

/// What a QoS 2 PUBLISH was answered when it came first.
pub(crate) fn accepted(tables: &impl Read, exchange: &Inbound) -> Result<Option<InboundRow>, StoreError> {
    read(tables, &keys::inbound(exchange.no, exchange.packet_id))
}

/// Remembers a QoS 2 PUBLISH until its PUBREL.
pub(crate) fn accept(txn: &mut Txn<'_>, exchange: &Inbound, row: &InboundRow) {
    txn.put(keys::inbound(exchange.no, exchange.packet_id), row);
}

/// PUBREL. Of a connection that does not hold the session any more it is void: the terminal sends it again.
pub(crate) fn release(txn: &mut Txn<'_>, origin: &Origin, exchange: &Inbound) -> Result<(), StoreError> {
    if sessions::held(txn, exchange.no, origin, exchange.connection)?.is_some() {
        let key = keys::inbound(exchange.no, exchange.packet_id);
        if txn.get(&key)?.is_some() {
            txn.delete(key);
        }
    }
    Ok(())
}

/// The session ends.
pub(crate) fn clear(txn: &mut Txn<'_>, no: TerminalNo) -> Result<(), StoreError> {
    let mut outbound = Vec::new();
    txn.scan_prefix(&keys::outbounds(no), &mut |key, bytes| {
        outbound.push((packet_id_of(key)?, OutboundRow::decode(key, bytes)?));
        Ok(true)
    })?;
    for (packet_id, row) in outbound {
        delete(txn, no, packet_id, &row);
    }
    for key in txn.keys(&keys::inbounds(no), usize::MAX)? {
        txn.delete(key);
    }
    Ok(())
}

fn next_order(txn: &mut Txn<'_>) -> u64 {
    txn.head.steps += 1;
    txn.head.steps
}

fn packet_id_of(key: &[u8]) -> Result<u16, StoreError> {
    keys::packet_id_of(key).ok_or_else(|| StoreError::damaged("exchange key", key))
}
