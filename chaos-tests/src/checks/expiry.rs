//! **Invariant (I3).** Nothing is received after its time to live is over.
//!
//! Boundary: what left the edge in time may take a second on a busy machine until it is written down.

use super::Violation;
use crate::evidence::Evidence;

const LATE_MS_MAX: u64 = 1_000;

pub(super) fn violations(evidence: &Evidence) -> Vec<Violation> {
    let late = evidence.receptions.iter().filter_map(|reception| {
        let push = evidence.pushes.get(&reception.key)?;
        let late_ms = reception.at_ms.checked_sub(push.expires_at_ms?)?;
        (late_ms > LATE_MS_MAX).then(|| {
            let (key, terminal) = (reception.key, reception.terminal);
            format!("{terminal} received {key:?} {:?} {late_ms} ms after it expired", push.ids)
        })
    });
    late.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::made_up::{FIRST, ONE, clean, received};

    #[test]
    fn a_delivery_after_the_expiry_is_found() {
        let mut evidence = clean();
        evidence.pushes.get_mut(&FIRST).unwrap().expires_at_ms = Some(5_000);
        evidence.receptions.push(received(ONE, FIRST, 5_000 + LATE_MS_MAX));
        assert_eq!(violations(&evidence).len(), 0);
        evidence.receptions.push(received(ONE, FIRST, 5_001 + LATE_MS_MAX));
        assert_eq!(violations(&evidence).len(), 1);
    }
}
