//! What can be typed.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use cluster_proto::{Audience, admin};
use fabric_core::audience;

use super::release;
use crate::{config::parse_duration, transport::Roles};

/// One push to many terminals, and exactly who has it.
#[derive(Debug, Parser)]
#[command(name = "carillon", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit status: 0 done, 1 refused, 2 wrong usage, 3 the outcome is unknown.")]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command that calls a cluster.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command that calls a cluster")]
pub(super) struct Shared {
    /// App (tenant)
    #[arg(long, global = true, value_name = "NAME", default_value = "default", env = "CARILLON_APP")]
    pub app: String,
    /// gRPC addresses of nodes, separated by commas; the next is tried where one does not answer
    #[arg(long, global = true, value_name = "ADDR", default_value = "127.0.0.1:7400", env = "CARILLON_API")]
    pub api: String,
    /// API token, or @FILE; that of `carillon dev` on this machine is found by itself
    #[arg(long, global = true, value_name = "TOKEN", env = "CARILLON_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Authority of the cluster (PEM): calls are made over TLS
    #[arg(long, global = true, value_name = "FILE", env = "CARILLON_CA")]
    pub ca: Option<PathBuf>,
    /// Operator certificate (PEM), instead of a token
    #[arg(long, global = true, value_name = "FILE", env = "CARILLON_CERT", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(long, global = true, value_name = "FILE", env = "CARILLON_KEY", requires = "cert")]
    pub key: Option<PathBuf>,
    /// How long to try, over all addresses
    #[arg(long, global = true, value_name = "DURATION", default_value = "15s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Output for machines
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs one node with both roles, on embedded defaults, for trials and development
    Dev(DevArgs),
    /// Runs a node of a cluster
    Node(NodeArgs),
    /// Checks and shows configs
    Config {
        /// Output for machines
        #[arg(long, global = true)]
        json: bool,
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Founds a cluster and changes its members
    Cluster {
        #[command(flatten)]
        shared: Shared,
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Registers terminals, issues their credentials, shows what is known of them
    Terminal {
        #[command(flatten)]
        shared: Shared,
        #[command(subcommand)]
        command: TerminalCommand,
    },
    /// Pushes a message; answers when it is fsynced on a majority
    Push(Box<PushArgs>),
    /// Who has a push and who does not
    Status(StatusArgs),
    /// Why one terminal has or has not got a push
    Explain(ExplainArgs),
    /// Recalls a push from everyone who does not have it yet
    Cancel(CancelArgs),
    /// Releases no more of a push with a schedule, a pace or stages, until it is resumed
    Hold(HoldArgs),
    /// Goes on with the release of a push that is held
    Resume(HoldArgs),
    /// What became of every terminal of every push, from any kept position on
    Receipts(ReceiptsArgs),
    /// Where the receipts of an app are posted to
    Webhook {
        #[command(flatten)]
        shared: Shared,
        #[command(subcommand)]
        command: WebhookCommand,
    },
    /// Adds, changes, deletes and lists apps (tenants)
    App {
        #[command(flatten)]
        shared: Shared,
        #[command(subcommand)]
        command: AppCommand,
    },
    /// Issues an API token with chosen scopes
    Token(TokenArgs),
    /// Makes the authority of a cluster, and the certificates it signs
    Certs {
        /// Output for machines
        #[arg(long, global = true)]
        json: bool,
        #[command(subcommand)]
        command: CertsCommand,
    },
}

#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Where data, certificates and the admin token are kept
    #[arg(long, value_name = "DIR", env = "CARILLON_DATA_DIR", default_value = crate::config::DATA_DIR)]
    pub data_dir: PathBuf,
    /// MQTT listener [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDR")]
    pub mqtt: Option<SocketAddr>,
    /// Listener of MQTT over WebSocket, path /mqtt [default: 127.0.0.1:8083; with --mqtt, none]
    #[arg(long, value_name = "ADDR")]
    pub ws: Option<SocketAddr>,
    /// gRPC listener [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR")]
    pub api: Option<SocketAddr>,
    /// HTTP listener (/livez, /readyz, /metrics) [default: 127.0.0.1:7480]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Link listener, UDP [default: 127.0.0.1:7401]
    #[arg(long, value_name = "ADDR")]
    pub link: Option<SocketAddr>,
    /// Let MQTT clients in without credentials
    #[arg(long)]
    pub anonymous: bool,
    /// error, warn, info, debug, trace, or a filter
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "CARILLON_LOG__LEVEL")]
    pub log_level: String,
}

