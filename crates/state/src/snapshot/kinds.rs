//! What else may become of the rows of a snapshot than the same store again.

use bytes::Bytes;

use crate::engine::{EngineError, Ingest, MemoryEngine};
use crate::format::table::{self, Table};

/// For a snapshot that is only to be checked: keeps no row.
#[derive(Debug, Default)]
pub struct Discarded;

impl Ingest for Discarded {
    type Engine = MemoryEngine;

    fn add(&mut self, _: Bytes, _: Bytes) -> Result<(), EngineError> {
        Ok(())
    }

    /// An empty store.
    fn finish(self) -> Result<MemoryEngine, EngineError> {
        Ok(MemoryEngine::new())
    }
}

/// For a snapshot that becomes the state of a new cluster: leaves out who the members of the old one were and where, and whose
/// ids were used up there. All else stays as it is, so that the new cluster's revisions, sessions and log time go on.
#[derive(Debug)]
pub struct OfNewCluster<I>(pub I);

impl<I: Ingest> Ingest for OfNewCluster<I> {
    type Engine = I::Engine;

    fn add(&mut self, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        match table::of(&key) {
            Ok(
                Table::Members | Table::Membership | Table::Removed | Table::Introductions | Table::Scanned,
            ) => Ok(()),
            // What cannot be understood was refused before.
            _ => self.0.add(key, value),
        }
    }

    fn finish(self) -> Result<I::Engine, EngineError> {
        self.0.finish()
    }
}
