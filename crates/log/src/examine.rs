//! A look at a data directory whose server does not run. Nothing in it is changed.

use std::path::Path;
use std::sync::Arc;

use raftmap_raft::{Base, HardState, LogIndex, LogPosition, Membership};

use crate::block::BLOCK_BYTES;
use crate::directory::{self, Locked};
use crate::disk::Disk;
use crate::error::OpenError;
use crate::hard_state::HardStateFile;
use crate::identity::Identity;
use crate::options::LogOptions;
use crate::reader::{LogReader, Shared};
use crate::recovered::{Damage, TermRun};
use crate::recovery::{Found, read_log};
use crate::repair::damage_of;
use crate::scan::Ending;
use crate::segment::SegmentFolder;

/// What stands in a data directory. No server can start on it while this lives.
pub struct Examination<D: Disk> {
    /// Whose it is.
    pub identity: Identity,
    /// Why no server may start on it any more, if that is so.
    pub fenced: Option<String>,
    /// Term, vote and the damaged flag; or why a server would not start.
    pub hard_state: Result<ExaminedHardState, OpenError>,
    /// The log; or why a server would not start.
    pub log: Result<ExaminedLog<D>, OpenError>,
    _lock: D::Lock,
}

/// The hard state, and how its two slots are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExaminedHardState {
    /// Term, vote and the damaged flag.
    pub hard_state: HardState,
    /// While it is damaged: the last index that the log is known to have reached.
    pub reached: Option<LogIndex>,
    /// What is wrong with each slot. One that is unreadable is written anew by the next start.
    pub unreadable: [Option<&'static str>; 2],
}

/// A log, as its blocks are. Each of them was read, and its checksum and its place in the chain compared.
pub struct ExaminedLog<D: Disk> {
    /// Where it begins; `None`: with the very first entry.
    pub base: Option<Base>,
    /// The last entry that can be read; the base's position if there is none, or zeroes.
    pub last: LogPosition,
    /// The terms of all entries behind the base, as runs in ascending order of index.
    pub terms: Vec<TermRun>,
    /// The memberships that entries behind the base carry, in ascending order of index.
    pub memberships: Vec<(LogIndex, Membership)>,
    /// How many segments there are.
    pub segments: usize,
    /// How it ends.
    pub end: LogEnd,
    /// Reads its entries.
    pub reader: LogReader<D>,
}

/// How a log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// With its last batch.
    Whole,
    /// With a batch that a crash cut short before its sync returned: nobody was told of it. The next start cuts it.
    Torn {
        /// The segment's number.
        segment: u64,
        /// Where in the segment the batch begins, in bytes.
        offset: u64,
    },
    /// Something that may have been acknowledged is lost, and all behind it.
    Damaged(Damage),
}

impl<D: Disk> ExaminedLog<D> {
    /// As [`crate::Recovered::state_is_whole`].
    pub fn state_is_whole(&self, applied: LogIndex) -> bool {
        self.base.as_ref().is_none_or(|base| applied >= base.durable.max(base.position.index))
    }

    /// The term of the entry at `index`, if the log knows it.
    pub fn term_at(&self, index: LogIndex) -> Option<raftmap_raft::Term> {
        let base = self.base.as_ref().map(|base| base.position).unwrap_or_default();
        if index == base.index {
            return Some(base.term);
        }
        let run = self.terms.iter().rev().find(|run| run.first <= index);
        run.filter(|_| index <= self.last.index).map(|run| run.term)
    }
}

/// Looks at the data directory at `dir` of a server that does not run.
///
/// # Errors
/// If a server runs on it, it is no data directory, or its identity cannot be read. What is wrong with the other parts stands
/// in what is returned.
pub fn examine<D: Disk>(disk: &D, dir: &Path, options: &LogOptions) -> Result<Examination<D>, OpenError> {
    let Locked { lock, identity, names } = directory::lock(disk, dir)?;
    let ids = directory::log_ids(&identity, options.group);
    let path = directory::hard_state_path(dir, options.group);
    let hard_state = HardStateFile::look(disk, &path, ids).map(|(stored, unreadable)| ExaminedHardState {
        hard_state: stored.hard_state,
        reached: stored.reached,
        unreadable,
    });
    let folder = SegmentFolder { disk: disk.clone(), path: directory::group_path(dir, options.group) };
    let found = read_log(&folder, ids);
    let term = hard_state.as_ref().ok().map(|examined| examined.hard_state.term);
    let log = match found {
        Ok(found) => match term.filter(|term| found.term > *term) {
            Some(term) => {
                Err(OpenError::HardStateBehindLog { hard_state: term, log: found.term, node: ids.node })
            }
            None => {
                folder.numbers().map(|numbers| examined(folder, found, numbers.len())).map_err(OpenError::Log)
            }
        },
        Err(error) => Err(error),
    };
    let fenced = directory::fenced(disk, dir, &names)?;
    Ok(Examination { identity, fenced, hard_state, log, _lock: lock })
}

fn examined<D: Disk>(folder: SegmentFolder<D>, found: Found, segments: usize) -> ExaminedLog<D> {
    let end = match found.ending {
        Ending::Clean => LogEnd::Whole,
        Ending::Torn(segment, begin) => {
            LogEnd::Torn { segment, offset: u64::from(begin) * BLOCK_BYTES as u64 }
        }
        Ending::Damaged(shown, reason) => LogEnd::Damaged(damage_of(&found, shown, reason)),
    };
    ExaminedLog {
        base: found.base,
        last: found.index.last(),
        terms: found.index.terms().collect(),
        memberships: found.memberships,
        segments,
        end,
        reader: LogReader::new(Arc::new(Shared::new(
            folder,
            found.index,
            (found.next.generation, found.next.place),
        ))),
    }
}
