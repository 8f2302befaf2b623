//! A rate limit that lets a burst through.

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_s: u64,
    burst: u64,
}

/// A bucket of tokens. It is taken from after the fact, when the size of something is known, and may then be in debt;
/// whoever uses it takes nothing in while it is. So a debt is at most one item's, and over time the rate holds whatever
/// the sizes. Times are milliseconds of the caller's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Thousandths of a token as of `at_ms`; below zero: debt.
    level_milli: i64,
    at_ms: u64,
}

impl Rate {
    /// `per_s` tokens a second, and at most `burst` at once. `None` for 0: there is no limit.
    pub fn new(per_s: u64, burst: u64) -> Option<Self> {
        (per_s > 0).then_some(Self { per_s, burst: burst.max(1) })
    }
}

impl TokenBucket {
    /// A full bucket.
    pub fn full(rate: Rate, now_ms: u64) -> Self {
        Self { level_milli: milli(rate.burst), at_ms: now_ms }
    }

    /// Takes `count` tokens, there or not.
    pub fn take(&mut self, rate: Rate, now_ms: u64, count: u64) {
        self.level_milli = self.level(rate, now_ms).saturating_sub(milli(count));
        self.at_ms = now_ms.max(self.at_ms);
    }

    /// How long until something may be taken in; 0: now.
    pub fn wait_ms(&self, rate: Rate, now_ms: u64) -> u64 {
        match self.level(rate, now_ms) {
            1.. => 0,
            // A token a second is a thousandth of one per millisecond.
            debt => debt.unsigned_abs() / rate.per_s + 1,
        }
    }

    /// Whether it is as one that nothing was ever taken from.
    pub fn is_full(&self, rate: Rate, now_ms: u64) -> bool {
        self.level(rate, now_ms) == milli(rate.burst)
    }

    fn level(&self, rate: Rate, now_ms: u64) -> i64 {
        let gained = now_ms.saturating_sub(self.at_ms).saturating_mul(rate.per_s);
        let gained = i64::try_from(gained).unwrap_or(i64::MAX);
        self.level_milli.saturating_add(gained).min(milli(rate.burst))
    }
}

fn milli(tokens: u64) -> i64 {
    i64::try_from(tokens.saturating_mul(1_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_s: u64, burst: u64) -> Rate {
        Rate::new(per_s, burst).expect("a limit")
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let rate = rate(100, 200);
        let mut bucket = TokenBucket::full(rate, 0);
        let mut taken = 0;
        for now_ms in 0..10_000 {
            while bucket.wait_ms(rate, now_ms) == 0 {
                bucket.take(rate, now_ms, 1);
                taken += 1;
            }
        }
        assert!((1_199..=1_202).contains(&taken), "{taken}");
    }

    #[test]
    fn a_large_item_is_paid_for_afterwards() {
        let rate = rate(1_000, 2_000);
        let mut bucket = TokenBucket::full(rate, 5_000);
        bucket.take(rate, 5_000, 12_000);
        assert_eq!(bucket.wait_ms(rate, 5_000), 10_001);
        assert_eq!(bucket.wait_ms(rate, 15_000), 1);
        assert_eq!(bucket.wait_ms(rate, 15_001), 0);
    }

    #[test]
    fn an_idle_bucket_fills_to_its_burst_and_no_further() {
        let rate = rate(10, 20);
        let mut bucket = TokenBucket::full(rate, 0);
        bucket.take(rate, 1_000_000, 20);
        assert!(bucket.wait_ms(rate, 1_000_000) > 0);
    }

    #[test]
    fn extreme_numbers_neither_overflow_nor_lock_up() {
        assert_eq!(Rate::new(0, 5), None);
        let rate = rate(u64::MAX, u64::MAX);
        let mut bucket = TokenBucket::full(rate, 0);
        bucket.take(rate, u64::MAX, u64::MAX);
        bucket.take(rate, 0, u64::MAX);
        assert!(bucket.wait_ms(rate, u64::MAX) <= 1);
    }
}
