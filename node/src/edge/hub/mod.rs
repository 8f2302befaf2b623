//! The task between the shards and the leader.
//!
//! It owns the link machine and everything that is one per edge: who is bound where, payloads, what filters there
//! are. It never waits for a shard or a stream: every queue has a bound and a rule (see [`ports`], [`super::link`]).
//!
//! - [`bindings`]: terminal → connection, and the split of Delivers by shard.
//! - [`cache`]: payloads by push id.
//! - [`filters`]: which filters have subscribers here.
//! - [`leader`]: what comes from the leader.
//! - [`terminals`]: what comes from the shards.
//! - [`publishes`]: what terminals publish.
//! - [`retained`]: retained messages for new subscriptions.
//! - [`sys`]: `$SYS` topics.

pub(super) mod bindings;
pub(super) mod cache;
pub(super) mod filters;
mod leader;
pub(super) mod ports;
mod publishes;
mod retained;
mod sys;
mod terminals;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    future::pending,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cluster_proto::{
    Epoch, Incarnation, PushId, TerminalSet,
    link::{BindingReport, Deliver, FilterDelta, NodeAddresses, SharedInFlight},
};
use fabric_core::{
    link::{EdgeLink, EdgeLinkOptions, EdgeOutput},
    mqtt::{CloseCause, RequestNo},
};
use metrics::{counter, gauge};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::sleep,
};

use self::{
    bindings::Bindings,
    cache::MessageCache,
    filters::FilterCounts,
    ports::Ports,
    publishes::{PendingPublish, Retains},
    retained::RetainedAsks,
    sys::Sys,
    terminals::{Ends, PendingBind, PendingChange},
};
use super::{
    clock,
    link::{self, FromLeader, LinkStreams},
    messages::{ConnId, LinkNo, ShardReport, ToHub, ToShard},
    metrics as names,
    notices::Notices,
    shared::EdgeShared,
};
use crate::transport::Endpoint;

/// Frames and batches handled before the outputs are carried out: what comes together leaves together.
const BATCH_MAX: usize = 256;
/// Publishes kept while they wait for their commit; beyond, PUBLISH is refused (quota exceeded).
const PUBLISHES_MAX: usize = 64 * 1024;
/// Binds and subscription changes kept while they wait: one per terminal, and some.
const REQUESTS_MAX: usize = 256 * 1024;
/// Gauges are set this often.
const GAUGES_EVERY: Duration = Duration::from_secs(1);

/// What the handle asks of the hub.
#[derive(Debug)]
pub(crate) enum Order {
    /// Close every terminal, have receipts committed, and end. Answered when done.
    Drain(oneshot::Sender<()>),
    /// End now.
    Stop,
}

/// What the hub begins with.
pub(crate) struct HubParts {
    pub(crate) shared: Arc<EdgeShared>,
    pub(crate) endpoint: Endpoint,
    pub(crate) addresses: NodeAddresses,
    pub(crate) control_seeds: Vec<String>,
    pub(crate) inboxes: Vec<mpsc::Sender<Vec<ToShard>>>,
    pub(crate) from_shards: mpsc::Receiver<Vec<ToHub>>,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) ready: watch::Sender<bool>,
}

/// See the module.
pub(crate) struct Hub {
    shared: Arc<EdgeShared>,
    endpoint: Endpoint,
    ports: Ports,
    from_shards: mpsc::Receiver<Vec<ToHub>>,
    orders: mpsc::Receiver<Order>,
    ready: watch::Sender<bool>,

    link: EdgeLink,
    link_no: LinkNo,
    streams: Option<LinkStreams>,
    dialling: Option<JoinHandle<anyhow::Result<LinkStreams>>>,

