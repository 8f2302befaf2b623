//! QoS 1 and 2 PUBLISH packets from the terminal whose exchange is not over.

use std::collections::{BTreeSet, VecDeque};

use cluster_proto::Qos;

use super::{action::RequestNo, reason::Reason};

/// Answers leave in the order the packets came ([MQTT-4.6.0-2], [MQTT-4.6.0-3]). An MQTT 5 terminal is held to the
/// Receive Maximum we announce; to others reading stops while so many wait for their commit, and packet ids bound the
/// rest.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbound {
    /// PUBACK or PUBREC is owed.
    entries: VecDeque<Entry>,
    /// Most terminals never publish with QoS 2.
    exchanges: Option<Box<Exchanges>>,
    /// What the terminal has used of our Receive Maximum, counted as section 4.9 has it count: from 0 on every
    /// connection, and an exchange that is over gives one back even if an earlier connection began it. So at most what
    /// was resumed and a Receive Maximum are open.
    used: u16,
}

/// QoS 2 behind PUBREC.
#[derive(Clone, Debug, Default)]
struct Exchanges {
    /// PUBREL did not come, or is being committed: the packet id is taken ([MQTT-4.3.3-10]).
    taken: BTreeSet<u16>,
    /// PUBREL came; PUBCOMP waits for its commit.
    releasing: Vec<(RequestNo, u16)>,
}

#[derive(Clone, Debug)]
struct Entry {
    packet_id: u16,
    qos: Qos,
    request: RequestNo,
    answer: Option<Reason>,
}

/// What a PUBLISH with a packet id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Its packet id is free.
    Never,
    /// The same QoS, and its answer is still to come.
    Waiting,
    /// QoS 2, answered by PUBREC and not released.
    Taken,
    /// The packet id is used by an exchange of another QoS.
    InUse,
}

/// An answer that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) packet_id: u16,
    pub(super) qos: Qos,
    pub(super) reason: Reason,
}

impl Inbound {
    /// Of a session that was there before: the QoS 2 packet ids it has taken.
    pub(super) fn resume(&mut self, taken: Vec<u16>) {
        if !taken.is_empty() {
            self.exchanges.get_or_insert_default().taken.extend(taken);
        }
    }

    /// What Receive Maximum is held against ([MQTT-3.3.4-7]).
    pub(super) fn used(&self) -> u16 {
        self.used
    }

    /// Packets that wait for their commit.
    pub(super) fn waiting(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn seen(&self, packet_id: u16, qos: Qos) -> Seen {
        if let Some(entry) = self.entries.iter().find(|entry| entry.packet_id == packet_id) {
            return if entry.qos == qos { Seen::Waiting } else { Seen::InUse };
        }
        let taken = self.exchanges.as_ref().is_some_and(|exchanges| exchanges.taken.contains(&packet_id));
        match (taken, qos) {
            (false, _) => Seen::Never,
            (true, Qos::ExactlyOnce) => Seen::Taken,
            (true, _) => Seen::InUse,
        }
    }

    pub(super) fn uses(&self, packet_id: u16) -> bool {
        self.seen(packet_id, Qos::AtLeastOnce) != Seen::Never
    }

    /// `answer` is known at once for what never goes to the leader; it still waits for its turn.
    pub(super) fn push(&mut self, packet_id: u16, qos: Qos, request: RequestNo, answer: Option<Reason>) {
        self.entries.push_back(Entry { packet_id, qos, request, answer });
        self.used = self.used.saturating_add(1);
    }

    pub(super) fn answer(&mut self, request: RequestNo, answer: Reason) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.request == request) {
            entry.answer = Some(answer);
        }
    }

    /// The next packet to answer. A QoS 2 one is taken from then on, unless it was refused ([MQTT-4.3.3-9]).
    pub(super) fn pop_answered(&mut self) -> Option<Answer> {
        let reason = self.entries.front()?.answer?;
        let Entry { packet_id, qos, .. } = self.entries.pop_front()?;
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
        if qos == Qos::ExactlyOnce && !reason.is_error() {
            self.exchanges.get_or_insert_default().taken.insert(packet_id);
        } else {
            self.used = self.used.saturating_sub(1);
        }
        Some(Answer { packet_id, qos, reason })
    }

    /// PUBREL came, and its end is being committed.
    pub(super) fn release(&mut self, packet_id: u16, request: RequestNo) {
        self.exchanges.get_or_insert_default().releasing.push((request, packet_id));
    }

    pub(super) fn is_releasing(&self, packet_id: u16) -> bool {
        let exchanges = self.exchanges.as_ref();
        exchanges.is_some_and(|exchanges| exchanges.releasing.iter().any(|(_, id)| *id == packet_id))
    }

    /// The packet id whose release has this request.
    pub(super) fn released(&mut self, request: RequestNo) -> Option<u16> {
        let releasing = &mut self.exchanges.as_mut()?.releasing;
        let at = releasing.iter().position(|(waits, _)| *waits == request)?;
        Some(releasing.remove(at).1)
    }

    /// The exchange is over; says whether there was one.
    pub(super) fn complete(&mut self, packet_id: u16) -> bool {
        let Some(exchanges) = &mut self.exchanges else { return false };
        let taken = exchanges.taken.remove(&packet_id);
        self.used = self.used.saturating_sub(u16::from(taken));
        if exchanges.taken.is_empty() && exchanges.releasing.is_empty() {
            self.exchanges = None;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONCE: Qos = Qos::ExactlyOnce;

    fn answered(inbound: &mut Inbound) -> Option<(u16, Reason)> {
        inbound.pop_answered().map(|answer| (answer.packet_id, answer.reason))
    }

    #[test]
    fn answers_leave_in_the_order_the_packets_came() {
        let mut inbound = Inbound::default();
        inbound.push(5, Qos::AtLeastOnce, RequestNo(1), None);
        inbound.push(3, ONCE, RequestNo(2), Some(Reason::NOT_AUTHORIZED));
        assert_eq!(answered(&mut inbound), None);
        inbound.answer(RequestNo(1), Reason::SUCCESS);
        assert_eq!(answered(&mut inbound), Some((5, Reason::SUCCESS)));
        assert_eq!(answered(&mut inbound), Some((3, Reason::NOT_AUTHORIZED)));
        assert_eq!(inbound.used(), 0, "refused: the packet id is free");
    }

    #[test]
    fn a_packet_id_is_taken_from_pubrec_to_pubrel() {
        let mut inbound = Inbound::default();
        inbound.push(5, ONCE, RequestNo(1), None);
        assert_eq!(inbound.seen(5, ONCE), Seen::Waiting);
        assert_eq!(inbound.seen(5, Qos::AtLeastOnce), Seen::InUse);
        inbound.answer(RequestNo(1), Reason::SUCCESS);
        inbound.pop_answered();
        assert_eq!((inbound.seen(5, ONCE), inbound.used()), (Seen::Taken, 1));
        assert!(inbound.complete(5) && !inbound.complete(5));
        assert_eq!((inbound.seen(5, ONCE), inbound.used()), (Seen::Never, 0));
    }
}
