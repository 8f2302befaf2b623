//! Properties of MQTT 5 (section 2.2.2): written in any order and number, read strictly.

use crate::packet::{Bytes, Wrong};

/// One property, as it stands in the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Its identifier.
    pub id: u32,
    /// Its value.
    pub value: Value,
}

/// A value in the type that its identifier asks for (or not, when a test wants it wrong).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A byte.
    Byte(u8),
    /// Two bytes.
    Two(u16),
    /// Four bytes.
    Four(u32),
    /// A variable byte integer.
    Variable(u32),
    /// A UTF-8 string.
    Text(String),
    /// Binary data.
    Binary(Vec<u8>),
    /// A pair of strings.
    Pair(String, String),
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $id:literal;)*) => {
        /// Identifiers of table 2-4.
        #[allow(missing_docs, reason = "the names of table 2-4")]
        pub mod id {
            $($(#[$doc])* pub const $name: u32 = $id;)*
        }
    };
}

ids! {
    PAYLOAD_FORMAT = 0x01;
    MESSAGE_EXPIRY = 0x02;
    CONTENT_TYPE = 0x03;
    RESPONSE_TOPIC = 0x08;
    CORRELATION_DATA = 0x09;
    SUBSCRIPTION_ID = 0x0B;
    SESSION_EXPIRY = 0x11;
    ASSIGNED_CLIENT_ID = 0x12;
    SERVER_KEEP_ALIVE = 0x13;
    AUTH_METHOD = 0x15;
    AUTH_DATA = 0x16;
    REQUEST_PROBLEM = 0x17;
    WILL_DELAY = 0x18;
    REQUEST_RESPONSE = 0x19;
    RESPONSE_INFORMATION = 0x1A;
    SERVER_REFERENCE = 0x1C;
    REASON_STRING = 0x1F;
    RECEIVE_MAXIMUM = 0x21;
    TOPIC_ALIAS_MAXIMUM = 0x22;
    TOPIC_ALIAS = 0x23;
    MAXIMUM_QOS = 0x24;
    RETAIN_AVAILABLE = 0x25;
    USER_PROPERTY = 0x26;
    MAXIMUM_PACKET_SIZE = 0x27;
    WILDCARDS_AVAILABLE = 0x28;
    SUBSCRIPTION_IDS_AVAILABLE = 0x29;
    SHARED_AVAILABLE = 0x2A;
}

/// What a server may put into each packet (table 2-4), by packet type.
fn allowed(kind: u8) -> &'static [u32] {
    use id::*;
    match kind {
        2 => &[
            SESSION_EXPIRY,
            ASSIGNED_CLIENT_ID,
            SERVER_KEEP_ALIVE,
            AUTH_METHOD,
            AUTH_DATA,
            RESPONSE_INFORMATION,
            SERVER_REFERENCE,
            REASON_STRING,
            RECEIVE_MAXIMUM,
            TOPIC_ALIAS_MAXIMUM,
            MAXIMUM_QOS,
            RETAIN_AVAILABLE,
            USER_PROPERTY,
            MAXIMUM_PACKET_SIZE,
            WILDCARDS_AVAILABLE,
            SUBSCRIPTION_IDS_AVAILABLE,
            SHARED_AVAILABLE,
        ],
        3 => &[
            PAYLOAD_FORMAT,
            MESSAGE_EXPIRY,
            CONTENT_TYPE,
            RESPONSE_TOPIC,
            CORRELATION_DATA,
            SUBSCRIPTION_ID,
            TOPIC_ALIAS,
            USER_PROPERTY,
        ],
        4..=7 | 9 | 11 => &[REASON_STRING, USER_PROPERTY],
        // No Session Expiry Interval from a server [MQTT-3.14.2-2].
        14 => &[SERVER_REFERENCE, REASON_STRING, USER_PROPERTY],
        15 => &[AUTH_METHOD, AUTH_DATA, REASON_STRING, USER_PROPERTY],
        _ => &[],
    }
}

fn value(id: u32, bytes: &mut Bytes<'_>) -> Result<Value, Wrong> {
    use id::*;
    Ok(match id {
        PAYLOAD_FORMAT
        | REQUEST_PROBLEM
        | REQUEST_RESPONSE
        | MAXIMUM_QOS
        | RETAIN_AVAILABLE
        | WILDCARDS_AVAILABLE
        | SUBSCRIPTION_IDS_AVAILABLE
        | SHARED_AVAILABLE => Value::Byte(bytes.byte()?),
        SERVER_KEEP_ALIVE | RECEIVE_MAXIMUM | TOPIC_ALIAS_MAXIMUM | TOPIC_ALIAS => Value::Two(bytes.two()?),
        MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY | MAXIMUM_PACKET_SIZE => Value::Four(bytes.four()?),
        SUBSCRIPTION_ID => Value::Variable(bytes.variable()?),
        CORRELATION_DATA | AUTH_DATA => Value::Binary(bytes.binary()?.to_vec()),
        USER_PROPERTY => Value::Pair(bytes.text()?, bytes.text()?),
        _ => Value::Text(bytes.text()?),
    })
}

