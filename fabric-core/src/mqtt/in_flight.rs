//! The QoS 1 window of one connection: what was written and not acknowledged.

use std::collections::VecDeque;

use cluster_proto::PushId;

/// A PUBLISH that waits for its PUBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) packet_id: u16,
    pub(super) push: PushId,
    /// The leader asked for it back: it wants to know, whatever happens.
    pub(super) withdrawn: bool,
}

/// Bounded by `window`; packet ids are unique within it.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// In the order written. Terminals acknowledge in that order ([MQTT-4.6.0-2]), so a search ends at once.
    entries: VecDeque<InFlight>,
    window: u16,
    last_packet_id: u16,
}

/// Capacity kept while nothing is in flight: a terminal that gets a push now and then does not allocate for each.
const IDLE_CAPACITY: usize = 4;

impl Window {
    pub(super) fn new(window: u16) -> Self {
        debug_assert!(window > 0, "Receive Maximum 0 is refused by the decoder");
        Self { entries: VecDeque::new(), window, last_packet_id: 0 }
    }

    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < usize::from(self.window)
    }

    /// Takes a packet id; there must be room.
    pub(super) fn send(&mut self, push: PushId) -> u16 {
        debug_assert!(self.has_room());
        let packet_id = self.free_packet_id();
        self.last_packet_id = packet_id;
        self.entries.push_back(InFlight { packet_id, push, withdrawn: false });
        packet_id
    }

    fn free_packet_id(&self) -> u16 {
        let mut id = self.last_packet_id;
        loop {
            id = id.checked_add(1).unwrap_or(1);
            if !self.entries.iter().any(|entry| entry.packet_id == id) {
                return id;
            }
        }
    }

    pub(super) fn acknowledge(&mut self, packet_id: u16) -> Option<InFlight> {
        let at = self.entries.iter().position(|entry| entry.packet_id == packet_id)?;
        let entry = self.entries.remove(at);
        if self.entries.is_empty() {
            self.entries.shrink_to(IDLE_CAPACITY);
        }
        entry
    }

    pub(super) fn contains(&self, packet_id: u16) -> bool {
        self.entries.iter().any(|entry| entry.packet_id == packet_id)
    }

    /// Marks `push` as withdrawn; says whether it is in flight.
    pub(super) fn withdraw(&mut self, push: PushId) -> bool {
        match self.entries.iter_mut().find(|entry| entry.push == push) {
            Some(entry) => {
                entry.withdrawn = true;
                true
            }
            None => false,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &InFlight> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_ids_wrap_around_without_zero_and_skip_those_in_use() {
        let mut window = Window::new(3);
        window.last_packet_id = u16::MAX - 1;
        assert_eq!(window.send(PushId(1)), u16::MAX);
        assert_eq!(window.send(PushId(2)), 1);
        window.last_packet_id = u16::MAX - 1;
        assert_eq!(window.send(PushId(3)), 2);
        assert!(!window.has_room());
        assert_eq!(window.acknowledge(1).map(|e| e.push), Some(PushId(2)));
        assert_eq!(window.acknowledge(1), None);
        assert!(window.has_room());
    }
}
