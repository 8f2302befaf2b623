//! Deliveries from the leader, and QoS 0 messages.

use cluster_proto::{Epoch, Outcome, PushId, TerminalNo, TerminalSet, link::SharedInFlight};
use fabric_core::mqtt::{Matching, MessageHandle as _, Moment, Queued, Shared, Shown};

use super::Shard;
use crate::edge::{
    codec::Outgoing,
    messages::{LinkNo, OwedPart, PushPart, ShardDelivery, SharedPart, Targets, ToHub},
};

impl Shard {
    /// Takes a delivery, if it is of the present link and the lease still holds: it may have waited in the inbox while
    /// the process was stopped.
    pub(super) fn deliver(&mut self, link: LinkNo, delivery: ShardDelivery) {
        if link != self.link {
            return;
        }
        if !self.shared.has_lease(self.now_ms) {
            // From here on nothing of this link is taken: what is dropped now comes again, in order, after Resume.
            self.link = LinkNo::default();
            return self.tell_hub(ToHub::LeaseMissed(link));
        }
        match delivery {
            ShardDelivery::Push(part) => self.deliver_push(&part),
            ShardDelivery::Owed { no, epoch, pushes, live } => self.deliver_owed(no, epoch, pushes, live),
            ShardDelivery::Withdraw(push, targets) => self.withdraw(push, &targets),
            ShardDelivery::Shared(part) => self.deliver_shared(part),
            ShardDelivery::WithdrawShared(held) => self.withdraw_shared(held),
        }
    }

    fn deliver_push(&mut self, part: &PushPart) {
        match &part.targets {
            Targets::None => {}
            Targets::One(no) => self.deliver_push_to(*no, part),
            Targets::Many(set) => set.iter().for_each(|no| self.deliver_push_to(no, part)),
        }
        if part.best_effort {
            match &part.message {
                Some(message) => self.show_all(message, None, Matching::BestEffort, part.expires_at_ms),
                None => self.waiting.entry(part.push).or_default().best_effort = Some(part.expires_at_ms),
            }
        }
    }

    fn deliver_push_to(&mut self, no: TerminalNo, part: &PushPart) {
        let Some(slot) = self.by_no.get(&no).copied() else { return };
        if part.message.is_none() {
            self.await_payload(part.push, slot);
        }
        let queued = Queued {
            push: part.push,
            message: part.message.clone(),
            qos0: part.qos0.contains(no),
            dup: false,
            expires_at_ms: part.expires_at_ms,
            shared: None,
            urgent: part.urgent,
        };
        self.with_session(slot, |session, at, out| session.handle_push(at, queued, out));
    }

    fn deliver_owed(&mut self, no: TerminalNo, epoch: Epoch, pushes: Vec<OwedPart>, live: bool) {
        let Some(slot) = self.by_no.get(&no).copied() else { return };
        let current = self.connections.get(slot as usize).and_then(|connection| connection.epoch);
        if current != Some(epoch) {
            return; // asked for by an earlier connection
        }
        for owed in pushes.iter().filter(|owed| owed.message.is_none()) {
            self.await_payload(owed.push, slot);
        }
        let queued = pushes.into_iter().map(|owed| Queued {
            push: owed.push,
            message: owed.message,
            qos0: owed.qos0,
            dup: owed.dup,
            expires_at_ms: Some(owed.expires_at_ms),
            shared: None,
            urgent: owed.urgent,
        });
        self.with_session(slot, |session, at, out| session.handle_owed(at, queued, live, out));
    }

    fn withdraw(&mut self, push: PushId, targets: &TerminalSet) {
        for no in targets.iter() {
            match self.by_no.get(&no).copied() {
                Some(slot) => {
                    self.with_session(slot, |session, at, out| session.withdraw(at, push, None, out));
                }
                // It left while the question was on its way, and holds nothing any more.
                None => self.tell_hub(ToHub::Receipt(push, Outcome::NotWritten, no)),
            }
        }
    }

