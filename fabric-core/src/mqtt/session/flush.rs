//! Handing out what is queued, as far as window and room go.

use cluster_proto::{DropReason, Outcome, PushId, Qos, link::Step};

use super::{Context, Live, exchange::push_receipt};
use crate::mqtt::{
    action::{Action, Delivery, MessageHandle, Moment, Queued},
    aliases,
    deliveries::{Origin, Waiting},
    held::View,
    in_flight::Phase,
    size::{OwnProperties, publish_len},
};

/// A PUBLISH without status, or with everything decided.
pub(super) struct Outgoing<M> {
    /// What it tells the terminal, if that asks; `None`: it is no push, or has no status.
    pub(super) push: Option<PushId>,
    pub(super) message: M,
    pub(super) qos: Qos,
    pub(super) dup: bool,
    pub(super) expires_at_ms: Option<u64>,
    pub(super) view: View,
}

/// It is larger than the terminal takes ([MQTT-3.1.2-24]).
pub(super) struct TooLarge;

impl<M: MessageHandle> Live<M> {
    /// Whether the next in the queue could be written, given room.
    pub(super) fn has_waiting(&self) -> bool {
        let Some(next) = self.deliveries.queue.front().filter(|next| next.is_here()) else { return false };
        match (next.qos, next.packet_id) {
            (Qos::AtMostOnce, _) => true,
            (_, Some(packet_id)) => self.deliveries.window.may_write(packet_id),
            (Qos::ExactlyOnce, None) if self.is_recorded() => false,
            (_, None) => self.deliveries.window.room() > 0,
        }
    }

    pub(super) fn pull(&mut self, out: &mut Vec<Action<M>>) {
        if let Some(max) = self.deliveries.next_pull() {
            out.push(Action::Pull { after: self.deliveries.after, max });
        }
    }

    /// Hands out what is queued, in order, as far as window and room go. Bounded by the queue.
    pub(super) fn flush(&mut self, cx: &Context, at: Moment, out: &mut Vec<Action<M>>) {
        self.drop_front(cx, at, out);
        self.begin_ahead(cx, at, out);
        let mut room = at.room;
        while room > 0 && self.has_waiting() {
            let Some(waiting) = self.deliveries.pop() else { break };
            room = room.saturating_sub(self.write(cx, at, waiting, out));
            self.drop_front(cx, at, out);
        }
        // What was given up made room.
        self.begin_ahead(cx, at, out);
        self.pull(out);
        self.ask_retained(out);
    }

    /// Gets the QoS 2 deliveries recorded that the window takes in their turn, ahead of writing them, so that commits
    /// overlap. Those of QoS 1 in front of them keep their place in the window.
    fn begin_ahead(&mut self, cx: &Context, at: Moment, out: &mut Vec<Action<M>>) {
        if !self.deliveries.unbegun || !self.is_recorded() {
            return;
        }
        let Some(no) = self.no else { return };
        let mut room = self.deliveries.window.room();
        let (deliveries, requests) = (&mut self.deliveries, &mut self.requests);
        for waiting in &mut deliveries.queue {
            if room == 0 {
                return;
            }
            let Some(message) = &waiting.queued.message else { return };
            if waiting.packet_id.is_some() || waiting.qos == Qos::AtMostOnce || waiting.is_expired(at.ms) {
                continue;
            }
            if waiting.qos == Qos::ExactlyOnce {
                if len_min(cx, message, waiting) > self.packet_len_max as usize {
                    continue;
                }
                let (push, group, request) = (waiting.queued.push, waiting.group(), requests.next());
                let packet_id = deliveries.window.claim(push, group, waiting.qos, Phase::Begin(request));
                waiting.packet_id = Some(packet_id);
                let step = Step::Begin { push, target: group.unwrap_or(no) };
                out.push(Action::Step { request: Some(request), packet_id, step });
            }
            room -= 1;
        }
        deliveries.unbegun = false;
    }

    /// What has expired is not written: the leader settles it, who finds it not in flight or withdraws it (I3). Nor is
    /// what was never begun, because it is too large.
    fn drop_front(&mut self, cx: &Context, at: Moment, out: &mut Vec<Action<M>>) {
        while let Some(next) = self.deliveries.queue.front() {
            let unbegun = next.qos == Qos::ExactlyOnce && next.packet_id.is_none() && self.is_recorded();
            let message = next.queued.message.as_ref().filter(|_| unbegun);
            let too_large =
                message.is_some_and(|message| len_min(cx, message, next) > self.packet_len_max as usize);
            if !too_large && !next.is_expired(at.ms) {
                return;
            }
            let Some(waiting) = self.deliveries.pop() else { return };
            if let Some(packet_id) = waiting.packet_id {
                self.give_up(packet_id, out);
            } else if too_large {
                let too_large = Outcome::Dropped(DropReason::TooLarge);
                push_receipt(waiting.queued.push, waiting.group(), too_large, out);
            }
        }
    }

