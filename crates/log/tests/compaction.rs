//! A log that begins elsewhere than at its first entry, and the segments that it needs no more.
#![allow(clippy::unwrap_used, reason = "a test")]

#[macro_use]
mod common;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::history::Content;
use common::places::Place;
use common::{append, base, cut, entries, entry, indexes, large, rebase, segment, term};
use raftmap_log::{Disk, Log, LogError, MemDisk, OpenError, Repair, SegmentUse, Space, TermRun};
use raftmap_raft::{Base, Entry, LogIndex, LogPosition, Membership, NodeId, Payload, Term, Write, WriteId};

on_every_disk! {
    what_a_base_leaves_is_there_after_a_restart
    /// Scenario 36: a conflicting entry at the snapshot's index does not survive the install.
    a_snapshot_that_the_log_contradicts_empties_it
    a_snapshot_that_the_log_does_not_reach_empties_it
    a_base_at_the_end_leaves_an_empty_log
    a_state_that_is_not_trusted_is_never_whole_and_costs_no_entry
    the_parts_of_a_write_take_effect_in_their_order
    /// Scenario 33, on disk: what is behind the base is in the log and can be cut, and the base has members of its own.
    a_membership_behind_the_base_still_rolls_back
    segments_before_the_base_are_removed_and_their_numbers_never_used_again
    what_a_cut_did_not_remove_is_offered_again
    a_log_that_is_compacted_for_long_stays_small
    a_directory_is_locked_until_its_segments_are_removed
    entries_and_the_record_of_their_base_may_stand_in_any_order
    nothing_is_written_that_breaks_the_rules_of_bases
}

/// Ten entries of 5000 bytes each, one in a batch of two blocks, so that four fill a segment; terms 1 and, from 6 on, 2.
fn ten<D: Disk>(place: &Place<D>) -> Log<D> {
    let mut log = place.init();
    log.write(&[term(1, 2)]).unwrap();
    for index in 1..=10 {
        log.write(&[append(1 + index, vec![large(index, 1 + index / 6, 5000)])]).unwrap();
    }
    log
}

fn position(term: u64, index: u64) -> LogPosition {
    LogPosition { term: Term(term), index: LogIndex(index) }
}

fn segments<D: Disk>(place: &Place<D>) -> Vec<String> {
    let names = place.disk.list(&place.data().join("group-1")).unwrap();
    names.into_iter().filter(|name| name.starts_with("segment-")).collect()
}

fn what_a_base_leaves_is_there_after_a_restart<D: Disk>(place: &Place<D>) {
    let mut log = ten(place);
    let new = Base { durable: LogIndex(6), ..base(4, 1) };
    log.write(&[rebase(12, new.clone()), append(13, vec![entry(11, 2, "more")])]).unwrap();
    for restart in [false, true] {
        if restart {
            drop(log);
            let (opened, recovered) = place.open();
            assert_eq!(recovered.repair, Repair::Clean);
            assert_eq!((recovered.base.as_ref(), recovered.last), (Some(&new), position(2, 11)));
            let runs =
                [(5, 1), (6, 2)].map(|(first, term)| TermRun { first: LogIndex(first), term: Term(term) });
            assert_eq!(recovered.terms, runs);
            assert_eq!(recovered.segments, opened.segments());
            let whole = [5, 6, 7].map(|applied| recovered.state_is_whole(LogIndex(applied)));
            assert_eq!(whole, [false, true, true]);
            log = opened;
        }
        assert_eq!((log.base(), log.last()), (position(1, 4), position(2, 11)));
        assert_eq!(indexes(&log), (5..=11).collect::<Vec<_>>());
        let mut reader = log.reader();
        assert_eq!((reader.first_index(), reader.last_index()), (LogIndex(5), LogIndex(11)));
        for from in [1, 4] {
            let error = reader.entries(LogIndex(from), LogIndex(9), usize::MAX).unwrap_err();
            let expected = (LogIndex(from), LogIndex(5));
            assert!(
                matches!(error, LogError::Compacted { index, first } if (index, first) == expected),
                "{error}"
            );
        }
        assert!(matches!(
            reader.entries(LogIndex(0), LogIndex(9), 1),
            Err(LogError::NotInLog { index: LogIndex(0), .. })
        ));
        assert_eq!(reader.entries(LogIndex(5), LogIndex(5), 1).unwrap(), [large(5, 1, 5000)], "not final");
    }
}

