//! The newest entries of the log, in memory: what replication and apply nearly always want.
//!
//! Every index at or above [`Tail::first`] is answered from here and nothing else, whatever the disk holds; so an
//! entry that waits to be written is readable, and one that was truncated in memory is gone, before the writer
//! thread gets to it.

use std::collections::VecDeque;

use crate::type_config::Entry;

#[derive(Debug)]
struct Cached {
    entry: Entry,
    len: usize,
    /// The write that brings it to disk, see [`Tail::written`].
    ticket: u64,
}

/// See the module. Bound: `bytes_max` for entries that are on disk. Those still waiting for it come on top; they
/// are few, since the leader has two proposals in flight and a follower's leader waits for its answers.
#[derive(Debug)]
pub(crate) struct Tail {
    first: u64,
    entries: VecDeque<Cached>,
    bytes: usize,
    bytes_max: usize,
    written: u64,
}

impl Tail {
    /// Starts behind what is on disk: `first` is the next index to be appended.
    pub(crate) fn new(first: u64, bytes_max: usize) -> Self {
        Self { first, entries: VecDeque::new(), bytes: 0, bytes_max, written: 0 }
    }

    /// The first index answered from here.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// One past the last index of the log.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Takes the next entry; `false` if it is not the next.
    #[must_use]
    pub(crate) fn push(&mut self, entry: Entry, len: usize, ticket: u64) -> bool {
        // An empty tail of an empty log starts wherever the first entry says (0 or 1, or behind a snapshot).
        if self.entries.is_empty() && self.first == 0 {
            self.first = entry.log_id.index;
        }
        if entry.log_id.index != self.end() {
            return false;
        }
        self.bytes += len;
        self.entries.push_back(Cached { entry, len, ticket });
        true
    }

    /// Clones `[start, end)`, of which all that is in range must be here, up to `bytes_max` but at least one. Cheap:
    /// payloads are shared.
    pub(crate) fn range(&self, start: u64, end: u64, bytes_max: usize) -> Vec<Entry> {
        let from = start.saturating_sub(self.first) as usize;
        let count = end.min(self.end()).saturating_sub(start.max(self.first)) as usize;
        let mut bytes = 0;
        let mut out = Vec::with_capacity(count.min(1024));
        for cached in self.entries.iter().skip(from).take(count) {
            bytes += cached.len;
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(cached.entry.clone());
        }
        out
    }

    /// Removes `index` and all behind it. Below [`Tail::first`] the log then ends where the tail starts.
    pub(crate) fn truncate(&mut self, index: u64) {
        while self.end() > index {
            match self.entries.pop_back() {
                Some(cached) => self.bytes -= cached.len,
                None => {
                    self.first = index;
                    return;
                }
            }
        }
    }

    /// Removes everything below `index`.
    pub(crate) fn purge(&mut self, index: u64) {
        while self.first < index && self.pop_front() {}
        self.first = self.first.max(index);
    }

    /// Write `ticket` and all before it are on disk: their entries may leave.
    pub(crate) fn written(&mut self, ticket: u64) {
        self.written = ticket;
        while self.bytes > self.bytes_max {
            match self.entries.front() {
                Some(oldest) if oldest.ticket <= self.written => self.pop_front(),
                _ => return,
            };
        }
    }

    fn pop_front(&mut self) -> bool {
        let Some(cached) = self.entries.pop_front() else { return false };
        self.bytes -= cached.len;
        self.first += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::type_config::log_id;

    fn tail(range: std::ops::Range<u64>, bytes_max: usize) -> Tail {
        let mut tail = Tail::new(range.start, bytes_max);
        for index in range {
            assert!(tail.push(Entry { log_id: log_id(1, index), payload: EntryPayload::Blank }, 10, index));
        }
        tail
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn an_entry_not_on_disk_is_never_evicted() {
        let mut tail = tail(1..11, 30);
        tail.written(4);
        assert_eq!((tail.first(), tail.end()), (5, 11));
        tail.written(10);
        assert_eq!((tail.first(), tail.end()), (8, 11));
    }

    #[test]
    fn a_hole_is_refused() {
        let mut tail = tail(1..3, 100);
        assert!(!tail.push(Entry { log_id: log_id(1, 4), payload: EntryPayload::Blank }, 10, 4));
    }

    #[test]
    fn a_range_stops_at_the_byte_limit_but_returns_at_least_one() {
        let tail = tail(1..11, 1000);
        assert_eq!(indexes(&tail.range(3, 9, 25)), [3, 4]);
        assert_eq!(indexes(&tail.range(3, 9, 1)), [3]);
        assert_eq!(indexes(&tail.range(9, 20, usize::MAX)), [9, 10]);
        assert_eq!(indexes(&tail.range(20, 30, usize::MAX)), [0; 0]);
    }

    #[test]
    fn truncating_below_the_tail_moves_its_start_down() {
        let mut tail = tail(10..20, 1000);
        tail.truncate(15);
        assert_eq!((tail.first(), tail.end()), (10, 15));
        tail.truncate(4);
        assert_eq!((tail.first(), tail.end()), (4, 4));
    }

    #[test]
    fn purging_past_the_end_moves_the_start_up() {
        let mut tail = tail(10..20, 1000);
        tail.purge(12);
        assert_eq!((tail.first(), tail.end()), (12, 20));
        tail.purge(30);
        assert_eq!((tail.first(), tail.end()), (30, 30));
    }
}
