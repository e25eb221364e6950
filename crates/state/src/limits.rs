//! Sizes that the outcome of an entry depends on. Constants of the format: a change needs a new format version.

use crate::answer::{Answer, OperationResult, Record};

/// How many expired keys one entry removes; or as many as it changed rows itself, if those are more. They are absent
/// already: this only frees their room.
pub const EXPIRED_KEYS_PER_ENTRY: usize = 256;

/// How many rows of expired sessions one entry removes, up to the end of the session at hand.
pub const EXPIRED_SESSION_ROWS_PER_ENTRY: usize = 256;

/// What an answer counts before its records: more than `map.proto` needs for its other fields, the request id of up to
/// 128 bytes among them.
pub const ANSWER_BASE_BYTES: u64 = 192;

/// What each result of an answer counts besides key and value: more than `map.proto` needs for its numbers and lengths.
pub const RESULT_BYTES: u64 = 64;

/// What one result counts in an answer. The encoded message of `map.proto` is never larger than that.
pub fn result_bytes(record: Option<&Record>) -> u64 {
    RESULT_BYTES + record.map_or(0, |record| (record.key.len() + record.value.len()) as u64)
}

/// What an answer counts, in bytes. The encoded message of `map.proto` is never larger than that.
pub fn answer_bytes(answer: &Answer) -> u64 {
    let results: u64 = match answer {
        Answer::Done | Answer::SessionOpened(_) => 0,
        Answer::Put(put) => put.previous.iter().map(|record| result_bytes(record.as_ref())).sum(),
        Answer::Delete(delete) => delete.previous.iter().map(|record| result_bytes(record.as_ref())).sum(),
        Answer::Txn(txn) => txn.results.iter().map(|result| result_bytes(result.record())).sum(),
    };
    ANSWER_BASE_BYTES + results
}

impl OperationResult {
    /// The record that it holds, if any.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Got(record) | Self::Put { previous: record } | Self::Deleted { previous: record } => {
                record.as_ref()
            }
        }
    }
}
