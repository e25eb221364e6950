//! Servers that do not run: what their data directories hold, looked at without a byte of them being changed.
//!
//! [`check`] says whether a directory is whole. [`Survivor`] says what one holds when a majority is lost, and
//! [`Survivor::write_backup`] saves it.
//!
//! The state machine is read in a *shadow*: a folder elsewhere that links to what its engine wrote once, and has copies of the
//! little rest. What is done there leaves the directory as it is.

mod check;
mod recover;

use std::io;
use std::path::{Path, PathBuf};

use raftmap_log::{Examination, LogOptions, OpenError, ReadOnlyDisk, examine};
use raftmap_raft::{LogPosition, StateId};
use raftmap_state::{DiskEngine, DiskOptions, EngineError, FileCheck, StateError, StateMachine, shadow};
use tempfile::TempDir;

use crate::runtime::StateDirs;

pub use self::check::{CheckReport, Finding, Part, check};
pub use self::recover::{RecoverError, Survivor, Survivors};

/// A data directory that is looked at. No server can start on it meanwhile.
struct Stopped {
    dir: PathBuf,
    examination: Examination<ReadOnlyDisk>,
    /// Where the shadow of its state machine is made.
    scratch: TempDir,
}

/// Why a state machine cannot be read.
#[derive(Debug, thiserror::Error)]
enum NoState {
    /// There is no directory of that name.
    #[error("{0} is not there")]
    Missing(PathBuf),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("there is no room for its shadow: {0}")]
    Scratch(#[source] io::Error),
    /// The log, which names it, cannot be read.
    #[error("the log, which says which one it is, cannot be read")]
    Unnamed,
}

impl From<EngineError> for NoState {
    fn from(error: EngineError) -> Self {
        Self::State(error.into())
    }
}

/// Why a data directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum StoppedError {
    /// It is none, a server runs on it, or it does not say whose it is.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no room for a shadow.
    #[error("no folder for the shadow of the state machine can be made in {}: {source}", folder.display())]
    Scratch {
        /// Where it was to be.
        folder: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

impl Stopped {
    /// Looks at `dir`. Shadows are made in a folder of its own in `scratch`, which is removed in the end.
    fn open(dir: &Path, scratch: &Path) -> Result<Self, StoppedError> {
        let examination = examine(&ReadOnlyDisk, dir, &LogOptions::default())?;
        let folder = tempfile::Builder::new().prefix("raftmap-shadow-").tempdir_in(scratch);
        let scratch =
            folder.map_err(|source| StoppedError::Scratch { folder: scratch.to_owned(), source })?;
        Ok(Self { dir: dir.to_owned(), examination, scratch })
    }

    /// The state machine that the log names.
    fn state_id(&self) -> Option<StateId> {
        let log = self.examination.log.as_ref().ok()?;
        Some(log.base.as_ref().map_or(StateId(0), |base| base.state))
    }

    /// The state machine that the log names, as it is on disk, in a shadow: whatever is applied to it, the next one is again as it
    /// is on disk.
    fn state(&self) -> Result<StateMachine<DiskEngine>, NoState> {
        self.state_and_files().map(|(machine, _)| machine)
    }

    /// The same, with what tells whether all bytes of its files are what was written: rows can be read without that, too.
    fn state_and_files(&self) -> Result<(StateMachine<DiskEngine>, FileCheck), NoState> {
        let state = self.state_id().ok_or(NoState::Unnamed)?;
        let original = StateDirs::new(&self.dir).path(state);
        if !original.is_dir() {
            return Err(NoState::Missing(original));
        }
        let target = tempfile::Builder::new().prefix("state-").tempdir_in(self.scratch.path());
        let target = target.map_err(NoState::Scratch)?.keep().join("shadow");
        shadow(&original, &target)?;
        let engine = DiskEngine::open(&target, DiskOptions::default())?;
        let files = engine.file_check();
        Ok((StateMachine::open(engine, LogOptions::default().group)?, files))
    }

    /// Whether a state machine that has applied `applied` goes with the log; if not, why.
    fn misfit(&self, applied: LogPosition) -> Option<String> {
        let log = self.examination.log.as_ref().ok()?;
        if !log.state_is_whole(applied.index) {
            let base = log.base.as_ref()?;
            return Some(format!(
                "the state machine has applied {}, and it had {} on disk when the log was cut: it lost something",
                applied.index,
                base.durable.max(base.position.index)
            ));
        }
        if applied.index > log.last.index {
            return Some(format!(
                "the state machine has applied {}, and the log ends at {}: the log lost something",
                applied.index, log.last.index
            ));
        }
        let term = log.term_at(applied.index).unwrap_or_default();
        (term != applied.term).then(|| {
            format!(
                "the state machine has applied index {} in term {}, and the log has term {term} there: they are of two \
                 histories",
                applied.index, applied.term
            )
        })
    }
}
