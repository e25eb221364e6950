//! Whether a data directory is whole.

use std::fs;
use std::path::Path;

use raftmap_log::{ExaminedHardState, ExaminedLog, IdentityError, LogEnd, OpenError, ReadOnlyDisk};
use raftmap_raft::LogIndex;
use raftmap_state::{Digest, Discarded, DiskEngine, FileCheck, SnapshotInstall, StateMachine};

use super::{NoState, Stopped, StoppedError};
use crate::backup::CHUNK_BYTES;
use crate::causes::causes;

/// What was found of a part of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is as it was written.
    Whole,
    /// It is not whole in a way that the next start makes good by itself, without losing anything.
    Repairable,
    /// Something is lost, or cannot be read.
    Damaged,
}

/// A part of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// How it is.
    pub finding: Finding,
    /// The same in words.
    pub text: String,
}

/// All parts of a data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// In the order in which a start reads them.
    pub parts: Vec<Part>,
    /// The last entry that the state machine has applied, and the digest of all of its rows; servers that stand at the same
    /// entry have the same.
    pub content: Option<(LogIndex, Digest)>,
}

impl CheckReport {
    /// Whether nothing is lost.
    pub fn is_whole(&self) -> bool {
        self.parts.iter().all(|part| part.finding != Finding::Damaged)
    }

    fn part(&mut self, name: &'static str, finding: Finding, text: impl Into<String>) {
        self.parts.push(Part { name, finding, text: text.into() });
    }
}

