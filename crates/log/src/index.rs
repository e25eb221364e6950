//! Where in the segments each entry stands, and what its term is.

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

/// The index of a log. Holds only what is durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    spans: Vec<Span>,
    terms: Vec<TermRun>,
    last: LogIndex,
}

/// A record that cannot follow what is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutOfOrder {
    #[error("entry {index} of term {term} does not follow entry {} of term {}", last.index, last.term)]
    Entry { index: LogIndex, term: Term, last: LogPosition },
    #[error("a truncation to {to} of a log that ends at {last}")]
    Truncation { to: LogIndex, last: LogIndex },
}

impl Index {
    /// A span that grew to this many bytes is followed by another one, so that little is read in vain.
    const SPAN_BYTES: u32 = 64 << 10;

    /// The last entry.
    pub(crate) fn last(&self) -> LogPosition {
        LogPosition { term: self.terms.last().map_or(Term(0), |run| run.term), index: self.last }
    }

    /// The terms of all entries.
    pub(crate) fn terms(&self) -> &[TermRun] {
        &self.terms
    }

    /// The term of the entry at `index`, which is in the log; 0 before the first one.
    pub(crate) fn term_at(&self, index: LogIndex) -> Term {
        let runs_before = self.terms.partition_point(|run| run.first <= index);
        runs_before.checked_sub(1).map_or(Term(0), |nth| self.terms[nth].term)
    }

    /// Adds an entry that stands alone in `at`, or continues the span before it there.
    pub(crate) fn append(&mut self, at: Span, term: Term) -> Result<(), OutOfOrder> {
        let last = self.last();
        if at.first != last.index.next() || term < last.term || term == Term(0) {
            return Err(OutOfOrder::Entry { index: at.first, term, last });
        }
        match self.spans.last_mut() {
            Some(span)
                if (span.segment, span.sequence, span.end) == (at.segment, at.sequence, at.start)
                    && span.end - span.start < Self::SPAN_BYTES =>
            {
                span.end = at.end;
            }
            _ => self.spans.push(at),
        }
        if term > last.term {
            self.terms.push(TermRun { first: at.first, term });
        }
        self.last = at.first;
        Ok(())
    }

    /// Forgets the entries after `to`.
    pub(crate) fn truncate(&mut self, to: LogIndex) -> Result<(), OutOfOrder> {
        if to > self.last {
            return Err(OutOfOrder::Truncation { to, last: self.last });
        }
        self.spans.truncate(self.spans.partition_point(|span| span.first <= to));
        self.terms.truncate(self.terms.partition_point(|run| run.first <= to));
        self.last = to;
        Ok(())
    }

    /// The spans that hold the entries from `from` to `to`, both of which are in the log, each with the last of its
    /// entries that counts.
    pub(crate) fn spans(&self, from: LogIndex, to: LogIndex) -> impl Iterator<Item = (Span, LogIndex)> + '_ {
        let begin = self.spans.partition_point(|span| span.first <= from).saturating_sub(1);
        let tail = &self.spans[begin..];
        tail.iter().enumerate().take_while(move |(_, span)| span.first <= to).map(move |(nth, span)| {
            let last = tail.get(nth + 1).map_or(self.last, |next| next.first.previous());
            (*span, last)
        })
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
        let terms = [0, 1, 1, 3, 3, 4].map(Term);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|at| index.term_at(LogIndex(at))), terms);
        index.truncate(LogIndex(3)).unwrap();
        assert_eq!(index.last(), LogPosition { term: Term(3), index: LogIndex(3) });
        assert_eq!(found(&index, 1, 3), [(1, 1), (2, 2), (3, 3)]);
        index.truncate(LogIndex(2)).unwrap();
        assert_eq!(index.terms(), [TermRun { first: LogIndex(1), term: Term(1) }]);
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
}
