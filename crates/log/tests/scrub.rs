//! A log that is read again while it is in use.
#![allow(clippy::unwrap_used, reason = "a test")]

#[macro_use]
mod common;

use common::places::Place;
use common::{
    append, base, cut, entries, entry, fresh, identity, large, mem_disk, rebase, reopen, segment, term, tiny,
};
use raftmap_log::mem_disk::Fault;
use raftmap_log::{DamageReason, Disk, Log, LogOptions, MemDisk, Repair, Rot, ScrubStep, Scrubber};
use raftmap_raft::{LogIndex, LogPosition};

on_every_disk! {
    a_log_is_sound_wherever_it_begins_and_ends
}

const BLOCK_BITS: u64 = 4096 * 8;

/// What a pass comes to.
fn scrub<D: Disk>(scrubber: &Scrubber<D>) -> ScrubStep {
    let mut scrub = scrubber.scrub();
    loop {
        match scrub.advance().unwrap().1 {
            ScrubStep::More => {}
            step => return step,
        }
    }
}

fn rot<D: Disk>(scrubber: &Scrubber<D>) -> Rot {
    match scrub(scrubber) {
        ScrubStep::Rotten(rot) => rot,
        step => panic!("{step:?}"),
    }
}

/// Ten entries of a batch of two blocks each, so that four fill a segment.
fn write_ten<D: Disk>(log: &mut Log<D>) {
    log.write(&[term(1, 1)]).unwrap();
    for index in 1..=10 {
        log.write(&[append(1 + index, vec![large(index, 1, 5000)])]).unwrap();
    }
}

fn a_log_is_sound_wherever_it_begins_and_ends<D: Disk>(place: &Place<D>) {
    let mut log = place.init();
    assert_eq!(scrub(&log.scrubber()), ScrubStep::Sound, "an empty log");
    write_ten(&mut log);
    assert_eq!(scrub(&log.scrubber()), ScrubStep::Sound, "a log that was never compacted");
    log.mark().unwrap();
    log.write(&[rebase(12, base(6, 1)), append(13, vec![entry(11, 1, "more")])]).unwrap();
    assert_eq!(scrub(&log.scrubber()), ScrubStep::Sound, "segments that wait to be removed");
    assert_eq!(cut(&mut log), [1]);
    assert_eq!(scrub(&log.scrubber()), ScrubStep::Sound, "a log that begins in the middle");
    drop(log);
    let (mut log, _) = place.open();
    assert_eq!(scrub(&log.scrubber()), ScrubStep::Sound, "after a restart");
    let scrubber = log.scrubber();
    let mut under_way = scrubber.scrub();
    under_way.advance().unwrap();
    log.write(&[rebase(14, base(11, 1))]).unwrap();
    for index in 12..=30 {
        log.write(&[append(3 + index, vec![large(index, 1, 5000)])]).unwrap();
    }
    log.write(&[rebase(34, base(29, 1))]).unwrap();
    assert!(!cut(&mut log).is_empty());
    let ends =
        std::iter::repeat_with(|| under_way.advance().unwrap().1).find(|step| *step != ScrubStep::More);
    assert_eq!(ends, Some(ScrubStep::Sound), "what it was about to read was removed meanwhile");
}

/// Of each block of a batch, whether it holds entries, a base, a truncation or a mark.
#[test]
fn a_bit_that_flipped_is_found_in_every_block() {
    let written = |disk: &MemDisk| {
        let mut log = fresh(disk);
        write_ten(&mut log);
        log.mark().unwrap();
        log.write(&[raftmap_raft::Write {
            truncate_to: Some(LogIndex(9)),
            ..append(12, vec![entry(10, 1, "b")])
        }])
        .unwrap();
        log.write(&[rebase(13, base(2, 1))]).unwrap();
        log
    };
    let blocks = |disk: &MemDisk, number| {
        let bytes = disk.disk_bytes(&segment(number)).unwrap();
        bytes.chunks(4096).take_while(|block| block.iter().any(|byte| *byte != 0)).count() as u64
    };
    let counts = {
        let disk = mem_disk(1);
        let _log = written(&disk);
        [1, 2, 3].map(|number| blocks(&disk, number))
    };
    assert_eq!(counts, [8, 8, 7]);
    for (number, count) in (1..).zip(counts) {
        for block in 0..count {
            let disk = mem_disk(1);
            let log = written(&disk);
            disk.flip_bit(&segment(number), block * BLOCK_BITS + 77 * (block + 1)).unwrap();
            let last = [4, 8, 10][usize::try_from(number).unwrap() - 1];
            let found = rot(&log.scrubber());
            assert_eq!((found.segment, found.last), (number, LogIndex(last)), "block {block}");
            assert_eq!((found.offset, found.reason), (block * 4096, DamageReason::Checksum), "block {block}");
        }
    }
}

