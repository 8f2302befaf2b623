//! **Invariant.** A session that outlives its connection is there at the next CONNECT, on whatever edge, after whatever
//! fault: once it was acknowledged, "session present" is always answered.

use super::Violation;
use crate::evidence::Evidence;

pub(super) fn violations(evidence: &Evidence) -> Vec<Violation> {
    evidence
        .lost_sessions
        .iter()
        .map(|(terminal, at)| format!("{terminal} found its session gone at {at}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::made_up::{ONE, clean};

    #[test]
    fn a_lost_session_is_found() {
        let mut evidence = clean();
        evidence.lost_sessions.push((ONE, 7));
        assert_eq!(violations(&evidence).len(), 1);
    }
}
