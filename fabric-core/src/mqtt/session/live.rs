//! A session whose CONNACK was sent.

use cluster_proto::{
    DropReason, Outcome, Qos, SessionId, TerminalNo,
    link::{Bound, SubscriptionOptions},
};

use super::{Context, subscribe::Pending};
use crate::mqtt::{
    action::{Action, MessageHandle, Moment, RequestNo},
    deliveries::{Deliveries, Feed},
    inbound::Inbound,
    keep_alive::KeepAlive,
    packet::{Ack, Disconnect, Packet},
    reason::{CloseCause, Reason},
};

/// A session whose CONNACK was sent. An idle one holds no heap memory but its subscriptions.
#[derive(Debug)]
pub(super) struct Live<M> {
    pub(super) no: Option<TerminalNo>,
    pub(super) session: Option<SessionId>,
    pub(super) session_expiry_s: u32,
    /// It was 0 in CONNECT: then DISCONNECT may not change it.
    expiry_was_zero: bool,
    pub(super) packet_len_max: u32,
    pub(super) keep_alive: KeepAlive,
    pub(super) deliveries: Deliveries<M>,
    pub(super) inbound: Inbound,
    pub(super) subscriptions: Vec<Held>,
    /// Some subscription has an identifier or No Local: then deliveries look at each of them.
    pub(super) look_at_each: bool,
    /// Waiting for the leader; at most [`REQUESTS_MAX`].
    pub(super) pending: Vec<Pending>,
    last_request: u32,
}

/// A subscription that is in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) filter: Box<str>,
    pub(super) qos: Qos,
    pub(super) options: SubscriptionOptions,
    /// QoS 0 of a session that ends with its connection: this edge alone keeps it, it costs no log write.
    pub(super) best_effort: bool,
}

/// SUBSCRIBE and UNSUBSCRIBE packets that wait for the leader; then no more is read from the connection (I10).
pub(super) const REQUESTS_MAX: usize = 16;

impl<M: MessageHandle> Live<M> {
    pub(super) fn new(
        at: Moment,
        keep_alive_s: u16,
        window: u16,
        packet_len_max: u32,
        bound: &Bound,
    ) -> Self {
        let mut deliveries = Deliveries::new(window);
        if bound.no.is_some() {
            deliveries.feed = Feed::Behind;
        }
        Self {
            no: bound.no,
            session: bound.session,
            session_expiry_s: bound.session_expiry_s,
            expiry_was_zero: bound.session_expiry_s == 0,
            packet_len_max,
            keep_alive: KeepAlive::new(keep_alive_s, at.ms),
            deliveries,
            inbound: Inbound::default(),
            subscriptions: Vec::new(),
            look_at_each: false,
            pending: Vec::new(),
            last_request: 0,
        }
    }

    pub(super) fn may_read(&self, cx: &Context) -> bool {
        // An MQTT 5 terminal knows the Receive Maximum, and is held to it instead.
        let room = cx.version.is_v5() || self.inbound.len() < usize::from(cx.config.receive_maximum);
        room && self.pending.len() < REQUESTS_MAX
    }

    pub(super) fn deadline(&self, cx: &Context) -> Option<u64> {
        let expires = cx.grant.as_ref().and_then(|grant| grant.expires_at_ms);
        // While we do not read, silence is not the terminal's.
        let silence = self.keep_alive.deadline().filter(|_| self.may_read(cx));
        expires.into_iter().chain(silence).min()
    }

    pub(super) fn next_request(&mut self) -> RequestNo {
        self.last_request = self.last_request.wrapping_add(1);
        RequestNo(self.last_request)
    }

    pub(super) fn handle_packet(
        &mut self,
        cx: &Context,
        at: Moment,
        packet: Packet,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        self.keep_alive.heard(at.ms);
        match packet {
            Packet::Publish(publish) => self.handle_publish(cx, at, *publish, out),
            Packet::PubAck(ack) => {
                self.handle_puback(cx, at, ack, out);
                Ok(())
            }
            Packet::PubRec(ack) => self.handle_pubrec(ack, out),
            Packet::PubRel(ack) => {
                // We take no QoS 2 PUBLISH: this is of a session that is not ours. Completing it lets the terminal go on.
                let reason = Reason::PACKET_ID_NOT_FOUND;
                out.push(Action::Send(Packet::PubComp(Ack { packet_id: ack.packet_id, reason })));
                Ok(())
            }
            Packet::PubComp(_) => Ok(()),
            Packet::Subscribe(subscribe) => self.handle_subscribe(cx, subscribe, out),
            Packet::Unsubscribe(unsubscribe) => self.handle_unsubscribe(unsubscribe, out),
            Packet::PingReq => {
                out.push(Action::Send(Packet::PingResp));
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.handle_disconnect(cx, &disconnect)),
            // [MQTT-3.1.0-2]: CONNECT comes once. AUTH needs a method agreed in CONNECT. The others only we send.
            Packet::Connect(_)
            | Packet::Auth(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => Err(CloseCause::Peer(Reason::PROTOCOL_ERROR)),
        }
    }

    fn handle_pubrec(&mut self, ack: Ack, out: &mut Vec<Action<M>>) -> Result<(), CloseCause> {
        if self.deliveries.window.contains(ack.packet_id) {
            // It answers a QoS 1 PUBLISH as if it were QoS 2.
            return Err(CloseCause::Peer(Reason::PROTOCOL_ERROR));
        }
        if !ack.reason.is_error() {
            let reason = Reason::PACKET_ID_NOT_FOUND;
            out.push(Action::Send(Packet::PubRel(Ack { packet_id: ack.packet_id, reason })));
        }
        Ok(())
    }

    fn handle_disconnect(&mut self, cx: &Context, disconnect: &Disconnect) -> CloseCause {
        match disconnect.session_expiry_s {
            // Section 3.14.2.2.2: an expiry of 0 cannot be raised at the end.
            Some(expiry_s) if expiry_s > 0 && self.expiry_was_zero => {
                return CloseCause::Peer(Reason::PROTOCOL_ERROR);
            }
            Some(expiry_s) => self.session_expiry_s = expiry_s.min(cx.config.session_expiry_s_max),
            None => {}
        }
        CloseCause::Disconnected
    }

    /// The last receipts, and the index without this connection.
    pub(super) fn settle(self, out: &mut Vec<Action<M>>) {
        for entry in self.deliveries.window.iter().filter(|entry| entry.withdrawn) {
            out.push(Action::Receipt { push: entry.push, outcome: Outcome::Sent, group: None });
        }
        for queued in self.deliveries.queue {
            // A QoS 0 push is for those online.
            if queued.message.is_some_and(|message| message.message().qos == Qos::AtMostOnce) {
                let outcome = Outcome::Dropped(DropReason::Offline);
                out.push(Action::Receipt { push: queued.push, outcome, group: None });
            }
        }
        for held in self.subscriptions {
            out.push(Action::Unsubscribed { filter: held.filter, best_effort: held.best_effort });
        }
    }
}
