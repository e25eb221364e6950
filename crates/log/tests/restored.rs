//! Data directories that are made of a backup, fenced, or only looked at.
#![allow(clippy::unwrap_used, reason = "a test")]

#[macro_use]
mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::places::Place;
use common::{BLOCK, append, base, dir, entry, identity, indexes, large, tiny};
use raftmap_log::mem_disk::Fault;
use raftmap_log::{
    Damage, Disk, DiskFile, Examination, ExaminedHardState, InitError, Log, LogEnd, MemDisk, OpenError,
    ReadOnlyDisk, RealDisk, Repair, examine, fence,
};
use raftmap_raft::{HardState, LogIndex, NodeId, Term, Write};

on_every_disk! {
    a_log_that_is_made_at_a_base_goes_on_behind_it
    a_fenced_directory_opens_no_more_and_can_be_looked_at
    /// Fewer blocks in a segment than the base needs.
    a_base_that_no_segment_holds_gets_a_larger_one
}

fn a_log_that_is_made_at_a_base_goes_on_behind_it<D: Disk>(place: &Place<D>) {
    let base = base(70, 3);
    let made = || Ok::<_, InitError>(());
    Log::init_at(&place.disk, &place.data(), &identity(3), &tiny(), &base, made).unwrap();
    let (mut log, recovered) = place.open();
    assert_eq!((recovered.base.as_ref(), recovered.last), (Some(&base), base.position));
    assert_eq!(recovered.hard_state, HardState { term: Term(3), ..HardState::default() });
    assert_eq!(recovered.repair, Repair::Clean);
    assert!(recovered.state_is_whole(LogIndex(70)) && !recovered.state_is_whole(LogIndex(69)));
    let hard_state = Some(HardState { term: Term(4), ..HardState::default() });
    log.write(&[Write { hard_state, ..append(1, vec![entry(71, 4, "on")]) }]).unwrap();
    drop(log);
    let (log, recovered) = place.open();
    assert_eq!((indexes(&log), recovered.base), (vec![71], Some(base)));
}

fn a_base_that_no_segment_holds_gets_a_larger_one<D: Disk>(place: &Place<D>) {
    let mut base = base(70, 3);
    base.membership = raftmap_raft::Membership::of_voters((1..=1000).map(NodeId));
    let small = raftmap_log::LogOptions { segment_bytes: BLOCK, entry_bytes_max: 1000, ..tiny() };
    let made = || Ok::<_, InitError>(());
    Log::init_at(&place.disk, &place.data(), &identity(3), &small, &base, made).unwrap();
    assert_eq!(place.open().1.base, Some(base));
}

fn a_fenced_directory_opens_no_more_and_can_be_looked_at<D: Disk>(place: &Place<D>) {
    drop(place.init());
    let look = || examine(&place.disk, &place.data(), &tiny()).unwrap().fenced;
    assert_eq!(look(), None);
    fence(&place.disk, &place.data(), "its cluster goes on elsewhere").unwrap();
    fence(&place.disk, &place.data(), "another reason").unwrap();
    assert_eq!(look().unwrap(), "its cluster goes on elsewhere");
    let error = Log::open(place.disk.clone(), &place.data(), &tiny()).err().unwrap();
    assert!(error.to_string().ends_with("is fenced: its cluster goes on elsewhere"), "{error}");
}

