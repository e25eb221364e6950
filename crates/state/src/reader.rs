//! Reads, from any thread, beside the one that applies.
//!
//! Each read takes one snapshot of the engine, in which the applied index stands beside the rows: what it says about its
//! revision is exact. Time is log time as applied there, never a clock: a key's absence is the same on every server.

use bytes::Bytes;
use raftmap_raft::{GroupId, LogIndex, LogPosition, Membership, NodeId};

use crate::answer::{GetAnswer, Record, ScanAnswer};
use crate::command::{Introduction, Member};
use crate::digest::{ContentDigest, Digest};
use crate::engine::{Engine, EngineError, Row, Snapshot};
use crate::error::StateError;
use crate::format::{
    Applied, MapRow, decode_introduction_row, decode_member, decode_membership, decode_scanned, table,
};
use crate::limits::{ANSWER_BASE_BYTES, result_bytes};
use crate::request::{Get, Scan};
use crate::snapshot::SnapshotReader;

/// A handle for reads. Clones share the engine.
#[derive(Clone)]
pub struct Reader<E> {
    engine: E,
    group: GroupId,
}

/// How far a state machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedState {
    /// The last applied entry.
    pub position: LogPosition,
    /// Log time there, in milliseconds since the Unix epoch.
    pub log_time_ms: u64,
    /// The running digest there.
    pub running_digest: Digest,
    /// The cluster's feature level there; see [`crate::LEVEL`].
    pub level: u8,
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Failure code TOO_LARGE.
    #[error("the answer would be larger than the limit of {limit} bytes; ask for fewer keys")]
    AnswerTooLarge {
        /// The largest answer, as [`crate::limits`] counts it.
        limit: u64,
    },
    /// The node ends.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Applied {
    /// The row in the engine, or the start if there is none.
    pub(crate) fn read(snapshot: &impl Snapshot, expected: GroupId) -> Result<Self, StateError> {
        let Some(row) = snapshot.get(&table::APPLIED_KEY)? else { return Ok(Self::start(expected)) };
        let applied = Self::decode(row)?;
        if applied.group != expected {
            return Err(StateError::WrongGroup { expected, found: applied.group });
        }
        Ok(applied)
    }
}

impl<E: Engine> Reader<E> {
    pub(crate) fn new(engine: E, group: GroupId) -> Self {
        Self { engine, group }
    }

    fn view(&self) -> Result<(E::Snapshot, Applied), StateError> {
        let snapshot = self.engine.snapshot();
        let applied = Applied::read(&snapshot, self.group)?;
        Ok((snapshot, applied))
    }

    /// How far the state machine is.
    ///
    /// # Errors
    /// If the engine fails: the node ends.
    pub fn applied(&self) -> Result<AppliedState, StateError> {
        let (_, applied) = self.view()?;
        Ok(AppliedState {
            position: applied.position,
            log_time_ms: applied.log_time_ms,
            running_digest: Digest(applied.running_digest),
            level: applied.level,
        })
    }

    /// Reads keys, all at one revision.
    ///
    /// # Errors
    /// If the answer would be larger than `answer_bytes_max`, or the engine fails.
    pub fn get(&self, get: &Get, answer_bytes_max: u32) -> Result<GetAnswer, ReadError> {
        let (snapshot, applied) = self.view()?;
        let limit = u64::from(answer_bytes_max);
        let mut bytes = ANSWER_BASE_BYTES;
        let mut records = Vec::with_capacity(get.keys.len());
        for key in &get.keys {
            let record = read_key(&snapshot, key, applied.log_time_ms)?;
            bytes = bytes.saturating_add(result_bytes(record.as_ref()));
            if bytes > limit {
                return Err(ReadError::AnswerTooLarge { limit });
            }
            records.push(record);
        }
        Ok(GetAnswer { revision: applied.position.index, records })
    }

    /// Starts to read a range. All pages are of one revision: the cursor holds a snapshot, so it should not be kept for
    /// long.
    ///
    /// # Errors
    /// If the engine fails: the node ends.
    pub fn scan(&self, scan: &Scan) -> Result<ScanCursor, StateError> {
        let (snapshot, applied) = self.view()?;
        let start = table::map_key(&scan.start);
        let end =
            if scan.end.is_empty() { Bytes::from_static(&table::MAP_END) } else { table::map_key(&scan.end) };
        let rows = snapshot.range(&start, &end);
        let rows: Box<dyn Iterator<Item = Result<Row, EngineError>> + Send> =
            if scan.reverse { Box::new(rows.rev()) } else { Box::new(rows) };
        let mut cursor = ScanCursor {
            revision: applied.position.index,
            log_time_ms: applied.log_time_ms,
            keys_only: scan.keys_only,
            left: if scan.limit == 0 { u64::MAX } else { u64::from(scan.limit) },
            rows,
            next: None,
        };
        cursor.next = cursor.read_live()?;
        Ok(cursor)
    }

    /// All members that were recorded, in the order of their ids.
    ///
    /// # Errors
    /// If the engine fails: the node ends.
    pub fn members(&self) -> Result<Vec<Member>, StateError> {
        let (start, end) = table::MEMBERS_SPAN;
        let mut members = Vec::new();
        for row in self.engine.snapshot().range(&start, &end) {
            members.push(decode_member(row?.1)?);
        }
        Ok(members)
    }