/// Reads the properties of a packet of type `kind`: known, allowed there, and not twice unless they may be.
pub(crate) fn read(kind: u8, bytes: &mut Bytes<'_>) -> Result<Vec<Property>, Wrong> {
    let len = bytes.variable()?;
    let mut inside = Bytes(bytes.take(len as usize)?);
    let mut found: Vec<Property> = Vec::new();
    while !inside.0.is_empty() {
        let id = inside.variable()?;
        if !allowed(kind).contains(&id) {
            return Err(format!("property 0x{id:02X} in a packet of type {kind}"));
        }
        let repeatable = id == id::USER_PROPERTY || (kind == 3 && id == id::SUBSCRIPTION_ID);
        if !repeatable && found.iter().any(|property| property.id == id) {
            return Err(format!("property 0x{id:02X} twice"));
        }
        let property = Property { id, value: value(id, &mut inside)? };
        let zero = matches!(property.value, Value::Two(0) | Value::Variable(0) | Value::Four(0));
        let never_zero = [id::RECEIVE_MAXIMUM, id::MAXIMUM_PACKET_SIZE, id::TOPIC_ALIAS, id::SUBSCRIPTION_ID];
        if zero && never_zero.contains(&id) {
            return Err(format!("property 0x{id:02X} is 0"));
        }
        let flag = [id::RETAIN_AVAILABLE, id::WILDCARDS_AVAILABLE, id::SHARED_AVAILABLE, id::MAXIMUM_QOS];
        if flag.contains(&id) && !matches!(property.value, Value::Byte(0 | 1)) {
            return Err(format!("property 0x{id:02X} is neither 0 nor 1"));
        }
        found.push(property);
    }
    Ok(found)
}

/// Appends properties with their length in front.
pub fn write(properties: &[Property], out: &mut Vec<u8>) {
    let mut inside = Vec::new();
    for Property { id, value } in properties {
        crate::build::variable(*id, &mut inside);
        match value {
            Value::Byte(v) => inside.push(*v),
            Value::Two(v) => inside.extend(v.to_be_bytes()),
            Value::Four(v) => inside.extend(v.to_be_bytes()),
            Value::Variable(v) => crate::build::variable(*v, &mut inside),
            Value::Text(v) => crate::build::text(v, &mut inside),
            Value::Binary(v) => crate::build::binary(v, &mut inside),
            Value::Pair(key, value) => {
                crate::build::text(key, &mut inside);
                crate::build::text(value, &mut inside);
            }
        }
    }
    crate::build::variable(u32::try_from(inside.len()).expect("a test's properties are small"), out);
    out.extend(inside);
}

/// A byte property.
pub fn byte(id: u32, value: u8) -> Property {
    Property { id, value: Value::Byte(value) }
}

/// A two-byte property.
pub fn two(id: u32, value: u16) -> Property {
    Property { id, value: Value::Two(value) }
}

/// A four-byte property.
pub fn four(id: u32, value: u32) -> Property {
    Property { id, value: Value::Four(value) }
}

/// A variable byte integer property.
pub fn number(id: u32, value: u32) -> Property {
    Property { id, value: Value::Variable(value) }
}

/// A string property.
pub fn text(id: u32, value: &str) -> Property {
    Property { id, value: Value::Text(value.to_owned()) }
}

/// A binary property.
pub fn binary(id: u32, value: &[u8]) -> Property {
    Property { id, value: Value::Binary(value.to_owned()) }
}

/// A user property.
pub fn user(key: &str, value: &str) -> Property {
    Property { id: id::USER_PROPERTY, value: Value::Pair(key.to_owned(), value.to_owned()) }
}

/// What properties say.
pub trait Properties {
    /// The first of this id.
    fn find(&self, id: u32) -> Option<&Value>;

    /// A number of any width.
    fn number(&self, id: u32) -> Option<u32> {
        self.find(id).and_then(|value| match value {
            Value::Byte(v) => Some(u32::from(*v)),
            Value::Two(v) => Some(u32::from(*v)),
            Value::Four(v) | Value::Variable(v) => Some(*v),
            Value::Text(_) | Value::Binary(_) | Value::Pair(..) => None,
        })
    }

    /// A string.
    fn text(&self, id: u32) -> Option<&str> {
        self.find(id).and_then(|value| if let Value::Text(v) = value { Some(v.as_str()) } else { None })
    }

    /// User properties, in order.
    fn pairs(&self) -> Vec<(&str, &str)>;

    /// Subscription Identifiers, sorted.
    fn subscription_ids(&self) -> Vec<u32>;
}

impl Properties for [Property] {
    fn find(&self, id: u32) -> Option<&Value> {
        self.iter().find(|property| property.id == id).map(|property| &property.value)
    }

    fn pairs(&self) -> Vec<(&str, &str)> {
        let pair = |property: &'_ Property| matches!(property.value, Value::Pair(..));
        let both = self.iter().filter(|p| pair(p)).map(|p| match &p.value {
            Value::Pair(key, value) => (key.as_str(), value.as_str()),
            _ => ("", ""),
        });
        both.collect()
    }

    fn subscription_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .iter()
            .filter(|property| property.id == id::SUBSCRIPTION_ID)
            .filter_map(|property| if let Value::Variable(v) = property.value { Some(v) } else { None })
            .collect();
        ids.sort_unstable();
        ids
    }
}
