//! One QUIC endpoint per node: server and client at once, mutual TLS under the cluster's authority.
//!
//! Both ends of every connection are nodes whose certificate allows the conversation: who dials must have the
//! role the ALPN asks for ([`Alpn::admits`]), who answers must be a control node. So an edge can neither speak
//! Raft nor pose as a leader.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use cluster_proto::{link, raft_rpc};
use quinn::{
    VarInt,
    crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
};
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::CertificateDer,
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use tokio::{
    net::lookup_host,
    runtime::Handle,
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    certs::{Certificates, SERVER_NAME},
    identity::{Identity, IdentityError, Peer, Roles},
};

/// Handshakes that may be under way; further ones are refused before any cryptography, and the dialler comes
/// again. A signature and a verification each: 256 is a fraction of a second of one core.
const HANDSHAKES_MAX: usize = 256;
/// Connections open at once: 1,000 links, Raft between all members, and as much again for reconnect storms.
const CONNECTIONS_MAX: usize = 4_096;
/// Connections that finished their handshake and were not taken from [`Endpoint::accept`] yet. When full, the
/// handshakes behind keep their permits, and new ones are refused.
const ACCEPTED_MAX: usize = 64;
/// A handshake takes 1 to 6 ms when nothing else runs.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Close waits this long for peers to hear of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Measured: 25 % more throughput on loopback and no loss. The kernel may give less.
const SOCKET_BUFFER_LEN: usize = 4 * 1024 * 1024;
/// The link uses six streams, Raft two and its snapshots; the rest is room.
const STREAMS_MAX: u32 = 32;
/// Silence after which a connection is lost. quinn sends no keep-alives by itself, so each interval is a quarter.
/// Raft notices sooner than the link: its calls time out one by one until it dials again.
const RAFT_IDLE_MAX: Duration = Duration::from_secs(3);
const LINK_IDLE_MAX: Duration = Duration::from_secs(10);

/// Until it is measured.
const INITIAL_RTT: Duration = Duration::from_millis(50);

/// What a connection is closed with.
pub mod close {
    use quinn::VarInt;

    /// The node goes down, or has no more use for the connection.
    pub const DONE: VarInt = VarInt::from_u32(0);
    /// The peer may not do this.
    pub const REFUSED: VarInt = VarInt::from_u32(1);
    /// The peer broke the protocol.
    pub const PROTOCOL: VarInt = VarInt::from_u32(2);
    /// Not now; come again.
    pub const BUSY: VarInt = VarInt::from_u32(3);
}

/// The conversations nodes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// Raft between control nodes.
    Raft,
    /// An edge's link to the leader.
    Link,
}

/// An authenticated connection, dialled or accepted.
#[derive(Clone, Debug)]
pub struct Connection {
    /// What is spoken.
    pub alpn: Alpn,
    /// The other side, by its certificate.
    pub peer: Identity,
    /// The connection.
    pub quic: quinn::Connection,
}

/// The node's QUIC socket. Cheap to clone; sockets and connections live on the runtime it was bound in.
#[derive(Clone, Debug)]
pub struct Endpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    quic: quinn::Endpoint,
    raft: quinn::ClientConfig,
    link: quinn::ClientConfig,
    accepted: Mutex<mpsc::Receiver<Connection>>,
    runtime: Handle,
}

/// Why an endpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The socket.
    #[error("listen on UDP {address}: {source}")]
    Socket {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The certificate is an operator's.
    #[error("the certificate is not a node's")]
    NotANode,
    /// The authority's certificate cannot verify clients.
    #[error("the authority certificate is not usable: {0}")]
    Authority(#[from] VerifierBuilderError),
    /// Key and certificate do not belong together, or are of a kind TLS does not know.
    #[error("the node certificate is not usable: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why a node cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name leads nowhere.
    #[error("resolve {address:?}: {source}")]
    Resolve {
        /// As given.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Resolved, but none of the addresses let us through; the last failure.
    #[error("connect to {address}: {reason}")]
    Failed {
        /// The address.
        address: SocketAddr,
        /// Why not.
        reason: String,
    },
    /// The name has no address.
    #[error("{0:?} has no address")]
    NoAddress(String),
    /// Somebody answered who may not.
    #[error("{address} answered as {peer}, which is not a control node")]
    NotControl {
        /// As given.
        address: String,
        /// Who.
        peer: Identity,
    },
    /// Somebody answered who is not a node.
    #[error("{address} answered with a certificate of no node: {source}")]
    Identity {
        /// As given.
        address: String,
        /// What is wrong with it.
        source: PeerError,
    },
}

/// Why the other side of a connection is nobody.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Unreadable name.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An operator: that certificate is for the API.
    #[error("an operator certificate cannot speak for a node")]
    Operator,
    /// Its roles do not allow what it asked for.
    #[error("{peer} may not speak {alpn}")]
    Role {
        /// Who.
        peer: Identity,
        /// What.
        alpn: &'static str,
    },
    /// An ALPN nobody configured; TLS refuses it before we see it.
    #[error("unknown protocol")]
    Alpn,
}

impl Alpn {
    /// Its name on the wire.
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Raft => raft_rpc::ALPN,
            Self::Link => link::ALPN,
        }
    }

    /// Whether a node with these roles may dial with it.
    pub fn admits(self, roles: Roles) -> bool {
        match self {
            Self::Raft => roles.control,
            Self::Link => roles.edge,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Link => "link",
        }
    }

    fn from_bytes(name: &[u8]) -> Option<Self> {
        [Self::Raft, Self::Link].into_iter().find(|alpn| alpn.as_bytes() == name)
    }
}

