//! The engine on disk: rows in memory, which go in bulk into tables.
//!
//! What is committed stays in memory until there is enough of it for a table: a row that is written again and again reaches the
//! disk once, in order, without a journal, since the log is one (docs/performance.md). A layer of rows holds whole batches and
//! becomes tables in one step, and layers do in order: tables never hold a part of a batch, nor one without all that came
//! before it (scenario 47). A crash costs what was in memory alone: it is applied again.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::files::FileCheck;
use super::flusher::Flusher;
use super::merge::{Merged, Source};
use super::recent::{Recent, View};
use super::tables::{Ingestion, Tables, TablesView};
use super::{Engine, EngineError, Ingest, Row, RowChange, Snapshot};

/// So much is held in memory at least before it becomes tables, and at most.
const LAYER_BYTES: RangeInclusive<u64> = 16 << 20..=64 << 20;
/// Between the two it is this part of what the tables take: each layer is merged into tables that hold neighbours of all of its
/// rows, so that the fewer layers there are, the less is merged for each row.
const LAYER_PART: u64 = 16;

/// What a server may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// The cache of blocks read from disk, in bytes.
    pub cache_bytes: u64,
}

impl Default for DiskOptions {
    /// 64 MiB of cache.
    fn default() -> Self {
        Self { cache_bytes: 64 << 20 }
    }
}

/// An engine on disk.
#[derive(Clone)]
pub struct DiskEngine {
    tables: Tables,
    recent: Arc<Recent>,
    flusher: Arc<Flusher>,
    /// Held from the first row of a batch to the last: a layer is sealed between two. So many bytes are one.
    writer: Arc<Mutex<u64>>,
}

impl DiskEngine {
    /// Opens the database in `directory`, or makes it. The directory is locked while a handle lives.
    ///
    /// # Errors
    /// If the disk fails, the directory is open elsewhere, or what is there cannot be read.
    pub fn open(directory: &Path, options: DiskOptions) -> Result<Self, EngineError> {
        let (tables, recent) = (Tables::open(directory, options.cache_bytes)?, Arc::new(Recent::default()));
        let flusher = Flusher::start(Arc::clone(&recent), tables.clone())?;
        let writer = Mutex::new(layer_bytes(tables.disk_bytes()));
        Ok(Self { tables, recent, flusher: Arc::new(flusher), writer: Arc::new(writer) })
    }

    /// Makes an empty database in `directory`, which must not be there yet, for rows to be ingested into. If anything
    /// fails or the process dies before the ingestion is finished, the directory is to be removed.
    ///
    /// # Errors
    /// If the disk fails or the directory is there.
    pub fn fresh(directory: &Path, options: DiskOptions) -> Result<FreshDiskEngine, EngineError> {
        fs::create_dir(directory).map_err(|error| EngineError::new("create directory", error))?;
        Ok(FreshDiskEngine { engine: Self::open(directory, options)? })
    }

    /// How much its tables take on disk, in bytes. What is in memory alone is not counted.
    pub fn disk_bytes(&self) -> u64 {
        self.tables.disk_bytes()
    }

    /// A check of the files that hold its rows now.
    pub fn file_check(&self) -> FileCheck {
        self.tables.files()
    }

    /// Whether the store still works, its background threads included. It waits for nothing, and may be called from any
    /// thread, also while a commit hangs because of what it reports.
    ///
    /// # Errors
    /// If a flush or a merge failed: the node ends.
    pub fn check(&self) -> Result<(), EngineError> {
        self.flusher.check()
    }

    /// Has the newest layer become tables.
    fn seal(&self) {
        let mut layer_full_at = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.flusher.seal();
        *layer_full_at = layer_bytes(self.tables.disk_bytes());
    }
}

/// How large a layer becomes beside tables of `tables_bytes`.
fn layer_bytes(tables_bytes: u64) -> u64 {
    (tables_bytes / LAYER_PART).clamp(*LAYER_BYTES.start(), *LAYER_BYTES.end())
}

/// A database that was just made and holds nothing.
pub struct FreshDiskEngine {
    engine: DiskEngine,
}

impl FreshDiskEngine {
    /// Begins to take in rows.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn ingest(&self) -> Result<DiskIngest<'_>, EngineError> {
        Ok(DiskIngest { engine: &self.engine, rows: self.engine.tables.ingest()? })
    }
}

/// Rows on their way into a [`FreshDiskEngine`].
pub struct DiskIngest<'a> {
    engine: &'a DiskEngine,
    rows: Ingestion<'a>,
}

impl Ingest for DiskIngest<'_> {
    type Engine = DiskEngine;

    fn add(&mut self, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        self.rows.add(key, Some(value))
    }

    fn finish(self) -> Result<DiskEngine, EngineError> {
        self.rows.finish()?;
        Ok(self.engine.clone())
    }
}

impl Engine for DiskEngine {
    type Snapshot = DiskSnapshot;

    fn snapshot(&self) -> DiskSnapshot {
        let (recent, tables) = self.recent.view(|| self.tables.view());
        DiskSnapshot { recent, tables }
    }

    fn commit(&self, batch: Vec<RowChange>) -> Result<(), EngineError> {
        self.flusher.wait_for_room()?;
        let layer_full_at = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = self.recent.commit(&batch) as u64 >= *layer_full_at;
        drop(layer_full_at);
        if is_full {
            self.seal();
        }
        Ok(())
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.seal();
        self.flusher.wait_for_all()
    }
}

/// A view of a [`DiskEngine`].
#[derive(Clone)]
pub struct DiskSnapshot {
    recent: View,
    tables: TablesView,
}

impl Snapshot for DiskSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.recent.get(key) {
            Some(value) => Ok(value),
            None => self.tables.get(key),
        }
    }

    fn range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Row, EngineError>> + Send + 'static {
        let recent = self.recent.ranges(start, end).map(|rows| -> Source { Box::new(rows.map(Ok)) });
        // A tree panics at a range whose end is before its start.
        let tables = (start < end).then(|| -> Source {
            let rows = self.tables.range(start, end);
            Box::new(rows.map(|row| row.map(|(key, value)| (key, Some(value)))))
        });
        Merged::new(recent.chain(tables))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_grow_with_the_tables_within_bounds() {
        assert_eq!(layer_bytes(0), 16 << 20);
        assert_eq!(layer_bytes(1 << 29), 32 << 20);
        assert_eq!(layer_bytes(1 << 40), 64 << 20);
    }
}
