//! The edge's side of the link, as a machine without I/O.

use std::collections::{BTreeMap, VecDeque};

use cluster_proto::{
    Epoch, Incarnation, NodeId, Outcome, PushId, TerminalNo, TerminalSet,
    link::{
        BindingReport, Committed, EdgeControl, ExchangeStep, FilterDelta, Hello, Lane as LaneName,
        LeaderControl, NodeAddresses, Publish, Published, Receipts, RefuseReason, SessionReply,
        SessionReplyBody, SessionRequest, SessionRequestBody, SharedInFlight, Stats, Unacknowledged, Welcome,
    },
};

use super::{
    backoff::Backoff,
    lane::Lane,
    leader_clock::LeaderClock,
    lease::Lease,
    outbox::Outbox,
    requests::{Requests, is_kept},
};

/// A connection that is not established after this long is given up.
const DIAL_TIMEOUT_MS: u64 = 1_000;
/// A control node answers Hello from memory; one that does not is stopped or overloaded.
const GREETING_TIMEOUT_MS: u64 = 3_000;
/// Resume of a full edge is some megabytes, and the leader may wait for a first commit of its term.
const RESUMING_TIMEOUT_MS: u64 = 10_000;
/// First and longest delay before another attempt. Short, because terminals wait while no leader is known.
const BACKOFF_MS: (u64, u64) = (50, 1_000);
/// Redirects followed at once. More in a row means that control nodes disagree about who leads: wait instead.
const REDIRECTS_MAX: u32 = 3;
/// Heartbeats without an answer before the leader counts as lost.
const HEARTBEATS_MISSED_MAX: u64 = 3;
/// Items per frame of Resume and of filters: far below the largest frame for names of full length.
const FRAME_ITEMS_MAX: usize = 1_000;
/// Bytes of bitmaps per Resume frame.
const RESUME_SETS_LEN_MAX: usize = 1024 * 1024;

/// Where the link stands.
///
/// ```text
///               delay over          connected           Welcome            Resumed
///   Searching ─────────────► Dialing ─────────► Greeting ───────► Resuming ───────► Live ──► Draining
///       ▲                       │                  │ Redirect        │                │ (drain asked)
///       └───────────────────────┴──────────────────┴─────────────────┴────────────────┘
///            connection lost, no answer in time, lease over; Refused: with the longest delay
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeState {
    /// No connection; waits for the next attempt.
    Searching,
    /// The shell is connecting.
    Dialing,
    /// Hello is sent.
    Greeting,
    /// Welcome was received; bindings, filters and what is in flight are being told.
    Resuming,
    /// Requests, lanes and deliveries flow.
    Live,
    /// Live, and about to leave: no more binds come.
    Draining,
}

/// What the machine needs to know about its edge.
#[derive(Clone, Debug)]
pub struct EdgeLinkOptions {
    /// The edge.
    pub edge: NodeId,
    /// This life of it.
    pub incarnation: Incarnation,
    /// Where it is reached.
    pub addresses: NodeAddresses,
    /// Link addresses of control nodes, `host:port`. Not empty.
    pub seeds: Vec<String>,
    /// For the jitter of delays, and where in `seeds` to begin.
    pub seed: u64,
    /// PUBLISH packets kept while they wait for their commit; beyond, publishers are slowed down.
    pub publishes_max: usize,
    /// Binds and subscription changes kept while they wait; beyond, they are refused.
    pub requests_max: usize,
}

/// What the shell has to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum EdgeOutput {
    /// Connect there; then call `handle_connected` or `handle_disconnected`.
    Dial {
        /// `host:port`.
        address: String,
    },
    /// Drop the connection or the attempt. No `handle_disconnected` for it is expected.
    Hangup,
    /// Write to the control stream.
    Control(EdgeControl),
    /// Write to the session stream.
    Session(SessionRequest),
    /// Write to the publish stream.
    Publish(Publish),
    /// Write to the receipts stream.
    Receipts(Receipts),
    /// A leader answered: gather bindings, filters and what is in flight, and call `resume`.
    Welcomed(Welcome),
    /// Deliveries may flow; terminals that are catching up pull.
    Live,
    /// The leader is lost: frames of its connection still queued must be dropped, and what they held will come
    /// again.
    Lost,
    /// Declared dead while cut off: close every terminal and call `start_new_life`.
    StartNewLife {
        /// For the log.
        reason: String,
    },
    /// A control node will not have this edge; it tries on.
    Refused {
        /// For the log.
        reason: String,
    },
    /// For the shell: keys, revocations, unbinds, transient forwarding, peers.
    Leader(LeaderControl),
    /// Receipts and steps are committed, up to this sequence.
    Recorded {
        /// As given by `step`.
        seq: u64,
    },
    /// A publish was answered.
    PublishAnswered {
        /// As given by `publish`.
        seq: u64,
        /// `None`: committed before the leader changed; whether anybody subscribes is not known any more.
        result: Option<Result<cluster_proto::link::PublishOutcome, RefuseReason>>,
    },
    /// A session request was answered.
    SessionAnswered {
        /// As given by `request`.
        request: u64,
        /// The answer.
        answer: SessionAnswer,
    },
}

