//! MQTT over WebSocket (chapter 6 of both versions), with frames of any kind.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::client::{LIMIT, Stream};

/// A text frame.
pub const TEXT: u8 = 1;
/// A binary frame.
pub const BINARY: u8 = 2;
/// More of the last one.
pub const CONTINUATION: u8 = 0;
/// Ping.
pub const PING: u8 = 9;

/// A connection after its handshake.
#[derive(Debug)]
pub struct WebSocket {
    stream: TcpStream,
    raw: Vec<u8>,
    /// Pongs that came.
    pub pongs: usize,
}

impl WebSocket {
    /// Asks for `path` with these subprotocols; the answer's head, and the connection if it was switched.
    pub fn ask(address: SocketAddr, path: &str, protocols: &str) -> (String, Option<Self>) {
        let mut stream = TcpStream::connect_timeout(&address, LIMIT).expect("connect");
        stream.set_read_timeout(Some(LIMIT)).expect("a deadline");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: {protocols}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("write");
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("an HTTP answer") == 1 {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let switched = head.starts_with("HTTP/1.1 101");
        (head, switched.then(|| Self { stream, raw: Vec::new(), pongs: 0 }))
    }

    /// A connection on the path and with the subprotocol that the product has.
    pub fn open(address: SocketAddr) -> Self {
        let (head, socket) = Self::ask(address, "/mqtt", "mqtt");
        socket.unwrap_or_else(|| panic!("refused: {head}"))
    }

    /// Writes one frame.
    pub fn frame(&mut self, opcode: u8, last: bool, payload: &[u8]) -> io::Result<()> {
        let mut out = vec![opcode | u8::from(last) << 7];
        match payload.len() {
            len @ 0..126 => out.push(0x80 | len as u8),
            len @ 126..65_536 => {
                out.push(0x80 | 126);
                out.extend((len as u16).to_be_bytes());
            }
            len => {
                out.push(0x80 | 127);
                out.extend((len as u64).to_be_bytes());
            }
        }
        // A mask there must be; of zeros it changes nothing.
        out.extend([0; 4]);
        out.extend(payload);
        self.stream.write_all(&out)
    }

    /// Takes a whole frame out of what was read.
    fn unframe(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, short) = (*self.raw.first()?, *self.raw.get(1)?);
        assert_eq!(short & 0x80, 0, "a server does not mask");
        let (start, len) = match short {
            126 => (4, u64::from(u16::from_be_bytes(self.raw.get(2..4)?.try_into().ok()?))),
            127 => (10, u64::from_be_bytes(self.raw.get(2..10)?.try_into().ok()?)),
            len => (2, u64::from(len)),
        };
        let end = start + usize::try_from(len).ok()?;
        let payload = self.raw.get(start..end)?.to_vec();
        self.raw.drain(..end);
        Some((first & 0x0F, payload))
    }
}

impl Stream for WebSocket {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.frame(BINARY, true, bytes)
    }

    fn receive(&mut self, into: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
        loop {
            while let Some((opcode, payload)) = self.unframe() {
                match opcode {
                    BINARY | CONTINUATION => {
                        into.extend_from_slice(&payload);
                        if !payload.is_empty() {
                            return Ok(payload.len());
                        }
                    }
                    8 => return Ok(0),
                    10 => self.pongs += 1,
                    9 => self.frame(10, true, &payload)?,
                    other => panic!("a frame of type {other} from the server [MQTT-6.0.0-1]"),
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut chunk = [0; 4096];
            let len = self.stream.read(&mut chunk)?;
            if len == 0 {
                return Ok(0);
            }
            self.raw.extend_from_slice(&chunk[..len]);
        }
    }

    fn shut(&mut self) {
        self.stream.shut();
    }
}
