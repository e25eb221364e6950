//! What runs a replica: threads, clocks and queues around code that decides. Nothing is decided here.
//!
//! ```text
//!  tasks (front door, embedding program), peers' thread
//!        │ Inbox: bounded by kind
//!        ▼
//!   replica (task) ──── writes ────► log thread ───── Persisted ──┐
//!    │  ▲    │  │                     one write, one sync for     │
//!    │  │    │  │                     all that waits              │
//!    │  │    │  └────── entries ───► state thread ─── Applied ────┤
//!    │  │    └───────── ranges ────► fetch thread ─── Fetched ────┤
//!    │  └──────────────────────────────────────────────────────────┘
//!    └── batches ──► Transport (tasks on the same thread, which is theirs alone)
//! ```
//!
//! Any error on the disk, in the log or in the state machine, and any broken invariant, ends the node: [`Failstop`].

mod driver;
mod failstop;
mod inbox;
mod meters;
mod peers;
mod scan;
mod scrub;
mod state;
mod state_dirs;
mod traces;
mod workers;

pub(crate) use driver::{Driver, DriverSettings, Ready};
pub(crate) use failstop::Failstop;
pub use failstop::NodeError;
pub(crate) use inbox::{Callback, Inbox, Reply, Submission};
pub(crate) use meters::{Meters, memory_bytes};
pub(crate) use peers::PeersRuntime;
pub(crate) use scan::Scanner;
pub(crate) use scrub::ScrubThread;
pub(crate) use state::{StateHandle, StateSlot, StateThread};
pub(crate) use state_dirs::StateDirs;
pub(crate) use workers::{FetchWorker, LogThread};
