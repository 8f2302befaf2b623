//! Clients that have to be installed first (`scripts/setup.sh --interop`): `make interop` runs these.

use chaos_tests::cluster::Doors;
use conformance_tests::{
    nodes::Nodes,
    programs::{installed, passes, script},
};

const PLAIN: [&str; 4] = ["qos_both_ways", "retained", "will", "session"];
const V5: [&str; 6] = ["qos_both_ways", "retained", "will", "session", "shared", "properties"];

/// Three nodes that take terminals over TCP and WebSocket.
fn cluster() -> Nodes {
    Nodes::start(Doors { anonymous: true, websocket: true })
}

fn arguments(script_name: &str, options: &[&str], nodes: &Nodes, ws: bool) -> Vec<String> {
    let mut arguments = vec![script(script_name).display().to_string()];
    arguments.extend(options.iter().map(|option| (*option).to_owned()));
    arguments.extend((1..=3).map(|id| if ws { nodes.ws(id) } else { nodes.mqtt(id) }.to_string()));
    arguments
}

#[test]
#[ignore = "needs scripts/setup.sh --interop: make interop"]
fn paho_mqtt_works() {
    let nodes = cluster();
    let python = installed().join("venv/bin/python");
    for (transport, ws) in [("tcp", false), ("websockets", true)] {
        passes(&python, &arguments("paho_checks.py", &["3.1.1", transport], &nodes, ws), &PLAIN);
        passes(&python, &arguments("paho_checks.py", &["5", transport], &nodes, ws), &V5);
    }
    passes(&python, &arguments("paho_checks.py", &["3.1", "tcp"], &nodes, false), &PLAIN);
}

#[test]
#[ignore = "needs scripts/setup.sh --interop: make interop"]
fn gmqtt_works() {
    let nodes = cluster();
    let python = installed().join("venv/bin/python");
    passes(&python, &arguments("gmqtt_checks.py", &[], &nodes, false), &V5[..5]);
}

#[test]
#[ignore = "needs scripts/setup.sh --interop: make interop"]
fn mqtt_js_works() {
    let nodes = cluster();
    // Started through env, which finds node and tells it where its packages are.
    let env = std::path::Path::new("/usr/bin/env");
    let packages = installed().join("node/node_modules");
    assert!(packages.join("mqtt").is_dir(), "MQTT.js is not installed: run scripts/setup.sh --interop");
    for (transport, ws) in [("tcp", false), ("ws", true)] {
        for (version, checks) in [("3.1.1", &PLAIN[..]), ("5", &V5[..])] {
            let mut all = vec![format!("NODE_PATH={}", packages.display()), "node".to_owned()];
            all.extend(arguments("mqttjs_checks.js", &[version, transport], &nodes, ws));
            passes(env, &all, checks);
        }
    }
}
