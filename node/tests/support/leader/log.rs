//! What the leader knows and has seen.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{
    Epoch, Message, Outcome, PushId, SessionId, TerminalId, TerminalNo,
    link::{
        Bind, BindingReport, Bound, ExchangeStep, FilterDelta, Inbound, Outbound, OutboundStage, Owed,
        OwedPush, RetainedAsk, RetainedMessage, SharedInFlight, Stats, Step, Subscription, Transient,
        Unacknowledged, Unbind,
    },
};
use fabric_core::subscriptions::filter;

use super::wall_ms;

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) messages: BTreeMap<PushId, Message>,
    pub(crate) owed: BTreeMap<TerminalNo, BTreeSet<PushId>>,
    pub(crate) receipts: Vec<(PushId, Outcome, TerminalNo)>,
    pub(crate) steps: Vec<ExchangeStep>,
    pub(crate) published: Vec<(TerminalId, Message)>,
    pub(crate) released: Vec<u16>,
    pub(crate) transients: Vec<Transient>,
    pub(crate) filters: Vec<FilterDelta>,
    pub(crate) subscriptions: BTreeMap<TerminalId, Vec<Subscription>>,
    pub(crate) resumes: Vec<Vec<BindingReport>>,
    pub(crate) shared_in_flight: Vec<SharedInFlight>,
    pub(crate) binds: Vec<Bind>,
    /// Every binding is ended before its Bound is sent: the terminal went elsewhere.
    pub(crate) ends_at_once: bool,
    pub(crate) unbinds: Vec<Unbind>,
    /// Unbinds are not answered but kept here.
    pub(crate) hold_unbinds: bool,
    pub(super) held_unbinds: Vec<u64>,
    pub(crate) unbound: Vec<(Epoch, Vec<Unacknowledged>)>,
    pub(crate) bound: BTreeMap<TerminalId, Epoch>,
    /// Retained messages by topic, and what was asked of them.
    pub(crate) retained: BTreeMap<String, Message>,
    pub(crate) retained_asks: Vec<RetainedAsk>,
    pub(crate) retained_page_len: usize,
    /// The link is lost over the next question for retained messages.
    pub(crate) drop_next_retained: bool,
    /// What is told of the cluster, and what was told of the edge.
    pub(crate) cluster: Stats,
    pub(crate) stats: Stats,
    pub(crate) draining: bool,
    /// Heartbeats are not answered: there is no lease.
    pub(crate) hold_heartbeats: bool,
    pub(crate) hold_publishes: bool,
    pub(crate) hold_receipts: bool,
    /// Bind at once, without asking the older connection.
    pub(crate) binds_at_once: bool,
    /// Deliveries under way, by session, in the order first sent.
    exchanges: BTreeMap<TerminalNo, Vec<Outbound>>,
    /// What a connection was given with its binding: no page brings it again.
    handed: BTreeMap<TerminalNo, BTreeSet<PushId>>,
    inbound: BTreeMap<TerminalNo, BTreeSet<u16>>,
    /// Sessions that outlive their connection.
    sessions: BTreeSet<TerminalNo>,
    pub(super) live: BTreeSet<TerminalNo>,
    nos: BTreeMap<TerminalId, TerminalNo>,
    pub(super) lanes: BTreeMap<&'static str, u64>,
    pub(crate) incarnation: u64,
    epochs: u64,
    pub(super) last_push: u64,
}

impl Log {
    pub(crate) fn no_of(&mut self, terminal: &TerminalId) -> TerminalNo {
        let next = TerminalNo(self.nos.len() as u32 + 1);
        *self.nos.entry(terminal.clone()).or_insert(next)
    }

    /// Whether a numbered command is new.
    pub(super) fn takes(&mut self, lane: &'static str, seq: u64) -> bool {
        let last = self.lanes.entry(lane).or_insert(0);
        assert!(seq <= *last + 1, "a gap in lane {lane}: {seq} after {last}");
        let is_new = seq == *last + 1;
        *last = seq.max(*last);
        is_new
    }

    // ------------------------------------------------------------ sessions

    pub(super) fn bind(&mut self, bind: Bind) -> Bound {
        self.epochs += 1;
        let epoch = Epoch { term: 1, counter: self.epochs };
        let no = self.no_of(&bind.terminal);
        self.live.remove(&no);
        self.bound.insert(bind.terminal.clone(), epoch);
        let session_present = !bind.clean_start && self.sessions.contains(&no);
        if !session_present {
            self.exchanges.remove(&no);
            self.inbound.remove(&no);
            self.subscriptions.remove(&bind.terminal);
        }
        if bind.session_expiry_s > 0 {
            self.sessions.insert(no);
        } else {
            self.sessions.remove(&no);
        }
        let outbound = self.exchanges.get(&no).cloned().unwrap_or_default();
        self.handed.insert(no, outbound.iter().map(|exchange| exchange.push).collect());
        // Those with QoS 1 are the connection's business now.
        if let Some(exchanges) = self.exchanges.get_mut(&no) {
            exchanges.retain(|exchange| exchange.stage != OutboundStage::Sent);
        }
        let session_expiry_s = bind.session_expiry_s;
        let subscriptions = self.subscriptions.get(&bind.terminal).cloned().unwrap_or_default();
        self.binds.push(bind);
        Bound {
            no: Some(no),
            epoch,
            session_present,
            session: (session_expiry_s > 0).then_some(SessionId(1)),
            session_expiry_s,
            subscriptions,
            outbound,
            inbound: self.inbound.get(&no).into_iter().flatten().copied().collect(),
        }
    }

