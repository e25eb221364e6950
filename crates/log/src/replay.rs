//! Takes the records of a log in their order and gives what they come to, though the first ones may be gone.
//!
//! Once segments were removed, the first one that is left begins in the middle of the story: with entries whose
//! predecessors are gone, with truncations and bases that speak of entries which nobody sees any more. What is read there is
//! *provisional*. It is whole as soon as a base covers all that is missing before it.

use raftmap_raft::{Base, LogIndex, LogPosition, Membership, Term};

use crate::base::INDEX_MAX;
use crate::index::{Index, OutOfOrder, Span};

/// What the records of a log come to.
#[derive(Debug)]
pub(crate) struct Replay {
    /// Whether the very first record of the log is among those read.
    from_the_first: bool,
    /// `None`: nothing was read yet that says where the records begin. While it is provisional, its base has no term (0), for
    /// nobody knows it.
    index: Option<Index>,
    /// The newest base, and the segment that holds its record.
    base: Option<(Base, u64)>,
    memberships: Vec<(LogIndex, Membership)>,
}

/// A record that cannot follow those before it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Impossible;

impl From<OutOfOrder> for Impossible {
    fn from(_: OutOfOrder) -> Self {
        Self
    }
}

impl Replay {
    /// A replay of the records from the very first one on, or of those that are left.
    pub(crate) fn new(from_the_first: bool) -> Self {
        let index = from_the_first.then(Index::default);
        Self { from_the_first, index, base: None, memberships: Vec::new() }
    }

    /// Whether all is there that the log consists of.
    pub(crate) fn is_whole(&self) -> bool {
        let base = match &self.base {
            Some((base, _)) => base.position,
            None if self.from_the_first => LogPosition::default(),
            None => return false,
        };
        self.index.as_ref().is_some_and(|index| index.base() == base)
    }

    /// The entries that count; provisional if it is not whole.
    pub(crate) fn index(&self) -> Index {
        self.index.clone().unwrap_or_default()
    }

    /// The last entry that was read and counts.
    pub(crate) fn last(&self) -> LogPosition {
        self.index.as_ref().map_or(LogPosition::default(), Index::last)
    }

    /// The newest base.
    pub(crate) fn base(&self) -> Option<&Base> {
        self.base.as_ref().map(|(base, _)| base)
    }

    /// The memberships that entries behind the base carry.
    pub(crate) fn memberships(&self) -> &[(LogIndex, Membership)] {
        &self.memberships
    }

    /// An entry.
    pub(crate) fn entry(&mut self, at: Span, term: Term) -> Result<(), Impossible> {
        if at.first == LogIndex(0) || at.first > INDEX_MAX {
            return Err(Impossible);
        }
        if self.index.is_none() {
            self.begin_behind(at.first.previous())?;
        }
        Ok(self.index.as_mut().ok_or(Impossible)?.append(at, term)?)
    }

    /// The membership that the entry at `index` carries, the last one.
    pub(crate) fn membership(&mut self, index: LogIndex, membership: Membership) {
        self.memberships.push((index, membership));
    }

    /// A truncation. One to a place before the first entry that was read says where the next one goes.
    pub(crate) fn truncate(&mut self, to: LogIndex) -> Result<(), Impossible> {
        if to > INDEX_MAX {
            return Err(Impossible);
        }
        self.memberships.truncate(self.memberships.partition_point(|(index, _)| *index <= to));
        let whole = self.is_whole();
        match &mut self.index {
            Some(index) if whole || to >= index.base().index => Ok(index.truncate(to)?),
            _ => self.begin_behind(to),
        }
    }

    /// A base, after which the log ends at `last`; its record stands in `segment`.
    pub(crate) fn base_at(&mut self, base: Base, last: LogIndex, segment: u64) -> Result<(), Impossible> {
        let to = base.position;
        if self.base().is_some_and(|old| to.index < old.position.index) {
            return Err(Impossible);
        }
        if last == to.index {
            self.index = Some(Index::starting_at(to, segment));
        } else {
            if self.index.is_none() {
                self.begin_behind(last)?;
            }
            let index = self.index.as_mut().ok_or(Impossible)?;
            if to.index >= index.base().index {
                index.rebase(to, last, segment)?;
            } else if last != index.last().index {
                return Err(Impossible);
            }
        }
        let stays = |(index, _): &(LogIndex, Membership)| last > to.index && *index > to.index;
        self.memberships.retain(stays);
        self.base = Some((base, segment));
        Ok(())
    }

