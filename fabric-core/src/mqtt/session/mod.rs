//! The MQTT session machine of one connection of one terminal.

mod app_receipt;
mod auth;
mod connack;
mod connect;
mod deliver;
mod exchange;
mod flush;
mod live;
mod publish;
mod resume;
mod retain;
mod subscribe;
mod will;

use std::sync::Arc;

use cluster_proto::{
    PushId, SessionId, TerminalNo,
    limits::{
        INFLIGHT_PER_TERMINAL_MAX, MQTT_PACKET_LEN_MAX, SESSION_EXPIRY_MAX, SUBSCRIPTIONS_PER_SESSION_MAX,
    },
    link::{PublishOutcome, RefuseReason, UnbindReason, WillFate},
};

pub use self::auth::AUTH_METHOD;

use self::{connect::Opening, live::Live};
use super::{
    action::{Action, Close, Grant, MessageHandle, Moment, RequestNo},
    packet::{Disconnect, Malformed, Packet, ProtocolVersion},
    reason::{CloseCause, Reason},
};

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Time from the network connection to CONNECT.
    pub connect_timeout_ms: u64,
    /// Time from CONNECT to the binding; then CONNECT is refused as server unavailable.
    pub bind_timeout_ms: u64,
    /// Longest keep alive; 0: any, and none. Only MQTT 5 can be told of a shorter one, so only there it is enforced.
    pub keep_alive_s_max: u16,
    /// Longest session expiry; what 3.1.1 sessions without Clean Session get.
    pub session_expiry_s_max: u32,
    /// Largest packet taken.
    pub packet_len_max: u32,
    /// QoS 1 and 2 PUBLISH packets of one terminal whose exchange is not over.
    pub receive_maximum: u16,
    /// Pushes handed to one terminal and not acknowledged; its own Receive Maximum lowers it.
    pub inflight_max: u16,
    /// Topic aliases a terminal may use.
    pub topic_alias_maximum: u16,
    /// Most subscriptions of a session.
    pub subscriptions_max: usize,
    /// What an MQTT 5 terminal is told that asks for Response Information.
    pub response_information: Option<String>,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 10_000,
            bind_timeout_ms: 10_000,
            keep_alive_s_max: 0,
            session_expiry_s_max: SESSION_EXPIRY_MAX.as_secs() as u32,
            packet_len_max: MQTT_PACKET_LEN_MAX as u32,
            receive_maximum: 128,
            inflight_max: INFLIGHT_PER_TERMINAL_MAX as u16,
            topic_alias_maximum: 32,
            subscriptions_max: SUBSCRIPTIONS_PER_SESSION_MAX,
            response_information: None,
        }
    }
}

/// What a first or later subscription made of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The terminal's number.
    pub no: TerminalNo,
    /// The replicated session.
    pub session: SessionId,
    /// Pushes and retained messages from this place in the log on reach the new subscriptions live.
    pub index: u64,
}

/// Which subscriptions a message without status is shown to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matching {
    /// All: a QoS 0 message.
    Any,
    /// Those that this edge alone keeps: a topic push beside its audience.
    BestEffort,
    /// Shared ones: a QoS 0 message of which this terminal was chosen as the member that gets it.
    Shared,
}

/// What became of a message without status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Handed out.
    Delivered,
    /// The connection cannot take it now, it is too large for the terminal, or it has expired: dropped, to be counted.
    Dropped,
    /// No subscription wants it (No Local, or it has just been given up).
    NotWanted,
}

/// The MQTT session machine of one connection of one terminal. Pure: see the contract of a core in the crate's
/// documentation.
///
/// ```text
///                CONNECT                handle_authenticated        handle_bound
///  AwaitConnect ─────────► Authenticating ─────────► Binding ─────────► Live
///       │  time-out, bad        │ refused               │ refused        │ DISCONNECT, lost, time-out,
///       │  bytes                │ CONNACK               │ CONNACK        │ broken rule, taken over …
///       ▼                       ▼                       ▼                ▼
///     Closed ◄──────────────────┴───────────────────────┴────────────────┘
/// ```
/// - *Inputs* are the `handle_*` methods, `withdraw`, `show`, `link_*` and `close`. After `Closed` all of them do nothing.
/// - *Outputs* are pushed to `out`, and have to be done in order. [`Action::Close`] is the last.
/// - *Back-pressure*: read packets only while [`Session::may_read`]; deliveries respect [`Moment::room`], and while
///   [`Session::has_waiting`] the caller calls [`Session::handle_writable`] when there is room again.
/// - *Time*: call [`Session::handle_timeout`] at [`Session::deadline`], or later, or in vain.
/// - *Receipts*: Delivered only after the terminal's PUBACK or PUBREC (I2). A connection that ends leaves what is in
///   flight owed, without a receipt: nobody knows whether it arrived. Only what was withdrawn is answered then (Sent).
/// - *Exactly once*: in a session that outlives its connection each step of a QoS 2 exchange is committed before the
///   packet that follows from it is written ([`Action::Step`], [`Action::Release`]); otherwise memory is enough.
#[derive(Debug)]
pub struct Session<M> {
    cx: Context,
    stage: Stage<M>,
}

