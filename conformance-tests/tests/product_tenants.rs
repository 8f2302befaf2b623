//! Apps and terminals, as their owners see them: a cluster of real processes, asked through a node that passes every call
//! on, with terminals on others.

use std::{
    fs,
    time::{Duration, Instant},
};

use conformance_tests::{
    V5,
    build::{Connect, Will},
    client::Client,
    nodes::{EDGE, Nodes, nodes},
    unique,
};

const LIMIT: Duration = Duration::from_secs(30);
/// Reason codes of MQTT 5.
const NOT_AUTHORIZED: u8 = 0x87;
const QUOTA_EXCEEDED: u8 = 0x97;
const ADMINISTRATIVE_ACTION: u8 = 0x98;

/// An app of its own, with a token that may do everything in it.
struct App<'a> {
    nodes: &'a Nodes,
    name: String,
    token: String,
}

impl<'a> App<'a> {
    fn new(nodes: &'a Nodes, quotas: &[&str]) -> Self {
        let name = unique("app").to_lowercase();
        nodes.command(&[&["app", "create", &name], quotas].concat());
        let token = nodes.command(&["token", "owner", "--scope", "admin", "--app", &name, "--json"]);
        Self { nodes, token: text(&token, "token"), name }
    }

    fn own<'b>(&'b self, arguments: &[&'b str]) -> Vec<&'b str> {
        [arguments, &["--app", &self.name, "--token", &self.token]].concat()
    }

    fn command(&self, arguments: &[&str]) -> String {
        self.nodes.command(&self.own(arguments))
    }

    fn refused(&self, arguments: &[&str]) -> String {
        self.nodes.refused(&self.own(arguments))
    }

    fn credential(&self, id: &str) -> String {
        text(&self.command(&["terminal", "credential", id, "--json"]), "token")
    }

    fn connect(&self, id: &str) -> Connect {
        self.connect_with(id, &self.credential(id))
    }

    fn connect_with(&self, id: &str, credential: &str) -> Connect {
        Connect {
            user_name: Some(self.name.clone().into_bytes()),
            password: Some(credential.as_bytes().to_vec()),
            ..Connect::new(V5, id)
        }
    }

    fn push(&self, to: &str, topic: &str, payload: &str) -> u64 {
        let push = ["push", "--to", to, "--topic", topic, "--payload", payload, "--json"];
        number(&self.command(&push), "push")
    }

    fn status(&self, push: u64) -> String {
        self.command(&["status", &push.to_string(), "--json"])
    }
}

/// A number in an answer.
fn number(json: &str, name: &str) -> u64 {
    let (_, rest) = json.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {json}"));
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{name} is no number in {json}"))
}

/// What an app has, of an answer that also says how much it may have.
fn has(json: &str, name: &str) -> u64 {
    let (before, quotas) = json.split_once("\"quotas\":{").expect("quotas");
    let (_, after) = quotas.split_once('}').expect("the end of the quotas");
    number(&format!("{before}{after}"), name)
}

/// A string in an answer.
fn text(json: &str, name: &str) -> String {
    let (_, rest) = json.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {json}"));
    rest.split('"').nth(1).unwrap_or_else(|| panic!("{name} is no string in {json}")).to_owned()
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn nothing_of_an_app_is_visible_to_another_over_mqtt_or_grpc() {
    let nodes = nodes();
    let _steady = nodes.steady();
    let (a, b) = (App::new(&nodes, &[]), App::new(&nodes, &[]));
    let open = |app: &App<'_>, id: &str, node| Client::open_with(nodes.mqtt(node), &app.connect(id)).0;
    // The same ids, topics and groups.
    let mut listener = open(&b, "listener", 1);
    listener.subscribe("#", 1);
    let mut member = open(&b, "member", 2);
    member.subscribe("$share/g/news", 1);
    let mut own_member = open(&a, "member", 2);
    own_member.subscribe("$share/g/news", 1);
    let will = Some(Will::new("wills", "will of a").qos(1).retain());
    let dying = Connect { will, ..a.connect("dying") };
    let (dying, _) = Client::open_with(nodes.mqtt(EDGE), &dying);
    let mut witness = open(&a, "witness", 1);
    witness.subscribe("wills", 1);
    let mut publisher = open(&a, "listener", 1);
    publisher.retain("news", "of a", 1);
    assert_eq!(own_member.take().text(), "of a");
    dying.hang_up();
    assert_eq!(witness.take().text(), "will of a");
    let push = a.push("all", "news", "to all of a");
    assert_eq!(publisher.take().text(), "to all of a");

    // What the other app hears is its own, and only that: also what is retained.
    let mut late = open(&b, "late", EDGE);
    late.subscribe("#", 1);
    open(&b, "publisher", 2).publish("news", "of b", 1);
    for hearing in [&mut listener, &mut member, &mut late] {
        assert_eq!(hearing.take().text(), "of b");
    }

    // And over gRPC: neither by number nor by name.
    let id = push.to_string();
    for call in [
        &["status", &id][..],
        &["status", &id, "--terminals", "pending"],
        &["cancel", &id],
        &["explain", &id, "listener"],
        &["push", "--topic", "x", "--payload", "x", "--to", &format!("all and not delivered:{id}")],
        &["terminal", "get", "witness"],
        &["terminal", "subscriptions", "witness"],
        &["terminal", "delete", "witness"],
        &["push", "--topic", "x", "--payload", "x", "--to", "terminal:witness"],
    ] {
        let said = b.refused(call);
        assert!(said.contains("NOT_FOUND"), "{call:?}: {said}");
    }
    let listed = b.command(&["terminal", "list", "--limit", "0", "--json"]);
    assert!(listed.contains("late") && !listed.contains("witness"), "{listed}");
    let meant = b.command(&["terminal", "list", "--where", "all or online", "--json"]);
    assert!(meant.contains("late") && !meant.contains("witness"), "{meant}");
    assert_eq!(b.command(&["app", "list", "--json"]).matches("\"name\"").count(), 1);
    let foreign = nodes.refused(&["status", &id, "--app", &a.name, "--token", &b.token]);
    assert!(foreign.contains("PERMISSION_DENIED"), "{foreign}");
    // A credential of one app is none of the other, under whichever name it comes.
    let stolen = Connect { user_name: Some(b.name.into_bytes()), ..a.connect("listener") };
    assert_eq!(Client::ask(nodes.mqtt(1), &stolen).1.reason, NOT_AUTHORIZED);
    assert_eq!(number(&a.status(push), "audience"), 4);
}

#[test]
fn an_app_has_no_more_than_its_quotas_allow() {
    let nodes = nodes();
    let _steady = nodes.steady();
    let app = App::new(&nodes, &["--terminals", "3", "--connections", "2"]);
    let credentials = ["one", "two", "three"].map(|id| app.credential(id));
    let said = app.refused(&["terminal", "register", "four"]);
    assert!(said.contains("RESOURCE_EXHAUSTED") && said.contains("3 registered"), "{said}");
    let said = app.refused(&["terminal", "credential", "four"]);
    assert!(said.contains("RESOURCE_EXHAUSTED"), "{said}");
    let get = || nodes.command(&["app", "get", &app.name, "--json"]);
    assert_eq!(has(&get(), "terminals"), 3);

    // Wherever they are.
    let connect = |n: usize, id: &str| app.connect_with(id, &credentials[n]);
    let (mut one, _) = Client::open_with(nodes.mqtt(1), &connect(0, "one"));
    let (_two, _) = Client::open_with(nodes.mqtt(EDGE), &connect(1, "two"));
    assert_eq!(Client::ask(nodes.mqtt(2), &connect(2, "three")).1.reason, QUOTA_EXCEEDED);
    assert_eq!(has(&get(), "connections"), 2);
    nodes.command(&["app", "update", &app.name, "--connections", "3"]);
    let (mut three, _) = Client::open_with(nodes.mqtt(2), &connect(2, "three"));

    // Messages count until they are purged, and retained ones as long as they are.
    nodes.command(&["app", "update", &app.name, "--stored-bytes", "1000"]);
    let large = "x".repeat(600);
    app.push("all", "news", &large);
    let said = app.refused(&["push", "--to", "all", "--topic", "news", "--payload", &large]);
    assert!(said.contains("RESOURCE_EXHAUSTED") && said.contains("1000 bytes"), "{said}");
    assert_eq!(one.take().text(), large);
    assert_eq!(one.retain("news", &large, 1), QUOTA_EXCEEDED);
    nodes.command(&["app", "update", &app.name, "--stored-bytes", "0"]);
    assert_eq!(one.retain("news", &large, 1) & 0x80, 0);

    // However they are pushed.
    nodes.command(&["app", "update", &app.name, "--pushes-per-s", "1", "--pushes-burst", "5"]);
    assert_eq!(three.take().text(), large);
    let reasons: Vec<u8> = (0..12).map(|_| three.publish("news", "fast", 1)).collect();
    let accepted = reasons.iter().filter(|reason| **reason & 0x80 == 0).count();
    assert!((5..9).contains(&accepted) && reasons.contains(&QUOTA_EXCEEDED), "{reasons:?}");
    let said = app.refused(&["push", "--to", "all", "--topic", "news", "--payload", "x"]);
    assert!(said.contains("RESOURCE_EXHAUSTED") && said.contains("try again in"), "{said}");
}

#[test]
fn a_deleted_app_is_gone_at_once_and_its_name_is_free_when_everything_of_it_is_removed() {
    let nodes = nodes();
    let _steady = nodes.steady();
    let app = App::new(&nodes, &[]);
    let other = App::new(&nodes, &[]);
    let credential = app.credential("tv");
    let (mut tv, _) = Client::open_with(nodes.mqtt(EDGE), &app.connect_with("tv", &credential).resume());
    tv.subscribe("news", 1);
    let (mut stays, _) = Client::open_with(nodes.mqtt(EDGE), &other.connect("tv"));
    app.push("all", "news", "hello");
    assert_eq!(tv.take().text(), "hello");
    tv.retain("kept", "message", 1);
    let before = number(&nodes.command(&["app", "get", &app.name, "--json"]), "id");
    let said = nodes.refused(&["app", "delete", &app.name, "--confirm", "something"]);
    assert!(said.contains("INVALID_ARGUMENT"), "{said}");
    let said = nodes.refused(&["app", "delete", "default", "--confirm", "default"]);
    assert!(said.contains("FAILED_PRECONDITION"), "{said}");
    let said = app.refused(&["app", "delete", &app.name, "--confirm", &app.name]);
    assert!(said.contains("PERMISSION_DENIED"), "{said}");

    nodes.command(&["app", "delete", &app.name, "--confirm", &app.name]);
    assert!(nodes.refused(&["app", "get", &app.name]).contains("NOT_FOUND"));
    assert!(app.refused(&["terminal", "list"]).contains("UNAUTHENTICATED"));
    let push = ["push", "--to", "all", "--topic", "x", "--payload", "x", "--app", &app.name];
    assert!(nodes.refused(&push).contains("NOT_FOUND"));
    tv.is_thrown_out(&[NOT_AUTHORIZED, ADMINISTRATIVE_ACTION]);
    let again = Client::ask(nodes.mqtt(1), &app.connect_with("tv", &credential)).1;
    assert_eq!(again.reason, NOT_AUTHORIZED);
    stays.ping();

    eventually("the name is free", || {
        let answer = nodes.run(&["app", "create", &app.name, "--json"]);
        assert!(
            answer.status.success()
                || String::from_utf8_lossy(&answer.stderr).contains("FAILED_PRECONDITION")
        );
        answer.status.success()
    });
    let after = nodes.command(&["app", "get", &app.name, "--json"]);
    assert!(number(&after, "id") > before, "{after}");
    assert_eq!((has(&after, "terminals"), has(&after, "stored_bytes")), (0, 0));
    assert!(app.refused(&["terminal", "list"]).contains("UNAUTHENTICATED"), "a token of the app before it");
    let again = Client::ask(nodes.mqtt(1), &app.connect_with("tv", &credential)).1;
    assert_eq!(again.reason, NOT_AUTHORIZED);
}

#[test]
fn terminals_come_by_the_thousand_and_are_changed_listed_and_deleted_by_expression() {
    let nodes = nodes();
    let _steady = nodes.steady();
    let app = App::new(&nodes, &["--terminals", "12001"]);
    let file = std::env::temp_dir().join(unique("terminals"));
    let line = |n: u32| match n % 2 {
        0 => format!("t{n:05} os=tv floor={}\n", n % 10),
        _ => format!(
            "{{\"id\": \"t{n:05}\", \"tags\": {{\"os\": \"phone\"}}, \"alias\": \"user {}\"}}\n",
            n % 7
        ),
    };
    fs::write(&file, (0..12_000).map(line).collect::<String>()).expect("a file");
    let from_file = ["terminal", "register", "--from-file", &file.to_string_lossy(), "--json"];
    let answer = app.command(&from_file);
    assert_eq!((number(&answer, "registered"), number(&answer, "updated")), (12_000, 0));
    // More than the quota: all of it that fits in whole commands, and where it stopped.
    fs::write(&file, (0..20_000).map(line).collect::<String>()).expect("a file");
    let said = app.refused(&from_file);
    assert!(
        said.contains("stopped at terminal 10001 of 20000") && said.contains("RESOURCE_EXHAUSTED"),
        "{said}"
    );
    fs::write(&file, "t1\nt 2\n").expect("a file");
    assert!(app.refused(&from_file).contains("line 2"));
    fs::remove_file(&file).expect("a file");

    let update = |meant: &str, change: &[&str]| {
        let answer = app.command(&[&["terminal", "update", "--where", meant, "--json"], change].concat());
        number(&answer, "changed")
    };
    assert_eq!(
        update("tag:os=tv and not tag:floor=0", &["--tag", "lobby=no", "--remove-tag", "floor"]),
        4_800
    );
    assert_eq!(update("tag:os=tv and not tag:floor=0", &["--tag", "lobby=no", "--remove-tag", "floor"]), 0);
    assert_eq!(update("alias:\"user 3\"", &["--alias", ""]), 857);
    let list = |meant: &str, more: &[&str]| {
        app.command(&[&["terminal", "list", "--where", meant, "--json"], more].concat())
    };
    assert_eq!(list("tag:lobby=no", &["--limit", "0"]).matches("\"id\"").count(), 4_800);
    let page = list("tag:lobby=no", &["--limit", "2", "--after", "t00002"]);
    assert!(
        page.contains("t00004") && page.contains("t00006") && page.matches("\"id\"").count() == 2,
        "{page}"
    );
    assert!(app.refused(&["terminal", "list", "--where", "topic"]).contains("INVALID_ARGUMENT"));
    assert_eq!(list("not seen:90d", &[]).matches("\"id\"").count(), 0, "all were registered today");

    // One is connected and has a push in flight, one is not.
    let credential = app.credential("t00000");
    let (mut tv, _) = Client::open_with(nodes.mqtt(EDGE), &app.connect_with("t00000", &credential).resume());
    let small = app.push("terminal:t00000,t00001,t00002", "news", "few");
    let broad = app.push("seen:1d and not tag:os=phone", "news", "many");
    assert_eq!((tv.message().text(), tv.message().text()), ("few".to_owned(), "many".to_owned()));
    let seen = app.command(&["terminal", "get", "t00000", "--json"]);
    let before = number(&seen, "no");
    assert_eq!(text(&seen, "last_seen").len(), "2026-11-25".len());
    assert!(app.refused(&["terminal", "delete", "t00000", "nobody"]).contains("NOT_FOUND"));
    let preview = app.command(&["terminal", "delete", "--where", "tag:os=tv", "--json"]);
    assert_eq!(number(&preview, "meant"), 6_000);
    let answer = app.command(&["terminal", "delete", "--where", "tag:os=tv and seen:1d", "--yes", "--json"]);
    assert_eq!(number(&answer, "deleted"), 6_000);
    let answer = app.command(&["terminal", "delete", "--where", "tag:os=tv", "--yes", "--json"]);
    assert_eq!(number(&answer, "deleted"), 0, "nobody is no error");
    tv.ends(&[ADMINISTRATIVE_ACTION]);
    let said = app.status(small);
    assert_eq!((number(&said, "dropped"), number(&said, "pending")), (2, 1));
    let said = app.status(broad);
    assert_eq!((number(&said, "terminal-deleted"), number(&said, "pending")), (6_000, 0));
    let answer = app.command(&["terminal", "list", "--limit", "0", "--json"]);
    assert_eq!(answer.matches("\"id\"").count(), 6_000);

    // The id may come back; its number and its credential do not.
    app.command(&["terminal", "register", "t00000"]);
    let after = number(&app.command(&["terminal", "get", "t00000", "--json"]), "no");
    assert!(after > before);
    let old = Client::ask(nodes.mqtt(1), &app.connect_with("t00000", &credential)).1;
    assert_eq!(old.reason, NOT_AUTHORIZED);
    let fresh = Client::ask(nodes.mqtt(1), &app.connect("t00000").resume()).1;
    assert_eq!((fresh.reason, fresh.session_present), (0, false));
    assert_eq!(has(&nodes.command(&["app", "get", &app.name, "--json"]), "terminals"), 6_001);
}
