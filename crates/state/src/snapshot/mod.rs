//! Snapshots: a state machine as a stream of bytes, and a new one made of such a stream (Raft paper, section 7).
//!
//! A [`SnapshotReader`] holds a view of the engine at one applied position, while writes go on. Its stream is a header,
//! chunks of rows in the order of their keys, and a trailer; each is a [`Bytes`](bytes::Bytes) that travels or is stored
//! whole. `docs/format.md` draws them. A [`SnapshotInstall`] takes them into an empty store of any engine.
//!
//! ```text
//! engine ─► SnapshotReader ─► header ─► chunk 1 ─► chunk 2 ─► … ─► trailer ─► SnapshotInstall ─► another engine
//!                  ▲                                  ┊ the connection breaks        │
//!                  └──────────── resume ◄─────────────┴───────── token ◄─────────────┘
//! ```
//!
//! Each chunk has a CRC32C, against rot, and the *chain*: a hash of all chunks up to this one, so that none is left out,
//! repeated or taken from another stream. Nothing that arrives is believed: it must be of this version, this group and
//! the right place, its rows must ascend and decode, and the header must say of the state what the rows say. One chunk is
//! in memory at a time, at either end, and a length counts only as far as there are bytes.
//!
//! A store is there after [`SnapshotInstall::finish`], durable and whole, or it is to be removed: nobody opens what was
//! not finished.

mod chunk;
mod error;
mod header;
mod install;
mod kinds;
mod progress;
mod reader;
mod rows;

pub use chunk::{CHUNK_BYTES_MAX, HEAD_BYTES as CHUNK_HEAD_BYTES, chunk_bytes};
pub use error::SnapshotError;
pub use header::SnapshotHeader;
pub use install::SnapshotInstall;
pub use kinds::{Discarded, OfNewCluster};
pub use reader::{SnapshotChunks, SnapshotReader};
