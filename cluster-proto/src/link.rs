//! The conversation between a push edge and the leader, over one QUIC connection.
//!
//! ```text
//!  edge                                                        control node
//!   │── control:  Hello ─────────────────────────────────────────►│
//!   │◄──────────  Redirect (not the leader: try there)            │
//!   │◄──────────  Welcome (term, lease, keys) ────────────────────│
//!   │── control:  Bindings, Filters, InFlight …, ResumeDone ─────►│  presence is rebuilt from these
//!   │◄──────────  Resumed                                         │
//!   │── session:  Bind / Subscribe / Unsubscribe / Unbind / Pull ►│
//!   │◄──────────  replies, by request number                      │
//!   │◄─ deliver:  Push, Owed, Withdraw ───────────────────────────│  ordered: dispatch order per terminal
//!   │── receipts: Receipts{seq} ─────────────────────────────────►│
//!   │◄──────────  Committed{seq}: only now they leave the outbox  │  (I9)
//!   │── publish:  Publish{seq}: a push, a retained message, the end of a QoS 2 exchange ►│
//!   │◄──────────  Published{seq}: fsynced on a majority           │  (I1)
//!   │── payload:  Fetch{push} / ◄── Payload                       │
//!   │◄─ transient: QoS 0 messages, both ways ────────────────────►│
//! ```
//!
//! Every duty has a stream of its own, so that nothing blocks anything else. The edge opens all of them except
//! `deliver`, and writes a [`StreamHeader`] first (a QUIC stream is not seen by the peer before its first byte).
//! Order holds within a stream only; where one stream must wait for another, a frame carries a sequence to wait
//! for (`after_receipts`).
//!
//! *Lanes.* What the edge wants committed (`publish`, `receipts`, and session changes) is numbered per lane from 1
//! in every incarnation, without gaps, and kept until answered; after a new Welcome the edge sends all that is
//! unanswered again, in order. Apply keeps the last sequence of each (edge, lane), so a command proposed twice
//! around a leader change takes effect once (I13).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    AppId, AppReceipt, Epoch, Incarnation, Message, NodeId, Outcome, PushId, Qos, SessionId, TerminalId,
    TerminalNo, TerminalSet, Will, credential::PublicKey,
};

/// ALPN of the link; the number is its version.
pub const ALPN: &[u8] = b"carillon-link/2";

/// First frame on every stream: what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamHeader {
    /// Bidirectional: [`EdgeControl`] / [`LeaderControl`].
    Control,
    /// Bidirectional: [`SessionRequest`] / [`SessionReply`].
    Session,
    /// Bidirectional: [`Publish`] / [`Published`].
    Publish,
    /// Bidirectional: [`Receipts`] / [`Committed`].
    Receipts,
    /// Bidirectional: [`Fetch`] / [`Payload`].
    Payload,
    /// Bidirectional: [`Transient`] both ways.
    Transient,
    /// Unidirectional, opened by the leader: [`Deliver`].
    Deliver,
}

/// Where a node listens; kept in the Raft membership and answered with credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddresses {
    /// QUIC: link and Raft, `host:port`.
    pub link: String,
    /// gRPC, `host:port`.
    pub api: String,
    /// MQTT as terminals reach it, `host:port`; empty without the edge role.
    pub mqtt: String,
}

/// Which queue of numbered commands an edge means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// Session changes: subscribe and unsubscribe.
    Session,
    /// What terminals publish: QoS 1 and 2, retained messages, PUBREL.
    Publish,
    /// Receipts, and the steps of outbound QoS 2 exchanges.
    Receipts,
}

/// Where a command came from, so that it takes effect once (I13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The edge.
    pub edge: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// The lane.
    pub lane: Lane,
    /// Counts from 1 without gaps within (incarnation, lane).
    pub seq: u64,
}

// ---------------------------------------------------------------- control

