//! A terminal that follows section 4.3.3, a log, and a network between them that loses everything now and then: over any
//! number of connections and lost edges, a QoS 2 push reaches the application exactly once, and a QoS 2 PUBLISH the log.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use proptest::prelude::*;

use super::support::*;

#[derive(Clone, Debug)]
enum Event {
    /// The leader dispatches a push.
    Push(Qos),
    /// The terminal publishes with QoS 2.
    Publish,
    /// So much of what the edge wants committed is, and the answers reach it.
    Commit(usize),
    /// So many packets reach the terminal, and it answers.
    Down(usize),
    /// So many packets reach the edge.
    Up(usize),
    /// The connection is lost with what is on the way; the terminal comes again. With the edge, what was not committed
    /// is lost too.
    Lost { edge: bool },
}

/// What waits for its commit, in the order of its lane.
#[derive(Clone, Debug)]
enum Wanted {
    Receipt(PushId, Outcome),
    Step(u16, Step, Option<RequestNo>),
    Accept(u64, Option<u16>, RequestNo),
    Release(u16, RequestNo),
}

/// The replicated state of one session.
#[derive(Default)]
struct Log {
    pushes: BTreeMap<PushId, Qos>,
    settled: BTreeSet<PushId>,
    /// In the order they were first sent.
    outbound: Vec<Outbound>,
    inbound: BTreeSet<u16>,
    /// What was published, as often as it was accepted.
    accepted: BTreeMap<u64, u32>,
}

impl Log {
    fn apply(&mut self, wanted: &Wanted) {
        match *wanted {
            Wanted::Receipt(push, outcome) => {
                if outcome != Outcome::NotWritten {
                    self.settled.insert(push);
                }
            }
            Wanted::Step(packet_id, Step::Begin { push, target }, _) => {
                assert!(self.outbound.iter().all(|row| row.packet_id != packet_id), "packet id in use");
                let stage = OutboundStage::Begun;
                self.outbound.push(Outbound { packet_id, push, target, stage, expires_at_ms: None });
            }
            Wanted::Step(packet_id, Step::Receive, _) => {
                let row = self.outbound.iter_mut().find(|row| row.packet_id == packet_id);
                row.expect("received before it was begun").stage = OutboundStage::Received;
            }
            Wanted::Step(packet_id, Step::Complete, _) => {
                self.outbound.retain(|row| row.packet_id != packet_id);
            }
            Wanted::Accept(content, exchange, _) => {
                if exchange.is_none_or(|packet_id| self.inbound.insert(packet_id)) {
                    *self.accepted.entry(content).or_default() += 1;
                }
            }
            Wanted::Release(packet_id, _) => {
                self.inbound.remove(&packet_id);
            }
        }
    }

    fn owed(&self, after: PushId) -> impl Iterator<Item = Queued<Arc<Message>>> + '_ {
        let owed = self.pushes.iter().filter(move |(push, _)| **push > after && !self.settled.contains(push));
        owed.map(|(push, qos)| Queued { dup: true, ..push_of(*push, *qos) })
    }
}

fn push_of(push: PushId, qos: Qos) -> Queued<Arc<Message>> {
    let payload = push.0.to_be_bytes().to_vec().into();
    let message = Message { payload, kind: PushKind::Identity, ..(*message(qos)).clone() };
    queued(push.0, message.into())
}

/// What the terminal keeps over its connections.
#[derive(Default)]
struct Application {
    /// QoS 2 packet ids it took and that are not released.
    taken: BTreeSet<u16>,
    delivered: BTreeMap<u64, u32>,
    /// What it publishes, by packet id, and whether PUBREC came.
    publishing: BTreeMap<u16, (u64, bool)>,
    published: u64,
}

struct World {
    connect: Connect,
    terminal: Terminal,
    log: Log,
    application: Application,
    wanted: VecDeque<Wanted>,
    pulled: bool,
    live: bool,
    down: VecDeque<Packet>,
    up: VecDeque<Packet>,
    /// PUBLISH was written over this connection, and PUBACK or PUBCOMP did not come ([MQTT-3.3.4-9]).
    written: BTreeSet<u16>,
}

impl World {
    fn new(connect: Connect) -> Self {
        let mut world = Self {
            terminal: Terminal::opened(connect.clone(), grant()),
            connect,
            log: Log::default(),
            application: Application::default(),
            wanted: VecDeque::new(),
            pulled: false,
            live: false,
            down: VecDeque::new(),
            up: VecDeque::new(),
            written: BTreeSet::new(),
        };
        world.open();
        world
    }