/// How a session request was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionAnswer {
    /// By the leader.
    Reply(SessionReplyBody),
    /// A subscription change that was committed before the leader changed; its reply is lost.
    Covered,
}

/// The machine. Inputs are the `handle_*` methods and verbs; outputs come from [`EdgeLink::poll_output`], to be
/// drained after every input. Owned by the hub of one edge. Every unanswered command is in exactly one of
/// `publishes`, `outbox` and `requests`, and leaves it only by an answer (I9, I13).
#[derive(Debug)]
pub struct EdgeLink {
    options: EdgeLinkOptions,
    state: EdgeState,
    draining: bool,
    backoff: Backoff,
    next_seed: usize,
    redirect: Option<String>,
    redirects: u32,
    /// When the present state gives up, or Searching dials.
    deadline_ms: u64,
    heartbeat_ms: u64,
    next_heartbeat_ms: u64,
    live_since_ms: u64,
    last_contact_ms: u64,
    lease: Lease,
    /// When Hello was sent: Welcome tells the leader's time.
    greeted_ms: u64,
    leader_clock: LeaderClock,
    /// Told with every heartbeat.
    stats: Stats,
    /// As the leader last told.
    cluster_stats: Stats,
    publishes: Lane<Publish>,
    outbox: Outbox,
    requests: Requests,
    outputs: VecDeque<EdgeOutput>,
}

impl EdgeLink {
    /// A machine that dials at once.
    pub fn new(options: EdgeLinkOptions, now_ms: u64) -> Self {
        debug_assert!(!options.seeds.is_empty());
        Self {
            state: EdgeState::Searching,
            draining: false,
            backoff: Backoff::new(BACKOFF_MS.0, BACKOFF_MS.1, options.seed),
            next_seed: (options.seed % options.seeds.len().max(1) as u64) as usize,
            redirect: None,
            redirects: 0,
            deadline_ms: now_ms,
            heartbeat_ms: 0,
            next_heartbeat_ms: u64::MAX,
            live_since_ms: 0,
            last_contact_ms: now_ms,
            lease: Lease::default(),
            greeted_ms: now_ms,
            leader_clock: LeaderClock::default(),
            stats: Stats::default(),
            cluster_stats: Stats::default(),
            publishes: Lane::new(options.publishes_max),
            outbox: Outbox::default(),
            requests: Requests::new(options.requests_max),
            outputs: VecDeque::new(),
            options,
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<EdgeOutput> {
        self.outputs.pop_front()
    }

    /// When to call [`EdgeLink::handle_timeout`].
    pub fn poll_timeout(&self) -> u64 {
        match self.state {
            EdgeState::Live | EdgeState::Draining => self.next_heartbeat_ms.min(self.deadline_ms),
            EdgeState::Resuming => self.deadline_ms.min(self.next_heartbeat_ms),
            _ => self.deadline_ms,
        }
    }

    /// Where the link stands.
    pub fn state(&self) -> EdgeState {
        match self.state {
            EdgeState::Live if self.draining => EdgeState::Draining,
            state => state,
        }
    }

    /// Whether requests are answered.
    pub fn is_live(&self) -> bool {
        self.state == EdgeState::Live
    }

    /// The edge may deliver and accept terminals before this time.
    pub fn lease_until_ms(&self) -> u64 {
        self.lease.until_ms()
    }

    /// Whether deliveries may be handed to terminals, and terminals be accepted.
    pub fn may_act(&self, now_ms: u64) -> bool {
        self.is_live() && self.lease.is_valid(now_ms)
    }

    /// When, by the edge's clock, the leader's says `leader_ms` (milliseconds since the epoch); never later than it
    /// really does.
    pub fn local_ms(&self, leader_ms: u64) -> u64 {
        self.leader_clock.local_ms(leader_ms)
    }

    /// When a control node was last heard, leader or not.
    pub fn last_contact_ms(&self) -> u64 {
        self.last_contact_ms
    }

    /// This life.
    pub fn incarnation(&self) -> Incarnation {
        self.options.incarnation
    }

    /// Of all edges together, as the leader last told.
    pub fn cluster_stats(&self) -> Stats {
        self.cluster_stats
    }

    /// What the next heartbeats tell of this edge.
    pub fn set_stats(&mut self, stats: Stats) {
        self.stats = stats;
    }

    /// Whether every command and receipt is answered.
    pub fn is_idle(&self) -> bool {
        self.publishes.is_empty() && self.outbox.is_empty() && self.requests.is_empty()
    }

    /// Positions for gauges: publishes, receipt batches and requests that wait.
    pub fn waiting(&self) -> (usize, usize, usize) {
        (self.publishes.len(), self.outbox.len(), self.requests.len())
    }

    // ------------------------------------------------------------ what the network and time did

    /// Time passed.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        match self.state {
            EdgeState::Searching if now_ms >= self.deadline_ms => self.dial(now_ms),
            EdgeState::Searching => {}
            EdgeState::Dialing | EdgeState::Greeting if now_ms >= self.deadline_ms => self.hang_up(now_ms),
            EdgeState::Dialing | EdgeState::Greeting => {}
            EdgeState::Resuming if now_ms >= self.deadline_ms => self.lose(now_ms, true),
            EdgeState::Resuming => self.heartbeat(now_ms),
            EdgeState::Live | EdgeState::Draining => self.check_leader(now_ms),
        }
    }

