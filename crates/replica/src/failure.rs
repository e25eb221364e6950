//! Why a request came to nothing.

use raftmap_raft::{ChangeRefusal, LogIndex, NodeId, Outcome};
use raftmap_state::Refusal;

/// Why a request came to nothing, and whether it may take effect all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// Whether it may take effect all the same.
    pub outcome: Outcome,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
}

/// Why a request came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Nobody leads, though enough servers for an election are connected.
    #[error("no leader is known; an election is probably under way")]
    NoLeader,
    /// Nobody leads, and too few servers are connected to elect somebody.
    #[error("{connected} of {voters} servers are connected, and {needed} are needed")]
    NoQuorum {
        /// Voters that are connected, this server included.
        connected: usize,
        /// Voters in all.
        voters: usize,
        /// How many are a majority.
        needed: usize,
    },
    /// The leader changed while the request was under way.
    #[error("the leader changed while the request was under way")]
    LeadershipLost,
    /// Too many requests wait already.
    #[error("{limit} requests or bytes of requests wait already")]
    Overloaded {
        /// How many may wait.
        limit: u64,
    },
    /// The command is larger than an entry may be.
    #[error("the request is larger than {limit} bytes")]
    TooLarge {
        /// The largest command, in bytes.
        limit: u64,
    },
    /// Its deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// Its deadline passed before this server had applied what it wanted to read.
    #[error("this server has applied {applied}, which is before the revision asked for")]
    Behind {
        /// What was applied.
        applied: LogIndex,
    },
    /// Its state machine is lost, and a snapshot of another server is on its way.
    #[error("this server has lost its state, and waits for a snapshot of another one")]
    StateLost,
    /// Its state is wrong, and a snapshot of another server is on its way.
    #[error("this server's state differs from that of a majority, and waits to be replaced by a snapshot")]
    Quarantined,
    /// Nobody knows whose state is right.
    #[error(
        "the servers' states differ, and no majority agrees on one: nothing is read or written until one does (docs/operations.md, \
         \"Repair\")"
    )]
    StatesDiffer,
    /// The disk is nearly full, and what would grow the map is refused.
    #[error("the disk is nearly full: {free_bytes} bytes are free, the reserve is {reserve_bytes}")]
    DiskFull {
        /// What is free.
        free_bytes: u64,
        /// What is kept free.
        reserve_bytes: u64,
    },
    /// A server that was removed is never a member again.
    #[error("server {id} was removed from the cluster: an id is never used again, give the server a new one")]
    MemberRemoved {
        /// Its id.
        id: NodeId,
    },
    /// Who is to take the place of another one votes already.
    #[error("server {id} votes already: it takes nobody's place, remove the other one")]
    VotesAlready {
        /// Its id.
        id: NodeId,
    },
    /// Who is to go, or to be replaced, is no member.
    #[error("server {id} is no member of the cluster")]
    NotAMember {
        /// Its id.
        id: NodeId,
    },
    /// The members cannot be changed so.
    #[error(transparent)]
    Members(ChangeRefusal),
    /// The server is about to stop.
    #[error("this server is shutting down")]
    ShuttingDown,
    /// The leader does not understand the command, or the cluster may not use it yet.
    #[error("not all servers understand the command: they are of different versions")]
    Unsupported,
    /// The state machine refused it.
    #[error(transparent)]
    Refused(Refusal),
}

impl Failure {
    /// It was not applied and never will be.
    pub(crate) fn not_applied(reason: Reason, leader: Option<NodeId>) -> Self {
        Self { reason, outcome: Outcome::NotApplied, leader }
    }

    /// It may be applied, now or later.
    pub(crate) fn unknown(reason: Reason, leader: Option<NodeId>) -> Self {
        Self { reason, outcome: Outcome::Unknown, leader }
    }
}
