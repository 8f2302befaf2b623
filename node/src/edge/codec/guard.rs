//! What a packet must look like before `rumqttd` sees it.

use cluster_proto::Qos;
use fabric_core::mqtt::{Malformed, ProtocolVersion, Reason};

/// The first byte of a packet and its remaining length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) kind: u8,
    flags: u8,
    /// Bytes of the fixed header.
    pub(super) len: usize,
    /// Bytes of the whole packet.
    pub(super) packet_len: usize,
    /// Whether the remaining length was as short as possible.
    minimal: bool,
}

/// Control packet types.
pub(super) mod kind {
    pub(crate) const CONNECT: u8 = 1;
    pub(crate) const CONNACK: u8 = 2;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const PUBACK: u8 = 4;
    pub(crate) const PUBREC: u8 = 5;
    pub(crate) const PUBREL: u8 = 6;
    pub(crate) const PUBCOMP: u8 = 7;
    pub(crate) const SUBSCRIBE: u8 = 8;
    pub(crate) const SUBACK: u8 = 9;
    pub(crate) const UNSUBSCRIBE: u8 = 10;
    pub(crate) const UNSUBACK: u8 = 11;
    pub(crate) const PINGRESP: u8 = 13;
    pub(crate) const DISCONNECT: u8 = 14;
    pub(crate) const AUTH: u8 = 15;
}

/// What `rumqttd` keeps to itself (PUBLISH), or cannot tell (CONNECT), found on the way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Checked<'a> {
    Connect(ConnectParts<'a>),
    Publish {
        dup: bool,
        qos: Qos,
        packet_id: u16,
    },
    /// A DISCONNECT or AUTH whose reason code stands alone, or is absent.
    Bare(Reason),
    Other,
}

/// The parts of a valid CONNECT.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectParts<'a> {
    pub(super) version: ProtocolVersion,
    pub(super) flags: u8,
    /// From keep alive to the will: what `rumqttd` is given.
    pub(super) middle: &'a [u8],
    pub(super) user_name: Option<&'a str>,
    pub(super) password: Option<&'a [u8]>,
}

type Result<T> = std::result::Result<T, Malformed>;

/// The fixed header, once enough of it is there; refuses at the earliest byte that allows to.
pub(super) fn header(
    bytes: &[u8],
    version: Option<ProtocolVersion>,
    len_max: usize,
) -> Result<Option<Header>> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let (kind, flags) = (first >> 4, first & 0x0F);
    check_kind(kind, flags, version)?;
    let Some((remaining, varint_len, minimal)) = varint(&bytes[1..])? else { return Ok(None) };
    let len = 1 + varint_len;
    let packet_len = len + remaining;
    if packet_len > len_max {
        return Err(Malformed {
            reason: Reason::PACKET_TOO_LARGE,
            what: "packet over the maximum size",
            version,
        });
    }
    Ok(Some(Header { kind, flags, len, packet_len, minimal }))
}

fn check_kind(kind: u8, flags: u8, version: Option<ProtocolVersion>) -> Result<()> {
    match (kind, version) {
        (kind::CONNECT, None) => {}
        (_, None) => return Err(Malformed::protocol("the first packet is not CONNECT")),
        (kind::CONNECT, Some(_)) => return Err(Malformed::protocol("a second CONNECT")),
        (kind::CONNACK | kind::SUBACK | kind::UNSUBACK | kind::PINGRESP, _) => {
            return Err(Malformed::protocol("a packet that only servers send"));
        }
        (0, _) => return Err(Malformed::packet("packet type 0")),
        (kind::AUTH, Some(version)) if !version.is_v5() => return Err(Malformed::packet("packet type 15")),
        _ => {}
    }
    let expected = match kind {
        kind::PUBLISH => return Ok(()),
        kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE => 2,
        _ => 0,
    };
    if flags == expected { Ok(()) } else { Err(Malformed::packet("reserved flags of the fixed header")) }
}

/// Checks a whole packet, `body` being what follows the fixed header.
pub(super) fn check(header: Header, body: &[u8], version: Option<ProtocolVersion>) -> Result<Checked<'_>> {
    let Some(version) = version else { return check_connect(header, body).map(Checked::Connect) };
    let cursor = Cursor { bytes: body, v5: version.is_v5() };
    if cursor.v5 && !header.minimal {
        return Err(Malformed::packet("remaining length longer than needed"));
    }
    match header.kind {
        kind::PUBLISH => check_publish(header.flags, cursor),
        kind::PUBACK | kind::PUBREC | kind::PUBREL | kind::PUBCOMP => check_ack(cursor),
        kind::SUBSCRIBE => check_subscribe(cursor),
        kind::UNSUBSCRIBE => check_unsubscribe(cursor),
        kind::DISCONNECT => check_disconnect(cursor),
        kind::AUTH => check_auth(cursor),
        // PINGREQ; the others were refused with the header.
        _ => cursor.end().map(|()| Checked::Other),
    }
}

