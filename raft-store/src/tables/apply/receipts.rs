//! Receipts and steps of QoS 2 exchanges: what edges, and for QoS 0 the leader, witnessed.

use cluster_proto::{
    Outcome, State,
    link::{ExchangeStep, Origin, Receipt},
};
use roaring::RoaringBitmap;

use crate::{
    Applied,
    tables::{error::StoreError, exchanges, push::PushSets, txn::Txn},
};

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
            None if !not_written(txn, &mut push, &receipt.terminals.0)? => continue,
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
fn not_written(
    txn: &mut Txn<'_>,
    push: &mut PushSets,
    terminals: &RoaringBitmap,
) -> Result<bool, StoreError> {
    let replaced = push.collapsing(txn)? & terminals;
    let decided = if push.row.withdrawn.is_some() { terminals.clone() } else { replaced.clone() };
    if decided.is_empty() {
        return Ok(false);
    }
    // Not on this connection, but on the one before it.
    let handed_out = exchanges::handed_out(txn, push.id)? & &decided;
    push.settle(txn, &handed_out, State::Sent)?;
    push.settle(txn, &replaced, State::Collapsed)?;
    if let Some(why) = push.row.withdrawn {
        push.settle(txn, &decided, why.state())?;
    }
    Ok(true)
}
