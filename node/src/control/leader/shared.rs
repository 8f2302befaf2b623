//! Shared subscription groups: what the machine in `fabric_core::link::shared` decides, read from the tables and sent
//! to edges.
//!
//! A group has a number, is owed pushes and is named by receipts like a terminal, but it is never bound: pushes for it
//! go to members, one each.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{
    DropReason, Message, NodeId, Outcome, PushId, Qos, TerminalNo, TerminalSet,
    limits::INLINE_PAYLOAD_LEN_MAX,
    link::{Deliver, OutboundStage, Receipt, Receipts, SharedDelivery, SharedInFlight, Step, Transient},
};
use fabric_core::link::shared::{Given, Want};
use raft_store::{Command, CommandBody, effect::AcceptedPush, tables::OwedRow};

use super::{Action, Leader, LinkId, Now, Phase, Waiting};

/// Reads of the tables for one group after one event; what is left is done after the next.
const READS_PER_EVENT_MAX: usize = 64;
/// An ended connection keeps what it holds for so long: its last receipts travel on another stream than its end.
const LEAVING_MS: u64 = 400;

/// The connection of a member ended: what it holds stays with it until its last receipts have had time to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    at_ms: u64,
    edge: NodeId,
    /// Its session outlives the connection.
    lasts: bool,
}

impl Leader {
    // ------------------------------------------------------------ giving

    /// Gives the groups' members what they have room for. After every event.
    pub(super) fn serve_groups(&mut self, now: Now) {
        for group in self.shared.take_ready() {
            self.serve_group(now, group);
        }
    }

    fn serve_group(&mut self, now: Now, group: TerminalNo) {
        for _ in 0..READS_PER_EVENT_MAX {
            match self.shared.wants(group) {
                Want::Nothing => return,
                Want::Again(push) => {
                    let before = PushId(push.0.saturating_sub(1));
                    match self.tables.owed(group, before, push, now.wall_ms, 1).first() {
                        Some(row) if !self.is_taken_back(row.of, group) => self.give(group, row),
                        _ => self.shared.drop_returned(group, push),
                    }
                }
                Want::Page { after, max } => {
                    let rows = self.tables.owed(group, after, self.dispatched, now.wall_ms, max);
                    let is_last = rows.len() < max;
                    let last = rows.last().map(|row| row.push);
                    for row in rows {
                        if !self.is_taken_back(row.of, group) {
                            self.give(group, &row);
                        }
                    }
                    let upto = last.filter(|_| !is_last).unwrap_or(self.dispatched);
                    self.shared.has_read(group, upto, is_last);
                }
            }
        }
        self.shared.set_ready(group);
    }

    fn give(&mut self, group: TerminalNo, row: &OwedRow) {
        if let Some(given) = self.shared.give(group, row.push) {
            self.send_shared(group, row, given, None);
        }
    }

    /// A push is dispatched: one member of each group in its audience gets it, if there is room.
    /// The edges in `sent_to` have the message.
    pub(super) fn dispatch_to_groups(&mut self, push: &AcceptedPush, mut sent_to: BTreeSet<NodeId>) {
        let groups = TerminalSet(&push.pending.0 & &self.shared.numbers().0);
        for group in groups.iter() {
            let Some(given) = self.shared.arrived(group, push.push) else { continue };
            let node = self.presence.numbered(given.member).map(|binding| binding.edge);
            let is_new = node.is_some_and(|node| sent_to.insert(node));
            let message = is_new.then_some(&*push.message);
            let AcceptedPush { push, of, urgent, expires_at_ms, .. } = *push;
            let row = OwedRow { push, of, urgent, qos0: false, expires_at_ms };
            self.send_shared(group, &row, given, message);
        }
    }

    fn send_shared(&mut self, group: TerminalNo, row: &OwedRow, given: Given, message: Option<&Message>) {
        let OwedRow { push, urgent, expires_at_ms, .. } = *row;
        let Given { member, granted, dup } = given;
        let Some(link) = self.link_of(member) else {
            // Not reached at the moment: another is tried.
            return self.shared.not_written(group, push, member);
        };
        self.handed.add_one(push, group);
        let message = message.filter(|m| m.payload.len() <= INLINE_PAYLOAD_LEN_MAX).cloned();
        let to = SharedInFlight { push, group, member };
        let delivery = SharedDelivery { to, granted, expires_at_ms, dup, message, urgent };
        self.actions.push(Action::Deliver(link, Deliver::Shared(delivery)));
    }

