//! What edges are told of each other: whether QoS 0 messages have takers elsewhere, where else terminals may go, and
//! the counters of all together.

use cluster_proto::{
    NodeId,
    link::{LeaderControl, Stats},
};

use super::{Action, CONFIRMED_WITHIN_MS, Edge, Leader, LinkId, Now, Phase};

impl Leader {
    /// An edge came or went.
    pub(super) fn edges_changed(&mut self) {
        self.tell_who_forwards();
        self.tell_peers();
        if self.presence_is_whole() {
            self.shared.set_whole();
        }
    }

    /// Tells each edge whether QoS 0 messages have takers it does not know: subscribers of other edges, or members of
    /// shared subscription groups, between whom the leader chooses.
    pub(super) fn tell_who_forwards(&mut self) {
        let has_groups = self.tables.has_groups();
        for (node, edge) in &mut self.edges {
            let Some(link) = edge.link.filter(|_| edge.phase == Phase::Live) else { continue };
            let forward = has_groups || self.filters.any_beside(*node);
            if edge.forward_transient != forward {
                edge.forward_transient = forward;
                self.actions.push(Action::Control(link, LeaderControl::ForwardTransient(forward)));
            }
        }
    }

    /// Tells each edge where else its terminals may go, if that has changed.
    pub(super) fn tell_peers(&mut self) {
        let takes_terminals =
            |edge: &Edge| edge.phase == Phase::Live && !edge.draining && !edge.addresses.mqtt.is_empty();
        let all: Vec<(NodeId, String)> = self
            .edges
            .iter()
            .filter(|(_, edge)| takes_terminals(edge))
            .map(|(node, edge)| (*node, edge.addresses.mqtt.clone()))
            .collect();
        for (node, edge) in &mut self.edges {
            let Some(link) = edge.link.filter(|_| edge.phase == Phase::Live) else { continue };
            let others = all.iter().filter(|(other, _)| other != node);
            let peers: Vec<String> = others.map(|(_, address)| address.clone()).collect();
            if edge.peers != peers {
                edge.peers.clone_from(&peers);
                self.actions.push(Action::Control(link, LeaderControl::Peers(peers)));
            }
        }
    }

    /// Answered only while leadership is confirmed: an isolated leader renews no lease.
    pub(super) fn handle_heartbeat(
        &mut self,
        now: Now,
        node: NodeId,
        link: LinkId,
        nonce: u64,
        stats: Stats,
    ) {
        if let Some(edge) = self.edges.get_mut(&node) {
            edge.stats = stats;
        }
        if now.mono_ms.saturating_sub(self.confirmed_ms) < CONFIRMED_WITHIN_MS {
            let ack = LeaderControl::HeartbeatAck { nonce, now_ms: now.wall_ms, cluster: self.stats };
            self.actions.push(Action::Control(link, ack));
        }
    }

    /// Sums up the counters of all linked edges; what is in the tables, [`Leader::count_totals`] adds.
    pub(super) fn sum_stats(&mut self) {
        let (sessions, retained) = (self.stats.sessions, self.stats.retained);
        let linked = self.edges.values().filter(|edge| edge.phase == Phase::Live);
        let mut sum = Stats::default();
        linked.for_each(|edge| sum += edge.stats);
        self.stats = Stats { sessions, retained, ..sum };
    }

    /// Counts sessions and retained messages of all apps.
    pub(super) fn count_totals(&mut self, _now: Now) {
        self.stats.sessions = self.tables.sessions_len();
        let apps = self.tables.apps();
        self.stats.retained = apps.iter().map(|(app, _)| self.tables.retained_len(*app)).sum();
        // The hint that they changed may have been lost.
        self.follow_quotas();
    }
}
