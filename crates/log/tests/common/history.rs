//! A model of the log, and random writes that follow each other.

use raftmap_log::{Disk, Log, Recovered};
use raftmap_raft::{Base, Entry, HardState, LogIndex, LogPosition, NodeId, Term, Write, WriteId};

/// What a log holds: where it begins, and its entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Content {
    pub(crate) base: Option<Base>,
    pub(crate) entries: Vec<Entry>,
}

impl Content {
    pub(crate) fn of<D: Disk>(log: &Log<D>, recovered: &Recovered) -> Self {
        assert_eq!(
            log.base(),
            recovered.base.as_ref().map_or_else(LogPosition::default, |base| base.position)
        );
        Self { base: recovered.base.clone(), entries: super::entries(log) }
    }

    pub(crate) fn position(&self) -> LogPosition {
        self.base.as_ref().map_or_else(LogPosition::default, |base| base.position)
    }

    pub(crate) fn last(&self) -> LogPosition {
        self.entries.last().map_or_else(|| self.position(), Entry::position)
    }

    fn rebase(&mut self, base: &Base) {
        let stays = self.position() == base.position
            || self.entries.iter().any(|entry| entry.position() == base.position);
        self.entries.retain(|entry| stays && entry.index > base.position.index);
        self.base = Some(Base::clone(base));
    }

    /// What a log may hold while `write` is under way: a write that does not fit its segment is divided. The last one is what
    /// it holds afterwards.
    pub(crate) fn steps(&self, write: &Write) -> Vec<Self> {
        let mut log = self.clone();
        let mut steps = vec![log.clone()];
        if let Some(to) = write.truncate_to {
            log.entries.retain(|entry| entry.index <= to);
            steps.push(log.clone());
        }
        if let Some(base) = &write.base {
            log.rebase(base);
            steps.push(log.clone());
        }
        for entry in &write.entries {
            log.entries.push(entry.clone());
            steps.push(log.clone());
        }
        steps
    }
}

/// Makes writes that follow each other.
pub(crate) struct Writer {
    id: u64,
    pub(crate) hard_state: HardState,
    /// What the log holds after the last write.
    pub(crate) log: Content,
}

impl Writer {
    pub(crate) fn new() -> Self {
        let hard_state = HardState { term: Term(1), ..HardState::default() };
        Self { id: 0, hard_state, log: Content::default() }
    }

    pub(crate) fn write(&mut self, rng: &mut fastrand::Rng) -> Write {
        self.id += 1;
        let mut write = Write { id: WriteId(self.id), ..Write::default() };
        if self.id == 1 || rng.u8(..6) == 0 {
            self.hard_state.term.0 += 1;
            self.hard_state.vote = Some(NodeId(rng.u64(1..4))).filter(|_| rng.bool());
            write.hard_state = Some(self.hard_state);
        }
        let (first, mut last) = (self.log.position().index.0, self.log.last().index.0);
        if last > first && rng.u8(..6) == 0 {
            last = rng.u64(first..=last);
            write.truncate_to = Some(LogIndex(last));
        }
        if rng.u8(..4) == 0 {
            let log = self.log.steps(&write).pop().unwrap();
            let base = self.base(&log, rng);
            let stays = log.entries.iter().any(|entry| entry.position() == base.position)
                || base.position == log.position();
            last = if stays { last } else { base.position.index.0 };
            write.base = Some(Box::new(base));
        }
        for index in last + 1..last + 1 + rng.u64(..4) {
            let size = [10, 300, 5000, 15_000][rng.usize(..4)];
            let text = format!("{}:{}", self.id, "x".repeat(rng.usize(..size)));
            write.entries.push(super::entry(index, self.hard_state.term.0, &text));
        }
        self.log = self.log.steps(&write).pop().unwrap();
        write
    }

    /// A compaction up to an entry of `log`, or a snapshot: of what the log does not hold yet, or holds otherwise.
    fn base(&self, log: &Content, rng: &mut fastrand::Rng) -> Base {
        let term = self.hard_state.term.0;
        let last = log.last().index.0;
        let base = match log.entries.get(rng.usize(..log.entries.len() + 1)) {
            Some(entry) if rng.u8(..4) > 0 => super::base(entry.index.0, entry.term.0),
            Some(entry) => super::base(entry.index.0, term),
            None if log.base.is_some() && rng.bool() => log.base.clone().unwrap(),
            None => super::base(last + rng.u64(1..9), term),
        };
        let durable = LogIndex(base.position.index.0 + rng.u64(..3));
        Base { durable, membership: super::base(0, 0).membership, ..base }
    }
}
