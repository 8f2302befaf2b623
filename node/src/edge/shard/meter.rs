//! How fast a terminal may publish.

use fabric_core::token_bucket::{Rate, TokenBucket};

use super::Shard;
use crate::edge::{Limits, notices::Limit};

/// Seconds of its rate that a terminal may publish at once. Two, because pauses are as coarse as the wheel: a burst of
/// one would be used up in the middle of a second, and the rest of it lost.
const BURST_S: u64 = 2;

/// The limits of every connection of an edge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    publishes: Option<Rate>,
    bytes: Option<Rate>,
}

/// What one connection has used of them.
#[derive(Debug)]
pub(super) struct Meter {
    publishes: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
    paused_until_ms: Option<u64>,
}

impl Rates {
    pub(super) fn new(limits: &Limits) -> Self {
        let rate = |per_s: u64| Rate::new(per_s, per_s.saturating_mul(BURST_S));
        Self { publishes: rate(limits.publish_rate.into()), bytes: rate(limits.publish_bytes_rate) }
    }

    fn any(&self) -> bool {
        self.publishes.is_some() || self.bytes.is_some()
    }
}

impl Meter {
    fn new(rates: &Rates, now_ms: u64) -> Self {
        let full = |rate: Option<Rate>| rate.map(|rate| TokenBucket::full(rate, now_ms));
        Self { publishes: full(rates.publishes), bytes: full(rates.bytes), paused_until_ms: None }
    }

    pub(super) fn paused_until_ms(&self) -> Option<u64> {
        self.paused_until_ms
    }

    /// Whether a pause is over now.
    pub(super) fn end_pause(&mut self, now_ms: u64) -> bool {
        self.paused_until_ms.take_if(|until_ms| *until_ms <= now_ms).is_some()
    }

    /// A PUBLISH of `len` bytes was taken; the limit it went over, if the connection pauses now.
    fn published(&mut self, rates: &Rates, now_ms: u64, len: usize) -> Option<Limit> {
        let publishes = take(&mut self.publishes, rates.publishes, now_ms, 1);
        let bytes = take(&mut self.bytes, rates.bytes, now_ms, len as u64);
        let wait_ms = publishes.max(bytes);
        if wait_ms == 0 {
            return None;
        }
        self.paused_until_ms = Some(now_ms.saturating_add(wait_ms));
        Some(if bytes > publishes { Limit::PublishBytesRate } else { Limit::PublishRate })
    }
}

/// Answers how long to wait afterwards.
fn take(bucket: &mut Option<TokenBucket>, rate: Option<Rate>, now_ms: u64, count: u64) -> u64 {
    let (Some(bucket), Some(rate)) = (bucket, rate) else { return 0 };
    bucket.take(rate, now_ms, count);
    bucket.wait_ms(rate, now_ms)
}

impl Shard {
    /// Counts a PUBLISH of `len` bytes against the limits of its connection.
    pub(super) fn meter(&mut self, slot: u32, len: usize) {
        if !self.rates.any() {
            return;
        }
        let (rates, now_ms) = (self.rates, self.now_ms);
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        let meter = connection.meter.get_or_insert_with(|| Box::new(Meter::new(&rates, now_ms)));
        if let Some(limit) = meter.published(&rates, now_ms, len) {
            let terminal = connection.session.grant().map(|grant| &grant.terminal);
            self.notices.limited(now_ms, limit, terminal);
            self.arm(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(publish_rate: u32, publish_bytes_rate: u64) -> Rates {
        Rates::new(&Limits { publish_rate, publish_bytes_rate, ..Limits::default() })
    }

    #[test]
    fn the_tighter_limit_pauses_and_is_named() {
        let rates = rates(10, 1_000);
        let mut meter = Meter::new(&rates, 0);
        assert_eq!(meter.published(&rates, 0, 1_999), None);
        assert_eq!(meter.published(&rates, 0, 2_000), Some(Limit::PublishBytesRate));
        assert_eq!(meter.paused_until_ms(), Some(2_000));
        assert!(!meter.end_pause(1_999) && meter.end_pause(2_000) && meter.paused_until_ms().is_none());
    }

    #[test]
    fn looked_at_once_a_second_a_terminal_still_gets_its_whole_rate() {
        let rates = rates(100, 0);
        let mut meter = Meter::new(&rates, 0);
        let mut published = 0;
        for now_ms in (0..60_000).step_by(1_000) {
            meter.end_pause(now_ms);
            while meter.paused_until_ms().is_none() {
                meter.published(&rates, now_ms, 10);
                published += 1;
            }
        }
        assert!((6_000..6_200).contains(&published), "{published}");
    }
}
