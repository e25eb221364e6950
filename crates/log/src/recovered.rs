//! What a start found on the disk.

use std::fmt;

use raftmap_raft::{Base, HardState, LogIndex, LogPosition, Membership, Term};

use crate::identity::Identity;

/// What a start found on the disk, after all repairs. All of it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Who this node is.
    pub identity: Identity,
    /// Term, vote and the damaged flag.
    pub hard_state: HardState,
    /// Where the log begins; `None`: with the very first entry.
    pub base: Option<Base>,
    /// The last entry; the base's position if there is none, or zeroes.
    pub last: LogPosition,
    /// The terms of all entries behind the base, as runs in ascending order of index.
    pub terms: Vec<TermRun>,
    /// The segments in use and those that a cut has yet to remove, in ascending order.
    pub segments: Vec<SegmentUse>,
    /// The memberships that entries behind the base carry, in ascending order of index. The base names its own.
    pub memberships: Vec<(LogIndex, Membership)>,
    /// While the damaged flag is set: the last index that the log is known to have reached before it was damaged, if
    /// anything behind the damage could be read. It may have reached further.
    pub reached: Option<LogIndex>,
    /// What this start had to repair.
    pub repair: Repair,
}

impl Recovered {
    /// Whether a state machine that came back with everything up to `applied` in it is whole: with all that it was known to
    /// hold durably when the log was cut, and all that the log does not hold any more. If not, it is damaged: it is to be set
    /// aside, and a snapshot to be taken from a peer. A log that was never cut can make up for any loss.
    pub fn state_is_whole(&self, applied: LogIndex) -> bool {
        self.base.as_ref().is_none_or(|base| applied >= base.durable.max(base.position.index))
    }
}

/// A segment of the log, a file of a fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentUse {
    /// Its number.
    pub number: u64,
    /// The first entry of the log that stands in it; `None`: it holds none that counts.
    pub first: Option<LogIndex>,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Entries in a row that share a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermRun {
    /// The index of the first one.
    pub first: LogIndex,
    /// Their term.
    pub term: Term,
}

/// What a start had to repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    Clean,
    /// The last batch was cut short by a crash before its sync returned: nobody was told of it, and it is gone.
    TornTailCut {
        /// The segment's number.
        segment: u64,
        /// Where in the segment the batch began, in bytes.
        offset: u64,
        /// The copy that was kept, by its name in the group's folder `aside`.
        aside: String,
    },
    /// Something that may have been acknowledged is lost. The flag in the hard state is set (but for a single node whose
    /// operator accepted the loss), and the log ends where the damage begins.
    Damaged(Damage),
}

/// Where a log is damaged, and what that costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment's number.
    pub segment: u64,
    /// The offset in the segment, in bytes, of the block that gave the damage away.
    pub offset: u64,
    /// The first entry that is lost.
    pub first_lost: LogIndex,
    /// The last index that could still be read behind the damage; the log may have reached further.
    pub reached: Option<LogIndex>,
    /// What is wrong there.
    pub reason: DamageReason,
}

/// What is wrong with a block or a batch that makes a log damaged and not just torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageReason {
    /// The checksum does not fit, or the disk cannot read the block: bit rot, a bad sector, or a device that tears blocks.
    Checksum,
    /// A good block that belongs elsewhere: a write that the disk misdirected.
    Misplaced,
    /// A good block of another cluster, node or group.
    Foreign,
    /// Nothing stands where a batch must have been, for later ones do: the disk lost a write.
    Missing,
    /// A good batch that does not follow the one before it: the disk lost a write, and another one took its place.
    Chain,
    /// The segment's file has another length than its batches say.
    Length,
    /// Good blocks that contradict each other.
    Inconsistent,
}

impl fmt::Display for DamageReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checksum => "the block cannot be read, or its checksum does not fit",
            Self::Misplaced => "a block that belongs elsewhere",
            Self::Foreign => "a block of another cluster, node or group",
            Self::Missing => "a batch is missing, for later ones are there",
            Self::Chain => "a batch that does not follow the one before it",
            Self::Length => "the file has another length",
            Self::Inconsistent => "blocks that contradict each other",
        })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "segment {} is damaged at offset {}: {}; entries from index {} on are lost",
            self.segment, self.offset, self.reason, self.first_lost
        )?;
        match self.reached {
            Some(reached) => write!(f, " (the log reached at least {reached})"),
            None => Ok(()),
        }
    }
}
