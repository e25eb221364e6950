//! When the log lets go of its beginning: once it has grown by so much, up to where the state machine is durable, keeping a
//! tail for followers that are a little behind.

use std::collections::VecDeque;

use raftmap_log::Recovered;
use raftmap_raft::{Entry, LogIndex, Write};

/// When a log is compacted. All in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionConfig {
    /// A log of this size is compacted.
    pub start_bytes: u64,
    /// So much of it stays: a follower that is no further behind needs no snapshot.
    pub tail_bytes: u64,
    /// A leader keeps what a follower that it hears from still needs, until its log is as large as this.
    pub max_bytes: u64,
}

impl Default for CompactionConfig {
    /// From 64 MiB down to 16 MiB; up to 512 MiB for a follower that is behind.
    fn default() -> Self {
        Self { start_bytes: 64 << 20, tail_bytes: 16 << 20, max_bytes: 512 << 20 }
    }
}

/// How large the log is, up to a few of its entries. Counted from the start, and only ever up: what matters is how much stands
/// between two places.
#[derive(Clone, Debug, Default)]
pub struct LogSize {
    /// Entries and how many bytes stand up to their end, ascending.
    marks: VecDeque<(LogIndex, u64)>,
    /// All bytes up to the end.
    bytes: u64,
    /// The bytes up to where the log begins.
    base_bytes: u64,
}

impl LogSize {
    /// The size of a log as a start found it, a segment at a time.
    pub fn of(recovered: &Recovered) -> Self {
        let mut size = Self::default();
        let used = recovered.segments.iter().filter_map(|segment| Some((segment.first?, segment.bytes)));
        for (first, segment_bytes) in used {
            size.marks.push_back((first.previous(), size.bytes));
            size.bytes += segment_bytes;
        }
        size
    }

    fn now(&self) -> u64 {
        self.bytes - self.base_bytes
    }

    fn wrote(&mut self, write: &Write, step_bytes: u64) {
        if let Some(to) = write.truncate_to {
            self.forget_from(to.next());
        }
        if let Some(base) = &write.base {
            while let Some((_, bytes)) = self.marks.pop_front_if(|mark| mark.0 <= base.position.index) {
                self.base_bytes = bytes;
            }
        }
        for entry in &write.entries {
            self.bytes += entry_bytes(entry);
            let last = self.marks.back().map_or(self.base_bytes, |mark| mark.1);
            if self.bytes - last >= step_bytes {
                // A snapshot may have put the log back to before a mark.
                self.forget_from(entry.index);
                self.marks.push_back((entry.index, self.bytes));
            }
        }
    }

    fn forget_from(&mut self, index: LogIndex) {
        while self.marks.pop_back_if(|mark| mark.0 >= index).is_some() {}
    }

    /// The last known place up to `limit` that leaves `tail_bytes` behind it.
    fn place(&self, limit: LogIndex, tail_bytes: u64) -> Option<LogIndex> {
        let fits = |mark: &&(LogIndex, u64)| mark.0 <= limit && self.bytes - mark.1 >= tail_bytes;
        self.marks.iter().rev().find(fits).map(|mark| mark.0)
    }
}

/// About what an entry takes on disk, in bytes.
fn entry_bytes(entry: &Entry) -> u64 {
    entry.size_bytes() as u64
}

/// Decides when to compact. First the state machine is made durable, then the log is cut.
#[derive(Debug)]
pub(crate) struct Compaction {
    config: CompactionConfig,
    size: LogSize,
    /// The state machine is being made durable.
    persisting: bool,
    /// Not to be looked at again before the log is as large as this, counted from the start.
    next_bytes: u64,
    /// The log is to let go of everything up to this entry: it rotted on the disk.
    rotten: Option<LogIndex>,
}

impl Compaction {
    pub(crate) fn new(config: CompactionConfig, size: LogSize) -> Self {
        Self { config, size, persisting: false, next_bytes: 0, rotten: None }
    }

    /// Takes note of what goes to the log.
    pub(crate) fn wrote(&mut self, write: &Write) {
        self.size.wrote(write, (self.config.tail_bytes / 8).max(1));
    }

    /// What stands on the disk up to `last` is not what was written. What was said before may have been cut off meanwhile.
    pub(crate) fn rotten(&mut self, last: LogIndex) {
        self.rotten = Some(last);
    }

    /// Whether the state machine, which has applied so much, is to be made durable now, so that the log can be cut.
    pub(crate) fn begins(&mut self, applied: LogIndex) -> bool {
        let large = self.size.now() >= self.config.start_bytes && self.size.bytes >= self.next_bytes;
        let rotten = self.rotten.is_some_and(|last| last <= applied);
        let begins = (large || rotten) && !self.persisting;
        self.persisting |= begins;
        begins
    }

