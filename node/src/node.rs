//! Puts the parts of one node together: what starts in which order, and how it stops.
//!
//! ```text
//!  start:  certificates ► QUIC ► control group ► leader's actor ► API ► edge ► ready
//!  stop:   not ready ► edge drains ► API ► leadership handed over, storage closed ► QUIC
//! ```

mod edge;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use raft_store::{ControlGroup, Leadership, Options};
use tokio::{
    net::TcpListener,
    runtime::{Handle, Runtime},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};

use crate::{
    api,
    auth::Keyring,
    config::{self, Config, DevOptions},
    control::{ControlHandle, actor::Actor, leader::Settings, link_server},
    edge::EdgeHandle,
    raft::{QuicTransport, RaftServer},
    telemetry::{self, Condition, Health, http::Pages},
    transport::{Certificates, Endpoint, Roles, certs::CertificatePaths, quic::Alpn, tls::TlsSlot},
    webhook,
};

/// Terminals are told to go elsewhere within this time; after it connections are cut.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// One carries bulk, the other goes on with heartbeats.
const NETWORK_THREADS: usize = 2;

/// Runs the node of `config` until it is told to stop or cannot go on.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let paths = CertificatePaths {
        ca: config.tls.ca.clone().context("tls.ca is not set")?,
        cert: config.tls.cert.clone().context("tls.cert is not set")?,
        key: config.tls.key.clone().context("tls.key is not set")?,
    };
    let certificates = Certificates::load(&paths)?;
    let node = Node::start(config, certificates, api::Mode::Cluster).await?;
    node.run_until_stopped().await
}

/// Runs one node with both roles on embedded defaults: founds its cluster of one on first start.
pub async fn dev(options: DevOptions) -> anyhow::Result<()> {
    let config = Config::dev(&options);
    let data_dir = config.node.data_dir.clone();
    std::fs::create_dir_all(&data_dir).with_context(|| format!("create {}", data_dir.display()))?;
    let certificates = Certificates::ephemeral(&data_dir.join("certs"), config.node_id())?;
    let node = Node::start(config, certificates, api::Mode::Dev).await?;
    node.found_alone().await?;
    node.run_until_stopped().await
}

/// A running node.
struct Node {
    config: Config,
    health: Health,
    endpoint: Endpoint,
    network: Network,
    control: Option<Control>,
    edge: Option<EdgeHandle>,
    api: api::Server,
    /// Tasks that end with the process.
    background: Vec<JoinHandle<()>>,
}

struct Control {
    handle: ControlHandle,
    actor: JoinHandle<()>,
}

impl Node {
    async fn start(config: Config, certificates: Certificates, mode: api::Mode) -> anyhow::Result<Self> {
        let metrics = telemetry::metrics::install()?;
        let roles = Roles { control: config.node.roles.control, edge: config.node.roles.edge };
        check_identity(&config, &certificates, roles)?;
        let health = Health::new(&conditions(roles));
        let http = listen_tcp(config.http.address, "http.address").await?;
        let mut background =
            vec![tokio::spawn(telemetry::http::serve(http, Pages { health: health.clone(), metrics }))];
        let alpns: &[Alpn] = if roles.control { &[Alpn::Raft, Alpn::Link] } else { &[] };
        let network = Network::start()?;
        let endpoint = {
            let _network = network.handle().map(Handle::enter);
            Endpoint::bind(config.link.address, &certificates, alpns)?
        };
        let api_keyring = Keyring::default();
        let control = match roles.control {
            true => Some(
                Control::start(&config, &endpoint, &network, api_keyring.clone(), &mut background).await?,
            ),
            false => None,
        };
        let handle = control.as_ref().map(|control| control.handle.clone());
        if let Some(handle) = &handle {
            background.push(tokio::spawn(watch_leader(handle.group().leadership(), health.clone())));
        }
        let api = api::Server::start(&config, mode, api_keyring, health.clone(), handle).await?;
        let mut tls: Vec<_> = api.tls().cloned().into_iter().collect();
        let edge = match roles.edge {
            true => {
                let mqtt = edge::mqtt_tls(&config)?;
                tls.extend(mqtt.clone());
                Some(edge::start(&config, mqtt, &endpoint, &health, &mut background).await?)
            }
            false => None,
        };
        background.push(tokio::spawn(reload_on_hangup(tls)));
        health.met(Condition::Serving);
        Ok(Self { config, health, endpoint, network, control, edge, api, background })
    }

