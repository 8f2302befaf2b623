//! Starts and stops the API of a node, from its config.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Context as _;
use cluster_proto::{NodeId, link::NodeAddresses};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
};

use super::{
    Control, Gate,
    auth::{Clock as _, SystemClock},
    cluster,
    forward::{Remote, Target},
    server::{Bound, PushLimits, ServerTls, Services, follow},
};
use crate::{
    auth::Keyring,
    config::{self, Config},
    telemetry::Health,
    transport::Certificates,
};

/// How long calls in flight may take to finish when the node stops; streams that watch would never end.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Between two tries to found a cluster.
const FOUND_PAUSE: Duration = Duration::from_millis(50);
const FOUND_WITHIN: Duration = Duration::from_secs(15);

/// What the listener demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// TLS.
    Cluster,
    /// In clear: `carillon dev`.
    Dev,
}

/// A running API.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    following: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `api.address` and serves. `control` is absent on a node without the control role, which passes
    /// every call on.
    pub async fn start<C: Control>(
        config: &Config,
        certificates: &Certificates,
        mode: Mode,
        keyring: Keyring,
        health: Health,
        control: Option<C>,
    ) -> anyhow::Result<Self> {
        let address = config.api.address;
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => anyhow::bail!(config::explain_bind("api.address", address, &error)),
        };
        let address = listener.local_addr()?;
        let tls = match mode {
            Mode::Cluster => Some(server_tls(config, certificates)?),
            Mode::Dev => None,
        };
        let (target, watched) = watch::channel(first_target(config, control.is_some()));
        let gate = Gate::new(keyring);
        let limits = PushLimits { ttl_default: config.push.ttl_default, ttl_max: config.push.ttl_max };
        let following = control.clone().map(|control| tokio::spawn(follow(control, target)));
        let services = control.map(|control| Services::new(control, gate.clone(), limits));
        let bound = Bound::new(listener, tls, gate, watched, health)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            let stopped = async {
                // A dropped sender means the same.
                let _ = stopped.await;
            };
            if let Err(error) = bound.serve(services, stopped).await {
                tracing::error!(%error, "the API stopped");
            }
        });
        Ok(Self { address, stop, serving, following })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nothing new, lets calls in flight finish for a while, then cuts them.
    pub async fn stop(self) {
        let Self { stop, mut serving, following, .. } = self;
        // Nobody to tell: it has ended by itself.
        let _ = stop.send(());
        if tokio::time::timeout(STOP_WITHIN, &mut serving).await.is_err() {
            tracing::info!("calls in flight are cut");
            serving.abort();
        }
        if let Some(following) = following {
            following.abort();
        }
    }
}

/// For `carillon dev`: founds a cluster of this node unless it is founded. Answers a fresh admin token at every start,
/// so that a lost or expired one does not matter.
pub async fn found_alone<C: Control>(control: &C, addresses: NodeAddresses) -> anyhow::Result<String> {
    let own: (NodeId, NodeAddresses) = (control.own().0, addresses);
    let deadline = tokio::time::Instant::now() + FOUND_WITHIN;
    loop {
        let now_s = SystemClock.now_ms() / 1_000;
        if let Some(key) = control.signing_key() {
            return cluster::admin_token(&key, now_s).context("issue the admin token");
        }
        match cluster::found(control, vec![own.clone()], now_s).await {
            Ok(token) => return Ok(token),
            Err(status) if tokio::time::Instant::now() >= deadline => {
                anyhow::bail!("found the cluster: {}", status.message());
            }
            Err(status) => tracing::debug!(why = status.message(), "found the cluster: again"),
        }
        tokio::time::sleep(FOUND_PAUSE).await;
    }
}

/// Until the group tells: a control node knows no leader yet, another one never will by itself.
fn first_target(config: &Config, has_control: bool) -> Target {
    if has_control {
        return Target::Nowhere;
    }
    Target::Any(config.cluster.control_api.iter().map(|api| Remote { api: api.clone() }).collect())
}

fn server_tls(config: &Config, certificates: &Certificates) -> anyhow::Result<ServerTls> {
    let public = match (&config.api.tls_cert, &config.api.tls_key) {
        (Some(cert), Some(key)) => Some((read("api.tls_cert", cert)?, read("api.tls_key", key)?)),
        _ => None,
    };
    Ok(ServerTls {
        ca: certificates.ca_pem.clone(),
        node_cert: certificates.cert_pem.clone(),
        node_key: certificates.key_pem.clone(),
        public,
    })
}

fn read(key: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {} (`{key}`)", path.display()))
}
