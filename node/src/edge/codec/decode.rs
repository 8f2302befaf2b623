//! Bytes to packets.

use bytes::{BufMut, Bytes, BytesMut};
use cluster_proto::{MessageProperties, Qos, link::SubscriptionOptions};
use fabric_core::mqtt::{
    Malformed, Packet, ProtocolVersion,
    packet::{Ack, Connect, ConnectProperties, Publish, Subscribe, SubscribeFilter, Unsubscribe, Will},
};
use rumqttd::protocol::{self as wire, Protocol};

use super::{
    CONNECT_LEN_MAX,
    guard::{self, Checked, ConnectParts, Header, kind},
};

/// Takes the next packet out of `buffer`; `Ok(None)`: it is not complete. `version`: `None` before CONNECT. After an error
/// the rest of the connection means nothing.
pub fn decode(
    buffer: &mut BytesMut,
    version: Option<ProtocolVersion>,
    len_max: usize,
) -> Result<Option<Packet>, Malformed> {
    let len_max = if version.is_none() { len_max.min(CONNECT_LEN_MAX) } else { len_max };
    let Some(header) = guard::header(buffer, version, len_max)? else { return Ok(None) };
    if buffer.len() < header.packet_len {
        return Ok(None);
    }
    let mut frame = buffer.split_to(header.packet_len);
    let packet = match guard::check(header, &frame[header.len..], version)? {
        Checked::Connect(parts) => connect(parts),
        Checked::Ack(ack) => Ok(acknowledgement(header, ack)),
        Checked::Disconnect(disconnect) => Ok(Packet::Disconnect(Box::new(disconnect))),
        Checked::Auth(auth) => Ok(Packet::Auth(Box::new(auth))),
        Checked::Publish { dup, qos, packet_id } => {
            read(&mut frame, version).and_then(|packet| publish(packet, dup, qos, packet_id))
        }
        Checked::Other => read(&mut frame, version).and_then(convert),
    }
    .map_err(|malformed| Malformed { version, ..malformed })?;
    Ok(Some(packet))
}

fn acknowledgement(header: Header, ack: Ack) -> Packet {
    match header.kind {
        kind::PUBACK => Packet::PubAck(ack),
        kind::PUBREC => Packet::PubRec(ack),
        kind::PUBREL => Packet::PubRel(ack),
        _ => Packet::PubComp(ack),
    }
}

/// One guarded packet through `rumqttd`.
fn read(frame: &mut BytesMut, version: Option<ProtocolVersion>) -> Result<wire::Packet, Malformed> {
    let len_max = frame.len();
    let packet = match version {
        Some(ProtocolVersion::V5) => wire::v5::V5.read_mut(frame, len_max),
        _ => wire::v4::V4.read_mut(frame, len_max),
    };
    packet.map_err(|_| Malformed::packet("packet cannot be decoded"))
}

/// `rumqttd` reads CONNECT under the current protocol name and without credentials: 3.1 is 3.1.1 with another name, and
/// a password is bytes, which it takes for text.
fn connect(parts: ConnectParts<'_>) -> Result<Packet, Malformed> {
    let level = if parts.version.is_v5() { 5 } else { 4 };
    let mut frame = BytesMut::with_capacity(parts.middle.len() + 16);
    frame.put_u8(kind::CONNECT << 4);
    put_varint(&mut frame, 8 + parts.middle.len());
    frame.put_slice(b"\0\x04MQTT");
    frame.put_u8(level);
    frame.put_u8(parts.flags & 0x3F);
    frame.put_slice(parts.middle);
    match read(&mut frame, Some(parts.version))? {
        wire::Packet::Connect(connect, properties, will, will_properties, _) => {
            Ok(Packet::Connect(Box::new(Connect {
                version: parts.version,
                clean_start: connect.clean_session,
                keep_alive_s: connect.keep_alive,
                client_id: connect.client_id,
                will: will.map(|will| convert_will(will, will_properties)).transpose()?.map(Box::new),
                user_name: parts.user_name.map(str::to_owned),
                password: parts.password.map(Bytes::copy_from_slice),
                properties: properties.map(connect_properties).unwrap_or_default(),
            })))
        }
        _ => Err(Malformed::packet("packet cannot be decoded")),
    }
}

