//! How a replica is set up.

use raftmap_state::{LEVEL, Member, SessionLimits};

use crate::compaction::CompactionConfig;

/// Numbers that a replica lives by.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// Those of consensus.
    pub raft: raftmap_raft::Config,
    /// Who this server is, by its data directory.
    pub member: Member,
    /// The highest feature level that this program understands; see [`raftmap_state::LEVEL`].
    pub level: u8,
    /// What sessions may hold that are opened here.
    pub session_limits: SessionLimits,
    /// The largest answer to a write, in bytes.
    pub answer_bytes_max: u32,
    /// Requests of clients that have not ended; beyond it they fail as overloaded.
    pub requests_max: usize,
    /// Bytes of keys and values of writes in the queue; beyond it they fail as overloaded.
    pub queued_bytes_max: usize,
    /// Batches of proposals on their way to being committed. While so many are, what comes gathers for the next one.
    pub batches_max: usize,
    /// Bytes of keys and values of one batch of proposals.
    pub batch_bytes_max: usize,
    /// While nobody leads, requests wait this long for somebody to be elected before they fail, in milliseconds.
    pub leaderless_wait_ms: u64,
    /// A leader whose clock is further than this from the median of all does not stamp it, in milliseconds.
    pub clock_skew_max_ms: u64,
    /// What would grow the map is refused while less than this is free on the disk, in bytes.
    pub space_reserve_bytes: u64,
    /// How often all servers hash all their rows and compare, in milliseconds. `None`: never.
    pub scan_every_ms: Option<u64>,
    /// When the log lets go of its beginning.
    pub compaction: CompactionConfig,
}

impl ReplicaConfig {
    /// The usual numbers.
    pub fn new(raft: raftmap_raft::Config, member: Member) -> Self {
        Self {
            raft,
            member,
            level: LEVEL,
            session_limits: SessionLimits::default(),
            answer_bytes_max: 4 << 20,
            requests_max: 65_536,
            queued_bytes_max: 64 << 20,
            batches_max: 2,
            batch_bytes_max: 4 << 20,
            leaderless_wait_ms: 2_000,
            clock_skew_max_ms: 5_000,
            space_reserve_bytes: 256 << 20,
            scan_every_ms: Some(24 * 60 * 60 * 1_000),
            compaction: CompactionConfig::default(),
        }
    }
}
