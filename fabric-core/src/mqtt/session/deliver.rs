//! Pushes and messages to the terminal.

use cluster_proto::{Outcome, PushId, Qos, TerminalNo};

use super::{
    Live, Matching, Session, Shown,
    exchange::push_receipt,
    flush::{Outgoing, TooLarge},
};
use crate::mqtt::{
    action::{Action, MessageHandle, Moment, Queued},
    deliveries::Origin,
    in_flight::Phase,
};

impl<M: MessageHandle> Session<M> {
    /// A push was dispatched. Skipped if the terminal is not live: it will find it in what it is owed. One for a shared
    /// subscription group is then answered with NotWritten.
    pub fn handle_push(&mut self, at: Moment, queued: Queued<M>, out: &mut Vec<Action<M>>) {
        let Some((cx, live)) = self.live_mut() else { return };
        let (push, shared, waiting) = (queued.push, queued.shared, live.waiting(queued));
        match shared {
            None => live.deliveries.push_live(waiting),
            Some(shared) => {
                if !live.deliveries.push_shared(waiting) {
                    push_receipt(push, Some(shared.group), Outcome::NotWritten, out);
                }
            }
        }
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
        let pushes: Vec<_> = pushes.into_iter().map(|queued| live.waiting(queued)).collect();
        live.deliveries.page(pushes, is_live);
        live.flush(cx, at, out);
    }

    /// The message of a push that was queued without it; `None`: it is gone, and nothing is owed any more.
    pub fn handle_payload(&mut self, at: Moment, push: PushId, message: Option<M>, out: &mut Vec<Action<M>>) {
        let Some((cx, live)) = self.live_mut() else { return };
        live.take_payload(push, message.as_ref(), out);
        live.flush(cx, at, out);
    }

    /// There is room in the connection again, or a lease.
    pub fn handle_writable(&mut self, at: Moment, out: &mut Vec<Action<M>>) {
        let Some((cx, live)) = self.live_mut() else { return };
        live.flush(cx, at, out);
    }

    /// The leader wants a push back, of the terminal's own or of a shared subscription group. Answered by a receipt:
    /// NotWritten at once (also for one that never came here or was not written because it had expired), or what
    /// became of it, when that is known.
    pub fn withdraw(
        &mut self,
        at: Moment,
        push: PushId,
        group: Option<TerminalNo>,
        out: &mut Vec<Action<M>>,
    ) {
        let Some((cx, live)) = self.live_mut() else { return };
        if push.is_retained() {
            return; // only pushes are asked for
        }
        live.withdraw(push, group, out);
        // It may have held up what was queued behind it.
        live.flush(cx, at, out);
    }

    /// The link to the leader is gone: no pull will be answered, no push comes.
    pub fn link_lost(&mut self) {
        if let Some((_, live)) = self.live_mut() {
            live.deliveries.turn_off();
        }
    }

    /// There is a leader again, and Resume has told it where this session stands. A pull that seems to be under way was
    /// asked for when there was no link (a session bound by the last word of the old one): nobody will answer it.
    pub fn link_ready(&mut self, out: &mut Vec<Action<M>>) {
        let Some((_, live)) = self.live_mut() else { return };
        if live.no.is_some() {
            live.deliveries.fall_behind();
            live.pull(out);
        }
        if let Some(asks) = &mut live.asks {
            asks.restart();
        }
        live.ask_retained(out);
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
        let Some(view) = live.subscriptions.view_of_shown(message.message(), live.no, own, matching) else {
            return Shown::NotWanted;
        };
        if at.room == 0 || expires_at_ms.is_some_and(|expires| expires <= at.ms) {
            return Shown::Dropped;
        }
        let (message, qos, dup) = (message.clone(), Qos::AtMostOnce, false);
        match live.deliver(cx, at, Outgoing { push: None, message, qos, dup, expires_at_ms, view }, 0, out) {
            Ok(_) => Shown::Delivered,
            Err(TooLarge) => Shown::Dropped,
        }
    }
}

impl<M: MessageHandle> Live<M> {
    fn take_payload(&mut self, push: PushId, message: Option<&M>, out: &mut Vec<Action<M>>) {
        // The terminal's own, and one for each group it is a member of.
        while let Some(waiting) = self.deliveries.waiting_for(push) {
            let (packet_id, group) = (waiting.packet_id, waiting.group());
            match message {
                Some(message) if waiting.origin == Origin::Resumed => {
                    waiting.queued.message = Some(message.clone());
                }
                Some(message) => {
                    // Its QoS is known now; put into its place again with it.
                    let queued = Queued { message: Some(message.clone()), ..waiting.queued.clone() };
                    let decided = self.waiting(queued);
                    if let Some(waiting) = self.deliveries.waiting_for(push) {
                        *waiting = decided;
                    }
                    self.deliveries.unbegun = true;
                }
                None => {
                    self.deliveries.unqueue(push, group);
                    if let Some(packet_id) = packet_id {
                        self.end_exchange(packet_id, out);
                    }
                }
            }
        }
    }

    fn withdraw(&mut self, push: PushId, group: Option<TerminalNo>, out: &mut Vec<Action<M>>) {
        let not_written = |out: &mut Vec<Action<M>>| push_receipt(push, group, Outcome::NotWritten, out);
        let Some(entry) = self.deliveries.window.find(push, group) else {
            self.deliveries.unqueue(push, group);
            return not_written(out);
        };
        match entry.phase {
            Phase::Sent => entry.withdrawn = true,
            // Delivered is on its way.
            Phase::Receive(_) | Phase::Released => {}
            Phase::Begin(_) | Phase::Ready => {
                let (packet_id, resumed) = (entry.packet_id, entry.resumed);
                self.deliveries.unqueue(push, group);
                self.end_exchange(packet_id, out);
                if resumed {
                    // An earlier connection wrote it, and it is not sent again.
                    push_receipt(push, group, Outcome::Sent, out);
                } else {
                    not_written(out);
                }
            }
        }
    }
}
