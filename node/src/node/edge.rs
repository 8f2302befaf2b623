//! The edge of a node, as its config says.

use std::sync::Arc;

use anyhow::Context as _;
use fabric_core::mqtt::SessionConfig;
use tokio::task::JoinHandle;

use super::{millis, watch_edge};
use crate::{
    auth::Keyring,
    config::{ClientAuth, ClientIdentity, Config},
    edge::{self, EdgeHandle, EdgeOptions, GateLimits, Kind, Limits, Listener, Listeners},
    telemetry::Health,
    transport::{
        Endpoint,
        tls::{Clients, TerminalTls, TlsSlot},
    },
};

/// Starts it; `tls` is what [`mqtt_tls`] made.
pub(super) async fn start(
    config: &Config,
    tls: Option<Arc<TlsSlot>>,
    endpoint: &Endpoint,
    keyring: Keyring,
    health: &Health,
    background: &mut Vec<JoinHandle<()>>,
) -> anyhow::Result<EdgeHandle> {
    let advertised = config.advertised();
    let mut control_seeds = config.cluster.seeds.clone();
    if config.node.roles.control {
        control_seeds.insert(0, advertised.link.clone());
    }
    let options = EdgeOptions {
        node: config.node_id(),
        addresses: advertised,
        listeners: listeners(config, tls),
        control_seeds,
        shards: config.mqtt.shards,
        anonymous: config.mqtt.anonymous,
        limits: limits(config),
    };
    // The edge's keys come over the link, with or without a control role beside it.
    let edge = edge::start(options, endpoint.clone(), Arc::new(keyring)).await?;
    background.push(tokio::spawn(watch_edge(edge.ready(), health.clone())));
    Ok(edge)
}

/// The config is checked: every value fits.
fn limits(config: &Config) -> Limits {
    let mqtt = &config.mqtt;
    let session = SessionConfig {
        connect_timeout_ms: millis(mqtt.connect_timeout),
        session_expiry_s_max: u32::try_from(mqtt.session_expiry_max.as_secs()).unwrap_or(u32::MAX),
        packet_len_max: u32::try_from(mqtt.packet_size_max.0).unwrap_or(u32::MAX),
        inflight_max: u16::try_from(mqtt.inflight_max).unwrap_or(u16::MAX),
        receive_maximum: mqtt.receive_max,
        topic_alias_maximum: mqtt.topic_alias_max,
        subscriptions_max: mqtt.subscriptions_per_session,
        response_information: mqtt.response_information.clone(),
        ..SessionConfig::default()
    };
    Limits {
        connections_max: mqtt.connections_max,
        connections_per_app: mqtt.connections_per_app,
        gate: GateLimits {
            connect_rate: mqtt.connect_rate,
            connect_rate_per_address: mqtt.connect_rate_per_address,
            connections_per_address: mqtt.connections_per_address,
            handshakes_max: mqtt.handshakes_max,
        },
        certificates_let_in: mqtt.tls_client_identity == ClientIdentity::CommonName,
        publish_rate: mqtt.publish_rate,
        publish_bytes_rate: mqtt.publish_bytes_rate.0,
        keep_alive_s_max: u16::try_from(mqtt.keep_alive_max.as_secs()).unwrap_or(u16::MAX),
        sys_interval: mqtt.sys_interval,
        anonymous_sys: mqtt.anonymous_sys,
        session,
        ..Limits::default()
    }
}

/// Where terminals connect, as the config says.
fn listeners(config: &Config, tls: Option<Arc<TlsSlot>>) -> Listeners {
    let (mqtt, proxy) = (&config.mqtt, config.mqtt.proxy_protocol);
    let all = [
        (Kind::Tcp, mqtt.address, proxy.tcp),
        (Kind::Tls, mqtt.tls_address, proxy.tls),
        (Kind::Ws, mqtt.ws_address, proxy.ws),
        (Kind::Wss, mqtt.wss_address, proxy.wss),
    ];
    let on = |(kind, address, proxy_protocol)| Some(Listener { kind, address: address?, proxy_protocol });
    Listeners { listeners: all.into_iter().filter_map(on).collect(), tls }
}

/// What terminals see on the listeners with TLS: certificates of their own, or else the node's.
pub(super) fn mqtt_tls(config: &Config) -> anyhow::Result<Option<Arc<TlsSlot>>> {
    let mqtt = &config.mqtt;
    if !mqtt.has_tls() {
        return Ok(None);
    }
    let own = mqtt.tls_cert.clone().zip(mqtt.tls_key.clone());
    let default = own.or_else(|| config.tls.cert.clone().zip(config.tls.key.clone()));
    let clients = mqtt.tls_client_ca.clone().map(|ca| {
        let required = mqtt.tls_client_auth == ClientAuth::Required;
        Clients { ca, required }
    });
    let tls = TerminalTls {
        default: default.context("MQTT over TLS needs mqtt.tls_cert or tls.cert")?,
        by_name: mqtt.tls_certs_by_name.iter().map(|pair| (pair.cert.clone(), pair.key.clone())).collect(),
        clients,
    };
    Ok(Some(TlsSlot::new("mqtt", move || tls.load())?))
}
