//! The codec against the specification's bytes, against itself, and against arbitrary bytes.

#![allow(clippy::unwrap_used, reason = "test code: a panic is a failed test")]

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use carillon::edge::codec::{Outgoing, Own, PublishTemplate, decode, encode, write_delivery};
use cluster_proto::{AppId, Message, MessageProperties, PushId, PushKind, Qos};
use fabric_core::mqtt::{
    Action, Alias, Delivery, Malformed, Moment, Packet, ProtocolVersion, Reason, Session, SessionConfig,
    packet::{Ack, Auth, Codes, ConnAck, ConnAckProperties, Connect, Disconnect, Publish},
    size::{OwnProperties, codes_len, connack_len, publish_len},
};
use proptest::prelude::*;

const V31: ProtocolVersion = ProtocolVersion::V31;
const V311: ProtocolVersion = ProtocolVersion::V311;
const V5: ProtocolVersion = ProtocolVersion::V5;
const LEN_MAX: usize = 1 << 20;

fn decoded(bytes: &[u8], version: Option<ProtocolVersion>) -> Result<Option<Packet>, Malformed> {
    decode(&mut BytesMut::from(bytes), version, LEN_MAX)
}

fn refused(bytes: &[u8], version: Option<ProtocolVersion>) -> Reason {
    match decoded(bytes, version) {
        Err(malformed) => malformed.reason,
        Ok(packet) => panic!("{bytes:02x?} was taken as {packet:?}"),
    }
}

fn connect_bytes(name: &str, level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_u16(name.len() as u16);
    body.put_slice(name.as_bytes());
    body.put_slice(&[level, flags, 0, 60]);
    body.put_slice(rest);
    [&[0x10, body.len() as u8], &body[..]].concat()
}

fn connect(bytes: &[u8]) -> Connect {
    match decoded(bytes, None) {
        Ok(Some(Packet::Connect(connect))) => *connect,
        other => panic!("{bytes:02x?}: {other:?}"),
    }
}

#[test]
fn connect_is_read_in_all_versions_with_its_credentials_as_sent() {
    for (name, level, version, properties) in
        [("MQIsdp", 3, V31, &b""[..]), ("MQTT", 4, V311, b""), ("MQTT", 5, V5, b"\x05\x11\0\0\0\x09")]
    {
        let rest = [properties, b"\0\x04tv-1\0\0\0\x03\xFF\0k"].concat();
        let connect = connect(&connect_bytes(name, level, 0xC2, &rest));
        assert_eq!(connect.version, version);
        assert_eq!(
            (connect.client_id.as_str(), connect.keep_alive_s, connect.clean_start),
            ("tv-1", 60, true)
        );
        assert_eq!(connect.user_name.as_deref(), Some(""), "empty is not absent");
        assert_eq!(connect.password.as_deref(), Some(&b"\xFF\0k"[..]), "a password is bytes");
        assert_eq!(connect.properties.session_expiry_s, (version == V5).then_some(9));
    }
}

#[test]
fn a_will_is_read_with_its_properties() {
    let connect = connect(&connect_bytes("MQTT", 5, 0x2E, b"\0\0\x02id\x05\x18\0\0\0\x07\0\x01w\0\x02by"));
    let will = connect.will.unwrap();
    assert_eq!((will.topic.as_str(), &will.payload[..], will.qos), ("w", &b"by"[..], Qos::AtLeastOnce));
    assert_eq!((will.retain, will.delay_s), (true, 7));
}

