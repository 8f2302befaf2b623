//! What the leader's clock says, as far as an edge can know.

use std::collections::VecDeque;

/// Answers remembered: some seconds of heartbeats. Old ones go, so that a leader's clock that is set does not mislead
/// for longer.
const ANSWERS_MAX: usize = 8;

/// The leader's clock, never behind what it really says: what expires by it is not handed out late (I3), also when the
/// process was stopped while a frame waited in its socket.
///
/// The leader read its clock somewhere between our question and its answer, so at the time of the question it said at
/// most that much. Of the last answers the fastest is the closest; an answer that took long, because a process stood
/// still, is only further ahead.
#[derive(Clone, Debug, Default)]
pub(super) struct LeaderClock {
    /// Leader's milliseconds minus ours, at most.
    ahead_ms: VecDeque<i64>,
}

impl LeaderClock {
    /// Another leader has another clock.
    pub(super) fn forget(&mut self) {
        self.ahead_ms.clear();
    }

    /// The leader answered with its time a question asked at `asked_ms` of ours.
    pub(super) fn answered(&mut self, asked_ms: u64, leader_ms: u64) {
        if self.ahead_ms.len() == ANSWERS_MAX {
            self.ahead_ms.pop_front();
        }
        self.ahead_ms.push_back(leader_ms.wrapping_sub(asked_ms) as i64);
    }

    /// When, by our clock, the leader's says `leader_ms`; never later than it really does. Before any answer: at once.
    pub(super) fn local_ms(&self, leader_ms: u64) -> u64 {
        match self.ahead_ms.iter().min() {
            Some(ahead_ms) => u64::try_from(i128::from(leader_ms) - i128::from(*ahead_ms)).unwrap_or(0),
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_of_the_last_answers_counts() {
        let mut clock = LeaderClock::default();
        // Its clock is 1,000,000 ahead; the first answer took 400 ms to read the clock, the second 10 ms.
        clock.answered(100, 1_000_500);
        assert_eq!(clock.local_ms(1_002_000), 1_600);
        clock.answered(600, 1_000_610);
        assert_eq!(clock.local_ms(1_002_000), 1_990);
        // A process stood still for four seconds: the estimate does not follow.
        clock.answered(1_000, 1_005_000);
        assert_eq!(clock.local_ms(1_002_000), 1_990);
    }

    #[test]
    fn a_clock_that_was_set_is_followed_after_some_answers() {
        let mut clock = LeaderClock::default();
        clock.answered(0, 1_000);
        for n in 1..=ANSWERS_MAX as u64 {
            clock.answered(n, 9_000 + n);
        }
        assert_eq!(clock.local_ms(10_000), 1_000);
    }

    #[test]
    fn what_expires_before_our_clock_began_or_is_not_known_has_expired() {
        let mut clock = LeaderClock::default();
        assert_eq!(clock.local_ms(u64::MAX), 0);
        clock.answered(5, 1_000_000);
        assert_eq!(clock.local_ms(10), 0);
    }
}