impl Endpoint {
    /// Opens the socket and accepts connections of `alpns`; without any it only dials. Must be called in a tokio
    /// runtime, which then drives the socket and every connection, dialled ones too, wherever
    /// [`Endpoint::connect`] is called.
    pub fn bind(address: SocketAddr, certificates: &Certificates, alpns: &[Alpn]) -> Result<Self, BindError> {
        if certificates.identity().is_none() {
            return Err(BindError::NotANode);
        }
        let roots = Arc::new(roots(certificates)?);
        let server = if alpns.is_empty() { None } else { Some(server_config(certificates, &roots, alpns)?) };
        let socket = udp_socket(address).map_err(|source| BindError::Socket { address, source })?;
        let quic = quinn::Endpoint::new(
            endpoint_config(certificates),
            server,
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(|source| BindError::Socket { address, source })?;
        let (sender, accepted) = mpsc::channel(ACCEPTED_MAX);
        tokio::spawn(accept_loop(quic.clone(), sender));
        Ok(Self(Arc::new(Inner {
            quic,
            raft: client_config(certificates, &roots, Alpn::Raft, RAFT_IDLE_MAX)?,
            link: client_config(certificates, &roots, Alpn::Link, LINK_IDLE_MAX)?,
            accepted: Mutex::new(accepted),
            runtime: Handle::current(),
        })))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.quic.local_addr()
    }

    /// The runtime that drives it.
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Dials the control node at `address` (`host:port`). Each address of a name is tried in turn.
    pub async fn connect(&self, address: &str, alpn: Alpn) -> Result<Connection, ConnectError> {
        let resolved = lookup_host(address)
            .await
            .map_err(|source| ConnectError::Resolve { address: address.to_owned(), source })?;
        let mut failure = ConnectError::NoAddress(address.to_owned());
        for socket_address in resolved {
            match self.dial(socket_address, alpn).await {
                Ok(quic) => return dialled(address, alpn, quic),
                Err(reason) => failure = ConnectError::Failed { address: socket_address, reason },
            }
        }
        Err(failure)
    }

    async fn dial(&self, address: SocketAddr, alpn: Alpn) -> Result<quinn::Connection, String> {
        let config = match alpn {
            Alpn::Raft => &self.0.raft,
            Alpn::Link => &self.0.link,
        };
        let connecting = {
            let _runtime = self.0.runtime.enter();
            self.0.quic.connect_with(config.clone(), address, SERVER_NAME).map_err(|e| e.to_string())?
        };
        match timeout(HANDSHAKE_TIMEOUT, connecting).await {
            Ok(result) => result.map_err(|e| e.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    /// The next connection a peer opened, authenticated; `None` once the endpoint is closed. Several tasks may
    /// wait; each connection goes to one.
    pub async fn accept(&self) -> Option<Connection> {
        self.0.accepted.lock().await.recv().await
    }

    /// Closes every connection and waits, bounded, until the peers were told.
    pub async fn close(&self) {
        self.0.quic.close(close::DONE, b"going down");
        if timeout(CLOSE_TIMEOUT, self.0.quic.wait_idle()).await.is_err() {
            debug!("some peers did not confirm the close");
        }
    }
}

/// The cryptography of every TLS connection of the process. ring: within QUIC as fast as aws-lc-rs, and its first
/// handshake takes 1 to 6 ms instead of 90 to 100.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn dialled(address: &str, alpn: Alpn, quic: quinn::Connection) -> Result<Connection, ConnectError> {
    match peer_of(&quic) {
        Ok(peer) if peer.roles.control => Ok(Connection { alpn, peer, quic }),
        Ok(peer) => {
            quic.close(close::REFUSED, b"not a control node");
            Err(ConnectError::NotControl { address: address.to_owned(), peer })
        }
        Err(source) => {
            quic.close(close::REFUSED, b"not a node");
            Err(ConnectError::Identity { address: address.to_owned(), source })
        }
    }
}

/// Ends with the endpoint. Never waits for a handshake, so that a slow or hostile peer holds up nobody.
async fn accept_loop(endpoint: quinn::Endpoint, accepted: mpsc::Sender<Connection>) {
    let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = endpoint.accept().await {
        if endpoint.open_connections() >= CONNECTIONS_MAX {
            incoming.refuse();
            continue;
        }
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        // Half full may be a flood with forged addresses: from here on a round trip must prove them.
        if permits.available_permits() < HANDSHAKES_MAX / 2 && incoming.may_retry() {
            // Fails only where `may_retry` is false.
            let _ = incoming.retry();
            continue;
        }
        tokio::spawn(handshake(incoming, permit, accepted.clone()));
    }
}

async fn handshake(
    incoming: quinn::Incoming,
    permit: OwnedSemaphorePermit,
    accepted: mpsc::Sender<Connection>,
) {
    let remote = incoming.remote_address();
    let quic = match timeout(HANDSHAKE_TIMEOUT, incoming).await {
        Ok(Ok(quic)) => quic,
        Ok(Err(reason)) => return debug!(%remote, %reason, "handshake failed"),
        Err(_) => return debug!(%remote, "handshake took too long"),
    };
    match admitted(&quic) {
        // The error is the connection itself: nobody accepts any more.
        Ok((alpn, peer)) => drop(accepted.send(Connection { alpn, peer, quic }).await),
        Err(reason) => {
            warn!(%remote, %reason, "connection refused");
            quic.close(close::REFUSED, reason.to_string().as_bytes());
        }
    }
    drop(permit);
}

fn admitted(quic: &quinn::Connection) -> Result<(Alpn, Identity), PeerError> {
    let alpn = alpn_of(quic).ok_or(PeerError::Alpn)?;
    let peer = peer_of(quic)?;
    if !alpn.admits(peer.roles) {
        return Err(PeerError::Role { peer, alpn: alpn.name() });
    }
    Ok((alpn, peer))
}

fn alpn_of(quic: &quinn::Connection) -> Option<Alpn> {
    let data = quic.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Alpn::from_bytes(&data.protocol?)
}

fn peer_of(quic: &quinn::Connection) -> Result<Identity, PeerError> {
    let chain = quic.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let Some(certificate) = chain.as_ref().and_then(|chain| chain.first()) else {
        return Err(IdentityError::NoName.into());
    };
    match Peer::from_certificate(certificate)? {
        Peer::Node(identity) => Ok(identity),
        Peer::Operator => Err(PeerError::Operator),
    }
}

fn roots(certificates: &Certificates) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for ca in &certificates.ca {
        roots.add(ca.clone())?;
    }
    Ok(roots)
}

fn server_config(
    certificates: &Certificates,
    roots: &Arc<RootCertStore>,
    alpns: &[Alpn],
) -> Result<quinn::ServerConfig, BindError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider()).build()?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates.chain.clone(), certificates.key.clone_key())?;
    tls.alpn_protocols = alpns.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    // Every connection proves its certificate anew: an expired one must not live on in tickets. No 0-RTT: its
    // data can be replayed.
    tls.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(tls).map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    // The dialler's idle time decides, being the shorter one.
    config.transport_config(Arc::new(transport_config(LINK_IDLE_MAX))).max_incoming(2 * HANDSHAKES_MAX);
    Ok(config)
}

