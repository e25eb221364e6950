//! One node's disk: an ordered stream of writes, of which the first are synced. A crash loses what is not; damage loses
//! what is. The hard state has slots of its own and is never lost.

use std::collections::VecDeque;

use raftmap_raft::{
    Entry, HardState, LogIndex, LogPosition, Membership, NodeId, Restored, Term, Write, WriteId,
};

#[derive(Debug, Default)]
pub(crate) struct Disk {
    hard_state: HardState,
    /// What is synced, as the log's records in order. Damage cuts records off the end, so an older state of the log may
    /// come to light: entries that a lost record had truncated.
    records: Vec<Record>,
    /// What the records add up to.
    log: Vec<Entry>,
    unsynced: VecDeque<Write>,
}

#[derive(Debug)]
struct Record {
    truncate_to: Option<LogIndex>,
    entries: Vec<Entry>,
}

impl Disk {
    pub(crate) fn write(&mut self, write: Write) {
        self.unsynced.push_back(write);
    }

    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Syncs the first `count` writes that wait; the last of them is the answer.
    pub(crate) fn sync(&mut self, count: usize) -> Option<WriteId> {
        let mut last = None;
        for write in self.unsynced.drain(..count.min(self.unsynced.len())).collect::<Vec<_>>() {
            let Write { id, hard_state, truncate_to, entries } = write;
            self.hard_state = hard_state.unwrap_or(self.hard_state);
            if truncate_to.is_some() || !entries.is_empty() {
                self.record(Record { truncate_to, entries });
            }
            last = Some(id);
        }
        last
    }

    fn record(&mut self, record: Record) {
        replay(&mut self.log, &record);
        let last_term = self.log.last().map_or(Term(0), |last| last.term);
        assert!(last_term <= self.hard_state.term, "an entry is durable before its term (scenario 11)");
        self.records.push(record);
    }

    /// Power fails. Of the writes that wait, the first `kept` reached the disk all the same.
    pub(crate) fn crash(&mut self, kept: usize) {
        self.sync(kept);
        self.unsynced.clear();
    }

    /// Loses the record that holds the entry at `index`, and all after it. If the node notices, the flag is durable before
    /// anything is cut.
    pub(crate) fn damage(&mut self, index: LogIndex, noticed: bool) {
        let holds = |record: &Record| record.entries.iter().any(|entry| entry.index == index);
        if let Some(lost) = self.records.iter().rposition(holds) {
            self.hard_state.damaged |= noticed;
            self.records.truncate(lost);
            self.log.clear();
            for record in &self.records {
                replay(&mut self.log, record);
            }
        }
    }

    pub(crate) fn hard_state(&self) -> HardState {
        self.hard_state
    }

    pub(crate) fn last(&self) -> LogPosition {
        self.log.last().map(Entry::position).unwrap_or_default()
    }

    pub(crate) fn holds(&self, position: LogPosition) -> bool {
        position.index.0 == 0 || self.at(position.index).is_some_and(|entry| entry.term == position.term)
    }

    fn at(&self, index: LogIndex) -> Option<&Entry> {
        self.log.get(usize::try_from(index.0.checked_sub(1)?).unwrap())
    }

    /// Reads synced entries, as an `Action::Fetch` asks: those of the range that are still there.
    pub(crate) fn read(&self, from: LogIndex, to: LogIndex, max_bytes: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let mut read = Vec::new();
        for index in from.0..=to.0 {
            let Some(entry) = self.at(LogIndex(index)) else { break };
            bytes += entry.size_bytes();
            if !read.is_empty() && bytes > max_bytes {
                break;
            }
            read.push(entry.clone());
        }
        read
    }

    /// What a node starts from.
    pub(crate) fn restored(&self, applied: LogIndex, voters: impl IntoIterator<Item = NodeId>) -> Restored {
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        for entry in &self.log {
            if terms.last().is_none_or(|run| run.1 != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        Restored {
            hard_state: self.hard_state,
            terms,
            last: self.last().index,
            applied,
            memberships: vec![(LogIndex(0), Membership::of_voters(voters))],
        }
    }

    /// The entries that are synced.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.log
    }
}

fn replay(log: &mut Vec<Entry>, record: &Record) {
    if let Some(to) = record.truncate_to {
        log.truncate(usize::try_from(to.0).unwrap());
    }
    for entry in &record.entries {
        let next = log.last().map_or(LogIndex(1), |last| last.index.next());
        assert_eq!(entry.index, next, "a gap in the log on disk");
        log.push(entry.clone());
    }
}
