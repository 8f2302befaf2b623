//! What sessions keep besides subscriptions: retained messages, wills, exchanges.

use bytes::Bytes;
use cluster_proto::{
    Message, PushId, PushKind, TerminalId, Will,
    link::{ExchangeStep, Inbound, Lane, Step, Unacknowledged},
};
use raft_store::command::Holder;
use rand::{Rng as _, seq::IndexedRandom as _};

use super::{Generator, TOPICS, message};

impl Generator {
    pub(super) fn retained(&mut self) -> Message {
        let payload = Bytes::from(vec![b'x'; [0, 1, 40].choose(&mut self.rng).copied().unwrap()]);
        let topic = TOPICS.choose(&mut self.rng).unwrap();
        Message { retain: true, payload, ..message(PushKind::Topic, topic, None) }
    }

    pub(super) fn retained_ttl_ms(&mut self) -> Option<u64> {
        self.rng.random_bool(0.5).then(|| self.rng.random_range(0..4_000))
    }

    pub(super) fn will(&mut self) -> Will {
        let message = match self.rng.random_bool(0.5) {
            true => self.retained(),
            false => message(PushKind::Topic, TOPICS.choose(&mut self.rng).unwrap(), None),
        };
        let delay_s = *[0, 1, 2, 9].choose(&mut self.rng).unwrap();
        Will { message, delay_s, ttl_ms: self.retained_ttl_ms() }
    }

    /// Of a session that outlives its connection, if one is found soon.
    pub(super) fn session_holder(&mut self) -> Holder {
        let mut holder = self.holder();
        for _ in 0..5 {
            let no = self.no_of(&holder.terminal);
            if self.tables.session(no).is_some_and(|session| session.expiry_s > 0) {
                break;
            }
            holder = self.holder();
        }
        holder
    }

    /// From the edge that holds the session, in the publish lane.
    pub(super) fn inbound(&mut self) -> Inbound {
        let holder = self.session_holder();
        self.from(&holder, Lane::Publish);
        let (no, connection) = (self.no_of(&holder.terminal), holder.connection);
        Inbound { no, connection, packet_id: self.rng.random_range(1..3) }
    }

    /// From the edge that holds the session, in the lane of receipts.
    pub(super) fn steps(&mut self) -> Vec<ExchangeStep> {
        let holder = self.session_holder();
        self.from(&holder, Lane::Receipts);
        let (no, connection) = (self.no_of(&holder.terminal), holder.connection);
        let step = |this: &mut Self| {
            let step = match this.rng.random_range(0..4) {
                0 => Step::Receive,
                1 => Step::Complete,
                _ => Step::Begin { push: this.push(), target: no },
            };
            ExchangeStep { no, connection, packet_id: this.rng.random_range(1..5), step }
        };
        (0..self.rng.random_range(1..4)).map(|_| step(self)).collect()
    }

    /// Of what the terminal is owed.
    pub(super) fn unacknowledged(&mut self, terminal: &TerminalId) -> Vec<Unacknowledged> {
        if self.rng.random_bool(0.5) {
            return Vec::new();
        }
        let no = self.no_of(terminal);
        let owed = self.tables.owed(no, PushId(0), PushId(u64::MAX), 0, 3);
        let target = match self.tables.groups_of(no).first() {
            Some(group) if self.rng.random_ratio(1, 4) => *group,
            _ => no,
        };
        let sent = (self.rng.random_range(1..4)..).zip(owed);
        sent.map(|(packet_id, row)| Unacknowledged { packet_id, push: row.push, target }).collect()
    }
}
