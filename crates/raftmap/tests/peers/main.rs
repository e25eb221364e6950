//! Servers that talk to each other over real sockets, with real certificates.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod exchange;
mod located;
mod logs;
mod pressure;
mod proxy;
mod raw;
mod refusals;
mod servers;
mod snapshot_refusals;
mod snapshots;
mod states;
mod tap;
