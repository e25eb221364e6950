//! The replicated state machine: what the entries of the log mean.
//!
//! A [`Command`] is what an entry holds: made by the leader from a client's request, encoded once, applied by every
//! server. [`StateMachine::apply`] is deterministic: no clock, no randomness, no order of a hash map. Servers that
//! applied the same entries hold the same rows, and [`StateMachine::running_digest`] says whether they do.
//!
//! ```text
//! validate ─► Command::encode ─► log ─► StateMachine::apply ─► Outcome
//!                                          │
//!                 sessions ─ map ─ expiry ─┤ all within an overlay of the entries at hand
//!                                          ▼
//!                                 one batch of an Engine ─► Reader: snapshots
//! ```
//!
//! A [`SnapshotReader`] streams the state at one position out of one engine, a [`SnapshotInstall`] takes it into an empty
//! one of any kind; from there on both apply the same entries to the same digests.
//!
//! Time is *log time*: the latest time that an applied entry was stamped with. A key whose deadline log time has reached
//! is absent for every read, condition and scan from that entry on, and never there again without a new write.

mod answer;
mod command;
mod digest;
mod engine;
mod error;
mod expiry;
mod format;
mod kept;
mod level;
pub mod limits;
mod machine;
mod map;
mod overlay;
mod reader;
mod request;
mod sessions;
mod snapshot;
mod trace;
pub mod validate;

pub use answer::{
    Answer, DeleteAnswer, FailureCode, GetAnswer, OperationResult, Outcome, PutAnswer, Record, Refusal,
    ScanAnswer, SessionOpened, TxnAnswer,
};
pub use command::{Body, Command, Introduction, Member, SessionLimits, Write};
pub use digest::{ContentDigest, Digest};
pub use engine::{
    Damage, DiskEngine, DiskIngest, DiskOptions, DiskSnapshot, Engine, EngineError, FileCheck,
    FreshDiskEngine, Ingest, MemoryEngine, MemoryIngest, MemorySnapshot, Row, RowChange, Snapshot, shadow,
};
pub use error::StateError;
pub use format::{DecodeError, DecodedCommand, RequestBytes, decode_result, encode_result};
pub use level::{LEVEL, LEVEL_FIRST, LEVEL_OF_SCANS, LEVEL_OF_TRACES};
pub use machine::{MILESTONE_ENTRIES, Persistence, StateMachine};
pub use reader::{AppliedState, ReadError, Reader, ScanCursor};
pub use request::{
    Condition, Delete, Expected, Get, Operation, Put, PutEntry, Scan, SessionId, SessionTag, Txn,
    WriteRequest,
};
pub use snapshot::{
    CHUNK_BYTES_MAX, CHUNK_HEAD_BYTES, Discarded, OfNewCluster, SnapshotChunks, SnapshotError,
    SnapshotHeader, SnapshotInstall, SnapshotReader, chunk_bytes,
};
pub use trace::TraceContext;
