//! How a replica stands.

use raftmap_raft::{LogIndex, Membership, NodeId};
use raftmap_state::Introduction;

/// How a replica stands, for operators, metrics and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Consensus.
    pub raft: raftmap_raft::Status,
    /// Whether this server's state was found to be wrong: it serves nothing until a snapshot has taken its place.
    pub quarantined: bool,
    /// Whether the servers' states differ and no majority has one of them: requests are refused.
    pub states_differ: bool,
    /// Requests that have not ended.
    pub requests: usize,
    /// The log time, in milliseconds since the Unix epoch.
    pub log_time_ms: u64,
    /// The running digest at the applied index.
    pub digest: u128,
    /// The cluster's feature level, as far as it is applied here.
    pub level: u8,
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
