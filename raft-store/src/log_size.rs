//! How many bytes the log holds behind an index, roughly: so that the log is bounded in bytes as well as in entries.

use std::collections::VecDeque;

/// One sample per so many bytes keeps the list short (a 1 GiB log has 256).
const SAMPLE_BYTES: u64 = 4 * 1024 * 1024;

/// Samples of (index, bytes before it). Knows only what this process appended: older entries count as nothing, so
/// after a restart the log may keep up to its entry bound until enough bytes were written again.
#[derive(Debug)]
pub(crate) struct LogSize {
    samples: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl LogSize {
    pub(crate) fn new(first: u64) -> Self {
        Self { samples: VecDeque::from([(first, 0)]), bytes: 0 }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn append(&mut self, index: u64, len: u64) {
        if self.samples.back().is_none_or(|&(_, before)| self.bytes - before >= SAMPLE_BYTES) {
            self.samples.push_back((index, self.bytes));
        }
        self.bytes += len;
    }

    pub(crate) fn truncate(&mut self, index: u64) {
        while let Some((_, before)) = self.samples.pop_back_if(|(at, _)| *at > index) {
            self.bytes = before;
        }
    }

    pub(crate) fn purge(&mut self, index: u64) {
        while self.samples.pop_front_if(|(at, _)| *at < index).is_some() {}
    }

    /// The newest sampled index with at least `bytes` behind it.
    pub(crate) fn index_with_bytes_behind(&self, bytes: u64) -> Option<u64> {
        let limit = self.bytes.checked_sub(bytes)?;
        let after = self.samples.partition_point(|&(_, before)| before <= limit);
        self.samples.get(after.checked_sub(1)?).map(|&(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn filled() -> LogSize {
        let mut size = LogSize::new(1);
        for index in 1..=100 {
            size.append(index, MIB);
        }
        size
    }

    #[test]
    fn the_index_found_has_at_least_the_bytes_behind_it_and_not_many_more() {
        let index = filled().index_with_bytes_behind(20 * MIB).expect("some");
        assert!((76..=81).contains(&index), "{index}");
        assert_eq!(filled().index_with_bytes_behind(101 * MIB), None);
    }

    #[test]
    fn truncated_entries_do_not_count() {
        let mut size = filled();
        size.truncate(50);
        assert!(size.bytes() <= 50 * MIB + SAMPLE_BYTES, "{}", size.bytes());
    }

    #[test]
    fn purged_samples_are_forgotten() {
        let mut size = filled();
        size.purge(90);
        assert_eq!(size.index_with_bytes_behind(20 * MIB), None);
        assert!(size.index_with_bytes_behind(2 * MIB).is_some());
    }
}