    /// Binds the terminal to what the log has of its session; it sends again what it has to ([MQTT-4.4.0-1]).
    fn open(&mut self) {
        let outbound = std::mem::take(&mut self.log.outbound);
        // QoS 1 lives in the connection from here on.
        self.log.outbound = outbound.iter().filter(|row| row.stage != OutboundStage::Sent).copied().collect();
        let queued = outbound.iter().map(|row| push_of(row.push, self.log.pushes[&row.push])).collect();
        let inbound = self.log.inbound.iter().copied().collect();
        (self.pulled, self.live) = (false, false);
        self.terminal = Terminal::opened(self.connect.clone(), grant());
        let out = self.terminal.resume(Bound { outbound, inbound, session_present: true, ..bound() }, queued);
        self.observe(out);
        for (packet_id, (content, released)) in self.application.publishing.clone() {
            self.up.push_back(if released {
                Packet::PubRel(ack(packet_id))
            } else {
                publish_of(packet_id, content, true)
            });
        }
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Push(qos) => {
                let push = PushId(self.log.pushes.len() as u64 + 1);
                self.log.pushes.insert(push, qos);
                if self.live {
                    let out = self.terminal.queue(push_of(push, qos));
                    self.observe(out);
                }
            }
            Event::Publish => {
                let free = (1..20).find(|id| !self.application.publishing.contains_key(id));
                if let Some(packet_id) = free {
                    self.application.published += 1;
                    let content = self.application.published;
                    self.application.publishing.insert(packet_id, (content, false));
                    self.up.push_back(publish_of(packet_id, content, false));
                }
            }
            Event::Commit(count) => self.commit(count),
            Event::Down(count) => (0..count).for_each(|_| self.read()),
            Event::Up(count) => {
                for _ in 0..count.min(self.up.len()) {
                    let packet = self.up.pop_front().unwrap();
                    if let Packet::PubAck(over) | Packet::PubComp(over) = &packet {
                        self.written.remove(&over.packet_id);
                    }
                    let out = self.terminal.send(packet);
                    self.observe(out);
                }
            }
            Event::Lost { edge } => self.lose(edge),
        }
        self.pull();
    }

    fn commit(&mut self, count: usize) {
        for _ in 0..count.min(self.wanted.len()) {
            let wanted = self.wanted.pop_front().unwrap();
            self.log.apply(&wanted);
            let out = match wanted {
                Wanted::Step(_, _, Some(request)) => self.terminal.recorded(request),
                Wanted::Accept(_, _, request) | Wanted::Release(_, request) => {
                    self.terminal.published(request, PublishOutcome::Accepted)
                }
                _ => continue,
            };
            self.observe(out);
        }
    }

    fn pull(&mut self) {
        if !std::mem::take(&mut self.pulled) {
            return;
        }
        let after = self.terminal.session.after();
        let mut page: Vec<_> = self.log.owed(after).collect();
        self.live = page.len() <= 8;
        page.truncate(8);
        let live = self.live;
        let out = self.terminal.answer(|session, at, out| session.handle_owed(at, page, live, out));
        self.observe(out);
    }

    fn lose(&mut self, edge: bool) {
        let close = closed(&self.terminal.lose());
        if edge {
            self.wanted.clear();
        } else {
            // The leader waits for what the edge has gathered.
            while let Some(wanted) = self.wanted.pop_front() {
                self.log.apply(&wanted);
            }
            for Unacknowledged { packet_id, push, target } in close.unacknowledged {
                if !self.log.settled.contains(&push) {
                    let stage = OutboundStage::Sent;
                    self.log.outbound.push(Outbound { packet_id, push, target, stage, expires_at_ms: None });
                }
            }
        }
        self.down.clear();
        self.up.clear();
        self.written.clear();
        self.open();
    }

    /// The terminal reads one packet and does as section 4.3 says.
    fn read(&mut self) {
        let Some(packet) = self.down.pop_front() else { return };
        let application = &mut self.application;
        match packet {
            Packet::Publish(publish) => {
                let content = u64::from_be_bytes(publish.payload[..].try_into().unwrap());
                let new = publish.qos < QOS2 || application.taken.insert(publish.packet_id);
                if new {
                    *application.delivered.entry(content).or_default() += 1;
                }
                self.up.push_back(match publish.qos {
                    QOS2 => Packet::PubRec(ack(publish.packet_id)),
                    _ => Packet::PubAck(ack(publish.packet_id)),
                });
            }
            Packet::PubRel(released) => {
                application.taken.remove(&released.packet_id);
                self.up.push_back(Packet::PubComp(ack(released.packet_id)));
            }
            Packet::PubRec(received) => {
                if let Some((_, released)) = application.publishing.get_mut(&received.packet_id) {
                    *released = true;
                    self.up.push_back(Packet::PubRel(ack(received.packet_id)));
                }
            }
            Packet::PubComp(completed) => {
                application.publishing.remove(&completed.packet_id);
            }
            _ => {}
        }
    }

    fn observe(&mut self, out: Vec<Out>) {
        for action in out {
            match action {
                Action::Deliver(delivery) => {
                    let Delivery { message, qos, packet_id, dup, .. } = delivery;
                    assert!(self.written.insert(packet_id), "written twice over one connection");
                    assert!(self.written.len() <= 4, "window exceeded");
                    let payload = message.payload.clone();
                    let publish = Publish { dup, qos, packet_id, payload, ..Publish::default() };
                    self.down.push_back(Packet::Publish(Box::new(publish)));
                }
                Action::Send(packet) => self.down.push_back(packet),
                Action::Receipt { push, outcome, .. } => {
                    self.wanted.push_back(Wanted::Receipt(push, outcome));
                }
                Action::Step { request, packet_id, step } => {
                    self.wanted.push_back(Wanted::Step(packet_id, step, request));
                }
                Action::Accept(incoming) => {
                    let content = u64::from_be_bytes(incoming.message.payload[..].try_into().unwrap());
                    self.wanted.push_back(Wanted::Accept(content, incoming.exchange, incoming.request));
                }
                Action::Release { request, packet_id } => {
                    self.wanted.push_back(Wanted::Release(packet_id, request));
                }
                Action::Pull { .. } => self.pulled = true,
                Action::Close(close) => panic!("closed: {close:?}"),
                _ => {}
            }
        }
    }

    /// No more faults: everything is delivered.
    fn heal(&mut self) {
        for _ in 0..2_000 {
            for event in [Event::Commit(64), Event::Down(64), Event::Up(64)] {
                self.apply(&event);
            }
            let quiet = self.wanted.is_empty() && self.down.is_empty() && self.up.is_empty() && !self.pulled;
            if quiet && self.live && self.terminal.session.in_flight().next().is_none() {
                break;
            }
        }
        for (push, qos) in &self.log.pushes {
            let times = self.application.delivered.get(&push.0).copied().unwrap_or(0);
            match qos {
                Qos::ExactlyOnce => assert_eq!(times, 1, "push {push} with QoS 2"),
                _ => assert!(times >= 1, "push {push} was lost"),
            }
        }
        assert!(self.log.outbound.is_empty(), "exchanges that never end: {:?}", self.log.outbound);
        for content in 1..=self.application.published {
            assert_eq!(self.log.accepted.get(&content), Some(&1), "publish {content}");
        }
        assert!(self.application.publishing.is_empty() && self.log.inbound.is_empty());
    }
}

fn publish_of(packet_id: u16, content: u64, dup: bool) -> Packet {
    let payload = content.to_be_bytes().to_vec().into();
    Packet::Publish(Box::new(Publish { dup, payload, ..publish(QOS2, packet_id, "a") }))
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => prop_oneof![1 => Just(QOS1), 3 => Just(QOS2)].prop_map(Event::Push),
        10 => Just(Event::Publish),
        20 => (1..6usize).prop_map(Event::Commit),
        20 => (1..6usize).prop_map(Event::Down),
        20 => (1..6usize).prop_map(Event::Up),
        4 => any::<bool>().prop_map(|edge| Event::Lost { edge }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_lost_exactly_once_is_once(
        version in prop_oneof![Just(V311), Just(V5)],
        events in prop::collection::vec(event(), 0..200),
    ) {
        let mut connect = connect(version);
        connect.properties.receive_maximum = Some(4);
        let mut world = World::new(connect);
        for event in &events {
            world.apply(event);
        }
        world.heal();
    }
}
