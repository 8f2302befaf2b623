//! **Invariant (I3).** Nobody receives a push he is not in the audience of; and who had to be in it, is.
//!
//! Boundary: the audience of an identity push is what was asked for, exactly; that of a topic push is what the status
//! lists, and contains at least every terminal whose SUBACK came before the push.

use std::collections::BTreeSet;

use super::Violation;
use crate::evidence::{Evidence, Key, Origin, Push, Terminal};

pub(super) fn violations(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for (key, push) in &evidence.pushes {
        let listed = listed(evidence, *key);
        if let Some(listed) = &listed {
            let left_out = push.promised.difference(listed);
            found.extend(left_out.map(|terminal| format!("{key:?} {:?} left out {terminal}", push.ids)));
        }
        found.extend(strangers(evidence, *key, push, listed));
    }
    let unknown = evidence.receptions.iter().filter(|r| !evidence.pushes.contains_key(&r.key));
    found.extend(unknown.map(|r| format!("{} received {:?}, which nobody pushed", r.terminal, r.key)));
    found
}

fn listed(evidence: &Evidence, key: Key) -> Option<BTreeSet<Terminal>> {
    Some(evidence.finals.get(&key)?.terminals.values().flatten().copied().collect())
}

fn strangers(
    evidence: &Evidence,
    key: Key,
    push: &Push,
    listed: Option<BTreeSet<Terminal>>,
) -> Vec<Violation> {
    let audience = match (push.origin, listed) {
        (Origin::Identity, _) => push.promised.clone(),
        (_, Some(listed)) => listed,
        // A PUBLISH: nobody knows its push id, so nobody can list its audience.
        (_, None) => return Vec::new(),
    };
    let receivers: BTreeSet<Terminal> =
        evidence.receptions.iter().filter(|r| r.key == key).map(|r| r.terminal).collect();
    receivers
        .difference(&audience)
        .map(|t| format!("{key:?} {:?} was received by {t}, for whom it is not", push.ids))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checks::made_up::{ONE, SECOND, TWO, clean, received, status},
        evidence::State,
    };

    #[test]
    fn a_stranger_who_receives_is_found() {
        let mut evidence = clean();
        evidence.receptions.push(received(TWO, SECOND, 13));
        assert_eq!(violations(&evidence).len(), 1);
    }

    #[test]
    fn a_subscriber_left_out_is_found() {
        let mut evidence = clean();
        evidence.finals.insert(SECOND, status(&[(State::Delivered, &[TWO])]));
        assert_eq!(violations(&evidence).len(), 2, "ONE is left out, and received what it is not listed for");
    }

    #[test]
    fn a_push_nobody_made_is_found() {
        let mut evidence = clean();
        evidence.receptions.push(received(ONE, Key(999), 14));
        assert_eq!(violations(&evidence).len(), 1);
    }
}
