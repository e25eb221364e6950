//! Log entries, and what of the consensus state must be on disk.

use bytes::Bytes;

use crate::ids::{LogIndex, NodeId, Term};
use crate::membership::{Membership, MembershipError};

/// One entry of the replicated log (Raft paper, figure 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term of the leader that appended it.
    pub term: Term,
    /// Its place in the log.
    pub index: LogIndex,
    /// What it says.
    pub payload: Payload,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: the entry with which a leader opens its term, so that it can commit what came before it (section 8).
    Noop,
    /// A command of the state machine, opaque here. The bytes are made once and shared by log, peers and state machine.
    Command(Bytes),
    /// The members from this entry on; they count as soon as the entry is in the log (section 6). Boxed, since it is rare: all
    /// entries are as large as the largest kind, and they are copied with every step on their way.
    Membership(Box<Membership>),
}

/// An entry's payload that cannot be understood. The node that reads it stops; it never guesses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PayloadError {
    /// A kind that this version does not know: a newer version wrote it.
    #[error("entry of unknown kind {0}: written by a newer version of raftmap?")]
    UnknownKind(u8),
    /// A no-op with content.
    #[error("a no-op entry carries {0} bytes")]
    NoopWithContent(usize),
    /// A membership that does not decode.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

impl Payload {
    /// What an entry with it counts for in windows and queues, in bytes: its content and a fixed share for a header.
    pub fn size_bytes(&self) -> usize {
        const HEADER: usize = 24;
        HEADER
            + match self {
                Self::Noop => 0,
                Self::Command(bytes) => bytes.len(),
                Self::Membership(membership) => membership.encoded_len(),
            }
    }

    /// Its kind as one byte, for log and wire. Part of the format: never renumbered.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Noop => 0,
            Self::Command(_) => 1,
            Self::Membership(_) => 2,
        }
    }

    /// Its content as bytes, for log and wire. For a command no copy is made.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Noop => Bytes::new(),
            Self::Command(bytes) => bytes.clone(),
            Self::Membership(membership) => membership.encode(),
        }
    }

    /// The payload that [`Self::kind`] and [`Self::to_bytes`] described.
    ///
    /// # Errors
    /// If the kind is unknown or the content is not of its kind.
    pub fn decode(kind: u8, bytes: Bytes) -> Result<Self, PayloadError> {
        match kind {
            0 if bytes.is_empty() => Ok(Self::Noop),
            0 => Err(PayloadError::NoopWithContent(bytes.len())),
            1 => Ok(Self::Command(bytes)),
            2 => Ok(Self::Membership(Box::new(Membership::decode(&bytes)?))),
            unknown => Err(PayloadError::UnknownKind(unknown)),
        }
    }
}

impl Entry {
    /// Where it stands: its index and term.
    pub fn position(&self) -> LogPosition {
        LogPosition { term: self.term, index: self.index }
    }

    /// What it counts for in windows and queues, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.payload.size_bytes()
    }
}

/// An index and the term of the entry there. By the log matching property (section 5.3) it stands for the whole
/// log up to there. The order is that of section 5.4.1, term first: the greater one is "more up to date".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// The term of the entry at `index`; the order of fields makes it compare first (scenario 9).
    pub term: Term,
    /// The place in the log.
    pub index: LogIndex,
}

/// What must be on disk before anything that depends on it is sent (figure 2, "persistent state").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term that this node has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// The disk lost something that this node may have acknowledged: it neither votes nor campaigns nor counts, until a
    /// leader has re-sent all of it (see the section on damaged nodes in docs/safety.md).
    pub damaged: bool,
}
