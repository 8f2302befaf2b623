//! What a session goes on with when its terminal connects again: outbound deliveries under way, and inbound QoS 2
//! packet ids that are not released (MQTT section 4.1.0, "Session state").
//!
//! A delivery with QoS 2 is here from its first PUBLISH to PUBCOMP, step by step ([`Step`]). One with QoS 1 is here
//! when its connection ended in order and it was not acknowledged: it is sent again with its packet id
//! ([MQTT-4.4.0-1]). What an edge had in flight when it was lost comes again as owed, with a new packet id.
//!
//! *Order.* The steps of a connection travel in a lane of their own, so they may be applied after the end of their
//! connection, never after another connection took the session over: then they are void. Hence what a detached
//! session has as [`OutboundStage::Sent`] is newer than any step that may still come.

use cluster_proto::{
    TerminalNo,
    link::{ExchangeStep, Inbound, Origin, Outbound, OutboundStage, Step, Unacknowledged},
};

use super::{
    db::{Read, read},
    error::StoreError,
    keys,
    push::PushSets,
    sessions,
    txn::Txn,
    value::{InboundRow, OutboundRow, Stored as _},
};

/// Applies a step of a connection that still holds its session, or held it last.
pub(crate) fn step(txn: &mut Txn<'_>, origin: &Origin, step: &ExchangeStep) -> Result<(), StoreError> {
    let Some(session) = sessions::held(txn, step.no, origin, step.connection)? else { return Ok(()) };
    let key = keys::outbound(step.no, step.packet_id);
    let before = txn.read::<OutboundRow>(&key)?;
    let is_sent = before.as_ref().is_some_and(|row| row.stage == OutboundStage::Sent);
    if is_sent && session.detached_at_ms.is_some() {
        return Ok(());
    }
    match (step.step, before) {
        (Step::Begin { push, target }, _) => {
            let order = next_order(txn);
            txn.put(key, &OutboundRow { push, target, stage: OutboundStage::Begun, order });
        }
        (Step::Receive, Some(row)) if row.stage == OutboundStage::Begun => {
            let order = next_order(txn);
            txn.put(key, &OutboundRow { stage: OutboundStage::Received, order, ..row });
        }
        (Step::Complete, Some(_)) if !is_sent => txn.delete(key),
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
        if OutboundRow::decode(key, bytes)?.stage == OutboundStage::Sent {
            sent.push(key.to_vec());
        }
        Ok(true)
    })?;
    for key in sent {
        txn.delete(key);
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
        if !is_own || txn.get(&keys::outbound(no, delivery.packet_id))?.is_none() {
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
    let key = keys::outbound(no, packet_id);
    let is_same = |row: &OutboundRow| (row.push, row.stage) == (push, OutboundStage::Sent);
    if !txn.read::<OutboundRow>(&key)?.as_ref().is_some_and(is_same) {
        let order = next_order(txn);
        txn.put(key, &OutboundRow { push, target, stage: OutboundStage::Sent, order });
    }
    Ok(())
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
        let push = PushSets::open(tables, row.push)?;
        let expires_at_ms = push.as_ref().map_or(0, |push| push.row.expires_at_ms);
        let OutboundRow { push: id, target, stage, .. } = row;
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
    for key in txn.keys(&keys::exchanges(no), usize::MAX)? {
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
