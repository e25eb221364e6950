//! What is counted between servers. All have the label `peer`, the id of the other server, but the last one.
//!
//! | metric | kind | what |
//! |---|---|---|
//! | `raftmap_peer_connected` | gauge | 1 while a connection to the peer stands, else 0 |
//! | `raftmap_peer_connections_total` | counter | connections that stood |
//! | `raftmap_peer_sent_bytes_total` | counter | bytes of frames sent |
//! | `raftmap_peer_sent_frames_total` | counter | frames sent |
//! | `raftmap_peer_received_bytes_total` | counter | bytes of frames received |
//! | `raftmap_peer_received_frames_total` | counter | frames received |
//! | `raftmap_peer_dropped_batches_total` | counter | batches that were not sent, with the label `reason`: `full`, `unconnected`, `too_large` |
//! | `raftmap_peer_dials_failed_total` | counter | attempts to connect that came to nothing |
//! | `raftmap_peer_snapshot_bytes_total` | counter | bytes of snapshots, with the label `direction`: `sent`, `received` |
//! | `raftmap_peer_snapshots_begun_total` | counter | snapshots begun, with that label; sent: each connection counts |
//! | `raftmap_peer_snapshots_finished_total` | counter | snapshots that came to their end, with that label |
//! | `raftmap_peer_snapshots_failed_total` | counter | snapshots that did not, with that label; sent: each connection counts |
//! | `raftmap_peer_strangers_total` | counter | accepted connections that came to nothing |

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, counter, gauge};
use raftmap_raft::NodeId;

/// Handles of the metrics of one peer, looked up once.
pub(super) struct Meters {
    connected: Gauge,
    connections: Counter,
    sent_bytes: Counter,
    sent_frames: Counter,
    received_bytes: Counter,
    received_frames: Counter,
    dropped: [Counter; 3],
    dropped_batches: AtomicU64,
    dials_failed: Counter,
    pub(super) snapshots_sent: SnapshotMeters,
    pub(super) snapshots_received: SnapshotMeters,
}

/// Handles of the metrics of the snapshots that go one way.
pub(super) struct SnapshotMeters {
    bytes: Counter,
    begun: Counter,
    finished: Counter,
    failed: Counter,
}

/// Why a batch was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// The queue was full.
    Full,
    /// The peer was not connected.
    Unconnected,
    /// A message in it is larger than a frame may be.
    TooLarge,
}

impl Meters {
    pub(super) fn new(peer: NodeId) -> Self {
        let peer = peer.to_string();
        let connected = gauge!("raftmap_peer_connected", "peer" => peer.clone());
        connected.set(0.0);
        let dropped = |reason: &'static str| counter!("raftmap_peer_dropped_batches_total", "peer" => peer.clone(), "reason" => reason);
        Self {
            connected,
            connections: counter!("raftmap_peer_connections_total", "peer" => peer.clone()),
            sent_bytes: counter!("raftmap_peer_sent_bytes_total", "peer" => peer.clone()),
            sent_frames: counter!("raftmap_peer_sent_frames_total", "peer" => peer.clone()),
            received_bytes: counter!("raftmap_peer_received_bytes_total", "peer" => peer.clone()),
            received_frames: counter!("raftmap_peer_received_frames_total", "peer" => peer.clone()),
            dropped: [dropped("full"), dropped("unconnected"), dropped("too_large")],
            dropped_batches: AtomicU64::new(0),
            dials_failed: counter!("raftmap_peer_dials_failed_total", "peer" => peer.clone()),
            snapshots_sent: SnapshotMeters::new(&peer, "sent"),
            snapshots_received: SnapshotMeters::new(&peer, "received"),
        }
    }

    pub(super) fn connected(&self, stands: bool) {
        self.connected.set(if stands { 1.0 } else { 0.0 });
        if stands {
            self.connections.increment(1);
        }
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent_bytes.increment(bytes as u64);
        self.sent_frames.increment(1);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received_bytes.increment(bytes as u64);
        self.received_frames.increment(1);
    }

    pub(super) fn dropped(&self, why: Dropped) {
        self.dropped[why as usize].increment(1);
        self.dropped_batches.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped_batches(&self) -> u64 {
        self.dropped_batches.load(Ordering::Relaxed)
    }

    pub(super) fn dial_failed(&self) {
        self.dials_failed.increment(1);
    }
}

impl SnapshotMeters {
    fn new(peer: &str, direction: &'static str) -> Self {
        let counter =
            |name: &'static str| counter!(name, "peer" => peer.to_owned(), "direction" => direction);
        Self {
            bytes: counter("raftmap_peer_snapshot_bytes_total"),
            begun: counter("raftmap_peer_snapshots_begun_total"),
            finished: counter("raftmap_peer_snapshots_finished_total"),
            failed: counter("raftmap_peer_snapshots_failed_total"),
        }
    }

    pub(super) fn bytes(&self, bytes: usize) {
        self.bytes.increment(bytes as u64);
    }

    pub(super) fn begun(&self) {
        self.begun.increment(1);
    }

    pub(super) fn finished(&self) {
        self.finished.increment(1);
    }

    pub(super) fn failed(&self) {
        self.failed.increment(1);
    }
}

/// An accepted connection came to nothing.
pub(super) fn stranger() {
    counter!("raftmap_peer_strangers_total").increment(1);
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meters").field("dropped_batches", &self.dropped_batches).finish_non_exhaustive()
    }
}
