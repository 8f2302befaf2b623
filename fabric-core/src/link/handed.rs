//! What has been handed to edges and has no committed receipt: the leader's memory of *in flight*.
//!
//! Deliberately a superset: a terminal that disconnected stays in until its receipt, a withdrawal or the push's end
//! removes it. Whoever is asked about and does not hold the push answers "not written", so too many only cost a
//! question; too few would settle a push that a terminal may be reading.

use std::{collections::BTreeMap, ops::Bound};

use cluster_proto::{PushId, TerminalNo, TerminalSet};

/// Terminals per push. Bounded by what is pending for terminals that were online.
#[derive(Debug, Default)]
pub struct Handed {
    pushes: BTreeMap<PushId, TerminalSet>,
}

impl Handed {
    /// `terminals` were handed `push`.
    pub fn add(&mut self, push: PushId, terminals: &TerminalSet) {
        if !terminals.is_empty() {
            self.pushes.entry(push).or_default().0 |= &terminals.0;
        }
    }

    /// `no` was handed `push`; says whether it had been before.
    pub fn add_one(&mut self, push: PushId, no: TerminalNo) -> bool {
        !self.pushes.entry(push).or_default().insert(no)
    }

    /// Receipts of `terminals` for `push` are committed.
    pub fn settle(&mut self, push: PushId, terminals: &TerminalSet) {
        let Some(handed) = self.pushes.get_mut(&push) else { return };
        handed.0 -= &terminals.0;
        if handed.is_empty() {
            self.pushes.remove(&push);
        }
    }

    /// Nobody is owed `push` any more.
    pub fn forget(&mut self, push: PushId) {
        self.pushes.remove(&push);
    }

    /// Who may hold `push`.
    pub fn of(&self, push: PushId) -> TerminalSet {
        self.pushes.get(&push).cloned().unwrap_or_default()
    }

    /// Whether `no` may hold `push`.
    pub fn holds(&self, push: PushId, no: TerminalNo) -> bool {
        self.pushes.get(&push).is_some_and(|handed| handed.contains(no))
    }

    /// Up to `limit` pushes after `push`, in order.
    pub fn after(&self, push: PushId, limit: usize) -> Vec<PushId> {
        self.pushes
            .range((Bound::Excluded(push), Bound::Unbounded))
            .take(limit)
            .map(|(push, _)| *push)
            .collect()
    }

    /// How many pushes are in flight to anyone.
    pub fn len(&self) -> usize {
        self.pushes.len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.pushes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_with_all_receipts_committed_is_forgotten() {
        let mut handed = Handed::default();
        let push = PushId(9);
        assert!(!handed.add_one(push, TerminalNo(1)));
        assert!(handed.add_one(push, TerminalNo(1)), "the second time it may be a duplicate");
        handed.add(push, &TerminalSet::one(TerminalNo(2)));
        handed.settle(push, &TerminalSet::one(TerminalNo(1)));
        assert_eq!(handed.of(push), TerminalSet::one(TerminalNo(2)));
        handed.settle(push, &TerminalSet::one(TerminalNo(2)));
        assert!(handed.is_empty());
    }
}