    /// `carillon dev`: the first start founds a cluster of this node and leaves the admin token where the CLI looks.
    async fn found_alone(&self) -> anyhow::Result<()> {
        let Some(control) = &self.control else { return Ok(()) };
        let token_file = self.config.node.data_dir.join(config::ADMIN_TOKEN_FILE);
        let token = api::found_alone(&control.handle, self.config.advertised()).await?;
        crate::cli::write_secret(&token_file, &token)?;
        Ok(())
    }

    async fn run_until_stopped(self) -> anyhow::Result<()> {
        tracing::info!(node = self.config.node.id, "started");
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let failed = async {
            match &self.control {
                Some(control) => wait_failed(control.handle.group().failed()).await,
                None => std::future::pending().await,
            }
        };
        let failure = tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            reason = failed => Some(reason),
        };
        if let Some(reason) = failure {
            // Raft's state is not to be trusted any more; the log is, and the next start replays it.
            if let Some(control) = &self.control {
                control.handle.group().clone().shutdown_now().await;
            }
            anyhow::bail!("the control group stopped: {reason}; restart this node");
        }
        tracing::info!("stopping; a second signal stops at once");
        tokio::select! {
            () = self.stop() => Ok(()),
            _ = terminate.recv() => std::process::exit(1),
            _ = interrupt.recv() => std::process::exit(1),
        }
    }

    async fn stop(self) {
        self.health.unmet(Condition::Serving, "stopping");
        if let Some(edge) = self.edge {
            edge.drain(DRAIN_MAX).await;
        }
        self.api.stop().await;
        if let Some(control) = self.control {
            // Hands leadership over, joins Raft's threads and closes both databases: exiting while a thread is
            // inside RocksDB may crash.
            control.handle.group().clone().shutdown().await;
            control.actor.abort();
        }
        self.endpoint.close().await;
        drop(self.network);
        self.background.iter().for_each(JoinHandle::abort);
        tracing::info!("stopped");
    }
}

impl Control {
    async fn start(
        config: &Config,
        endpoint: &Endpoint,
        network: &Network,
        keyring: Keyring,
        background: &mut Vec<JoinHandle<()>>,
    ) -> anyhow::Result<Self> {
        let options = group_options(config);
        let transport = Arc::new(QuicTransport::new(endpoint.clone()));
        let (group, effects) = ControlGroup::start(options, transport).await?;
        let settings = Settings {
            ttl_default_ms: millis(config.push.ttl_default),
            ttl_max_ms: millis(config.push.ttl_max),
            retention_ms: millis(config.push.retention),
            receipts_retention_ms: millis(config.receipts.retention),
            receipts_bytes_max: config.receipts.bytes_max.0,
        };
        let (actor, links) = Actor::new(config.node_id(), group.clone(), effects, settings, keyring);
        let handle = ControlHandle::new(group, links);
        let raft = RaftServer::new(Arc::new(handle.group().clone()));
        let accept = accept_connections(endpoint.clone(), raft, handle.clone());
        background.push(tokio::spawn(webhook::run(handle.clone(), webhook::Settings::of(&config.webhook)?)));
        background.push(network.handle().unwrap_or(&Handle::current()).spawn(accept));
        Ok(Self { handle, actor: tokio::spawn(actor.run()) })
    }
}

