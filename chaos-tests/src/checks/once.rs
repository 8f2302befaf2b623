//! **Invariant.** A push whose outcome was unknown and that was repeated under its idempotency key exists once: all
//! answers name one push id, different pushes have different ids, and no terminal receives it twice on one connection.
//!
//! Boundary: another connection may bring it again (that is what at least once means); a connection never does, since
//! its edge knows what it handed out.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::evidence::{Evidence, Key};

pub(super) fn violations(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut owners: BTreeMap<u64, Key> = BTreeMap::new();
    for (key, push) in &evidence.pushes {
        if push.ids.len() > 1 {
            found.push(format!("{key:?} was accepted as {:?}", push.ids));
        }
        for id in &push.ids {
            if let Some(other) = owners.insert(*id, *key) {
                found.push(format!("{other:?} and {key:?} were both answered as push {id}"));
            }
        }
    }
    let mut seen = BTreeSet::new();
    let again = evidence.receptions.iter().filter(|r| !seen.insert((r.connection, r.key)));
    found.extend(again.map(|r| {
        let ids = evidence.pushes.get(&r.key).map(|push| &push.ids);
        format!("{} received {:?} {ids:?} twice on connection {}", r.terminal, r.key, r.connection)
    }));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::made_up::{FIRST, ONE, clean, received};

    #[test]
    fn a_push_accepted_twice_is_found() {
        let mut evidence = clean();
        evidence.pushes.get_mut(&FIRST).unwrap().ids.insert(555);
        assert_eq!(violations(&evidence).len(), 1);
    }

    #[test]
    fn one_id_for_two_pushes_is_found() {
        let mut evidence = clean();
        evidence.pushes.get_mut(&FIRST).unwrap().ids = [101].into();
        assert_eq!(violations(&evidence).len(), 1);
    }

    #[test]
    fn a_second_reception_counts_on_the_same_connection_only() {
        let mut evidence = clean();
        let mut again = received(ONE, FIRST, 20);
        again.connection = 77;
        evidence.receptions.push(again);
        assert_eq!(violations(&evidence).len(), 0);
        evidence.receptions.push(again);
        assert_eq!(violations(&evidence).len(), 1);
    }
}