/// Edge to leader, on the control stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EdgeControl {
    /// The first frame.
    Hello(Hello),
    /// Part of Resume: live bindings.
    Bindings(Vec<BindingReport>),
    /// Part of Resume, and later changes: which filters have subscribers here.
    Filters(FilterDelta),
    /// Part of Resume: handed to this edge, and the receipt not committed yet (queued, written, or already in the
    /// outbox). What is owed and not in here is delivered again.
    InFlight(Vec<(PushId, TerminalSet)>),
    /// Part of Resume: the same, of pushes that members hold for their shared subscription groups.
    SharedInFlight(Vec<SharedInFlight>),
    /// All of Resume was sent; the numbered lanes follow.
    ResumeDone,
    /// Every [`Welcome::heartbeat_ms`].
    Heartbeat {
        /// Comes back in the answer; the edge's lease runs from when it *sent* this.
        nonce: u64,
        /// Of this edge, since it started.
        stats: Stats,
    },
    /// The answer to [`LeaderControl::Unbind`]: the connection is closed.
    Unbound {
        /// Of the binding that ended.
        epoch: Epoch,
        /// All receipts of that connection are in lane [`Lane::Receipts`] up to here.
        receipts_seq: u64,
        /// What it had not acknowledged: the session goes on with the same packet ids.
        unacknowledged: Vec<Unacknowledged>,
    },
    /// The edge will go: no more binds to it, its terminals are leaving.
    Draining,
}

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The edge's node id; must be the one its certificate names.
    pub edge: NodeId,
    /// This life of the edge.
    pub incarnation: Incarnation,
    /// Where terminals and peers reach it.
    pub addresses: NodeAddresses,
}

/// One live binding, told again after a leader change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingReport {
    /// Its app.
    pub app: AppId,
    /// Its terminal id.
    pub terminal: TerminalId,
    /// Its number, if it has one.
    pub no: Option<TerminalNo>,
    /// Its epoch; the higher wins where two edges report the same terminal.
    pub epoch: Epoch,
    /// The last push queued for it here: catching up continues after it.
    pub after: PushId,
    /// Deliver::Push frames reach it; otherwise it is catching up and will pull.
    pub live: bool,
    /// Seconds since the epoch its credential was issued; 0 if anonymous. For revocation.
    pub credential_issued_at: u64,
}

/// Changes to the filters an edge has subscribers for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterDelta {
    /// Filters that now have a first subscriber here.
    pub added: Vec<(AppId, String, FilterUse)>,
    /// Filters that lost their last.
    pub removed: Vec<(AppId, String, FilterUse)>,
}

/// What a filter at an edge is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FilterUse {
    /// Any subscription: QoS 0 messages are relayed to it.
    Any,
    /// A QoS 0 subscription of a session without expiry: topic pushes are shown to it too, without status.
    BestEffort,
}

/// Leader to edge, on the control stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum LeaderControl {
    /// Accepted; Resume may begin.
    Welcome(Welcome),
    /// Not the leader: where it is, as far as known. The connection is closed after this.
    Redirect {
        /// The leader's link address.
        leader: Option<String>,
    },
    /// Never: a wrong certificate, version, or an incarnation that was declared ended.
    Refused {
        /// For the log.
        reason: String,
        /// The edge must begin a new life (close every terminal, take a new incarnation).
        incarnation_over: bool,
    },
    /// Presence is rebuilt; deliveries flow.
    Resumed,
    /// Answers [`EdgeControl::Heartbeat`] and renews the lease.
    HeartbeatAck {
        /// As sent.
        nonce: u64,
        /// Milliseconds since the epoch, by the leader's clock: what expiries are told in.
        now_ms: u64,
        /// Of all linked edges together, for `$SYS`.
        cluster: Stats,
    },
    /// All keys that verify credentials, replacing what the edge had.
    Keys(Vec<PublicKey>),
    /// Credentials of this terminal issued at or before the time are void: disconnect.
    Revoke {
        /// App of the terminal.
        app: AppId,
        /// The terminal; absent: every terminal of the app.
        terminal: Option<TerminalId>,
        /// Seconds since the epoch.
        issued_until: u64,
    },
    /// Close this binding's connection and answer Unbound.
    Unbind {
        /// Whose.
        terminal: TerminalId,
        /// Its app.
        app: AppId,
        /// Only if the binding still has this epoch.
        epoch: Epoch,
        /// Told to the terminal.
        reason: UnbindReason,
    },
    /// Whether QoS 0 messages must be forwarded at all: some other edge has a subscriber, or there is a shared
    /// subscription group.
    ForwardTransient(bool),
    /// Where else terminals may go: the MQTT addresses of the other linked edges that are not draining.
    Peers(Vec<String>),
}

