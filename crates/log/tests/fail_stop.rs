//! After the first error nothing is tried again; and how little it takes to be durable.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::ErrorKind;

use common::{BLOCK, append, base, entries, entry, fresh, large, mem_disk, rebase, reopen, segment, term};
use raftmap_log::mem_disk::Fault;
use raftmap_log::{LogError, MemDisk, MemDiskOptions, Repair};
use raftmap_raft::{LogIndex, Write};

/// What an append costs: one write, one sync. A hard state: two of each. An idle node: nothing.
#[test]
fn an_append_is_one_write_and_one_sync() {
    let disk = mem_disk(0);
    let mut log = fresh(&disk);
    let cost = |step: &mut dyn FnMut()| {
        let before = disk.operations();
        step();
        disk.operations() - before
    };
    assert_eq!(cost(&mut || _ = log.write(&[term(1, 1)]).unwrap()), 4);
    let many = [append(2, vec![entry(1, 1, "a")]), append(3, vec![large(2, 1, 9000), entry(3, 1, "b")])];
    assert_eq!(cost(&mut || _ = log.write(&many).unwrap()), 2);
    assert_eq!(cost(&mut || log.mark().unwrap()), 2);
    assert_eq!(cost(&mut || log.mark().unwrap()), 0);
    log.prepare().unwrap().unwrap().run().unwrap();
    assert_eq!(cost(&mut || assert!(log.prepare().unwrap().is_none())), 0);
    // The next segment is there when this one is full.
    assert_eq!(cost(&mut || _ = log.write(&[append(4, vec![large(4, 1, 18_000)])]).unwrap()), 2);
    assert!(disk.disk_bytes(&segment(2)).unwrap()[..4096].iter().any(|byte| *byte != 0));
    assert_eq!(entries(&log).len(), 4);
}

/// What it costs to cut a log, however long it is: a base is one write and one sync, and each segment that goes is one name
/// and one sync of the folder. No block is read or written.
#[test]
fn a_cut_costs_the_same_however_much_is_cut() {
    let cost = |batches: u64, entries: u64| {
        let disk = mem_disk(0);
        let mut log = fresh(&disk);
        log.write(&[term(1, 1)]).unwrap();
        for batch in 0..batches {
            let new = (1..=entries).map(|nth| large(batch * entries + nth, 1, 4000 / 64)).collect();
            log.write(&[append(2 + batch, new)]).unwrap();
        }
        let before = disk.operations();
        log.write(&[rebase(100, base(batches * entries, 1))]).unwrap();
        let moved = disk.operations() - before;
        let cut = log.cut().unwrap().unwrap();
        let segments = cut.numbers().len() as u64;
        cut.run().unwrap();
        (moved, disk.operations() - before - moved, segments)
    };
    assert_eq!(cost(9, 1), (2, 2, 1));
    assert_eq!(cost(9, 40), (2, 2, 1));
    assert_eq!(cost(25, 40), (2, 6, 3));
}

/// The removal of a segment fails: the log ends like after any other error, and the next start removes it.
#[test]
fn a_cut_that_fails_ends_the_log() {
    for nth in 0..4 {
        let disk = mem_disk(nth);
        let mut log = fresh(&disk);
        for index in 1..=20 {
            log.write(&[Write { entries: vec![entry(index, 1, "a")], ..term(index, 1) }]).unwrap();
        }
        log.write(&[rebase(21, base(20, 1))]).unwrap();
        disk.set_fault(disk.operations() + nth, Fault::Error(ErrorKind::Other));
        let error = log.cut().unwrap().unwrap().run().unwrap_err();
        assert_eq!(log.write(&[append(22, vec![])]).unwrap_err().to_string(), error.to_string());
        let (mut log, recovered) = reopen(&disk.restart()).unwrap();
        assert_eq!((recovered.repair, recovered.base), (Repair::Clean, Some(base(20, 1))));
        common::cut(&mut log);
        assert_eq!(log.segments().len(), 1);
    }
}

/// Scenario 48.
#[test]
fn after_a_failed_sync_nothing_is_written_any_more() {
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        for nth in 0..4 {
            let disk = mem_disk(nth);
            let mut log = fresh(&disk);
            log.write(&[Write { entries: vec![entry(1, 1, "a")], ..term(1, 1) }]).unwrap();
            // Write and sync of the two slots, or of the batch.
            disk.set_fault(disk.operations() + nth, Fault::Error(kind));
            let next = if nth < 2 { append(2, vec![entry(2, 1, "b")]) } else { term(2, 2) };
            let error = log.write(std::slice::from_ref(&next)).unwrap_err();
            assert!(matches!(&error, LogError::Io { source, .. } if source.kind() == kind), "{error}");
            let operations = disk.operations();
            let again = log.write(&[next]).unwrap_err();
            assert_eq!(again.to_string(), error.to_string(), "the first error");
            assert!(log.mark().is_err() && log.prepare().is_err() && log.space().is_err());
            assert!(log.reader().entries(LogIndex(1), LogIndex(1), 1).is_err());
            assert_eq!(disk.operations(), operations, "nothing reaches the disk any more");
        }
    }
}

#[test]
fn a_full_disk_ends_the_log() {
    let options = MemDiskOptions { capacity_bytes: 150_000, ..MemDiskOptions::default() };
    let disk = MemDisk::new(options);
    let mut log = fresh(&disk);
    let free = log.space().unwrap();
    assert_eq!(free.total_bytes, 150_000);
    assert!(free.undercuts(free.free_bytes + 1) && !free.undercuts(free.free_bytes));
    log.write(&[term(1, 1)]).unwrap();
    let mut last = 0;
    let error = loop {
        match log.write(&[append(last + 2, vec![large(last + 1, 1, 10_000)])]) {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::Io { source, .. } if source.kind() == ErrorKind::StorageFull));
    assert!(last > 4);
    drop(log);
    let (log, recovered) = reopen(&disk.restart()).unwrap();
    assert_eq!((recovered.repair, log.last().index), (Repair::Clean, LogIndex(last)));
}

/// Scenario 25: an entry that rotted since the start is an error, never a gap, and ends the log.
#[test]
fn a_reader_reports_what_it_cannot_read() {
    let disk = mem_disk(0);
    let mut log = fresh(&disk);
    log.write(&[term(1, 1)]).unwrap();
    for index in 1..=3 {
        log.write(&[append(1 + index, vec![entry(index, 1, "a")])]).unwrap();
    }
    let mut reader = log.reader();
    disk.flip_bit(&segment(1), BLOCK * 8 + 400).unwrap();
    let error = reader.entries(LogIndex(1), LogIndex(3), usize::MAX).unwrap_err();
    assert!(matches!(error, LogError::Damaged { segment: 1, offset: BLOCK, .. }), "{error}");
    assert!(log.write(&[append(9, vec![])]).is_err(), "the node must end");
}