    /// The session answers NotWritten if it cannot take it.
    fn deliver_shared(&mut self, part: SharedPart) {
        let SharedPart { to, granted, expires_at_ms, dup, message, urgent } = part;
        let SharedInFlight { push, group, member } = to;
        let Some(slot) = self.by_no.get(&member).copied() else {
            return self.tell_hub(ToHub::Receipt(push, Outcome::NotWritten, group));
        };
        if message.is_none() {
            self.await_payload(push, slot);
        }
        let shared = Some(Shared { group, granted });
        let expires_at_ms = Some(expires_at_ms);
        let queued = Queued { push, message, qos0: false, dup, expires_at_ms, shared, urgent };
        self.with_session(slot, |session, at, out| session.handle_push(at, queued, out));
    }

    fn withdraw_shared(&mut self, held: SharedInFlight) {
        let SharedInFlight { push, group, member } = held;
        match self.by_no.get(&member).copied() {
            Some(slot) => {
                self.with_session(slot, |session, at, out| session.withdraw(at, push, Some(group), out));
            }
            None => self.tell_hub(ToHub::Receipt(push, Outcome::NotWritten, group)),
        }
    }

    // ------------------------------------------------------------ payloads

    pub(super) fn await_payload(&mut self, push: PushId, slot: u32) {
        let Some(id) = self.connections.get(slot as usize).map(|connection| connection.id) else { return };
        self.waiting.entry(push).or_default().connections.push((slot, id));
    }

    pub(super) fn payload(&mut self, push: PushId, message: Option<Outgoing>) {
        let Some(waiting) = self.waiting.remove(&push) else { return };
        for (slot, id) in waiting.connections {
            if self.connection(slot, id).is_some() {
                let message = message.clone();
                self.with_session(slot, |session, at, out| session.handle_payload(at, push, message, out));
            }
        }
        if let (Some(expires_at_ms), Some(message)) = (waiting.best_effort, &message) {
            self.show_all(message, None, Matching::BestEffort, expires_at_ms);
        }
    }

    // ------------------------------------------------------------ messages without status

    /// Shows a message to every matching subscriber of this shard, once. `publisher`: who published it here. Needs
    /// neither leader nor lease.
    pub(super) fn show_all(
        &mut self,
        message: &Outgoing,
        publisher: Option<u32>,
        matching: Matching,
        expires_at_ms: Option<u64>,
    ) {
        let mut slots = std::mem::take(&mut self.spare_slots);
        let (app, topic) = (message.message().app, &message.message().topic);
        self.subscriptions.matching(app, topic, matching, &mut slots);
        for slot in slots.drain(..) {
            self.show(slot, message, publisher == Some(slot), matching, expires_at_ms);
        }
        self.spare_slots = slots;
    }

    /// Shows a message to members of shared subscription groups.
    pub(super) fn show_members(
        &mut self,
        message: &Outgoing,
        expires_at_ms: Option<u64>,
        members: &[TerminalNo],
    ) {
        for no in members {
            if let Some(slot) = self.by_no.get(no).copied() {
                self.show(slot, message, false, Matching::Shared, expires_at_ms);
            }
        }
    }

    fn show(
        &mut self,
        slot: u32,
        message: &Outgoing,
        own: bool,
        matching: Matching,
        expires_at_ms: Option<u64>,
    ) {
        let room = self.room(slot);
        let shown = self.with_session(slot, |session, at, out| {
            session.show(Moment { room, ..at }, message, own, matching, expires_at_ms, out)
        });
        if shown == Some(Shown::Dropped) {
            self.counters.dropped_slow.increment(1);
            self.stats.publishes_dropped += 1;
        }
    }

    /// Hands the other shards the QoS 0 messages of this batch.
    pub(super) fn send_to_peers(&mut self) {
        if self.to_peers.is_empty() {
            return;
        }
        let messages = std::mem::take(&mut self.to_peers);
        for (peer, inbox) in self.peers.iter().filter(|(peer, _)| self.shared.has_filters(*peer)) {
            let batch = messages.iter().filter_map(|message| message.clone_transient()).collect();
            if inbox.try_send(batch).is_err() {
                tracing::trace!(shard = peer, "inbox is full");
                self.counters.dropped_shard_full.increment(messages.len() as u64);
                self.stats.publishes_dropped += messages.len() as u64;
            }
        }
    }
}
