//! Audiences of a few terminals: a state byte for each in the push's row, and an owed row for each pending one.

use cluster_proto::{PushId, State, TerminalNo};
use roaring::RoaringBitmap;

use super::{
    collapse::Keyed,
    keys, owed,
    txn::Txn,
    value::{OVER_QUOTA, OwedValue, SmallTarget},
};
use crate::tables::error::StoreError;

/// What its rows are found by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of<'a> {
    pub(crate) push: PushId,
    pub(crate) urgent: bool,
    pub(crate) keyed: Option<Keyed<'a>>,
}

/// Makes the targets of a new push. Those who are owed too much already settle at once.
pub(crate) fn accept(
    txn: &mut Txn<'_>,
    Of { push, urgent, keyed }: Of<'_>,
    audience: &RoaringBitmap,
    qos0: &RoaringBitmap,
    value: OwedValue,
) -> Result<Vec<SmallTarget>, StoreError> {
    let mut targets = Vec::with_capacity(audience.len() as usize);
    for no in audience {
        let (terminal, qos0) = (TerminalNo(no), qos0.contains(no));
        let state = if owed::is_over_quota(txn, terminal)? { OVER_QUOTA } else { State::Pending };
        if state == State::Pending {
            owed::insert(txn, urgent, terminal, push, OwedValue { qos0, ..value });
            keyed.into_iter().for_each(|keyed| keyed.insert(txn, terminal, push));
        }
        targets.push(SmallTarget { no, qos0, state: state.code() });
    }
    Ok(targets)
}

pub(crate) fn settle(
    txn: &mut Txn<'_>,
    Of { push, urgent, keyed }: Of<'_>,
    targets: &mut [SmallTarget],
    terminals: &RoaringBitmap,
    state: State,
) {
    for target in targets.iter_mut().filter(|target| terminals.contains(target.no)) {
        // A state of a newer version is final.
        let Some(before) = State::from_code(target.state).filter(|before| before.may_become(state)) else {
            continue;
        };
        target.state = state.code();
        if before == State::Pending {
            owed::remove(txn, urgent, TerminalNo(target.no), push);
            keyed.into_iter().for_each(|keyed| keyed.remove(txn, TerminalNo(target.no), push));
        }
    }
}

pub(crate) fn withdraw(
    txn: &mut Txn<'_>,
    of: Of<'_>,
    targets: &mut [SmallTarget],
    in_flight: &RoaringBitmap,
    value: OwedValue,
    state: State,
) {
    let pending = in_state(targets, State::Pending);
    settle(txn, of, targets, &(&pending - in_flight), state);
    pass_over(txn, of, targets, &pending, value);
}

/// Writes `value` to those of `terminals` that are still pending.
pub(crate) fn pass_over(
    txn: &mut Txn<'_>,
    Of { push, urgent, .. }: Of<'_>,
    targets: &[SmallTarget],
    terminals: &RoaringBitmap,
    value: OwedValue,
) {
    let pending = targets.iter().filter(|target| target.state == State::Pending.code());
    for target in pending.filter(|target| terminals.contains(target.no)) {
        txn.put(keys::owed(urgent, TerminalNo(target.no), push), &OwedValue { qos0: target.qos0, ..value });
    }
}

pub(crate) fn in_state(targets: &[SmallTarget], state: State) -> RoaringBitmap {
    targets.iter().filter(|target| target.state == state.code()).map(|target| target.no).collect()
}
