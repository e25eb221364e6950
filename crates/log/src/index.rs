//! Where in the segments each entry stands, and what its term is.

use std::collections::VecDeque;

use raftmap_raft::{LogIndex, LogPosition, Term};

use crate::recovered::TermRun;

/// Entries in a row, in one batch, that are found together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The index of the first one.
    pub(crate) first: LogIndex,
    /// The generation, and number, of the segment.
    pub(crate) segment: u64,
    /// The number of the batch.
    pub(crate) sequence: u64,
    /// The place of the batch in the segment, in blocks.
    pub(crate) place: u32,
    /// Where the first entry's record begins in the batch's stream.
    pub(crate) start: u32,
    /// Where the last entry's record ends in the batch's stream.
    pub(crate) end: u32,
}

/// The index of a log. Holds only what is durable. What is dropped at the head costs no more than its own time, for a log
/// behind it may be long.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    /// The entry before the first one. Its term is 0 if nobody knows it, and before the first entry of all.
    base: LogPosition,
    /// The segment that holds the newest base's record; 0: the log was never cut.
    base_segment: u64,
    /// The first one may begin before the base. Their segments ascend with their entries.
    spans: VecDeque<Span>,
    terms: VecDeque<TermRun>,
    last: LogIndex,
}

/// A record that cannot follow what is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutOfOrder {
    #[error("entry {index} of term {term} does not follow entry {} of term {}", last.index, last.term)]
    Entry { index: LogIndex, term: Term, last: LogPosition },
    #[error("a truncation to {to} of a log that ends at {last}")]
    Truncation { to: LogIndex, last: LogIndex },
    #[error("a truncation to {to} of a log that begins behind {base}")]
    TruncationOfBase { to: LogIndex, base: LogIndex },
    #[error(
        "a base at {} of term {} in a log from {} of term {} to {last}",
        to.index, to.term, base.index, base.term
    )]
    Base { to: LogPosition, base: LogPosition, last: LogIndex },
}

impl Index {
    /// A span that grew to this many bytes is followed by another one, so that little is read in vain.
    const SPAN_BYTES: u32 = 64 << 10;

    /// An index without entries; `base_segment` holds the record of its base.
    pub(crate) fn starting_at(base: LogPosition, base_segment: u64) -> Self {
        Self { base, base_segment, last: base.index, ..Self::default() }
    }

    /// The entry before the first one.
    pub(crate) fn base(&self) -> LogPosition {
        self.base
    }

    /// The last entry, or the base if there is none.
    pub(crate) fn last(&self) -> LogPosition {
        LogPosition { term: self.terms.back().map_or(self.base.term, |run| run.term), index: self.last }
    }