    bindings: Bindings,
    cache: MessageCache,
    filters: FilterCounts,
    binds: HashMap<u64, PendingBind>,
    bind_of: HashMap<ConnId, u64>,
    /// `Bind::connection` of the last Bind: a later one takes a session over, so the numbers follow the order of Binds,
    /// whatever shards the connections are on.
    last_holder: u64,
    changes: HashMap<u64, PendingChange>,
    publishes: HashMap<u64, PendingPublish>,
    publishes_len: usize,
    /// QoS 0 messages dropped here.
    publishes_dropped: u64,
    retains: Retains,
    retained: RetainedAsks,
    /// Steps that sessions wait for, by the sequence that covers them. Bounded by their windows.
    recording: VecDeque<(u64, ConnId, RequestNo)>,
    sys: Option<Sys>,
    notices: Notices,
    /// Closing because the leader said so: answered with Unbound.
    unbinding: HashMap<ConnId, Epoch>,
    ends: Ends,
    /// Payloads that deliveries wait for, and where.
    fetching: HashMap<PushId, HashSet<u16>>,
    gathering: Option<Gathering>,
    is_isolated: bool,
    /// Every shard closes all terminals: for a new life, or for good.
    ending: Option<Ending>,
    now_ms: u64,
}

/// Resume is being put together.
struct Gathering {
    awaited: usize,
    reports: HashMap<ConnId, PushId>,
    in_flight: BTreeMap<PushId, TerminalSet>,
    shared: Vec<SharedInFlight>,
}

struct Ending {
    awaited: usize,
    /// `None`: a new life begins.
    drained: Option<oneshot::Sender<()>>,
}

impl Event {
    /// Whether it came over the link.
    fn is_of_link(&self) -> bool {
        matches!(self, Self::Leader(_) | Self::Deliver(_))
    }
}

enum Event {
    Shards(Vec<ToHub>),
    Leader(FromLeader),
    Deliver(Deliver),
    Dialled(anyhow::Result<LinkStreams>),
    Order(Order),
    Timeout,
    Room,
}

impl Hub {
    pub(crate) fn new(parts: HubParts) -> Self {
        let now_ms = clock::now_ms();
        let incarnation = Incarnation(wall_ms());
        let link = EdgeLink::new(
            EdgeLinkOptions {
                edge: parts.shared.node,
                incarnation,
                addresses: parts.addresses,
                seeds: parts.control_seeds,
                seed: incarnation.0 ^ parts.shared.node.0.rotate_left(32),
                publishes_max: PUBLISHES_MAX,
                requests_max: REQUESTS_MAX,
            },
            now_ms,
        );
        let sys = Sys::new(parts.shared.node, parts.shared.limits.sys_interval, now_ms);
        Self {
            bindings: Bindings::new(parts.inboxes.len()),
            cache: MessageCache::new(parts.shared.limits.payload_cache_bytes),
            shared: parts.shared,
            endpoint: parts.endpoint,
            ports: Ports::new(parts.inboxes),
            from_shards: parts.from_shards,
            orders: parts.orders,
            ready: parts.ready,
            link,
            link_no: LinkNo::default(),
            streams: None,
            dialling: None,
            filters: FilterCounts::default(),
            binds: HashMap::new(),
            bind_of: HashMap::new(),
            last_holder: 0,
            changes: HashMap::new(),
            publishes: HashMap::new(),
            publishes_len: 0,
            publishes_dropped: 0,
            retains: Retains::default(),
            retained: RetainedAsks::default(),
            recording: VecDeque::new(),
            sys,
            notices: Notices::default(),
            unbinding: HashMap::new(),
            ends: Ends::default(),
            fetching: HashMap::new(),
            gathering: None,
            is_isolated: false,
            ending: None,
            now_ms,
        }
    }

    /// Runs until it is told to stop, or drained.
    pub(crate) async fn run(mut self) {
        let mut gauges_at = tokio::time::Instant::now();
        loop {
            let event = self.next_event().await;
            self.now_ms = clock::now_ms();
            if let Event::Order(Order::Stop) = event {
                break;
            }
            // First of all: after a pause (a stopped process, a suspended machine) the lease may be over, and then
            // nothing that waits may be handed out.
            if self.link.poll_timeout() <= self.now_ms {
                self.link.set_stats(self.stats());
            }
            self.link.handle_timeout(self.now_ms);
            self.carry_out();
            // The last word of a link that was given up just now is void: what it answers is asked again, and it would
            // reach the shards behind the news of the loss.
            if self.streams.is_some() || !event.is_of_link() {
                self.handle(event);
            }
            self.handle_more();
            self.leave_if_isolated();
            self.show_sys();
            self.finish_batch();
            if self.is_drained() {
                break;
            }
            if gauges_at.elapsed() >= GAUGES_EVERY {
                gauges_at = tokio::time::Instant::now();
                self.set_gauges();
            }
        }
        self.ports.push_all(|| ToShard::Stop);
        self.ports.flush();
    }

