//! A session under test, with the words its scenarios are told in.

use std::sync::Arc;

use bytes::Bytes;
pub(crate) use cluster_proto::{
    AppId, DropReason, Epoch, Message, MessageProperties, Outcome, PushId, PushKind, Qos, SessionId,
    TerminalId, TerminalNo,
    limits::{INFLIGHT_PER_TERMINAL_MAX, OWED_PER_PULL_MAX, QUEUED_PER_TERMINAL_MAX},
    link::{
        After, Bound, Outbound, OutboundStage, PublishOutcome, RefuseReason, Step, Subscription,
        SubscriptionOptions, Unacknowledged, UnbindReason, WillFate,
    },
};
pub(crate) use fabric_core::mqtt::{
    AUTH_METHOD, Action, Alias, AuthRefusal, Changed, Close, CloseCause, Delivery, Grant, Kept, Malformed,
    Matching, Moment, Packet, Permissions, ProtocolVersion, Queued, Reason, RequestNo, Session,
    SessionConfig, Shared, Shown,
    packet::{
        Ack, Auth, ConnAck, Connect, ConnectProperties, Disconnect, Publish, Subscribe, SubscribeFilter,
        Unsubscribe, Will,
    },
};

pub(crate) type Out = Action<Arc<Message>>;

pub(crate) const V31: ProtocolVersion = ProtocolVersion::V31;
pub(crate) const V311: ProtocolVersion = ProtocolVersion::V311;
pub(crate) const V5: ProtocolVersion = ProtocolVersion::V5;

pub(crate) const QOS0: Qos = Qos::AtMostOnce;
pub(crate) const QOS1: Qos = Qos::AtLeastOnce;
pub(crate) const QOS2: Qos = Qos::ExactlyOnce;

pub(crate) const ROOM: usize = 64 * 1024 * 1024;
/// The number of the terminal under test.
pub(crate) const NO: TerminalNo = TerminalNo(7);
/// The number of a shared subscription group.
pub(crate) const GROUP: TerminalNo = TerminalNo(99);

pub(crate) struct Terminal {
    pub(crate) session: Session<Arc<Message>>,
    pub(crate) now: u64,
    pub(crate) room: usize,
}

impl Terminal {
    pub(crate) fn new(config: SessionConfig) -> Self {
        Self { session: Session::new(Arc::new(config), 0, 0xABC), now: 0, room: ROOM }
    }

    /// A terminal with CONNACK, caught up: live. Its session outlives the connection.
    pub(crate) fn live(version: ProtocolVersion) -> Self {
        Self::live_with(connect(version), bound())
    }

    /// The same, with a session that ends with its connection.
    pub(crate) fn passing(version: ProtocolVersion) -> Self {
        let (session, no) = (Some(SessionId(1)), Some(NO));
        Self::live_with(connect(version), Bound { session, no, ..bound_clean() })
    }

    pub(crate) fn live_with(connect: Connect, bound: Bound) -> Self {
        let mut terminal = Self::bound(connect, bound);
        terminal.catch_up();
        terminal
    }

    /// A terminal with CONNACK, whose first pull is not answered yet.
    pub(crate) fn bound(connect: Connect, bound: Bound) -> Self {
        let mut terminal = Self::opened(connect, grant());
        terminal.bind(bound);
        assert!(terminal.session.is_live());
        terminal
    }

    /// Authenticated, and not bound yet.
    pub(crate) fn opened(connect: Connect, grant: Grant) -> Self {
        let mut terminal = Self::new(SessionConfig::default());
        terminal.connect(connect);
        terminal.answer(|session, at, out| session.handle_authenticated(at, Ok(grant), out));
        terminal
    }

    pub(crate) fn restricted(version: ProtocolVersion, permissions: Permissions) -> Self {
        let mut terminal = Self::opened(connect(version), Grant { permissions, ..grant() });
        terminal.bind(bound());
        terminal
    }

    pub(crate) fn at(&self) -> Moment {
        Moment { ms: self.now, room: self.room }
    }

    pub(crate) fn answer(
        &mut self,
        input: impl FnOnce(&mut Session<Arc<Message>>, Moment, &mut Vec<Out>),
    ) -> Vec<Out> {
        let (at, mut out) = (self.at(), Vec::new());
        input(&mut self.session, at, &mut out);
        out
    }

