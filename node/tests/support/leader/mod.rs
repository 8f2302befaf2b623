//! A leader in memory: one link at a time, everything committed at once unless told otherwise.

mod log;
mod server;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use carillon::transport::{
    Endpoint,
    certs::Certificates,
    frames::{FrameReceiver, FrameSender, accept_bi, open_uni},
    quic::Alpn,
};
use cluster_proto::{
    AppId, Message, MessageProperties, PushId, PushKind, Qos, TerminalId, TerminalNo, TerminalSet,
    credential::PublicKey,
    link::{
        BindingReport, Committed, Deliver, EdgeControl, Fetch, LeaderControl, Payload, Publish,
        PublishOutcome, Published, PushDelivery, Receipts, SessionReply, SessionReplyBody, SessionRequest,
        SharedDelivery, SharedInFlight, StreamHeader, Transient, UnbindReason,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

pub(crate) use log::Log;
use server::{Server, TakeOver};

const PATIENCE: Duration = Duration::from_secs(20);

enum Order {
    Deliver(Deliver),
    Control(LeaderControl),
    Transient(Transient),
    Published(Published),
    Committed(Committed),
    Session(SessionReply),
    DropLink,
}

pub(crate) struct FakeLeader {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Log>>,
    changed: Arc<Notify>,
    orders: mpsc::UnboundedSender<Order>,
    task: tokio::task::JoinHandle<()>,
    endpoint: Endpoint,
}

enum FromEdge {
    Control(EdgeControl),
    Session(SessionRequest),
    Publish(Publish),
    Receipts(Receipts),
    Fetch(Fetch),
    Transient(Transient),
    Closed,
}

impl FakeLeader {
    /// Granted with every heartbeat that is answered.
    pub(crate) const LEASE_MS: u64 = 5_000;

    pub(crate) async fn start(certificates: &Certificates, keys: Vec<PublicKey>) -> Self {
        let endpoint =
            Endpoint::bind(SocketAddr::from(([127, 0, 0, 1], 0)), certificates, &[Alpn::Link]).expect("bind");
        let address = endpoint.local_addr().expect("address");
        let (orders, orders_rx) = mpsc::unbounded_channel();
        let (log, changed) = (Arc::new(Mutex::new(Log::default())), Arc::new(Notify::new()));
        let server = Server { log: Arc::clone(&log), changed: Arc::clone(&changed), keys };
        let task = tokio::spawn(serve(endpoint.clone(), server, orders_rx));
        Self { address, log, changed, orders, task, endpoint }
    }

    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut Log) -> R) -> R {
        look(&mut self.log.lock().expect("log"))
    }

    /// Waits until `condition` holds of what the leader has seen.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Log) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if condition(&self.log.lock().expect("log")) {
                    return;
                }
                changed.await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    /// The number a terminal got.
    pub(crate) fn no(&self, terminal: &str) -> TerminalNo {
        self.with(|log| log.no_of(&TerminalId::new(terminal).expect("id")))
    }

    /// Accepts a push for `targets` and hands it to whoever is live.
    pub(crate) fn push(&self, targets: &[TerminalNo], payload: &str, inline: bool) -> PushId {
        self.push_message(targets, message("news", payload), inline, false)
    }

    pub(crate) fn push_message(
        &self,
        targets: &[TerminalNo],
        message: Message,
        inline: bool,
        best_effort: bool,
    ) -> PushId {
        let delivery = self.with(|log| {
            log.last_push += 1;
            let push = PushId(log.last_push);
            log.messages.insert(push, message.clone());
            for no in targets {
                log.owed.entry(*no).or_default().insert(push);
            }
            PushDelivery {
                push,
                targets: targets.iter().copied().filter(|no| log.live.contains(no)).collect(),
                targets_qos0: TerminalSet::new(),
                best_effort,
                expires_at_ms: wall_ms() + 60_000,
                message: inline.then_some(message),
                urgent: false,
            }
        });
        let push = delivery.push;
        self.order(Order::Deliver(Deliver::Push(delivery)));
        push
    }

    /// Hands a push to a member of a shared subscription group.
    pub(crate) fn share(&self, to: SharedInFlight, message: Message) {
        self.with(|log| drop(log.messages.insert(to.push, message.clone())));
        let (granted, expires_at_ms) = (message.qos, wall_ms() + 60_000);
        let delivery =
            SharedDelivery { to, granted, expires_at_ms, dup: false, message: Some(message), urgent: false };
        self.order(Order::Deliver(Deliver::Shared(delivery)));
    }

    pub(crate) fn withdraw_shared(&self, held: SharedInFlight) {
        self.order(Order::Deliver(Deliver::WithdrawShared(held)));
    }

    pub(crate) fn withdraw(&self, push: PushId, targets: &[TerminalNo]) {
        let targets = targets.iter().copied().collect();
        self.order(Order::Deliver(Deliver::Withdraw { push, targets }));
    }

    pub(crate) fn unbind(&self, terminal: &str, reason: UnbindReason) {
        let terminal = TerminalId::new(terminal).expect("id");
        let epoch = self.with(|log| log.bound[&terminal]);
        self.order(Order::Control(LeaderControl::Unbind { terminal, app: AppId::DEFAULT, epoch, reason }));
    }

    pub(crate) fn control(&self, frame: LeaderControl) {
        self.order(Order::Control(frame));
    }

    pub(crate) fn transient(&self, transient: Transient) {
        self.order(Order::Transient(transient));
    }

    /// The last sequence of lane Publish.
    pub(crate) fn last_publish(&self) -> u64 {
        self.with(|log| log.lanes.get("publish").copied().unwrap_or(0))
    }

    pub(crate) fn commit_publish(&self, seq: u64) {
        self.order(Order::Published(Published { seq, result: Ok(PublishOutcome::Accepted) }));
    }

    /// Everything that was received in lane Receipts is committed, and what comes from now on.
    pub(crate) fn commit_receipts(&self) {
        let seq = self.with(|log| {
            log.hold_receipts = false;
            log.lanes.get("receipts").copied().unwrap_or(0)
        });
        self.order(Order::Committed(Committed { seq }));
    }

    /// The ends of bindings are committed.
    pub(crate) fn answer_unbinds(&self) {
        for request in self.with(|log| std::mem::take(&mut log.held_unbinds)) {
            self.order(Order::Session(SessionReply { request, body: SessionReplyBody::Unbound }));
        }
    }

    pub(crate) fn drop_link(&self) {
        self.order(Order::DropLink);
    }

    /// Gone, without a word.
    pub(crate) fn stop(&mut self) {
        self.task.abort();
        drop(tokio::spawn({
            let endpoint = self.endpoint.clone();
            async move { endpoint.close().await }
        }));
    }

    fn order(&self, order: Order) {
        assert!(self.orders.send(order).is_ok(), "the leader runs");
    }
}

