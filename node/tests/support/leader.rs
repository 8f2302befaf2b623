//! A leader in memory: one link at a time, everything committed at once unless told otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    AppId, Epoch, Message, MessageProperties, NodeId, Outcome, PushId, PushKind, Qos, SessionId, TerminalId,
    TerminalNo, TerminalSet,
    credential::PublicKey,
    link::{
        BindingReport, Bound, Committed, Deliver, EdgeControl, Fetch, FilterDelta, Lane, LeaderControl, Owed,
        OwedPush, Payload, Publish, PublishBody, PublishOutcome, Published, PushDelivery, Receipts,
        SessionReply, SessionReplyBody, SessionRequest, SessionRequestBody, StreamHeader, Subscription,
        Transient, UnbindReason, Welcome,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the leader knows and has seen.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) messages: BTreeMap<PushId, Message>,
    pub(crate) owed: BTreeMap<TerminalNo, BTreeSet<PushId>>,
    pub(crate) receipts: Vec<(PushId, Outcome, TerminalNo)>,
    pub(crate) published: Vec<(TerminalId, Message)>,
    pub(crate) transients: Vec<Transient>,
    pub(crate) filters: Vec<FilterDelta>,
    pub(crate) subscriptions: BTreeMap<TerminalId, Vec<Subscription>>,
    pub(crate) resumes: Vec<Vec<BindingReport>>,
    pub(crate) unbinds: Vec<TerminalId>,
    pub(crate) unbound: Vec<Epoch>,
    pub(crate) bound: BTreeMap<TerminalId, Epoch>,
    pub(crate) draining: bool,
    pub(crate) hold_publishes: bool,
    live: BTreeSet<TerminalNo>,
    nos: BTreeMap<TerminalId, TerminalNo>,
    lanes: BTreeMap<&'static str, u64>,
    pub(crate) incarnation: u64,
    epochs: u64,
    last_push: u64,
}

enum Order {
    Deliver(Deliver),
    Control(LeaderControl),
    Transient(Transient),
    Published(Published),
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
            }
        });
        let push = delivery.push;
        self.order(Order::Deliver(Deliver::Push(delivery)));
        push
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

    pub(crate) fn commit_publish(&self, seq: u64) {
        self.order(Order::Published(Published { seq, result: Ok(PublishOutcome::Accepted) }));
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
    }
}

impl Log {
    fn no_of(&mut self, terminal: &TerminalId) -> TerminalNo {
        let next = TerminalNo(self.nos.len() as u32 + 1);
        *self.nos.entry(terminal.clone()).or_insert(next)
    }

    /// Whether a numbered command is new.
    fn takes(&mut self, lane: &'static str, seq: u64) -> bool {
        let last = self.lanes.entry(lane).or_insert(0);
        assert!(seq <= *last + 1, "a gap in lane {lane}: {seq} after {last}");
        let is_new = seq == *last + 1;
        *last = seq.max(*last);
        is_new
    }
}

struct Server {
    log: Arc<Mutex<Log>>,
    changed: Arc<Notify>,
    keys: Vec<PublicKey>,
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

impl Server {
    fn welcome(&self, incarnation: u64) -> Welcome {
        let mut log = self.log.lock().expect("log");
        if log.incarnation != incarnation {
            log.incarnation = incarnation;
            log.lanes.clear();
        }
        let lane = |name| log.lanes.get(name).copied().unwrap_or(0);
        Welcome {
            leader: NodeId(1),
            term: 1,
            lease_ms: 5_000,
            heartbeat_ms: 300,
            applied: vec![
                (Lane::Session, lane("session")),
                (Lane::Publish, lane("publish")),
                (Lane::Receipts, lane("receipts")),
            ],
            apps: vec![(AppId::DEFAULT, "default".to_owned())],
            now_ms: wall_ms(),
        }
    }

    async fn handle(&self, link: &mut Link, frame: FromEdge) -> Option<()> {
        match frame {
            FromEdge::Control(frame) => self.control(link, frame).await,
            FromEdge::Session(request) => self.session(link, request).await,
            FromEdge::Publish(publish) => self.publish(link, publish).await,
            FromEdge::Receipts(receipts) => self.receipts(link, receipts).await,
            FromEdge::Fetch(Fetch { push }) => {
                let message = self.log.lock().expect("log").messages.get(&push).cloned();
                link.payload.send(&Payload { push, message }).await.ok()
            }
            FromEdge::Transient(transient) => {
                self.log.lock().expect("log").transients.push(transient);
                Some(())
            }
            FromEdge::Closed => None,
        }
    }

