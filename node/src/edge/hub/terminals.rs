//! What comes from the shards about terminals and their sessions, and the answers to it.

use std::collections::HashMap;

use cluster_proto::{
    AppId, Epoch, Qos, TerminalId,
    link::{
        Bind, Bound, Outbound, OutboundStage, RefuseReason, SessionReplyBody, SessionRequestBody, Subscribe,
        Subscription, Unbind, UnbindReason, Unsubscribe, WillFate,
    },
};
use fabric_core::{
    link::SessionAnswer,
    mqtt::{Changed, CloseCause, Queued, RequestNo, Shared},
};

use super::Hub;
use crate::edge::{
    codec::Outgoing,
    messages::{BindAsk, BoundPart, ClosedPart, ConnId, ToHub, ToShard},
    notices::Limit,
};

/// A Bind that waits for the leader.
#[derive(Debug)]
pub(super) struct PendingBind {
    conn: ConnId,
    holder: u64,
    app: AppId,
    terminal: TerminalId,
    credential_issued_at: u64,
    /// The connection is gone: a binding that still comes is given back.
    pub(super) is_over: bool,
    /// The leader has ended bindings up to this already: its Unbind overtook its Bound, on a stream of its own.
    ended_upto: Option<Epoch>,
}

/// A subscription change that waits for the leader.
#[derive(Debug)]
pub(super) struct PendingChange {
    conn: ConnId,
    request: RequestNo,
    app: AppId,
    terminal: TerminalId,
}

/// Bindings whose Unbind waits for its answer. As many as the Unbinds that are kept.
///
/// Unbind and Unbound have streams of their own. What the leader does once it has Unbound must come after the Unbind,
/// which says what becomes of will and session: so a binding that ended by itself is Unbound when its end is committed.
#[derive(Debug, Default)]
pub(super) struct Ends {
    requests: HashMap<u64, Epoch>,
    /// Whether the leader waits for Unbound.
    asked: HashMap<Epoch, bool>,
}

impl Ends {
    fn begin(&mut self, request: u64, epoch: Epoch) {
        self.requests.insert(request, epoch);
        self.asked.insert(epoch, false);
    }

    /// The leader wants Unbound; `false`: nothing has to come before it.
    pub(super) fn ask(&mut self, epoch: Epoch) -> bool {
        self.asked.get_mut(&epoch).map(|asked| *asked = true).is_some()
    }

    /// The Unbind was answered: the binding, if the leader waits for its Unbound.
    fn answered(&mut self, request: u64) -> Option<Epoch> {
        let epoch = self.requests.remove(&request)?;
        self.asked.remove(&epoch).filter(|asked| *asked).map(|_| epoch)
    }
}

