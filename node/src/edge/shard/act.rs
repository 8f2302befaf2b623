//! Carrying out what sessions ask.

use bytes::Bytes;
use cluster_proto::{AppId, Message, Qos, TerminalId};
use fabric_core::mqtt::{
    Action, Close, CloseCause, Credentials, Grant, Incoming, Matching, Moment, Relay, Session,
};

use super::{Actions, CLOSING_MS, GATHERED_TRANSIENT_MAX, OUT_LEN_MAX, Shard};
use crate::edge::{
    clock,
    codec::{self, Outgoing},
    messages::{BindAsk, ToHub, ToShard},
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
        let too_much = self.connections.get(slot as usize).is_some_and(|c| c.out.len() > OUT_LEN_MAX);
        if too_much {
            self.with_session(slot, |session, _, out| session.close(CloseCause::TooSlow, out));
        }
    }

    fn perform_one(&mut self, slot: u32, action: Action<Outgoing>) {
        match action {
            Action::Authenticate(credentials) => self.authenticate(slot, *credentials),
            Action::Bind { clean_start, session_expiry_s, .. } => {
                self.bind(slot, clean_start, session_expiry_s)
            }
            Action::Send(packet) => {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    let version = connection.session.version();
                    codec::encode(&packet, version, connection.out.tail(&mut self.pool));
                }
            }
            Action::Deliver(delivery) => {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    let version = connection.session.version();
                    codec::write_delivery(&delivery, version, connection.out.tail(&mut self.pool));
                    self.counters.delivered[delivery.qos as usize].increment(1);
                }
            }
            Action::Accept(incoming) => self.accept(slot, *incoming),
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
            Action::Receipt { push, outcome, .. } => {
                // Of a terminal without a number nothing is ever tracked.
                if let Some(no) = self.no_of(slot) {
                    self.counters.receipts.increment(1);
                    self.tell_hub(ToHub::Receipt(push, outcome, no));
                }
            }
            Action::Pull { after, max } => self.pull(slot, after, max),
            Action::Release { .. }
            | Action::Step { .. }
            | Action::Retained { .. }
            | Action::Reauthenticate(_) => {}
            Action::Close(close) => self.close(slot, close),
        }
    }

    // ------------------------------------------------------------ CONNECT

    fn authenticate(&mut self, slot: u32, credentials: Credentials) {
        let result = self.authenticator.authenticate(&self.shared, credentials, self.now_ms, clock::wall_s());
        self.with_session(slot, |session, at, out| session.handle_authenticated(at, result, out));
    }

    fn bind(&mut self, slot: u32, clean_start: bool, session_expiry_s: u32) {
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
        };
        self.tell_hub(ToHub::Bind(Box::new(ask)));
    }

    fn grant_of(&self, slot: u32) -> Option<&Grant> {
        self.connections.get(slot as usize)?.session.grant()
    }

    // ------------------------------------------------------------ requests

    fn ask(
        &mut self,
        slot: u32,
        build: impl FnOnce(crate::edge::messages::ConnId, AppId, TerminalId) -> ToHub,
    ) {
        let Some(conn) = self.conn_id(slot) else { return };
        let Some((app, terminal)) = self.grant_of(slot).map(|grant| (grant.app, grant.terminal.clone()))
        else {
            return;
        };
        self.tell_hub(build(conn, app, terminal));
    }

    fn accept(&mut self, slot: u32, incoming: Incoming) {
        let Incoming { request, mut message, ttl_ms, .. } = incoming;
        self.counters.published[Qos::AtLeastOnce as usize].increment(1);
        unpin(&mut message);
        self.ask(slot, |conn, _, terminal| ToHub::Publish {
            conn,
            request,
            terminal,
            message: Box::new(message),
            ttl_ms,
        });
    }

    fn pull(&mut self, slot: u32, after: cluster_proto::PushId, max: u16) {
        let Some(no) = self.no_of(slot) else { return };
        let Some(epoch) = self.connections.get(slot as usize).and_then(|connection| connection.epoch) else {
            return;
        };
        self.tell_hub(ToHub::Pull { no, epoch, after, max });
    }

    // ------------------------------------------------------------ QoS 0

    /// Local subscribers first, without the leader; then the other shards, and other edges if one wants it.
    fn relay(&mut self, slot: u32, relay: Relay) {
        let Relay { mut message, expires_at_ms } = relay;
        self.counters.published[Qos::AtMostOnce as usize].increment(1);
        unpin(&mut message);
        let message = Outgoing::new(message);
        self.show_all(&message, Some(slot), Matching::Any, expires_at_ms);
        if self.peers.iter().any(|(peer, _)| self.shared.has_filters(*peer)) {
            self.to_peers.push(ToShard::Transient(message.clone(), expires_at_ms));
        }
        if self.shared.forwards_transient() {
            if self.to_hub.len() < GATHERED_TRANSIENT_MAX {
                self.tell_hub(ToHub::Transient(message));
            } else {
                self.counters.dropped_hub_full.increment(1);
            }
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
        if self.to_hub.len() > before {
            self.shared.set_filters(self.index, self.subscriptions.len());
            self.hub_news.notify_one();
        }
    }

    // ------------------------------------------------------------ the end

    fn close(&mut self, slot: u32, close: Close) {
        let Close { cause, session_expiry_s, .. } = close;
        self.counters.closed(cause);
        // Bound or not: the hub knows whether a Bind is under way.
        self.ask(slot, |conn, app, terminal| ToHub::Closed { conn, app, terminal, session_expiry_s });
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        tracing::debug!(
            terminal = connection.session.grant().map(|grant| grant.terminal.as_str()),
            ?cause,
            "connection ends"
        );
        connection.unread = Default::default();
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

    fn no_of(&self, slot: u32) -> Option<cluster_proto::TerminalNo> {
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