#[test]
fn connect_must_keep_the_rules_of_its_version() {
    let id = b"\0\x01a";
    for (bytes, reason, version) in [
        (connect_bytes("MQTT", 6, 2, b""), Reason::UNSUPPORTED_VERSION, Some(V5)),
        (connect_bytes("MQTT", 3, 2, id), Reason::UNSUPPORTED_VERSION, Some(V311)),
        (connect_bytes("HTTP", 4, 2, id), Reason::PROTOCOL_ERROR, None),
        (connect_bytes("MQTT", 4, 3, id), Reason::MALFORMED_PACKET, Some(V311)),
        (connect_bytes("MQTT", 4, 0x42, b"\0\x01a\0\x01p"), Reason::MALFORMED_PACKET, Some(V311)),
        (connect_bytes("MQTT", 4, 0x0A, id), Reason::MALFORMED_PACKET, Some(V311)),
        (connect_bytes("MQTT", 4, 0x1E, b"\0\x01a\0\x01w\0\0"), Reason::MALFORMED_PACKET, Some(V311)),
        (connect_bytes("MQTT", 4, 2, b"\0\x01a!"), Reason::MALFORMED_PACKET, Some(V311)),
        (connect_bytes("MQTT", 4, 2, b"\0\x02a"), Reason::MALFORMED_PACKET, Some(V311)),
        (connect_bytes("MQTT", 4, 2, b"\0\x01\xFF"), Reason::MALFORMED_PACKET, Some(V311)),
        (connect_bytes("MQTT", 4, 2, b"\0\x01\0"), Reason::MALFORMED_PACKET, Some(V311)),
        // Receive Maximum 0, Maximum Packet Size 0, a property twice, Authentication Data alone, a foreign property.
        (connect_bytes("MQTT", 5, 2, b"\x03\x21\0\0\0\x01a"), Reason::PROTOCOL_ERROR, Some(V5)),
        (connect_bytes("MQTT", 5, 2, b"\x05\x27\0\0\0\0\0\x01a"), Reason::PROTOCOL_ERROR, Some(V5)),
        (connect_bytes("MQTT", 5, 2, b"\x04\x17\x01\x17\x01\0\x01a"), Reason::PROTOCOL_ERROR, Some(V5)),
        (connect_bytes("MQTT", 5, 2, b"\x03\x16\0\0\0\x01a"), Reason::PROTOCOL_ERROR, Some(V5)),
        (connect_bytes("MQTT", 5, 2, b"\x02\x24\x01\0\x01a"), Reason::MALFORMED_PACKET, Some(V5)),
    ] {
        let malformed = decoded(&bytes, None).unwrap_err();
        assert_eq!((malformed.reason, malformed.version), (reason, version), "{bytes:02x?}");
    }
}

#[test]
fn the_first_packet_is_connect_and_no_other_is() {
    assert_eq!(refused(&[0xC0, 0], None), Reason::PROTOCOL_ERROR);
    let connect = connect_bytes("MQTT", 4, 2, b"\0\x01a");
    assert_eq!(refused(&connect, Some(V311)), Reason::PROTOCOL_ERROR);
}

#[test]
fn packets_that_only_servers_send_are_refused_by_their_first_byte() {
    for version in [V311, V5] {
        for first in [0x20, 0x90, 0xB0, 0xD0] {
            assert_eq!(refused(&[first], Some(version)), Reason::PROTOCOL_ERROR);
        }
        assert_eq!(refused(&[0x00], Some(version)), Reason::MALFORMED_PACKET);
    }
    assert_eq!(refused(&[0xF0], Some(V311)), Reason::MALFORMED_PACKET);
}

#[test]
fn a_packet_over_the_maximum_is_refused_before_it_is_read() {
    let reason =
        decode(&mut BytesMut::from(&[0x30, 0xFF, 0xFF, 0x7F][..]), Some(V5), 100).unwrap_err().reason;
    assert_eq!(reason, Reason::PACKET_TOO_LARGE);
    assert_eq!(refused(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], Some(V5)), Reason::MALFORMED_PACKET);
    assert_eq!(
        refused(&[0x10, 0xFF, 0xFF, 0x7F], None),
        Reason::PACKET_TOO_LARGE,
        "CONNECT has a limit of its own"
    );
}

