//! What replicas say to each other.

use bytes::Bytes;
use raftmap_raft::{LogIndex, Message};
use raftmap_state::Answer;

use crate::digests::StateDigest;
use crate::failure::Failure;

/// What one replica has for another at one moment, in the order in which it is to be received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerBatch {
    /// The sender's clock, in milliseconds since the Unix epoch.
    pub clock_ms: u64,
    /// What the sender has applied; 0: nothing yet, or it has no state that it trusts.
    pub applied: LogIndex,
    /// The sender's running digest there.
    pub digest: u128,
    /// Its running digest at the last milestone: there servers meet that cut the entries into batches differently.
    pub milestone: Option<StateDigest>,
    /// The digest of all its rows, where the last scan was done.
    pub scan: Option<StateDigest>,
    /// What it has to say.
    pub messages: Vec<PeerMessage>,
}

/// One thing that a replica says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// A message of consensus.
    Raft(Message),
    /// A follower passes a command on to the leader, at most once.
    Forward(Forward),
    /// The leader's answer.
    ForwardReply(ForwardReply),
}

/// A command that a follower passes on to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Names the command in the reply. Counts up from a random number in each life of the sender.
    pub sequence: u64,
    /// How long its client still waits, in milliseconds.
    pub timeout_ms: u64,
    /// The encoded [`raftmap_state::Command`], without a time: the leader stamps it.
    pub command: Bytes,
}

/// What became of a [`Forward`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardReply {
    /// Which.
    pub sequence: u64,
    /// How it ended.
    pub result: Result<Answer, Failure>,
}