    /// Writes one delivery; says how many bytes it took.
    fn write(&mut self, cx: &Context, at: Moment, waiting: Waiting<M>, out: &mut Vec<Action<M>>) -> usize {
        let Waiting { queued, qos, packet_id, origin } = waiting;
        let Queued { push, message: Some(message), dup, expires_at_ms, shared, .. } = queued else {
            return 0;
        };
        let view = match origin {
            Origin::Retained(identifier) => {
                View { identifiers: identifier.into_iter().collect(), retain: true }
            }
            // A retained message that goes on: as a retained one ([MQTT-3.3.1-8]).
            Origin::Resumed if push.is_retained() => {
                View { retain: true, ..self.subscriptions.view_of_push(message.message(), self.no, shared) }
            }
            _ => self.subscriptions.view_of_push(message.message(), self.no, shared),
        };
        let group = shared.map(|shared| shared.group);
        let tracked = Some(push).filter(|push| !push.is_retained());
        let outgoing = Outgoing { push: tracked, message, qos, dup, expires_at_ms, view };
        let (deliveries, recorded) = (&mut self.deliveries, packet_id.is_some());
        let given = match (qos, packet_id) {
            (Qos::AtMostOnce, _) => 0,
            (_, Some(packet_id)) => packet_id,
            (_, None) => deliveries.window.claim(push, group, qos, Phase::Sent),
        };
        match self.deliver(cx, at, outgoing, given, out) {
            Ok(len) => {
                if given == 0 {
                    push_receipt(push, group, Outcome::Sent, out);
                } else if recorded && let Some(entry) = self.deliveries.window.get_mut(given) {
                    entry.phase = Phase::Sent;
                }
                len
            }
            Err(TooLarge) => {
                if recorded {
                    self.end_exchange(given, out);
                } else if given != 0 {
                    self.deliveries.window.remove(given);
                }
                // [MQTT-3.1.2-25]: treated as if it were sent.
                push_receipt(push, group, Outcome::Dropped(DropReason::TooLarge), out);
                0
            }
        }
    }

    /// The last step of every PUBLISH: its length, its alias, its expiry.
    pub(super) fn deliver(
        &mut self,
        cx: &Context,
        at: Moment,
        outgoing: Outgoing<M>,
        packet_id: u16,
        out: &mut Vec<Action<M>>,
    ) -> Result<usize, TooLarge> {
        let Outgoing { push, message, qos, dup, expires_at_ms, view } = outgoing;
        let push = push.filter(|_| self.asks_for_push);
        let subscription_ids = if cx.version.is_v5() { view.identifiers } else { Box::default() };
        let alias = aliases::find(self.aliases.as_deref(), &message.message().topic, self.alias_maximum);
        let expires_at_ms = expires_at_ms.filter(|_| message.message().tells_expiry);
        let has_expiry = expires_at_ms.is_some();
        let own = OwnProperties { subscription_ids: &subscription_ids, alias, push };
        let len = publish_len(message.message(), cx.version, qos, has_expiry, own);
        if len > self.packet_len_max as usize {
            return Err(TooLarge);
        }
        aliases::give(&mut self.aliases, alias, &message.message().topic);
        let expiry_s = remaining_s(at, expires_at_ms);
        let (dup, retain) = (dup && packet_id != 0, view.retain);
        out.push(Action::Deliver(Delivery {
            message,
            qos,
            packet_id,
            dup,
            expiry_s,
            subscription_ids,
            retain,
            alias,
            push,
        }));
        Ok(len)
    }

    /// Puts something into the queue, its effective QoS decided if its message is here.
    pub(super) fn waiting(&self, queued: Queued<M>) -> Waiting<M> {
        let qos = self.qos_of(&queued);
        // Begun anew it was never sent: QoS 2 is recorded first, and so is sent again with its own packet id only.
        let dup = queued.dup && !(qos == Qos::ExactlyOnce && self.is_recorded());
        Waiting { queued: Queued { dup, ..queued }, qos, packet_id: None, origin: Origin::Push }
    }

    pub(super) fn qos_of(&self, queued: &Queued<M>) -> Qos {
        debug_assert!(!queued.push.is_retained(), "retained messages are queued with their QoS");
        let Some(message) = &queued.message else { return Qos::AtMostOnce };
        self.subscriptions.effective_qos(message.message(), self.no, queued.qos0, queued.shared)
    }
}

/// The length of a PUBLISH without identifiers and alias: if that is too large, it need not be begun.
fn len_min<M: MessageHandle>(cx: &Context, message: &M, waiting: &Waiting<M>) -> usize {
    let has_expiry = waiting.queued.expires_at_ms.is_some() && message.message().tells_expiry;
    publish_len(message.message(), cx.version, waiting.qos, has_expiry, OwnProperties::default())
}

/// Message Expiry Interval: what remains, rounded up, so that it is not 0 while it lasts; nor for a QoS 2 exchange that
/// goes on.
fn remaining_s(at: Moment, expires_at_ms: Option<u64>) -> Option<u32> {
    let remaining_ms = expires_at_ms?.saturating_sub(at.ms);
    Some(u32::try_from(remaining_ms.div_ceil(1_000)).unwrap_or(u32::MAX).max(1))
}
