//! What stands at both ends of a file.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raftmap_raft::{GroupId, LogIndex, LogPosition, NodeId, Term};
use raftmap_state::SnapshotHeader;
use xxhash_rust::xxh3::xxh3_64;

use super::reader::BackupError;
use crate::node::VERSION as PROGRAM;

const MAGIC: &[u8; 8] = b"raftmapB";
const END_MAGIC: &[u8; 8] = b"raftmapE";
const VERSION: u8 = 1;
const PROGRAM_BYTES_MAX: usize = 64;
const CHECKED_FROM: usize = 16;

/// The length of a header, but for the program's version behind it.
pub(super) const FIXED_BYTES: usize = 88;
/// The length of an end.
pub(super) const END_BYTES: usize = 32;
/// Of which so many are covered by the digest that stands behind them.
pub(super) const END_DIGEST_AT: usize = 16;

/// Where the state of a backup comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A running cluster: all of it was committed.
    Cluster,
    /// A survivor's data directory, all of whose log was applied: its last entries may never have been committed.
    Survivor,
}

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupHeader {
    /// Where the state comes from.
    pub origin: Origin,
    /// The cluster.
    pub cluster: u128,
    /// The Raft group.
    pub group: GroupId,
    /// The server whose state it is.
    pub server: NodeId,
    /// The last entry that is in it. Its index is the revision.
    pub position: LogPosition,
    /// Log time there, in milliseconds since the Unix epoch.
    pub log_time_ms: u64,
    /// When it was made, by the clock of the machine that did, in milliseconds since the Unix epoch.
    pub made_at_ms: u64,
    /// The version of the program that made it.
    pub program: String,
}

impl BackupHeader {
    /// The header of a backup of `snapshot` that is made now, by this program.
    pub fn of(snapshot: &SnapshotHeader, origin: Origin, cluster: u128, server: NodeId) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            origin,
            cluster,
            group: snapshot.group,
            server,
            position: snapshot.applied.position,
            log_time_ms: snapshot.applied.log_time_ms,
            made_at_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            program: PROGRAM.to_owned(),
        }
    }

    /// Whether it speaks of this snapshot.
    pub(super) fn describes(&self, snapshot: &SnapshotHeader) -> bool {
        (self.group, self.position, self.log_time_ms)
            == (snapshot.group, snapshot.applied.position, snapshot.applied.log_time_ms)
    }

    /// Its bytes. Of a longer version of the program only the first 64 bytes are told.
    pub fn encode(&self) -> Bytes {
        let program = &self.program.as_bytes()[..self.program.len().min(PROGRAM_BYTES_MAX)];
        let mut out = BytesMut::with_capacity(FIXED_BYTES + program.len());
        out.put_slice(MAGIC);
        out.put_u64_le(0);
        out.put_u8(VERSION);
        out.put_u8(match self.origin {
            Origin::Cluster => 0,
            Origin::Survivor => 1,
        });
        out.put_u16_le(u16::try_from(program.len()).expect("at most 64"));
        out.put_u32_le(0);
        out.put_u128_le(self.cluster);
        out.put_u64_le(self.group.0);
        out.put_u64_le(self.server.0);
        out.put_u64_le(self.position.term.0);
        out.put_u64_le(self.position.index.0);
        out.put_u64_le(self.log_time_ms);
        out.put_u64_le(self.made_at_ms);
        out.put_slice(program);
        let checksum = xxh3_64(&out[CHECKED_FROM..]);
        out[8..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
        out.freeze()
    }

    /// The length of a header, by its first [`FIXED_BYTES`].
    ///
    /// # Errors
    /// If it is none, or one of a version that is not known.
    pub(super) fn bytes_of(fixed: &[u8]) -> Result<usize, BackupError> {
        if !fixed.starts_with(MAGIC) {
            return Err(BackupError::NotABackup);
        }
        if fixed[CHECKED_FROM] != VERSION {
            return Err(BackupError::UnknownVersion(fixed[CHECKED_FROM]));
        }
        let program = usize::from(u16::from_le_bytes([fixed[18], fixed[19]]));
        if program > PROGRAM_BYTES_MAX { Err(BackupError::Header) } else { Ok(FIXED_BYTES + program) }
    }

    /// The header in `bytes`, which are as many as [`Self::bytes_of`] said.
    ///
    /// # Errors
    /// If it is not what [`Self::encode`] wrote.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BackupError> {
        let mut rest = &bytes[8..];
        if rest.get_u64_le() != xxh3_64(&bytes[CHECKED_FROM..]) {
            return Err(BackupError::Header);
        }
        rest.advance(1);
        let origin = match rest.get_u8() {
            0 => Origin::Cluster,
            1 => Origin::Survivor,
            _ => return Err(BackupError::Header),
        };
        rest.advance(6);
        let header = Self {
            origin,
            cluster: rest.get_u128_le(),
            group: GroupId(rest.get_u64_le()),
            server: NodeId(rest.get_u64_le()),
            position: LogPosition { term: Term(rest.get_u64_le()), index: LogIndex(rest.get_u64_le()) },
            log_time_ms: rest.get_u64_le(),
            made_at_ms: rest.get_u64_le(),
            program: String::from_utf8(rest.to_vec()).map_err(|_| BackupError::Header)?,
        };
        // Bytes that mean nothing are zeroes, and the text is printable: it is shown.
        let printable = header.program.bytes().all(|byte| byte.is_ascii_graphic());
        if header.encode() == bytes && printable { Ok(header) } else { Err(BackupError::Header) }
    }
}

/// The end of a file, of which `before` bytes stand before it, but for the digest.
pub(super) fn encode_end(before: u64) -> BytesMut {
    let mut out = BytesMut::with_capacity(END_BYTES);
    out.put_slice(END_MAGIC);
    out.put_u64_le(before);
    out
}
