//! `[mqtt]`.

use std::time::Duration;

use cluster_proto::limits;

use super::Check;
use crate::config::{ClientIdentity, Config, Mqtt};

/// Aliases a connection keeps cost memory while it is idle.
const TOPIC_ALIAS_MAX: u16 = 1_024;
/// Certificates are read as a whole at every reload.
const CERTIFICATES_MAX: usize = 1_024;

impl Check {
    pub(super) fn mqtt(&mut self, mqtt: &Mqtt) {
        self.connections(mqtt);
        self.sessions(mqtt);
        self.packets(mqtt);
        self.that(mqtt.shards <= 1_024, || "`mqtt.shards` must be at most 1024".to_owned());
        self.that(mqtt.sys_interval.is_zero() || mqtt.sys_interval >= Duration::from_secs(1), || {
            "`mqtt.sys_interval` must be at least 1s, or 0s for never".to_owned()
        });
    }

    fn connections(&mut self, mqtt: &Mqtt) {
        self.that(mqtt.connections_max > 0, || {
            "`mqtt.connections_max` is zero: nobody could connect".to_owned()
        });
        self.that(mqtt.handshakes_max > 0, || {
            "`mqtt.handshakes_max` is zero: nobody could connect".to_owned()
        });
        let seconds = Duration::from_secs(1)..=Duration::from_secs(300);
        self.that(seconds.contains(&mqtt.connect_timeout), || {
            "`mqtt.connect_timeout` must be 1s to 5m".to_owned()
        });
        let most = Duration::from_secs(u64::from(u16::MAX));
        let is_whole = mqtt.keep_alive_max.subsec_nanos() == 0;
        self.that(mqtt.keep_alive_max <= most && is_whole, || {
            format!("`mqtt.keep_alive_max` must be whole seconds, 0s (any) to {}s", u16::MAX)
        });
    }

    fn sessions(&mut self, mqtt: &Mqtt) {
        self.that(mqtt.session_expiry_max <= limits::SESSION_EXPIRY_MAX, || {
            format!(
                "`mqtt.session_expiry_max` is too long: the most is {}d",
                limits::SESSION_EXPIRY_MAX.as_secs() / 86_400
            )
        });
        let most = limits::SUBSCRIPTIONS_PER_SESSION_MAX;
        self.that((1..=most).contains(&mqtt.subscriptions_per_session), || {
            format!("`mqtt.subscriptions_per_session` must be 1 to {most}")
        });
        self.that((1..=limits::INFLIGHT_PER_TERMINAL_MAX).contains(&mqtt.inflight_max), || {
            format!("`mqtt.inflight_max` must be 1 to {}", limits::INFLIGHT_PER_TERMINAL_MAX)
        });
        self.that(mqtt.receive_max > 0, || "`mqtt.receive_max` must be 1 to 65535".to_owned());
    }

    fn packets(&mut self, mqtt: &Mqtt) {
        let most = limits::MQTT_PACKET_LEN_MAX as u64;
        self.that((1_024..=most).contains(&mqtt.packet_size_max.0), || {
            format!("`mqtt.packet_size_max` must be 1KB to {}KB", most / 1_024)
        });
        self.that(mqtt.topic_alias_max <= TOPIC_ALIAS_MAX, || {
            format!("`mqtt.topic_alias_max` must be 0 to {TOPIC_ALIAS_MAX}")
        });
        let topic = mqtt.response_information.as_deref().unwrap_or_default();
        let most = limits::TOPIC_LEN_MAX;
        self.that(topic.len() <= most && !topic.contains(['#', '+', '\0']), || {
            format!(
                "`mqtt.response_information` must be the start of a topic: no wildcards, at most {most} bytes"
            )
        });
    }

    pub(super) fn certificates(&mut self, config: &Config) {
        let mqtt = &config.mqtt;
        self.that(mqtt.tls_client_ca.is_some() || mqtt.tls_client_identity == ClientIdentity::None, || {
            "`mqtt.tls_client_identity` needs `mqtt.tls_client_ca`: whose certificates are believed"
                .to_owned()
        });
        self.that(mqtt.tls_certs_by_name.len() <= CERTIFICATES_MAX, || {
            format!("`mqtt.tls_certs_by_name` has too many: the most is {CERTIFICATES_MAX}")
        });
        self.that(mqtt.tls_cert.is_some() == mqtt.tls_key.is_some(), || pair("mqtt"));
        self.that(config.api.tls_cert.is_some() == config.api.tls_key.is_some(), || pair("api"));
    }
}

fn pair(section: &str) -> String {
    format!("`{section}.tls_cert` and `{section}.tls_key` belong together: set both or neither")
}
