//! Binding terminals to edges: CONNECT, takeover across the cluster, and the end of connections.
//!
//! ```text
//!  Bind ─► take over the old binding (Unbind ─► Unbound, bounded)
//!       ─► receipts of both edges applied (so that nothing acknowledged is owed again)
//!       ─► OpenSession committed, where the session changes
//!       ─► Bound (new epoch)
//! ```
//! One Bind at a time per terminal; a newer one from another connection takes the waiting one's place, whose edge is
//! told that it is stale.

use cluster_proto::{
    AppId, Epoch, NodeId, SessionId, TerminalId, TerminalNo,
    link::{
        Bind, Bound, LeaderControl, Outbound, RefuseReason, SessionReply, SessionReplyBody, Subscription,
        Unacknowledged, Unbind, UnbindReason,
    },
};
use fabric_core::link::{Binding, Who};
use raft_store::{
    Applied, Command, CommandBody, ProposeError, Refusal,
    command::{Holder, OpenSession},
};

use super::{Action, Leader, LinkId, Now, Waiting};

/// A takeover waits this long for the old edge's answer and receipts.
const TAKEOVER_WAIT_MS: u64 = 2_000;

/// The Bind under way for one terminal, and the one that comes after it.
#[derive(Debug)]
pub(super) struct BindQueue {
    current: Job,
    next: Option<Job>,
}

#[derive(Debug)]
pub(super) struct Job {
    link: LinkId,
    pub(super) edge: NodeId,
    request: u64,
    pub(super) bind: Bind,
    stage: Stage,
    deadline_ms: u64,
    /// What the connection it takes over had not got acknowledged.
    unacknowledged: Vec<Unacknowledged>,
}

#[derive(Debug, PartialEq)]
enum Stage {
    /// The old edge was asked to close this binding.
    TakingOver { from: NodeId, epoch: Epoch },
    /// Receipts of these edges must be applied up to here.
    AwaitingReceipts(Vec<(NodeId, u64)>),
    /// OpenSession is being committed.
    Opening,
}

impl Leader {
    pub(super) fn handle_bind(&mut self, now: Now, link: LinkId, request: u64, bind: Bind) {
        let Some((edge, _)) = self.edge_of(link) else { return };
        let key = (bind.app, bind.terminal.clone());
        let deadline_ms = now.mono_ms + TAKEOVER_WAIT_MS;
        let stage = Stage::AwaitingReceipts(Vec::new());
        let job = Job { link, edge, request, bind, stage, deadline_ms, unacknowledged: Vec::new() };
        if let Some(queue) = self.binds.get_mut(&key) {
            let displaced = queue.next.replace(job);
            if let Some(old) = displaced {
                self.refuse(old.link, old.request, RefuseReason::Stale);
            }
            return;
        }
        self.start_bind(now, key, job, None);
    }

    fn start_bind(&mut self, now: Now, key: (AppId, TerminalId), mut job: Job, next: Option<Job>) {
        if let Some(reason) = self.shuts_out(&job) {
            self.refuse(job.link, job.request, reason);
            return self.next_bind(now, key, next);
        }
        let own_receipts = (job.edge, job.bind.after_receipts);
        job.deadline_ms = now.mono_ms + TAKEOVER_WAIT_MS;
        job.stage = match self.take_over(&job) {
            Some(stage) => stage,
            None => Stage::AwaitingReceipts(vec![own_receipts]),
        };
        self.binds.insert(key.clone(), BindQueue { current: job, next });
        self.advance_bind(now, &key);
    }

    /// Why the connection may not be. Asked again when it is bound: much may have happened meanwhile.
    fn shuts_out(&self, job: &Job) -> Option<RefuseReason> {
        let bind = &job.bind;
        let revoked_until = self.tables.revoked_until(bind.app, &bind.terminal);
        let void = bind.credential_issued_at != 0 && bind.credential_issued_at <= revoked_until;
        if void || !self.tables.has_app(bind.app) {
            return Some(RefuseReason::NotAuthorized);
        }
        self.has_no_place_for(bind.app, &bind.terminal).then_some(RefuseReason::Quota)
    }

