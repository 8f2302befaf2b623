//! What CONNACK says.

use cluster_proto::link::Bound;

use super::{AUTH_METHOD, Context, Farewell, Session, connect::Opening};
use crate::mqtt::{
    action::{Action, MessageHandle},
    packet::{ConnAck, ConnAckProperties, Packet, ProtocolVersion},
    reason::Reason,
    size::connack_len,
};

/// A terminal that takes at least so much is told what it could take for granted, too.
const ROOMY: u32 = 256;
/// A CONNACK of MQTT 5 without properties.
const REFUSAL_LEN: u32 = 5;

impl<M: MessageHandle> Session<M> {
    pub(super) fn push_refusal(
        &self,
        reason: Reason,
        farewell: Farewell<'_>,
        packet_len_max: u32,
        out: &mut Vec<Action<M>>,
    ) {
        if self.cx.version.is_v5() && packet_len_max < REFUSAL_LEN {
            return; // [MQTT-3.1.2-24]: it is closed without a word
        }
        // [MQTT-3.2.2-19]: nothing that makes the packet larger than the terminal takes. 8 bytes hold everything else.
        let len = 8 + farewell.reference.map_or(0, |reference| 3 + reference.len());
        let referred = self.cx.version.is_v5() && len <= packet_len_max as usize;
        let properties = ConnAckProperties {
            reason_string: self.cx.reason_string(farewell.text, len, packet_len_max),
            server_reference: farewell.reference.filter(|_| referred).map(str::to_owned),
            ..ConnAckProperties::default()
        };
        let connack = ConnAck { session_present: false, reason, properties };
        out.push(Action::Send(Packet::ConnAck(Box::new(connack))));
    }
}

impl Context {
    /// What is agreed on, in seconds; 0: none.
    pub(super) fn keep_alive_s(&self, asked: u16) -> u16 {
        let max = self.config.keep_alive_s_max;
        let too_long = max > 0 && (asked == 0 || asked > max);
        if too_long && self.version.is_v5() { max } else { asked }
    }

    /// `None`: it would be larger than the terminal takes ([MQTT-3.1.2-24]).
    pub(super) fn connack(&self, opening: &Opening, bound: &Bound, keep_alive_s: u16) -> Option<ConnAck> {
        let mut properties = ConnAckProperties::default();
        if self.version.is_v5() {
            properties = self.connack_properties(opening, bound, keep_alive_s);
            if connack_len(&properties) > opening.packet_len_max as usize {
                // All that the terminal can do without.
                properties.topic_alias_maximum = None;
                properties.response_information = None;
            }
            if connack_len(&properties) > opening.packet_len_max as usize {
                return None;
            }
        }
        // In 3.1 the byte is reserved.
        let session_present = bound.session_present && self.version != ProtocolVersion::V31;
        Some(ConnAck { session_present, reason: Reason::SUCCESS, properties })
    }

    fn connack_properties(&self, opening: &Opening, bound: &Bound, keep_alive_s: u16) -> ConnAckProperties {
        let config = &self.config;
        let changed_expiry = bound.session_expiry_s != opening.session_expiry_s_asked;
        let assigned = opening.client_id.is_none().then_some(self.grant.as_ref()).flatten();
        let roomy = opening.packet_len_max >= ROOMY;
        let available = roomy.then_some(true);
        let response_information =
            config.response_information.clone().filter(|_| opening.response_information && roomy);
        ConnAckProperties {
            session_expiry_s: changed_expiry.then_some(bound.session_expiry_s),
            receive_maximum: Some(config.receive_maximum),
            // Absent: 2.
            maximum_qos: None,
            retain_available: available,
            packet_len_max: Some(config.packet_len_max),
            // [MQTT-3.2.2-16].
            assigned_client_id: assigned.map(|grant| grant.terminal.to_string()),
            topic_alias_maximum: (config.topic_alias_maximum > 0).then_some(config.topic_alias_maximum),
            reason_string: None,
            wildcard_available: available,
            subscription_ids_available: available,
            shared_available: available,
            // [MQTT-3.2.2-21].
            server_keep_alive_s: (keep_alive_s != opening.keep_alive_s_asked).then_some(keep_alive_s),
            response_information,
            server_reference: None,
            // [MQTT-4.12.0-5].
            authentication_method: self.enhanced.then(|| AUTH_METHOD.to_owned()),
        }
    }
}
