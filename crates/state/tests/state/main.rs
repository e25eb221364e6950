//! Behaviour of the state machine, through its public interface.

// Clippy allows it in test functions, not in what they share.
#![allow(clippy::unwrap_used)]

mod common;
mod crash;
mod differential;
mod digests;
mod elsewhere;
mod engines;
mod expiry;
mod levels;
mod map;
mod members;
mod model;
mod reads;
mod refused;
mod scans;
mod sessions;
mod snapshot_stream;
mod snapshots;
