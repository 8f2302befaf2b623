//! What a session asks of its caller.

use bytes::Bytes;
use cluster_proto::{AppId, Message, Outcome, PushId, Qos, TerminalId, TerminalNo, link::Subscription};

use super::{packet::Packet, permissions::Permissions, reason::CloseCause};

/// A message on its way out. The session copies handles, never payloads; what the caller keeps behind the handle
/// (encoded PUBLISH packets) is its own affair.
pub trait MessageHandle: Clone {
    /// The message.
    fn message(&self) -> &Message;
}

impl MessageHandle for std::sync::Arc<Message> {
    fn message(&self) -> &Message {
        self
    }
}

/// When an input happens, and how much may be handed out because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds of the caller's clock; never goes back.
    pub ms: u64,
    /// Bytes of deliveries the connection takes now; one packet may go beyond. 0 while the output is full or the
    /// lease is over: then what arrives is queued, until [`super::Session::handle_writable`].
    pub room: usize,
}

/// Names a request of a session; unique within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestNo(pub u32);

/// What a session asks of its caller, to be done in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action<M> {
    /// Check this credential, then call `handle_authenticated`.
    Authenticate(Box<Credentials>),
    /// Ask the leader for a binding of the terminal in [`super::Session::grant`], then call `handle_bound`.
    Bind {
        /// Discard any session there is.
        clean_start: bool,
        /// Seconds the session shall outlive the connection.
        session_expiry_s: u32,
    },
    /// Write this packet.
    Send(Packet),
    /// Write this PUBLISH.
    Deliver(Delivery<M>),
    /// A QoS 1 PUBLISH: have it committed, then call `handle_published`.
    Accept(Box<Incoming>),
    /// A QoS 0 PUBLISH: show it to whoever subscribes, without an answer.
    Relay(Box<Relay>),
    /// Have these replicated, then call `handle_changed`.
    Subscribe {
        /// For the answer.
        request: RequestNo,
        /// Valid, with granted QoS.
        subscriptions: Vec<Subscription>,
    },
    /// Have these removed from the replicated session, then call `handle_changed`.
    Unsubscribe {
        /// For the answer.
        request: RequestNo,
        /// As subscribed.
        filters: Vec<String>,
    },
    /// From now on the terminal has a subscription of this filter: add it to the index.
    Subscribed {
        /// Valid and plain.
        filter: Box<str>,
        /// Kept by this edge alone: topic pushes are shown to it beside their audience.
        best_effort: bool,
    },
    /// The reverse of `Subscribed`; also emitted for each before `Close`.
    Unsubscribed {
        /// As in `Subscribed`.
        filter: Box<str>,
        /// As in `Subscribed`.
        best_effort: bool,
    },
    /// What became of a push; goes to the outbox.
    Receipt {
        /// The push.
        push: PushId,
        /// Witnessed.
        outcome: Outcome,
    },
    /// Ask the leader for what the terminal is owed, then call `handle_owed`.
    Pull {
        /// The last push queued here.
        after: PushId,
        /// At most so many.
        max: u16,
    },
    /// Write what was sent, close the connection, and end the binding if there is one. The last action.
    Close(Close),
}

/// What CONNECT said about who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// As sent; `None` if it was empty: then a credential's terminal is used, or for anonymous clients `assigned_id`.
    pub client_id: Option<TerminalId>,
    /// Free to give to a client without an id.
    pub assigned_id: TerminalId,
    /// The app's name, if given.
    pub user_name: Option<String>,
    /// The credential, if given.
    pub password: Option<Bytes>,
}

/// Who a terminal is and what it may do: the answer to [`Action::Authenticate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its app.
    pub app: AppId,
    /// Its id.
    pub terminal: TerminalId,
    /// From the credential.
    pub no: Option<TerminalNo>,
    /// Seconds since the epoch; 0 if anonymous.
    pub credential_issued_at: u64,
    /// When the connection must end, in the caller's milliseconds.
    pub expires_at_ms: Option<u64>,
    /// What it may publish and subscribe to.
    pub permissions: Permissions,
}

/// A PUBLISH to the terminal.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery<M> {
    /// What.
    pub message: M,
    /// Effective.
    pub qos: Qos,
    /// 0 with QoS 0.
    pub packet_id: u16,
    /// May have been sent before.
    pub dup: bool,
    /// Message Expiry Interval, for MQTT 5.
    pub expiry_s: Option<u32>,
    /// Of matching subscriptions, for MQTT 5.
    pub subscription_ids: Box<[u32]>,
}

/// A QoS 1 PUBLISH from the terminal.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    /// For the answer.
    pub request: RequestNo,
    /// Checked.
    pub message: Message,
    /// From Message Expiry Interval.
    pub ttl_ms: Option<u64>,
}

/// A QoS 0 PUBLISH from the terminal.
#[derive(Clone, Debug, PartialEq)]
pub struct Relay {
    /// Checked.
    pub message: Message,
    /// From Message Expiry Interval, in the caller's milliseconds.
    pub expires_at_ms: Option<u64>,
}

/// A push for a live terminal, or one of those it is owed.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued<M> {
    /// Which.
    pub push: PushId,
    /// `None`: not here yet, `handle_payload` follows. What is queued behind it waits, so that order holds.
    pub message: Option<M>,
    /// Its subscription granted QoS 0 only.
    pub qos0: bool,
    /// May have been sent before.
    pub dup: bool,
    /// After this it is not written any more.
    pub expires_at_ms: Option<u64>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// Why.
    pub cause: CloseCause,
    /// Whether `handle_bound` had been called: the leader must be told. (An answer to Bind that comes later is the
    /// caller's to undo.)
    pub bound: bool,
    /// Seconds the session outlives the connection.
    pub session_expiry_s: u32,
}
