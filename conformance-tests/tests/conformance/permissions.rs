//! What a credential allows (sections 5.4.2 and 5.4.4): topics to publish and to subscribe to, in which `{terminal}` stands
//! for the terminal's id.

use crate::prelude::*;

const NOT_AUTHORIZED: u8 = 0x87;

/// A CONNECT of a terminal that may publish to `up/ID/#` and subscribe to `down/ID/+` and `news`; and its id.
fn limited(version: Version) -> (Connect, String) {
    let terminal = unique("limited");
    let may = ["--publish", "up/{terminal}/#", "--subscribe", "down/{terminal}/+", "--subscribe", "news"];
    let token = credential_with(&terminal, &may);
    (Connect::new(version, &terminal).login("default", &token), terminal)
}

// [MQTT-3.3.5-2]; section 3.4.2.1.
#[test]
fn a_terminal_publishes_where_its_credential_says() {
    for version in BOTH {
        let (connect, terminal) = limited(version);
        let (mut client, _) = Client::open_with(mqtt(), &connect);
        let (own, others) = (format!("up/{terminal}/state"), format!("up/{terminal}2/state"));
        let mut watcher = open(version);
        watcher.subscribe("up/#", 1);
        if version == V5 {
            assert_eq!(client.publish(&others, "no", 1), NOT_AUTHORIZED);
            assert_eq!(client.publish(&others, "no", 2), NOT_AUTHORIZED);
        }
        client.publish(&own, &terminal, 1);
        assert_eq!(watcher.texts_until(&terminal).iter().filter(|text| *text == "no").count(), 0);
        // Nothing answers QoS 0: the end of the connection does.
        client.send(&Publish::new(&others, "no").bytes(version));
        client.is_thrown_out(&[NOT_AUTHORIZED]);
    }
}

// [MQTT-3.9.3-2]; section 3.8.4.
#[test]
fn a_terminal_subscribes_to_what_its_credential_says() {
    for version in BOTH {
        let (connect, terminal) = limited(version);
        let (mut client, _) = Client::open_with(mqtt(), &connect);
        let refused = if version == V5 { NOT_AUTHORIZED } else { 0x80 };
        let own = format!("down/{terminal}/+");
        let filters = [
            (own.as_str(), 1),
            ("news", 1),
            ("down/+/+", refused),
            ("#", refused),
            ("$share/group/news", 1),
            ("$share/group/down/+/+", refused),
        ];
        for (filter, granted) in filters {
            assert_eq!(client.subscribe(filter, 1), granted, "{filter}");
        }
        // Part of what is allowed is allowed.
        let one = format!("down/{terminal}/a");
        assert_eq!(client.subscribe(&one, 1), 1);
    }
}

// Section 3.1.4: what may not be published may not be a will either.
#[test]
fn a_will_is_allowed_where_publishing_is() {
    for (version, refused) in [(V311, 5), (V5, NOT_AUTHORIZED)] {
        let (connect, terminal) = limited(version);
        let (mut client, answer) =
            Client::ask(mqtt(), &connect.clone().will(Will::new("up/other/state", "x")));
        assert_eq!(answer.reason, refused);
        client.is_closed();
        let own = format!("up/{terminal}/state");
        let mut watcher = open(version);
        watcher.subscribe(&own, 1);
        let (client, _) = Client::open_with(mqtt(), &connect.will(Will::new(&own, "gone")));
        client.hang_up();
        assert_eq!(watcher.take().text(), "gone");
    }
}

#[test]
fn an_empty_permission_allows_nothing() {
    let terminal = unique("mute");
    let token = credential_with(&terminal, &["--publish", "", "--subscribe", ""]);
    let (mut client, _) = Client::open_with(mqtt(), &Connect::new(V5, &terminal).login("default", &token));
    assert_eq!(client.publish("a", "no", 1), NOT_AUTHORIZED);
    assert_eq!(client.subscribe("a", 1), NOT_AUTHORIZED);
}

// [MQTT-4.12.1-1]: a refreshed credential that allows less ends the subscriptions it does not.
#[test]
fn a_fresh_credential_takes_subscriptions_back() {
    let terminal = unique("less");
    let jwt = |token: &str| {
        [property::text(id::AUTH_METHOD, "JWT"), property::binary(id::AUTH_DATA, token.as_bytes())]
    };
    let [method, data] = jwt(&credential(&terminal));
    let (mut client, _) = Client::open_with(mqtt(), &Connect::new(V5, &terminal).with(method).with(data));
    let (kept, taken) = (unique("kept"), unique("taken"));
    client.subscribe(&kept, 1);
    client.subscribe(&taken, 1);
    client.send(&build::auth(0x19, &jwt(&credential_with(&terminal, &["--subscribe", &kept]))));
    let Packet::Auth(_) = client.receive() else { panic!("AUTH expected") };
    client.ping();
    let mut publisher = open(V5);
    publisher.publish(&taken, "no", 1);
    publisher.publish(&kept, "yes", 1);
    assert_eq!(client.texts_until("yes"), [""; 0]);
}
