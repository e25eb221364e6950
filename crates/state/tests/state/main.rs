//! Behaviour of the state machine, through its public interface.

mod common;
mod crash;
mod differential;
mod digests;
mod engines;
mod expiry;
mod map;
mod model;
mod reads;
mod refused;
mod sessions;