    /// Those that were members and are none any more, in the order of their ids.
    ///
    /// # Errors
    /// If the engine fails: the node ends.
    pub fn removed(&self) -> Result<Vec<NodeId>, StateError> {
        let (start, end) = table::REMOVED_SPAN;
        let mut removed = Vec::new();
        for row in self.engine.snapshot().range(&start, &end) {
            removed.push(table::decode_node_key(&row?.0)?);
        }
        Ok(removed)
    }

    /// What was said of where members are, and of servers that are to become members, by id; and the index of the last entry
    /// that said something that still holds.
    ///
    /// # Errors
    /// If the engine fails: the node ends.
    pub fn introductions(&self) -> Result<(LogIndex, Vec<Introduction>), StateError> {
        let (start, end) = table::INTRODUCTIONS_SPAN;
        let (mut last, mut introductions) = (LogIndex(0), Vec::new());
        for row in self.engine.snapshot().range(&start, &end) {
            let (key, value) = row?;
            let (index, introduction) = decode_introduction_row(&key, value)?;
            last = last.max(index);
            introductions.push(introduction);
        }
        Ok((last, introductions))
    }

    /// What was recorded about one member.
    ///
    /// # Errors
    /// If the engine fails: the node ends.
    pub fn member(&self, node_id: NodeId) -> Result<Option<Member>, StateError> {
        let row = self.engine.snapshot().get(&table::member_key(node_id))?;
        Ok(row.map(decode_member).transpose()?)
    }

    /// The members that the last applied entry of that kind put in force, and its index; see
    /// [`crate::StateMachine::membership`].
    ///
    /// # Errors
    /// If the engine fails: the node ends.
    pub fn membership(&self) -> Result<Option<(LogIndex, Membership)>, StateError> {
        read_membership(&self.engine.snapshot())
    }

    /// The state as it is now, to be sent elsewhere or kept, while writes go on.
    ///
    /// # Errors
    /// If the engine fails: the node ends.
    pub fn snapshot(&self) -> Result<SnapshotReader<E::Snapshot>, StateError> {
        let (view, applied) = self.view()?;
        SnapshotReader::new(view, applied)
    }

    /// Starts to hash all rows as they are now.
    ///
    /// # Errors
    /// If the engine fails: the node ends.
    pub fn content_digest(&self) -> Result<ContentDigest, StateError> {
        let (snapshot, applied) = self.view()?;
        let (start, end) = table::ALL_SPAN;
        Ok(ContentDigest::new(applied.position, snapshot.range(&start, &end)))
    }
}

/// The log time of the last scan, if there was one.
pub(crate) fn read_scanned(snapshot: &impl Snapshot) -> Result<Option<u64>, StateError> {
    let row = snapshot.get(&table::SCANNED_KEY)?;
    Ok(row.map(decode_scanned).transpose()?)
}

/// The row of the members that are in force, if there is one.
pub(crate) fn read_membership(
    snapshot: &impl Snapshot,
) -> Result<Option<(LogIndex, Membership)>, StateError> {
    let row = snapshot.get(&table::MEMBERSHIP_KEY)?;
    Ok(row.map(decode_membership).transpose()?)
}

fn read_key(snapshot: &impl Snapshot, key: &Bytes, log_time_ms: u64) -> Result<Option<Record>, StateError> {
    let Some(row) = snapshot.get(&table::map_key(key))? else { return Ok(None) };
    let row = MapRow::decode(row)?;
    Ok(row.is_live(log_time_ms).then(|| row.into_record(key.clone())))
}

/// A scan on its way, on one snapshot.
pub struct ScanCursor {
    revision: LogIndex,
    log_time_ms: u64,
    keys_only: bool,
    /// How many records may still come.
    left: u64,
    rows: Box<dyn Iterator<Item = Result<Row, EngineError>> + Send>,
    /// Read ahead, so that a page knows whether another record follows.
    next: Option<Record>,
}

impl ScanCursor {
    /// The next records: as many as fit into `page_bytes_max`, as [`crate::limits`] counts them, and at least one.
    /// `more` says that the range holds records behind them, whether or not the scan's limit lets them come.
    ///
    /// # Errors
    /// If the engine fails: the node ends.
    pub fn next_page(&mut self, page_bytes_max: u64) -> Result<ScanAnswer, StateError> {
        let mut records = Vec::new();
        let mut bytes = ANSWER_BASE_BYTES;
        while self.left > 0
            && let Some(record) = self.next.take()
        {
            bytes = bytes.saturating_add(result_bytes(Some(&record)));
            if bytes > page_bytes_max && !records.is_empty() {
                self.next = Some(record);
                break;
            }
            records.push(record);
            self.left -= 1;
            self.next = self.read_live()?;
        }
        Ok(ScanAnswer { revision: self.revision, records, more: self.next.is_some() })
    }

    /// Whether the last page was the last: the range or the scan's limit is exhausted.
    pub fn is_done(&self) -> bool {
        self.left == 0 || self.next.is_none()
    }

    fn read_live(&mut self) -> Result<Option<Record>, StateError> {
        for row in self.rows.by_ref() {
            let (key, value) = row?;
            let mut row = MapRow::decode(value)?;
            if row.is_live(self.log_time_ms) {
                if self.keys_only {
                    row.value = Bytes::new();
                }
                return Ok(Some(row.into_record(table::map_key_of_row(&key))));
            }
        }
        Ok(None)
    }
}