/// What is fixed once known.
#[derive(Debug)]
struct Context {
    config: Arc<SessionConfig>,
    version: ProtocolVersion,
    /// From authentication on.
    grant: Option<Box<Grant>>,
    /// CONNECT had Authentication Method [`AUTH_METHOD`].
    enhanced: bool,
    /// Request Problem Information: reason strings are welcome.
    problem_information: bool,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every connection is live: a box would only add an allocation to each"
)]
enum Stage<M> {
    AwaitConnect { deadline_ms: u64, random: u128 },
    Authenticating(Box<Opening>),
    Binding(Box<Opening>),
    Live(Live<M>),
    Closed,
}

impl<M: MessageHandle> Session<M> {
    /// A connection that was just opened. `random` becomes the id of a client that has none.
    pub fn new(config: Arc<SessionConfig>, now_ms: u64, random: u128) -> Self {
        let deadline_ms = now_ms.saturating_add(config.connect_timeout_ms);
        let cx = Context {
            config,
            version: ProtocolVersion::V311,
            grant: None,
            enhanced: false,
            problem_information: true,
        };
        Self { cx, stage: Stage::AwaitConnect { deadline_ms, random } }
    }

    // ------------------------------------------------------------ questions

    /// The version packets have to be written in; meaningless before CONNECT.
    pub fn version(&self) -> ProtocolVersion {
        self.cx.version
    }

    /// The version to decode packets in; `None` before CONNECT, which tells it.
    pub fn decode_version(&self) -> Option<ProtocolVersion> {
        (!matches!(self.stage, Stage::AwaitConnect { .. })).then_some(self.cx.version)
    }

    /// Who it is, from authentication on (after `Closed` too).
    pub fn grant(&self) -> Option<&Grant> {
        self.cx.grant.as_deref()
    }

