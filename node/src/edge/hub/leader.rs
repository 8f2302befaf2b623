//! What comes from the leader.

use std::sync::Arc;

use cluster_proto::{
    AppId, Epoch, Message, Outcome, PushId, TerminalId, TerminalNo, TerminalSet,
    link::{
        Deliver, Fetch, LeaderControl, Owed, OwedPush, Payload, PushDelivery, SharedDelivery, SharedInFlight,
        Transient, UnbindReason,
    },
};
use fabric_core::mqtt::CloseCause;
use metrics::counter;

use super::Hub;
use crate::edge::{
    codec::Outgoing,
    link::FromLeader,
    messages::{OwedPart, PushPart, ShardDelivery, SharedPart, Targets, ToShard},
    metrics as names,
};

impl Hub {
    pub(super) fn handle_leader(&mut self, frame: FromLeader) {
        match frame {
            FromLeader::Control(frame) => self.link.handle_control(self.now_ms, frame),
            FromLeader::Session(reply) => self.link.handle_session_reply(reply),
            FromLeader::Published(published) => self.link.handle_published(published),
            FromLeader::Committed(committed) => self.link.handle_committed(committed),
            FromLeader::Payload(payload) => self.handle_payload(payload),
            FromLeader::Transient(transient) => self.handle_transient(transient),
            FromLeader::Closed(reason) => {
                tracing::debug!(reason, "link closed");
                self.streams = None;
                self.link.handle_disconnected(self.now_ms);
            }
        }
        self.carry_out();
    }

    pub(super) fn handle_leader_control(&mut self, frame: LeaderControl) {
        match frame {
            LeaderControl::Keys(keys) => self.shared.keyring.replace(keys),
            LeaderControl::Revoke { app, terminal, issued_until } => {
                self.ports.push_all(|| ToShard::Revoked(app, terminal.clone(), issued_until));
            }
            LeaderControl::Unbind { terminal, app, epoch, reason } => {
                self.unbind(app, &terminal, epoch, reason)
            }
            LeaderControl::ForwardTransient(forward) => self.shared.set_forward_transient(forward),
            LeaderControl::Peers(addresses) => self.shared.set_peers(addresses),
            // The machine keeps these to itself.
            LeaderControl::Welcome(_)
            | LeaderControl::Redirect { .. }
            | LeaderControl::Refused { .. }
            | LeaderControl::Resumed
            | LeaderControl::HeartbeatAck { .. } => {}
        }
    }

    fn unbind(&mut self, app: AppId, terminal: &TerminalId, epoch: Epoch, reason: UnbindReason) {
        match self.bindings.get(app, terminal).filter(|binding| binding.epoch == epoch) {
            Some(binding) => {
                let conn = binding.conn;
                self.unbinding.insert(conn, epoch);
                self.ports.push(conn.shard, ToShard::Close(conn, CloseCause::Unbound(reason)));
            }
            // What it had not acknowledged went with its Unbind.
            None => {
                self.end_awaited(app, terminal, epoch);
                if !self.ends.ask(epoch) {
                    self.link.unbound(epoch, Vec::new());
                }
            }
        }
    }

    // ------------------------------------------------------------ deliveries

    pub(super) fn handle_deliver(&mut self, frame: Deliver) {
        match frame {
            Deliver::Push(delivery) => self.deliver_push(delivery),
            Deliver::Owed(owed) => self.deliver_owed(owed),
            Deliver::Withdraw { push, targets } => self.deliver_withdraw(push, &targets),
            Deliver::Shared(delivery) => self.deliver_shared(delivery),
            Deliver::WithdrawShared(held) => self.withdraw_shared(held),
        }
    }

    fn deliver_push(&mut self, delivery: PushDelivery) {
        let PushDelivery { push, targets, targets_qos0, best_effort, expires_at_ms, message, urgent } =
            delivery;
        let message = match message {
            Some(message) => Some(self.keep(push, message)),
            None => self.cache.get(push),
        };
        let qos0 = Arc::new(targets_qos0);
        let expires_at_ms = Some(self.link.local_ms(expires_at_ms));
        let parts = self.bindings.split(&targets);
        for (shard, targets) in (0u16..).zip(parts) {
            if targets.is_none() && !(best_effort && self.shared.has_filters(shard)) {
                continue;
            }
            if message.is_none() {
                self.await_payload(push, shard);
            }
            let part = PushPart {
                push,
                targets,
                qos0: Arc::clone(&qos0),
                best_effort,
                expires_at_ms,
                message: message.clone(),
                urgent,
            };
            self.deliver(shard, ShardDelivery::Push(part));
        }
    }

    fn deliver_owed(&mut self, owed: Owed) {
        let Owed { no, epoch, pushes, live } = owed;
        // A terminal that has gone finds everything again in what it is owed.
        let Some(shard) = self.bindings.conn_of(no).map(|conn| conn.shard) else { return };
        let pushes = pushes.into_iter().map(|owed| self.owed_part(shard, owed)).collect();
        self.deliver(shard, ShardDelivery::Owed { no, epoch, pushes, live });
    }

