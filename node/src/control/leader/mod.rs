//! The decisions of the leader, without I/O: events in, actions out, time as an argument.
//!
//! ```text
//!  Event ──► Leader ──► Action
//!              │ reads
//!              ▼
//!            Tables (this replica's, applied up to at least what this leader was told)
//! ```
//! One leader exists per term on the node that leads; it is dropped with the leadership. It keeps only what can be
//! rebuilt: presence (from Resume), what is in flight (from Resume), and continuations of proposals (whose edges ask
//! again).
//!
//! Order: pushes are dispatched in push-id order by this one machine; [`Leader::dispatched`] is the last. A terminal
//! is made live at a point where everything up to `dispatched` was either handed to it or is not owed to it, so
//! nothing falls between catching up and live.

mod apps;
mod bind;
mod cluster;
mod collapse;
mod dispatch;
mod edges;
mod lanes;
mod pull;
mod resume;
mod seen;
mod settle;
mod shared;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cluster_proto::{
    AppId, Incarnation, NodeId, PushId, TerminalId, TerminalNo, TerminalSet,
    link::{
        Committed, Deliver, EdgeControl, LeaderControl, NodeAddresses, Publish, Published, Receipts,
        RefuseReason, SessionReply, SessionRequest, Stats, Transient, UnbindReason,
    },
};
use fabric_core::link::{EdgeFilters, Handed, Presence, SharedGroups, Who};
use raft_store::{Applied, Command, ProposeError, Tables, effect::AcceptedPush};
use tokio::sync::oneshot;

use apps::AppLimits;
use bind::BindQueue;
use lanes::Change;
use resume::Resume;
use seen::Seen;
use shared::Leaving;

use crate::api::backend::Holding;

/// One QUIC connection of an edge, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(pub(crate) u64);

/// Connects an applied command with what waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token(u64);

/// The time, twice: one that never jumps for waits, one that all nodes share for expiry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Milliseconds since some start, monotonic.
    pub(crate) mono_ms: u64,
    /// Milliseconds since the epoch.
    pub(crate) wall_ms: u64,
}

/// What the leader is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A frame on an edge's control stream.
    Control(LinkId, EdgeControl),
    /// A frame on its session stream.
    Session(LinkId, SessionRequest),
    /// A frame on its publish stream.
    Publish(LinkId, Publish),
    /// A frame on its receipts stream.
    Receipts(LinkId, Receipts),
    /// A frame on its transient stream.
    Transient(LinkId, Transient),
    /// The connection is gone.
    LinkClosed(LinkId),
    /// A push was applied.
    Accepted(Arc<AcceptedPush>),
    /// Hints of apply may have been lost: look at the tables.
    Rescan,
    /// A push was cancelled.
    Cancelled(PushId),
    /// Credentials are void.
    Revoked {
        /// The app.
        app: AppId,
        /// The terminal; absent: all.
        terminal: Option<TerminalId>,
        /// Seconds since the epoch.
        issued_until: u64,
    },
    /// Signing keys changed.
    KeysChanged,
    /// Apps or their quotas changed.
    AppsChanged,
    /// Terminals of an app were deleted.
    Deleted(AppId, Vec<(TerminalNo, TerminalId)>),
    /// Hints of credentials or keys were lost: edges learn of them when they resume.
    CredentialsUnknown,
    /// The answer to a proposal.
    Applied(Token, Result<Applied, ProposeError>),
    /// This node was certainly leader at this (monotonic) time.
    Confirmed(u64),
    /// A question of the API.
    Ask(Question),
    /// Every [`TICK_MS`].
    Tick,
}

