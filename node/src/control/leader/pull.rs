//! Pages of what was committed before: pushes a terminal is owed, and retained messages.

use cluster_proto::{
    Epoch, TerminalNo,
    limits::OWED_PER_PULL_MAX,
    link::{
        After, Deliver, Outbound, OutboundStage, Owed, OwedPush, RefuseReason, RetainedAsk, SessionReplyBody,
    },
};

use raft_store::tables::{OwedRow, RetainedPage};

use super::{Action, Leader, LinkId, Now};

impl Leader {
    /// The next page of what a terminal is owed; after the last it is live.
    pub(super) fn handle_pull(
        &mut self,
        now: Now,
        link: LinkId,
        no: TerminalNo,
        epoch: Epoch,
        after: After,
        max: u16,
    ) {
        let Some((edge, _)) = self.edge_of(link) else { return };
        if self.presence.numbered(no).is_none_or(|b| b.epoch != epoch || b.edge != edge) {
            return; // an old binding's question
        }
        let limit = usize::from(max).min(OWED_PER_PULL_MAX);
        let rows = self.tables.owed_page(no, after, self.dispatched, now.wall_ms, limit);
        let live = rows.len() < limit;
        // What the session goes on with from an earlier connection is among them: it knows, and passes over it.
        let mut pushes = Vec::with_capacity(rows.len());
        for row in rows {
            if self.is_taken_back(row.of, no) {
                continue;
            }
            let dup = self.handed.add_one(row.push, no);
            let OwedRow { push, urgent, qos0, expires_at_ms, .. } = row;
            pushes.push(OwedPush { push, expires_at_ms, qos0, dup, urgent });
        }
        self.set_live(no, epoch, live);
        self.actions.push(Action::Deliver(link, Deliver::Owed(Owed { no, epoch, pushes, live })));
    }

    /// A session goes on with these deliveries, on a connection that is just being bound: they are in flight.
    /// Answers them without those that another member of a group has been given meanwhile.
    pub(super) fn go_on(&mut self, no: TerminalNo, outbound: Vec<Outbound>) -> Vec<Outbound> {
        let goes_on = |delivery: &Outbound| {
            let Outbound { push, target, stage, .. } = *delivery;
            if stage == OutboundStage::Received {
                return true; // delivered: only the packet id is still to be given back
            }
            if target == no && !push.is_retained() {
                self.handed.add_one(push, no);
                return true;
            }
            let begun = stage == OutboundStage::Begun;
            push.is_retained() || self.claim(target, push, no, begun) || begun
        };
        outbound.into_iter().filter(goes_on).collect()
    }

    /// A page of what a new subscription gets. One request reads a bounded number of topics.
    pub(super) fn handle_retained(&mut self, now: Now, link: LinkId, request: u64, ask: &RetainedAsk) {
        if !self.tables.has_app(ask.app) {
            return self.refuse(link, request, RefuseReason::NotAuthorized);
        }
        let page = self.tables.retained(ask.app, &ask.filter, ask.upto, ask.after.as_deref(), now.wall_ms);
        let RetainedPage { messages, next } = page;
        self.reply(link, request, SessionReplyBody::Retained { messages, next });
    }
}
