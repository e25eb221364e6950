//! What a log does on every disk: in memory, on a file system, and on one that refuses O_DIRECT.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

#[macro_use]
mod common;

use common::places::Place;
use common::{append, entry, identity, indexes, large, term, tiny};
use raftmap_log::{Disk, InitError, Log, LogError, LogOptions, OpenError, Repair, TermRun};
use raftmap_raft::{HardState, LogIndex, LogPosition, Membership, NodeId, Payload, Term, Write, WriteId};

on_every_disk! {
    a_new_log_is_empty
    what_was_written_is_there_after_a_restart
    entries_of_many_segments_are_read_by_range
    a_cut_and_what_replaced_it_survive_a_restart
    the_newest_hard_state_survives_a_restart
    memberships_are_found_and_rolled_back_by_a_cut
    a_mark_is_written_once
    a_second_open_is_refused_until_the_first_is_closed
    init_refuses_what_is_not_empty
    a_directory_that_was_never_made_is_refused
    a_reader_reads_while_the_log_is_written
    segments_prepared_elsewhere_are_used
    other_segment_sizes_do_not_disturb_older_segments
    a_prepared_segment_that_became_too_small_is_not_used
    nothing_is_written_that_breaks_the_rules
}

fn a_new_log_is_empty<D: Disk>(place: &Place<D>) {
    Log::init(&place.disk, &place.data(), &identity(3), &tiny()).unwrap();
    let (log, recovered) = place.open();
    assert_eq!(recovered.identity, identity(3));
    assert_eq!(recovered.hard_state, HardState::default());
    assert_eq!(recovered.last, LogPosition::default());
    assert_eq!((recovered.terms, recovered.memberships, recovered.reached), (vec![], vec![], None));
    assert_eq!(recovered.repair, Repair::Clean);
    let nothing = log.reader().entries(LogIndex(1), LogIndex(1), 1);
    assert!(matches!(nothing, Err(LogError::NotInLog { index: LogIndex(1), last: LogIndex(0) })));
}

fn what_was_written_is_there_after_a_restart<D: Disk>(place: &Place<D>) {
    let written = vec![entry(1, 1, "a"), large(2, 1, 9000), entry(3, 2, "")];
    let mut log = place.init();
    assert_eq!(log.write(&[term(1, 2), append(2, written.clone())]).unwrap(), WriteId(2));
    assert_eq!(common::entries(&log), written);
    drop(log);
    let (log, recovered) = place.open();
    assert_eq!(recovered.repair, Repair::Clean);
    assert_eq!(recovered.last, LogPosition { term: Term(2), index: LogIndex(3) });
    let runs = [TermRun { first: LogIndex(1), term: Term(1) }, TermRun { first: LogIndex(3), term: Term(2) }];
    assert_eq!(recovered.terms, runs);
    assert_eq!(common::entries(&log), written);
}

fn entries_of_many_segments_are_read_by_range<D: Disk>(place: &Place<D>) {
    let written: Vec<_> = (1..=60).map(|index| large(index, 1, 40 * index as usize)).collect();
    let mut log = place.init();
    log.write(&[term(1, 1)]).unwrap();
    for (id, chunk) in (2..).zip(written.chunks(7)) {
        log.write(&[append(id, chunk.to_vec())]).unwrap();
    }
    drop(log);
    let (log, _) = place.open();
    let mut reader = log.reader();
    for from in 1..=60usize {
        for to in from..=60 {
            let read = reader.entries(LogIndex(from as u64), LogIndex(to as u64), usize::MAX).unwrap();
            assert_eq!(read, written[from - 1..to]);
        }
    }
    let sizes = |count: usize| (0..count).map(|nth| 24 + 40 * (10 + nth)).sum::<usize>();
    let read = |reader: &mut raftmap_log::LogReader<D>, bytes| {
        reader.entries(LogIndex(10), LogIndex(60), bytes).unwrap().len()
    };
    assert_eq!(read(&mut reader, 0), 1, "at least one entry");
    assert_eq!(read(&mut reader, sizes(5)), 5);
    assert_eq!(read(&mut reader, sizes(5) - 1), 4);
    assert!(matches!(
        reader.entries(LogIndex(1), LogIndex(61), 1),
        Err(LogError::NotInLog { index: LogIndex(61), .. })
    ));
    assert!(reader.entries(LogIndex(1), LogIndex(60), 1).is_ok(), "asking for too much is not final");
}

