//! **Invariant (I8).** Equal applied position, equal digest, whatever the replica and whenever it was asked.

use std::collections::BTreeMap;

use super::Violation;
use crate::evidence::{Digest, Evidence};

pub(super) fn violations(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut at: BTreeMap<u64, &Digest> = BTreeMap::new();
    for digest in &evidence.digests {
        let first = at.entry(digest.applied).or_insert(digest);
        if first.digest != digest.digest {
            found.push(format!("at position {}: {first:?} and {digest:?}", digest.applied));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::made_up::clean;

    #[test]
    fn different_digests_at_one_position_are_found() {
        let digest = |node, applied, digest: &str| Digest { node, applied, digest: digest.into() };
        let mut evidence = clean();
        evidence.digests = vec![digest(1, 10, "a"), digest(2, 10, "a"), digest(3, 11, "b")];
        assert_eq!(violations(&evidence).len(), 0);
        evidence.digests.push(digest(3, 10, "c"));
        assert_eq!(violations(&evidence).len(), 1);
    }
}
