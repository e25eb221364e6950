//! Snapshots between servers: pulled by the one that needs one, over a connection of its own.
//!
//! ```text
//!  the server that has the state                              the server that needs it
//!  SnapshotSource ─► shelf ─► reading ─► pacer ─► HTTP/2 ════► fetch ──► install ─► DiskEngine::fresh
//!                    a view    a thread   bytes    back         a task    a thread    ingestion, syncs
//!                    a peer    that may   a second pressure     redials   that may
//!                              block                            resumes   block
//! ```
//!
//! A chunk is in memory at each end, and what HTTP/2 lets be under way. When the connection breaks, the receiver keeps what
//! it took in and dials again; the sender keeps the view for a while, and goes on behind the last chunk that was taken in.
//! A chunk that is not what was sent ends the attempt, and all begins anew.
//!
//! Only a member gets a snapshot, or is asked for one, and only while the long-lived stream to it stands: what the replica
//! holds against a peer (a wiped disk) counts here, too.

mod fetch;
mod install;
mod pacer;
mod serve;
mod shelf;

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use raftmap_raft::{LogIndex, NodeId};
use raftmap_state::{DiskSnapshot, EngineError, SnapshotError, SnapshotReader, StateError};

pub(super) use self::fetch::{Fetch, Wanted};
pub(super) use self::pacer::Pacer;
pub(super) use self::serve::serve;
pub(super) use self::shelf::Shelf;

/// Where the state comes from that is sent to other servers.
pub trait SnapshotSource: Send + Sync + 'static {
    /// The state as it is now. `None`: this server has none that is fit to be sent. Called on a thread that may block.
    ///
    /// # Errors
    /// If the store fails; it is reported by [`Self::failed`], too.
    fn snapshot(&self) -> Result<Option<HeldSnapshot>, StateError>;

    /// The store failed while a snapshot was taken or read: the node ends.
    fn failed(&self, error: StateError);
}

/// A view of the state, and what must live as long as it is read.
pub struct HeldSnapshot {
    /// The view.
    pub reader: SnapshotReader<DiskSnapshot>,
    /// Keeps the files under the view where they are: a snapshot from elsewhere may take the place of this state meanwhile,
    /// and its directory is removed when nobody reads it any more.
    pub hold: Arc<dyn Any + Send + Sync>,
    /// Whether it may be copied. Once it may not, because the state is in doubt, no copy of it comes to its end.
    pub fit: Arc<AtomicBool>,
}

/// Why there is no snapshot. The directory that was being filled is removed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody knows that server.
    #[error("server {0} is not a member of this cluster")]
    Unknown(NodeId),
    /// One of the two servers does not want the other.
    #[error("refused: {0}")]
    Refused(String),
    /// The other server has no state that is fit to be sent.
    #[error("server {0} has no state that is fit to be sent")]
    NoState(NodeId),
    /// The other server has nothing that is new enough.
    #[error("server {from} has applied no more than {applied}, and {at_least} is needed")]
    Behind {
        /// The other server.
        from: NodeId,
        /// What it has applied.
        applied: LogIndex,
        /// What is needed.
        at_least: LogIndex,
    },
    /// Nothing came for too long, though it was tried again and again.
    #[error("no part of a snapshot came from server {from} for {within:?}; the last attempt: {last}")]
    Silent {
        /// The other server.
        from: NodeId,
        /// For how long; see [`super::PeerLimits::snapshot_silence_max`].
        within: Duration,
        /// How the last attempt ended.
        last: String,
    },
    /// The snapshot was begun anew this often, and never came to its end.
    #[error("a snapshot of server {from} was begun {times} times and never finished; the last time: {last}")]
    Restarted {
        /// The other server.
        from: NodeId,
        /// How often.
        times: u32,
        /// Why the last time.
        last: String,
    },
    /// Something is in the way: it is left as it is.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// This server's own disk failed: the node ends.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A broken invariant: the node ends.
    #[error("broken invariant while a snapshot was installed: {0}")]
    Panicked(String),
    /// This server stops.
    #[error("this server stops")]
    Stopped,
}

impl FetchError {
    /// Whether this server itself is broken, and is to end.
    pub fn ends_node(&self) -> bool {
        matches!(self, Self::Engine(_) | Self::Panicked(_))
    }
}

/// What of an error of a snapshot at the sender is the store's, and ends the node.
fn store_failure(error: SnapshotError) -> Result<StateError, SnapshotError> {
    match error {
        SnapshotError::Engine(error) => Ok(StateError::Engine(error)),
        error => Err(error),
    }
}
