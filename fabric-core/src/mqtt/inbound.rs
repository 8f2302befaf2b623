//! QoS 1 PUBLISH packets from the terminal that wait for their commit.

use std::collections::VecDeque;

use super::{action::RequestNo, reason::Reason};

/// Answers leave in the order the packets came ([MQTT-4.6.0-2]). Bounded by the Receive Maximum we announce.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbound {
    entries: VecDeque<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    packet_id: u16,
    request: RequestNo,
    answer: Option<Reason>,
}

impl Inbound {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn contains(&self, packet_id: u16) -> bool {
        self.entries.iter().any(|entry| entry.packet_id == packet_id)
    }

    /// `answer` is known at once for what never goes to the leader; it still waits for its turn.
    pub(super) fn push(&mut self, packet_id: u16, request: RequestNo, answer: Option<Reason>) {
        self.entries.push_back(Entry { packet_id, request, answer });
    }

    pub(super) fn answer(&mut self, request: RequestNo, answer: Reason) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.request == request) {
            entry.answer = Some(answer);
        }
    }

    /// The next packet id to acknowledge, with its answer.
    pub(super) fn pop_answered(&mut self) -> Option<(u16, Reason)> {
        let answer = self.entries.front()?.answer?;
        let entry = self.entries.pop_front()?;
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
        Some((entry.packet_id, answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_leave_in_the_order_the_packets_came() {
        let mut inbound = Inbound::default();
        inbound.push(5, RequestNo(1), None);
        inbound.push(3, RequestNo(2), Some(Reason::NOT_AUTHORIZED));
        assert_eq!(inbound.pop_answered(), None);
        inbound.answer(RequestNo(1), Reason::SUCCESS);
        assert_eq!(inbound.pop_answered(), Some((5, Reason::SUCCESS)));
        assert_eq!(inbound.pop_answered(), Some((3, Reason::NOT_AUTHORIZED)));
    }
}
