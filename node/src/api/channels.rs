//! Connections to the API of other nodes, kept and shared.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::server::ServerTls;

/// A leader that does not even accept within this is tried no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A stopped or unreachable leader is noticed by unanswered pings.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The leader's answers to 100,000 ids in flight for many callers at once.
const WINDOW: u32 = 1 << 20;
/// More nodes than any control group has; addresses of nodes that left are forgotten beyond it.
const CHANNELS_MAX: usize = 64;

/// Channels by address.
#[derive(Clone)]
pub(super) struct Channels {
    tls: Option<ClientTlsConfig>,
    open: Arc<Mutex<HashMap<String, Channel>>>,
}

impl Channels {
    pub(super) fn new(tls: Option<&ServerTls>) -> Self {
        Self { tls: tls.map(client_tls), open: Arc::default() }
    }

    /// The channel to `address`; it connects when it is first used, and again when it broke.
    pub(super) fn to(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(address) {
            return Ok(channel.clone());
        }
        if open.len() >= CHANNELS_MAX {
            open.clear();
        }
        let channel = self.endpoint(address)?.connect_lazy();
        open.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, tonic::transport::Error> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW)
            .tcp_nodelay(true);
        match &self.tls {
            Some(tls) => endpoint.tls_config(tls.clone()),
            None => Ok(endpoint),
        }
    }
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channels").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// With this node's own certificate, so that the leader knows a node when it hears one. Verified is the fixed name
/// that every node certificate carries, never an address.
fn client_tls(tls: &ServerTls) -> ClientTlsConfig {
    ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&tls.ca))
        .identity(Identity::from_pem(&tls.node_cert, &tls.node_key))
        .domain_name(super::server::NODE_NAME)
}
