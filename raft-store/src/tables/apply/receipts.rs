//! Receipts and steps of QoS 2 exchanges: what edges, and for QoS 0 the leader, witnessed.

use cluster_proto::{
    Outcome, State,
    link::{ExchangeStep, Origin, Receipt},
};

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
        let Some(state) = state(receipt.outcome, &push) else { continue };
        if receipt.outcome == Outcome::NotWritten {
            // Not on this connection, but on the one before it.
            let handed_out = exchanges::handed_out(txn, receipt.push)? & &receipt.terminals.0;
            push.settle(txn, &handed_out, State::Sent)?;
        }
        push.settle(txn, &receipt.terminals.0, state)?;
        push.close(txn);
    }
    // Only edges have connections.
    if let Some(origin) = origin {
        for step in steps {
            exchanges::step(txn, origin, step)?;
        }
    }
    Ok(Applied::Done)
}

/// The state an outcome means. *Not written* of a push that was not withdrawn leaves it pending.
fn state(outcome: Outcome, push: &PushSets) -> Option<State> {
    match outcome {
        Outcome::Delivered => Some(State::Delivered),
        Outcome::Sent => Some(State::Sent),
        Outcome::Dropped(reason) => Some(State::Dropped(reason)),
        Outcome::NotWritten => push.row.withdrawn.map(|why| why.state()),
    }
}
