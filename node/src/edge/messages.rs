//! What the hub and the shards of an edge tell each other.

use std::{collections::BTreeMap, sync::Arc};

use cluster_proto::{
    AppId, Epoch, Message, Outcome, PushId, Qos, TerminalId, TerminalNo, TerminalSet, Will,
    link::{
        After, AppReceipts, Bound, ExchangeStep, FilterUse, Inbound, PublishOutcome, RefuseReason,
        RetainedAsk, SharedInFlight, Subscription, Unacknowledged, WillFate,
    },
};
use fabric_core::mqtt::{Changed, CloseCause, Kept, Queued, RequestNo};

use super::codec::Outgoing;

/// Names a connection for as long as the edge lives: its shard, its place there, and a number that is never given
/// twice. The leader knows it by another ([`BoundPart::holder`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConnId {
    pub(crate) shard: u16,
    pub(crate) slot: u32,
    pub(crate) connection: u64,
}

/// Counts links: what came over an earlier one is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct LinkNo(pub(crate) u64);

/// Hub to shard, in order.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// From the leader, in dispatch order.
    Deliver(LinkNo, ShardDelivery),
    /// A payload that deliveries wait for; `None`: it is gone.
    Payload(PushId, Option<Outgoing>),
    /// A QoS 0 message for whoever subscribes here, and when it expires: from another shard, or relayed by the
    /// leader.
    Transient(Outgoing, Option<u64>),
    /// The same for these terminals alone: each is the member its shared subscription groups' message goes to.
    TransientTo(Outgoing, Option<u64>, Vec<TerminalNo>),
    /// The answer to [`ToHub::Bind`].
    Bound(ConnId, Result<Box<BoundPart>, RefuseReason>),
    /// The answer to [`ToHub::Subscribe`] or [`ToHub::Unsubscribe`].
    Changed(ConnId, RequestNo, Result<Changed, RefuseReason>),
    /// The answer to [`ToHub::Publish`], [`ToHub::AppReceipts`] and [`ToHub::Release`].
    Published(ConnId, RequestNo, Result<PublishOutcome, RefuseReason>),
    /// The answer to [`ToHub::Step`]: it is committed.
    Recorded(ConnId, RequestNo),
    /// The answer to [`ToHub::Retained`].
    Retained(ConnId, RequestNo, Result<RetainedPage, RefuseReason>),
    /// Close this connection.
    Close(ConnId, CloseCause),
    /// Close every connection; a new life begins.
    CloseAll(CloseCause),
    /// Credentials are void: close whoever has one.
    Revoked(AppId, Option<TerminalId>, u64),
    /// Tell of all terminals, for Resume; answered with [`ToHub::Report`].
    Report(LinkNo),
    /// The link is live: whoever is catching up pulls.
    LinkLive(LinkNo),
    /// The lease is valid (again): what was queued without one may be handed out.
    Leased,
    /// The link is lost.
    LinkLost,
    /// Stop listening and close every connection.
    Drain,
    /// End the thread.
    Stop,
}

impl ToShard {
    /// A second one of a QoS 0 message, the only kind that goes to several shards.
    pub(crate) fn clone_transient(&self) -> Option<Self> {
        match self {
            Self::Transient(message, expires_at_ms) => Some(Self::Transient(message.clone(), *expires_at_ms)),
            _ => None,
        }
    }
}

/// A shard's part of a [`cluster_proto::link::Deliver`].
#[derive(Debug)]
pub(crate) enum ShardDelivery {
    /// A push for these terminals, all of this shard.
    Push(PushPart),
    /// A page for one terminal.
    Owed {
        /// Whose.
        no: TerminalNo,
        /// Its binding.
        epoch: Epoch,
        /// In dispatch order.
        pushes: Vec<OwedPart>,
        /// The last page.
        live: bool,
    },
    /// Take back what was not written.
    Withdraw(PushId, TerminalSet),
    /// A push for a shared subscription group, for one member.
    Shared(SharedPart),
    /// Take back what a member holds for its group.
    WithdrawShared(SharedInFlight),
}

/// A binding, and what the session goes on with.
#[derive(Debug)]
pub(crate) struct BoundPart {
    pub(crate) bound: Bound,
    /// `Bind::connection`.
    pub(crate) holder: u64,
    /// For each of `bound.outbound`; where a payload is needed and not here, [`ToShard::Payload`] follows.
    pub(crate) outbound: Vec<Queued<Outgoing>>,
}

/// Retained messages, by topic.
#[derive(Debug)]
pub(crate) struct RetainedPage {
    pub(crate) messages: Vec<Kept<Outgoing>>,
    /// There may be more after this topic.
    pub(crate) next: Option<String>,
}

/// See [`cluster_proto::link::SharedDelivery`].
#[derive(Debug)]
pub(crate) struct SharedPart {
    pub(crate) to: SharedInFlight,
    pub(crate) granted: Qos,
    pub(crate) expires_at_ms: u64,
    pub(crate) dup: bool,
    pub(crate) message: Option<Outgoing>,
    pub(crate) urgent: bool,
}

