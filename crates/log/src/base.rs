//! The record that says where the log begins.
//!
//! ```text
//!  0  u64  the last entry of the log once this holds; the base's own index: nothing stays
//!  8  u64  the state machine is durable up to here
//! 16  u64  the state machine's id
//! 24  …    the membership in force at the base
//! ```
//! Index and term of the base stand in the record's header. The record says itself what stays of the log, so that a start
//! understands it without the entries before it, which may be gone with their segments.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raftmap_raft::{Base, LogIndex, LogPosition, Membership, MembershipError, StateId, Term};

const FIXED_BYTES: usize = 24;

/// No index reaches it: a larger one is not of this log, and behind it there would be no room to count.
pub(crate) const INDEX_MAX: LogIndex = LogIndex(1 << 62);

/// A base, and what stays of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BaseRecord<'a> {
    pub(crate) base: &'a Base,
    /// The last entry of the log once this holds; the base's own index: nothing stays.
    pub(crate) last: LogIndex,
}

/// Content that is not a base's, in a block whose checksum fits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BaseError {
    #[error("malformed base")]
    Malformed,
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

impl BaseRecord<'_> {
    /// The length of its content, in bytes.
    pub(crate) fn content_bytes(&self) -> usize {
        FIXED_BYTES + self.base.membership.encoded_len()
    }

    /// Its content.
    pub(crate) fn to_bytes(self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.content_bytes());
        out.put_u64_le(self.last.0);
        out.put_u64_le(self.base.durable.0);
        out.put_u64_le(self.base.state.0);
        out.put_slice(&self.base.membership.encode());
        out.freeze()
    }
}

/// The base of a log that begins with the very first entry.
pub(crate) fn before_the_first() -> Base {
    Base {
        position: LogPosition::default(),
        membership: Membership::default(),
        durable: LogIndex(0),
        state: StateId(0),
    }
}

/// The base at `position` that `content` describes, and the last entry of the log once it holds.
pub(crate) fn decode(position: LogPosition, mut content: &[u8]) -> Result<(Base, LogIndex), BaseError> {
    if content.len() < FIXED_BYTES {
        return Err(BaseError::Malformed);
    }
    let (last, durable) = (LogIndex(content.get_u64_le()), LogIndex(content.get_u64_le()));
    let state = StateId(content.get_u64_le());
    let membership = Membership::decode(content)?;
    let from_the_first = position.index == LogIndex(0);
    let reaches = position.index..=INDEX_MAX;
    if from_the_first != (position.term == Term(0)) || !reaches.contains(&last) || !reaches.contains(&durable)
    {
        return Err(BaseError::Malformed);
    }
    Ok((Base { position, membership, durable, state }, last))
}

#[cfg(test)]
mod tests {
    use raftmap_raft::NodeId;

    use super::*;

    fn base(term: u64, index: u64, durable: u64) -> Base {
        Base {
            position: LogPosition { term: Term(term), index: LogIndex(index) },
            membership: Membership::of_voters([NodeId(1), NodeId(7)]),
            durable: LogIndex(durable),
            state: StateId(3),
        }
    }

    fn again(base: &Base, last: u64) -> Result<(Base, LogIndex), BaseError> {
        let record = BaseRecord { base, last: LogIndex(last) };
        let bytes = record.to_bytes();
        assert_eq!(bytes.len(), record.content_bytes());
        decode(base.position, &bytes)
    }

    #[test]
    fn a_base_survives_its_encoding() {
        for (base, last) in [(base(2, 9, 9), 9), (base(2, 9, 12), 30), (before_the_first(), 0)] {
            assert_eq!(again(&base, last), Ok((base, LogIndex(last))));
        }
    }

    #[test]
    fn a_base_that_makes_no_sense_is_refused() {
        let far = INDEX_MAX.0 + 1;
        for (what, base, last) in [
            ("the log ends before it", base(2, 9, 9), 8),
            ("less is durable", base(2, 9, 8), 9),
            ("an index without a term", base(0, 9, 9), 9),
            ("a term without an index", base(2, 0, 9), 9),
            ("an index out of reach", base(2, far, far), far),
            ("a last index out of reach", base(2, 9, 9), far),
            ("a durable index out of reach", base(2, 9, far), 9),
        ] {
            assert_eq!(again(&base, last), Err(BaseError::Malformed), "{what}");
        }
        let whole = BaseRecord { base: &base(2, 9, 9), last: LogIndex(9) }.to_bytes();
        for len in 0..whole.len() {
            assert!(decode(base(2, 9, 9).position, &whole[..len]).is_err(), "cut to {len}");
        }
    }
}