fn check_connect(header: Header, body: &[u8]) -> Result<ConnectParts<'_>> {
    let mut cursor = Cursor { bytes: body, v5: false };
    let version = protocol_version(&mut cursor)?;
    cursor.v5 = version.is_v5();
    let parts = check_connect_of(version, &mut cursor);
    let non_minimal = cursor.v5 && !header.minimal;
    match parts {
        Ok(_) if non_minimal => Err(Malformed::packet("remaining length longer than needed")),
        parts => parts,
    }
    .map_err(|malformed| Malformed { version: Some(version), ..malformed })
}

fn protocol_version(cursor: &mut Cursor<'_>) -> Result<ProtocolVersion> {
    let name = cursor.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(Malformed::protocol("protocol name is not MQTT"));
    }
    match (name.len(), cursor.u8()?) {
        (6, 3) => Ok(ProtocolVersion::V31),
        (4, 4) => Ok(ProtocolVersion::V311),
        (4, 5) => Ok(ProtocolVersion::V5),
        (_, level) => {
            // Answered in the nearest version we speak.
            let version = if level > 5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
            let what = "unsupported protocol version";
            Err(Malformed { reason: Reason::UNSUPPORTED_VERSION, what, version: Some(version) })
        }
    }
}

fn check_connect_of<'a>(version: ProtocolVersion, cursor: &mut Cursor<'a>) -> Result<ConnectParts<'a>> {
    let flags = cursor.u8()?;
    check_connect_flags(version, flags)?;
    let from = cursor.bytes;
    cursor.u16()?;
    if cursor.v5 {
        cursor.properties(&CONNECT_PROPERTIES)?;
    }
    cursor.string()?;
    if flags & 0x04 != 0 {
        if cursor.v5 {
            cursor.properties(&WILL_PROPERTIES)?;
        }
        cursor.string()?;
        cursor.binary()?;
    }
    let middle = &from[..from.len() - cursor.bytes.len()];
    let user_name = if flags & 0x80 != 0 { Some(cursor.string()?) } else { None };
    let password = if flags & 0x40 != 0 { Some(cursor.binary()?) } else { None };
    cursor.end()?;
    Ok(ConnectParts { version, flags, middle, user_name, password })
}

fn check_connect_flags(version: ProtocolVersion, flags: u8) -> Result<()> {
    let will = flags & 0x04 != 0;
    if flags & 0x01 != 0 {
        // [MQTT-3.1.2-3].
        return Err(Malformed::packet("reserved flag of CONNECT"));
    }
    if (!will && flags & 0x38 != 0) || flags & 0x18 == 0x18 {
        // [MQTT-3.1.2-11] to [MQTT-3.1.2-15].
        return Err(Malformed::packet("will flags of CONNECT"));
    }
    if !version.is_v5() && flags & 0xC0 == 0x40 {
        // [MQTT-3.1.2-22] of 3.1.1.
        return Err(Malformed::packet("password without user name"));
    }
    Ok(())
}