fn a_snapshot_that_the_log_contradicts_empties_it<D: Disk>(place: &Place<D>) {
    emptied(place, 4, 2);
}

fn a_snapshot_that_the_log_does_not_reach_empties_it<D: Disk>(place: &Place<D>) {
    emptied(place, 25, 2);
}

fn emptied<D: Disk>(place: &Place<D>, index: u64, of_term: u64) {
    let mut log = ten(place);
    log.write(&[rebase(12, base(index, of_term))]).unwrap();
    assert_eq!((log.last(), entries(&log)), (position(of_term, index), vec![]));
    assert_eq!(cut(&mut log), [1, 2]);
    drop(log);
    let (mut log, recovered) = place.open();
    assert_eq!((recovered.repair, recovered.base), (Repair::Clean, Some(base(index, of_term))));
    assert_eq!((recovered.last, recovered.terms), (position(of_term, index), vec![]));
    log.write(&[append(1, vec![entry(index + 1, 2, "goes on")])]).unwrap();
    drop(log);
    let (log, recovered) = place.open();
    assert_eq!(entries(&log), [entry(index + 1, 2, "goes on")]);
    assert_eq!(recovered.terms, [TermRun { first: LogIndex(index + 1), term: Term(2) }]);
}

fn a_base_at_the_end_leaves_an_empty_log<D: Disk>(place: &Place<D>) {
    let mut log = ten(place);
    log.write(&[rebase(12, base(10, 2))]).unwrap();
    assert_eq!((log.last(), entries(&log)), (position(2, 10), vec![]));
    // The same base again, over a state that is durable further on.
    let again = Base { durable: LogIndex(12), state: raftmap_raft::StateId(9), ..base(10, 2) };
    log.write(&[rebase(13, again.clone())]).unwrap();
    drop(log);
    let (mut log, recovered) = place.open();
    assert_eq!(recovered.base, Some(again));
    log.write(&[append(1, vec![entry(11, 2, "a")])]).unwrap();
    log.write(&[Write { id: WriteId(2), truncate_to: Some(LogIndex(10)), ..Write::default() }]).unwrap();
    drop(log);
    assert_eq!(place.open().1.last, position(2, 10));
}

fn a_state_that_is_not_trusted_is_never_whole_and_costs_no_entry<D: Disk>(place: &Place<D>) {
    let mut log = ten(place);
    let kept = entries(&log);
    let distrusted = |index, term| Base { durable: Base::DISTRUSTED, ..base(index, term) };
    // Before the first entry there is a base for this alone.
    let before_all = Base { state: raftmap_raft::StateId(0), ..distrusted(0, 0) };
    log.write(&[rebase(12, before_all.clone())]).unwrap();
    assert_eq!(entries(&log), kept);
    drop(log);
    let (mut log, recovered) = place.open();
    assert_eq!((&recovered.repair, &recovered.base), (&Repair::Clean, &Some(before_all)));
    assert_eq!(entries(&log), kept);
    assert!(!recovered.state_is_whole(LogIndex(10)) && !recovered.state_is_whole(LogIndex(1 << 61)));
    // Behind one that was there before, and until a snapshot takes its place.
    log.write(&[rebase(1, base(6, 2)), rebase(2, distrusted(6, 2))]).unwrap();
    drop(log);
    let (mut log, recovered) = place.open();
    assert!(!recovered.state_is_whole(LogIndex(10)));
    assert_eq!(entries(&log), kept[6..]);
    log.write(&[rebase(1, base(8, 2))]).unwrap();
    drop(log);
    assert!(place.open().1.state_is_whole(LogIndex(8)));
}

