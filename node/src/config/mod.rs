//! The config of a node: a TOML file, overridden by the environment, checked once at start.
//!
//! ```text
//!  defaults ──► carillon.toml ──► CARILLON_SECTION__KEY ──► validate ──► Config
//! ```
//! [`Config::default`] is the one place of defaults, `options` the one list of settings; a test keeps
//! `docs/carillon.example.toml` equal to both.

mod env;
mod file;
mod mqtt;
mod options;
mod print;
mod suggest;
mod validate;
mod value;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use cluster_proto::{NodeId, limits, link::NodeAddresses};

pub use self::{
    mqtt::{CertificatePair, ClientAuth, ClientIdentity, Mqtt, ProxyProtocol},
    print::{example, print},
    validate::{Purpose, explain_bind},
    value::{ByteSize, parse_duration, print_duration},
};

/// Where `carillon dev` and `carillon node` keep the admin token that they make, inside the data directory.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";
/// Default data directory.
pub const DATA_DIR: &str = "carillon-data";
/// Default MQTT port.
pub const MQTT_PORT: u16 = 1883;
/// Default port of MQTT over WebSocket.
pub const WS_PORT: u16 = 8083;
/// Default gRPC port.
pub const API_PORT: u16 = 7400;
/// Default link port (UDP).
pub const LINK_PORT: u16 = 7401;
/// Default HTTP port.
pub const HTTP_PORT: u16 = 7480;

/// Everything a node is told. What the settings mean stands in `options`.
#[derive(Clone, Debug, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Config {
    pub node: Node,
    pub cluster: Cluster,
    pub link: Link,
    pub api: Api,
    pub mqtt: Mqtt,
    pub http: Http,
    pub tls: Tls,
    pub raft: Raft,
    pub push: Push,
    pub receipts: Receipts,
    pub webhook: Webhook,
    pub storage: Storage,
    pub log: Log,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Node {
    pub id: u64,
    pub roles: Roles,
    pub data_dir: PathBuf,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Roles {
    pub control: bool,
    pub edge: bool,
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Cluster {
    pub name: String,
    pub seeds: Vec<String>,
    pub control_api: Vec<String>,
    pub advertise_link: Option<String>,
    pub advertise_api: Option<String>,
    pub advertise_mqtt: Option<String>,
}

/// `[link]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Link {
    pub address: SocketAddr,
}

/// `[api]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Api {
    pub address: SocketAddr,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
}

/// `[http]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Http {
    pub address: SocketAddr,
}

/// `[tls]`: the identity of the node. Paths.
#[derive(Clone, Debug, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Tls {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// `[raft]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Raft {
    pub heartbeat: Duration,
    pub election_timeout_min: Duration,
    pub election_timeout_max: Duration,
    pub snapshot_every: u64,
    pub log_keep: u64,
}

/// `[push]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Push {
    pub ttl_default: Duration,
    pub ttl_max: Duration,
    pub owed_per_terminal_max: usize,
    pub retention: Duration,
}

/// `[receipts]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Receipts {
    pub retention: Duration,
    pub bytes_max: ByteSize,
}

/// `[webhook]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Webhook {
    pub ca: Option<PathBuf>,
    pub allow_http: bool,
    pub timeout: Duration,
    pub retry_min: Duration,
    pub retry_max: Duration,
}

/// `[storage]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Storage {
    pub disk_reserve: ByteSize,
    pub cache: ByteSize,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

/// A level or filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(pub String);

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// What `carillon dev` may be told.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DevOptions {
    /// Instead of `./carillon-data`.
    pub data_dir: Option<PathBuf>,
    /// MQTT listener.
    pub mqtt: Option<SocketAddr>,
    /// MQTT over WebSocket.
    pub ws: Option<SocketAddr>,
    /// gRPC listener.
    pub api: Option<SocketAddr>,
    /// HTTP listener.
    pub http: Option<SocketAddr>,
    /// Link listener.
    pub link: Option<SocketAddr>,
    /// Let MQTT clients in without credentials.
    pub anonymous: bool,
}

/// Everything that is wrong with a config, at once.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError(Vec<Problem>);

/// One thing that is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(String);

impl Default for Node {
    fn default() -> Self {
        Self { id: 0, roles: Roles { control: true, edge: true }, data_dir: DATA_DIR.into() }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: "carillon".to_owned(),
            seeds: Vec::new(),
            control_api: Vec::new(),
            advertise_link: None,
            advertise_api: None,
            advertise_mqtt: None,
        }
    }
}

