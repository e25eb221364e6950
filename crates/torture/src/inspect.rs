//! What servers have on their disks, compared: for servers that do not run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use raftmap_log::{Log, LogOptions, RealDisk, Repair};
use raftmap_raft::{Entry, GroupId, LogIndex, NodeId};
use raftmap_state::{Digest, DiskEngine, DiskOptions, StateMachine};

/// How many entries are read at a time, in bytes.
const READ_BYTES: usize = 1 << 20;

/// What one server holds.
struct Holding {
    id: NodeId,
    /// What its log has not let go of.
    entries: BTreeMap<LogIndex, Entry>,
    running: Digest,
    content: Digest,
}

/// Compares the logs, and the states that the real engines come back with, of servers that all had applied `applied`:
/// each log has all of these entries, and each engine, once its log is applied to it, the same state.
///
/// # Errors
/// What does not fit, in words.
pub(crate) fn compare(data_dirs: &[(NodeId, PathBuf)], applied: LogIndex) -> Result<(), String> {
    let mut first: Option<Holding> = None;
    for (id, dir) in data_dirs {
        let holding = hold(*id, dir, applied).map_err(|error| format!("server {id}: {error}"))?;
        let Some(first) = &first else {
            first = Some(holding);
            continue;
        };
        let same = |(index, entry): &(&LogIndex, &Entry)| {
            first.entries.get(index).is_none_or(|other| other == *entry)
        };
        if let Some((index, _)) = holding.entries.iter().find(|entry| !same(entry)) {
            return Err(format!("servers {} and {id} hold two entries at {index}", first.id));
        }
        if (first.running, first.content) != (holding.running, holding.content) {
            return Err(format!("servers {} and {id} come to two states at {applied}", first.id));
        }
    }
    Ok(())
}

fn hold(id: NodeId, dir: &Path, applied: LogIndex) -> Result<Holding, Box<dyn std::error::Error>> {
    let (log, recovered) = Log::open(RealDisk, dir, &LogOptions::default())?;
    if recovered.hard_state.damaged || matches!(recovered.repair, Repair::Damaged(_)) {
        return Err(format!("its log says that it is damaged: {:?}", recovered.repair).into());
    }
    if recovered.last.index < applied {
        return Err(format!("{applied} was applied, the log ends at {}", recovered.last.index).into());
    }
    let mut reader = log.reader();
    let base = recovered.base.as_ref();
    let begins_behind = base.map_or(LogIndex(0), |base| base.position.index);
    let mut entries: BTreeMap<LogIndex, Entry> = BTreeMap::new();
    while let from = entries.last_key_value().map_or(begins_behind, |last| *last.0).next()
        && from <= applied
    {
        let read = reader.entries(from, applied, READ_BYTES)?;
        entries.extend(read.into_iter().map(|entry| (entry.index, entry)));
    }
    let state = base.map_or(0, |base| base.state.0);
    let engine = DiskEngine::open(&dir.join(format!("state-{state}")), DiskOptions::default())?;
    let mut machine = StateMachine::open(engine, GroupId::DEFAULT)?;
    let at = machine.applied().index;
    if at > applied || !recovered.state_is_whole(at) {
        return Err(format!("{applied} was applied, the engine comes back at {at}").into());
    }
    let left: Vec<Entry> = entries.range(at.next()..).map(|(_, entry)| entry.clone()).collect();
    for some in left.chunks(1_000) {
        machine.apply(some)?;
    }
    let content = machine.reader().content_digest()?.advance(u64::MAX)?;
    let content = content.ok_or("a digest of all rows has no end")?;
    Ok(Holding { id, running: machine.running_digest(), content, entries })
}
