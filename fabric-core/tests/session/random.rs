//! Random conversations: whatever terminal, leader and socket do, what must hold holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fabric_core::mqtt::packet::Codes;
use proptest::prelude::*;

use super::support::*;

/// Most pushes of a conversation, about.
const PUSHES_MAX: u64 = 2_000;

#[derive(Clone, Debug)]
pub(crate) enum Input {
    Packet(Packet),
    /// Answers one of those in flight: PUBACK, PUBREC or PUBCOMP, as its exchange has it.
    Answered(usize, u8),
    Authenticated(bool),
    Bound(bool),
    /// Answers one of the open requests.
    Answer(usize, bool),
    Push {
        qos: Qos,
        urgent: bool,
        missing: bool,
        ttl_ms: Option<u64>,
        /// More of the same kind behind it.
        more: u8,
    },
    /// Answers a pull.
    Owed {
        count: u8,
        live: bool,
    },
    Payload {
        back: u8,
        gone: bool,
    },
    Withdraw {
        back: u8,
    },
    Show,
    Room(usize),
    Tick(u64),
    LinkLost,
    LinkReady,
    Unbind,
    Lost,
}

fn qos() -> impl Strategy<Value = Qos> {
    (0..3u8).prop_map(|qos| Qos::from_u8(qos).unwrap())
}

fn version() -> impl Strategy<Value = ProtocolVersion> {
    prop_oneof![Just(ProtocolVersion::V31), Just(ProtocolVersion::V311), Just(ProtocolVersion::V5)]
}

fn any_connect() -> impl Strategy<Value = Connect> {
    (version(), any::<bool>(), any::<bool>(), prop::option::of(1..5u16), prop::option::of(10..60u32))
        .prop_map(|(version, named, clean_start, receive_maximum, packet_len_max)| {
            let mut connect = Connect { clean_start, ..connect(version) };
            if !named {
                connect.client_id.clear();
            }
            connect.properties.receive_maximum = receive_maximum;
            connect.properties.packet_len_max = packet_len_max;
            connect
        })
}

fn packet() -> impl Strategy<Value = Packet> {
    // What ends a conversation is rare, so that conversations get long.
    let topic = prop_oneof![97 => Just("a/b"), 1 => Just(""), 1 => Just("a/#"), 1 => Just("$SYS/x")];
    let published_qos = prop_oneof![Just(QOS0), Just(QOS1), Just(QOS2)];
    let filter = prop_oneof![Just("a/+"), Just("#"), Just("a/#/b"), Just("$share/g/a"), Just("b")];
    let ack = (1..6u16, any::<bool>()).prop_map(|(packet_id, refused)| {
        let reason = if refused { Reason::QUOTA_EXCEEDED } else { Reason::SUCCESS };
        Ack { packet_id, reason }
    });
    let published =
        (topic, published_qos, 1..200u16, any::<bool>(), 0..200u8).prop_map(|(topic, qos, id, dup, rare)| {
            let packet_id = if qos == QOS0 { 0 } else { id };
            let topic_alias = (rare == 0).then_some(1);
            Publish { dup, retain: rare == 1, topic_alias, ..publish(qos, packet_id, topic) }
        });
    let filters = prop::collection::vec((filter.clone(), qos()), 1..4);
    prop_oneof![
        40 => published.prop_map(|publish| Packet::Publish(Box::new(publish))),
        20 => (1..6u16, filters).prop_map(|(id, filters)| subscribe(id, &filters)),
        5 => (1..6u16, prop::collection::vec(filter, 1..4)).prop_map(|(id, filters)| unsubscribe(id, &filters)),
        10 => Just(Packet::PingReq),
        5 => ack.clone().prop_map(Packet::PubAck),
        1 => ack.clone().prop_map(Packet::PubRec),
        10 => (1..200u16).prop_map(|packet_id| Packet::PubRel(Ack { packet_id, reason: Reason::SUCCESS })),
        1 => ack.prop_map(Packet::PubComp),
        1 => any_connect().prop_map(|connect| Packet::Connect(Box::new(connect))),
        1 => prop::option::of(0..9u32).prop_map(|session_expiry_s| {
            Packet::Disconnect(Box::new(Disconnect { session_expiry_s, ..Disconnect::default() }))
        }),
        1 => prop_oneof![
            Just(Packet::PingResp),
            Just(Packet::Auth(Box::default())),
            Just(Packet::ConnAck(Box::default())),
            Just(Packet::SubAck(Codes { packet_id: 1, codes: Vec::new() })),
        ],
    ]
}

