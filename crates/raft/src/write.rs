//! What the core asks the disk to do.

use crate::entry::{Entry, HardState, LogPosition};
use crate::ids::{LogIndex, StateId, WriteId};
use crate::membership::Membership;

/// One step of the ordered stream of writes to the log. The parts take effect in the order of the fields, and all of
/// them are durable before the write is reported as persisted. Writes that wait together may share one sync; the report
/// of a write stands for all before it, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// Its number. What comes back is this number and never an index: an index may be written twice (scenario 22).
    pub id: WriteId,
    /// The hard state from now on, if it changes. Durable before the first entry of its term (scenario 11).
    pub hard_state: Option<HardState>,
    /// The last index to keep, if entries are to be cut from the end. The cut is a record in the log, never an overwrite.
    pub truncate_to: Option<LogIndex>,
    /// Where the log begins from now on, if that changes. Boxed, since it is rare, and every action is as large as a write.
    pub base: Option<Box<Base>>,
    /// Entries to add behind the last one, without a gap.
    pub entries: Vec<Entry>,
}

/// Where a log begins: everything up to here is in the state machine alone. It moves up when the log is compacted, and when
/// a snapshot is installed; it never moves down.
///
/// All entries up to `position` leave the log. If the log holds the entry at `position` with its very term, or begins right
/// behind it, what follows it stays; if not, what follows it is of another history, and leaves the log, too (scenario 36; Raft paper, figure 13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The last entry that is not in the log any more. It is committed.
    pub position: LogPosition,
    /// The membership in force there.
    pub membership: Membership,
    /// The state machine is durable up to here, at `position` or behind it: should it come back with less, it is damaged.
    pub durable: LogIndex,
    /// The state machine that holds it.
    pub state: StateId,
}

impl Base {
    /// In the place of [`Self::durable`]: the state machine is not to be trusted. No index reaches this one, so that what comes
    /// back under its name is damaged in any case, however much it has applied.
    pub const DISTRUSTED: LogIndex = LogIndex(1 << 62);

    /// Whether the state machine is not to be trusted, and a snapshot of another node is to take its place.
    pub fn is_state_distrusted(&self) -> bool {
        self.durable == Self::DISTRUSTED
    }
}
