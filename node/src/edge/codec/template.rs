//! PUBLISH to terminals: encoded once for many, patched for each.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut, BytesMut};
use cluster_proto::{Message, Qos};
use fabric_core::mqtt::{
    Delivery, MessageHandle, ProtocolVersion,
    size::{properties_len, publish_len},
};

use super::decode::put_varint;

/// A message on its way to many terminals, with its PUBLISH packets as they were first needed. Cheap to clone; shards
/// share it.
#[derive(Clone, Debug)]
pub struct Outgoing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    message: Message,
    /// By [`template_index`].
    templates: [OnceLock<PublishTemplate>; TEMPLATES],
}

/// 3.1.1 and MQTT 5 with and without expiry, each with QoS 0 and 1.
const TEMPLATES: usize = 6;

impl Outgoing {
    /// Nothing is encoded yet.
    pub fn new(message: Message) -> Self {
        Self(Arc::new(Inner { message, templates: [const { OnceLock::new() }; TEMPLATES] }))
    }

    /// Bytes it holds, for the bound of a cache.
    pub fn size(&self) -> usize {
        // Each template repeats topic and properties, never the payload.
        let message = &self.0.message;
        let head = message.size() - message.payload.len();
        message.size() + self.0.templates.iter().filter(|template| template.get().is_some()).count() * head
    }
}

impl MessageHandle for Outgoing {
    fn message(&self) -> &Message {
        &self.0.message
    }
}

/// Appends the PUBLISH of a delivery.
pub fn write_delivery(delivery: &Delivery<Outgoing>, version: ProtocolVersion, buffer: &mut BytesMut) {
    let Delivery { message: Outgoing(inner), qos, packet_id, dup, expiry_s, subscription_ids, .. } = delivery;
    let (message, has_expiry) = (&inner.message, expiry_s.is_some());
    let payload = &message.payload;
    if subscription_ids.is_empty() {
        let template = inner.templates[template_index(version, *qos, has_expiry)]
            .get_or_init(|| PublishTemplate::new(message, version, *qos, has_expiry, &[]));
        template.write(buffer, payload, *packet_id, *dup, *expiry_s);
    } else {
        let template = PublishTemplate::new(message, version, *qos, has_expiry, subscription_ids);
        template.write(buffer, payload, *packet_id, *dup, *expiry_s);
    }
}

fn template_index(version: ProtocolVersion, qos: Qos, has_expiry: bool) -> usize {
    let kind = match (version.is_v5(), has_expiry) {
        (false, _) => 0,
        (true, false) => 2,
        (true, true) => 4,
    };
    kind + usize::from(qos != Qos::AtMostOnce)
}

/// Everything of a PUBLISH before its payload, for one version, QoS and set of properties. Packet id, DUP and Message
/// Expiry Interval are patched in when it is written.
#[derive(Clone, Debug)]
pub struct PublishTemplate {
    head: Box<[u8]>,
    /// Where the packet id is; 0: there is none.
    packet_id_at: usize,
    /// Where the Message Expiry Interval is; 0: there is none.
    expiry_at: usize,
}

impl PublishTemplate {
    /// Encodes `message`; its length is the one of [`publish_len`].
    pub fn new(
        message: &Message,
        version: ProtocolVersion,
        qos: Qos,
        has_expiry: bool,
        subscription_ids: &[u32],
    ) -> Self {
        let packet_len = publish_len(message, version, qos, has_expiry, subscription_ids);
        let mut head = BytesMut::with_capacity(packet_len - message.payload.len());
        head.put_u8(0x30 | (qos as u8) << 1);
        put_varint(&mut head, remaining_len(packet_len));
        put_text(&mut head, &message.topic);
        let mut packet_id_at = 0;
        if qos != Qos::AtMostOnce {
            packet_id_at = head.len();
            head.put_u16(0);
        }
        let mut expiry_at = 0;
        if version.is_v5() {
            put_varint(&mut head, properties_len(message, has_expiry, subscription_ids));
            if has_expiry {
                head.put_u8(0x02);
                expiry_at = head.len();
                head.put_u32(0);
            }
            put_properties(&mut head, message, subscription_ids);
        }
        debug_assert_eq!(head.len() + message.payload.len(), packet_len);
        Self { head: Vec::from(head).into_boxed_slice(), packet_id_at, expiry_at }
    }

    /// Appends the packet. `payload` is the one of the message the template was made of.
    pub fn write(
        &self,
        buffer: &mut BytesMut,
        payload: &[u8],
        packet_id: u16,
        dup: bool,
        expiry_s: Option<u32>,
    ) {
        buffer.reserve(self.head.len() + payload.len());
        let start = buffer.len();
        buffer.put_slice(&self.head);
        buffer.put_slice(payload);
        let packet = &mut buffer[start..];
        packet[0] |= u8::from(dup) << 3;
        if self.packet_id_at > 0 {
            packet[self.packet_id_at..][..2].copy_from_slice(&packet_id.to_be_bytes());
        }
        if self.expiry_at > 0 {
            packet[self.expiry_at..][..4].copy_from_slice(&expiry_s.unwrap_or(0).to_be_bytes());
        }
    }
}

/// The remaining length of a packet of `packet_len` bytes.
fn remaining_len(packet_len: usize) -> usize {
    let len_max = [(1, 127), (2, 16_383), (3, 2_097_151)];
    let varint_len =
        len_max.iter().find(|(len, max)| packet_len - 1 - len <= *max).map_or(4, |(len, _)| *len);
    packet_len - 1 - varint_len
}

fn put_properties(head: &mut BytesMut, message: &Message, subscription_ids: &[u32]) {
    let p = &message.properties;
    if let Some(is_utf8) = p.payload_is_utf8 {
        head.put_slice(&[0x01, u8::from(is_utf8)]);
    }
    if let Some(content_type) = &p.content_type {
        head.put_u8(0x03);
        put_text(head, content_type);
    }
    if let Some(response_topic) = &p.response_topic {
        head.put_u8(0x08);
        put_text(head, response_topic);
    }
    if let Some(data) = &p.correlation_data {
        head.put_u8(0x09);
        put_binary(head, data);
    }
    for (key, value) in &p.user_properties {
        head.put_u8(0x26);
        put_text(head, key);
        put_text(head, value);
    }
    for id in subscription_ids {
        head.put_u8(0x0B);
        put_varint(head, *id as usize);
    }
}

fn put_text(head: &mut BytesMut, text: &str) {
    put_binary(head, text.as_bytes());
}

/// Bounds elsewhere keep every part below 64 KiB (topic and properties limits).
fn put_binary(head: &mut BytesMut, bytes: &[u8]) {
    debug_assert!(bytes.len() <= usize::from(u16::MAX));
    head.put_u16(bytes.len() as u16);
    head.put_slice(bytes);
}