    /// The state machine is durable up to `durable`, and followers that are heard from need what is behind `needed`. Up to
    /// where the log lets go, if at all.
    pub(crate) fn persisted(&mut self, durable: LogIndex, needed: LogIndex) -> Option<LogIndex> {
        self.persisting = false;
        // If that was in vain, it is not tried again at once.
        self.next_bytes = self.size.bytes + self.config.start_bytes / 4;
        let limit = if self.size.now() >= self.config.max_bytes { durable } else { durable.min(needed) };
        let place = self.size.place(limit, self.config.tail_bytes);
        // Whoever needs what rotted cannot have it from here: a snapshot is what is left.
        place.max(self.rotten.take_if(|last| *last <= durable))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raftmap_raft::{Base, LogPosition, Membership, Payload, StateId, Term};

    use super::*;

    const CONFIG: CompactionConfig = CompactionConfig { start_bytes: 1000, tail_bytes: 200, max_bytes: 3000 };

    /// Entries of a hundred bytes.
    fn append(from: u64, to: u64) -> Write {
        let payload = Payload::Command(Bytes::from(vec![0; 76]));
        let entry = |index| Entry { term: Term(1), index: LogIndex(index), payload: payload.clone() };
        Write { entries: (from..=to).map(entry).collect(), ..Write::default() }
    }

    fn cut(to: u64) -> Write {
        let position = LogPosition { term: Term(1), index: LogIndex(to) };
        let membership = Membership::default();
        let base = Base { position, membership, durable: LogIndex(to), state: StateId(0) };
        Write { base: Some(Box::new(base)), ..Write::default() }
    }

    fn compaction() -> Compaction {
        Compaction::new(CONFIG, LogSize::default())
    }

    #[test]
    fn a_log_that_has_grown_keeps_its_tail() {
        let mut compaction = compaction();
        compaction.wrote(&append(1, 9));
        assert!(!compaction.begins(LogIndex(0)));
        compaction.wrote(&append(10, 12));
        assert!(compaction.begins(LogIndex(0)));
        assert!(!compaction.begins(LogIndex(0)), "once at a time");
        assert_eq!(compaction.persisted(LogIndex(11), LogIndex(12)), Some(LogIndex(10)));
        compaction.wrote(&cut(10));
        assert!(!compaction.begins(LogIndex(0)));
        compaction.wrote(&append(13, 20));
        assert!(compaction.begins(LogIndex(0)));
        assert_eq!(compaction.persisted(LogIndex(15), LogIndex(20)), Some(LogIndex(15)), "what is durable");
    }

    #[test]
    fn what_a_follower_needs_is_kept_up_to_a_limit() {
        let mut compaction = compaction();
        compaction.wrote(&append(1, 12));
        assert!(compaction.begins(LogIndex(0)));
        assert_eq!(compaction.persisted(LogIndex(12), LogIndex(0)), None);
        assert!(!compaction.begins(LogIndex(0)), "not again at once");
        compaction.wrote(&append(13, 29));
        assert!(compaction.begins(LogIndex(0)));
        assert_eq!(compaction.persisted(LogIndex(29), LogIndex(3)), Some(LogIndex(3)));
        compaction.wrote(&append(30, 40));
        assert!(compaction.begins(LogIndex(0)));
        assert_eq!(compaction.persisted(LogIndex(40), LogIndex(3)), Some(LogIndex(38)), "too large");
    }

    #[test]
    fn what_rotted_is_let_go_of_once_the_state_machine_holds_it_and_not_before() {
        let mut compaction = compaction();
        compaction.wrote(&append(1, 8));
        compaction.rotten(LogIndex(7));
        compaction.rotten(LogIndex(5));
        assert!(!compaction.begins(LogIndex(4)), "there is nothing to be made durable yet");
        assert!(compaction.begins(LogIndex(6)));
        assert_eq!(
            compaction.persisted(LogIndex(4), LogIndex(8)),
            Some(LogIndex(4)),
            "that was under way before"
        );
        assert!(compaction.begins(LogIndex(6)));
        assert_eq!(compaction.persisted(LogIndex(6), LogIndex(2)), Some(LogIndex(5)), "whoever needs it");
        assert!(!compaction.begins(LogIndex(8)), "that is done");
        compaction.wrote(&append(9, 12));
        compaction.rotten(LogIndex(6));
        assert!(compaction.begins(LogIndex(12)));
        assert_eq!(
            compaction.persisted(LogIndex(12), LogIndex(12)),
            Some(LogIndex(10)),
            "more is due anyway"
        );
    }

    #[test]
    fn indexes_that_are_written_again_are_counted_where_they_stand_now() {
        let mut compaction = compaction();
        compaction.wrote(&append(1, 9));
        compaction.wrote(&Write { truncate_to: Some(LogIndex(4)), ..append(5, 6) });
        assert!(compaction.begins(LogIndex(0)));
        assert_eq!(compaction.persisted(LogIndex(6), LogIndex(6)), Some(LogIndex(4)));
        compaction.wrote(&cut(40));
        compaction.wrote(&append(41, 60));
        assert!(compaction.begins(LogIndex(0)));
        assert_eq!(compaction.persisted(LogIndex(60), LogIndex(60)), Some(LogIndex(58)));
    }
}
