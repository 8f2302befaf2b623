//! Small made-up evidence for the checkers' own tests.

use crate::evidence::{Counts, Evidence, FinalStatus, Key, Origin, Push, Reception, State, Terminal};

pub(crate) const ONE: Terminal = Terminal(1);
pub(crate) const TWO: Terminal = Terminal(2);
pub(crate) const FIRST: Key = Key(100);
pub(crate) const SECOND: Key = Key(101);

/// An accepted push with push id = key that must reach `promised`.
pub(crate) fn push(origin: Origin, key: Key, promised: &[Terminal]) -> Push {
    Push {
        origin,
        ids: [key.0].into(),
        accepted: true,
        promised: promised.iter().copied().collect(),
        expires_at_ms: None,
    }
}

pub(crate) fn received(terminal: Terminal, key: Key, at_ms: u64) -> Reception {
    Reception { terminal, connection: u64::from(terminal.0), key, at_ms, acknowledged: true }
}

pub(crate) fn status(states: &[(State, &[Terminal])]) -> FinalStatus {
    let mut result = FinalStatus::default();
    for (state, terminals) in states {
        result.terminals.insert(*state, terminals.iter().copied().collect());
        result.counts.by_state.insert(*state, terminals.len() as u64);
        result.counts.audience += terminals.len() as u64;
    }
    result
}

pub(crate) fn counts(audience: u64, by_state: &[(State, u64)]) -> Counts {
    Counts { audience, by_state: by_state.iter().copied().collect() }
}

/// Two identity pushes to one terminal each, all as it should be.
pub(crate) fn clean() -> Evidence {
    Evidence {
        pushes: [
            (FIRST, push(Origin::Identity, FIRST, &[ONE, TWO])),
            (SECOND, push(Origin::Topic, SECOND, &[ONE])),
        ]
        .into(),
        receptions: vec![received(ONE, FIRST, 10), received(TWO, FIRST, 11), received(ONE, SECOND, 12)],
        finals: [
            (FIRST, status(&[(State::Delivered, &[ONE, TWO])])),
            (SECOND, status(&[(State::Delivered, &[ONE])])),
        ]
        .into(),
        ..Evidence::default()
    }
}

#[test]
fn clean_evidence_passes_every_check() {
    assert_eq!(super::violations(&clean(), 10), Vec::<String>::new());
}
