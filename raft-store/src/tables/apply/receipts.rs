//! Receipts and steps of QoS 2 exchanges: what edges, and for QoS 0 the leader, witnessed.

use crate::{
    Applied,
    tables::{
        db::Read as _,
        error::StoreError,
        exchanges, keys,
        push::PushSets,
        receipts,
        txn::Txn,
        value::{ReceiptCount, Stored as _},
    },
};
use cluster_proto::{
    Outcome, State,
    link::{ExchangeStep, Origin, Receipt},
};

/// Bytes of deltas removed by one command: they are read for it.
const PURGE_LEN_MAX: u64 = 8 * 1024 * 1024;

pub(super) fn record(
    txn: &mut Txn<'_>,
    origin: Option<&Origin>,
    items: &[Receipt],
    steps: &[ExchangeStep],
) -> Result<Applied, StoreError> {
    for receipt in items {
        // Purged: nobody asks any more.
        let Some(mut push) = PushSets::open(txn, receipt.push)? else { continue };
        match state(receipt.outcome) {
            Some(state) => push.settle(txn, &receipt.terminals.0, state)?,
            None if !not_written(txn, &mut push, receipt)? => continue,
            None => {}
        }
        push.close(txn)?;
    }
    // Only edges have connections.
    if let Some(origin) = origin {
        for step in steps {
            exchanges::step(txn, origin, step)?;
        }
    }
    Ok(Applied::Done)
}

/// The state an outcome means, where that does not depend on the push.
fn state(outcome: Outcome) -> Option<State> {
    match outcome {
        Outcome::Delivered => Some(State::Delivered),
        Outcome::Sent => Some(State::Sent),
        Outcome::Dropped(reason) => Some(State::Dropped(reason)),
        Outcome::NotWritten => None,
    }
}

/// *Not written* of a push that is neither withdrawn nor replaced for the terminal leaves it pending: then nothing
/// changes.
fn not_written(txn: &mut Txn<'_>, push: &mut PushSets, receipt: &Receipt) -> Result<bool, StoreError> {
    let terminals = &receipt.terminals.0;
    let replaced = push.collapsing(txn)? & terminals;
    let decided = if push.row.withdrawn.is_some() { terminals.clone() } else { replaced.clone() };
    if decided.is_empty() {
        return Ok(false);
    }
    // Not on this connection, but on the one before it.
    let handed_out = exchanges::handed_out(txn, receipt.push)? & &decided;
    push.settle(txn, &handed_out, State::Sent)?;
    push.settle(txn, &replaced, State::Collapsed)?;
    if let Some(why) = push.row.withdrawn {
        push.settle(txn, &decided, why.state())?;
    }
    Ok(true)
}

/// Removes the oldest deltas of streams that are too old or too many.
pub(super) fn purge(
    txn: &mut Txn<'_>,
    before_ms: u64,
    bytes_max: u64,
    limit: u32,
) -> Result<Applied, StoreError> {
    let is_due =
        |count: &ReceiptCount| count.rows > 0 && (count.first_at_ms < before_ms || count.bytes > bytes_max);
    let mut due = Vec::new();
    txn.scan_prefix(&keys::receipt_counts(), &mut |key, bytes| {
        let count = ReceiptCount::decode(key, bytes)?;
        let app = keys::app_of(key).ok_or_else(|| StoreError::damaged("receipt count key", key))?;
        due.extend(is_due(&count).then_some((app, count)));
        Ok(true)
    })?;
    let (mut rows_left, mut len_left) = (limit, PURGE_LEN_MAX);
    for (app, mut count) in due {
        let (mut removed, mut first_at_ms) = (Vec::new(), None);
        let begin = keys::receipts(app, count.begin.0, count.begin.1);
        txn.scan(&begin, keys::prefix_end(&keys::receipts_of(app)), &mut |key, bytes| {
            count.first_at_ms = receipts::time_of(key, bytes)?;
            if rows_left == 0 || len_left == 0 || !is_due(&count) {
                first_at_ms = Some(count.first_at_ms);
                return Ok(false);
            }
            let (index, part) =
                keys::receipts_place_of(key).ok_or_else(|| StoreError::damaged("receipts key", key))?;
            let len = receipts::row_len(key, bytes);
            (count.begin, count.rows) = ((index, part + 1), count.rows - 1);
            count.bytes = count.bytes.saturating_sub(len);
            (rows_left, len_left) = (rows_left - 1, len_left.saturating_sub(len));
            removed.push(key.to_vec());
            Ok(true)
        })?;
        match first_at_ms {
            Some(first_at_ms) => count.first_at_ms = first_at_ms,
            // Whatever was counted: nothing is left.
            None => (count.first_at_ms, count.rows, count.bytes) = (0, 0, 0),
        }
        removed.into_iter().for_each(|key| txn.delete(key));
        txn.put(keys::receipt_count(app), &count);
    }
    Ok(Applied::Done)
}
