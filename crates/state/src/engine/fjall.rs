//! The engine on disk: one fjall database with one keyspace.
//!
//! What of fjall (3.1.13) matters here:
//! - A batch is one journal record and goes into one memtable under the journal's lock: it is recovered whole or not at
//!   all, and a flush never splits it (scenario 47).
//! - With `manual_journal_persist` a commit writes to a buffer and syncs nothing. A crash loses a suffix of the batches,
//!   which the log still has.
//! - At start the journal is cut silently at the first record that does not decode, and syncing it afterwards proves
//!   nothing about pages that the kernel takes for clean. So [`Engine::persist`] writes new table files.
//! - A commit sleeps while four sealed memtables wait to be flushed. If the worker that should flush them failed, it
//!   sleeps for ever: [`FjallEngine::check`] tells, from any thread.
//! - An error in an iteration comes out of the guard, when the row is taken from it.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable, Slice,
};

use super::{Engine, EngineError, Row, RowChange, Snapshot};

const KEYSPACE: &str = "state";

const MEMTABLE_BYTES: u64 = 16 << 20;
const JOURNALS_BYTES_MAX: u64 = 128 << 20;

/// One thread that flushes first, one that compacts.
const WORKER_THREADS: usize = 2;

/// How often [`Engine::persist`] looks whether the flush is done; fjall has no call that waits and reports failure.
const FLUSH_POLL: Duration = Duration::from_millis(5);

/// What a server may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FjallOptions {
    /// The cache of blocks read from disk, in bytes.
    pub cache_bytes: u64,
}

impl Default for FjallOptions {
    /// 64 MiB of cache.
    fn default() -> Self {
        Self { cache_bytes: 64 << 20 }
    }
}

/// An engine on disk.
#[derive(Clone)]
pub struct FjallEngine {
    database: Database,
    keyspace: Keyspace,
}

impl FjallEngine {
    /// Opens the database in `directory`, or makes it. The directory is locked while a handle lives.
    ///
    /// # Errors
    /// If the disk fails, the directory is open elsewhere, or what is there cannot be read.
    pub fn open(directory: &Path, options: FjallOptions) -> Result<Self, EngineError> {
        let database = Database::builder(directory)
            .manual_journal_persist(true)
            .journal_compression(CompressionType::None)
            .max_journaling_size(JOURNALS_BYTES_MAX)
            .cache_size(options.cache_bytes)
            .worker_threads(WORKER_THREADS)
            .open()
            .map_err(|error| EngineError::new("open database", error))?;
        let create = || {
            KeyspaceCreateOptions::default().manual_journal_persist(true).max_memtable_size(MEMTABLE_BYTES)
        };
        let keyspace =
            database.keyspace(KEYSPACE, create).map_err(|error| EngineError::new("open keyspace", error))?;
        Ok(Self { database, keyspace })
    }

    /// Whether the store still works, its background threads included. It may be called from any thread, also while a
    /// commit hangs because of what it reports.
    ///
    /// # Errors
    /// If a write, a flush or a compaction failed: the node ends.
    pub fn check(&self) -> Result<(), EngineError> {
        // The one public call that looks at fjall's poison flag; it writes a buffer of at most 8 KiB and syncs nothing.
        self.database.persist(PersistMode::Buffer).map_err(|error| EngineError::new("background work", error))
    }
}

impl Engine for FjallEngine {
    type Snapshot = FjallSnapshot;

    fn snapshot(&self) -> FjallSnapshot {
        FjallSnapshot { snapshot: self.database.snapshot(), keyspace: self.keyspace.clone() }
    }

    fn commit(&self, batch: Vec<RowChange>) -> Result<(), EngineError> {
        let mut writes = OwnedWriteBatch::with_capacity(self.database.clone(), batch.len());
        for (key, value) in batch {
            match value {
                Some(value) => writes.insert(&self.keyspace, key, value),
                None => writes.remove(&self.keyspace, key),
            }
        }
        writes.commit().map_err(|error| EngineError::new("commit", error))
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.keyspace.rotate_memtable().map_err(|error| EngineError::new("rotate memtable", error))?;
        loop {
            self.check()?;
            if self.keyspace.sealed_memtable_count() == 0 {
                return Ok(());
            }
            std::thread::sleep(FLUSH_POLL);
        }
    }
}

/// A view of a [`FjallEngine`].
#[derive(Clone)]
pub struct FjallSnapshot {
    snapshot: fjall::Snapshot,
    keyspace: Keyspace,
}

impl Snapshot for FjallSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.snapshot.get(&self.keyspace, key).map_err(|error| EngineError::new("get", error))?;
        Ok(value.map(Bytes::from))
    }

    fn range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Row, EngineError>> + Send + 'static {
        // fjall panics at a range whose end is before its start.
        let rows = (start < end).then(|| self.snapshot.range(&self.keyspace, start..end));
        rows.into_iter().flatten().map(|guard| {
            let (key, value): (Slice, Slice) =
                guard.into_inner().map_err(|error| EngineError::new("range", error))?;
            Ok((key.into(), value.into()))
        })
    }
}