    /// Asks the edge that has the terminal now to let go, if it is linked; the edge of the new connection too, so that
    /// the session goes on with what the old one had not got acknowledged.
    fn take_over(&mut self, job: &Job) -> Option<Stage> {
        let Bind { app, terminal, .. } = &job.bind;
        let (_, old) = self.bound_as(*app, terminal)?;
        let old_link = self.edges.get(&old.edge)?.link?;
        let reason = UnbindReason::TakenOver;
        let frame = LeaderControl::Unbind { terminal: terminal.clone(), app: *app, epoch: old.epoch, reason };
        self.actions.push(Action::Control(old_link, frame));
        Some(Stage::TakingOver { from: old.edge, epoch: old.epoch })
    }

    /// The old edge closed the connection of a binding that was taken over, kicked or revoked.
    pub(super) fn old_binding_gone(
        &mut self,
        now: Now,
        edge: NodeId,
        epoch: Epoch,
        receipts_seq: u64,
        unacknowledged: Vec<Unacknowledged>,
    ) {
        let taking_over = |queue: &BindQueue| queue.current.stage == Stage::TakingOver { from: edge, epoch };
        let Some(key) = self.binds.iter().find(|(_, queue)| taking_over(queue)).map(|(key, _)| key.clone())
        else {
            return;
        };
        if let Some(queue) = self.binds.get_mut(&key) {
            let own = (queue.current.edge, queue.current.bind.after_receipts);
            queue.current.stage = Stage::AwaitingReceipts(vec![(edge, receipts_seq), own]);
            queue.current.unacknowledged = unacknowledged;
        }
        self.advance_bind(now, &key);
    }

    /// An edge lost its link: nothing more will come from it.
    pub(super) fn give_up_waits_on(&mut self, now: Now, lost: NodeId) {
        let keys: Vec<_> = self.binds.keys().cloned().collect();
        for key in keys {
            let Some(queue) = self.binds.get_mut(&key) else { continue };
            match &mut queue.current.stage {
                Stage::TakingOver { from, .. } if *from == lost => {
                    let own = (queue.current.edge, queue.current.bind.after_receipts);
                    queue.current.stage = Stage::AwaitingReceipts(vec![own]);
                }
                Stage::AwaitingReceipts(waits) => waits.retain(|(edge, _)| *edge != lost),
                _ => continue,
            }
            self.advance_bind(now, &key);
        }
    }