    /// Whether CONNACK was sent and the connection is open.
    pub fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live(_))
    }

    /// Whether everything is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed)
    }

    /// Whether the next packet may be decoded. If not, bytes stay where they are until an answer has come.
    pub fn may_read(&self) -> bool {
        match &self.stage {
            Stage::AwaitConnect { .. } => true,
            Stage::Live(live) => live.may_read(&self.cx),
            Stage::Authenticating(_) | Stage::Binding(_) | Stage::Closed => false,
        }
    }

    /// Whether deliveries wait for room in the connection.
    pub fn has_waiting(&self) -> bool {
        self.live().is_some_and(Live::has_waiting)
    }

    /// The terminal's number, once it has one.
    pub fn no(&self) -> Option<TerminalNo> {
        self.live().map_or_else(|| self.grant().and_then(|grant| grant.no), |live| live.no)
    }

    /// The replicated session, once there is one.
    pub fn session(&self) -> Option<SessionId> {
        self.live().and_then(|live| live.session)
    }

    /// The last ordinary push queued here.
    pub fn after(&self) -> PushId {
        self.live().map_or(PushId(0), |live| live.deliveries.after.ordinary)
    }

    /// Pushes handed to this connection and not settled: written and not acknowledged, and queued; with the shared
    /// subscription group a push is held for. For Resume.
    pub fn in_flight(&self) -> impl Iterator<Item = (PushId, Option<TerminalNo>)> + '_ {
        self.live().into_iter().flat_map(Live::in_flight)
    }

    /// The subscriptions that are in effect: filter as subscribed, and whether this edge alone keeps it.
    pub fn subscriptions(&self) -> impl Iterator<Item = (&str, bool)> + '_ {
        self.live()
            .into_iter()
            .flat_map(|live| live.subscriptions.iter().map(|held| (&*held.filter, held.best_effort)))
    }

    /// When to call [`Session::handle_timeout`]. Ask again after every input.
    pub fn deadline(&self) -> Option<u64> {
        match &self.stage {
            Stage::AwaitConnect { deadline_ms, .. } => Some(*deadline_ms),
            Stage::Authenticating(opening) | Stage::Binding(opening) => Some(opening.deadline_ms),
            Stage::Live(live) => live.deadline(&self.cx),
            Stage::Closed => None,
        }
    }

    // ------------------------------------------------------------ the terminal

    /// A packet came. Only while [`Session::may_read`]: the connection is closed otherwise.
    pub fn handle_packet(&mut self, at: Moment, packet: Packet, out: &mut Vec<Action<M>>) {
        let result = match &mut self.stage {
            Stage::AwaitConnect { random, .. } => match packet {
                Packet::Connect(connect) => {
                    let random = *random;
                    return self.handle_connect(at, *connect, random, out);
                }
                // [MQTT-3.1.0-1]: the first packet is CONNECT.
                _ => Err(CloseCause::Peer(Reason::PROTOCOL_ERROR)),
            },
            Stage::Authenticating(_) | Stage::Binding(_) => Err(CloseCause::Peer(Reason::PROTOCOL_ERROR)),
            Stage::Live(live) => live.handle_packet(&self.cx, at, packet, out),
            Stage::Closed => return,
        };
        self.end_if_err(result, out);
    }

    /// Bytes came that are no packet.
    pub fn handle_malformed(&mut self, malformed: Malformed, out: &mut Vec<Action<M>>) {
        if let Stage::AwaitConnect { .. } = self.stage {
            return self.refuse_first_packet(malformed, out);
        }
        self.end_with(CloseCause::Peer(malformed.reason), Farewell::because(malformed.what), out);
    }

    /// The connection ended without DISCONNECT.
    pub fn handle_connection_lost(&mut self, out: &mut Vec<Action<M>>) {
        self.end(CloseCause::ConnectionLost, out);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, at: Moment, out: &mut Vec<Action<M>>) {
        if self.deadline().is_none_or(|deadline_ms| at.ms < deadline_ms) {
            return;
        }
        let cause = match &self.stage {
            Stage::AwaitConnect { .. } => CloseCause::ConnectTimeout,
            Stage::Authenticating(_) | Stage::Binding(_) => CloseCause::Refused(Reason::SERVER_UNAVAILABLE),
            Stage::Live(_) if self.cx.credential_expired(at.ms) => CloseCause::CredentialExpired,
            Stage::Live(_) => CloseCause::KeepAliveTimeout,
            Stage::Closed => return,
        };
        self.end(cause, out);
    }

    /// Ends the connection for a reason of ours. A CONNECT that was not answered yet is refused.
    pub fn close(&mut self, cause: CloseCause, out: &mut Vec<Action<M>>) {
        self.end(cause, out);
    }

    /// Ends the connection for a reason of ours, and tells an MQTT 5 terminal where else to go ([`CloseCause::UseAnotherServer`],
    /// [`CloseCause::ServerMoved`]).
    pub fn redirect(&mut self, cause: CloseCause, reference: Option<&str>, out: &mut Vec<Action<M>>) {
        self.end_with(cause, Farewell { text: None, reference }, out);
    }

    /// The leader ended the binding.
    pub fn handle_unbind(&mut self, reason: UnbindReason, out: &mut Vec<Action<M>>) {
        self.end(CloseCause::Unbound(reason), out);
    }

    // ------------------------------------------------------------ answers

    /// The answer to [`Action::Accept`] and [`Action::Release`].
    pub fn handle_published(
        &mut self,
        at: Moment,
        request: RequestNo,
        result: Result<PublishOutcome, RefuseReason>,
        out: &mut Vec<Action<M>>,
    ) {
        let Stage::Live(live) = &mut self.stage else { return };
        let result = live.handle_published(&self.cx, at, request, result, out);
        self.end_if_err(result, out);
    }

    /// The answer to [`Action::Subscribe`] and [`Action::Unsubscribe`].
    pub fn handle_changed(
        &mut self,
        at: Moment,
        request: RequestNo,
        result: Result<Changed, RefuseReason>,
        out: &mut Vec<Action<M>>,
    ) {
        let Stage::Live(live) = &mut self.stage else { return };
        let result = live.handle_changed(&self.cx, at, request, result, out);
        self.end_if_err(result, out);
    }

    // ------------------------------------------------------------ the end

    fn live(&self) -> Option<&Live<M>> {
        match &self.stage {
            Stage::Live(live) => Some(live),
            _ => None,
        }
    }

    fn live_mut(&mut self) -> Option<(&Context, &mut Live<M>)> {
        match &mut self.stage {
            Stage::Live(live) => Some((&self.cx, live)),
            _ => None,
        }
    }

    fn end_if_err(&mut self, result: Result<(), CloseCause>, out: &mut Vec<Action<M>>) {
        if let Err(cause) = result {
            self.end(cause, out);
        }
    }

    fn end(&mut self, cause: CloseCause, out: &mut Vec<Action<M>>) {
        self.end_with(cause, Farewell::default(), out);
    }

    /// Says good-bye as the version has it, settles what has to be, and closes.
    fn end_with(&mut self, cause: CloseCause, farewell: Farewell<'_>, out: &mut Vec<Action<M>>) {
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Closed => {}
            Stage::AwaitConnect { .. } => out.push(Action::Close(Close::unbound(cause, 0))),
            Stage::Authenticating(opening) | Stage::Binding(opening) => {
                if let Some(reason) = cause.connack_reason() {
                    self.push_refusal(reason, farewell, opening.packet_len_max, out);
                }
                // The answer to the Bind may be on its way: the session then outlives this connection as it asked.
                out.push(Action::Close(Close::unbound(cause, opening.session_expiry_s)));
            }
            Stage::Live(live) => {
                let is_told = self.cx.version.is_v5() && live.packet_len_max >= DISCONNECT_LEN;
                if let Some(reason) = cause.disconnect_reason().filter(|_| is_told) {
                    out.push(self.cx.disconnect(reason, farewell, live.packet_len_max));
                }
                let close = live.settle(cause, out);
                out.push(Action::Close(close));
            }
        }
    }
}

