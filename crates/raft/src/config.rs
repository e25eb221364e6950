//! How a core is set up, and what it starts from.

use crate::entry::{HardState, LogPosition};
use crate::ids::{LogIndex, NodeId, StateId, Term};
use crate::membership::Membership;

/// Numbers that a core lives by. All times are in ticks.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// A follower that hears nothing from a leader for this long, or up to twice as long by chance, stands for election;
    /// a leader that hears from no quorum for this long steps down.
    pub election_ticks: u32,
    /// A leader sends heartbeats this often; a few times in an election timeout.
    pub heartbeat_ticks: u32,
    /// A leader whose disk finishes nothing for this long, while entries wait for it, steps down.
    pub disk_stall_ticks: u32,
    /// Entries of one append message, in bytes; a larger single entry travels alone.
    pub max_append_bytes: usize,
    /// Appends on their way to one follower.
    pub max_inflight_messages: usize,
    /// Bytes of entries on their way to one follower.
    pub max_inflight_bytes: usize,
    /// Bytes of entries that wait to be committed; beyond it proposals fail as overloaded.
    pub max_uncommitted_bytes: usize,
    /// A single command, in bytes.
    pub max_command_bytes: usize,
    /// Bytes of entries handed to the state machine at a time.
    pub max_apply_bytes: usize,
    /// A follower under load leaves up to so many committed entries unapplied until the next tick, and is told what is committed
    /// with the next append, or the next tick, instead of by a message for each commit: nobody waits for it, and messages and
    /// wake-ups are saved. A linearizable read is served at once, a stale one of a later revision by the next tick. 0: followers are
    /// told and apply at once.
    pub max_follower_lag: u64,
    /// Bytes of recent entries kept in memory; older ones are fetched from disk. What is not yet durable and applied is
    /// kept in any case.
    pub cache_bytes: usize,
    /// Reads that wait for a confirmation; beyond it they fail as overloaded.
    pub max_reads: usize,
    /// A learner that lacks no more entries than this may become a voter.
    pub max_promotion_lag: u64,
    /// Where the randomness comes from: another one for each start of each node, since it also names the questions of this
    /// start and the damage that it found.
    pub seed: u64,
}

impl Config {
    /// The usual numbers: at 10 ms a tick an election timeout of 0.5 to 1 s and a heartbeat every 100 ms.
    pub fn new(id: NodeId, seed: u64) -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            id,
            election_ticks: 50,
            heartbeat_ticks: 10,
            disk_stall_ticks: 500,
            max_append_bytes: MIB,
            max_inflight_messages: 64,
            max_inflight_bytes: 16 * MIB,
            max_uncommitted_bytes: 64 * MIB,
            max_command_bytes: 5 * MIB,
            max_apply_bytes: 4 * MIB,
            max_follower_lag: 256,
            cache_bytes: 8 * MIB,
            max_reads: 65_536,
            max_promotion_lag: 10_000,
            seed,
        }
    }
}

/// What a node starts from: what its log holds, and how far its state machine is.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The durable hard state.
    pub hard_state: HardState,
    /// Where the log begins: the last entry that is not in it any more. All zero: it begins with the first entry.
    pub base: LogPosition,
    /// The terms of the log's entries: the first index of each, ascending.
    pub terms: Vec<(LogIndex, Term)>,
    /// The last index of the log.
    pub last: LogIndex,
    /// The state machine that the log names.
    pub state: StateId,
    /// What the state machine has applied. Beyond `last` only if the log is damaged; before `base` only if the state
    /// machine is lost: then a snapshot of another node takes its place.
    pub applied: LogIndex,
    /// The state machine that the log names was found to be wrong: a snapshot of another node is to take its place, whatever
    /// it has applied.
    pub state_distrusted: bool,
    /// The membership at `base`, then those that stand in the log, ascending. Not empty.
    pub memberships: Vec<(LogIndex, Membership)>,
}
