//! The data directory of a server of a new cluster, made of a backup.

use std::path::Path;

use raftmap_log::{FoundingMember, Identity, InitError, Log, LogOptions, RealDisk, RestoredFrom};
use raftmap_raft::{Base, GroupId, LogIndex, Membership, NodeId, StateId};
use raftmap_state::{Discarded, DiskEngine, DiskOptions, EngineError, OfNewCluster, SnapshotError};

use super::header::BackupHeader;
use super::reader::{BackupError, BackupSummary, read_file};
use crate::node::{InitFailure, cluster_id, random_u64};
use crate::runtime::StateDirs;
use crate::tls::identity::ClusterName;

/// The state machine of a cluster that was just made.
const FIRST_STATE: StateId = StateId(0);

/// What is to be made.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// The name of the new cluster; not that of the backup's.
    pub cluster: ClusterName,
    /// The server.
    pub node: NodeId,
    /// All servers of the new cluster, the same for each of them.
    pub members: Vec<FoundingMember>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is of no use.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The new cluster would be the old one.
    #[error(
        "the backup is of cluster {0}, too: choose another name, so that a server of the old cluster that comes back is none of \
         the new one"
    )]
    SameCluster(ClusterName),
    /// It is the state of a Raft group that no server hosts.
    #[error("the backup is of group {0}, which this version of raftmap does not host")]
    OtherGroup(GroupId),
    /// There is nothing in the backup.
    #[error("the backup was taken before the first write: there is nothing to restore; use `raftmap init`")]
    Empty,
    /// The file changed while it was read.
    #[error("the file changed while it was restored; nothing was made that a server would start on")]
    Changed,
    /// What it was told is not possible, or the directory cannot be made.
    #[error(transparent)]
    Init(#[from] InitFailure),
    /// The state machine cannot be made.
    #[error("the state machine cannot be made: {0}")]
    State(#[from] SnapshotError),
}

impl From<InitError> for RestoreError {
    fn from(error: InitError) -> Self {
        Self::Init(error.into())
    }
}

impl From<EngineError> for RestoreError {
    fn from(error: EngineError) -> Self {
        Self::State(error.into())
    }
}

/// Makes the data directory of a server of a new cluster whose map is that of the backup in `file`. Revisions, sessions and log
/// time go on from there. The file is read twice: nothing is made of one that is not whole. `read` hears of each time how many
/// bytes were read.
///
/// # Errors
/// If the file is not whole, or the directory cannot be made. What was made is no data directory then.
pub fn restore(
    file: &Path,
    data_dir: &Path,
    plan: RestorePlan,
    mut read: impl FnMut(u64),
) -> Result<(Identity, BackupSummary), RestoreError> {
    let (summary, _) = read_file(file, Discarded, &mut read)?;
    let BackupHeader { position, group, cluster, .. } = summary.header;
    if cluster_id(&plan.cluster) == cluster {
        return Err(RestoreError::SameCluster(plan.cluster));
    }
    if group != GroupId::DEFAULT {
        return Err(RestoreError::OtherGroup(group));
    }
    if position.index == LogIndex(0) {
        return Err(RestoreError::Empty);
    }
    let voters = Membership::of_voters(plan.members.iter().map(|member| member.node));
    let identity = identity(plan)?.restored(RestoredFrom { position, digest: summary.digest });
    let base = Base { position, membership: voters, durable: position.index, state: FIRST_STATE };
    Log::init_at(&RealDisk, data_dir, &identity, &LogOptions::default(), &base, || {
        let state = StateDirs::new(data_dir).path(FIRST_STATE);
        make_state(file, &state, &summary, &mut read)
    })?;
    Ok((identity, summary))
}

fn identity(plan: RestorePlan) -> Result<Identity, InitFailure> {
    let RestorePlan { cluster, node, members } = plan;
    if !members.iter().any(|member| member.node == node) {
        return Err(InitFailure::NotAMember(node.0));
    }
    let incarnation = random_u64().map_err(InitFailure::Random)?;
    Ok(Identity::new(cluster_id(&cluster), node, incarnation, members)?)
}

/// Makes the state machine in a directory of its own, durably.
fn make_state(
    file: &Path,
    directory: &Path,
    expected: &BackupSummary,
    read: &mut impl FnMut(u64),
) -> Result<(), RestoreError> {
    let fresh = DiskEngine::fresh(directory, DiskOptions::default())?;
    let (summary, install) = read_file(file, OfNewCluster(fresh.ingest()?), read)?;
    if summary != *expected {
        return Err(RestoreError::Changed);
    }
    drop(install.finish()?);
    Ok(())
}
