//! What a history is made of: who asked what, when, and what came back.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::json::{blob, blobs, pairs, records};

/// A key of the map.
pub type Key = Bytes;

/// A value of the map.
pub type Value = Bytes;

/// One call of a client.
///
/// Times are of one monotonic clock that all clients share, in any unit. An operation comes before another only if its
/// `end` is less than the other's `call`; at equal times they count as concurrent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Who called. Only for the drawing: two calls of one client may overlap.
    pub client: u64,
    /// When it was called.
    pub call: u64,
    /// When its outcome came. Needed with [`Outcome::Done`], of no meaning otherwise.
    #[serde(default)]
    pub end: Option<u64>,
    /// What was asked.
    pub request: Request,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a client asks of the map. Reads are linearizable ones: a stale read has no place in a history.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Reads keys, all at one revision.
    Get {
        /// The keys; a key may stand there twice.
        #[serde(with = "blobs")]
        keys: Vec<Key>,
    },
    /// Sets keys in one step.
    Put {
        /// What to set.
        #[serde(with = "pairs")]
        entries: Vec<(Key, Value)>,
    },
    /// Removes keys in one step.
    Delete {
        /// The keys.
        #[serde(with = "blobs")]
        keys: Vec<Key>,
    },
    /// If every condition holds, runs `then`, else `otherwise`; one step of the map. A later step sees an earlier one.
    Txn {
        /// What must hold; with none, `then` runs.
        conditions: Vec<Condition>,
        /// What runs if all conditions hold.
        then: Vec<Step>,
        /// What runs if one does not.
        otherwise: Vec<Step>,
    },
    /// Reads a range of keys in order, all at one revision.
    Scan {
        /// The first key (inclusive).
        #[serde(with = "blob")]
        start: Key,
        /// Where it ends (exclusive); empty: after the last key.
        #[serde(with = "blob")]
        end: Key,
        /// How many records at most; 0: no limit.
        limit: usize,
    },
}

/// What must hold for one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The key.
    #[serde(with = "blob")]
    pub key: Key,
    /// What is expected of it.
    pub expected: Expected,
}

/// What a [`Condition`] expects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// The key is there (`true`) or absent (`false`).
    Exists(bool),
    /// The key was set by the write of this revision; 0: the key is absent.
    Revision(u64),
    /// The key is there and has this value.
    Value(#[serde(with = "blob")] Value),
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Sets a key.
    Put(#[serde(with = "blob")] Key, #[serde(with = "blob")] Value),
    /// Removes a key.
    Delete(#[serde(with = "blob")] Key),
    /// Reads a key.
    Get(#[serde(with = "blob")] Key),
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was answered.
    Done(Response),
    /// It may have been applied at any time after its call, even after the last line of the history, or never.
    Unknown,
    /// It certainly was not applied and will not be: the checkers leave it out.
    NotApplied,
}

/// An answer; its variant fits that of the [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// To [`Request::Get`].
    Got {
        /// The index of the last log entry that the server had applied when it read.
        revision: u64,
        /// One for each key, in order.
        records: Vec<Option<Record>>,
    },
    /// To [`Request::Put`].
    Put {
        /// The index of its log entry.
        revision: u64,
    },
    /// To [`Request::Delete`].
    Deleted {
        /// The index of its log entry.
        revision: u64,
        /// How many of the keys were there.
        existed: u64,
    },
    /// To [`Request::Txn`].
    Txn {
        /// The index of its log entry, also if it wrote nothing.
        revision: u64,
        /// Whether `then` ran; `false`: `otherwise` did.
        succeeded: bool,
        /// One for each step that ran: what a get saw, what stood there before a put or delete.
        results: Vec<Option<Record>>,
    },
    /// To [`Request::Scan`].
    Scanned {
        /// The index of the last log entry that the server had applied when it read.
        revision: u64,
        /// What it found, in order of keys.
        #[serde(with = "records")]
        records: Vec<(Key, Record)>,
    },
}

impl Response {
    /// Its revision.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Got { revision, .. }
            | Self::Put { revision }
            | Self::Deleted { revision, .. }
            | Self::Txn { revision, .. }
            | Self::Scanned { revision, .. } => *revision,
        }
    }
}

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The value.
    #[serde(with = "blob")]
    pub value: Value,
    /// The revision of the write that set it.
    pub revision: u64,
}

/// A history that nobody could have recorded: a mistake of its recorder, and no answer of the map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// An answer has no time.
    #[error("operation {operation} is done but has no end; say when its answer came")]
    NoEnd {
        /// Its place in the history, from 0.
        operation: usize,
    },
    /// An answer came before its call.
    #[error("operation {operation} ends before it is called; take both times from one clock")]
    EndsBeforeCall {
        /// Its place in the history, from 0.
        operation: usize,
    },
    /// An answer is to another kind of request.
    #[error("operation {operation} has an answer to another kind of request")]
    OtherAnswer {
        /// Its place in the history, from 0.
        operation: usize,
    },
    /// More operations, steps or keys than the checker numbers.
    #[error("the history has 2^32 or more operations, keys or steps; check it in parts")]
    TooLarge,
}

/// Whether the history can be judged at all.
///
/// # Errors
/// The first operation that cannot have been recorded so.
pub fn validate(history: &[Operation]) -> Result<(), Malformed> {
    history.iter().enumerate().try_for_each(|(operation, op)| {
        let Outcome::Done(response) = &op.outcome else { return Ok(()) };
        let end = op.end.ok_or(Malformed::NoEnd { operation })?;
        if end < op.call {
            return Err(Malformed::EndsBeforeCall { operation });
        }
        match (&op.request, response) {
            (Request::Get { .. }, Response::Got { .. })
            | (Request::Put { .. }, Response::Put { .. })
            | (Request::Delete { .. }, Response::Deleted { .. })
            | (Request::Txn { .. }, Response::Txn { .. })
            | (Request::Scan { .. }, Response::Scanned { .. }) => Ok(()),
            _ => Err(Malformed::OtherAnswer { operation }),
        }
    })
}