#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// Config file (TOML)
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Tells everything that is wrong with a config
    Check(ConfigArgs),
    /// Prints the effective values: defaults, file, environment
    Print(ConfigArgs),
    /// Prints a commented config with every default
    Example,
}

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// Config file; without one, defaults and environment alone
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Founds a cluster, once; needs --ca, --cert and --key of an operator
    Init {
        /// A founding control node; without any, the nodes at --api are asked who they are
        #[arg(long = "node", value_name = "id=N,link=ADDR,api=ADDR[,mqtt=ADDR]", value_parser = NodeSpec::parse)]
        nodes: Vec<NodeSpec>,
        /// Where to write the admin token (mode 0600); without it, it is printed
        #[arg(long, value_name = "FILE")]
        token_out: Option<PathBuf>,
    },
    /// Members, leader, edges
    Status {
        /// As the very node at --api sees it, with its position and digest
        #[arg(long)]
        local: bool,
    },
    /// Adds a control node as learner; returns when it has caught up
    Add {
        /// The node, which must be running
        #[arg(long, value_name = "id=N,link=ADDR,api=ADDR[,mqtt=ADDR]", value_parser = NodeSpec::parse)]
        node: NodeSpec,
    },
    /// Makes a learner a voter
    Promote {
        /// Node id
        id: u64,
    },
    /// Takes a member out
    Remove {
        /// Node id
        id: u64,
    },
    /// Hands leadership over, to the node named or to any
    TransferLeader {
        /// Node id
        id: Option<u64>,
    },
}