fn input() -> impl Strategy<Value = Input> {
    let ttl_ms = prop::option::of(0..2_000u64);
    prop_oneof![
        10 => packet().prop_map(Input::Packet),
        25 => (0..8usize, prop_oneof![8 => Just(0u8), 1 => Just(0x97u8)])
            .prop_map(|(n, code)| Input::Answered(n, code)),
        2 => any::<bool>().prop_map(Input::Authenticated),
        2 => any::<bool>().prop_map(Input::Bound),
        30 => (0..8usize, prop::bool::weighted(0.97)).prop_map(|(n, ok)| Input::Answer(n, ok)),
        40 => (qos(), prop::bool::weighted(0.3), prop::bool::weighted(0.1), ttl_ms, prop_oneof![20 => Just(0u8), 1 => 0..200u8])
            .prop_map(|(qos, urgent, missing, ttl_ms, more)| Input::Push { qos, urgent, missing, ttl_ms, more }),
        10 => (0..80u8, any::<bool>()).prop_map(|(count, live)| Input::Owed { count, live }),
        5 => (0..20u8, any::<bool>()).prop_map(|(back, gone)| Input::Payload { back, gone }),
        5 => (0..20u8).prop_map(|back| Input::Withdraw { back }),
        3 => Just(Input::Show),
        10 => prop_oneof![Just(0), Just(50), Just(ROOM)].prop_map(Input::Room),
        5 => (0..1_000u64).prop_map(Input::Tick),
        1 => Just(Input::LinkLost),
        2 => Just(Input::LinkReady),
        1 => prop::bool::weighted(0.1).prop_map(|unbind| if unbind { Input::Unbind } else { Input::Show }),
        1 => prop::bool::weighted(0.1).prop_map(|lost| if lost { Input::Lost } else { Input::Show }),
    ]
}

/// A delivery, as the terminal sees it.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    push: PushId,
    qos: Qos,
    /// PUBREC was sent.
    received: bool,
    /// PUBREL came.
    released: bool,
}

/// What the outside knows, and what it checks.
struct World {
    terminal: Terminal,
    window: usize,
    last_push: u64,
    /// All that was ever dispatched, with its message: what the leader knows.
    pushes: BTreeMap<PushId, Queued<Arc<Message>>>,
    in_flight: BTreeMap<u16, InFlight>,
    /// What the terminal's PUBACK or PUBREC makes of a push.
    acknowledged: BTreeMap<PushId, Outcome>,
    /// The leader takes the terminal for live.
    live: bool,
    withdrawn: BTreeSet<PushId>,
    settled: BTreeSet<PushId>,
    not_written: BTreeSet<PushId>,
    requests: Vec<Out>,
    pulled: Option<(After, u16)>,
    /// The last pushes whose PUBLISH was written.
    last_written: After,
    closed: bool,
}

impl World {
    fn new(connect: Connect) -> Self {
        let receive_maximum = connect.properties.receive_maximum.unwrap_or(u16::MAX);
        let mut world = Self {
            terminal: Terminal::new(SessionConfig::default()),
            window: usize::from(receive_maximum).min(64),
            last_push: 0,
            pushes: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            live: false,
            withdrawn: BTreeSet::new(),
            settled: BTreeSet::new(),
            not_written: BTreeSet::new(),
            requests: Vec::new(),
            pulled: None,
            last_written: After::default(),
            closed: false,
        };
        let out = world.terminal.send(Packet::Connect(Box::new(connect)));
        world.observe(out);
        world
    }

    fn back(&self, back: u8) -> PushId {
        PushId(self.last_push.saturating_sub(u64::from(back)))
    }

    /// Dispatches a push.
    fn next(&mut self, qos: Qos, urgent: bool, ttl_ms: Option<u64>) -> Queued<Arc<Message>> {
        self.last_push += 1;
        let payload = self.last_push.to_be_bytes().to_vec().into();
        let message = Message { payload, kind: PushKind::Identity, ..(*message(qos)).clone() };
        let expires_at_ms = ttl_ms.map(|ttl_ms| self.terminal.now + ttl_ms);
        let queued = Queued { expires_at_ms, urgent, ..queued(self.last_push, message.into()) };
        self.pushes.insert(queued.push, queued.clone());
        queued
    }

