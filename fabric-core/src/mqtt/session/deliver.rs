//! Pushes and messages to the terminal.

use cluster_proto::{DropReason, Message, Outcome, PushId, PushKind, Qos};

use super::{Context, Live, Matching, Session, Shown};
use crate::{
    mqtt::{
        action::{Action, Delivery, MessageHandle, Moment, Queued},
        deliveries::Feed,
        packet::Ack,
        size::publish_len,
    },
    subscriptions::filter,
};

impl<M: MessageHandle> Session<M> {
    /// A push was dispatched. Skipped if the terminal is not live: it will find it in what it is owed.
    pub fn handle_push(&mut self, at: Moment, queued: Queued<M>, out: &mut Vec<Action<M>>) {
        let Some((cx, live)) = self.live_mut() else { return };
        live.deliveries.push_live(queued);
        live.flush(cx, at, out);
    }

    /// The answer to [`Action::Pull`], in dispatch order; `is_live`: nothing lies between it and the next push.
    pub fn handle_owed(
        &mut self,
        at: Moment,
        pushes: impl IntoIterator<Item = Queued<M>>,
        is_live: bool,
        out: &mut Vec<Action<M>>,
    ) {
        let Some((cx, live)) = self.live_mut() else { return };
        live.deliveries.page(pushes, is_live);
        live.flush(cx, at, out);
    }

    /// The message of a push that was queued without it; `None`: it is gone, and nothing is owed any more.
    pub fn handle_payload(&mut self, at: Moment, push: PushId, message: Option<M>, out: &mut Vec<Action<M>>) {
        let Some((cx, live)) = self.live_mut() else { return };
        match message {
            Some(message) => {
                if let Some(queued) = live.deliveries.waiting_for(push) {
                    queued.message = Some(message);
                }
            }
            None => {
                live.deliveries.unqueue(push);
            }
        }
        live.flush(cx, at, out);
    }

    /// There is room in the connection again, or a lease.
    pub fn handle_writable(&mut self, at: Moment, out: &mut Vec<Action<M>>) {
        let Some((cx, live)) = self.live_mut() else { return };
        live.flush(cx, at, out);
    }

    /// The leader wants a push back. Answered by a receipt: NotWritten at once (also for one that never came here or
    /// was not written because it had expired), or what became of it, when that is known.
    pub fn withdraw(&mut self, at: Moment, push: PushId, out: &mut Vec<Action<M>>) {
        let Some((cx, live)) = self.live_mut() else { return };
        if live.deliveries.window.withdraw(push) {
            return;
        }
        live.deliveries.unqueue(push);
        out.push(Action::Receipt { push, outcome: Outcome::NotWritten, group: None });
        // It may have held up what was queued behind it.
        live.flush(cx, at, out);
    }

    /// The link to the leader is gone: no pull will be answered, no push comes.
    pub fn link_lost(&mut self) {
        if let Some((_, live)) = self.live_mut() {
            live.deliveries.feed = Feed::Off;
        }
    }

    /// There is a leader again, and Resume has told it where this session stands. A pull that seems to be under way was
    /// asked for when there was no link (a session bound by the last word of the old one): nobody will answer it.
    pub fn link_ready(&mut self, out: &mut Vec<Action<M>>) {
        let Some((_, live)) = self.live_mut() else { return };
        if live.no.is_some() {
            live.deliveries.feed = Feed::Behind;
            live.pull(out);
        }
    }

    /// Shows a message without status, once, at QoS 0: the caller's index says that a subscription matches. `own`: this
    /// terminal published it.
    pub fn show(
        &mut self,
        at: Moment,
        message: &M,
        own: bool,
        matching: Matching,
        expires_at_ms: Option<u64>,
        out: &mut Vec<Action<M>>,
    ) -> Shown {
        let Some((cx, live)) = self.live_mut() else { return Shown::NotWanted };
        live.show(cx, at, message, own, matching, expires_at_ms, out)
    }
}

impl<M: MessageHandle> Live<M> {
    pub(super) fn handle_puback(&mut self, cx: &Context, at: Moment, ack: Ack, out: &mut Vec<Action<M>>) {
        // An unknown id is of an earlier connection of this terminal, or a repetition.
        let Some(entry) = self.deliveries.window.acknowledge(ack.packet_id) else { return };
        let refused = ack.reason.is_error();
        let outcome = if refused { Outcome::Dropped(DropReason::Refused) } else { Outcome::Delivered };
        out.push(Action::Receipt { push: entry.push, outcome, group: None });
        self.flush(cx, at, out);
    }

    pub(super) fn has_waiting(&self) -> bool {
        let Some(Queued { message: Some(message), qos0, .. }) = self.deliveries.queue.front() else {
            return false;
        };
        effective_qos(message.message(), *qos0) == Qos::AtMostOnce || self.deliveries.window.has_room()
    }

