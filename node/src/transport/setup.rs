//! How the endpoint is set up: TLS on both sides, QUIC's limits, the UDP socket.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use quinn::{
    VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustls::{RootCertStore, crypto::CryptoProvider, server::WebPkiClientVerifier};
use tracing::debug;

use super::{
    certs::Certificates,
    quic::{Alpn, BindError},
};

/// First packets kept while their handshakes wait for the accept loop, which never waits itself.
const INCOMING_MAX: usize = 512;
/// Measured: 25 % more throughput on loopback and no loss. The kernel may give less.
const SOCKET_BUFFER_LEN: usize = 4 * 1024 * 1024;
/// The link uses six streams, Raft two and its snapshots; the rest is room.
const STREAMS_MAX: u32 = 32;
/// Silence after which a connection is lost. quinn sends no keep-alives by itself, so each interval is a quarter.
/// Raft notices sooner than the link: its calls time out one by one until it dials again.
const RAFT_IDLE_MAX: Duration = Duration::from_secs(3);
const LINK_IDLE_MAX: Duration = Duration::from_secs(10);
/// Until it is measured. quinn assumes 333 ms and repeats a lost first packet after three times that; members that
/// restart are dialled while they are down, and wanted back sooner.
const INITIAL_RTT: Duration = Duration::from_millis(50);

/// The cryptography of every TLS connection of the process. ring: within QUIC as fast as aws-lc-rs, and its first
/// handshake takes 1 to 6 ms instead of 90 to 100.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) fn roots(certificates: &Certificates) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for ca in &certificates.ca {
        roots.add(ca.clone())?;
    }
    Ok(roots)
}

pub(super) fn server_config(
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
    config.transport_config(Arc::new(transport_config(LINK_IDLE_MAX))).max_incoming(INCOMING_MAX);
    Ok(config)
}

pub(super) fn client_config(
    certificates: &Certificates,
    roots: &Arc<RootCertStore>,
    alpn: Alpn,
) -> Result<quinn::ClientConfig, BindError> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(certificates.chain.clone(), certificates.key.clone_key())?;
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    let crypto = QuicClientConfig::try_from(tls).map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let idle_max = match alpn {
        Alpn::Raft => RAFT_IDLE_MAX,
        Alpn::Link => LINK_IDLE_MAX,
    };
    config.transport_config(Arc::new(transport_config(idle_max)));
    Ok(config)
}

/// Windows stay at quinn's defaults: larger ones measured slower. Segmentation offload is on by default, and is
/// worth a factor of 2.6.
fn transport_config(idle_max: Duration) -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    config
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
pub(super) fn endpoint_config(certificates: &Certificates) -> quinn::EndpointConfig {
    let seed = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, certificates.key.secret_der());
    let secret = ring::hmac::sign(&seed, b"carillon stateless reset");
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_ref());
    let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(|| Box::new(RandomConnectionIds(StdRng::from_os_rng())));
    config
}

/// quinn's own generator marks its ids with a key of the process and drops unknown ones silently: after a restart
/// peers would get no reset.
#[derive(Debug)]
struct RandomConnectionIds(StdRng);

impl quinn::ConnectionIdGenerator for RandomConnectionIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&self.0.random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

pub(super) fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
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
