//! What comes from the shards, and the answers to it.

use cluster_proto::{
    AppId, TerminalId,
    link::{
        Bind, Bound, Publish, PublishBody, RefuseReason, SessionReplyBody, SessionRequestBody, Subscribe,
        Subscription, Transient, Unbind, UnbindReason, Unsubscribe,
    },
};
use fabric_core::{
    link::SessionAnswer,
    mqtt::{CloseCause, MessageHandle as _, RequestNo},
};
use metrics::counter;

use super::Hub;
use crate::edge::{
    codec::Outgoing,
    messages::{BindAsk, ConnId, ToHub, ToShard},
    metrics as names,
};

/// Bytes of publishes that wait for their commit; beyond, PUBLISH is refused (quota exceeded).
const PUBLISHES_LEN_MAX: usize = 256 * 1024 * 1024;

/// A Bind that waits for the leader.
#[derive(Debug)]
pub(super) struct PendingBind {
    conn: ConnId,
    app: AppId,
    terminal: TerminalId,
    credential_issued_at: u64,
    /// The connection is gone: a binding that still comes is given back.
    pub(super) is_over: bool,
}

/// A subscription change that waits for the leader.
#[derive(Debug)]
pub(super) struct PendingChange {
    conn: ConnId,
    request: RequestNo,
    app: AppId,
    terminal: TerminalId,
}

/// A PUBLISH that waits for its commit.
#[derive(Debug)]
pub(super) struct PendingPublish {
    pub(super) conn: ConnId,
    pub(super) request: RequestNo,
    pub(super) size: usize,
}

impl Hub {
    pub(super) fn handle_shard(&mut self, message: ToHub) {
        match message {
            ToHub::Bind(ask) => self.bind(*ask),
            ToHub::Closed { conn, app, terminal, session_expiry_s } => {
                self.closed(conn, app, &terminal, session_expiry_s);
            }
            ToHub::Subscribe { conn, request, app, terminal, subscriptions } => {
                self.subscribe(PendingChange { conn, request, app, terminal }, subscriptions);
            }
            ToHub::Unsubscribe { conn, request, app, terminal, filters } => {
                self.unsubscribe(PendingChange { conn, request, app, terminal }, filters);
            }
            ToHub::Publish { conn, request, terminal, message, ttl_ms } => {
                let body = PublishBody::Push { message: *message, ttl_ms, exchange: None };
                let publish = Publish { seq: 0, terminal, body };
                self.publish(conn, request, publish);
            }
            ToHub::Transient(message) => self.forward(&message),
            ToHub::Receipt(push, outcome, no) => self.link.receipt(push, outcome, no),
            ToHub::Pull { no, epoch, after, max } => {
                // Without a leader it is asked again when there is one.
                self.link.request(SessionRequestBody::Pull { no, epoch, after, max });
            }
            ToHub::FilterAdded(app, filter, used_for) => self.filters.add(app, filter, used_for),
            ToHub::FilterRemoved(app, filter, used_for) => self.filters.remove(app, filter, used_for),
            ToHub::Report(link_no, report) => self.handle_report(link_no, *report),
            ToHub::LeaseMissed(link_no) if link_no == self.link_no => self.link.restart(self.now_ms),
            ToHub::LeaseMissed(_) => {}
            ToHub::AllClosed => self.shard_closed_all(),
        }
    }

    // ------------------------------------------------------------ CONNECT and its end

    fn bind(&mut self, ask: BindAsk) {
        let BindAsk { conn, app, terminal, no, credential_issued_at, clean_start, session_expiry_s } = ask;
        let request = self.link.request(SessionRequestBody::Bind(Bind {
            app,
            terminal: terminal.clone(),
            no,
            credential_issued_at,
            clean_start,
            session_expiry_s,
            connection: conn.connection,
            after_receipts: self.link.receipts_seq(),
            will: None,
        }));
        let Some(request) = request else {
            return self.ports.push(conn.shard, ToShard::Bound(conn, Err(RefuseReason::Unavailable)));
        };
        self.bind_of.insert(conn, request);
        self.binds.insert(request, PendingBind { conn, app, terminal, credential_issued_at, is_over: false });
    }

    fn bound(&mut self, bind: PendingBind, result: Result<Bound, RefuseReason>) {
        let PendingBind { conn, app, terminal, credential_issued_at, is_over } = bind;
        self.bind_of.remove(&conn);
        match result {
            Ok(bound) if is_over => self.give_back(app, terminal, conn, &bound),
            Ok(bound) => {
                let old = self.bindings.bind(app, terminal, conn, credential_issued_at, &bound);
                if let Some(old) = old {
                    let cause = CloseCause::Unbound(UnbindReason::TakenOver);
                    self.ports.push(old.conn.shard, ToShard::Close(old.conn, cause));
                }
                self.ports.push(conn.shard, ToShard::Bound(conn, Ok(bound)));
            }
            Err(_) if is_over => {}
            Err(refused) => self.ports.push(conn.shard, ToShard::Bound(conn, Err(refused))),
        }
    }

    fn give_back(&mut self, app: AppId, terminal: TerminalId, conn: ConnId, bound: &Bound) {
        let (epoch, session_expiry_s, connection) = (bound.epoch, bound.session_expiry_s, conn.connection);
        let unbind = Unbind {
            app,
            terminal,
            epoch,
            connection,
            session_expiry_s,
            unacknowledged: Vec::new(),
            will: cluster_proto::link::WillFate::Publish,
        };
        self.link.request(SessionRequestBody::Unbind(unbind));
    }

