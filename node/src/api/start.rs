//! Starts and stops the API of a node, from its config.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

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
    listener,
    server::{Bound, PushLimits, ServerTls, Services, follow},
};
use crate::{
    auth::Keyring,
    config::{self, Config},
    telemetry::Health,
    transport::{
        Certificates,
        certs::CertificatePaths,
        tls::{Loaded, TlsSlot, Validity, certified},
    },
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
    tls: Option<Arc<TlsSlot>>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    following: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `api.address` and serves. `control` is absent on a node without the control role, which passes
    /// every call on.
    pub async fn start<C: Control>(
        config: &Config,
        mode: Mode,
        keyring: Keyring,
        health: Health,
        control: Option<C>,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(config.api.address).await;
        let listener = listener.with_context(|| config::explain_bind("api.address", config.api.address))?;
        let address = listener.local_addr()?;
        let files = match mode {
            Mode::Cluster => Some(CertificateFiles::of(config)?),
            Mode::Dev => None,
        };
        let tls = match files {
            Some(files) => Some((files.read()?.0, TlsSlot::new("api", move || files.load())?)),
            None => None,
        };
        let slot = tls.as_ref().map(|(_, slot)| Arc::clone(slot));
        let (target, watched) = watch::channel(first_target(config, control.is_some()));
        let gate = Gate::new(keyring);
        let limits = PushLimits { ttl_default: config.push.ttl_default, ttl_max: config.push.ttl_max };
        let following = control.clone().map(|control| tokio::spawn(follow(control, target)));
        let allow_http = config.webhook.allow_http;
        let services =
            control.map(|control| Services::new(control, gate.clone(), limits).allowing_http(allow_http));
        let bound = Bound::new(listener, tls, gate, watched, health);
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
        Ok(Self { address, tls: slot, stop, serving, following })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its certificates; none in `dev`.
    pub fn tls(&self) -> Option<&Arc<TlsSlot>> {
        self.tls.as_ref()
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

/// Where the certificates of the API lie.
struct CertificateFiles {
    node: CertificatePaths,
    public: Option<(PathBuf, PathBuf)>,
}

impl CertificateFiles {
    fn of(config: &Config) -> anyhow::Result<Self> {
        let node = CertificatePaths {
            ca: config.tls.ca.clone().context("tls.ca is not set")?,
            cert: config.tls.cert.clone().context("tls.cert is not set")?,
            key: config.tls.key.clone().context("tls.key is not set")?,
        };
        Ok(Self { node, public: config.api.tls_cert.clone().zip(config.api.tls_key.clone()) })
    }

    fn read(&self) -> anyhow::Result<(ServerTls, Vec<Validity>)> {
        let node = Certificates::load(&self.node)?;
        let mut certificates = vec![certified(&self.node.cert, &self.node.key)?.1];
        let mut public = None;
        if let Some((cert, key)) = &self.public {
            certificates.push(certified(cert, key)?.1);
            public = Some((read("api.tls_cert", cert)?, read("api.tls_key", key)?));
        }
        let tls = ServerTls { ca: node.ca_pem, node_cert: node.cert_pem, node_key: node.key_pem, public };
        Ok((tls, certificates))
    }

    fn load(&self) -> anyhow::Result<Loaded> {
        let (tls, certificates) = self.read()?;
        Ok(Loaded { config: listener::config(&tls)?, certificates })
    }
}

fn read(key: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {} (`{key}`)", path.display()))
}