#[test]
fn malformed_packets_of_live_connections_are_refused() {
    let malformed = Reason::MALFORMED_PACKET;
    let protocol = Reason::PROTOCOL_ERROR;
    for (bytes, version, reason) in [
        (&b"\x36\x07\0\x01a\0\x01xx"[..], V311, malformed), // QoS 3
        (b"\x38\x03\0\x01a", V311, malformed),              // DUP with QoS 0
        (b"\x32\x05\0\x01a\0\0", V311, protocol),           // packet identifier 0
        (b"\x30\x03\0\x01\0", V311, malformed),             // U+0000
        (b"\x30\x05\0\x03\xED\xA0\x80", V311, malformed),   // a surrogate
        (b"\x30\x06\0\x01a\x02\x01\x02", V5, protocol),     // payload format 2
        (b"\x80\x06\0\x01\0\x01a\0", V311, malformed),      // reserved flags
        (b"\x82\x06\0\0\0\x01a\0", V311, protocol),         // packet identifier 0
        (b"\x82\x02\0\x01", V311, protocol),                // no filters
        (b"\x82\x06\0\x01\0\x01a\x03", V311, malformed),    // QoS 3
        (b"\x82\x06\0\x01\0\x01a\x04", V311, malformed),    // No Local in 3.1.1
        (b"\x82\x07\0\x01\0\0\x01a\x30", V5, protocol),     // Retain Handling 3
        (b"\x82\x09\0\x01\x02\x0B\0\0\x01a\0", V5, protocol), // Subscription Identifier 0
        (b"\xA2\x02\0\x01", V311, protocol),                // no filters
        (b"\xA2\x03\0\x01\0", V5, protocol),                // no filters
        (b"\xC0\x01\0", V311, malformed),                   // PINGREQ with a body
        (b"\xE0\x01\0", V311, malformed),                   // DISCONNECT with a reason in 3.1.1
        (b"\xE0\x01\x8E", V5, protocol),                    // a server's reason
        (b"\xE0\x07\0\x05\x1C\0\x02b1", V5, malformed),     // Server Reference from a terminal
        (b"\x40\x03\0\x01\x92", V5, protocol),              // a reason PUBACK does not have
        (b"\x50\x03\0\x01\x01", V5, protocol),              // nor PUBREC
        (b"\x62\x03\0\x01\x10", V5, protocol),              // nor PUBREL
        (b"\x70\x03\0\x01\x80", V5, protocol),              // nor PUBCOMP
        (b"\xF0\x01\x8C", V5, protocol),                    // nor AUTH
        (b"\xF0\x05\x19\x03\x16\0\0", V5, protocol),        // Authentication Data without a method
        (b"\xF2\0", V5, malformed),                         // AUTH with flags
        (b"\x30\x07\0\x01a\x03\x11\0\0", V5, malformed),    // a property of CONNECT in PUBLISH
        (b"\x30\x0A\0\x01a\x06\x23\0\x01\x23\0\x02", V5, protocol), // Topic Alias twice
        (b"\x40\x03\0\x01\0", V311, malformed),             // PUBACK goes on
        (b"\x40\x02\0\0", V5, protocol),                    // packet identifier 0
        (b"\x60\x02\0\x01", V5, malformed),                 // PUBREL without its flags
        (b"\xC0\x80\0", V5, malformed),                     // remaining length longer than needed
    ] {
        assert_eq!(refused(bytes, Some(version)), reason, "{bytes:02x?}");
    }
}

#[test]
fn version_5_packets_may_be_as_short_as_they_like() {
    for bytes in [&[0xE0, 0][..], &[0xE0, 1, 0], &[0xE0, 2, 0, 0]] {
        assert_eq!(decoded(bytes, Some(V5)), Ok(Some(Packet::Disconnect(Box::default()))), "{bytes:02x?}");
    }
    for bytes in [&[0x40, 2, 0, 7][..], &[0x40, 3, 0, 7, 0], &[0x40, 4, 0, 7, 0, 0]] {
        let ack = Ack { packet_id: 7, reason: Reason::SUCCESS };
        assert_eq!(decoded(bytes, Some(V5)), Ok(Some(Packet::PubAck(ack))), "{bytes:02x?}");
    }
    assert_eq!(decoded(&[0xF0, 0], Some(V5)), Ok(Some(Packet::Auth(Box::default()))));
}

#[test]
fn subscribe_keeps_options_and_identifier() {
    let packet = decoded(b"\x82\x09\0\x01\x02\x0B\x05\0\x01a\x1D", Some(V5)).unwrap().unwrap();
    let Packet::Subscribe(subscribe) = packet else { panic!("{packet:?}") };
    let filter = &subscribe.filters[0];
    assert_eq!(
        (filter.filter.as_str(), filter.qos, filter.options.identifier),
        ("a", Qos::AtLeastOnce, Some(5))
    );
    assert!(filter.options.no_local && filter.options.retain_as_published);
    assert_eq!(filter.options.retain_handling, 1);
}

