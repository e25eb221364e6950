//! The thread that makes a store of the chunks that come.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use raftmap_raft::{GroupId, LogIndex};
use raftmap_state::{DiskEngine, DiskOptions, SnapshotError, SnapshotHeader, SnapshotInstall};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tracing::error;

/// Where a snapshot is to go, and which.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) group: GroupId,
    pub(super) at_least: LogIndex,
    pub(super) dir: PathBuf,
    pub(super) options: DiskOptions,
}

/// A store that is being filled, on a thread of its own, as it writes to the disk. Dropping it ends the
/// thread, which removes the directory.
pub(super) struct Install {
    steps: mpsc::Sender<Step>,
    thread: JoinHandle<Result<Installed, InstallError>>,
}

enum Step {
    Chunk(Bytes),
    Token(oneshot::Sender<Bytes>),
}

/// Why a store was not finished. Its directory is removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum InstallError {
    /// Something is in the way: it is left as it is.
    #[error("{0} is there already")]
    Exists(PathBuf),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The header is that of an older state than was asked for.
    #[error("it is of index {found}, and {at_least} was asked for")]
    TooOld { found: LogIndex, at_least: LogIndex },
    #[error("it was given up")]
    Abandoned,
    #[error("{0}")]
    Panicked(String),
}

/// A store that is whole and durable.
pub(super) struct Installed {
    header: SnapshotHeader,
    directory: Directory,
}

impl Install {
    /// Begins with an empty store.
    pub(super) fn start(plan: Plan) -> Self {
        // The chunk that waits here, and the one that the thread works on.
        let (steps, taken) = mpsc::channel(1);
        Self { steps, thread: spawn_blocking(move || run(plan, taken)) }
    }

    /// Hands in the next chunk, the header first, as soon as there is room for it. If the thread has ended, [`Self::end`]
    /// tells why.
    pub(super) async fn take(&self, chunk: Bytes) {
        let _ended = self.steps.send(Step::Chunk(chunk)).await;
    }

    /// How far it is, when all that was handed in is taken in. `None` if the header did not come yet, or the thread has
    /// ended.
    pub(super) async fn token(&self) -> Option<Bytes> {
        let (reply, token) = oneshot::channel();
        self.steps.send(Step::Token(reply)).await.ok()?;
        token.await.ok()
    }

    /// Whether the thread has ended, for better or worse.
    pub(super) fn has_ended(&self) -> bool {
        self.steps.is_closed()
    }

    /// Waits until the thread ends by itself.
    pub(super) async fn ended(&self) {
        self.steps.closed().await;
    }

    /// Ends the thread, and waits until it has cleaned up.
    pub(super) async fn end(self) -> Result<Installed, InstallError> {
        drop(self.steps);
        let panicked = |error: JoinError| InstallError::Panicked(error.to_string());
        self.thread.await.map_err(panicked).flatten()
    }
}

impl Installed {
    /// The directory stays. What was installed there.
    pub(super) fn keep(mut self) -> SnapshotHeader {
        self.directory.remove = false;
        self.header
    }
}

fn run(plan: Plan, mut steps: mpsc::Receiver<Step>) -> Result<Installed, InstallError> {
    let Plan { group, at_least, dir, options } = plan;
    // Dropped last: the database under it is closed by then.
    let directory = Directory::claim(dir)?;
    let fresh = DiskEngine::fresh(&directory.path, options).map_err(SnapshotError::Engine)?;
    let ingest = fresh.ingest().map_err(SnapshotError::Engine)?;
    let header_bytes = loop {
        match steps.blocking_recv().ok_or(InstallError::Abandoned)? {
            Step::Chunk(header) => break header,
            Step::Token(nothing_yet) => drop(nothing_yet),
        }
    };
    let mut install = SnapshotInstall::new(group, &header_bytes, ingest)?;
    let found = install.header().applied.position.index;
    if found < at_least {
        return Err(InstallError::TooOld { found, at_least });
    }
    while !install.is_complete() {
        match steps.blocking_recv().ok_or(InstallError::Abandoned)? {
            Step::Chunk(chunk) => install.take(&chunk)?,
            Step::Token(reply) => drop(reply.send(install.token())),
        }
    }
    let header = install.header().clone();
    drop(install.finish()?);
    drop(fresh);
    Ok(Installed { header, directory })
}

/// A directory that is removed when it is dropped.
struct Directory {
    path: PathBuf,
    remove: bool,
}

impl Directory {
    fn claim(path: PathBuf) -> Result<Self, InstallError> {
        // What cannot be looked at cannot be made either: that is told then.
        if path.try_exists().unwrap_or(false) {
            return Err(InstallError::Exists(path));
        }
        Ok(Self { path, remove: true })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.remove {
            remove(&self.path);
        }
    }
}

/// What cannot be removed costs room on the disk until the next start, and nothing else: no record names it.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        error!(path = %path.display(), %error, "what is left of a snapshot cannot be removed");
    }
}