    fn closed(&mut self, conn: ConnId, app: AppId, terminal: &TerminalId, session_expiry_s: u32) {
        if let Some(request) = self.bind_of.remove(&conn) {
            self.link.cancel_bind(request);
            match self.binds.get_mut(&request) {
                Some(bind) if self.link.is_live() => bind.is_over = true,
                // It will not be sent: no answer comes.
                _ => drop(self.binds.remove(&request)),
            }
        }
        let binding = self.bindings.unbind(app, terminal, conn);
        if let Some(epoch) = self.unbinding.remove(&conn) {
            self.link.unbound(epoch);
        }
        // None: taken over by another connection of this edge, or never bound.
        if let Some(binding) = binding {
            self.link.request(SessionRequestBody::Unbind(Unbind {
                app,
                terminal: terminal.clone(),
                epoch: binding.epoch,
                connection: conn.connection,
                session_expiry_s,
                unacknowledged: Vec::new(),
                will: cluster_proto::link::WillFate::Publish,
            }));
        }
    }

    // ------------------------------------------------------------ subscriptions

    fn subscribe(&mut self, change: PendingChange, subscriptions: Vec<Subscription>) {
        let Some(epoch) = self.epoch_of(&change) else { return };
        let body = SessionRequestBody::Subscribe(Subscribe {
            seq: 0,
            app: change.app,
            terminal: change.terminal.clone(),
            epoch,
            connection: change.conn.connection,
            subscriptions,
        });
        self.change(change, body);
    }

    fn unsubscribe(&mut self, change: PendingChange, filters: Vec<String>) {
        let Some(epoch) = self.epoch_of(&change) else { return };
        let body = SessionRequestBody::Unsubscribe(Unsubscribe {
            seq: 0,
            app: change.app,
            terminal: change.terminal.clone(),
            epoch,
            connection: change.conn.connection,
            filters,
        });
        self.change(change, body);
    }

    fn change(&mut self, change: PendingChange, body: SessionRequestBody) {
        match self.link.request(body) {
            Some(request) => drop(self.changes.insert(request, change)),
            None => self.changed(change, Err(RefuseReason::Unavailable)),
        }
    }

    /// The binding's epoch; if another connection has it now, the change is of no use to anybody.
    fn epoch_of(&self, change: &PendingChange) -> Option<cluster_proto::Epoch> {
        let binding = self.bindings.get(change.app, &change.terminal)?;
        (binding.conn == change.conn).then_some(binding.epoch)
    }

    fn changed(
        &mut self,
        change: PendingChange,
        result: Result<(cluster_proto::TerminalNo, cluster_proto::SessionId), RefuseReason>,
    ) {
        let PendingChange { conn, request, app, terminal } = change;
        if let Ok((no, session)) = result {
            self.bindings.change(app, &terminal, conn, no, session);
        }
        self.ports.push(conn.shard, ToShard::Changed(conn, request, result));
    }

    pub(super) fn answer_session(&mut self, request: u64, answer: SessionAnswer) {
        if let Some(bind) = self.binds.remove(&request) {
            return match answer {
                SessionAnswer::Reply(SessionReplyBody::Bound(bound)) => self.bound(bind, Ok(bound)),
                SessionAnswer::Reply(SessionReplyBody::Refused(reason)) => self.bound(bind, Err(reason)),
                _ => self.bound(bind, Err(RefuseReason::Unavailable)),
            };
        }
        // Otherwise an Unbind, whose answer says nothing new.
        let Some(change) = self.changes.remove(&request) else { return };
        match answer {
            SessionAnswer::Reply(SessionReplyBody::Changed { no, session, .. }) => {
                self.changed(change, Ok((no, session)))
            }
            SessionAnswer::Reply(SessionReplyBody::Refused(reason)) => self.changed(change, Err(reason)),
            SessionAnswer::Reply(_) => self.changed(change, Err(RefuseReason::Unavailable)),
            // Committed, but number and session went with the old leader: a change of nothing tells them.
            SessionAnswer::Covered => self.subscribe(change, Vec::new()),
        }
    }

    // ------------------------------------------------------------ PUBLISH

    fn publish(&mut self, conn: ConnId, request: RequestNo, publish: Publish) {
        let size = match &publish.body {
            PublishBody::Push { message, .. } | PublishBody::Retain { message, .. } => message.size(),
            PublishBody::Release(_) => 0,
        };
        let room = self.publishes_len + size <= PUBLISHES_LEN_MAX;
        let seq = if room { self.link.publish(|seq| Publish { seq, ..publish }) } else { None };
        match seq {
            Some(seq) => {
                self.publishes_len += size;
                self.publishes.insert(seq, PendingPublish { conn, request, size });
            }
            None => {
                let refused = Err(RefuseReason::Quota);
                self.ports.push(conn.shard, ToShard::Published(conn, request, refused));
            }
        }
    }

    fn forward(&self, message: &Outgoing) {
        let Some(streams) = self.streams.as_ref().filter(|_| self.link.is_live()) else {
            return counter!(names::TRANSIENT_DROPPED, "reason" => "no-leader").increment(1);
        };
        let message = message.message();
        let body = match postcard::to_allocvec(message) {
            Ok(body) => body.into(),
            Err(error) => return tracing::warn!("a QoS 0 message cannot be forwarded: {error}"),
        };
        let (origin, app, topic) = (self.shared.node, message.app, message.topic.clone());
        let transient = Transient { origin, app, topic, body, members: None, ttl_ms: None };
        if streams.transient.try_send(transient).is_err() {
            counter!(names::TRANSIENT_DROPPED, "reason" => "hub-full").increment(1);
        }
    }
}
