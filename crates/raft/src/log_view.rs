//! What the core knows of its log: the term of every entry, and the recent entries themselves.
//!
//! The terms are kept as runs, one pair for each term, so that any place can be compared without the disk. Entries are
//! kept from some index up to the last; older ones are fetched from disk when somebody needs them. What stands before the
//! *base* is in the state machine alone.

use std::collections::VecDeque;

use crate::entry::{Entry, LogPosition};
use crate::ids::{LogIndex, Term};

/// The log as the core sees it. What is in here may not be durable yet.
#[derive(Debug, Default)]
pub(crate) struct LogView {
    /// The last entry that is not in the log any more; zeroes if it begins with the first one.
    base: LogPosition,
    /// First index and term of each run of entries of one term; both ascend.
    runs: Vec<(LogIndex, Term)>,
    last: LogIndex,
    /// The entries up to `last` that are in memory. Some may stand before the base: see [`Self::trim_cache`].
    cache: VecDeque<Entry>,
    cache_bytes: usize,
}

/// So many entries that stand before the base leave the cache at a time. To free tens of thousands at once, as many as a log
/// may let go of, would take as long as hundreds of writes.
const LET_GO_AT_ONCE: usize = 64;

/// The cache has room from the beginning for what its limit allows of entries of this size. A queue that doubles is copied to
/// memory that the operating system has to clear first, which took tens of milliseconds.
const USUAL_ENTRY_BYTES: usize = 128;

/// Entries asked of the cache.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    /// The entries, at least one, unless the log ends before the index asked for.
    Entries(Vec<Entry>),
    /// They are on disk only, up to this index.
    OnDisk { to: LogIndex },
}

impl LogView {
    /// A log of which nothing is cached yet. The cache is not to exceed `cache_bytes`, as a rule; see [`Self::trim_cache`].
    pub(crate) fn new(
        base: LogPosition,
        runs: Vec<(LogIndex, Term)>,
        last: LogIndex,
        cache_bytes: usize,
    ) -> Self {
        assert!(runs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "the terms of a log ascend: {runs:?}");
        assert!(
            runs.first().is_none_or(|run| run.0 == base.index.next())
                && runs.is_empty() == (last == base.index),
            "a log begins behind its base {base:?}: {runs:?}, last {last}"
        );
        assert!(runs.first().is_none_or(|run| run.1 >= base.term), "terms go down behind {base:?}: {runs:?}");
        assert!(runs.last().is_none_or(|run| run.0 <= last), "a run begins inside of the log: {runs:?}");
        Self {
            base,
            runs,
            last,
            cache: VecDeque::with_capacity(cache_bytes / USUAL_ENTRY_BYTES),
            cache_bytes: 0,
        }
    }

    /// The last entry that is not in the log any more.
    pub(crate) fn base(&self) -> LogPosition {
        self.base
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.last
    }

    pub(crate) fn last(&self) -> LogPosition {
        LogPosition { term: self.runs.last().map_or(self.base.term, |run| run.1), index: self.last }
    }