    /// A QoS 0 message goes to one live member of each group it matches, by edge.
    pub(super) fn transient_members(&mut self, transient: &Transient) -> BTreeMap<LinkId, Vec<TerminalNo>> {
        let mut members: BTreeMap<LinkId, Vec<TerminalNo>> = BTreeMap::new();
        for group in self.tables.groups_matching(transient.app, &transient.topic) {
            let Some(member) = self.shared.pick_live(group) else { continue };
            if let Some(link) = self.link_of(member) {
                members.entry(link).or_default().push(member);
            }
        }
        members
    }

    // ------------------------------------------------------------ members

    /// The subscriptions of a bound terminal may have changed.
    pub(super) fn refresh_member(&mut self, no: TerminalNo) {
        let Some(binding) = self.presence.numbered(no).copied() else { return };
        let memberships: BTreeMap<TerminalNo, Qos> = self.tables.memberships(no).into_iter().collect();
        for group in self.shared.groups_of(no) {
            if !memberships.contains_key(&group) {
                self.leave_group(group, no);
            }
        }
        for (group, granted) in &memberships {
            if self.shared.join(*group, no, *granted) {
                self.claim_begun(*group);
            }
        }
        if !memberships.is_empty() {
            self.shared.set_live(no, binding.live);
        }
    }

    /// What its edge has not written, another member may have.
    fn leave_group(&mut self, group: TerminalNo, member: TerminalNo) {
        let held = self.shared.leave(group, member);
        if !self.tables.is_group(group) {
            return self.shared.forget(group);
        }
        let Some(link) = self.link_of(member) else { return };
        for push in held {
            let held = SharedInFlight { push, group, member };
            self.actions.push(Action::Deliver(link, Deliver::WithdrawShared(held)));
        }
    }

    /// A group was not known: exchanges its members have begun stay with them, also of those that are not connected.
    fn claim_begun(&mut self, group: TerminalNo) {
        for (member, _) in self.tables.group_members(group) {
            for delivery in self.tables.outbound(member) {
                if delivery.target == group && delivery.stage == OutboundStage::Begun {
                    self.claim(group, delivery.push, member, true);
                }
            }
        }
    }

    /// `member` has `push` for `group` already. False if another member has been given it meanwhile; true also if
    /// nobody is to get it any more.
    pub(super) fn claim(&mut self, group: TerminalNo, push: PushId, member: TerminalNo, begun: bool) -> bool {
        if !self.tables.is_group(group) || !self.tables.is_pending(push, group) {
            return true;
        }
        self.handed.add_one(push, group);
        self.shared.claim(group, push, member, begun)
    }

    /// A connection ended. What it holds goes back when its receipts have had time to come.
    pub(super) fn member_disconnected(&mut self, now: Now, no: TerminalNo, edge: NodeId, lasts: bool) {
        if self.shared.is_member(no) {
            self.shared.disconnect(no);
            self.leaving.insert(no, Leaving { at_ms: now.mono_ms + LEAVING_MS, edge, lasts });
        }
    }

    /// A terminal is being bound, and every receipt of its earlier connection is in. `present`: its session goes on,
    /// and what it goes on with is claimed after this.
    pub(super) fn member_rebound(&mut self, no: TerminalNo, present: bool) {
        self.leaving.remove(&no);
        if present {
            self.shared.take_back(no);
        } else {
            self.member_session_ended(no);
        }
    }

    /// Those of `nos` that are not bound any more left without a word.
    pub(super) fn members_gone(&mut self, nos: &TerminalSet) {
        let gone: Vec<_> =
            self.shared.members().filter(|no| nos.contains(*no) && !self.is_bound(*no)).collect();
        for no in gone {
            self.leaving.remove(&no);
            self.shared.gone(no);
        }
    }

    /// An edge lost its link: its members are given nothing until it resumes.
    pub(super) fn members_unreachable(&mut self, node: NodeId) {
        let members: Vec<_> = self.shared.members().filter(|no| self.is_bound_at(*no, node)).collect();
        members.into_iter().for_each(|no| self.shared.set_live(no, false));
    }

    pub(super) fn tick_groups(&mut self, now: Now) {
        let over: Vec<_> = self
            .leaving
            .iter()
            .filter(|(_, leaving)| leaving.at_ms <= now.mono_ms)
            .map(|(no, leaving)| (*no, *leaving))
            .collect();
        for (no, leaving) in over {
            self.leaving.remove(&no);
            self.member_left(no, leaving);
        }
        self.shared.unpause();
    }

    /// What a member that left still holds, its edge had written: what it had not, it has said. With QoS 2 it goes to
    /// nobody else ([MQTT-4.8.2-5]); a session that lasts has recorded what it had begun.
    fn member_left(&mut self, no: TerminalNo, leaving: Leaving) {
        let has_said = self.edges.get(&leaving.edge).is_some_and(|edge| edge.phase == Phase::Live);
        if has_said && !leaving.lasts {
            let is_qos_2 = |push| self.tables.push(push).is_some_and(|p| p.message.qos == Qos::ExactlyOnce);
            let written: Vec<_> =
                self.shared.held_with_qos_2(no).into_iter().filter(|(push, _)| is_qos_2(*push)).collect();
            for (push, group) in &written {
                self.shared.settled(*group, *push);
            }
            self.settle_for_groups(written, Outcome::Sent);
        }
        self.shared.gone(no);
    }