fn the_parts_of_a_write_take_effect_in_their_order<D: Disk>(place: &Place<D>) {
    let mut log = ten(place);
    let before = Content { base: None, entries: entries(&log) };
    let write = Write {
        truncate_to: Some(LogIndex(8)),
        base: Some(Box::new(base(7, 2))),
        entries: (9..=14).map(|index| large(index, 3, 9000)).collect(),
        ..term(12, 3)
    };
    let after = before.steps(&write).pop().unwrap();
    assert_eq!(after.entries.len(), 7);
    // In one call with a write that moves the base on, to an entry of the first one.
    let next = rebase(13, base(12, 3));
    let last = after.steps(&next).pop().unwrap();
    log.write(&[write, next]).unwrap();
    assert_eq!(entries(&log), last.entries);
    drop(log);
    let (log, recovered) = place.open();
    assert_eq!(Content::of(&log, &recovered), last);
    assert_eq!(recovered.hard_state.term, Term(3));
}

fn a_membership_behind_the_base_still_rolls_back<D: Disk>(place: &Place<D>) {
    let of = |voters: &[u64]| Membership::of_voters(voters.iter().map(|id| NodeId(*id)));
    let member_entry = |index, voters: &[u64]| Entry {
        term: Term(1),
        index: LogIndex(index),
        payload: Payload::Membership(Box::new(of(voters))),
    };
    let mut log = place.init();
    let all =
        vec![member_entry(1, &[1]), entry(2, 1, "a"), member_entry(3, &[1, 2]), member_entry(4, &[1, 2, 3])];
    log.write(&[term(1, 1), append(2, all)]).unwrap();
    let of_base = Base { membership: of(&[1, 2]), ..base(3, 1) };
    log.write(&[rebase(3, of_base.clone())]).unwrap();
    drop(log);
    let (mut log, recovered) = place.open();
    assert_eq!(recovered.base, Some(of_base.clone()));
    assert_eq!(recovered.memberships, [(LogIndex(4), of(&[1, 2, 3]))]);
    log.write(&[Write { id: WriteId(1), truncate_to: Some(LogIndex(3)), ..Write::default() }]).unwrap();
    drop(log);
    let (_, recovered) = place.open();
    assert_eq!((recovered.base, recovered.memberships), (Some(of_base), vec![]));
}

fn segments_before_the_base_are_removed_and_their_numbers_never_used_again<D: Disk>(place: &Place<D>) {
    let mut log = ten(place);
    let uses = |log: &Log<D>| {
        log.segments().iter().map(|of| (of.number, of.first.map(|at| at.0))).collect::<Vec<_>>()
    };
    assert_eq!(uses(&log), [(1, Some(1)), (2, Some(5)), (3, Some(9))]);
    assert_eq!((log.bytes(), cut(&mut log)), (3 * 8 * common::BLOCK, vec![]));
    log.write(&[rebase(12, base(5, 1))]).unwrap();
    assert_eq!(log.bytes(), 2 * 8 * common::BLOCK, "the first one is needed no more");
    assert_eq!(uses(&log), [(1, None), (2, Some(6)), (3, Some(9))]);
    assert_eq!(cut(&mut log), [1]);
    assert_eq!(cut(&mut log), [0; 0]);
    assert_eq!(segments(place), ["segment-000000000002", "segment-000000000003"]);
    drop(log);
    let (mut log, recovered) = place.open();
    let of = |number, first| SegmentUse { number, first: Some(LogIndex(first)), bytes: 8 * common::BLOCK };
    assert_eq!((recovered.repair, recovered.segments), (Repair::Clean, vec![of(2, 6), of(3, 9)]));
    assert_eq!(indexes(&log), (6..=10).collect::<Vec<_>>());
    // Everything goes; the log goes on behind it.
    log.write(&[rebase(1, base(30, 2))]).unwrap();
    cut(&mut log);
    for index in 31..=40 {
        log.write(&[append(index, vec![large(index, 2, 9000)])]).unwrap();
    }
    assert!(uses(&log).iter().map(|of| of.0).eq(3..=8), "{:?}", uses(&log));
    drop(log);
    assert_eq!(indexes(&place.open().0), (31..=40).collect::<Vec<_>>());
}

