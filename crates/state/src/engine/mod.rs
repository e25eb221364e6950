//! Where rows are kept: an ordered map of bytes with atomic batches and consistent snapshots.
//!
//! The engine need not be durable at once: the log is. After a crash it comes back as it was after *some* batch, at or
//! after the last [`Engine::persist`], and the log from there on is applied again. A batch is never seen in part.

mod disk;
mod files;
mod flusher;
mod layer_range;
mod memory;
mod merge;
mod recent;
mod tables;

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;

pub use self::disk::{DiskEngine, DiskIngest, DiskOptions, DiskSnapshot, FreshDiskEngine};
pub use self::files::FileCheck;
pub use self::memory::{Damage, MemoryEngine, MemoryIngest, MemorySnapshot};
pub use self::tables::shadow;

/// One row that a batch sets (`Some`) or removes (`None`).
pub type RowChange = (Bytes, Option<Bytes>);

/// A row: key and value.
pub type Row = (Bytes, Bytes);

/// The store under a state machine. A clone is another handle of the same store. There is one writer; readers take
/// snapshots from any thread.
pub trait Engine: Clone + Send + Sync + 'static {
    /// A consistent view.
    type Snapshot: Snapshot;

    /// All batches committed so far, and nothing of later ones. Old rows stay on disk while it lives: keep it short.
    fn snapshot(&self) -> Self::Snapshot;

    /// Applies all of `batch` in one atomic step. Each key stands there once. It may block while the store catches up. What it
    /// keeps it copies: the rows of a batch are slices of something larger.
    ///
    /// # Errors
    /// The store is not to be used any more: the node ends.
    fn commit(&self, batch: Vec<RowChange>) -> Result<(), EngineError>;

    /// Makes durable what was committed before the call. It may block for long and runs beside commits.
    ///
    /// # Errors
    /// The store is not to be used any more: the node ends.
    fn persist(&self) -> Result<(), EngineError>;
}

/// A consistent view of an engine.
pub trait Snapshot: Send + Sync + 'static {
    /// The value under `key`.
    ///
    /// # Errors
    /// If the disk fails or holds something else than was written.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The rows from `start` (inclusive) to `end` (exclusive), in the order of their keys; from the back, in reverse.
    /// Empty if `end` is not behind `start`.
    fn range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Row, EngineError>> + Send + 'static;
}

/// An empty store while it takes in rows, many and in order, faster than batches could. A store whose ingestion did not
/// finish is good for nothing: it is to be removed.
pub trait Ingest {
    /// The store that it becomes.
    type Engine: Engine;

    /// Takes a row. Its key is behind all keys before it; a store may panic if it is not.
    ///
    /// # Errors
    /// The store is not to be used any more: the node ends.
    fn add(&mut self, key: Bytes, value: Bytes) -> Result<(), EngineError>;

    /// Makes all rows durable, with the names of the files that they are in, and gives the store that holds them.
    ///
    /// # Errors
    /// The store is not to be used any more: the node ends.
    fn finish(self) -> Result<Self::Engine, EngineError>;
}

/// The store failed, or is not what it was. The node ends; nothing is tried again.
#[derive(Debug, thiserror::Error)]
#[error("state machine engine: {doing}")]
pub struct EngineError {
    /// What was being done.
    pub doing: &'static str,
    /// What the store says.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl EngineError {
    pub(crate) fn new(doing: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { doing, source: source.into() }
    }

    /// Whether what is on the disk is damaged: it cannot be read, or is not what was written. Any other failure, such as a want of memory
    /// or of file descriptors, says nothing of what is there.
    pub fn is_damage(&self) -> bool {
        self.source.downcast_ref().is_some_and(tables::is_damage)
            || self.source.downcast_ref().is_some_and(files::FileError::is_damage)
            || self.source.downcast_ref::<Arc<Self>>().is_some_and(|earlier| earlier.is_damage())
    }
}
