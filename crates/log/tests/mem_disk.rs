//! The disk in memory keeps its promises and no more.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use common::mem_disk;
use raftmap_log::mem_disk::Fault;
use raftmap_log::{Disk, DiskFile, MemDisk, MemDiskOptions};

const PATH: &str = "/file";

fn path() -> &'static Path {
    Path::new(PATH)
}

/// A disk with a durable file of so many blocks of zeroes.
fn with_file(options: MemDiskOptions, blocks: u64) -> MemDisk {
    let disk = MemDisk::new(options);
    disk.create(path(), blocks * 4096).unwrap().sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn read(disk: &MemDisk, blocks: usize) -> Vec<u8> {
    let mut bytes = vec![0; blocks * 4096];
    disk.open(path()).unwrap().read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Which of the pieces of a file hold something.
fn pattern(bytes: &[u8], piece: usize) -> Vec<bool> {
    bytes.chunks(piece).map(|piece| piece[0] != 0).collect()
}

#[test]
fn a_power_cut_loses_any_subset_of_what_was_not_synced() {
    for (atomic_bytes, pieces) in [(4096, 3), (512, 24)] {
        let mut seen = BTreeSet::new();
        for seed in 0..300 {
            let options = MemDiskOptions { seed, atomic_bytes, ..MemDiskOptions::default() };
            let disk = with_file(options, 4);
            let file = disk.open(path()).unwrap();
            file.write_at(&[1; 4096], 0).unwrap();
            file.sync_data().unwrap();
            file.write_at(&[2; 3 * 4096], 4096).unwrap();
            assert_eq!(read(&disk, 4)[4096..], [2; 3 * 4096]);
            disk.cut_power();
            let bytes = read(&disk.restart(), 4);
            assert_eq!(bytes[..4096], [1; 4096], "what was synced stays");
            let pattern = pattern(&bytes[4096..], atomic_bytes);
            assert_eq!(pattern.len(), pieces);
            seen.insert(pattern);
        }
        assert!(seen.len() == 8 || (atomic_bytes == 512 && seen.len() > 250), "{}", seen.len());
    }
}

#[test]
fn a_kill_loses_nothing_but_the_handles() {
    let disk = with_file(MemDiskOptions::default(), 1);
    let file = disk.open(path()).unwrap();
    file.write_at(&[1; 4096], 0).unwrap();
    disk.kill();
    assert!(disk.is_down() && file.sync_data().is_err() && disk.open(path()).is_err());
    let next = disk.restart();
    assert_eq!(read(&next, 1), [1; 4096]);
    assert!(file.write_at(&[2; 4096], 0).is_err() && disk.list(Path::new("/")).is_err(), "of the last life");
    let lock = next.lock(path()).unwrap();
    assert_eq!(next.lock(path()).map(drop).unwrap_err().kind(), ErrorKind::WouldBlock);
    let third = next.restart();
    drop(third.lock(path()).unwrap());
    drop(lock);
    third.lock(path()).unwrap();
}

#[test]
fn power_may_fail_after_the_process_was_killed() {
    let mut seen = BTreeSet::new();
    for seed in 0..20 {
        let disk = with_file(MemDiskOptions { seed, ..MemDiskOptions::default() }, 1);
        disk.open(path()).unwrap().write_at(&[1; 4096], 0).unwrap();
        disk.kill();
        disk.cut_power();
        seen.insert(read(&disk.restart(), 1));
    }
    assert_eq!(seen.len(), 2, "lost or kept");
}

/// Scenario 48: the page cache looks as if the sync had worked, and a later sync "succeeds".
#[test]
fn a_failed_sync_leaves_a_cache_that_differs_from_the_disk() {
    let mut seen = BTreeSet::new();
    for seed in 0..50 {
        let disk = with_file(MemDiskOptions { seed, ..MemDiskOptions::default() }, 3);
        let file = disk.open(path()).unwrap();
        file.write_at(&[1; 3 * 4096], 0).unwrap();
        disk.set_fault(disk.operations(), Fault::Error(ErrorKind::Other));
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        assert_eq!(read(&disk, 3), [1; 3 * 4096]);
        let mut direct = vec![0; 3 * 4096];
        disk.open_uncached(path()).unwrap().unwrap().read_at(&mut direct, 0).unwrap();
        assert_eq!(direct, disk.disk_bytes(path()).unwrap());
        seen.insert(pattern(&direct, 4096));
        disk.drop_caches();
        assert_eq!(read(&disk, 3), direct);
    }
    assert_eq!(seen.len(), 8);
}

#[test]
fn lost_and_misdirected_writes_say_nothing() {
    for (fault, expected) in [
        (Fault::LostWrite, [false, false, false, false]),
        (Fault::MisdirectedWrite(2), [false, false, false, true]),
        (Fault::MisdirectedWrite(-1), [true, false, false, false]),
    ] {
        let disk = with_file(MemDiskOptions::default(), 4);
        let file = disk.open(path()).unwrap();
        disk.set_fault(disk.operations(), fault);
        file.write_at(&[1; 4096], 4096).unwrap();
        file.sync_data().unwrap();
        assert!(pattern(&read(&disk, 4), 4096)[1], "the cache shows it where it should be");
        disk.cut_power();
        assert_eq!(pattern(&read(&disk.restart(), 4), 4096), expected, "{fault:?}");
    }
}

#[test]
fn names_are_lost_until_their_folder_is_synced() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let disk = mem_disk(seed);
        disk.create_dir(Path::new("/a")).unwrap();
        disk.create_dir(Path::new("/b")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        for name in ["/a/old", "/a/removed"] {
            disk.create(Path::new(name), 0).unwrap();
        }
        disk.sync_dir(Path::new("/a")).unwrap();
        disk.create(Path::new("/a/made"), 0).unwrap();
        disk.rename(Path::new("/a/old"), Path::new("/b/new")).unwrap();
        disk.remove(Path::new("/a/removed")).unwrap();
        disk.cut_power();
        let disk = disk.restart();
        let (a, b) = (disk.list(Path::new("/a")).unwrap(), disk.list(Path::new("/b")).unwrap());
        assert_eq!(a.contains(&"old".to_owned()), b.is_empty(), "a rename is one step");
        seen.insert((a, b));
    }
    assert_eq!(seen.len(), 8, "each of the three changes is lost or kept");
}

#[test]
fn a_synced_folder_keeps_its_names() {
    for seed in 0..20 {
        let disk = mem_disk(seed);
        disk.create_dir(Path::new("/a")).unwrap();
        disk.create(Path::new("/a/x"), 0).unwrap();
        disk.rename(Path::new("/a/x"), Path::new("/a/y")).unwrap();
        disk.sync_dir(Path::new("/a")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.cut_power();
        assert_eq!(disk.restart().list(Path::new("/a")).unwrap(), ["y"]);
    }
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let disk = with_file(MemDiskOptions { seed, ..MemDiskOptions::default() }, 64);
        disk.open(path()).unwrap().write_at(&[1; 64 * 4096], 0).unwrap();
        disk.cut_power();
        disk.disk_bytes(path()).unwrap()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn errors_short_writes_and_the_end_of_a_file_are_reported() {
    let disk = with_file(MemDiskOptions { capacity_bytes: 10_000, ..MemDiskOptions::default() }, 2);
    let file = disk.open(path()).unwrap();
    let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
    let fail = |fault| disk.set_fault(disk.operations(), fault);
    fail(Fault::ShortWrite);
    assert_eq!(kind(file.write_at(&[1; 8192], 0)), ErrorKind::WriteZero);
    assert_ne!(read(&disk, 2), [1; 8192]);
    fail(Fault::Error(ErrorKind::StorageFull));
    assert_eq!(kind(file.write_at(&[1; 4096], 0)), ErrorKind::StorageFull);
    assert_eq!(kind(file.write_at(&[1; 4096], 4097)), ErrorKind::InvalidInput);
    assert_eq!(kind(file.read_at(&mut [1; 4096], 4097)), ErrorKind::UnexpectedEof);
    assert_eq!(kind(disk.create(path(), 0).map(drop)), ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.create(Path::new("/large"), 4096).map(drop)), ErrorKind::StorageFull);
    assert_eq!(kind(disk.open(Path::new("/missing")).map(drop)), ErrorKind::NotFound);
    assert_eq!(disk.space(path()).unwrap().free_bytes, 10_000 - 8192);
    disk.remove(path()).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    assert_eq!(disk.space(path()).unwrap().free_bytes, 10_000);
}