fn what_a_cut_did_not_remove_is_offered_again<D: Disk>(place: &Place<D>) {
    let mut log = ten(place);
    log.write(&[rebase(12, base(5, 1))]).unwrap();
    let first = log.cut().unwrap().unwrap();
    log.write(&[rebase(13, base(10, 2))]).unwrap();
    assert!(log.cut().unwrap().is_none(), "one at a time, or a crash may leave a gap");
    drop(first);
    assert_eq!(log.cut().unwrap().unwrap().numbers(), [1, 2]);
    drop(log);
    let (mut log, recovered) = place.open();
    assert_eq!(
        recovered.segments.iter().map(|of| (of.number, of.first)).collect::<Vec<_>>(),
        [1, 2, 3].map(|of| (of, None))
    );
    assert_eq!(log.bytes(), 8 * common::BLOCK);
    assert_eq!(cut(&mut log), [1, 2]);
    assert_eq!(segments(place), ["segment-000000000003"]);
}

fn a_log_that_is_compacted_for_long_stays_small<D: Disk>(place: &Place<D>) {
    let mut log = place.init();
    log.write(&[term(1, 1)]).unwrap();
    let mut most = 0;
    for index in 1..=200 {
        let write = append(2 * index, vec![large(index, 1, 3000)]);
        log.write(&[write]).unwrap();
        if index % 7 == 0 {
            log.write(&[rebase(2 * index + 1, base(index - 3, 1))]).unwrap();
            log.cut().unwrap().into_iter().for_each(|cut| cut.run().unwrap());
        }
        if let Some(preparation) = log.prepare().unwrap() {
            preparation.run().unwrap();
        }
        if index % 50 == 0 {
            drop(log);
            let (opened, recovered) = place.open();
            assert_eq!((recovered.repair, opened.last()), (Repair::Clean, position(1, index)));
            log = opened;
        }
        most = most.max(segments(place).len());
    }
    assert!(most <= 5, "{most}");
    assert_eq!(indexes(&log), (194..=200).collect::<Vec<_>>());
}

fn a_directory_is_locked_until_its_segments_are_removed<D: Disk>(place: &Place<D>) {
    let mut log = ten(place);
    log.write(&[rebase(12, base(9, 2))]).unwrap();
    let cut = log.cut().unwrap().unwrap();
    drop(log);
    let second = Log::open(place.disk.clone(), &place.data(), &common::tiny());
    assert!(matches!(second.map(drop), Err(OpenError::Locked(_))));
    cut.run().unwrap();
    assert_eq!(indexes(&place.open().0), [10]);
}

/// The base's record is in a later segment than the first entry that stays: both are needed, and what is between them.
fn entries_and_the_record_of_their_base_may_stand_in_any_order<D: Disk>(place: &Place<D>) {
    let mut log = ten(place);
    log.write(&[append(12, vec![large(11, 2, 5000), large(12, 2, 5000)])]).unwrap();
    log.write(&[rebase(13, base(2, 1))]).unwrap();
    assert_eq!(cut(&mut log), [0; 0], "the first segment holds entry 3");
    log.write(&[rebase(14, base(4, 1))]).unwrap();
    assert_eq!(cut(&mut log), [1]);
    // Later the entries stand behind the base's record: at first in its segment, then in a later one.
    let again =
        |id| Write { truncate_to: Some(LogIndex(4)), entries: vec![large(5, 3, 18_000)], ..term(id, 3) };
    log.write(&[again(15), append(16, vec![large(6, 3, 18_000)])]).unwrap();
    assert_eq!(cut(&mut log), [2, 3]);
    log.write(&[again(17), append(18, vec![large(6, 3, 18_000)])]).unwrap();
    assert_eq!(log.segments()[0].first, None);
    assert_eq!(cut(&mut log), [0; 0], "the base's record");
    drop(log);
    let (log, recovered) = place.open();
    assert_eq!((recovered.repair, recovered.base), (Repair::Clean, Some(base(4, 1))));
    assert_eq!(entries(&log), [large(5, 3, 18_000), large(6, 3, 18_000)]);
}

