//! MQTT over WebSocket: one stream of bytes inside binary frames [MQTT-6.0.0-1], whose borders mean nothing
//! [MQTT-6.0.0-2].
//!
//! ```text
//!  socket ─► frames ─► bytes of MQTT     unmasked in place, in the buffer they were read into
//!  socket ◄─ frames ◄─ bytes of MQTT     a header before as many bytes as are there; the bytes are not copied
//! ```
//! tungstenite knows how a frame header looks and how a handshake is answered. Its own reader and writer keep a buffer
//! per connection and copy every message; here a frame's payload is passed on as it comes, so an idle connection holds
//! this struct and nothing else, and a frame of any length costs no memory.

mod handshake;

use std::io::{self, Cursor};

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

pub(super) use self::handshake::Request;

/// Two bytes, a length of eight, a mask of four.
const HEADER_LEN_MAX: usize = 14;
/// [RFC 6455, 5.5]
const CONTROL_LEN_MAX: u64 = 125;

/// The WebSocket of one connection, from the end of its handshake.
#[derive(Debug)]
pub(super) struct WebSocket {
    /// Longest frame taken.
    frame_len_max: u64,
    input: Input,
    /// A message goes on with the next data frame.
    in_message: bool,
    /// Header or control frame that the socket has not taken yet.
    head: Vec<u8>,
    /// Bytes of the frame begun that the socket has not taken yet. Nothing else may be written between.
    out_left: usize,
    /// To be sent before the next frame. A newer one replaces it: only the last ping has to be answered.
    pong: Option<Vec<u8>>,
    is_closing: bool,
    has_ended: bool,
}

#[derive(Debug)]
enum Input {
    /// Part of a header.
    Header { bytes: [u8; HEADER_LEN_MAX], len: usize },
    /// Inside the payload of a data frame.
    Payload { mask: [u8; 4], left: u64 },
    /// Inside a control frame.
    Control { opcode: Control, mask: [u8; 4], left: usize, payload: Vec<u8> },
}

const NO_HEADER: Input = Input::Header { bytes: [0; HEADER_LEN_MAX], len: 0 };

impl WebSocket {
    pub(super) fn new(frame_len_max: u64) -> Self {
        Self {
            frame_len_max,
            input: NO_HEADER,
            in_message: false,
            head: Vec::new(),
            out_left: 0,
            pong: None,
            is_closing: false,
            has_ended: false,
        }
    }

    /// The peer has said good-bye: nothing follows.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    // ------------------------------------------------------------ reading

