//! Audiences of a few terminals: a state byte for each in the push's row, and an owed row for each pending one.

use cluster_proto::{AppReceipt, PushId, State, TerminalNo};
use roaring::RoaringBitmap;

use super::{
    blocks::Reported,
    collapse::Keyed,
    owed,
    release::Waves,
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
    /// Under which ids its terminals are owed it.
    pub(crate) waves: &'a Waves,
}

/// Makes the targets of a new push. Those who are owed too much already settle at once.
pub(crate) fn accept(
    txn: &mut Txn<'_>,
    Of { push, urgent, keyed, .. }: Of<'_>,
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
        targets.push(SmallTarget { no, qos0, state: state.code(), reported: 0 });
    }
    Ok(targets)
}

/// Answers who is newly in the state.
#[must_use]
pub(crate) fn settle(
    txn: &mut Txn<'_>,
    Of { push, urgent, keyed, waves }: Of<'_>,
    targets: &mut [SmallTarget],
    terminals: &RoaringBitmap,
    state: State,
) -> RoaringBitmap {
    let mut gained = RoaringBitmap::new();
    for target in targets.iter_mut().filter(|target| terminals.contains(target.no)) {
        // A state of a newer version is final.
        let Some(before) = State::from_code(target.state).filter(|before| before.may_become(state)) else {
            continue;
        };
        target.state = state.code();
        gained.insert(target.no);
        if before == State::Pending {
            owed::remove(txn, urgent, TerminalNo(target.no), waves.of_terminal(push, target.no).0);
            keyed.into_iter().for_each(|keyed| keyed.remove(txn, TerminalNo(target.no), push));
        }
    }
    gained
}

/// Adds those of `terminals` that are in the audience to who reported `what`.
pub(crate) fn report(targets: &mut [SmallTarget], terminals: &RoaringBitmap, what: AppReceipt) -> Reported {
    let mut reported = Reported::default();
    for target in targets.iter_mut().filter(|target| terminals.contains(target.no)) {
        reported.known += 1;
        if !has_reported(target, what) {
            target.reported |= bit(what);
            reported.gained.insert(target.no);
        }
    }
    reported
}

pub(crate) fn reported(targets: &[SmallTarget], what: AppReceipt) -> RoaringBitmap {
    targets.iter().filter(|target| has_reported(target, what)).map(|target| target.no).collect()
}

fn has_reported(target: &SmallTarget, what: AppReceipt) -> bool {
    target.reported & bit(what) != 0
}

fn bit(what: AppReceipt) -> u8 {
    1 << what as u8
}

pub(crate) fn in_state(targets: &[SmallTarget], state: State) -> RoaringBitmap {
    targets.iter().filter(|target| target.state == state.code()).map(|target| target.no).collect()
}