/// What a credential allows.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Permissions {
    /// A filter it may publish to; {terminal} stands for the terminal's id. Repeated: any of them. Empty: nothing. Not
    /// given: everything but $SYS
    #[arg(long, value_name = "FILTER")]
    pub publish: Vec<String>,
    /// A filter it may subscribe to, as --publish
    #[arg(long, value_name = "FILTER")]
    pub subscribe: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum TerminalCommand {
    /// Registers a terminal, or replaces its tags and alias; or any number of them from a file
    Register {
        /// Terminal id: the MQTT client id
        #[arg(required_unless_present = "from_file", conflicts_with = "from_file")]
        id: Option<String>,
        /// A tag; may be repeated
        #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = key_value, conflicts_with = "from_file")]
        tags: Vec<(String, String)>,
        /// What all terminals of one user share; empty: none any more
        #[arg(long, value_name = "NAME", conflicts_with = "from_file")]
        alias: Option<String>,
        /// Terminals, one a line: an id and tags as KEY=VALUE, separated by spaces, or JSON as
        /// {"id": "tv-1", "tags": {"os": "tv"}, "alias": "user 7"}
        #[arg(long, value_name = "FILE")]
        from_file: Option<PathBuf>,
    },
    /// Changes tags and alias of all terminals that an expression means
    Update {
        /// Which: as `carillon push --to`, without topic
        #[arg(long = "where", value_name = "AUDIENCE", value_parser = audience::parse)]
        meant: Audience,
        /// A tag to add, or to give another value; may be repeated
        #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = key_value)]
        tags: Vec<(String, String)>,
        /// The key of a tag to remove; may be repeated
        #[arg(long = "remove-tag", value_name = "KEY")]
        remove_tags: Vec<String>,
        /// The alias they get; empty: none
        #[arg(long, value_name = "NAME")]
        alias: Option<String>,
    },
    /// Deletes terminals with all that is theirs; what they must still get is dropped
    Delete {
        /// Terminal ids
        #[arg(required_unless_present = "meant", conflicts_with = "meant")]
        ids: Vec<String>,
        /// All that an expression means, as 'all and not seen:90d'; needs --yes
        #[arg(long = "where", value_name = "AUDIENCE", value_parser = audience::parse)]
        meant: Option<Audience>,
        /// Really; without it, --where only tells how many it means
        #[arg(long)]
        yes: bool,
    },
    /// What is known of a terminal
    Get {
        /// Terminal id
        id: String,
    },
    /// Registered terminals, in the order of their ids; with --where, in the order of registration
    List {
        /// Only those that an expression means, as 'tag:os=tv and not seen:30d'
        #[arg(long = "where", value_name = "AUDIENCE", value_parser = audience::parse)]
        meant: Option<Audience>,
        /// Begin after this id
        #[arg(long, value_name = "ID", default_value = "")]
        after: String,
        /// At most so many; 0: all
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// A terminal's subscriptions
    Subscriptions {
        /// Terminal id
        id: String,
    },
    /// Ends a terminal's connection, wherever it is
    Kick {
        /// Terminal id
        id: String,
    },
    /// Issues a credential; registers the terminal if it is not
    Credential {
        /// Terminal id
        #[arg(required_unless_present = "from_file", conflicts_with = "from_file")]
        id: Option<String>,
        /// How long it is valid
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
        ttl: Duration,
        /// Terminal ids, one a line
        #[arg(long, value_name = "IDS", requires = "out")]
        from_file: Option<PathBuf>,
        /// Where to write "clientid username password" lines (mode 0600)
        #[arg(long, value_name = "FILE", requires = "from_file")]
        out: Option<PathBuf>,
        #[command(flatten)]
        may: Permissions,
    },
    /// Voids every credential of a terminal issued until now, and disconnects it
    Revoke {
        /// Terminal id
        id: String,
    },
}

/// What says something of one push.
const PUSH_ARGS: [&str; 18] = [
    "to",
    "dry_run",
    "topic",
    "qos",
    "ttl",
    "payload",
    "payload_file",
    "content_type",
    "response_topic",
    "user_properties",
    "urgent",
    "collapse_key",
    "at",
    "per_second",
    "over",
    "stages",
    "halt",
    "idempotency_key",
];

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// For whom: terminal:ID[,ID...], alias:NAME[,NAME...], tag:KEY=VALUE, topic (its subscribers), all, online,
    /// offline, delivered:PUSH, pending:PUSH, sample:A-B%, seen:DAYSd; combined with not, and, or, ( )
    #[arg(long, value_name = "AUDIENCE", value_parser = audience::parse, required_unless_present = "batch")]
    pub to: Option<Audience>,
    /// Push nothing: tell how many the audience is now, and some of them
    #[arg(long)]
    pub dry_run: bool,
    /// Many pushes, each a line of JSON with the names of these options: {"to": "all", "topic": "news", "payload": "hi"};
    /// - for standard input
    #[arg(long, value_name = "F|-", conflicts_with_all = PUSH_ARGS)]
    pub batch: Option<PathBuf>,
    /// What terminals see; no wildcards
    #[arg(long, required_unless_present = "batch")]
    pub topic: Option<String>,
    /// At most once, at least once, exactly once
    #[arg(long, value_name = "0|1|2", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=2))]
    pub qos: u32,
    /// How long it stays deliverable; without it, the server's default
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub ttl: Option<Duration>,
    /// The message
    #[arg(long, value_name = "TEXT", conflicts_with = "payload_file")]
    pub payload: Option<String>,
    /// The message, from a file, or - for standard input
    #[arg(long, value_name = "F|-")]
    pub payload_file: Option<PathBuf>,
    /// MIME type of the message (MQTT 5)
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Topic for answers (MQTT 5)
    #[arg(long, value_name = "TOPIC")]
    pub response_topic: Option<String>,
    /// User property (MQTT 5); may be repeated
    #[arg(long = "user-property", value_name = "NAME=VALUE", value_parser = key_value)]
    pub user_properties: Vec<(String, String)>,
    /// Overtakes ordinary pushes that wait for the same terminal
    #[arg(long)]
    pub urgent: bool,
    /// Replaces older pushes with the same key that were not handed out
    #[arg(long, value_name = "KEY")]
    pub collapse_key: Option<String>,
    #[command(flatten)]
    pub release: ReleaseArgs,
    /// Repeating the command with the same key and content answers the first result; random if not given
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    #[command(flatten)]
    pub shared: Shared,
}

