//! Decides in which steps writes become durable, and refuses those that break the rules, before anything is written.

use raftmap_raft::{Base, Entry, HardState, LogIndex, LogPosition, Term, Write, WriteId};

use crate::base::BaseRecord;
use crate::batch::{self, Record};
use crate::index::{Index, OutOfOrder};

/// What is made durable together: the hard state, then the records.
#[derive(Default)]
pub(crate) struct Stage<'a> {
    pub(crate) hard_state: Option<HardState>,
    pub(crate) records: Vec<Record<'a>>,
}

/// Puts writes into stages and checks that they continue the log.
pub(crate) struct Plan<'a, 'p> {
    entry_bytes_max: usize,
    hard_state: HardState,
    base: LogPosition,
    last: LogPosition,
    last_write: WriteId,
    stages: Vec<Stage<'a>>,
    index: &'p Index,
}

impl<'a, 'p> Plan<'a, 'p> {
    /// A plan for a log that holds `index` and `hard_state`.
    pub(crate) fn new(
        index: &'p Index,
        hard_state: HardState,
        last_write: WriteId,
        entry_bytes_max: usize,
    ) -> Self {
        let stages = vec![Stage::default()];
        let (base, last) = (index.base(), index.last());
        Self { entry_bytes_max, hard_state, base, last, last_write, stages, index }
    }

    /// The stages of `writes`; or, in words, which rule they break.
    pub(crate) fn stages(mut self, writes: &'a [Write]) -> Result<Vec<Stage<'a>>, String> {
        writes.iter().try_for_each(|write| self.add(write))?;
        Ok(self.stages)
    }

    fn add(&mut self, write: &'a Write) -> Result<(), String> {
        if write.id <= self.last_write {
            return Err(format!("write {} comes after write {}", write.id, self.last_write));
        }
        self.last_write = write.id;
        if let Some(hard_state) = write.hard_state {
            self.add_hard_state(hard_state)?;
        }
        if let Some(to) = write.truncate_to {
            self.add_truncation(to)?;
        }
        if let Some(base) = &write.base {
            self.add_base(base)?;
        }
        write.entries.iter().try_for_each(|entry| self.add_entry(entry))
    }

    /// The hard state of a stage is durable before its records. That is how it must be for a term (scenario 11), and the
    /// other way round for the damaged flag: it is cleared for the entries that stand before it.
    fn add_hard_state(&mut self, new: HardState) -> Result<(), String> {
        let old = self.hard_state;
        let votes_twice = new.term == old.term && old.vote.is_some() && new.vote != old.vote;
        if new.term < old.term || votes_twice {
            return Err(format!("hard state {new:?} after {old:?}"));
        }
        let clears = old.damaged && !new.damaged;
        if clears && self.stages.last().is_some_and(|stage| !stage.records.is_empty()) {
            self.stages.push(Stage::default());
        }
        self.hard_state = new;
        self.stage().hard_state = Some(new);
        Ok(())
    }

    fn add_truncation(&mut self, to: LogIndex) -> Result<(), String> {
        if to > self.last.index {
            return Err(OutOfOrder::Truncation { to, last: self.last.index }.to_string());
        }
        if to < self.base.index {
            return Err(OutOfOrder::TruncationOfBase { to, base: self.base.index }.to_string());
        }
        self.last = LogPosition { term: self.term_at(to), index: to };
        self.stage().records.push(Record::Truncate(to));
        Ok(())
    }

    /// What follows the base stays if the log holds the base's entry with its very term (scenario 36).
    fn add_base(&mut self, base: &'a Base) -> Result<(), String> {
        self.check_base(base)?;
        let to = base.position;
        if to.index > self.last.index || self.term_at(to.index) != to.term {
            self.last = to;
        }
        self.base = to;
        let record = BaseRecord { base, last: self.last.index };
        if record.content_bytes() > self.entry_bytes_max {
            let (bytes, limit) = (record.content_bytes(), self.entry_bytes_max);
            return Err(format!("a base of {bytes} bytes: the limit is that of an entry, {limit}"));
        }
        self.stage().records.push(Record::Base(record));
        Ok(())
    }

    fn check_base(&self, base: &Base) -> Result<(), String> {
        let (old, new) = (self.base, base.position);
        // Before the first entry there is a base only to say that the state machine is not to be trusted.
        let before_all = new == LogPosition::default() && base.is_state_distrusted();
        if (new.index == LogIndex(0) || new.term == Term(0)) && !before_all {
            return Err("a base before the first entry".to_owned());
        }
        if new.index < old.index || new.term < old.term || (new.index == old.index && new.term != old.term) {
            return Err(format!(
                "a base at {} of term {} after one at {} of term {}",
                new.index, new.term, old.index, old.term
            ));
        }
        if base.durable < new.index {
            return Err(format!("a base at {} over a state that is durable to {}", new.index, base.durable));
        }
        if new.term > self.hard_state.term {
            return Err(format!("a base of term {} in term {}", new.term, self.hard_state.term));
        }
        Ok(())
    }

    /// The term of an entry that is in the log, or will be, or of its base.
    fn term_at(&self, index: LogIndex) -> Term {
        let planned = self.stages.iter().flat_map(|stage| &stage.records).rev();
        let term = |record: &Record<'_>| match record {
            Record::Entry(entry) => Some(entry.position()),
            Record::Base(record) => Some(record.base.position),
            Record::Truncate(_) => None,
        };
        let planned = planned.filter_map(term).find(|at| at.index == index);
        planned.map(|at| at.term).or_else(|| self.index.term_at(index)).unwrap_or_default()
    }

    fn add_entry(&mut self, entry: &'a Entry) -> Result<(), String> {
        let content_bytes = batch::content_bytes(entry);
        if content_bytes > self.entry_bytes_max {
            return Err(format!(
                "entry {} of {content_bytes} bytes: the limit is {}",
                entry.index, self.entry_bytes_max
            ));
        }
        let follows = entry.index == self.last.index.next() && entry.term >= self.last.term;
        if !follows || entry.term == Term(0) {
            let last = self.last;
            return Err(OutOfOrder::Entry { index: entry.index, term: entry.term, last }.to_string());
        }
        if entry.term > self.hard_state.term {
            let term = self.hard_state.term;
            return Err(format!("entry {} of term {} in term {term}", entry.index, entry.term));
        }
        self.last = entry.position();
        self.stage().records.push(Record::Entry(entry));
        Ok(())
    }

    fn stage(&mut self) -> &mut Stage<'a> {
        self.stages.last_mut().expect("there is a first stage")
    }
}

/// How many of `records`, from the first on, fit into `capacity_bytes`.
pub(crate) fn fitting(records: &[Record<'_>], capacity_bytes: usize) -> usize {
    let mut used = 0;
    records
        .iter()
        .take_while(|record| {
            used += record.size_bytes();
            used <= capacity_bytes
        })
        .count()
}
