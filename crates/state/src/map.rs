//! The map itself: what put, delete and transactions do to its rows, within one entry.

use std::num::NonZeroU64;

use bytes::Bytes;
use raftmap_raft::LogIndex;

use crate::answer::{Answer, DeleteAnswer, OperationResult, PutAnswer, Record, Refusal, TxnAnswer};
use crate::engine::{Engine, EngineError};
use crate::error::StateError;
use crate::expiry::Deadlines;
use crate::format::{DecodeError, MapRow, table};
use crate::limits::{ANSWER_BASE_BYTES, result_bytes};
use crate::overlay::Overlay;
use crate::request::{Condition, Delete, Expected, Operation, Put, PutEntry, Txn, WriteRequest};

/// Why a write ends early.
enum Stop {
    Refused(Refusal),
    Failed(StateError),
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Self {
        Self::Failed(error)
    }
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<DecodeError> for Stop {
    fn from(error: DecodeError) -> Self {
        Self::Failed(error.into())
    }
}

/// The map at one entry.
pub(crate) struct MapStep<'a, 'o, E: Engine> {
    pub(crate) overlay: &'a mut Overlay<'o, E>,
    pub(crate) deadlines: &'a mut Deadlines,
    /// The revision of all that is set.
    pub(crate) index: LogIndex,
    pub(crate) log_time_ms: u64,
}

/// Counts an answer while it is made, so that one that is too large is noticed before it takes the memory.
struct AnswerSize {
    bytes: u64,
    limit: u64,
}

impl AnswerSize {
    fn new(answer_bytes_max: u32) -> Result<Self, Stop> {
        let mut size = Self { bytes: 0, limit: u64::from(answer_bytes_max) };
        size.add(ANSWER_BASE_BYTES)?;
        Ok(size)
    }

    fn add(&mut self, bytes: u64) -> Result<(), Stop> {
        self.bytes = self.bytes.saturating_add(bytes);
        let limit = self.limit;
        if self.bytes > limit { Err(Stop::Refused(Refusal::AnswerTooLarge { limit })) } else { Ok(()) }
    }

