//! Settling what will not be delivered: expiry, recall, edges that were lost with deliveries in flight; and removing
//! what has been settled long enough.
//!
//! Cancel and expire settle at once whom they find not in flight. For the others every edge is asked (Withdraw), and
//! answers written or not written. Whoever is in flight to no edge any more is settled as sent: it was handed out,
//! and no acknowledgement will come.

use std::collections::BTreeMap;

use cluster_proto::{
    AppId, NodeId, Outcome, PushId, State, TerminalNo, TerminalSet,
    link::{Deliver, Receipt},
};
use raft_store::{Applied, Command, CommandBody, ProposeError, Refusal, tables::Counts};
use tokio::sync::oneshot;

use super::{Action, Chore, Leader, Now, Waiting, apps::REMOVE_EVERY_MS, seen::RECORD_EVERY_MS};

/// Most pushes expired, rescanned or purged by one command.
const PUSHES_PER_CHORE: usize = 256;
/// Most sessions ended by one command.
const SESSIONS_PER_CHORE: u32 = 256;
/// Most releases that go on by one command: each may write rows for many blocks.
const RELEASES_PER_CHORE: u32 = 16;
/// Most wills published, or retained messages removed, by one command.
const MESSAGES_PER_CHORE: u32 = 256;
/// Most rows of receipt streams removed by one command; it ends after 8 MiB of them.
const RECEIPTS_PER_CHORE: u32 = 4_096;
/// Sessions and retained messages are counted this often, for `$SYS`.
const COUNT_EVERY_MS: u64 = 1_000;
/// Withdrawn pushes that are still pending somewhere are looked at this often.
const SETTLE_LOST_EVERY_MS: u64 = 2_000;
/// Pushes that are settled are looked for among those in flight this often.
const FORGET_EVERY_MS: u64 = 1_000;
/// Retention is looked at this often.
const PURGE_EVERY_MS: u64 = 1_000;

impl Leader {
    /// Starts each chore that is due and not under way.
    pub(super) fn do_chores(&mut self, now: Now) {
        self.chore(now, Chore::ExpirePushes, 0, Self::expire_pushes);
        self.chore(now, Chore::ExpireSessions, 0, Self::expire_sessions);
        self.chore(now, Chore::ReleasePushes, 0, Self::release_pushes);
        self.chore(now, Chore::RecallHalted, 0, Self::recall_halted);
        self.chore(now, Chore::PurgePushes, PURGE_EVERY_MS, Self::purge_pushes);
        self.chore(now, Chore::SettleLost, SETTLE_LOST_EVERY_MS, Self::settle_lost);
        self.chore(now, Chore::PublishWills, 0, Self::publish_wills);
        self.chore(now, Chore::ExpireRetained, 0, Self::expire_retained);
        self.chore(now, Chore::ForgetHanded, FORGET_EVERY_MS, Self::forget_handed);
        self.chore(now, Chore::SettleOffline, 0, Self::settle_offline_pushes);
        self.chore(now, Chore::Collapse, 0, Self::collapse_marked);
        self.chore(now, Chore::CountTotals, COUNT_EVERY_MS, Self::count_totals);
        self.chore(now, Chore::PurgeReceipts, PURGE_EVERY_MS, Self::purge_receipts);
        self.chore(now, Chore::RecordSeen, RECORD_EVERY_MS, Self::record_seen);
        self.chore(now, Chore::RemoveApps, REMOVE_EVERY_MS, Self::remove_apps);
    }

    fn chore(&mut self, now: Now, chore: Chore, every_ms: u64, start: impl FnOnce(&mut Self, Now)) {
        let due_ms = self.chores.get(&chore).copied().unwrap_or(0);
        if due_ms > now.mono_ms {
            return;
        }
        self.chores.insert(chore, now.mono_ms + every_ms);
        start(self, now);
    }

    /// Until the proposal is answered the chore is not started again (and for at most so long, should it be lost).
    pub(super) fn under_way(&mut self, now: Now, chore: Chore) {
        self.chores.insert(chore, now.mono_ms + 10_000);
    }

    fn expire_pushes(&mut self, now: Now) {
        let due = self.tables.due(now.wall_ms, PUSHES_PER_CHORE);
        if due.is_empty() || !self.presence_is_whole() {
            return;
        }
        self.under_way(now, Chore::ExpirePushes);
        let pushes: Vec<_> = due.iter().map(|push| (*push, self.in_flight(*push))).collect();
        self.propose(Command::own(CommandBody::ExpirePushes { pushes }), Waiting::Withdrawn(due));
    }

