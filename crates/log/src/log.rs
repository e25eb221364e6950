//! The log itself.
#![expect(clippy::unimplemented, unused_variables, reason = "bodies follow in the next commits")]

use std::marker::PhantomData;
use std::path::Path;

use raftmap_raft::{Entry, LogIndex, LogPosition, Write, WriteId};

use crate::disk::{Disk, Space};
use crate::error::{InitError, LogError, OpenError};
use crate::identity::Identity;
use crate::options::LogOptions;
use crate::recovered::Recovered;

/// The log and the hard state of one group, open on a disk, held by one thread.
pub struct Log<D: Disk> {
    disk: PhantomData<D>,
}

/// Reads entries that are durable, from any thread, while the [`Log`] goes on.
#[derive(Clone)]
pub struct LogReader<D: Disk> {
    disk: PhantomData<D>,
}

/// The making of the next segment, to be run on any thread.
pub struct Preparation<D: Disk> {
    disk: PhantomData<D>,
}

impl<D: Disk> Log<D> {
    /// Makes a data directory at `dir`, which must be empty or not be there.
    ///
    /// # Errors
    /// If there is something, an earlier `init` was cut short, or the disk fails.
    pub fn init(disk: &D, dir: &Path, identity: &Identity, options: &LogOptions) -> Result<(), InitError> {
        unimplemented!()
    }

    /// Opens the data directory at `dir` and recovers its log.
    ///
    /// # Errors
    /// See [`OpenError`]. The node must not start.
    pub fn open(disk: D, dir: &Path, options: &LogOptions) -> Result<(Self, Recovered), OpenError> {
        unimplemented!()
    }

    /// Makes `writes` durable, in their order, and gives the id of the last one: it and all before it are persisted.
    /// The hard state goes first, then all records in one batch.
    ///
    /// # Errors
    /// See [`LogError`]: the log is dead, and so must the node be. Which of the writes are durable is unknown.
    ///
    /// # Panics
    /// If `writes` is empty.
    pub fn write(&mut self, writes: &[Write]) -> Result<WriteId, LogError> {
        unimplemented!()
    }

    /// Writes the mark: a block that says that all before it was synced. To be called when nothing has waited to be
    /// written for a moment; writes nothing if the mark stands already.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn mark(&mut self) -> Result<(), LogError> {
        unimplemented!()
    }

    /// The making of the next segment, if it is time for it: to be run where it delays no append. [`Self::write`] waits
    /// for it only if it needs the segment before it is made.
    ///
    /// # Errors
    /// As [`Self::write`], if an earlier one failed.
    pub fn prepare(&mut self) -> Result<Option<Preparation<D>>, LogError> {
        unimplemented!()
    }

    /// A reader of this log.
    pub fn reader(&self) -> LogReader<D> {
        unimplemented!()
    }

    /// The last entry.
    pub fn last(&self) -> LogPosition {
        unimplemented!()
    }

    /// How full the file system is.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn space(&self) -> Result<Space, LogError> {
        unimplemented!()
    }
}

impl<D: Disk> Preparation<D> {
    /// Makes the segment and hands it to the log. A failure reaches the log, too.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn run(self) -> Result<(), LogError> {
        unimplemented!()
    }
}

impl<D: Disk> LogReader<D> {
    /// The entries from `from` to `max_index`, or as many of them from the first on as hold `max_bytes` of content and
    /// headers, but at least one. Every block is checked.
    ///
    /// # Errors
    /// [`LogError::NotInLog`] if `from` or `max_index` is not in the log; any other ends the node.
    pub fn entries(
        &self,
        from: LogIndex,
        max_index: LogIndex,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, LogError> {
        unimplemented!()
    }
}
