//! A client that does what it is told: bytes out, packets in, every wait with a deadline.
//!
//! What does not come as a test expects ends the test, with everything this connection said and heard.

use std::{
    fmt::Write as _,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    V5, Version,
    build::{self, Connect},
    packet::{Ack, Connack, End, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Publish, Suback, split},
    property::{Properties, Property, id},
    unique,
};

/// Longer than anything should take, on a busy machine too.
pub const LIMIT: Duration = Duration::from_secs(10);

/// What carries the bytes.
pub trait Stream: Send {
    /// Writes all of it.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Appends what arrives before the deadline; 0 bytes: the peer closed.
    fn receive(&mut self, into: &mut Vec<u8>, deadline: Instant) -> io::Result<usize>;
    /// Ends it without a word.
    fn shut(&mut self);
}

impl Stream for TcpStream {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn receive(&mut self, into: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        // A time-out of zero would mean none.
        self.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut chunk = [0; 16 * 1024];
        let len = self.read(&mut chunk)?;
        into.extend_from_slice(&chunk[..len]);
        Ok(len)
    }

    fn shut(&mut self) {
        // It may be closed already.
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// One connection.
pub struct Client {
    /// Of the conversation.
    pub version: Version,
    /// The client identifier of [`Client::open_with`].
    pub id: String,
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    trace: String,
    next_id: u16,
    size_max: usize,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "client {} ({:?}):\n{}", self.id, self.version, self.trace)
    }
}

impl Client {
    /// A connection on which nothing was said yet.
    pub fn dial(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect_timeout(&address, LIMIT).expect("connect");
        stream.set_nodelay(true).expect("no delay");
        stream.set_write_timeout(Some(LIMIT)).expect("a write deadline");
        Self::over(Box::new(stream), version)
    }

    /// The same over something else.
    pub fn over(stream: Box<dyn Stream>, version: Version) -> Self {
        let (buffer, trace) = (Vec::new(), String::new());
        Self { version, id: String::new(), stream, buffer, trace, next_id: 0, size_max: usize::MAX }
    }

    /// Sends CONNECT and reads its answer, whatever it says.
    pub fn ask(address: SocketAddr, connect: &Connect) -> (Self, Connack) {
        let mut client = Self::dial(address, connect.version);
        let answer = client.login(connect);
        (client, answer)
    }

    /// Sends CONNECT on this connection and reads its answer.
    pub fn login(&mut self, connect: &Connect) -> Connack {
        self.id = String::from_utf8_lossy(&connect.id).into_owned();
        if let Some(size) = connect.properties.number(id::MAXIMUM_PACKET_SIZE) {
            self.size_max = size as usize;
        }
        self.send(&connect.bytes());
        match self.receive() {
            Packet::Connack(connack) => connack,
            other => panic!("CONNACK expected, not {other:?} [MQTT-3.2.0-1]"),
        }
    }

    /// A connection that was accepted.
    pub fn open_with(address: SocketAddr, connect: &Connect) -> (Self, Connack) {
        let (client, connack) = Self::ask(address, connect);
        assert_eq!(connack.reason, 0, "CONNECT is accepted");
        (client, connack)
    }

    /// A clean session with an id of its own.
    pub fn open(address: SocketAddr, version: Version) -> Self {
        Self::open_with(address, &Connect::new(version, &unique("c"))).0
    }