    // -------------------------------------------------------- what the terminal does

    pub(crate) fn send(&mut self, packet: Packet) -> Vec<Out> {
        self.answer(|session, at, out| session.handle_packet(at, packet, out))
    }

    pub(crate) fn connect(&mut self, connect: Connect) -> Vec<Out> {
        self.send(Packet::Connect(Box::new(connect)))
    }

    pub(crate) fn publish(&mut self, publish: Publish) -> Vec<Out> {
        self.send(Packet::Publish(Box::new(publish)))
    }

    pub(crate) fn puback(&mut self, packet_id: u16) -> Vec<Out> {
        self.send(Packet::PubAck(ack(packet_id)))
    }

    pub(crate) fn pubrec(&mut self, packet_id: u16) -> Vec<Out> {
        self.send(Packet::PubRec(ack(packet_id)))
    }

    pub(crate) fn pubrel(&mut self, packet_id: u16) -> Vec<Out> {
        self.send(Packet::PubRel(ack(packet_id)))
    }

    pub(crate) fn pubcomp(&mut self, packet_id: u16) -> Vec<Out> {
        self.send(Packet::PubComp(ack(packet_id)))
    }

    pub(crate) fn lose(&mut self) -> Vec<Out> {
        self.answer(|session, _, out| session.handle_connection_lost(out))
    }

    pub(crate) fn tick(&mut self, to_ms: u64) -> Vec<Out> {
        self.now = to_ms;
        self.answer(|session, at, out| session.handle_timeout(at, out))
    }

    // -------------------------------------------------------- what the leader does

    pub(crate) fn authenticate(&mut self) -> Vec<Out> {
        self.answer(|session, at, out| session.handle_authenticated(at, Ok(grant()), out))
    }

    pub(crate) fn bind(&mut self, bound: Bound) -> Vec<Out> {
        self.resume(bound, Vec::new())
    }

    /// Binds a session that goes on with these.
    pub(crate) fn resume(&mut self, bound: Bound, outbound: Vec<Queued<Arc<Message>>>) -> Vec<Out> {
        self.answer(|session, at, out| session.handle_bound(at, Ok((bound, outbound)), out))
    }

    pub(crate) fn catch_up(&mut self) -> Vec<Out> {
        self.answer(|session, at, out| session.handle_owed(at, [], true, out))
    }

    pub(crate) fn push(&mut self, id: u64) -> Vec<Out> {
        self.queue(queued(id, message(QOS1)))
    }

    pub(crate) fn queue(&mut self, queued: Queued<Arc<Message>>) -> Vec<Out> {
        self.answer(|session, at, out| session.handle_push(at, queued, out))
    }

    pub(crate) fn recorded(&mut self, request: RequestNo) -> Vec<Out> {
        self.answer(|session, at, out| session.handle_recorded(at, request, out))
    }

    pub(crate) fn published(&mut self, request: RequestNo, outcome: PublishOutcome) -> Vec<Out> {
        self.answer(|session, at, out| session.handle_published(at, request, Ok(outcome), out))
    }

    /// The log takes what these ask for.
    pub(crate) fn accepted(&mut self, asked: &[Out]) -> Vec<Out> {
        self.published(request(asked), PublishOutcome::Accepted)
    }

    pub(crate) fn changed(&mut self, asked: &[Out]) -> Vec<Out> {
        let request = request(asked);
        self.answer(|session, at, out| session.handle_changed(at, request, Ok(changed()), out))
    }

    pub(crate) fn withdraw(&mut self, id: u64) -> Vec<Out> {
        self.answer(|session, at, out| session.withdraw(at, PushId(id), None, out))
    }

    pub(crate) fn payload(&mut self, id: u64, message: Option<Arc<Message>>) -> Vec<Out> {
        self.answer(|session, at, out| session.handle_payload(at, PushId(id), message, out))
    }

    pub(crate) fn writable(&mut self) -> Vec<Out> {
        self.answer(|session, at, out| session.handle_writable(at, out))
    }

    // -------------------------------------------------------- subscriptions