fn client_config(
    certificates: &Certificates,
    roots: &Arc<RootCertStore>,
    alpn: Alpn,
    idle_max: Duration,
) -> Result<quinn::ClientConfig, BindError> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(certificates.chain.clone(), certificates.key.clone_key())?;
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    let crypto = QuicClientConfig::try_from(tls).map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport_config(idle_max)));
    Ok(config)
}

/// Windows stay at quinn's defaults: larger ones measured slower. Segmentation offload is on by default, and is
/// worth a factor of 2.6.
fn transport_config(idle_max: Duration) -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    config
        // quinn assumes 333 ms and repeats a lost first packet after three times that; members that restart are
        // dialled while they are down, and wanted back sooner.
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(idle_max / 4))
        // Cannot fail: the limit is 2^62 ms.
        .max_idle_timeout(idle_max.try_into().ok());
    config
}

/// The reset key is the same after a restart (it comes from the private key), so peers of the earlier life learn
/// within a round trip that it is over, instead of waiting for silence.
fn endpoint_config(certificates: &Certificates) -> quinn::EndpointConfig {
    let seed = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, certificates.key.secret_der());
    let secret = ring::hmac::sign(&seed, b"carillon stateless reset");
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_ref());
    let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(|| Box::new(RandomConnectionIds));
    config
}

/// quinn's own generator marks its ids with a key of the process and drops unknown ones silently: after a restart
/// peers would get no reset.
#[derive(Debug)]
struct RandomConnectionIds;

impl quinn::ConnectionIdGenerator for RandomConnectionIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&rand::random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // The kernel caps these (net.core.rmem_max, wmem_max) without an error; less only costs throughput.
    socket.set_recv_buffer_size(SOCKET_BUFFER_LEN)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_LEN)?;
    if let Ok(len) = socket.recv_buffer_size()
        && len < SOCKET_BUFFER_LEN
    {
        debug!(len, wanted = SOCKET_BUFFER_LEN, "the kernel gives smaller UDP buffers (net.core.rmem_max)");
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}
