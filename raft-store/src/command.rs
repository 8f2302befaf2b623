//! What may enter the log.
//!
//! One Raft entry is a [`CommandBatch`]. Commands carry everything apply needs, their time included: apply never
//! reads a clock, a random number or the iteration order of a hash map, so every replica computes the same tables.
//!
//! Stored as a version byte and postcard. Variants are only ever added at the end.

use bytes::Bytes;
use cluster_proto::{
    AppId, Audience, Incarnation, Message, NodeId, PushId, TerminalId, TerminalNo, TerminalSet, Will,
    link::{AppReceipts, ExchangeStep, Inbound, Origin, Receipt, Subscription, Unacknowledged, WillFate},
};
use serde::{Deserialize, Serialize};

use crate::receipts::ReceiptCursor;

/// One Raft entry: many commands, applied in order, each answered by one [`crate::Applied`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandBatch {
    /// When the leader closed the batch, milliseconds since the epoch; apply's only clock. A leader never
    /// proposes a time before one it has applied.
    pub at_ms: u64,
    /// In order.
    pub commands: Vec<Command>,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Set on what comes from an edge, so that it takes effect once (I13).
    pub origin: Option<Origin>,
    /// What to do.
    pub body: CommandBody,
}

impl Command {
    /// A command of the control group itself.
    pub fn own(body: CommandBody) -> Self {
        Self { origin: None, body }
    }
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CommandBody {
    /// Adds an app. Answers [`crate::Applied::App`]; repeating it answers the same, and leaves its quotas.
    CreateApp {
        /// Its name.
        name: String,
        /// How much it may have.
        quotas: Quotas,
    },
    /// Adds a signing key; the newest signs.
    InstallKey(SigningKey),
    /// Registers terminals, or replaces tags and alias of those that are. Answers [`crate::Applied::Registered`].
    RegisterTerminals {
        /// Of this app.
        app: AppId,
        /// Which.
        terminals: Vec<NewTerminal>,
    },
    /// Voids credentials of one terminal, or of the whole app, issued up to a time.
    Revoke {
        /// The app.
        app: AppId,
        /// The terminal; absent: all.
        terminal: Option<TerminalId>,
        /// Seconds since the epoch.
        issued_until: u64,
    },
    /// A new life of an edge linked. Sessions without expiry of its earlier lives end.
    EdgeStarted {
        /// The edge.
        edge: NodeId,
        /// Its new life.
        incarnation: Incarnation,
    },
    /// An edge is lost or gone: its sessions without expiry end, the others are detached.
    EdgeEnded {
        /// The edge.
        edge: NodeId,
        /// The life that ended.
        incarnation: Incarnation,
    },
    /// Creates, continues or replaces a session with expiry. Answers [`crate::Applied::Session`].
    OpenSession(OpenSession),
    /// A connection ended: the session it holds expires `expiry_s` from now, at once for 0. Nothing happens if a
    /// newer connection holds it.
    DetachSession {
        /// The connection.
        holder: Holder,
        /// Seconds it outlives the connection.
        expiry_s: u32,
        /// Of its will.
        will: WillFate,
        /// What the connection had written with QoS 1 and not got acknowledged.
        unacknowledged: Vec<Unacknowledged>,
    },
    /// Adds subscriptions. A client without a session gets one without expiry, one without a number is lent one.
    /// Answers [`crate::Applied::Session`].
    Subscribe {
        /// Whose.
        holder: Holder,
        /// Replaces those with the same filter.
        subscriptions: Vec<Subscription>,
    },
    /// Removes subscriptions. Pushes already owed stay owed. Answers [`crate::Applied::Session`].
    Unsubscribe {
        /// Whose.
        holder: Holder,
        /// Filters exactly as subscribed.
        filters: Vec<String>,
    },
    /// Ends sessions whose expiry has passed; at most `limit` at a time.
    ExpireSessions {
        /// Bounds the work of one entry.
        limit: u32,
    },
    /// Accepts a push: freezes its audience. Answers [`crate::Applied::Accepted`].
    AcceptPush(AcceptPush),
    /// Settles terminals as an edge (or, for QoS 0, the leader) witnessed.
    RecordReceipts {
        /// Unions of sets: repeating them changes nothing.
        items: Vec<Receipt>,
        /// Steps of outbound QoS 2 exchanges, in order; void where the connection does not hold the session any more.
        steps: Vec<ExchangeStep>,
    },
    /// The time to live of these pushes is over. Settles as expired whoever is pending and not in flight.
    ExpirePushes {
        /// Each with the terminals it is in flight to, which their edges are asked about.
        pushes: Vec<(PushId, TerminalSet)>,
    },
    /// Recalls a push. Settles as cancelled whoever is pending and not in flight.
    CancelPush {
        /// The app it must belong to.
        app: AppId,
        /// Which.
        push: PushId,
        /// The terminals it is in flight to, which their edges are asked about.
        in_flight: TerminalSet,
    },
    /// Removes pushes settled for longer than the retention time; at most `limit` at a time.
    PurgePushes {
        /// Settled before this, milliseconds since the epoch.
        settled_before_ms: u64,
        /// Bounds the work of one entry.
        limit: u32,
    },
    /// Keeps a message as the retained one of its topic, or, without payload, removes that one. No push.
    Retain {
        /// `retain` is set.
        message: Message,
        /// Milliseconds to live; absent: for ever.
        ttl_ms: Option<u64>,
    },
    /// PUBREL: the packet id of an inbound QoS 2 exchange is free.
    Release(Inbound),
    /// Publishes wills whose delay is over; at most `limit` at a time.
    PublishWills {
        /// Bounds the work of one entry.
        limit: u32,
    },
    /// Removes retained messages whose time to live is over; at most `limit` at a time.
    ExpireRetained {
        /// Bounds the work of one entry.
        limit: u32,
    },
    /// Only uses up the sequence of its origin, which was refused what it asked.
    Nothing,
    /// A push replaces older ones with its collapse key, for everyone who has it or may still get it. Settles as collapsed
    /// whoever is pending and not in flight. Nothing happens if that was done before.
    Collapse {
        /// The newer push.
        by: PushId,
        /// Older ones, each with the terminals it is in flight to, which their edges are asked about.
        pushes: Vec<(PushId, TerminalSet)>,
        /// How many the newer one was released to when this was found; void if that has changed.
        released: u64,
        /// Where what it replaces is to be looked for next; absent: this is all.
        next: Option<(TerminalNo, PushId)>,
    },
    /// Goes on with the releases that are due; at most `limit` at a time.
    ReleasePushes {
        /// Bounds the work of one entry.
        limit: u32,
    },
    /// Releases no more of a push until it is resumed.
    HoldPush {
        /// The app it must belong to.
        app: AppId,
        /// Which.
        push: PushId,
    },
    /// Goes on with the release of a push that is held; the next stage follows whatever the share.
    ResumePush {
        /// The app it must belong to.
        app: AppId,
        /// Which.
        push: PushId,
    },
    /// Removes the oldest deltas of receipt streams, of every app that has any too old, or too many; at most `limit` rows
    /// at a time.
    PurgeReceipts {
        /// Deltas before this, milliseconds since the epoch, go.
        before_ms: u64,
        /// An app keeps so many bytes of them.
        bytes_max: u64,
        /// Bounds the work of one entry.
        limit: u32,
    },
    /// Sets or replaces the webhook of an app.
    SetWebhook {
        /// Which.
        app: AppId,
        /// Replaces the one there is; without a secret, that one's stays.
        webhook: Webhook,
        /// Where it begins; absent: where the one before was, or with what happens from now on.
        from: Option<ReceiptCursor>,
    },
    /// Removes the webhook of an app. Nothing happens if there is none.
    RemoveWebhook {
        /// Which.
        app: AppId,
    },
    /// The webhook of an app took everything before a place.
    AdvanceWebhook {
        /// Whose.
        app: AppId,
        /// Void if it was set anew meanwhile.
        generation: u64,
        /// Where it goes on.
        place: ReceiptCursor,
        /// It answered that it is gone for good: nothing more is sent until it is set again.
        is_gone: bool,
    },
    /// Changes how much an app may have. What it has beyond stays.
    SetQuotas {
        /// The app.
        app: AppId,
        /// What is given.
        change: QuotaChange,
    },
    /// Begins to remove an app: from now on nothing of it is found or accepted.
    DeleteApp {
        /// The app.
        app: AppId,
    },
    /// Goes on removing a deleted app; the last step frees its name.
    RemoveApp {
        /// The app.
        app: AppId,
        /// Bounds the work of one entry: rows looked at, about.
        limit: u32,
    },
    /// Changes tags and alias of those of these terminals that are registered in the app. Answers
    /// [`crate::Applied::Changed`].
    UpdateTerminals {
        /// The app.
        app: AppId,
        /// Which.
        terminals: TerminalSet,
        /// What becomes of their labels.
        change: LabelChange,
    },
    /// Deletes those of these terminals that are registered in the app, with all that is theirs, and voids their
    /// credentials. What they must still get is dropped. Answers [`crate::Applied::Changed`].
    DeleteTerminals {
        /// The app.
        app: AppId,
        /// Which.
        terminals: TerminalSet,
    },
    /// These registered terminals, of any app, were connected on a day. Removes some of what is too old to be asked for.
    RecordSeen {
        /// Days since the epoch, UTC.
        day: u32,
        /// Which; a union, so repeating it changes nothing.
        terminals: TerminalSet,
    },
    /// What the application on a terminal reports of pushes of its app whose audience it is in. Answers
    /// [`crate::Applied::Reported`].
    RecordAppReceipts(AppReceipts),
}

/// Where the receipts of an app are posted to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// `http` or `https`.
    pub url: String,
    /// Signs what is posted. Replicated in the control group, never leaves it but to whoever sets it, never logged.
    pub secret: Bytes,
    /// Ids of terminals instead of sets of their numbers.
    pub expand: bool,
    /// Codes of the states to tell ([`crate::receipts::ReceiptKind::code`]), ascending; none: all.
    pub kinds: Vec<u8>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { url, expand, kinds, .. } = self;
        let mut debug = f.debug_struct("Webhook");
        debug.field("url", url).field("expand", expand).field("kinds", kinds).finish_non_exhaustive()
    }
}

