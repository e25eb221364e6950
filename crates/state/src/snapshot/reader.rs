//! The sender's end: a state machine at one moment, as a stream.

use bytes::{BufMut, Bytes, BytesMut};

use super::chunk::{self, CHUNK_BYTES_MAX, HEAD_BYTES, Kind};
use super::error::SnapshotError;
use super::header::SnapshotHeader;
use super::progress::Progress;
use crate::digest::ContentDigest;
use crate::engine::{EngineError, Row, Snapshot};
use crate::error::StateError;
use crate::format::{Applied, put_bytes, table};
use crate::reader::read_membership;

/// A state machine at one applied position, from which its stream can be read, once or often, in whole or from any chunk
/// on. Writes go on meanwhile. Old rows stay on disk while it lives.
pub struct SnapshotReader<S> {
    view: S,
    header: SnapshotHeader,
    header_bytes: Bytes,
    header_chain: u128,
}

impl<S: Snapshot> SnapshotReader<S> {
    pub(crate) fn new(view: S, applied: Applied) -> Result<Self, StateError> {
        let header = SnapshotHeader::new(applied, read_membership(&view)?);
        let (header_bytes, header_chain) = header.encode();
        Ok(Self { view, header, header_bytes, header_chain })
    }

    /// What state it is.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The first chunk.
    pub fn header_bytes(&self) -> &Bytes {
        &self.header_bytes
    }

    /// All chunks behind the header, the trailer last. Each is of at most `chunk_bytes` bytes, unless a row alone takes
    /// more.
    pub fn chunks(&self, chunk_bytes: usize) -> SnapshotChunks {
        self.chunks_after(Progress::start(self.header_chain), chunk_bytes)
    }

    /// The chunks behind the last one that was taken in by the [`super::SnapshotInstall`] that gave this token. With the same
    /// `chunk_bytes` they are, byte by byte, those that [`Self::chunks`] gives there.
    ///
    /// # Errors
    /// If the token is of another snapshot or damaged, or the engine fails.
    pub fn resume(&self, token: &Bytes, chunk_bytes: usize) -> Result<SnapshotChunks, SnapshotError> {
        let progress = Progress::of_token(token, self.header_chain)?;
        if !progress.last_key.is_empty() && self.view.get(&progress.last_key)?.is_none() {
            return Err(SnapshotError::TokenUnfit);
        }
        Ok(self.chunks_after(progress, chunk_bytes))
    }

    fn chunks_after(&self, progress: Progress, chunk_bytes: usize) -> SnapshotChunks {
        let (_, end) = table::ALL_SPAN;
        // The key that comes right behind another one is that one with a zero byte.
        let start = [&progress.last_key[..], &[0]].concat();
        SnapshotChunks {
            rows: Box::new(self.view.range(&start, &end)),
            next: None,
            content_bytes_max: chunk_bytes.min(CHUNK_BYTES_MAX).saturating_sub(HEAD_BYTES),
            progress,
            ended: false,
        }
    }

    /// Starts to hash all rows of this snapshot: what [`crate::Reader::content_digest`] gives at its position.
    pub fn content_digest(&self) -> ContentDigest {
        let (start, end) = table::ALL_SPAN;
        ContentDigest::new(self.header.applied.position, self.view.range(&start, &end))
    }
}

/// Chunks on their way out of a [`SnapshotReader`]. One is in memory at a time.
///
/// An item is an error if the engine fails or a row is larger than [`CHUNK_BYTES_MAX`]; it is the last.
pub struct SnapshotChunks {
    rows: Box<dyn Iterator<Item = Result<Row, EngineError>> + Send>,
    /// A row that did not fit the chunk before.
    next: Option<Row>,
    content_bytes_max: usize,
    progress: Progress,
    ended: bool,
}

impl Iterator for SnapshotChunks {
    type Item = Result<Bytes, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let chunk = self.next_chunk();
        self.ended |= chunk.is_err();
        Some(chunk)
    }
}

impl SnapshotChunks {
    fn next_chunk(&mut self) -> Result<Bytes, SnapshotError> {
        let (mut chunk, mut rows) = (BytesMut::new(), 0);
        while let Some(row) =
            self.next.take().map_or_else(|| self.rows.next().transpose(), |row| Ok(Some(row)))?
        {
            let bytes = row_bytes(&row);
            if rows == 0 {
                if HEAD_BYTES + bytes > CHUNK_BYTES_MAX {
                    return Err(SnapshotError::TooLarge {
                        bytes: HEAD_BYTES + bytes,
                        limit: CHUNK_BYTES_MAX,
                    });
                }
                chunk = chunk::begin(self.content_bytes_max.min(RESERVED_BYTES_MAX).max(bytes));
            } else if chunk.len() - HEAD_BYTES + bytes > self.content_bytes_max {
                self.next = Some(row);
                break;
            }
            let (key, value) = row;
            put_bytes(&mut chunk, &key);
            put_bytes(&mut chunk, &value);
            self.progress.add_row(&key, &value);
            rows += 1;
        }
        if rows == 0 {
            self.ended = true;
            chunk = chunk::begin(16);
            chunk.put_u64_le(self.progress.rows);
            chunk.put_u64_le(self.progress.bytes);
        }
        let kind = if rows == 0 { Kind::Trailer } else { Kind::Rows };
        self.progress.number += 1;
        Ok(chunk::seal(chunk, kind, self.progress.number, rows, &mut self.progress.chain))
    }
}

/// How much room a chunk takes before there are rows for it.
const RESERVED_BYTES_MAX: usize = 1 << 20;

/// The length of a row in a chunk.
fn row_bytes((key, value): &Row) -> usize {
    [key, value].map(|bytes| varint_bytes(bytes.len()) + bytes.len()).iter().sum()
}

/// The length of a varint.
fn varint_bytes(value: usize) -> usize {
    value.checked_ilog2().unwrap_or(0) as usize / 7 + 1
}
