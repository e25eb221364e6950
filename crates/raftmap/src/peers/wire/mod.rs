//! What servers say to each other as the bytes of `peer.proto`, and back.
//!
//! Nothing that a peer sends is believed: what does not decode, or cannot be, is a [`WireError`], and whoever meets one
//! closes the connection with it as the reason. Entries and commands come out as slices of the frame that they came in.

mod forward;
mod raft;
mod snapshot;
#[cfg(test)]
mod tests;

use buffa::{DecodeOptions, Message as _, SizeCache};
use bytes::{BufMut, Bytes, BytesMut};
use connectrpc::envelope::HEADER_SIZE;
use raftmap_proto::peer;
use raftmap_raft::{GroupId, LogIndex, MessageError, NodeId, PayloadError, Term};
use raftmap_replica::{PeerBatch, PeerMessage, StateDigest};

pub(super) use self::snapshot::{Denied, SnapshotFrame, SnapshotRequest};
use super::hello::Hello;
use crate::peers::Refusal;

/// Terms and log indexes are below this: no cluster gets there, and adding to them does not overflow.
const NUMBER_END: u64 = 1 << 62;

/// The longest reason that is sent, in bytes; the rest is cut off.
const REASON_BYTES_MAX: usize = 1024;

/// Memory that the lists of one frame may take when they are decoded, for each byte of the largest frame. The shortest
/// message takes about a hundred times its bytes; the messages that servers send, two to three times.
const MEMORY_FACTOR: usize = 4;

/// One message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Who speaks: the first one.
    Hello(Hello),
    /// Why the other side may not take part: the last one.
    Refusal(Refusal),
    /// What one replica has for another.
    Batch(PeerBatch),
    /// On a connection for a snapshot.
    Snapshot(SnapshotFrame),
}

