//! PUBLISH to terminals: encoded once for many, patched for each.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use bytes::{BufMut, BytesMut};
use cluster_proto::{Message, Qos};
use fabric_core::mqtt::{
    Alias, Delivery, MessageHandle, ProtocolVersion,
    size::{OwnProperties, PUSH_PROPERTY, properties_len, publish_len, varint_len},
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

/// 3.1.1 and MQTT 5 with and without expiry, each with every QoS.
const TEMPLATES: usize = 9;

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
    let Outgoing(inner) = &delivery.message;
    let (message, qos, has_expiry) = (&inner.message, delivery.qos, delivery.expiry_s.is_some());
    let template = inner.templates[template_index(version, qos, has_expiry)]
        .get_or_init(|| PublishTemplate::new(message, version, qos, has_expiry));
    let own = Own {
        packet_id: delivery.packet_id,
        dup: delivery.dup,
        retain: delivery.retain,
        expiry_s: delivery.expiry_s,
        properties: OwnProperties {
            subscription_ids: &delivery.subscription_ids,
            alias: delivery.alias,
            push: delivery.push,
        },
    };
    template.write(buffer, &message.payload, own);
}

fn template_index(version: ProtocolVersion, qos: Qos, has_expiry: bool) -> usize {
    let kind = match (version.is_v5(), has_expiry) {
        (false, _) => 0,
        (true, false) => 3,
        (true, true) => 6,
    };
    kind + qos as usize
}

/// Everything of a PUBLISH before its payload, for one version, QoS and set of properties. What is a terminal's own is
/// patched in when it is written.
#[derive(Clone, Debug)]
pub struct PublishTemplate {
    head: Box<[u8]>,
    topic: Range<usize>,
    /// Where the packet id is; 0: there is none.
    packet_id_at: usize,
    /// Where the Message Expiry Interval is; 0: there is none.
    expiry_at: usize,
    /// Properties, the Message Expiry Interval included; empty before MQTT 5.
    properties: Range<usize>,
}

/// What differs between the terminals a PUBLISH goes to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own<'a> {
    /// 0 with QoS 0.
    pub packet_id: u16,
    /// Sent before.
    pub dup: bool,
    /// The RETAIN flag.
    pub retain: bool,
    /// Message Expiry Interval; given exactly if the template has one.
    pub expiry_s: Option<u32>,
    /// Empty before MQTT 5.
    pub properties: OwnProperties<'a>,
}

impl PublishTemplate {
    /// Encodes `message`; its length is the one of [`publish_len`].
    pub fn new(message: &Message, version: ProtocolVersion, qos: Qos, has_expiry: bool) -> Self {
        let packet_len = publish_len(message, version, qos, has_expiry, OwnProperties::default());
        let mut head = BytesMut::with_capacity(packet_len - message.payload.len());
        head.put_u8(0x30 | (qos as u8) << 1);
        put_varint(&mut head, remaining_len(packet_len));
        put_text(&mut head, &message.topic);
        let topic = head.len() - message.topic.len()..head.len();
        let mut packet_id_at = 0;
        if qos != Qos::AtMostOnce {
            packet_id_at = head.len();
            head.put_u16(0);
        }
        let (mut expiry_at, mut from) = (0, head.len());
        if version.is_v5() {
            put_varint(&mut head, properties_len(message, has_expiry));
            from = head.len();
            if has_expiry {
                head.put_u8(0x02);
                expiry_at = head.len();
                head.put_u32(0);
            }
            put_properties(&mut head, message);
        }
        debug_assert_eq!(head.len() + message.payload.len(), packet_len);
        let properties = from..head.len();
        Self { head: Vec::from(head).into_boxed_slice(), topic, packet_id_at, expiry_at, properties }
    }

    /// Appends the packet. `payload` is the one of the message the template was made of.
    pub fn write(&self, buffer: &mut BytesMut, payload: &[u8], own: Own<'_>) {
        let start = buffer.len();
        if own.properties.is_empty() {
            buffer.reserve(self.head.len() + payload.len());
            buffer.put_slice(&self.head);
            self.patch(&mut buffer[start..], own);
        } else {
            self.write_longer(buffer, payload.len(), own);
        }
        buffer.put_slice(payload);
        buffer[start] |= u8::from(own.dup) << 3 | u8::from(own.retain);
    }

    /// The head with properties of the terminal's own, and without the topic where its alias is known.
    fn write_longer(&self, buffer: &mut BytesMut, payload_len: usize, own: Own<'_>) {
        let OwnProperties { subscription_ids, alias, push } = own.properties;
        let topic = match alias {
            Some(Alias { known: true, .. }) => &[],
            _ => &self.head[self.topic.clone()],
        };
        let properties = &self.head[self.properties.clone()];
        let properties_len = properties.len() + own.properties.len();
        let packet_id_len = if self.packet_id_at > 0 { 2 } else { 0 };
        let head_len = 2 + topic.len() + packet_id_len + varint_len(properties_len) + properties_len;
        buffer.reserve(5 + head_len + payload_len);
        buffer.put_u8(self.head[0]);
        put_varint(buffer, head_len + payload_len);
        put_binary(buffer, topic);
        if self.packet_id_at > 0 {
            buffer.put_u16(own.packet_id);
        }
        put_varint(buffer, properties_len);
        let from = buffer.len();
        buffer.put_slice(properties);
        if self.expiry_at > 0 {
            let at = self.expiry_at - self.properties.start;
            buffer[from + at..][..4].copy_from_slice(&own.expiry_s.unwrap_or(0).to_be_bytes());
        }
        if let Some(alias) = alias {
            buffer.put_u8(0x23);
            buffer.put_u16(alias.number);
        }
        for id in subscription_ids {
            buffer.put_u8(0x0B);
            put_varint(buffer, *id as usize);
        }
        if let Some(push) = push {
            buffer.put_u8(0x26);
            put_text(buffer, PUSH_PROPERTY);
            put_text(buffer, &push.0.to_string());
        }
    }

    fn patch(&self, head: &mut [u8], own: Own<'_>) {
        if self.packet_id_at > 0 {
            head[self.packet_id_at..][..2].copy_from_slice(&own.packet_id.to_be_bytes());
        }
        if self.expiry_at > 0 {
            head[self.expiry_at..][..4].copy_from_slice(&own.expiry_s.unwrap_or(0).to_be_bytes());
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

fn put_properties(head: &mut BytesMut, message: &Message) {
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