    /// The term of the entry at `index`; 0 at index 0; `None` behind the end and before the base.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index > self.last || index < self.base.index {
            return None;
        }
        let run = self.runs.partition_point(|run| run.0 <= index);
        Some(run.checked_sub(1).map_or(self.base.term, |run| self.runs[run].1))
    }

    /// Whether the entry at `position.index` has `position.term`. What stands before the base is committed: there no leader's
    /// log differs from this one (scenario 40). So does the place before the first entry.
    pub(crate) fn matches(&self, position: LogPosition) -> bool {
        position.index < self.base.index || self.term_at(position.index) == Some(position.term)
    }

    /// The last position at or before `at.index` whose term is no later than `at.term`: behind it two logs, of which the
    /// other one has `at`, can not agree. All zero if it may stand before the base.
    pub(crate) fn last_agreeable(&self, at: LogPosition) -> LogPosition {
        let mut index = at.index.min(self.last);
        let upto = self.runs.partition_point(|run| run.0 <= index);
        for (first, term) in self.runs[..upto].iter().rev() {
            if *term <= at.term {
                return LogPosition { term: *term, index };
            }
            index = first.previous();
        }
        let base_agrees = self.base.index <= at.index && self.base.term <= at.term;
        if base_agrees { self.base } else { LogPosition::default() }
    }

    /// Lets go of everything up to `to`, which becomes the base. What is cached of it leaves by and by.
    pub(crate) fn compact(&mut self, to: LogIndex) {
        let term = self.term_at(to).expect("what is let go of is in the log");
        let gone = self.runs.partition_point(|run| run.0 <= to.next());
        let at_run = self.runs.get(gone.wrapping_sub(1)).copied();
        self.runs.drain(..gone);
        if let Some((_, run_term)) = at_run.filter(|_| to < self.last) {
            self.runs.insert(0, (to.next(), run_term));
        }
        self.base = LogPosition { term, index: to };
    }

    /// Lets go of everything: the log is empty behind `base`.
    pub(crate) fn begin_anew(&mut self, base: LogPosition) {
        self.runs.clear();
        self.cache.clear();
        (self.base, self.last, self.cache_bytes) = (base, base.index, 0);
    }

    /// Adds entries that follow the last one.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            let last = self.last();
            assert!(entry.index == last.index.next(), "entry {} behind {}", entry.index, last.index);
            assert!(entry.term >= last.term, "terms go down at {}", entry.index);
            if self.runs.last().is_none_or(|run| entry.term > run.1) {
                self.runs.push((entry.index, entry.term));
            }
            self.last = entry.index;
            self.cache_bytes += entry.size_bytes();
        }
        self.cache.extend(entries.iter().cloned());
    }

    /// Removes everything behind `to`.
    pub(crate) fn truncate(&mut self, to: LogIndex) {
        assert!(to <= self.last, "cut to {to} behind the end {}", self.last);
        assert!(to >= self.base.index, "cut to {to} before the base {}", self.base.index);
        self.last = to;
        self.runs.truncate(self.runs.partition_point(|run| run.0 <= to));
        while let Some(entry) = self.cache.pop_back_if(|entry| entry.index > to) {
            self.cache_bytes -= entry.size_bytes();
        }
    }

    /// The entries from `from` to `to`, as many as fit `max_bytes`, but one in any case.
    pub(crate) fn entries(&self, from: LogIndex, to: LogIndex, max_bytes: usize) -> Cached {
        assert!(
            from > self.base.index,
            "{from} is not in the log any more: it begins behind {}",
            self.base.index
        );
        let to = to.min(self.last);
        if from > to {
            return Cached::Entries(Vec::new());
        }
        let cached_from = self.cached_from();
        if from < cached_from {
            return Cached::OnDisk { to: to.min(cached_from.previous()) };
        }
        let skip = usize::try_from(from.0 - cached_from.0).expect("the cache is in memory");
        let count = usize::try_from(to.0 - from.0 + 1).expect("the cache is in memory");
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.size_bytes();
            first || bytes <= max_bytes
        };
        // Counted first: the copy is then allocated once, and does not grow.
        let fitting = self.cache.range(skip..skip + count).take_while(fits).count();
        Cached::Entries(self.cache.range(skip..skip + fitting).cloned().collect())
    }

    /// The sizes of the cached ones among the entries from `from` to `to`, summed, in bytes.
    pub(crate) fn cached_size_bytes(&self, from: LogIndex, to: LogIndex) -> usize {
        let skip = usize::try_from(from.0.saturating_sub(self.cached_from().0)).unwrap_or(usize::MAX);
        let end = usize::try_from((to.0 + 1).saturating_sub(self.cached_from().0)).unwrap_or(usize::MAX);
        let end = end.min(self.cache.len());
        self.cache.range(skip.min(end)..end).map(Entry::size_bytes).sum()
    }

    /// Lets go of cached entries up to `upto`, the oldest first, while the cache exceeds `limit_bytes`; and of some that stand
    /// before the base.
    pub(crate) fn trim_cache(&mut self, upto: LogIndex, limit_bytes: usize) {
        for _ in 0..LET_GO_AT_ONCE {
            if !self.uncache_first(self.base.index) {
                break;
            }
        }
        while self.cache_bytes > limit_bytes && self.uncache_first(upto) {}
    }

    /// Takes the first cached entry out of the cache, if it is not behind `upto`.
    fn uncache_first(&mut self, upto: LogIndex) -> bool {
        let first = self.cache.pop_front_if(|entry| entry.index <= upto);
        self.cache_bytes -= first.as_ref().map_or(0, Entry::size_bytes);
        first.is_some()
    }

    fn cached_from(&self) -> LogIndex {
        self.cache.front().map_or(self.last.next(), |entry| entry.index)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::entry::Payload;

    fn entry(index: u64, term: u64) -> Entry {
        let payload = Payload::Command(Bytes::from(vec![0; 76]));
        Entry { term: Term(term), index: LogIndex(index), payload }
    }

    fn view(terms: &[u64]) -> LogView {
        let mut view = LogView::default();
        for (at, term) in (1..).zip(terms) {
            view.append(&[entry(at, *term)]);
        }
        view
    }

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition { term: Term(term), index: LogIndex(index) }
    }

    #[test]
    fn terms_are_known_at_every_index() {
        let view = view(&[1, 1, 4, 4, 6]);
        let terms: Vec<_> = (0..7).map(|index| view.term_at(LogIndex(index)).map(|term| term.0)).collect();
        assert_eq!(terms, [Some(0), Some(1), Some(1), Some(4), Some(4), Some(6), None]);
        assert!(view.matches(LogPosition::default()), "every log matches before its first entry");
    }

    #[test]
    fn truncation_forgets_entries_and_terms() {
        let mut view = view(&[1, 1, 4, 4, 6]);
        view.truncate(LogIndex(3));
        assert_eq!(view.last(), at(3, 4));
        view.truncate(LogIndex(2));
        assert_eq!(view.last(), at(2, 1));
        view.append(&[entry(3, 2)]);
        assert_eq!(view.last(), at(3, 2));
        view.truncate(LogIndex(0));
        assert_eq!(view.last(), at(0, 0));
    }

    #[test]
    fn entries_come_by_size_and_from_disk_when_trimmed() {
        let mut view = view(&[1, 1, 1, 1]);
        let got = |view: &LogView, from, to, max| match view.entries(LogIndex(from), LogIndex(to), max) {
            Cached::Entries(entries) => entries.iter().map(|entry| entry.index.0).collect(),
            Cached::OnDisk { to } => vec![0, to.0],
        };
        assert_eq!(got(&view, 1, 9, 250), [1, 2], "100 bytes each");
        assert_eq!(got(&view, 3, 3, 1), [3], "one in any case");
        assert!(got(&view, 5, 9, 250).is_empty());
        view.trim_cache(LogIndex(2), 0);
        assert_eq!(got(&view, 1, 9, 250), [0, 2]);
        assert_eq!(got(&view, 3, 9, 250), [3, 4]);
        assert_eq!(view.cached_size_bytes(LogIndex(1), LogIndex(3)), 100);
    }

    #[test]
    fn what_stands_before_the_base_leaves_the_cache_by_and_by() {
        let mut view = view(&[1; 3 * LET_GO_AT_ONCE]);
        let base = 2 * LET_GO_AT_ONCE as u64 + 1;
        view.compact(LogIndex(base));
        let cached = |view: &LogView| (view.cache.len(), view.cache_bytes / 100);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(cached(&view));
            view.trim_cache(LogIndex(0), usize::MAX);
        }
        assert_eq!(seen, [192, 128, 64, 63].map(|left| (left, left)));
        let Cached::Entries(entries) = view.entries(LogIndex(base + 1), LogIndex(base + 2), usize::MAX)
        else {
            panic!("it is cached")
        };
        assert_eq!(entries, [entry(base + 1, 1), entry(base + 2, 1)]);
    }

    proptest! {
        /// The jump over a run at a time finds what a walk back would find.
        #[test]
        fn the_last_agreeable_position_is_the_one_that_a_walk_finds(
            steps in prop::collection::vec(0u64..3, 0..12), index in 0u64..14, term in 0u64..12,
        ) {
            let terms: Vec<u64> = steps.iter().scan(1, |term, step| { *term += step; Some(*term) }).collect();
            let view = view(&terms);
            let walked = (0..=index.min(view.last.0)).rev()
                .map(|index| at(index, view.term_at(LogIndex(index)).unwrap().0))
                .find(|position| position.term.0 <= term).unwrap();
            prop_assert_eq!(view.last_agreeable(at(index, term)), walked);
        }
    }
}