    fn expire_sessions(&mut self, now: Now) {
        if self.tables.sessions_due(now.wall_ms) {
            self.under_way(now, Chore::ExpireSessions);
            let body = CommandBody::ExpireSessions { limit: SESSIONS_PER_CHORE };
            self.propose(Command::own(body), Waiting::Chore(Chore::ExpireSessions));
        }
    }

    fn release_pushes(&mut self, now: Now) {
        if self.tables.releases_due(now.wall_ms) {
            self.under_way(now, Chore::ReleasePushes);
            let body = CommandBody::ReleasePushes { limit: RELEASES_PER_CHORE };
            self.propose(Command::own(body), Waiting::Chore(Chore::ReleasePushes));
        }
    }

    /// Roll-outs that went badly. One at a time: there are few.
    fn recall_halted(&mut self, now: Now) {
        if !self.presence_is_whole() {
            return;
        }
        if let Some((app, push)) = self.tables.halted(1).pop() {
            self.under_way(now, Chore::RecallHalted);
            self.withdrawing.insert(push);
            let body = CommandBody::CancelPush { app, push, in_flight: self.in_flight(push) };
            self.propose(Command::own(body), Waiting::Halted(push));
        }
    }

    fn publish_wills(&mut self, now: Now) {
        if self.tables.wills_due(now.wall_ms) {
            self.under_way(now, Chore::PublishWills);
            let body = CommandBody::PublishWills { limit: MESSAGES_PER_CHORE };
            self.propose(Command::own(body), Waiting::Chore(Chore::PublishWills));
        }
    }

    fn expire_retained(&mut self, now: Now) {
        if self.tables.retained_due(now.wall_ms) {
            self.under_way(now, Chore::ExpireRetained);
            let body = CommandBody::ExpireRetained { limit: MESSAGES_PER_CHORE };
            self.propose(Command::own(body), Waiting::Chore(Chore::ExpireRetained));
        }
    }

    fn purge_pushes(&mut self, now: Now) {
        let settled_before_ms = now.wall_ms.saturating_sub(self.settings.retention_ms);
        if self.tables.purge_due(settled_before_ms) {
            self.under_way(now, Chore::PurgePushes);
            let body = CommandBody::PurgePushes { settled_before_ms, limit: PUSHES_PER_CHORE as u32 };
            self.propose(Command::own(body), Waiting::Chore(Chore::PurgePushes));
        }
    }

    fn purge_receipts(&mut self, now: Now) {
        let before_ms = now.wall_ms.saturating_sub(self.settings.receipts_retention_ms);
        let bytes_max = self.settings.receipts_bytes_max;
        if self.tables.receipts_due(before_ms, bytes_max) {
            self.under_way(now, Chore::PurgeReceipts);
            let body = CommandBody::PurgeReceipts { before_ms, bytes_max, limit: RECEIPTS_PER_CHORE };
            self.propose(Command::own(body), Waiting::Chore(Chore::PurgeReceipts));
        }
    }

    /// Withdrawals whose question or answer was lost: ask again, and settle whom no edge can answer for.
    fn settle_lost(&mut self, _now: Now) {
        if !self.presence_is_whole() {
            return;
        }
        let pushes = self.tables.unsettled_withdrawn(self.lost_from, PUSHES_PER_CHORE);
        // In turn: those of terminals that never answer must not keep the others waiting.
        let is_last = pushes.len() < PUSHES_PER_CHORE;
        self.lost_from = pushes.last().copied().filter(|_| !is_last).unwrap_or_default();
        pushes.into_iter().for_each(|push| self.withdraw(push));
        self.ask_again_about_replaced();
        self.check_absent_members();
    }

    /// What apply settled by itself (a session that ended) had no receipt.
    fn forget_handed(&mut self, _now: Now) {
        let pushes = self.handed.after(self.handed_from, PUSHES_PER_CHORE);
        self.handed_from =
            pushes.last().copied().filter(|_| pushes.len() == PUSHES_PER_CHORE).unwrap_or_default();
        for push in pushes {
            let is_pending = |counts: Counts| counts.of(State::Pending) > 0;
            // Not dispatched yet, it may not be in the tables of this moment.
            if push <= self.dispatched && !self.tables.counts(push).is_some_and(is_pending) {
                self.handed.forget(push);
            }
        }
    }

    /// QoS 0 pushes that an earlier leader accepted, or whose settling failed: for those who are not online, once it is
    /// known who is.
    fn settle_offline_pushes(&mut self, _now: Now) {
        if self.offline_from >= self.offline_upto || !self.presence_is_whole() {
            return;
        }
        let (from, upto) = (self.offline_from, self.offline_upto);
        let (pushes, next) = self.tables.pending_qos0(from, upto, PUSHES_PER_CHORE);
        self.offline_from = next;
        for push in pushes {
            let Some(pending) = self.tables.targets(push, State::Pending) else { continue };
            self.settle_offline(push, &pending);
        }
    }

