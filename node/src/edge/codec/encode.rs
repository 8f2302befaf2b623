//! Packets to bytes.
//!
//! Written by hand: a packet to a terminal is a reason code and a few properties, and `rumqttd`'s writer has an enum of
//! its own per packet, which lacks codes, AUTH, and the length of a short DISCONNECT.

use bytes::{BufMut, BytesMut};
use cluster_proto::{AppId, Message, PushKind, Qos};
use fabric_core::mqtt::{
    Packet, ProtocolVersion, Reason,
    packet::{Ack, Auth, Codes, ConnAck, ConnAckProperties, Disconnect, Publish},
    size::{OwnProperties, varint_len},
};

use super::{
    decode::put_varint,
    guard::kind,
    properties,
    template::{Own, PublishTemplate},
};

/// Appends a packet that an edge sends. What an edge never sends (CONNECT, SUBSCRIBE …) and what the version lacks
/// (DISCONNECT and AUTH to 3.1.1) is left out.
pub fn encode(packet: &Packet, version: ProtocolVersion, buffer: &mut BytesMut) {
    match packet {
        Packet::Publish(publish) => encode_publish(publish, version, buffer),
        Packet::ConnAck(connack) => encode_connack(connack, version, buffer),
        Packet::PubAck(ack) => encode_ack(kind::PUBACK << 4, *ack, version, buffer),
        Packet::PubRec(ack) => encode_ack(kind::PUBREC << 4, *ack, version, buffer),
        Packet::PubRel(ack) => encode_ack(kind::PUBREL << 4 | 2, *ack, version, buffer),
        Packet::PubComp(ack) => encode_ack(kind::PUBCOMP << 4, *ack, version, buffer),
        Packet::SubAck(answer) => encode_suback(answer, version, buffer),
        Packet::UnsubAck(answer) => encode_unsuback(answer, version, buffer),
        Packet::PingResp => buffer.put_slice(&[kind::PINGRESP << 4, 0]),
        Packet::Disconnect(disconnect) if version.is_v5() => encode_disconnect(disconnect, buffer),
        Packet::Auth(auth) if version.is_v5() => encode_auth(auth, buffer),
        _ => {}
    }
}

fn encode_publish(publish: &Publish, version: ProtocolVersion, buffer: &mut BytesMut) {
    let message = Message {
        app: AppId::DEFAULT,
        kind: PushKind::Topic,
        topic: publish.topic.clone(),
        qos: publish.qos,
        payload: publish.payload.clone(),
        properties: publish.properties.clone(),
        retain: publish.retain,
        publisher: None,
        tells_expiry: false,
    };
    let template = PublishTemplate::new(&message, version, publish.qos, publish.expiry_s.is_some());
    let own = Own {
        packet_id: publish.packet_id,
        dup: publish.dup,
        retain: publish.retain,
        expiry_s: publish.expiry_s,
        properties: OwnProperties { subscription_ids: &publish.subscription_ids, ..OwnProperties::default() },
    };
    template.write(buffer, &publish.payload, own);
}

fn encode_connack(connack: &ConnAck, version: ProtocolVersion, buffer: &mut BytesMut) {
    let session_present = u8::from(connack.session_present);
    if !version.is_v5() {
        return buffer.put_slice(&[kind::CONNACK << 4, 2, session_present, connack.reason.connack_v3()]);
    }
    let properties = connack_properties(&connack.properties);
    put_header(buffer, kind::CONNACK << 4, 2 + properties.wire_len());
    buffer.put_slice(&[session_present, connack.reason.0]);
    properties.write(buffer);
}

fn connack_properties(p: &ConnAckProperties) -> Properties {
    let mut properties = Properties::default();
    properties.u32(properties::SESSION_EXPIRY, p.session_expiry_s);
    properties.u16(0x21, p.receive_maximum);
    // Absent means 2; the property itself can only say 0 or 1.
    properties.u8(0x24, p.maximum_qos.filter(|qos| *qos < Qos::ExactlyOnce).map(|qos| qos as u8));
    properties.u8(0x25, p.retain_available.map(u8::from));
    properties.u32(0x27, p.packet_len_max);
    properties.text(0x12, p.assigned_client_id.as_deref());
    properties.u16(0x22, p.topic_alias_maximum);
    properties.text(properties::REASON_STRING, p.reason_string.as_deref());
    properties.u8(0x28, p.wildcard_available.map(u8::from));
    properties.u8(0x29, p.subscription_ids_available.map(u8::from));
    properties.u8(0x2A, p.shared_available.map(u8::from));
    properties.u16(0x13, p.server_keep_alive_s);
    properties.text(0x1A, p.response_information.as_deref());
    properties.text(SERVER_REFERENCE, p.server_reference.as_deref());
    properties.text(properties::AUTHENTICATION_METHOD, p.authentication_method.as_deref());
    properties
}

