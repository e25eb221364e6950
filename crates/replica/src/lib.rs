//! A replica: consensus, log and state machine wired together. Events in, effects out; deterministic; no threads, no
//! clock, no sockets, no async.
//!
//! ```text
//!                         ┌───────────────────────── Replica ─────────────────────────┐
//!  clients ── Request ──► │ admission ─► queue ─► propose ─► Raft ─► Apply ─► answers │ ── Answer, Read ──► clients
//!  servers ── Peer ─────► │                                 │   ▲                     │ ── Send ──────────► servers
//!                         └─────────────────────────────────┼───┼─────────────────────┘
//!                                              Write, Fetch ▼   │ Persisted, Fetched, Applied
//!                                                 log worker, state worker
//! ```
//!
//! Whoever runs a replica steps it with everything that has happened, then carries out its effects in order. In production
//! that is a thread with real disks, sockets and clocks; in the simulator it is a loop with simulated ones. Neither decides
//! anything.

mod admission;
mod clock;
mod compaction;
mod config;
mod digests;
mod event;
mod failure;
mod levels;
mod members;
mod peer;
mod queue;
mod repair;
mod replica;
mod requests;
mod start;
mod status;
mod ticks;

pub use compaction::{CompactionConfig, LogSize};
pub use config::ReplicaConfig;
pub use digests::{DigestKind, StateDigest};
pub use event::{Effect, Event, Notice, Now, Request, RequestKind, Serves, StateView};
pub use failure::{Failure, Reason};
pub use peer::{Forward, ForwardReply, PeerBatch, PeerMessage};
pub use replica::Replica;
pub use start::{FoundState, StartError, StateWorker, is_alone, member_of, restore};
pub use status::ReplicaStatus;
pub use ticks::Ticks;
