//! Snapshots of other servers: fetched beside everything else, into a directory of their own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use raftmap_raft::{GroupId, LogIndex, Membership, NodeId, Snapshot};
use raftmap_replica::Event;
use raftmap_state::{DiskOptions, StateError};
use tokio::runtime::Handle;

use crate::peers::{HeldSnapshot, Peers, SnapshotSource};
use crate::runtime::{Failstop, Inbox, NodeError, StateDirs, StateSlot};

/// What it takes to fetch a snapshot.
pub(crate) struct SnapshotFetcher {
    pub(super) peers: Arc<Peers>,
    pub(super) runtime: Handle,
    pub(super) dirs: StateDirs,
    pub(super) group: GroupId,
    pub(super) options: DiskOptions,
    /// The membership before any entry changed it.
    pub(super) founders: Membership,
    pub(super) inbox: Inbox,
    pub(super) failstop: Failstop,
}

impl SnapshotFetcher {
    /// Begins to fetch a snapshot of `from`, which must have applied `at_least`. The replica hears how it ended.
    pub(super) fn fetch(&self, from: NodeId, at_least: LogIndex) {
        let state = match self.dirs.next() {
            Ok(state) => state,
            Err(error) => return self.failstop.fail(NodeError::StateDirs(Arc::new(error))),
        };
        let (peers, dir) = (Arc::clone(&self.peers), self.dirs.path(state));
        let (group, options) = (self.group, self.options);
        let (founders, inbox, failstop) = (self.founders.clone(), self.inbox.clone(), self.failstop.clone());
        self.runtime.spawn(async move {
            let fetched = peers.fetch_snapshot(from, at_least, group, dir, options).await;
            inbox.event(match fetched {
                Ok(header) => {
                    let membership = header.membership.map_or(founders, |(_, membership)| membership);
                    let position = header.applied.position;
                    Event::SnapshotReady(Snapshot { position, membership, state })
                }
                Err(error) if error.ends_node() => {
                    return failstop.fail(NodeError::Snapshot(Arc::new(error)));
                }
                Err(error) => {
                    tracing::warn!(%from, %error, "no snapshot");
                    Event::SnapshotFailed
                }
            });
        });
    }
}

/// The state machine for other servers.
pub(super) struct StateSource {
    pub(super) slot: StateSlot,
    pub(super) failstop: Failstop,
}

impl SnapshotSource for StateSource {
    fn snapshot(&self) -> Result<Option<HeldSnapshot>, StateError> {
        let hold = self.slot.get();
        let fit = hold.copyable();
        if !fit.load(Ordering::Acquire) {
            return Ok(None);
        }
        let reader = hold.reader.snapshot()?;
        Ok(Some(HeldSnapshot { reader, hold, fit }))
    }

    fn failed(&self, error: StateError) {
        self.failstop.fail(error.into());
    }
}
