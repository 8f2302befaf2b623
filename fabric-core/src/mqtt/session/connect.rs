//! From CONNECT to CONNACK.

use cluster_proto::{
    TerminalId,
    link::{Bound, RefuseReason},
};

use super::{Context, Farewell, Live, Session, Stage, auth, will};
use crate::mqtt::{
    action::{Action, Close, Credentials, Grant, MessageHandle, Moment, Queued},
    aliases,
    packet::{Connect, Malformed, Packet, ProtocolVersion, Will},
    reason::{self, AuthRefusal, CloseCause, Reason},
    size::PUSH_PROPERTY_ASKED,
};

/// What CONNECT asked for, until it is answered.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) deadline_ms: u64,
    /// `None`: it was empty, and the edge gives one.
    pub(super) client_id: Option<TerminalId>,
    clean_start: bool,
    will: Option<Box<Will>>,
    /// As asked, for CONNACK to tell the difference.
    pub(super) session_expiry_s_asked: u32,
    /// At most the configured maximum.
    pub(super) session_expiry_s: u32,
    pub(super) keep_alive_s_asked: u16,
    receive_maximum: u16,
    pub(super) packet_len_max: u32,
    alias_maximum: u16,
    asks_for_push: bool,
    pub(super) response_information: bool,
}

impl<M: MessageHandle> Session<M> {
    pub(super) fn handle_connect(
        &mut self,
        at: Moment,
        connect: Connect,
        random: u128,
        out: &mut Vec<Action<M>>,
    ) {
        self.cx.version = connect.version;
        self.cx.problem_information = connect.properties.request_problem_information.unwrap_or(true);
        self.cx.enhanced = connect.properties.authentication_method.is_some();
        let packet_len_max = connect.properties.packet_len_max.unwrap_or(u32::MAX);
        match self.open(at, connect, random) {
            Ok((opening, credentials)) => {
                self.stage = Stage::Authenticating(Box::new(opening));
                out.push(Action::Authenticate(Box::new(credentials)));
            }
            // Before MQTT 5 no return code says what is wrong with the packet itself: it is closed without ([MQTT-3.2.2-6]).
            Err(reason) if !self.cx.version.is_v5() && reason.is_about_the_packet() => {
                self.end(CloseCause::Peer(reason), out);
            }
            Err(reason) => self.refuse(reason, Farewell::default(), packet_len_max, out),
        }
    }

    fn open(&self, at: Moment, mut connect: Connect, random: u128) -> Result<(Opening, Credentials), Reason> {
        let password = auth::credential(&mut connect)?;
        connect.will.as_deref().map_or(Ok(()), will::check)?;
        let client_id = client_id(&connect)?;
        let assigned_id =
            TerminalId::new(format!("auto-{random:032x}")).map_err(|_| Reason::UNSPECIFIED_ERROR)?;
        let properties = &connect.properties;
        let session_expiry_s_asked = session_expiry_asked(&connect, &self.cx);
        let opening = Opening {
            deadline_ms: at.ms.saturating_add(self.cx.config.bind_timeout_ms),
            client_id: client_id.clone(),
            clean_start: connect.clean_start,
            session_expiry_s_asked,
            session_expiry_s: session_expiry_s_asked.min(self.cx.config.session_expiry_s_max),
            keep_alive_s_asked: connect.keep_alive_s,
            receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
            packet_len_max: properties.packet_len_max.unwrap_or(u32::MAX),
            alias_maximum: properties.topic_alias_maximum.unwrap_or(0).min(aliases::GIVEN_MAX),
            asks_for_push: properties
                .user_properties
                .iter()
                .any(|(name, value)| name == PUSH_PROPERTY_ASKED && value == "1"),
            response_information: properties.request_response_information.unwrap_or(false),
            will: connect.will,
        };
        Ok((opening, Credentials { client_id, assigned_id, user_name: connect.user_name, password }))
    }

    /// The answer to [`Action::Authenticate`].
    pub fn handle_authenticated(
        &mut self,
        at: Moment,
        result: Result<Grant, AuthRefusal>,
        out: &mut Vec<Action<M>>,
    ) {
        let Stage::Authenticating(opening) = &mut self.stage else { return };
        let packet_len_max = opening.packet_len_max;
        let checked = result.map_err(AuthRefusal::reason).and_then(|grant| {
            if opening.client_id.as_ref().is_some_and(|id| *id != grant.terminal) {
                return Err(Reason::NOT_AUTHORIZED);
            }
            let will = opening.will.take().map(|will| will::keep(*will, &grant)).transpose()?;
            Ok((grant, will.map(Box::new)))
        });
        let (grant, will) = match checked {
            Ok(checked) => checked,
            Err(reason) => return self.refuse(reason, Farewell::default(), packet_len_max, out),
        };
        self.cx.grant = Some(Box::new(grant));
        if self.cx.credential_expired(at.ms) {
            return self.refuse(Reason::NOT_AUTHORIZED, Farewell::default(), packet_len_max, out);
        }
        if let Stage::Authenticating(opening) = std::mem::replace(&mut self.stage, Stage::Closed) {
            let (clean_start, session_expiry_s) = (opening.clean_start, opening.session_expiry_s);
            self.stage = Stage::Binding(opening);
            out.push(Action::Bind { clean_start, session_expiry_s, will });
        }
    }