pub(crate) fn message(topic: &str, payload: &str) -> Message {
    Message {
        app: AppId::DEFAULT,
        kind: PushKind::Topic,
        topic: topic.to_owned(),
        qos: Qos::AtLeastOnce,
        payload: payload.as_bytes().to_vec().into(),
        properties: MessageProperties::default(),
        publisher: None,
        retain: false,
        tells_expiry: false,
    }
}

/// One that is owed to a terminal with its own QoS, whatever it subscribes to.
pub(crate) fn identity(payload: &str, qos: Qos) -> Message {
    Message { kind: PushKind::Identity, qos, ..message("news", payload) }
}

struct Link {
    quic: quinn::Connection,
    control: FrameSender<LeaderControl>,
    session: FrameSender<SessionReply>,
    published: FrameSender<Published>,
    committed: FrameSender<Committed>,
    payload: FrameSender<Payload>,
    transient: FrameSender<Transient>,
    deliver: FrameSender<Deliver>,
    frames: mpsc::UnboundedReceiver<FromEdge>,
    bindings: Vec<BindingReport>,
    take_overs: Vec<TakeOver>,
    /// A Bound that its own end has overtaken.
    overtaken: Option<(cluster_proto::Epoch, SessionReply)>,
}

async fn serve(endpoint: Endpoint, server: Server, mut orders: mpsc::UnboundedReceiver<Order>) {
    while let Some(connection) = endpoint.accept().await {
        let Some(mut link) = greet(connection.quic, &server).await else { continue };
        loop {
            let goes_on = tokio::select! {
                frame = link.frames.recv() => match frame {
                    Some(frame) => server.handle(&mut link, frame).await.is_some(),
                    None => false,
                },
                order = orders.recv() => match order {
                    Some(order) => carry_out(&mut link, order).await.is_some(),
                    None => return,
                },
            };
            server.changed.notify_waiters();
            if !goes_on {
                break;
            }
        }
        link.quic.close(1u32.into(), b"resume");
        server.log.lock().expect("log").live.clear();
    }
}

