//! What a server sends, read strictly: whatever the specification forbids a server fails the test that reads it.

use crate::{
    Version,
    property::{self, Property},
};

/// What is wrong with a packet.
pub type Wrong = String;

/// A packet from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// CONNACK.
    Connack(Connack),
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK, PUBREC, PUBREL, PUBCOMP.
    Ack(Ack),
    /// SUBACK, UNSUBACK.
    Suback(Suback),
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT.
    Disconnect(End),
    /// AUTH.
    Auth(End),
}

/// CONNACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack {
    /// Session Present.
    pub session_present: bool,
    /// Return code or reason code.
    pub reason: u8,
    /// Empty before MQTT 5.
    pub properties: Vec<Property>,
}

/// PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// DUP.
    pub dup: bool,
    /// QoS.
    pub qos: u8,
    /// RETAIN.
    pub retain: bool,
    /// Topic Name.
    pub topic: String,
    /// 0 with QoS 0.
    pub id: u16,
    /// Empty before MQTT 5.
    pub properties: Vec<Property>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Packet type.
    pub kind: u8,
    /// Packet identifier.
    pub id: u16,
    /// 0 where it is left out.
    pub reason: u8,
    /// Empty before MQTT 5.
    pub properties: Vec<Property>,
}

/// SUBACK or UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suback {
    /// Packet type: 9 or 11.
    pub kind: u8,
    /// Packet identifier.
    pub id: u16,
    /// One each; none in UNSUBACK before MQTT 5.
    pub reasons: Vec<u8>,
    /// Empty before MQTT 5.
    pub properties: Vec<Property>,
}

/// DISCONNECT or AUTH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: u8,
    /// With it.
    pub properties: Vec<Property>,
}

/// PUBACK.
pub const PUBACK: u8 = 4;
/// PUBREC.
pub const PUBREC: u8 = 5;
/// PUBREL.
pub const PUBREL: u8 = 6;
/// PUBCOMP.
pub const PUBCOMP: u8 = 7;

impl Publish {
    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// A packet that is not read yet: its first byte, what follows the Remaining Length, and its length in all.
pub type Raw<'a> = (u8, &'a [u8], usize);

/// The first packet in `buffer`; `None` while it is incomplete.
pub fn split(buffer: &[u8]) -> Result<Option<Raw<'_>>, Wrong> {
    let Some(first) = buffer.first() else { return Ok(None) };
    let mut length = 0usize;
    for (place, byte) in buffer[1..].iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            if *byte == 0 && place > 0 {
                return Err("Remaining Length in more bytes than it needs [MQTT-1.5.5-1]".to_owned());
            }
            let start = 2 + place;
            return Ok(buffer.get(start..start + length).map(|body| (*first, body, start + length)));
        }
        if place == 3 {
            return Err("Remaining Length in more than four bytes".to_owned());
        }
    }
    Ok(None)
}

impl Packet {
    /// Reads one, strictly.
    pub fn read(version: Version, first: u8, body: &[u8]) -> Result<Self, Wrong> {
        let (kind, flags) = (first >> 4, first & 0x0F);
        let expected = if kind == PUBREL { 2 } else { 0 };
        if kind != 3 && flags != expected {
            return Err(format!("flags {flags:04b} in a packet of type {kind} [MQTT-2.1.3-1]"));
        }
        let mut bytes = Bytes(body);
        let packet = match kind {
            2 => connack(version, &mut bytes)?,
            3 => publish(version, flags, &mut bytes)?,
            4..=7 => ack(version, kind, &mut bytes)?,
            9 | 11 => suback(version, kind, &mut bytes)?,
            13 => Self::Pingresp,
            14 | 15 if version == Version::V5 => end(kind, &mut bytes)?,
            _ => return Err(format!("a packet of type {kind} from a server")),
        };
        if bytes.0.is_empty() { Ok(packet) } else { Err(format!("{} bytes too many", bytes.0.len())) }
    }
}

fn connack(version: Version, bytes: &mut Bytes<'_>) -> Result<Packet, Wrong> {
    let (flags, reason) = (bytes.byte()?, bytes.byte()?);
    let properties = if version == Version::V5 { property::read(2, bytes)? } else { Vec::new() };
    let present = match flags {
        0 => false,
        1 if reason == 0 => true,
        1 => return Err("Session Present with a refusal [MQTT-3.2.2-6]".to_owned()),
        _ => return Err("reserved acknowledge flags [MQTT-3.2.2-1]".to_owned()),
    };
    check_reason(version, 2, reason)?;
    Ok(Packet::Connack(Connack { session_present: present, reason, properties }))
}

fn publish(version: Version, flags: u8, bytes: &mut Bytes<'_>) -> Result<Packet, Wrong> {
    let (dup, qos, retain) = (flags & 8 != 0, flags >> 1 & 3, flags & 1 != 0);
    if qos == 3 || (dup && qos == 0) {
        return Err(format!("PUBLISH with QoS {qos} and DUP {dup} [MQTT-3.3.1-2] [MQTT-3.3.1-4]"));
    }
    let topic = bytes.text()?;
    if topic.contains(['+', '#']) {
        return Err("wildcards in a Topic Name [MQTT-3.3.2-2]".to_owned());
    }
    let id = if qos > 0 { bytes.two()? } else { 0 };
    if qos > 0 && id == 0 {
        return Err("packet identifier 0 [MQTT-2.2.1-4]".to_owned());
    }
    let properties = if version == Version::V5 { property::read(3, bytes)? } else { Vec::new() };
    let aliased = properties.iter().any(|property| property.id == property::id::TOPIC_ALIAS);
    if topic.is_empty() && !aliased {
        return Err("no Topic Name [MQTT-4.7.3-1]".to_owned());
    }
    let payload = bytes.take(bytes.0.len())?.to_vec();
    Ok(Packet::Publish(Publish { dup, qos, retain, topic, id, properties, payload }))
}