#[test]
fn a_packet_is_taken_when_its_last_byte_is_there_and_not_before() {
    let bytes = b"\x32\x07\0\x01a\0\x09hi";
    for len in 0..bytes.len() {
        assert_eq!(decoded(&bytes[..len], Some(V311)), Ok(None));
    }
    let mut buffer = BytesMut::from(&[&bytes[..], b"\xC0\0"].concat()[..]);
    let Ok(Some(Packet::Publish(publish))) = decode(&mut buffer, Some(V311), LEN_MAX) else { panic!() };
    assert_eq!((publish.packet_id, &publish.payload[..], publish.qos), (9, &b"hi"[..], Qos::AtLeastOnce));
    assert_eq!(decode(&mut buffer, Some(V311), LEN_MAX), Ok(Some(Packet::PingReq)));
    assert!(buffer.is_empty());
}

#[test]
fn every_reason_of_an_acknowledgement_is_read_as_it_is() {
    for code in [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99] {
        let ack = Ack { packet_id: 7, reason: Reason(code) };
        assert_eq!(decoded(&[0x40, 3, 0, 7, code], Some(V5)), Ok(Some(Packet::PubAck(ack))));
        assert_eq!(decoded(&[0x50, 4, 0, 7, code, 0], Some(V5)), Ok(Some(Packet::PubRec(ack))));
    }
    for code in [0x00, 0x92] {
        let ack = Ack { packet_id: 7, reason: Reason(code) };
        assert_eq!(decoded(&[0x62, 3, 0, 7, code], Some(V5)), Ok(Some(Packet::PubRel(ack))));
        assert_eq!(decoded(&[0x70, 3, 0, 7, code], Some(V5)), Ok(Some(Packet::PubComp(ack))));
    }
    assert_eq!(decoded(&[0x62, 2, 0, 7], Some(V31)).unwrap().unwrap(), Packet::PubRel(ack_of(7)));
}

fn ack_of(packet_id: u16) -> Ack {
    Ack { packet_id, reason: Reason::SUCCESS }
}

#[test]
fn disconnect_and_auth_are_read_with_their_properties() {
    let packet = decoded(b"\xE0\x0C\x04\x0A\x11\0\0\0\x09\x1F\0\x02by", Some(V5));
    let Ok(Some(Packet::Disconnect(disconnect))) = packet else { panic!("{packet:?}") };
    assert_eq!(
        (disconnect.reason, disconnect.session_expiry_s, disconnect.reason_string.as_deref()),
        (Reason::DISCONNECT_WITH_WILL, Some(9), Some("by"))
    );
    let auth = Auth {
        reason: Reason::REAUTHENTICATE,
        method: Some("JWT".to_owned()),
        data: Some(Bytes::from_static(b"\xFFx")),
        reason_string: Some("why".to_owned()),
        user_properties: vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())],
    };
    let packet = Packet::Auth(Box::new(auth));
    assert_eq!(decoded(&encoded(&packet, V5), Some(V5)), Ok(Some(packet)));
}

/// Each property and each filter would become memory of its own, many times what it takes on the wire.
#[test]
fn lists_without_end_are_refused_before_they_become_memory() {
    let mut publish = BytesMut::from(&b"\x30\xFF\xFF\x0F\0\x01a"[..]);
    publish.put_slice(&[0xF5, 0xFF, 0x0F]);
    publish.resize(4 + 0x3FFFF, 0);
    assert_eq!(refused(&publish, Some(V5)), Reason::PACKET_TOO_LARGE);
    for (first, filter) in [(0x82, &b"\0\x01a\0"[..]), (0xA2, b"\0\x01a")] {
        let packet = |count: usize| {
            let mut packet = BytesMut::from(&[first][..]);
            let len = 2 + count * filter.len();
            packet.put_slice(&[(len & 0x7F) as u8 | 0x80, (len >> 7) as u8, 0, 1]);
            (0..count).for_each(|_| packet.put_slice(filter));
            packet
        };
        assert!(matches!(decoded(&packet(256), Some(V311)), Ok(Some(_))));
        assert_eq!(refused(&packet(257), Some(V311)), Reason::QUOTA_EXCEEDED);
    }
}