#[test]
fn a_write_that_the_disk_lost_is_found_while_the_log_is_in_use() {
    // With the fifth and the ninth a segment is made: another operation would be the one that fails.
    for lost in [1, 2, 3, 4, 6, 7, 8, 10] {
        let disk = mem_disk(lost);
        let mut log = fresh(&disk);
        log.write(&[term(1, 1)]).unwrap();
        for index in 1..=10 {
            if index == lost {
                disk.set_fault(disk.operations(), Fault::LostWrite);
            }
            log.write(&[append(1 + index, vec![large(index, 1, 5000)])]).unwrap();
        }
        disk.drop_caches();
        let found = rot(&log.scrubber());
        assert_eq!(found.reason, DamageReason::Missing, "write {lost}");
        // Where a segment ends a loss shows in the next one only.
        let segment = (lost - 1) / 4 + 1 + u64::from(lost % 4 == 0);
        assert_eq!((found.segment, found.last), (segment, LogIndex((segment * 4).min(10))), "write {lost}");
    }
}

#[test]
fn a_sector_that_cannot_be_read_is_rot_and_no_failure_of_the_log() {
    let disk = mem_disk(3);
    let mut log = fresh(&disk);
    write_ten(&mut log);
    disk.make_bad_sector(&segment(2), 3 * 4096).unwrap();
    let found = rot(&log.scrubber());
    assert_eq!((found.segment, found.offset, found.reason), (2, 3 * 4096, DamageReason::Checksum));
    log.write(&[append(12, vec![entry(11, 1, "it goes on")])]).unwrap();
}

#[test]
fn a_part_of_a_segment_that_cannot_be_read_is_rot_and_so_is_a_segment_that_is_gone() {
    let disk = mem_disk(4);
    let mut log = fresh(&disk);
    write_ten(&mut log);
    for block in 0..8 {
        disk.make_bad_sector(&segment(1), block * 4096).unwrap();
    }
    let found = rot(&log.scrubber());
    assert_eq!((found.segment, found.offset, found.reason), (1, 0, DamageReason::Checksum));
    disk.remove(&segment(1)).unwrap();
    let found = rot(&log.scrubber());
    assert_eq!((found.segment, found.last, found.reason), (1, LogIndex(4), DamageReason::Missing));
    log.write(&[append(12, vec![entry(11, 1, "it goes on")])]).unwrap();
}

/// Also in the segment that is in use: the log moves on to another one.
#[test]
fn a_log_that_begins_behind_its_rot_is_sound_for_the_next_start() {
    for number in [2, 3] {
        let disk = mem_disk(number);
        let mut log = fresh(&disk);
        write_ten(&mut log);
        disk.flip_bit(&segment(number), 5 * 8).unwrap();
        let scrubber = log.scrubber();
        let found = rot(&scrubber);
        log.write(&[append(12, vec![entry(11, 1, "behind it")])]).unwrap();
        assert_eq!(rot(&scrubber), found, "it is there until the log begins behind it");
        log.write(&[rebase(13, base(found.last.0, 1))]).unwrap();
        cut(&mut log);
        assert_eq!(scrub(&scrubber), ScrubStep::Sound);
        assert_eq!(entries(&log).last(), Some(&entry(11, 1, "behind it")));
        drop((log, scrubber));
        let (log, recovered) = reopen(&disk).unwrap();
        assert_eq!(recovered.repair, Repair::Clean, "segment {number}");
        assert_eq!(log.last(), LogPosition { index: LogIndex(11), ..log.last() });
    }
}

/// While batches of all sizes are written, and segments removed.
#[test]
fn a_pass_beside_a_writer_finds_nothing() {
    let disk = MemDisk::new(raftmap_log::MemDiskOptions::default());
    let options = LogOptions { segment_bytes: 32 * 4096, ..tiny() };
    Log::init(&disk, &common::dir(), &identity(3), &options).unwrap();
    let mut log = Log::open(disk, &common::dir(), &options).unwrap().0;
    log.write(&[term(1, 1)]).unwrap();
    let scrubber = log.scrubber();
    let writer = std::thread::spawn(move || {
        for index in 1..=2_000 {
            let size = usize::try_from(index * 37 % 15_000).unwrap();
            log.write(&[append(2 * index, vec![large(index, 1, size)])]).unwrap();
            if index % 100 == 0 {
                log.write(&[rebase(2 * index + 1, base(index - 20, 1))]).unwrap();
                cut(&mut log);
                log.mark().unwrap();
            }
        }
    });
    let mut passes = 0;
    while !writer.is_finished() || passes == 0 {
        assert_eq!(scrub(&scrubber), ScrubStep::Sound);
        passes += 1;
    }
    writer.join().unwrap();
}
