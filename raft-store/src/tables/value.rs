//! What the tables hold: every value begins with a version byte, then postcard (bitmaps: the portable roaring
//! format). A change of a value is a new version; its old reader stays.

use cluster_proto::{
    AppId, DropReason, Incarnation, NodeId, PushId, PushKind, Qos, Sample, SessionId, State, TerminalId,
    TerminalNo,
    link::{OutboundStage, SubscriptionOptions},
};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::StoreError;
use crate::{
    command::{PushOptions, Quotas, SigningKey, Webhook},
    receipts::ReceiptCursor,
};

/// A value of the tables.
pub(crate) trait Stored: Serialize + DeserializeOwned {
    /// Named in errors.
    const NAME: &'static str;
    /// Of the encoding written now.
    const VERSION: u8 = 1;

    /// To bytes.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(Self::VERSION);
        // Our types have nothing postcard cannot write (no maps of unknown length), so this cannot fail; an
        // impossible failure leaves a value that reads as damaged.
        postcard::to_extend(self, bytes).unwrap_or_default()
    }

    /// From bytes; `key` is for the error.
    fn decode(key: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        match bytes.split_first() {
            Some((version, rest)) if *version == Self::VERSION => postcard::from_bytes(rest).ok(),
            _ => None,
        }
        .ok_or_else(|| StoreError::damaged(Self::NAME, key))
    }
}

macro_rules! stored {
    ($($type:ty => $name:literal),* $(,)?) => {
        $(impl Stored for $type { const NAME: &'static str = $name; })*
    };
}

stored! {
    Head => "applied position",
    AppRow => "app",
    AppId => "app number",
    SigningKey => "signing key",
    EdgeRow => "edge",
    RefusedRow => "refused commands",
    u64 => "number",
    u32 => "number",
    () => "mark",
    TerminalNo => "terminal number",
    Qos => "granted QoS",
    cluster_proto::Message => "message",
    cluster_proto::Will => "will",
    TerminalRow => "terminal",
    SessionRow => "session",
    SubscriptionRow => "subscription",
    PushRow => "push",
    IdempotencyRow => "idempotency key",
    OwedValue => "owed push",
    CollapseRow => "collapse to do",
    WaveRow => "wave",
    OutboundRow => "outbound delivery",
    InboundRow => "inbound exchange",
    GroupRow => "shared subscription group",
    RetainedRow => "retained message",
    RetainedCount => "count of retained messages",
    RetainedTopic => "topic of a retained message",
    ReceiptCount => "count of receipt deltas",
    WebhookRow => "webhook",
    ReceiptCursor => "place of a webhook",
    AppCount => "count of an app",
}

/// The applied position and the counters ids are given from. Written with every batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) term: u64,
    pub(crate) index: u64,
    /// Of every entry up to here; see [`super::digest`].
    pub(crate) digest: u128,
    pub(crate) at_ms: u64,
    pub(crate) last_push: u64,
    /// No push below this is kept any more.
    pub(crate) oldest_push: u64,
    pub(crate) last_session: u64,
    pub(crate) last_registered: u32,
    /// How many numbers were ever taken from the unregistered range.
    pub(crate) lent: u32,
    pub(crate) last_app: u32,
    pub(crate) signing_keys: u32,
    /// How many commands were applied: what orders a subscription and the retained messages around it, also within
    /// one entry.
    pub(crate) commands: u64,
    /// How many steps of exchanges were applied: what their rows are ordered by.
    pub(crate) steps: u64,
    /// How many sessions there are.
    pub(crate) sessions: u64,
    /// Retained messages that were ever kept.
    pub(crate) last_retained: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AppRow {
    pub(crate) name: String,
    pub(crate) revoked_until: u64,
    pub(crate) quotas: Quotas,
    /// It is deleted, and being removed.
    pub(crate) removal: Option<Removal>,
}

/// How far the removal of an app is. What comes before is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Removal {
    /// Its terminals and clients, with their sessions.
    Terminals,
    /// Its pushes, after this one.
    Pushes(PushId),
    /// Its lent numbers: those that wait for other pushes, after this push and number.
    Numbers(PushId, TerminalNo),
    /// Its retained messages and revocations.
    Rest,
}

/// How much an app has, besides what it retains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AppCount {
    /// Registered terminals.
    pub(crate) terminals: u64,
    /// Bytes of the messages of its pushes.
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EdgeRow {
    pub(crate) incarnation: Incarnation,
    pub(crate) ended: bool,
    /// Last sequence of each lane, in the order of [`super::LANES`].
    pub(crate) seqs: [u64; 3],
}

/// Numbers of a lane whose commands were refused, ascending: the last of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedRow {
    pub(crate) seqs: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TerminalRow {
    pub(crate) app: AppId,
    pub(crate) id: TerminalId,
    pub(crate) labels: Labels,
    /// When it was registered, or lent a number.
    pub(crate) registered_at_ms: u64,
    /// Lent numbers: waits in the queue of numbers to return, under this push.
    pub(crate) waits_for: Option<PushId>,
}

impl TerminalRow {
    /// The id of a stored one, without the rest.
    pub(crate) fn id_of(key: &[u8], bytes: &[u8]) -> Result<TerminalId, StoreError> {
        let head = bytes.strip_prefix(&[Self::VERSION]);
        let head = head.and_then(|rest| postcard::take_from_bytes::<(AppId, TerminalId)>(rest).ok());
        head.map(|((_, id), _)| id).ok_or_else(|| StoreError::damaged(Self::NAME, key))
    }
}

/// What terminals are found by in audiences, besides their ids. Only registered ones have any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Labels {
    /// `(key, value)` sorted.
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) alias: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionRow {
    pub(crate) session: SessionId,
    pub(crate) edge: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) connection: u64,
    pub(crate) expiry_s: u32,
    pub(crate) detached_at_ms: Option<u64>,
    /// It was there before the connection that holds it.
    pub(crate) present: bool,
    /// Shared ones included.
    pub(crate) subscriptions: u32,
    pub(crate) will: WillState,
}