    /// What follows goes behind `before`, where nothing was read.
    fn begin_behind(&mut self, before: LogIndex) -> Result<(), Impossible> {
        let unknown = LogPosition { term: Term(0), index: before };
        self.index = Some(match &self.base {
            Some((base, _)) if before < base.position.index => return Err(Impossible),
            Some((base, segment)) if before == base.position.index => {
                Index::starting_at(base.position, *segment)
            }
            _ => Index::starting_at(unknown, 0),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raftmap_raft::{NodeId, StateId};

    use super::*;

    fn entry(replay: &mut Replay, index: u64, term: u64) -> Result<(), Impossible> {
        let at = Span { first: LogIndex(index), segment: 3, sequence: index, place: 0, start: 56, end: 80 };
        replay.entry(at, Term(term))
    }

    fn entries(replay: &mut Replay, indexes: std::ops::RangeInclusive<u64>, term: u64) {
        indexes.for_each(|index| entry(replay, index, term).unwrap());
    }

    fn base(replay: &mut Replay, term: u64, index: u64, last: u64) -> Result<(), Impossible> {
        let base = Base {
            position: LogPosition { term: Term(term), index: LogIndex(index) },
            membership: Membership::of_voters([NodeId(1)]),
            durable: LogIndex(index),
            state: StateId(0),
        };
        replay.base_at(base, LogIndex(last), 3)
    }

    /// What is there: base, last entry.
    fn there(replay: &Replay) -> (u64, u64) {
        assert!(replay.is_whole());
        (replay.index().base().index.0, replay.last().index.0)
    }

    #[test]
    fn what_begins_in_the_middle_is_whole_once_a_base_covers_what_is_missing() {
        for covering in [49, 50, 60] {
            let mut replay = Replay::new(false);
            assert!(!replay.is_whole());
            entries(&mut replay, 50..=60, 2);
            assert!(!replay.is_whole());
            base(&mut replay, 1, 40, 60).unwrap();
            assert!(!replay.is_whole(), "41 to 49 are missing");
            base(&mut replay, if covering < 50 { 1 } else { 2 }, covering, 60).unwrap();
            assert_eq!(there(&replay), (covering, 60));
            entry(&mut replay, 61, 2).unwrap();
            assert_eq!(there(&replay), (covering, 61));
        }
    }

    #[test]
    fn a_base_that_leaves_nothing_makes_whole_whatever_is_missing() {
        for (before, to) in [(None, 7), (Some(50..=60), 49), (Some(50..=60), 30), (Some(50..=60), 99)] {
            let mut replay = Replay::new(false);
            if let Some(before) = before {
                entries(&mut replay, before, 2);
            }
            base(&mut replay, 9, to, to).unwrap();
            assert_eq!(there(&replay), (to, to));
            entry(&mut replay, to + 1, 9).unwrap();
        }
    }

    #[test]
    fn a_truncation_before_what_is_there_says_where_it_goes_on() {
        let mut replay = Replay::new(false);
        entries(&mut replay, 50..=60, 2);
        replay.truncate(LogIndex(40)).unwrap();
        assert_eq!(entry(&mut replay, 50, 2), Err(Impossible));
        entries(&mut replay, 41..=55, 3);
        assert!(!replay.is_whole());
        base(&mut replay, 3, 45, 55).unwrap();
        assert_eq!(there(&replay), (45, 55));
        assert_eq!(replay.truncate(LogIndex(44)), Err(Impossible), "the base is committed");
    }

    #[test]
    fn a_truncation_to_the_base_makes_whole_what_was_missing_behind_it() {
        let mut replay = Replay::new(false);
        base(&mut replay, 1, 10, 12).unwrap();
        assert!(!replay.is_whole(), "11 and 12 are missing");
        assert_eq!(entry(&mut replay, 12, 1), Err(Impossible));
        replay.truncate(LogIndex(11)).unwrap();
        assert!(!replay.is_whole(), "11 is missing");
        replay.truncate(LogIndex(10)).unwrap();
        assert_eq!(there(&replay), (10, 10));
        assert_eq!((replay.last().term, replay.index().first_segment()), (Term(1), 3));
        entry(&mut replay, 11, 4).unwrap();
    }

    #[test]
    fn a_log_without_a_base_is_whole_only_from_its_first_record_on() {
        let mut replay = Replay::new(false);
        entries(&mut replay, 1..=3, 1);
        assert!(!replay.is_whole(), "a truncation may be missing as well");
        let mut replay = Replay::new(true);
        assert_eq!(there(&replay), (0, 0));
        assert_eq!(entry(&mut replay, 2, 1), Err(Impossible));
        entries(&mut replay, 1..=3, 1);
        assert_eq!(there(&replay), (0, 3));
    }

    /// Scenario 33: a membership that is cut away behind the base does not come back, and one before it is the base's own.
    #[test]
    fn memberships_before_the_base_are_gone_and_those_behind_it_roll_back() {
        let of = |id| Membership::of_voters([NodeId(id)]);
        let kept =
            |replay: &Replay| replay.memberships().iter().map(|(index, _)| index.0).collect::<Vec<_>>();
        let mut replay = Replay::new(true);
        for index in 1..=6 {
            entry(&mut replay, index, 1).unwrap();
            replay.membership(LogIndex(index), of(index));
        }
        base(&mut replay, 1, 3, 6).unwrap();
        assert_eq!(kept(&replay), [4, 5, 6]);
        replay.truncate(LogIndex(5)).unwrap();
        assert_eq!(kept(&replay), [4, 5]);
        base(&mut replay, 2, 4, 4).unwrap();
        assert_eq!(kept(&replay), [0; 0]);
    }

    #[test]
    fn records_that_contradict_each_other_are_found() {
        let mut replay = Replay::new(true);
        entries(&mut replay, 1..=6, 1);
        assert_eq!(base(&mut replay, 2, 4, 6), Err(Impossible), "another term");
        assert_eq!(base(&mut replay, 1, 4, 7), Err(Impossible), "another end");
        base(&mut replay, 1, 4, 6).unwrap();
        assert_eq!(base(&mut replay, 1, 3, 6), Err(Impossible), "a base goes back");
        assert_eq!(entry(&mut replay, 8, 1), Err(Impossible), "a gap");
        let mut replay = Replay::new(false);
        assert_eq!(entry(&mut replay, 0, 1), Err(Impossible));
        assert_eq!(entry(&mut replay, u64::MAX, 1), Err(Impossible));
        assert_eq!(replay.truncate(LogIndex(u64::MAX)), Err(Impossible));
        entries(&mut replay, 5..=6, 1);
        assert_eq!(base(&mut replay, 1, 3, 7), Err(Impossible), "another end");
    }
}
