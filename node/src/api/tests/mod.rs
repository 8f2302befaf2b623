//! The API over tables in memory: real servers, real connections, and a control group that does what a test asks.

mod batches;
mod command_line;
mod fake;
mod forward;
mod services;
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cluster_proto::credential::{AUDIENCE_API, ApiClaims, Scope};
use tokio::{net::TcpListener, runtime, sync::watch};
use tonic::{Request, transport::Channel};

use self::fake::Fake;
use super::{
    Gate, Remote, Target, listener,
    server::{Bound, PushLimits, ServerTls, Services},
};
use crate::{
    auth::{self, Keyring},
    telemetry::Health,
    transport::tls::{Loaded, TlsSlot},
};

const LIMITS: PushLimits =
    PushLimits { ttl_default: Duration::from_secs(3_600), ttl_max: Duration::from_secs(86_400) };

/// One node's API.
struct Node {
    address: SocketAddr,
    target: watch::Sender<Target>,
    /// Its own, so that all of it can end at once, connections included.
    runtime: Option<runtime::Runtime>,
    fake: Fake,
}

impl Node {
    fn start(fake: Fake, target: Target) -> Self {
        Self::start_with(fake, target, None)
    }

    fn start_with(fake: Fake, target: Target, tls: Option<ServerTls>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("address");
        let runtime =
            runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let (target, watched) = watch::channel(target);
        let gate = Gate::new(Keyring::new(vec![auth::public_key(&fake.key())]));
        let services = Services::new(fake.clone(), gate.clone(), LIMITS);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("listener");
            let tls = tls.map(|tls| (tls.clone(), slot(tls)));
            let bound = Bound::new(listener, tls, gate, watched, Health::new(&[]));
            bound.serve(Some(services), std::future::pending()).await.expect("serve");
        });
        Self { address, target, runtime: Some(runtime), fake }
    }

    /// A node that leads.
    fn leading(fake: Fake) -> Self {
        Self::start(fake, Target::Here)
    }

    /// A node that passes calls on to another.
    fn behind(leader: &Self) -> Self {
        Self::start(leader.fake.other(), leader.remote())
    }

    fn remote(&self) -> Target {
        Target::Leader(Remote { api: self.address.to_string() })
    }

    /// As by SIGKILL: connections break, nothing is answered.
    fn kill(self) -> Fake {
        self.fake.clone()
    }

    async fn channel(&self) -> Channel {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.address));
        endpoint.expect("endpoint").connect().await.expect("connect")
    }
}

fn slot(tls: ServerTls) -> Arc<TlsSlot> {
    let load = move || Ok(Loaded { config: listener::config(&tls)?, certificates: Vec::new() });
    TlsSlot::new("api", load).expect("certificates")
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A request with a token of these scopes, for all apps or for one.
fn with<M>(fake: &Fake, scopes: &[Scope], app: Option<&str>, message: M) -> Request<M> {
    let mut request = Request::new(message);
    let token = token(fake, scopes, app);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
    request
}

fn token(fake: &Fake, scopes: &[Scope], app: Option<&str>) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("time").as_secs();
    let claims = ApiClaims {
        aud: AUDIENCE_API.to_owned(),
        sub: "test".to_owned(),
        app: app.map(str::to_owned),
        app_id: None,
        scopes: scopes.to_vec(),
        iat: now,
        exp: now + 60,
    };
    auth::issue_api(&fake.key(), &claims).expect("issue")
}

fn admin<M>(fake: &Fake, message: M) -> Request<M> {
    with(fake, &[Scope::Admin], None, message)
}