/// See [`cluster_proto::link::PushDelivery`].
#[derive(Debug)]
pub(crate) struct PushPart {
    pub(crate) push: PushId,
    pub(crate) targets: Targets,
    /// Of the whole push, shared by the shards.
    pub(crate) qos0: Arc<TerminalSet>,
    pub(crate) best_effort: bool,
    pub(crate) expires_at_ms: Option<u64>,
    /// `None`: [`ToShard::Payload`] follows.
    pub(crate) message: Option<Outgoing>,
    pub(crate) urgent: bool,
}

/// Terminals of one shard. Most pushes are for one terminal: no bitmap for those.
#[derive(Debug)]
pub(crate) enum Targets {
    None,
    One(TerminalNo),
    Many(TerminalSet),
}

/// See [`cluster_proto::link::OwedPush`].
#[derive(Debug)]
pub(crate) struct OwedPart {
    pub(crate) push: PushId,
    pub(crate) expires_at_ms: u64,
    pub(crate) qos0: bool,
    pub(crate) dup: bool,
    pub(crate) message: Option<Outgoing>,
    pub(crate) urgent: bool,
}

/// Shard to hub, in order.
#[derive(Debug)]
pub(crate) enum ToHub {
    /// CONNECT was authenticated.
    Bind(Box<BindAsk>),
    /// A connection is gone. If it was bound or waited to be, its binding ends.
    Closed(Box<ClosedPart>),
    /// AUTH brought a fresh credential, issued then (seconds since the epoch).
    Reauthenticated { conn: ConnId, app: AppId, terminal: TerminalId, issued_at: u64 },
    /// Replicate.
    Subscribe {
        conn: ConnId,
        request: RequestNo,
        app: AppId,
        terminal: TerminalId,
        subscriptions: Vec<Subscription>,
    },
    /// Remove.
    Unsubscribe { conn: ConnId, request: RequestNo, app: AppId, terminal: TerminalId, filters: Vec<String> },
    /// A PUBLISH for the log.
    Publish {
        conn: ConnId,
        request: RequestNo,
        terminal: TerminalId,
        message: Box<Message>,
        ttl_ms: Option<u64>,
        exchange: Option<Inbound>,
    },
    /// What the application on a terminal reports; answered if there is a request.
    AppReceipts { conn: ConnId, request: Option<RequestNo>, terminal: TerminalId, receipts: Box<AppReceipts> },
    /// PUBREL of an exchange that was named in a Publish.
    Release { conn: ConnId, request: RequestNo, terminal: TerminalId, exchange: Inbound },
    /// A QoS 0 PUBLISH, for other edges, and when it expires.
    Transient(Outgoing, Option<u64>),
    /// A retained QoS 0 PUBLISH, to be kept, and when it expires. Nobody waits for an answer.
    Retain { conn: ConnId, terminal: TerminalId, message: Outgoing, expires_at_ms: Option<u64> },
    /// Retained messages are asked for.
    Retained { conn: ConnId, request: RequestNo, terminal: TerminalId, ask: Box<RetainedAsk> },
    /// What became of a push, for a terminal or a shared subscription group.
    Receipt(PushId, Outcome, TerminalNo),
    /// A step of an outbound QoS 2 exchange, behind the receipts before it; answered if there is a request.
    Step { conn: ConnId, request: Option<RequestNo>, step: ExchangeStep },
    /// The terminal has room.
    Pull { no: TerminalNo, epoch: Epoch, after: After, max: u16 },
    /// First subscriber of this shard.
    FilterAdded(AppId, Box<str>, FilterUse),
    /// Last subscriber of this shard.
    FilterRemoved(AppId, Box<str>, FilterUse),
    /// The answer to [`ToShard::Report`].
    Report(LinkNo, Box<ShardReport>),
    /// Tracked deliveries were dropped because the lease had run out before the shard came to them.
    LeaseMissed(LinkNo),
    /// Every connection is closed: the answer to [`ToShard::Drain`] and [`ToShard::CloseAll`].
    AllClosed,
}

/// CONNECT, as the hub needs it.
#[derive(Debug)]
pub(crate) struct BindAsk {
    pub(crate) conn: ConnId,
    pub(crate) app: AppId,
    pub(crate) terminal: TerminalId,
    pub(crate) no: Option<TerminalNo>,
    pub(crate) credential_issued_at: u64,
    pub(crate) clean_start: bool,
    pub(crate) session_expiry_s: u32,
    pub(crate) will: Option<Box<Will>>,
}

/// The end of a connection, as the hub needs it.
#[derive(Debug)]
pub(crate) struct ClosedPart {
    pub(crate) conn: ConnId,
    pub(crate) app: AppId,
    pub(crate) terminal: TerminalId,
    /// The leader had it closed.
    pub(crate) ended_by_leader: bool,
    pub(crate) session_expiry_s: u32,
    pub(crate) will: WillFate,
    /// The session goes on with these packet ids.
    pub(crate) unacknowledged: Vec<Unacknowledged>,
}

/// What only a shard knows of its bound terminals.
#[derive(Debug, Default)]
pub(crate) struct ShardReport {
    /// What was queued last for each.
    pub(crate) terminals: Vec<(ConnId, PushId)>,
    /// Queued or written and not answered.
    pub(crate) in_flight: BTreeMap<PushId, TerminalSet>,
    /// The same, for shared subscription groups.
    pub(crate) shared: Vec<SharedInFlight>,
}