    /// The connection asked for is there, and its streams are open.
    pub fn handle_connected(&mut self, now_ms: u64) {
        if self.state != EdgeState::Dialing {
            return;
        }
        self.state = EdgeState::Greeting;
        self.deadline_ms = now_ms + GREETING_TIMEOUT_MS;
        self.greeted_ms = now_ms;
        self.outputs.push_back(EdgeOutput::Control(EdgeControl::Hello(Hello {
            edge: self.options.edge,
            incarnation: self.options.incarnation,
            addresses: self.options.addresses.clone(),
        })));
    }

    /// The connection ended or could not be made.
    pub fn handle_disconnected(&mut self, now_ms: u64) {
        match self.state {
            EdgeState::Searching => {}
            EdgeState::Dialing | EdgeState::Greeting => self.search(now_ms),
            EdgeState::Resuming | EdgeState::Live | EdgeState::Draining => self.lose(now_ms, false),
        }
    }

    /// A frame on the control stream.
    pub fn handle_control(&mut self, now_ms: u64, frame: LeaderControl) {
        self.last_contact_ms = now_ms;
        match (self.state, frame) {
            (EdgeState::Greeting, LeaderControl::Welcome(welcome)) => self.welcome(now_ms, welcome),
            (EdgeState::Greeting, LeaderControl::Redirect { leader }) => self.follow(now_ms, leader),
            (EdgeState::Resuming, LeaderControl::Resumed) => self.resumed(now_ms),
            (EdgeState::Resuming | EdgeState::Live, LeaderControl::Redirect { leader }) => {
                self.redirect = leader;
                self.lose(now_ms, true);
            }
            (EdgeState::Searching | EdgeState::Dialing, _) => {}
            (_, LeaderControl::Refused { reason, incarnation_over }) => {
                self.refused(now_ms, reason, incarnation_over)
            }
            (_, LeaderControl::HeartbeatAck { nonce, now_ms: leader_ms, cluster }) => {
                self.cluster_stats = cluster;
                self.heartbeat_answered(nonce, leader_ms);
            }
            (_, LeaderControl::Welcome(_) | LeaderControl::Resumed) => {}
            (_, frame) => self.outputs.push_back(EdgeOutput::Leader(frame)),
        }
    }

    /// A frame on the publish stream.
    pub fn handle_published(&mut self, published: Published) {
        if self.publishes.answer(published.seq).is_some() {
            self.outputs.push_back(EdgeOutput::PublishAnswered {
                seq: published.seq,
                result: Some(published.result),
            });
        }
    }

    /// A frame on the receipts stream.
    pub fn handle_committed(&mut self, committed: Committed) {
        self.recorded(committed.seq);
        self.send_receipts();
    }

