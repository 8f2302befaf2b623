//! Coarse timers for many connections.

/// One turn of the wheel, in ticks. A later deadline waits in the last bucket and is looked at again there.
const TICKS: usize = 256;

/// Buckets of keys by second. An entry only says *look at this connection then*: the connection's own deadline
/// decides. So activity that moves a deadline back costs nothing, and nothing is ever removed early.
#[derive(Debug)]
pub(crate) struct Wheel<K> {
    buckets: Vec<Vec<K>>,
    tick_ms: u64,
    /// The next tick to fire.
    tick: u64,
}

impl<K> Wheel<K> {
    pub(crate) fn new(tick_ms: u64, now_ms: u64) -> Self {
        Self { buckets: (0..TICKS).map(|_| Vec::new()).collect(), tick_ms, tick: now_ms / tick_ms }
    }

    /// Looks at `key` at or soon after `at_ms`. Answers the time it will be looked at.
    pub(crate) fn arm(&mut self, key: K, at_ms: u64) -> u64 {
        let wanted = at_ms.div_ceil(self.tick_ms);
        let tick = wanted.clamp(self.tick, self.tick + TICKS as u64 - 1);
        self.buckets[tick as usize % TICKS].push(key);
        tick * self.tick_ms
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }

    /// The keys to look at now.
    pub(crate) fn advance(&mut self, now_ms: u64) -> Vec<K> {
        let mut due = Vec::new();
        let upto = now_ms / self.tick_ms;
        // A long pause (a suspended machine) turns the wheel once, not once per second it slept.
        let turns = (upto + 1).saturating_sub(self.tick).min(TICKS as u64);
        for i in 0..turns {
            due.append(&mut self.buckets[(self.tick + i) as usize % TICKS]);
        }
        self.tick = self.tick.max(upto + 1);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_out_at_their_time_and_once() {
        let mut wheel = Wheel::new(1_000, 0);
        wheel.arm('b', 2_500);
        wheel.arm('a', 900);
        assert_eq!(wheel.advance(999), []);
        assert_eq!(wheel.advance(1_000), ['a']);
        assert_eq!(wheel.advance(2_999), []);
        assert_eq!(wheel.advance(3_000), ['b']);
        assert_eq!(wheel.advance(600_000), []);
    }

    #[test]
    fn a_deadline_beyond_one_turn_is_looked_at_early_rather_than_late() {
        let mut wheel = Wheel::new(1_000, 0);
        let looked_at = wheel.arm('x', 10_000_000);
        assert!(looked_at < 10_000_000);
        assert_eq!(wheel.advance(looked_at), ['x']);
    }

    #[test]
    fn a_long_pause_fires_everything_once() {
        let mut wheel = Wheel::new(1_000, 0);
        for second in 1..200 {
            wheel.arm(second, second * 1_000);
        }
        assert_eq!(wheel.advance(86_400_000).len(), 199);
        wheel.arm(7, 86_401_000);
        assert_eq!(wheel.advance(86_401_000), [7]);
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_the_next_tick() {
        let mut wheel = Wheel::new(1_000, 5_000);
        wheel.advance(5_000);
        wheel.arm('p', 10);
        assert_eq!(wheel.advance(6_000), ['p']);
    }
}
