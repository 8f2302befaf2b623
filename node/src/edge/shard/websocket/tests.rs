//! Frames against tungstenite as the client, and by hand where it is too polite.

use std::{
    collections::VecDeque,
    io::{Read, Write},
};

use proptest::prelude::*;
use tungstenite::{
    Message,
    protocol::{Role, WebSocket as Client, WebSocketConfig},
};

use super::*;

const FRAME_LEN_MAX: u64 = 1 << 20;

/// What a client has written, and what it is to read.
#[derive(Debug, Default)]
struct Wire {
    to_server: Vec<u8>,
    to_client: VecDeque<u8>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.to_client.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to_server.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client() -> Client<Wire> {
    Client::from_raw_socket(Wire::default(), Role::Client, Some(WebSocketConfig::default()))
}

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0xA5, 0x00, 0xFF, 0x3C];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Decodes what comes in pieces of `len`.
fn decode(socket: &mut WebSocket, bytes: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let mut decoded = Vec::new();
    for piece in bytes.chunks(len.max(1)) {
        let mut piece = piece.to_vec();
        let count = socket.decode(&mut piece)?;
        decoded.extend_from_slice(&piece[..count]);
    }
    Ok(decoded)
}

/// What the socket sends besides payload.
fn flushed(socket: &mut WebSocket) -> Vec<u8> {
    let mut sent = Vec::new();
    let write = |bytes: &[u8]| {
        sent.extend_from_slice(bytes);
        Ok(bytes.len())
    };
    socket.flush(write).expect("flush");
    sent
}

/// The close code of a broken rule.
fn broken(bytes: &[u8]) -> u16 {
    let mut socket = WebSocket::new(FRAME_LEN_MAX);
    decode(&mut socket, bytes, 3).expect_err("a broken rule");
    assert!(socket.has_ended());
    let sent = flushed(&mut socket);
    assert_eq!(sent[..2], [0x88, 2], "a close frame");
    u16::from_be_bytes([sent[2], sent[3]])
}

proptest! {
    #[test]
    fn bytes_arrive_as_they_were_sent_however_frames_and_reads_cut_them(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..20),
        piece in 1usize..400,
    ) {
        let mut client = client();
        for message in &messages {
            client.send(Message::binary(message.clone())).expect("send");
        }
        let mut socket = WebSocket::new(FRAME_LEN_MAX);
        let decoded = decode(&mut socket, &client.get_ref().to_server, piece).expect("frames");
        prop_assert_eq!(decoded, messages.concat());
    }

    #[test]
    fn bytes_leave_as_they_were_written_however_little_the_socket_takes(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..70_000), 1..6),
        budgets in proptest::collection::vec(0usize..30_000, 1..10),
        pings in proptest::collection::vec(any::<bool>(), 10),
    ) {
        let (mut client, mut socket) = (client(), WebSocket::new(FRAME_LEN_MAX));
        let mut waiting: Vec<u8> = Vec::new();
        let mut packets_left = packets.iter();
        let mut budgets = budgets.iter().cycle();
        let mut pings = pings.iter().cycle();
        let mut received = Vec::new();
        for round in 0..1_000 {
            waiting.extend(packets_left.next().into_iter().flatten());
            if *pings.next().expect("endless") {
                let mut ping = frame(0x89, b"are you there");
                socket.decode(&mut ping).expect("ping");
            }
            // The last rounds take everything.
            let mut budget = if round < 900 { *budgets.next().expect("endless") } else { usize::MAX };
            let wire = &mut client.get_mut().to_client;
            let mut take = |bytes: &[u8]| {
                let count = bytes.len().min(budget);
                budget -= count;
                wire.extend(&bytes[..count]);
                count
            };
            while !waiting.is_empty() {
                let both = |head: &[u8], payload: &[u8]| match take(head) {
                    count if count < head.len() || count + payload.len() == 0 => Ok(count),
                    count => Ok(count + take(payload)),
                };
                match socket.write(&waiting, both) {
                    Ok(count) => drop(waiting.drain(..count)),
                    Err(_) => break,
                }
            }
            while let Ok(message) = client.read() {
                if let Message::Binary(bytes) = message {
                    received.extend_from_slice(&bytes);
                }
            }
        }
        prop_assert_eq!(received, packets.concat());
    }

    #[test]
    fn no_bytes_from_outside_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1usize..50) {
        let _ = decode(&mut WebSocket::new(FRAME_LEN_MAX), &bytes, piece);
    }
}

