//! Receipts: what edges, and for QoS 0 the leader, witnessed.

use cluster_proto::{Outcome, State, link::Receipt};

use crate::{
    Applied,
    tables::{error::StoreError, push::PushSets, txn::Txn},
};

pub(super) fn record(txn: &mut Txn<'_>, items: &[Receipt]) -> Result<Applied, StoreError> {
    for receipt in items {
        // Purged: nobody asks any more.
        let Some(mut push) = PushSets::open(txn, receipt.push)? else { continue };
        let Some(state) = state(receipt.outcome, &push) else { continue };
        push.settle(txn, &receipt.terminals.0, state)?;
        push.close(txn);
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
