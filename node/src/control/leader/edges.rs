//! Edges: greeting, heartbeats, loss.

use cluster_proto::{
    Incarnation, NodeId, TerminalNo, TerminalSet,
    link::{EdgeControl, Hello, Lane, LeaderControl, Stats, Welcome},
};
use fabric_core::link::Who;
use raft_store::{Applied, Command, CommandBody, ProposeError};

use super::{
    Action, EDGE_LOST_MS, EDGE_SILENT_MS, Edge, HEARTBEAT_MS, LEASE_MS, Leader, LinkId, Now, Phase,
    RESUME_GRACE_MS, Resume, STOOD_STILL_MS, Waiting,
};
use crate::control::EdgeInfo;

impl Leader {
    /// Edges the tables know of: they may hold terminals and pushes in flight until they resume or are ended.
    pub(super) fn expect_known_edges(&mut self, now: Now) {
        for (node, incarnation) in self.tables.edges() {
            let lost_at_ms = now.mono_ms + RESUME_GRACE_MS;
            self.edges.insert(node, Edge { lost_at_ms, ..Edge::new(incarnation, now.mono_ms) });
        }
    }

    /// Whether every edge that may hold something in flight has told so.
    pub(super) fn presence_is_whole(&self) -> bool {
        self.edges.values().all(|edge| edge.phase == Phase::Live)
    }

    /// The numbered terminals bound to any edge, unless some edge has not told this leader whom it holds.
    pub(super) fn online(&self) -> Option<TerminalSet> {
        let is_known = self.edges.values().all(|edge| edge.told);
        let bound =
            || self.edges.values().fold(TerminalSet::new(), |all, edge| TerminalSet(all.0 | &edge.bound.0));
        // A number may have been lent to a group after a client that was registered meanwhile gave it back.
        is_known.then(|| TerminalSet(bound().0 - &self.shared.numbers().0))
    }

