//! MQTT packets as our own types: one set for all versions, what only MQTT 5 has being optional.

use bytes::Bytes;
use cluster_proto::{MessageProperties, Qos, link::SubscriptionOptions};

use super::reason::Reason;

/// The version a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// MQTT 3.1 (`MQIsdp`): on the wire like 3.1.1.
    V31,
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

impl ProtocolVersion {
    /// Whether packets have properties and reason codes.
    pub fn is_v5(self) -> bool {
        self == Self::V5
    }
}

/// A control packet.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet {
    /// Terminal to edge, first and once.
    Connect(Box<Connect>),
    /// Its answer.
    ConnAck(Box<ConnAck>),
    /// A message. (Deliveries leave as [`super::Action::Deliver`], encoded once for many.)
    Publish(Box<Publish>),
    /// Answers a QoS 1 PUBLISH.
    PubAck(Ack),
    /// First answer to a QoS 2 PUBLISH.
    PubRec(Ack),
    /// Answers PUBREC.
    PubRel(Ack),
    /// Answers PUBREL.
    PubComp(Ack),
    /// Asks for subscriptions.
    Subscribe(Subscribe),
    /// Its answer.
    SubAck(Codes),
    /// Gives subscriptions up.
    Unsubscribe(Unsubscribe),
    /// Its answer.
    UnsubAck(Codes),
    /// Still there?
    PingReq,
    /// Yes.
    PingResp,
    /// The last packet of a connection.
    Disconnect(Box<Disconnect>),
    /// Enhanced authentication (MQTT 5).
    Auth(Box<Auth>),
}

/// CONNECT.
#[derive(Clone, Debug, PartialEq)]
pub struct Connect {
    /// From protocol name and level.
    pub version: ProtocolVersion,
    /// Clean Start, in 3.1.1 Clean Session.
    pub clean_start: bool,
    /// Seconds; 0: none.
    pub keep_alive_s: u16,
    /// May be empty.
    pub client_id: String,
    /// Kept until the terminal is gone.
    pub will: Option<Box<Will>>,
    /// In Carillon the app's name.
    pub user_name: Option<String>,
    /// In Carillon the credential.
    pub password: Option<Bytes>,
    /// MQTT 5.
    pub properties: ConnectProperties,
}

/// Properties of CONNECT, with the defaults of MQTT 5.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ConnectProperties {
    /// Session Expiry Interval.
    pub session_expiry_s: Option<u32>,
    /// Receive Maximum; never 0.
    pub receive_maximum: Option<u16>,
    /// Maximum Packet Size; never 0.
    pub packet_len_max: Option<u32>,
    /// Topic Alias Maximum.
    pub topic_alias_maximum: Option<u16>,
    /// Request Response Information.
    pub request_response_information: Option<bool>,
    /// Request Problem Information.
    pub request_problem_information: Option<bool>,
    /// Authentication Method.
    pub authentication_method: Option<String>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
    /// In order.
    pub user_properties: Vec<(String, String)>,
}

/// The will of a CONNECT.
#[derive(Clone, Debug, PartialEq)]
pub struct Will {
    /// Where it goes.
    pub topic: String,
    /// What it says.
    pub payload: Bytes,
    /// How.
    pub qos: Qos,
    /// Kept for later subscribers.
    pub retain: bool,
    /// Will Delay Interval.
    pub delay_s: u32,
    /// Message Expiry Interval.
    pub expiry_s: Option<u32>,
    /// Passed on unchanged.
    pub properties: MessageProperties,
}

/// CONNACK.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ConnAck {
    /// Whether the session was there before.
    pub session_present: bool,
    /// Success or why not; MQTT 3.1.1 gets [`Reason::connack_v3`].
    pub reason: Reason,
    /// MQTT 5.
    pub properties: ConnAckProperties,
}

