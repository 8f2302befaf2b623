//! What apps may have at a time, and what becomes of their terminals when they are deleted.

use std::collections::BTreeMap;

use cluster_proto::{
    AppId, TerminalId, TerminalNo,
    link::{LeaderControl, UnbindReason, WillFate},
};
use fabric_core::{
    link::{Binding, Who},
    token_bucket::{Rate, TokenBucket},
};
use raft_store::{
    Command, CommandBody,
    command::{Holder, Quotas},
};

use super::{Action, Chore, Leader, Now, Waiting, bind::Job};

/// Rows looked at, and terminals removed, by one step of the removal of an app.
const REMOVED_PER_CHORE: u32 = 1_000;
/// Terminals of a deleted app told to go at once.
const UNBOUND_PER_CHORE: usize = 1_000;
/// Apps that are deleted are looked for this often.
pub(super) const REMOVE_EVERY_MS: u64 = 1_000;

/// Of the apps that have any.
#[derive(Debug, Default)]
pub(super) struct AppLimits {
    quotas: BTreeMap<AppId, Quotas>,
    rates: BTreeMap<AppId, TokenBucket>,
}

impl AppLimits {
    pub(super) fn new(quotas: BTreeMap<AppId, Quotas>) -> Self {
        Self { quotas, rates: BTreeMap::new() }
    }

    /// Takes a push of an app in, or says for how many milliseconds it must wait.
    fn admit(&mut self, app: AppId, now_ms: u64) -> Result<(), u64> {
        let Some(quotas) = self.quotas.get(&app) else { return Ok(()) };
        let burst = if quotas.pushes_burst == 0 { quotas.pushes_per_s } else { quotas.pushes_burst };
        let Some(rate) = Rate::new(quotas.pushes_per_s, burst) else { return Ok(()) };
        let bucket = self.rates.entry(app).or_insert_with(|| TokenBucket::full(rate, now_ms));
        match bucket.wait_ms(rate, now_ms) {
            0 => {
                bucket.take(rate, now_ms, 1);
                Ok(())
            }
            wait_ms => Err(wait_ms),
        }
    }
}

impl Leader {
    /// Quotas may have changed.
    pub(super) fn follow_quotas(&mut self) {
        self.limits.quotas = self.tables.quotas();
        let quotas = &self.limits.quotas;
        self.limits.rates.retain(|app, _| quotas.get(app).is_some_and(|quotas| quotas.pushes_per_s > 0));
    }

    /// Charges a push to its app, or says for how many milliseconds it must wait. A new leader begins with full buckets.
    pub(super) fn admit(&mut self, now: Now, app: AppId) -> Result<(), u64> {
        self.limits.admit(app, now.mono_ms)
    }

    /// Whether one more connection is more than the app may have. One that takes over another is not one more. While edges
    /// have not told a new leader whom they hold, those are not counted.
    pub(super) fn has_no_place_for(&self, app: AppId, terminal: &TerminalId) -> bool {
        let most = self.limits.quotas.get(&app).map_or(0, |quotas| quotas.connections);
        most > 0 && self.presence.connected(app) >= most && self.bound_as(app, terminal).is_none()
    }

    /// A connection that is refused after its session was opened: as if it had ended at once.
    pub(super) fn close_session_of(&mut self, job: &Job, expiry_s: u32) {
        let Some(incarnation) = self.edges.get(&job.edge).map(|edge| edge.incarnation) else { return };
        let bind = &job.bind;
        let holder = Holder {
            app: bind.app,
            terminal: bind.terminal.clone(),
            edge: job.edge,
            incarnation,
            connection: bind.connection,
        };
        let (will, unacknowledged) = (WillFate::Discard, Vec::new());
        let body = CommandBody::DetachSession { holder, expiry_s, will, unacknowledged };
        self.propose(Command::own(body), Waiting::Nothing);
    }

    /// Terminals were deleted: whoever of them is connected goes.
    pub(super) fn terminals_deleted(
        &mut self,
        now: Now,
        app: AppId,
        terminals: Vec<(TerminalNo, TerminalId)>,
    ) {
        for (no, id) in terminals {
            // It has no number any more that its binding would be found by later.
            for who in [Who::Numbered(no), Who::Named(app, id.clone())] {
                if let Some(binding) = self.presence.get(&who).copied() {
                    self.send_off(now, who, &id, binding);
                }
            }
        }
    }

    /// Forgets a binding under a number that is nobody's any more. Its edge tells again whom it holds, and is told to let
    /// this one go.
    fn let_go(&mut self, now: Now, who: &Who, Binding { edge, epoch, .. }: Binding) {
        self.presence.unbind(who, epoch);
        if let Who::Numbered(no) = who {
            self.set_bound(edge, *no, false);
            self.member_disconnected(now, *no, edge, false);
        }
        let link = self.edges.get(&edge).and_then(|edge| edge.link);
        self.actions.extend(link.map(Action::Close));
    }

    /// Ends the connection of a terminal that is gone, and forgets it.
    fn send_off(&mut self, now: Now, who: Who, terminal: &TerminalId, binding: Binding) {
        let Binding { app, edge, epoch, .. } = binding;
        if let Some(link) = self.edges.get(&edge).and_then(|edge| edge.link) {
            let (terminal, reason) = (terminal.clone(), UnbindReason::Deleted);
            self.actions.push(Action::Control(link, LeaderControl::Unbind { terminal, app, epoch, reason }));
        }
        self.presence.unbind(&who, epoch);
        if let Who::Numbered(no) = who {
            self.set_bound(edge, no, false);
            self.member_disconnected(now, no, edge, false);
        }
    }

    /// Goes on removing a deleted app: first its terminals go, then what the tables have of it.
    pub(super) fn remove_apps(&mut self, now: Now) {
        let Some(app) = self.tables.apps_being_removed().first().copied() else { return };
        if !self.presence_is_whole() {
            return;
        }
        let bound = self.presence.of_app(app, UNBOUND_PER_CHORE);
        if !bound.is_empty() {
            for (who, binding) in bound {
                let id = match &who {
                    Who::Named(_, id) => Some(id.clone()),
                    Who::Numbered(no) => self.tables.terminal_by_no(*no).map(|record| record.id),
                };
                match id {
                    Some(id) => self.send_off(now, who, &id, binding),
                    None => self.let_go(now, &who, binding),
                }
            }
            return;
        }
        self.under_way(now, Chore::RemoveApps);
        let body = CommandBody::RemoveApp { app, limit: REMOVED_PER_CHORE };
        self.propose(Command::own(body), Waiting::Chore(Chore::RemoveApps));
    }
}
