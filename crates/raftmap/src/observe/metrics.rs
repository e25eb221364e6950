//! Metrics, in the form of Prometheus.
//!
//! [`METRICS`] is all of them; docs/metrics.md shows them to people, with what to watch.

use metrics::{SetRecorderError, Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Upper bounds of the histograms of times, in seconds: from a read in memory to the longest deadline.
const SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0, 60.0];

/// What a server tells.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name. It ends in `_total` if it only goes up, and else in its unit, if it has one.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it is told apart by.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes up, and begins at zero with the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Times in seconds, by upper bounds.
    Histogram,
}

/// All metrics.
pub const METRICS: [Metric; 54] = [
    gauge(
        "raftmap_front_connections",
        &[],
        "Connections to the port for clients, those in their handshake included",
    ),
    counter(
        "raftmap_front_connections_refused_total",
        &[],
        "Connections that were closed unanswered because a limit was reached",
    ),
    counter("raftmap_front_handshakes_refused_total", &[], "TLS handshakes that failed or took too long"),
    counter("raftmap_front_requests_refused_total", &[], "What arrived and did not become a request"),
    counter(
        "raftmap_files_renewed_total",
        &["what"],
        "Times that changed files, of certificates or users, took effect",
    ),
    counter(
        "raftmap_files_refused_total",
        &["what"],
        "Times that changed files were of no use, and what there was stayed in force",
    ),
    counter("raftmap_audit_lost_total", &[], "Lines that are missing in the audit log"),
    counter("raftmap_spans_sent_total", &[], "Spans of requests that are followed, sent to the collector"),
    counter(
        "raftmap_spans_dropped_total",
        &[],
        "Spans that the collector did not get: it was not there, refused them, or was too slow",
    ),
    gauge("raftmap_front_pipelines", &[], "Open streams of clients that send many requests over one"),
    counter("raftmap_requests_answered_total", &["call"], "Requests that were answered"),
    counter("raftmap_requests_failed_total", &["call", "code"], "Requests that failed"),
    histogram(
        "raftmap_request_seconds",
        &["call"],
        "How long answered requests took, from their last byte to their answer",
    ),
    gauge("raftmap_requests_waiting", &[], "Requests that have not ended"),
    gauge("raftmap_term", &[], "The term of this server"),
    gauge("raftmap_is_leader", &[], "1: this server leads"),
    gauge("raftmap_has_leader", &[], "1: this server knows of a leader"),
    gauge("raftmap_log_last_index", &[], "The last entry of the log, on disk or not"),
    gauge("raftmap_log_durable_index", &[], "The last entry of the log that is on this server's disk"),
    gauge(
        "raftmap_log_base_index",
        &[],
        "The last entry that is in the state machine alone, and not in the log any more",
    ),
    gauge("raftmap_commit_index", &[], "The last entry that this server knows to be on disk on a majority"),
    gauge("raftmap_applied_index", &[], "The last entry that the state machine has applied"),
    gauge(
        "raftmap_feature_level",
        &[],
        "What the servers may use: it rises once all of them understand more",
    ),
    counter("raftmap_log_writes_total", &[], "Writes of the log, each with its sync"),
    histogram("raftmap_log_write_seconds", &[], "How long a write of the log takes, its sync included"),
    counter("raftmap_applied_entries_total", &[], "Entries that the state machine has applied"),
    histogram("raftmap_apply_seconds", &[], "How long a batch of entries takes to be applied"),
    histogram(
        "raftmap_persist_seconds",
        &[],
        "How long it takes until all that is applied is in tables on the disk",
    ),
    gauge("raftmap_memory_bytes", &[], "What this process holds in memory"),
    gauge("raftmap_disk_free_bytes", &[], "Room that is left on the disk of the data directory"),
    gauge("raftmap_peers_connected", &[], "Other servers that are connected"),
    gauge("raftmap_peer_connected", &["peer"], "1: that server is connected"),
    counter("raftmap_peer_connections_total", &["peer"], "Connections that came about"),
    counter("raftmap_peer_dials_failed_total", &["peer"], "Connections that did not"),
    counter("raftmap_peer_sent_bytes_total", &["peer"], "Bytes sent to that server, snapshots aside"),
    counter("raftmap_peer_sent_frames_total", &["peer"], "Frames sent to it"),
    counter("raftmap_peer_received_bytes_total", &["peer"], "Bytes received from it, snapshots aside"),
    counter("raftmap_peer_received_frames_total", &["peer"], "Frames received from it"),
    counter(
        "raftmap_peer_dropped_batches_total",
        &["peer", "reason"],
        "Messages that were not sent: its queue was full, it was not connected, they were too large",
    ),
    counter("raftmap_peer_strangers_total", &[], "Connections to the port for servers that came to nothing"),
    counter("raftmap_peer_snapshot_bytes_total", &["peer", "direction"], "Bytes of snapshots"),
    counter(
        "raftmap_peer_snapshots_begun_total",
        &["peer", "direction"],
        "Snapshots that were begun, or gone on with",
    ),
    counter("raftmap_peer_snapshots_finished_total", &["peer", "direction"], "Snapshots that are whole"),
    counter("raftmap_peer_snapshots_failed_total", &["peer", "direction"], "Snapshots that broke off"),
    gauge(
        "raftmap_damaged",
        &[],
        "1: the log lost something that it may have acknowledged; this server neither votes nor counts until it has that again",
    ),
    gauge(
        "raftmap_state_lost",
        &[],
        "1: the state machine is lost; this server serves nothing until it has a snapshot",
    ),
    gauge(
        "raftmap_quarantined",
        &[],
        "1: a majority has another state than this server, which serves nothing until it has a snapshot",
    ),
    gauge(
        "raftmap_states_differ",
        &[],
        "1: the servers' states differ and no majority has one of them; requests are refused",
    ),
    counter(
        "raftmap_diverged_total",
        &[],
        "How often another server said that the same entries had another effect there",
    ),
    counter("raftmap_quarantines_total", &[], "How often this server was quarantined"),
    counter("raftmap_scans_total", &[], "Scans of all rows that agreed with a majority"),
    histogram("raftmap_scan_seconds", &[], "How long a scan of all rows takes"),
    counter(
        "raftmap_log_scrubs_total",
        &[],
        "How often the whole log was read again and was as it had been written",
    ),
    counter("raftmap_log_rot_total", &[], "How often a part of it was not"),
];

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, labels, help }
}

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
    for Metric { name, kind, labels, help } in METRICS {
        match kind {
            Kind::Counter => {
                describe_counter!(name, help);
                // One that appears with its first increment has no increase that anybody could be told of.
                if labels.is_empty() {
                    metrics::counter!(name).increment(0);
                }
            }
            Kind::Gauge => describe_gauge!(name, help),
            Kind::Histogram => describe_histogram!(name, Unit::Seconds, help),
        }
    }
}