    /// Subscribes, has it committed, and gives what follows.
    pub(crate) fn subscribed(&mut self, filters: Vec<SubscribeFilter>) -> Vec<Out> {
        let out = self.send(Packet::Subscribe(Subscribe { packet_id: 77, filters }));
        let asks = out.iter().any(|action| matches!(action, Action::Subscribe { .. }));
        if asks { self.changed(&out) } else { out }
    }
}

pub(crate) fn ack(packet_id: u16) -> Ack {
    Ack { packet_id, reason: Reason::SUCCESS }
}

pub(crate) fn changed() -> Changed {
    Changed { no: TerminalNo(1 << 31), session: SessionId(9), index: 40 }
}

pub(crate) fn receipt(push: u64, outcome: Outcome) -> Out {
    Action::Receipt { push: PushId(push), outcome, group: None }
}

pub(crate) fn connect(version: ProtocolVersion) -> Connect {
    Connect {
        version,
        clean_start: false,
        keep_alive_s: 60,
        client_id: "tv-1".to_owned(),
        will: None,
        user_name: Some("default".to_owned()),
        password: Some(Bytes::from_static(b"token")),
        properties: ConnectProperties { session_expiry_s: Some(3600), ..ConnectProperties::default() },
    }
}

/// CONNECT of MQTT 5 with some properties.
pub(crate) fn connect_with(change: impl FnOnce(&mut ConnectProperties)) -> Connect {
    let mut connect = connect(V5);
    change(&mut connect.properties);
    connect
}

pub(crate) fn grant() -> Grant {
    Grant {
        app: AppId::DEFAULT,
        terminal: TerminalId::new("tv-1").unwrap(),
        no: Some(NO),
        credential_issued_at: 1,
        expires_at_ms: None,
        permissions: Permissions::everything(),
    }
}

/// A terminal that may do only this.
pub(crate) fn permissions(publish: &[&str], subscribe: &[&str]) -> Permissions {
    let owned = |filters: &[&str]| filters.iter().map(|filter| (*filter).to_owned()).collect::<Vec<_>>();
    Permissions::new(&grant().terminal, Some(&owned(publish)), Some(&owned(subscribe)))
}

pub(crate) fn bound() -> Bound {
    Bound {
        no: Some(NO),
        epoch: Epoch { term: 1, counter: 1 },
        session_present: false,
        session: Some(SessionId(1)),
        session_expiry_s: 3600,
        subscriptions: Vec::new(),
        inbound: Vec::new(),
        outbound: Vec::new(),
    }
}

/// A session that ends with its connection, of a client nobody registered.
pub(crate) fn bound_clean() -> Bound {
    Bound { no: None, session: None, session_expiry_s: 0, ..bound() }
}

pub(crate) fn message(qos: Qos) -> Arc<Message> {
    Arc::new(Message {
        app: AppId::DEFAULT,
        kind: PushKind::Topic,
        topic: "news/today".to_owned(),
        qos,
        payload: Bytes::from_static(b"hello"),
        properties: MessageProperties::default(),
        publisher: None,
        retain: false,
        tells_expiry: true,
    })
}

pub(crate) fn message_on(topic: &str, qos: Qos) -> Arc<Message> {
    Arc::new(Message { topic: topic.to_owned(), ..(*message(qos)).clone() })
}

pub(crate) fn queued(id: u64, message: Arc<Message>) -> Queued<Arc<Message>> {
    Queued {
        push: PushId(id),
        message: Some(message),
        qos0: false,
        dup: false,
        expires_at_ms: None,
        shared: None,
        urgent: false,
    }
}

/// Nothing urgent was queued.
pub(crate) fn ordinary(last: u64) -> After {
    After { ordinary: PushId(last), ..After::default() }
}

/// A push that no subscription lowers: its audience names the terminal.
pub(crate) fn identity(id: u64, qos: Qos) -> Queued<Arc<Message>> {
    queued(id, Arc::new(Message { kind: PushKind::Identity, ..(*message(qos)).clone() }))
}

/// A push for the group, given to this member.
pub(crate) fn shared(id: u64, qos: Qos) -> Queued<Arc<Message>> {
    Queued { shared: Some(Shared { group: GROUP, granted: QOS2 }), ..queued(id, message(qos)) }
}

