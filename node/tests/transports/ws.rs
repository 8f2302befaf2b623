//! WebSocket: its handshake, its frames, and what breaks its rules.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use carillon::edge::Kind;
use tokio::task::block_in_place;
use tungstenite::{
    Message,
    protocol::{
        CloseFrame,
        frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

use super::{
    Fixture, Setting,
    wire::{CONNACK, PING, PONG, Ws, connect, expect, expect_end, join, tcp, websocket},
};

/// The status of an answer to a request by hand.
fn status(fixture: &Fixture, path: &str, subprotocol: &str) -> String {
    let mut stream = tcp(fixture.address(Kind::Ws));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: edge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("write");
    let mut line = [0; 12];
    stream.read_exact(&mut line).expect("an answer");
    String::from_utf8_lossy(&line[9..]).into_owned()
}

/// Sends bytes as they are; answers the code the edge closes with.
fn closed_with(fixture: &Fixture, bytes: &[u8]) -> CloseCode {
    let mut ws = websocket(tcp(fixture.address(Kind::Ws)));
    join(&mut ws, "rude");
    ws.socket.get_mut().write_all(bytes).expect("write");
    match ws.socket.read().expect("a good-bye") {
        Message::Close(Some(CloseFrame { code, .. })) => code,
        other => panic!("not a good-bye: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_path_or_subprotocol_is_refused_with_http() {
    let fixture = Fixture::new().await;
    block_in_place(|| {
        assert_eq!(status(&fixture, "/mqtt", "mqtt"), "101");
        assert_eq!(status(&fixture, "/mqtt", "mqttv3.1"), "101");
        assert_eq!(status(&fixture, "/", "mqtt"), "404");
        assert_eq!(status(&fixture, "/mqtt", "amqp"), "400");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_may_come_in_any_number_of_frames_and_frames_in_any_number_of_parts() {
    let fixture = Fixture::new().await;
    block_in_place(|| {
        let mut ws = websocket(tcp(fixture.address(Kind::Ws)));
        for byte in connect("in-pieces") {
            ws.write_all(&[byte]).expect("write");
        }
        expect(&mut ws, CONNACK);
        ws.write_all(&[PING, PING, PING].concat()).expect("write");
        expect(&mut ws, &[PONG, PONG, PONG].concat());
        let part = |bytes: &'static [u8], opcode, last| Frame::message(bytes, OpCode::Data(opcode), last);
        ws.socket.send(Message::Frame(part(&[0xC0], Data::Binary, false))).expect("send");
        ws.socket.send(Message::Ping("between".into())).expect("send");
        ws.socket.send(Message::Frame(part(&[], Data::Continue, false))).expect("send");
        ws.socket.send(Message::Frame(part(&[0], Data::Continue, true))).expect("send");
        assert_eq!(ws.socket.read().expect("a pong"), Message::Pong("between".into()));
        expect(&mut ws, PONG);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_rule_closes_the_connection_with_its_code() {
    let fixture = Fixture::with(Setting { packet_len_max: Some(2_048), ..Setting::default() }).await;
    block_in_place(|| {
        let masked = |first: u8, len: u8| [first, 0x80 | len, 0, 0, 0, 0];
        // [MQTT-6.0.0-1]
        assert_eq!(closed_with(&fixture, &masked(0x81, 0)), CloseCode::Unsupported);
        assert_eq!(closed_with(&fixture, &[0x82, 0]), CloseCode::Protocol, "no mask");
        assert_eq!(closed_with(&fixture, &masked(0xF2, 0)), CloseCode::Protocol, "extensions");
        let huge = [0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];
        assert_eq!(closed_with(&fixture, &huge), CloseCode::Size);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_that_is_too_large_is_refused_by_its_header_within_frames_too() {
    let fixture = Fixture::with(Setting { packet_len_max: Some(2_048), ..Setting::default() }).await;
    block_in_place(|| {
        let mut ws = websocket(tcp(fixture.address(Kind::Ws)));
        join(&mut ws, "large");
        ws.write_all(&[0x30, 0xFF, 0xFF, 0x7F]).expect("write");
        expect_end(&mut ws);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_bye_is_answered_and_ends_the_session() {
    let fixture = Fixture::new().await;
    block_in_place(|| {
        let mut ws: Ws<TcpStream> = websocket(tcp(fixture.address(Kind::Ws)));
        join(&mut ws, "leaves");
        ws.socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() })).expect("close");
        match ws.socket.read().expect("an answer") {
            Message::Close(Some(CloseFrame { code: CloseCode::Away, .. })) => {}
            other => panic!("not a good-bye: {other:?}"),
        }
        expect_end(ws.socket.get_mut());
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mqtt_disconnect_is_followed_by_a_good_bye_of_the_websocket() {
    let fixture = Fixture::new().await;
    block_in_place(|| {
        let mut ws = websocket(tcp(fixture.address(Kind::Ws)));
        join(&mut ws, "leaves");
        ws.write_all(&[0xE0, 0]).expect("write");
        match ws.socket.read().expect("a good-bye") {
            Message::Close(Some(CloseFrame { code: CloseCode::Normal, .. })) => {}
            other => panic!("not a good-bye: {other:?}"),
        }
    });
}