#[test]
fn one_byte_at_a_time_is_read_like_all_at_once() {
    let bytes = [
        &connect_bytes("MQTT", 5, 2, b"\0\0\x01a")[..],
        b"\x32\x08\0\x01a\0\x09\0hi",
        b"\x82\x07\0\x01\0\0\x01a\x01",
        b"\xC0\0",
        b"\xE0\0",
    ]
    .concat();
    let (mut buffer, mut version, mut count) = (BytesMut::new(), None, 0);
    for byte in bytes {
        buffer.put_u8(byte);
        if let Some(packet) = decode(&mut buffer, version, LEN_MAX).unwrap() {
            version = version.or(Some(V5));
            assert_eq!((count == 0, buffer.len()), (matches!(packet, Packet::Connect(_)), 0));
            count += 1;
        }
    }
    assert_eq!(count, 5);
}

// ---------------------------------------------------------------- what we send

fn encoded(packet: &Packet, version: ProtocolVersion) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    encode(packet, version, &mut buffer);
    assert_eq!(frame_len(&buffer), buffer.len(), "{packet:?} has the length it announces: {buffer:02x?}");
    buffer.to_vec()
}

/// The length a packet announces.
fn frame_len(bytes: &[u8]) -> usize {
    let (mut remaining, mut at) = (0, 1);
    loop {
        remaining |= usize::from(bytes[at] & 0x7F) << (7 * (at - 1));
        at += 1;
        if bytes[at - 1] & 0x80 == 0 {
            return at + remaining;
        }
    }
}

#[test]
fn answers_have_the_bytes_of_the_specification() {
    let ack = |code| Ack { packet_id: 10, reason: Reason(code) };
    let codes =
        |codes: &[u8]| Codes { packet_id: 10, codes: codes.iter().map(|code| Reason(*code)).collect() };
    for (packet, v311, v5) in [
        (Packet::PingResp, &b"\xD0\0"[..], &b"\xD0\0"[..]),
        (Packet::PubAck(ack(0)), b"\x40\x02\0\x0A", b"\x40\x02\0\x0A"),
        (Packet::PubAck(ack(0x10)), b"\x40\x02\0\x0A", b"\x40\x04\0\x0A\x10\0"),
        (Packet::PubComp(ack(0x92)), b"\x70\x02\0\x0A", b"\x70\x04\0\x0A\x92\0"),
        (Packet::PubRec(ack(0x99)), b"\x50\x02\0\x0A", b"\x50\x04\0\x0A\x99\0"),
        (Packet::PubRec(ack(0)), b"\x50\x02\0\x0A", b"\x50\x02\0\x0A"),
        (Packet::PubRel(ack(0x92)), b"\x62\x02\0\x0A", b"\x62\x04\0\x0A\x92\0"),
        (Packet::SubAck(codes(&[0, 1, 0x9E])), b"\x90\x05\0\x0A\0\x01\x80", b"\x90\x06\0\x0A\0\0\x01\x9E"),
        (Packet::UnsubAck(codes(&[0, 0x11])), b"\xB0\x02\0\x0A", b"\xB0\x05\0\x0A\0\0\x11"),
    ] {
        assert_eq!(encoded(&packet, V311), v311, "{packet:?}");
        assert_eq!(encoded(&packet, V31), v311, "{packet:?}");
        assert_eq!(encoded(&packet, V5), v5, "{packet:?}");
    }
}

#[test]
fn disconnect_announces_the_length_it_has_and_is_for_version_5_only() {
    let disconnect = Disconnect { reason: Reason::SESSION_TAKEN_OVER, ..Disconnect::default() };
    let packet = Packet::Disconnect(Box::new(disconnect));
    assert_eq!(encoded(&packet, V5), b"\xE0\x02\x8E\0");
    let moved = Disconnect {
        server_reference: Some("b:1".to_owned()),
        reason: Reason(0x9C),
        ..Disconnect::default()
    };
    assert_eq!(encoded(&Packet::Disconnect(Box::new(moved)), V5), b"\xE0\x08\x9C\x06\x1C\0\x03b:1");
    let mut buffer = BytesMut::new();
    encode(&packet, V311, &mut buffer);
    assert!(buffer.is_empty());
}