/// SIGHUP: certificates are read again. Those in use stay where the new ones cannot be used. Without certificates the
/// signal does nothing: it must not end the node.
async fn reload_on_hangup(slots: Vec<Arc<TlsSlot>>) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return tracing::error!("certificates will not be read again: {error}"),
    };
    while hangup.recv().await.is_some() {
        for slot in &slots {
            match slot.reload() {
                Ok(()) => tracing::info!(listener = slot.listener(), "certificates read again"),
                Err(error) => {
                    tracing::error!(listener = slot.listener(), "the certificates in use stay: {error:#}");
                }
            }
        }
    }
}

/// Every QUIC connection of another node, by what it wants to speak. Ends with the endpoint.
async fn accept_connections(endpoint: Endpoint, raft: RaftServer, handle: ControlHandle) {
    while let Some(connection) = endpoint.accept().await {
        let (raft, handle) = (raft.clone(), handle.clone());
        tokio::spawn(async move {
            match connection.alpn {
                Alpn::Raft => raft.serve(connection).await,
                Alpn::Link => link_server::serve(handle, connection).await,
            }
        });
    }
}

async fn watch_leader(mut leadership: watch::Receiver<Leadership>, health: Health) {
    loop {
        match leadership.borrow_and_update().leader {
            Some(_) => health.met(Condition::Leader),
            None => health.unmet(Condition::Leader, "no leader is known"),
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_edge(mut ready: watch::Receiver<bool>, health: Health) {
    loop {
        match *ready.borrow_and_update() {
            true => health.met(Condition::Link),
            false => health.unmet(Condition::Link, "the edge has no link to the leader"),
        }
        if ready.changed().await.is_err() {
            return;
        }
    }
}

async fn wait_failed(mut failed: watch::Receiver<Option<String>>) -> String {
    loop {
        if let Some(reason) = failed.borrow_and_update().clone() {
            return reason;
        }
        if failed.changed().await.is_err() {
            return "its threads are gone".to_owned();
        }
    }
}

/// QUIC, and with it Raft's messages, has threads of its own: a burst of API calls (a signature check each) must not
/// hold up heartbeats until a follower stands for election.
struct Network(Option<Runtime>);

impl Network {
    fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(NETWORK_THREADS)
            .thread_name("network")
            .enable_all()
            .build()
            .context("start the network's threads")?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }
}

impl Drop for Network {
    /// A runtime may not be dropped where it would wait for its threads in the middle of a task.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn conditions(roles: Roles) -> Vec<Condition> {
    let mut conditions = vec![Condition::Serving];
    if roles.control {
        conditions.push(Condition::Leader);
    }
    if roles.edge {
        conditions.push(Condition::Link);
    }
    conditions
}

/// The certificate and the config must speak of the same node.
fn check_identity(config: &Config, certificates: &Certificates, roles: Roles) -> anyhow::Result<()> {
    let identity = certificates.identity().context("the certificate of tls.cert is not a node's")?;
    anyhow::ensure!(
        identity.node == config.node_id(),
        "the certificate of tls.cert is node {}'s, but node.id is {}",
        identity.node,
        config.node.id
    );
    anyhow::ensure!(
        (identity.roles.control || !roles.control) && (identity.roles.edge || !roles.edge),
        "the certificate of tls.cert does not allow the roles of node.roles; make one with `carillon certs node`"
    );
    Ok(())
}

fn group_options(config: &Config) -> Options {
    Options {
        heartbeat: config.raft.heartbeat,
        election_timeout: (config.raft.election_timeout_min, config.raft.election_timeout_max),
        log_keep: config.raft.log_keep,
        snapshot_every: config.raft.snapshot_every,
        owed_per_terminal_max: config.push.owed_per_terminal_max,
        will_ttl_default: config.push.ttl_default,
        retained_max: config.mqtt.retained_max,
        retained_bytes_max: config.mqtt.retained_bytes_max.0,
        cache_bytes: config.storage.cache.0 as usize,
        disk_reserve_bytes: config.storage.disk_reserve.0,
        ..Options::new(config.node_id(), config.advertised(), config.node.data_dir.clone())
    }
}

/// A TCP listener, or what to do about it.
async fn listen_tcp(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| config::explain_bind(key, address))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