/// Counters of an edge since it started, or of all linked edges together; what `$SYS` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Connections with CONNACK, now.
    pub connected: u64,
    /// Subscriptions of these, now.
    pub subscriptions: u64,
    /// MQTT packets read.
    pub packets_received: u64,
    /// MQTT packets written.
    pub packets_sent: u64,
    /// PUBLISH packets read.
    pub publishes_received: u64,
    /// PUBLISH packets written.
    pub publishes_sent: u64,
    /// QoS 0 messages dropped for a subscriber or for want of a leader.
    pub publishes_dropped: u64,
    /// Bytes read.
    pub bytes_received: u64,
    /// Bytes written.
    pub bytes_sent: u64,
    /// Sessions kept, with or without a connection; the leader fills it in for the cluster.
    pub sessions: u64,
    /// Retained messages kept; the leader fills it in for the cluster.
    pub retained: u64,
    /// Connections that got CONNACK.
    pub connects: u64,
}

impl std::ops::AddAssign for Stats {
    /// Sums what edges count; `sessions` and `retained` are the leader's.
    fn add_assign(&mut self, other: Self) {
        self.connected += other.connected;
        self.subscriptions += other.subscriptions;
        self.packets_received += other.packets_received;
        self.packets_sent += other.packets_sent;
        self.publishes_received += other.publishes_received;
        self.publishes_sent += other.publishes_sent;
        self.publishes_dropped += other.publishes_dropped;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.connects += other.connects;
    }
}

/// A push that a member of a shared subscription group holds and has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedInFlight {
    /// Which.
    pub push: PushId,
    /// The number of the group: what receipts name.
    pub group: TerminalNo,
    /// Who holds it.
    pub member: TerminalNo,
}

/// A PUBLISH with QoS 1 that was written and not acknowledged when its connection ended: it is sent again with its
/// packet id ([MQTT-4.4.0-1]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unacknowledged {
    /// As written.
    pub packet_id: u16,
    /// Of this push.
    pub push: PushId,
    /// Whom the receipt will name: the terminal, or the group it got it for.
    pub target: TerminalNo,
}

/// The answer to Hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The leader.
    pub leader: NodeId,
    /// Its Raft term.
    pub term: u64,
    /// The edge may act for this long after it sent the last answered heartbeat.
    pub lease_ms: u64,
    /// How often to send heartbeats.
    pub heartbeat_ms: u64,
    /// Of each lane: up to here everything was applied, and nothing refused as far as the leader remembers; it need not be
    /// sent again. What is after it is sent again if it is not answered.
    pub applied: Vec<(Lane, u64)>,
    /// The apps, by name: MQTT user names choose one.
    pub apps: Vec<(AppId, String)>,
    /// Milliseconds since the epoch, by the leader's clock.
    pub now_ms: u64,
}

/// Why the leader ends a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnbindReason {
    /// The terminal connected elsewhere (MQTT 5: 0x8E).
    TakenOver,
    /// An administrator (0x98).
    Kicked,
    /// Its credential is void (0x87).
    Revoked,
    /// The terminal was deleted (0x98).
    Deleted,
}

// ---------------------------------------------------------------- session

/// Edge to leader: about one terminal's session. `request` numbers are the edge's own, answered in any order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Comes back in the reply.
    pub request: u64,
    /// What is asked.
    pub body: SessionRequestBody,
}

