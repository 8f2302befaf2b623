//! Which properties a packet may have, and what their values look like (MQTT 5, table 2-4).

/// How the value of a property looks.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// 0 or 1.
    Flag,
    U16,
    /// A 0 is a protocol error.
    U16NotZero,
    U32,
    U32NotZero,
    /// A variable byte integer that is not 0.
    VarIntNotZero,
    Text,
    Binary,
    /// Two strings; may come again.
    Pair,
}

pub(super) type Allowed = [(u8, Shape)];

pub(super) const USER_PROPERTY: (u8, Shape) = (0x26, Shape::Pair);
pub(super) const SESSION_EXPIRY: u8 = 0x11;
pub(super) const REASON_STRING: u8 = 0x1F;
pub(super) const AUTHENTICATION_METHOD: u8 = 0x15;
pub(super) const AUTHENTICATION_DATA: u8 = 0x16;
pub(super) const SUBSCRIPTION_ID: u8 = 0x0B;

pub(super) const CONNECT: [(u8, Shape); 9] = [
    (SESSION_EXPIRY, Shape::U32),
    (0x21, Shape::U16NotZero),
    (0x27, Shape::U32NotZero),
    (0x22, Shape::U16),
    (0x19, Shape::Flag),
    (0x17, Shape::Flag),
    USER_PROPERTY,
    (AUTHENTICATION_METHOD, Shape::Text),
    (AUTHENTICATION_DATA, Shape::Binary),
];
pub(super) const WILL: [(u8, Shape); 7] = [
    (0x18, Shape::U32),
    (0x01, Shape::Flag),
    (0x02, Shape::U32),
    (0x03, Shape::Text),
    (0x08, Shape::Text),
    (0x09, Shape::Binary),
    USER_PROPERTY,
];
/// The session refuses a Topic Alias over its maximum, and Subscription Identifiers from a terminal.
pub(super) const PUBLISH: [(u8, Shape); 8] = [
    (0x01, Shape::Flag),
    (0x02, Shape::U32),
    (0x23, Shape::U16),
    (0x08, Shape::Text),
    (0x09, Shape::Binary),
    USER_PROPERTY,
    (SUBSCRIPTION_ID, Shape::VarIntNotZero),
    (0x03, Shape::Text),
];
pub(super) const ACK: [(u8, Shape); 2] = [(REASON_STRING, Shape::Text), USER_PROPERTY];
pub(super) const SUBSCRIBE: [(u8, Shape); 2] = [(SUBSCRIPTION_ID, Shape::VarIntNotZero), USER_PROPERTY];
pub(super) const UNSUBSCRIBE: [(u8, Shape); 1] = [USER_PROPERTY];
/// Server Reference is for servers only ([MQTT-3.14.2-2] forbids Session Expiry to them in turn).
pub(super) const DISCONNECT: [(u8, Shape); 3] =
    [(SESSION_EXPIRY, Shape::U32), (REASON_STRING, Shape::Text), USER_PROPERTY];
pub(super) const AUTH: [(u8, Shape); 4] = [
    (AUTHENTICATION_METHOD, Shape::Text),
    (AUTHENTICATION_DATA, Shape::Binary),
    (REASON_STRING, Shape::Text),
    USER_PROPERTY,
];

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    Pair(&'a str, &'a str),
}

/// User Property may come again, and to PUBLISH Subscription Identifier.
pub(super) fn may_repeat(id: u8, shape: Shape, allowed: &Allowed) -> bool {
    matches!(shape, Shape::Pair) || (id == SUBSCRIPTION_ID && allowed.len() == PUBLISH.len())
}
