//! How many bytes packets take on the wire: what Maximum Packet Size and the room of a connection are held against.

use bytes::Bytes;
use cluster_proto::{Message, PushId, Qos};

use super::{
    action::Alias,
    packet::{ConnAckProperties, ProtocolVersion},
};

/// Bytes of the property Topic Alias.
pub const ALIAS_LEN: usize = 3;

/// The user property of a PUBLISH that tells a terminal the push id, in decimal.
pub const PUSH_PROPERTY: &str = "carillon-push";
/// The user property of a CONNECT that asks for it, if it is `1`.
pub const PUSH_PROPERTY_ASKED: &str = "carillon-push-id";

/// What a PUBLISH of MQTT 5 has that is its terminal's own; empty before MQTT 5.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnProperties<'a> {
    /// Of matching subscriptions.
    pub subscription_ids: &'a [u32],
    /// In the place of the topic, or beside it.
    pub alias: Option<Alias>,
    /// Told to terminals that ask for it.
    pub push: Option<PushId>,
}

impl OwnProperties<'_> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.subscription_ids.is_empty() && self.alias.is_none() && self.push.is_none()
    }

    /// Their bytes.
    pub fn len(&self) -> usize {
        let push =
            |push: PushId| 5 + PUSH_PROPERTY.len() + push.0.checked_ilog10().map_or(1, |n| n as usize + 1);
        let alias = if self.alias.is_some() { ALIAS_LEN } else { 0 };
        let ids = self.subscription_ids.iter().map(|id| 1 + varint_len(*id as usize)).sum::<usize>();
        ids + alias + self.push.map_or(0, push)
    }
}

/// Bytes of a PUBLISH, fixed header included.
pub fn publish_len(
    message: &Message,
    version: ProtocolVersion,
    qos: Qos,
    has_expiry: bool,
    own: OwnProperties<'_>,
) -> usize {
    let packet_id = if qos == Qos::AtMostOnce { 0 } else { 2 };
    let properties = if version.is_v5() {
        let len = properties_len(message, has_expiry) + own.len();
        varint_len(len) + len
    } else {
        0
    };
    let topic = if own.alias.is_some_and(|alias| alias.known) { 0 } else { message.topic.len() };
    let remaining = 2 + topic + packet_id + properties + message.payload.len();
    1 + varint_len(remaining) + remaining
}

/// Bytes of the MQTT 5 properties that a PUBLISH has to any terminal, without their own length.
pub fn properties_len(message: &Message, has_expiry: bool) -> usize {
    let p = &message.properties;
    let text = |s: &Option<String>| s.as_ref().map_or(0, |s| 3 + s.len());
    usize::from(p.payload_is_utf8.is_some()) * 2
        + usize::from(has_expiry) * 5
        + text(&p.content_type)
        + text(&p.response_topic)
        + p.correlation_data.as_ref().map_or(0, |data: &Bytes| 3 + data.len())
        + p.user_properties.iter().map(|(key, value)| 5 + key.len() + value.len()).sum::<usize>()
}

/// Bytes of an MQTT 5 SUBACK or UNSUBACK for so many filters.
pub fn codes_len(filters: usize) -> usize {
    let remaining = 3 + filters;
    1 + varint_len(remaining) + remaining
}

/// Bytes of an MQTT 5 CONNACK.
pub fn connack_len(p: &ConnAckProperties) -> usize {
    let flag = |flag: Option<bool>| usize::from(flag.is_some()) * 2;
    let two = |number: Option<u16>| usize::from(number.is_some()) * 3;
    let four = |number: Option<u32>| usize::from(number.is_some()) * 5;
    let text = |s: &Option<String>| s.as_ref().map_or(0, |s| 3 + s.len());
    let properties = four(p.session_expiry_s)
        + two(p.receive_maximum)
        + usize::from(p.maximum_qos.is_some_and(|qos| qos < Qos::ExactlyOnce)) * 2
        + flag(p.retain_available)
        + four(p.packet_len_max)
        + text(&p.assigned_client_id)
        + two(p.topic_alias_maximum)
        + text(&p.reason_string)
        + flag(p.wildcard_available)
        + flag(p.subscription_ids_available)
        + flag(p.shared_available)
        + two(p.server_keep_alive_s)
        + text(&p.response_information)
        + text(&p.server_reference)
        + text(&p.authentication_method);
    let remaining = 2 + varint_len(properties) + properties;
    1 + varint_len(remaining) + remaining
}

/// Bytes of a variable byte integer.
pub fn varint_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}