/// How much an app may have; 0: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotas {
    /// Registered terminals.
    pub terminals: u64,
    /// Connections, in the whole cluster.
    pub connections: u64,
    /// Pushes accepted a second, PUBLISH packets with QoS 1 or 2 among them.
    pub pushes_per_s: u64,
    /// Pushes accepted at once, before that rate holds; 0: as many as in a second.
    pub pushes_burst: u64,
    /// Bytes of messages: of pushes until they are purged, and retained.
    pub stored_bytes: u64,
}

/// A change of quotas; what is absent stays, 0 removes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaChange {
    /// See [`Quotas`], as the following.
    pub terminals: Option<u64>,
    /// Connections.
    pub connections: Option<u64>,
    /// A second.
    pub pushes_per_s: Option<u64>,
    /// At once.
    pub pushes_burst: Option<u64>,
    /// Bytes.
    pub stored_bytes: Option<u64>,
}

impl Quotas {
    /// With what a change gives.
    pub fn changed(self, change: &QuotaChange) -> Self {
        Self {
            terminals: change.terminals.unwrap_or(self.terminals),
            connections: change.connections.unwrap_or(self.connections),
            pushes_per_s: change.pushes_per_s.unwrap_or(self.pushes_per_s),
            pushes_burst: change.pushes_burst.unwrap_or(self.pushes_burst),
            stored_bytes: change.stored_bytes.unwrap_or(self.stored_bytes),
        }
    }
}

