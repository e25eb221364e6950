//! What happens to a replica, and what it wants done.

use raftmap_log::LogError;
use raftmap_raft::{
    Ctx, Entry, FetchPurpose, LogIndex, LogPosition, NodeId, Snapshot, StateId, Term, Write, WriteId,
};
use raftmap_state::{Answer, Introduction, Member, Outcome, SessionTag, TraceContext, WriteRequest};

use crate::digests::{DigestKind, StateDigest};
use crate::failure::Failure;
use crate::peer::PeerBatch;

/// The clocks, read once for everything that happens together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the Unix epoch, as this server's clock has it. It may jump.
    pub wall_ms: u64,
    /// Milliseconds since some moment before the replica began. It never goes back.
    pub monotonic_ms: u64,
}

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Event {
    /// One tick of the clock passed; see [`raftmap_raft::Input::Tick`].
    Tick,
    /// Clients of this server want something.
    Request(Request),
    /// Another server sent something.
    Peer {
        /// Which, as its connection proved.
        from: NodeId,
        /// What.
        batch: PeerBatch,
    },
    /// A connection to another server stands, and it said who it is.
    PeerConnected {
        /// Who, by its data directory.
        member: Member,
        /// The highest feature level that its program understands.
        level: u8,
    },
    /// Another server refuses this one, and says that it was removed from the cluster. That is for ever: whoever says it has
    /// applied it.
    Removed {
        /// In its words.
        reason: String,
    },
    /// The last connection to another server was lost.
    PeerLost(NodeId),
    /// The log has everything up to this write on disk.
    Persisted(WriteId),
    /// The state machine has applied what [`Effect::Apply`] gave it, or another one took its place, by [`Effect::Install`].
    Applied {
        /// What became of each entry, in order; none after an install.
        outcomes: Vec<Outcome>,
        /// How the state machine stands now.
        view: StateView,
    },
    /// All rows were hashed as they were at the entry of a scan; see [`crate::StateWorker::take_scan`].
    Scanned(StateDigest),
    /// A scan met rows that cannot be read any more.
    ScanFailed {
        /// The entry of the scan.
        index: LogIndex,
        /// What the engine said.
        reason: String,
    },
    /// A scrub found that the log on the disk is not what was written: the log is to begin behind that.
    LogRotten {
        /// The last entry that stands in the damaged segment.
        last: LogIndex,
        /// What is wrong, and where.
        reason: String,
    },
    /// The log has read what [`Effect::Fetch`] asked for.
    Fetched {
        /// For what.
        purpose: FetchPurpose,
        /// The entries; at least one, or none if they were to be sent and are not in the log any more.
        entries: Vec<Entry>,
    },
    /// The state machine is durable up to here, after [`Effect::PersistState`].
    StatePersisted(LogIndex),
    /// The snapshot that [`Effect::FetchSnapshot`] asked for is here, whole and durable.
    SnapshotReady(Snapshot),
    /// It cannot be had.
    SnapshotFailed,
    /// So much room is left where the data is, in bytes.
    Space {
        /// Bytes that may still be written.
        free_bytes: u64,
    },
    /// If this server leads, another one is to lead instead, without a call failing: this one, or else the connected one that
    /// has most of the log. It ends with this server following, or with a [`Notice::Raft`] of a failed transfer; nothing
    /// happens if nobody can take over.
    HandOver {
        /// Who is to lead.
        to: Option<NodeId>,
    },
    /// The server is about to stop: what is new is refused, what is under way goes on.
    ShutDown,
}

/// What the state machine tells of itself after each step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateView {
    /// The last index applied.
    pub applied: LogIndex,
    /// The term of the entry there.
    pub applied_term: Term,
    /// The log time, in milliseconds since the Unix epoch.
    pub log_time_ms: u64,
    /// The log time at which something expires next.
    pub next_deadline_ms: Option<u64>,
    /// The cluster's feature level; see [`raftmap_state::LEVEL`].
    pub level: u8,
    /// The running digest at `applied`.
    pub digest: u128,
    /// The running digest at the last milestone; see [`raftmap_state::StateMachine::milestone`].
    pub milestone: Option<StateDigest>,
    /// Who the members are, as far as they were recorded.
    pub members: Vec<Member>,
    /// Those that were members and are none any more, in the order of their ids.
    pub removed: Vec<NodeId>,
    /// Where members are, and servers that are to become members, as far as that was said; in the order of their ids.
    pub introductions: Vec<Introduction>,
    /// The index of the last entry that changed the membership, or said where a member is.
    pub members_index: LogIndex,
    /// The log time of the last scan, in milliseconds.
    pub scanned_ms: Option<u64>,
}