    /// What the leader would call owed.
    fn is_owed(&self, queued: &Queued<Arc<Message>>) -> bool {
        let expired = queued.expires_at_ms.is_some_and(|expires| expires <= self.terminal.now);
        !expired && !self.settled.contains(&queued.push) && !self.withdrawn.contains(&queued.push)
    }

    fn apply(&mut self, input: Input) {
        let at = self.terminal.at();
        let out = match input {
            Input::Packet(packet) => self.send(packet),
            Input::Answered(n, code) => {
                let Some((packet_id, entry)) = self.in_flight.iter().nth(n) else { return };
                let ack = Ack { packet_id: *packet_id, reason: Reason(code) };
                let complete = Ack { reason: Reason::SUCCESS, ..ack };
                match entry {
                    InFlight { qos: QOS1, .. } => self.send(Packet::PubAck(ack)),
                    InFlight { released: true, .. } => self.send(Packet::PubComp(complete)),
                    InFlight { received: false, .. } => self.send(Packet::PubRec(ack)),
                    _ => return,
                }
            }
            Input::Authenticated(true) => self.terminal.authenticate(),
            Input::Authenticated(false) => self
                .terminal
                .answer(|session, at, out| session.handle_authenticated(at, Err(AuthRefusal::Busy), out)),
            Input::Bound(ok) => {
                let result = if ok { Ok((bound(), Vec::new())) } else { Err(RefuseReason::Unavailable) };
                self.terminal.answer(|session, at, out| session.handle_bound(at, result, out))
            }
            Input::Answer(n, ok) => self.answer(n, ok),
            Input::Push { qos, urgent, missing, ttl_ms, more } => {
                let mut out = Vec::new();
                // What is owed is looked through again and again.
                if self.last_push > PUSHES_MAX {
                    return;
                }
                for _ in 0..=more {
                    let mut queued = self.next(qos, urgent, ttl_ms);
                    if missing {
                        queued.message = None;
                    }
                    // The leader sends to those it takes for live.
                    if self.live {
                        out.extend(self.terminal.queue(queued));
                    }
                }
                out
            }
            Input::Owed { count, live } => self.owed(count, live),
            Input::Payload { back, gone } => self.payload(self.back(back), gone),
            Input::Withdraw { back } => {
                let push = self.back(back);
                self.withdrawn.insert(push);
                self.terminal.answer(|session, at, out| session.withdraw(at, push, None, out))
            }
            Input::Show => {
                let mut out = Vec::new();
                let news = message(Qos::AtMostOnce);
                self.terminal.session.show(at, &news, false, Matching::Any, None, &mut out);
                // Without status: nothing to follow but that it comes alone.
                assert!(out.len() <= 1);
                if self.closed {
                    assert_eq!(out, []);
                }
                return;
            }
            Input::Room(room) => {
                self.terminal.room = room;
                self.terminal.answer(|session, at, out| session.handle_writable(at, out))
            }
            Input::Tick(ms) => self.terminal.tick(at.ms + ms),
            Input::LinkLost => {
                self.terminal.session.link_lost();
                self.forget_link();
                return;
            }
            Input::LinkReady => {
                self.forget_link();
                self.terminal.answer(|session, _, out| session.link_ready(out))
            }
            Input::Unbind => {
                self.terminal.answer(|session, _, out| session.handle_unbind(UnbindReason::TakenOver, out))
            }
            Input::Lost => {
                self.terminal.answer(|session, _, out| session.close(CloseCause::ConnectionLost, out))
            }
        };
        self.observe(out);
    }

    /// Nothing that is asked for again is answered on another link.
    fn forget_link(&mut self) {
        self.pulled = None;
        self.live = false;
        self.requests.retain(|request| !matches!(request, Action::Retained { .. }));
    }

    fn payload(&mut self, push: PushId, gone: bool) -> Vec<Out> {
        let message = self.pushes.get(&push).and_then(|queued| queued.message.clone()).filter(|_| !gone);
        if gone {
            // Only what was settled or purged is gone.
            self.withdrawn.insert(push);
        }
        self.terminal.answer(|session, at, out| session.handle_payload(at, push, message, out))
    }