fn connect_properties(properties: wire::ConnectProperties) -> ConnectProperties {
    ConnectProperties {
        session_expiry_s: properties.session_expiry_interval,
        receive_maximum: properties.receive_maximum,
        packet_len_max: properties.max_packet_size,
        topic_alias_maximum: properties.topic_alias_max,
        request_response_information: properties.request_response_info.map(|flag| flag == 1),
        request_problem_information: properties.request_problem_info.map(|flag| flag == 1),
        authentication_method: properties.authentication_method,
        authentication_data: properties.authentication_data,
        user_properties: properties.user_properties,
    }
}

fn convert_will(
    will: wire::LastWill,
    properties: Option<wire::LastWillProperties>,
) -> Result<Will, Malformed> {
    let mut converted = Will {
        topic: text(&will.topic)?,
        payload: will.message,
        qos: qos(will.qos),
        retain: will.retain,
        delay_s: 0,
        expiry_s: None,
        properties: MessageProperties::default(),
    };
    if let Some(properties) = properties {
        converted.delay_s = properties.delay_interval.unwrap_or(0);
        converted.expiry_s = properties.message_expiry_interval;
        converted.properties = MessageProperties {
            payload_is_utf8: properties.payload_format_indicator.map(|flag| flag == 1),
            content_type: properties.content_type,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            user_properties: properties.user_properties,
        };
    }
    Ok(converted)
}

fn publish(packet: wire::Packet, dup: bool, qos: Qos, packet_id: u16) -> Result<Packet, Malformed> {
    let wire::Packet::Publish(publish, properties) = packet else {
        return Err(Malformed::packet("packet cannot be decoded"));
    };
    let mut converted = Publish {
        dup,
        qos,
        retain: publish.retain,
        topic: text(&publish.topic)?,
        packet_id,
        payload: publish.payload,
        ..Publish::default()
    };
    if let Some(properties) = properties {
        converted.expiry_s = properties.message_expiry_interval;
        converted.topic_alias = properties.topic_alias;
        converted.subscription_ids =
            properties.subscription_identifiers.into_iter().map(|id| id as u32).collect();
        converted.properties = MessageProperties {
            payload_is_utf8: properties.payload_format_indicator.map(|flag| flag == 1),
            content_type: properties.content_type,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            user_properties: properties.user_properties,
        };
    }
    Ok(Packet::Publish(Box::new(converted)))
}

fn convert(packet: wire::Packet) -> Result<Packet, Malformed> {
    Ok(match packet {
        wire::Packet::Subscribe(subscribe, properties) => {
            let identifier = properties.and_then(|properties| properties.id).map(|id| id as u32);
            let filters =
                subscribe.filters.into_iter().map(|filter| subscribe_filter(filter, identifier)).collect();
            Packet::Subscribe(Subscribe { packet_id: subscribe.pkid, filters })
        }
        wire::Packet::Unsubscribe(unsubscribe, _) => {
            Packet::Unsubscribe(Unsubscribe { packet_id: unsubscribe.pkid, filters: unsubscribe.filters })
        }
        wire::Packet::PingReq(_) => Packet::PingReq,
        _ => return Err(Malformed::packet("packet cannot be decoded")),
    })
}

fn subscribe_filter(filter: wire::Filter, identifier: Option<u32>) -> SubscribeFilter {
    let options = SubscriptionOptions {
        no_local: filter.nolocal,
        retain_as_published: filter.preserve_retain,
        retain_handling: match filter.retain_forward_rule {
            wire::RetainForwardRule::OnEverySubscribe => 0,
            wire::RetainForwardRule::OnNewSubscribe => 1,
            wire::RetainForwardRule::Never => 2,
        },
        identifier,
    };
    SubscribeFilter { filter: filter.path, qos: qos(filter.qos), options }
}

fn qos(qos: wire::QoS) -> Qos {
    match qos {
        wire::QoS::AtMostOnce => Qos::AtMostOnce,
        wire::QoS::AtLeastOnce => Qos::AtLeastOnce,
        wire::QoS::ExactlyOnce => Qos::ExactlyOnce,
    }
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed::packet("a string is not UTF-8"))
}

pub(super) fn put_varint(buffer: &mut BytesMut, mut value: usize) {
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            return buffer.put_u8(byte);
        }
        buffer.put_u8(byte | 0x80);
    }
}