#[test]
fn a_packet_may_span_frames_and_a_frame_hold_several_packets() {
    let mut bytes = frame(0x02, b"CON");
    bytes.extend(frame(0x89, b"ping inside a message"));
    bytes.extend(frame(0x80, b"NECTPING"));
    let mut socket = WebSocket::new(FRAME_LEN_MAX);
    assert_eq!(decode(&mut socket, &bytes, 5).expect("frames"), b"CONNECTPING");
    assert_eq!(flushed(&mut socket), [&[0x8A, 21][..], b"ping inside a message"].concat());
}

#[test]
fn a_broken_rule_ends_the_connection_with_its_code() {
    let with_first_bytes = |first: &[u8]| [first, &[0; 14]].concat();
    assert_eq!(broken(&frame(0x81, b"text")), 1003);
    assert_eq!(broken(&frame(0x83, b"unknown kind")), 1002);
    assert_eq!(broken(&frame(0xC2, b"compressed")), 1002);
    assert_eq!(broken(&frame(0x80, b"continues nothing")), 1002);
    assert_eq!(broken(&[frame(0x02, b"a"), frame(0x82, b"b")].concat()), 1002);
    assert_eq!(broken(&frame(0x09, b"a ping in parts")), 1002);
    assert_eq!(broken(&frame(0x89, &[0; 126])), 1002);
    assert_eq!(broken(&with_first_bytes(&[0x82, 4])), 1002, "no mask");
    assert_eq!(
        broken(&with_first_bytes(&[0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 1])),
        1009,
        "a MiB and one byte"
    );
    assert_eq!(
        broken(&with_first_bytes(&[0x82, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF])),
        1009
    );
}

#[test]
fn a_goodbye_is_answered_with_its_code_and_ends_the_stream() {
    let mut socket = WebSocket::new(FRAME_LEN_MAX);
    let bytes =
        [frame(0x82, b"last"), frame(0x88, &[0x03, 0xE8, b'b', b'y', b'e']), frame(0x82, b"late")].concat();
    assert_eq!(decode(&mut socket, &bytes, 100).expect("frames"), b"last");
    assert!(socket.has_ended());
    assert_eq!(flushed(&mut socket), [0x88, 2, 0x03, 0xE8]);
    socket.close(CloseCode::Normal);
    assert!(flushed(&mut socket).is_empty(), "said once");
}

#[test]
fn only_the_last_of_many_pings_is_answered_while_the_socket_takes_nothing() {
    let mut socket = WebSocket::new(FRAME_LEN_MAX);
    for ping in 0..100u8 {
        socket.decode(&mut frame(0x89, &[ping; 100])).expect("ping");
    }
    assert_eq!(flushed(&mut socket).len(), 102);
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let mut socket = WebSocket::new(FRAME_LEN_MAX);
    let bytes = [frame(0x82, &[1; 60_000]), frame(0x89, b"ping")].concat();
    decode(&mut socket, &bytes, 1_000).expect("frames");
    let sent = socket.write(&[2; 60_000], |head, payload| Ok(head.len() + payload.len()));
    assert_eq!(sent.expect("written"), 60_000);
    assert_eq!((socket.head.capacity(), &socket.pong), (0, &None));
    assert!(size_of::<WebSocket>() <= 128, "{}", size_of::<WebSocket>());
}

#[test]
fn pings_of_a_client_that_never_reads_cost_one_pong() {
    let mut server = WebSocket::new(FRAME_LEN_MAX);
    let mut sent = Vec::new();
    let payloads: Vec<[u8; 125]> = (0..100).map(|i| [i; 125]).collect();
    for payload in &payloads {
        assert_eq!(server.decode(&mut frame(0x89, payload)).unwrap(), 0);
        // The first bytes still find room.
        let flushed = server.flush(|head| match sent.len() {
            0 => {
                sent.push(head[0]);
                Ok(1)
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        });
        assert_eq!(flushed.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(server.head.len() < 2 + payload.len());
    }
    server.flush(|head| sent.write(head)).unwrap();
    let pong = |payload: &[u8]| [&[0x8A, payload.len() as u8], payload].concat();
    assert_eq!(
        sent,
        [pong(&payloads[0]), pong(&payloads[99])].concat(),
        "the first was begun, the last is owed"
    );
    assert!(!server.wants_write());
}
