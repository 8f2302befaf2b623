//! Edges: greeting, Resume, heartbeats, loss.

use std::collections::BTreeMap;

use cluster_proto::{
    Incarnation, NodeId, PushId, TerminalNo, TerminalSet,
    limits::OWED_PER_PULL_MAX,
    link::{BindingReport, Deliver, EdgeControl, Hello, Lane, LeaderControl, Owed, UnbindReason, Welcome},
};
use fabric_core::link::{Binding, Who};
use raft_store::{Applied, Command, CommandBody, ProposeError};

use super::{
    Action, CONFIRMED_WITHIN_MS, EDGE_LOST_MS, Edge, HEARTBEAT_MS, LEASE_MS, Leader, LinkId, Now, Phase,
    RESUME_GRACE_MS, Waiting,
};
use crate::control::EdgeInfo;

impl Leader {
    /// Edges the tables know of: they may hold terminals and pushes in flight until they resume or are ended.
    pub(super) fn expect_known_edges(&mut self, now: Now) {
        for (node, incarnation) in self.tables.edges() {
            let lost_at_ms = now.mono_ms + RESUME_GRACE_MS;
            self.edges.insert(node, Edge::new(incarnation, lost_at_ms));
        }
    }

    /// Whether every edge that may hold something in flight has told so.
    pub(super) fn presence_is_whole(&self) -> bool {
        self.edges.values().all(|edge| edge.phase == Phase::Live)
    }

    pub(super) fn handle_control(&mut self, now: Now, link: LinkId, frame: EdgeControl) {
        if let EdgeControl::Hello(hello) = frame {
            return self.handle_hello(now, link, hello);
        }
        let Some(node) = self.edge_of(link).map(|(node, _)| node) else { return };
        match frame {
            EdgeControl::Hello(_) => {}
            EdgeControl::Bindings(reports) => self.resuming(node, |bindings, _| bindings.extend(reports)),
            EdgeControl::InFlight(items) => self.resuming(node, |_, in_flight| {
                for (push, set) in items {
                    in_flight.entry(push).or_default().0 |= set.0;
                }
            }),
            EdgeControl::Filters(delta) => {
                self.filters.update(node, delta);
                self.tell_who_forwards();
            }
            EdgeControl::ResumeDone => self.resume(now, node, link),
            EdgeControl::SharedInFlight(_) => {}
            EdgeControl::Heartbeat { nonce, .. } => {
                if now.mono_ms.saturating_sub(self.confirmed_ms) < CONFIRMED_WITHIN_MS {
                    self.actions.push(Action::Control(
                        link,
                        LeaderControl::HeartbeatAck {
                            nonce,
                            now_ms: now.wall_ms,
                            cluster: Default::default(),
                        },
                    ));
                }
            }
            EdgeControl::Unbound { epoch, receipts_seq, .. } => {
                self.old_binding_gone(now, node, epoch, receipts_seq)
            }
            EdgeControl::Draining => {
                if let Some(edge) = self.edges.get_mut(&node) {
                    edge.draining = true;
                }
            }
        }
    }

    fn handle_hello(&mut self, now: Now, link: LinkId, hello: Hello) {
        let node = hello.edge;
        let known = self.tables.edge_seqs(node).map(|(incarnation, _)| incarnation);
        if let Some(old) = self.edges.get(&node).and_then(|edge| edge.link) {
            self.links.remove(&old);
            self.actions.push(Action::Close(old));
        }
        self.links.insert(link, node);
        let is_new_life = known != Some(hello.incarnation);
        if is_new_life {
            self.forget_bindings_of(node);
        }
        let edge = self.edges.entry(node).or_insert_with(|| Edge::new(hello.incarnation, now.mono_ms));
        edge.incarnation = hello.incarnation;
        edge.addresses = hello.addresses;
        edge.link = Some(link);
        edge.draining = false;
        if is_new_life {
            edge.phase = Phase::Starting;
            let body = CommandBody::EdgeStarted { edge: node, incarnation: hello.incarnation };
            self.propose(Command::own(body), Waiting::EdgeStarted(link));
        } else {
            self.welcome(now, node, link);
        }
    }