const SERVER_REFERENCE: u8 = 0x1C;

/// MQTT 3.1.1 has no reasons; in MQTT 5 success need not be said.
fn encode_ack(first: u8, ack: Ack, version: ProtocolVersion, buffer: &mut BytesMut) {
    let [high, low] = ack.packet_id.to_be_bytes();
    if version.is_v5() && ack.reason != Reason::SUCCESS {
        buffer.put_slice(&[first, 4, high, low, ack.reason.0, 0]);
    } else {
        buffer.put_slice(&[first, 2, high, low]);
    }
}

fn encode_suback(answer: &Codes, version: ProtocolVersion, buffer: &mut BytesMut) {
    put_header(buffer, kind::SUBACK << 4, 2 + usize::from(version.is_v5()) + answer.codes.len());
    buffer.put_u16(answer.packet_id);
    if version.is_v5() {
        buffer.put_u8(0);
    }
    let code = |code: &Reason| if version.is_v5() { code.0 } else { code.suback_v3() };
    answer.codes.iter().for_each(|reason| buffer.put_u8(code(reason)));
}

fn encode_unsuback(answer: &Codes, version: ProtocolVersion, buffer: &mut BytesMut) {
    if !version.is_v5() {
        put_header(buffer, kind::UNSUBACK << 4, 2);
        return buffer.put_u16(answer.packet_id);
    }
    put_header(buffer, kind::UNSUBACK << 4, 3 + answer.codes.len());
    buffer.put_u16(answer.packet_id);
    buffer.put_u8(0);
    answer.codes.iter().for_each(|reason| buffer.put_u8(reason.0));
}

fn encode_disconnect(disconnect: &Disconnect, buffer: &mut BytesMut) {
    let mut properties = Properties::default();
    properties.text(properties::REASON_STRING, disconnect.reason_string.as_deref());
    properties.text(SERVER_REFERENCE, disconnect.server_reference.as_deref());
    put_header(buffer, kind::DISCONNECT << 4, 1 + properties.wire_len());
    buffer.put_u8(disconnect.reason.0);
    properties.write(buffer);
}

fn encode_auth(auth: &Auth, buffer: &mut BytesMut) {
    let mut properties = Properties::default();
    properties.text(properties::AUTHENTICATION_METHOD, auth.method.as_deref());
    properties.binary(properties::AUTHENTICATION_DATA, auth.data.as_deref());
    properties.text(properties::REASON_STRING, auth.reason_string.as_deref());
    for (key, value) in &auth.user_properties {
        properties.text(properties::USER_PROPERTY.0, Some(key));
        properties.put(value.as_bytes());
    }
    put_header(buffer, kind::AUTH << 4, 1 + properties.wire_len());
    buffer.put_u8(auth.reason.0);
    properties.write(buffer);
}

fn put_header(buffer: &mut BytesMut, first: u8, remaining: usize) {
    buffer.put_u8(first);
    put_varint(buffer, remaining);
}

/// Properties as they are gathered.
#[derive(Default)]
struct Properties(BytesMut);

impl Properties {
    fn u8(&mut self, id: u8, value: Option<u8>) {
        if let Some(value) = value {
            self.0.put_slice(&[id, value]);
        }
    }

    fn u16(&mut self, id: u8, value: Option<u16>) {
        if let Some(value) = value {
            self.0.put_u8(id);
            self.0.put_u16(value);
        }
    }

    fn u32(&mut self, id: u8, value: Option<u32>) {
        if let Some(value) = value {
            self.0.put_u8(id);
            self.0.put_u32(value);
        }
    }

    fn text(&mut self, id: u8, value: Option<&str>) {
        self.binary(id, value.map(str::as_bytes));
    }

    fn binary(&mut self, id: u8, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.0.put_u8(id);
            self.put(value);
        }
    }

    /// What we say is short; what would not fit a length of two bytes is cut rather than made into something else.
    fn put(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
        self.0.put_u16(bytes.len() as u16);
        self.0.put_slice(bytes);
    }

    /// Bytes with their length in front.
    fn wire_len(&self) -> usize {
        varint_len(self.0.len()) + self.0.len()
    }

    fn write(&self, buffer: &mut BytesMut) {
        put_varint(buffer, self.0.len());
        buffer.put_slice(&self.0);
    }
}