fn nothing_is_written_that_breaks_the_rules_of_bases<D: Disk>(place: &Place<D>) {
    let mut log = ten(place);
    log.write(&[rebase(12, base(5, 1))]).unwrap();
    drop(log);
    let members = Membership::of_voters((1..3000).map(NodeId));
    let broken = [
        ("a base that goes back", rebase(2, base(4, 1))),
        ("a base of another term at the same index", rebase(2, base(5, 2))),
        ("a term that goes back", rebase(2, Base { position: position(0, 7), ..base(7, 2) })),
        ("a base before the first entry", rebase(2, base(0, 0))),
        ("a term that the hard state has not reached", rebase(2, base(12, 3))),
        ("a state with less than the base", rebase(2, Base { durable: LogIndex(6), ..base(7, 2) })),
        ("members without end", rebase(2, Base { membership: members, ..base(7, 2) })),
        ("a cut to before the base", Write { truncate_to: Some(LogIndex(4)), ..append(2, vec![]) }),
        ("a gap", Write { entries: vec![entry(22, 2, "")], ..rebase(2, base(20, 2)) }),
        ("what the base left", Write { entries: vec![entry(11, 2, "")], ..rebase(2, base(20, 2)) }),
        ("a term before the base's", Write { entries: vec![entry(21, 1, "")], ..rebase(2, base(20, 2)) }),
    ];
    for (what, write) in broken {
        let (mut log, recovered) = place.open();
        assert_eq!((recovered.base, recovered.last), (Some(base(5, 1)), position(2, 10)), "before {what}");
        assert!(matches!(log.write(&[append(1, vec![]), write]), Err(LogError::Invariant(_))), "{what}");
        let good = append(1, vec![entry(11, 2, "x")]);
        assert!(matches!(log.write(&[good]), Err(LogError::Invariant(_))), "final after {what}");
    }
}

/// What happens when a reader, in the middle of a range, comes to open a segment.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// A disk that lets something happen before a segment is opened.
#[derive(Clone)]
struct Hooked {
    disk: MemDisk,
    meanwhile: Arc<Mutex<Option<(PathBuf, Meanwhile)>>>,
}

impl Disk for Hooked {
    type File = <MemDisk as Disk>::File;
    type Lock = <MemDisk as Disk>::Lock;

