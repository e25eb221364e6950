//! Whether rows that come from elsewhere are rows.

use bytes::Bytes;
use raftmap_raft::{LogIndex, Membership};

use crate::expiry::check_deadline_row;
use crate::format::{
    Applied, DecodeError, MapRow, SessionRow, decode_introduction_row, decode_member, decode_membership,
    decode_scanned, table,
};
use crate::kept::{check_answers_row, check_large_answer_row};
use crate::validate::KEY_BYTES_CEILING;

/// The longest key of a row: that of a deadline, behind its table and number.
const ROW_KEY_BYTES_MAX: usize = 9 + KEY_BYTES_CEILING;

/// What rows said of the state as a whole.
#[derive(Default)]
pub(super) struct SeenRows {
    pub(super) applied: Option<Applied>,
    pub(super) membership: Option<(LogIndex, Membership)>,
    /// How many keys of the map there are.
    pub(super) keys: u64,
}

impl SeenRows {
    /// Takes in a row, if it is one that its table may hold.
    pub(super) fn see(&mut self, key: &Bytes, value: &Bytes) -> Result<(), DecodeError> {
        use table::Table;
        if key.len() > ROW_KEY_BYTES_MAX {
            return Err(DecodeError::Malformed { what: "row key" });
        }
        let value = value.clone();
        match table::of(key)? {
            Table::Applied => self.applied = Some(Applied::decode(value)?),
            Table::Map => {
                MapRow::decode(value)?;
                self.keys += 1;
            }
            Table::Deadlines => check_deadline_row(key, &value)?,
            Table::Sessions => {
                table::decode_session_key(key)?;
                SessionRow::decode(value)?;
            }
            Table::Answers => check_answers_row(table::decode_answers_key(key)?.1, value)?,
            Table::LargeAnswers => {
                table::decode_answers_key(key)?;
                check_large_answer_row(value)?;
            }
            Table::Members => {
                if table::member_key(decode_member(value)?.node_id) != *key {
                    return Err(DecodeError::Malformed { what: "member row" });
                }
            }
            Table::Removed => {
                table::decode_node_key(key)?;
                if !value.is_empty() {
                    return Err(DecodeError::Malformed { what: "row of a removed member" });
                }
            }
            Table::Introductions => {
                decode_introduction_row(key, value)?;
            }
            Table::Membership => self.membership = Some(decode_membership(value)?),
            Table::Scanned => {
                decode_scanned(value)?;
            }
        }
        Ok(())
    }
}