    fn owed_part(&mut self, shard: u16, owed: OwedPush) -> OwedPart {
        let OwedPush { push, expires_at_ms, qos0, dup, urgent } = owed;
        let message = self.message(push, shard);
        OwedPart { push, expires_at_ms: self.link.local_ms(expires_at_ms), qos0, dup, message, urgent }
    }

    fn deliver_withdraw(&mut self, push: PushId, targets: &TerminalSet) {
        for no in self.bindings.absent(targets).iter() {
            self.link.receipt(push, Outcome::NotWritten, no);
        }
        for (shard, part) in (0u16..).zip(self.bindings.split(targets)) {
            let set = match part {
                Targets::None => continue,
                Targets::One(no) => TerminalSet::one(no),
                Targets::Many(set) => set,
            };
            self.deliver(shard, ShardDelivery::Withdraw(push, set));
        }
    }

    fn deliver_shared(&mut self, delivery: SharedDelivery) {
        let SharedDelivery { to, granted, expires_at_ms, dup, message, urgent } = delivery;
        let message = message.map(|message| self.keep(to.push, message));
        let Some(shard) = self.bindings.conn_of(to.member).map(|conn| conn.shard) else {
            return self.link.receipt(to.push, Outcome::NotWritten, to.group);
        };
        let message = message.or_else(|| self.message(to.push, shard));
        let expires_at_ms = self.link.local_ms(expires_at_ms);
        let part = SharedPart { to, granted, expires_at_ms, dup, message, urgent };
        self.deliver(shard, ShardDelivery::Shared(part));
    }

    fn withdraw_shared(&mut self, held: SharedInFlight) {
        match self.bindings.conn_of(held.member).map(|conn| conn.shard) {
            Some(shard) => self.deliver(shard, ShardDelivery::WithdrawShared(held)),
            None => self.link.receipt(held.push, Outcome::NotWritten, held.group),
        }
    }

    fn deliver(&mut self, shard: u16, delivery: ShardDelivery) {
        self.ports.push(shard, ToShard::Deliver(self.link_no, delivery));
    }

    // ------------------------------------------------------------ payloads

    fn keep(&mut self, push: PushId, message: Message) -> Outgoing {
        let shared = Outgoing::new(message);
        self.cache.insert(push, shared.clone());
        shared
    }

    /// From the cache; otherwise it is fetched for this shard.
    pub(super) fn message(&mut self, push: PushId, shard: u16) -> Option<Outgoing> {
        let message = self.cache.get(push);
        if message.is_none() {
            self.await_payload(push, shard);
        }
        message
    }

    fn await_payload(&mut self, push: PushId, shard: u16) {
        let is_first = !self.fetching.contains_key(&push);
        self.fetching.entry(push).or_default().insert(shard);
        if is_first {
            self.fetch(push);
        }
    }

    pub(super) fn fetch(&self, push: PushId) {
        counter!(names::FETCHES).increment(1);
        self.send(|streams| streams.fetch.send(Fetch { push }).is_ok());
    }

    fn handle_payload(&mut self, payload: Payload) {
        let Payload { push, message } = payload;
        let Some(shards) = self.fetching.remove(&push) else { return };
        let message = message.map(|message| self.keep(push, message));
        for shard in shards {
            self.ports.push(shard, ToShard::Payload(push, message.clone()));
        }
    }

    // ------------------------------------------------------------ QoS 0

    fn handle_transient(&mut self, transient: Transient) {
        let Ok(message) = postcard::from_bytes::<Message>(&transient.body) else {
            // Another edge's mistake must not cost us the link.
            return tracing::warn!(origin = %transient.origin, "a relayed message is malformed");
        };
        let message = Outgoing::new(message);
        let expires_at_ms = transient.ttl_ms.map(|ttl_ms| self.now_ms.saturating_add(ttl_ms));
        match transient.members {
            Some(members) => self.show_members(&message, expires_at_ms, &members),
            None => {
                for shard in (0u16..).take(self.ports.len()) {
                    if self.shared.has_filters(shard) {
                        self.show(shard, ToShard::Transient(message.clone(), expires_at_ms));
                    }
                }
            }
        }
    }

    /// A member that has gone meanwhile gets nothing, and neither does another in its place: QoS 0.
    fn show_members(&mut self, message: &Outgoing, expires_at_ms: Option<u64>, members: &[TerminalNo]) {
        for shard in (0u16..).take(self.ports.len()) {
            let is_there =
                |no: &TerminalNo| self.bindings.conn_of(*no).is_some_and(|conn| conn.shard == shard);
            let members: Vec<TerminalNo> = members.iter().copied().filter(is_there).collect();
            if !members.is_empty() {
                self.show(shard, ToShard::TransientTo(message.clone(), expires_at_ms, members));
            }
        }
    }

    /// The leader is not slowed down by these: a shard that does not keep up misses some.
    pub(super) fn show(&mut self, shard: u16, message: ToShard) {
        if !self.ports.push_if_room(shard, message) {
            counter!(names::TRANSIENT_DROPPED, "reason" => "shard-full").increment(1);
            self.publishes_dropped += 1;
        }
    }
}