/// What the API asks.
#[derive(Debug)]
pub(crate) enum Question {
    /// Where is this terminal?
    Presence(AppId, TerminalId, oneshot::Sender<Option<NodeId>>),
    /// Which numbered terminals are bound to any edge? `None` while some edge has not told.
    Online(oneshot::Sender<Option<TerminalSet>>),
    /// End its connection; was it online?
    Kick(AppId, TerminalId, UnbindReason, oneshot::Sender<bool>),
    /// Recall this push.
    Cancel(AppId, PushId, oneshot::Sender<Result<Applied, ProposeError>>),
    /// Where is this terminal, and may it hold this push?
    Holding(AppId, TerminalId, PushId, oneshot::Sender<Holding>),
    /// Charge a push to an app; else, for how many milliseconds it must wait.
    Admit(AppId, oneshot::Sender<Result<(), u64>>),
    /// How many terminals of an app are connected?
    Connected(AppId, oneshot::Sender<u64>),
    /// All linked edges.
    Edges(oneshot::Sender<Vec<super::EdgeInfo>>),
}

/// What the leader wants done.
#[derive(Debug)]
pub(crate) enum Action {
    /// Send on a control stream.
    Control(LinkId, LeaderControl),
    /// Send on a session stream.
    Session(LinkId, SessionReply),
    /// Send on a publish stream.
    Published(LinkId, Published),
    /// Send on a receipts stream.
    Committed(LinkId, Committed),
    /// Send on a deliver stream.
    Deliver(LinkId, Deliver),
    /// Send on a transient stream; dropped when that is full (QoS 0).
    Transient(LinkId, Transient),
    /// Propose, in the order of these actions; the answer comes back as [`Event::Applied`].
    Propose(Token, Box<Command>),
    /// Close the connection: the edge will resume.
    Close(LinkId),
}

/// How often [`Event::Tick`] comes.
pub(crate) const TICK_MS: u64 = 200;
/// An edge may act for this long after it sent the last heartbeat that was answered.
pub(crate) const LEASE_MS: u64 = 5_000;
/// How often edges send heartbeats.
pub(crate) const HEARTBEAT_MS: u64 = 500;
/// Heartbeats are answered only if leadership was confirmed this recently: an isolated leader renews no lease.
const CONFIRMED_WITHIN_MS: u64 = 1_500;
/// A link on which nothing was heard for this long is closed. Its edge, which is without answers, has given it up before.
const EDGE_SILENT_MS: u64 = 4 * HEARTBEAT_MS;
/// An edge without a link is declared ended this long after it was last heard: after its lease and a margin.
const EDGE_LOST_MS: u64 = LEASE_MS + 1_000;
/// A tick this late says that this process stood still: meanwhile it could not hear anybody.
const STOOD_STILL_MS: u64 = 1_000;
/// A new leader waits this long for edges it knows from the tables to link again.
const RESUME_GRACE_MS: u64 = LEASE_MS + 5_000;

/// An edge that is not declared ended.
#[derive(Debug)]
struct Edge {
    incarnation: Incarnation,
    addresses: NodeAddresses,
    link: Option<LinkId>,
    phase: Phase,
    /// When its last control frame came, in monotonic time.
    heard_ms: u64,
    /// Numbered terminals that live Delivers reach.
    live: TerminalSet,
    /// Numbered terminals bound there.
    bound: TerminalSet,
    /// Receipts applied up to here.
    receipts_applied: u64,
    /// Without a link: declared ended at this monotonic time.
    lost_at_ms: u64,
    draining: bool,
    /// It has told this leader whom it holds, or began anew since.
    told: bool,
    forward_transient: bool,
    /// Its last heartbeat's.
    stats: Stats,
    /// Where it was told that its terminals may go.
    peers: Vec<String>,
}

#[derive(Debug, PartialEq)]
enum Phase {
    /// Known from the tables; not linked since this leader began, or link lost.
    Unlinked,
    /// EdgeStarted is being committed.
    Starting,
    /// It is being received.
    Resuming(Resume),
    /// Deliveries flow.
    Live,
}