#[test]
fn answers_are_as_long_as_the_session_counts_them() {
    for filters in [1, 124, 125, 300] {
        let codes = Codes { packet_id: 10, codes: vec![Reason::SUCCESS; filters] };
        for packet in [Packet::SubAck(codes.clone()), Packet::UnsubAck(codes)] {
            assert_eq!(encoded(&packet, V5).len(), codes_len(filters));
        }
    }
    let text = |len| Some("x".repeat(len));
    let everything = |len| ConnAckProperties {
        session_expiry_s: Some(1),
        receive_maximum: Some(2),
        maximum_qos: Some(Qos::AtLeastOnce),
        retain_available: Some(true),
        packet_len_max: Some(3),
        assigned_client_id: text(len),
        topic_alias_maximum: Some(4),
        reason_string: text(len),
        wildcard_available: Some(true),
        subscription_ids_available: Some(true),
        shared_available: Some(true),
        server_keep_alive_s: Some(5),
        response_information: text(len),
        server_reference: text(len),
        authentication_method: text(len),
    };
    for properties in [ConnAckProperties::default(), everything(1), everything(200)] {
        let len = connack_len(&properties);
        let connack = ConnAck { properties, ..ConnAck::default() };
        assert_eq!(encoded(&Packet::ConnAck(Box::new(connack)), V5).len(), len);
    }
}

#[test]
fn connack_carries_code_and_properties() {
    let refused = ConnAck { reason: Reason::NOT_AUTHORIZED, ..ConnAck::default() };
    assert_eq!(encoded(&Packet::ConnAck(Box::new(refused.clone())), V311), b"\x20\x02\0\x05");
    assert_eq!(encoded(&Packet::ConnAck(Box::new(refused)), V5), b"\x20\x03\0\x87\0");
    let properties = ConnAckProperties {
        maximum_qos: Some(Qos::AtLeastOnce),
        retain_available: Some(false),
        response_information: Some("r/".to_owned()),
        authentication_method: Some("JWT".to_owned()),
        ..ConnAckProperties::default()
    };
    let accepted = ConnAck { session_present: true, reason: Reason::SUCCESS, properties };
    assert_eq!(
        encoded(&Packet::ConnAck(Box::new(accepted)), V5),
        b"\x20\x12\x01\0\x0F\x24\x01\x25\0\x1A\0\x02r/\x15\0\x03JWT"
    );
}

#[test]
fn every_reason_code_can_be_sent_in_every_answer() {
    for code in 0..=255 {
        let reason = Reason(code);
        let codes = Codes { packet_id: 1, codes: vec![reason] };
        for packet in [
            Packet::ConnAck(Box::new(ConnAck { reason, ..ConnAck::default() })),
            Packet::PubAck(Ack { packet_id: 1, reason }),
            Packet::PubRec(Ack { packet_id: 1, reason }),
            Packet::SubAck(codes.clone()),
            Packet::UnsubAck(codes),
            Packet::Disconnect(Box::new(Disconnect { reason, ..Disconnect::default() })),
        ] {
            let bytes = encoded(&packet, V5);
            assert!(code == 0 || bytes.contains(&code), "{packet:?} as {bytes:02x?}");
            encode(&packet, V311, &mut BytesMut::new());
        }
    }
}

// ---------------------------------------------------------------- PUBLISH

fn text() -> impl Strategy<Value = String> {
    "[a-zé ]{0,40}"
}

fn message() -> impl Strategy<Value = Message> {
    let properties = (
        prop::option::of(any::<bool>()),
        prop::option::of(text()),
        prop::option::of("[a-z/]{1,10}"),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        prop::collection::vec((text(), text()), 0..4),
    );
    let properties =
        properties.prop_map(|(utf8, content_type, response_topic, correlation_data, user_properties)| {
            MessageProperties {
                payload_is_utf8: utf8,
                content_type,
                response_topic,
                correlation_data: correlation_data.map(Bytes::from),
                user_properties,
            }
        });
    let payload_len = prop_oneof![0..300usize, 16_000..17_000usize];
    ("[a-zü/]{1,60}", properties, payload_len).prop_map(|(topic, properties, len)| Message {
        app: AppId::DEFAULT,
        kind: PushKind::Topic,
        topic,
        qos: Qos::AtLeastOnce,
        payload: vec![b'x'; len].into(),
        properties,
        publisher: None,
        retain: false,
        tells_expiry: false,
    })
}