    fn result(&mut self, record: Option<&Record>) -> Result<(), Stop> {
        self.add(result_bytes(record))
    }
}

impl<E: Engine> MapStep<'_, '_, E> {
    /// Carries out a write, or refuses it and changes nothing.
    pub(crate) fn write(
        &mut self,
        request: WriteRequest,
        answer_bytes_max: u32,
    ) -> Result<Result<Answer, Refusal>, StateError> {
        let before = self.overlay.mark();
        let answer = AnswerSize::new(answer_bytes_max).and_then(|size| match request {
            WriteRequest::Put(put) => self.put_all(put, size),
            WriteRequest::Delete(delete) => self.delete_all(delete, size),
            WriteRequest::Txn(txn) => self.txn(txn, size),
        });
        match answer {
            Ok(answer) => Ok(Ok(answer)),
            Err(Stop::Refused(refusal)) => {
                self.overlay.roll_back(before);
                Ok(Err(refusal))
            }
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn put_all(&mut self, put: Put, mut size: AnswerSize) -> Result<Answer, Stop> {
        let mut previous = Vec::new();
        for entry in put.entries {
            let record = self.put(entry, put.return_previous)?;
            if put.return_previous {
                size.result(record.as_ref())?;
                previous.push(record);
            }
        }
        Ok(Answer::Put(PutAnswer { revision: self.index, previous }))
    }

    fn delete_all(&mut self, delete: Delete, mut size: AnswerSize) -> Result<Answer, Stop> {
        let mut answer = DeleteAnswer { revision: self.index, ..DeleteAnswer::default() };
        for key in delete.keys {
            let record = self.delete(key)?;
            answer.deleted += u64::from(record.is_some());
            if delete.return_previous {
                size.result(record.as_ref())?;
                answer.previous.push(record);
            }
        }
        Ok(Answer::Delete(answer))
    }

    fn txn(&mut self, txn: Txn, mut size: AnswerSize) -> Result<Answer, Stop> {
        let mut succeeded = true;
        for condition in &txn.conditions {
            succeeded = succeeded && self.holds(condition)?;
        }
        let mut results = Vec::new();
        for operation in if succeeded { txn.then } else { txn.otherwise } {
            let result = match operation {
                Operation::Put(entry) => OperationResult::Put { previous: self.put(entry, true)? },
                Operation::Delete(key) => OperationResult::Deleted { previous: self.delete(key)? },
                Operation::Get(key) => OperationResult::Got(self.get(key)?),
            };
            size.result(result.record())?;
            results.push(result);
        }
        Ok(Answer::Txn(TxnAnswer { revision: self.index, succeeded, results }))
    }

    fn holds(&self, condition: &Condition) -> Result<bool, StateError> {
        let record = self.get(condition.key.clone())?;
        Ok(match &condition.expected {
            Expected::Exists(exists) => record.is_some() == *exists,
            Expected::Revision(revision) => record.map_or(LogIndex(0), |record| record.revision) == *revision,
            Expected::Value(value) => record.is_some_and(|record| record.value == *value),
        })
    }

    fn get(&self, key: Bytes) -> Result<Option<Record>, StateError> {
        Ok(self.row(&table::map_key(&key))?.and_then(|row| self.visible(row, key)))
    }

    /// Sets a key and gives what stood there before, if somebody wants to know. It may have to be read for its deadline alone.
    fn put(&mut self, entry: PutEntry, wanted: bool) -> Result<Option<Record>, StateError> {
        let row_key = self.overlay.encode(1 + entry.key.len(), |out| table::put_map_key(out, &entry.key));
        let needed = wanted || self.deadlines.are_there();
        let old = if needed { self.row(&row_key)? } else { None };
        let row = MapRow {
            revision: self.index,
            expires_at_ms: entry.ttl_ms.map(|ttl| self.deadline(ttl)),
            value: entry.value,
        };
        let encoded = self.overlay.encode(MapRow::HEAD_BYTES + row.value.len(), |out| row.put(out));
        self.overlay.set(row_key, encoded);
        self.move_deadline(&entry.key, old.as_ref().and_then(|old| old.expires_at_ms), row.expires_at_ms);
        Ok(old.and_then(|old| self.visible(old, entry.key)))
    }

    /// Removes a key and gives what stood there before.
    fn delete(&mut self, key: Bytes) -> Result<Option<Record>, StateError> {
        let row_key = table::map_key(&key);
        let Some(old) = self.row(&row_key)? else { return Ok(None) };
        self.overlay.remove(row_key);
        self.move_deadline(&key, old.expires_at_ms, None);
        Ok(self.visible(old, key))
    }

    /// The row as it is stored: perhaps of a key that expired and whose row was not removed yet.
    fn row(&self, row_key: &[u8]) -> Result<Option<MapRow>, StateError> {
        Ok(self.overlay.get(row_key)?.map(MapRow::decode).transpose()?)
    }

    fn visible(&self, row: MapRow, key: Bytes) -> Option<Record> {
        row.is_live(self.log_time_ms).then(|| row.into_record(key))
    }

    fn deadline(&self, ttl: NonZeroU64) -> NonZeroU64 {
        ttl.saturating_add(self.log_time_ms)
    }

    fn move_deadline(&mut self, key: &Bytes, from: Option<NonZeroU64>, to: Option<NonZeroU64>) {
        if from == to {
            return;
        }
        if let Some(deadline) = from {
            self.overlay.remove(table::deadline_key(deadline.get(), key));
        }
        if let Some(deadline) = to {
            self.overlay.set(table::deadline_key(deadline.get(), key), Bytes::new());
            self.deadlines.added(deadline.get());
        }
    }
}
