//! One broker, many nodes: what MQTT promises must hold whichever nodes the clients are on, and when nodes die.
//!
//! Three control nodes, which serve terminals too, and a fourth that only does that. Tests share them; those that kill
//! or pause nodes have them alone meanwhile.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use conformance_tests::{
    BOTH, V5, V311, Version,
    build::{self, Connect, Publish, Will},
    client::Client,
    nodes::{EDGE, Nodes, nodes},
    packet::{PUBACK, PUBCOMP, PUBREC, PUBREL, Packet},
    property::{self, Properties, id},
    unique,
};

/// A killed edge's terminals are lost to the leader once its link is.
const EDGE_LOST_LIMIT: Duration = Duration::from_secs(30);

fn open(address: SocketAddr, version: Version) -> Client {
    Client::open(address, version)
}

fn lasting(address: SocketAddr, version: Version) -> Client {
    Client::open_with(address, &Connect::new(version, &unique("lasting")).resume()).0
}

fn resume(address: SocketAddr, version: Version, id: &str) -> Client {
    let (client, connack) = Client::open_with(address, &Connect::new(version, id).resume());
    assert!(connack.session_present, "the session of {id} is there");
    client
}

/// Waits until a message has come, for longer than usual: nodes have to notice that another is dead.
fn eventually(client: &mut Client, limit: Duration) -> conformance_tests::packet::Publish {
    match client.next(Instant::now() + limit) {
        Some(Packet::Publish(message)) => {
            client.acknowledge(&message);
            message
        }
        other => panic!("a message expected, not {other:?}"),
    }
}

