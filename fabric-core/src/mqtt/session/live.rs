//! A session whose CONNACK was sent.

use cluster_proto::{
    DropReason, Outcome, PushId, Qos, SessionId, TerminalNo,
    link::{Bound, Unacknowledged, WillFate},
};

use super::{Context, subscribe::Pending};
use crate::mqtt::{
    action::{Action, Close, MessageHandle, Moment, RequestNo},
    aliases::Aliases,
    deliveries::Deliveries,
    held::Subscriptions,
    in_flight::Phase,
    inbound::Inbound,
    keep_alive::KeepAlive,
    packet::{Disconnect, Packet},
    reason::{CloseCause, Reason},
    retained::Asks,
};

/// A session whose CONNACK was sent. An idle one holds no heap memory but its subscriptions.
#[derive(Debug)]
pub(super) struct Live<M> {
    pub(super) no: Option<TerminalNo>,
    pub(super) session: Option<SessionId>,
    pub(super) session_expiry_s: u32,
    /// It was 0 in CONNECT: then DISCONNECT may not change it.
    expiry_was_zero: bool,
    will: WillFate,
    pub(super) packet_len_max: u32,
    pub(super) keep_alive: KeepAlive,
    pub(super) deliveries: Deliveries<M>,
    pub(super) inbound: Inbound,
    pub(super) subscriptions: Subscriptions,
    /// Waiting for the leader; at most [`REQUESTS_MAX`].
    pub(super) pending: Vec<Pending>,
    /// Retained messages that are still to come.
    pub(super) asks: Option<Box<Asks>>,
    pub(super) aliases: Option<Box<Aliases>>,
    /// How many topic aliases we may give.
    pub(super) alias_maximum: u16,
    /// The terminal wants to be told push ids.
    pub(super) asks_for_push: bool,
    /// AUTH came, and its credential is being checked.
    pub(super) reauthenticating: bool,
    pub(super) requests: Requests,
}

/// Numbers requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Requests(u32);

impl Requests {
    pub(super) fn next(&mut self) -> RequestNo {
        self.0 = self.0.wrapping_add(1);
        RequestNo(self.0)
    }
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
            deliveries.fall_behind();
        }
        Self {
            no: bound.no,
            session: bound.session,
            session_expiry_s: bound.session_expiry_s,
            expiry_was_zero: bound.session_expiry_s == 0,
            will: WillFate::Publish,
            packet_len_max,
            keep_alive: KeepAlive::new(keep_alive_s, at.ms),
            deliveries,
            inbound: Inbound::default(),
            subscriptions: Subscriptions::default(),
            pending: Vec::new(),
            asks: None,
            aliases: None,
            alias_maximum: 0,
            asks_for_push: false,
            reauthenticating: false,
            requests: Requests::default(),
        }
    }

    /// Whether exchanges have to be committed step by step: the session outlives its connection.
    pub(super) fn is_recorded(&self) -> bool {
        self.session_expiry_s > 0 && self.session.is_some() && self.no.is_some()
    }

    pub(super) fn may_read(&self, cx: &Context) -> bool {
        // An MQTT 5 terminal knows the Receive Maximum, and is held to it instead.
        let room = cx.version.is_v5() || self.inbound.waiting() < usize::from(cx.config.receive_maximum);
        room && self.pending.len() < REQUESTS_MAX
    }

    pub(super) fn deadline(&self, cx: &Context) -> Option<u64> {
        let expires = cx.grant.as_ref().and_then(|grant| grant.expires_at_ms);
        // While we do not read, silence is not the terminal's.
        let silence = self.keep_alive.deadline().filter(|_| self.may_read(cx));
        expires.into_iter().chain(silence).min()
    }

    pub(super) fn in_flight(&self) -> impl Iterator<Item = (PushId, Option<TerminalNo>)> + '_ {
        let given = self.deliveries.window.iter().filter(|entry| entry.is_open());
        let given = given.map(|entry| (entry.push, entry.group));
        let queued = self.deliveries.queue.iter().filter(|waiting| waiting.packet_id.is_none());
        let queued = queued.map(|waiting| (waiting.queued.push, waiting.group()));
        given.chain(queued).filter(|(push, _)| !push.is_retained())
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
            Packet::PubRel(ack) => self.handle_pubrel(ack, out),
            Packet::PubAck(ack) => self.handle_puback(cx, at, ack, out),
            Packet::PubRec(ack) => self.handle_pubrec(cx, at, ack, out),
            Packet::PubComp(ack) => self.handle_pubcomp(cx, at, ack, out),
            Packet::Subscribe(subscribe) => self.handle_subscribe(cx, at, subscribe, out),
            Packet::Unsubscribe(unsubscribe) => self.handle_unsubscribe(cx, unsubscribe, out),
            Packet::PingReq => {
                out.push(Action::Send(Packet::PingResp));
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.handle_disconnect(cx, &disconnect)),
            Packet::Auth(auth) => self.handle_auth(cx, *auth, out),
            // [MQTT-3.1.0-2]: CONNECT comes once. The others only we send.
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => Err(CloseCause::Peer(Reason::PROTOCOL_ERROR)),
        }
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
        if disconnect.reason == Reason::SUCCESS {
            // [MQTT-3.14.4-3]; every other reason leaves the will to be published.
            self.will = WillFate::Discard;
        }
        CloseCause::Disconnected
    }

    /// The last receipts, and the index without this connection.
    pub(super) fn settle(self, cause: CloseCause, out: &mut Vec<Action<M>>) -> Close {
        let recorded = self.is_recorded();
        for entry in self.deliveries.window.iter() {
            if entry.withdrawn && entry.phase == Phase::Sent {
                out.push(Action::Receipt { push: entry.push, outcome: Outcome::Sent, group: entry.group });
            }
        }
        let unacknowledged = if recorded { self.unacknowledged() } else { Vec::new() };
        for waiting in self.deliveries.queue {
            let (group, push) = (waiting.group(), waiting.queued.push);
            let qos0 = waiting.queued.message.is_some_and(|message| message.message().qos == Qos::AtMostOnce);
            let outcome = match group {
                _ if push.is_retained() => continue,
                // Recorded, it stays with this member ([MQTT-4.8.2-4]).
                Some(_) if recorded && waiting.packet_id.is_some() => continue,
                Some(_) => Outcome::NotWritten,
                // A QoS 0 push is for those online.
                None if qos0 => Outcome::Dropped(DropReason::Offline),
                None => continue,
            };
            out.push(Action::Receipt { push, outcome, group });
        }
        self.subscriptions.release_all(out);
        let (session_expiry_s, will) = (self.session_expiry_s, self.will);
        Close { cause, bound: true, session_expiry_s, will, unacknowledged }
    }

    /// QoS 1, written over this connection or an earlier one, and not acknowledged ([MQTT-4.4.0-1]).
    fn unacknowledged(&self) -> Vec<Unacknowledged> {
        let Some(no) = self.no else { return Vec::new() };
        let written = self.deliveries.window.iter().filter(|entry| {
            let written = entry.phase == Phase::Sent || (entry.phase == Phase::Ready && entry.resumed);
            written && entry.qos == Qos::AtLeastOnce && !entry.withdrawn
        });
        written
            .map(|entry| Unacknowledged {
                packet_id: entry.packet_id,
                push: entry.push,
                target: entry.group.unwrap_or(no),
            })
            .collect()
    }
}