    /// The terms of all entries.
    pub(crate) fn terms(&self) -> impl Iterator<Item = TermRun> + '_ {
        self.terms.iter().copied()
    }

    /// The term of the entry at `index`, if it is in the log or its base.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if !(self.base.index..=self.last).contains(&index) {
            return None;
        }
        let runs_before = self.terms.partition_point(|run| run.first <= index);
        Some(runs_before.checked_sub(1).map_or(self.base.term, |nth| self.terms[nth].term))
    }

    /// Adds an entry that stands alone in `at`, or continues the span before it there.
    pub(crate) fn append(&mut self, at: Span, term: Term) -> Result<(), OutOfOrder> {
        let last = self.last();
        if at.first != last.index.next() || term < last.term || term == Term(0) {
            return Err(OutOfOrder::Entry { index: at.first, term, last });
        }
        match self.spans.back_mut() {
            Some(span)
                if (span.segment, span.sequence, span.end) == (at.segment, at.sequence, at.start)
                    && span.end - span.start < Self::SPAN_BYTES =>
            {
                span.end = at.end;
            }
            _ => self.spans.push_back(at),
        }
        if self.terms.back().is_none_or(|run| run.term < term) {
            self.terms.push_back(TermRun { first: at.first, term });
        }
        self.last = at.first;
        Ok(())
    }

    /// Forgets the entries after `to`.
    pub(crate) fn truncate(&mut self, to: LogIndex) -> Result<(), OutOfOrder> {
        if to > self.last {
            return Err(OutOfOrder::Truncation { to, last: self.last });
        }
        if to < self.base.index {
            return Err(OutOfOrder::TruncationOfBase { to, base: self.base.index });
        }
        self.spans.truncate(self.spans.partition_point(|span| span.first <= to));
        self.terms.truncate(self.terms.partition_point(|run| run.first <= to));
        if to == self.base.index {
            // What is left of the first span lies before the base.
            self.spans.clear();
        }
        self.last = to;
        Ok(())
    }

    /// Moves the base up to `to`, whose record stands in `segment`: the log goes on to `last`, its last entry now, or
    /// nothing of it stays if `last` is the base itself.
    pub(crate) fn rebase(&mut self, to: LogPosition, last: LogIndex, segment: u64) -> Result<(), OutOfOrder> {
        let refused = OutOfOrder::Base { to, base: self.base, last: self.last };
        if to.index < self.base.index {
            return Err(refused);
        }
        if last == to.index {
            *self = Self::starting_at(to, segment);
            return Ok(());
        }
        let unknown = to.index == self.base.index && self.base.term == Term(0);
        if last != self.last || last < to.index || !(unknown || self.term_at(to.index) == Some(to.term)) {
            return Err(refused);
        }
        let first = to.index.next();
        drop(self.spans.drain(..self.spans.partition_point(|span| span.first <= first).saturating_sub(1)));
        drop(self.terms.drain(..self.terms.partition_point(|run| run.first <= first).saturating_sub(1)));
        if let Some(run) = self.terms.front_mut() {
            run.first = run.first.max(first);
        }
        (self.base, self.base_segment) = (to, segment);
        Ok(())
    }

    /// The spans that hold the entries from `from` to `to`, both of which are in the log, each with the last of its
    /// entries that counts.
    pub(crate) fn spans(&self, from: LogIndex, to: LogIndex) -> impl Iterator<Item = (Span, LogIndex)> + '_ {
        let begin = self.spans.partition_point(|span| span.first <= from).saturating_sub(1);
        let tail = self.spans.range(begin..).enumerate();
        tail.take_while(move |(_, span)| span.first <= to).map(move |(nth, span)| {
            let last = self.spans.get(begin + nth + 1).map_or(self.last, |next| next.first.previous());
            (*span, last)
        })
    }

    /// The first segment that the log needs: the one of its first entry, or the one of its base's record. 0: all of them.
    pub(crate) fn first_segment(&self) -> u64 {
        self.spans.front().map_or(self.base_segment, |span| span.segment.min(self.base_segment))
    }

    /// The segment of the first entry.
    pub(crate) fn segment_of_first(&self) -> Option<u64> {
        self.spans.front().map(|span| span.segment)
    }

    /// The first entry of the log that stands in `segment`.
    pub(crate) fn first_in(&self, segment: u64) -> Option<LogIndex> {
        let at = self.spans.partition_point(|span| span.segment < segment);
        let span = self.spans.get(at).filter(|span| span.segment == segment)?;
        Some(span.first.max(self.base.index.next()))
    }

    /// The last entry of the log that stands in `segment` or one before it; the base's if there is none.
    pub(crate) fn last_in(&self, segment: u64) -> LogIndex {
        let behind = self.spans.partition_point(|span| span.segment <= segment);
        self.spans.get(behind).map_or(self.last, |span| span.first.previous()).max(self.base.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, sequence: u64, start: u32, end: u32) -> Span {
        Span { first: LogIndex(first), segment: 1, sequence, place: 0, start, end }
    }

    fn found(index: &Index, from: u64, to: u64) -> Vec<(u64, u64)> {
        index.spans(LogIndex(from), LogIndex(to)).map(|(span, last)| (span.first.0, last.0)).collect()
    }

    fn at(term: u64, index: u64) -> LogPosition {
        LogPosition { term: Term(term), index: LogIndex(index) }
    }

    fn runs(index: &Index) -> Vec<(u64, u64)> {
        index.terms().map(|run| (run.first.0, run.term.0)).collect()
    }

    /// Entries 1 to 9, two in a batch, one batch in a segment, terms 1 (to 3), 2 (to 6) and 4.
    fn nine() -> Index {
        let mut index = Index::default();
        for (first, term) in (1..=9).zip([1, 1, 1, 2, 2, 2, 4, 4, 4]) {
            let batch = first / 2;
            let start = 56 + 50 * u32::try_from(first % 2).unwrap();
            let at = Span { segment: batch, ..span(first, batch, start, start + 50) };
            index.append(at, Term(term)).unwrap();
        }
        index
    }

    #[test]
    fn entries_that_stand_together_share_a_span_until_it_is_large() {
        let mut index = Index::default();
        index.append(span(1, 1, 56, 100), Term(1)).unwrap();
        index.append(span(2, 1, 100, 200), Term(1)).unwrap();
        index.append(span(3, 1, 200, 100_000), Term(1)).unwrap();
        index.append(span(4, 1, 100_000, 100_100), Term(1)).unwrap();
        index.append(span(5, 2, 56, 100), Term(2)).unwrap();
        assert_eq!(found(&index, 1, 5), [(1, 3), (4, 4), (5, 5)]);
        assert_eq!(found(&index, 2, 4), [(1, 3), (4, 4)]);
        assert_eq!(found(&index, 5, 5), [(5, 5)]);
    }

    #[test]
    fn a_cut_leaves_the_terms_and_spans_before_it() {
        let mut index = Index::default();
        for (first, term) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 4)] {
            index.append(span(first, first, 56, 80), Term(term)).unwrap();
        }
        let terms = [Some(0), Some(1), Some(1), Some(3), Some(3), Some(4), None].map(|term| term.map(Term));
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(|at| index.term_at(LogIndex(at))), terms);
        index.truncate(LogIndex(3)).unwrap();
        assert_eq!(index.last(), LogPosition { term: Term(3), index: LogIndex(3) });
        assert_eq!(found(&index, 1, 3), [(1, 1), (2, 2), (3, 3)]);
        index.truncate(LogIndex(2)).unwrap();
        assert_eq!(runs(&index), [(1, 1)]);
        index.append(span(3, 9, 56, 80), Term(9)).unwrap();
        assert_eq!(index.last(), LogPosition { term: Term(9), index: LogIndex(3) });
        index.truncate(LogIndex(0)).unwrap();
        assert_eq!(index.last(), LogPosition::default());
    }

    #[test]
    fn what_does_not_follow_is_refused() {
        let mut index = Index::default();
        index.append(span(1, 1, 56, 80), Term(2)).unwrap();
        for (first, term) in [(1, 2), (3, 2), (2, 1), (2, 0)] {
            assert!(index.append(span(first, 2, 56, 80), Term(term)).is_err(), "{first} {term}");
        }
        assert!(index.truncate(LogIndex(2)).is_err());
        assert_eq!(index.last(), LogPosition { term: Term(2), index: LogIndex(1) });
    }

    #[test]
    fn a_base_drops_what_stands_before_it() {
        let mut index = nine();
        assert_eq!((index.first_segment(), found(&index, 1, 4)), (0, vec![(1, 1), (2, 3), (4, 5)]));
        index.rebase(at(2, 4), LogIndex(9), 5).unwrap();
        assert_eq!((index.base(), index.last()), (at(2, 4), at(4, 9)));
        // The span of entries 4 and 5 stays for the second of them.
        assert_eq!(found(&index, 5, 9), [(4, 5), (6, 7), (8, 9)]);
        assert_eq!(runs(&index), [(5, 2), (7, 4)]);
        let terms = [3, 4, 5, 9, 10].map(|at| index.term_at(LogIndex(at)).map(|term| term.0));
        assert_eq!(terms, [None, Some(2), Some(2), Some(4), None]);
        assert_eq!(
            (index.first_segment(), index.first_in(2), index.first_in(3)),
            (2, Some(LogIndex(5)), Some(LogIndex(6)))
        );
        assert_eq!((index.first_in(1), index.first_in(5)), (None, None));
        // The record of the base may stand before what it leaves, once that was replaced.
        index.rebase(at(2, 5), LogIndex(9), 1).unwrap();
        assert_eq!((index.first_segment(), found(&index, 6, 6)), (1, vec![(6, 7)]));
    }

    #[test]
    fn a_base_may_leave_nothing() {
        for (to, last) in [(at(2, 4), 4), (at(4, 9), 9), (at(3, 30), 30)] {
            let mut index = nine();
            index.rebase(to, LogIndex(last), 7).unwrap();
            assert_eq!((index.base(), index.last(), index.first_segment()), (to, to, 7));
            assert_eq!((runs(&index), index.first_in(4)), (vec![], None));
            index.append(span(last + 1, 40, 56, 80), to.term).unwrap();
            assert_eq!(runs(&index), [(last + 1, to.term.0)]);
            index.truncate(to.index).unwrap();
            assert_eq!((index.last(), index.first_segment()), (to, 7));
            assert!(index.truncate(to.index.previous()).is_err(), "the base is committed");
        }
    }

    #[test]
    fn a_cut_to_the_base_leaves_no_span() {
        let mut index = nine();
        index.rebase(at(2, 4), LogIndex(9), 9).unwrap();
        index.truncate(LogIndex(4)).unwrap();
        assert_eq!((index.first_segment(), index.first_in(2)), (9, None));
    }

    #[test]
    fn a_base_that_does_not_fit_is_refused() {
        let mut index = nine();
        index.rebase(at(2, 5), LogIndex(9), 9).unwrap();
        for (what, to, last) in [
            ("before the base", at(2, 4), 9),
            ("another term", at(3, 6), 9),
            ("a log that ends elsewhere", at(2, 6), 8),
            ("an entry behind the end", at(4, 10), 11),
            ("a log that ends before it", at(2, 6), 5),
        ] {
            assert!(index.rebase(to, LogIndex(last), 9).is_err(), "{what}");
        }
        assert_eq!((index.base(), index.last()), (at(2, 5), at(4, 9)));
    }
}