    /// Writes bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.note("->", bytes);
        self.stream.send(bytes).expect("write");
    }

    /// Writes bytes that the server may not want any more: it may have closed.
    pub fn send_anyway(&mut self, bytes: &[u8]) {
        self.note("->", bytes);
        let _ = self.stream.send(bytes);
    }

    /// The next packet.
    pub fn receive(&mut self) -> Packet {
        match self.next(Instant::now() + LIMIT) {
            Some(packet) => packet,
            None => panic!("a packet expected, but the connection is closed"),
        }
    }

    /// The next packet, if one comes before the deadline and the connection is not closed.
    pub fn next(&mut self, deadline: Instant) -> Option<Packet> {
        loop {
            let split = split(&self.buffer).unwrap_or_else(|wrong| panic!("the server sent {wrong}"));
            if let Some((first, body, len)) = split {
                let packet = Packet::read(self.version, first, body);
                let raw: Vec<u8> = self.buffer.drain(..len).collect();
                self.note("<-", &raw);
                assert!(len <= self.size_max, "{len} bytes exceed the Maximum Packet Size [MQTT-3.1.2-24]");
                return Some(packet.unwrap_or_else(|wrong| panic!("the server sent {wrong}: {raw:02x?}")));
            }
            match self.stream.receive(&mut self.buffer, deadline) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    assert!(Instant::now() < deadline, "nothing came within the limit");
                }
                // What the server did not read when it closed makes a reset of the close.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("read: {error}"),
            }
        }
    }

    /// The server ends the connection. It may say why first; that must be one of `reasons`. Answers what it said.
    pub fn ends(&mut self, reasons: &[u8]) -> Option<u8> {
        let mut said = None;
        while let Some(packet) = self.next(Instant::now() + LIMIT) {
            let (Packet::Disconnect(End { reason, .. }) | Packet::Connack(Connack { reason, .. })) = packet
            else {
                panic!("the connection must end, but {packet:?} came")
            };
            assert_eq!(said, None, "a second word at the end: {packet:?}");
            assert!(reasons.contains(&reason), "ended with 0x{reason:02X}, not one of {reasons:02x?}");
            said = Some(reason);
        }
        said
    }

    /// The server ends the connection, in MQTT 5 with a DISCONNECT that says one of `reasons`; before, without a word
    /// ([MQTT-4.13.1-1], [MQTT-4.8.0-1] of 3.1.1).
    pub fn is_thrown_out(&mut self, reasons: &[u8]) {
        if self.version == V5 {
            assert!(self.ends(reasons).is_some(), "a DISCONNECT with one of {reasons:02x?} was due");
        } else {
            self.is_closed();
        }
    }

    /// Every byte until the server closes, for answers of a version that the test cannot know.
    pub fn raw_until_closed(&mut self) -> Vec<u8> {
        while !matches!(self.stream.receive(&mut self.buffer, Instant::now() + LIMIT), Ok(0)) {}
        let raw = std::mem::take(&mut self.buffer);
        self.note("<-", &raw);
        raw
    }

    /// The server closes without a word.
    pub fn is_closed(&mut self) {
        if let Some(packet) = self.next(Instant::now() + LIMIT) {
            panic!("closing expected, not {packet:?}");
        }
    }

    /// A packet identifier that this client did not use yet.
    pub fn fresh(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    /// Subscribes to one filter and answers the reason code.
    pub fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        let answer = self.subscribe_all(&[(filter, options)], &[]);
        answer.reasons[0]
    }

    /// Subscribes. (PUBLISH packets that come before the SUBACK fail it: see [`Client::send`] for those cases.)
    pub fn subscribe_all(&mut self, filters: &[(&str, u8)], properties: &[Property]) -> Suback {
        let id = self.fresh();
        self.send(&build::subscribe(self.version, id, filters, properties));
        let answer = self.suback(9);
        assert_eq!(answer.id, id, "SUBACK has the identifier of SUBSCRIBE [MQTT-3.8.4-2]");
        assert_eq!(answer.reasons.len(), filters.len(), "a reason each [MQTT-3.8.4-6]");
        answer
    }

    /// Unsubscribes.
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Suback {
        let id = self.fresh();
        self.send(&build::unsubscribe(self.version, id, filters));
        let answer = self.suback(11);
        assert_eq!(answer.id, id, "UNSUBACK has the identifier of UNSUBSCRIBE [MQTT-3.10.4-5]");
        answer
    }

    /// The next packet is SUBACK (9) or UNSUBACK (11).
    pub fn suback(&mut self, kind: u8) -> Suback {
        match self.receive() {
            Packet::Suback(answer) if answer.kind == kind => answer,
            other => panic!("an answer of type {kind} expected, not {other:?}"),
        }
    }

    /// Publishes with this QoS, to the end of the exchange; answers the first reason code.
    pub fn publish(&mut self, topic: &str, payload: &str, qos: u8) -> u8 {
        let id = if qos > 0 { self.fresh() } else { 0 };
        self.publish_this(&build::Publish::new(topic, payload).qos(qos, id))
    }

    /// Publishes with RETAIN; when this returns it is kept. (QoS 0 has no answer, so something that has is published
    /// behind it.)
    pub fn retain(&mut self, topic: &str, payload: &str, qos: u8) -> u8 {
        let id = if qos > 0 { self.fresh() } else { 0 };
        let reason = self.publish_this(&build::Publish::new(topic, payload).qos(qos, id).retain());
        if qos == 0 {
            self.publish(&unique("behind"), "", 1);
        }
        reason
    }

    /// Publishes this, to the end of the exchange; answers the first reason code.
    pub fn publish_this(&mut self, publish: &build::Publish) -> u8 {
        self.send(&publish.bytes(self.version));
        match publish.qos {
            1 => self.ack(PUBACK, publish.id).reason,
            2 => {
                let received = self.ack(PUBREC, publish.id);
                if received.reason < 0x80 {
                    self.send(&build::ack(PUBREL, publish.id));
                    self.ack(PUBCOMP, publish.id);
                }
                received.reason
            }
            _ => 0,
        }
    }

    /// The next packet is this acknowledgement.
    pub fn ack(&mut self, kind: u8, id: u16) -> Ack {
        match self.receive() {
            Packet::Ack(ack) if ack.kind == kind && ack.id == id => ack,
            other => panic!("an acknowledgement of type {kind} for {id} expected, not {other:?}"),
        }
    }

    /// The next packet is a PUBLISH; it is not acknowledged.
    pub fn message(&mut self) -> Publish {
        match self.receive() {
            Packet::Publish(publish) => publish,
            other => panic!("PUBLISH expected, not {other:?}"),
        }
    }

    /// The next packet is a PUBLISH; acknowledged to the end.
    pub fn take(&mut self) -> Publish {
        let message = self.message();
        self.acknowledge(&message);
        message
    }

    /// Goes through the whole acknowledgement of a message.
    pub fn acknowledge(&mut self, message: &Publish) {
        match message.qos {
            1 => self.send(&build::ack(PUBACK, message.id)),
            2 => {
                self.send(&build::ack(PUBREC, message.id));
                // Other messages may come before PUBREL: the server does not wait with them.
                let mut between = Vec::new();
                loop {
                    match self.receive() {
                        Packet::Ack(Ack { kind: PUBREL, id, .. }) if id == message.id => break,
                        Packet::Publish(other) => between.push(other),
                        other => panic!("PUBREL for {} expected, not {other:?}", message.id),
                    }
                }
                self.send(&build::ack(PUBCOMP, message.id));
                assert!(between.is_empty(), "read message by message, not in between: {between:?}");
            }
            _ => {}
        }
    }

    /// Takes messages until this payload comes; the ones before it. A SUBACK between them is passed over.
    pub fn until(&mut self, payload: &str) -> Vec<Publish> {
        let mut before = Vec::new();
        let mut open: Vec<u16> = Vec::new();
        loop {
            match self.receive() {
                Packet::Publish(message) => {
                    match message.qos {
                        1 => self.send(&build::ack(PUBACK, message.id)),
                        2 => {
                            self.send(&build::ack(PUBREC, message.id));
                            open.push(message.id);
                        }
                        _ => {}
                    }
                    before.push(message);
                }
                Packet::Ack(Ack { kind: PUBREL, id, .. }) => {
                    self.send(&build::ack(PUBCOMP, id));
                    open.retain(|one| *one != id);
                }
                // Of a subscription that the test made without waiting.
                Packet::Suback(_) => {}
                other => panic!("messages until {payload:?} expected, not {other:?}"),
            }
            if open.is_empty() && before.last().is_some_and(|message| message.payload == payload.as_bytes()) {
                before.pop();
                return before;
            }
        }
    }

    /// Everything that comes until `payload`, as text.
    pub fn texts_until(&mut self, payload: &str) -> Vec<String> {
        self.until(payload).iter().map(Publish::text).collect()
    }

    /// PINGREQ and its answer: the server has read everything before it, and has not closed.
    pub fn ping(&mut self) {
        self.send(&build::PINGREQ);
        let answer = self.receive();
        assert_eq!(answer, Packet::Pingresp, "PINGRESP answers PINGREQ [MQTT-3.12.4-1]");
    }

    /// PINGREQ, and takes the messages that come before its answer; `expected` says of each whether it may.
    pub fn ping_past(&mut self, mut expected: impl FnMut(&Publish) -> bool) {
        self.send(&build::PINGREQ);
        loop {
            match self.receive() {
                Packet::Pingresp => return,
                Packet::Publish(message) => {
                    assert!(expected(&message), "{message:?}");
                    match message.qos {
                        1 => self.send(&build::ack(PUBACK, message.id)),
                        2 => self.send(&build::ack(PUBREC, message.id)),
                        _ => {}
                    }
                }
                Packet::Ack(Ack { kind: PUBREL, id, .. }) => self.send(&build::ack(PUBCOMP, id)),
                other => panic!("messages until PINGRESP expected, not {other:?}"),
            }
        }
    }

    /// DISCONNECT, and waits until the server has closed.
    pub fn bye(mut self) {
        self.send(&build::DISCONNECT);
        self.is_closed();
    }

    /// Closes the socket without DISCONNECT.
    pub fn hang_up(mut self) {
        self.stream.shut();
    }

    fn note(&mut self, arrow: &str, bytes: &[u8]) {
        const SHOWN: usize = 96;
        let more = if bytes.len() > SHOWN { format!(" .. {} bytes", bytes.len()) } else { String::new() };
        let shown = &bytes[..bytes.len().min(SHOWN)];
        let text: String =
            shown.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '.' }).collect();
        let _ = writeln!(self.trace, "  {arrow} {shown:02x?}{more}  {text}");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(clippy::print_stderr, reason = "the trace of a failed test")]
            {
                eprintln!("{self:?}");
            }
        }
    }
}
