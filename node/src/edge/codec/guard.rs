//! What a packet must look like before `rumqttd` sees it.

use bytes::Bytes;
use cluster_proto::{Qos, limits::FILTERS_PER_PACKET_MAX};
use fabric_core::mqtt::{
    Malformed, ProtocolVersion, Reason,
    packet::{Ack, Auth, Disconnect},
};

use super::{
    cursor::{Cursor, Result, varint},
    properties::{self, Value},
};

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

/// What `rumqttd` keeps to itself (PUBLISH), or cannot tell (CONNECT, every reason code, AUTH), found on the way.
#[derive(Clone, Debug)]
pub(super) enum Checked<'a> {
    Connect(ConnectParts<'a>),
    Publish {
        dup: bool,
        qos: Qos,
        packet_id: u16,
    },
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack(Ack),
    Disconnect(Disconnect),
    Auth(Auth),
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
        kind::PUBACK | kind::PUBREC | kind::PUBREL | kind::PUBCOMP => check_ack(header.kind, cursor),
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
        cursor.properties(&properties::CONNECT)?;
    }
    cursor.string()?;
    if flags & 0x04 != 0 {
        if cursor.v5 {
            cursor.properties(&properties::WILL)?;
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
        cursor.properties(&properties::PUBLISH)?;
    }
    Ok(Checked::Publish { dup, qos, packet_id })
}

fn check_ack(kind: u8, mut cursor: Cursor<'_>) -> Result<Checked<'_>> {
    let packet_id = cursor.packet_id()?;
    let mut reason = Reason::SUCCESS;
    if cursor.v5 && !cursor.bytes.is_empty() {
        reason = Reason(cursor.u8()?);
        let reasons: &[u8] = match kind {
            kind::PUBACK | kind::PUBREC => &PUBLISH_REASONS,
            _ => &RELEASE_REASONS,
        };
        if !reasons.contains(&reason.0) {
            return Err(Malformed::protocol("reason code of an acknowledgement"));
        }
        if !cursor.bytes.is_empty() {
            cursor.properties(&properties::ACK)?;
        }
    }
    cursor.end().map(|()| Checked::Ack(Ack { packet_id, reason }))
}

fn check_subscribe(mut cursor: Cursor<'_>) -> Result<Checked<'_>> {
    cursor.packet_id()?;
    if cursor.v5 {
        cursor.properties(&properties::SUBSCRIBE)?;
    }
    if cursor.bytes.is_empty() {
        // [MQTT-3.8.3-2].
        return Err(Malformed::protocol("SUBSCRIBE without filters"));
    }
    let reserved = if cursor.v5 { 0xC0 } else { 0xFC };
    let mut count = 0;
    while !cursor.bytes.is_empty() {
        count_filter(&mut count)?;
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
        cursor.properties(&properties::UNSUBSCRIBE)?;
    }
    if cursor.bytes.is_empty() {
        // [MQTT-3.10.3-2].
        return Err(Malformed::protocol("UNSUBSCRIBE without filters"));
    }
    let mut count = 0;
    while !cursor.bytes.is_empty() {
        count_filter(&mut count)?;
        cursor.string()?;
    }
    Ok(Checked::Other)
}

/// Refused before each of them becomes a string.
fn count_filter(count: &mut usize) -> Result<()> {
    *count += 1;
    if *count <= FILTERS_PER_PACKET_MAX {
        return Ok(());
    }
    Err(Malformed { reason: Reason::QUOTA_EXCEEDED, what: "too many filters in one packet", version: None })
}

fn check_disconnect(mut cursor: Cursor<'_>) -> Result<Checked<'_>> {
    let mut disconnect = Disconnect::default();
    if cursor.v5 && !cursor.bytes.is_empty() {
        disconnect.reason = Reason(cursor.u8()?);
        if !DISCONNECT_REASONS.contains(&disconnect.reason.0) {
            return Err(Malformed::protocol("reason code of DISCONNECT"));
        }
        if !cursor.bytes.is_empty() {
            cursor.properties_with(&properties::DISCONNECT, |id, value| match (id, value) {
                (properties::SESSION_EXPIRY, Value::Number(seconds)) => {
                    disconnect.session_expiry_s = Some(seconds);
                }
                (properties::REASON_STRING, Value::Text(text)) => {
                    disconnect.reason_string = Some(text.to_owned());
                }
                _ => {}
            })?;
        }
    }
    cursor.end().map(|()| Checked::Disconnect(disconnect))
}

fn check_auth(mut cursor: Cursor<'_>) -> Result<Checked<'_>> {
    let mut auth = Auth::default();
    if !cursor.bytes.is_empty() {
        auth.reason = Reason(cursor.u8()?);
        if !AUTH_REASONS.contains(&auth.reason.0) {
            return Err(Malformed::protocol("reason code of AUTH"));
        }
        if !cursor.bytes.is_empty() {
            cursor.properties_with(&properties::AUTH, |id, value| match (id, value) {
                (properties::AUTHENTICATION_METHOD, Value::Text(text)) => auth.method = Some(text.to_owned()),
                (properties::AUTHENTICATION_DATA, Value::Binary(data)) => {
                    auth.data = Some(Bytes::copy_from_slice(data));
                }
                (properties::REASON_STRING, Value::Text(text)) => auth.reason_string = Some(text.to_owned()),
                (_, Value::Pair(key, value)) => auth.user_properties.push((key.to_owned(), value.to_owned())),
                _ => {}
            })?;
        }
    }
    cursor.end().map(|()| Checked::Auth(auth))
}

/// Reason codes of PUBACK and PUBREC (tables 3-4 and 3-5).
const PUBLISH_REASONS: [u8; 9] = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
/// Reason codes of PUBREL and PUBCOMP (tables 3-6 and 3-7).
const RELEASE_REASONS: [u8; 2] = [0x00, 0x92];
/// Reason codes of AUTH (table 3-11).
const AUTH_REASONS: [u8; 3] = [0x00, 0x18, 0x19];
/// Reason codes a client may put into DISCONNECT (table 3-13).
const DISCONNECT_REASONS: [u8; 14] =
    [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
