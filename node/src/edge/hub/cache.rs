//! Payloads by push id, so that each crosses the link once.

use std::collections::{HashMap, VecDeque};

use cluster_proto::PushId;

use crate::edge::codec::Outgoing;

/// The least recently used go first when the bytes exceed the bound. Sessions keep what they have queued by their
/// own handles, so forgetting here never loses a delivery.
#[derive(Debug)]
pub(crate) struct MessageCache {
    entries: HashMap<PushId, Entry>,
    /// Uses in order; only the last one of an entry counts.
    uses: VecDeque<(PushId, u64)>,
    next_use: u64,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Entry {
    message: Outgoing,
    size: usize,
    last_use: u64,
}

impl MessageCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { entries: HashMap::new(), uses: VecDeque::new(), next_use: 0, bytes: 0, bytes_max }
    }

    pub(crate) fn get(&mut self, push: PushId) -> Option<Outgoing> {
        let stamp = self.stamp(push);
        let entry = self.entries.get_mut(&push)?;
        entry.last_use = stamp;
        Some(entry.message.clone())
    }

    pub(crate) fn insert(&mut self, push: PushId, message: Outgoing) {
        let size = message.size();
        let last_use = self.stamp(push);
        if let Some(old) = self.entries.insert(push, Entry { message, size, last_use }) {
            self.bytes -= old.size;
        }
        self.bytes += size;
        self.evict();
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn stamp(&mut self, push: PushId) -> u64 {
        self.next_use += 1;
        self.uses.push_back((push, self.next_use));
        if self.uses.len() > 64 + 4 * self.entries.len() {
            let entries = &self.entries;
            self.uses.retain(|(push, stamp)| entries.get(push).is_some_and(|e| e.last_use == *stamp));
            // The use just stamped is not in its entry yet.
            self.uses.push_back((push, self.next_use));
        }
        self.next_use
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max {
            let Some((push, stamp)) = self.uses.pop_front() else { return };
            if self.entries.get(&push).is_some_and(|entry| entry.last_use == stamp)
                && let Some(entry) = self.entries.remove(&push)
            {
                self.bytes -= entry.size;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster_proto::{AppId, Message, MessageProperties, PushKind, Qos};

    fn shared(len: usize) -> Outgoing {
        Outgoing::new(Message {
            app: AppId::DEFAULT,
            kind: PushKind::Topic,
            topic: "t".to_owned(),
            qos: Qos::AtLeastOnce,
            payload: vec![0; len].into(),
            properties: MessageProperties::default(),
            publisher: None,
            retain: false,
            tells_expiry: false,
        })
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_bound_holds() {
        let size = shared(1_000).size();
        let mut cache = MessageCache::new(3 * size);
        for push in 1..=3 {
            cache.insert(PushId(push), shared(1_000));
        }
        assert!(cache.get(PushId(1)).is_some());
        cache.insert(PushId(4), shared(1_000));
        assert!(cache.get(PushId(2)).is_none());
        assert!(cache.get(PushId(1)).is_some() && cache.get(PushId(4)).is_some());
        assert!(cache.bytes() <= 3 * size);
    }

    #[test]
    fn many_uses_of_few_entries_cost_no_memory() {
        let mut cache = MessageCache::new(usize::MAX);
        cache.insert(PushId(1), shared(10));
        for _ in 0..10_000 {
            assert!(cache.get(PushId(1)).is_some());
        }
        assert!(cache.uses.len() < 200);
    }
}
