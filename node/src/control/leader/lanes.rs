//! What edges want committed: publishes, receipts and subscription changes, each numbered in its lane.

use cluster_proto::{
    AppId, Audience, Epoch, Incarnation, NodeId, Outcome, TerminalId,
    link::{
        Committed, Lane, Origin, Publish, PublishBody, PublishOutcome, Published, Receipts, RefuseReason,
        SessionReplyBody, SessionRequest, SessionRequestBody, Subscribe, Unsubscribe,
    },
};
use raft_store::{
    Applied, Command, CommandBody, ProposeError,
    command::{AcceptPush, Holder, PushOptions},
};

use super::{Action, Leader, LinkId, Now, Waiting};

/// A change of subscriptions under way.
#[derive(Debug)]
pub(super) struct Change {
    link: LinkId,
    request: u64,
    seq: u64,
    app: AppId,
    terminal: TerminalId,
}

impl Leader {
    pub(super) fn handle_session(&mut self, now: Now, link: LinkId, request: SessionRequest) {
        let SessionRequest { request, body } = request;
        match body {
            SessionRequestBody::Bind(bind) => self.handle_bind(now, link, request, bind),
            SessionRequestBody::Unbind(unbind) => self.handle_unbind(now, link, request, unbind),
            SessionRequestBody::Subscribe(subscribe) => self.handle_subscribe(link, request, subscribe),
            SessionRequestBody::Unsubscribe(unsubscribe) => {
                self.handle_unsubscribe(link, request, unsubscribe)
            }
            SessionRequestBody::Pull { no, epoch, after, max } => {
                self.handle_pull(now, link, no, epoch, after, max)
            }
            SessionRequestBody::Retained(ask) => self.handle_retained(now, link, request, &ask),
        }
    }

    fn origin(&self, link: LinkId, lane: Lane, seq: u64) -> Option<Origin> {
        let (edge, state) = self.edge_of(link)?;
        Some(Origin { edge, incarnation: state.incarnation, lane, seq })
    }

    fn handle_subscribe(&mut self, link: LinkId, request: u64, subscribe: Subscribe) {
        let Subscribe { seq, app, terminal, epoch, connection, subscriptions } = subscribe;
        let Some(origin) = self.origin(link, Lane::Session, seq) else { return };
        let holder = holder(origin.edge, origin.incarnation, app, &terminal, connection);
        let body = CommandBody::Subscribe { holder, subscriptions };
        self.propose_change(link, request, origin, (app, terminal, epoch), body);
    }

    fn handle_unsubscribe(&mut self, link: LinkId, request: u64, unsubscribe: Unsubscribe) {
        let Unsubscribe { seq, app, terminal, epoch, connection, filters } = unsubscribe;
        let Some(origin) = self.origin(link, Lane::Session, seq) else { return };
        let holder = holder(origin.edge, origin.incarnation, app, &terminal, connection);
        let body = CommandBody::Unsubscribe { holder, filters };
        self.propose_change(link, request, origin, (app, terminal, epoch), body);
    }

    fn propose_change(
        &mut self,
        link: LinkId,
        request: u64,
        origin: Origin,
        (app, terminal, epoch): (AppId, TerminalId, Epoch),
        mut body: CommandBody,
    ) {
        let is_bound =
            self.bound_as(app, &terminal).is_some_and(|(_, b)| b.epoch == epoch && b.edge == origin.edge);
        if !is_bound {
            // A late word of a connection that is over must not end the session of the one that replaced it. Its
            // number is used up, so that the lane has no gap.
            body = CommandBody::Nothing;
        }
        *self.changing.entry((app, terminal.clone())).or_default() += 1;
        let (seq, command) = (origin.seq, Command { origin: Some(origin), body });
        self.propose(command, Waiting::Changed(Change { link, request, seq, app, terminal }));
    }

