//! What a push carries to a terminal.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{AppId, TerminalNo};

/// MQTT quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[repr(u8)]
pub enum Qos {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl Qos {
    /// The QoS of a protocol number.
    pub fn from_u8(qos: u8) -> Option<Self> {
        match qos {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Whom a push is owed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PushKind {
    /// Owed to the terminal: needs no subscription and survives the end of a session.
    Identity,
    /// Owed to the sessions that subscribed to its topic.
    Topic,
}

/// One message as it goes to terminals. Stored once, sent once to each edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The app it belongs to.
    pub app: AppId,
    /// Whom it is owed to.
    pub kind: PushKind,
    /// The topic terminals see; no wildcards.
    pub topic: String,
    /// The QoS asked for; a subscription may lower it.
    pub qos: Qos,
    /// At most [`crate::limits::PAYLOAD_LEN_MAX`] bytes.
    pub payload: Bytes,
    /// MQTT 5 properties, passed on unchanged.
    pub properties: MessageProperties,
    /// Published with RETAIN: kept as its topic's retained message, or, without payload, the end of that one
    /// ([MQTT-3.3.1-5], [MQTT-3.3.1-6]). Subscriptions with Retain As Published are told.
    pub retain: bool,
    /// Its publisher said how long it lives: then terminals are told what is left of that. Otherwise only Carillon's own
    /// bound ends it, and the message goes without Message Expiry Interval, as it came (MQTT 5, section 3.3.2.3.3).
    pub tells_expiry: bool,
    /// The terminal that published it, for No Local ([MQTT-3.8.3-3]).
    pub publisher: Option<TerminalNo>,
}

/// What is published for a terminal when its connection is lost, or its session ends (MQTT 5, section 3.1.2.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Will {
    /// Kind Topic; QoS and RETAIN inside.
    pub message: Message,
    /// Seconds between the end of the connection and the will; the end of the session does not wait for them.
    pub delay_s: u32,
    /// Milliseconds to live, from Message Expiry Interval; absent: the default.
    pub ttl_ms: Option<u64>,
}

/// MQTT 5 properties of a message that a server passes on unaltered ([MQTT-3.3.2-4] and following).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageProperties {
    /// The payload is UTF-8 text.
    pub payload_is_utf8: Option<bool>,
    /// MIME type.
    pub content_type: Option<String>,
    /// Where an answer should go.
    pub response_topic: Option<String>,
    /// Matches an answer with its request.
    pub correlation_data: Option<Bytes>,
    /// In order ([MQTT-3.3.2-18]).
    pub user_properties: Vec<(String, String)>,
}

impl Message {
    /// Bytes this message holds: what caches and batches are bounded by.
    pub fn size(&self) -> usize {
        let p = &self.properties;
        let optional = |s: &Option<String>| s.as_ref().map_or(0, String::len);
        self.topic.len()
            + self.payload.len()
            + optional(&p.content_type)
            + optional(&p.response_topic)
            + p.correlation_data.as_ref().map_or(0, Bytes::len)
            + p.user_properties.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>()
            + 64
    }
}