    /// Receipts were applied: some binds may go on.
    pub(super) fn advance_binds(&mut self, now: Now) {
        let awaiting = |queue: &BindQueue| matches!(queue.current.stage, Stage::AwaitingReceipts(_));
        let keys: Vec<_> =
            self.binds.iter().filter(|(_, queue)| awaiting(queue)).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.advance_bind(now, key));
    }

    /// Bounded waiting: after it, at worst the terminal gets again what it has (at most its in-flight window).
    pub(super) fn expire_bind_waits(&mut self, now: Now) {
        let overdue: Vec<_> = self
            .binds
            .iter()
            .filter(|(_, q)| q.current.deadline_ms <= now.mono_ms && q.current.stage != Stage::Opening)
            .map(|(key, _)| key.clone())
            .collect();
        for key in overdue {
            if let Some(queue) = self.binds.get_mut(&key) {
                queue.current.stage = Stage::AwaitingReceipts(Vec::new());
            }
            self.advance_bind(now, &key);
        }
    }

    fn advance_bind(&mut self, now: Now, key: &(AppId, TerminalId)) {
        let Some(queue) = self.binds.get(key) else { return };
        let Stage::AwaitingReceipts(waits) = &queue.current.stage else { return };
        let applied = |edge: &NodeId| self.edges.get(edge).map_or(u64::MAX, |e| e.receipts_applied);
        if waits.iter().any(|(edge, seq)| applied(edge) < *seq) {
            return;
        }
        if self.edge_of(queue.current.link).is_none() {
            // Its edge asks again on its next link, or says there that the connection ended.
            let next = self.binds.remove(key).and_then(|queue| queue.next);
            return self.next_bind(now, key.clone(), next);
        }
        match self.session_change(&queue.current) {
            Some(open) => {
                if let Some(queue) = self.binds.get_mut(key) {
                    queue.current.stage = Stage::Opening;
                }
                let body = CommandBody::OpenSession(open);
                self.propose(Command::own(body), Waiting::Bind(key.0, key.1.clone()));
            }
            None => {
                // A lent number counts only with a session: without one it may be lent to somebody else.
                let no = self.tables.terminal_no(key.0, &key.1).filter(|no| no.is_registered());
                self.finish_bind(now, key, no, Opened::default());
            }
        }
    }

    /// What must be committed for this CONNECT: nothing, for a clean session without a will over none.
    fn session_change(&self, job: &Job) -> Option<OpenSession> {
        let Bind { app, terminal, clean_start, session_expiry_s, connection, will, .. } = &job.bind;
        let existing = self.tables.terminal_no(*app, terminal).and_then(|no| self.tables.session(no));
        if existing.is_none() && *session_expiry_s == 0 && will.is_none() {
            return None;
        }
        let incarnation = self.edges.get(&job.edge)?.incarnation;
        let holder = Holder {
            app: *app,
            terminal: terminal.clone(),
            edge: job.edge,
            incarnation,
            connection: *connection,
        };
        Some(OpenSession {
            holder,
            clean_start: *clean_start,
            expiry_s: *session_expiry_s,
            will: will.clone(),
            unacknowledged: job.unacknowledged.clone(),
        })
    }

    pub(super) fn bind_committed(
        &mut self,
        now: Now,
        key: (AppId, TerminalId),
        result: Result<Applied, ProposeError>,
    ) {
        match result {
            Ok(Applied::Session {
                no, session, present, expiry_s, subscriptions, outbound, inbound, ..
            }) => {
                let opened = Opened { session, present, expiry_s, subscriptions, outbound, inbound };
                self.finish_bind(now, &key, no, opened);
            }
            Ok(Applied::Refused(Refusal::Stale)) => self.drop_bind(now, &key, RefuseReason::Stale),
            Ok(Applied::Refused(_)) => self.drop_bind(now, &key, RefuseReason::NotAuthorized),
            Ok(_) | Err(ProposeError::Full | ProposeError::DiskFull) => {
                self.drop_bind(now, &key, RefuseReason::Unavailable);
            }
            // It may have the session: the edge resumes, and asks again.
            Err(_) => {
                if let Some(queue) = self.binds.get(&key) {
                    self.actions.push(Action::Close(queue.current.link));
                }
                self.drop_bind(now, &key, RefuseReason::Unavailable);
            }
        }
    }

    fn drop_bind(&mut self, now: Now, key: &(AppId, TerminalId), reason: RefuseReason) {
        let Some(BindQueue { current, next }) = self.binds.remove(key) else { return };
        self.refuse(current.link, current.request, reason);
        self.next_bind(now, key.clone(), next);
    }

    fn next_bind(&mut self, now: Now, key: (AppId, TerminalId), next: Option<Job>) {
        if let Some(job) = next {
            self.start_bind(now, key, job, None);
        }
    }

    fn finish_bind(&mut self, now: Now, key: &(AppId, TerminalId), no: Option<TerminalNo>, opened: Opened) {
        let Some(BindQueue { current, next }) = self.binds.remove(key) else { return };
        let still_linked = self.edge_of(current.link).is_some();
        if let Some(reason) = self.shuts_out(&current).filter(|_| still_linked) {
            if opened.session.is_some() {
                self.close_session_of(&current, opened.expiry_s);
            }
            self.refuse(current.link, current.request, reason);
        } else if still_linked {
            let epoch = self.next_epoch();
            let who = no.map_or_else(|| Who::Named(key.0, key.1.clone()), Who::Numbered);
            if let Some((other, old)) = self.bound_as(key.0, &key.1).filter(|(other, _)| *other != who) {
                // Registered, or lent a number, since it was bound: one terminal, one binding (I6).
                self.presence.unbind(&other, old.epoch);
                if let Who::Numbered(lent) = other {
                    self.set_bound(old.edge, lent, false);
                }
            }
            let outbound = no.map_or_else(Vec::new, |no| {
                self.member_rebound(no, opened.present);
                self.go_on(no, opened.outbound)
            });
            self.set_binding(who, Binding { app: key.0, edge: current.edge, epoch, live: false });
            no.into_iter().for_each(|no| self.refresh_member(no));
            let bound = Bound {
                no,
                epoch,
                session_present: opened.present,
                session: opened.session,
                session_expiry_s: opened.expiry_s,
                subscriptions: opened.subscriptions,
                outbound,
                inbound: opened.inbound,
            };
            self.reply(current.link, current.request, SessionReplyBody::Bound(bound));
        }
        self.next_bind(now, key.clone(), next);
    }

    fn set_binding(&mut self, who: Who, binding: Binding) {
        let numbered = match who {
            Who::Numbered(no) => Some(no),
            Who::Named(..) => None,
        };
        // The epoch was just made: no binding has a higher one, unless a newer leader exists, and then this one's
        // answers reach nobody.
        let Ok(old) = self.presence.bind(who, binding) else { return };
        if let Some(no) = numbered {
            if let Some(old) = old {
                self.set_bound(old.edge, no, false);
            }
            self.set_bound(binding.edge, no, true);
        }
    }

    fn next_epoch(&mut self) -> Epoch {
        self.binding_counter += 1;
        Epoch { term: self.term, counter: self.binding_counter }
    }

    /// A connection ended. Its session is detached whoever is bound by now: apply looks at who holds it.
    pub(super) fn handle_unbind(&mut self, now: Now, link: LinkId, request: u64, unbind: Unbind) {
        let Unbind { app, terminal, epoch, connection, session_expiry_s, will, unacknowledged } = unbind;
        let Some((edge, incarnation)) = self.edge_of(link).map(|(node, edge)| (node, edge.incarnation))
        else {
            return;
        };
        if let Some((who, binding)) = self.bound_as(app, &terminal).filter(|(_, b)| b.epoch == epoch) {
            self.presence.unbind(&who, epoch);
            if let Who::Numbered(no) = who {
                self.set_bound(binding.edge, no, false);
                self.member_disconnected(now, no, edge, session_expiry_s > 0);
            }
        }
        if !self.may_have_session(app, &terminal) {
            return self.reply(link, request, SessionReplyBody::Unbound);
        }
        let holder = Holder { app, terminal, edge, incarnation, connection };
        let body = CommandBody::DetachSession { holder, expiry_s: session_expiry_s, will, unacknowledged };
        self.propose(Command::own(body), Waiting::Detached(link, request));
    }

    /// In the tables, or on its way into them.
    fn may_have_session(&self, app: AppId, terminal: &TerminalId) -> bool {
        let key = (app, terminal.clone());
        self.changing.contains_key(&key)
            || self.binds.contains_key(&key)
            || self.tables.terminal_no(app, terminal).is_some_and(|no| self.tables.session(no).is_some())
    }

    /// The binding of a terminal, under its number or, from before it had one, under its name.
    pub(super) fn bound_as(&self, app: AppId, terminal: &TerminalId) -> Option<(Who, Binding)> {
        let named = Who::Named(app, terminal.clone());
        let numbered = self.tables.terminal_no(app, terminal).map(Who::Numbered);
        [Some(named), numbered].into_iter().flatten().find_map(|who| {
            let binding = *self.presence.get(&who)?;
            Some((who, binding))
        })
    }

    pub(super) fn detached(&mut self, link: LinkId, request: u64, result: &Result<Applied, ProposeError>) {
        match result {
            Ok(_) => self.reply(link, request, SessionReplyBody::Unbound),
            // Its session still has it: the edge resumes, and asks again.
            Err(_) => self.actions.push(Action::Close(link)),
        }
    }

    /// Ends the connection of a terminal, wherever it is.
    pub(super) fn kick(&mut self, app: AppId, terminal: &TerminalId, reason: UnbindReason) -> bool {
        let Some((_, binding)) = self.bound_as(app, terminal) else { return false };
        let Some(link) = self.edges.get(&binding.edge).and_then(|edge| edge.link) else { return false };
        let frame = LeaderControl::Unbind { terminal: terminal.clone(), app, epoch: binding.epoch, reason };
        self.actions.push(Action::Control(link, frame));
        true
    }

    pub(super) fn refuse(&mut self, link: LinkId, request: u64, reason: RefuseReason) {
        self.reply(link, request, SessionReplyBody::Refused(reason));
    }

    pub(super) fn reply(&mut self, link: LinkId, request: u64, body: SessionReplyBody) {
        self.actions.push(Action::Session(link, SessionReply { request, body }));
    }
}

/// The session a Bind found or made.
#[derive(Debug, Default)]
struct Opened {
    session: Option<SessionId>,
    present: bool,
    expiry_s: u32,
    subscriptions: Vec<Subscription>,
    outbound: Vec<Outbound>,
    inbound: Vec<u16>,
}
