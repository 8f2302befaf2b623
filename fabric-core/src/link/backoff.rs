//! Delays between attempts: exponential with jitter, from a seed the caller gives.

/// Delays that double from `first_ms` to `max_ms`, each drawn from the upper half of its range, so that edges that
/// lost the same leader do not come back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first_ms: u64,
    max_ms: u64,
    attempt: u32,
    random: u64,
}

impl Backoff {
    /// Delays between `first_ms / 2` and `max_ms`.
    pub fn new(first_ms: u64, max_ms: u64, seed: u64) -> Self {
        Self { first_ms, max_ms, attempt: 0, random: seed }
    }

    /// The delay before the next attempt.
    pub fn next_ms(&mut self) -> u64 {
        let ceiling = self.first_ms.saturating_mul(1 << self.attempt.min(20)).min(self.max_ms);
        self.attempt = self.attempt.saturating_add(1);
        let half = ceiling / 2;
        half + self.next_random() % (ceiling - half + 1)
    }

    /// The last attempt succeeded: begin with the shortest delay again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// splitmix64: enough to spread delays.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_and_stay_in_their_upper_half() {
        let mut backoff = Backoff::new(50, 1_000, 7);
        for ceiling in [50, 100, 200, 400, 800, 1_000, 1_000] {
            let delay = backoff.next_ms();
            assert!((ceiling / 2..=ceiling).contains(&delay), "{delay} of {ceiling}");
        }
        backoff.reset();
        assert!(backoff.next_ms() <= 50);
    }

    #[test]
    fn equal_seeds_give_equal_delays() {
        let delays = |seed| {
            let mut backoff = Backoff::new(50, 1_000, seed);
            (0..10).map(|_| backoff.next_ms()).collect::<Vec<_>>()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }
}
