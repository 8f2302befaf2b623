//! What must hold for a config as a whole, and what to do where it does not.

mod mqtt;

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use cluster_proto::limits;

use super::{Config, Problem};

/// What the config is read for: printing needs less than running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `config print`: the values alone.
    Print,
    /// `node` and `config check`: this machine must be able to run it.
    Run,
}

/// Fewer entries behind a snapshot risk a known failure of the Raft library: a purge that overtakes apply.
const LOG_KEEP_MIN: u64 = 100_000;

pub(super) fn problems(config: &Config, purpose: Purpose) -> Vec<Problem> {
    let mut check = Check(Vec::new());
    check.pushes(config);
    check.raft(config);
    check.receipts(config);
    check.mqtt(&config.mqtt);
    check.certificates(config);
    if purpose == Purpose::Run {
        check.node(config);
        check.addresses(config);
        check.files(config);
    }
    check.0
}

struct Check(Vec<Problem>);

impl Check {
    fn that(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Problem::new(problem()));
        }
    }

    fn node(&mut self, config: &Config) {
        self.that(config.node.id != 0, || {
            "`node.id` is missing: give every node a number of its own, from 1".to_owned()
        });
        let roles = config.node.roles;
        self.that(roles.control || roles.edge, || {
            "`node.roles` is empty: name \"control\", \"edge\" or both".to_owned()
        });
        self.that(roles.control || !config.cluster.seeds.is_empty(), || {
            "`cluster.seeds` is empty: a node without the control role needs link addresses of control nodes"
                .to_owned()
        });
    }

    fn pushes(&mut self, config: &Config) {
        let push = &config.push;
        self.that(push.ttl_max <= limits::PUSH_TTL_MAX, || {
            format!("`push.ttl_max` is too long: the most is {}d", limits::PUSH_TTL_MAX.as_secs() / 86_400)
        });
        self.that(push.ttl_default <= push.ttl_max, || {
            "`push.ttl_default` is longer than `push.ttl_max`: lower one or raise the other".to_owned()
        });
        self.that(!push.ttl_default.is_zero(), || {
            "`push.ttl_default` is zero: nothing could be delivered".to_owned()
        });
        self.that((1..=limits::OWED_PER_TERMINAL_MAX).contains(&push.owed_per_terminal_max), || {
            format!("`push.owed_per_terminal_max` must be 1 to {}", limits::OWED_PER_TERMINAL_MAX)
        });
        self.that(push.retention >= Duration::from_secs(1), || {
            "`push.retention` must be at least 1s".to_owned()
        });
    }

    fn receipts(&mut self, config: &Config) {
        let (receipts, webhook) = (&config.receipts, &config.webhook);
        self.that(receipts.retention >= Duration::from_secs(1), || {
            "`receipts.retention` must be at least 1s".to_owned()
        });
        self.that(receipts.bytes_max.0 >= 1024 * 1024, || {
            "`receipts.bytes_max` must be at least 1MB".to_owned()
        });
        self.that(!webhook.timeout.is_zero() && webhook.timeout <= Duration::from_secs(300), || {
            "`webhook.timeout` must be more than 0s, and at most 5m".to_owned()
        });
        self.that(webhook.retry_min >= Duration::from_millis(10), || {
            "`webhook.retry_min` must be at least 10ms".to_owned()
        });
        self.that(webhook.retry_min <= webhook.retry_max, || {
            "`webhook.retry_min` is longer than `webhook.retry_max`: lower one or raise the other".to_owned()
        });
    }

    fn raft(&mut self, config: &Config) {
        let raft = &config.raft;
        self.that(raft.heartbeat >= Duration::from_millis(10), || {
            "`raft.heartbeat` must be at least 10ms".to_owned()
        });
        self.that(raft.election_timeout_min >= raft.heartbeat * 2, || {
            "`raft.election_timeout_min` must be at least twice `raft.heartbeat`, or one lost heartbeat ends a leader"
                .to_owned()
        });
        self.that(raft.election_timeout_min < raft.election_timeout_max, || {
            "`raft.election_timeout_min` must be below `raft.election_timeout_max`, or votes split".to_owned()
        });
        self.that(raft.log_keep >= LOG_KEEP_MIN, || {
            format!("`raft.log_keep` must be at least {LOG_KEEP_MIN}")
        });
        self.that(raft.snapshot_every >= 1_000, || "`raft.snapshot_every` must be at least 1000".to_owned());
    }

    fn addresses(&mut self, config: &Config) {
        self.listeners(config);
        let unspecified = |address: SocketAddr| address.ip().is_unspecified();
        let needed = |name: &str, listener: &str, address: SocketAddr| {
            format!(
                "`cluster.advertise_{name}` is missing: `{listener}` is {address}, where others cannot connect to; \
                 say host:port as they see it"
            )
        };
        let cluster = &config.cluster;
        self.that(cluster.advertise_link.is_some() || !unspecified(config.link.address), || {
            needed("link", "link.address", config.link.address)
        });
        self.that(cluster.advertise_api.is_some() || !unspecified(config.api.address), || {
            needed("api", "api.address", config.api.address)
        });
        let Some((listener, mqtt)) = config.mqtt_listener() else { return };
        self.that(cluster.advertise_mqtt.is_some() || !unspecified(mqtt), || needed("mqtt", listener, mqtt));
    }

    /// Two TCP listeners on one port would make the second fail with a puzzling message.
    fn listeners(&mut self, config: &Config) {
        let edge = config.node.roles.edge;
        let own = [("api.address", config.api.address), ("http.address", config.http.address)];
        let all = own.into_iter().chain(config.mqtt.listeners().filter(|_| edge));
        let mut seen: Vec<(&str, SocketAddr)> = Vec::new();
        for (name, address) in all.filter(|(_, address)| address.port() != 0) {
            let same = |other: &SocketAddr| {
                other.port() == address.port()
                    && (other.ip() == address.ip()
                        || other.ip().is_unspecified()
                        || address.ip().is_unspecified())
            };
            let taken = seen.iter().find(|(_, other)| same(other)).map(|(other, _)| *other);
            self.that(taken.is_none(), || {
                format!(
                    "`{name}` and `{}` share port {}: choose another",
                    taken.unwrap_or_default(),
                    address.port()
                )
            });
            seen.push((name, address));
        }
        self.that(!edge || config.mqtt.listeners().next().is_some(), || {
            "`mqtt.address`, `mqtt.tls_address`, `mqtt.ws_address` and `mqtt.wss_address` are all empty: an edge needs one"
                .to_owned()
        });
    }

    fn files(&mut self, config: &Config) {
        let make = "`carillon certs` makes the authority and the certificates";
        for (key, path) in
            [("tls.ca", &config.tls.ca), ("tls.cert", &config.tls.cert), ("tls.key", &config.tls.key)]
        {
            match path {
                None => self.that(false, || format!("`{key}` is missing: {make}")),
                Some(path) => self.readable(key, path),
            }
        }
        let optional: [(&str, &Option<PathBuf>); 6] = [
            ("webhook.ca", &config.webhook.ca),
            ("api.tls_cert", &config.api.tls_cert),
            ("api.tls_key", &config.api.tls_key),
            ("mqtt.tls_cert", &config.mqtt.tls_cert),
            ("mqtt.tls_key", &config.mqtt.tls_key),
            ("mqtt.tls_client_ca", &config.mqtt.tls_client_ca),
        ];
        for (key, path) in optional {
            if let Some(path) = path {
                self.readable(key, path);
            }
        }
        for pair in &config.mqtt.tls_certs_by_name {
            self.readable("mqtt.tls_certs_by_name", &pair.cert);
            self.readable("mqtt.tls_certs_by_name", &pair.key);
        }
    }

    fn readable(&mut self, key: &str, path: &Path) {
        if let Err(error) = File::open(path) {
            self.that(false, || {
                format!(
                    "`{key}`: cannot read {}: {error}; check the path and who may read it",
                    path.display()
                )
            });
        }
    }
}

