//! What clients ask for, as plain values: the front door makes them from `map.proto`, commands carry them.
//!
//! All keys and values are [`Bytes`]: slices of the request or the log entry that they came with, never copies.
//! Nothing here is checked yet; that is [`crate::validate`]'s part.

use std::num::NonZeroU64;

use bytes::Bytes;
use raftmap_raft::LogIndex;

/// A change of the map: one request is one entry of the log and one atomic step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteRequest {
    /// Sets keys.
    Put(Put),
    /// Removes keys.
    Delete(Delete),
    /// Runs one of two lists of operations.
    Txn(Txn),
}

/// Sets one or more keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// What to set; each key once.
    pub entries: Vec<PutEntry>,
    /// Whether the answer holds what stood there before.
    pub return_previous: bool,
}

/// One key to set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutEntry {
    /// The key.
    pub key: Bytes,
    /// Its value from now on.
    pub value: Bytes,
    /// How long it lives, in milliseconds from the log time of this write. `None`: for ever, and an earlier expiry is
    /// removed.
    pub ttl_ms: Option<NonZeroU64>,
}

/// Removes one or more keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delete {
    /// The keys, each once.
    pub keys: Vec<Bytes>,
    /// Whether the answer holds what stood there before.
    pub return_previous: bool,
}

/// If every condition holds, `then` runs, else `otherwise`. Operations run in order; a later one sees an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold; with none, `then` runs.
    pub conditions: Vec<Condition>,
    /// What runs if all conditions hold.
    pub then: Vec<Operation>,
    /// What runs if one does not.
    pub otherwise: Vec<Operation>,
}

/// What must hold for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The key.
    pub key: Bytes,
    /// What is expected of it.
    pub expected: Expected,
}

/// What a [`Condition`] expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The key is there (`true`) or absent (`false`).
    Exists(bool),
    /// The key was last set by the write at this index; index 0: the key is absent.
    Revision(LogIndex),
    /// The key is there and has this value.
    Value(Bytes),
}

/// One step of a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key.
    Put(PutEntry),
    /// Removes a key.
    Delete(Bytes),
    /// Reads a key.
    Get(Bytes),
}

/// Reads keys, all at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Get {
    /// The keys; a key may stand there twice and is then answered twice.
    pub keys: Vec<Bytes>,
}

/// Reads a range of keys in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The first key that may be read (inclusive).
    pub start: Bytes,
    /// The first key that may not (exclusive); empty: none, the range goes to the last key.
    pub end: Bytes,
    /// How many entries at most, over all pages; 0: no limit.
    pub limit: u32,
    /// From the end of the range to its start.
    pub reverse: bool,
    /// Leaves the values out (they are empty in the answer).
    pub keys_only: bool,
}

/// A session: the log index of the entry that opened it. 0 is not a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Makes a write exactly-once (Raft dissertation, section 6.3): the same session and sequence again gets the first
/// answer again, and the write is not applied a second time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionTag {
    /// From the answer to [`crate::Body::OpenSession`].
    pub session_id: SessionId,
    /// The write's number in its session, from 1; each stands for one write, in any order.
    pub sequence: u64,
    /// The client needs no answer below this sequence any more: they are forgotten.
    pub acknowledged_below: u64,
}
