//! **Invariant (I5).** audience = pending + delivered + sent + expired + cancelled + collapsed + dropped, in every
//! answer; and at the end the lists are disjoint and as long as the counts say.

use std::collections::BTreeSet;

use super::Violation;
use crate::evidence::{Counts, Evidence, FinalStatus, Key};

pub(super) fn violations(evidence: &Evidence) -> Vec<Violation> {
    let while_running = evidence.observations.iter().filter_map(|o| sum(o.key, &o.counts));
    let at_the_end = evidence
        .finals
        .iter()
        .flat_map(|(key, status)| sum(*key, &status.counts).into_iter().chain(lists(*key, status)));
    while_running.chain(at_the_end).collect()
}

fn sum(key: Key, counts: &Counts) -> Option<Violation> {
    let sum: u64 = counts.by_state.values().sum();
    (sum != counts.audience)
        .then(|| format!("{key:?} is for {} and its states add up to {sum}", counts.audience))
}

fn lists(key: Key, status: &FinalStatus) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut all = BTreeSet::new();
    for (state, terminals) in &status.terminals {
        let count = status.counts.by_state.get(state).copied().unwrap_or(0);
        if count != terminals.len() as u64 {
            found.push(format!("{key:?} counts {count} {state:?} and lists {}", terminals.len()));
        }
        let twice = terminals.iter().filter(|terminal| !all.insert(**terminal));
        found.extend(twice.map(|terminal| format!("{key:?} lists {terminal} in two states")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checks::made_up::{FIRST, ONE, TWO, clean, counts, status},
        evidence::{Observation, State},
    };

    #[test]
    fn counts_that_do_not_add_up_are_found() {
        let mut evidence = clean();
        let counts = counts(3, &[(State::Delivered, 1), (State::Pending, 1)]);
        evidence.observations.push(Observation { key: FIRST, counts, delivered: [].into(), receptions: 0 });
        assert_eq!(violations(&evidence).len(), 1);
    }

    #[test]
    fn a_terminal_in_two_states_is_found() {
        let mut evidence = clean();
        evidence.finals.insert(FIRST, status(&[(State::Delivered, &[ONE, TWO]), (State::Sent, &[TWO])]));
        assert_eq!(violations(&evidence).len(), 1);
    }

    #[test]
    fn a_list_shorter_than_its_count_is_found() {
        let mut evidence = clean();
        evidence.finals.get_mut(&FIRST).unwrap().terminals.get_mut(&State::Delivered).unwrap().remove(&TWO);
        assert_eq!(violations(&evidence).len(), 1);
    }
}