    pub(super) fn unbind(&mut self, unbind: Unbind) {
        let no = self.no_of(&unbind.terminal);
        if self.bound.get(&unbind.terminal) == Some(&unbind.epoch) {
            self.live.remove(&no);
            self.bound.remove(&unbind.terminal);
            self.keep_unacknowledged(no, &unbind.unacknowledged);
        }
        self.unbinds.push(unbind);
    }

    /// What a connection had not acknowledged; told twice is kept once.
    pub(super) fn keep_unacknowledged(&mut self, no: TerminalNo, unacknowledged: &[Unacknowledged]) {
        let exchanges = self.exchanges.entry(no).or_default();
        for Unacknowledged { packet_id, push, target } in unacknowledged.iter().copied() {
            if exchanges.iter().all(|exchange| exchange.packet_id != packet_id) {
                exchanges.push(outbound(packet_id, push, target, OutboundStage::Sent));
            }
        }
    }

    pub(super) fn page(&mut self, no: TerminalNo, epoch: Epoch, after: PushId, max: u16) -> Owed {
        let exchanges = self.exchanges.get(&no).into_iter().flatten().map(|exchange| exchange.push);
        let handed = self.handed.get(&no).into_iter().flatten().copied();
        let in_flight: BTreeSet<PushId> = exchanges.chain(handed).collect();
        let owed = self.owed.entry(no).or_default();
        let pushes: Vec<OwedPush> = owed
            .range(PushId(after.0 + 1)..)
            .filter(|push| !in_flight.contains(push))
            .take(usize::from(max))
            .map(|push| OwedPush {
                push: *push,
                expires_at_ms: wall_ms() + 60_000,
                qos0: false,
                dup: false,
                urgent: false,
            })
            .collect();
        let live = pushes.len() < usize::from(max);
        if live {
            self.live.insert(no);
        }
        Owed { no, epoch, pushes, live }
    }

    // ------------------------------------------------------------ exchanges

    pub(super) fn step(&mut self, step: ExchangeStep) {
        let exchanges = self.exchanges.entry(step.no).or_default();
        match step.step {
            Step::Begin { push, target } => {
                exchanges.push(outbound(step.packet_id, push, target, OutboundStage::Begun));
            }
            Step::Receive => exchanges
                .iter_mut()
                .filter(|exchange| exchange.packet_id == step.packet_id)
                .for_each(|exchange| exchange.stage = OutboundStage::Received),
            Step::Complete => exchanges.retain(|exchange| exchange.packet_id != step.packet_id),
        }
        self.steps.push(step);
    }

    /// Whether a PUBLISH with this packet id is new.
    pub(super) fn begins(&mut self, exchange: Option<Inbound>) -> bool {
        exchange.is_none_or(|inbound| self.inbound.entry(inbound.no).or_default().insert(inbound.packet_id))
    }

    pub(super) fn release(&mut self, inbound: Inbound) {
        self.inbound.entry(inbound.no).or_default().remove(&inbound.packet_id);
        self.released.push(inbound.packet_id);
    }

    // ------------------------------------------------------------ retained

    pub(super) fn retain(&mut self, message: &Message) {
        if message.payload.is_empty() {
            self.retained.remove(&message.topic);
        } else {
            self.retained.insert(message.topic.clone(), message.clone());
        }
    }

    pub(super) fn retained_page(&mut self, ask: RetainedAsk) -> (Vec<RetainedMessage>, Option<String>) {
        let after = ask.after.clone().unwrap_or_default();
        let matching = self
            .retained
            .iter()
            .filter(|(topic, _)| **topic > after && filter::matches(topic.as_str(), &ask.filter));
        let messages: Vec<RetainedMessage> = matching
            .take(self.retained_page_len.max(1))
            .map(|(_, message)| RetainedMessage {
                id: PushId::retained(1),
                message: message.clone(),
                expires_at_ms: None,
            })
            .collect();
        let is_full = messages.len() == self.retained_page_len.max(1);
        let next = messages.last().filter(|_| is_full).map(|last| last.message.topic.clone());
        self.retained_asks.push(ask);
        (messages, next)
    }
}

fn outbound(packet_id: u16, push: PushId, target: TerminalNo, stage: OutboundStage) -> Outbound {
    Outbound { packet_id, push, target, stage, expires_at_ms: Some(wall_ms() + 60_000) }
}
