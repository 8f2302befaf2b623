//! Chapter 6 of both versions: MQTT over WebSocket.

use conformance_tests::{
    client::Stream,
    server::server,
    websocket::{BINARY, CONTINUATION, PING, TEXT, WebSocket},
};

use crate::prelude::*;

/// A way to send the same bytes.
type Way<'a> = dyn Fn(&mut WebSocket) -> std::io::Result<()> + 'a;

fn ws() -> WebSocket {
    WebSocket::open(server().ws)
}

// [MQTT-6.0.0-3], [MQTT-6.0.0-4], 3.1.1 [MQTT-6.0.0-3], [MQTT-6.0.0-4].
#[test]
fn the_subprotocol_is_mqtt() {
    for offered in ["mqtt", "other, mqtt", "mqtt, other"] {
        let (head, socket) = WebSocket::ask(server().ws, "/mqtt", offered);
        assert!(socket.is_some(), "{head}");
        assert!(head.to_ascii_lowercase().contains("\r\nsec-websocket-protocol: mqtt\r\n"), "{head}");
    }
}

#[test]
fn another_path_or_subprotocol_is_no_door() {
    for (path, offered) in [("/", "mqtt"), ("/other", "mqtt"), ("/mqtt", "other")] {
        let (head, socket) = WebSocket::ask(server().ws, path, offered);
        assert!(socket.is_none() && head.starts_with("HTTP/1.1 4"), "{path} {offered}: {head}");
    }
}

#[test]
fn a_whole_conversation_goes_over_websocket() {
    for version in BOTH {
        let topic = unique("ws");
        let mut client = Client::over(Box::new(ws()), version);
        assert_eq!(client.login(&Connect::new(version, &unique("ws"))).reason, 0);
        client.subscribe(&topic, 2);
        let mut other = open(version);
        let large = "x".repeat(200_000);
        for qos in [0, 1, 2] {
            for text in ["hello", &large] {
                other.publish(&topic, text, qos);
                let message = client.take();
                assert!(message.text() == text && message.qos == qos);
            }
        }
        other.subscribe(&topic, 1);
        client.send(&Publish::new(&topic, "out").qos(1, 99).bytes(version));
        assert_eq!(other.take().text(), "out");
    }
}

// [MQTT-6.0.0-1], 3.1.1 [MQTT-6.0.0-1].
#[test]
fn a_text_frame_closes_the_connection() {
    for version in BOTH {
        let connect = Connect::new(version, &unique("text")).bytes();
        let mut first = ws();
        first.frame(TEXT, true, &connect).unwrap();
        Client::over(Box::new(first), version).is_closed();
        let mut later = ws();
        later.send(&connect).unwrap();
        let mut answer = Vec::new();
        later.receive(&mut answer, Instant::now() + Duration::from_secs(5)).unwrap();
        later.frame(TEXT, true, &build::PINGREQ).unwrap();
        Client::over(Box::new(later), version).raw_until_closed();
    }
}

// [MQTT-6.0.0-2], 3.1.1 [MQTT-6.0.0-2].
#[test]
fn packets_and_frames_need_not_be_aligned() {
    for version in BOTH {
        let topic = unique("frames");
        let mut bytes = Connect::new(version, &unique("frames")).bytes();
        bytes.extend(build::subscribe(version, 1, &[(&topic, 0)], &[]));
        bytes.extend(Publish::new(&topic, "x").bytes(version));
        let (head, tail) = bytes.split_at(7);
        let ways: [&Way; 3] = [
            // All in one frame.
            &|socket| socket.frame(BINARY, true, &bytes),
            // A byte a frame.
            &|socket| bytes.iter().try_for_each(|byte| socket.frame(BINARY, true, &[*byte])),
            // One message in fragments, with a ping in between.
            &|socket| {
                socket.frame(BINARY, false, head)?;
                socket.frame(PING, true, b"between")?;
                socket.frame(CONTINUATION, false, &tail[..9])?;
                socket.frame(CONTINUATION, true, &tail[9..])
            },
        ];
        for way in ways {
            let mut socket = ws();
            way(&mut socket).unwrap();
            let mut client = Client::over(Box::new(socket), version);
            assert!(matches!(client.receive(), Packet::Connack(answer) if answer.reason == 0));
            client.suback(9);
            assert_eq!(client.message().text(), "x");
        }
    }
}
