//! Every setting there is, once: its key, what it means, and where it lives in [`Config`]. The defaults are
//! [`Config::default`]; the example file and the table in the docs are made from both.

use super::{
    Config,
    value::{Raw, Value},
};

/// One setting.
pub(super) struct Setting {
    /// `section.key`.
    pub key: &'static str,
    /// For the example file.
    pub doc: &'static str,
    pub set: fn(&mut Config, &Raw) -> Result<(), String>,
    pub get: fn(&Config) -> String,
}

macro_rules! settings {
    ($($section:ident.$field:ident: $doc:literal;)*) => {
        /// In the order of the example file.
        pub(super) static SETTINGS: &[Setting] = &[$(
            Setting {
                key: concat!(stringify!($section), ".", stringify!($field)),
                doc: $doc,
                set: |config, raw| {
                    config.$section.$field = Value::read(raw)?;
                    Ok(())
                },
                get: |config| config.$section.$field.print(),
            },
        )*];
    };
}

settings! {
    node.id: "Number of this node, from 1; never reused for another machine. Required.";
    node.roles: "What it does: \"control\" keeps the log and the tables, \"edge\" serves MQTT terminals.";
    node.data_dir: "Where the log and the tables live. One node per directory.";

    cluster.name: "Told in logs and in `cluster status`.";
    cluster.seeds: "Link addresses (host:port) of control nodes, for edges to find the leader. A control node needs none.";
    cluster.control_api: "gRPC addresses of control nodes: where a node without the control role passes calls on to.";
    cluster.advertise_link: "Where other nodes reach link.address, host:port. Needed when that is 0.0.0.0.";
    cluster.advertise_api: "Where other nodes and clients reach api.address, host:port.";
    cluster.advertise_mqtt: "Where terminals are told to connect to, host:port: mqtt.address, or mqtt.tls_address where that is empty.";

    link.address: "UDP: the link between edges and the leader, and Raft between control nodes (QUIC).";

    api.address: "gRPC.";
    api.tls_cert: "Certificate chain (PEM) that clients see. Empty: the node's own, tls.cert.";
    api.tls_key: "Its key (PEM).";

    mqtt.address: "MQTT 3.1.1 and 5.0 over TCP. Credentials travel in clear: for trusted networks. Empty: off.";
    mqtt.tls_address: "MQTT over TLS, usually :8883. Empty: off.";
    mqtt.tls_cert: "Certificate chain (PEM) that terminals see. Empty: the node's own, tls.cert.";
    mqtt.tls_key: "Its key (PEM).";
    mqtt.anonymous: "Let clients in without credentials. For trials only.";
    mqtt.shards: "Threads that serve terminals. 0: one per core.";
    mqtt.connections_max: "Most connections at a time; more are refused. Keep it below the file limit (ulimit -n).";
    mqtt.connect_timeout: "How long a connection may take to send CONNECT.";
    mqtt.packet_size_max: "Largest MQTT packet a terminal may send.";
    mqtt.session_expiry_max: "Longest time a session outlives its connection.";
    mqtt.inflight_max: "Pushes on their way to one terminal and not acknowledged.";

    http.address: "/livez, /readyz and /metrics.";

    tls.ca: "Authority of the cluster (PEM); `carillon certs authority` makes one. Required for `carillon node`.";
    tls.cert: "Certificate of this node, with its id and roles; `carillon certs node` makes it. Required.";
    tls.key: "Its key. Required.";

    raft.heartbeat: "How often the leader tells that it lives.";
    raft.election_timeout_min: "A follower that hears nothing for a random time between these two stands for election.";
    raft.election_timeout_max: "See election_timeout_min. Time to a new leader is about this plus the random time.";
    raft.snapshot_every: "Log entries between snapshots.";
    raft.log_keep: "Log entries kept behind a snapshot, so that a slow follower needs no snapshot.";

    push.ttl_default: "How long a push stays deliverable if it does not say.";
    push.ttl_max: "The longest a push may ask for.";
    push.owed_per_terminal_max: "Most pushes kept for one terminal; more are settled as dropped(over-quota).";
    push.retention: "How long the status of a settled push is kept.";

    storage.disk_reserve: "New pushes are refused when less is free on the disk of node.data_dir.";
    storage.cache: "Memory for the terminal sets of recent broad pushes.";

    log.level: "error, warn, info, debug, trace, or a filter like \"info,carillon::edge=debug\".";
    log.format: "text, or json for machines.";
}

/// The setting of this key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The section and the name of a key.
pub(super) fn split(key: &str) -> (&str, &str) {
    key.split_once('.').unwrap_or((key, ""))
}