    async fn next_event(&mut self) -> Event {
        let may_deliver = self.may_deliver();
        let deadline_ms = self.sys.as_ref().map_or(u64::MAX, |sys| sys.next_ms).min(self.link.poll_timeout());
        let timeout_ms = deadline_ms.saturating_sub(clock::now_ms()).min(60_000);
        let (frames, delivers) = match &mut self.streams {
            Some(streams) => (Some(&mut streams.frames), Some(&mut streams.delivers)),
            None => (None, None),
        };
        tokio::select! {
            Some(batch) = self.from_shards.recv() => Event::Shards(batch),
            frame = recv(frames) => Event::Leader(frame),
            frame = recv(delivers), if may_deliver => Event::Deliver(frame),
            streams = dialled(&mut self.dialling) => Event::Dialled(streams),
            order = self.orders.recv() => Event::Order(order.unwrap_or(Order::Stop)),
            () = self.ports.room() => Event::Room,
            () = sleep(Duration::from_millis(timeout_ms)) => Event::Timeout,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Shards(batch) => batch.into_iter().for_each(|message| self.handle_shard(message)),
            Event::Leader(frame) => self.handle_leader(frame),
            Event::Deliver(frame) => self.handle_deliver(frame),
            Event::Dialled(result) => self.handle_dialled(result),
            Event::Order(Order::Drain(done)) => self.drain(done),
            Event::Order(Order::Stop) | Event::Timeout | Event::Room => {}
        }
    }

    /// What has arrived meanwhile, bounded, so that it leaves in the same batches.
    fn handle_more(&mut self) {
        for _ in 0..BATCH_MAX {
            let Ok(batch) = self.from_shards.try_recv() else { break };
            self.handle(Event::Shards(batch));
        }
        for _ in 0..BATCH_MAX {
            let Some(frame) = self.streams.as_mut().and_then(|s| s.frames.try_recv().ok()) else { break };
            self.handle(Event::Leader(frame));
        }
        for _ in 0..BATCH_MAX {
            if !self.may_deliver() {
                break;
            }
            let Some(frame) = self.streams.as_mut().and_then(|s| s.delivers.try_recv().ok()) else { break };
            self.handle(Event::Deliver(frame));
        }
    }

    fn finish_batch(&mut self) {
        // Until the link is live, changes wait: a Resume being put together has taken the filters already.
        if self.link.is_live()
            && let Some(delta) = self.filters.take_delta()
        {
            self.link.filters_changed(delta);
        }
        self.link.flush_receipts();
        self.carry_out();
        self.renew_lease();
        self.ports.flush();
    }

    fn renew_lease(&mut self) {
        let had_lease = self.shared.has_lease(self.now_ms);
        self.shared.set_lease(if self.link.is_live() { self.link.lease_until_ms() } else { 0 });
        if !had_lease && self.shared.has_lease(self.now_ms) {
            self.ports.push_all(|| ToShard::Leased);
        }
    }

    /// Deliveries wait on their stream while there is no lease (the answer to a heartbeat may be on its way), while a
    /// shard has no room, and while everything is being closed.
    fn may_deliver(&self) -> bool {
        self.link.may_act(clock::now_ms()) && self.ports.have_room() && self.ending.is_none()
    }

    // ------------------------------------------------------------ the link machine's outputs

    fn carry_out(&mut self) {
        while let Some(output) = self.link.poll_output() {
            match output {
                EdgeOutput::Dial { address } => self.dial(address),
                EdgeOutput::Hangup => self.hang_up(),
                EdgeOutput::Control(frame) => self.send(|s| s.control.send(frame).is_ok()),
                EdgeOutput::Session(frame) => self.send(|s| s.session.send(frame).is_ok()),
                EdgeOutput::Publish(frame) => self.send(|s| s.publish.send(frame).is_ok()),
                EdgeOutput::Receipts(frame) => self.send(|s| s.receipts.send(frame).is_ok()),
                EdgeOutput::Welcomed(welcome) => {
                    tracing::info!(leader = %welcome.leader, term = welcome.term, "leader found, resuming");
                    self.shared.set_apps(welcome.apps);
                    // Their answers went with the old link, which tells their end instead.
                    self.binds.retain(|_, bind| !bind.is_over);
                    self.gather();
                }
                EdgeOutput::Live => self.go_live(),
                EdgeOutput::Lost => self.lose(),
                EdgeOutput::StartNewLife { reason } => self.end_life(&reason),
                EdgeOutput::Refused { reason } => tracing::warn!(reason, "a control node refuses this edge"),
                EdgeOutput::Leader(frame) => self.handle_leader_control(frame),
                EdgeOutput::Recorded { seq } => self.recorded(seq),
                EdgeOutput::PublishAnswered { seq, result } => self.answer_publish(seq, result),
                EdgeOutput::SessionAnswered { request, answer } => self.answer_session(request, answer),
            }
        }
    }