    /// The terminal sends a packet; what it answers to a delivery is noted first.
    fn send(&mut self, packet: Packet) -> Vec<Out> {
        match &packet {
            Packet::PubAck(ack) if self.qos_of(ack.packet_id) == Some(QOS1) => self.acknowledge(*ack, true),
            Packet::PubRec(ack) if self.qos_of(ack.packet_id) == Some(QOS2) => {
                self.acknowledge(*ack, ack.reason.is_error());
            }
            Packet::PubComp(ack) if self.in_flight.get(&ack.packet_id).is_some_and(|e| e.released) => {
                self.in_flight.remove(&ack.packet_id);
            }
            _ => {}
        }
        self.terminal.send(packet)
    }

    fn qos_of(&self, packet_id: u16) -> Option<Qos> {
        self.in_flight.get(&packet_id).map(|entry| entry.qos)
    }

    fn acknowledge(&mut self, ack: Ack, ends: bool) {
        let Some(entry) = self.in_flight.get_mut(&ack.packet_id) else { return };
        let refused = Outcome::Dropped(DropReason::Refused);
        if !std::mem::replace(&mut entry.received, true) {
            let outcome = if ack.reason.is_error() { refused } else { Outcome::Delivered };
            self.acknowledged.insert(entry.push, outcome);
        }
        if ends {
            self.in_flight.remove(&ack.packet_id);
        }
    }

    fn answer(&mut self, n: usize, ok: bool) -> Vec<Out> {
        if self.requests.is_empty() {
            let request = RequestNo(n as u32 + 1_000);
            return self.terminal.answer(|session, at, out| {
                session.handle_published(at, request, Ok(PublishOutcome::Accepted), out);
                session.handle_recorded(at, request, out);
            });
        }
        let request = self.requests.remove(n % self.requests.len());
        self.terminal.answer(|session, at, out| match request {
            Action::Accept(incoming) => {
                let result = if ok { Ok(PublishOutcome::Accepted) } else { Err(RefuseReason::Unavailable) };
                session.handle_published(at, incoming.request, result, out);
            }
            Action::Release { request, .. } => {
                session.handle_published(at, request, Ok(PublishOutcome::Accepted), out);
            }
            Action::Step { request, .. } => session.handle_recorded(at, request.unwrap(), out),
            Action::Retained { request, after, .. } => {
                let message = Arc::new(Message { retain: true, ..(*message(QOS2)).clone() });
                let kept = Kept { id: PushId::retained(1), message, expires_at_ms: None };
                let more = after.is_none().then(|| "news/today".to_owned());
                let page = if ok { Ok((vec![kept; n], more)) } else { Err(RefuseReason::Unavailable) };
                session.handle_retained(at, request, page, out);
            }
            Action::Subscribe { request, .. } | Action::Unsubscribe { request, .. } => {
                let changed = Changed { no: NO, session: SessionId(1), index: 1 };
                let result = if ok { Ok(changed) } else { Err(RefuseReason::Quota) };
                session.handle_changed(at, request, result, out);
            }
            other => panic!("not a request: {other:?}"),
        })
    }

    fn owed(&mut self, count: u8, live: bool) -> Vec<Out> {
        let Some((after, max)) = self.pulled.take() else { return Vec::new() };
        let is_next = |queued: &&Queued<Arc<Message>>| {
            queued.push > if queued.urgent { after.urgent } else { after.ordinary } && self.is_owed(queued)
        };
        let mut page: Vec<_> = self.pushes.values().filter(is_next).cloned().collect();
        // Sorted by nothing else: each priority keeps its order.
        page.sort_by_key(|queued| !queued.urgent);
        let count = usize::from(count.min(max as u8));
        let live = live && page.len() <= count;
        page.truncate(count);
        self.live = live;
        self.terminal.answer(|session, at, out| session.handle_owed(at, page, live, out))
    }

    /// Socket, link and terminal at their best: everything that is owed arrives.
    fn heal(&mut self) {
        self.apply(Input::Room(ROOM));
        self.apply(Input::LinkReady);
        // With a window of one, each round delivers one.
        for _ in 0..2_000 + 2 * self.last_push {
            let quiet = self.pulled.is_none() && self.requests.is_empty() && self.in_flight.is_empty();
            if self.closed || (quiet && self.terminal.session.in_flight().next().is_none()) {
                break;
            }
            for (push, _) in self.terminal.session.in_flight().collect::<Vec<_>>() {
                let out = self.payload(push, false);
                self.observe(out);
            }
            for _ in 0..self.requests.len() {
                self.apply(Input::Answer(0, true));
            }
            for n in (0..self.in_flight.len()).rev() {
                self.apply(Input::Answered(n, 0));
            }
            self.apply(Input::Owed { count: 64, live: true });
        }
        if !self.terminal.session.is_live() || self.terminal.session.no().is_none() {
            return;
        }
        let lost: Vec<_> =
            self.pushes.values().filter(|queued| self.is_owed(queued)).map(|q| q.push).collect();
        assert_eq!(lost, [], "owed, and never delivered");
        assert!(self.in_flight.is_empty(), "exchanges that never end: {:?}", self.in_flight);
    }