/// Whether a session has a will, which lies in a row of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WillState {
    /// It has none.
    None,
    /// For the end of the connection.
    Held,
    /// The connection ended; its delay is over then, milliseconds since the epoch.
    Due(u64),
}

impl SessionRow {
    /// When a detached session ends.
    pub(crate) fn ends_at_ms(&self) -> Option<u64> {
        self.detached_at_ms.map(|at| at.saturating_add(u64::from(self.expiry_s) * 1000))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubscriptionRow {
    pub(crate) qos: Qos,
    pub(crate) options: SubscriptionOptions,
}

/// A delivery a session goes on with, by packet id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutboundRow {
    pub(crate) push: PushId,
    /// Whom receipts name: the terminal or a group.
    pub(crate) target: TerminalNo,
    pub(crate) stage: OutboundStage,
    /// Ascends in the order in which deliveries reached their stage.
    pub(crate) order: u64,
}

/// A QoS 2 PUBLISH that was accepted and not released: what the same PUBLISH again is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InboundRow {
    pub(crate) push: PushId,
    pub(crate) audience: u64,
}

/// A shared subscription group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupRow {
    pub(crate) app: AppId,
    pub(crate) name: String,
    /// Plain.
    pub(crate) filter: String,
}

/// A retained message without the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetainedRow {
    pub(crate) id: PushId,
    /// [`Head::commands`] when it was kept by a push; 0: by none, so that it is older than any subscription.
    pub(crate) kept_at: u64,
    /// What it counts against the app's bytes.
    pub(crate) size: u64,
    pub(crate) expires_at_ms: Option<u64>,
}

/// Where a retained message lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetainedTopic {
    pub(crate) app: AppId,
    pub(crate) topic: String,
}

