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
    cluster.advertise_mqtt: "Where terminals are told to connect to, host:port: mqtt.address, or else the first of the other listeners.";

    link.address: "UDP: the link between edges and the leader, and Raft between control nodes (QUIC).";

    api.address: "gRPC.";
    api.tls_cert: "Certificate chain (PEM) that clients see. Empty: the node's own, tls.cert.";
    api.tls_key: "Its key (PEM).";

    mqtt.address: "MQTT 3.1, 3.1.1 and 5.0 over TCP. Credentials travel in clear: for trusted networks. Empty: off.";
    mqtt.tls_address: "MQTT over TLS, usually :8883. Empty: off.";
    mqtt.ws_address: "MQTT over WebSocket, path /mqtt, usually :8083; in clear, as over TCP. Empty: off.";
    mqtt.wss_address: "MQTT over WebSocket over TLS, path /mqtt, usually :8084. Empty: off.";
    mqtt.tls_cert: "Certificate chain (PEM) that terminals see. Empty: the node's own, tls.cert. SIGHUP reads all certificates again.";
    mqtt.tls_key: "Its key (PEM).";
    mqtt.tls_certs_by_name: "More certificates, each \"CERT.pem:KEY.pem\", for terminals that ask for one of their names (SNI).";
    mqtt.tls_client_ca: "Authorities (PEM) of the certificates that terminals show. Empty: they are asked for none.";
    mqtt.tls_client_auth: "With tls_client_ca: \"required\" refuses terminals without a certificate, \"optional\" those with a bad one.";
    mqtt.tls_client_identity: "\"none\": a client certificate lets nobody in by itself. \"common-name\": it does, as the terminal of that name in the app `default`.";
    mqtt.proxy_protocol: "Listeners behind a proxy that sends the PROXY protocol (v1 or v2): true, false, or some of [\"tcp\", \"tls\", \"ws\", \"wss\"].";
    mqtt.anonymous: "Let clients in without credentials. For trials only.";
    mqtt.anonymous_sys: "Let clients without credentials read $SYS topics.";
    mqtt.shards: "Threads that serve terminals. 0: one per core.";
    mqtt.connections_max: "Most connections at a time; more are closed at once. Keep it below the file limit (ulimit -n).";
    mqtt.connections_per_app: "Most connections of one app on this node. 0: any number.";
    mqtt.connections_per_address: "Most connections from one address (IPv6: /64 network). This machine's own have no such limit. 0: any number.";
    mqtt.connect_rate: "New connections per second and listener, after a burst of as many; more are closed before TLS. 0: any number.";
    mqtt.connect_rate_per_address: "The same from one address (IPv6: /64 network). This machine's own have no such limit. 0: any number.";
    mqtt.handshakes_max: "Connections per listener within PROXY header, TLS or WebSocket handshake; more are closed at once.";
    mqtt.connect_timeout: "How long a connection may take until its CONNECT is complete, handshakes included.";
    mqtt.keep_alive_max: "Longest keep alive; MQTT 5 terminals are told. 0s: any.";
    mqtt.packet_size_max: "Largest MQTT packet a terminal may send.";
    mqtt.publish_rate: "PUBLISH packets per second of one connection; beyond, it is read more slowly. 0: any number.";
    mqtt.publish_bytes_rate: "Bytes of these per second. 0B: any number.";
    mqtt.receive_max: "PUBLISH packets of QoS 1 and 2 a terminal may have under way.";
    mqtt.inflight_max: "Pushes on their way to one terminal and not acknowledged.";
    mqtt.topic_alias_max: "Topic aliases of one connection, in each direction. 0: none.";
    mqtt.subscriptions_per_session: "Most subscriptions of one session.";
    mqtt.session_expiry_max: "Longest time a session outlives its connection.";
    mqtt.retained_max: "Most retained messages of one app. The same on every control node.";
    mqtt.retained_bytes_max: "Most bytes of these. The same on every control node.";
    mqtt.response_information: "What MQTT 5 terminals that ask for response information are told: the start of their response topics. Empty: nothing.";
    mqtt.sys_interval: "How often $SYS topics are published. 0s: never.";

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

    receipts.retention: "How long the deltas of receipt streams are kept.";
    receipts.bytes_max: "Most bytes of these for one app; beyond, the oldest are removed.";

    webhook.ca: "Authorities (PEM) of receivers, beside those of the system. Empty: none.";
    webhook.allow_http: "Let webhooks be posted to without TLS, to other machines too.";
    webhook.timeout: "How long a receiver may take to answer.";
    webhook.retry_min: "Pause before a failed post is tried again; it doubles with every failure.";
    webhook.retry_max: "The longest pause.";

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
