//! Feature levels: what a program understands, and what a cluster may use.
//!
//! A server that meets a command that it does not know stops, so no leader may propose what some member does not understand.
//! The cluster's *level* is in the state: [`Body::RaiseLevel`](crate::Body::RaiseLevel) raises it, once all members are known to
//! understand the new one, and nothing lowers it. It is the version byte of the row that is always read first: a program that
//! does not understand it refuses the state, whole.
//!
//! | level | what a cluster may use from it on |
//! |---|---|
//! | 1 | everything that programs without levels understand |
//! | 2 | the raising of levels, scans |
//! | 3 | commands that name the trace that they belong to |

/// The level of a cluster that was never raised.
pub const LEVEL_FIRST: u8 = 1;

/// The level from which on a cluster may scan; see [`Body::Scan`](crate::Body::Scan).
pub const LEVEL_OF_SCANS: u8 = 2;

/// The level from which on a command may name its trace; see [`Command::trace`](crate::Command::trace).
pub const LEVEL_OF_TRACES: u8 = 3;

/// The highest level that this program understands.
pub const LEVEL: u8 = 3;