/// How much an app retains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetainedCount {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// Which receipt deltas an app keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReceiptCount {
    /// The place, log index and part, right after the last one removed; (0, 0): none was.
    pub(crate) begin: (u64, u32),
    /// The time of the oldest one kept.
    pub(crate) first_at_ms: u64,
    pub(crate) rows: u64,
    /// Keys and values.
    pub(crate) bytes: u64,
}

/// Where the receipts of an app are posted to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WebhookRow {
    pub(crate) webhook: Webhook,
    /// Never the same for two settings.
    pub(crate) generation: u64,
    pub(crate) set_at_ms: u64,
    /// It answered so.
    pub(crate) is_gone: bool,
}

/// A push without its message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PushRow {
    pub(crate) app: AppId,
    pub(crate) kind: PushKind,
    /// Best-effort subscribers of its topic are shown it too.
    pub(crate) shown: bool,
    /// Of its message: what it counts against the bytes its app may store.
    pub(crate) size: u64,
    pub(crate) accepted_at_ms: u64,
    pub(crate) expires_at_ms: u64,
    pub(crate) audience_len: u64,
    pub(crate) withdrawn: Option<Withdrawn>,
    pub(crate) settled_at_ms: Option<u64>,
    pub(crate) idempotency: Option<String>,
    pub(crate) options: PushOptions,
    /// The newest push that replaced it for somebody.
    pub(crate) replaced_by: Option<PushId>,
    /// Some of those for whom it is replaced have it in flight: they are kept in a row of their own.
    pub(crate) collapsing: bool,
    /// Of a push with a plan.
    pub(crate) release: Option<ReleaseRow>,
    pub(crate) audience: AudienceRow,
}

/// Why a push is no longer handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Withdrawn {
    /// Its time to live is over.
    Expired,
    /// It was recalled.
    Cancelled,
}

impl Withdrawn {
    /// What becomes of a terminal that was not handed the push in time.
    pub fn state(self) -> State {
        match self {
            Self::Expired => State::Expired,
            Self::Cancelled => State::Cancelled,
        }
    }
}

/// How far a push with a plan is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReleaseRow {
    pub(crate) phase: ReleasePhase,
    /// While it waits: when it goes on, milliseconds since the epoch.
    pub(crate) due_ms: u64,
    /// By stages: how many are released. Otherwise: the terminal numbers below this are.
    pub(crate) next: u32,
    /// How many terminals.
    pub(crate) released: u64,
}

/// What becomes of the rest of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReleasePhase {
    /// It goes on at its time.
    Waiting,
    /// Somebody holds it.
    Held,
    /// Too few had acknowledged: this share of those released, in hundredths of a percent.
    HeldLow(u16),
    /// As above, and it is being recalled, or was.
    Halted(u16),
    /// There is none: everybody is released, or the push is withdrawn.
    Done,
}

/// A part of a push, released at a time: an id in the order of dispatch, under which edges know the push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaveRow {
    pub(crate) push: PushId,
    pub(crate) slice: Slice,
}

/// Which terminals of an audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Slice {
    /// All.
    All,
    /// Those with numbers from the first to the last.
    Numbers { first: u32, last: u32 },
    /// Those in the buckets from the first up to, and without, the second.
    Buckets { from: u16, to: u16 },
}

impl Slice {
    pub(crate) fn contains(&self, no: u32) -> bool {
        match *self {
            Self::All => true,
            Self::Numbers { first, last } => (first..=last).contains(&no),
            Self::Buckets { from, to } => (from..to).contains(&Sample::bucket(TerminalNo(no))),
        }
    }

    /// Those of `set` that are in it.
    pub(crate) fn of(&self, set: &RoaringBitmap) -> RoaringBitmap {
        match *self {
            Self::All => set.clone(),
            Self::Numbers { first, last } => {
                let mut part = RoaringBitmap::new();
                part.insert_range(first..=last);
                part & set
            }
            Self::Buckets { .. } => set.iter().filter(|no| self.contains(*no)).collect(),
        }
    }
}