impl Hub {
    pub(super) fn handle_shard(&mut self, message: ToHub) {
        match message {
            ToHub::Bind(ask) => self.bind(*ask),
            ToHub::Closed(part) => self.closed(*part),
            ToHub::Reauthenticated { conn, app, terminal, issued_at } => {
                self.bindings.reauthenticate(app, &terminal, conn, issued_at);
            }
            ToHub::Subscribe { conn, .. }
            | ToHub::Unsubscribe { conn, .. }
            | ToHub::Retained { conn, .. } => {
                if let Some(message) = self.retains.hold(conn, message) {
                    self.handle_ordered(message);
                }
            }
            ToHub::Publish { conn, request, terminal, message, ttl_ms, exchange } => {
                self.publish(conn, request, terminal, *message, ttl_ms, exchange);
            }
            ToHub::AppReceipts { conn, request, terminal, receipts } => {
                self.app_receipts(conn, request, terminal, *receipts);
            }
            ToHub::Release { conn, request, terminal, exchange } => {
                self.release(conn, request, terminal, exchange);
            }
            ToHub::Retain { conn, terminal, message, expires_at_ms } => {
                self.retain(conn, terminal, &message, expires_at_ms);
            }
            ToHub::Transient(message, expires_at_ms) => self.forward(&message, expires_at_ms),
            ToHub::Receipt(push, outcome, no) => self.link.receipt(push, outcome, no),
            ToHub::Step { conn, request, step } => {
                let seq = self.link.step(step);
                self.recording.extend(request.map(|request| (seq, conn, request)));
            }
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

    /// What must not overtake a connection's own retained messages: see [`super::publishes::Retains`].
    pub(super) fn handle_ordered(&mut self, message: ToHub) {
        match message {
            ToHub::Subscribe { conn, request, app, terminal, subscriptions } => {
                self.subscribe(PendingChange { conn, request, app, terminal }, subscriptions);
            }
            ToHub::Unsubscribe { conn, request, app, terminal, filters } => {
                self.unsubscribe(PendingChange { conn, request, app, terminal }, filters);
            }
            ToHub::Retained { conn, request, terminal, ask } => {
                self.ask_retained(conn, request, terminal, *ask)
            }
            other => self.handle_shard(other),
        }
    }

    /// Receipts and steps are committed up to `seq`.
    pub(super) fn recorded(&mut self, seq: u64) {
        while let Some((_, conn, request)) = self.recording.pop_front_if(|(covering, ..)| *covering <= seq) {
            self.ports.push(conn.shard, ToShard::Recorded(conn, request));
        }
    }

    // ------------------------------------------------------------ CONNECT and its end

    fn bind(&mut self, ask: BindAsk) {
        let BindAsk { conn, app, terminal, no, credential_issued_at, clean_start, session_expiry_s, will } =
            ask;
        if !self.has_place(app, &terminal) {
            return self.ports.push(conn.shard, ToShard::Bound(conn, Err(RefuseReason::Quota)));
        }
        self.last_holder += 1;
        let holder = self.last_holder;
        let request = self.link.request(SessionRequestBody::Bind(Bind {
            app,
            terminal: terminal.clone(),
            no,
            credential_issued_at,
            clean_start,
            session_expiry_s,
            connection: holder,
            after_receipts: self.link.receipts_seq(),
            will: will.map(|will| *will),
        }));
        let Some(request) = request else {
            return self.ports.push(conn.shard, ToShard::Bound(conn, Err(RefuseReason::Unavailable)));
        };
        self.bind_of.insert(conn, request);
        self.binds.insert(
            request,
            PendingBind {
                conn,
                holder,
                app,
                terminal,
                credential_issued_at,
                is_over: false,
                ended_upto: None,
            },
        );
    }

    /// The leader ended a binding that is not known here: it may be on its way.
    pub(super) fn end_awaited(&mut self, app: AppId, terminal: &TerminalId, epoch: Epoch) {
        for bind in self.binds.values_mut().filter(|bind| bind.app == app && bind.terminal == *terminal) {
            bind.ended_upto = bind.ended_upto.max(Some(epoch));
        }
    }

    /// Whether the app may have one more terminal here. One that is here already takes its own place.
    fn has_place(&mut self, app: AppId, terminal: &TerminalId) -> bool {
        let max = self.shared.limits.connections_per_app;
        let full = max > 0 && self.bindings.len_of(app) >= max && self.bindings.get(app, terminal).is_none();
        if full {
            self.notices.limited(self.now_ms, Limit::ConnectionsPerApp, Some(terminal));
        }
        !full
    }

    fn bound(&mut self, bind: PendingBind, result: Result<Bound, RefuseReason>) {
        let PendingBind { conn, holder, app, terminal, credential_issued_at, is_over, ended_upto } = bind;
        self.bind_of.remove(&conn);
        let result = match result {
            Ok(bound) if is_over => return self.give_back(app, terminal, holder, &bound),
            // Kicked, or somebody else has the terminal by now: its session may be with this connection all the same.
            Ok(bound) if Some(bound.epoch) <= ended_upto => {
                self.give_back(app, terminal, holder, &bound);
                Err(RefuseReason::Stale)
            }
            // Others bound meanwhile.
            Ok(bound) if !self.has_place(app, &terminal) => {
                self.give_back(app, terminal, holder, &bound);
                Err(RefuseReason::Quota)
            }
            Ok(bound) => {
                // The leader has had an older connection here closed (Unbind), and waited for it in vain.
                if let Some(old) =
                    self.bindings.bind(app, terminal, (conn, holder), credential_issued_at, &bound)
                {
                    let cause = CloseCause::Unbound(UnbindReason::TakenOver);
                    self.ports.push(old.conn.shard, ToShard::Close(old.conn, cause));
                }
                let outbound =
                    bound.outbound.iter().map(|outbound| self.resumed(conn.shard, &bound, outbound));
                let outbound = outbound.collect();
                Ok(Box::new(BoundPart { bound, holder, outbound }))
            }
            Err(_) if is_over => return,
            Err(refused) => Err(refused),
        };
        self.ports.push(conn.shard, ToShard::Bound(conn, result));
    }

    /// A delivery that an earlier connection began.
    fn resumed(&mut self, shard: u16, bound: &Bound, outbound: &Outbound) -> Queued<Outgoing> {
        let Outbound { push, target, stage, expires_at_ms, .. } = *outbound;
        let (granted, message) = match stage {
            OutboundStage::Sent => (Qos::AtLeastOnce, self.message(push, shard)),
            OutboundStage::Begun => (Qos::ExactlyOnce, self.message(push, shard)),
            // Only PUBREL is left to be sent.
            OutboundStage::Received => (Qos::ExactlyOnce, None),
        };
        let shared = (bound.no != Some(target)).then_some(Shared { group: target, granted });
        let expires_at_ms = expires_at_ms.map(|expires| self.link.local_ms(expires));
        // What was begun has its place already.
        Queued { push, message, qos0: false, dup: true, expires_at_ms, shared, urgent: false }
    }

    /// Nobody wants this binding. CONNACK was never sent, so there is no will to publish.
    fn give_back(&mut self, app: AppId, terminal: TerminalId, holder: u64, bound: &Bound) {
        self.end_binding(Unbind {
            app,
            terminal,
            epoch: bound.epoch,
            connection: holder,
            session_expiry_s: bound.session_expiry_s,
            will: WillFate::Discard,
            unacknowledged: Vec::new(),
        });
    }

    fn end_binding(&mut self, unbind: Unbind) {
        let epoch = unbind.epoch;
        if let Some(request) = self.link.request(SessionRequestBody::Unbind(unbind)) {
            self.ends.begin(request, epoch);
        }
    }

    fn closed(&mut self, part: ClosedPart) {
        let ClosedPart { conn, app, terminal, ended_by_leader, session_expiry_s, will, unacknowledged } =
            part;
        self.retains.forget(conn);
        if let Some(request) = self.bind_of.remove(&conn) {
            let answer_comes = self.link.give_up_bind(request);
            match self.binds.get_mut(&request) {
                Some(bind) if answer_comes => bind.is_over = true,
                _ => drop(self.binds.remove(&request)),
            }
        }
        let binding = self.bindings.unbind(app, &terminal, conn);
        let asked = self.unbinding.remove(&conn);
        if let Some(epoch) = asked.filter(|_| ended_by_leader || binding.is_none()) {
            self.link.unbound(epoch, unacknowledged.clone());
        }
        // None: taken over by another connection of this edge, or never bound.
        if let Some(binding) = binding {
            self.end_binding(Unbind {
                app,
                terminal,
                epoch: binding.epoch,
                connection: binding.holder,
                session_expiry_s,
                will,
                unacknowledged,
            });
            if let Some(epoch) = asked.filter(|_| !ended_by_leader) {
                self.ends.ask(epoch);
            }
        }
    }

    // ------------------------------------------------------------ subscriptions

    fn subscribe(&mut self, change: PendingChange, subscriptions: Vec<Subscription>) {
        let Some((epoch, connection)) = self.held_by(&change) else { return };
        let body = SessionRequestBody::Subscribe(Subscribe {
            seq: 0,
            app: change.app,
            terminal: change.terminal.clone(),
            epoch,
            connection,
            subscriptions,
        });
        self.change(change, body);
    }

    fn unsubscribe(&mut self, change: PendingChange, filters: Vec<String>) {
        let Some((epoch, connection)) = self.held_by(&change) else { return };
        let body = SessionRequestBody::Unsubscribe(Unsubscribe {
            seq: 0,
            app: change.app,
            terminal: change.terminal.clone(),
            epoch,
            connection,
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

    /// The binding's epoch and holder; if another connection has it now, the change is of no use to anybody.
    fn held_by(&self, change: &PendingChange) -> Option<(Epoch, u64)> {
        let binding = self.bindings.get(change.app, &change.terminal)?;
        (binding.conn == change.conn).then_some((binding.epoch, binding.holder))
    }

    fn changed(&mut self, change: PendingChange, result: Result<Changed, RefuseReason>) {
        let PendingChange { conn, request, app, terminal } = change;
        if let Ok(Changed { no, session, .. }) = result {
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
        if let Some(epoch) = self.ends.answered(request) {
            self.link.unbound(epoch, Vec::new());
        }
        let Some(answer) = self.answer_retained(request, answer) else { return };
        // Otherwise an Unbind.
        let Some(change) = self.changes.remove(&request) else { return };
        match answer {
            SessionAnswer::Reply(SessionReplyBody::Changed { no, session, index }) => {
                self.changed(change, Ok(Changed { no, session, index }))
            }
            SessionAnswer::Reply(SessionReplyBody::Refused(reason)) => self.changed(change, Err(reason)),
            SessionAnswer::Reply(_) => self.changed(change, Err(RefuseReason::Unavailable)),
            // Committed, but number and session went with the old leader: a change of nothing tells them.
            SessionAnswer::Covered => self.subscribe(change, Vec::new()),
        }
    }
}
