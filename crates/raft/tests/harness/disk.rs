//! One node's disk: an ordered stream of writes, of which the first are synced. A crash loses what is not; damage loses
//! what is. The hard state has slots of its own and is never lost.

use std::collections::VecDeque;

use raftmap_raft::{
    Base, Entry, HardState, LogIndex, LogPosition, Membership, NodeId, Payload, Restored, StateId, Term,
    Write, WriteId,
};

#[derive(Debug, Default)]
pub(crate) struct Disk {
    hard_state: HardState,
    /// What is synced, as the log's records in order. Damage cuts records off the end, so an older state of the log may
    /// come to light: entries that a lost record had truncated.
    records: Vec<Record>,
    /// What the records add up to.
    log: Content,
    unsynced: VecDeque<Write>,
}

/// Where the log begins, and its entries behind that.
#[derive(Debug, Default)]
struct Content {
    base: Option<Base>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Record {
    truncate_to: Option<LogIndex>,
    base: Option<Base>,
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
            let Write { id, hard_state, truncate_to, base, entries } = write;
            self.hard_state = hard_state.unwrap_or(self.hard_state);
            if truncate_to.is_some() || base.is_some() || !entries.is_empty() {
                self.record(Record { truncate_to, base: base.map(|base| *base), entries });
            }
            last = Some(id);
        }
        last
    }

    fn record(&mut self, record: Record) {
        self.log.replay(&record);
        assert!(
            self.last().term <= self.hard_state.term,
            "an entry is durable before its term (scenario 11)"
        );
        self.records.push(record);
    }

    /// Power fails. Of the writes that wait, the first `kept` reached the disk all the same.
    pub(crate) fn crash(&mut self, kept: usize) {
        self.sync(kept);
        self.unsynced.clear();
    }

    /// Loses the record that holds the entry at `index`, and all after it. If the node notices, the flag is durable before
    /// anything is cut. Where the log begins is known from any later record that says so.
    pub(crate) fn damage(&mut self, index: LogIndex, noticed: bool) {
        let holds = |record: &Record| record.entries.iter().any(|entry| entry.index == index);
        let Some(lost) = self.records.iter().rposition(holds).filter(|_| index > self.base().index) else {
            return;
        };
        self.hard_state.damaged |= noticed;
        let base = self.records.drain(lost..).filter_map(|record| record.base).next_back();
        let base = base.map(|base| Record { truncate_to: None, base: Some(base), entries: Vec::new() });
        self.records.extend(base);
        self.log = Content::default();
        for record in &self.records {
            self.log.replay(record);
        }
    }

    pub(crate) fn hard_state(&self) -> HardState {
        self.hard_state
    }

    pub(crate) fn last(&self) -> LogPosition {
        self.log.entries.last().map_or(self.base(), Entry::position)
    }

    /// The last entry that is not in the log any more.
    pub(crate) fn base(&self) -> LogPosition {
        self.log.base.as_ref().map(|base| base.position).unwrap_or_default()
    }

    /// The state machine that the log names, and up to where it must be there.
    pub(crate) fn state(&self) -> (StateId, LogIndex) {
        self.log.base.as_ref().map(|base| (base.state, base.durable)).unwrap_or_default()
    }

    /// Whether the entry at `position` is in the log, or was before it began anew.
    pub(crate) fn holds(&self, position: LogPosition) -> bool {
        let base = self.base();
        position.index < base.index
            || position == base
            || self.at(position.index).is_some_and(|entry| entry.term == position.term)
    }

    fn at(&self, index: LogIndex) -> Option<&Entry> {
        self.log.at(index)
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
        for entry in &self.log.entries {
            if terms.last().is_none_or(|run| run.1 != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        let base = self.log.base.as_ref();
        let membership = base.map_or_else(|| Membership::of_voters(voters), |base| base.membership.clone());
        Restored {
            hard_state: self.hard_state,
            base: self.base(),
            terms,
            last: self.last().index,
            state: self.state().0,
            applied,
            state_distrusted: base.is_some_and(Base::is_state_distrusted),
            memberships: std::iter::once((self.base().index, membership)).chain(self.memberships()).collect(),
        }
    }

    fn memberships(&self) -> impl Iterator<Item = (LogIndex, Membership)> {
        self.log.entries.iter().filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some((entry.index, Membership::clone(membership))),
            _ => None,
        })
    }

    /// The entries that are synced.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.log.entries
    }
}

impl Content {
    fn begins_behind(&self) -> LogIndex {
        self.base.as_ref().map_or(LogIndex(0), |base| base.position.index)
    }

    fn at(&self, index: LogIndex) -> Option<&Entry> {
        let behind = index.0.checked_sub(self.begins_behind().0 + 1)?;
        self.entries.get(usize::try_from(behind).unwrap())
    }

    fn replay(&mut self, record: &Record) {
        let Record { truncate_to, base, entries } = record;
        if let Some(to) = truncate_to {
            assert!(*to >= self.begins_behind(), "a cut before where the log begins");
            self.entries.retain(|entry| entry.index <= *to);
        }
        if let Some(base) = base {
            assert!(base.position.index >= self.begins_behind(), "the beginning moves down");
            let begins_at = self.base.as_ref().map(|base| base.position).unwrap_or_default();
            let kept = begins_at == base.position
                || self.at(base.position.index).is_some_and(|entry| entry.term == base.position.term);
            self.entries.retain(|entry| kept && entry.index > base.position.index);
            self.base = Some(base.clone());
        }
        for entry in entries {
            let last = self.entries.last().map_or(self.begins_behind(), |last| last.index);
            assert_eq!(entry.index, last.next(), "a gap in the log on disk");
            self.entries.push(entry.clone());
        }
    }
}