/// Reads all of the data directory at `dir` of a server that does not run, and changes nothing there. The shadow of the state
/// machine is made in `scratch`.
///
/// # Errors
/// If it is no data directory, a server runs on it, or there is no room for the shadow.
pub fn check(dir: &Path, scratch: &Path) -> Result<CheckReport, StoppedError> {
    let mut report = CheckReport::default();
    let stopped = match Stopped::open(dir, scratch) {
        Ok(stopped) => stopped,
        Err(StoppedError::Open(error @ (OpenError::Identity { .. } | OpenError::UnknownVersion { .. }))) => {
            let finding = match &error {
                OpenError::Identity { source: IdentityError::UnknownVersion(_), .. }
                | OpenError::UnknownVersion { .. } => "; nothing else was looked at",
                _ => "; without it nothing else can be told",
            };
            report.part("identity", Finding::Damaged, format!("{error}{finding}"));
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    identity(&stopped, &mut report);
    match &stopped.examination.hard_state {
        Ok(examined) => hard_state(examined, &mut report),
        Err(error) => report.part("hard state", Finding::Damaged, error.to_string()),
    }
    match &stopped.examination.log {
        Ok(examined) => log(examined, &mut report),
        Err(error) => report.part("log", Finding::Damaged, error.to_string()),
    }
    state(&stopped, &mut report);
    Ok(report)
}

fn identity(stopped: &Stopped, report: &mut CheckReport) {
    let identity = &stopped.examination.identity;
    let restored = identity.restored_from().map_or_else(String::new, |from| {
        format!(", restored from a backup at revision {} (xxh3 {:032x})", from.position.index, from.digest)
    });
    let text = format!(
        "server {} of cluster {:032x}, {} founding members{restored}",
        identity.node(),
        identity.cluster(),
        identity.founding_members().len()
    );
    report.part("identity", Finding::Whole, text);
    if let Some(reason) = &stopped.examination.fenced {
        report.part("fence", Finding::Whole, format!("no server starts here any more: {reason}"));
    }
}

fn hard_state(examined: &ExaminedHardState, report: &mut CheckReport) {
    let ExaminedHardState { hard_state, reached, unreadable } = examined;
    let vote = hard_state.vote.map_or_else(|| "no vote".to_owned(), |node| format!("vote for server {node}"));
    let text = format!("term {}, {vote}", hard_state.term);
    if hard_state.damaged {
        let reached =
            reached.map_or_else(String::new, |reached| format!(", which reached at least {reached}"));
        let text = format!(
            "{text}; flagged: entries of the log{reached}, are lost, and a leader has to send them again"
        );
        return report.part("hard state", Finding::Damaged, text);
    }
    let mut slots = unreadable.iter().zip(1..).filter_map(|(reason, slot)| Some((slot, (*reason)?)));
    match slots.next() {
        None => report.part("hard state", Finding::Whole, text),
        Some((slot, reason)) => {
            let text =
                format!("{text}; slot {slot} is unreadable ({reason}), and the other one says everything");
            report.part("hard state", Finding::Repairable, text);
        }
    }
}

fn log(examined: &ExaminedLog<ReadOnlyDisk>, report: &mut CheckReport) {
    let first = examined.base.as_ref().map_or(LogIndex(0), |base| base.position.index).next();
    let last = examined.last;
    let holds = match last.index < first {
        true => format!("no entries, the next one is {first}"),
        false => format!("entries {first} to {} (term {})", last.index, last.term),
    };
    let text = format!("{} segments, {holds}", examined.segments);
    match &examined.end {
        LogEnd::Whole => report.part("log", Finding::Whole, text),
        LogEnd::Torn { segment, offset } => {
            let torn = format!(
                "{text}; the batch at offset {offset} of segment {segment} was cut short by a crash and never acknowledged"
            );
            report.part("log", Finding::Repairable, torn);
        }
        LogEnd::Damaged(damage) => report.part("log", Finding::Damaged, format!("{text}; {damage}")),
    }
}

fn state(stopped: &Stopped, report: &mut CheckReport) {
    let never_started = || {
        let log = stopped.examination.log.as_ref();
        log.is_ok_and(|log| log.base.is_none() && log.last.index == LogIndex(0))
    };
    let name = "state machine";
    match stopped.state_and_files() {
        Ok((machine, mut files)) => match read_files(&mut files).and_then(|()| read(&machine)) {
            Ok((keys, digest)) => {
                let applied = machine.applied();
                let text = format!(
                    "{keys} keys at index {} (term {}), content {digest}",
                    applied.index, applied.term
                );
                report.content = Some((applied.index, digest));
                report.part(name, Finding::Whole, text);
                if let Some(misfit) = stopped.misfit(applied) {
                    report.part("log and state", Finding::Damaged, misfit);
                } else if stopped.examination.log.is_ok() {
                    report.part("log and state", Finding::Whole, "they go together");
                }
            }
            Err(error) => report.part(name, Finding::Damaged, error),
        },
        Err(NoState::Missing(_)) if never_started() => {
            report.part(name, Finding::Whole, "none yet: no server has started here");
        }
        Err(error) => report.part(name, Finding::Damaged, causes(&error)),
    }
    let entries = fs::read_dir(&stopped.dir).into_iter().flatten().flatten();
    let lost = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("lost-state-")).count();
    if lost > 0 {
        let text = format!("{lost} state machines that had lost something, to be looked at");
        report.part("set aside", Finding::Whole, text);
    }
}

/// Reads every byte of the files.
fn read_files(files: &mut FileCheck) -> Result<(), String> {
    files.advance(u64::MAX).map(drop).map_err(|error| causes(&error))
}

/// Reads every row: each must be one that its table may hold. Gives how many keys there are, and the digest of all rows.
fn read(machine: &StateMachine<DiskEngine>) -> Result<(u64, Digest), String> {
    let wrong = |error: &dyn std::error::Error| causes(error);
    let snapshot = machine.reader().snapshot().map_err(|error| wrong(&error))?;
    let group = snapshot.header().group;
    let mut seen =
        SnapshotInstall::new(group, snapshot.header_bytes(), Discarded).map_err(|error| wrong(&error))?;
    for chunk in snapshot.chunks(CHUNK_BYTES) {
        chunk.and_then(|chunk| seen.take(&chunk)).map_err(|error| wrong(&error))?;
    }
    let digest = snapshot.content_digest().advance(u64::MAX).map_err(|error| wrong(&error))?;
    Ok((seen.keys(), digest.ok_or("a digest of all rows has no end")?))
}
