//! Whole clusters in one thread, from one seed: the code of production ([`raftmap_replica::Replica`], log and state machine)
//! on simulated disks, a simulated network and simulated clocks, with faults of every kind, and checks after each step.
//!
//! ```text
//!   Plan ── seed: cluster, climate, faults
//!     │
//!     ▼          ┌─ Server: Replica + Log<MemDisk> + StateMachine<MemoryEngine>
//!   World ───────┼─ Network: connections, cuts, delays
//!  one event     ├─ Clients: calls, retries, history ──► lincheck
//!  at a time     └─ Oracle: what must hold after each step
//! ```
//!
//! The same seed gives the same run, to the last event: nothing here looks at a clock, a thread or the order of a hash map.

mod budget;
mod clients;
mod faults;
mod levels;
mod members;
mod network;
mod oracle;
pub mod plan;
mod scrubs;
mod server;
pub mod shrink;
mod snapshots;
mod states;
mod time;
mod trace;
mod verdict;
mod work;
mod world;

pub use oracle::Violation;
pub use plan::{Choice, Class, Plan};
pub use time::Time;
pub use trace::Trace;
pub use world::Outcome;

/// Runs a plan to its end.
pub fn run(plan: Plan, trace: Trace) -> Outcome {
    world::World::new(plan, trace).run()
}
