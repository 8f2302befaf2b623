//! The window of one connection: packet ids given to deliveries, and how far each exchange is.
//!
//! ```text
//!                       QoS 1:  ──PUBLISH──► Sent ──PUBACK──► free
//!  QoS 2, kept in memory alone: ──PUBLISH──► Sent ──PUBREC──► Released ──PUBCOMP──► free
//!  QoS 2, recorded:  Begin ──recorded──► Ready ──PUBLISH──► Sent ──PUBREC──► Receive ──recorded──► Released …
//! ```
//! A session that was there before goes on with `Ready` (PUBLISH is sent again) and `Released` (PUBREL is).

use std::collections::VecDeque;

use cluster_proto::{PushId, Qos, TerminalNo};

use super::action::RequestNo;

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Being recorded; then PUBLISH may be written.
    Begin(RequestNo),
    /// PUBLISH may be written when its turn comes.
    Ready,
    /// PUBLISH was written.
    Sent,
    /// PUBREC came; being recorded, then PUBREL is written.
    Receive(RequestNo),
    /// PUBREL was written.
    Released,
}

/// A delivery that has a packet id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) packet_id: u16,
    /// Or a retained message.
    pub(super) push: PushId,
    /// The shared subscription group it is for.
    pub(super) group: Option<TerminalNo>,
    pub(super) qos: Qos,
    pub(super) phase: Phase,
    /// An earlier connection wrote it (QoS 2: perhaps).
    pub(super) resumed: bool,
    /// The leader asked for it back: it wants to know, whatever happens.
    pub(super) withdrawn: bool,
}

impl InFlight {
    /// Whether PUBLISH was written over this connection and its exchange is not over ([MQTT-3.3.4-9]).
    fn is_written(&self) -> bool {
        matches!(self.phase, Phase::Sent | Phase::Receive(_) | Phase::Released)
    }

    /// Whether the terminal has not answered yet.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Begin(_) | Phase::Ready | Phase::Sent)
    }
}

/// Packet ids are unique within it. No more than `window` are given; what a session goes on with may be more, and is
/// written as far as the window goes.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// In the order the ids were given. Terminals acknowledge in that order ([MQTT-4.6.0-2]), so a search ends at once.
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

    /// How many packet ids may still be given.
    pub(super) fn room(&self) -> usize {
        usize::from(self.window).saturating_sub(self.entries.len())
    }

    /// Gives a packet id; there must be room.
    pub(super) fn claim(&mut self, push: PushId, group: Option<TerminalNo>, qos: Qos, phase: Phase) -> u16 {
        debug_assert!(self.room() > 0);
        let packet_id = self.free_packet_id();
        self.last_packet_id = packet_id;
        let (resumed, withdrawn) = (false, false);
        self.entries.push_back(InFlight { packet_id, push, group, qos, phase, resumed, withdrawn });
        packet_id
    }

    /// Takes over what an earlier connection began; in the order it was first sent.
    pub(super) fn resume(&mut self, entry: InFlight) {
        self.last_packet_id = entry.packet_id;
        self.entries.push_back(entry);
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

    pub(super) fn get(&self, packet_id: u16) -> Option<&InFlight> {
        self.entries.iter().find(|entry| entry.packet_id == packet_id)
    }

    pub(super) fn get_mut(&mut self, packet_id: u16) -> Option<&mut InFlight> {
        self.entries.iter_mut().find(|entry| entry.packet_id == packet_id)
    }

    /// Whether the PUBLISH of a packet id that was given may be written now.
    pub(super) fn may_write(&self, packet_id: u16) -> bool {
        let ready = self.get(packet_id).is_some_and(|entry| entry.phase == Phase::Ready);
        // Only what was taken over can be more than the window holds.
        let crowded = self.entries.len() > usize::from(self.window);
        let written = || self.entries.iter().filter(|entry| entry.is_written()).count();
        ready && (!crowded || written() < usize::from(self.window))
    }

    pub(super) fn remove(&mut self, packet_id: u16) -> Option<InFlight> {
        let at = self.entries.iter().position(|entry| entry.packet_id == packet_id)?;
        let entry = self.entries.remove(at);
        if self.entries.is_empty() {
            self.entries.shrink_to(IDLE_CAPACITY);
        }
        entry
    }

    /// The step with this request is on disk: what it was about, in its next phase.
    pub(super) fn recorded(&mut self, request: RequestNo) -> Option<InFlight> {
        let entry = self.entries.iter_mut().find(|entry| match entry.phase {
            Phase::Begin(waits) | Phase::Receive(waits) => waits == request,
            _ => false,
        })?;
        entry.phase = match entry.phase {
            Phase::Begin(_) => Phase::Ready,
            _ => Phase::Released,
        };
        Some(*entry)
    }

    pub(super) fn find(&mut self, push: PushId, group: Option<TerminalNo>) -> Option<&mut InFlight> {
        self.entries.iter_mut().find(|entry| entry.push == push && entry.group == group)
    }

    pub(super) fn holds(&self, push: PushId, group: Option<TerminalNo>) -> bool {
        self.entries.iter().any(|entry| entry.push == push && entry.group == group)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &InFlight> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(window: &mut Window, push: u64) -> u16 {
        window.claim(PushId(push), None, Qos::AtLeastOnce, Phase::Sent)
    }

    #[test]
    fn packet_ids_wrap_around_without_zero_and_skip_those_in_use() {
        let mut window = Window::new(3);
        window.last_packet_id = u16::MAX - 1;
        assert_eq!(claim(&mut window, 1), u16::MAX);
        assert_eq!(claim(&mut window, 2), 1);
        window.last_packet_id = u16::MAX - 1;
        assert_eq!(claim(&mut window, 3), 2);
        assert_eq!(window.room(), 0);
        assert_eq!(window.remove(1).map(|entry| entry.push), Some(PushId(2)));
        assert_eq!(window.remove(1), None);
        assert_eq!(window.room(), 1);
    }

    #[test]
    fn what_was_taken_over_is_written_as_far_as_the_window_goes() {
        let mut window = Window::new(1);
        for packet_id in [3, 9] {
            window.resume(InFlight {
                packet_id,
                push: PushId(packet_id.into()),
                group: None,
                qos: Qos::ExactlyOnce,
                phase: Phase::Ready,
                resumed: true,
                withdrawn: false,
            });
        }
        assert!(window.may_write(3));
        window.get_mut(3).unwrap().phase = Phase::Sent;
        assert!(!window.may_write(9));
        window.remove(3);
        assert!(window.may_write(9));
    }
}