    /// A frame on the session stream.
    pub fn handle_session_reply(&mut self, reply: SessionReply) {
        if self.requests.answer(reply.request) {
            let answer = SessionAnswer::Reply(reply.body);
            self.outputs.push_back(EdgeOutput::SessionAnswered { request: reply.request, answer });
        }
    }

    // ------------------------------------------------------------ what the shell asks

    /// The answer to [`EdgeOutput::Welcomed`]: everything the leader must know again. What waits in the outbox is
    /// added to `in_flight` here (there a number may be that of a shared subscription group).
    pub fn resume(
        &mut self,
        bindings: Vec<BindingReport>,
        filters: FilterDelta,
        in_flight: BTreeMap<PushId, TerminalSet>,
        shared: Vec<SharedInFlight>,
    ) {
        if self.state != EdgeState::Resuming {
            return;
        }
        for frame in chunks(bindings, FRAME_ITEMS_MAX) {
            self.control(EdgeControl::Bindings(frame));
        }
        self.tell_filters(filters);
        let mut all = in_flight;
        for (push, set) in self.outbox.uncommitted() {
            all.entry(push).or_default().0 |= &set.0;
        }
        for frame in chunks_of_sets(all) {
            self.control(EdgeControl::InFlight(frame));
        }
        for frame in chunks(shared, FRAME_ITEMS_MAX) {
            self.control(EdgeControl::SharedInFlight(frame));
        }
        self.control(EdgeControl::ResumeDone);
    }

    /// Filters gained or lost subscribers. Before Live they are part of Resume.
    pub fn filters_changed(&mut self, delta: FilterDelta) {
        if self.is_live() {
            self.tell_filters(delta);
        }
    }

    /// Answers [`LeaderControl::Unbind`]: the connection is closed and its receipts are in the outbox;
    /// `unacknowledged` is what the session goes on with.
    pub fn unbound(&mut self, epoch: Epoch, unacknowledged: Vec<Unacknowledged>) {
        if self.is_live() {
            let receipts_seq = self.outbox.covering_seq();
            self.send_receipts();
            self.control(EdgeControl::Unbound { epoch, receipts_seq, unacknowledged });
        }
    }

    /// A PUBLISH for the log, built with its sequence; `None` when the lane is full: stop reading from publishers.
    pub fn publish(&mut self, build: impl FnOnce(u64) -> Publish) -> Option<u64> {
        let seq = self.publishes.push(build)?;
        self.send_publishes();
        Some(seq)
    }

    /// The end of a QoS 2 exchange for the log. Never refused: whoever published has a bounded number of exchanges
    /// under way, and neither version of MQTT can refuse PUBREL.
    pub fn publish_anyway(&mut self, build: impl FnOnce(u64) -> Publish) -> u64 {
        let seq = self.publishes.push_anyway(build);
        self.send_publishes();
        seq
    }

    /// An outcome, of a terminal or of a shared subscription group. Call [`EdgeLink::flush_receipts`] after a batch of
    /// these.
    pub fn receipt(&mut self, push: PushId, outcome: Outcome, no: TerminalNo) {
        self.outbox.add(push, outcome, no);
    }

    /// A step of a QoS 2 exchange, behind the outcomes and steps before it. It is committed when
    /// [`EdgeOutput::Recorded`] has come to the sequence answered. Flush as after outcomes.
    pub fn step(&mut self, step: ExchangeStep) -> u64 {
        self.outbox.add_step(step)
    }

    /// Sends what receipts gathered, unless enough batches are under way.
    pub fn flush_receipts(&mut self) {
        self.send_receipts();
    }

    /// The sequence that covers every receipt so far: for `Bind::after_receipts`.
    pub fn receipts_seq(&self) -> u64 {
        self.outbox.covering_seq()
    }

    /// Asks about a session; the sequence of Subscribe and Unsubscribe is filled in here. `None`: too much waits, or there
    /// is no leader and it is nothing that waits for one (Pull, Retained).
    pub fn request(&mut self, body: SessionRequestBody) -> Option<u64> {
        if !is_kept(&body) && !self.is_live() {
            return None;
        }
        let request = self.requests.push(body)?;
        let number = request.request;
        if self.is_live() {
            self.requests.sent();
            self.outputs.push_back(EdgeOutput::Session(request));
        }
        Some(number)
    }