/// What waits for a proposal.
#[derive(Debug)]
enum Waiting {
    EdgeStarted(LinkId),
    EdgeEnded(NodeId, Incarnation),
    Bind(AppId, TerminalId),
    Detached(LinkId, u64),
    Changed(Change),
    Published {
        link: LinkId,
        seq: u64,
        /// Refused by the leader: only its number is used up.
        refused: Option<RefuseReason>,
        /// Some edge shows it to subscribers that are in no audience.
        shown: bool,
    },
    Receipts {
        link: LinkId,
        receipts: Receipts,
    },
    Withdrawn(Vec<PushId>),
    /// A QoS 0 push is settled for those who are not online.
    Offline(PushId),
    Cancelled(PushId, oneshot::Sender<Result<Applied, ProposeError>>),
    /// A part of what this push replaces.
    Collapsed(PushId),
    /// A roll-out that went badly is recalled.
    Halted(PushId),
    /// Who was seen on this day.
    Seen(u32, TerminalSet),
    /// Housekeeping of one kind: no second while one is under way.
    Chore(Chore),
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Chore {
    ExpirePushes,
    ExpireSessions,
    ReleasePushes,
    RecallHalted,
    PurgePushes,
    SettleLost,
    PublishWills,
    ExpireRetained,
    ForgetHanded,
    SettleOffline,
    CountTotals,
    Collapse,
    PurgeReceipts,
    RecordSeen,
    RemoveApps,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Leader {
    me: NodeId,
    term: u64,
    tables: Tables,
    settings: Settings,
    confirmed_ms: u64,
    ticked_ms: u64,
    binding_counter: u64,
    token_counter: u64,
    links: BTreeMap<LinkId, NodeId>,
    edges: BTreeMap<NodeId, Edge>,
    presence: Presence,
    handed: Handed,
    filters: EdgeFilters,
    shared: SharedGroups,
    /// Members of shared subscription groups whose connection ended, and who hold something.
    leaving: BTreeMap<TerminalNo, Leaving>,
    limits: AppLimits,
    seen: Seen,
    /// Of the whole cluster, as of the last tick.
    stats: Stats,
    dispatched: PushId,
    /// Where the next look of [`Chore::SettleLost`] begins.
    lost_from: PushId,
    /// Where the next look of [`Chore::ForgetHanded`] begins.
    handed_from: PushId,
    /// QoS 0 pushes after this one, up to the next, may not have been settled for those who are not online.
    offline_from: PushId,
    offline_upto: PushId,
    /// Being recalled: not handed to anybody from the moment it is decided who has it.
    withdrawing: BTreeSet<PushId>,
    /// What replaces which pushes for whom, in proposals under way: not handed to those any more.
    collapsing: BTreeMap<PushId, Vec<(PushId, TerminalSet)>>,
    /// Where the next look for replaced pushes in flight begins.
    replaced_from: PushId,
    /// The last push of the tables at the last rescan: by the next one it must have been dispatched.
    rescan_mark: PushId,
    binds: BTreeMap<(AppId, TerminalId), BindQueue>,
    waiting: BTreeMap<Token, Waiting>,
    /// Terminals with subscription changes on their way into the log.
    changing: BTreeMap<(AppId, TerminalId), u32>,
    /// Chores under way, or not due before the time given.
    chores: BTreeMap<Chore, u64>,
    actions: Vec<Action>,
    /// New pushes are refused before the log blocks.
    disk_full: bool,
}

/// What the config says of the leader's work.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Milliseconds a PUBLISH without Message Expiry Interval stays deliverable.
    pub(crate) ttl_default_ms: u64,
    /// The longest.
    pub(crate) ttl_max_ms: u64,
    /// Milliseconds settled pushes are kept.
    pub(crate) retention_ms: u64,
    /// Milliseconds deltas of receipt streams are kept.
    pub(crate) receipts_retention_ms: u64,
    /// Bytes of them that an app may keep.
    pub(crate) receipts_bytes_max: u64,
}

impl Leader {
    /// A leader of `term` on node `me`, whose tables hold everything committed before.
    pub(crate) fn new(me: NodeId, term: u64, tables: Tables, settings: Settings, now: Now) -> Self {
        let dispatched = tables.applied().last_push;
        let mut leader = Self {
            me,
            term,
            settings,
            confirmed_ms: now.mono_ms,
            ticked_ms: now.mono_ms,
            binding_counter: 0,
            token_counter: 0,
            links: BTreeMap::new(),
            edges: BTreeMap::new(),
            presence: Presence::default(),
            handed: Handed::default(),
            filters: EdgeFilters::default(),
            shared: SharedGroups::default(),
            leaving: BTreeMap::new(),
            limits: AppLimits::new(tables.quotas()),
            seen: Seen::new(now),
            stats: Stats::default(),
            dispatched,
            lost_from: PushId(0),
            handed_from: PushId(0),
            offline_from: PushId(0),
            offline_upto: dispatched,
            withdrawing: BTreeSet::new(),
            collapsing: BTreeMap::new(),
            replaced_from: PushId(0),
            rescan_mark: dispatched,
            binds: BTreeMap::new(),
            waiting: BTreeMap::new(),
            changing: BTreeMap::new(),
            // Edges tell whom they hold first.
            chores: BTreeMap::from([(Chore::RecordSeen, now.mono_ms + seen::RECORD_EVERY_MS)]),
            actions: Vec::new(),
            disk_full: false,
            tables,
        };
        leader.expect_known_edges(now);
        leader
    }