/// A change of tags and alias.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelChange {
    /// Tags to add, or to give another value: `(key, value)`, each key once.
    pub set: Vec<(String, String)>,
    /// Keys of tags to remove.
    pub remove: Vec<String>,
    /// Replaces the alias, by an empty one with none; absent: leaves it.
    pub alias: Option<String>,
}

/// A key that signs credentials. Replicated in the control group, never leaves it, never logged.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct SigningKey {
    /// Goes into the header of every token.
    pub kid: String,
    /// PKCS#8 DER of the Ed25519 private key.
    pub pkcs8: Bytes,
    /// The public half.
    pub ed25519: [u8; 32],
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// A terminal to register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTerminal {
    /// Its id.
    pub id: TerminalId,
    /// Replaces its tags, `(key, value)` sorted, each key once; absent: leaves them.
    pub tags: Option<Vec<(String, String)>>,
    /// Replaces its alias, by an empty one with none; absent: leaves it.
    pub alias: Option<String>,
}

/// CONNECT with session expiry, or a clean start over an existing session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Whose.
    pub holder: Holder,
    /// End the existing session first.
    pub clean_start: bool,
    /// Seconds it outlives the connection; 0 only ends what was there, unless there is a will.
    pub expiry_s: u32,
    /// Kept with the session while the connection holds it. The will of the connection it replaces is published if
    /// its session ends or it has no delay, and discarded otherwise ([MQTT-3.1.3-9]).
    pub will: Option<Will>,
    /// What the connection it replaces had not got acknowledged.
    pub unacknowledged: Vec<Unacknowledged>,
}

