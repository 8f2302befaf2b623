//! Hints from apply to whoever acts as leader. The tables are the truth: a lost hint costs a rescan, never work
//! (I7). Push ids are consecutive, so a gap in [`Effect::Accepted`] shows what to read from the tables.

use std::sync::Arc;

use cluster_proto::{AppId, Message, PushId, TerminalId, TerminalNo, TerminalSet};

/// Something apply did that the leader may act upon.
#[derive(Clone, Debug)]
pub enum Effect {
    /// A push was accepted.
    Accepted(Arc<AcceptedPush>),
    /// A push was cancelled: edges that hold it in flight must be asked.
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
    /// Apps changed.
    AppsChanged,
    /// Terminals were deleted: their connections end.
    Deleted {
        /// Of this app.
        app: AppId,
        /// With the numbers they had.
        terminals: Vec<(TerminalNo, TerminalId)>,
        /// Their credentials issued up to this are void, seconds since the epoch.
        issued_until: u64,
    },
}

/// An accepted push as the dispatcher needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptedPush {
    /// Its id; of a part of a push that is released in waves, the id of the wave.
    pub push: PushId,
    /// The push itself.
    pub of: PushId,
    /// What to deliver.
    pub message: Arc<Message>,
    /// Everyone still pending when this was made.
    pub pending: TerminalSet,
    /// It is for everyone who subscribes to its topic: those with best-effort subscriptions are shown it too.
    pub shown: bool,
    /// Those of the audience whose subscription granted QoS 0 only.
    pub qos0: TerminalSet,
    /// Milliseconds since the epoch.
    pub expires_at_ms: u64,
    /// It overtakes ordinary ones.
    pub urgent: bool,
    /// There are older ones with its collapse key to be replaced.
    pub collapses: bool,
}
