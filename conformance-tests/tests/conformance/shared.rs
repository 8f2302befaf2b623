//! Section 4.8.2: shared subscriptions.

use crate::prelude::*;

fn share(group: &str, filter: &str) -> String {
    format!("$share/{group}/{filter}")
}

/// Members of one group, subscribed with this QoS.
fn members<const N: usize>(filter: &str, qos: u8) -> [Client; N] {
    std::array::from_fn(|_| {
        let mut member = open(V5);
        assert_eq!(member.subscribe(filter, qos), qos);
        member
    })
}

/// Takes what comes to these clients until `count` messages came; per client, as text.
fn gather(clients: &mut [Client], count: usize) -> Vec<Vec<String>> {
    let mut got = vec![Vec::new(); clients.len()];
    let deadline = Instant::now() + Duration::from_secs(10);
    while got.iter().map(Vec::len).sum::<usize>() < count {
        assert!(Instant::now() < deadline, "{count} messages expected, these came: {got:?}");
        for (client, got) in clients.iter_mut().zip(&mut got) {
            // Everything before the answer has arrived.
            client.ping_past(|message| {
                got.push(message.text());
                true
            });
        }
    }
    got
}

// Section 4.8.2: each message to one of them; with nobody slow, everybody gets some.
#[test]
fn each_message_goes_to_one_member() {
    for qos in [0, 1, 2] {
        let topic = unique("one-each");
        let mut group: [Client; 3] = members(&share("g", &topic), qos);
        let mut publisher = open(V5);
        let texts: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        texts.iter().for_each(|text| {
            publisher.publish(&topic, text, qos);
        });
        let got = gather(&mut group, 30);
        let mut all: Vec<String> = got.iter().flatten().cloned().collect();
        all.sort_by_key(|text| text.parse::<u32>().unwrap());
        assert_eq!(all, texts, "QoS {qos}");
        assert!(got.iter().all(|one| !one.is_empty()), "QoS {qos}: {got:?}");
    }
}

// Section 4.8.2: groups, and other subscriptions, are independent of each other.
#[test]
fn each_group_and_each_plain_subscriber_gets_every_message() {
    let topic = unique("independent");
    let [mut red, mut blue] = [share("red", &topic), share("blue", &topic)].map(|filter| {
        let [member] = members(&filter, 1);
        member
    });
    let [mut plain] = members(&topic, 1);
    let texts = ["a", "b", "c"];
    texts.iter().for_each(|text| {
        open(V5).publish(&topic, text, 1);
    });
    open(V5).publish(&topic, "fence", 1);
    for client in [&mut red, &mut blue, &mut plain] {
        assert_eq!(client.texts_until("fence"), texts);
    }
}

// A group is its name and its filter.
#[test]
fn the_same_name_with_another_filter_is_another_group() {
    let root = unique("filters");
    let [mut narrow] = members(&share("g", &format!("{root}/a")), 1);
    let [mut wide] = members(&share("g", &format!("{root}/+")), 1);
    open(V5).publish(&format!("{root}/a"), "x", 1);
    assert_eq!(narrow.take().text(), "x");
    assert_eq!(wide.take().text(), "x");
}

// [MQTT-4.8.2-1], [MQTT-4.8.2-2].
#[test]
fn a_share_name_is_not_empty_and_has_no_wildcards() {
    for filter in [
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//t",
        "$share/g+/t",
        "$share/#/t",
        "$share/g/a/#/b",
    ] {
        let mut client = open(V5);
        client.send(&build::subscribe(V5, 1, &[(filter, 0)], &[]));
        match client.receive() {
            Packet::Suback(answer) => assert!(answer.reasons[0] >= 0x80, "{filter}"),
            Packet::Disconnect(end) => assert!([0x81, 0x82, 0x8F].contains(&end.reason), "{filter}"),
            other => panic!("{filter}: {other:?}"),
        }
    }
}

// [MQTT-3.8.3-4].
#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let mut client = open(V5);
    client.send(&build::subscribe(V5, 1, &[("$share/g/t", 1 | NO_LOCAL)], &[]));
    client.is_thrown_out(&[0x82]);
}

// [MQTT-4.8.2-3].
#[test]
fn each_member_gets_messages_at_the_qos_it_was_granted() {
    let topic = unique("granted");
    let filter = share("g", &topic);
    let mut group: Vec<Client> =
        [0, 1, 2].map(|qos| members::<1>(&filter, qos)).into_iter().flatten().collect();
    for n in 0..12 {
        open(V5).publish(&topic, &n.to_string(), 2);
    }
    let mut left = 12;
    while left > 0 {
        for (granted, member) in group.iter_mut().enumerate() {
            member.ping_past(|message| {
                left -= 1;
                usize::from(message.qos) == granted
            });
        }
    }
}