    /// A stream that takes nothing has ended: its `Closed` frame is on its way.
    fn send(&self, send: impl FnOnce(&LinkStreams) -> bool) {
        if let Some(streams) = &self.streams {
            send(streams);
        }
    }

    fn dial(&mut self, address: String) {
        let endpoint = self.endpoint.clone();
        self.dialling = Some(tokio::spawn(async move { link::open(&endpoint, &address).await }));
    }

    fn handle_dialled(&mut self, result: anyhow::Result<LinkStreams>) {
        match result {
            Ok(streams) => {
                self.streams = Some(streams);
                self.link_no.0 += 1;
                self.link.handle_connected(self.now_ms);
            }
            Err(error) => {
                tracing::debug!("no link: {error:#}");
                self.link.handle_disconnected(self.now_ms);
            }
        }
    }

    fn hang_up(&mut self) {
        self.streams = None;
        if let Some(dialling) = self.dialling.take() {
            dialling.abort();
        }
    }

    fn gather(&mut self) {
        self.gathering = Some(Gathering {
            awaited: self.ports.len(),
            reports: HashMap::new(),
            in_flight: BTreeMap::new(),
            shared: Vec::new(),
        });
        let link_no = self.link_no;
        self.ports.push_all(|| ToShard::Report(link_no));
    }

    fn handle_report(&mut self, link_no: LinkNo, report: ShardReport) {
        let Some(gathering) = self.gathering.as_mut().filter(|_| link_no == self.link_no) else { return };
        gathering.reports.extend(report.terminals);
        for (push, set) in report.in_flight {
            gathering.in_flight.entry(push).or_default().0 |= set.0;
        }
        gathering.shared.extend(report.shared);
        gathering.awaited -= 1;
        if gathering.awaited == 0
            && let Some(gathering) = self.gathering.take()
        {
            let bindings = self.binding_reports(&gathering.reports);
            let filters: FilterDelta = self.filters.all();
            self.link.resume(bindings, filters, gathering.in_flight, gathering.shared);
        }
    }

    fn binding_reports(&self, after: &HashMap<ConnId, PushId>) -> Vec<BindingReport> {
        let reports = self.bindings.iter().map(|((app, terminal), binding)| BindingReport {
            app: *app,
            terminal: terminal.clone(),
            no: binding.no,
            epoch: binding.epoch,
            after: after.get(&binding.conn).copied().unwrap_or_default(),
            // Its session noticed that the link was lost: it pulls.
            live: false,
            credential_issued_at: binding.credential_issued_at,
        });
        reports.collect()
    }

    fn go_live(&mut self) {
        tracing::info!(terminals = self.bindings.len(), "link is live");
        gauge!(names::LINK_LIVE).set(1.0);
        let link_no = self.link_no;
        // Before anything of this link is delivered.
        self.shared.set_lease(self.link.lease_until_ms());
        self.ports.push_all(|| ToShard::LinkLive(link_no));
        for push in self.fetching.keys().copied().collect::<Vec<_>>() {
            self.fetch(push);
        }
        self.set_ready(true);
    }

    fn lose(&mut self) {
        tracing::warn!("link to the leader is lost");
        counter!(names::LINK_LOST).increment(1);
        gauge!(names::LINK_LIVE).set(0.0);
        self.set_ready(false);
        self.streams = None;
        self.gathering = None;
        self.retained.clear();
        self.shared.set_lease(0);
        self.shared.set_forward_transient(false);
        self.ports.push_all(|| ToShard::LinkLost);
    }

