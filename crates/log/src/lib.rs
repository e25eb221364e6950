//! The replicated log and the hard state on disk.
//!
//! A node may answer "durable" only for what comes back after a power cut, and may forget nothing that it answered so.
//! This crate keeps that promise over a [`Disk`], and says in plain words when the disk broke it. `docs/format.md`
//! draws every byte.
//!
//! - [`Log::init`] makes a data directory once, [`Log::open`] recovers it: see [`Recovered`] and [`Repair`].
//! - [`Log::write`] makes waiting [`raftmap_raft::Write`]s durable with one write and one sync.
//! - A [`raftmap_raft::Base`] in a write lets the log begin later; [`Log::cut`] removes the segments before it.
//! - [`LogReader`] reads old entries from any thread; [`Scrub`] all of them, past the page cache, for rot.
//! - [`examine`] looks at a data directory and changes nothing; [`fence`] keeps a server from starting on it for ever.
//! - [`MemDisk`] is a disk in memory that crashes, tears, flips, loses and misplaces as it is told.
//!
//! # What is promised
//!
//! Survived: a crash at any instruction, power loss, torn writes of many blocks, bit rot, single writes that are lost or
//! land elsewhere, EIO, ENOSPC. Each is either repaired without losing anything that was acknowledged, or reported as
//! [`Repair::Damaged`] with its place, or ends the node.
//!
//! One corner is accepted: if the disk loses the *whole* write of the very last batch although its sync succeeded, and
//! the node dies before the mark that follows it ([`Log::mark`]), the log looks as if that batch had never been.

mod base;
mod batch;
mod block;
mod cut;
mod directory;
pub mod disk;
mod error;
mod examine;
mod hard_state;
mod identity;
mod index;
mod log;
pub mod mem_disk;
mod options;
mod plan;
mod reader;
mod recovered;
mod recovery;
mod repair;
mod replay;
mod scan;
mod scrub;
mod segment;

pub use crate::cut::Cut;
pub use crate::directory::fence;
pub use crate::disk::read_only::ReadOnlyDisk;
pub use crate::disk::real::RealDisk;
pub use crate::disk::{Disk, DiskFile, Space};
pub use crate::error::{IdentityError, InitError, LogError, OpenError};
pub use crate::examine::{Examination, ExaminedHardState, ExaminedLog, LogEnd, examine};
pub use crate::identity::{FoundingMember, Identity, RestoredFrom};
pub use crate::log::{Log, Preparation};
pub use crate::mem_disk::{MemDisk, MemDiskOptions};
pub use crate::options::LogOptions;
pub use crate::reader::LogReader;
pub use crate::recovered::{Damage, DamageReason, Recovered, Repair, SegmentUse, TermRun};
pub use crate::scrub::{Rot, Scrub, ScrubStep, Scrubber};