pub(crate) fn publish(qos: Qos, packet_id: u16, topic: &str) -> Publish {
    Publish { qos, packet_id, topic: topic.to_owned(), ..Publish::default() }
}

pub(crate) fn subscribe(packet_id: u16, filters: &[(&str, Qos)]) -> Packet {
    let filters = filters.iter().map(|(filter, qos)| subscription(filter, *qos, Default::default()));
    Packet::Subscribe(Subscribe { packet_id, filters: filters.collect() })
}

pub(crate) fn subscription(filter: &str, qos: Qos, options: SubscriptionOptions) -> SubscribeFilter {
    SubscribeFilter { filter: filter.to_owned(), qos, options }
}

pub(crate) fn unsubscribe(packet_id: u16, filters: &[&str]) -> Packet {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    Packet::Unsubscribe(Unsubscribe { packet_id, filters })
}

pub(crate) fn replicated(filter: &str, qos: Qos) -> Subscription {
    Subscription { filter: filter.to_owned(), qos, options: SubscriptionOptions::default() }
}

// ------------------------------------------------------------ reading what came out

pub(crate) fn connack(out: &[Out]) -> &ConnAck {
    let found = out.iter().find_map(|action| match action {
        Action::Send(Packet::ConnAck(connack)) => Some(&**connack),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no CONNACK in {out:?}"))
}

pub(crate) fn closed(out: &[Out]) -> Close {
    match out.last() {
        Some(Action::Close(close)) => close.clone(),
        _ => panic!("not closed: {out:?}"),
    }
}

/// The reason of the DISCONNECT and the cause of the close.
pub(crate) fn disconnected(out: &[Out]) -> (Option<Reason>, CloseCause) {
    (disconnect(out).map(|disconnect| disconnect.reason), closed(out).cause)
}

pub(crate) fn disconnect(out: &[Out]) -> Option<&Disconnect> {
    out.iter().find_map(|action| match action {
        Action::Send(Packet::Disconnect(disconnect)) => Some(&**disconnect),
        _ => None,
    })
}

pub(crate) fn deliveries(out: &[Out]) -> Vec<&Delivery<Arc<Message>>> {
    let mut found = Vec::new();
    for action in out {
        if let Action::Deliver(delivery) = action {
            found.push(delivery);
        }
    }
    found
}

pub(crate) fn packet_ids(out: &[Out]) -> Vec<u16> {
    deliveries(out).iter().map(|delivery| delivery.packet_id).collect()
}

pub(crate) fn receipts(out: &[Out]) -> Vec<(u64, Outcome, Option<TerminalNo>)> {
    let mut found = Vec::new();
    for action in out {
        if let Action::Receipt { push, outcome, group } = action {
            found.push((push.0, *outcome, *group));
        }
    }
    found
}

/// Packet id, step, and the request that waits for it.
pub(crate) fn steps(out: &[Out]) -> Vec<(u16, Step, Option<RequestNo>)> {
    let mut found = Vec::new();
    for action in out {
        if let Action::Step { request, packet_id, step } = action {
            found.push((*packet_id, *step, *request));
        }
    }
    found
}

/// The request of the only step that waits.
pub(crate) fn step(out: &[Out]) -> RequestNo {
    match &steps(out)[..] {
        [(_, _, Some(request))] => *request,
        other => panic!("not one step: {other:?}"),
    }
}

/// The packets that were sent, deliveries left out.
pub(crate) fn sent(out: &[Out]) -> Vec<&Packet> {
    let mut found = Vec::new();
    for action in out {
        if let Action::Send(packet) = action {
            found.push(packet);
        }
    }
    found
}

pub(crate) fn request(out: &[Out]) -> RequestNo {
    let found = out.iter().find_map(|action| match action {
        Action::Subscribe { request, .. }
        | Action::Unsubscribe { request, .. }
        | Action::Release { request, .. } => Some(*request),
        Action::Accept(incoming) => Some(incoming.request),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no request in {out:?}"))
}

pub(crate) fn codes(out: &[Out]) -> Vec<Reason> {
    let found = out.iter().find_map(|action| match action {
        Action::Send(Packet::SubAck(answer) | Packet::UnsubAck(answer)) => Some(answer.codes.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no SUBACK or UNSUBACK in {out:?}"))
}
