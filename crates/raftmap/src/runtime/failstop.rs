//! How a node ends: once, loudly, with the first reason.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use raftmap_log::LogError;
use raftmap_state::StateError;
use tokio::sync::watch;

use crate::peers::FetchError;

/// Why a running node ended. Nothing is tried again: what was not acknowledged is of unknown outcome, and the program is
/// to end with this as its last line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NodeError {
    /// The log or its disk failed.
    #[error("the log failed, and nothing on it is trusted any more: {0}")]
    Log(Arc<LogError>),
    /// The state machine or its engine failed.
    #[error("the state machine failed: {0}")]
    State(Arc<StateError>),
    /// A directory of a state machine cannot be had or removed.
    #[error("the directories of the state machine failed: {0}")]
    StateDirs(Arc<std::io::Error>),
    /// A snapshot cannot be kept: this server's own disk failed, or an invariant is broken.
    #[error("a snapshot of another server cannot be kept: {0}")]
    Snapshot(Arc<FetchError>),
    /// An invariant is broken.
    #[error("broken invariant on the {thread} thread: {message}")]
    Panicked {
        /// The thread.
        thread: &'static str,
        /// What it said.
        message: String,
    },
    /// The operating system gave no thread.
    #[error("cannot start the {thread} thread: {source}")]
    Thread {
        /// The thread.
        thread: &'static str,
        /// What it said.
        source: Arc<std::io::Error>,
    },
    /// The cluster does not want this server as it is.
    #[error("this server must not take part: {0}")]
    Expelled(String),
}

impl From<LogError> for NodeError {
    fn from(error: LogError) -> Self {
        Self::Log(Arc::new(error))
    }
}

impl From<StateError> for NodeError {
    fn from(error: StateError) -> Self {
        Self::State(Arc::new(error))
    }
}

/// The switch that ends a node. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Failstop(Arc<watch::Sender<Option<NodeError>>>);

impl Failstop {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Ends the node. Only the first reason counts.
    pub(crate) fn fail(&self, error: NodeError) {
        self.0.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                tracing::error!(%error, "this server ends");
                *reason = Some(error);
            }
            first
        });
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until the node has failed.
    pub(crate) async fn failed(&self) -> NodeError {
        let mut receiver = self.0.subscribe();
        let reason = receiver.wait_for(Option::is_some).await;
        let reason = reason.expect("the sender lives in self");
        reason.clone().expect("waited for it")
    }

    /// Runs `body` on a thread of its own; an error or a panic of it ends the node.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        body: impl FnOnce() -> Result<(), NodeError> + Send + 'static,
    ) -> Result<JoinHandle<()>, NodeError> {
        let failstop = self.clone();
        let guarded = move || {
            let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
                Err(NodeError::Panicked { thread: name, message: message_of(panic.as_ref()) })
            });
            if let Err(error) = result {
                failstop.fail(error);
            }
        };
        Builder::new()
            .name(format!("raftmap-{name}"))
            .spawn(guarded)
            .map_err(|error| NodeError::Thread { thread: name, source: Arc::new(error) })
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
        .to_owned()
}