impl Event {
    /// What became of an [`Effect::Fetch`]. Entries that were to be sent may have been cut off meanwhile, at the end by the leader
    /// of a later term, at the beginning since the log was compacted: nobody needs them any more, or whoever does needs a
    /// snapshot. Entries that are to be applied are always there.
    ///
    /// # Errors
    /// If the log cannot be read: the node ends, and sends nothing that it is not sure of (scenario 25).
    pub fn fetched(purpose: FetchPurpose, read: Result<Vec<Entry>, LogError>) -> Result<Self, LogError> {
        let entries = match (read, purpose) {
            (Err(LogError::NotInLog { .. } | LogError::Compacted { .. }), FetchPurpose::Send { .. }) => {
                Vec::new()
            }
            (read, _) => read?,
        };
        Ok(Self::Fetched { purpose, entries })
    }
}

impl StateView {
    /// All that it tells of members.
    pub(crate) fn says_of_members(&self) -> (LogIndex, &[Member], &[NodeId], &[Introduction]) {
        (self.members_index, &self.members, &self.removed, &self.introductions)
    }
}

/// Something that a client of this server wants.
#[derive(Clone, Debug)]
pub struct Request {
    /// Names it; unique among those that wait, below 2^63.
    pub ctx: Ctx,
    /// When it ends in any case, by [`Now::monotonic_ms`].
    pub deadline_ms: u64,
    /// What is wanted.
    pub kind: RequestKind,
    /// Goes with a write or the opening of a session into the log of every server, once the cluster's feature level lets it.
    pub trace: Option<TraceContext>,
}

/// What a client wants.
#[derive(Clone, Debug)]
pub enum RequestKind {
    /// To change the map. The request was checked. Ends as [`Effect::Answer`].
    Write {
        /// What to change.
        request: WriteRequest,
        /// Makes it exactly-once.
        session: Option<SessionTag>,
    },
    /// To open a session. Ends as [`Effect::Answer`].
    OpenSession,
    /// To take a server in, at the leader; it was checked. It becomes a learner, with which this ends as [`Effect::Answer`]; and
    /// a voter by itself once it has caught up, in the place of the one that it replaces. Of a member only the addresses change.
    AddMember(Introduction),
    /// To let a member go, at the leader. Ends as [`Effect::Answer`], once it is none.
    RemoveMember(NodeId),
    /// To read. Ends as [`Effect::Read`], when the local state is fit to be read, or as [`Effect::Answer`] with a failure.
    Read {
        /// Whether it must see everything that was acknowledged before it began.
        linearizable: bool,
        /// It waits until this is applied here.
        min_revision: LogIndex,
    },
}

/// What a replica wants done. To be carried out in order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Write this to the log and sync; then [`Event::Persisted`]. Writes that wait together may share a sync.
    Write(Write),
    /// Send this to another server, if it is connected. It may get lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        batch: PeerBatch,
    },
    /// Apply these entries; then [`Event::Applied`].
    Apply(Vec<Entry>),
    /// Make the state machine durable, beside what it applies; then [`Event::StatePersisted`].
    PersistState,
    /// Get a snapshot of another server, and hold it beside the state machine, durably; then [`Event::SnapshotReady`] or
    /// [`Event::SnapshotFailed`]. It may take long. One at a time.
    FetchSnapshot {
        /// Whose.
        from: NodeId,
        /// What it must have applied.
        at_least: LogIndex,
    },
    /// Put this snapshot in the place of the state machine, and remove the one before; then [`Event::Applied`].
    Install {
        /// Which.
        state: StateId,
        /// What it has applied.
        position: LogPosition,
    },
    /// Remove this snapshot.
    Discard(StateId),
    /// Read entries from the log; then [`Event::Fetched`].
    Fetch {
        /// For what.
        purpose: FetchPurpose,
        /// The first index.
        from: LogIndex,
        /// The last index.
        to: LogIndex,
        /// Stop when the entries exceed this size, but read at least one.
        max_bytes: usize,
    },
    /// The request has ended.
    Answer {
        /// Which.
        ctx: Ctx,
        /// How.
        result: Result<Answer, Failure>,
    },
    /// The local state may be read for this request now.
    Read {
        /// Which.
        ctx: Ctx,
    },
    /// Close the connection to this server, and tell it why.
    RefusePeer {
        /// Which.
        peer: NodeId,
        /// Why, for the operators of both sides.
        reason: String,
        /// It was removed from the cluster: it ends.
        removed: bool,
    },
    /// This is known of where servers are, and of those that were removed. At the start, and when it changed.
    Locate {
        /// See [`StateView::introductions`]; those that are not among them are where the data directory says.
        introductions: Vec<Introduction>,
        /// See [`StateView::removed`].
        removed: Vec<NodeId>,
        /// See [`StateView::members_index`].
        index: LogIndex,
    },
    /// End the server, loudly: it must not take part any more.
    Stop {
        /// Why, for the operator.
        reason: String,
    },
    /// What may be done with the state from now on. A replica begins with all of it.
    Serve(Serves),
    /// Something that an operator wants to know of.
    Notice(Notice),
}

