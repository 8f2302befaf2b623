//! A session under test, with the words its scenarios are told in.

use std::sync::Arc;

use bytes::Bytes;
use cluster_proto::{
    AppId, Epoch, Message, MessageProperties, PushId, PushKind, Qos, SessionId, TerminalId, TerminalNo,
    link::{Bound, Subscription, SubscriptionOptions},
};
use fabric_core::mqtt::{
    Action, Close, CloseCause, Delivery, Grant, Moment, Packet, Permissions, ProtocolVersion, Queued, Reason,
    RequestNo, Session, SessionConfig,
    packet::{Ack, ConnAck, Connect, ConnectProperties, Publish, Subscribe, SubscribeFilter, Unsubscribe},
};

pub(crate) type Out = Action<Arc<Message>>;

pub(crate) const ROOM: usize = 64 * 1024 * 1024;

pub(crate) struct Terminal {
    pub(crate) session: Session<Arc<Message>>,
    pub(crate) now: u64,
    pub(crate) room: usize,
}

impl Terminal {
    pub(crate) fn new(config: SessionConfig) -> Self {
        Self { session: Session::new(Arc::new(config), 0, 0xABC), now: 0, room: ROOM }
    }

    /// A terminal with CONNACK, caught up: live.
    pub(crate) fn live(version: ProtocolVersion) -> Self {
        Self::live_with(connect(version), bound())
    }

    pub(crate) fn live_with(connect: Connect, bound: Bound) -> Self {
        let mut terminal = Self::bound(connect, bound);
        let at = terminal.at();
        terminal.session.handle_owed(at, [], true, &mut Vec::new());
        terminal
    }

    /// A terminal with CONNACK, whose first pull is not answered yet.
    pub(crate) fn bound(connect: Connect, bound: Bound) -> Self {
        let mut terminal = Self::new(SessionConfig::default());
        terminal.send(Packet::Connect(Box::new(connect)));
        terminal.authenticate();
        terminal.answer(|session, at, out| session.handle_bound(at, Ok(bound), out));
        assert!(terminal.session.is_live());
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

    pub(crate) fn send(&mut self, packet: Packet) -> Vec<Out> {
        self.answer(|session, at, out| session.handle_packet(at, packet, out))
    }

    pub(crate) fn authenticate(&mut self) -> Vec<Out> {
        self.answer(|session, at, out| session.handle_authenticated(at, Ok(grant()), out))
    }

    pub(crate) fn push(&mut self, id: u64) -> Vec<Out> {
        self.queue(queued(id, message(Qos::AtLeastOnce)))
    }

    pub(crate) fn queue(&mut self, queued: Queued<Arc<Message>>) -> Vec<Out> {
        self.answer(|session, at, out| session.handle_push(at, queued, out))
    }

    pub(crate) fn puback(&mut self, packet_id: u16) -> Vec<Out> {
        self.send(Packet::PubAck(Ack { packet_id, reason: Reason::SUCCESS }))
    }

    pub(crate) fn tick(&mut self, to_ms: u64) -> Vec<Out> {
        self.now = to_ms;
        self.answer(|session, at, out| session.handle_timeout(at, out))
    }
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

pub(crate) fn grant() -> Grant {
    Grant {
        app: AppId::DEFAULT,
        terminal: TerminalId::new("tv-1").unwrap(),
        no: Some(TerminalNo(7)),
        credential_issued_at: 1,
        expires_at_ms: None,
        permissions: Permissions::everything(),
    }
}

pub(crate) fn bound() -> Bound {
    Bound {
        no: Some(TerminalNo(7)),
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
    })
}

pub(crate) fn queued(id: u64, message: Arc<Message>) -> Queued<Arc<Message>> {
    Queued {
        push: PushId(id),
        message: Some(message),
        qos0: false,
        dup: false,
        expires_at_ms: None,
        shared: None,
    }
}

pub(crate) fn publish(qos: Qos, packet_id: u16, topic: &str) -> Publish {
    Publish { qos, packet_id, topic: topic.to_owned(), ..Publish::default() }
}

pub(crate) fn subscribe(packet_id: u16, filters: &[(&str, Qos)]) -> Packet {
    let filters =
        filters.iter().map(|(filter, qos)| subscription(filter, *qos, SubscriptionOptions::default()));
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
    let reason = out.iter().find_map(|action| match action {
        Action::Send(Packet::Disconnect(disconnect)) => Some(disconnect.reason),
        _ => None,
    });
    (reason, closed(out).cause)
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

pub(crate) fn request(out: &[Out]) -> RequestNo {
    let found = out.iter().find_map(|action| match action {
        Action::Subscribe { request, .. } | Action::Unsubscribe { request, .. } => Some(*request),
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
