//! Handing accepted pushes to edges, in push-id order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cluster_proto::{
    DropReason, Message, NodeId, Outcome, PushId, Qos, TerminalSet,
    limits::{INLINE_PAYLOAD_LEN_MAX, SMALL_AUDIENCE_MAX},
    link::{Deliver, FilterUse, PushDelivery, Receipt, Transient},
};
use raft_store::{Command, CommandBody, effect::AcceptedPush};

use super::{Action, Leader, LinkId, Phase, Waiting};

/// Most pushes read from the tables in one rescan.
const RESCAN_MAX: usize = 1_024;

impl Leader {
    pub(super) fn handle_accepted(&mut self, push: &Arc<AcceptedPush>) {
        if push.push <= self.dispatched {
            return; // a rescan was faster
        }
        if push.push.0 > self.dispatched.0 + 1 {
            self.rescan_until(PushId(push.push.0 - 1));
        }
        if push.push > self.dispatched {
            self.dispatch(push);
        }
    }

    /// Dispatches what the tables hold beyond the last dispatched push: hints may be lost (I7).
    pub(super) fn rescan(&mut self) {
        let last = std::mem::replace(&mut self.rescan_mark, self.tables.applied().last_push);
        self.rescan_until(last);
    }

    fn rescan_until(&mut self, last: PushId) {
        while self.dispatched < last {
            let pushes = self.tables.accepted_after(self.dispatched, RESCAN_MAX);
            let Some(furthest) = pushes.last().map(|p| p.push) else { break };
            for push in pushes.iter().take_while(|p| p.push <= last) {
                self.dispatch(push);
            }
            if furthest >= last {
                break;
            }
        }
        // What is not in the tables had no audience, or is purged already.
        self.dispatched = self.dispatched.max(last);
    }

    fn dispatch(&mut self, push: &AcceptedPush) {
        self.dispatched = push.push;
        if self.withdrawing.remove(&push.push) || self.withdrawing.contains(&push.of) {
            return;
        }
        let mut handed = TerminalSet::new();
        let mut sent_to = BTreeSet::new();
        for (node, targets) in self.targets_by_edge(push) {
            handed.0 |= &targets.0;
            self.send_push(node, push, targets, Some(&push.message));
            sent_to.insert(node);
        }
        self.handed.add(push.push, &handed);
        self.dispatch_to_groups(push, sent_to);
        if push.message.qos == Qos::AtMostOnce {
            self.settle_offline(push.push, &push.pending);
        }
        if push.collapses {
            self.collapse(push.of);
        }
    }

    /// Each edge's live part of the audience; with an empty part where only best-effort subscribers match.
    fn targets_by_edge(&self, push: &AcceptedPush) -> BTreeMap<NodeId, TerminalSet> {
        let mut parts: BTreeMap<NodeId, TerminalSet> = BTreeMap::new();
        if push.pending.len() <= SMALL_AUDIENCE_MAX as u64 {
            for no in push.pending.iter() {
                if let Some(binding) = self.presence.numbered(no).filter(|b| b.live) {
                    parts.entry(binding.edge).or_default().insert(no);
                }
            }
        } else {
            for (node, edge) in &self.edges {
                let part = TerminalSet(&push.pending.0 & &edge.live.0);
                if !part.is_empty() {
                    parts.insert(*node, part);
                }
            }
        }
        if push.shown {
            for node in self.best_effort_edges(&push.message) {
                parts.entry(node).or_default();
            }
        }
        parts
    }

    /// Whether some edge shows the message to subscribers that are in no audience.
    pub(super) fn is_shown(&self, message: &Message) -> bool {
        !self.best_effort_edges(message).is_empty()
    }

    fn best_effort_edges(&self, message: &Message) -> BTreeSet<NodeId> {
        self.filters.matching(message.app, &message.topic, FilterUse::BestEffort)
    }

    fn send_push(
        &mut self,
        node: NodeId,
        push: &AcceptedPush,
        targets: TerminalSet,
        message: Option<&Arc<Message>>,
    ) {
        let Some(edge) = self.edges.get(&node) else { return };
        // Without a link, Resume will find what is missing.
        let Some(link) = edge.link.filter(|_| edge.phase == Phase::Live) else { return };
        let targets_qos0 = TerminalSet(&push.qos0.0 & &targets.0);
        // A push without audience is not stored: nobody could fetch it.
        let inline = message.filter(|m| m.payload.len() <= INLINE_PAYLOAD_LEN_MAX || push.pending.is_empty());
        let delivery = PushDelivery {
            push: push.push,
            targets_qos0,
            best_effort: message.is_some() && push.shown,
            expires_at_ms: push.expires_at_ms,
            message: inline.map(|m| Message::clone(m)),
            targets,
            urgent: push.urgent,
        };
        self.actions.push(Action::Deliver(link, Deliver::Push(delivery)));
    }

    /// After Resume: what these live terminals are owed and neither hold nor have answered.
    pub(super) fn send_again(&mut self, node: NodeId, push: PushId, targets: TerminalSet) {
        let Some(record) = self.tables.push(push) else { return };
        self.handed.add(push, &targets);
        let again = AcceptedPush {
            push,
            of: push,
            message: record.message,
            pending: TerminalSet::new(),
            shown: false,
            qos0: self.tables.audience_qos0(push),
            expires_at_ms: record.expires_at_ms,
            urgent: record.options.urgent,
            collapses: false,
        };
        // The edge may well have the payload cached; it asks if not. Best-effort subscribers were shown it once.
        self.send_push(node, &again, targets, None);
    }

    /// A QoS 0 push is for those online; the others are settled at once.
    pub(super) fn settle_offline(&mut self, push: PushId, pending: &TerminalSet) {
        let offline: TerminalSet = pending.iter().filter(|no| !self.is_online(*no)).collect();
        if offline.is_empty() {
            return;
        }
        let outcome = Outcome::Dropped(DropReason::Offline);
        let items = vec![Receipt { push, outcome, terminals: offline }];
        self.propose(
            Command::own(CommandBody::RecordReceipts { items, steps: Vec::new() }),
            Waiting::Offline(push),
        );
    }

    /// QoS 0 messages go to every other edge with a subscriber, and to one member of each shared subscription group,
    /// wherever it is; nobody waits and nothing is kept.
    pub(super) fn relay_transient(&mut self, from: LinkId, mut transient: Transient) {
        transient.members = None; // the leader chooses
        if self.edge_of(from).is_none() {
            return;
        }
        for node in self.filters.matching(transient.app, &transient.topic, FilterUse::Any) {
            let link = self.edges.get(&node).and_then(|edge| edge.link);
            if let Some(link) = link.filter(|_| node != transient.origin) {
                self.actions.push(Action::Transient(link, transient.clone()));
            }
        }
        for (link, members) in self.transient_members(&transient) {
            let transient = Transient { members: Some(members), ..transient.clone() };
            self.actions.push(Action::Transient(link, transient));
        }
    }
}