/// What an edge asks about a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SessionRequestBody {
    /// A terminal sent CONNECT.
    Bind(Bind),
    /// The connection ended.
    Unbind(Unbind),
    /// Replicate subscriptions before SUBACK. Numbered in [`Lane::Session`].
    Subscribe(Subscribe),
    /// Remove replicated subscriptions before UNSUBACK. Numbered in [`Lane::Session`].
    Unsubscribe(Unsubscribe),
    /// Ask for what the terminal is owed after `after`; answered on the deliver stream by [`Deliver::Owed`].
    Pull {
        /// The terminal.
        no: TerminalNo,
        /// Its binding.
        epoch: Epoch,
        /// The last pushes the edge has queued for it.
        after: After,
        /// At most so many.
        max: u16,
    },
    /// Ask for the retained messages a new subscription gets.
    Retained(RetainedAsk),
}

/// How far the pushes of a terminal are queued: urgent ones overtake ordinary ones, so each priority has its own last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// The last ordinary push.
    pub ordinary: PushId,
    /// The last urgent one.
    pub urgent: PushId,
}

/// A page of retained messages is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedAsk {
    /// App.
    pub app: AppId,
    /// A valid plain filter.
    pub filter: String,
    /// Only messages kept at or before this log index: later ones came live. [`SessionReplyBody::Changed`] tells it;
    /// `u64::MAX` for a best-effort subscription.
    pub upto: u64,
    /// Topics after this one; `None`: from the first.
    pub after: Option<String>,
}

/// CONNECT, as the leader needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// App.
    pub app: AppId,
    /// Terminal id (the client id, or the one the edge assigned).
    pub terminal: TerminalId,
    /// From the credential; absent for anonymous clients.
    pub no: Option<TerminalNo>,
    /// Seconds since the epoch the credential was issued; 0 if anonymous.
    pub credential_issued_at: u64,
    /// Discard any session there is ([MQTT-3.1.2-4]).
    pub clean_start: bool,
    /// Seconds the session outlives its connection; 0: it ends with it.
    pub session_expiry_s: u32,
    /// Unique within the edge's incarnation, and larger for every later Bind: a repeated Bind does not see its own
    /// session as present, and an older one does not take it back.
    pub connection: u64,
    /// Wait until receipts up to here are applied, so that what this edge already has acknowledged is not owed.
    pub after_receipts: u64,
    /// Kept with the session until the connection ends well.
    pub will: Option<Will>,
}

/// What becomes of the will when a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WillFate {
    /// Published, after its delay ([MQTT-3.1.2-8]).
    Publish,
    /// DISCONNECT said good-bye: discarded ([MQTT-3.14.4-3]).
    Discard,
}

/// The end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unbind {
    /// App.
    pub app: AppId,
    /// Terminal id.
    pub terminal: TerminalId,
    /// Its binding; ignored if a newer one exists.
    pub epoch: Epoch,
    /// The connection, as in [`Bind::connection`]: its session is detached only while no newer one holds it.
    pub connection: u64,
    /// DISCONNECT may change it (MQTT 5); 0 ends the session now.
    pub session_expiry_s: u32,
    /// Of its will, if it has one.
    pub will: WillFate,
    /// What it had not acknowledged.
    pub unacknowledged: Vec<Unacknowledged>,
}

/// Subscriptions to add to a session. Replaces one with the same filter ([MQTT-3.8.4-3]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// Sequence in [`Lane::Session`].
    pub seq: u64,
    /// App.
    pub app: AppId,
    /// Terminal id: a client without a number gets one now.
    pub terminal: TerminalId,
    /// Its binding.
    pub epoch: Epoch,
    /// The connection, as in [`Bind::connection`].
    pub connection: u64,
    /// Valid filters, granted QoS inside.
    pub subscriptions: Vec<Subscription>,
}

/// Subscriptions to remove from a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsubscribe {
    /// Sequence in [`Lane::Session`].
    pub seq: u64,
    /// App.
    pub app: AppId,
    /// Terminal id.
    pub terminal: TerminalId,
    /// Its binding.
    pub epoch: Epoch,
    /// The connection, as in [`Bind::connection`].
    pub connection: u64,
    /// Exactly as subscribed.
    pub filters: Vec<String>,
}

