//! Sections 3.15 and 4.12: AUTH. The one method is `JWT`: its data is the credential.

use conformance_tests::packet::End;

use crate::prelude::*;

const METHOD: &str = "JWT";

fn method(name: &str) -> property::Property {
    property::text(id::AUTH_METHOD, name)
}

fn data(token: &str) -> property::Property {
    property::binary(id::AUTH_DATA, token.as_bytes())
}

/// A terminal that logged in by the method.
fn authenticated() -> (Client, String) {
    let terminal = unique("auth");
    let connect = Connect::new(V5, &terminal).with(method(METHOD)).with(data(&credential(&terminal)));
    let (client, answer) = Client::open_with(mqtt(), &connect);
    assert_eq!(answer.properties.text(id::AUTH_METHOD), Some(METHOD), "[MQTT-4.12.0-5]");
    (client, terminal)
}

// [MQTT-4.12.0-5]; section 4.12.
#[test]
fn a_credential_may_come_as_authentication_data() {
    let (mut client, _) = authenticated();
    client.ping();
}

// [MQTT-4.12.0-1].
#[test]
fn an_unknown_method_is_refused() {
    for name in ["SCRAM-SHA-1", "", "jwt"] {
        let connect = Connect::new(V5, &unique("c")).with(method(name)).with(data("x"));
        let (mut client, answer) = Client::ask(mqtt(), &connect);
        assert!([0x8C, 0x87].contains(&answer.reason), "{answer:?}");
        client.is_closed();
    }
}

// [MQTT-4.12.0-4].
#[test]
fn wrong_authentication_data_is_refused() {
    for connect in [
        Connect::new(V5, &unique("c")).with(method(METHOD)).with(data("nonsense")),
        Connect::new(V5, &unique("c")).with(method(METHOD)),
    ] {
        let (mut client, answer) = Client::ask(mqtt(), &connect);
        assert!([0x82, 0x86, 0x87].contains(&answer.reason), "{answer:?}");
        client.is_closed();
    }
}

// [MQTT-4.12.1-1], [MQTT-4.12.0-5], [MQTT-3.15.2-1].
#[test]
fn a_credential_is_refreshed_without_reconnecting() {
    let (mut client, terminal) = authenticated();
    let topic = unique("goes-on");
    client.subscribe(&topic, 1);
    for _ in 0..2 {
        client.send(&build::auth(0x19, &[method(METHOD), data(&credential(&terminal))]));
        let Packet::Auth(End { reason, properties }) = client.receive() else { panic!("AUTH expected") };
        assert_eq!((reason, properties.text(id::AUTH_METHOD)), (0, Some(METHOD)));
    }
    open(V5).publish(&topic, "still here", 1);
    assert_eq!(client.take().text(), "still here");
}

// [MQTT-4.12.1-2].
#[test]
fn a_refresh_that_fails_ends_the_connection() {
    let (mut client, _) = authenticated();
    client.send(&build::auth(0x19, &[method(METHOD), data("nonsense")]));
    client.is_thrown_out(&[0x87, 0x82]);
    // Somebody else's credential is no refresh either.
    let (mut client, _) = authenticated();
    client.send(&build::auth(0x19, &[method(METHOD), data(&credential(&unique("other")))]));
    client.is_thrown_out(&[0x87]);
}

// [MQTT-4.12.1-1]: with the same method.
#[test]
fn a_refresh_by_another_method_ends_the_connection() {
    let (mut client, terminal) = authenticated();
    client.send(&build::auth(0x19, &[method("OTHER"), data(&credential(&terminal))]));
    client.is_thrown_out(&[0x82, 0x87, 0x8C]);
}

// [MQTT-4.12.0-6], [MQTT-4.12.0-7].
#[test]
fn auth_without_a_method_in_connect_is_a_protocol_error() {
    let mut client = open(V5);
    client.send(&build::auth(0x19, &[method(METHOD), data("x")]));
    client.is_thrown_out(&[0x82]);
}

// [MQTT-4.12.0-3]: nobody asked for more.
#[test]
fn a_continuation_that_nobody_asked_for_is_a_protocol_error() {
    let (mut client, terminal) = authenticated();
    client.send(&build::auth(0x18, &[method(METHOD), data(&credential(&terminal))]));
    client.is_thrown_out(&[0x82]);
}

// [MQTT-3.15.1-1], [MQTT-3.15.2-1]; section 3.15.2.2.
#[test]
fn a_malformed_auth_ends_the_connection() {
    let wrong = [
        // Flags.
        [&[0xF1][..], &build::auth(0x19, &[method(METHOD)])[1..]].concat(),
        // A reason that is none.
        build::auth(0x20, &[method(METHOD)]),
        // Twice.
        build::auth(0x19, &[method(METHOD), method(METHOD)]),
        // Of another packet.
        build::auth(0x19, &[method(METHOD), property::two(id::TOPIC_ALIAS, 1)]),
        // Without method.
        build::auth(0x19, &[]),
    ];
    for packet in wrong {
        let (mut client, _) = authenticated();
        client.send(&packet);
        client.is_thrown_out(&[0x81, 0x82]);
    }
}

// 3.1.1, table 2.1: type 15 is reserved there.
#[test]
fn auth_is_no_packet_of_3_1_1() {
    let mut client = open(V311);
    client.send(&[0xF0, 0]);
    client.is_closed();
}

// [MQTT-3.1.2-30]: before CONNACK only AUTH and DISCONNECT are for the client to send; what else comes must not be acted on
// before the login succeeds, and here the login is one packet.
#[test]
fn nothing_is_acted_on_before_a_login_by_method_succeeds() {
    let topic = unique("smuggled");
    let mut subscriber = open(V5);
    subscriber.subscribe(&topic, 1);
    let mut bytes = Connect::new(V5, &unique("c")).with(method(METHOD)).with(data("nonsense")).bytes();
    bytes.extend(Publish::new(&topic, "smuggled").bytes(V5));
    let mut client = Client::dial(mqtt(), V5);
    client.send(&bytes);
    assert!(client.ends(&[0x82, 0x86, 0x87]).is_some());
    open(V5).publish(&topic, "fence", 1);
    assert_eq!(subscriber.texts_until("fence"), [""; 0]);
}