    pub(super) fn settle_offline_again(&mut self, push: PushId) {
        self.offline_from = self.offline_from.min(PushId(push.0.saturating_sub(1)));
        self.offline_upto = self.offline_upto.max(push);
    }

    /// Recalls a push: whoever may hold it is asked, all others are settled when this is committed.
    pub(super) fn cancel(
        &mut self,
        app: AppId,
        push: PushId,
        reply: oneshot::Sender<Result<Applied, ProposeError>>,
    ) {
        if !self.presence_is_whole() {
            // Some edge has not said yet what it holds. The caller tries again; one that left needs no answer.
            let _ = reply.send(Err(ProposeError::NotLeader { leader: None }));
            return;
        }
        // Nothing is kept back before it is known whose push it is. By its own id: that of a wave means all of it.
        let Some((_, push)) = self.tables.whole_push(push).filter(|(of, _)| *of == app) else {
            let _ = reply.send(Ok(Applied::Refused(Refusal::UnknownPush(push))));
            return;
        };
        self.withdrawing.insert(push);
        let body = CommandBody::CancelPush { app, push, in_flight: self.in_flight(push) };
        self.propose(Command::own(body), Waiting::Cancelled(push, reply));
    }

    pub(super) fn cancelled(
        &mut self,
        push: PushId,
        reply: oneshot::Sender<Result<Applied, ProposeError>>,
        result: Result<Applied, ProposeError>,
    ) {
        self.recalled(push, &result);
        let _ = reply.send(result);
    }

    pub(super) fn recalled(&mut self, push: PushId, result: &Result<Applied, ProposeError>) {
        // Once committed the tables say so; only a dispatch still to come looks here.
        if *result != Ok(Applied::Done) || push <= self.dispatched {
            self.withdrawing.remove(&push);
        }
        if *result != Ok(Applied::Done) {
            // Groups left it out meanwhile.
            self.shared.read_again_from(push);
        }
    }

    /// Who may hold `push` on a connection that still exists.
    pub(super) fn in_flight(&self, push: PushId) -> TerminalSet {
        let mut all = TerminalSet::new();
        for id in self.tables.dispatched_as(push) {
            let is_held = |no: &TerminalNo| {
                self.is_bound(*no) || self.shared.holder(*no, id).is_some_and(|member| self.is_bound(member))
            };
            all.0 |= self.handed.of(id).iter().filter(is_held).collect::<TerminalSet>().0;
        }
        all
    }

    /// Asks the edges about everyone who is still pending for a withdrawn push.
    pub(super) fn withdraw(&mut self, push: PushId) {
        let pending: BTreeMap<_, _> = self.tables.pending_by_id(push).into_iter().collect();
        for id in self.tables.dispatched_as(push) {
            match pending.get(&id).filter(|pending| !pending.is_empty()) {
                None => self.handed.forget(id),
                // Otherwise settle_lost comes back to it.
                Some(pending) if self.presence_is_whole() => self.ask_about(id, pending),
                Some(_) => {}
            }
        }
    }

    /// Asks the edges about those who are pending for a push that was taken back from them.
    pub(super) fn ask_about(&mut self, push: PushId, pending: &TerminalSet) {
        let mut by_edge: BTreeMap<NodeId, TerminalSet> = BTreeMap::new();
        let (mut nowhere, mut unwritten) = (TerminalSet::new(), TerminalSet::new());
        for no in pending.iter() {
            if let Some(binding) = self.presence.numbered(no) {
                by_edge.entry(binding.edge).or_default().insert(no);
            } else if self.withdraw_from_group(push, no) {
                // Its holder answers.
            } else if self.shared.is_unwritten(no, push) {
                unwritten.insert(no);
            } else {
                nowhere.insert(no);
            }
        }
        for (node, targets) in by_edge {
            if let Some(link) = self.edges.get(&node).and_then(|edge| edge.link) {
                self.actions.push(Action::Deliver(link, Deliver::Withdraw { push, targets }));
            }
        }
        let settled = [(Outcome::Sent, nowhere), (Outcome::NotWritten, unwritten)];
        let items: Vec<_> = settled
            .into_iter()
            .filter(|(_, terminals)| !terminals.is_empty())
            .map(|(outcome, terminals)| Receipt { push, outcome, terminals })
            .collect();
        if !items.is_empty() {
            let body = CommandBody::RecordReceipts { items, steps: Vec::new() };
            self.propose(Command::own(body), Waiting::Nothing);
        }
    }
}