    pub(super) fn pull(&mut self, out: &mut Vec<Action<M>>) {
        if let Some(max) = self.deliveries.next_pull() {
            out.push(Action::Pull { after: self.deliveries.after, max });
        }
    }

    /// Hands out what is queued, in order, as far as window and room go. Bounded by the queue.
    pub(super) fn flush(&mut self, cx: &Context, at: Moment, out: &mut Vec<Action<M>>) {
        let mut room = at.room;
        while room > 0 && self.has_waiting() {
            let Some(Queued { push, message: Some(message), qos0, dup, expires_at_ms, .. }) =
                self.deliveries.pop()
            else {
                break;
            };
            if expires_at_ms.is_some_and(|expires| expires <= at.ms) {
                // Settled by the leader, who finds it not in flight or withdraws it (I3).
                continue;
            }
            let qos = effective_qos(message.message(), qos0);
            let subscription_ids = self.subscription_ids(cx, message.message());
            let has_expiry = expires_at_ms.is_some();
            let len = publish_len(message.message(), cx.version, qos, has_expiry, &subscription_ids);
            if len > self.packet_len_max as usize {
                // [MQTT-3.1.2-24] and -25: not sent, and treated as if it were.
                out.push(Action::Receipt {
                    push,
                    outcome: Outcome::Dropped(DropReason::TooLarge),
                    group: None,
                });
                continue;
            }
            let packet_id = if qos == Qos::AtMostOnce { 0 } else { self.deliveries.window.send(push) };
            let dup = dup && packet_id != 0;
            let expiry_s = remaining_s(at, expires_at_ms);
            out.push(Action::Deliver(Delivery {
                message,
                qos,
                packet_id,
                dup,
                expiry_s,
                subscription_ids,
                alias: None,
                retain: false,
            }));
            if packet_id == 0 {
                out.push(Action::Receipt { push, outcome: Outcome::Sent, group: None });
            }
            room = room.saturating_sub(len);
        }
        self.pull(out);
    }

    #[expect(clippy::too_many_arguments, reason = "the arguments of Session::show and its context")]
    fn show(
        &mut self,
        cx: &Context,
        at: Moment,
        message: &M,
        own: bool,
        matching: Matching,
        expires_at_ms: Option<u64>,
        out: &mut Vec<Action<M>>,
    ) -> Shown {
        let Some(subscription_ids) = self.wanted_by(cx, message.message(), own, matching) else {
            return Shown::NotWanted;
        };
        let qos = Qos::AtMostOnce;
        let len = publish_len(message.message(), cx.version, qos, expires_at_ms.is_some(), &subscription_ids);
        let expired = expires_at_ms.is_some_and(|expires| expires <= at.ms);
        if at.room == 0 || expired || len > self.packet_len_max as usize {
            return Shown::Dropped;
        }
        let (message, expiry_s) = (message.clone(), remaining_s(at, expires_at_ms));
        out.push(Action::Deliver(Delivery {
            message,
            qos,
            packet_id: 0,
            dup: false,
            expiry_s,
            subscription_ids,
            alias: None,
            retain: false,
        }));
        Shown::Delivered
    }

    /// The identifiers of the subscriptions that want a message; `None` if none does.
    fn wanted_by(
        &self,
        cx: &Context,
        message: &Message,
        own: bool,
        matching: Matching,
    ) -> Option<Box<[u32]>> {
        if !self.look_at_each {
            return Some(Box::default());
        }
        let wanted = |held: &&super::live::Held| {
            (matching == Matching::Any || held.best_effort)
                && !(own && held.options.no_local)
                && filter::matches(&message.topic, &held.filter)
        };
        let mut wanted = self.subscriptions.iter().filter(wanted).peekable();
        wanted.peek()?;
        let ids = wanted.filter_map(|held| held.options.identifier);
        Some(if cx.version.is_v5() { ids.collect() } else { Box::default() })
    }

    /// The identifiers of the subscriptions a push comes from ([MQTT-3.3.4-3]); an identity push comes from none.
    fn subscription_ids(&self, cx: &Context, message: &Message) -> Box<[u32]> {
        if !self.look_at_each || message.kind != PushKind::Topic {
            return Box::default();
        }
        self.wanted_by(cx, message, false, Matching::Any).unwrap_or_default()
    }
}

fn effective_qos(message: &Message, qos0: bool) -> Qos {
    if qos0 { Qos::AtMostOnce } else { message.qos.min(Qos::AtLeastOnce) }
}

/// Message Expiry Interval: what remains, rounded up, so that it is not 0 while it lasts.
fn remaining_s(at: Moment, expires_at_ms: Option<u64>) -> Option<u32> {
    let remaining_ms = expires_at_ms?.saturating_sub(at.ms);
    Some(u32::try_from(remaining_ms.div_ceil(1_000)).unwrap_or(u32::MAX))
}