    fn observe(&mut self, out: Vec<Out>) {
        for action in out {
            assert!(!self.closed, "after the end: {action:?}");
            match action {
                Action::Deliver(delivery) => self.check_delivery(&delivery),
                Action::Send(Packet::PubRel(ack)) => {
                    if let Some(entry) = self.in_flight.get_mut(&ack.packet_id) {
                        assert!(entry.received, "PUBREL before PUBREC");
                        entry.released = true;
                    }
                }
                Action::Receipt { push, outcome, .. } => self.check_receipt(push, outcome),
                Action::Accept(_)
                | Action::Release { .. }
                | Action::Step { request: Some(_), .. }
                | Action::Retained { .. }
                | Action::Subscribe { .. }
                | Action::Unsubscribe { .. } => self.requests.push(action),
                Action::Pull { after, max } => {
                    self.live = false;
                    assert_eq!(self.pulled.replace((after, max)), None, "one pull at a time");
                }
                Action::Close(_) => self.closed = true,
                _ => {}
            }
        }
        assert_eq!(self.closed, self.terminal.session.is_closed());
        let retained =
            self.requests.iter().filter(|request| matches!(request, Action::Retained { .. })).count();
        assert!(retained <= 1, "one page of retained messages at a time");
        assert!(self.requests.len() <= 128 + 16 + 64, "requests are bounded");
        assert!(
            self.terminal.session.in_flight().count() <= self.window + 128 + 32,
            "deliveries are bounded"
        );
    }

    fn check_delivery(&mut self, delivery: &Delivery<Arc<Message>>) {
        let mut push = PushId(0);
        if !delivery.retain {
            push = PushId(u64::from_be_bytes(delivery.message.payload[..].try_into().unwrap()));
            let urgent = self.pushes[&push].urgent;
            let last = if urgent { &mut self.last_written.urgent } else { &mut self.last_written.ordinary };
            assert!(push > *last, "first deliveries of a priority come in order (I12)");
            assert!(!self.not_written.contains(&push), "written after NotWritten (I3)");
            *last = push;
        }
        if delivery.packet_id != 0 {
            let entry = InFlight { push, qos: delivery.qos, received: false, released: false };
            assert!(self.in_flight.insert(delivery.packet_id, entry).is_none(), "packet id in use");
            assert!(self.in_flight.len() <= self.window, "window exceeded");
        }
    }

    fn check_receipt(&mut self, push: PushId, outcome: Outcome) {
        match outcome {
            // Asked for again, a settled push is not known any more: then this changes nothing.
            Outcome::NotWritten => {
                assert!(self.withdrawn.contains(&push));
                self.not_written.insert(push);
            }
            outcome => {
                assert!(self.settled.insert(push), "{push} was settled before {outcome:?}");
                match self.acknowledged.get(&push) {
                    Some(acknowledged) => assert_eq!(outcome, *acknowledged),
                    None => {
                        assert_ne!(outcome, Outcome::Delivered, "delivered without PUBACK or PUBREC (I2)")
                    }
                }
            }
        }
    }
}

/// What is going to happen to one connection.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) connect: Connect,
    /// Whether it gets as far as CONNACK and caught up before the inputs come.
    pub(crate) opened: bool,
    pub(crate) inputs: Vec<Input>,
}

fn conversations() -> impl Strategy<Value = Conversation> {
    (any_connect(), prop::bool::weighted(0.9), prop::collection::vec(input(), 0..300))
        .prop_map(|(connect, opened, inputs)| Conversation { connect, opened, inputs })
}

impl Conversation {
    /// Has it happen; panics where something does not hold.
    pub(crate) fn hold(self) {
        let mut world = World::new(self.connect);
        if self.opened {
            world.apply(Input::Authenticated(true));
            world.apply(Input::Bound(true));
            world.apply(Input::Owed { count: 0, live: true });
        }
        for input in self.inputs {
            world.apply(input);
        }
        world.heal();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_conversation_keeps_window_order_and_receipts_right(conversation in conversations()) {
        conversation.hold();
    }
}