    async fn control(&self, link: &mut Link, frame: EdgeControl) -> Option<()> {
        match frame {
            EdgeControl::Bindings(bindings) => link.bindings.extend(bindings),
            EdgeControl::Filters(delta) => self.log.lock().expect("log").filters.push(delta),
            EdgeControl::ResumeDone => {
                let bindings = std::mem::take(&mut link.bindings);
                self.log.lock().expect("log").resumes.push(bindings);
                link.control.send(&LeaderControl::Resumed).await.ok()?;
            }
            EdgeControl::Heartbeat { nonce, .. } => {
                link.control
                    .send(&LeaderControl::HeartbeatAck {
                        nonce,
                        now_ms: wall_ms(),
                        cluster: Default::default(),
                    })
                    .await
                    .ok()?;
            }
            EdgeControl::Unbound { epoch, .. } => self.log.lock().expect("log").unbound.push(epoch),
            EdgeControl::Draining => self.log.lock().expect("log").draining = true,
            EdgeControl::Hello(_) | EdgeControl::InFlight(_) | EdgeControl::SharedInFlight(_) => {}
        }
        Some(())
    }

    async fn session(&self, link: &mut Link, SessionRequest { request, body }: SessionRequest) -> Option<()> {
        let body = match body {
            SessionRequestBody::Bind(bind) => SessionReplyBody::Bound(self.bind(&bind)),
            SessionRequestBody::Unbind(unbind) => {
                let mut log = self.log.lock().expect("log");
                if let Some(no) = log.nos.get(&unbind.terminal).copied()
                    && log.bound.get(&unbind.terminal) == Some(&unbind.epoch)
                {
                    log.live.remove(&no);
                    log.bound.remove(&unbind.terminal);
                }
                log.unbinds.push(unbind.terminal);
                SessionReplyBody::Unbound
            }
            SessionRequestBody::Subscribe(subscribe) => {
                let mut log = self.log.lock().expect("log");
                if log.takes("session", subscribe.seq) {
                    log.subscriptions
                        .entry(subscribe.terminal.clone())
                        .or_default()
                        .extend(subscribe.subscriptions);
                }
                SessionReplyBody::Changed {
                    no: log.no_of(&subscribe.terminal),
                    session: SessionId(1),
                    index: 0,
                }
            }
            SessionRequestBody::Unsubscribe(unsubscribe) => {
                let mut log = self.log.lock().expect("log");
                log.takes("session", unsubscribe.seq);
                SessionReplyBody::Changed {
                    no: log.no_of(&unsubscribe.terminal),
                    session: SessionId(1),
                    index: 0,
                }
            }
            SessionRequestBody::Pull { no, epoch, after, max } => {
                let page = self.page(no, epoch, after, max);
                return link.deliver.send(&Deliver::Owed(page)).await.ok();
            }
            SessionRequestBody::Retained(_) => {
                SessionReplyBody::Retained { messages: Vec::new(), next: None }
            }
        };
        link.session.send(&SessionReply { request, body }).await.ok()
    }

    fn bind(&self, bind: &cluster_proto::link::Bind) -> Bound {
        let mut log = self.log.lock().expect("log");
        log.epochs += 1;
        let epoch = Epoch { term: 1, counter: log.epochs };
        let no = log.no_of(&bind.terminal);
        log.live.remove(&no);
        log.bound.insert(bind.terminal.clone(), epoch);
        Bound {
            no: Some(no),
            epoch,
            session_present: false,
            session: None,
            session_expiry_s: bind.session_expiry_s,
            subscriptions: Vec::new(),
            inbound: Vec::new(),
            outbound: Vec::new(),
        }
    }

    fn page(&self, no: TerminalNo, epoch: Epoch, after: PushId, max: u16) -> Owed {
        let mut log = self.log.lock().expect("log");
        let owed = log.owed.entry(no).or_default();
        let pushes: Vec<OwedPush> = owed
            .range(PushId(after.0 + 1)..)
            .take(usize::from(max))
            .map(|push| OwedPush { push: *push, expires_at_ms: wall_ms() + 60_000, qos0: false, dup: false })
            .collect();
        let live = pushes.len() < usize::from(max);
        if live {
            log.live.insert(no);
        }
        Owed { no, epoch, pushes, live }
    }

    async fn publish(&self, link: &mut Link, publish: Publish) -> Option<()> {
        let hold = {
            let mut log = self.log.lock().expect("log");
            if log.takes("publish", publish.seq) {
                if let PublishBody::Push { message, .. } = publish.body {
                    log.published.push((publish.terminal, message));
                }
            }
            log.hold_publishes
        };
        if hold {
            return Some(());
        }
        let answer = Published { seq: publish.seq, result: Ok(PublishOutcome::Accepted) };
        link.published.send(&answer).await.ok()
    }

    async fn receipts(&self, link: &mut Link, Receipts { seq, items, .. }: Receipts) -> Option<()> {
        {
            let mut log = self.log.lock().expect("log");
            let is_new = log.takes("receipts", seq);
            for item in items.into_iter().filter(|_| is_new) {
                for no in item.terminals.iter() {
                    log.receipts.push((item.push, item.outcome, no));
                    if item.outcome != Outcome::NotWritten {
                        log.owed.entry(no).or_default().remove(&item.push);
                    }
                }
            }
        }
        link.committed.send(&Committed { seq }).await.ok()
    }
}