    pub(super) fn subscriptions_changed(&mut self, change: &Change, result: Result<Applied, ProposeError>) {
        let Change { link, request, seq, app, ref terminal } = *change;
        self.change_answered(app, terminal);
        match result {
            Ok(Applied::Session { no: Some(no), session: Some(session), index, .. }) => {
                self.take_number(app, terminal, no);
                self.refresh_member(no);
                self.tell_who_forwards();
                self.reply(link, request, SessionReplyBody::Changed { no, session, index });
            }
            Ok(Applied::Duplicate) if self.was_refused(link, Lane::Session, seq) => {
                self.refuse(link, request, RefuseReason::Quota);
            }
            Ok(Applied::Duplicate) => self.answer_again(link, request, app, terminal),
            Ok(Applied::Refused(refusal)) => self.refuse(link, request, refuse_reason(&refusal)),
            Ok(Applied::Done) => self.refuse(link, request, RefuseReason::Stale),
            // A gap, an ended life, or an unknown outcome: the edge must resume and send its lanes again.
            Ok(_) | Err(_) => self.actions.push(Action::Close(link)),
        }
    }

    fn change_answered(&mut self, app: AppId, terminal: &TerminalId) {
        let key = (app, terminal.clone());
        if let Some(changes) = self.changing.get_mut(&key) {
            *changes -= 1;
            if *changes == 0 {
                self.changing.remove(&key);
            }
        }
    }

    /// The change was committed under an earlier leader or link; the session as it is now is the answer. Its index is
    /// not known any more: a later one may bring a message twice, as retained and live, and none is missed.
    fn answer_again(&mut self, link: LinkId, request: u64, app: AppId, terminal: &TerminalId) {
        let no = self.tables.terminal_no(app, terminal);
        match no.and_then(|no| Some((no, self.tables.session(no)?.session))) {
            Some((no, session)) => {
                self.take_number(app, terminal, no);
                self.refresh_member(no);
                let index = self.tables.command_index();
                self.reply(link, request, SessionReplyBody::Changed { no, session, index });
            }
            None => self.refuse(link, request, RefuseReason::Stale),
        }
    }

    /// A client that was bound without a number was lent one with its first replicated subscription: it can be owed
    /// pushes now. (It may have had that number before, in a session that ended, and was bound by its name all the same.)
    fn take_number(&mut self, app: AppId, terminal: &TerminalId, no: cluster_proto::TerminalNo) {
        if !self.presence.give_number(app, terminal, no) {
            return;
        }
        if let Some(edge) = self.presence.numbered(no).map(|binding| binding.edge) {
            self.set_bound(edge, no, true);
        }
    }

    pub(super) fn handle_publish(&mut self, now: Now, link: LinkId, publish: Publish) {
        let Publish { seq, body, .. } = publish;
        let Some(origin) = self.origin(link, Lane::Publish, seq) else { return };
        let refused = self.refuses(now, &body);
        let shown = matches!(&body, PublishBody::Push { message, .. } if self.is_shown(message));
        let body = match body {
            // Its number is used up, so that the lane has no gap.
            _ if refused.is_some() => CommandBody::Nothing,
            PublishBody::Push { message, ttl_ms, exchange } => CommandBody::AcceptPush(AcceptPush {
                message,
                audience: Audience::Topic,
                online: None,
                ttl_ms: ttl_ms.unwrap_or(self.settings.ttl_default_ms).min(self.settings.ttl_max_ms),
                options: PushOptions::default(),
                retained_ttl_ms: ttl_ms,
                exchange,
                idempotency: None,
            }),
            PublishBody::Retain { message, ttl_ms } => CommandBody::Retain { message, ttl_ms },
            PublishBody::Release(exchange) => CommandBody::Release(exchange),
        };
        self.propose(
            Command { origin: Some(origin), body },
            Waiting::Published { link, seq, refused, shown },
        );
    }

