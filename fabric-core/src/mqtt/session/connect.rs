//! From CONNECT to CONNACK.

use cluster_proto::{
    Qos, TerminalId,
    link::{Bound, RefuseReason},
};

use super::{Context, Live, Session, Stage};
use crate::mqtt::{
    action::{Action, Credentials, Grant, MessageHandle, Moment},
    packet::{ConnAck, ConnAckProperties, Connect, Malformed, Packet, ProtocolVersion},
    reason::{self, AuthRefusal, CloseCause, Reason},
};

/// What CONNECT asked for, until it is answered.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) deadline_ms: u64,
    /// `None`: it was empty, and the edge gives one.
    client_id: Option<TerminalId>,
    clean_start: bool,
    /// As asked, for CONNACK to tell the difference.
    session_expiry_s_asked: u32,
    /// At most the configured maximum.
    pub(super) session_expiry_s: u32,
    keep_alive_s_asked: u16,
    receive_maximum: u16,
    packet_len_max: u32,
}

/// Why a CONNECT is refused, with words for people.
type Refusal = (Reason, Option<&'static str>);

impl<M: MessageHandle> Session<M> {
    pub(super) fn handle_connect(
        &mut self,
        at: Moment,
        connect: Connect,
        random: u128,
        out: &mut Vec<Action<M>>,
    ) {
        self.cx.version = connect.version;
        match self.open(at, connect, random) {
            Ok((opening, credentials)) => {
                self.stage = Stage::Authenticating(Box::new(opening));
                out.push(Action::Authenticate(Box::new(credentials)));
            }
            Err((refusal, packet_len_max)) => self.refuse(refusal, packet_len_max, out),
        }
    }

    fn open(
        &self,
        at: Moment,
        connect: Connect,
        random: u128,
    ) -> Result<(Opening, Credentials), (Refusal, u32)> {
        let properties = &connect.properties;
        let packet_len_max = properties.packet_len_max.unwrap_or(u32::MAX);
        check(&connect).map_err(|refusal| (refusal, packet_len_max))?;
        let client_id = client_id(&connect).map_err(|refusal| (refusal, packet_len_max))?;
        let session_expiry_s_asked = session_expiry_asked(&connect, &self.cx);
        let opening = Opening {
            deadline_ms: at.ms.saturating_add(self.cx.config.bind_timeout_ms),
            client_id: client_id.clone(),
            clean_start: connect.clean_start,
            session_expiry_s_asked,
            session_expiry_s: session_expiry_s_asked.min(self.cx.config.session_expiry_s_max),
            keep_alive_s_asked: connect.keep_alive_s,
            receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
            packet_len_max,
        };
        let assigned_id = TerminalId::new(format!("auto-{random:032x}"))
            .map_err(|_| ((Reason::UNSPECIFIED_ERROR, None), packet_len_max))?;
        let (user_name, password) = (connect.user_name, connect.password);
        Ok((opening, Credentials { client_id, assigned_id, user_name, password }))
    }

    /// The answer to [`Action::Authenticate`].
    pub fn handle_authenticated(
        &mut self,
        at: Moment,
        result: Result<Grant, AuthRefusal>,
        out: &mut Vec<Action<M>>,
    ) {
        let Stage::Authenticating(opening) = &self.stage else { return };
        let grant = match result {
            Ok(grant) => grant,
            Err(refused) => return self.refuse((refused.reason(), None), u32::MAX, out),
        };
        let foreign = opening.client_id.as_ref().is_some_and(|id| *id != grant.terminal);
        self.cx.grant = Some(Box::new(grant));
        if foreign || self.cx.credential_expired(at.ms) {
            return self.refuse((Reason::NOT_AUTHORIZED, None), u32::MAX, out);
        }
        if let Stage::Authenticating(opening) = std::mem::replace(&mut self.stage, Stage::Closed) {
            let (clean_start, session_expiry_s) = (opening.clean_start, opening.session_expiry_s);
            self.stage = Stage::Binding(opening);
            out.push(Action::Bind { clean_start, session_expiry_s, will: None });
        }
    }

    /// The answer to [`Action::Bind`]: CONNACK, and what follows from it.
    pub fn handle_bound(
        &mut self,
        at: Moment,
        result: Result<Bound, RefuseReason>,
        out: &mut Vec<Action<M>>,
    ) {
        let Stage::Binding(opening) = &self.stage else { return };
        let bound = match result {
            Ok(bound) => bound,
            Err(refused) => return self.refuse((reason::refused_bind(refused), None), u32::MAX, out),
        };
        let keep_alive_s = self.cx.keep_alive_s(opening.keep_alive_s_asked);
        out.push(Action::Send(Packet::ConnAck(Box::new(self.cx.connack(opening, &bound, keep_alive_s)))));
        let window = opening.receive_maximum.min(self.cx.config.inflight_max);
        let mut live = Live::new(at, keep_alive_s, window, opening.packet_len_max, &bound);
        live.resume_subscriptions(bound.subscriptions, out);
        live.pull(out);
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
            return self.refuse((malformed.reason, Some(malformed.what)), u32::MAX, out);
        }
        self.end(CloseCause::Peer(malformed.reason), out);
    }

    /// CONNACK with an error, and the end.
    fn refuse(&mut self, (reason, text): Refusal, packet_len_max: u32, out: &mut Vec<Action<M>>) {
        let session_expiry_s = match std::mem::replace(&mut self.stage, Stage::Closed) {
            // Refused here, and perhaps bound already: the session then outlives the connection as it asked.
            Stage::Authenticating(opening) | Stage::Binding(opening) => opening.session_expiry_s,
            _ => 0,
        };
        self.push_refusal(reason, text, packet_len_max, out);
        self.push_close(CloseCause::Refused(reason), false, session_expiry_s, out);
    }

    pub(super) fn push_refusal(
        &self,
        reason: Reason,
        text: Option<&'static str>,
        packet_len_max: u32,
        out: &mut Vec<Action<M>>,
    ) {
        // [MQTT-3.2.2-19]: no Reason String that makes the packet larger than the terminal takes. 16 bytes hold
        // everything else.
        let fits = |text: &&str| self.cx.version.is_v5() && text.len() + 16 <= packet_len_max as usize;
        let reason_string = text.filter(fits).map(str::to_owned);
        let properties = ConnAckProperties { reason_string, ..ConnAckProperties::default() };
        out.push(Action::Send(Packet::ConnAck(Box::new(ConnAck {
            session_present: false,
            reason,
            properties,
        }))));
    }
}