    /// The answer to [`Action::Bind`]: CONNACK, and what follows from it. The pushes are those of [`Bound::outbound`], in
    /// the same order; one without a message is waited for, like any other.
    pub fn handle_bound(
        &mut self,
        at: Moment,
        result: Result<(Bound, Vec<Queued<M>>), RefuseReason>,
        out: &mut Vec<Action<M>>,
    ) {
        let Stage::Binding(opening) = &self.stage else { return };
        let (bound, outbound) = match result {
            Ok(bound) => bound,
            Err(refused) => {
                let packet_len_max = opening.packet_len_max;
                let reason = reason::refused_bind(refused);
                return self.refuse(reason, Farewell::default(), packet_len_max, out);
            }
        };
        let keep_alive_s = self.cx.keep_alive_s(opening.keep_alive_s_asked);
        let Some(connack) = self.cx.connack(opening, &bound, keep_alive_s) else {
            let packet_len_max = opening.packet_len_max;
            return self.refuse(Reason::PACKET_TOO_LARGE, Farewell::default(), packet_len_max, out);
        };
        out.push(Action::Send(Packet::ConnAck(Box::new(connack))));
        let window = opening.receive_maximum.min(self.cx.config.inflight_max);
        let mut live = Live::new(at, keep_alive_s, window, opening.packet_len_max, &bound);
        live.alias_maximum = opening.alias_maximum;
        live.asks_for_push = opening.asks_for_push;
        live.resume(bound, outbound, out);
        live.give_up_forbidden(&self.cx, out);
        live.flush(&self.cx, at, out);
        self.stage = Stage::Live(live);
    }

    /// CONNECT itself was malformed, or not a CONNECT.
    pub(super) fn refuse_first_packet(&mut self, malformed: Malformed, out: &mut Vec<Action<M>>) {
        let answered = match malformed.version {
            Some(version) => {
                self.cx.version = version;
                // 3.1.1 answers nothing but an unsupported version ([MQTT-3.1.2-2], [MQTT-3.1.4-1]).
                version.is_v5() || malformed.reason == Reason::UNSUPPORTED_VERSION
            }
            None => false,
        };
        if answered {
            return self.refuse(malformed.reason, Farewell::because(malformed.what), u32::MAX, out);
        }
        self.end(CloseCause::Peer(malformed.reason), out);
    }

    /// CONNACK with an error, and the end.
    fn refuse(
        &mut self,
        reason: Reason,
        farewell: Farewell<'_>,
        packet_len_max: u32,
        out: &mut Vec<Action<M>>,
    ) {
        let session_expiry_s = match std::mem::replace(&mut self.stage, Stage::Closed) {
            // Refused here, and perhaps bound already: the session then outlives the connection as it asked.
            Stage::Authenticating(opening) | Stage::Binding(opening) => opening.session_expiry_s,
            _ => 0,
        };
        self.push_refusal(reason, farewell, packet_len_max, out);
        out.push(Action::Close(Close::unbound(CloseCause::Refused(reason), session_expiry_s)));
    }
}

/// `None`: the edge gives an id.
fn client_id(connect: &Connect) -> Result<Option<TerminalId>, Reason> {
    if !connect.client_id.is_empty() {
        return TerminalId::new(connect.client_id.as_str())
            .map(Some)
            .map_err(|_| Reason::CLIENT_ID_NOT_VALID);
    }
    match connect.version {
        ProtocolVersion::V5 => Ok(None),
        // [MQTT-3.1.3-7], [MQTT-3.1.3-8] of 3.1.1: without an id only with Clean Session.
        ProtocolVersion::V311 if connect.clean_start => Ok(None),
        ProtocolVersion::V311 | ProtocolVersion::V31 => Err(Reason::CLIENT_ID_NOT_VALID),
    }
}

fn session_expiry_asked(connect: &Connect, cx: &Context) -> u32 {
    match connect.version {
        ProtocolVersion::V5 => connect.properties.session_expiry_s.unwrap_or(0),
        _ if connect.clean_start => 0,
        _ => cx.config.session_expiry_s_max,
    }
}
