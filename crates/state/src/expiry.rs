//! Keys that expire: an index of deadlines, and the removal of rows whose deadline passed.
//!
//! A key is absent as soon as log time reaches its deadline, whether or not its row is still there. Removal only frees
//! the room, so it may be spread over later entries; but it is part of the state, so every server does it at the same
//! entries.

use crate::engine::Snapshot;
use crate::error::StateError;
use crate::format::{MapRow, table};
use crate::limits::EXPIRED_ROWS_PER_ENTRY_MAX;
use crate::overlay::Overlay;

const NEVER: u64 = u64::MAX;

/// What is known about the deadlines in the engine without reading them.
pub(crate) struct Deadlines {
    /// No key has a deadline before this one. It may be too early, since a key that is removed or set again does not
    /// move it on: finding the next one would read over all that was removed before it, again and again.
    earliest_ms: u64,
}

impl Deadlines {
    pub(crate) fn load(snapshot: &impl Snapshot) -> Result<Self, StateError> {
        let (start, end) = table::DEADLINES_SPAN;
        let earliest_ms = match snapshot.range(&start, &end).next() {
            Some(row) => table::decode_deadline(&row?.0)?.0,
            None => NEVER,
        };
        Ok(Self { earliest_ms })
    }

    /// A log time before which no key expires; `None` if none ever does.
    pub(crate) fn earliest_ms(&self) -> Option<u64> {
        (self.earliest_ms != NEVER).then_some(self.earliest_ms)
    }

    pub(crate) fn added(&mut self, deadline_ms: u64) {
        self.earliest_ms = self.earliest_ms.min(deadline_ms);
    }

    /// Removes expired keys, earliest deadline first, up to the limit for one entry.
    pub(crate) fn remove_expired<S: Snapshot>(
        &mut self,
        overlay: &mut Overlay<S>,
        log_time_ms: u64,
    ) -> Result<(), StateError> {
        if self.earliest_ms > log_time_ms {
            return Ok(());
        }
        let from = table::deadline_key(self.earliest_ms, &[]);
        let to = table::deadline_key(log_time_ms.saturating_add(1), &[]);
        for (index_row, _) in overlay.first_rows(&from, &to, EXPIRED_ROWS_PER_ENTRY_MAX)? {
            let (deadline_ms, key) = table::decode_deadline(&index_row)?;
            let map_key = table::map_key(&key);
            let row = overlay.get(&map_key)?.map(MapRow::decode).transpose()?;
            if row.and_then(|row| row.expires_at_ms).is_none_or(|expires| expires.get() != deadline_ms) {
                return Err(StateError::Inconsistent("a deadline without a key that has it"));
            }
            overlay.remove(index_row);
            overlay.remove(map_key);
        }
        let (_, end) = table::DEADLINES_SPAN;
        self.earliest_ms = match overlay.first_rows(&from, &end, 1)?.first() {
            Some((index_row, _)) => table::decode_deadline(index_row)?.0,
            None => NEVER,
        };
        Ok(())
    }
}
