//! What a client sends, byte by byte: nothing here keeps a test from sending nonsense.

use crate::{
    Version,
    property::{self, Property},
};

/// Appends a variable byte integer.
pub fn variable(mut value: u32, out: &mut Vec<u8>) {
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        out.push(byte | if value > 0 { 0x80 } else { 0 });
        if value == 0 {
            return;
        }
    }
}

/// Appends bytes with their length in two bytes.
pub fn binary(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(bytes.len()).expect("longer than the length field can say");
    out.extend(len.to_be_bytes());
    out.extend(bytes);
}

/// Appends a string.
pub fn text(text: &str, out: &mut Vec<u8>) {
    binary(text.as_bytes(), out);
}

/// A packet: first byte, length, body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    variable(u32::try_from(body.len()).expect("packets are below 256 MiB"), &mut out);
    out.extend(body);
    out
}

/// CONNECT, with every field open.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Of the conversation.
    pub version: Version,
    /// Normally of the version.
    pub protocol: Vec<u8>,
    /// Normally of the version.
    pub level: u8,
    /// Clean Session or Clean Start.
    pub clean: bool,
    /// Flags to add to (or, by exclusive or, to take from) those that follow from the rest.
    pub flip: u8,
    /// Seconds.
    pub keep_alive: u16,
    /// Client Identifier, bytes of any kind.
    pub id: Vec<u8>,
    /// The will.
    pub will: Option<Will>,
    /// User Name.
    pub user_name: Option<Vec<u8>>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// MQTT 5.
    pub properties: Vec<Property>,
}

/// A will.
#[derive(Clone, Debug)]
pub struct Will {
    /// Will Topic, bytes of any kind.
    pub topic: Vec<u8>,
    /// Will Payload.
    pub payload: Vec<u8>,
    /// Will QoS.
    pub qos: u8,
    /// Will Retain.
    pub retain: bool,
    /// MQTT 5.
    pub properties: Vec<Property>,
}

impl Will {
    /// With QoS 0, not retained.
    pub fn new(topic: &str, payload: &str) -> Self {
        Self { topic: topic.into(), payload: payload.into(), qos: 0, retain: false, properties: Vec::new() }
    }

    /// With this QoS.
    #[must_use]
    pub fn qos(self, qos: u8) -> Self {
        Self { qos, ..self }
    }

    /// Retained.
    #[must_use]
    pub fn retain(self) -> Self {
        Self { retain: true, ..self }
    }

    /// With this property.
    #[must_use]
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }
}

impl Connect {
    /// A clean session without keep alive.
    pub fn new(version: Version, id: &str) -> Self {
        let protocol = if version == Version::V31 { "MQIsdp" } else { "MQTT" };
        Self {
            version,
            protocol: protocol.into(),
            level: version.level(),
            clean: true,
            flip: 0,
            keep_alive: 0,
            id: id.into(),
            will: None,
            user_name: None,
            password: None,
            properties: Vec::new(),
        }
    }

    /// Resumes what there is, and lasts (in MQTT 5, for an hour).
    #[must_use]
    pub fn resume(mut self) -> Self {
        self.clean = false;
        self.lasting()
    }

    /// Starts anew, and lasts in MQTT 5 for an hour. (Before MQTT 5, only sessions that are not clean last.)
    #[must_use]
    pub fn lasting(mut self) -> Self {
        if self.version == Version::V5 {
            self.properties.push(property::four(property::id::SESSION_EXPIRY, 3_600));
        }
        self
    }

    /// With this will.
    #[must_use]
    pub fn will(self, will: Will) -> Self {
        Self { will: Some(will), ..self }
    }

    /// With this keep alive.
    #[must_use]
    pub fn keep_alive(self, keep_alive: u16) -> Self {
        Self { keep_alive, ..self }
    }

    /// With these credentials.
    #[must_use]
    pub fn login(self, user_name: &str, password: &str) -> Self {
        Self { user_name: Some(user_name.into()), password: Some(password.into()), ..self }
    }

