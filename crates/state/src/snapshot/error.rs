//! Why a snapshot cannot be read, sent on or installed.

use bytes::Bytes;
use raftmap_raft::GroupId;

use crate::engine::EngineError;
use crate::error::StateError;
use crate::format::DecodeError;

/// Why a snapshot is refused. Only [`Self::Engine`] is this server's own fault, and ends it. After any other one the store
/// that was being filled is to be removed, and the snapshot may be asked for again.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store fails, here.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A head or header that cannot be understood, perhaps because a newer version wrote it.
    #[error("a snapshot that cannot be understood")]
    Format(#[from] DecodeError),
    /// A kind of chunk that this version does not know.
    #[error("a snapshot's chunk is of the unknown kind {value}: written by a newer version of raftmap?")]
    UnknownKind {
        /// The byte that stands for it.
        value: u8,
    },
    /// Bytes that no version has ever written.
    #[error("malformed snapshot: {0}")]
    Malformed(&'static str),
    /// It is the state of another Raft group.
    #[error("a snapshot of group {found}, not of group {expected}")]
    WrongGroup {
        /// Whose state is to be installed.
        expected: GroupId,
        /// Whose state it is.
        found: GroupId,
    },
    /// A chunk, or a row that is to become one, is too large.
    #[error("a snapshot's chunk of {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The longest.
        limit: usize,
    },
    /// A chunk is not what was sent.
    #[error("chunk {number} of a snapshot does not have the checksum that it names")]
    Checksum {
        /// The chunk that was waited for.
        number: u64,
    },
    /// A chunk was left out, came twice or came too early.
    #[error("chunk {found} of a snapshot where chunk {expected} should be")]
    OutOfOrder {
        /// The one that was waited for.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// A chunk is of another stream.
    #[error("chunk {number} of a snapshot does not follow the one before it")]
    Chain {
        /// The chunk.
        number: u64,
    },
    /// A row does not stand behind the one before it.
    #[error("a snapshot's row stands out of order: {key:?}")]
    RowOutOfOrder {
        /// Its key.
        key: Bytes,
    },
    /// A row of no known table, or one that is not what its table holds.
    #[error("a snapshot's row cannot be understood: {key:?}")]
    Row {
        /// Its key.
        key: Bytes,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The header says of the state what its rows do not say.
    #[error("a snapshot's header and rows contradict each other: {0}")]
    HeaderContradicted(&'static str),
    /// The trailer counts other rows or bytes than came.
    #[error("a snapshot's trailer does not count what came before it")]
    TrailerContradicted,
    /// The trailer is missing.
    #[error("a snapshot ends without its trailer")]
    Unfinished,
    /// Something follows the trailer.
    #[error("a snapshot goes on behind its trailer")]
    AfterTrailer,
    /// It was refused before: it takes nothing more.
    #[error("a snapshot that was refused before")]
    Refused,
    /// All rows are right, and do not fit together.
    #[error("a snapshot's rows contradict each other")]
    RowsContradict(#[source] StateError),
    /// The token, by which a stream is to go on, is damaged or of another snapshot.
    #[error("this snapshot cannot go on from there: another one, or damage")]
    TokenUnfit,
}