    pub(super) fn edge_started(&mut self, now: Now, link: LinkId, result: Result<Applied, ProposeError>) {
        let Some(node) = self.edge_of(link).map(|(node, _)| node) else { return };
        match result {
            Ok(Applied::IncarnationOver) => {
                let reason = format!("edge {node} was declared ended in this life");
                self.actions
                    .push(Action::Control(link, LeaderControl::Refused { reason, incarnation_over: true }));
                self.actions.push(Action::Close(link));
            }
            Err(_) => self.actions.push(Action::Close(link)),
            Ok(_) => self.welcome(now, node, link),
        }
    }

    fn welcome(&mut self, now: Now, node: NodeId, link: LinkId) {
        let applied = self.tables.edge_seqs(node).map(|(_, seqs)| seqs).unwrap_or_default();
        let receipts = applied.iter().find(|(lane, _)| *lane == Lane::Receipts).map_or(0, |(_, seq)| *seq);
        let Some(edge) = self.edges.get_mut(&node) else { return };
        edge.receipts_applied = receipts;
        edge.phase = Phase::Resuming { bindings: Vec::new(), in_flight: BTreeMap::new() };
        edge.forward_transient = false;
        let welcome = Welcome {
            leader: self.me,
            term: self.term,
            lease_ms: LEASE_MS,
            heartbeat_ms: HEARTBEAT_MS,
            applied,
            apps: self.tables.apps(),
            now_ms: now.wall_ms,
        };
        self.filters.forget(node);
        self.actions.push(Action::Control(link, LeaderControl::Welcome(welcome)));
        self.actions.push(Action::Control(link, LeaderControl::Keys(self.tables.public_keys())));
    }

    fn resuming(
        &mut self,
        node: NodeId,
        add: impl FnOnce(&mut Vec<BindingReport>, &mut BTreeMap<PushId, TerminalSet>),
    ) {
        if let Some(Edge { phase: Phase::Resuming { bindings, in_flight }, .. }) = self.edges.get_mut(&node) {
            add(bindings, in_flight);
        }
    }