/// One subscription of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// The filter; of a shared subscription with `$share/NAME/`.
    pub filter: String,
    /// Granted, at most what was asked.
    pub qos: Qos,
    /// MQTT 5 options and identifier; defaults for 3.1.1.
    pub options: SubscriptionOptions,
}

/// MQTT 5 subscription options (section 3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionOptions {
    /// Do not send what this terminal itself published.
    pub no_local: bool,
    /// Keep the RETAIN flag as published.
    pub retain_as_published: bool,
    /// 0: send retained at subscribe, 1: only if new, 2: never.
    pub retain_handling: u8,
    /// Sent with every matching message.
    pub identifier: Option<u32>,
}

/// Leader to edge, by request number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionReply {
    /// As asked.
    pub request: u64,
    /// The answer.
    pub body: SessionReplyBody,
}

/// Answers to [`SessionRequestBody`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SessionReplyBody {
    /// The terminal is bound to this edge.
    Bound(Bound),
    /// Refused.
    Refused(RefuseReason),
    /// Unbind is done.
    Unbound,
    /// Committed: fsynced on a majority. `no` and `session` as they are now.
    Changed {
        /// The terminal's number; a first subscription may have lent it one.
        no: TerminalNo,
        /// The session that holds the subscriptions.
        session: SessionId,
        /// The log index from which on matching pushes name it.
        index: u64,
    },
    /// Answers [`SessionRequestBody::Retained`], by topic.
    Retained {
        /// What is kept. At most [`crate::limits::RETAINED_PAGE_LEN_MAX`] bytes together, or one.
        messages: Vec<RetainedMessage>,
        /// There may be more: ask again after this topic.
        next: Option<String>,
    },
}

/// A binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The terminal's number, if it has one. With a number, the edge pulls once it has sent CONNACK.
    pub no: Option<TerminalNo>,
    /// Fences it.
    pub epoch: Epoch,
    /// For CONNACK ([MQTT-3.2.2-2]).
    pub session_present: bool,
    /// The replicated session, if there is one.
    pub session: Option<SessionId>,
    /// As granted, at most what was asked.
    pub session_expiry_s: u32,
    /// The session's subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// What the session goes on with, in the order it was first sent.
    pub outbound: Vec<Outbound>,
    /// Packet ids of QoS 2 PUBLISH packets taken and not released.
    pub inbound: Vec<u16>,
}

/// A delivery under way in a session that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbound {
    /// Given at its first PUBLISH.
    pub packet_id: u16,
    /// What is delivered: a push or a retained message.
    pub push: PushId,
    /// Whom receipts name: the terminal, or a shared subscription group.
    pub target: TerminalNo,
    /// How far it is.
    pub stage: OutboundStage,
    /// As in [`PushDelivery::expires_at_ms`]; `None`: never. What is `Begun` goes on all the same ([MQTT-4.3.3-7]).
    pub expires_at_ms: Option<u64>,
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutboundStage {
    /// QoS 1, PUBLISH written: it is sent again, with DUP.
    Sent,
    /// QoS 2, PUBLISH perhaps written: it is sent again, with DUP.
    Begun,
    /// QoS 2, PUBREC came: PUBREL is sent again.
    Received,
}

/// A retained message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetainedMessage {
    /// See [`PushId::retained`].
    pub id: PushId,
    /// As published.
    pub message: Message,
    /// As in [`PushDelivery::expires_at_ms`]; `None`: never.
    pub expires_at_ms: Option<u64>,
}

/// Why the leader refuses a session request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefuseReason {
    /// No such app or terminal, or its credential is revoked.
    NotAuthorized,
    /// A limit of the app, terminal or session.
    Quota,
    /// The binding is not the current one.
    Stale,
    /// Not now: no leader, disk nearly full, a takeover that did not finish.
    Unavailable,
}

// ---------------------------------------------------------------- deliver