/// The terminal and connection a session command is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// App.
    pub app: AppId,
    /// Terminal id.
    pub terminal: TerminalId,
    /// The edge it is connected to.
    pub edge: NodeId,
    /// That edge's life.
    pub incarnation: Incarnation,
    /// The connection, unique within the incarnation.
    pub connection: u64,
}

/// A push to accept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcceptPush {
    /// What to deliver.
    pub message: Message,
    /// To whom; its kind is that of the message.
    pub audience: Audience,
    /// The numbered terminals, of any app, that are connected when this is proposed: the leader knows, apply does not.
    /// Given where the audience depends on it.
    pub online: Option<TerminalSet>,
    /// Milliseconds it stays deliverable.
    pub ttl_ms: u64,
    /// How it is handed out.
    pub options: PushOptions,
    /// Milliseconds it stays its topic's retained message, if `message.retain` is set: the Message Expiry Interval;
    /// absent: for ever, whatever the default of `ttl_ms` is.
    pub retained_ttl_ms: Option<u64>,
    /// Set for a QoS 2 PUBLISH of a session that outlives its connection: while the packet id is not released, the same
    /// PUBLISH again is answered and accepted only once ([MQTT-4.3.3-10]).
    pub exchange: Option<Inbound>,
    /// Chosen by the caller: repeating the call answers the first result. With a digest of the request, so that
    /// reuse for another request is refused.
    pub idempotency: Option<IdempotencyKey>,
}

/// How a push is handed out. The default: at once, to everyone, in its turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushOptions {
    /// It overtakes ordinary pushes that wait for the same terminal.
    pub urgent: bool,
    /// The newest push of the app with this key replaces older ones that were not handed out. At most 128 bytes, not empty.
    pub collapse_key: Option<String>,
    /// Absent: at once, to everyone.
    pub release: Option<ReleasePlan>,
}

/// When, and in which parts, a push is released: handed out to those who are connected, and owed to the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasePlan {
    /// Not before this, milliseconds since the epoch; 0: at once. Its time to live begins then.
    pub not_before_ms: u64,
    /// In which parts.
    pub pace: Pace,
}

/// In which parts a push is released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pace {
    /// All of it.
    AtOnce,
    /// So many terminals a second.
    PerSecond(u32),
    /// Evenly over so many milliseconds.
    Over(u64),
    /// A share, then more if it went well.
    Stages {
        /// Ascending; the last is everyone. At most [`cluster_proto::limits::STAGES_MAX`].
        stages: Vec<Stage>,
        /// What happens if it went badly.
        on_low: OnLow,
    },
}

/// One stage of a roll-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Released are those of the audience in the buckets below this ([`cluster_proto::Sample`]): hundredths of a percent.
    pub upto: u16,
    /// Milliseconds until it is looked at how many have it.
    pub wait_ms: u64,
    /// The next stage follows if at least this share of all released have acknowledged by then, in hundredths of a
    /// percent.
    pub delivered_min: u16,
}

/// What happens to a roll-out of which too few have acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnLow {
    /// It waits for somebody to resume or recall it.
    Hold,
    /// It is recalled.
    Halt,
}

/// See [`AcceptPush::idempotency`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// At most 128 bytes.
    pub key: String,
    /// Of the whole request.
    pub digest: u128,
}
