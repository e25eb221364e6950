//! Who votes and who only listens: a value, carried by log entries (Raft paper, section 6).

use std::collections::BTreeSet;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::ids::NodeId;
use crate::quorum;

/// The members of a group. Quorums are computed over it, in `quorum`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Those whose majority elects and commits.
    pub voters: BTreeSet<NodeId>,
    /// While a joint configuration holds, the voters before it, whose majority is needed as well; empty otherwise.
    pub voters_outgoing: BTreeSet<NodeId>,
    /// Those that receive the log and count for nothing.
    pub learners: BTreeSet<NodeId>,
}

/// Bytes that are not a membership.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MembershipError {
    /// A version that this code does not know.
    #[error("membership of unknown version {0}: written by a newer version of raftmap?")]
    UnknownVersion(u8),
    /// The bytes end early, go on after the end, or list a node twice or out of order.
    #[error("malformed membership")]
    Malformed,
}

const VERSION: u8 = 1;

impl Membership {
    /// A membership of voters alone.
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self { voters: voters.into_iter().collect(), ..Self::default() }
    }

    /// All members, each once, in the order of their ids.
    pub fn all(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(&self.voters_outgoing).chain(&self.learners).copied().collect()
    }

    /// Whether two sets of voters hold, and a majority of each is needed.
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether those for whom `holds` is true are a quorum: a majority of the voters, while a joint configuration holds of each
    /// half.
    pub fn is_quorum(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        quorum::is_quorum(self, holds)
    }

    /// Whether `id` votes, in either half of a joint configuration.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.voters_outgoing.contains(&id)
    }

    fn sets(&self) -> [&BTreeSet<NodeId>; 3] {
        [&self.voters, &self.voters_outgoing, &self.learners]
    }

    /// The length of [`Self::encode`]'s answer, in bytes.
    pub fn encoded_len(&self) -> usize {
        1 + self.sets().iter().map(|set| 4 + 8 * set.len()).sum::<usize>()
    }

    /// Its bytes: a version (1), then voters, outgoing voters and learners, each as a little-endian `u32` count and that
    /// many little-endian `u64` ids in ascending order.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        out.put_u8(VERSION);
        for set in self.sets() {
            out.put_u32_le(u32::try_from(set.len()).expect("a group has fewer than 2^32 members"));
            for id in set {
                out.put_u64_le(id.0);
            }
        }
        out.freeze()
    }

    /// The membership that [`Self::encode`] wrote.
    ///
    /// # Errors
    /// If the version is unknown or the bytes are malformed.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, MembershipError> {
        match bytes.try_get_u8() {
            Ok(VERSION) => {}
            Ok(version) => return Err(MembershipError::UnknownVersion(version)),
            Err(_) => return Err(MembershipError::Malformed),
        }
        let membership = Self {
            voters: decode_set(&mut bytes)?,
            voters_outgoing: decode_set(&mut bytes)?,
            learners: decode_set(&mut bytes)?,
        };
        if bytes.is_empty() { Ok(membership) } else { Err(MembershipError::Malformed) }
    }
}

fn decode_set(bytes: &mut &[u8]) -> Result<BTreeSet<NodeId>, MembershipError> {
    let count = bytes.try_get_u32_le().map_err(|_| MembershipError::Malformed)?;
    let mut set = BTreeSet::new();
    for _ in 0..count {
        let id = NodeId(bytes.try_get_u64_le().map_err(|_| MembershipError::Malformed)?);
        if set.last().is_some_and(|last| *last >= id) {
            return Err(MembershipError::Malformed);
        }
        set.insert(id);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_survives_its_encoding() {
        let membership = Membership {
            voters: [NodeId(1), NodeId(2), NodeId(3)].into(),
            voters_outgoing: [NodeId(1)].into(),
            learners: [NodeId(9)].into(),
        };
        let bytes = membership.encode();
        assert_eq!(bytes.len(), membership.encoded_len());
        assert_eq!(Membership::decode(&bytes), Ok(membership));
    }

    #[test]
    fn malformed_bytes_are_refused() {
        let bytes = Membership::of_voters([NodeId(1), NodeId(2)]).encode();
        for len in 1..bytes.len() {
            assert_eq!(Membership::decode(&bytes[..len]), Err(MembershipError::Malformed), "cut to {len}");
        }
        assert_eq!(Membership::decode(&[&bytes[..], &[0]].concat()), Err(MembershipError::Malformed));
        assert_eq!(Membership::decode(&[7]), Err(MembershipError::UnknownVersion(7)));
        let mut swapped = bytes.to_vec();
        swapped[5..13].copy_from_slice(&2u64.to_le_bytes());
        assert_eq!(Membership::decode(&swapped), Err(MembershipError::Malformed), "an id twice");
    }
}