impl Default for Link {
    fn default() -> Self {
        Self { address: everywhere(LINK_PORT) }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self { address: everywhere(API_PORT), tls_cert: None, tls_key: None }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { address: everywhere(HTTP_PORT) }
    }
}

impl Default for Raft {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(300),
            election_timeout_max: Duration::from_millis(400),
            snapshot_every: 500_000,
            log_keep: 100_000,
        }
    }
}

impl Default for Push {
    fn default() -> Self {
        Self {
            ttl_default: limits::PUSH_TTL_DEFAULT,
            ttl_max: limits::PUSH_TTL_MAX,
            owed_per_terminal_max: limits::OWED_PER_TERMINAL_MAX,
            retention: Duration::from_secs(7 * 86_400),
        }
    }
}

impl Default for Receipts {
    fn default() -> Self {
        Self { retention: Duration::from_secs(72 * 3_600), bytes_max: ByteSize::mib(1_024) }
    }
}

impl Default for Webhook {
    fn default() -> Self {
        Self {
            ca: None,
            allow_http: false,
            timeout: Duration::from_secs(10),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(300),
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self { disk_reserve: ByteSize::mib(512), cache: ByteSize::mib(64) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel("info".to_owned()), format: LogFormat::Text }
    }
}

impl Config {
    /// Reads, overrides and checks the config for `purpose`; `path` absent: defaults and environment only.
    pub fn load(
        path: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
        purpose: Purpose,
    ) -> Result<Self, ConfigError> {
        let text = match path {
            Some(path) => Some((path, std::fs::read_to_string(path).map_err(|e| cannot_read(path, &e))?)),
            None => None,
        };
        let mut found = match &text {
            Some((path, text)) => file::settings(path, text).map_err(|problem| ConfigError(vec![problem]))?,
            None => Vec::new(),
        };
        found.extend(env::settings(variables));
        let config = Self::from_settings(&found)?;
        let problems = validate::problems(&config, purpose);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }

    /// The config of `carillon dev`: node 1 with both roles, reachable from this machine only unless told otherwise.
    pub fn dev(options: &DevOptions) -> Self {
        let here = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let mut config = Self::default();
        config.node.id = 1;
        config.node.data_dir = options.data_dir.clone().unwrap_or_else(|| DATA_DIR.into());
        config.mqtt.address = Some(options.mqtt.unwrap_or(here(MQTT_PORT)));
        // A second one on this machine is told another MQTT port, and must not fail for the WebSocket's.
        config.mqtt.ws_address = options.ws.or(options.mqtt.is_none().then_some(here(WS_PORT)));
        config.mqtt.anonymous = options.anonymous;
        config.api.address = options.api.unwrap_or(here(API_PORT));
        config.http.address = options.http.unwrap_or(here(HTTP_PORT));
        config.link.address = options.link.unwrap_or(here(LINK_PORT));
        config
    }

    /// The node's id.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.node.id)
    }

    /// Where others reach this node: what is advertised, or else the listeners.
    pub fn advertised(&self) -> NodeAddresses {
        let or = |advertised: &Option<String>, listener: SocketAddr| {
            advertised.clone().unwrap_or_else(|| reachable(listener).to_string())
        };
        let mqtt = self.mqtt_listener();
        NodeAddresses {
            link: or(&self.cluster.advertise_link, self.link.address),
            api: or(&self.cluster.advertise_api, self.api.address),
            mqtt: mqtt.map(|(_, address)| or(&self.cluster.advertise_mqtt, address)).unwrap_or_default(),
        }
    }

    /// The listener that terminals are told of: the first that is on, in the order of the settings.
    fn mqtt_listener(&self) -> Option<(&'static str, SocketAddr)> {
        self.mqtt.listeners().next().filter(|_| self.node.roles.edge)
    }

    fn from_settings(found: &[file::Found]) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let mut problems = Vec::new();
        for setting in found {
            match options::find(&setting.key) {
                None => problems.push(unknown(setting)),
                Some(option) => {
                    if let Err(expected) = (option.set)(&mut config, &setting.raw) {
                        problems.push(Problem(format!("`{}` at {} {expected}", setting.key, setting.origin)));
                    }
                }
            }
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }
}