    /// Takes in one event; what to do about it is then in [`Leader::take_actions`].
    pub(crate) fn handle(&mut self, now: Now, event: Event) {
        match event {
            Event::Control(link, frame) => self.handle_control(now, link, frame),
            Event::Session(link, request) => self.handle_session(now, link, request),
            Event::Publish(link, publish) => self.handle_publish(now, link, publish),
            Event::Receipts(link, receipts) => self.handle_receipts(link, receipts),
            Event::Transient(link, transient) => self.relay_transient(link, transient),
            Event::LinkClosed(link) => self.handle_link_closed(now, link),
            Event::Accepted(push) => self.handle_accepted(&push),
            Event::Rescan => self.rescan(),
            Event::Cancelled(push) => self.withdraw(push),
            Event::Revoked { app, terminal, issued_until } => {
                self.tell_all_edges(&LeaderControl::Revoke { app, terminal, issued_until });
            }
            Event::KeysChanged => self.tell_all_edges(&LeaderControl::Keys(self.tables.public_keys())),
            Event::AppsChanged => self.follow_quotas(),
            Event::Deleted(app, terminals) => self.terminals_deleted(now, app, terminals),
            Event::CredentialsUnknown => {
                self.actions.extend(self.links.keys().map(|link| Action::Close(*link)));
            }
            Event::Applied(token, result) => self.handle_applied(now, token, result),
            Event::Confirmed(at_ms) => self.confirmed_ms = self.confirmed_ms.max(at_ms),
            Event::Ask(question) => self.answer(now, question),
            Event::Tick => self.tick(now),
        }
        self.serve_groups(now);
    }

    /// The disk is nearly full, or no longer: asked for with every tick.
    pub(crate) fn set_disk_full(&mut self, full: bool) {
        self.disk_full = full;
    }

    /// What is to be done, in order. Call after every event.
    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    fn tick(&mut self, now: Now) {
        self.close_silent_links(now);
        self.end_lost_edges(now);
        self.expire_bind_waits(now);
        self.tick_groups(now);
        self.tell_who_forwards();
        self.follow_day(now);
        self.do_chores(now);
        self.sum_stats();
    }

    fn propose(&mut self, command: Command, waiting: Waiting) {
        self.token_counter += 1;
        let token = Token(self.token_counter);
        self.waiting.insert(token, waiting);
        self.actions.push(Action::Propose(token, Box::new(command)));
    }