/// Bytes that no correct peer of this version sends.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum WireError {
    /// They are not protobuf, or expand to too much memory.
    #[error("a frame is malformed: {0}")]
    Protobuf(#[from] buffa::DecodeError),
    /// A variant is unset, or one that this version does not know.
    #[error("{0} is unset or unknown: is the other server of another version?")]
    Variant(&'static str),
    /// A byte string is not as long as its meaning wants.
    #[error("{what} has {found} bytes instead of {expected}")]
    Length {
        /// Which.
        what: &'static str,
        /// How long it should be.
        expected: usize,
        /// How long it is.
        found: usize,
    },
    /// A number that cannot be.
    #[error("{what} cannot be {value}")]
    Number {
        /// Which.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A group that this server does not host.
    #[error("group {0} is not hosted here")]
    Group(GroupId),
    /// An entry of the log that does not decode.
    #[error("entry {index}: {error}")]
    Payload {
        /// The entry.
        index: LogIndex,
        /// What is wrong with it.
        error: PayloadError,
    },
    /// A message of consensus that no correct member sends.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// An answer or a refusal of the state machine that does not decode.
    #[error("an answer is malformed: {0}")]
    Answer(#[from] raftmap_state::DecodeError),
    /// An answer where a refusal belongs, or the other way round.
    #[error("{0} is something else")]
    Kind(&'static str),
}

/// A frame that is larger than the other side takes. Whoever made it has a limit that is too high.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a frame of {bytes} bytes, and {limit} is the most that may be sent")]
pub(super) struct TooLarge {
    pub(super) bytes: usize,
    pub(super) limit: usize,
}

impl Frame {
    /// The frame as a message of gRPC, its prefix included. Payloads are copied once: to here.
    pub(super) fn encode(self, bytes_max: usize) -> Result<Bytes, TooLarge> {
        let frame = match self {
            Self::Hello(hello) => peer::peer_frame::Frame::Hello(hello.into_wire()),
            Self::Refusal(Refusal { mut reason, removed }) => {
                reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
                peer::peer_frame::Frame::Refusal(peer::Refusal { reason, removed })
            }
            Self::Batch(batch) => peer::peer_frame::Frame::Batch(batch_into_wire(batch)),
            Self::Snapshot(frame) => snapshot::into_wire(frame),
        };
        let frame = peer::PeerFrame { frame: Some(frame) };
        let mut sizes = SizeCache::new();
        let size = frame.compute_size(&mut sizes);
        let bytes = size as usize;
        if bytes > bytes_max {
            return Err(TooLarge { bytes, limit: bytes_max });
        }
        let mut out = BytesMut::with_capacity(HEADER_SIZE + bytes);
        out.put_u8(0);
        out.put_u32(size);
        frame.write_to(&mut sizes, &mut out);
        Ok(out.freeze())
    }

    /// The frame in a message of gRPC, without its prefix. `bytes_max` is the largest frame that may come.
    pub(super) fn decode(bytes: Bytes, bytes_max: usize) -> Result<Self, WireError> {
        let frame: peer::PeerFrame = DecodeOptions::new()
            .with_max_message_size(bytes_max)
            .with_element_memory_limit(bytes_max * MEMORY_FACTOR)
            .decode(&mut { bytes })?;
        use peer::peer_frame::Frame as Wire;
        Ok(match frame.frame.ok_or(WireError::Variant("the frame"))? {
            Wire::Hello(hello) => Self::Hello(Hello::from_wire(hello)?),
            Wire::Refusal(peer::Refusal { reason, removed }) => {
                Self::Refusal(Refusal { reason: printable(&reason), removed })
            }
            Wire::Batch(batch) => Self::Batch(batch_from_wire(batch)?),
            Wire::SnapshotRequest(request) => Self::Snapshot(snapshot::request_from_wire(request)?),
            Wire::SnapshotBegin(peer::SnapshotBegin { resumed }) => {
                Self::Snapshot(SnapshotFrame::Begin { resumed })
            }
            Wire::SnapshotDenied(denied) => Self::Snapshot(snapshot::denied_from_wire(denied)?),
            Wire::SnapshotChunk(chunk) => Self::Snapshot(SnapshotFrame::Chunk(chunk)),
        })
    }
}

/// For fuzz tests: a frame that decodes is one that this version writes, too.
#[doc(hidden)]
pub fn fuzz_frame(bytes: &[u8]) {
    const BYTES_MAX: usize = 1 << 20;
    let Ok(frame) = Frame::decode(Bytes::copy_from_slice(bytes), BYTES_MAX) else { return };
    // What was left out on the wire is written out, so that a frame may grow.
    let written = frame.clone().encode(4 * BYTES_MAX).map(|written| written.slice(HEADER_SIZE..));
    let again = written.map(|written| Frame::decode(written, 4 * BYTES_MAX));
    assert_eq!(again, Ok(Ok(frame)), "a frame that decodes does not survive its encoding");
}

/// What a message counts in queues, in bytes: about what it takes on the wire, and a fixed share for its memory.
pub(super) fn message_bytes(message: &PeerMessage) -> usize {
    const SHARE: usize = 96;
    SHARE
        + match message {
            PeerMessage::Raft(message) => raft::content_bytes(message),
            PeerMessage::Forward(forward) => forward.command.len(),
            PeerMessage::ForwardReply(reply) => forward::content_bytes(reply),
        }
}

fn batch_into_wire(batch: PeerBatch) -> peer::Batch {
    peer::Batch {
        group_id: GroupId::DEFAULT.0,
        clock_ms: batch.clock_ms,
        applied_index: batch.applied.0,
        running_digest: u128_into_wire(batch.digest),
        messages: batch.messages.into_iter().map(message_into_wire).collect(),
        milestone: batch.milestone.map(digest_into_wire).into(),
        scan: batch.scan.map(digest_into_wire).into(),
    }
}

fn digest_into_wire(StateDigest { index, digest }: StateDigest) -> peer::StateDigest {
    peer::StateDigest { index: index.0, digest: u128_into_wire(digest) }
}

fn digest_from_wire(digest: &peer::StateDigest) -> Result<StateDigest, WireError> {
    Ok(StateDigest {
        index: index("the index of a digest", digest.index)?,
        digest: u128_from_wire("the digest of a state", &digest.digest)?,
    })
}

fn batch_from_wire(batch: peer::Batch) -> Result<PeerBatch, WireError> {
    let group = GroupId(batch.group_id);
    if group != GroupId::DEFAULT {
        return Err(WireError::Group(group));
    }
    Ok(PeerBatch {
        clock_ms: batch.clock_ms,
        applied: index("the applied index", batch.applied_index)?,
        digest: u128_from_wire("the running digest", &batch.running_digest)?,
        milestone: batch.milestone.as_option().map(digest_from_wire).transpose()?,
        scan: batch.scan.as_option().map(digest_from_wire).transpose()?,
        messages: batch.messages.into_iter().map(message_from_wire).collect::<Result<_, _>>()?,
    })
}

fn message_into_wire(message: PeerMessage) -> peer::PeerMessage {
    use peer::peer_message::Message;
    let message = match message {
        PeerMessage::Raft(message) => Message::Raft(raft::into_wire(message)),
        PeerMessage::Forward(forward) => Message::Forward(forward::into_wire(forward)),
        PeerMessage::ForwardReply(reply) => Message::ForwardReply(forward::reply_into_wire(reply)),
    };
    peer::PeerMessage { message: Some(message) }
}

fn message_from_wire(message: peer::PeerMessage) -> Result<PeerMessage, WireError> {
    use peer::peer_message::Message;
    Ok(match message.message.ok_or(WireError::Variant("a message"))? {
        Message::Raft(message) => PeerMessage::Raft(raft::from_wire(message)?),
        Message::Forward(forward) => PeerMessage::Forward(forward::from_wire(forward)),
        Message::ForwardReply(reply) => PeerMessage::ForwardReply(forward::reply_from_wire(reply)?),
    })
}

fn number(what: &'static str, value: u64) -> Result<u64, WireError> {
    if value < NUMBER_END { Ok(value) } else { Err(WireError::Number { what, value }) }
}

fn index(what: &'static str, value: u64) -> Result<LogIndex, WireError> {
    number(what, value).map(LogIndex)
}

fn term(what: &'static str, value: u64) -> Result<Term, WireError> {
    number(what, value).map(Term)
}

pub(super) fn node(what: &'static str, value: u64) -> Result<NodeId, WireError> {
    if value > 0 { Ok(NodeId(value)) } else { Err(WireError::Number { what, value }) }
}

pub(super) fn u128_into_wire(value: u128) -> Bytes {
    Bytes::copy_from_slice(&value.to_le_bytes())
}

pub(super) fn u128_from_wire(what: &'static str, bytes: &[u8]) -> Result<u128, WireError> {
    let length = |_| WireError::Length { what, expected: 16, found: bytes.len() };
    bytes.try_into().map(u128::from_le_bytes).map_err(length)
}

/// A text of another server for our logs: what would forge a line or move a cursor is replaced, what is too long is cut.
pub(super) fn printable(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(REASON_BYTES_MAX)];
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