    /// Why this is not proposed: the disk is nearly full, or its app publishes faster than it may. What only frees
    /// something is always taken.
    fn refuses(&mut self, now: Now, body: &PublishBody) -> Option<RefuseReason> {
        let message = match body {
            PublishBody::Push { message, .. } => message,
            PublishBody::Retain { message, .. } if !message.payload.is_empty() => message,
            PublishBody::Retain { .. } | PublishBody::Release(_) => return None,
        };
        (self.disk_full || self.admit(now, message.app).is_err()).then_some(RefuseReason::Quota)
    }

    pub(super) fn published(
        &mut self,
        link: LinkId,
        seq: u64,
        (refused, shown): (Option<RefuseReason>, bool),
        result: Result<Applied, ProposeError>,
    ) {
        let result = match (result, refused) {
            // Proposed before: whether it was refused then, the tables remember.
            (Ok(Applied::Duplicate), reason) if self.was_refused(link, Lane::Publish, seq) => {
                Err(reason.unwrap_or(RefuseReason::Quota))
            }
            (Ok(Applied::Done), Some(reason)) => Err(reason),
            (Ok(Applied::Accepted { audience: 0, repeated: false, .. }), _) if !shown => {
                Ok(PublishOutcome::NoSubscribers)
            }
            (Ok(Applied::Accepted { .. } | Applied::Done | Applied::Duplicate), _) => {
                Ok(PublishOutcome::Accepted)
            }
            (Ok(Applied::Refused(refusal)), _) => Err(refuse_reason(&refusal)),
            (Ok(_) | Err(_), _) => return self.actions.push(Action::Close(link)),
        };
        self.actions.push(Action::Published(link, Published { seq, result }));
    }

    /// Whether a command that was proposed before was refused then.
    fn was_refused(&self, link: LinkId, lane: Lane, seq: u64) -> bool {
        self.origin(link, lane, seq).is_some_and(|origin| self.tables.was_refused(&origin))
    }

    pub(super) fn handle_receipts(&mut self, link: LinkId, receipts: Receipts) {
        let Some(origin) = self.origin(link, Lane::Receipts, receipts.seq) else { return };
        let (items, steps) = (receipts.items.clone(), receipts.steps.clone());
        let body = CommandBody::RecordReceipts { items, steps };
        self.propose(Command { origin: Some(origin), body }, Waiting::Receipts { link, receipts });
    }

    pub(super) fn receipts_committed(
        &mut self,
        now: Now,
        link: LinkId,
        receipts: &Receipts,
        result: Result<Applied, ProposeError>,
    ) {
        let Ok(Applied::Done | Applied::Duplicate) = result else {
            return self.actions.push(Action::Close(link));
        };
        for item in &receipts.items {
            // An edge that did not write it and was not asked to withdraw it does not hold it either.
            self.handed.settle(item.push, &item.terminals);
            debug_assert!(item.outcome != Outcome::NotWritten || !item.terminals.is_empty());
        }
        let Some(node) = self.links.get(&link).copied() else { return };
        self.groups_answered(node, receipts);
        if let Some(edge) = self.edges.get_mut(&node).filter(|edge| edge.link == Some(link)) {
            edge.receipts_applied = edge.receipts_applied.max(receipts.seq);
            self.actions.push(Action::Committed(link, Committed { seq: receipts.seq }));
        }
        self.advance_binds(now);
    }
}

fn holder(
    edge: NodeId,
    incarnation: Incarnation,
    app: AppId,
    terminal: &TerminalId,
    connection: u64,
) -> Holder {
    Holder { app, terminal: terminal.clone(), edge, incarnation, connection }
}

fn refuse_reason(refusal: &raft_store::Refusal) -> RefuseReason {
    match refusal {
        raft_store::Refusal::TooManySubscriptions
        | raft_store::Refusal::RetainedQuota
        | raft_store::Refusal::StoredQuota(_) => RefuseReason::Quota,
        raft_store::Refusal::Stale => RefuseReason::Stale,
        _ => RefuseReason::NotAuthorized,
    }
}