impl Problem {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl ConfigError {
    /// What is wrong, one by one.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            f.write_str(&problem.0)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

/// "Every address" is none that anybody can connect to; on one machine, this one is.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address
}

fn cannot_read(path: &Path, error: &std::io::Error) -> ConfigError {
    ConfigError(vec![Problem(format!(
        "cannot read the config file {}: {error}; `carillon config example` prints one to start from",
        path.display()
    ))])
}

fn unknown(setting: &file::Found) -> Problem {
    let from_env = env::variable(&setting.key) == setting.origin;
    let name =
        if from_env { setting.origin.clone() } else { format!("`{}` at {}", setting.key, setting.origin) };
    let hint = match suggest::nearest(&setting.key) {
        Some(known) if from_env => format!("; did you mean {}?", env::variable(known)),
        Some(known) => format!("; did you mean `{known}`?"),
        None => "; `carillon config example` prints all keys".to_owned(),
    };
    let kind = if from_env { "unknown variable" } else { "unknown key" };
    Problem(format!("{kind} {name}{hint}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile().expect("file");
        file.write_all(text.as_bytes()).expect("write");
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let name = file.path().display().to_string();
        Config::load(Some(file.path()), variables, Purpose::Print)
            .map_err(|error| error.to_string().replace(&name, "carillon.toml"))
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_known_key() {
        let text = "[node]\nid = 1\n\n# terminals\n\n[mqtt]\nadress = \"0.0.0.0:1883\"\n";
        assert_eq!(
            load(text, &[]).expect_err("unknown"),
            "unknown key `mqtt.adress` at carillon.toml:7; did you mean `mqtt.address`?"
        );
    }

    #[test]
    fn a_dotted_key_at_the_top_is_found_too() {
        assert_eq!(
            load("mqtt.adress = 1", &[]).expect_err("unknown"),
            "unknown key `mqtt.adress` at carillon.toml:1; did you mean `mqtt.address`?"
        );
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let error = load("[mqtt]\nadress = 1\nanonymous = \"maybe\"\n[flux]\ncapacitor_of_time = 1", &[]);
        let error = error.expect_err("three problems");
        assert_eq!(error.lines().count(), 3, "{error}");
        assert!(error.contains("`mqtt.anonymous` at carillon.toml:3 must be true or false"), "{error}");
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let error = load("[node]\nid = \n", &[]).expect_err("syntax");
        assert!(error.contains("carillon.toml:2"), "{error}");
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let text = "[node]\nid = 1\nroles = [\"control\"]\n[raft]\nheartbeat = \"80ms\"\n";
        let variables = [
            ("CARILLON_NODE__ID", "7"),
            ("CARILLON_CLUSTER__SEEDS", "a:1, b:2"),
            ("CARILLON_API", "not a setting"),
            ("HOME", "/root"),
        ];
        let config = load(text, &variables).expect("config");
        assert_eq!(config.node_id(), NodeId(7));
        assert_eq!(config.cluster.seeds, ["a:1", "b:2"]);
        assert_eq!(config.raft.heartbeat, Duration::from_millis(80));
        assert!(!config.node.roles.edge);
    }

    #[test]
    fn an_unknown_variable_names_the_nearest_one() {
        assert_eq!(
            load("", &[("CARILLON_MQTT__ADRESS", "x")]).expect_err("unknown"),
            "unknown variable CARILLON_MQTT__ADRESS; did you mean CARILLON_MQTT__ADDRESS?"
        );
    }

    #[test]
    fn a_missing_file_says_what_to_do() {
        let error = Config::load(Some(Path::new("/nowhere/c.toml")), std::iter::empty(), Purpose::Print);
        assert!(error.expect_err("missing").to_string().contains("carillon config example"));
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same_config() {
        let mut config = Config::dev(&DevOptions { anonymous: true, ..DevOptions::default() });
        config.cluster.seeds = vec!["a:1".to_owned()];
        config.tls.ca = Some("/a \"b\"/ca.pem".into());
        assert_eq!(load(&print(&config), &[]).expect("config"), config);
    }

    #[test]
    fn the_example_in_the_docs_is_the_defaults() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/carillon.example.toml");
        let text = std::fs::read_to_string(path).expect("example");
        let same = text == example();
        assert!(same, "write it anew: carillon config example > docs/carillon.example.toml");
        // With every setting uncommented it is valid and changes nothing but what is required.
        let active: String = text
            .lines()
            .map(|line| {
                line.strip_prefix("#")
                    .filter(|l| l.contains(" = ") && !l.starts_with(' '))
                    .unwrap_or(line)
                    .to_owned()
                    + "\n"
            })
            .collect();
        let config = load(&active, &[]).expect("example");
        let mut expected = Config::default();
        expected.node.id = 1;
        assert_eq!(config, expected);
    }
}
