//! How a node ends: once, loudly, with the first reason.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use futures::FutureExt;
use raftmap_log::LogError;
use raftmap_state::StateError;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task;

use super::state_dirs::StateDirs;
use crate::causes::causes;
use crate::peers::FetchError;

/// Why a running node ended. Nothing is tried again: what was not acknowledged is of unknown outcome, and the program is
/// to end with this as its last line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NodeError {
    /// The log or its disk failed.
    #[error("the log failed, and nothing on it is trusted any more: {0}")]
    Log(Arc<LogError>),
    /// The state machine or its engine failed.
    #[error("the state machine failed: {}", causes(&**.0))]
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

/// How long a node that ends waits for a mark on its disk.
const SUSPECT_WITHIN: Duration = Duration::from_secs(1);

/// The switch that ends a node. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Failstop {
    reason: Arc<watch::Sender<Option<NodeError>>>,
    states: StateDirs,
}

impl Failstop {
    pub(crate) fn new(states: StateDirs) -> Self {
        Self { reason: Arc::new(watch::Sender::new(None)), states }
    }

    /// Ends the node. Only the first reason counts. If it may be that the state machine's files are damaged, the next start
    /// reads them all: it would only meet the damage again.
    pub(crate) fn fail(&self, error: NodeError) {
        if !self.has_failed() && matches!(error, NodeError::State(_) | NodeError::Panicked { .. }) {
            self.suspect_state();
        }
        self.reason.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                tracing::error!(%error, "this server ends");
                *reason = Some(error);
            }
            first
        });
    }

    /// The disk may be what failed: nobody waits for it for long.
    fn suspect_state(&self) {
        let (states, (done, is_done)) = (self.states.clone(), channel());
        let noted =
            Builder::new().name("raftmap-suspect".to_owned()).spawn(move || done.send(states.suspect()));
        if noted.is_err() || !matches!(is_done.recv_timeout(SUSPECT_WITHIN), Ok(Ok(()))) {
            tracing::error!("the next start may not know that the state machine failed");
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.reason.borrow().is_some()
    }

    /// Waits until the node has failed.
    pub(crate) async fn failed(&self) -> NodeError {
        let mut receiver = self.reason.subscribe();
        let reason = receiver.wait_for(Option::is_some).await;
        let reason = reason.expect("the sender lives in self");
        reason.clone().expect("waited for it")
    }

    /// Runs `body` as a task of `runtime`; an error or a panic of it ends the node.
    pub(crate) fn spawn_on(
        &self,
        runtime: &Handle,
        name: &'static str,
        body: impl Future<Output = Result<(), NodeError>> + Send + 'static,
    ) -> task::JoinHandle<()> {
        let failstop = self.clone();
        runtime.spawn(async move {
            if let Err(error) = ended(name, AssertUnwindSafe(body).catch_unwind().await) {
                failstop.fail(error);
            }
        })
    }

    /// Runs `body` on a thread of its own; an error or a panic of it ends the node.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        body: impl FnOnce() -> Result<(), NodeError> + Send + 'static,
    ) -> Result<JoinHandle<()>, NodeError> {
        let failstop = self.clone();
        let guarded = move || {
            if let Err(error) = ended(name, catch_unwind(AssertUnwindSafe(body))) {
                failstop.fail(error);
            }
        };
        Builder::new()
            .name(format!("raftmap-{name}"))
            .spawn(guarded)
            .map_err(|error| NodeError::Thread { thread: name, source: Arc::new(error) })
    }
}

/// What became of `body`: a panic of it ends the node, as an error of it does.
fn ended(thread: &'static str, body: std::thread::Result<Result<(), NodeError>>) -> Result<(), NodeError> {
    body.unwrap_or_else(|panic| Err(NodeError::Panicked { thread, message: message_of(panic.as_ref()) }))
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_the_state_machines_fault_makes_it_suspect_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let states = StateDirs::new(folder.path());
        Failstop::new(states.clone()).fail(NodeError::Expelled("it was removed".to_owned()));
        assert!(!states.is_suspect().unwrap());
        for error in [
            NodeError::from(StateError::Stopped),
            NodeError::Panicked { thread: "state", message: "what never happens".to_owned() },
        ] {
            Failstop::new(states.clone()).fail(error);
            assert!(states.is_suspect().unwrap());
            states.clear().unwrap();
        }
        let failstop = Failstop::new(states.clone());
        failstop.spawn("state", || panic!("what never happens")).unwrap().join().unwrap();
        assert!(failstop.has_failed() && states.is_suspect().unwrap());
    }
}