    pub(super) fn handle_control(&mut self, now: Now, link: LinkId, frame: EdgeControl) {
        if let EdgeControl::Hello(hello) = frame {
            return self.handle_hello(now, link, hello);
        }
        let Some(node) = self.edge_of(link).map(|(node, _)| node) else { return };
        if let Some(edge) = self.edges.get_mut(&node) {
            edge.heard_ms = now.mono_ms;
        }
        match frame {
            EdgeControl::Hello(_) => {}
            EdgeControl::Bindings(reports) => self.resuming(node, |resume| resume.bindings.extend(reports)),
            EdgeControl::InFlight(items) => self.resuming(node, |resume| {
                for (push, set) in items {
                    resume.in_flight.entry(push).or_default().0 |= set.0;
                }
            }),
            EdgeControl::SharedInFlight(held) => self.resuming(node, |resume| resume.shared.extend(held)),
            EdgeControl::Filters(delta) => {
                self.filters.update(node, delta);
                self.tell_who_forwards();
            }
            EdgeControl::ResumeDone => self.resume(now, node, link),
            EdgeControl::Heartbeat { nonce, stats } => self.handle_heartbeat(now, node, link, nonce, stats),
            EdgeControl::Unbound { epoch, receipts_seq, unacknowledged } => {
                self.old_binding_gone(now, node, epoch, receipts_seq, unacknowledged);
            }
            EdgeControl::Draining => {
                if let Some(edge) = self.edges.get_mut(&node) {
                    edge.draining = true;
                }
                self.tell_peers();
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
        self.members_unreachable(node);
        let is_new_life = known != Some(hello.incarnation);
        if is_new_life {
            let gone = self.forget_bindings_of(node);
            self.members_gone(&gone);
        }
        let edge = self.edges.entry(node).or_insert_with(|| Edge::new(hello.incarnation, now.mono_ms));
        edge.incarnation = hello.incarnation;
        edge.addresses = hello.addresses;
        edge.link = Some(link);
        edge.heard_ms = now.mono_ms;
        edge.draining = false;
        edge.told |= is_new_life;
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
        // What was refused and what is after it is sent again if its answer was lost: an edge takes what is applied for
        // a success.
        let applied = self.tables.edge_answered(node);
        let receipts = applied.iter().find(|(lane, _)| *lane == Lane::Receipts).map_or(0, |(_, seq)| *seq);
        let Some(edge) = self.edges.get_mut(&node) else { return };
        edge.receipts_applied = receipts;
        edge.heard_ms = now.mono_ms;
        edge.phase = Phase::Resuming(Resume::default());
        edge.forward_transient = false;
        edge.peers = Vec::new();
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

    pub(super) fn set_live(&mut self, no: TerminalNo, epoch: cluster_proto::Epoch, live: bool) {
        let Some(node) = self.presence.set_live(no, epoch, live) else { return };
        self.shared.set_live(no, live);
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
            self.seen.note(no);
        } else {
            edge.bound.remove(no);
            edge.live.remove(no);
        }
    }

    pub(super) fn handle_link_closed(&mut self, now: Now, link: LinkId) {
        let Some(node) = self.links.remove(&link) else { return };
        let Some(edge) = self.edges.get_mut(&node).filter(|edge| edge.link == Some(link)) else { return };
        edge.link = None;
        edge.phase = Phase::Unlinked;
        // A draining edge has said good-bye to its terminals and will not resume.
        edge.lost_at_ms = if edge.draining { now.mono_ms } else { edge.heard_ms + EDGE_LOST_MS };
        self.filters.forget(node);
        self.members_unreachable(node);
        self.edges_changed();
        self.give_up_waits_on(now, node);
    }

    /// A machine that went away says nothing, and QUIC alone would wait for it much longer.
    pub(super) fn close_silent_links(&mut self, now: Now) {
        let ticked_ms = std::mem::replace(&mut self.ticked_ms, now.mono_ms);
        let stood_still = now.mono_ms.saturating_sub(ticked_ms) >= STOOD_STILL_MS;
        let mut silent = Vec::new();
        for (node, edge) in &mut self.edges {
            let Some(link) = edge.link else { continue };
            if stood_still {
                edge.heard_ms = now.mono_ms;
            } else if edge.phase != Phase::Starting && edge.heard_ms + EDGE_SILENT_MS <= now.mono_ms {
                silent.push((*node, link));
            }
        }
        for (edge, link) in silent {
            tracing::info!(%edge, "edge is silent: its link is closed");
            self.actions.push(Action::Close(link));
            self.handle_link_closed(now, link);
        }
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
        let gone = self.forget_bindings_of(node);
        self.members_gone(&gone);
        if let Some(Edge { link: Some(link), .. }) = self.edges.remove(&node) {
            // It came back while this was being committed: it must begin a new life.
            self.actions.push(Action::Close(link));
        }
        self.edges_changed();
    }

    /// Answers the numbered terminals that were bound there.
    pub(super) fn forget_bindings_of(&mut self, node: NodeId) -> TerminalSet {
        self.presence.unbind_named_of(node);
        let Some(edge) = self.edges.get_mut(&node) else { return TerminalSet::new() };
        let bound = std::mem::take(&mut edge.bound);
        edge.live = TerminalSet::new();
        for no in bound.iter() {
            let who = Who::Numbered(no);
            if let Some(binding) = self.presence.get(&who).copied().filter(|b| b.edge == node) {
                self.presence.unbind(&who, binding.epoch);
            }
        }
        bound
    }

    pub(super) fn tell_all_edges(&mut self, frame: &LeaderControl) {
        let links = self.edges.values().filter_map(|edge| edge.link);
        self.actions.extend(links.map(|link| Action::Control(link, frame.clone())));
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
    fn new(incarnation: Incarnation, now_ms: u64) -> Self {
        Self {
            incarnation,
            addresses: Default::default(),
            link: None,
            phase: Phase::Unlinked,
            heard_ms: now_ms,
            live: TerminalSet::new(),
            bound: TerminalSet::new(),
            receipts_applied: 0,
            lost_at_ms: now_ms,
            draining: false,
            told: false,
            forward_transient: false,
            stats: Stats::default(),
            peers: Vec::new(),
        }
    }
}
