//! **Invariant (I2, I4).** Whoever is listed as delivered had acknowledged: at every moment of the run and at its end.
//! What was delivered once stays delivered.
//!
//! Boundary: receptions are written down before the acknowledgement leaves, so the sets are compared with no slack.

use std::collections::BTreeSet;

use super::Violation;
use crate::evidence::{Evidence, Key, Reception, State, Terminal};

pub(super) fn violations(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for observation in &evidence.observations {
        let acked =
            acknowledged(&evidence.receptions[..observation.receptions.min(evidence.receptions.len())]);
        let early = observation.delivered.iter().filter(|t| !acked.contains(&(observation.key, **t)));
        found.extend(
            early.map(|t| {
                format!("{:?} was listed as delivered to {t} before it acknowledged", observation.key)
            }),
        );
        found.extend(taken_back(evidence, observation.key, &observation.delivered));
    }
    let acked = acknowledged(&evidence.receptions);
    for (key, status) in &evidence.finals {
        let delivered = status.terminals.get(&State::Delivered).into_iter().flatten();
        let never = delivered.filter(|terminal| !acked.contains(&(*key, **terminal)));
        found.extend(
            never.map(|terminal| {
                format!("{key:?} ended as delivered to {terminal}, which never acknowledged")
            }),
        );
    }
    found
}

fn acknowledged(receptions: &[Reception]) -> BTreeSet<(Key, Terminal)> {
    receptions.iter().filter(|r| r.acknowledged).map(|r| (r.key, r.terminal)).collect()
}

fn taken_back(evidence: &Evidence, key: Key, once: &BTreeSet<Terminal>) -> Vec<Violation> {
    let Some(status) = evidence.finals.get(&key) else { return Vec::new() };
    let still = status.terminals.get(&State::Delivered);
    let gone = once.iter().filter(|terminal| still.is_none_or(|still| !still.contains(terminal)));
    gone.map(|terminal| format!("{key:?} was delivered to {terminal} and is not any more")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checks::made_up::{FIRST, ONE, TWO, clean, counts},
        evidence::Observation,
    };

    fn observed(receptions: usize) -> Evidence {
        let mut evidence = clean();
        let counts = counts(2, &[(State::Delivered, 2)]);
        evidence.observations.push(Observation {
            key: FIRST,
            counts,
            delivered: [ONE, TWO].into(),
            receptions,
        });
        evidence
    }

    #[test]
    fn delivered_before_the_acknowledgement_is_found() {
        assert_eq!(violations(&observed(2)).len(), 0);
        assert_eq!(violations(&observed(1)).len(), 1);
    }

    #[test]
    fn a_terminal_that_received_and_hung_up_is_not_delivered() {
        let mut evidence = clean();
        evidence.receptions[0].acknowledged = false;
        assert_eq!(violations(&evidence).len(), 1);
    }

    #[test]
    fn a_delivery_taken_back_is_found() {
        let mut evidence = observed(2);
        evidence.finals.get_mut(&FIRST).unwrap().terminals.get_mut(&State::Delivered).unwrap().remove(&TWO);
        assert_eq!(violations(&evidence).len(), 1);
    }
}
