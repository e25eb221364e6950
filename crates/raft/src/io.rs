//! What goes into the core and what comes out of it: nothing else does.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::entry::{Entry, LogPosition};
use crate::ids::{Ctx, LogIndex, NodeId, StateId, Term, WriteId};
use crate::membership::Membership;
use crate::message::Message;
use crate::write::Write;

/// What happens to the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// One tick of the clock passed. All timeouts are counted in ticks.
    Tick,
    /// A message arrived.
    Receive {
        /// Who sent it, as its connection proved.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A command wants to be replicated. Ends as part of an [`Action::Apply`] or as [`Action::Failed`].
    Propose {
        /// Names it.
        ctx: Ctx,
        /// The command.
        command: Bytes,
    },
    /// Someone wants to read what is committed now. Ends as [`Action::ReadReady`] or [`Action::Failed`].
    Read {
        /// Names it.
        ctx: Ctx,
    },
    /// All writes up to this one are durable.
    Persisted(WriteId),
    /// The state machine has applied everything up to here.
    Applied(LogIndex),
    /// Entries that an [`Action::Fetch`] asked for.
    Fetched {
        /// For what they were asked.
        purpose: FetchPurpose,
        /// The entries, without a gap from the index asked for; at least one. None if they are not in the log any more, which
        /// happens only to those that were to be sent.
        entries: Vec<Entry>,
    },
    /// The state machine is durable up to here: the log may let go of what stands at its beginning.
    Compact {
        /// The last entry to let go of. What stands behind it is kept for followers that are a little behind.
        to: LogIndex,
        /// Up to where the state machine is durable: at `to` or behind it, and applied.
        durable: LogIndex,
    },
    /// A snapshot that an [`Action::FetchSnapshot`] asked for is here, whole and durable.
    SnapshotReady(Snapshot),
    /// What an [`Action::FetchSnapshot`] asked for cannot be had.
    SnapshotFailed,
    /// The state machine was found to be wrong: its rows rotted, or it applied an entry to another effect than others did. The
    /// log says so, and a snapshot of another node takes its place, as of one that is lost. The log itself is sound: this node
    /// votes and acknowledges on.
    DistrustState,
    /// Stand for election now instead of waiting for the timeout.
    Campaign,
    /// Let another voter lead (dissertation, section 3.10). It ends with this node following, or with
    /// [`Event::TransferFailed`]; until then nothing is proposed.
    TransferLeadership {
        /// Who is to lead.
        to: NodeId,
    },
    /// The members are to be these (section 6). Ends as part of an [`Action::Apply`] when the last entry of the change is
    /// applied, or as [`Action::Failed`].
    ChangeMembers {
        /// Names it.
        ctx: Ctx,
        /// Those who vote. Who does not vote yet must be a learner that has caught up.
        voters: BTreeSet<NodeId>,
        /// Those who receive the log and count for nothing.
        learners: BTreeSet<NodeId>,
    },
    /// The connection to this node broke: its process may have ended. If it led, nobody waits for its silence to last.
    PeerLost(NodeId),
}

/// A state machine of another node, held here under a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last entry that it has applied.
    pub position: LogPosition,
    /// The membership in force there.
    pub membership: Membership,
    /// Its name here.
    pub state: StateId,
}

/// What the core wants done. Actions are carried out in order; writes are one ordered stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write this to the log and sync, then report it with [`Input::Persisted`].
    Write(Write),
    /// Send this. It may get lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Apply these entries: committed, and durable here. Report with [`Input::Applied`]. One at a time.
    Apply {
        /// The entries, without a gap behind the last ones applied.
        entries: Vec<Entry>,
        /// Those of them that were proposed here, in order: each ends with this.
        proposals: Vec<(LogIndex, Ctx)>,
    },
    /// Read entries from the log on disk, from this index on, and hand them in with [`Input::Fetched`]. They are durable when
    /// this is asked. Entries to be sent may have been cut off by the time they are read, at the end when this node does not
    /// lead any more, at the beginning when the log was compacted: then none is handed in. Entries to be applied are always
    /// there.
    Fetch {
        /// For what.
        purpose: FetchPurpose,
        /// The first index wanted.
        from: LogIndex,
        /// The last index wanted.
        to: LogIndex,
        /// Stop when the entries exceed this size, but read at least one.
        max_bytes: usize,
    },
    /// Get the state machine of another node, as it stands there now, and hold it beside this node's own until
    /// [`Action::Install`] or [`Action::Discard`] names it. Ends as [`Input::SnapshotReady`] or [`Input::SnapshotFailed`]; one
    /// at a time. It may take long.
    FetchSnapshot {
        /// Who has it.
        from: NodeId,
        /// What it must have applied to be of use.
        at_least: LogIndex,
    },
    /// The log has named this state machine: it takes the place of the one before, which is removed. Report with
    /// [`Input::Applied`].
    Install {
        /// Its name.
        state: StateId,
        /// What it has applied.
        position: LogPosition,
    },
    /// This snapshot is not needed any more.
    Discard {
        /// Its name.
        state: StateId,
    },
    /// A read may be answered from the local state as soon as `index` is applied there.
    ReadReady {
        /// The read.
        ctx: Ctx,
        /// What must be applied first.
        index: LogIndex,
    },
    /// A proposal or a read came to nothing.
    Failed {
        /// Which.
        ctx: Ctx,
        /// Why.
        reason: FailReason,
        /// Whether it may take effect all the same. A read never does.
        outcome: Outcome,
    },
    /// Something that an operator or a test wants to know of.
    Event(Event),
}