/// CONNECT until it is accepted: nodes that are just losing each other refuse for a while.
fn insist(address: SocketAddr, connect: &Connect) -> (Client, bool) {
    let deadline = Instant::now() + EDGE_LOST_LIMIT;
    loop {
        let (client, answer) = Client::ask(address, connect);
        if answer.reason == 0 {
            return (client, answer.session_present);
        }
        assert!(Instant::now() < deadline, "still refused: {answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_message_reaches_subscribers_on_every_node() {
    let nodes = nodes();
    let _steady = nodes.steady();
    for version in BOTH {
        let topic = unique("everywhere");
        let mut subscribers: Vec<Client> = (1..=EDGE).map(|id| open(nodes.mqtt(id), version)).collect();
        subscribers.iter_mut().for_each(|one| {
            one.subscribe(&topic, 2);
        });
        // QoS 0 messages follow the filters that nodes tell each other: let them know this one.
        settle(&nodes, &topic, &mut subscribers);
        for from in 1..=EDGE {
            for qos in [0, 1, 2] {
                open(nodes.mqtt(from), version).publish(&topic, &format!("{from}/{qos}"), qos);
                for subscriber in &mut subscribers {
                    let mut message = subscriber.take();
                    while message.text() == "settle" {
                        message = subscriber.take();
                    }
                    assert_eq!((message.text(), message.qos), (format!("{from}/{qos}"), qos));
                }
            }
        }
    }
}

/// Until QoS 0 messages from every node reach every subscriber.
fn settle(nodes: &Nodes, topic: &str, subscribers: &mut [Client]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    for from in 1..=EDGE {
        let mut publisher = open(nodes.mqtt(from), V311);
        let mut deaf: BTreeSet<usize> = (0..subscribers.len()).collect();
        while !deaf.is_empty() {
            assert!(Instant::now() < deadline, "QoS 0 of node {from} does not reach {deaf:?}");
            publisher.publish(topic, "settle", 0);
            publisher.publish(topic, "settled", 1);
            for (place, subscriber) in subscribers.iter_mut().enumerate() {
                if subscriber.until("settled").iter().any(|message| message.text() == "settle") {
                    deaf.remove(&place);
                }
            }
        }
    }
}

#[test]
fn a_push_to_an_expression_reaches_exactly_whom_it_means_wherever_they_are() {
    let nodes = nodes();
    let _steady = nodes.steady();
    let (run, topic) = (unique("run"), unique("news"));
    let id = |kind: &str| format!("{kind}-{run}");
    let (tag, alias) = (format!("run={run}"), format!("user-{run}"));
    for (kind, labels) in [
        ("tv", &["--tag", "os=tv", "--alias", &alias][..]),
        ("phone", &["--tag", "os=phone", "--alias", &alias]),
        ("box", &["--tag", "os=tv"]),
        ("away", &["--tag", "os=tv"]),
    ] {
        nodes.command(&[&["terminal", "register", &id(kind), "--tag", &tag], labels].concat());
    }
    assert!(nodes.command(&["terminal", "get", &id("tv"), "--json"]).contains(&alias));
    let connect = |kind: &str, node| Client::open_with(nodes.mqtt(node), &Connect::new(V5, &id(kind))).0;
    let (mut tv, mut phone, mut cube) = (connect("tv", 1), connect("phone", 2), connect("box", EDGE));
    let push = |expression: &str, payload: &str| {
        let to = format!("tag:{tag} and ({expression})");
        let push = ["push", "--to", &to, "--topic", &topic, "--payload", payload, "--json"];
        let answer = nodes.command(&push);
        (number(&answer, "push"), number(&answer, "audience"))
    };

    let (first, audience) = push("online and not tag:os=phone", "first");
    assert_eq!(audience, 2);
    for client in [&mut tv, &mut cube] {
        assert_eq!(client.take().text(), "first");
    }
    nodes.command(&["status", &first.to_string(), "--watch"]);
    assert_eq!(push(&format!("alias:{alias} and not delivered:{first}"), "second").1, 1);
    assert_eq!(phone.take().text(), "second", "and not the first");

    let offline = format!("tag:{tag} and offline");
    let tried = nodes.command(&["push", "--dry-run", "--to", &offline, "--topic", &topic, "--json"]);
    assert_eq!(number(&tried, "audience"), 1);
    assert!(tried.contains(&id("away")), "{tried}");

    // Two halves are everyone, and share nobody.
    let (one, other) = (push("sample:0-50%", "half").1, push("sample:50-100%", "half").1);
    assert_eq!(one + other, 4);
    assert_eq!(push("all", "last").1, 4);
    let mut away = connect("away", 3);
    for client in [&mut tv, &mut phone, &mut cube, &mut away] {
        assert_eq!(client.texts_until("last"), ["half"]);
    }
}

/// A number of an answer in JSON.
fn number(answer: &str, name: &str) -> u64 {
    let (_, rest) = answer.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name}: {answer}"));
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{name}: {answer}"))
}

// [MQTT-3.1.4-3], 3.1.1 [MQTT-3.1.4-2].
#[test]
fn a_takeover_on_another_node_ends_the_old_connection() {
    let nodes = nodes();
    let _steady = nodes.steady();
    for version in BOTH {
        let connect = Connect::new(version, &unique("takeover")).resume();
        let (mut old, _) = Client::open_with(nodes.mqtt(1), &connect);
        for node in [2, EDGE, 3, 1] {
            let (mut new, answer) = Client::open_with(nodes.mqtt(node), &connect);
            assert!(answer.session_present);
            old.is_thrown_out(&[0x8E]);
            new.ping();
            old = new;
        }
    }
}

// [MQTT-4.4.0-1], [MQTT-3.1.2-5].
#[test]
fn a_session_moves_to_another_node_with_its_unfinished_deliveries() {
    let nodes = nodes();
    let _steady = nodes.steady();
    for version in BOTH {
        let topic = unique("moves");
        let mut client = lasting(nodes.mqtt(1), version);
        let id = client.id.clone();
        client.subscribe(&topic, 2);
        let mut publisher = open(nodes.mqtt(2), version);
        for (text, qos) in [("acknowledged", 1), ("sent", 1), ("begun", 2), ("received", 2)] {
            publisher.publish(&topic, text, qos);
        }
        let first: Vec<_> = (0..4).map(|_| client.message()).collect();
        client.send(&build::ack(PUBACK, first[0].id));
        client.send(&build::ack(PUBREC, first[3].id));
        client.ack(PUBREL, first[3].id);
        // And one towards the server that is not released.
        client.send(&Publish::new(&unique("nobody"), "x").qos(2, 77).bytes(version));
        client.ack(PUBREC, 77);
        client.bye();
        publisher.publish(&topic, "meanwhile", 1);

        let mut client = resume(nodes.mqtt(EDGE), version, &id);
        let (mut again, mut released, mut new) = (Vec::new(), Vec::new(), Vec::new());
        while again.len() + released.len() + new.len() < 4 {
            match client.receive() {
                Packet::Publish(message) if message.dup => again.push((message.text(), message.id)),
                Packet::Publish(message) => new.push(message.text()),
                Packet::Ack(ack) if ack.kind == PUBREL => released.push(ack.id),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(again, [("sent".to_owned(), first[1].id), ("begun".to_owned(), first[2].id)]);
        assert_eq!(released, [first[3].id]);
        assert_eq!(new, ["meanwhile"]);
        client.send(&Publish::new("repeated", "x").qos(2, 77).dup().bytes(version));
        client.ack(PUBREC, 77);
        client.send(&build::ack(PUBREL, 77));
        assert_eq!(client.ack(PUBCOMP, 77).reason, 0);
    }
}

// [MQTT-3.3.1-5], 3.1.1 [MQTT-3.3.1-5].
#[test]
fn a_retained_message_is_kept_for_all_nodes() {
    let nodes = nodes();
    let _steady = nodes.steady();
    for version in BOTH {
        for qos in [0, 1, 2] {
            let topic = unique("retained");
            let mut publisher = open(nodes.mqtt(EDGE), version);
            publisher.retain(&topic, "kept", qos);
            publisher.publish(&unique("behind"), "it", 1);
            for node in 1..=EDGE {
                let mut later = open(nodes.mqtt(node), version);
                later.subscribe(&topic, 2);
                let message = later.take();
                assert_eq!((message.text(), message.qos, message.retain), ("kept".to_owned(), qos, true));
            }
            open(nodes.mqtt(1), version).retain(&topic, "", 1);
        }
    }
}

// Section 4.8.2.
#[test]
fn a_shared_group_spans_nodes_and_each_message_comes_once() {
    let nodes = nodes();
    let _steady = nodes.steady();
    for qos in [1, 2] {
        let topic = unique("group");
        let filter = format!("$share/g/{topic}");
        let mut members: Vec<Client> = (1..=EDGE).map(|node| open(nodes.mqtt(node), V5)).collect();
        members.iter_mut().for_each(|member| {
            assert_eq!(member.subscribe(&filter, qos), qos);
        });
        let mut publisher = open(nodes.mqtt(2), V5);
        let texts: BTreeSet<String> = (0..40).map(|n| n.to_string()).collect();
        texts.iter().for_each(|text| {
            publisher.publish(&topic, text, qos);
        });
        let got = gather(&mut members, 40);
        assert_eq!(got.iter().map(Vec::len).sum::<usize>(), 40, "{got:?}");
        assert_eq!(got.iter().flatten().cloned().collect::<BTreeSet<_>>(), texts);
        assert!(got.iter().all(|one| !one.is_empty()), "everybody gets some: {got:?}");
    }
}

// Section 4.8.2.
#[test]
fn a_member_on_another_node_takes_over_what_a_leaving_one_had() {
    let nodes = nodes();
    let _steady = nodes.steady();
    let topic = unique("takes-over");
    let filter = format!("$share/g/{topic}");
    let mut first = open(nodes.mqtt(1), V5);
    first.subscribe(&filter, 1);
    open(nodes.mqtt(2), V5).publish(&topic, "x", 1);
    assert_eq!(first.message().text(), "x");
    let mut second = open(nodes.mqtt(EDGE), V5);
    second.subscribe(&filter, 1);
    first.hang_up();
    assert_eq!(second.take().text(), "x");
}

/// Takes what comes to these clients until `count` messages came, and whatever else is there then.
fn gather(clients: &mut [Client], count: usize) -> Vec<Vec<String>> {
    let mut got = vec![Vec::new(); clients.len()];
    let deadline = Instant::now() + Duration::from_secs(20);
    while got.iter().map(Vec::len).sum::<usize>() < count {
        assert!(Instant::now() < deadline, "{count} messages expected, these came: {got:?}");
        for (client, got) in clients.iter_mut().zip(&mut got) {
            client.ping_past(|message| {
                got.push(message.text());
                true
            });
        }
    }
    got
}

// Section 3.1.2.5: a server that dies counts as a connection that is lost.
#[test]
fn a_will_is_published_when_its_edge_is_killed() {
    let nodes = nodes();
    let mut alone = nodes.alone();
    let topic = unique("will");
    let mut subscriber = open(nodes.mqtt(1), V5);
    subscriber.subscribe(&topic, 2);
    let mut dying = Vec::new();
    for version in BOTH {
        let plain = Connect::new(version, &unique("dying"));
        for connect in [plain.clone(), plain.resume()] {
            let will = Will::new(&topic, "gone").qos(1);
            dying.push(insist(nodes.mqtt(EDGE), &connect.will(will)).0);
        }
    }
    alone.kill(EDGE);
    for _ in 0..4 {
        assert_eq!(eventually(&mut subscriber, EDGE_LOST_LIMIT).text(), "gone");
    }
}

// [MQTT-4.3.3-10], [MQTT-4.4.0-1]: exactly once, through the loss of the node that held the connection.
#[test]
fn qos_2_delivers_exactly_once_through_the_kill_of_an_edge() {
    let nodes = nodes();
    let mut alone = nodes.alone();
    for version in BOTH {
        let topic = unique("once");
        let mut subscriber = lasting(nodes.mqtt(EDGE), version);
        let id = subscriber.id.clone();
        subscriber.subscribe(&topic, 2);
        let mut publisher = lasting(nodes.mqtt(EDGE), version);
        let publisher_id = publisher.id.clone();
        for (packet, text) in [(1, "sent"), (2, "received"), (3, "released")] {
            publisher.send(&Publish::new(&topic, text).qos(2, packet).bytes(version));
            publisher.ack(PUBREC, packet);
        }
        publisher.send(&build::ack(PUBREL, 3));
        publisher.ack(PUBCOMP, 3);
        let first: Vec<_> = (0..3).map(|_| subscriber.message()).collect();
        subscriber.send(&build::ack(PUBREC, first[1].id));
        subscriber.ack(PUBREL, first[1].id);
        subscriber.acknowledge(&first[2]);
        subscriber.ping();
        alone.kill(EDGE);

        // The publisher does not know whether its messages arrived: both are sent again, with DUP.
        let (mut publisher, present) = insist(nodes.mqtt(1), &Connect::new(version, &publisher_id).resume());
        assert!(present);
        for (packet, text) in [(1, "sent"), (2, "received")] {
            publisher.send(&Publish::new(&topic, text).qos(2, packet).dup().bytes(version));
            publisher.ack(PUBREC, packet);
            publisher.send(&build::ack(PUBREL, packet));
            assert_eq!(publisher.ack(PUBCOMP, packet).reason, 0);
        }
        publisher.publish(&topic, "fence", 2);

        let (mut subscriber, present) = insist(nodes.mqtt(2), &Connect::new(version, &id).resume());
        assert!(present);
        let (mut texts, mut released) = (Vec::<(String, u16, bool)>::new(), Vec::new());
        while texts.last().is_none_or(|(text, ..)| text != "fence") {
            match subscriber.receive() {
                Packet::Publish(message) => {
                    subscriber.send(&build::ack(PUBREC, message.id));
                    texts.push((message.text(), message.id, message.dup));
                }
                Packet::Ack(ack) if ack.kind == PUBREL => {
                    subscriber.send(&build::ack(PUBCOMP, ack.id));
                    released.push(ack.id);
                }
                other => panic!("{other:?}"),
            }
        }
        // What had its PUBREC is released, and never published again. The last one may be released again: its PUBCOMP
        // was not on record yet.
        assert_eq!(texts[0], ("sent".to_owned(), first[0].id, true));
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(released.contains(&first[1].id), "{released:?}");
        alone.heal();
    }
}

// DESIGN: nothing acknowledged is lost with an edge.
#[test]
fn qos_1_messages_survive_the_kill_of_an_edge() {
    let nodes = nodes();
    let mut alone = nodes.alone();
    let topic = unique("survive");
    let mut subscriber = lasting(nodes.mqtt(EDGE), V5);
    let id = subscriber.id.clone();
    subscriber.subscribe(&topic, 1);
    let mut publisher = open(nodes.mqtt(EDGE), V5);
    for n in 0..20 {
        publisher.publish(&topic, &n.to_string(), 1);
    }
    assert_eq!(subscriber.take().text(), "0");
    alone.kill(EDGE);
    open(nodes.mqtt(1), V5).publish(&topic, "fence", 1);
    let (mut subscriber, present) = insist(nodes.mqtt(2), &Connect::new(V5, &id).resume());
    assert!(present);
    let got: BTreeSet<String> = subscriber.texts_until("fence").into_iter().collect();
    assert!((1..20).all(|n| got.contains(&n.to_string())), "{got:?}");
}

// Sessions, subscriptions and retained messages are the cluster's, not a leader's.
#[test]
fn sessions_and_retained_messages_survive_the_kill_of_the_leader() {
    let nodes = nodes();
    let mut alone = nodes.alone();
    let topic = unique("leader");
    let mut subscriber = lasting(nodes.mqtt(EDGE), V5);
    let id = subscriber.id.clone();
    subscriber.subscribe(&topic, 2);
    open(nodes.mqtt(EDGE), V5).retain(&topic, "kept", 1);
    assert_eq!(subscriber.take().text(), "kept");
    // Whichever leads: two of them are killed, one after the other, and the leader was one of any two of three at
    // least with the next election.
    for victim in [1, 2] {
        alone.kill(victim);
        let (mut publisher, _) = insist(nodes.mqtt(EDGE), &Connect::new(V5, &unique("publisher")));
        publisher.publish(&topic, &format!("after {victim}"), 2);
        alone.heal();
    }
    let mut subscriber = insist(nodes.mqtt(3), &Connect::new(V5, &id).resume()).0;
    let (mut later, _) = insist(nodes.mqtt(3), &Connect::new(V5, &unique("later")));
    later.subscribe(&topic, 1);
    assert_eq!(later.take().text(), "kept");
    let mut publisher = open(nodes.mqtt(1), V5);
    publisher.publish(&topic, "fence", 2);
    let got = subscriber.texts_until("fence");
    assert!(got.contains(&"after 1".to_owned()) && got.contains(&"after 2".to_owned()), "{got:?}");
    publisher.retain(&topic, "", 1);
}

// Section 3.2.2.2: 0x88, in MQTT 3.1.1 return code 3.
#[test]
fn connect_without_a_leader_is_refused_as_server_unavailable_in_bounded_time() {
    let nodes = nodes();
    let mut alone = nodes.alone();
    // Of three, one is no majority.
    alone.pause(1);
    alone.pause(2);
    for (version, code) in [(V311, 3), (V5, 0x88)] {
        for node in [3, EDGE] {
            let deadline = Instant::now() + Duration::from_secs(30);
            loop {
                let start = Instant::now();
                let mut client = Client::dial(nodes.mqtt(node), version);
                client.send(&Connect::new(version, &unique("c")).resume().bytes());
                let limit = Duration::from_secs(15);
                let Some(Packet::Connack(answer)) = client.next(start + limit) else {
                    panic!("node {node} does not answer CONNECT within {limit:?}")
                };
                if answer.reason == code {
                    client.is_closed();
                    break;
                }
                assert_eq!(answer.reason, 0, "refused for another reason");
                assert!(Instant::now() < deadline, "still accepted");
            }
        }
    }
}

// A cluster of its own is one broker for session expiry too.
#[test]
fn a_session_ends_when_its_expiry_passes_on_whatever_node() {
    let nodes = nodes();
    let _steady = nodes.steady();
    let id = unique("expires");
    let connect =
        Connect { clean: false, ..Connect::new(V5, &id) }.with(property::four(id::SESSION_EXPIRY, 1));
    Client::open_with(nodes.mqtt(1), &connect).0.bye();
    std::thread::sleep(Duration::from_millis(3_000));
    let (_, answer) = Client::open_with(nodes.mqtt(2), &connect);
    assert!(!answer.session_present);
    assert_eq!(answer.properties.number(id::ASSIGNED_CLIENT_ID), None);
}