    /// Turns what came into bytes of MQTT, at the front of `bytes`; answers how many. Control frames are answered. An
    /// error is a broken rule, and the peer is told which.
    pub(super) fn decode(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (mut read, mut written) = (0, 0);
        while read < bytes.len() && !self.has_ended {
            match &mut self.input {
                Input::Header { .. } => read += self.read_header(&bytes[read..])?,
                Input::Payload { mask, left } => {
                    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - read);
                    bytes.copy_within(read..read + len, written);
                    unmask(&mut bytes[written..written + len], mask);
                    (read, written) = (read + len, written + len);
                    *left -= len as u64;
                    if *left == 0 {
                        self.input = NO_HEADER;
                    }
                }
                Input::Control { left, payload, .. } => {
                    let len = (*left).min(bytes.len() - read);
                    payload.extend_from_slice(&bytes[read..read + len]);
                    read += len;
                    *left -= len;
                }
            }
            self.finish_control();
        }
        Ok(written)
    }

    /// Takes bytes of a header; answers how many.
    fn read_header(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Input::Header { bytes: known, len } = &mut self.input else { return Ok(0) };
        let before = *len;
        let taken = (HEADER_LEN_MAX - before).min(bytes.len());
        known[before..before + taken].copy_from_slice(&bytes[..taken]);
        *len = before + taken;
        let mut cursor = Cursor::new(&known[..*len]);
        let header = match FrameHeader::parse(&mut cursor) {
            Ok(None) => return Ok(taken),
            Ok(Some(header)) => header,
            Err(_) => return Err(self.fail(CloseCode::Protocol, "a frame of an unknown kind")),
        };
        let header_len = usize::try_from(cursor.position()).unwrap_or(HEADER_LEN_MAX);
        self.begin_frame(&header.0, header.1)?;
        Ok(header_len - before)
    }

    fn begin_frame(&mut self, header: &FrameHeader, len: u64) -> io::Result<()> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(self.fail(CloseCode::Protocol, "an extension that was not agreed on"));
        }
        let Some(mask) = header.mask else {
            return Err(self.fail(CloseCode::Protocol, "a frame without a mask"));
        };
        match header.opcode {
            OpCode::Control(opcode) => {
                if !header.is_final || len > CONTROL_LEN_MAX {
                    return Err(self.fail(CloseCode::Protocol, "a control frame that is long or in parts"));
                }
                self.input = Input::Control { opcode, mask, left: len as usize, payload: Vec::new() };
                return Ok(());
            }
            // [MQTT-6.0.0-1]
            OpCode::Data(Data::Text) => return Err(self.fail(CloseCode::Unsupported, "a text frame")),
            OpCode::Data(Data::Continue) if !self.in_message => {
                return Err(self.fail(CloseCode::Protocol, "the continuation of nothing"));
            }
            OpCode::Data(Data::Continue) => {}
            OpCode::Data(_) if self.in_message => {
                return Err(self.fail(CloseCode::Protocol, "a message within a message"));
            }
            OpCode::Data(_) => {}
        }
        if len > self.frame_len_max {
            return Err(self.fail(CloseCode::Size, "a frame that is too long"));
        }
        self.in_message = !header.is_final;
        self.input = if len == 0 { NO_HEADER } else { Input::Payload { mask, left: len } };
        Ok(())
    }

    /// Acts on a control frame that is complete.
    fn finish_control(&mut self) {
        let Input::Control { left: 0, .. } = self.input else { return };
        let Input::Control { opcode, mut mask, mut payload, .. } =
            std::mem::replace(&mut self.input, NO_HEADER)
        else {
            return;
        };
        unmask(&mut payload, &mut mask);
        match opcode {
            Control::Ping => self.pong = Some(payload),
            Control::Close => {
                // The code comes back [RFC 6455, 5.5.1]; the reason is nobody's business.
                payload.truncate(2);
                if payload.len() < 2 {
                    payload.clear();
                }
                self.close_with(&payload);
                self.has_ended = true;
            }
            Control::Pong | Control::Reserved(_) => {}
        }
    }

    // ------------------------------------------------------------ writing

    /// Writes as much of `bytes` as `write` takes; answers how much. What is not taken has to come again: a frame that
    /// was begun promises it. `write` gets a head that belongs before the bytes, and answers for both together.
    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        mut write: impl FnMut(&[u8], &[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.out_left == 0 {
            if self.is_closing {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.put_pong();
            self.put_header(OpCode::Data(Data::Binary), bytes.len());
            self.out_left = bytes.len();
        }
        let payload = &bytes[..bytes.len().min(self.out_left)];
        let taken = write(&self.head, payload)?;
        let of_head = taken.min(self.head.len());
        self.take_head(of_head);
        let of_payload = taken - of_head;
        self.out_left -= of_payload;
        // The head alone is no progress for the caller, who tries again until the socket blocks.
        if of_payload == 0 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(of_payload) }
    }

    /// Writes what is not payload and waits. `WouldBlock` when some is left.
    pub(super) fn flush(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        // A pong waits until what is before it has left: a newer one takes its place meanwhile.
        while self.wants_write() {
            if self.head.is_empty() {
                self.put_pong();
            }
            let taken = write(&self.head)?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.take_head(taken);
        }
        Ok(())
    }

    /// Whether something waits that [`WebSocket::flush`] would write.
    pub(super) fn wants_write(&self) -> bool {
        !self.head.is_empty() || (self.pong.is_some() && self.out_left == 0)
    }

    /// Says good-bye after what was begun; nothing may be written after it.
    pub(super) fn close(&mut self, code: CloseCode) {
        self.close_with(&u16::from(code).to_be_bytes());
    }

    fn close_with(&mut self, payload: &[u8]) {
        // Inside a frame it cannot be said: the connection ends without.
        if self.is_closing || self.out_left > 0 {
            return;
        }
        self.pong = None;
        self.put_header(OpCode::Control(Control::Close), payload.len());
        self.head.extend_from_slice(payload);
        self.is_closing = true;
    }

    fn fail(&mut self, code: CloseCode, what: &'static str) -> io::Error {
        self.close(code);
        self.has_ended = true;
        io::Error::new(io::ErrorKind::InvalidData, what)
    }

    fn put_pong(&mut self) {
        if let Some(payload) = self.pong.take() {
            self.put_header(OpCode::Control(Control::Pong), payload.len());
            self.head.extend_from_slice(&payload);
        }
    }

    fn put_header(&mut self, opcode: OpCode, len: usize) {
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        // Writing to memory does not fail.
        let _ = header.format(len as u64, &mut self.head);
    }

    fn take_head(&mut self, count: usize) {
        self.head.drain(..count);
        if self.head.is_empty() {
            self.head = Vec::new();
        }
    }
}

/// Removes the mask, which is turned to where the next byte begins.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        for (byte, mask) in chunk.iter_mut().zip(wide.to_ne_bytes()) {
            *byte ^= mask;
        }
    }
    let rest = chunks.into_remainder();
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    mask.rotate_left(rest.len() % 4);
}

#[cfg(test)]
mod tests;