fn check_publish(flags: u8, mut cursor: Cursor<'_>) -> Result<Checked<'_>> {
    let dup = flags & 0x08 != 0;
    let Some(qos) = Qos::from_u8((flags >> 1) & 0x03) else { return Err(Malformed::packet("QoS 3")) };
    if dup && qos == Qos::AtMostOnce {
        // [MQTT-3.3.1-2].
        return Err(Malformed::packet("DUP with QoS 0"));
    }
    cursor.string()?;
    let packet_id = if qos == Qos::AtMostOnce { 0 } else { cursor.packet_id()? };
    if cursor.v5 {
        cursor.properties(&PUBLISH_PROPERTIES)?;
    }
    Ok(Checked::Publish { dup, qos, packet_id })
}

fn check_ack(mut cursor: Cursor<'_>) -> Result<Checked<'_>> {
    cursor.packet_id()?;
    if cursor.v5 && !cursor.bytes.is_empty() {
        cursor.u8()?;
        if !cursor.bytes.is_empty() {
            cursor.properties(&ACK_PROPERTIES)?;
        }
    }
    cursor.end().map(|()| Checked::Other)
}

fn check_subscribe(mut cursor: Cursor<'_>) -> Result<Checked<'_>> {
    cursor.packet_id()?;
    if cursor.v5 {
        cursor.properties(&SUBSCRIBE_PROPERTIES)?;
    }
    if cursor.bytes.is_empty() {
        // [MQTT-3.8.3-2].
        return Err(Malformed::protocol("SUBSCRIBE without filters"));
    }
    let reserved = if cursor.v5 { 0xC0 } else { 0xFC };
    while !cursor.bytes.is_empty() {
        cursor.string()?;
        let options = cursor.u8()?;
        if options & reserved != 0 || options & 0x03 == 3 {
            // [MQTT-3.8.3-5].
            return Err(Malformed::packet("subscription options"));
        }
        if options & 0x30 == 0x30 {
            return Err(Malformed::protocol("Retain Handling 3"));
        }
    }
    Ok(Checked::Other)
}

fn check_unsubscribe(mut cursor: Cursor<'_>) -> Result<Checked<'_>> {
    cursor.packet_id()?;
    if cursor.v5 {
        cursor.properties(&UNSUBSCRIBE_PROPERTIES)?;
    }
    if cursor.bytes.is_empty() {
        // [MQTT-3.10.3-2].
        return Err(Malformed::protocol("UNSUBSCRIBE without filters"));
    }
    while !cursor.bytes.is_empty() {
        cursor.string()?;
    }
    Ok(Checked::Other)
}

fn check_disconnect(mut cursor: Cursor<'_>) -> Result<Checked<'_>> {
    if !cursor.v5 || cursor.bytes.is_empty() {
        return cursor.end().map(|()| Checked::Bare(Reason::SUCCESS));
    }
    let reason = Reason(cursor.u8()?);
    if !DISCONNECT_REASONS.contains(&reason.0) {
        return Err(Malformed::protocol("reason code of DISCONNECT"));
    }
    if cursor.bytes.is_empty() {
        return Ok(Checked::Bare(reason));
    }
    cursor.properties(&DISCONNECT_PROPERTIES)?;
    cursor.end().map(|()| Checked::Other)
}

fn check_auth(mut cursor: Cursor<'_>) -> Result<Checked<'_>> {
    if cursor.bytes.is_empty() {
        return Ok(Checked::Bare(Reason::SUCCESS));
    }
    let reason = Reason(cursor.u8()?);
    if ![Reason::SUCCESS, Reason::CONTINUE_AUTHENTICATION, Reason::REAUTHENTICATE].contains(&reason) {
        return Err(Malformed::protocol("reason code of AUTH"));
    }
    if !cursor.bytes.is_empty() {
        cursor.properties(&AUTH_PROPERTIES)?;
    }
    cursor.end().map(|()| Checked::Bare(reason))
}

/// Reason codes a client may put into DISCONNECT (table 3-13).
const DISCONNECT_REASONS: [u8; 14] =
    [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];

// ---------------------------------------------------------------- properties

/// How the value of a property looks.
#[derive(Clone, Copy)]
enum Shape {
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

type Allowed = [(u8, Shape)];

const USER_PROPERTY: (u8, Shape) = (0x26, Shape::Pair);
const REASON_STRING: (u8, Shape) = (0x1F, Shape::Text);
const AUTHENTICATION_METHOD: u8 = 0x15;
const AUTHENTICATION_DATA: u8 = 0x16;
const SUBSCRIPTION_ID: u8 = 0x0B;

const CONNECT_PROPERTIES: [(u8, Shape); 9] = [
    (0x11, Shape::U32),
    (0x21, Shape::U16NotZero),
    (0x27, Shape::U32NotZero),
    (0x22, Shape::U16),
    (0x19, Shape::Flag),
    (0x17, Shape::Flag),
    USER_PROPERTY,
    (AUTHENTICATION_METHOD, Shape::Text),
    (AUTHENTICATION_DATA, Shape::Binary),
];
const WILL_PROPERTIES: [(u8, Shape); 7] = [
    (0x18, Shape::U32),
    (0x01, Shape::Flag),
    (0x02, Shape::U32),
    (0x03, Shape::Text),
    (0x08, Shape::Text),
    (0x09, Shape::Binary),
    USER_PROPERTY,
];
/// The session refuses a Topic Alias over its maximum, and Subscription Identifiers from a terminal.
const PUBLISH_PROPERTIES: [(u8, Shape); 8] = [
    (0x01, Shape::Flag),
    (0x02, Shape::U32),
    (0x23, Shape::U16),
    (0x08, Shape::Text),
    (0x09, Shape::Binary),
    USER_PROPERTY,
    (SUBSCRIPTION_ID, Shape::VarIntNotZero),
    (0x03, Shape::Text),
];
const ACK_PROPERTIES: [(u8, Shape); 2] = [REASON_STRING, USER_PROPERTY];
const SUBSCRIBE_PROPERTIES: [(u8, Shape); 2] = [(SUBSCRIPTION_ID, Shape::VarIntNotZero), USER_PROPERTY];
const UNSUBSCRIBE_PROPERTIES: [(u8, Shape); 1] = [USER_PROPERTY];
/// Server Reference is for servers only ([MQTT-3.14.2-2] forbids Session Expiry to them in turn).
const DISCONNECT_PROPERTIES: [(u8, Shape); 3] = [(0x11, Shape::U32), REASON_STRING, USER_PROPERTY];
const AUTH_PROPERTIES: [(u8, Shape); 4] = [
    (AUTHENTICATION_METHOD, Shape::Text),
    (AUTHENTICATION_DATA, Shape::Binary),
    REASON_STRING,
    USER_PROPERTY,
];

// ---------------------------------------------------------------- reading

/// Reads within one packet: running out of it is malformed.
struct Cursor<'a> {
    bytes: &'a [u8],
    v5: bool,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.bytes.split_at_checked(len) else {
            return Err(Malformed::packet("packet ends too early"));
        };
        self.bytes = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Result<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32> {
        self.take(4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn varint(&mut self) -> Result<usize> {
        match varint(self.bytes)? {
            Some((value, len, true)) => self.take(len).map(|_| value),
            Some((_, _, false)) => Err(Malformed::packet("variable byte integer longer than needed")),
            None => Err(Malformed::packet("packet ends too early")),
        }
    }

    fn binary(&mut self) -> Result<&'a [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    fn string(&mut self) -> Result<&'a str> {
        let Ok(text) = std::str::from_utf8(self.binary()?) else {
            // [MQTT-1.5.4-1].
            return Err(Malformed::packet("a string is not UTF-8"));
        };
        if text.as_bytes().contains(&0) {
            // [MQTT-1.5.4-2].
            return Err(Malformed::packet("a string has the character U+0000"));
        }
        Ok(text)
    }

    fn packet_id(&mut self) -> Result<u16> {
        match self.u16()? {
            // [MQTT-2.2.1-3].
            0 => Err(Malformed::protocol("packet identifier 0")),
            id => Ok(id),
        }
    }

    fn end(&self) -> Result<()> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Malformed::packet("packet goes on after its end")) }
    }

    fn properties(&mut self, allowed: &Allowed) -> Result<()> {
        let len = self.varint()?;
        let mut cursor = Cursor { bytes: self.take(len)?, v5: true };
        // One bit per identifier; all are below 64.
        let mut seen = 0_u64;
        while !cursor.bytes.is_empty() {
            let id = cursor.u8()?;
            let Some((_, shape)) = allowed.iter().find(|(allowed, _)| *allowed == id) else {
                return Err(Malformed::packet("a property that does not belong here"));
            };
            let repeats = matches!(shape, Shape::Pair)
                || (id == SUBSCRIPTION_ID && allowed.len() == PUBLISH_PROPERTIES.len());
            if seen & (1 << id) != 0 && !repeats {
                return Err(Malformed::protocol("a property comes twice"));
            }
            seen |= 1 << id;
            cursor.value(*shape)?;
        }
        if seen & (1 << AUTHENTICATION_DATA) != 0 && seen & (1 << AUTHENTICATION_METHOD) == 0 {
            return Err(Malformed::protocol("Authentication Data without a method"));
        }
        Ok(())
    }

    fn value(&mut self, shape: Shape) -> Result<()> {
        let allowed = match shape {
            Shape::Flag => self.u8()? <= 1,
            Shape::U16 => self.u16().map(|_| true)?,
            Shape::U16NotZero => self.u16()? > 0,
            Shape::U32 => self.u32().map(|_| true)?,
            Shape::U32NotZero => self.u32()? > 0,
            Shape::VarIntNotZero => self.varint()? > 0,
            Shape::Text => self.string().map(|_| true)?,
            Shape::Binary => self.binary().map(|_| true)?,
            Shape::Pair => {
                self.string()?;
                self.string().map(|_| true)?
            }
        };
        if allowed { Ok(()) } else { Err(Malformed::protocol("value of a property")) }
    }
}

/// Value, length, and whether it is as short as possible ([MQTT-1.5.5-1]); `None`: more bytes are needed.
fn varint(bytes: &[u8]) -> Result<Option<(usize, usize, bool)>> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1, at == 0 || *byte != 0)));
        }
    }
    if bytes.len() >= 4 { Err(Malformed::packet("variable byte integer over four bytes")) } else { Ok(None) }
}
