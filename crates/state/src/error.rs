//! What can end a state machine.

use raftmap_raft::{GroupId, LogIndex, LogPosition};

use crate::engine::EngineError;
use crate::format::DecodeError;
use crate::validate::InvalidRequest;

/// Why the state machine cannot go on. None of these is a client's fault, and none is tried again: the node ends with
/// it as its last line.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store under it failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A row in the engine is not what was written, or was written by a newer version.
    #[error("the state machine's engine holds a row that cannot be understood")]
    Row(#[from] DecodeError),
    /// Rows contradict each other.
    #[error("the state machine's engine contradicts itself: {0}")]
    Inconsistent(&'static str),
    /// An entry's command cannot be understood.
    #[error("the command at index {index} cannot be understood")]
    Command {
        /// Where it stands in the log.
        index: LogIndex,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// An entry's command asks for what no server may have proposed.
    #[error("the command at index {index} should never have been proposed")]
    Impossible {
        /// Where it stands in the log.
        index: LogIndex,
        /// What is wrong with it.
        source: InvalidRequest,
    },
    /// The entries do not follow what was applied.
    #[error("an entry of term {} at index {} cannot follow term {} at index {}", .found.term, .found.index, .applied.term, .applied.index)]
    NotContiguous {
        /// The last entry before it.
        applied: LogPosition,
        /// What was handed in.
        found: LogPosition,
    },
    /// The engine belongs to another Raft group.
    #[error("the engine holds the state of group {found}, not of group {expected}")]
    WrongGroup {
        /// Whose state was asked for.
        expected: GroupId,
        /// Whose state it is.
        found: GroupId,
    },
    /// An error before ended it; it applies nothing more.
    #[error("the state machine stopped at an earlier error")]
    Stopped,
}