/// What may be done with this server's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serves {
    /// It may be read. If not, reads that go on from page to page end, too.
    pub reads: bool,
    /// Other servers may copy it. If not, copies that are under way end, too.
    pub snapshots: bool,
}

impl Default for Serves {
    fn default() -> Self {
        Self { reads: true, snapshots: true }
    }
}

/// What an operator wants to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Of consensus.
    Raft(raftmap_raft::Event),
    /// This server leads, and its clock is this far from the median of the servers' clocks (positive: ahead), in
    /// milliseconds: log time goes on by its monotonic clock until that is mended.
    ClockDistrusted {
        /// How far.
        skew_ms: i64,
    },
    /// The clock agrees with the others' again.
    ClockTrusted,
    /// The cluster's feature level rose: no older program takes part any more.
    LevelRaised {
        /// The level from now on.
        level: u8,
    },
    /// Another server applied the same entries to another effect: one of the two is wrong.
    Diverged {
        /// The other server.
        peer: NodeId,
        /// The index at which they differ.
        index: LogIndex,
    },
    /// A quorum has another state than this server, which serves nothing until it has a snapshot of one of those.
    Quarantined {
        /// What differs.
        kind: DigestKind,
        /// The index at which it does.
        index: LogIndex,
        /// Those who agree on another state.
        by: Vec<NodeId>,
    },
    /// This server cannot read its state any more, and serves nothing until it has a snapshot of another one.
    StateUnreadable {
        /// The entry of the scan that found it.
        index: LogIndex,
        /// What the engine said.
        reason: String,
    },
    /// A part of the log rotted on the disk. It is let go of as soon as the state machine holds it durably; a restart before that
    /// would take this server for damaged.
    LogRotten {
        /// The last entry that stands in the damaged segment.
        last: LogIndex,
        /// What is wrong, and where.
        reason: String,
    },
    /// A scan found this server's rows as a quorum has them.
    StateSound {
        /// The entry of the scan.
        index: LogIndex,
    },
    /// A snapshot has taken the place of a state that was lost or wrong.
    StateReplaced {
        /// What it has applied.
        index: LogIndex,
    },
    /// The servers' states differ, and no majority has one of them: requests are refused.
    StatesDiffer,
    /// A majority has this server's state again.
    StatesAgree,
    /// Less room than the reserve is left: puts are refused.
    SpaceLow {
        /// What is left, in bytes.
        free_bytes: u64,
    },
    /// There is room again.
    SpaceEnough {
        /// What is left, in bytes.
        free_bytes: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmap_raft::Term;

    /// Scenario 26.
    #[test]
    fn what_is_cut_off_while_it_is_read_to_be_sent_is_no_failure_of_the_disk() {
        let cuts = [
            LogError::NotInLog { index: LogIndex(7), last: LogIndex(6) },
            LogError::Compacted { index: LogIndex(7), first: LogIndex(8) },
        ];
        for cut in cuts {
            let send = FetchPurpose::Send { to: NodeId(2), term: Term(1) };
            let fetched = Event::fetched(send, Err(cut.clone()));
            assert!(matches!(fetched, Ok(Event::Fetched { entries, .. }) if entries.is_empty()));
            assert!(Event::fetched(FetchPurpose::Apply, Err(cut)).is_err());
        }
        let broken = LogError::Invariant("as planned".to_owned());
        assert!(Event::fetched(FetchPurpose::Send { to: NodeId(2), term: Term(1) }, Err(broken)).is_err());
    }
}