fn a_cut_and_what_replaced_it_survive_a_restart<D: Disk>(place: &Place<D>) {
    let mut log = place.init();
    log.write(&[term(1, 1), append(2, (1..=5).map(|index| entry(index, 1, "old")).collect())]).unwrap();
    let cut = Write { truncate_to: Some(LogIndex(2)), entries: vec![entry(3, 2, "new")], ..term(3, 2) };
    // A second cut in the same batch, and an entry that lives for a moment only.
    let again = Write {
        id: WriteId(4),
        truncate_to: Some(LogIndex(3)),
        entries: vec![entry(4, 2, "new"), entry(5, 2, "gone")],
        ..Write::default()
    };
    let last = Write { id: WriteId(5), truncate_to: Some(LogIndex(4)), ..Write::default() };
    log.write(&[cut, again, last]).unwrap();
    let expected = [entry(1, 1, "old"), entry(2, 1, "old"), entry(3, 2, "new"), entry(4, 2, "new")];
    assert_eq!(common::entries(&log), expected);
    drop(log);
    let (mut log, recovered) = place.open();
    assert_eq!(common::entries(&log), expected);
    assert_eq!(recovered.last, LogPosition { term: Term(2), index: LogIndex(4) });
    let all = Write { id: WriteId(1), truncate_to: Some(LogIndex(0)), ..Write::default() };
    log.write(&[all]).unwrap();
    drop(log);
    let (log, recovered) = place.open();
    assert_eq!((recovered.last, recovered.terms), (LogPosition::default(), vec![]));
    assert_eq!(indexes(&log), [0; 0]);
}

fn the_newest_hard_state_survives_a_restart<D: Disk>(place: &Place<D>) {
    let mut log = place.init();
    for id in 1..=5 {
        let hard_state = HardState { term: Term(id), vote: Some(NodeId(id)), damaged: id == 4 };
        log.write(&[Write { id: WriteId(id), hard_state: Some(hard_state), ..Write::default() }]).unwrap();
        drop(log);
        let (opened, recovered) = place.open();
        assert_eq!(recovered.hard_state, hard_state);
        assert_eq!(opened.hard_state(), hard_state);
        log = opened;
    }
}

fn memberships_are_found_and_rolled_back_by_a_cut<D: Disk>(place: &Place<D>) {
    let of = |voters: &[u64]| Membership::of_voters(voters.iter().map(|id| NodeId(*id)));
    let member_entry = |index, voters: &[u64]| raftmap_raft::Entry {
        term: Term(1),
        index: LogIndex(index),
        payload: Payload::Membership(Box::new(of(voters))),
    };
    let mut log = place.init();
    let entries = vec![member_entry(1, &[1]), entry(2, 1, "a"), member_entry(3, &[1, 2])];
    log.write(&[term(1, 1), append(2, entries.clone())]).unwrap();
    assert_eq!(common::entries(&log), entries);
    drop(log);
    let (mut log, recovered) = place.open();
    assert_eq!(recovered.memberships, [(LogIndex(1), of(&[1])), (LogIndex(3), of(&[1, 2]))]);
    log.write(&[Write { id: WriteId(1), truncate_to: Some(LogIndex(2)), ..Write::default() }]).unwrap();
    drop(log);
    assert_eq!(place.open().1.memberships, [(LogIndex(1), of(&[1]))]);
}

fn a_mark_is_written_once<D: Disk>(place: &Place<D>) {
    let mut log = place.init();
    assert!(!log.wants_mark());
    for id in 1..=20 {
        log.write(&[Write { entries: vec![entry(id, 1, "a")], ..term(id, 1) }]).unwrap();
        assert!(log.wants_mark());
        log.mark().unwrap();
        assert!(!log.wants_mark());
        log.mark().unwrap();
    }
    drop(log);
    let (log, recovered) = place.open();
    assert_eq!(recovered.repair, Repair::Clean);
    assert_eq!(indexes(&log), (1..=20).collect::<Vec<_>>());
    assert!(!log.wants_mark());
    // 20 batches and 20 marks, each written once, fill 5 segments of 8 blocks.
    let segments = place.disk.list(&place.data().join("group-1")).unwrap();
    assert_eq!(segments.iter().filter(|name| name.starts_with("segment-")).count(), 5);
}