/// When, and in which parts, a push is handed out.
#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// Hand it out not before this: 2026-12-24T18:00:00+01:00 or 2026-12-24T18:00:00[Europe/Madrid]
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Hand it out to so many terminals a second
    #[arg(long, value_name = "N", conflicts_with_all = ["over", "stages"])]
    pub per_second: Option<u32>,
    /// Hand it out evenly over this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "stages")]
    pub over: Option<Duration>,
    /// Hand it out in stages, each with the time after which it is looked at how many of all released have it, and the
    /// least share that lets the next follow: 5%/10m/90%,25%/1h/95%,100%
    #[arg(long, value_name = "STAGES", value_delimiter = ',', value_parser = release::stage)]
    pub stages: Vec<admin::Stage>,
    /// If fewer have it, recall it; without this it waits for `resume` or `cancel`
    #[arg(long, requires = "stages")]
    pub halt: bool,
}

#[derive(Debug, Args)]
pub(super) struct HoldArgs {
    /// Push id
    pub push: u64,
    #[command(flatten)]
    pub shared: Shared,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Push id
    pub push: u64,
    /// Show every change until every terminal is settled
    #[arg(long, conflicts_with = "terminals")]
    pub watch: bool,
    /// List the terminals in this state, or whose applications reported this
    #[arg(long, value_name = "STATE")]
    pub terminals: Option<TargetState>,
    #[command(flatten)]
    pub shared: Shared,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Push id
    pub push: u64,
    /// Terminal id
    pub terminal: String,
    #[command(flatten)]
    pub shared: Shared,
}

#[derive(Debug, Args)]
pub(super) struct CancelArgs {
    /// Push id
    pub push: u64,
    /// Show every change until nobody is pending: then all sets are final
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub shared: Shared,
}

#[derive(Debug, Args)]
pub(super) struct ReceiptsArgs {
    /// Go on after the message that had this cursor; without it, from the beginning of what is kept
    #[arg(long, value_name = "CURSOR")]
    pub from: Option<String>,
    /// Only what happens from now on
    #[arg(long, conflicts_with = "from", requires = "follow")]
    pub from_now: bool,
    /// Name the terminals; without it, only how many, or with --json sets of their numbers
    #[arg(long)]
    pub expand: bool,
    /// Wait for more, and go on when the leader changes
    #[arg(long)]
    pub follow: bool,
    #[command(flatten)]
    pub shared: Shared,
}

