//! What is done to the cluster, and in which order: a pure function of the seed.

use std::{fmt, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// Something that happens to processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL of the leader.
    KillLeader,
    /// SIGKILL of a control node that does not lead.
    KillFollower,
    /// SIGKILL of a node that is an edge only.
    KillEdge,
    /// SIGSTOP of the leader, for longer than an election takes.
    PauseLeader,
    /// SIGSTOP of a control node that does not lead.
    PauseFollower,
    /// SIGSTOP of a node that is an edge only.
    PauseEdge,
    /// SIGTERM of the leader, which hands over first.
    StopLeader,
    /// SIGKILL of all nodes at once.
    KillAll,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::KillLeader,
        Self::KillFollower,
        Self::KillEdge,
        Self::PauseLeader,
        Self::PauseFollower,
        Self::PauseEdge,
        Self::StopLeader,
        Self::KillAll,
    ];
}

/// A fault and how long it lasts before it is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What happens.
    pub fault: Fault,
    /// For how long.
    pub lasts: Duration,
    /// How long the load ran undisturbed before.
    pub calm: Duration,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} for {} ms", self.fault, self.lasts.as_millis())
    }
}

/// Endless steps: every kind once in a random order, and again in another order.
#[derive(Debug)]
pub struct Schedule {
    rng: StdRng,
    round: Vec<Fault>,
}

impl Schedule {
    /// The schedule of this seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), round: Vec::new() }
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.round.is_empty() {
            self.round = Fault::ALL.to_vec();
            self.round.shuffle(&mut self.rng);
        }
        let fault = self.round.pop()?;
        let lasts = Duration::from_millis(self.rng.random_range(300..4_000));
        let calm = Duration::from_millis(self.rng.random_range(500..2_000));
        Some(Step { fault, lasts, calm })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_schedule() {
        let steps = |seed| Schedule::new(seed).take(20).collect::<Vec<_>>();
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
    }

    #[test]
    fn every_fault_comes_before_any_comes_again() {
        let mut first: Vec<Fault> = Schedule::new(3).take(Fault::ALL.len()).map(|step| step.fault).collect();
        first.sort_unstable();
        assert_eq!(first, Fault::ALL);
    }
}
