//! Exchanges of sessions.

use std::collections::BTreeSet;

use cluster_proto::{
    PushId,
    link::{ExchangeStep, Inbound, Origin, Outbound, OutboundStage, Step, Unacknowledged},
};
use raft_store::{Applied, Refusal, tables::Withdrawn};

use crate::{Model, sessions::Session};

/// Push, target, stage, and the order in which stages were reached.
pub(crate) type Delivery = (PushId, u32, OutboundStage, u64);

impl Model {
    /// The session of a number, if this connection of the origin holds it or held it last.
    fn held(&mut self, origin: &Origin, no: u32, connection: u64) -> Option<&mut Session> {
        let holder = (origin.edge.0, origin.incarnation.0, connection);
        self.sessions.values_mut().find(|session| session.no == no && session.holder == holder)
    }

    pub(crate) fn taken(&mut self, origin: &Origin, exchange: &Inbound) -> Option<Applied> {
        let Some(session) = self.held(origin, exchange.no.0, exchange.connection) else {
            return Some(Applied::Refused(Refusal::Stale));
        };
        let (push, audience) = *session.inbound.get(&exchange.packet_id)?;
        self.seen.repeated += 1;
        Some(Applied::Accepted { push, audience, repeated: true })
    }

    pub(crate) fn take(&mut self, exchange: &Inbound, push: PushId, audience: u64) {
        let session = self.sessions.values_mut().find(|session| session.no == exchange.no.0).unwrap();
        session.inbound.insert(exchange.packet_id, (push, audience));
    }

    pub(crate) fn release(&mut self, origin: &Origin, exchange: &Inbound) -> Applied {
        if let Some(session) = self.held(origin, exchange.no.0, exchange.connection) {
            session.inbound.remove(&exchange.packet_id);
        }
        Applied::Done
    }

    pub(crate) fn step(&mut self, origin: &Origin, step: &ExchangeStep) {
        let order = self.steps + 1;
        let Some(session) = self.held(origin, step.no.0, step.connection) else { return };
        let before = session.outbound.get(&step.packet_id).copied();
        let stage = before.map(|(_, _, stage, _)| stage);
        if stage == Some(OutboundStage::Sent) && session.detached_at_ms.is_some() {
            return;
        }
        let after = match (step.step, before, stage) {
            (Step::Begin { push, target }, ..) => (push, target.0, OutboundStage::Begun, order),
            (Step::Receive, Some((push, target, ..)), Some(OutboundStage::Begun)) => {
                (push, target, OutboundStage::Received, order)
            }
            (Step::Complete, _, Some(OutboundStage::Begun | OutboundStage::Received)) => {
                session.outbound.remove(&step.packet_id);
                return;
            }
            _ => return,
        };
        session.outbound.insert(step.packet_id, after);
        self.steps = order;
    }

    /// The outbound deliveries of a session in the order they go on.
    pub(crate) fn outbound(&self, session: &Session) -> Vec<Outbound> {
        let mut rows: Vec<_> = session.outbound.iter().collect();
        rows.sort_by_key(|(_, (.., order))| *order);
        let is_recalled = |push: &PushId| {
            self.pushes
                .kept
                .get(&self.whole(*push))
                .is_some_and(|push| push.withdrawn == Some(Withdrawn::Cancelled))
        };
        let now = |row: &Delivery| match row.2 {
            OutboundStage::Begun if is_recalled(&row.0) => OutboundStage::Received,
            stage => stage,
        };
        let of = |stage: OutboundStage| {
            let rows = rows.iter().filter(move |(_, row)| now(row) == stage);
            rows.map(move |(packet_id, (push, target, ..))| Outbound {
                packet_id: **packet_id,
                push: *push,
                target: cluster_proto::TerminalNo(*target),
                stage,
                expires_at_ms: Some(
                    self.pushes.kept.get(&self.whole(*push)).map_or(0, |push| push.expires_at_ms),
                ),
            })
        };
        let sent = of(OutboundStage::Sent).filter(|o| self.is_pending(o.push, o.target.0));
        let (mut left, mut right) = (sent.collect::<Vec<_>>(), of(OutboundStage::Begun).collect::<Vec<_>>());
        let mut all: Vec<_> = of(OutboundStage::Received).collect();
        while !left.is_empty() || !right.is_empty() {
            let from_left = right.is_empty() || left.first().is_some_and(|first| first.push <= right[0].push);
            all.push(if from_left { left.remove(0) } else { right.remove(0) });
        }
        all
    }

    /// To whom a push was handed out by a connection whose session goes on with it.
    pub(crate) fn handed_out(&self, push: PushId) -> BTreeSet<u32> {
        let rows = self.sessions.values().flat_map(|session| session.outbound.values());
        let handed_out = rows.filter(|(of, _, stage, _)| *of == push && *stage != OutboundStage::Received);
        handed_out.map(|(_, target, ..)| *target).collect()
    }

    /// Deliveries that were not acknowledged become the session's; none replaces one of its own if it is kept.
    pub(crate) fn put_sent(
        &mut self,
        terminal: &cluster_proto::TerminalId,
        sent: &[Unacknowledged],
        keep: bool,
    ) {
        let session = self.sessions.get_mut(terminal).unwrap();
        for delivery in sent.iter().filter(|delivery| delivery.target.0 == session.no) {
            let before = session.outbound.get(&delivery.packet_id);
            let is_same = before.is_some_and(|b| (b.0, b.2) == (delivery.push, OutboundStage::Sent));
            if is_same || (keep && before.is_some()) {
                continue;
            }
            self.steps += 1;
            let row = (delivery.push, delivery.target.0, OutboundStage::Sent, self.steps);
            session.outbound.insert(delivery.packet_id, row);
        }
    }
}