    fn set_ready(&self, is_ready: bool) {
        self.ready.send_if_modified(|ready| std::mem::replace(ready, is_ready) != is_ready);
    }

    // ------------------------------------------------------------ the end of a life, and of the edge

    /// An edge that reaches control nodes but no leader keeps its terminals: a new leader is being elected. One that
    /// reaches none is cut off, and its terminals do better elsewhere.
    fn leave_if_isolated(&mut self) {
        let silent_ms = self.now_ms.saturating_sub(self.link.last_contact_ms());
        let grace_ms = self.shared.limits.isolation_grace.as_millis() as u64;
        let is_isolated = silent_ms >= grace_ms;
        if is_isolated && !self.is_isolated {
            tracing::warn!(silent_ms, "no control node is reached: closing all terminals");
            self.ports.push_all(|| ToShard::CloseAll(CloseCause::ServerUnavailable));
        }
        self.is_isolated = is_isolated;
    }

    fn end_life(&mut self, reason: &str) {
        tracing::warn!(reason, "this life of the edge was declared ended: closing all terminals");
        self.close_all(None, || ToShard::CloseAll(CloseCause::ServerUnavailable));
    }

    fn drain(&mut self, done: oneshot::Sender<()>) {
        self.shared.set_draining();
        self.link.drain();
        self.close_all(Some(done), || ToShard::Drain);
    }

    fn close_all(&mut self, drained: Option<oneshot::Sender<()>>, order: impl Fn() -> ToShard) {
        self.ending = Some(Ending { awaited: self.ports.len(), drained });
        self.ports.push_all(order);
    }

    fn shard_closed_all(&mut self) {
        let Some(ending) = self.ending.as_mut() else { return };
        ending.awaited = ending.awaited.saturating_sub(1);
        if ending.awaited == 0 && ending.drained.is_none() {
            self.ending = None;
            self.begin_new_life();
        }
    }

    fn begin_new_life(&mut self) {
        let incarnation = Incarnation(wall_ms().max(self.link.incarnation().0 + 1));
        tracing::info!(%incarnation, "a new life begins");
        self.bindings.clear();
        self.binds.clear();
        self.bind_of.clear();
        self.changes.clear();
        self.publishes.clear();
        self.publishes_len = 0;
        self.retains.clear();
        self.retained.clear();
        self.recording.clear();
        self.unbinding.clear();
        self.ends = Ends::default();
        self.link.start_new_life(self.now_ms, incarnation);
    }

    /// Every terminal is closed, and the leader has committed what they left; or there is no leader to tell.
    fn is_drained(&mut self) -> bool {
        let Some(Ending { awaited: 0, drained: Some(_) }) = &self.ending else { return false };
        if self.link.is_live() && !self.link.is_idle() {
            return false;
        }
        if let Some(Ending { drained: Some(done), .. }) = self.ending.take() {
            // Nobody waits any more: the deadline has passed.
            let _ = done.send(());
        }
        true
    }

    fn set_gauges(&self) {
        let (publishes, receipts, requests) = self.link.waiting();
        gauge!(names::WAITING, "lane" => "publish").set(publishes as f64);
        gauge!(names::WAITING, "lane" => "receipts").set(receipts as f64);
        gauge!(names::WAITING, "lane" => "session").set(requests as f64);
        gauge!(names::CACHE_BYTES).set(self.cache.bytes() as f64);
        self.shared.set_bound(self.bindings.len());
    }
}

/// An incarnation: larger for every later start, as far as the clock is. One that is not is refused by the leader,
/// and taken anew.
fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64)
}

async fn recv<T>(receiver: Option<&mut mpsc::Receiver<T>>) -> T {
    if let Some(receiver) = receiver
        && let Some(frame) = receiver.recv().await
    {
        return frame;
    }
    pending().await
}

/// Waits for the attempt under way; for ever if there is none.
async fn dialled(
    dialling: &mut Option<JoinHandle<anyhow::Result<LinkStreams>>>,
) -> anyhow::Result<LinkStreams> {
    let Some(task) = dialling else { return pending().await };
    let result = task.await;
    *dialling = None;
    result.unwrap_or_else(|error| Err(anyhow::Error::new(error).context("dial")))
}
