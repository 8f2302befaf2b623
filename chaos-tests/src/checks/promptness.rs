//! **Invariant (I11).** Once every node is ready, a new push reaches every terminal of its audience that has its CONNACK
//! within 2 s of its acceptance.

use std::collections::BTreeMap;

use super::Violation;
use crate::evidence::{Evidence, Key, Probe, Terminal};

const LIMIT_MS: u64 = 2_000;

pub(super) fn violations(evidence: &Evidence) -> Vec<Violation> {
    let mut first: BTreeMap<(Key, Terminal), u64> = BTreeMap::new();
    for reception in &evidence.receptions {
        first.entry((reception.key, reception.terminal)).or_insert(reception.at_ms);
    }
    evidence.probes.iter().flat_map(|probe| late(probe, &first)).collect()
}

fn late(probe: &Probe, first: &BTreeMap<(Key, Terminal), u64>) -> Vec<Violation> {
    let took = |terminal: &Terminal| {
        let at = first.get(&(probe.key, *terminal));
        at.map_or(u64::MAX, |at| at.saturating_sub(probe.accepted_at_ms))
    };
    let late = probe
        .connected
        .iter()
        .map(|terminal| (terminal, took(terminal)))
        .filter(|(_, took)| *took > LIMIT_MS);
    late.map(|(terminal, took)| match took {
        u64::MAX => format!("{terminal} was connected and never received {:?}", probe.key),
        took => format!("{terminal} was connected and received {:?} after {took} ms", probe.key),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::made_up::{FIRST, ONE, TWO, clean};

    fn probed(accepted_at_ms: u64, connected: &[Terminal]) -> Evidence {
        let mut evidence = clean();
        evidence.receptions[1].at_ms = 2_500;
        evidence.probes.push(Probe {
            key: FIRST,
            accepted_at_ms,
            connected: connected.iter().copied().collect(),
        });
        evidence
    }

    #[test]
    fn who_receives_too_late_is_found() {
        assert_eq!(violations(&probed(500, &[ONE, TWO])).len(), 0);
        assert_eq!(violations(&probed(499, &[ONE, TWO])).len(), 1);
        assert_eq!(violations(&probed(499, &[ONE])).len(), 0, "TWO was not connected");
    }

    #[test]
    fn who_never_receives_is_found() {
        assert_eq!(violations(&probed(500, &[Terminal(3)])).len(), 1);
    }
}