fn ack(version: Version, kind: u8, bytes: &mut Bytes<'_>) -> Result<Packet, Wrong> {
    let id = bytes.two()?;
    let (mut reason, mut properties) = (0, Vec::new());
    if version == Version::V5 && !bytes.0.is_empty() {
        reason = bytes.byte()?;
        if !bytes.0.is_empty() {
            properties = property::read(kind, bytes)?;
        }
    }
    check_reason(version, kind, reason)?;
    Ok(Packet::Ack(Ack { kind, id, reason, properties }))
}

fn suback(version: Version, kind: u8, bytes: &mut Bytes<'_>) -> Result<Packet, Wrong> {
    let id = bytes.two()?;
    let properties = if version == Version::V5 { property::read(kind, bytes)? } else { Vec::new() };
    let reasons = bytes.take(bytes.0.len())?.to_vec();
    if version < Version::V5 && kind == 11 && !reasons.is_empty() {
        return Err("UNSUBACK with a payload".to_owned());
    }
    reasons.iter().try_for_each(|reason| check_reason(version, kind, *reason))?;
    Ok(Packet::Suback(Suback { kind, id, reasons, properties }))
}

fn end(kind: u8, bytes: &mut Bytes<'_>) -> Result<Packet, Wrong> {
    let reason = if bytes.0.is_empty() { 0 } else { bytes.byte()? };
    let properties = if bytes.0.is_empty() { Vec::new() } else { property::read(kind, bytes)? };
    check_reason(Version::V5, kind, reason)?;
    let end = End { reason, properties };
    Ok(if kind == 14 { Packet::Disconnect(end) } else { Packet::Auth(end) })
}

/// Table 2-6: which reason codes a server may put into which packet ([MQTT-3.2.2-8], [MQTT-3.4.2-1] and its like).
fn check_reason(version: Version, kind: u8, reason: u8) -> Result<(), Wrong> {
    let allowed: &[u8] = match (version, kind) {
        (Version::V31 | Version::V311, 2) => &[0, 1, 2, 3, 4, 5],
        (Version::V31 | Version::V311, 9) => &[0, 1, 2, 0x80],
        (Version::V31 | Version::V311, _) => &[0],
        (_, 2) => &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
            0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
        (_, PUBACK | PUBREC) => &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
        (_, PUBREL | PUBCOMP) => &[0x00, 0x92],
        (_, 9) => &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2],
        (_, 11) => &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
        (_, 14) => &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95,
            0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
        ],
        (_, 15) => &[0x00, 0x18],
        _ => &[],
    };
    if allowed.contains(&reason) {
        Ok(())
    } else {
        Err(format!("reason 0x{reason:02X} in a packet of type {kind}"))
    }
}

/// Bytes not read yet.
#[derive(Debug)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Wrong> {
        let (head, tail) = self.0.split_at_checked(len).ok_or("a packet that ends early")?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Wrong> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn two(&mut self) -> Result<u16, Wrong> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(crate) fn four(&mut self) -> Result<u32, Wrong> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Wrong> {
        let len = self.two()?;
        self.take(usize::from(len))
    }

    pub(crate) fn text(&mut self) -> Result<String, Wrong> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| "ill-formed UTF-8 [MQTT-1.5.4-1]")?;
        if text.contains('\0') {
            return Err("U+0000 in a string [MQTT-1.5.4-2]".to_owned());
        }
        Ok(text.to_owned())
    }

    pub(crate) fn variable(&mut self) -> Result<u32, Wrong> {
        let mut value = 0;
        for place in 0..4 {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                if byte == 0 && place > 0 {
                    return Err(
                        "a Variable Byte Integer in more bytes than it needs [MQTT-1.5.5-1]".to_owned()
                    );
                }
                return Ok(value);
            }
        }
        Err("a Variable Byte Integer of more than four bytes".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(version: Version, bytes: &[u8]) -> String {
        let (first, body, _) = split(bytes).unwrap().unwrap();
        Packet::read(version, first, body).unwrap_err()
    }

    #[test]
    fn what_a_server_must_not_send_is_noticed() {
        assert!(wrong(Version::V311, &[0x21, 2, 0, 0]).contains("flags"));
        assert!(wrong(Version::V311, &[0x20, 2, 1, 5]).contains("Session Present"));
        assert!(wrong(Version::V5, &[0x20, 3, 0, 0x8E, 0]).contains("reason"));
        assert!(wrong(Version::V5, &[0x20, 6, 0, 0, 3, 0x21, 0, 0]).contains("is 0"));
        assert!(wrong(Version::V5, &[0x30, 6, 0, 1, b't', 2, 0x22, 0]).contains("property"));
        assert!(wrong(Version::V311, &[0x38, 3, 0, 1, b't']).contains("DUP"));
        assert!(wrong(Version::V311, &[0x30, 3, 0, 1, b'+']).contains("wildcards"));
        assert!(wrong(Version::V311, &[0x32, 5, 0, 1, b't', 0, 0]).contains("identifier 0"));
        assert!(wrong(Version::V311, &[0x90, 3, 0, 1, 0x87]).contains("reason"));
        assert!(wrong(Version::V5, &[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 1]).contains("property"));
        assert!(split(&[0x20, 0x82, 0x00, 0, 0]).is_err());
    }

    #[test]
    fn a_packet_that_is_not_all_there_is_none() {
        for len in 0..4 {
            assert_eq!(split(&[0x20, 2, 0, 0][..len]).unwrap(), None);
        }
    }
}