/// For what entries are read from the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FetchPurpose {
    /// To be applied.
    Apply,
    /// To be sent to a follower that is behind, by the leader of this term.
    Send {
        /// The follower.
        to: NodeId,
        /// The leader's term; in any other the entries are of no use.
        term: Term,
    },
}

/// Why a proposal or a read failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailReason {
    /// This node does not lead.
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// This node led when the request came in, and does not any more.
    LeadershipLost,
    /// This node leads, and is about to hand over.
    HandingOver {
        /// To whom.
        to: NodeId,
    },
    /// The members cannot be changed so.
    Members(ChangeRefusal),
    /// Too many bytes wait to be committed, or too many reads to be confirmed.
    Overloaded,
    /// The command is larger than may be proposed.
    TooLarge {
        /// What is allowed, in bytes.
        limit_bytes: usize,
    },
}

/// Why the members cannot be changed so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefusal {
    /// Nobody would vote, or somebody would be both voter and learner.
    #[error("somebody must vote, and nobody can be voter and learner at once")]
    NotAMembership,
    /// They are so already.
    #[error("the members are so already")]
    NothingToChange,
    /// Another change is not committed yet, this leader has committed nothing in its term yet, or it is handing over.
    #[error("another change, or the leader's term, is not settled yet: try again in a moment")]
    Busy,
    /// This node is to vote, and is not a learner that has caught up.
    #[error("server {id} is no learner that has caught up: it would vote on what it does not have")]
    NotCaughtUp {
        /// The node.
        id: NodeId,
    },
    /// Too few of those who would vote are there and whole: nothing could be committed any more.
    #[error(
        "only {fit} of the {voters} servers that would vote are there and whole: nothing could be committed any more"
    )]
    NoQuorum {
        /// So many are there and whole.
        fit: usize,
        /// So many would vote.
        voters: usize,
    },
}

/// Whether what failed may take effect all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not applied and never will be.
    NotApplied,
    /// It may be applied, now or later.
    Unknown,
}

/// What an operator or a test wants to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This node follows, perhaps nobody yet.
    Following {
        /// In which term.
        term: Term,
        /// Whom.
        leader: Option<NodeId>,
    },
    /// This node asks around whether it would be elected.
    PreCampaigning {
        /// The term that it is in; it would campaign in the next one.
        term: Term,
    },
    /// This node stands for election.
    Campaigning {
        /// In which term.
        term: Term,
    },
    /// This node was elected.
    Leading {
        /// In which term.
        term: Term,
        /// Who voted for it, itself included.
        votes: Vec<NodeId>,
    },
    /// This node gave up leadership of its own accord.
    SteppedDown {
        /// In which term.
        term: Term,
        /// Why.
        reason: StepDownReason,
    },
    /// This leader is handing over.
    HandingOver {
        /// To whom.
        to: NodeId,
    },
    /// Leadership stays where it is.
    TransferFailed {
        /// Who was to lead.
        to: NodeId,
        /// Why it does not.
        reason: TransferFailure,
    },
    /// The log was compacted: it begins behind this entry.
    Compacted {
        /// The last entry that it let go of.
        to: LogIndex,
    },
    /// What this node needs next is in no log any more, or its own state machine is lost: it asks another for a snapshot.
    SnapshotWanted {
        /// Whom it asks.
        from: NodeId,
    },
    /// This node gave up its state machine, which is wrong, and waits for a snapshot of another one.
    StateDistrusted {
        /// What that had applied.
        applied: LogIndex,
    },
    /// A snapshot takes the place of the state machine, and of the log up to there.
    Installing {
        /// The last entry that it has applied.
        position: LogPosition,
    },
    /// Entries at the end of this node's log were never committed, and are replaced.
    Truncated {
        /// The last index that was kept.
        to: LogIndex,
    },
    /// At a leader: a follower has not got any more what it acknowledged, and knows of no damage. Its disk lied about a
    /// sync, or an older state of it was put back. It is sent all of it again; but what rested on that acknowledgement was
    /// at risk meanwhile (see docs/safety.md).
    AcknowledgedLost {
        /// The follower.
        by: NodeId,
        /// The last index that it had acknowledged.
        acknowledged: LogIndex,
    },
    /// What this damaged node had lost was re-sent: it votes and counts again.
    Repaired {
        /// The index up to which it equals its leader.
        up_to: LogIndex,
    },
}

/// Why leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferFailure {
    /// This node does not lead.
    NotLeader,
    /// Only another voter with a whole disk can lead.
    CannotLead,
    /// Another transfer is under way.
    Busy,
    /// The other did not take over within an election timeout.
    TimedOut,
}

/// Why a leader gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDownReason {
    /// It heard from no quorum for an election timeout.
    NoQuorum,
    /// Its disk finished nothing for too long while entries waited.
    DiskStalled,
    /// It does not vote any more, and that is committed.
    Removed,
}