    /// Members that are not connected hold what they have begun for as long as their sessions live.
    pub(super) fn check_absent_members(&mut self) {
        for (member, held) in self.shared.absent() {
            if self.leaving.contains_key(&member) {
                continue;
            }
            if self.tables.session(member).is_none() {
                self.member_session_ended(member);
                continue;
            }
            for (push, group) in held {
                if !self.tables.is_pending(push, group) {
                    self.shared.settled(group, push);
                }
            }
        }
    }

    /// [MQTT-4.8.2-5]: what it had begun goes to nobody else.
    fn member_session_ended(&mut self, member: TerminalNo) {
        let begun = self.shared.session_ended(member);
        self.settle_for_groups(begun, Outcome::Dropped(DropReason::SessionGone));
    }

    fn settle_for_groups(&mut self, held: Vec<(PushId, TerminalNo)>, outcome: Outcome) {
        let items: Vec<_> = held
            .into_iter()
            .filter(|(push, group)| self.tables.is_pending(*push, *group))
            .map(|(push, group)| Receipt { push, outcome, terminals: TerminalSet::one(group) })
            .collect();
        if !items.is_empty() {
            let body = CommandBody::RecordReceipts { items, steps: Vec::new() };
            self.propose(Command::own(body), Waiting::Nothing);
        }
    }

    // ------------------------------------------------------------ receipts

    /// Receipts of an edge are committed: windows are free again, and what was not written goes to somebody else.
    pub(super) fn groups_answered(&mut self, node: NodeId, receipts: &Receipts) {
        if self.shared.numbers().is_empty() {
            return;
        }
        for item in &receipts.items {
            let groups = TerminalSet(&item.terminals.0 & &self.shared.numbers().0);
            for group in groups.iter() {
                self.group_answered(node, group, item);
            }
        }
        for step in &receipts.steps {
            if let Step::Begin { push, target } = step.step
                && target != step.no
            {
                self.shared.begun(target, push, step.no);
            }
        }
    }

    fn group_answered(&mut self, node: NodeId, group: TerminalNo, item: &Receipt) {
        let push = item.push;
        if item.outcome == Outcome::NotWritten {
            // Of a member that held it before, it says nothing about the present one. One that left says it last.
            let holder = self.shared.holder(group, push);
            let holder = holder.filter(|no| self.is_bound_at(*no, node) || self.leaving.contains_key(no));
            return holder.into_iter().for_each(|member| self.shared.not_written(group, push, member));
        }
        let Some(member) = self.shared.settled(group, push) else { return };
        if !self.is_bound_at(member, node)
            && let Some(link) = self.link_of(member)
        {
            // A member that held it before has acknowledged it after all.
            let held = SharedInFlight { push, group, member };
            self.actions.push(Action::Deliver(link, Deliver::WithdrawShared(held)));
        }
    }

    /// Asks the member that holds a withdrawn push for `group`, if there is one that is connected.
    pub(super) fn withdraw_from_group(&mut self, push: PushId, group: TerminalNo) -> bool {
        let Some(member) = self.shared.holder(group, push).filter(|member| self.is_bound(*member)) else {
            return false;
        };
        if let Some(link) = self.link_of(member) {
            let held = SharedInFlight { push, group, member };
            self.actions.push(Action::Deliver(link, Deliver::WithdrawShared(held)));
        }
        true
    }

    // ------------------------------------------------------------ questions

    /// The edge link on which deliveries reach a terminal.
    fn link_of(&self, no: TerminalNo) -> Option<LinkId> {
        let binding = self.presence.numbered(no)?;
        let edge = self.edges.get(&binding.edge)?;
        edge.link.filter(|_| edge.phase == Phase::Live)
    }

    pub(super) fn is_bound_at(&self, no: TerminalNo, node: NodeId) -> bool {
        self.presence.numbered(no).is_some_and(|binding| binding.edge == node)
    }

    /// Whether a QoS 0 push may still reach it: a terminal that is bound, or a group with a member that is.
    pub(super) fn is_online(&self, no: TerminalNo) -> bool {
        if self.is_bound(no) || self.shared.is_online(no) {
            return true;
        }
        // A group that was just made may not be known here yet.
        let is_new_group = !no.is_registered() && self.tables.is_group(no);
        is_new_group && self.tables.group_members(no).iter().any(|(member, _)| self.is_bound(*member))
    }
}
