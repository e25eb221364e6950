//! What an entry of the log, or a read, gives back.

use std::num::NonZeroU64;

use bytes::Bytes;
use raftmap_raft::{LogIndex, NodeId};

use crate::request::SessionId;

/// A key as it stands in the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The log index of the write that set it.
    pub revision: LogIndex,
    /// The log time in milliseconds from which the key is absent; `None`: never.
    pub expires_at_ms: Option<NonZeroU64>,
}

/// What became of one log entry. Every server computes the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The entry.
    pub index: LogIndex,
    /// Its answer, or why it was refused. A refused entry changed no key.
    pub result: Result<Answer, Refusal>,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing to say: a no-op, a membership, a time entry, or a member that is recorded (perhaps again).
    Done,
    /// To [`crate::Put`].
    Put(PutAnswer),
    /// To [`crate::Delete`].
    Delete(DeleteAnswer),
    /// To [`crate::Txn`].
    Txn(TxnAnswer),
    /// To [`crate::Body::OpenSession`].
    SessionOpened(SessionOpened),
}

/// The answer to [`crate::Put`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutAnswer {
    /// The revision of all that it set: the index of its entry. For a repeated write: of the first one.
    pub revision: LogIndex,
    /// With `return_previous`: what stood there before, one for each entry in order. Otherwise empty.
    pub previous: Vec<Option<Record>>,
}

/// The answer to [`crate::Delete`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteAnswer {
    /// The index of its entry. For a repeated write: of the first one.
    pub revision: LogIndex,
    /// How many of the keys were there.
    pub deleted: u64,
    /// With `return_previous`: what stood there before, one for each key in order. Otherwise empty.
    pub previous: Vec<Option<Record>>,
}

/// The answer to [`crate::Txn`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnAnswer {
    /// The index of its entry. For a repeated write: of the first one.
    pub revision: LogIndex,
    /// Whether `then` ran; `false`: `otherwise` did.
    pub succeeded: bool,
    /// One for each operation of that list, in order.
    pub results: Vec<OperationResult>,
}

/// The answer to one operation of a [`crate::Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationResult {
    /// Of a get: the key, if it is there.
    Got(Option<Record>),
    /// Of a put: what stood there before.
    Put {
        /// What stood there before.
        previous: Option<Record>,
    },
    /// Of a delete: what stood there before; `Some` says that something was deleted.
    Deleted {
        /// What stood there before.
        previous: Option<Record>,
    },
}

/// The answer to [`crate::Body::OpenSession`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOpened {
    /// Its id.
    pub session_id: SessionId,
    /// It is forgotten when it was not used for this long, in milliseconds of log time.
    pub idle_expiry_ms: u64,
    /// How many answers are kept that the client has not acknowledged; a write beyond that is refused.
    pub in_flight_max: u32,
}

/// The answer to [`crate::Get`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetAnswer {
    /// The applied index at which all keys were read.
    pub revision: LogIndex,
    /// One for each key, in order.
    pub records: Vec<Option<Record>>,
}

/// One page of a [`crate::Scan`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanAnswer {
    /// The applied index at which it was read.
    pub revision: LogIndex,
    /// The entries, in the order of the scan.
    pub records: Vec<Record>,
    /// Entries of the range remain behind this page.
    pub more: bool,
}

/// Why an entry of the log was not carried out. Decided at apply, and so the same on every server; the entry counts as
/// applied and changed no key.
///
/// For `Failure.outcome` each one is NOT_APPLIED: this attempt was not and will not be. Only AnswerTooLarge also speaks
/// for the other attempts with the same tag, before and after it: they get this same refusal. Of the rest a client that
/// sent the write more than once learns nothing about its other attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Failure code SESSION_UNKNOWN. Whether an earlier attempt was applied is unknown.
    #[error("session {} is unknown: never opened, expired, or the least used one when too many were open; open a new one", .session_id.0)]
    SessionUnknown {
        /// The session that was named.
        session_id: SessionId,
    },
    /// Failure code SEQUENCE_FORGOTTEN.
    #[error(
        "sequence {sequence} was acknowledged (all below {acknowledged_below} were): its answer is forgotten and it is not applied again"
    )]
    SequenceForgotten {
        /// The sequence of this write.
        sequence: u64,
        /// What the client acknowledged.
        acknowledged_below: u64,
    },
    /// Failure code SEQUENCE_REUSED.
    #[error("sequence {sequence} was used for a write with other content; give each write its own sequence")]
    SequenceReused {
        /// The sequence of this write.
        sequence: u64,
    },
    /// Failure code OVERLOADED, with the limit.
    #[error(
        "the session has {limit} answers that were not acknowledged, which is its limit; raise acknowledged_below"
    )]
    TooManyInFlight {
        /// How many answers a session may leave unacknowledged.
        limit: u32,
    },
    /// Failure code OVERLOADED, with the limit.
    #[error(
        "the session's unacknowledged answers would be larger than its limit of {limit} bytes; raise acknowledged_below"
    )]
    KeptAnswersFull {
        /// How many bytes of answers a session may leave unacknowledged.
        limit: u64,
    },
    /// Failure code TOO_LARGE, with the limit.
    #[error("the answer would be larger than the limit of {limit} bytes; nothing was applied")]
    AnswerTooLarge {
        /// The largest answer, as [`crate::limits`] counts it.
        limit: u64,
    },
    /// No failure of a client: a member's record contradicts what the log says about it. The member is refused.
    #[error(
        "node {node_id} is known with another incarnation or other founding members: its disk was wiped, or it belongs to another cluster"
    )]
    MemberMismatch {
        /// The member.
        node_id: NodeId,
    },
}

/// The failure codes of `map.proto` that the state machine and [`crate::validate`] give, by their numbers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum FailureCode {
    /// INVALID.
    Invalid = 1,
    /// TOO_LARGE.
    TooLarge = 2,
    /// OVERLOADED.
    Overloaded = 3,
    /// NODE_UNFIT.
    NodeUnfit = 9,
    /// SESSION_UNKNOWN.
    SessionUnknown = 13,
    /// SEQUENCE_FORGOTTEN.
    SequenceForgotten = 14,
    /// SEQUENCE_REUSED.
    SequenceReused = 15,
}

impl Refusal {
    /// Its code in `map.proto`.
    pub fn code(&self) -> FailureCode {
        match self {
            Self::SessionUnknown { .. } => FailureCode::SessionUnknown,
            Self::SequenceForgotten { .. } => FailureCode::SequenceForgotten,
            Self::SequenceReused { .. } => FailureCode::SequenceReused,
            Self::TooManyInFlight { .. } | Self::KeptAnswersFull { .. } => FailureCode::Overloaded,
            Self::AnswerTooLarge { .. } => FailureCode::TooLarge,
            Self::MemberMismatch { .. } => FailureCode::NodeUnfit,
        }
    }

    /// The limit that was passed, for `Failure.limit`.
    pub fn limit(&self) -> Option<u64> {
        match self {
            Self::TooManyInFlight { limit } => Some(u64::from(*limit)),
            Self::KeptAnswersFull { limit } | Self::AnswerTooLarge { limit } => Some(*limit),
            _ => None,
        }
    }
}
