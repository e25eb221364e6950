//! Keys that expire: an index of deadlines, and the removal of rows whose deadline passed.
//!
//! A key is absent as soon as log time reaches its deadline, whether or not its row is still there. Removal only frees
//! the room, so it may be spread over later entries; but it is part of the state, so every server does it at the same
//! entries.

use bytes::Bytes;

use crate::engine::{Engine, Snapshot};
use crate::error::StateError;
use crate::format::{DecodeError, MapRow, table};
use crate::limits::EXPIRED_KEYS_PER_ENTRY;
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

    /// Whether a key may have a deadline. If not, a key that is set has none that would have to go.
    pub(crate) fn are_there(&self) -> bool {
        self.earliest_ms != NEVER
    }

    pub(crate) fn added(&mut self, deadline_ms: u64) {
        self.earliest_ms = self.earliest_ms.min(deadline_ms);
    }

    /// Removes expired keys, earliest deadline first, up to the limit for one entry. An entry that changed many rows
    /// removes as many: keys go as fast as they come.
    pub(crate) fn remove_expired<E: Engine>(
        &mut self,
        overlay: &mut Overlay<'_, E>,
        log_time_ms: u64,
    ) -> Result<(), StateError> {
        if self.earliest_ms > log_time_ms {
            return Ok(());
        }
        let max = EXPIRED_KEYS_PER_ENTRY.max(overlay.changes_of_entry());
        let start = table::deadline_key(self.earliest_ms, &[]);
        let (_, end) = table::DEADLINES_SPAN;
        let is_due = |row_key: &Bytes| {
            table::decode_deadline(row_key).is_ok_and(|(deadline_ms, _)| deadline_ms <= log_time_ms)
        };
        // One more than may be removed, or the first that is not due: the earliest from now on.
        self.earliest_ms = NEVER;
        for (nth, (row_key, _)) in
            overlay.first_rows_while(&start, &end, max + 1, is_due)?.into_iter().enumerate()
        {
            let (deadline_ms, key) = table::decode_deadline(&row_key)?;
            if nth == max || deadline_ms > log_time_ms {
                self.earliest_ms = deadline_ms;
                break;
            }
            remove_key(overlay, row_key, deadline_ms, &key)?;
        }
        Ok(())
    }
}

fn remove_key<E: Engine>(
    overlay: &mut Overlay<'_, E>,
    index_row: Bytes,
    deadline_ms: u64,
    key: &[u8],
) -> Result<(), StateError> {
    let map_key = table::map_key(key);
    let row = overlay.get(&map_key)?.map(MapRow::decode).transpose()?;
    if row.and_then(|row| row.expires_at_ms).is_none_or(|expires| expires.get() != deadline_ms) {
        return Err(StateError::Inconsistent("a deadline without a key that has it"));
    }
    overlay.remove(index_row);
    overlay.remove(map_key);
    Ok(())
}

/// Whether a row of the index is one.
pub(crate) fn check_deadline_row(key: &Bytes, value: &Bytes) -> Result<(), DecodeError> {
    table::decode_deadline(key)?;
    match value.len() {
        0 => Ok(()),
        bytes => Err(DecodeError::Trailing { what: "deadline row", bytes }),
    }
}