    /// With this property.
    #[must_use]
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    /// The flags that follow from the fields.
    fn flags(&self) -> u8 {
        let will = self.will.as_ref().map_or(0, |will| 0x04 | will.qos << 3 | u8::from(will.retain) << 5);
        u8::from(self.clean) << 1
            | will
            | u8::from(self.password.is_some()) << 6
            | u8::from(self.user_name.is_some()) << 7
    }

    /// The packet.
    pub fn bytes(&self) -> Vec<u8> {
        packet(0x10, &self.body())
    }

    /// Variable header and payload.
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        binary(&self.protocol, &mut body);
        body.push(self.level);
        body.push(self.flags() ^ self.flip);
        body.extend(self.keep_alive.to_be_bytes());
        if self.version == Version::V5 {
            property::write(&self.properties, &mut body);
        }
        binary(&self.id, &mut body);
        if let Some(will) = &self.will {
            if self.version == Version::V5 {
                property::write(&will.properties, &mut body);
            }
            binary(&will.topic, &mut body);
            binary(&will.payload, &mut body);
        }
        for field in [&self.user_name, &self.password].into_iter().flatten() {
            binary(field, &mut body);
        }
        body
    }
}

/// PUBLISH, with every field open.
#[derive(Clone, Debug)]
pub struct Publish {
    /// DUP.
    pub dup: bool,
    /// QoS, 3 included.
    pub qos: u8,
    /// RETAIN.
    pub retain: bool,
    /// Topic Name, bytes of any kind.
    pub topic: Vec<u8>,
    /// Written where the QoS is not 0.
    pub id: u16,
    /// MQTT 5.
    pub properties: Vec<Property>,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Publish {
    /// With QoS 0.
    pub fn new(topic: &str, payload: &str) -> Self {
        let (topic, payload) = (topic.into(), payload.into());
        Self { dup: false, qos: 0, retain: false, topic, id: 0, properties: Vec::new(), payload }
    }

    /// With this QoS and packet identifier.
    #[must_use]
    pub fn qos(self, qos: u8, id: u16) -> Self {
        Self { qos, id, ..self }
    }

    /// With RETAIN.
    #[must_use]
    pub fn retain(self) -> Self {
        Self { retain: true, ..self }
    }

    /// With DUP.
    #[must_use]
    pub fn dup(self) -> Self {
        Self { dup: true, ..self }
    }

    /// With this property.
    #[must_use]
    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    /// The packet.
    pub fn bytes(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        binary(&self.topic, &mut body);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        if version == Version::V5 {
            property::write(&self.properties, &mut body);
        }
        body.extend(&self.payload);
        packet(0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }
}

/// PUBACK (4), PUBREC (5), PUBREL (6) or PUBCOMP (7) in the short form.
pub fn ack(kind: u8, id: u16) -> Vec<u8> {
    packet(kind << 4 | if kind == 6 { 2 } else { 0 }, &id.to_be_bytes())
}

/// The same of MQTT 5 with a reason code.
pub fn ack_reason(kind: u8, id: u16, reason: u8) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    packet(kind << 4 | if kind == 6 { 2 } else { 0 }, &[high, low, reason])
}

/// SUBSCRIBE: filters with their options (before MQTT 5, the QoS).
pub fn subscribe(version: Version, id: u16, filters: &[(&str, u8)], properties: &[Property]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        property::write(properties, &mut body);
    }
    for (filter, options) in filters {
        text(filter, &mut body);
        body.push(*options);
    }
    packet(0x82, &body)
}

/// UNSUBSCRIBE.
pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    filters.iter().for_each(|filter| text(filter, &mut body));
    packet(0xA2, &body)
}

/// PINGREQ.
pub const PINGREQ: [u8; 2] = [0xC0, 0];
/// DISCONNECT in its shortest form, of every version.
pub const DISCONNECT: [u8; 2] = [0xE0, 0];

/// DISCONNECT of MQTT 5.
pub fn disconnect(reason: u8, properties: &[Property]) -> Vec<u8> {
    let mut body = vec![reason];
    property::write(properties, &mut body);
    packet(0xE0, &body)
}

/// AUTH of MQTT 5.
pub fn auth(reason: u8, properties: &[Property]) -> Vec<u8> {
    let mut body = vec![reason];
    property::write(properties, &mut body);
    packet(0xF0, &body)
}
