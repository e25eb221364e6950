//! Raft consensus as a pure state machine: inputs in, actions out. No clock, no files, no threads, no async; randomness
//! comes from a seed.
//!
//! A group of servers agrees on a log of entries. In each *term* at most one server leads. A client's command becomes an
//! entry of the leader's log; the leader sends it to its followers; once it is on disk on a majority it is *committed*: it
//! will be in the log of every later leader, and every server applies it in the same order. When followers hear nothing
//! from a leader, one of them asks the others for their votes in a new term. A majority that commits and a majority that
//! elects share a server, and a server votes only for a log at least as complete as its own: so nothing that was committed
//! is ever lost. (Ongaro and Ousterhout, "In search of an understandable consensus algorithm"; Ongaro's dissertation.)
//!
//! ```text
//!              timeout                    a quorum would vote          a quorum voted
//!  Follower ──────────────► PreCandidate ────────────────► Candidate ────────────────► Leader
//!   ▲  ▲ ▲                   │  │    ▲         timeout         │ │                       │
//!   │  │ │   voted, leader   │  └────┴────────────────────────┘  │ leader of the term    │ later term, no quorum,
//!   │  │ └───────────────────┘                                   │ or later term         │ disk stalled
//!   │  └─────────────────────────────────────────────────────────┘                       │
//!   └────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! **How to drive it.** Make a [`Raft`] from what the disk holds ([`Restored`]). For everything that happens call
//! [`Raft::step`] with an [`Input`]; then carry out, in order, what [`Raft::take_actions`] answers. Whoever does that decides
//! nothing; so the simulator runs exactly the code that production runs.
//!
//! **Where the promises are.** A vote, a candidate's vote for itself, the acknowledgement of an append, the leader's count
//! of its own entry: each waits for the disk. The file `outbox.rs` is the only one that can send a message, and it sends
//! promises only after [`Input::Persisted`].
//!
//! **Where to read.** `follower.rs`, `candidate.rs`, `leader.rs`: what each role does. `core.rs`: what all share.
//! `progress.rs`: how a leader follows its followers. `reads.rs`: linearizable reads without the log. `quorum.rs`:
//! majorities. `log_view.rs`: the log in memory. `invariants.rs`: what must always hold.
//!
//! **Where to see it at work.** `tests/scripts`: short scenarios, each with the whole exchange drawn. `tests/random.rs`: whole
//! clusters under random faults, with Raft's promises checked at every step.

mod candidate;
mod config;
mod core;
mod entry;
mod follower;
mod ids;
mod invariants;
mod io;
mod leader;
mod log_view;
mod membership;
mod message;
mod outbox;
mod progress;
mod quorum;
mod raft;
mod reads;
mod status;
mod write;

pub use config::{Config, Restored};
pub use entry::{Entry, HardState, LogPosition, Payload, PayloadError};
pub use ids::{Ctx, DamageId, GroupId, LogIndex, NodeId, StateId, Term, WriteId};
pub use io::{
    Action, ChangeRefusal, Event, FailReason, FetchPurpose, Input, Outcome, Snapshot, StepDownReason,
    TransferFailure,
};
pub use membership::{Membership, MembershipError};
pub use message::{
    Append, AppendReply, AppendResult, Body, Heartbeat, HeartbeatReply, Message, MessageError, ReadIndex,
    ReadIndexReply, Repair, SnapshotOffer, VoteReply, VoteRequest,
};
pub use raft::Raft;
pub use status::{FollowerStatus, RoleName, Status};
pub use write::{Base, Write};