    /// Resume is complete: rebuild presence, and send what the edge's terminals are owed and do not have.
    fn resume(&mut self, now: Now, node: NodeId, link: LinkId) {
        let Some(edge) = self.edges.get_mut(&node) else { return };
        let Phase::Resuming { bindings, in_flight } = std::mem::replace(&mut edge.phase, Phase::Live) else {
            return self.actions.push(Action::Close(link));
        };
        // Whom it does not report any more is gone; their Unbind comes again with its other requests.
        self.forget_bindings_of(node);
        for (push, set) in &in_flight {
            self.handed.add(*push, set);
        }
        let mut missing: BTreeMap<PushId, TerminalSet> = BTreeMap::new();
        for report in bindings {
            self.restore_binding(now, node, link, report, &in_flight, &mut missing);
        }
        self.actions.push(Action::Control(link, LeaderControl::Resumed));
        for (push, targets) in missing {
            self.send_again(node, push, targets);
        }
        self.tell_who_forwards();
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
        let who = report.no.map_or_else(|| self.who(report.app, &report.terminal), Who::Numbered);
        let binding = Binding { edge: node, epoch: report.epoch, live: report.live };
        match self.presence.bind(who.clone(), binding) {
            // A newer binding won while this edge was away.
            Err(_) => return self.unbind(link, report, UnbindReason::TakenOver),
            Ok(Some(older)) if older.edge != node => {
                if let Who::Numbered(no) = who {
                    self.set_bound(older.edge, no, false);
                }
            }
            Ok(_) => {}
        }
        let Who::Numbered(no) = who else { return };
        self.set_bound(node, no, true);
        if !report.live {
            return; // it will pull
        }
        let rows = self.tables.owed(no, PushId(0), self.dispatched, now.wall_ms, OWED_PER_PULL_MAX);
        let lacking = rows.iter().filter(|row| !in_flight.get(&row.push).is_some_and(|set| set.contains(no)));
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

    pub(super) fn set_live(&mut self, no: TerminalNo, epoch: cluster_proto::Epoch, live: bool) {
        let Some(node) = self.presence.set_live(no, epoch, live) else { return };
        let Some(edge) = self.edges.get_mut(&node) else { return };
        if live {
            edge.live.insert(no);
        } else {
            edge.live.remove(no);
        }
    }

    pub(super) fn set_bound(&mut self, node: NodeId, no: TerminalNo, bound: bool) {
        let Some(edge) = self.edges.get_mut(&node) else { return };
        if bound {
            edge.bound.insert(no);
        } else {
            edge.bound.remove(no);
            edge.live.remove(no);
        }
    }

    fn unbind(&mut self, link: LinkId, report: BindingReport, reason: UnbindReason) {
        let BindingReport { app, terminal, epoch, .. } = report;
        self.actions.push(Action::Control(link, LeaderControl::Unbind { terminal, app, epoch, reason }));
    }

    pub(super) fn handle_link_closed(&mut self, now: Now, link: LinkId) {
        let Some(node) = self.links.remove(&link) else { return };
        let Some(edge) = self.edges.get_mut(&node).filter(|edge| edge.link == Some(link)) else { return };
        edge.link = None;
        edge.phase = Phase::Unlinked;
        // A draining edge has said good-bye to its terminals and will not resume.
        edge.lost_at_ms = now.mono_ms + if edge.draining { 0 } else { EDGE_LOST_MS };
        self.filters.forget(node);
        self.tell_who_forwards();
        self.give_up_waits_on(now, node);
    }

    pub(super) fn end_lost_edges(&mut self, now: Now) {
        let lost: Vec<_> = self
            .edges
            .iter_mut()
            .filter(|(_, edge)| edge.link.is_none() && edge.lost_at_ms <= now.mono_ms)
            .map(|(node, edge)| {
                edge.lost_at_ms = now.mono_ms + EDGE_LOST_MS; // again, should the proposal fail
                (*node, edge.incarnation)
            })
            .collect();
        for (edge, incarnation) in lost {
            tracing::info!(%edge, "edge is lost: its sessions end or wait for their terminals");
            let body = CommandBody::EdgeEnded { edge, incarnation };
            self.propose(Command::own(body), Waiting::EdgeEnded(edge, incarnation));
        }
    }

    pub(super) fn edge_ended(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        result: &Result<Applied, ProposeError>,
    ) {
        let same_life = self.edges.get(&node).is_some_and(|edge| edge.incarnation == incarnation);
        if result.is_err() || !same_life {
            return;
        }
        self.forget_bindings_of(node);
        if let Some(Edge { link: Some(link), .. }) = self.edges.remove(&node) {
            // It came back while this was being committed: it must begin a new life.
            self.actions.push(Action::Close(link));
        }
    }

    fn forget_bindings_of(&mut self, node: NodeId) {
        self.presence.unbind_named_of(node);
        let Some(edge) = self.edges.get_mut(&node) else { return };
        let bound = std::mem::take(&mut edge.bound);
        edge.live = TerminalSet::new();
        for no in bound.iter() {
            let who = Who::Numbered(no);
            if let Some(binding) = self.presence.get(&who).copied().filter(|b| b.edge == node) {
                self.presence.unbind(&who, binding.epoch);
            }
        }
    }

    pub(super) fn tell_all_edges(&mut self, frame: &LeaderControl) {
        let links = self.edges.values().filter_map(|edge| edge.link);
        self.actions.extend(links.map(|link| Action::Control(link, frame.clone())));
    }

    /// Tells each edge whether some other edge has subscribers at all.
    fn tell_who_forwards(&mut self) {
        for (node, edge) in &mut self.edges {
            let Some(link) = edge.link.filter(|_| edge.phase == Phase::Live) else { continue };
            let forward = self.filters.any_beside(*node);
            if edge.forward_transient != forward {
                edge.forward_transient = forward;
                self.actions.push(Action::Control(link, LeaderControl::ForwardTransient(forward)));
            }
        }
    }

    pub(super) fn edge_infos(&self) -> Vec<EdgeInfo> {
        let info = |(node, edge): (&NodeId, &Edge)| EdgeInfo {
            node: *node,
            linked: edge.phase == Phase::Live,
            draining: edge.draining,
            terminals: edge.bound.len(),
            addresses: edge.addresses.clone(),
        };
        self.edges.iter().map(info).collect()
    }
}

impl Edge {
    fn new(incarnation: Incarnation, lost_at_ms: u64) -> Self {
        Self {
            incarnation,
            addresses: Default::default(),
            link: None,
            phase: Phase::Unlinked,
            live: TerminalSet::new(),
            bound: TerminalSet::new(),
            receipts_applied: 0,
            lost_at_ms,
            draining: false,
            forward_transient: false,
        }
    }
}
