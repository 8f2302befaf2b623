//! What MQTT is carried over, from TCP to CONNACK: real sockets, a leader in memory, and clients that misbehave.

mod gate;
mod process;
mod proxy;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "the tests of the edge use the rest")]
mod support;
mod tls;
mod wire;
mod ws;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use carillon::{
    auth::Keyring,
    edge::{self, EdgeHandle, EdgeOptions, GateLimits, Kind, Limits, Listener, Listeners},
    transport::{
        Endpoint, Roles,
        certs::{self, CertificatePaths, Certificates},
        tls::{Clients, TerminalTls, TlsSlot},
    },
};
use cluster_proto::{NodeId, link::NodeAddresses};
use fabric_core::mqtt::SessionConfig;
use support::leader::FakeLeader;

const KINDS: [Kind; 4] = [Kind::Tcp, Kind::Tls, Kind::Ws, Kind::Wss];

/// An edge with every listener, and what its clients need.
struct Fixture {
    edge: EdgeHandle,
    tls: Arc<TlsSlot>,
    dir: tempfile::TempDir,
    _leader: FakeLeader,
}

#[derive(Default)]
struct Setting {
    gate: GateLimits,
    connect_timeout: Option<Duration>,
    packet_len_max: Option<u32>,
    proxy_protocol: bool,
    /// Instead of anonymous access.
    certificates_let_in: bool,
    /// Certificates by name, and of clients; made in the directory of the fixture.
    tls: Option<fn(&Path) -> TerminalTls>,
}

fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A directory of its own for another authority, with a certificate for `hosts`.
fn certificate(dir: &Path, hosts: &[&str]) -> CertificatePaths {
    std::fs::create_dir_all(dir).expect("directory");
    certs::write_authority(dir).expect("authority");
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    certs::write_node(dir, NodeId(7), Roles::EDGE, &hosts).expect("certificate")
}

fn default_tls(dir: &Path) -> TerminalTls {
    let paths = CertificatePaths::in_dir(dir, "node-2");
    TerminalTls { default: (paths.cert, paths.key), by_name: Vec::new(), clients: None }
}

impl Fixture {
    async fn new() -> Self {
        Self::with(Setting::default()).await
    }

    async fn with(setting: Setting) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let certificates = |node| Certificates::ephemeral(dir.path(), NodeId(node)).expect("certificates");
        let own = certificates(2);
        let terminal_tls = setting.tls.unwrap_or(default_tls)(dir.path());
        let tls = TlsSlot::new("mqtt", move || terminal_tls.load()).expect("TLS");
        let leader = FakeLeader::start(&certificates(1), Vec::new()).await;
        let listener = |kind| Listener { kind, address: localhost(), proxy_protocol: setting.proxy_protocol };
        let mut session = SessionConfig::default();
        session.connect_timeout_ms = setting.connect_timeout.map_or(20_000, |time| time.as_millis() as u64);
        session.packet_len_max = setting.packet_len_max.unwrap_or(session.packet_len_max);
        let options = EdgeOptions {
            node: NodeId(2),
            addresses: NodeAddresses::default(),
            listeners: Listeners { listeners: KINDS.map(listener).to_vec(), tls: Some(Arc::clone(&tls)) },
            control_seeds: vec![leader.address.to_string()],
            shards: 2,
            anonymous: !setting.certificates_let_in,
            limits: Limits {
                gate: setting.gate,
                certificates_let_in: setting.certificates_let_in,
                session,
                ..Limits::default()
            },
        };
        let endpoint = Endpoint::bind(localhost(), &own, &[]).expect("bind");
        let edge = edge::start(options, endpoint, Arc::new(Keyring::default())).await.expect("start");
        edge.ready().wait_for(|ready| *ready).await.expect("ready");
        Self { edge, tls, dir, _leader: leader }
    }

    fn address(&self, kind: Kind) -> SocketAddr {
        self.edge.address(kind).expect("listens")
    }

    fn ca(&self) -> std::path::PathBuf {
        self.dir.path().join(certs::AUTHORITY_FILE)
    }
}
