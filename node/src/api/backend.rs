//! What the API needs of the control group. `control` implements it over the real one, tests over tables in memory.

use std::{collections::BTreeMap, future::Future};

use cluster_proto::{
    AppId, AppReceipt, Audience, NodeId, PushId, State, TerminalId, TerminalNo, TerminalSet,
    link::NodeAddresses,
};
use raft_store::{
    Applied, CommandBody, Positions, Refusal,
    command::SigningKey,
    receipts::{PageLimits, ReceiptCursor, ReceiptPage},
    tables::{AppRecord, ReleaseRecord, WebhookRecord},
};
use tokio::sync::watch;

use crate::webhook::WebhookState;

/// Who leads, as this member knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Raft term.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// This member leads, and everything committed before is applied here.
    pub is_leader: bool,
}

/// A control member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Where it listens.
    pub addresses: NodeAddresses,
    /// It votes; otherwise it learns.
    pub voter: bool,
    /// Last log position known to be on it; the leader's view.
    pub matched: Option<u64>,
}

/// An edge linked to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Its node.
    pub node: NodeId,
    /// Terminals connected there.
    pub terminals: u64,
    /// Where it listens.
    pub addresses: NodeAddresses,
}

/// What the leader knows of a terminal and a push.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// The edge the terminal is connected to.
    pub edge: Option<NodeId>,
    /// That edge may hold the push, not answered.
    pub holds: bool,
    /// Every edge has told what it holds.
    pub known: bool,
}

/// How far the tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Log index applied.
    pub index: u64,
    /// Digest of the tables there.
    pub digest: u128,
}

/// A registered terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminalView {
    /// Its number.
    pub no: TerminalNo,
    /// Its id.
    pub id: TerminalId,
    /// Its tags, sorted.
    pub tags: Vec<(String, String)>,
    /// Its alias.
    pub alias: Option<String>,
    /// Milliseconds since the epoch.
    pub registered_at_ms: u64,
}

/// A push without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushView {
    /// Whose.
    pub app: AppId,
    /// Its topic.
    pub topic: String,
    /// Milliseconds since the epoch.
    pub accepted_at_ms: u64,
    /// Milliseconds since the epoch.
    pub expires_at_ms: u64,
    /// The newest push that replaced it for somebody.
    pub replaced_by: Option<PushId>,
    /// How far it is released, where it has a plan.
    pub release: Option<ReleaseRecord>,
}

/// How many of an audience are in which state; states with nobody may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub audience: u64,
    /// By state; they sum up to `audience`.
    pub by_state: Vec<(State, u64)>,
    /// How many applications reported what, in the order of [`AppReceipt::ALL`].
    pub reported: [u64; 2],
}

/// Why a command is not (known to be) in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// Certainly not done.
    NotLeader,
    /// May or may not be committed.
    Unknown,
    /// Too many proposals wait; not done.
    Full,
    /// So many bytes do not fit into one log entry; not done.
    TooLarge(usize),
    /// The disk is nearly full; not done.
    DiskFull,
    /// The node goes down; not done.
    Stopped,
}

/// Why a membership change did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipError {
    /// Certainly not done.
    NotLeader,
    /// May or may not be done.
    Unknown,
    /// Not possible now, or not at all; not done.
    Refused(String),
    /// No such node.
    NoSuchNode(NodeId),
}

/// No linearizable read is possible here now: no leader, or not this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadError;

