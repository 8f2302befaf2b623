//! Reading within one packet, strictly: what the specification forbids is refused.

use fabric_core::mqtt::{Malformed, Reason};

use super::properties::{AUTHENTICATION_DATA, AUTHENTICATION_METHOD, Allowed, Shape, Value, may_repeat};

pub(super) type Result<T> = std::result::Result<T, Malformed>;

/// Longest properties of one packet, bytes: each becomes memory of its own, so the whole packet's length is no bound for
/// them. Several times what a message may carry.
const PROPERTIES_SECTION_LEN_MAX: usize = 64 * 1024;

/// Reads within one packet: running out of it is malformed.
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) v5: bool,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.bytes.split_at_checked(len) else {
            return Err(Malformed::packet("packet ends too early"));
        };
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.take(4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn varint(&mut self) -> Result<usize> {
        match varint(self.bytes)? {
            Some((value, len, true)) => self.take(len).map(|_| value),
            Some((_, _, false)) => Err(Malformed::packet("variable byte integer longer than needed")),
            None => Err(Malformed::packet("packet ends too early")),
        }
    }

    pub(super) fn binary(&mut self) -> Result<&'a [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    pub(super) fn string(&mut self) -> Result<&'a str> {
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

    pub(super) fn packet_id(&mut self) -> Result<u16> {
        match self.u16()? {
            // [MQTT-2.2.1-3].
            0 => Err(Malformed::protocol("packet identifier 0")),
            id => Ok(id),
        }
    }

    pub(super) fn end(&self) -> Result<()> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Malformed::packet("packet goes on after its end")) }
    }

    /// Properties that only have to be right.
    pub(super) fn properties(&mut self, allowed: &Allowed) -> Result<()> {
        self.properties_with(allowed, |_, _| {})
    }

    /// Properties, each shown to `each`.
    pub(super) fn properties_with(
        &mut self,
        allowed: &Allowed,
        mut each: impl FnMut(u8, Value<'a>),
    ) -> Result<()> {
        let len = self.varint()?;
        if len > PROPERTIES_SECTION_LEN_MAX {
            let (reason, what) = (Reason::PACKET_TOO_LARGE, "properties over the maximum size");
            return Err(Malformed { reason, what, version: None });
        }
        let mut cursor = Cursor { bytes: self.take(len)?, v5: true };
        // One bit per identifier; all are below 64.
        let mut seen = 0_u64;
        while !cursor.bytes.is_empty() {
            let id = cursor.u8()?;
            let Some((_, shape)) = allowed.iter().find(|(allowed, _)| *allowed == id) else {
                return Err(Malformed::packet("a property that does not belong here"));
            };
            if seen & (1 << id) != 0 && !may_repeat(id, *shape, allowed) {
                return Err(Malformed::protocol("a property comes twice"));
            }
            seen |= 1 << id;
            each(id, cursor.value(*shape)?);
        }
        if seen & (1 << AUTHENTICATION_DATA) != 0 && seen & (1 << AUTHENTICATION_METHOD) == 0 {
            return Err(Malformed::protocol("Authentication Data without a method"));
        }
        Ok(())
    }

    fn value(&mut self, shape: Shape) -> Result<Value<'a>> {
        let value = match shape {
            Shape::Flag => u32::from(self.u8()?),
            Shape::U16 | Shape::U16NotZero => u32::from(self.u16()?),
            Shape::U32 | Shape::U32NotZero => self.u32()?,
            Shape::VarIntNotZero => self.varint()? as u32,
            Shape::Text => return self.string().map(Value::Text),
            Shape::Binary => return self.binary().map(Value::Binary),
            Shape::Pair => return Ok(Value::Pair(self.string()?, self.string()?)),
        };
        let allowed = match shape {
            Shape::Flag => value <= 1,
            Shape::U16NotZero | Shape::U32NotZero | Shape::VarIntNotZero => value > 0,
            _ => true,
        };
        if allowed { Ok(Value::Number(value)) } else { Err(Malformed::protocol("value of a property")) }
    }
}

/// Value, length, and whether it is as short as possible ([MQTT-1.5.5-1]); `None`: more bytes are needed.
pub(super) fn varint(bytes: &[u8]) -> Result<Option<(usize, usize, bool)>> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1, at == 0 || *byte != 0)));
        }
    }
    if bytes.len() >= 4 { Err(Malformed::packet("variable byte integer over four bytes")) } else { Ok(None) }
}
