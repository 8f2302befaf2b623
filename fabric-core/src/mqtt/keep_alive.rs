//! When a silent connection is given up.

/// The keep alive of one connection ([MQTT-3.1.2-22]: one and a half times what was agreed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeepAlive {
    /// 0: none.
    silence_ms_max: u64,
    heard_ms: u64,
}

impl KeepAlive {
    pub(super) fn new(keep_alive_s: u16, now_ms: u64) -> Self {
        Self { silence_ms_max: u64::from(keep_alive_s) * 1_500, heard_ms: now_ms }
    }

    pub(super) fn heard(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        (self.silence_ms_max > 0).then(|| self.heard_ms.saturating_add(self.silence_ms_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_allowed_for_one_and_a_half_times_the_keep_alive() {
        let mut keep_alive = KeepAlive::new(10, 1_000);
        assert_eq!(keep_alive.deadline(), Some(16_000));
        keep_alive.heard(5_000);
        assert_eq!(keep_alive.deadline(), Some(20_000));
        assert_eq!(KeepAlive::new(0, 0).deadline(), None);
    }
}