/// What to do when a listener cannot be opened; the system's own reason is said beside it.
pub fn explain_bind(setting: &str, address: SocketAddr) -> String {
    let tool = if setting.starts_with("link") { "ss -lunp" } else { "ss -ltnp" };
    let low = if address.port() < 1_024 { " (ports below 1024 need CAP_NET_BIND_SERVICE)" } else { "" };
    format!(
        "cannot listen on {address}: stop what has the port (`{tool}` shows it), or choose another `{setting}`{low}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(config: &Config) -> String {
        problems(config, Purpose::Run).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn an_empty_config_says_what_a_node_needs() {
        let told = told(&Config::default());
        for key in
            ["node.id", "tls.ca", "tls.cert", "tls.key", "cluster.advertise_link", "cluster.advertise_mqtt"]
        {
            assert!(told.contains(&format!("`{key}`")), "{key}: {told}");
        }
    }

    #[test]
    fn two_listeners_on_one_port_are_told() {
        let mut config = Config::default();
        config.http.address = "127.0.0.1:1883".parse().expect("address");
        assert!(
            told(&config).contains("`mqtt.address` and `http.address` share port 1883"),
            "{}",
            told(&config)
        );
    }

    #[test]
    fn an_election_shorter_than_heartbeats_is_refused() {
        let mut config = Config::default();
        config.raft.heartbeat = Duration::from_millis(200);
        assert!(told(&config).contains("raft.election_timeout_min"));
    }

    #[test]
    fn a_taken_port_says_what_to_do() {
        let told = explain_bind("mqtt.address", SocketAddr::from(([127, 0, 0, 1], 1883)));
        assert!(told.contains("ss -ltnp") && told.contains("`mqtt.address`"), "{told}");
    }
}
