//! Carrying out what sessions ask.

use bytes::Bytes;
use cluster_proto::{
    AppId, Message, Qos, TerminalId, TerminalNo, Will,
    link::{After, AppReceipts, ExchangeStep, Inbound, RetainedAsk, Step},
};
use fabric_core::mqtt::{
    Action, Close, CloseCause, Credentials, Grant, Incoming, Matching, MessageHandle as _, Moment, Relay,
    RequestNo, Session,
};

use super::{Actions, CLOSING_MS, GATHERED_TRANSIENT_MAX, OUT_LEN_MAX, Shard};
use crate::edge::{
    clock,
    codec::{self, Outgoing},
    messages::{BindAsk, ClosedPart, ConnId, ToHub, ToShard},
    notices::Limit,
};

/// Payloads up to this size are copied out of the buffer they were read into: a small payload that waits for its
/// commit must not hold on to 64 KiB.
const PAYLOAD_COPIED_MAX: usize = 16 * 1024;

impl Shard {
    /// Lets the session of `slot` take something in, and does what it asks.
    pub(super) fn with_session<R>(
        &mut self,
        slot: u32,
        input: impl FnOnce(&mut Session<Outgoing>, Moment, &mut Actions) -> R,
    ) -> Option<R> {
        let at = self.moment(slot);
        let mut actions = self.take_actions();
        let result = self.connections.get_mut(slot as usize).map(|c| input(&mut c.session, at, &mut actions));
        self.perform(slot, &mut actions);
        self.return_actions(actions);
        result
    }

    fn perform(&mut self, slot: u32, actions: &mut Actions) {
        if actions.is_empty() {
            return;
        }
        for action in actions.drain(..) {
            self.perform_one(slot, action);
        }
        self.arm(slot);
        self.mark_dirty(slot);
        let over = self.connections.get(slot as usize).filter(|c| c.out.len() > OUT_LEN_MAX);
        if let Some(connection) = over.filter(|c| c.closing_until_ms.is_none()) {
            let terminal = connection.session.grant().map(|grant| &grant.terminal);
            self.notices.limited(self.now_ms, Limit::Output, terminal);
            self.with_session(slot, |session, _, out| session.close(CloseCause::TooSlow, out));
        }
    }