/// Where the audience and its states are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AudienceRow {
    /// Here, ascending by number.
    Small(Vec<SmallTarget>),
    /// In bitmaps; here how many are in each state, by state code, pending included, and how many reported what, by
    /// [`cluster_proto::AppReceipt::code`].
    Broad(Vec<(u8, u64)>),
}

/// One terminal of a small audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SmallTarget {
    pub(crate) no: u32,
    pub(crate) qos0: bool,
    /// [`State::code`].
    pub(crate) state: u8,
    /// A bit for each [`cluster_proto::AppReceipt`], in the order of `ALL`.
    pub(crate) reported: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdempotencyRow {
    pub(crate) push: PushId,
    pub(crate) digest: u128,
    pub(crate) audience: u64,
}

/// What the owed indexes say of a push, so that reading what is owed needs no other row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwedValue {
    pub(crate) topic: bool,
    pub(crate) withdrawn: bool,
    /// Of a broad push: some of the block are being collapsed. Of a small one it is withdrawn for them.
    pub(crate) collapsing: bool,
    /// Small audiences only; broad ones have a set.
    pub(crate) qos0: bool,
    /// Not released yet.
    pub(crate) held: bool,
    pub(crate) expires_at_ms: u64,
    /// The id in the key is that of this wave.
    pub(crate) wave: Option<WaveRow>,
}

/// A push with a collapse key has older ones to replace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CollapseRow {
    /// Rows of the index up to this one were looked at.
    pub(crate) after: Option<(TerminalNo, PushId)>,
    /// How many had been released when it was made.
    pub(crate) released: u64,
}

/// Subscribers of one filter in one block.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FilterChunk {
    /// All of them.
    pub(crate) any: RoaringBitmap,
    /// Those granted QoS 0.
    pub(crate) qos0: RoaringBitmap,
    /// Those with No Local.
    pub(crate) no_local: RoaringBitmap,
}

impl FilterChunk {
    pub(crate) fn encode(&mut self) -> Vec<u8> {
        let mut bytes = vec![SET_VERSION];
        for set in [&mut self.any, &mut self.qos0, &mut self.no_local] {
            let set = set_body(set);
            bytes.extend((set.len() as u32).to_be_bytes());
            bytes.extend(set);
        }
        bytes
    }

    pub(crate) fn decode(key: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        Self::parse(bytes).ok_or_else(|| StoreError::damaged("filter", key))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&[SET_VERSION])?;
        let mut next = || -> Option<RoaringBitmap> {
            let (len, tail) = rest.split_first_chunk::<4>()?;
            let (body, tail) = tail.split_at_checked(u32::from_be_bytes(*len) as usize)?;
            rest = tail;
            parse_body(body)
        };
        Some(Self { any: next()?, qos0: next()?, no_local: next()? })
    }
}

/// First byte of a stored set.
pub(crate) const SET_VERSION: u8 = 1;

/// A set of terminal numbers to bytes. Equal sets give equal bytes: run containers, which depend on a set's
/// history, are undone first.
pub(crate) fn encode_set(set: &mut RoaringBitmap) -> Vec<u8> {
    let mut bytes = vec![SET_VERSION];
    bytes.extend(set_body(set));
    bytes
}

/// A stored set.
pub(crate) fn decode_set(key: &[u8], bytes: &[u8]) -> Result<RoaringBitmap, StoreError> {
    parse_set(bytes).ok_or_else(|| StoreError::damaged("set", key))
}

/// `None` unless these are the bytes of a set.
pub(crate) fn parse_set(bytes: &[u8]) -> Option<RoaringBitmap> {
    parse_body(bytes.strip_prefix(&[SET_VERSION])?)
}

/// The empty set has no bytes. The checked reader: damaged bytes must not build a bitmap that panics later.
fn parse_body(body: &[u8]) -> Option<RoaringBitmap> {
    if body.is_empty() { Some(RoaringBitmap::new()) } else { RoaringBitmap::deserialize_from(body).ok() }
}

