//! How a node stands, for operators, logs and tests.

use std::fmt;

use crate::entry::LogPosition;
use crate::ids::{LogIndex, NodeId, Term};
use crate::progress::Progress;

/// What a node is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks around whether it would be elected.
    PreCandidate,
    /// It stands for election.
    Candidate,
    /// It leads.
    Leader,
}

/// How a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The node.
    pub id: NodeId,
    /// What it is.
    pub role: RoleName,
    /// Its current term.
    pub term: Term,
    /// Whom it voted for in this term.
    pub vote: Option<NodeId>,
    /// Who leads this term, as far as it knows.
    pub leader: Option<NodeId>,
    /// The last entry that is not in its log any more.
    pub base: LogPosition,
    /// The end of its log, on disk or not.
    pub last: LogPosition,
    /// The last index that is on its disk.
    pub durable: LogIndex,
    /// The last index that it knows to be committed.
    pub commit: LogIndex,
    /// The last index that its state machine has applied.
    pub applied: LogIndex,
    /// Whether its disk lost something, and it counts for nothing until that was re-sent.
    pub damaged: bool,
    /// Whether its state machine is lost, and it waits for a snapshot of another node.
    pub state_lost: bool,
    /// Whether it was found to be wrong: then it is lost until a snapshot has taken its place, which the log remembers.
    pub state_distrusted: bool,
    /// At a leader: to whom it is handing over, and proposes nothing meanwhile.
    pub handing_over_to: Option<NodeId>,
    /// At a leader: the others. Elsewhere empty.
    pub followers: Vec<FollowerStatus>,
}

/// A follower, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowerStatus {
    /// The follower.
    pub id: NodeId,
    /// Its log durably equals the leader's up to here.
    pub matched: LogIndex,
    /// The next index to be sent to it.
    pub next: LogIndex,
    /// Whether it was heard from since the leader last checked for a quorum.
    pub active: bool,
    /// Whether it was heard from since the check before that: of one that answers this is always so.
    pub heard_lately: bool,
    /// Whether it said that its disk lost something.
    pub damaged: bool,
    /// Whether it needs what is in a snapshot alone.
    pub needs_snapshot: bool,
}

impl FollowerStatus {
    pub(crate) fn of((id, progress): (&NodeId, &Progress)) -> Self {
        Self {
            id: *id,
            matched: progress.matched(),
            next: progress.next(),
            active: progress.active,
            heard_lately: progress.was_heard_lately(),
            damaged: progress.is_damaged(),
            needs_snapshot: progress.needs_snapshot(),
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}
