//! **Invariant.** When all is quiet, every push answered as accepted has been received by every terminal that had to be
//! in its audience, unless it expired; and its status says the same: nobody is pending, and an identity push without
//! an expiry is delivered to all.
//!
//! Boundary: `dropped` is allowed only for a topic push and a terminal whose session may have ended (not promised);
//! `expired` and `sent` only for a push that had a short time to live.

use std::collections::BTreeSet;

use super::Violation;
use crate::evidence::{Evidence, Key, Push, State, Terminal};

pub(super) fn violations(evidence: &Evidence) -> Vec<Violation> {
    let seen: BTreeSet<(Key, Terminal)> = evidence.receptions.iter().map(|r| (r.key, r.terminal)).collect();
    let mut found = Vec::new();
    for (key, push) in evidence.pushes.iter().filter(|(_, push)| push.accepted) {
        if push.expires_at_ms.is_none() {
            let missing = push.promised.iter().filter(|terminal| !seen.contains(&(*key, **terminal)));
            found.extend(
                missing.map(|terminal| format!("{key:?} {:?} was never received by {terminal}", push.ids)),
            );
        }
        found.extend(wrong_states(evidence, *key, push));
    }
    found
}

fn wrong_states(evidence: &Evidence, key: Key, push: &Push) -> Vec<Violation> {
    let Some(status) = evidence.finals.get(&key) else { return Vec::new() };
    let mut found = Vec::new();
    for (state, terminals) in &status.terminals {
        for terminal in terminals {
            let allowed = match state {
                State::Delivered => true,
                State::Pending | State::Cancelled | State::Collapsed => false,
                State::Sent | State::Expired => push.expires_at_ms.is_some(),
                State::Dropped => !push.promised.contains(terminal),
            };
            if !allowed {
                found.push(format!("{key:?} {:?} ended as {state:?} for {terminal}", push.ids));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::made_up::{FIRST, ONE, SECOND, TWO, clean, status};

    #[test]
    fn a_lost_push_is_found() {
        let mut evidence = clean();
        evidence.receptions.retain(|r| r.terminal != TWO);
        assert_eq!(violations(&evidence).len(), 1);
    }

    #[test]
    fn a_push_left_pending_is_found() {
        let mut evidence = clean();
        evidence.finals.insert(FIRST, status(&[(State::Delivered, &[ONE]), (State::Pending, &[TWO])]));
        assert_eq!(violations(&evidence).len(), 1);
    }

    #[test]
    fn an_expired_push_may_be_missing_and_a_lasting_one_may_not_expire() {
        let mut evidence = clean();
        evidence.receptions.retain(|r| r.terminal != TWO);
        evidence.finals.insert(FIRST, status(&[(State::Delivered, &[ONE]), (State::Expired, &[TWO])]));
        assert_eq!(violations(&evidence).len(), 2);
        evidence.pushes.get_mut(&FIRST).unwrap().expires_at_ms = Some(20);
        assert_eq!(violations(&evidence).len(), 0);
    }

    #[test]
    fn a_topic_push_may_drop_who_was_not_promised_only() {
        let mut evidence = clean();
        evidence.finals.insert(SECOND, status(&[(State::Delivered, &[ONE]), (State::Dropped, &[TWO])]));
        assert_eq!(violations(&evidence).len(), 0);
        evidence.finals.insert(SECOND, status(&[(State::Dropped, &[ONE])]));
        assert_eq!(violations(&evidence).len(), 1);
    }

    #[test]
    fn a_push_of_unknown_outcome_owes_nothing() {
        let mut evidence = clean();
        evidence.pushes.get_mut(&FIRST).unwrap().accepted = false;
        evidence.receptions.clear();
        evidence.finals.clear();
        assert_eq!(violations(&evidence).len(), 1, "SECOND is missing still");
    }
}