#[derive(Debug, Subcommand)]
pub(super) enum WebhookCommand {
    /// Sets it, or sets it anew: the place in the stream and the secret stay
    Set {
        /// https://HOST/PATH
        url: String,
        /// Signs what is posted: whsec_ and base64, or @FILE; without it, a new one is made for a new webhook, and shown
        #[arg(long, value_name = "SECRET", env = "CARILLON_WEBHOOK_SECRET", hide_env_values = true)]
        secret: Option<String>,
        /// Make a new secret in any case, and show it
        #[arg(long, conflicts_with = "secret")]
        new_secret: bool,
        /// Name the terminals; without it, sets of their numbers
        #[arg(long)]
        expand: bool,
        /// Only this state; may be repeated
        #[arg(long = "state", value_name = "STATE")]
        states: Vec<String>,
        /// Begin at a cursor of `carillon receipts`
        #[arg(long, value_name = "CURSOR")]
        from: Option<String>,
    },
    /// Where it posts to, and how that goes
    Show,
    /// Removes it
    Remove,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TargetState {
    Pending,
    Delivered,
    Sent,
    Expired,
    Cancelled,
    Collapsed,
    Dropped,
    /// Its application reported that it was displayed
    Displayed,
    /// Its application reported that it was opened
    Opened,
}

/// How much an app may have; 0: no bound.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct QuotaArgs {
    /// Most registered terminals
    #[arg(long, value_name = "N")]
    pub terminals: Option<u64>,
    /// Most connections, in the whole cluster
    #[arg(long, value_name = "N")]
    pub connections: Option<u64>,
    /// Most accepted pushes a second, PUBLISH with QoS 1 and 2 among them
    #[arg(long, value_name = "N")]
    pub pushes_per_s: Option<u64>,
    /// Most pushes at once, before that rate holds; 0: as many as in a second
    #[arg(long, value_name = "N")]
    pub pushes_burst: Option<u64>,
    /// Most bytes of messages: of pushes until they are purged, and retained
    #[arg(long, value_name = "N")]
    pub stored_bytes: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(super) enum AppCommand {
    /// Adds an app
    Create {
        /// Its name: a-z 0-9 - _ .
        name: String,
        #[command(flatten)]
        quotas: QuotaArgs,
    },
    /// What an app has, and how much it may have
    Get {
        /// Its name
        name: String,
    },
    /// Changes how much an app may have; what is not given stays
    Update {
        /// Its name
        name: String,
        #[command(flatten)]
        quotas: QuotaArgs,
    },
    /// Deletes an app and everything of it
    Delete {
        /// Its name
        name: String,
        /// Its name again
        #[arg(long, value_name = "NAME")]
        confirm: String,
    },
    /// All apps
    List,
}

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// Who holds it, for logs
    pub name: String,
    /// What it may do; may be repeated
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_parser = ["admin", "push", "terminals", "read"])]
    pub scopes: Vec<String>,
    /// Not limited to --app
    #[arg(long)]
    pub all_apps: bool,
    /// How long it is valid
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = parse_duration)]
    pub ttl: Duration,
    #[command(flatten)]
    pub shared: Shared,
}

#[derive(Debug, Subcommand)]
pub(super) enum CertsCommand {
    /// Makes the authority of a cluster: ca.pem and ca.key. Keep ca.key off the nodes
    Authority {
        /// Directory
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Makes a certificate for a node: node.pem and node.key
    Node {
        /// Directory of the authority
        #[arg(long = "ca", value_name = "DIR")]
        authority: PathBuf,
        /// Node id
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
        /// control, edge or control,edge
        #[arg(long, value_name = "ROLES", default_value = "control,edge")]
        roles: Roles,
        /// A name or address under which terminals and clients reach it; may be repeated
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// Directory
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Makes a client certificate for an operator: operator.pem and operator.key
    Operator {
        /// Directory of the authority
        #[arg(long = "ca", value_name = "DIR")]
        authority: PathBuf,
        /// Directory
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// A node as typed: `id=4,link=10.0.0.4:7401,api=10.0.0.4:7400,mqtt=10.0.0.4:1883`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeSpec {
    pub id: u64,
    pub link: String,
    pub api: String,
    pub mqtt: String,
}

impl NodeSpec {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut id, mut link, mut api, mut mqtt) = (None, None, None, String::new());
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not key=value"))?;
            match key.trim() {
                "id" => id = Some(value.parse().map_err(|_| format!("id {value:?} is not a number"))?),
                "link" => link = Some(value.to_owned()),
                "api" => api = Some(value.to_owned()),
                "mqtt" => value.clone_into(&mut mqtt),
                other => return Err(format!("there is no {other:?}: id, link, api and mqtt")),
            }
        }
        let missing = |what| format!("{what} is missing");
        Ok(Self {
            id: id.ok_or_else(|| missing("id"))?,
            link: link.ok_or_else(|| missing("link"))?,
            api: api.ok_or_else(|| missing("api"))?,
            mqtt,
        })
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}