    fn perform_one(&mut self, slot: u32, action: Action<Outgoing>) {
        match action {
            Action::Authenticate(credentials) => self.authenticate(slot, *credentials),
            Action::Bind { clean_start, session_expiry_s, will } => {
                self.bind(slot, clean_start, session_expiry_s, will)
            }
            Action::Send(packet) => {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    let version = connection.session.version();
                    codec::encode(&packet, version, connection.out.tail(&mut self.pool));
                    self.stats.packets_sent += 1;
                }
            }
            Action::Deliver(delivery) => {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    let version = connection.session.version();
                    codec::write_delivery(&delivery, version, connection.out.tail(&mut self.pool));
                    self.counters.delivered[delivery.qos as usize].increment(1);
                    self.stats.packets_sent += 1;
                    self.stats.publishes_sent += 1;
                }
            }
            Action::Accept(incoming) => self.accept(slot, *incoming),
            Action::AppReceipts { request, receipts } => self.app_receipts(slot, request, receipts),
            Action::Release { request, packet_id } => self.release(slot, request, packet_id),
            Action::Relay(relay) => self.relay(slot, *relay),
            Action::Subscribe { request, subscriptions } => {
                self.ask(slot, |conn, app, terminal| ToHub::Subscribe {
                    conn,
                    request,
                    app,
                    terminal,
                    subscriptions,
                });
            }
            Action::Unsubscribe { request, filters } => {
                self.ask(slot, |conn, app, terminal| ToHub::Unsubscribe {
                    conn,
                    request,
                    app,
                    terminal,
                    filters,
                });
            }
            Action::Subscribed { filter, best_effort } => self.index(slot, &filter, best_effort, true),
            Action::Unsubscribed { filter, best_effort } => self.index(slot, &filter, best_effort, false),
            Action::Receipt { push, outcome, group } => {
                // Of a terminal without a number nothing is ever tracked.
                if let Some(target) = group.or_else(|| self.no_of(slot)) {
                    self.counters.receipts.increment(1);
                    self.tell_hub(ToHub::Receipt(push, outcome, target));
                }
            }
            Action::Step { request, packet_id, step } => self.step(slot, request, packet_id, step),
            Action::Pull { after, max } => self.pull(slot, after, max),
            Action::Retained { request, filter, upto, after } => {
                self.ask(slot, |conn, app, terminal| {
                    let ask = Box::new(RetainedAsk { app, filter: filter.into_string(), upto, after });
                    ToHub::Retained { conn, request, terminal, ask }
                });
            }
            Action::Reauthenticate(token) => self.reauthenticate(slot, &token),
            Action::Close(close) => self.close(slot, close),
        }
    }

    // ------------------------------------------------------------ CONNECT

    fn authenticate(&mut self, slot: u32, credentials: Credentials) {
        if self.shared.is_draining() {
            return self.send_away(slot);
        }
        let certified =
            self.connections.get(slot as usize).and_then(|connection| connection.socket.client_name());
        let certified = certified.filter(|_| self.shared.limits.certificates_let_in);
        let (now_ms, wall_s) = (self.now_ms, clock::wall_s());
        let result = self.authenticator.authenticate(&self.shared, credentials, certified, now_ms, wall_s);
        self.with_session(slot, |session, at, out| session.handle_authenticated(at, result, out));
    }

    fn bind(&mut self, slot: u32, clean_start: bool, session_expiry_s: u32, will: Option<Box<Will>>) {
        let Some(conn) = self.conn_id(slot) else { return };
        let Some(grant) = self.grant_of(slot) else { return };
        let ask = BindAsk {
            conn,
            app: grant.app,
            terminal: grant.terminal.clone(),
            no: grant.no,
            credential_issued_at: grant.credential_issued_at,
            clean_start,
            session_expiry_s,
            will,
        };
        self.tell_hub(ToHub::Bind(Box::new(ask)));
    }

    fn reauthenticate(&mut self, slot: u32, token: &[u8]) {
        let result = self.authenticator.reauthenticate(&self.shared, token, self.now_ms, clock::wall_s());
        self.with_session(slot, |session, at, out| session.handle_reauthenticated(at, result, out));
        // The session refuses a credential of another terminal, and is closed then.
        let live = self.connections.get(slot as usize).filter(|connection| connection.session.is_live());
        let Some(issued_at) = live.and_then(|c| c.session.grant()).map(|grant| grant.credential_issued_at)
        else {
            return;
        };
        self.ask(slot, |conn, app, terminal| ToHub::Reauthenticated { conn, app, terminal, issued_at });
    }

    fn grant_of(&self, slot: u32) -> Option<&Grant> {
        self.connections.get(slot as usize)?.session.grant()
    }

    // ------------------------------------------------------------ requests

    fn ask(&mut self, slot: u32, build: impl FnOnce(ConnId, AppId, TerminalId) -> ToHub) {
        let Some(conn) = self.conn_id(slot) else { return };
        let Some((app, terminal)) = self.grant_of(slot).map(|grant| (grant.app, grant.terminal.clone()))
        else {
            return;
        };
        self.tell_hub(build(conn, app, terminal));
    }

    fn accept(&mut self, slot: u32, incoming: Incoming) {
        let Incoming { request, mut message, ttl_ms, exchange } = incoming;
        self.counters.published[message.qos as usize].increment(1);
        unpin(&mut message);
        let exchange = exchange.and_then(|packet_id| self.inbound(slot, packet_id));
        self.ask(slot, |conn, _, terminal| ToHub::Publish {
            conn,
            request,
            terminal,
            message: Box::new(message),
            ttl_ms,
            exchange,
        });
    }

    /// Those with QoS 0 give way when too much waits for the hub, as other QoS 0 messages do.
    fn app_receipts(&mut self, slot: u32, request: Option<RequestNo>, receipts: Option<Box<AppReceipts>>) {
        let has_room = request.is_some() || self.to_hub.len() < GATHERED_TRANSIENT_MAX;
        let Some(receipts) = receipts.filter(|_| has_room) else {
            return self.counters.app_receipts_ignored.increment(1);
        };
        self.ask(slot, |conn, _, terminal| ToHub::AppReceipts { conn, request, terminal, receipts });
    }

    fn release(&mut self, slot: u32, request: RequestNo, packet_id: u16) {
        let Some(exchange) = self.inbound(slot, packet_id) else { return };
        self.ask(slot, |conn, _, terminal| ToHub::Release { conn, request, terminal, exchange });
    }

    /// How an inbound exchange is known to the log. A session that outlives its connection has a number.
    fn inbound(&self, slot: u32, packet_id: u16) -> Option<Inbound> {
        let connection = self.connections.get(slot as usize)?;
        Some(Inbound { no: connection.no?, connection: connection.holder, packet_id })
    }

    fn step(&mut self, slot: u32, request: Option<RequestNo>, packet_id: u16, step: Step) {
        let Some(conn) = self.conn_id(slot) else { return };
        let Some(connection) = self.connections.get(slot as usize) else { return };
        let Some(no) = connection.no else { return };
        let step = ExchangeStep { no, connection: connection.holder, packet_id, step };
        self.tell_hub(ToHub::Step { conn, request, step });
    }

    fn pull(&mut self, slot: u32, after: After, max: u16) {
        let Some(no) = self.no_of(slot) else { return };
        let Some(epoch) = self.connections.get(slot as usize).and_then(|connection| connection.epoch) else {
            return;
        };
        self.tell_hub(ToHub::Pull { no, epoch, after, max });
    }

    // ------------------------------------------------------------ QoS 0

    /// Local subscribers first, without the leader; then the other shards, and other edges if one wants it. A retained
    /// message is kept besides.
    fn relay(&mut self, slot: u32, relay: Relay) {
        let Relay { mut message, expires_at_ms } = relay;
        self.counters.published[Qos::AtMostOnce as usize].increment(1);
        unpin(&mut message);
        let message = Outgoing::new(message);
        self.show_all(&message, Some(slot), Matching::Any, expires_at_ms);
        if self.peers.iter().any(|(peer, _)| self.shared.has_filters(*peer)) {
            self.to_peers.push(ToShard::Transient(message.clone(), expires_at_ms));
        }
        if self.to_hub.len() >= GATHERED_TRANSIENT_MAX {
            let lost = u64::from(self.shared.forwards_transient());
            self.counters.dropped_hub_full.increment(lost);
            self.stats.publishes_dropped += lost;
            self.counters.retain_refused.increment(u64::from(message.message().retain));
            return;
        }
        if message.message().retain {
            let message = message.clone();
            self.ask(slot, |conn, _, terminal| ToHub::Retain { conn, terminal, message, expires_at_ms });
        }
        if self.shared.forwards_transient() {
            self.tell_hub(ToHub::Transient(message, expires_at_ms));
        }
    }

    // ------------------------------------------------------------ the index

    fn index(&mut self, slot: u32, filter: &str, best_effort: bool, add: bool) {
        let Some(app) = self.grant_of(slot).map(|grant| grant.app) else { return };
        let before = self.to_hub.len();
        if add {
            self.subscriptions.add(app, filter, slot, best_effort, &mut self.to_hub);
        } else {
            self.subscriptions.remove(app, filter, slot, best_effort, &mut self.to_hub);
        }
        self.stats.subscriptions = self.subscriptions.subscriptions();
        if self.to_hub.len() > before {
            self.shared.set_filters(self.index, self.subscriptions.len());
            self.hub_news.notify_one();
        }
    }

    // ------------------------------------------------------------ the end

    /// This edge goes down: a terminal is told where else to go, each of the others in turn.
    pub(super) fn send_away(&mut self, slot: u32) {
        match self.shared.next_peer() {
            Some(peer) => self.with_session(slot, |session, _, out| {
                session.redirect(CloseCause::UseAnotherServer, Some(&peer), out);
            }),
            None => {
                self.with_session(slot, |session, _, out| session.close(CloseCause::ServerShuttingDown, out))
            }
        };
    }

    fn close(&mut self, slot: u32, close: Close) {
        let Close { cause, session_expiry_s, will, unacknowledged, .. } = close;
        self.counters.closed(cause);
        // Bound or not: the hub knows whether a Bind is under way.
        self.ask(slot, |conn, app, terminal| {
            ToHub::Closed(Box::new(ClosedPart {
                conn,
                app,
                terminal,
                ended_by_leader: matches!(cause, CloseCause::Unbound(_)),
                session_expiry_s,
                will,
                unacknowledged,
            }))
        });
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        tracing::debug!(
            terminal = connection.session.grant().map(|grant| grant.terminal.as_str()),
            ?cause,
            "connection ends"
        );
        connection.unread = Default::default();
        self.stats.connected -= u64::from(std::mem::take(&mut connection.counted));
        connection.closing_until_ms = Some(now_ms + CLOSING_MS);
        // A terminal that left does not listen any more.
        if matches!(cause, CloseCause::Disconnected | CloseCause::ConnectionLost | CloseCause::ConnectTimeout)
        {
            connection.out.free(&mut self.pool);
        }
        if let Some(no) = connection.no.filter(|no| self.by_no.get(no) == Some(&slot)) {
            self.by_no.remove(&no);
        }
    }

    fn no_of(&self, slot: u32) -> Option<TerminalNo> {
        self.connections.get(slot as usize)?.no
    }

    pub(super) fn tell_hub(&mut self, message: ToHub) {
        self.to_hub.push(message);
        self.hub_news.notify_one();
    }
}

/// See [`PAYLOAD_COPIED_MAX`].
fn unpin(message: &mut Message) {
    if message.payload.len() <= PAYLOAD_COPIED_MAX {
        message.payload = Bytes::copy_from_slice(&message.payload);
    }
}