    fn handle_applied(&mut self, now: Now, token: Token, result: Result<Applied, ProposeError>) {
        let Some(waiting) = self.waiting.remove(&token) else { return };
        match waiting {
            Waiting::EdgeStarted(link) => self.edge_started(now, link, result),
            Waiting::EdgeEnded(edge, incarnation) => self.edge_ended(edge, incarnation, &result),
            Waiting::Bind(app, terminal) => self.bind_committed(now, (app, terminal), result),
            Waiting::Detached(link, request) => self.detached(link, request, &result),
            Waiting::Changed(change) => self.subscriptions_changed(&change, result),
            Waiting::Published { link, seq, refused, shown } => {
                self.published(link, seq, (refused, shown), result);
            }
            Waiting::Receipts { link, receipts } => self.receipts_committed(now, link, &receipts, result),
            Waiting::Withdrawn(pushes) => {
                self.chores.insert(Chore::ExpirePushes, 0);
                if result.is_ok() {
                    pushes.into_iter().for_each(|push| self.withdraw(push));
                }
            }
            Waiting::Cancelled(push, reply) => self.cancelled(push, reply, result),
            Waiting::Collapsed(by) => self.collapsed(by, &result),
            Waiting::Halted(push) => {
                self.chores.insert(Chore::RecallHalted, 0);
                self.recalled(push, &result);
            }
            Waiting::Offline(push) => {
                if result.is_err() {
                    self.settle_offline_again(push);
                }
            }
            Waiting::Seen(day, terminals) => self.seen_recorded(now, day, terminals, &result),
            Waiting::Chore(chore) => {
                self.chores.insert(chore, 0);
            }
            Waiting::Nothing => {}
        }
    }

    fn answer(&mut self, now: Now, question: Question) {
        // A caller that went away does not want its answer.
        match question {
            Question::Presence(app, terminal, reply) => {
                let _ = reply.send(self.bound_as(app, &terminal).map(|(_, binding)| binding.edge));
            }
            Question::Online(reply) => {
                let _ = reply.send(self.online());
            }
            Question::Kick(app, terminal, reason, reply) => {
                // Left without an answer while edges have not told whom they hold.
                if self.presence_is_whole() {
                    let _ = reply.send(self.kick(app, &terminal, reason));
                }
            }
            Question::Cancel(app, push, reply) => self.cancel(app, push, reply),
            Question::Holding(app, terminal, push, reply) => {
                let _ = reply.send(self.holding(app, &terminal, push));
            }
            Question::Admit(app, reply) => {
                let _ = reply.send(self.admit(now, app));
            }
            Question::Connected(app, reply) => {
                let _ = reply.send(self.presence.connected(app));
            }
            Question::Edges(reply) => {
                let _ = reply.send(self.edge_infos());
            }
        }
    }

    fn holding(&self, app: AppId, terminal: &TerminalId, push: PushId) -> Holding {
        let bound = self.bound_as(app, terminal);
        let holds = match &bound {
            Some((Who::Numbered(no), _)) => self.handed.holds(push, *no),
            _ => false,
        };
        Holding { edge: bound.map(|(_, binding)| binding.edge), holds, known: self.presence_is_whole() }
    }

    fn who(&self, app: AppId, terminal: &TerminalId) -> Who {
        match self.tables.terminal_no(app, terminal) {
            Some(no) => Who::Numbered(no),
            None => Who::Named(app, terminal.clone()),
        }
    }

    fn edge_of(&self, link: LinkId) -> Option<(NodeId, &Edge)> {
        let node = *self.links.get(&link)?;
        self.edges.get(&node).filter(|edge| edge.link == Some(link)).map(|edge| (node, edge))
    }

    /// Numbered terminals that are bound to some edge.
    fn is_bound(&self, no: TerminalNo) -> bool {
        self.presence.numbered(no).is_some()
    }
}
