//! What the terminal answers to deliveries (section 4.3).

use cluster_proto::{DropReason, Outcome, PushId, Qos, TerminalNo, link::Step};

use super::{Context, Live, Session, resume::pubrel};
use crate::mqtt::{
    action::{Action, MessageHandle, Moment, RequestNo},
    in_flight::{InFlight, Phase},
    packet::{Ack, Packet},
    reason::{CloseCause, Reason},
};

impl<M: MessageHandle> Session<M> {
    /// The answer to [`Action::Step`] with this request: it is fsynced on a majority.
    pub fn handle_recorded(&mut self, at: Moment, request: RequestNo, out: &mut Vec<Action<M>>) {
        let Some((cx, live)) = self.live_mut() else { return };
        let Some(entry) = live.deliveries.window.recorded(request) else { return };
        if entry.phase == Phase::Released {
            out.push(pubrel(entry.packet_id));
        }
        live.flush(cx, at, out);
    }
}

impl<M: MessageHandle> Live<M> {
    pub(super) fn handle_puback(
        &mut self,
        cx: &Context,
        at: Moment,
        ack: Ack,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        match self.answered(ack.packet_id) {
            // An unknown id is of an earlier connection of this terminal, or a repetition.
            None => return Ok(()),
            Some(entry) if entry.qos != Qos::AtLeastOnce => {
                return Err(CloseCause::Peer(Reason::PROTOCOL_ERROR));
            }
            Some(_) => {}
        }
        if let Some(entry) = self.deliveries.window.remove(ack.packet_id) {
            push_receipt(entry.push, entry.group, outcome(ack.reason), out);
        }
        self.flush(cx, at, out);
        Ok(())
    }

    pub(super) fn handle_pubrec(
        &mut self,
        cx: &Context,
        at: Moment,
        ack: Ack,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        let packet_id = ack.packet_id;
        let Some(entry) = self.answered(packet_id) else {
            if !ack.reason.is_error() {
                // Of an exchange that is over. The terminal still waits for the end of it.
                let reason = Reason::PACKET_ID_NOT_FOUND;
                out.push(Action::Send(Packet::PubRel(Ack { packet_id, reason })));
            }
            return Ok(());
        };
        match entry.phase {
            _ if entry.qos != Qos::ExactlyOnce => Err(CloseCause::Peer(Reason::PROTOCOL_ERROR)),
            Phase::Sent if ack.reason.is_error() => {
                self.give_up(packet_id, out);
                push_receipt(entry.push, entry.group, Outcome::Dropped(DropReason::Refused), out);
                self.flush(cx, at, out);
                Ok(())
            }
            Phase::Sent => {
                push_receipt(entry.push, entry.group, Outcome::Delivered, out);
                self.receive(packet_id, out);
                Ok(())
            }
            Phase::Released => {
                // A repetition: PUBREL was lost with nothing but patience ([MQTT-4.3.3-4]).
                out.push(pubrel(packet_id));
                Ok(())
            }
            // PUBREL is on its way.
            _ => Ok(()),
        }
    }

    /// PUBREC came: PUBREL follows, once that is recorded where the session outlives its connection.
    fn receive(&mut self, packet_id: u16, out: &mut Vec<Action<M>>) {
        let recorded = self.is_recorded();
        let Some(entry) = self.deliveries.window.get_mut(packet_id) else { return };
        if recorded {
            let request = self.requests.next();
            entry.phase = Phase::Receive(request);
            out.push(Action::Step { request: Some(request), packet_id, step: Step::Receive });
        } else {
            entry.phase = Phase::Released;
            out.push(pubrel(packet_id));
        }
    }

    pub(super) fn handle_pubcomp(
        &mut self,
        cx: &Context,
        at: Moment,
        ack: Ack,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        match self.answered(ack.packet_id).map(|entry| entry.phase) {
            None => return Ok(()),
            Some(Phase::Released) => {}
            // PUBCOMP answers PUBREL, and there was none.
            Some(_) => return Err(CloseCause::Peer(Reason::PROTOCOL_ERROR)),
        }
        self.give_up(ack.packet_id, out);
        self.flush(cx, at, out);
        Ok(())
    }

    /// The delivery a packet id stands for, as far as the terminal knows of it.
    fn answered(&self, packet_id: u16) -> Option<InFlight> {
        let entry = self.deliveries.window.get(packet_id)?;
        let known = !matches!(entry.phase, Phase::Begin(_) | Phase::Ready);
        known.then_some(*entry)
    }

    /// The packet id is free; a Begin that follows is in order behind this.
    pub(super) fn give_up(&mut self, packet_id: u16, out: &mut Vec<Action<M>>) {
        let recorded = self.is_recorded();
        let Some(entry) = self.deliveries.window.remove(packet_id) else { return };
        if recorded && entry.qos == Qos::ExactlyOnce {
            out.push(Action::Step { request: None, packet_id, step: Step::Complete });
        }
    }

    /// The payload of a delivery that an earlier connection began is gone, or nobody wants it any more: the exchange is
    /// ended without it.
    pub(super) fn end_exchange(&mut self, packet_id: u16, out: &mut Vec<Action<M>>) {
        match self.deliveries.window.get_mut(packet_id) {
            Some(entry) if entry.qos == Qos::ExactlyOnce && entry.resumed => {
                entry.phase = Phase::Released;
                out.push(pubrel(packet_id));
            }
            _ => self.give_up(packet_id, out),
        }
    }
}

fn outcome(reason: Reason) -> Outcome {
    if reason.is_error() { Outcome::Dropped(DropReason::Refused) } else { Outcome::Delivered }
}

/// Retained messages have no receipts.
pub(super) fn push_receipt<M>(
    push: PushId,
    group: Option<TerminalNo>,
    outcome: Outcome,
    out: &mut Vec<Action<M>>,
) {
    if !push.is_retained() {
        out.push(Action::Receipt { push, outcome, group });
    }
}