proptest! {
    #[test]
    fn a_delivery_is_read_back_as_it_was_meant(
        message in message(),
        version in prop_oneof![Just(V31), Just(V311), Just(V5)],
        packet_id in 0..=u16::MAX,
        acknowledged in prop_oneof![Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)],
        dup in any::<bool>(),
        retain in any::<bool>(),
        alias in prop::option::of((1..=u16::MAX, any::<bool>())),
        push in prop::option::of(any::<u64>()),
        expiry_s in prop::option::of(any::<u32>()),
        subscription_ids in prop::collection::vec(1..=268_435_455u32, 0..3),
    ) {
        let qos = if packet_id == 0 { Qos::AtMostOnce } else { acknowledged };
        let dup = dup && packet_id != 0;
        let outgoing = Outgoing::new(message.clone());
        let v5 = version == V5;
        let subscription_ids = if v5 { subscription_ids } else { Vec::new() };
        let push = push.filter(|_| v5).map(PushId);
        let alias = alias.filter(|_| v5).map(|(number, known)| Alias { number, known });
        let delivery = Delivery {
            message: outgoing, qos, packet_id, dup, expiry_s, retain, alias, push,
            subscription_ids: subscription_ids.clone().into(),
        };
        let mut buffer = BytesMut::new();
        // Twice: the second comes from the template.
        write_delivery(&delivery, version, &mut buffer);
        write_delivery(&delivery, version, &mut buffer);
        let own = OwnProperties { subscription_ids: &subscription_ids, alias, push };
        let len = publish_len(&message, version, qos, expiry_s.is_some(), own);
        prop_assert_eq!(buffer.len(), 2 * len);

        let mut properties = if v5 { message.properties } else { MessageProperties::default() };
        properties.user_properties.extend(push.map(|push| ("carillon-push".to_owned(), push.to_string())));
        let known = alias.is_some_and(|alias| alias.known);
        let expected = Publish {
            dup, qos, retain, packet_id, payload: message.payload.clone(),
            topic: if known { String::new() } else { message.topic },
            properties,
            expiry_s: expiry_s.filter(|_| v5),
            topic_alias: alias.map(|alias| alias.number),
            subscription_ids,
        };
        for _ in 0..2 {
            let packet = decode(&mut buffer, Some(version), LEN_MAX).unwrap().unwrap();
            prop_assert_eq!(&packet, &Packet::Publish(Box::new(expected.clone())));
        }
        if alias.is_none() {
            let mut again = BytesMut::new();
            encode(&Packet::Publish(Box::new(expected)), version, &mut again);
            prop_assert_eq!(again.len(), len);
        }
    }

    #[test]
    fn one_template_serves_many_terminals(message in message(), ids in prop::collection::vec(1..=u16::MAX, 1..10)) {
        let template = PublishTemplate::new(&message, V5, Qos::AtLeastOnce, true);
        for id in ids {
            let mut buffer = BytesMut::new();
            let own =
                Own { packet_id: id, dup: id % 2 == 0, expiry_s: Some(u32::from(id)), ..Own::default() };
            template.write(&mut buffer, &message.payload, own);
            let Ok(Some(Packet::Publish(publish))) = decode(&mut buffer, Some(V5), LEN_MAX) else { panic!() };
            prop_assert_eq!((publish.packet_id, publish.dup, publish.expiry_s), (id, id % 2 == 0, Some(u32::from(id))));
        }
    }
}

// ---------------------------------------------------------------- arbitrary bytes