impl Close {
    /// The end of a connection that was never told that it is bound. Its will was not accepted ([MQTT-3.1.2-7]).
    fn unbound(cause: CloseCause, session_expiry_s: u32) -> Self {
        let (bound, will) = (false, WillFate::Discard);
        Self { cause, bound, session_expiry_s, will, unacknowledged: Vec::new() }
    }
}

/// A DISCONNECT with a reason code and no properties.
const DISCONNECT_LEN: u32 = 4;

/// What an MQTT 5 terminal is told beside the reason code.
#[derive(Clone, Copy, Debug, Default)]
struct Farewell<'a> {
    /// For people.
    text: Option<&'a str>,
    /// Where else to go.
    reference: Option<&'a str>,
}

impl<'a> Farewell<'a> {
    fn because(text: &'a str) -> Self {
        Self { text: Some(text), reference: None }
    }
}

impl Context {
    fn credential_expired(&self, now_ms: u64) -> bool {
        self.grant.as_ref().and_then(|grant| grant.expires_at_ms).is_some_and(|expires| expires <= now_ms)
    }

    /// A Reason String, if it is welcome and fits beside `len` other bytes ([MQTT-3.1.2-29], [MQTT-3.14.2-3]).
    fn reason_string(&self, text: Option<&str>, len: usize, packet_len_max: u32) -> Option<String> {
        let fits = |text: &&str| len + 3 + text.len() <= packet_len_max as usize;
        text.filter(|_| self.problem_information && self.version.is_v5()).filter(fits).map(str::to_owned)
    }

    fn disconnect<M>(&self, reason: Reason, farewell: Farewell<'_>, packet_len_max: u32) -> Action<M> {
        // Fixed header, reason and length of the properties: below 6 bytes.
        let len = 6 + farewell.reference.map_or(0, |reference| 3 + reference.len());
        let reason_string = self.reason_string(farewell.text, len, packet_len_max);
        let server_reference =
            farewell.reference.filter(|_| len <= packet_len_max as usize).map(str::to_owned);
        let session_expiry_s = None;
        let disconnect = Disconnect { reason, session_expiry_s, reason_string, server_reference };
        Action::Send(Packet::Disconnect(Box::new(disconnect)))
    }
}
