//! Resume: what an edge tells of its terminals when it links, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{
    NodeId, PushId, TerminalNo, TerminalSet,
    limits::OWED_PER_PULL_MAX,
    link::{BindingReport, Deliver, LeaderControl, Owed, SharedInFlight, UnbindReason},
};
use fabric_core::link::{Binding, Who};

use super::{Action, Edge, Leader, LinkId, Now, Phase};

/// What an edge has told so far.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Resume {
    pub(super) bindings: Vec<BindingReport>,
    pub(super) in_flight: BTreeMap<PushId, TerminalSet>,
    pub(super) shared: Vec<SharedInFlight>,
}

impl Leader {
    pub(super) fn resuming(&mut self, node: NodeId, add: impl FnOnce(&mut Resume)) {
        if let Some(Edge { phase: Phase::Resuming(resume), .. }) = self.edges.get_mut(&node) {
            add(resume);
        }
    }

    /// Resume is complete: rebuild presence, and send what the edge's terminals are owed and do not have.
    pub(super) fn resume(&mut self, now: Now, node: NodeId, link: LinkId) {
        let Some(edge) = self.edges.get_mut(&node) else { return };
        let Phase::Resuming(resume) = std::mem::replace(&mut edge.phase, Phase::Live) else {
            return self.actions.push(Action::Close(link));
        };
        edge.told = true;
        let Resume { bindings, in_flight, shared } = resume;
        // Whom it does not report any more is gone; their Unbind comes again with its other requests.
        let before = self.forget_bindings_of(node);
        for (push, set) in &in_flight {
            self.handed.add(*push, set);
        }
        let mut missing: BTreeMap<PushId, TerminalSet> = BTreeMap::new();
        for report in bindings {
            self.restore_binding(now, node, link, report, &in_flight, &mut missing);
        }
        self.members_gone(&before);
        let conflicts = self.restore_shared(node, &in_flight, &shared);
        self.actions.push(Action::Control(link, LeaderControl::Resumed));
        for (push, targets) in missing {
            self.send_again(node, push, targets);
        }
        for held in conflicts {
            self.actions.push(Action::Deliver(link, Deliver::WithdrawShared(held)));
        }
        self.edges_changed();
        tracing::info!(edge = %node, terminals = self.edges.get(&node).map_or(0, |e| e.bound.len()), "edge resumed");
    }

    fn restore_binding(
        &mut self,
        now: Now,
        node: NodeId,
        link: LinkId,
        report: BindingReport,
        in_flight: &BTreeMap<PushId, TerminalSet>,
        missing: &mut BTreeMap<PushId, TerminalSet>,
    ) {
        let revoked_until = self.tables.revoked_until(report.app, &report.terminal);
        if report.credential_issued_at != 0 && report.credential_issued_at <= revoked_until {
            return self.unbind(link, report, UnbindReason::Revoked);
        }
        let is_gone = |no: TerminalNo| no.is_registered() && self.tables.terminal_by_no(no).is_none();
        if report.no.is_some_and(is_gone) || !self.tables.has_app(report.app) {
            return self.unbind(link, report, UnbindReason::Deleted);
        }
        let is_its = |no: TerminalNo| {
            let record = self.tables.terminal_by_no(no);
            record.is_some_and(|record| record.app == report.app && record.id == report.terminal)
        };
        if report.no.is_some_and(|no| !is_its(no)) {
            // A number it was lent, and that is somebody else's by now: it gets the right one when it connects again.
            return self.unbind(link, report, UnbindReason::TakenOver);
        }
        let who = report.no.map_or_else(|| self.who(report.app, &report.terminal), Who::Numbered);
        let binding = Binding { app: report.app, edge: node, epoch: report.epoch, live: report.live };
        match self.presence.bind(who.clone(), binding) {
            // A newer binding won while this edge was away.
            Err(_) => return self.unbind(link, report, UnbindReason::TakenOver),
            Ok(Some(older)) if older.edge != node => {
                // That edge resumed first.
                if let Some(link) = self.edges.get(&older.edge).and_then(|edge| edge.link) {
                    let older = BindingReport { epoch: older.epoch, ..report.clone() };
                    self.unbind(link, older, UnbindReason::TakenOver);
                }
                if let Who::Numbered(no) = who {
                    self.set_bound(older.edge, no, false);
                    self.shared.gone(no);
                }
            }
            Ok(_) => {}
        }
        let Who::Numbered(no) = who else { return };
        self.set_bound(node, no, true);
        self.leaving.remove(&no);
        self.refresh_member(no);
        if !report.live {
            return self.set_live(no, report.epoch, false); // it will pull
        }
        let rows = self.tables.owed(no, PushId(0), self.dispatched, now.wall_ms, OWED_PER_PULL_MAX);
        let lacking = rows.iter().filter(|row| {
            let has = in_flight.get(&row.push).is_some_and(|set| set.contains(no));
            !has && !self.is_taken_back(row.of, no)
        });
        if rows.len() < OWED_PER_PULL_MAX {
            for row in lacking {
                missing.entry(row.push).or_default().insert(no);
            }
            self.set_live(no, report.epoch, true);
        } else {
            // Too much to sort out here: it pulls, from after what it has queued.
            self.set_live(no, report.epoch, false);
            let page = Owed { no, epoch: report.epoch, pushes: Vec::new(), live: false };
            self.actions.push(Action::Deliver(link, Deliver::Owed(page)));
        }
    }

    /// What the edge's members hold for their groups. Answers what another member has been given meanwhile.
    fn restore_shared(
        &mut self,
        node: NodeId,
        in_flight: &BTreeMap<PushId, TerminalSet>,
        reported: &[SharedInFlight],
    ) -> Vec<SharedInFlight> {
        let members: Vec<_> = self.shared.members().filter(|no| self.is_bound_at(*no, node)).collect();
        let mut told: BTreeSet<(PushId, TerminalNo)> =
            reported.iter().map(|held| (held.push, held.group)).collect();
        // A receipt that is not committed names the group alone.
        for (push, set) in in_flight {
            let groups = TerminalSet(&set.0 & &self.shared.numbers().0);
            told.extend(groups.iter().map(|group| (*push, group)));
        }
        for member in &members {
            self.shared.has_only(*member, |push, group| told.contains(&(push, group)));
        }
        let mut conflicts = Vec::new();
        for held in reported {
            if self.is_bound_at(held.member, node) && !self.claim(held.group, held.push, held.member, false) {
                conflicts.push(*held);
            }
        }
        for (push, group) in told {
            // Whoever is to answer: until then nobody else gets it.
            let member = members.iter().find(|no| self.shared.groups_of(**no).contains(&group));
            if let Some(member) = member.filter(|_| self.shared.holder(group, push).is_none()) {
                self.claim(group, push, *member, false);
            }
        }
        conflicts
    }

    fn unbind(&mut self, link: LinkId, report: BindingReport, reason: UnbindReason) {
        let BindingReport { app, terminal, epoch, .. } = report;
        self.actions.push(Action::Control(link, LeaderControl::Unbind { terminal, app, epoch, reason }));
    }
}