// Section 4.8.2: what a member did not acknowledge goes to another when it leaves for good.
#[test]
fn another_member_takes_over_what_a_leaving_one_did_not_acknowledge() {
    let topic = unique("takes-over");
    let filter = share("g", &topic);
    let [mut first] = members(&filter, 1);
    open(V5).publish(&topic, "x", 1);
    assert_eq!(first.message().text(), "x");
    let [mut second] = members(&filter, 1);
    first.hang_up();
    assert_eq!(second.take().text(), "x");
    open(V5).publish(&topic, "fence", 1);
    assert_eq!(second.texts_until("fence"), [""; 0]);
}

// [MQTT-4.8.2-4], [MQTT-4.8.2-5]: QoS 2 that was begun stays with its member.
#[test]
fn a_qos_2_delivery_that_was_begun_stays_with_its_member() {
    let topic = unique("stays");
    let filter = share("g", &topic);
    let mut first = lasting(V5);
    let id = first.id.clone();
    first.subscribe(&filter, 2);
    open(V5).publish(&topic, "x", 2);
    let message = first.message();
    let [mut second] = members(&filter, 2);
    first.hang_up();
    open(V5).publish(&topic, "fence", 2);
    assert_eq!(second.texts_until("fence"), [""; 0]);
    let mut first = resume(V5, &id);
    let again = first.message();
    assert_eq!((again.text(), again.id, again.dup), ("x".to_owned(), message.id, true));
    first.acknowledge(&again);
}

// [MQTT-4.8.2-6].
#[test]
fn a_message_that_a_member_refuses_is_not_given_to_another() {
    for kind in [PUBACK, PUBREC] {
        let topic = unique("refused");
        let filter = share("g", &topic);
        let [mut first] = members(&filter, kind - 3);
        open(V5).publish(&topic, "x", kind - 3);
        let message = first.message();
        first.send(&build::ack_reason(kind, message.id, 0x80));
        first.ping();
        let [mut second] = members(&filter, kind - 3);
        first.bye();
        open(V5).publish(&topic, "fence", kind - 3);
        assert_eq!(second.texts_until("fence"), [""; 0]);
    }
}

// [MQTT-3.8.4-3] is for non-shared ones; leaving a group is UNSUBSCRIBE of the whole filter (section 4.8.2).
#[test]
fn a_member_leaves_by_unsubscribing_from_the_whole_filter() {
    let topic = unique("leaves");
    let filter = share("g", &topic);
    let [mut leaving, mut staying] = members(&filter, 1);
    assert_eq!(leaving.unsubscribe(&[&topic]).reasons, [0x11]);
    assert_eq!(leaving.unsubscribe(&[&filter]).reasons, [0x00]);
    for text in ["a", "b", "c"] {
        open(V5).publish(&topic, text, 1);
    }
    open(V5).publish(&topic, "fence", 1);
    assert_eq!(staying.texts_until("fence"), ["a", "b", "c"]);
    leaving.ping();
}

// Section 3.8.3.1: retained messages are not sent for shared subscriptions.
#[test]
fn a_shared_subscription_gets_no_retained_messages() {
    let topic = unique("no-retained");
    open(V5).retain(&topic, "kept", 1);
    let mut member = open(V5);
    member.subscribe(&share("g", &topic), 1);
    assert_eq!(until_retained_fence(&mut member), []);
    open(V5).retain(&topic, "", 1);
}

// [MQTT-3.3.4-3]: the identifier of the shared subscription, and of that one only.
#[test]
fn a_shared_subscription_has_an_identifier_of_its_own() {
    let topic = unique("identifier");
    let mut member = open(V5);
    let number = |value| [property::number(id::SUBSCRIPTION_ID, value)];
    member.subscribe_all(&[(&share("g", &topic), 1)], &number(9));
    open(V5).publish(&topic, "x", 1);
    assert_eq!(member.take().properties.subscription_ids(), [9]);
    member.subscribe_all(&[(&topic, 1)], &number(4));
    open(V5).publish(&topic, "y", 1);
    let mut both: Vec<Vec<u32>> = (0..2).map(|_| member.take().properties.subscription_ids()).collect();
    both.sort();
    assert_eq!(both, [[4], [9]]);
}

// A persistent member that is away does not hold messages up while others are there; with nobody there, they wait.
#[test]
fn messages_go_to_members_that_are_there_and_wait_when_nobody_is() {
    let topic = unique("away");
    let filter = share("g", &topic);
    let mut away = lasting(V5);
    let id = away.id.clone();
    away.subscribe(&filter, 1);
    away.bye();
    open(V5).publish(&topic, "waits", 1);
    let [mut there] = members(&filter, 1);
    assert_eq!(there.take().text(), "waits");
    open(V5).publish(&topic, "for who is there", 1);
    assert_eq!(there.take().text(), "for who is there");
    there.bye();
    open(V5).publish(&topic, "waits again", 1);
    assert_eq!(resume(V5, &id).take().text(), "waits again");
}

// 3.1.1 knows none, but brokers serve them, and clients rely on it.
#[test]
fn a_3_1_1_client_may_be_a_member() {
    let topic = unique("old-member");
    let filter = share("g", &topic);
    let mut old = open(V311);
    assert_eq!(old.subscribe(&filter, 1), 1);
    open(V311).publish(&topic, "x", 1);
    assert_eq!(old.take().text(), "x");
}
