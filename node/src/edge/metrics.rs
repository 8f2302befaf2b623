//! Every metric of an edge, in one place.

use fabric_core::mqtt::CloseCause;
use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Connections open, from TCP accept to close.
pub(crate) const CONNECTIONS: &str = "carillon_edge_connections";
/// Terminals bound: CONNACK was sent.
pub(crate) const CONNECTS: &str = "carillon_edge_connects_total";
/// Connections closed before CONNECT, by `listener` and `reason`.
pub(crate) const TURNED_AWAY: &str = "carillon_edge_turned_away_total";
/// CONNECTs refused, by `reason`.
pub(crate) const REFUSED: &str = "carillon_edge_connects_refused_total";
/// Connections ended, by `reason`.
pub(crate) const CLOSED: &str = "carillon_edge_closed_total";
/// PUBLISH packets written to terminals, by `qos`.
pub(crate) const DELIVERIES: &str = "carillon_edge_deliveries_total";
/// PUBLISH packets received from terminals, by `qos`.
pub(crate) const PUBLISHES: &str = "carillon_edge_publishes_total";
/// Outcomes put in the outbox.
pub(crate) const RECEIPTS: &str = "carillon_edge_receipts_total";
/// QoS 0 messages dropped, by `reason`: `slow-reader`, `shard-full`, `hub-full`, `no-leader`.
pub(crate) const TRANSIENT_DROPPED: &str = "carillon_edge_transient_dropped_total";
/// Retained QoS 0 messages that could not be kept: too many wait, or the leader refuses (a quota).
pub(crate) const RETAIN_REFUSED: &str = "carillon_edge_retain_refused_total";
/// Reports of applications, by `result`: `counted`, or `ignored` (not of this form, of no push the terminal is in the
/// audience of, or too many wait).
pub(crate) const APP_RECEIPTS: &str = "carillon_edge_app_receipts_total";
/// Times a limit was enforced, by `limit`.
pub(crate) const LIMITED: &str = "carillon_edge_limited_total";
/// Bytes read from terminals.
pub(crate) const BYTES_IN: &str = "carillon_edge_received_bytes_total";
/// Bytes written to terminals.
pub(crate) const BYTES_OUT: &str = "carillon_edge_sent_bytes_total";
/// 1 while the link is live.
pub(crate) const LINK_LIVE: &str = "carillon_edge_link_live";
/// Times the link was lost.
pub(crate) const LINK_LOST: &str = "carillon_edge_link_lost_total";
/// Publishes, receipt batches and session requests that wait for the leader, by `lane`.
pub(crate) const WAITING: &str = "carillon_edge_waiting";
/// Payloads asked of the leader.
pub(crate) const FETCHES: &str = "carillon_edge_payload_fetches_total";
/// Bytes of payloads cached.
pub(crate) const CACHE_BYTES: &str = "carillon_edge_payload_cache_bytes";

/// Registers the help texts. Call once.
pub(crate) fn describe() {
    describe_gauge!(CONNECTIONS, "MQTT connections open");
    describe_counter!(CONNECTS, "CONNECTs accepted");
    describe_counter!(TURNED_AWAY, "connections closed before CONNECT, by listener and reason");
    describe_counter!(REFUSED, "CONNECTs refused, by reason");
    describe_counter!(CLOSED, "MQTT connections ended, by reason");
    describe_counter!(DELIVERIES, "PUBLISH packets written to terminals, by QoS");
    describe_counter!(PUBLISHES, "PUBLISH packets received from terminals, by QoS");
    describe_counter!(RECEIPTS, "outcomes put in the outbox");
    describe_counter!(TRANSIENT_DROPPED, "QoS 0 messages dropped, by reason");
    describe_counter!(RETAIN_REFUSED, "retained QoS 0 messages that could not be kept");
    describe_counter!(APP_RECEIPTS, "reports of applications (displayed, opened), by result");
    describe_counter!(LIMITED, "times a limit was enforced, by limit");
    describe_counter!(BYTES_IN, "bytes read from terminals");
    describe_counter!(BYTES_OUT, "bytes written to terminals");
    describe_gauge!(LINK_LIVE, "1 while the link to the leader is live");
    describe_counter!(LINK_LOST, "times the link to the leader was lost");
    describe_gauge!(WAITING, "commands that wait for the leader, by lane");
    describe_counter!(FETCHES, "payloads asked of the leader");
    describe_gauge!(CACHE_BYTES, "bytes of payloads cached");
}

/// The counters of one shard, resolved once: the hot path only adds.
#[derive(Clone)]
pub(crate) struct ShardCounters {
    pub(crate) connections: metrics::Gauge,
    pub(crate) connects: metrics::Counter,
    pub(crate) delivered: [metrics::Counter; 3],
    pub(crate) published: [metrics::Counter; 3],
    pub(crate) receipts: metrics::Counter,
    pub(crate) dropped_slow: metrics::Counter,
    pub(crate) dropped_shard_full: metrics::Counter,
    pub(crate) dropped_hub_full: metrics::Counter,
    pub(crate) retain_refused: metrics::Counter,
    pub(crate) app_receipts_ignored: metrics::Counter,
    pub(crate) bytes_in: metrics::Counter,
    pub(crate) bytes_out: metrics::Counter,
}

impl ShardCounters {
    pub(crate) fn new() -> Self {
        let by_qos = |name: &'static str| ["0", "1", "2"].map(|qos| counter!(name, "qos" => qos));
        Self {
            connections: gauge!(CONNECTIONS),
            connects: counter!(CONNECTS),
            delivered: by_qos(DELIVERIES),
            published: by_qos(PUBLISHES),
            receipts: counter!(RECEIPTS),
            dropped_slow: counter!(TRANSIENT_DROPPED, "reason" => "slow-reader"),
            dropped_shard_full: counter!(TRANSIENT_DROPPED, "reason" => "shard-full"),
            dropped_hub_full: counter!(TRANSIENT_DROPPED, "reason" => "hub-full"),
            retain_refused: counter!(RETAIN_REFUSED),
            app_receipts_ignored: counter!(APP_RECEIPTS, "result" => "ignored"),
            bytes_in: counter!(BYTES_IN),
            bytes_out: counter!(BYTES_OUT),
        }
    }

    /// A connection ended.
    pub(crate) fn closed(&self, cause: CloseCause) {
        counter!(CLOSED, "reason" => close_reason(cause)).increment(1);
        if let CloseCause::Refused(reason) = cause {
            counter!(REFUSED, "reason" => reason.name()).increment(1);
        }
    }
}

impl std::fmt::Debug for ShardCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShardCounters")
    }
}

/// The label of a close: few values, whatever terminals send.
fn close_reason(cause: CloseCause) -> &'static str {
    match cause {
        CloseCause::Disconnected => "disconnect",
        CloseCause::ConnectionLost => "connection-lost",
        CloseCause::ConnectTimeout => "connect-timeout",
        CloseCause::Refused(_) => "refused",
        CloseCause::Peer(_) => "peer",
        CloseCause::KeepAliveTimeout => "keep-alive",
        CloseCause::CredentialExpired => "credential-expired",
        CloseCause::Unbound(_) => "unbound",
        CloseCause::ServerShuttingDown => "shutting-down",
        CloseCause::ServerUnavailable => "unavailable",
        CloseCause::TooSlow => "too-slow",
        CloseCause::UseAnotherServer => "use-another-server",
        CloseCause::ServerMoved => "server-moved",
    }
}
