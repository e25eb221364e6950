//! What can go wrong with a local cluster.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use raftmap_client::SetupError;
use raftmap_raft::NodeId;

use super::process::PATIENCE;
use crate::node::InitFailure;
use crate::tls::certs::CertsError;

/// What went wrong with a local cluster.
#[derive(Debug, thiserror::Error)]
pub enum LocalClusterError {
    /// `raftmap init --join` failed.
    #[error("server {id} has no data directory: {said}")]
    Join {
        /// Whose.
        id: NodeId,
        /// What it said on standard error.
        said: String,
    },
    /// A file or process could not be handled.
    #[error("cannot {operation} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Certificates could not be made.
    #[error(transparent)]
    Certs(#[from] CertsError),
    /// A data directory could not be made.
    #[error(transparent)]
    Init(#[from] InitFailure),
    /// The client could not be set up.
    #[error(transparent)]
    Client(#[from] SetupError),
    /// A server ended when it should have started.
    #[error("server {id} ended ({status}) before it was ready; it said:\n{last_lines}")]
    Ended {
        /// Which.
        id: NodeId,
        /// How.
        status: ExitStatus,
        /// The end of its log.
        last_lines: String,
    },
    /// A server did not do in a minute what it should.
    #[error("server {id} is not {awaited} after {} s; it said:\n{last_lines}", PATIENCE.as_secs())]
    TimedOut {
        /// Which.
        id: NodeId,
        /// What was waited for.
        awaited: &'static str,
        /// The end of its log.
        last_lines: String,
    },
    /// No server led.
    #[error("no server leads after {} s", PATIENCE.as_secs())]
    NoLeader,
    /// The servers did not come to rest at the same place.
    #[error("the servers do not agree after {} s; those that answer say:{said}", PATIENCE.as_secs())]
    NoAgreement {
        /// What each says of itself.
        said: String,
    },
    /// It is not in the plan, or does not run.
    #[error("server {0} does not run")]
    NotRunning(NodeId),
    /// It runs already.
    #[error("server {0} runs already")]
    Running(NodeId),
}

impl LocalClusterError {
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }
}