/// The state machine is there, whole, before the directory is one.
#[test]
fn init_at_a_base_is_cut_short_at_every_operation() {
    let state = dir().join("state");
    let mut seen = [0; 3];
    for seed in 0..40 {
        for operation in 0.. {
            let disk = common::mem_disk(seed);
            disk.set_fault(operation, if seed % 2 == 0 { Fault::PowerCut } else { Fault::Kill });
            let make_state = || {
                let failed = |error| InitError::NotEmpty { path: state.clone(), found: format!("{error}") };
                let file = disk.create(&state, 4).map_err(failed)?;
                file.write_at(b"rows", 0).and_then(|()| file.sync_data()).map_err(failed)
            };
            let made = Log::init_at(&disk, &dir(), &identity(3), &tiny(), &base(70, 3), make_state);
            disk.clear_faults();
            let done = made.is_ok();
            let disk = disk.restart();
            match Log::open(disk.clone(), &dir(), &tiny()) {
                Ok((_, recovered)) => {
                    seen[0] += 1;
                    assert_eq!(disk.disk_bytes(&state).unwrap(), b"rows");
                    assert_eq!((recovered.base, recovered.hard_state.term), (Some(base(70, 3)), Term(3)));
                }
                Err(OpenError::InitCutShort(_)) => seen[1] += 1,
                Err(OpenError::NotInitialised(_)) => seen[2] += 1,
                Err(error) => panic!("seed {seed}, operation {operation}: {error}"),
            }
            if done {
                break;
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 10), "{seen:?}");
}

#[test]
fn a_fence_that_is_cut_short_stands_or_not_and_one_that_was_put_up_stays() {
    let mut seen = [0; 2];
    for operation in 0.. {
        let disk = common::mem_disk(operation);
        drop(common::fresh(&disk));
        disk.set_fault(disk.operations() + operation, Fault::PowerCut);
        let put_up = fence(&disk, &dir(), "over").is_ok();
        disk.clear_faults();
        disk.cut_power();
        let disk = disk.restart();
        let fenced = examine(&disk, &dir(), &tiny()).unwrap().fenced;
        let opened = Log::open(disk.clone(), &dir(), &tiny()).map(drop);
        match &fenced {
            Some(reason) => assert!(reason == "over" && matches!(opened, Err(OpenError::Fenced { .. }))),
            None => assert!(!put_up && opened.is_ok(), "operation {operation}"),
        }
        seen[usize::from(fenced.is_some())] += 1;
        fence(&disk, &dir(), "over").unwrap();
        if put_up {
            break;
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// A log with a base, entries of several terms, and more than one segment.
fn eventful(disk: &MemDisk) {
    let mut log = common::fresh(disk);
    let at = |id: u64| HardState { term: Term(id), vote: Some(NodeId(id % 3 + 1)), damaged: false };
    for id in 1..=20 {
        let mut write = append(id, vec![large(2 * id - 1, id, 6000), entry(2 * id, id, "small")]);
        write.hard_state = Some(at(id));
        log.write(&[write]).unwrap();
    }
    log.write(&[Write { base: Some(Box::new(base(10, 5))), ..append(21, vec![]) }]).unwrap();
    common::cut(&mut log);
    log.write(&[append(22, vec![large(41, 20, 6000)])]).unwrap();
}

fn all_bytes(disk: &MemDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    disk.files().into_iter().map(|(path, _)| (path.clone(), disk.disk_bytes(&path).unwrap())).collect()
}

fn look(disk: &MemDisk) -> Examination<MemDisk> {
    examine(disk, &dir(), &tiny()).unwrap()
}

/// Flips a bit in each block, and more, and compares what a look says with what a start finds then.
#[test]
fn a_look_changes_nothing_and_sees_what_a_start_finds() {
    let original = common::mem_disk(1);
    eventful(&original);
    let segments: Vec<(PathBuf, u64)> = original
        .files()
        .into_iter()
        .filter(|(path, _)| path.to_string_lossy().contains("segment-"))
        .collect();
    let spoils = segments.iter().flat_map(|(path, len)| (0..len / BLOCK).map(move |block| (path, block)));
    let (mut whole, mut torn, mut damaged) = (0, 0, 0);
    for (path, block) in spoils {
        for zeroed in [false, true] {
            let disk = common::mem_disk(1);
            eventful(&disk);
            disk.cut_power();
            let disk = disk.restart();
            match zeroed {
                true => disk
                    .set_disk_bytes(path, block * BLOCK, &vec![0; usize::try_from(BLOCK).unwrap()])
                    .unwrap(),
                false => disk.flip_bit(path, (block * BLOCK + 300) * 8).unwrap(),
            }
            let before = all_bytes(&disk);
            let examination = look(&disk);
            assert_eq!(all_bytes(&disk), before, "a look changed something");
            let seen = examination.log.as_ref().unwrap();
            let (end, base, last, terms) =
                (seen.end.clone(), seen.base.clone(), seen.last, seen.terms.clone());
            drop(examination);
            let (_, recovered) = common::reopen(&disk).unwrap();
            assert_eq!((base, last, terms), (recovered.base, recovered.last, recovered.terms));
            match (end, recovered.repair) {
                (LogEnd::Whole, Repair::Clean) => whole += 1,
                (LogEnd::Torn { segment, offset }, Repair::TornTailCut { segment: s, offset: o, .. }) => {
                    torn += 1;
                    assert_eq!((segment, offset), (s, o));
                }
                (LogEnd::Damaged(seen), Repair::Damaged(found)) => {
                    damaged += 1;
                    let Damage { segment, .. } = found;
                    assert_eq!(seen, found, "segment {segment}");
                }
                (seen, found) => panic!("{}, block {block}: seen {seen:?}, found {found:?}", path.display()),
            }
        }
    }
    assert!(whole > 0 && torn > 0 && damaged > 10, "{whole} {torn} {damaged}");
}

#[test]
fn a_look_reads_the_entries_that_a_log_has() {
    let disk = common::mem_disk(1);
    eventful(&disk);
    let mut log = look(&disk).log.unwrap();
    let entries = log.reader.entries(LogIndex(11), LogIndex(41), usize::MAX).unwrap();
    assert_eq!(entries.len(), 31);
    for (index, term) in [(9, None), (10, Some(5)), (11, Some(6)), (41, Some(20)), (42, None)] {
        assert_eq!(log.term_at(LogIndex(index)), term.map(Term), "{index}");
    }
    assert!(log.state_is_whole(LogIndex(10)) && !log.state_is_whole(LogIndex(9)));
}

#[test]
fn an_unreadable_slot_of_the_hard_state_is_told_and_left_as_it_is() {
    let disk = common::mem_disk(1);
    eventful(&disk);
    let hard_state = HardState { term: Term(20), vote: Some(NodeId(3)), damaged: false };
    let whole = ExaminedHardState { hard_state, reached: None, unreadable: [None, None] };
    assert_eq!(look(&disk).hard_state.unwrap(), whole);
    disk.flip_bit(&common::hard_state_file(), (BLOCK + 20) * 8).unwrap();
    disk.drop_caches();
    let before = all_bytes(&disk);
    let seen = look(&disk).hard_state.unwrap();
    assert_eq!((seen.hard_state, seen.unreadable[0]), (hard_state, None));
    assert!(seen.unreadable[1].is_some());
    disk.flip_bit(&common::hard_state_file(), 20 * 8).unwrap();
    disk.drop_caches();
    let lost = look(&disk);
    assert!(matches!(lost.hard_state, Err(OpenError::HardStateLost { .. })));
    assert!(lost.log.is_ok(), "the log can be read all the same");
    assert_eq!(all_bytes(&disk).len(), before.len());
}

#[test]
fn nobody_looks_at_a_directory_in_use_and_no_server_starts_during_a_look() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    Log::init(&RealDisk, &data, &identity(3), &tiny()).unwrap();
    let log = Log::open(RealDisk, &data, &tiny()).unwrap();
    assert!(matches!(examine(&ReadOnlyDisk, &data, &tiny()), Err(OpenError::Locked(_))));
    drop(log);
    let look = examine(&ReadOnlyDisk, &data, &tiny()).unwrap();
    assert!(matches!(Log::open(RealDisk, &data, &tiny()), Err(OpenError::Locked(_))));
    drop(look);
    Log::open(RealDisk, &data, &tiny()).unwrap();
}

#[test]
fn a_read_only_disk_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "text").unwrap();
    let file = ReadOnlyDisk.open(&path).unwrap();
    assert!(file.write_at(b"x", 0).is_err());
    assert!(ReadOnlyDisk.create(&folder.path().join("new"), 0).is_err());
    assert!(ReadOnlyDisk.create_dir(&folder.path().join("new")).is_err());
    assert!(ReadOnlyDisk.remove(&path).is_err() && ReadOnlyDisk.rename(&path, &path).is_err());
    assert!(ReadOnlyDisk.lock(&folder.path().join("lock")).is_err(), "it would have to be made");
    assert_eq!(ReadOnlyDisk.list(folder.path()).unwrap(), ["file"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"text");
}