fn check(connect: &Connect) -> Result<(), Refusal> {
    if connect.properties.authentication_method.is_some() {
        return Err((Reason::BAD_AUTHENTICATION_METHOD, None));
    }
    if connect.will.is_some() {
        // Refused rather than dropped in silence: whoever sets a will relies on it. 3.1.1 has no better code than
        // 0x03 (see `Reason::connack_v3`).
        return Err((
            Reason::IMPLEMENTATION_SPECIFIC,
            Some("will messages are not supported by this version"),
        ));
    }
    Ok(())
}

/// `None`: the edge gives an id.
fn client_id(connect: &Connect) -> Result<Option<TerminalId>, Refusal> {
    if !connect.client_id.is_empty() {
        let id = TerminalId::new(connect.client_id.as_str());
        return id.map(Some).map_err(|_| (Reason::CLIENT_ID_NOT_VALID, None));
    }
    match connect.version {
        ProtocolVersion::V5 => Ok(None),
        // [MQTT-3.1.3-7], [MQTT-3.1.3-8]: without an id only with Clean Session.
        ProtocolVersion::V311 if connect.clean_start => Ok(None),
        ProtocolVersion::V311 | ProtocolVersion::V31 => Err((Reason::CLIENT_ID_NOT_VALID, None)),
    }
}

fn session_expiry_asked(connect: &Connect, cx: &Context) -> u32 {
    match connect.version {
        ProtocolVersion::V5 => connect.properties.session_expiry_s.unwrap_or(0),
        _ if connect.clean_start => 0,
        _ => cx.config.session_expiry_s_max,
    }
}

impl Context {
    fn keep_alive_s(&self, asked: u16) -> u16 {
        let max = self.config.keep_alive_s_max;
        let too_long = max > 0 && (asked == 0 || asked > max);
        if too_long && self.version.is_v5() { max } else { asked }
    }

    fn connack(&self, opening: &Opening, bound: &Bound, keep_alive_s: u16) -> ConnAck {
        let properties = if self.version.is_v5() {
            self.connack_properties(opening, bound, keep_alive_s)
        } else {
            Default::default()
        };
        ConnAck { session_present: bound.session_present, reason: Reason::SUCCESS, properties }
    }

    fn connack_properties(&self, opening: &Opening, bound: &Bound, keep_alive_s: u16) -> ConnAckProperties {
        let changed_expiry = bound.session_expiry_s != opening.session_expiry_s_asked;
        let assigned = opening.client_id.is_none().then_some(self.grant.as_ref()).flatten();
        ConnAckProperties {
            session_expiry_s: changed_expiry.then_some(bound.session_expiry_s),
            receive_maximum: Some(self.config.receive_maximum),
            maximum_qos: Some(Qos::AtLeastOnce),
            retain_available: Some(false),
            packet_len_max: Some(self.config.packet_len_max),
            assigned_client_id: assigned.map(|grant| grant.terminal.to_string()),
            wildcard_available: Some(true),
            subscription_ids_available: Some(true),
            shared_available: Some(false),
            server_keep_alive_s: (keep_alive_s != opening.keep_alive_s_asked).then_some(keep_alive_s),
            // Topic Alias Maximum: absent is 0.
            ..ConnAckProperties::default()
        }
    }
}