/// As [`encode_set`], without a version.
pub(crate) fn set_body(set: &mut RoaringBitmap) -> Vec<u8> {
    if set.is_empty() {
        return Vec::new();
    }
    set.remove_run_compression();
    let mut bytes = Vec::with_capacity(set.serialized_size());
    // Writing to a Vec cannot fail.
    let _ = set.serialize_into(&mut bytes);
    bytes
}

/// How the states of a broad push are keyed besides [`State::code`]: all of the audience.
pub(crate) const KIND_AUDIENCE: u8 = 0;
/// Those granted QoS 0 only. What applications report is keyed by [`cluster_proto::AppReceipt::code`].
pub(crate) const KIND_QOS0: u8 = 0xff;
/// Settled at accept.
pub(crate) const OVER_QUOTA: State = State::Dropped(DropReason::OverQuota);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{OnLow, Pace, ReleasePlan, Stage};

    /// What is on disk must stay readable: a change here is a new version of that value, not a new expectation.
    #[test]
    fn stored_values_stay_as_they_are() {
        let push = PushRow {
            app: AppId(1),
            kind: PushKind::Topic,
            shown: true,
            size: 300,
            accepted_at_ms: 1,
            expires_at_ms: 300,
            audience_len: 1,
            withdrawn: Some(Withdrawn::Cancelled),
            settled_at_ms: None,
            idempotency: Some("k".into()),
            options: PushOptions { urgent: true, collapse_key: Some("c".into()), release: None },
            replaced_by: Some(PushId(9)),
            collapsing: true,
            release: None,
            audience: AudienceRow::Small(vec![SmallTarget { no: 7, qos0: true, state: 17, reported: 2 }]),
        };
        let broad = PushRow { audience: AudienceRow::Broad(vec![(0, 200)]), ..push.clone() };
        let stages = vec![Stage { upto: 500, wait_ms: 2, delivered_min: 3 }];
        let pace = Pace::Stages { stages, on_low: OnLow::Halt };
        let release = ReleaseRow { phase: ReleasePhase::HeldLow(4), due_ms: 5, next: 6, released: 7 };
        let planned = PushRow {
            options: PushOptions {
                release: Some(ReleasePlan { not_before_ms: 1, pace }),
                ..PushOptions::default()
            },
            release: Some(release),
            ..broad.clone()
        };
        let session = SessionRow {
            session: SessionId(5),
            edge: NodeId(2),
            incarnation: Incarnation(3),
            connection: 4,
            expiry_s: 60,
            detached_at_ms: Some(9),
            present: true,
            subscriptions: 2,
            will: WillState::Due(300),
        };
        let outbound =
            OutboundRow { push: PushId(1), target: TerminalNo(2), stage: OutboundStage::Received, order: 3 };
        let group = GroupRow { app: AppId(1), name: "g".into(), filter: "a".into() };
        let retained = RetainedRow { id: PushId(1), kept_at: 1, size: 300, expires_at_ms: Some(2) };
        let head = Head { term: 1, index: 2, digest: 3, at_ms: 4, last_push: 5, ..Head::default() };
        let owed = OwedValue {
            topic: true,
            withdrawn: false,
            collapsing: false,
            qos0: true,
            held: false,
            expires_at_ms: 300,
            wave: None,
        };
        let edge = EdgeRow { incarnation: Incarnation(1), ended: false, seqs: [1, 2, 3] };
        golden(&RefusedRow { seqs: vec![1, 300] }, "010201ac02");
        let subscription = SubscriptionRow { qos: Qos::ExactlyOnce, options: SubscriptionOptions::default() };
        golden(&push, "01010101ac0201ac020101010001016b010101630001090100000107011102");
        golden(&broad, "01010101ac0201ac020101010001016b010101630001090100010100c801");
        golden(&session, "01050203043c0109010202ac02");
        golden(&outbound, "0101020203");
        golden(&InboundRow { push: PushId(1), audience: 300 }, "0101ac02");
        golden(&group, "010101670161");
        golden(&retained, "010101ac020102");
        golden(&RetainedTopic { app: AppId(1), topic: "a".into() }, "01010161");
        golden(&RetainedCount { messages: 1, bytes: 300 }, "0101ac02");
        golden(&head, "01010203040500000000000000000000");
        golden(&owed, "010100000100ac0200");
        golden(
            &planned,
            "01010101ac0201ac020101010001016b000001010301f403020301010901010204050607010100c801",
        );
        golden(&WaveRow { push: PushId(1), slice: Slice::Buckets { from: 1, to: 300 } }, "01010201ac02");
        golden(&CollapseRow { after: Some((TerminalNo(2), PushId(300))), released: 1 }, "010102ac0201");
        golden(&edge, "010100010203");
        golden(&subscription, "010200000000");
        golden(&IdempotencyRow { push: PushId(1), digest: 2, audience: 3 }, "01010203");
        let terminal = TerminalRow {
            app: AppId(1),
            id: TerminalId::new("tv").expect("valid"),
            labels: Labels { tags: vec![("k".into(), "v".into())], alias: Some("u".into()) },
            registered_at_ms: 300,
            waits_for: None,
        };
        golden(&terminal, "010102747601016b0176010175ac0200");
        let count = ReceiptCount { begin: (300, 1), first_at_ms: 2, rows: 3, bytes: 4 };
        golden(&count, "01ac0201020304");
        let webhook = Webhook { url: "u".into(), secret: vec![7].into(), expand: true, kinds: vec![1, 240] };
        let webhook = WebhookRow { webhook, generation: 300, set_at_ms: 2, is_gone: false };
        golden(&webhook, "0101750107010201f0ac020200");
        golden(&ReceiptCursor::deltas(AppId(1), 300, 2), "010100ac020200");
        let quotas =
            Quotas { terminals: 300, connections: 1, pushes_per_s: 2, pushes_burst: 3, stored_bytes: 4 };
        let removal = Some(Removal::Numbers(PushId(5), TerminalNo(6)));
        golden(
            &AppRow { name: "a".into(), revoked_until: 1, quotas, removal },
            "01016101ac020102030401020506",
        );
        golden(&AppCount { terminals: 300, bytes: 1 }, "01ac0201");
    }

    #[test]
    fn stored_sets_stay_as_they_are() {
        let mut set = RoaringBitmap::from_iter([1, 2, 65_536]);
        assert_eq!(
            hex(&encode_set(&mut set)),
            "013a300000020000000000010001000000180000001c000000010002000000"
        );
        let mut chunk =
            FilterChunk { any: set.clone(), no_local: RoaringBitmap::from_iter([2]), ..Default::default() };
        assert_eq!(
            hex(&chunk.encode()),
            "010000001e3a300000020000000000010001000000180000001c00000001000200000000000000000000123a3000000100000000000000100000000200"
        );
        assert_eq!(FilterChunk::decode(b"k", &chunk.encode()), Ok(chunk));
    }

    #[test]
    fn equal_sets_have_equal_bytes_whatever_their_history() {
        let mut ranged = RoaringBitmap::new();
        ranged.insert_range(0..30_000);
        ranged.optimize();
        let mut single: RoaringBitmap = (0..40_000).collect();
        single.remove_range(30_000..40_000);
        assert_eq!(encode_set(&mut ranged), encode_set(&mut single));
    }

    #[test]
    fn an_unknown_version_and_a_damaged_value_are_errors_that_name_the_key() {
        let mut bytes = 7u64.encode();
        bytes[0] = 9;
        assert_eq!(u64::decode(&[0xab], &bytes), Err(StoreError::damaged("number", &[0xab])));
        assert!(PushRow::decode(b"k", &[1, 0xff, 0xff]).is_err());
        assert!(PushRow::decode(b"k", &[]).is_err());
    }

    fn golden<T: Stored + PartialEq + std::fmt::Debug>(value: &T, expected: &str) {
        assert_eq!(hex(&value.encode()), expected, "{value:?}");
        assert_eq!(T::decode(b"k", &value.encode()).as_ref(), Ok(value));
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
