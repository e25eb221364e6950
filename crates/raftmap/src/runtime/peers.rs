//! A thread for the replica and for what servers say to each other: a heartbeat never waits behind the work for clients, nor
//! until another thread has woken.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};

use super::failstop::NodeError;
use crate::node::StartFailure;
use crate::peers::{PeerSink, Peers, PeersConfig, SnapshotSource};

/// The runtime of the replica and of the connections to the other servers. One thread is enough for what a disk can take in, and
/// tasks that wake each other on one thread wake no other.
pub(crate) struct PeersRuntime {
    /// Taken when it is dropped.
    runtime: Option<Runtime>,
}

impl PeersRuntime {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub(crate) fn start() -> Result<Self, NodeError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("raftmap-peers")
            .enable_all()
            .build()
            .map_err(|error| NodeError::Thread { thread: "peers", source: Arc::new(error) })?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// For tasks that belong beside the connections.
    pub(crate) fn handle(&self) -> Handle {
        let runtime = self.runtime.as_ref().expect("it is taken when this is dropped");
        runtime.handle().clone()
    }

    /// Begins to listen at `address` and to dial, on this runtime.
    ///
    /// # Errors
    /// If the port cannot be had.
    pub(crate) fn listen(
        &self,
        address: SocketAddr,
        config: PeersConfig,
        sink: impl PeerSink,
        source: impl SnapshotSource,
    ) -> Result<Peers, StartFailure> {
        let _inside = self.runtime.as_ref().map(Runtime::enter);
        let listener = StdListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        });
        let listener = listener.map_err(|source| StartFailure::Listen { address, source })?;
        Ok(Peers::start(config, listener, sink, source))
    }
}

impl Drop for PeersRuntime {
    /// Does not wait: whoever drops it may be a task itself.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
