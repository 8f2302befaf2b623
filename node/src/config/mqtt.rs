//! `[mqtt]`: listeners, who is let in, and what one terminal may use.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use cluster_proto::limits;

use super::{ByteSize, MQTT_PORT, everywhere};

/// `[mqtt]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Mqtt {
    pub address: Option<SocketAddr>,
    pub tls_address: Option<SocketAddr>,
    pub ws_address: Option<SocketAddr>,
    pub wss_address: Option<SocketAddr>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_certs_by_name: Vec<CertificatePair>,
    pub tls_client_ca: Option<PathBuf>,
    pub tls_client_auth: ClientAuth,
    pub tls_client_identity: ClientIdentity,
    pub proxy_protocol: ProxyProtocol,
    pub anonymous: bool,
    pub anonymous_sys: bool,
    pub shards: usize,
    pub connections_max: usize,
    pub connections_per_app: usize,
    pub connections_per_address: usize,
    pub connect_rate: u32,
    pub connect_rate_per_address: u32,
    pub handshakes_max: usize,
    pub connect_timeout: Duration,
    pub keep_alive_max: Duration,
    pub packet_size_max: ByteSize,
    pub publish_rate: u32,
    pub publish_bytes_rate: ByteSize,
    pub receive_max: u16,
    pub inflight_max: usize,
    pub topic_alias_max: u16,
    pub subscriptions_per_session: usize,
    pub session_expiry_max: Duration,
    pub retained_max: u64,
    pub retained_bytes_max: ByteSize,
    pub response_information: Option<String>,
    pub sys_interval: Duration,
}

/// A certificate chain and its key, `CERT.pem:KEY.pem` in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CertificatePair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Whether terminals must show a certificate, where they are asked for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// A connection without one is refused in the handshake.
    Required,
    /// One that is shown must be good.
    Optional,
}

/// What a verified client certificate says about the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientIdentity {
    /// Nothing: credentials are asked for all the same.
    None,
    /// Its common name is the terminal id.
    CommonName,
}

/// On which listeners every connection begins with a PROXY protocol header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ProxyProtocol {
    pub tcp: bool,
    pub tls: bool,
    pub ws: bool,
    pub wss: bool,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            address: Some(everywhere(MQTT_PORT)),
            tls_address: None,
            ws_address: None,
            wss_address: None,
            tls_cert: None,
            tls_key: None,
            tls_certs_by_name: Vec::new(),
            tls_client_ca: None,
            tls_client_auth: ClientAuth::Required,
            tls_client_identity: ClientIdentity::None,
            proxy_protocol: ProxyProtocol::default(),
            anonymous: false,
            anonymous_sys: false,
            shards: 0,
            connections_max: 1_000_000,
            connections_per_app: 0,
            connections_per_address: 0,
            connect_rate: 20_000,
            connect_rate_per_address: 2_000,
            handshakes_max: 4_096,
            connect_timeout: Duration::from_secs(10),
            keep_alive_max: Duration::ZERO,
            packet_size_max: ByteSize(limits::MQTT_PACKET_LEN_MAX as u64),
            publish_rate: 0,
            publish_bytes_rate: ByteSize(0),
            receive_max: 128,
            inflight_max: limits::INFLIGHT_PER_TERMINAL_MAX,
            topic_alias_max: 32,
            subscriptions_per_session: limits::SUBSCRIPTIONS_PER_SESSION_MAX,
            session_expiry_max: limits::SESSION_EXPIRY_MAX,
            retained_max: 1_000_000,
            retained_bytes_max: ByteSize::mib(1_024),
            response_information: None,
            sys_interval: Duration::from_secs(10),
        }
    }
}

impl Mqtt {
    /// The listeners that are on, with their settings.
    pub(super) fn listeners(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let all = [
            ("mqtt.address", self.address),
            ("mqtt.tls_address", self.tls_address),
            ("mqtt.ws_address", self.ws_address),
            ("mqtt.wss_address", self.wss_address),
        ];
        all.into_iter().filter_map(|(key, address)| Some((key, address?)))
    }

    /// Whether anything is served over TLS.
    pub fn has_tls(&self) -> bool {
        self.tls_address.is_some() || self.wss_address.is_some()
    }
}
