//! How pushes are handed out, as back-end and terminal see it: batches, properties, priority, collapse keys; over the
//! command line at a node that passes every call on, and over MQTT.

use std::{fs, path::PathBuf, time::Instant};

use conformance_tests::{
    V5, V311,
    build::Connect,
    client::{Client, LIMIT},
    nodes::{EDGE, Nodes, nodes},
    packet::Publish,
    property::{self, Properties as _, id},
    unique,
};

/// One field of an answer in JSON: these tests have no reader of it.
fn number(json: &str, name: &str) -> u64 {
    let from = json.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {json}"));
    let digits = json[from + name.len() + 3..].chars().take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().unwrap_or_else(|_| panic!("{name} of {json}"))
}

fn push(nodes: &Nodes, to: &str, topic: &str, more: &[&str]) -> u64 {
    let to = format!("terminal:{to}");
    let line = [&["push", "--json", "--to", &to, "--topic", topic][..], more].concat();
    number(&nodes.command(&line), "push")
}

fn state(nodes: &Nodes, push: u64, state: &str) -> u64 {
    number(&nodes.command(&["status", "--json", &push.to_string()]), state)
}

fn registered(nodes: &Nodes, kind: &str) -> String {
    let id = unique(kind);
    nodes.command(&["terminal", "register", &id]);
    id
}

fn read(client: &mut Client, count: usize) -> Vec<Publish> {
    (0..count).map(|_| client.take()).collect()
}

fn texts(messages: &[Publish]) -> Vec<String> {
    messages.iter().map(Publish::text).collect()
}

#[test]
fn properties_of_a_push_reach_its_terminal_and_its_key_makes_it_one() {
    let nodes = nodes();
    let _steady = nodes.steady();
    let tv = registered(&nodes, "tv");
    let (mut client, _) = Client::open_with(nodes.mqtt(EDGE), &Connect::new(V5, &tv));
    let key = unique("key");
    let more = [
        "--payload",
        "hi",
        "--content-type",
        "text/plain",
        "--response-topic",
        "answers/tv",
        "--user-property",
        "lang=en",
        "--user-property",
        "lang=de",
        "--idempotency-key",
        &key,
    ];
    let first = push(&nodes, &tv, "news", &more);
    assert_eq!(push(&nodes, &tv, "news", &more), first);
    let message = client.take();
    assert_eq!((message.text(), message.topic.as_str()), ("hi".to_owned(), "news"));
    let properties = &message.properties[..];
    assert_eq!(properties.text(id::CONTENT_TYPE), Some("text/plain"));
    assert_eq!(properties.text(id::RESPONSE_TOPIC), Some("answers/tv"));
    assert_eq!(properties.pairs(), [("lang", "en"), ("lang", "de")]);
    push(&nodes, &tv, "news", &["--payload", "next"]);
    assert_eq!(client.take().text(), "next", "the key made it one");
}

#[test]
fn each_push_of_a_batch_has_an_outcome_of_its_own() {
    let nodes = nodes();
    let _steady = nodes.steady();
    let tv = registered(&nodes, "tv");
    let (mut client, _) = Client::open_with(nodes.mqtt(1), &Connect::new(V311, &tv));
    let line = |n: usize| format!("{{\"to\": \"terminal:{tv}\", \"topic\": \"n\", \"payload\": \"{n}\"}}\n");
    let file = file(&(0..200).map(line).collect::<String>());
    let answers = nodes.command(&["push", "--json", "--batch", file.to_str().expect("utf-8")]);
    fs::remove_file(file).expect("remove");
    let ids: Vec<u64> = answers.lines().map(|line| number(line, "push")).collect();
    assert!(ids.len() == 200 && ids.is_sorted(), "{ids:?}");
    let expected: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(texts(&read(&mut client, 200)), expected, "in the order of the file");
}

fn file(text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(unique("pushes"));
    fs::write(&path, text).expect("write");
    path
}

#[test]
fn an_urgent_push_overtakes_what_waits_for_its_terminal_here_and_in_the_log() {
    let nodes = nodes();
    let _steady = nodes.steady();
    let tv = registered(&nodes, "tv");
    // Owed before it connects: urgent ones first, each priority in its order.
    for n in 1..=3 {
        push(&nodes, &tv, "n", &["--payload", &n.to_string()]);
    }
    for n in 1..=2 {
        push(&nodes, &tv, "n", &["--urgent", "--payload", &format!("urgent {n}")]);
    }
    // It takes one at a time.
    let connect = Connect::new(V5, &tv).with(property::two(id::RECEIVE_MAXIMUM, 1));
    let (mut client, _) = Client::open_with(nodes.mqtt(2), &connect);
    let first = client.message();
    // While the first is not answered, another overtakes the ordinary ones in its queue.
    let last = push(&nodes, &tv, "n", &["--urgent", "--payload", "urgent 3"]);
    let deadline = Instant::now() + LIMIT;
    while !nodes.command(&["explain", "--json", &last.to_string(), &tv]).contains("in-flight") {
        assert!(Instant::now() < deadline, "not handed to its edge");
    }
    client.acknowledge(&first);
    let got = texts(&read(&mut client, 5));
    assert_eq!((first.text().as_str(), got.join(" ")), ("urgent 1", "urgent 2 urgent 3 1 2 3".to_owned()));
}

#[test]
fn of_pushes_with_one_key_a_terminal_that_comes_back_gets_the_newest_only() {
    let nodes = nodes();
    let _steady = nodes.steady();
    let (tv, other) = (registered(&nodes, "tv"), registered(&nodes, "other"));
    let key = unique("score");
    let both = format!("{tv},{other}");
    let first = push(&nodes, &both, "score", &["--collapse-key", &key, "--payload", "0"]);
    let older: Vec<u64> = (1..=3)
        .map(|n| push(&nodes, &tv, "score", &["--collapse-key", &key, "--payload", &n.to_string()]))
        .collect();
    let newest = push(&nodes, &tv, "score", &["--collapse-key", &key, "--payload", "4"]);
    let apart = push(&nodes, &tv, "score", &["--payload", "apart"]);
    let (mut client, _) = Client::open_with(nodes.mqtt(3), &Connect::new(V311, &tv));
    assert_eq!(texts(&read(&mut client, 2)), ["4", "apart"]);
    for push in &older {
        assert_eq!((state(&nodes, *push, "collapsed"), state(&nodes, *push, "pending")), (1, 0));
    }
    assert_eq!((state(&nodes, first, "collapsed"), state(&nodes, first, "pending")), (1, 1));
    let why = nodes.command(&["explain", &older[0].to_string(), &tv]);
    assert!(why.contains("collapsed") && why.contains("took its place"), "{why}");
    for push in [newest, apart] {
        nodes.command(&["cancel", &push.to_string(), "--wait"]);
        assert_eq!(state(&nodes, push, "delivered"), 1);
    }
    // The terminal that was in one audience only still gets the first.
    let (mut client, _) = Client::open_with(nodes.mqtt(1), &Connect::new(V311, &other));
    assert_eq!(client.take().text(), "0");
}
