//! How a run fails.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use raftmap::local_cluster::LocalClusterError;
use raftmap_raft::NodeId;

/// Why a run ends early. The folder of the run stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A server does not do what it should.
    #[error(transparent)]
    Cluster(#[from] LocalClusterError),
    /// The machine refused.
    #[error("cannot {operation}: {source}")]
    Machine {
        /// What was tried.
        operation: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A server ended without a reason.
    #[error("server {id} ended by itself; it said last: {said}")]
    Unexpected {
        /// Which.
        id: NodeId,
        /// The end of its log.
        said: String,
    },
    /// A server that was removed ended otherwise than it should.
    #[error("server {id} was removed, and ended with {status}; it said last: {said}")]
    NotSeenOff {
        /// Which.
        id: NodeId,
        /// How.
        status: ExitStatus,
        /// The end of its log.
        said: String,
    },
    /// A change of the members had no clear end, or the members are others than its answers said.
    #[error("{0}")]
    Members(String),
    /// A client process failed.
    #[error("a client process failed: {0}")]
    Client(String),
    /// What clients were told does not go together.
    #[error("{verdict}\nthe history: {}", .history.display())]
    History {
        /// What contradicts what.
        verdict: String,
        /// The file.
        history: PathBuf,
    },
    /// Servers hold different things.
    #[error("{0}")]
    Differs(String),
    /// An acknowledged write is gone, or a value is there that nobody wrote, long after its round.
    #[error("{key}: at the end of its round it was {was}, at the end of the run {is}")]
    Lost {
        /// The key.
        key: String,
        /// What was there.
        was: String,
        /// What is there.
        is: String,
    },
    /// A fault that was asked for cannot be done here.
    #[error("this machine does not offer {0}")]
    NotOffered(String),
}

impl Failure {
    /// Whether the servers are to blame; else it is the machine or this program.
    pub fn is_broken_promise(&self) -> bool {
        match self {
            Self::Cluster(_) | Self::Unexpected { .. } | Self::History { .. } => true,
            Self::Differs(_) | Self::Lost { .. } | Self::NotSeenOff { .. } | Self::Members(_) => true,
            Self::Machine { .. } | Self::Client(_) | Self::NotOffered(_) => false,
        }
    }
}

pub(crate) fn refused(operation: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure::Machine { operation, source }
}