/// The control group and, on the leader, its links to the edges.
pub trait Control: Clone + Send + Sync + 'static {
    /// This node and where it listens.
    fn own(&self) -> (NodeId, NodeAddresses);
    /// Who leads.
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// The members; none before the cluster is founded.
    fn members(&self) -> Vec<Member>;
    /// The disk is nearly full: new pushes are refused.
    fn is_disk_full(&self) -> bool;

    /// After it, reads see everything answered before it was called.
    fn linearize(&self) -> impl Future<Output = Result<(), ReadError>> + Send;
    /// Puts one command into the log.
    fn propose(&self, body: CommandBody) -> impl Future<Output = Result<Applied, ProposeError>> + Send;
    /// Recalls a push, asking the edges that have it in flight.
    fn cancel(&self, app: AppId, push: PushId) -> impl Future<Output = Result<Applied, ProposeError>> + Send;

    /// The edge a terminal is connected to.
    fn presence(&self, app: AppId, id: &TerminalId) -> impl Future<Output = Option<NodeId>> + Send;
    /// The numbered terminals that are connected, of all apps; `None` while the leader does not know all of them.
    fn online(&self) -> impl Future<Output = Option<TerminalSet>> + Send;
    /// The edge a terminal is connected to, and whether it may hold a push.
    fn holding(&self, app: AppId, id: &TerminalId, push: PushId) -> impl Future<Output = Holding> + Send;
    /// Charges a push to its app; else, for how many milliseconds it must wait.
    fn admit(&self, app: AppId) -> impl Future<Output = Result<(), u64>> + Send;
    /// How many terminals of an app are connected.
    fn connected(&self, app: AppId) -> impl Future<Output = u64> + Send;
    /// Ends its connection; says whether there was one.
    fn kick(&self, app: AppId, id: &TerminalId) -> impl Future<Output = Option<bool>> + Send;
    /// The edges linked now.
    fn edges(&self) -> impl Future<Output = Vec<Edge>> + Send;

    /// Founds a cluster of these nodes.
    fn initialize(
        &self,
        nodes: Vec<(NodeId, NodeAddresses)>,
    ) -> impl Future<Output = Result<(), MembershipError>> + Send;
    /// Adds a learner.
    fn add_learner(
        &self,
        id: NodeId,
        addresses: NodeAddresses,
    ) -> impl Future<Output = Result<(), MembershipError>> + Send;
    /// Makes a learner a voter.
    fn promote(&self, id: NodeId) -> impl Future<Output = Result<(), MembershipError>> + Send;
    /// Takes a member out.
    fn remove(&self, id: NodeId) -> impl Future<Output = Result<(), MembershipError>> + Send;
    /// Hands leadership over, to this one or to any.
    fn transfer_leader(&self, to: Option<NodeId>)
    -> impl Future<Output = Result<(), MembershipError>> + Send;

    /// How far the tables are.
    fn position(&self) -> Position;
    /// An app's number.
    fn app(&self, name: &str) -> Option<AppId>;
    /// All apps.
    fn apps(&self) -> Vec<(AppId, String)>;
    /// How much an app has, and how much it may have.
    fn app_record(&self, app: AppId) -> Option<AppRecord>;
    /// A registered terminal.
    fn terminal(&self, app: AppId, id: &TerminalId) -> Option<TerminalView>;
    /// Registered terminals in the order of their ids, after `after`.
    fn list_terminals(&self, app: AppId, after: Option<&TerminalId>, limit: usize) -> Vec<TerminalView>;
    /// A registered terminal, by its number.
    fn terminal_by_no(&self, no: TerminalNo) -> Option<TerminalView>;
    /// The last day each was connected or registered on, days since the epoch; those who were not for long are left out.
    fn last_seen(&self, terminals: &TerminalSet) -> BTreeMap<TerminalNo, u32>;
    /// The ids behind numbers in ascending order, registered or lent.
    fn terminal_ids(&self, nos: &[TerminalNo]) -> Vec<Option<TerminalId>>;
    /// Credentials of this terminal issued at or before this (seconds since the epoch) are void.
    fn revoked_until(&self, app: AppId, id: &TerminalId) -> u64;
    /// Whether it has a session that outlives its connection.
    fn has_session(&self, no: TerminalNo) -> bool;
    /// Its subscriptions: filter and granted QoS.
    fn subscriptions(&self, no: TerminalNo) -> Vec<(String, u8)>;
    /// How many pushes it must still get, counted up to `limit`.
    fn owed_len(&self, no: TerminalNo, limit: usize) -> usize;
    /// A push.
    fn push(&self, push: PushId) -> Option<PushView>;
    /// Its counts, all from one moment.
    fn counts(&self, push: PushId) -> Option<Counts>;
    /// Who of its audience is in this state.
    fn targets(&self, push: PushId, state: State) -> Option<TerminalSet>;
    /// Who reported this.
    fn reported(&self, push: PushId, what: AppReceipt) -> Option<TerminalSet>;
    /// What the application on a terminal reported.
    fn reported_by(&self, push: PushId, no: TerminalNo) -> Vec<AppReceipt>;
    /// Whom an audience means now; `online` is given where that depends on it. Takes time with the audience: not for the
    /// runtime's own threads.
    fn resolve(
        &self,
        audience: &Audience,
        app: AppId,
        topic: &str,
        online: Option<&TerminalSet>,
    ) -> Result<TerminalSet, Refusal>;
    /// The state of a terminal or group; absent: not in the audience.
    fn state_of(&self, push: PushId, no: TerminalNo) -> Option<State>;
    /// A shared subscription group the terminal is a member of and the push is for, and its filter.
    fn group_in_audience(&self, push: PushId, no: TerminalNo) -> Option<(TerminalNo, String)>;
    /// When the connection of its session ended, milliseconds since the epoch; absent: it has one, or no session.
    fn offline_since_ms(&self, no: TerminalNo) -> Option<u64>;
    /// The id under which a terminal of its audience is handed a push; absent: it is not released to it.
    fn dispatched_to(&self, push: PushId, no: TerminalNo) -> Option<PushId>;
    /// How many pushes before this one it must still get, counted up to `limit`.
    fn owed_before(&self, no: TerminalNo, push: PushId, limit: usize) -> usize;
    /// The key that signs tokens; none before the cluster is founded.
    fn signing_key(&self) -> Option<SigningKey>;

    /// Changes with every entry that is applied.
    fn positions(&self) -> watch::Receiver<Positions>;
    /// Where the receipt stream of an app begins now.
    fn receipts_begin(&self, app: AppId) -> ReceiptCursor;
    /// After all that has happened.
    fn receipts_end(&self, app: AppId) -> ReceiptCursor;
    /// A page of it. Takes time with its limits: not for the runtime's own threads.
    fn receipts(&self, from: ReceiptCursor, limits: PageLimits) -> ReceiptPage;
    /// The id that a number had at a time; `None` where it has none any more, or was lent to another since.
    fn named_at(&self, no: TerminalNo, at_ms: u64) -> Option<TerminalId>;
    /// An app's webhook.
    fn webhook(&self, app: AppId) -> Option<WebhookRecord>;
    /// How its delivery goes; known to the leader.
    fn webhook_state(&self, app: AppId) -> Option<WebhookState>;
}
