//! The metrics recorder, and the metrics of this crate's API.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Calls answered. Labels: `method` (one of the API's), `code` (a gRPC status code's name).
pub const API_CALLS_TOTAL: &str = "carillon_api_calls_total";
/// How long calls took until the answer began. Label: `method`.
pub const API_CALL_SECONDS: &str = "carillon_api_call_seconds";
/// Calls passed on to another node.
pub const API_FORWARDED_TOTAL: &str = "carillon_api_forwarded_total";
/// Calls answered with an unknown outcome.
pub const API_UNKNOWN_TOTAL: &str = "carillon_api_unknown_outcomes_total";
/// 1, with the version as label.
pub const BUILD_INFO: &str = "carillon_build_info";

/// From a cached answer (a fifth of a millisecond) to a call that waited for an election.
const SECONDS_BUCKETS: [f64; 14] =
    [0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// Installs the process's recorder, once; the handle renders it. Every metric named `…_seconds` is a histogram.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("a metrics recorder was installed before; /metrics shows nothing new");
    }
    describe();
    Ok(handle)
}

fn describe() {
    describe_counter!(API_CALLS_TOTAL, "gRPC calls answered");
    describe_histogram!(API_CALL_SECONDS, Unit::Seconds, "time until the answer began");
    describe_counter!(API_FORWARDED_TOTAL, "gRPC calls passed on to another node");
    describe_counter!(API_UNKNOWN_TOTAL, "gRPC calls answered with an unknown outcome");
    describe_gauge!(BUILD_INFO, "the version that runs");
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}
