//! What queries answer.

use std::sync::Arc;

use cluster_proto::{
    AppId, Incarnation, Message, NodeId, PushId, SessionId, State, TerminalId, TerminalNo,
    link::RetainedMessage,
};

pub use super::value::{ReleasePhase, Withdrawn};
use crate::{
    command::{PushOptions, Quotas, Webhook},
    receipts::ReceiptCursor,
};

/// Where in the log an entry stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryPosition {
    /// Raft term.
    pub term: u64,
    /// Log index; 0 before the first entry.
    pub index: u64,
}

/// How far the tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Raft term of the last entry applied.
    pub term: u64,
    /// Its index.
    pub index: u64,
    /// Of all entries up to it: equal position, equal digest (I8).
    pub digest: u128,
    /// The time of the last entry that had one.
    pub at_ms: u64,
    /// The last push accepted.
    pub last_push: PushId,
}

/// What a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// How far it is.
    pub position: Position,
    /// As last given to apply.
    pub membership: Option<Vec<u8>>,
}

/// How much an app has, and how much it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppRecord {
    /// How much it may have.
    pub quotas: Quotas,
    /// Registered terminals.
    pub terminals: u64,
    /// Bytes of messages: of pushes that are kept, and retained.
    pub stored_bytes: u64,
}

/// A terminal, registered or lent a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminalRecord {
    /// Its number.
    pub no: TerminalNo,
    /// Its app.
    pub app: AppId,
    /// Its id.
    pub id: TerminalId,
    /// `(key, value)` sorted.
    pub tags: Vec<(String, String)>,
    /// Its alias.
    pub alias: Option<String>,
    /// Milliseconds since the epoch.
    pub registered_at_ms: u64,
    /// Its credentials issued up to this, seconds since the epoch, are void.
    pub revoked_until: u64,
}

/// A session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its id.
    pub session: SessionId,
    /// The edge that holds its connection, or held it last.
    pub edge: NodeId,
    /// That edge's life.
    pub incarnation: Incarnation,
    /// The connection there.
    pub connection: u64,
    /// Seconds it outlives its connection.
    pub expiry_s: u32,
    /// When its connection ended; absent: it has one.
    pub detached_at_ms: Option<u64>,
}

/// A push and how it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct PushRecord {
    /// What is delivered.
    pub message: Arc<Message>,
    /// Milliseconds since the epoch.
    pub accepted_at_ms: u64,
    /// Milliseconds since the epoch.
    pub expires_at_ms: u64,
    /// How it is handed out.
    pub options: PushOptions,
    /// How many terminals it is for.
    pub audience_len: u64,
    /// It is no longer handed out, and why.
    pub withdrawn: Option<Withdrawn>,
    /// The newest push that replaced it for somebody.
    pub replaced_by: Option<PushId>,
    /// Since when nothing is pending.
    pub settled_at_ms: Option<u64>,
    /// How far it is released; absent: it was released as it was accepted.
    pub release: Option<ReleaseRecord>,
}

/// How far a push is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseRecord {
    /// What becomes of the rest.
    pub phase: ReleasePhase,
    /// While it waits: when it goes on, milliseconds since the epoch.
    pub due_ms: u64,
    /// How many terminals it was released to.
    pub released: u64,
}

/// How many terminals of a push are in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// All of them: the sum of the others (I5).
    pub audience: u64,
    /// States that have any, in stored order; pending always.
    pub by_state: Vec<(State, u64)>,
    /// How many reported what, in the order of [`cluster_proto::AppReceipt::ALL`]: beside the states.
    pub reported: [u64; 2],
}

impl Counts {
    /// How many are in `state`.
    pub fn of(&self, state: State) -> u64 {
        self.by_state.iter().find(|(of, _)| *of == state).map_or(0, |(_, count)| *count)
    }
}

/// A push a terminal must still get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwedRow {
    /// Which, or the wave of it that this terminal is in.
    pub push: PushId,
    /// The push itself.
    pub of: PushId,
    /// It goes before ordinary ones.
    pub urgent: bool,
    /// Its subscription granted QoS 0 only.
    pub qos0: bool,
    /// Milliseconds since the epoch.
    pub expires_at_ms: u64,
}

/// Where the receipts of an app are posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookRecord {
    /// As it was set.
    pub webhook: Webhook,
    /// Another one whenever it is set.
    pub generation: u64,
    /// Milliseconds since the epoch.
    pub set_at_ms: u64,
    /// It answered that it is gone for good.
    pub is_gone: bool,
    /// What is before was taken.
    pub place: ReceiptCursor,
}

/// A page of retained messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RetainedPage {
    /// By topic; expiry in milliseconds since the epoch.
    pub messages: Vec<RetainedMessage>,
    /// There may be more after this topic. A page may be empty and yet not the last: it looks at a bounded number of
    /// topics.
    pub next: Option<String>,
}
