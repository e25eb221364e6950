//! What can go wrong.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raftmap_raft::{LogIndex, MembershipError, NodeId, PayloadError, Term};

use crate::recovered::{Damage, DamageReason};

/// Why a log stopped working. But for [`LogError::NotInLog`] and [`LogError::Compacted`], the first one is final: whatever
/// is called later gives the same error again, nothing is tried twice, and the node must end. After a failed sync nobody knows what the disk
/// holds (scenario 48).
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the disk said.
        source: Arc<io::Error>,
    },
    /// An entry cannot be read back.
    #[error("segment {segment} is damaged at offset {offset}: {reason}")]
    Damaged {
        /// The segment's number.
        segment: u64,
        /// The offset in the segment, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: DamageReason,
    },
    /// The caller broke the rules of [`crate::Log::write`]. Nothing of that call was written.
    #[error("broken invariant: {0}")]
    Invariant(String),
    /// The log does not hold that entry. Not final: the caller asked for too much.
    #[error("entry {index} is not in the log, which ends at {last}")]
    NotInLog {
        /// What was asked for.
        index: LogIndex,
        /// The last entry.
        last: LogIndex,
    },
    /// The log does not hold that entry any more: it is in the state machine alone. Not final.
    #[error("entry {index} is not in the log any more, which begins at {first}")]
    Compacted {
        /// What was asked for.
        index: LogIndex,
        /// The first entry that the log holds, or will hold.
        first: LogIndex,
    },
}

impl LogError {
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source: Arc::new(source) }
    }
}

/// Why a log does not open. No entry and no vote was lost by trying.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the data directory open.
    #[error("{}: another process has this data directory open", .0.display())]
    Locked(PathBuf),
    /// There is no data directory.
    #[error("{}: not a data directory; `raftmap init` makes one", .0.display())]
    NotInitialised(PathBuf),
    /// `init` or `restore` was cut short.
    #[error("{}: `raftmap init` or `raftmap restore` was cut short here; remove the directory and run it again", .0.display())]
    InitCutShort(PathBuf),
    /// No server may start here any more.
    #[error("{}: this data directory is fenced: {reason}", path.display())]
    Fenced {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The identity cannot be read.
    #[error("{}: {source}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// A newer version of raftmap wrote this.
    #[error(
        "{}: format version {version} is unknown to this version of raftmap, which knows {known}; a newer one wrote it",
        path.display()
    )]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version found there.
        version: u32,
        /// The version that this code knows.
        known: u32,
    },
    /// An entry whose payload this version does not know.
    #[error("segment {segment}, entry {index}: {source}")]
    Payload {
        /// The segment's number.
        segment: u64,
        /// The entry.
        index: LogIndex,
        /// What is wrong with it.
        source: PayloadError,
    },
    /// A base whose membership this version does not know.
    #[error("segment {segment}, base at {index}: {source}")]
    Base {
        /// The segment's number.
        segment: u64,
        /// Where the base is.
        index: LogIndex,
        /// What is wrong with it.
        source: MembershipError,
    },
    /// Good blocks whose records do not follow each other. No disk does that, and no version of raftmap writes it.
    #[error(
        "segment {segment}, offset {offset}: a whole batch with records that do not follow each other: a bug"
    )]
    Malformed {
        /// The segment's number.
        segment: u64,
        /// The offset in the segment, in bytes.
        offset: u64,
    },
    /// Neither slot of the hard state can be read: nobody knows for whom this node voted.
    #[error(
        "{}: both slots of the hard state are unreadable ({reasons}), so this node could vote twice in a term and must \
         not start; remove node {node} from the cluster and add a server with an empty data directory under a new node id",
        path.display()
    )]
    HardStateLost {
        /// The file.
        path: PathBuf,
        /// What is wrong with each slot.
        reasons: String,
        /// This node, whose id must not be used again.
        node: NodeId,
    },
    /// The log holds a term that the hard state has not reached: the hard state is not the one that belongs to the log.
    #[error(
        "the log holds an entry of term {log}, but the hard state is at term {hard_state}: it was put back from a copy; \
         remove node {node} from the cluster and add a server with an empty data directory under a new node id"
    )]
    HardStateBehindLog {
        /// The term of the hard state.
        hard_state: Term,
        /// The last term in the log.
        log: Term,
        /// This node, whose id must not be used again.
        node: NodeId,
    },
    /// The log of a cluster of one node is damaged, and there is nobody to get it back from.
    #[error("{0}; this node is the whole cluster: put a backup back, or accept the loss with --accept-loss")]
    SingleNodeDamaged(Damage),
    /// The options do not fit together.
    #[error("log options: {0}")]
    Options(String),
    /// The disk failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why a data directory was not made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one already.
    #[error("{}: is a data directory already, of node {node}", path.display())]
    AlreadyInitialised {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        node: NodeId,
    },
    /// An earlier `init` or `restore` was cut short.
    #[error("{}: `raftmap init` or `raftmap restore` was cut short here; remove the directory and run it again", .0.display())]
    CutShort(PathBuf),
    /// There is something else.
    #[error("{}: is not empty: it holds {found:?}", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// The first name in it.
        found: String,
    },
    /// The identity makes no sense.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The options do not fit together.
    #[error("log options: {0}")]
    Options(String),
    /// The disk failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why an identity is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The checksum does not fit.
    #[error("the identity is damaged: its checksum does not fit; put it back from a backup of this node")]
    Checksum,
    /// A newer version wrote it.
    #[error("format version {0} is unknown to this version of raftmap: a newer one wrote it")]
    UnknownVersion(u32),
    /// The checksum fits, but the text is not what this version writes.
    #[error("line {0} of the identity is malformed")]
    Malformed(usize),
    /// No founding members, or too many.
    #[error("{0} founding members: there must be 1 to 1000")]
    MemberCount(usize),
    /// A founding member named twice, or out of order.
    #[error("founding member {0} is named twice")]
    MemberTwice(NodeId),
    /// 0 is not a node id.
    #[error("0 is not a node id")]
    NodeZero,
    /// An address that is empty, too long, or has white space, quotes or control characters in it.
    #[error("founding member {node}: {address:?} is not an address")]
    Address {
        /// Whose.
        node: NodeId,
        /// What was given.
        address: String,
    },
}
