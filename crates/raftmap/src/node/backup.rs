//! A node's state as a backup file, read while it goes on.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use raftmap_state::{SnapshotError, StateError};

use super::Node;
use crate::api::{Backup, Call, Code, Failure, ReadOptions};
use crate::backup::{BackupHeader, BackupParts, Origin};
use crate::runtime::StateHandle;

/// The parts of one file.
struct Reading {
    node: Node,
    parts: BackupParts,
    /// Its files stay while it is read, also when a snapshot takes its place.
    state: Arc<StateHandle>,
}

impl Node {
    /// Begins a backup: see [`crate::api::ReadAndWrite::backup`].
    pub(super) async fn begin_backup(&self, call: Call) -> Result<Backup, Failure> {
        self.await_readable(ReadOptions::default(), call).await?;
        let state = self.shared.state.get();
        let held = Arc::clone(&state);
        let snapshot = self.blocking(move || held.reader.snapshot()).await?;
        let snapshot = snapshot.map_err(|error| self.state_failed(error))?;
        let identity = &self.shared.identity;
        let header =
            BackupHeader::of(snapshot.header(), Origin::Cluster, identity.cluster(), identity.node());
        tracing::info!(revision = %header.position.index, "a backup begins");
        let bytes_expected = state.bytes();
        let reading = Reading { node: self.clone(), parts: BackupParts::new(&header, &snapshot), state };
        let parts = stream::unfold(Some(reading), |reading| async move {
            match reading?.next().await {
                Ok(next) => next.map(|(part, reading)| (Ok(part), Some(reading))),
                Err(failure) => Some((Err(failure), None)),
            }
        });
        Ok(Backup { parts: Box::pin(parts), bytes_expected })
    }
}

impl Reading {
    /// The next part. It is read on a thread that may block.
    async fn next(self) -> Result<Option<(Bytes, Self)>, Failure> {
        let Self { node, mut parts, state } = self;
        let (part, parts, state) = node.blocking(move || (parts.next(), parts, state)).await?;
        match part {
            None => Ok(None),
            Some(Ok(part)) => Ok(Some((part, Self { node, parts, state }))),
            Some(Err(SnapshotError::Engine(error))) => Err(node.state_failed(StateError::Engine(error))),
            Some(Err(error)) => Err(Failure::not_applied(Code::Unspecified, error.to_string())),
        }
    }
}