/// Bytes that look like MQTT more often than chance would have it.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..200);
    let framed = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..120))
        .prop_map(|(first, body)| [&[first, body.len() as u8], &body[..]].concat());
    let small = (
        prop::sample::select(vec![0x30u8, 0x32, 0x40, 0x50, 0x62, 0x70, 0x82, 0xA2, 0xC0, 0xE0, 0xF0]),
        prop::collection::vec(prop_oneof![4 => 0..4u8, 1 => any::<u8>()], 0..40),
    )
        .prop_map(|(first, body)| [&[first, body.len() as u8], &body[..]].concat());
    let connect = (
        prop::sample::select(vec![("MQTT", 4), ("MQTT", 5), ("MQIsdp", 3)]),
        any::<u8>(),
        prop::collection::vec(prop_oneof![4 => 0..4u8, 1 => any::<u8>()], 0..60),
    )
        .prop_map(|((name, level), flags, rest)| connect_bytes(name, level, flags & 0xFE, &rest));
    let packet = prop_oneof![1 => noise, 2 => framed, 4 => small, 2 => connect];
    prop::collection::vec(packet, 1..8).prop_map(|packets| packets.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in bytes()) {
        for version in [None, Some(V31), Some(V311), Some(V5)] {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer, version, LEN_MAX) {}
        }
    }

    #[test]
    fn no_bytes_make_a_connection_panic_or_speak_after_its_end(
        bytes in bytes(),
        (name, level) in prop::sample::select(vec![("MQTT", 4), ("MQTT", 5)]),
        connected in any::<bool>(),
    ) {
        let mut session: Session<Arc<Message>> = Session::new(Arc::new(SessionConfig::default()), 0, 1);
        let opening = connect_bytes(name, level, 2, if level == 5 { b"\0\0\x01a" } else { b"\0\x01a" });
        let mut buffer = BytesMut::from(&if connected { [opening, bytes].concat() } else { bytes }[..]);
        let at = Moment { ms: 0, room: usize::MAX };
        let mut closed = false;
        let mut out = Vec::new();
        while session.may_read() {
            match decode(&mut buffer, session.decode_version(), LEN_MAX) {
                Ok(None) => break,
                Ok(Some(packet)) => session.handle_packet(at, packet, &mut out),
                Err(malformed) => session.handle_malformed(malformed, &mut out),
            }
            answer(&mut session, at, &mut out, &mut closed);
        }
        session.handle_connection_lost(&mut out);
        answer(&mut session, at, &mut out, &mut closed);
        prop_assert!(closed);
    }
}

/// Does what a shell would: writes, and answers at once.
fn answer(
    session: &mut Session<Arc<Message>>,
    at: Moment,
    out: &mut Vec<Action<Arc<Message>>>,
    closed: &mut bool,
) {
    use cluster_proto::{
        Epoch, SessionId, TerminalNo,
        link::{Bound, PublishOutcome},
    };
    use fabric_core::mqtt::{AuthRefusal, Changed, Grant, Permissions};

    while !out.is_empty() {
        for action in std::mem::take(out) {
            assert!(!*closed, "after the end: {action:?}");
            match action {
                Action::Authenticate(credentials) => {
                    let terminal = credentials.client_id.unwrap_or(credentials.assigned_id);
                    let (app, permissions) = (AppId::DEFAULT, Permissions::everything());
                    let grant = Grant {
                        app,
                        terminal,
                        no: None,
                        credential_issued_at: 0,
                        expires_at_ms: None,
                        permissions,
                    };
                    session.handle_authenticated(at, Ok(grant), out);
                }
                Action::Bind { session_expiry_s, .. } => {
                    let epoch = Epoch::default();
                    let subscriptions = Vec::new();
                    let bound = Bound {
                        no: None,
                        epoch,
                        session_present: false,
                        session: None,
                        session_expiry_s,
                        subscriptions,
                        inbound: Vec::new(),
                        outbound: Vec::new(),
                    };
                    session.handle_bound(at, Ok((bound, Vec::new())), out);
                }
                Action::Send(packet) => encode(&packet, session.version(), &mut BytesMut::new()),
                Action::Accept(incoming) => {
                    session.handle_published(at, incoming.request, Ok(PublishOutcome::Accepted), out);
                }
                Action::Subscribe { request, .. } | Action::Unsubscribe { request, .. } => {
                    let changed = Changed { no: TerminalNo(1), session: SessionId(1), index: 1 };
                    session.handle_changed(at, request, Ok(changed), out);
                }
                Action::Release { request, .. } => {
                    session.handle_published(at, request, Ok(PublishOutcome::Accepted), out);
                }
                Action::Step { request: Some(request), .. } => session.handle_recorded(at, request, out),
                Action::Retained { request, .. } => {
                    session.handle_retained(at, request, Ok((Vec::new(), None)), out);
                }
                Action::Reauthenticate(_) => {
                    session.handle_reauthenticated(at, Err(AuthRefusal::BadCredential), out);
                }
                Action::Close(_) => *closed = true,
                _ => {}
            }
        }
    }
}
