//! How a replica stands.

use raftmap_raft::{LogIndex, Membership, NodeId};
use raftmap_state::Introduction;

/// How a replica stands, for operators, metrics and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Consensus.
    pub raft: raftmap_raft::Status,
    /// Requests that have not ended.
    pub requests: usize,
    /// The log time, in milliseconds since the Unix epoch.
    pub log_time_ms: u64,
    /// The running digest at the applied index.
    pub digest: u128,
    /// The other servers that are connected.
    pub connected: Vec<NodeId>,
    /// Room left on the disk in bytes, if it was measured.
    pub free_bytes: Option<u64>,
    /// The membership in force, committed or not.
    pub membership: Membership,
    /// See [`crate::StateView::introductions`].
    pub introductions: Vec<Introduction>,
    /// See [`crate::StateView::members_index`].
    pub members_index: LogIndex,
}