async fn carry_out(link: &mut Link, order: Order) -> Option<()> {
    match order {
        Order::Deliver(frame) => link.deliver.send(&frame).await.ok(),
        Order::Control(frame) => link.control.send(&frame).await.ok(),
        Order::Transient(frame) => link.transient.send(&frame).await.ok(),
        Order::Published(frame) => link.published.send(&frame).await.ok(),
        Order::Committed(frame) => link.committed.send(&frame).await.ok(),
        Order::Session(frame) => link.session.send(&frame).await.ok(),
        Order::DropLink => None,
    }
}

async fn greet(quic: quinn::Connection, server: &Server) -> Option<Link> {
    let (tx, frames) = mpsc::unbounded_channel();
    let (control, from_edge) = accept(&quic, StreamHeader::Control).await?;
    read(from_edge, &tx, FromEdge::Control);
    let (session, from_edge) = accept(&quic, StreamHeader::Session).await?;
    read(from_edge, &tx, FromEdge::Session);
    let (published, from_edge) = accept(&quic, StreamHeader::Publish).await?;
    read(from_edge, &tx, FromEdge::Publish);
    let (committed, from_edge) = accept(&quic, StreamHeader::Receipts).await?;
    read(from_edge, &tx, FromEdge::Receipts);
    let (payload, from_edge) = accept(&quic, StreamHeader::Payload).await?;
    read(from_edge, &tx, FromEdge::Fetch);
    let (transient, from_edge) = accept(&quic, StreamHeader::Transient).await?;
    read(from_edge, &tx, FromEdge::Transient);
    let deliver = open_uni(&quic, &StreamHeader::Deliver).await.ok()?;
    let mut link = Link {
        quic,
        control,
        session,
        published,
        committed,
        payload,
        transient,
        deliver,
        frames,
        bindings: Vec::new(),
        take_overs: Vec::new(),
        overtaken: None,
    };
    let Some(FromEdge::Control(EdgeControl::Hello(hello))) = link.frames.recv().await else { return None };
    let welcome = server.welcome(hello.incarnation.0);
    link.control.send(&LeaderControl::Welcome(welcome)).await.ok()?;
    link.control.send(&LeaderControl::Keys(server.keys.clone())).await.ok()?;
    Some(link)
}

async fn accept<Out: Serialize, In: DeserializeOwned>(
    quic: &quinn::Connection,
    header: StreamHeader,
) -> Option<(FrameSender<Out>, FrameReceiver<In>)> {
    let accepted = accept_bi::<StreamHeader>(quic).await.ok()?;
    assert_eq!(accepted.header, header);
    accepted.into_bi().ok()
}

fn read<In: DeserializeOwned + Send + 'static>(
    mut receiver: FrameReceiver<In>,
    frames: &mpsc::UnboundedSender<FromEdge>,
    wrap: fn(In) -> FromEdge,
) {
    let frames = frames.clone();
    tokio::spawn(async move {
        while let Ok(Some(frame)) = receiver.recv().await {
            let _ = frames.send(wrap(frame));
        }
        let _ = frames.send(FromEdge::Closed);
    });
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
