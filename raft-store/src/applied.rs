//! What apply answers to the proposer, one per command.

use cluster_proto::{
    AppId, PushId, SessionId, TerminalId, TerminalNo,
    link::{Outbound, Subscription},
};

/// The result of one applied command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Done, nothing to say.
    Done,
    /// This (edge, lane, seq) was applied before.
    Duplicate,
    /// A sequence was skipped: the edge must resume. The last one applied is given.
    Gap(u64),
    /// From a life of the edge that was declared ended.
    IncarnationOver,
    /// An app, new or there before.
    App(AppId),
    /// Terminals registered: their numbers in the order asked, and how many were new.
    Registered {
        /// In the order asked.
        nos: Vec<TerminalNo>,
        /// How many did not exist.
        new: u64,
    },
    /// A session as it is now; `None` where there is none left.
    Session {
        /// The terminal's number, if it has one.
        no: Option<TerminalNo>,
        /// The session.
        session: Option<SessionId>,
        /// It was there before this connection.
        present: bool,
        /// Seconds it outlives its connection.
        expiry_s: u32,
        /// All its subscriptions (for OpenSession; empty otherwise).
        subscriptions: Vec<Subscription>,
        /// Deliveries it goes on with (for OpenSession): first those that wait for PUBCOMP, in the order of their PUBREC,
        /// then those whose PUBLISH is sent again, in the order of the first.
        outbound: Vec<Outbound>,
        /// Inbound QoS 2 packet ids not released (for OpenSession).
        inbound: Vec<u16>,
        /// The place of this command among all that were applied, counted from 1: finer than the log index, because
        /// one entry holds many commands. What was retained at or before it is not sent live to a subscription made
        /// by it; see [`crate::Tables::retained`].
        index: u64,
    },
    /// A push, committed.
    Accepted {
        /// Its id.
        push: PushId,
        /// How many terminals it is for.
        audience: u64,
        /// The idempotency key, or the packet id of a QoS 2 PUBLISH, was known: this is the first answer.
        repeated: bool,
    },
    /// Refused; nothing changed.
    Refused(Refusal),
}

/// Why apply refuses a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No app of that number.
    #[error("no such app")]
    UnknownApp,
    /// These terminals are not registered (the first few).
    #[error("not registered: {}", .0.iter().map(TerminalId::as_str).collect::<Vec<_>>().join(", "))]
    UnknownTerminals(Vec<TerminalId>),
    /// No such push in that app.
    #[error("no push {0} in this app: it never was, or its retention is over")]
    UnknownPush(PushId),
    /// The idempotency key was used for a different request.
    #[error("idempotency key was used for a different request")]
    KeyReused,
    /// Most subscriptions of a session reached.
    #[error("too many subscriptions")]
    TooManySubscriptions,
    /// The session belongs to a newer connection, or is gone.
    #[error("the session belongs to a newer connection")]
    Stale,
    /// No such push in that app with a plan for its release.
    #[error("push {0} is not released in parts, or not in this app")]
    NoRelease(PushId),
    /// The app has no webhook whose secret could stay.
    #[error("the app has no webhook yet: its secret cannot stay as it is")]
    NoWebhook,
    /// Most retained messages, or bytes of them, of an app reached.
    #[error("too many retained messages")]
    RetainedQuota,
}
