//! One QUIC endpoint per node: server and client at once, mutual TLS under the cluster's authority.
//!
//! Both ends of every connection are nodes whose certificate allows the conversation: who dials must have the
//! role the ALPN asks for ([`Alpn::admits`]), who answers must be a control node. So an edge can neither speak
//! Raft nor pose as a leader.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use cluster_proto::{link, raft_rpc};
use quinn::crypto::rustls::HandshakeData;
use rustls::{pki_types::CertificateDer, server::VerifierBuilderError};
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
    setup,
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
        let roots = Arc::new(setup::roots(certificates)?);
        let server =
            if alpns.is_empty() { None } else { Some(setup::server_config(certificates, &roots, alpns)?) };
        let socket = setup::udp_socket(address).map_err(|source| BindError::Socket { address, source })?;
        let quic = quinn::Endpoint::new(
            setup::endpoint_config(certificates),
            server,
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(|source| BindError::Socket { address, source })?;
        let (sender, accepted) = mpsc::channel(ACCEPTED_MAX);
        tokio::spawn(accept_loop(quic.clone(), sender));
        Ok(Self(Arc::new(Inner {
            quic,
            raft: setup::client_config(certificates, &roots, Alpn::Raft)?,
            link: setup::client_config(certificates, &roots, Alpn::Link)?,
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
