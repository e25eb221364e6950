//! What servers say to each other. One type a purpose; the term is that of the sender when it sent.

use crate::entry::{Entry, LogPosition};
use crate::ids::{DamageId, LogIndex, Term};

/// A message between two members of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's current term.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// "Would you vote for me in the term after mine?" (Raft dissertation, section 9.6). Promises nothing.
    PreVote(VoteRequest),
    /// The answer to a pre-vote. Promises nothing.
    PreVoteReply(VoteReply),
    /// RequestVote. It leaves only after the candidate's own vote is durable.
    Vote(VoteRequest),
    /// The answer to a vote; a granted one leaves only after it is durable.
    VoteReply(VoteReply),
    /// AppendEntries with entries, or to find where the logs agree.
    Append(Append),
    /// InstallSnapshot, as an offer: what the receiver needs next is not in the sender's log any more. Answered like an append.
    SnapshotOffer(SnapshotOffer),
    /// The answer to an append; an accepted one leaves only after the entries are durable.
    AppendReply(AppendReply),
    /// "I lead." Waits for no disk on either side; confirms reads; tells the commit index.
    Heartbeat(Heartbeat),
    /// The answer to a heartbeat.
    HeartbeatReply(HeartbeatReply),
    /// A follower asks at which index it may read.
    ReadIndex(ReadIndex),
    /// The leader's answer.
    ReadIndexReply(ReadIndexReply),
    /// "Stand for election at once": the leader hands over (dissertation, section 3.10).
    TimeoutNow,
}

/// A candidate introduces its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteRequest {
    /// The last entry of its log (section 5.4.1).
    pub last: LogPosition,
}

/// Whether the sender votes for the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteReply {
    /// The vote.
    pub granted: bool,
}

/// AppendEntries (section 5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The entry before the first one here.
    pub prev: LogPosition,
    /// Entries that follow `prev` without a gap.
    pub entries: Vec<Entry>,
    /// The leader's commit index.
    pub commit: LogIndex,
    /// The leader's latest round; the answer repeats it.
    pub round: u64,
}

/// InstallSnapshot (section 7) without the snapshot: the receiver fetches that itself, since it knows what it has of one.
/// It is an append without entries at the place where the sender's log begins: a receiver that has that entry accepts it, and
/// any other one rejects it and asks the sender for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The last entry that is not in the sender's log any more.
    pub base: LogPosition,
    /// The leader's latest round; the answer repeats it.
    pub round: u64,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendReply {
    /// The round of the append that this answers.
    pub round: u64,
    /// If the sender is damaged and counts for nothing: which damage.
    pub damage: Option<DamageId>,
    /// What became of it.
    pub result: AppendResult,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendResult {
    /// The sender's log is durable and equals the leader's up to here: the last index of *this* append (scenario 17).
    Accepted {
        /// That index.
        matched: LogIndex,
    },
    /// The sender has no such entry at `prev`.
    Rejected {
        /// The index of the `prev` that was asked for (scenario 19).
        prev: LogIndex,
        /// The last place in the sender's log where the logs may agree: at or before `prev`, of a term no later than the
        /// one asked for. The leader need not ask between there and `prev`.
        hint: LogPosition,
    },
}

/// The leader's sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The last committed entry. A receiver whose log has this very entry has all that is committed before it, too (log
    /// matching, section 5.3), whatever it was sent since it started. One that has not takes nothing (scenario 16).
    pub commit: LogPosition,
    /// Counts up from 1 in each term; the answer repeats it. A quorum of answers to a round confirms that the sender led when
    /// the round began (section 6.4 of the dissertation). Never chosen by a client (scenario 42).
    pub round: u64,
    /// For a damaged receiver: how it becomes whole again.
    pub repair: Option<Repair>,
    /// How many others should stand for election before the receiver does, if this leader is gone: so many have more of its
    /// log, or as much and a lower id. A hint: it keeps two from splitting the vote, and nothing depends on it.
    pub rank: u32,
}

/// What a damaged node must hold to be whole again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The damage that the leader was told of. If the receiver's is another one, this says nothing to it: since then it
    /// may have acknowledged more, and lost that.
    pub damage: DamageId,
    /// The entry that must be durable there, and with it the leader's log up to it: the leader's last one, taken after a
    /// round that the receiver was not counted in.
    pub to: LogPosition,
}

/// The answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// The round that this answers; 0 if it answers none, but a message of an earlier term, whose sender is to learn of the
    /// term of this one.
    pub round: u64,
    /// If the sender is damaged and counts for nothing: which damage.
    pub damage: Option<DamageId>,
}

/// A follower asks at which index it may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndex {
    /// Names the question among all that this follower ever asked, also before a restart (scenario 42).
    pub id: u64,
}

/// The leader's answer to [`ReadIndex`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndexReply {
    /// The question.
    pub id: u64,
    /// A read that waits until this index is applied is linearizable.
    pub index: LogIndex,
}

/// A message that no correct member sends: the connection that it came on is not to be trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The entries of an append leave a gap or repeat (scenario 25).
    #[error("append with a gap: entry {found} where {expected} belongs")]
    Gap {
        /// The index that follows from the entry before.
        expected: LogIndex,
        /// The index that stood there.
        found: LogIndex,
    },
    /// The terms of the entries of an append go down, or beyond the sender's own (scenario 26).
    #[error("entry {index} of term {term} cannot stand there")]
    Term {
        /// The entry.
        index: LogIndex,
        /// Its term.
        term: Term,
    },
}

impl Message {
    /// Checks what must hold of any message, whoever sent it.
    ///
    /// # Errors
    /// If the entries of an append, or what a log lets go of, are not one piece of a log of the sender's term.
    pub fn validate(&self) -> Result<(), MessageError> {
        let append = match &self.body {
            Body::Append(append) => append,
            Body::SnapshotOffer(SnapshotOffer { base, .. }) if base.term > self.term => {
                return Err(MessageError::Term { index: base.index, term: base.term });
            }
            _ => return Ok(()),
        };
        let mut before = append.prev;
        for entry in &append.entries {
            if entry.index != before.index.next() {
                return Err(MessageError::Gap { expected: before.index.next(), found: entry.index });
            }
            if entry.term < before.term || entry.term > self.term {
                return Err(MessageError::Term { index: entry.index, term: entry.term });
            }
            before = entry.position();
        }
        Ok(())
    }
}
