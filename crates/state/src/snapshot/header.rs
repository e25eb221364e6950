//! The first chunk of a snapshot: what state it is.

use bytes::{BufMut, Bytes};
use raftmap_raft::{GroupId, LogIndex, Membership};

use super::chunk::{self, Chunk, Kind};
use super::error::SnapshotError;
use crate::digest::Digest;
use crate::format::{Applied, decode_membership, encode_membership};
use crate::reader::AppliedState;

/// What state a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The Raft group.
    pub group: GroupId,
    /// The last entry that it has, with log time, running digest and feature level there.
    pub applied: AppliedState,
    /// The members in force there, and the index of the entry that put them in force. `None`: the founding members.
    pub membership: Option<(LogIndex, Membership)>,
}

/// The number of the header among the chunks.
pub(super) const NUMBER: u64 = 0;
/// The chain before the header.
const CHAIN: u128 = 0;

impl SnapshotHeader {
    /// What a snapshot's first chunk says of it.
    ///
    /// # Errors
    /// If the bytes are malformed or of a newer version.
    pub fn decode(bytes: &Bytes) -> Result<Self, SnapshotError> {
        Ok(Self::read(bytes)?.0)
    }

    /// The header and the chain behind it.
    pub(super) fn read(bytes: &Bytes) -> Result<(Self, u128), SnapshotError> {
        let Chunk { kind, rows, chain, mut content } = Chunk::read(bytes, NUMBER, CHAIN)?;
        if kind != Kind::Header || rows != 0 {
            return Err(SnapshotError::Malformed("it does not begin with a header"));
        }
        let applied = Applied::decode(content.split_to(content.len().min(Applied::BYTES)))?;
        let membership = if content.is_empty() { None } else { Some(decode_membership(content)?) };
        if membership.as_ref().is_some_and(|(index, _)| *index > applied.position.index) {
            return Err(SnapshotError::HeaderContradicted("the members are of a later entry"));
        }
        Ok((Self::new(applied, membership), chain))
    }

    pub(super) fn new(applied: Applied, membership: Option<(LogIndex, Membership)>) -> Self {
        let Applied { level, group, position, log_time_ms, running_digest } = applied;
        let applied = AppliedState { position, log_time_ms, running_digest: Digest(running_digest), level };
        Self { group, applied, membership }
    }

    /// The row that says the same.
    pub(super) fn applied_row(&self) -> Applied {
        let AppliedState { position, log_time_ms, running_digest, level } = self.applied;
        Applied { level, group: self.group, position, log_time_ms, running_digest: running_digest.0 }
    }

    /// Its chunk, and the chain behind it.
    pub(super) fn encode(&self) -> (Bytes, u128) {
        let membership =
            self.membership.as_ref().map(|(index, membership)| encode_membership(*index, membership));
        let mut content = chunk::begin(Applied::BYTES + membership.as_ref().map_or(0, Bytes::len));
        content.put(self.applied_row().encode());
        content.put(membership.unwrap_or_default());
        let mut chain = CHAIN;
        (chunk::seal(content, Kind::Header, NUMBER, 0, &mut chain), chain)
    }
}
