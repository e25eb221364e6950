//! What the core asks the disk to do.

use crate::entry::{Entry, HardState};
use crate::ids::{LogIndex, WriteId};

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
    /// Entries to add behind the last one, without a gap.
    pub entries: Vec<Entry>,
}
