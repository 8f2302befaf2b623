//! What a session asks of its caller.

use bytes::Bytes;
use cluster_proto::{
    AppId, Message, Outcome, PushId, Qos, TerminalId, TerminalNo, Will,
    link::{After, AppReceipts, Step, Subscription, Unacknowledged, WillFate},
};

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
        /// Kept with the session.
        will: Option<Box<Will>>,
    },
    /// Write this packet.
    Send(Packet),
    /// Write this PUBLISH.
    Deliver(Delivery<M>),
    /// A QoS 1 or 2 PUBLISH: have it committed, then call `handle_published`.
    Accept(Box<Incoming>),
    /// PUBREL of a PUBLISH that was accepted with [`Incoming::exchange`]: have it committed, then call
    /// `handle_published`.
    Release {
        /// For the answer.
        request: RequestNo,
        /// Of the exchange.
        packet_id: u16,
    },
    /// What the application reports of pushes: have it committed, then call `handle_published` if there is a request.
    AppReceipts {
        /// For the answer; `None`: QoS 0, or there is none to wait for.
        request: Option<RequestNo>,
        /// `None`: a report that means nothing, to be counted.
        receipts: Option<Box<AppReceipts>>,
    },
    /// A QoS 0 PUBLISH: show it to whoever subscribes, without an answer; a retained one is kept besides.
    Relay(Box<Relay>),
    /// A step of an outbound QoS 2 exchange: have it committed, then call `handle_recorded` if there is a request.
    Step {
        /// For the answer, where something waits for it.
        request: Option<RequestNo>,
        /// Of the exchange.
        packet_id: u16,
        /// What happens.
        step: Step,
    },
    /// Ask for retained messages, then call `handle_retained`.
    Retained {
        /// For the answer.
        request: RequestNo,
        /// Valid and plain.
        filter: Box<str>,
        /// See [`cluster_proto::link::RetainedAsk::upto`].
        upto: u64,
        /// See [`cluster_proto::link::RetainedAsk::after`].
        after: Option<String>,
    },
    /// AUTH brought a fresh credential: check it, then call `handle_reauthenticated`.
    Reauthenticate(Bytes),
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
        /// The shared subscription group it was for; `None`: for the terminal itself.
        group: Option<TerminalNo>,
    },
    /// Ask the leader for what the terminal is owed, then call `handle_owed`.
    Pull {
        /// The last pushes queued here.
        after: After,
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
    /// The credential, if given: the password, or the data of enhanced authentication.
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
    /// The RETAIN flag: it was kept, or the subscription asks for the flag as published.
    pub retain: bool,
    /// Topic Alias, for MQTT 5.
    pub alias: Option<Alias>,
    /// To be told as the user property [`super::size::PUSH_PROPERTY`], for MQTT 5.
    pub push: Option<PushId>,
}

/// A topic alias of a PUBLISH to the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// From 1 to the terminal's Topic Alias Maximum.
    pub number: u16,
    /// The terminal knows it: the topic is left out.
    pub known: bool,
}

/// A QoS 1 or 2 PUBLISH from the terminal.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    /// For the answer.
    pub request: RequestNo,
    /// Checked.
    pub message: Message,
    /// From Message Expiry Interval.
    pub ttl_ms: Option<u64>,
    /// The packet id of a QoS 2 PUBLISH, in a session that outlives its connection.
    pub exchange: Option<u16>,
}

/// A QoS 0 PUBLISH from the terminal.
#[derive(Clone, Debug, PartialEq)]
pub struct Relay {
    /// Checked.
    pub message: Message,
    /// From Message Expiry Interval, in the caller's milliseconds.
    pub expires_at_ms: Option<u64>,
}

/// A retained message for a new subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept<M> {
    /// See [`PushId::retained`].
    pub id: PushId,
    /// What is kept.
    pub message: M,
    /// In the caller's milliseconds; `None`: never.
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
    /// The terminal gets it as a member of a shared subscription group.
    pub shared: Option<Shared>,
    /// It overtakes what is ordinary and not begun.
    pub urgent: bool,
}

/// For which shared subscription group a terminal gets a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The number of the group.
    pub group: TerminalNo,
    /// Granted to this member.
    pub granted: Qos,
}

/// How a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// Why.
    pub cause: CloseCause,
    /// Whether `handle_bound` had been called: the leader must be told. (An answer to Bind that comes later is the
    /// caller's to undo.)
    pub bound: bool,
    /// Seconds the session outlives the connection.
    pub session_expiry_s: u32,
    /// Of the will, if there is one.
    pub will: WillFate,
    /// Written with QoS 1 and not acknowledged, in a session that outlives the connection.
    pub unacknowledged: Vec<Unacknowledged>,
}
