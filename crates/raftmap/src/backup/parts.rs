//! A state machine as the bytes of a file.

use bytes::{BufMut, Bytes};
use raftmap_state::{Snapshot, SnapshotChunks, SnapshotError, SnapshotReader};
use xxhash_rust::xxh3::Xxh3;

use super::CHUNK_BYTES;
use super::header::{BackupHeader, encode_end};

/// The parts of a file, in their order: one after the other they are the file. Each is made when it is asked for.
///
/// An item is an error if the engine fails, or a row is too large; it is the last.
pub struct BackupParts {
    /// The header and the snapshot's own, from the back.
    first: Vec<Bytes>,
    chunks: SnapshotChunks,
    hash: Xxh3,
    bytes: u64,
    ended: bool,
}

impl BackupParts {
    /// The file of `snapshot`, of which `header` speaks.
    pub fn new<S: Snapshot>(header: &BackupHeader, snapshot: &SnapshotReader<S>) -> Self {
        Self {
            first: vec![snapshot.header_bytes().clone(), header.encode()],
            chunks: snapshot.chunks(CHUNK_BYTES),
            hash: Xxh3::new(),
            bytes: 0,
            ended: false,
        }
    }

    fn end(&mut self) -> Bytes {
        let mut end = encode_end(self.bytes);
        self.hash.update(&end);
        end.put_u128_le(self.hash.digest128());
        end.freeze()
    }
}

impl Iterator for BackupParts {
    type Item = Result<Bytes, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let part = match self.first.pop().map_or_else(|| self.chunks.next(), |first| Some(Ok(first))) {
            Some(Ok(part)) => part,
            Some(Err(error)) => {
                self.ended = true;
                return Some(Err(error));
            }
            None => {
                self.ended = true;
                return Some(Ok(self.end()));
            }
        };
        self.hash.update(&part);
        self.bytes += part.len() as u64;
        Some(Ok(part))
    }
}