    fn open(&self, path: &Path) -> io::Result<Self::File> {
        let due = self.meanwhile.lock().unwrap().take_if(|(at, _)| at == path);
        if let Some((_, step)) = due {
            step();
        }
        self.disk.open(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<Self::File> {
        self.disk.create(path, len)
    }

    fn open_uncached(&self, path: &Path) -> io::Result<Option<Self::File>> {
        self.disk.open_uncached(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Self::Lock> {
        self.disk.lock(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }
}

/// A reader that is in the middle of a range when what it reads is removed: it is told that the entries are gone, or reads
/// those that took their place, and neither it nor the log ends for it.
#[test]
fn a_reader_is_overtaken_in_the_middle_of_a_range() {
    let moved = |log: &mut Log<Hooked>| log.write(&[rebase(20, base(8, 2))]).unwrap();
    let emptied = |log: &mut Log<Hooked>| log.write(&[rebase(20, base(3, 2))]).unwrap();
    let replaced = |log: &mut Log<Hooked>| {
        let new = (5..=10).map(|index| large(index, 3, 5000)).collect();
        let anew = Write { truncate_to: Some(LogIndex(4)), entries: new, ..term(20, 3) };
        log.write(&[anew, rebase(21, base(4, 1))]).unwrap()
    };
    overtaken(moved, 3, Some(9));
    overtaken(emptied, 3, Some(4));
    overtaken(replaced, 5, None);
}

/// Reads entries from `from` on, and lets `step` happen, with the cut that it makes possible, when the second segment is opened.
fn overtaken(step: impl FnOnce(&mut Log<Hooked>) -> WriteId + Send + 'static, from: u64, first: Option<u64>) {
    let disk = Hooked { disk: common::mem_disk(0), meanwhile: Arc::default() };
    let place = Place::of(disk.clone(), "/".into());
    let log = Arc::new(Mutex::new(ten(&place)));
    // The first segment is open, the second one is not when the base moves.
    let mut reader = log.lock().unwrap().reader();
    let steps = log.clone();
    let meanwhile: Meanwhile = Box::new(move || {
        let mut log = steps.lock().unwrap();
        step(&mut log);
        assert!(cut(&mut log).contains(&2));
    });
    *disk.meanwhile.lock().unwrap() = Some((segment(2), meanwhile));
    let read = reader.entries(LogIndex(from), LogIndex(10), usize::MAX);
    assert!(disk.meanwhile.lock().unwrap().is_none(), "it happened");
    match (read, first) {
        (Err(LogError::Compacted { index, first }), Some(expected)) => {
            assert_eq!((index, first), (LogIndex(from), LogIndex(expected)));
        }
        (Ok(read), None) => assert!(read.iter().all(|entry| entry.term == Term(3)), "{read:?}"),
        (read, _) => panic!("{read:?}"),
    }
    let mut log = log.lock().unwrap();
    let last = log.last();
    log.write(&[append(30, vec![entry(last.index.next().0, last.term.0, "goes on")])]).unwrap();
}

/// A segment that is missing although the log needs it is a failure.
#[test]
fn a_reader_that_misses_a_segment_which_is_needed_ends_the_log() {
    let place = memory(true);
    let mut log = ten(&place);
    log.write(&[rebase(12, base(5, 1))]).unwrap();
    place.disk.remove(&place.data().join("group-1/segment-000000000003")).unwrap();
    let error = log.reader().entries(LogIndex(6), LogIndex(10), usize::MAX).unwrap_err();
    assert!(matches!(error, LogError::Io { operation: "open", .. }), "{error}");
    assert!(log.cut().is_err());
}

/// A reader holds on to segments while they are removed: it reads on, or learns that the entries are gone, and neither the
/// log nor the reader ends for it.
#[test]
fn a_reader_during_a_cut_is_told_and_lives() {
    let place = memory(true);
    let mut log = place.init();
    log.write(&[term(1, 1)]).unwrap();
    let reader = log.reader();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut reader = reader;
            let mut overtaken = 0;
            while overtaken < 20 && std::time::Instant::now() < deadline {
                let (from, last) = (reader.first_index(), reader.last_index());
                if last < from {
                    continue;
                }
                match reader.entries(from, last, usize::MAX) {
                    Ok(read) => assert!(read.iter().map(|entry| entry.index.0).eq(from.0..=last.0)),
                    Err(LogError::Compacted { index, first }) => {
                        assert!(index == from && index < first);
                        overtaken += 1;
                    }
                    Err(LogError::NotInLog { index, .. }) => assert!(index >= from),
                    Err(error) => panic!("{error}"),
                }
            }
            overtaken
        });
        let mut id = 1;
        while !reading.is_finished() {
            for _ in 0..40 {
                let index = log.last().index.next().0;
                id += 1;
                log.write(&[append(id, vec![large(index, 1, 5000)])]).unwrap();
            }
            id += 1;
            log.write(&[rebase(id, base(log.last().index.0, 1))]).unwrap();
            log.cut().unwrap().unwrap().run().unwrap();
        }
        assert_eq!(reading.join().unwrap(), 20);
    });
}
