//! Digests by which servers find out that they differ (STORAGE.md, "Scrub and digests").
//!
//! The *running* digest chains what each entry did: rows set and removed, and its result. Two servers at the same index
//! with different running digests did not compute the same: code diverged. It says nothing about rows that rot later;
//! the *content* digest, over all rows as they are read, finds those.

use std::fmt;

use bytes::Bytes;
use raftmap_raft::LogPosition;
use xxhash_rust::xxh3::Xxh3;

use crate::engine::{EngineError, Row};
use crate::level::LEVEL_FIRST;

/// A 128-bit hash (XXH3). It finds accidents, not forgeries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

const REMOVED: u64 = u64::MAX;

/// The running digest on its way through one entry.
pub(crate) struct EntryDigest(Xxh3);

impl EntryDigest {
    pub(crate) fn new(before: Digest, position: LogPosition, log_time_ms: u64, level: u8) -> Self {
        let mut hash = Xxh3::new();
        hash.update(&before.0.to_le_bytes());
        hash.update(&position.term.0.to_le_bytes());
        hash.update(&position.index.0.to_le_bytes());
        hash.update(&log_time_ms.to_le_bytes());
        // Programs of the first level knew of none.
        if level > LEVEL_FIRST {
            hash.update(&[level]);
        }
        Self(hash)
    }

    /// A row that the entry set (`Some`) or removed, in the order in which it did.
    pub(crate) fn row(&mut self, key: &[u8], value: Option<&Bytes>) {
        update_with_len(&mut self.0, key);
        match value {
            Some(value) => update_with_len(&mut self.0, value),
            None => self.0.update(&REMOVED.to_le_bytes()),
        }
    }

    /// Ends it with the entry's encoded result.
    pub(crate) fn finish(mut self, result: &[u8]) -> Digest {
        update_with_len(&mut self.0, result);
        Digest(self.0.digest128())
    }
}

fn update_with_len(hash: &mut Xxh3, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// A content digest while it is computed: a scrub reads at the rate that it can afford.
pub struct ContentDigest {
    at: LogPosition,
    hash: Xxh3,
    rows: Box<dyn Iterator<Item = Result<Row, EngineError>> + Send>,
}

impl ContentDigest {
    pub(crate) fn new(
        at: LogPosition,
        rows: impl Iterator<Item = Result<Row, EngineError>> + Send + 'static,
    ) -> Self {
        Self { at, hash: Xxh3::new(), rows: Box::new(rows) }
    }

    /// The entry whose state is hashed. Digests of different entries cannot be compared.
    pub fn at(&self) -> LogPosition {
        self.at
    }

    /// Reads on, until `bytes_max` bytes of rows are passed or the end is reached; then the digest comes out.
    ///
    /// # Errors
    /// If the engine cannot read a row: it rotted in a way that the engine itself notices.
    pub fn advance(&mut self, bytes_max: u64) -> Result<Option<Digest>, EngineError> {
        let mut bytes = 0;
        while bytes <= bytes_max {
            let Some(row) = self.rows.next() else { return Ok(Some(Digest(self.hash.digest128()))) };
            let (key, value) = row?;
            update_with_len(&mut self.hash, &key);
            update_with_len(&mut self.hash, &value);
            bytes += (key.len() + value.len()) as u64;
        }
        Ok(None)
    }
}
