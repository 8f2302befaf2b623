//! What can be typed, and what cannot.

use clap::{CommandFactory as _, Parser as _};

use super::args::{Cli, ClusterCommand, Command, NodeSpec, TerminalCommand};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_documented_command_is_accepted() {
    for line in [
        "carillon dev",
        "carillon dev --data-dir d --mqtt 127.0.0.1:1 --ws 127.0.0.1:5 --api 127.0.0.1:2 --http 127.0.0.1:3 --link 127.0.0.1:4 --anonymous",
        "carillon node --config carillon.toml",
        "carillon config check",
        "carillon config check --config c.toml",
        "carillon config print --config c.toml",
        "carillon config example",
        "carillon cluster init --api a:1,b:1 --ca ca.pem --cert o.pem --key o.key --token-out t",
        "carillon cluster init --node id=1,link=a:1,api=a:2,mqtt=a:3 --node id=2,link=b:1,api=b:2 --ca c --cert o --key k",
        "carillon cluster status --json",
        "carillon cluster status --local",
        "carillon cluster add --node id=4,link=d:1,api=d:2",
        "carillon cluster promote 4",
        "carillon cluster remove 1",
        "carillon cluster transfer-leader",
        "carillon cluster transfer-leader 2",
        "carillon terminal register tv-1 --tag kind=tv --tag room=1",
        "carillon terminal get tv-1 --json",
        "carillon terminal list --after tv-1 --limit 0",
        "carillon terminal subscriptions tv-1",
        "carillon terminal kick tv-1",
        "carillon terminal revoke tv-1",
        "carillon terminal credential tv-1 --ttl 24h",
        "carillon terminal credential --from-file ids --out credentials",
        "carillon push --to all --topic news",
        "carillon push --to terminal:a,b --topic news --qos 2 --ttl 1h --payload hi --app shop --api a:1 --token t --json",
        "carillon push --to topic --topic news --payload-file - --idempotency-key k",
        "carillon push --to all --topic news --urgent --collapse-key score --response-topic answers --content-type a/b",
        "carillon push --batch pushes.jsonl --json",
        "carillon status 7",
        "carillon status 7 --watch",
        "carillon status 7 --terminals dropped --json",
        "carillon explain 7 tv-1",
        "carillon cancel 7",
        "carillon cancel 7 --wait",
        "carillon app create shop",
        "carillon app list",
        "carillon token back-end --scope push --scope terminals --ttl 30d",
        "carillon certs authority --out d",
        "carillon certs node --ca d --id 1 --roles control,edge --host a.example --out n",
        "carillon certs operator --ca d --out d",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_usage_ends_with_status_2() {
    for line in [
        "carillon push --batch pushes.jsonl --at 2026-12-24T18:00:00Z",
        "carillon push --batch pushes.jsonl --stages 50%,100%",
        "carillon push --to all --topic news --halt",
        "carillon",
        "carillon push --to all",
        "carillon push --to everyone --topic news",
        "carillon push --to terminal:a,,b --topic news",
        "carillon push --to all --topic news --qos 3",
        "carillon push --to all --topic news --ttl 5",
        "carillon push --to all --topic news --payload a --payload-file b",
        "carillon status",
        "carillon status 7 --watch --terminals pending",
        "carillon status 7 --terminals lost",
        "carillon terminal credential",
        "carillon terminal credential tv-1 --from-file ids --out o",
        "carillon terminal credential --from-file ids",
        "carillon terminal register tv-1 --tag kind",
        "carillon cluster add --node id=4,link=d:1",
        "carillon cluster add --node id=four,link=d:1,api=d:2",
        "carillon token t --scope god",
        "carillon certs node --ca d --id 0 --out n",
        "carillon certs node --ca d --id 1 --roles captain --out n",
        "carillon cluster status --cert o.pem",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn a_node_is_read_in_any_order() {
    let expected = NodeSpec { id: 4, link: "d:1".into(), api: "d:2".into(), mqtt: String::new() };
    let cli = parse("carillon cluster add --node api=d:2,id=4,link=d:1").expect("valid");
    assert!(
        matches!(cli.command, Command::Cluster { command: ClusterCommand::Add { node }, .. } if node == expected)
    );
}

#[test]
fn options_of_a_cluster_may_stand_anywhere_in_its_command() {
    let cli = parse("carillon terminal --app shop list --api a:1").expect("valid");
    let Command::Terminal { shared, command: TerminalCommand::List { .. } } = cli.command else {
        panic!("not a list");
    };
    assert_eq!((shared.app.as_str(), shared.api.as_str()), ("shop", "a:1"));
}
