//! The gRPC server of a node: listener, routing, services, health, reflection.

use std::{future::Future, sync::Arc, time::Duration};

use cluster_proto::admin::{
    DESCRIPTORS, apps_server::AppsServer, cluster_server::ClusterServer, pushes_server::PushesServer,
    terminals_server::TerminalsServer,
};
use tokio::{net::TcpListener, sync::watch};
use tonic::{service::Routes, transport};
use tonic_health::{ServingStatus, server::HealthReporter};

pub use super::validate::PushLimits;
use super::{
    Control, Gate,
    backend::{Leadership, Member},
    channels::Channels,
    forward::{Forward, REQUEST_LEN_MAX, Remote, Target},
    listener,
};
use crate::{telemetry::Health, transport::tls::TlsSlot};

/// The name every node certificate carries.
pub const NODE_NAME: &str = "carillon";
/// Calls of one connection at a time; more wait.
const STREAMS_MAX: u32 = 1_024;
/// Clients behind a NAT that is gone are noticed.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The services over the control group. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Services<C> {
    pub(super) control: C,
    pub(super) gate: Gate,
    pub(super) limits: PushLimits,
    pub(super) allow_http: bool,
}

/// Certificates of the listener, PEM.
#[derive(Clone)]
pub struct ServerTls {
    /// The cluster's authority: it signs nodes and operators.
    pub ca: Vec<u8>,
    /// This node's certificate chain.
    pub node_cert: Vec<u8>,
    /// Its key.
    pub node_key: Vec<u8>,
    /// Another certificate and key, for clients that do not know the cluster's authority.
    pub public: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("public", &self.public.is_some()).finish_non_exhaustive()
    }
}

/// Certificates that cannot be used: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("the {0} cannot be used: {1}; `carillon certs` makes certificates that can")]
pub struct TlsError(pub(super) &'static str, pub(super) String);

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport.
    #[error("serve the API: {0}")]
    Transport(#[from] transport::Error),
    /// Reflection.
    #[error("serve the API's reflection: {0}")]
    Reflection(String),
}

/// A server about to serve.
pub(super) struct Bound {
    listener: TcpListener,
    tls: Option<Arc<TlsSlot>>,
    forward: Forward,
    health: Health,
}

impl Bound {
    /// `tls` absent: in clear; the certificates are for calls passed on, the slot for those that come. `target` says
    /// where calls are answered, `health` what `grpc.health.v1` tells.
    pub(super) fn new(
        listener: TcpListener,
        tls: Option<(ServerTls, Arc<TlsSlot>)>,
        gate: Gate,
        target: watch::Receiver<Target>,
        health: Health,
    ) -> Self {
        let (client, tls) = tls.unzip();
        let forward = Forward::new(target, Channels::new(client.as_ref()), gate);
        Self { listener, tls, forward, health }
    }

    /// Serves until `stop` resolves, then finishes the calls in flight. `services` is absent on a node without the
    /// control role, which passes everything on.
    pub(super) async fn serve<C: Control>(
        self,
        services: Option<Services<C>>,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let unusable = |error: tonic_reflection::server::Error| ServeError::Reflection(error.to_string());
        let reflection = reflection_builder().build_v1().map_err(unusable)?;
        // What most tools speak still.
        let reflection_alpha = reflection_builder().build_v1alpha().map_err(unusable)?;
        let mut routes = Routes::new(health).add_service(reflection).add_service(reflection_alpha);
        if let Some(services) = services {
            routes = services.add_to(routes);
        }
        let router = transport::Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .layer(self.forward)
            .add_routes(routes);
        let serve = async {
            match self.tls {
                Some(tls) => {
                    router.serve_with_incoming_shutdown(listener::tls(self.listener, tls), stop).await?
                }
                None => router.serve_with_incoming_shutdown(listener::plain(self.listener), stop).await?,
            }
            Ok(())
        };
        tokio::select! {
            served = serve => served,
            never = report(reporter, self.health) => match never {},
        }
    }
}

impl<C: Control> Services<C> {
    fn add_to(self, routes: Routes) -> Routes {
        routes
            .add_service(PushesServer::new(self.clone()).max_decoding_message_size(REQUEST_LEN_MAX))
            .add_service(TerminalsServer::new(self.clone()).max_decoding_message_size(REQUEST_LEN_MAX))
            .add_service(AppsServer::new(self.clone()))
            .add_service(ClusterServer::new(self))
    }
}

fn reflection_builder() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Keeps `grpc.health.v1` equal to `/readyz`.
async fn report(reporter: HealthReporter, health: Health) -> std::convert::Infallible {
    let mut changes = health.watch();
    loop {
        let ready = changes.borrow_and_update().is_empty();
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status("", status).await;
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Keeps a target up to date with who leads; ends with the group.
pub async fn follow<C: Control>(control: C, target: watch::Sender<Target>) {
    let mut leadership = control.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        let next = target_of(now, &control.members());
        target.send_if_modified(|target| {
            let changed = *target != next;
            *target = next;
            changed
        });
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

fn target_of(leadership: Leadership, members: &[Member]) -> Target {
    if leadership.is_leader || members.is_empty() {
        return Target::Here;
    }
    let leader = leadership.leader.and_then(|leader| members.iter().find(|member| member.id == leader));
    match leader {
        Some(leader) => Target::Leader(Remote { api: leader.addresses.api.clone() }),
        None => Target::Nowhere,
    }
}
