//! Term, vote and the damaged flag: never lost, never taken back, and durable in the right order.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::ErrorKind;

use common::{BLOCK, append, entries, entry, fresh, mem_disk, reopen, term};
use raftmap_log::mem_disk::Fault;
use raftmap_log::{MemDisk, MemDiskOptions, OpenError};
use raftmap_raft::{HardState, NodeId, Term, Write, WriteId};

/// Scenario 11: cut short at any operation, the log never holds an entry of a term that the hard state has not reached,
/// and scenario 2: term and vote come together.
#[test]
fn a_term_is_durable_before_its_first_entry() {
    let mut cut_between = 0;
    for seed in 0..30 {
        for operation in 0..6 {
            let disk = mem_disk(seed);
            let mut log = fresh(&disk);
            disk.set_fault(disk.operations() + operation, Fault::PowerCut);
            let hard_state = HardState { term: Term(3), vote: Some(NodeId(2)), damaged: false };
            let write =
                Write { hard_state: Some(hard_state), entries: vec![entry(1, 3, "a")], ..append(1, vec![]) };
            log.write(&[write]).unwrap_err();
            let (log, recovered) = reopen(&disk.restart()).unwrap();
            let there = entries(&log).len();
            assert!(
                recovered.hard_state == hard_state || (recovered.hard_state, there) == Default::default()
            );
            cut_between += u32::from(recovered.hard_state == hard_state && there == 0);
        }
    }
    assert!(cut_between > 10);
}

#[test]
fn one_slot_of_the_hard_state_may_rot_and_both_may_not() {
    let path = common::hard_state_file();
    let hard_state = HardState { term: Term(7), vote: Some(NodeId(2)), damaged: false };
    let begin = || {
        let disk = mem_disk(0);
        let mut log = fresh(&disk);
        log.write(&[Write { id: WriteId(1), hard_state: Some(hard_state), ..Write::default() }]).unwrap();
        drop(log);
        disk
    };
    for slot in [0, 1] {
        let disk = begin();
        disk.flip_bit(&path, slot * BLOCK * 8 + 300).unwrap();
        let disk = disk.restart();
        assert_eq!(reopen(&disk).unwrap().1.hard_state, hard_state);
        // It was mended at once.
        disk.flip_bit(&path, (1 - slot) * BLOCK * 8 + 300).unwrap();
        assert_eq!(reopen(&disk.restart()).unwrap().1.hard_state, hard_state);
    }
    let disk = begin();
    disk.flip_bit(&path, 300).unwrap();
    disk.flip_bit(&path, BLOCK * 8 + 300).unwrap();
    let before = disk.disk_bytes(&path).unwrap();
    let disk = disk.restart();
    let error = reopen(&disk).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::HardStateLost { node: NodeId(1), .. }));
    assert!(error.to_string().contains("remove node 1 from the cluster"), "{error}");
    assert_eq!(disk.disk_bytes(&path).unwrap(), before);
}

/// A hard state that was put back from an old copy would let the node vote twice.
#[test]
fn a_hard_state_behind_the_log_is_refused() {
    let path = common::hard_state_file();
    let disk = mem_disk(0);
    let mut log = fresh(&disk);
    log.write(&[term(1, 1)]).unwrap();
    let old = disk.disk_bytes(&path).unwrap();
    log.write(&[Write { entries: vec![entry(1, 5, "a")], ..term(2, 5) }]).unwrap();
    drop(log);
    disk.set_disk_bytes(&path, 0, &old).unwrap();
    let error = reopen(&disk.restart()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::HardStateBehindLog { hard_state: Term(1), log: Term(5), .. }));
}

/// Without a way past the page cache, both slots are written anew: what is equal there may differ on the disk.
#[test]
fn both_slots_are_mended_after_a_failed_sync_without_direct_reads() {
    let mut differed = 0;
    for seed in 0..20 {
        let options = MemDiskOptions { seed, direct_reads: false, ..MemDiskOptions::default() };
        let disk = MemDisk::new(options);
        let mut log = fresh(&disk);
        disk.set_fault(disk.operations() + 3, Fault::Error(ErrorKind::Other));
        log.write(&[term(1, 1)]).unwrap_err();
        let slots = |disk: &MemDisk| {
            let bytes = disk.disk_bytes(&common::hard_state_file()).unwrap();
            (bytes[..4096].to_vec(), bytes[4096..].to_vec())
        };
        let (a, b) = slots(&disk);
        differed += u32::from(a != b);
        let (log, recovered) = reopen(&disk.restart()).unwrap();
        assert_eq!(recovered.hard_state.term, Term(1), "both slots look new");
        drop(log);
        let (a, b) = slots(&disk);
        assert_eq!(a, b);
    }
    assert!(differed > 5);
}

/// The flag is cleared for the entries that were written before it, so it must not be durable before them, even if one
/// call brings both.
#[test]
fn the_flag_is_cleared_after_the_entries_that_it_waited_for() {
    for operation in 0.. {
        let disk = mem_disk(operation);
        let mut log = fresh(&disk);
        let damaged = HardState { term: Term(1), vote: None, damaged: true };
        log.write(&[Write { id: WriteId(1), hard_state: Some(damaged), ..Write::default() }]).unwrap();
        disk.set_fault(disk.operations() + operation, Fault::PowerCut);
        let whole = HardState { damaged: false, ..damaged };
        let clear = Write { id: WriteId(3), hard_state: Some(whole), ..Write::default() };
        let done = log.write(&[append(2, vec![entry(1, 1, "re-sent")]), clear]).is_ok();
        disk.clear_faults();
        disk.cut_power();
        let (log, recovered) = reopen(&disk.restart()).unwrap();
        assert!(recovered.hard_state.damaged || entries(&log).len() == 1, "operation {operation}");
        assert!(!done || !recovered.hard_state.damaged);
        if done {
            assert!(operation >= 6);
            return;
        }
    }
}
