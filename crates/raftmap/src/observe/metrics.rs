//! Metrics, in the form of Prometheus.
//!
//! | metric | labels | what it counts |
//! |---|---|---|
//! | `raftmap_front_connections` | | connections to the front door, those in their handshake included |
//! | `raftmap_front_connections_refused_total` | | connections closed unanswered because a limit was reached |
//! | `raftmap_front_handshakes_refused_total` | | handshakes that failed or took too long |
//! | `raftmap_front_requests_refused_total` | | what arrived and did not become a request |
//! | `raftmap_front_pipelines` | | open `Pipeline` streams |
//! | `raftmap_requests_answered_total` | `call` | requests that were answered |
//! | `raftmap_requests_failed_total` | `call`, `code` | requests that failed |
//! | `raftmap_request_seconds` | `call` | how long answered requests took, from their last byte to their answer |

use metrics::{SetRecorderError, Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Upper bounds of the histograms of times, in seconds: from a read in memory to the longest deadline.
const SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0, 60.0];

/// Why metrics cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The exporter cannot be built.
    #[error("metrics cannot be exported: {0}")]
    Build(#[from] BuildError),
    /// Metrics were set up before.
    #[error("metrics are set up already: {0}")]
    Twice(#[from] SetRecorderError<PrometheusRecorder>),
}

/// Sets up the metrics of this process; before anything that counts. The handle renders them, for
/// [`super::http::Observation`].
///
/// # Errors
/// If they were set up before.
pub fn init() -> Result<PrometheusHandle, MetricsError> {
    let recorder = PrometheusBuilder::new().set_buckets(&SECONDS)?.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    describe();
    Ok(handle)
}

fn describe() {
    describe_gauge!("raftmap_front_connections", "Connections to the front door");
    describe_counter!(
        "raftmap_front_connections_refused_total",
        "Connections closed because a limit was reached"
    );
    describe_counter!(
        "raftmap_front_handshakes_refused_total",
        "TLS handshakes that failed or took too long"
    );
    describe_counter!("raftmap_front_requests_refused_total", "What arrived and did not become a request");
    describe_gauge!("raftmap_front_pipelines", "Open Pipeline streams");
    describe_counter!("raftmap_requests_answered_total", "Requests that were answered");
    describe_counter!("raftmap_requests_failed_total", "Requests that failed, by code");
    describe_histogram!("raftmap_request_seconds", Unit::Seconds, "How long answered requests took");
}