    /// The connection behind a Bind is gone, or will not wait any longer; says whether its answer may still come: on this
    /// link, and a binding has to be given back then. Without an answer the next link is told that the connection ended.
    pub fn give_up_bind(&mut self, request: u64) -> bool {
        self.requests.give_up_bind(request, self.state == EdgeState::Live)
    }

    /// The edge will leave: tells the leader now and after every Welcome.
    pub fn drain(&mut self) {
        self.draining = true;
        if self.is_live() {
            self.control(EdgeControl::Draining);
        }
    }

    /// The shell sees that deliveries were lost on the way to terminals (the lease ran out while they waited):
    /// begin again, so that the leader hands them out again.
    pub fn restart(&mut self, now_ms: u64) {
        if matches!(self.state, EdgeState::Resuming | EdgeState::Live) {
            self.lose(now_ms, true);
        }
    }

    /// The answer to [`EdgeOutput::StartNewLife`]: every terminal is closed. What the old life had not got
    /// answered is void: its terminals were told nothing.
    pub fn start_new_life(&mut self, now_ms: u64, incarnation: Incarnation) {
        self.options.incarnation = incarnation;
        self.publishes = Lane::new(self.options.publishes_max);
        self.outbox = Outbox::default();
        self.requests = Requests::new(self.options.requests_max);
        self.lease = Lease::default();
        self.state = EdgeState::Searching;
        self.deadline_ms = now_ms;
    }

    // ------------------------------------------------------------ finding the leader

    fn dial(&mut self, now_ms: u64) {
        self.state = EdgeState::Dialing;
        self.deadline_ms = now_ms + DIAL_TIMEOUT_MS;
        let address = self.redirect.take().unwrap_or_else(|| self.next_seed());
        self.outputs.push_back(EdgeOutput::Dial { address });
    }

    fn next_seed(&mut self) -> String {
        let address = self.options.seeds[self.next_seed % self.options.seeds.len()].clone();
        self.next_seed = (self.next_seed + 1) % self.options.seeds.len();
        address
    }

    fn search(&mut self, now_ms: u64) {
        self.state = EdgeState::Searching;
        self.deadline_ms = now_ms + self.backoff.next_ms();
    }

    fn hang_up(&mut self, now_ms: u64) {
        self.outputs.push_back(EdgeOutput::Hangup);
        self.search(now_ms);
    }

    fn follow(&mut self, now_ms: u64, leader: Option<String>) {
        self.redirects += 1;
        let at_once = leader.is_some() && self.redirects <= REDIRECTS_MAX;
        self.redirect = leader;
        self.hang_up(now_ms);
        if at_once {
            self.deadline_ms = now_ms;
        }
    }

    fn refused(&mut self, now_ms: u64, reason: String, incarnation_over: bool) {
        let was_resumed = matches!(self.state, EdgeState::Resuming | EdgeState::Live);
        self.outputs.push_back(EdgeOutput::Hangup);
        if was_resumed {
            self.outputs.push_back(EdgeOutput::Lost);
        }
        self.state = EdgeState::Searching;
        if incarnation_over {
            // Nothing is dialled before `start_new_life`: the old life must not be heard of again.
            self.deadline_ms = u64::MAX;
            self.outputs.push_back(EdgeOutput::StartNewLife { reason });
        } else {
            self.deadline_ms = now_ms + BACKOFF_MS.1;
            self.outputs.push_back(EdgeOutput::Refused { reason });
        }
    }

    // ------------------------------------------------------------ being linked

    fn welcome(&mut self, now_ms: u64, welcome: Welcome) {
        self.state = EdgeState::Resuming;
        self.deadline_ms = now_ms + RESUMING_TIMEOUT_MS;
        self.heartbeat_ms = welcome.heartbeat_ms.max(1);
        self.lease.begin(welcome.lease_ms);
        self.leader_clock.forget();
        self.leader_clock.answered(self.greeted_ms, welcome.now_ms);
        self.send_heartbeat(now_ms);
        for (lane, seq) in &welcome.applied {
            self.applied_before(*lane, *seq);
        }
        self.publishes.rewind();
        self.outbox.rewind();
        self.requests.rewind();
        self.outputs.push_back(EdgeOutput::Welcomed(welcome));
    }