/// Leader to edge: what to hand to terminals. The order on this stream is the dispatch order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Deliver {
    /// A push, to terminals of this edge that are live. A terminal that is not live here (any more) is skipped:
    /// it will find the push in what it is owed.
    Push(PushDelivery),
    /// The answer to [`SessionRequestBody::Pull`].
    Owed(Owed),
    /// Take back what was not written yet, and answer for each terminal: [`Outcome::NotWritten`], or what became
    /// of it ([`Outcome::Delivered`], or [`Outcome::Sent`] when no acknowledgement will come).
    Withdraw {
        /// The push.
        push: PushId,
        /// The terminals asked about.
        targets: TerminalSet,
    },
    /// A push for a shared subscription group, to the one member that is to get it. One that cannot take it (not here
    /// any more, not live, its queue full) is answered by [`Outcome::NotWritten`] for the group, and another is tried.
    Shared(SharedDelivery),
    /// As Withdraw, of what a member holds for its group.
    WithdrawShared(SharedInFlight),
}

/// A push for one member of a shared subscription group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharedDelivery {
    /// The push, the group that receipts name, and the member.
    pub to: SharedInFlight,
    /// Granted to the member by this subscription.
    pub granted: Qos,
    /// As in [`PushDelivery::expires_at_ms`].
    pub expires_at_ms: u64,
    /// Another member had it before.
    pub dup: bool,
    /// As in [`PushDelivery::message`].
    pub message: Option<Message>,
    /// It overtakes ordinary ones.
    pub urgent: bool,
}

/// A push and this edge's part of its audience.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PushDelivery {
    /// The push.
    pub push: PushId,
    /// Live terminals here that are in the audience.
    pub targets: TerminalSet,
    /// Those of them whose subscription granted QoS 0 only.
    pub targets_qos0: TerminalSet,
    /// Also show it, once and without status, to local best-effort subscriptions that match.
    pub best_effort: bool,
    /// Milliseconds since the epoch, by the leader's clock: from then on it is not handed out any more. A time, and not
    /// the rest of one: a frame may wait in a socket for as long as a process is stopped.
    pub expires_at_ms: u64,
    /// The message, unless this edge was sent it before or it is large: then the edge fetches what it lacks.
    pub message: Option<Message>,
    /// It overtakes ordinary ones.
    pub urgent: bool,
}

/// A page of what a terminal is owed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Owed {
    /// The terminal.
    pub no: TerminalNo,
    /// Its binding; a page for an older one is ignored.
    pub epoch: Epoch,
    /// In dispatch order.
    pub pushes: Vec<OwedPush>,
    /// From this point in the stream on the terminal is live: nothing lies between this page and the next Push.
    /// Otherwise the edge pulls again when it has room.
    pub live: bool,
}

/// One push owed to a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedPush {
    /// The push.
    pub push: PushId,
    /// As in [`PushDelivery::expires_at_ms`].
    pub expires_at_ms: u64,
    /// Its subscription granted QoS 0 only.
    pub qos0: bool,
    /// It may have been sent before: DUP is set.
    pub dup: bool,
    /// It overtakes ordinary ones.
    pub urgent: bool,
}

// ---------------------------------------------------------------- receipts, publishes, payloads, transient

/// Edge to leader: what became of deliveries. Kept by the edge until [`Committed`] (I9).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipts {
    /// Sequence in [`Lane::Receipts`].
    pub seq: u64,
    /// Sets of terminals per push and outcome.
    pub items: Vec<Receipt>,
    /// Steps of QoS 2 exchanges with sessions that outlive their connection, in order.
    pub steps: Vec<ExchangeStep>,
}

/// A step of delivering with QoS 2: on disk on a majority before the packet that follows from it is written, so that
/// the exchange goes on wherever the session is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeStep {
    /// The terminal.
    pub no: TerminalNo,
    /// Its connection, as in [`Bind::connection`]; a step of one that does not hold the session any more is void.
    pub connection: u64,
    /// Of the exchange.
    pub packet_id: u16,
    /// What happens.
    pub step: Step,
}

/// See [`ExchangeStep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// The packet id is given to this push; then PUBLISH is written.
    Begin {
        /// Which; 0, which no push has, for a retained message: of it the packet id alone is kept.
        push: PushId,
        /// Whom receipts name.
        target: TerminalNo,
    },
    /// PUBREC came; then PUBREL is written. The receipt says Delivered.
    Receive,
    /// PUBCOMP came, or a PUBREC with an error: the packet id is free.
    Complete,
}