/// Properties of CONNACK; absent ones have the default the specification gives them.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ConnAckProperties {
    /// If it is not what was asked for.
    pub session_expiry_s: Option<u32>,
    /// How many QoS 1 and 2 PUBLISH we take at a time.
    pub receive_maximum: Option<u16>,
    /// The highest QoS we take.
    pub maximum_qos: Option<Qos>,
    /// Whether retained messages are supported.
    pub retain_available: Option<bool>,
    /// The largest packet we take.
    pub packet_len_max: Option<u32>,
    /// The client id we gave.
    pub assigned_client_id: Option<String>,
    /// How many topic aliases we take.
    pub topic_alias_maximum: Option<u16>,
    /// For people.
    pub reason_string: Option<String>,
    /// Whether wildcards may be subscribed to.
    pub wildcard_available: Option<bool>,
    /// Whether subscription identifiers are supported.
    pub subscription_ids_available: Option<bool>,
    /// Whether shared subscriptions are supported.
    pub shared_available: Option<bool>,
    /// If it is not what was asked for.
    pub server_keep_alive_s: Option<u16>,
    /// Where answers to requests may go, if it was asked for.
    pub response_information: Option<String>,
    /// Where else to go.
    pub server_reference: Option<String>,
    /// The method of enhanced authentication ([MQTT-4.12.0-5]).
    pub authentication_method: Option<String>,
}

/// PUBLISH.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Publish {
    /// Sent before.
    pub dup: bool,
    /// Quality of service.
    pub qos: Qos,
    /// Keep for later subscribers; or, to a terminal: was kept.
    pub retain: bool,
    /// Empty only with a topic alias.
    pub topic: String,
    /// 0 with QoS 0.
    pub packet_id: u16,
    /// The content.
    pub payload: Bytes,
    /// Passed on unchanged.
    pub properties: MessageProperties,
    /// Message Expiry Interval.
    pub expiry_s: Option<u32>,
    /// Topic Alias.
    pub topic_alias: Option<u16>,
    /// Subscription Identifiers; only to terminals.
    pub subscription_ids: Vec<u32>,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Of the PUBLISH.
    pub packet_id: u16,
    /// Success in MQTT 3.1.1.
    pub reason: Reason,
}

/// SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Comes back in SUBACK.
    pub packet_id: u16,
    /// At least one. Their `options.identifier` is the packet's Subscription Identifier.
    pub filters: Vec<SubscribeFilter>,
}

/// One filter of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// As sent; not validated.
    pub filter: String,
    /// Asked for.
    pub qos: Qos,
    /// MQTT 5 options; defaults otherwise.
    pub options: SubscriptionOptions,
}

/// SUBACK or UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codes {
    /// Of the request.
    pub packet_id: u16,
    /// One per filter, in order.
    pub codes: Vec<Reason>,
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Comes back in UNSUBACK.
    pub packet_id: u16,
    /// At least one; not validated.
    pub filters: Vec<String>,
}

/// DISCONNECT.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Disconnect {
    /// Success ("normal") in MQTT 3.1.1.
    pub reason: Reason,
    /// From a terminal: replaces what CONNECT said.
    pub session_expiry_s: Option<u32>,
    /// For people.
    pub reason_string: Option<String>,
    /// To a terminal: where else to go.
    pub server_reference: Option<String>,
}

/// AUTH (MQTT 5).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Auth {
    /// Success, continue, or re-authenticate.
    pub reason: Reason,
    /// Authentication Method.
    pub method: Option<String>,
    /// Authentication Data.
    pub data: Option<Bytes>,
    /// For people.
    pub reason_string: Option<String>,
    /// In order.
    pub user_properties: Vec<(String, String)>,
}

/// Bytes that are not MQTT, or break a rule that holds for a packet alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Malformed {
    /// What DISCONNECT or CONNACK says about it.
    pub reason: Reason,
    /// For the log.
    pub what: &'static str,
    /// The version, where the bytes told it before they went wrong: an answer must be in it.
    pub version: Option<ProtocolVersion>,
}

impl Malformed {
    /// Malformed in the sense of section 1.2 of the specification.
    pub fn packet(what: &'static str) -> Self {
        Self { reason: Reason::MALFORMED_PACKET, what, version: None }
    }

    /// Well formed, and not allowed.
    pub fn protocol(what: &'static str) -> Self {
        Self { reason: Reason::PROTOCOL_ERROR, what, version: None }
    }
}