    fn applied_before(&mut self, lane: LaneName, seq: u64) {
        match lane {
            LaneName::Receipts => self.recorded(seq),
            LaneName::Publish => {
                for (seq, _) in self.publishes.answer_upto(seq) {
                    self.outputs.push_back(EdgeOutput::PublishAnswered { seq, result: None });
                }
            }
            LaneName::Session => {
                for request in self.requests.answer_upto(seq) {
                    let answer = SessionAnswer::Covered;
                    self.outputs.push_back(EdgeOutput::SessionAnswered { request, answer });
                }
            }
        }
    }

    fn recorded(&mut self, seq: u64) {
        self.outbox.committed(seq);
        self.outputs.push_back(EdgeOutput::Recorded { seq });
    }

    fn resumed(&mut self, now_ms: u64) {
        self.state = EdgeState::Live;
        self.live_since_ms = now_ms;
        self.redirects = 0;
        self.backoff.reset();
        self.deadline_ms = u64::MAX;
        if self.draining {
            self.control(EdgeControl::Draining);
        }
        self.send_receipts();
        self.send_publishes();
        self.requests.sent();
        self.outputs.extend(self.requests.unanswered().map(EdgeOutput::Session));
        self.outputs.push_back(EdgeOutput::Live);
        self.heartbeat(now_ms);
    }

    fn check_leader(&mut self, now_ms: u64) {
        let silent = |since: u64| now_ms >= since + HEARTBEATS_MISSED_MAX * self.heartbeat_ms;
        // A lease that was never granted on this link is a matter of the first rule.
        let over = self.lease.until_ms() > self.live_since_ms && !self.lease.is_valid(now_ms);
        if over || self.lease.waiting_since_ms().is_some_and(silent) {
            return self.lose(now_ms, true);
        }
        self.heartbeat(now_ms);
    }

    fn heartbeat(&mut self, now_ms: u64) {
        if now_ms >= self.next_heartbeat_ms {
            self.send_heartbeat(now_ms);
        }
    }

    fn heartbeat_answered(&mut self, nonce: u64, leader_ms: u64) {
        if let Some(sent_ms) = self.lease.answered(nonce) {
            self.leader_clock.answered(sent_ms, leader_ms);
        }
    }

    fn send_heartbeat(&mut self, now_ms: u64) {
        let nonce = self.lease.sent(now_ms);
        self.next_heartbeat_ms = now_ms + self.heartbeat_ms;
        self.control(EdgeControl::Heartbeat { nonce, stats: self.stats });
    }

    fn lose(&mut self, now_ms: u64, hang_up: bool) {
        if hang_up {
            self.outputs.push_back(EdgeOutput::Hangup);
        }
        self.outputs.push_back(EdgeOutput::Lost);
        self.search(now_ms);
    }

    fn tell_filters(&mut self, FilterDelta { added, removed }: FilterDelta) {
        for removed in chunks(removed, FRAME_ITEMS_MAX) {
            self.control(EdgeControl::Filters(FilterDelta { added: Vec::new(), removed }));
        }
        for added in chunks(added, FRAME_ITEMS_MAX) {
            self.control(EdgeControl::Filters(FilterDelta { added, removed: Vec::new() }));
        }
    }

    fn control(&mut self, frame: EdgeControl) {
        self.outputs.push_back(EdgeOutput::Control(frame));
    }

    fn send_publishes(&mut self) {
        if !self.is_live() {
            return;
        }
        while let Some(publish) = self.publishes.next_unsent() {
            self.outputs.push_back(EdgeOutput::Publish(publish.clone()));
        }
    }

    fn send_receipts(&mut self) {
        if !self.is_live() {
            return;
        }
        while let Some(batch) = self.outbox.next_unsent() {
            self.outputs.push_back(EdgeOutput::Receipts(batch));
        }
    }
}

fn chunks<T>(items: Vec<T>, len: usize) -> Vec<Vec<T>> {
    let mut items = items.into_iter();
    std::iter::from_fn(|| {
        let chunk: Vec<T> = items.by_ref().take(len).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
    .collect()
}

fn chunks_of_sets(sets: BTreeMap<PushId, TerminalSet>) -> Vec<Vec<(PushId, TerminalSet)>> {
    let mut frames = vec![Vec::new()];
    let mut len = 0;
    for (push, set) in sets {
        if len >= RESUME_SETS_LEN_MAX {
            frames.push(Vec::new());
            len = 0;
        }
        len += 16 + set.0.serialized_size();
        frames.last_mut().expect("never empty").push((push, set));
    }
    frames.retain(|frame| !frame.is_empty());
    frames
}

#[cfg(test)]
#[path = "edge_tests.rs"]
mod tests;