fn a_second_open_is_refused_until_the_first_is_closed<D: Disk>(place: &Place<D>) {
    let log = place.init();
    let second = Log::open(place.disk.clone(), &place.data(), &tiny());
    assert!(matches!(second.map(drop), Err(OpenError::Locked(_))));
    drop(log);
    let (mut log, _) = place.open();
    let preparation = log.prepare().unwrap().unwrap();
    drop(log);
    let second = Log::open(place.disk.clone(), &place.data(), &tiny());
    assert!(matches!(second.map(drop), Err(OpenError::Locked(_))), "a segment is still in the making");
    preparation.run().unwrap();
    place.open();
}

fn init_refuses_what_is_not_empty<D: Disk>(place: &Place<D>) {
    let init = || Log::init(&place.disk, &place.data(), &identity(3), &tiny());
    place.disk.create_dir(&place.data()).unwrap();
    place.disk.create(&place.data().join("thesis.txt"), 1).unwrap();
    assert!(matches!(init(), Err(InitError::NotEmpty { found, .. }) if found == "thesis.txt"));
    let open = Log::open(place.disk.clone(), &place.data(), &tiny());
    assert!(matches!(open.map(drop), Err(OpenError::NotInitialised(_))));
    place.disk.remove(&place.data().join("thesis.txt")).unwrap();
    init().unwrap();
    assert!(matches!(init(), Err(InitError::AlreadyInitialised { node: NodeId(1), .. })));
    place.open();
}

fn a_directory_that_was_never_made_is_refused<D: Disk>(place: &Place<D>) {
    let open = Log::open(place.disk.clone(), &place.data(), &tiny());
    assert!(matches!(open.map(drop), Err(OpenError::NotInitialised(path)) if path == place.data()));
}

fn a_reader_reads_while_the_log_is_written<D: Disk>(place: &Place<D>) {
    let mut log = place.init();
    log.write(&[Write { entries: vec![entry(1, 1, "1")], ..term(1, 1) }]).unwrap();
    let reader = log.reader();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut reader = reader.clone();
            let mut last = LogIndex(0);
            while last < LogIndex(200) {
                last = reader.last_index();
                let read = reader.entries(LogIndex(1), last, usize::MAX).unwrap();
                for (index, entry) in (1..).zip(&read) {
                    assert_eq!(*entry, common::entry(index, 1, &index.to_string()));
                }
                assert_eq!(read.len() as u64, last.0);
            }
        });
        for index in 2..=200 {
            log.write(&[append(index, vec![entry(index, 1, &index.to_string())])]).unwrap();
        }
        reading.join().unwrap();
    });
}

fn segments_prepared_elsewhere_are_used<D: Disk>(place: &Place<D>) {
    let mut log = place.init();
    log.write(&[term(1, 1)]).unwrap();
    let mut made = 0;
    for index in 1..=100 {
        if let Some(preparation) = log.prepare().unwrap() {
            made += 1;
            match made % 3 {
                // Finished before it is needed, while the log waits for it, or never.
                0 => preparation.run().unwrap(),
                1 => drop(std::thread::spawn(|| preparation.run().unwrap())),
                _ => drop(preparation),
            }
        }
        log.write(&[append(index + 1, vec![entry(index, 1, "a")])]).unwrap();
    }
    assert!(made > 10, "{made}");
    let waits_for_a_late_preparation = loop {
        if let Some(preparation) = log.prepare().unwrap() {
            break std::thread::spawn(|| preparation.run().unwrap());
        }
        let index = log.last().index.next().0;
        log.write(&[append(index + 1, vec![entry(index, 1, "a")])]).unwrap();
    };
    let last = log.last().index.0;
    for index in last + 1..=last + 20 {
        log.write(&[append(index + 1, vec![entry(index, 1, "a")])]).unwrap();
    }
    waits_for_a_late_preparation.join().unwrap();
    drop(log);
    let (log, recovered) = place.open();
    assert_eq!(recovered.repair, Repair::Clean);
    assert_eq!(indexes(&log), (1..=last + 20).collect::<Vec<_>>());
}

