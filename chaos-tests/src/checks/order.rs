//! **Invariant (I12).** Per terminal and priority, pushes are received for the first time in the order of their push ids;
//! and what one terminal publishes, in the order it published.
//!
//! Boundary: repetitions say nothing about order; nor does a PUBLISH without PUBACK, which may have waited in a paused
//! edge while the terminal published the next one elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::evidence::{Evidence, Key, Origin, Terminal};

/// What is ordered among itself at one terminal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Log { urgent: bool },
    Publisher(Terminal),
}

pub(super) fn violations(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<(Terminal, Lane), (u64, Key)> = BTreeMap::new();
    for reception in &evidence.receptions {
        let (terminal, key) = (reception.terminal, reception.key);
        if !seen.insert((terminal, key)) {
            continue;
        }
        let Some((lane, place)) = place(evidence, key) else { continue };
        let before = last.entry((terminal, lane)).or_insert((place, key));
        if place < before.0 {
            found.push(format!("{terminal} received {key:?} ({place}) after {:?} ({})", before.1, before.0));
        } else {
            *before = (place, key);
        }
    }
    found
}

fn place(evidence: &Evidence, key: Key) -> Option<(Lane, u64)> {
    let push = evidence.pushes.get(&key)?;
    match push.origin {
        Origin::Publish(_) if !push.accepted => None,
        Origin::Publish(by) => Some((Lane::Publisher(by), key.0)),
        _ => Some((Lane::Log { urgent: key.is_urgent() }, *push.ids.first()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::made_up::{FIRST, ONE, SECOND, clean, received};

    #[test]
    fn a_newer_push_first_is_found() {
        let mut evidence = clean();
        evidence.receptions = vec![received(ONE, SECOND, 10), received(ONE, FIRST, 11)];
        assert_eq!(violations(&evidence).len(), 1);
    }

    #[test]
    fn an_urgent_push_may_come_before_an_older_ordinary_one() {
        let (mut evidence, urgent) = (clean(), Key(102));
        let newer = evidence.pushes[&SECOND].clone();
        evidence.pushes.insert(urgent, newer);
        evidence.receptions = vec![received(ONE, urgent, 10), received(ONE, FIRST, 11)];
        assert_eq!(violations(&evidence).len(), 0);
    }

    #[test]
    fn a_repetition_is_not_out_of_order() {
        let mut evidence = clean();
        evidence.receptions.push(received(ONE, FIRST, 20));
        assert_eq!(violations(&evidence).len(), 0);
    }

    #[test]
    fn what_different_terminals_publish_is_not_ordered() {
        let mut evidence = clean();
        evidence.pushes.get_mut(&FIRST).unwrap().origin = Origin::Publish(Terminal(8));
        evidence.pushes.get_mut(&SECOND).unwrap().origin = Origin::Publish(Terminal(9));
        evidence.receptions = vec![received(ONE, SECOND, 10), received(ONE, FIRST, 11)];
        assert_eq!(violations(&evidence).len(), 0);
        evidence.pushes.get_mut(&SECOND).unwrap().origin = Origin::Publish(Terminal(8));
        assert_eq!(violations(&evidence).len(), 1);
    }
}