/// The terminals of one push that met the same outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The push.
    pub push: PushId,
    /// What became of it.
    pub outcome: Outcome,
    /// For these.
    pub terminals: TerminalSet,
}

/// Leader to edge: applied up to here, fsynced on a majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Everything of the lane at or below this.
    pub seq: u64,
}

/// Edge to leader: something a terminal published that must be committed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Publish {
    /// Sequence in [`Lane::Publish`].
    pub seq: u64,
    /// The publishing terminal, for logs and No Local of clients without a number.
    pub terminal: TerminalId,
    /// What is to be committed.
    pub body: PublishBody,
}

/// See [`Publish`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PublishBody {
    /// A PUBLISH with QoS 1 or 2: a topic push. A retained one is kept too.
    Push {
        /// What it published; `kind` is Topic.
        message: Message,
        /// Milliseconds to live, from Message Expiry Interval; absent: the app's default.
        ttl_ms: Option<u64>,
        /// QoS 2 in a session that outlives its connection: taken once, whatever is sent again.
        exchange: Option<Inbound>,
    },
    /// A retained PUBLISH with QoS 0: kept; its subscribers are shown it without the log.
    Retain {
        /// What it published.
        message: Message,
        /// Milliseconds to live; absent: for ever.
        ttl_ms: Option<u64>,
    },
    /// PUBREL of an exchange that was named in a Push; PUBCOMP follows.
    Release(Inbound),
    /// What the application on a terminal reports of pushes it got.
    AppReceipts(AppReceipts),
}

/// What the application on a terminal reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppReceipts {
    /// The terminal's app, which the pushes must belong to.
    pub app: AppId,
    /// The terminal.
    pub no: TerminalNo,
    /// What happened.
    pub what: AppReceipt,
    /// To these pushes; at most [`crate::limits::APP_RECEIPTS_PER_PUBLISH_MAX`].
    pub pushes: Vec<PushName>,
}

impl AppReceipts {
    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        let key_len = |name: &PushName| match name {
            PushName::Id(_) => 0,
            PushName::Key(key) => key.len(),
        };
        32 + self.pushes.iter().map(|name| 16 + key_len(name)).sum::<usize>()
    }
}

/// How an application names a push it got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PushName {
    /// By its id.
    Id(PushId),
    /// By the idempotency key that its back-end chose, and put into the payload.
    Key(String),
}

/// A QoS 2 PUBLISH of a terminal whose session outlives its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// The terminal.
    pub no: TerminalNo,
    /// Its connection, as in [`Bind::connection`].
    pub connection: u64,
    /// The terminal's packet id.
    pub packet_id: u16,
}

/// Leader to edge: the answer to [`Publish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// As sent.
    pub seq: u64,
    /// The result.
    pub result: Result<PublishOutcome, RefuseReason>,
}

/// What became of a PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublishOutcome {
    /// Committed, with an audience.
    Accepted,
    /// Committed, and nobody subscribes (MQTT 5: 0x10).
    NoSubscribers,
}

/// Edge to leader: a payload it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Of this push.
    pub push: PushId,
}

/// Leader to edge: the answer to [`Fetch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    /// The push.
    pub push: PushId,
    /// `None`: it is gone (settled and purged, expired).
    pub message: Option<Message>,
}

/// A QoS 0 message between edges, through the leader, which does not decode `body`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transient {
    /// The edge it came from: never sent back there.
    pub origin: NodeId,
    /// App.
    pub app: AppId,
    /// Topic: what the leader routes by.
    pub topic: String,
    /// Milliseconds it stays deliverable, from Message Expiry Interval.
    pub ttl_ms: Option<u64>,
    /// Leader to edge: not for every subscriber there, but for these members of shared subscription groups.
    pub members: Option<Vec<TerminalNo>>,
    /// An encoded [`Message`].
    pub body: Bytes,
}