fn other_segment_sizes_do_not_disturb_older_segments<D: Disk>(place: &Place<D>) {
    let mut log = place.init();
    log.write(&[term(1, 1)]).unwrap();
    log.prepare().unwrap().unwrap().run().unwrap();
    drop(log);
    let mut index = 0;
    for blocks in [64, 6, 9, 30] {
        let options = LogOptions { segment_bytes: blocks * common::BLOCK, ..tiny() };
        let (mut log, recovered) = Log::open(place.disk.clone(), &place.data(), &options).unwrap();
        assert_eq!(recovered.repair, Repair::Clean);
        assert_eq!(recovered.last.index, LogIndex(index));
        for id in 1..=10 {
            index += 1;
            log.write(&[append(id, vec![large(index, 1, 20_000)])]).unwrap();
            if let Some(preparation) = log.prepare().unwrap() {
                preparation.run().unwrap();
            }
        }
    }
    assert_eq!(indexes(&place.open().0), (1..=index).collect::<Vec<_>>());
}

fn a_prepared_segment_that_became_too_small_is_not_used<D: Disk>(place: &Place<D>) {
    let open = |blocks: u64, entry_bytes_max| {
        let options = LogOptions { segment_bytes: blocks * common::BLOCK, entry_bytes_max, ..tiny() };
        let (mut log, recovered) = Log::open(place.disk.clone(), &place.data(), &options).unwrap();
        assert_eq!(recovered.repair, Repair::Clean);
        if let Some(preparation) = log.prepare().unwrap() {
            preparation.run().unwrap();
        }
        log
    };
    // First the segment in use is empty and too small, then the one after it is.
    let small = LogOptions { segment_bytes: 2 * common::BLOCK, entry_bytes_max: 4000, ..tiny() };
    Log::init(&place.disk, &place.data(), &identity(3), &small).unwrap();
    let mut log = open(8, 20_000);
    log.write(&[Write { entries: vec![large(1, 1, 20_000)], ..term(1, 1) }]).unwrap();
    drop(log);
    drop(open(2, 4000));
    let mut log = open(8, 20_000);
    log.write(&[append(1, vec![large(2, 1, 20_000)])]).unwrap();
    drop(log);
    assert_eq!(indexes(&open(8, 20_000)), [1, 2]);
}

/// Among them scenario 22, a write id that comes again, and scenario 3, a vote that changes in its term.
fn nothing_is_written_that_breaks_the_rules<D: Disk>(place: &Place<D>) {
    drop(place.init());
    let vote = |term, vote| HardState { term: Term(term), vote: Some(NodeId(vote)), damaged: false };
    let start = Write {
        id: WriteId(1),
        hard_state: Some(vote(2, 1)),
        entries: vec![entry(1, 1, "a"), entry(2, 2, "b")],
        ..Write::default()
    };
    let (mut log, _) = place.open();
    log.write(&[start]).unwrap();
    drop(log);
    let state = |id, hard_state| Write { id: WriteId(id), hard_state: Some(hard_state), ..Write::default() };
    let cut = |id, to| Write { id: WriteId(id), truncate_to: Some(LogIndex(to)), ..Write::default() };
    let broken = [
        ("a gap", append(2, vec![entry(4, 2, "")])),
        ("an index twice", append(2, vec![entry(2, 2, "")])),
        ("a term that goes back", append(2, vec![entry(3, 1, "")])),
        ("a term that the hard state has not reached", append(2, vec![entry(3, 3, "")])),
        ("an entry that is too large", append(2, vec![large(3, 2, 20_001)])),
        ("a cut behind the end", cut(2, 3)),
        ("a term that goes back after a cut", Write { entries: vec![entry(3, 1, "")], ..cut(2, 2) }),
        ("a hard state that goes back", state(2, vote(1, 1))),
        ("a second vote in a term", state(2, vote(2, 2))),
        ("a vote taken back", state(2, HardState { vote: None, ..vote(2, 1) })),
        ("a write id twice", append(1, vec![])),
    ];
    for (what, write) in broken {
        let (mut log, recovered) = place.open();
        assert_eq!(recovered.last.index, LogIndex(2), "before {what}");
        let good = append(1, vec![entry(3, 2, "x")]);
        assert!(matches!(log.write(&[append(1, vec![]), write]), Err(LogError::Invariant(_))), "{what}");
        assert!(matches!(log.write(&[good]), Err(LogError::Invariant(_))), "final after {what}");
    }
    assert_eq!(indexes(&place.open().0), [1, 2]);
}
