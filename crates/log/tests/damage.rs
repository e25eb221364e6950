//! Disks that lie: rot, lost and misdirected writes. What was acknowledged is there, or the log says where it is not.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{
    BLOCK, append, dir, entries, entry, fresh, identity, large, mem_disk, reopen, segment, term, tiny,
};
use proptest::prelude::*;
use raftmap_log::mem_disk::Fault;
use raftmap_log::{
    Damage, DamageReason, Log, LogError, LogOptions, MemDisk, MemDiskOptions, OpenError, Repair,
};
use raftmap_raft::{Entry, HardState, LogIndex, NodeId, Term, Write, WriteId};

/// A log of batches of one to three blocks, with cuts in it, that runs over several segments. Gives the log and what it
/// held at each step, up to the last one.
fn written(disk: &MemDisk) -> (Log<MemDisk>, Vec<Vec<Entry>>) {
    let mut log = fresh(disk);
    let mut states = vec![];
    for id in 1..=16 {
        let last = log.last().index.0;
        let cut = (id % 5 == 0).then(|| LogIndex(last - 1));
        let first = cut.map_or(last, |cut| cut.0) + 1;
        let size = [10, 6000, 100, 9000][usize::try_from(id % 4).unwrap()];
        let new = vec![entry(first, id, "first"), large(first + 1, id, size)];
        let write = Write { truncate_to: cut, entries: new, ..term(id, id) };
        states.extend(common::steps(&entries(&log), &write));
        log.write(&[write]).unwrap();
        assert_eq!(states.last(), Some(&entries(&log)));
    }
    (log, states)
}

fn damage(repair: Repair) -> Damage {
    match repair {
        Repair::Damaged(damage) => damage,
        other => panic!("{other:?}"),
    }
}

fn segments(disk: &MemDisk) -> Vec<u64> {
    (1..).take_while(|number| disk.disk_bytes(&segment(*number)).is_ok()).collect()
}

/// The places of all blocks that are not zero: segment and block.
fn blocks(disk: &MemDisk) -> Vec<(u64, u64)> {
    let mut blocks = Vec::new();
    for number in segments(disk) {
        let bytes = disk.disk_bytes(&segment(number)).unwrap();
        for (block, content) in (0..).zip(bytes.chunks(4096)) {
            if content.iter().any(|byte| *byte != 0) {
                blocks.push((number, block));
            }
        }
    }
    blocks
}

/// Scenario 49: rot in any block that was acknowledged, the last one included, is reported with its place, and never
/// taken for the end of the log.
#[test]
fn a_flipped_bit_in_any_block_is_reported_with_its_place() {
    let disk = mem_disk(1);
    let (log, states) = written(&disk);
    drop(log);
    let blocks = blocks(&disk);
    assert!(blocks.len() > 25 && segments(&disk).len() > 3);
    let mut rng = fastrand::Rng::with_seed(3);
    for (number, block) in blocks {
        for bit in [0, 32, 40, 64, 128, 192, 256, 8 * (32 + 16), rng.u64(..BLOCK * 8), BLOCK * 8 - 1] {
            let context = format!("bit {bit} of block {block} of segment {number}");
            let disk = mem_disk(1);
            let (log, _) = written(&disk);
            drop(log);
            disk.flip_bit(&segment(number), block * BLOCK * 8 + bit).unwrap();
            let disk = disk.restart();
            let (log, recovered) = reopen(&disk).unwrap();
            let damage = damage(recovered.repair);
            assert_eq!((damage.segment, damage.offset), (number, block * BLOCK), "{context}");
            assert_eq!(damage.reason, DamageReason::Checksum, "{context}");
            assert!(recovered.hard_state.damaged, "{context}");
            assert_eq!(recovered.hard_state.term, Term(16), "{context}");
            let there = entries(&log);
            assert!(states.contains(&there) && Some(&there) != states.last(), "{context}");
            assert!(damage.first_lost <= LogIndex(there.len() as u64 + 1), "{context}");
            if (number, block) < (segments(&disk).len() as u64, 0) {
                assert!(damage.reached.is_some(), "{context}: later batches can be read");
            }
            // What was cut is kept, and the next start knows.
            let aside = dir().join("group-1/aside");
            assert!(disk.disk_bytes(&aside.join(format!("damaged-{number:012}-1"))).is_ok(), "{context}");
            drop(log);
            disk.cut_power();
            let (log, again) = reopen(&disk.restart()).unwrap();
            assert_eq!((again.repair, again.hard_state.damaged), (Repair::Clean, true), "{context}");
            assert_eq!(again.reached, recovered.reached, "{context}");
            assert!(again.reached >= damage.reached, "{context}");
            assert_eq!(entries(&log), there, "{context}");
        }
    }
}

/// A write that was acknowledged.
struct Step {
    /// How many operations the disk had done before.
    operations: u64,
    hard_state: HardState,
    /// What the log held meanwhile; the last one: what it holds afterwards.
    logs: Vec<Vec<Entry>>,
}

/// Runs a script without restarts.
fn run(disk: &MemDisk, seed: u64) -> Vec<Step> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut log, _) = reopen(disk).unwrap();
    let mut steps = vec![];
    let mut all = vec![];
    let mut hard_state = HardState { term: Term(1), ..HardState::default() };
    for id in 1..=12 {
        let last = log.last().index.0;
        let mut write = Write { id: WriteId(id), ..Write::default() };
        if id == 1 || rng.u8(..3) == 0 {
            hard_state.term.0 += 1;
            write.hard_state = Some(hard_state);
        }
        let keep = if rng.u8(..4) == 0 { rng.u64(..=last) } else { last };
        write.truncate_to = (keep < last).then_some(LogIndex(keep));
        write.entries = (keep + 1..keep + 1 + rng.u64(1..3))
            .map(|index| large(index, hard_state.term.0, rng.usize(..9000)))
            .collect();
        let logs = common::steps(&all, &write);
        all = logs.last().unwrap().clone();
        let operations = disk.operations();
        log.write(&[write]).unwrap();
        steps.push(Step { operations, hard_state, logs });
        if rng.u8(..4) == 0 {
            log.mark().unwrap();
        }
    }
    steps
}

/// Each write of a script is lost, or lands elsewhere. Afterwards everything is there, or the log is damaged and says so,
/// or it was the accepted corner: the whole write of the very last batch, with no mark behind it.
fn lying_disk(fault: Fault) -> BTreeMap<&'static str, u64> {
    let mut outcomes = BTreeMap::new();
    for seed in 0..25 {
        for fallback in [false, true] {
            let options = MemDiskOptions { seed, direct_reads: !fallback, ..MemDiskOptions::default() };
            let begin = || {
                let disk = MemDisk::new(options.clone());
                Log::init(&disk, &dir(), &identity(3), &tiny()).unwrap();
                disk
            };
            let disk = begin();
            let operations = run(&disk, seed)[0].operations..disk.operations();
            for operation in operations {
                let disk = begin();
                disk.set_fault(operation, fault);
                let steps = run(&disk, seed);
                disk.cut_power();
                let (log, recovered) = reopen(&disk.restart()).unwrap();
                let last = steps.last().unwrap();
                let there = entries(&log);
                let context = format!("seed {seed}, operation {operation}: {:?}", recovered.repair);
                assert_eq!(recovered.hard_state.term, last.hard_state.term, "{context}");
                let outcome = match recovered.repair {
                    Repair::Damaged(_) => {
                        assert!(recovered.hard_state.damaged, "{context}");
                        assert!(steps.iter().any(|step| step.logs.contains(&there)), "{context}");
                        "damaged"
                    }
                    _ if Some(&there) == last.logs.last() => "all there",
                    Repair::Clean => {
                        assert!(operation >= last.operations && last.logs.contains(&there), "{context}");
                        "accepted corner"
                    }
                    Repair::TornTailCut { .. } => panic!("{context}"),
                };
                *outcomes.entry(outcome).or_insert(0) += 1;
            }
        }
    }
    outcomes
}

#[test]
fn a_lost_write_is_found_by_the_chain_or_by_the_mark() {
    let outcomes = lying_disk(Fault::LostWrite);
    assert!(outcomes["damaged"] > 300 && outcomes["accepted corner"] > 5, "{outcomes:?}");
}

#[test]
fn a_misdirected_write_is_found() {
    for distance in [1, -1, 2, -3] {
        let outcomes = lying_disk(Fault::MisdirectedWrite(distance));
        assert!(outcomes["damaged"] > 300, "{distance}: {outcomes:?}");
    }
}

/// The corner that docs/safety.md accepts, and how the mark closes it.
#[test]
fn a_lost_last_batch_is_found_only_after_its_mark() {
    let run = |mark: bool| {
        let disk = mem_disk(0);
        let mut log = fresh(&disk);
        log.write(&[Write { entries: vec![entry(1, 1, "a")], ..term(1, 1) }]).unwrap();
        disk.set_fault(disk.operations(), Fault::LostWrite);
        log.write(&[append(2, vec![entry(2, 1, "acknowledged")])]).unwrap();
        if mark {
            log.mark().unwrap();
        }
        disk.cut_power();
        let (log, recovered) = reopen(&disk.restart()).unwrap();
        assert_eq!(entries(&log), [entry(1, 1, "a")]);
        recovered.repair
    };
    assert_eq!(run(false), Repair::Clean, "as if it had never been");
    let found = damage(run(true));
    assert_eq!((found.segment, found.offset), (1, BLOCK));
    assert_eq!((found.first_lost, found.reason), (LogIndex(2), DamageReason::Missing));
}

/// What disks do most often: a sector that they cannot read any more.
#[test]
fn a_bad_sector_is_damage_with_a_place_and_not_the_end_of_the_node() {
    for options in [true, false].map(|direct_reads| MemDiskOptions { direct_reads, ..Default::default() }) {
        let disk = MemDisk::new(options);
        let (log, states) = written(&disk);
        drop(log);
        disk.drop_caches();
        disk.make_bad_sector(&segment(2), 3 * BLOCK).unwrap();
        disk.make_bad_sector(&common::hard_state_file(), 0).unwrap();
        let disk = disk.restart();
        let (log, recovered) = reopen(&disk).unwrap();
        let damage = damage(recovered.repair);
        assert_eq!((damage.segment, damage.offset), (2, 3 * BLOCK));
        assert_eq!(damage.reason, DamageReason::Checksum);
        assert_eq!((recovered.hard_state.term, recovered.hard_state.damaged), (Term(16), true));
        assert!(states.contains(&entries(&log)));
        drop(log);
        disk.cut_power();
        assert_eq!(reopen(&disk.restart()).unwrap().1.repair, Repair::Clean);
    }
}

/// A disk that reads nothing is broken, and not a log that lost everything.
#[test]
fn a_disk_that_cannot_read_is_an_error() {
    for path in [segment(1), common::hard_state_file()] {
        let disk = mem_disk(0);
        drop(fresh(&disk));
        for block in 0..8 {
            disk.make_bad_sector(&path, block * BLOCK).unwrap();
        }
        let error = reopen(&disk.restart()).map(drop).unwrap_err();
        assert!(matches!(error, OpenError::Log(LogError::Io { operation: "read", .. })), "{error}");
    }
}

/// Scenario 49, the simplest form: a batch in the middle is not there any more.
#[test]
fn a_lost_batch_in_the_middle_is_named() {
    let disk = mem_disk(0);
    let mut log = fresh(&disk);
    log.write(&[term(1, 1)]).unwrap();
    for index in 1..=3 {
        log.write(&[append(1 + index, vec![entry(index, 1, "a")])]).unwrap();
    }
    drop(log);
    disk.set_disk_bytes(&segment(1), BLOCK, &[0; 4096]).unwrap();
    let (log, recovered) = reopen(&disk.restart()).unwrap();
    let damage = damage(recovered.repair);
    assert_eq!(
        damage.to_string(),
        "segment 1 is damaged at offset 4096: a batch is missing, for later ones are there; entries from index 2 on are \
         lost (the log reached at least 3)"
    );
    assert_eq!(recovered.reached, Some(LogIndex(3)));
    assert_eq!(entries(&log).len(), 1);
}

/// What stands behind the damage may have replaced entries before it.
#[test]
fn the_first_lost_entry_may_stand_before_the_damage() {
    let disk = mem_disk(0);
    let mut log = fresh(&disk);
    let five = (1..=5).map(|index| entry(index, 1, "old")).collect();
    log.write(&[Write { entries: five, ..term(1, 1) }]).unwrap();
    log.write(&[append(2, vec![entry(6, 1, "old")])]).unwrap();
    let cut = Write { truncate_to: Some(LogIndex(2)), entries: vec![entry(3, 2, "new")], ..term(3, 2) };
    log.write(&[cut]).unwrap();
    drop(log);
    disk.flip_bit(&segment(1), BLOCK * 8 + 700).unwrap();
    let (log, recovered) = reopen(&disk.restart()).unwrap();
    let damage = damage(recovered.repair);
    assert_eq!((damage.first_lost, damage.reached), (LogIndex(3), Some(LogIndex(3))));
    assert_eq!((log.last().index, recovered.reached), (LogIndex(5), Some(LogIndex(5))));
}

/// A crash at any step of the repair: the node never starts with less than it acknowledged and without the flag.
#[test]
fn the_flag_is_durable_before_anything_is_cut() {
    let mut cut_short = 0;
    for seed in 0..4 {
        for (number, block) in [(1, 1), (2, 0), (3, 4)] {
            for operation in 0.. {
                let options = MemDiskOptions { seed, ..MemDiskOptions::default() };
                let mut disk = MemDisk::new(options);
                let (log, states) = written(&disk);
                drop(log);
                disk.flip_bit(&segment(number), block * BLOCK * 8 + 99).unwrap();
                disk = disk.restart();
                disk.set_fault(disk.operations() + operation, Fault::PowerCut);
                let first = reopen(&disk).map(drop);
                disk.clear_faults();
                let done = first.is_ok();
                if !done {
                    cut_short += 1;
                    disk = disk.restart();
                    let (log, recovered) = reopen(&disk).unwrap();
                    assert!(recovered.hard_state.damaged, "cut short at {operation}");
                    assert!(states.contains(&entries(&log)), "cut short at {operation}");
                }
                disk.cut_power();
                let (mut log, recovered) = reopen(&disk.restart()).unwrap();
                assert_eq!(recovered.repair, Repair::Clean);
                assert!(recovered.hard_state.damaged);
                let index = log.last().index.next().0;
                log.write(&[append(1, vec![entry(index, 16, "goes on")])]).unwrap();
                if done {
                    break;
                }
            }
        }
    }
    assert!(cut_short > 200, "{cut_short}");
}

#[test]
fn a_single_node_starts_damaged_only_if_the_loss_is_accepted() {
    let disk = mem_disk(0);
    let mut log = common::fresh_of(&disk, 1, &tiny());
    for id in 1..=3 {
        log.write(&[Write { entries: vec![entry(id, 1, "a")], ..term(id, 1) }]).unwrap();
    }
    drop(log);
    disk.flip_bit(&segment(1), BLOCK * 8 + 500).unwrap();
    let disk = disk.restart();
    for _ in 0..2 {
        let refused = reopen(&disk).map(drop).unwrap_err();
        assert!(matches!(&refused, OpenError::SingleNodeDamaged(damage) if damage.offset == BLOCK));
        assert!(refused.to_string().contains("--accept-loss"), "{refused}");
    }
    let options = LogOptions { accept_loss: true, ..tiny() };
    let (log, recovered) = Log::open(disk.clone(), &dir(), &options).unwrap();
    assert_eq!(damage(recovered.repair).first_lost, LogIndex(2));
    assert!(!recovered.hard_state.damaged, "nobody could ever clear it");
    assert_eq!(entries(&log).len(), 1);
    drop(log);
    assert_eq!(reopen(&disk).unwrap().1.repair, Repair::Clean);
}

/// Scenario 50.
#[test]
fn a_torn_tail_is_cut_and_the_log_starts() {
    let mut torn = 0;
    for seed in 0..20 {
        let disk = mem_disk(seed);
        let mut log = fresh(&disk);
        log.write(&[Write { entries: vec![entry(1, 1, "a")], ..term(1, 1) }]).unwrap();
        // The sync of four blocks is cut short.
        disk.set_fault(disk.operations() + 1, Fault::PowerCut);
        log.write(&[append(2, vec![large(2, 1, 14_000)])]).unwrap_err();
        let disk = disk.restart();
        let (mut log, recovered) = reopen(&disk).unwrap();
        if let Repair::TornTailCut { segment: number, offset, aside } = recovered.repair {
            torn += 1;
            assert_eq!((number, offset), (1, BLOCK));
            let copy = disk.disk_bytes(&dir().join("group-1/aside").join(aside)).unwrap();
            assert!(copy.contains(&b'x') || copy.len() == 4096);
            assert_eq!(blocks(&disk), [(1, 0)]);
            assert_eq!(entries(&log), [entry(1, 1, "a")]);
        }
        log.write(&[append(1, vec![entry(log.last().index.next().0, 1, "goes on")])]).unwrap();
    }
    assert!(torn > 10, "{torn}");
}

/// A torn batch is not called torn if one of its blocks is rotten: it may have been whole once.
#[test]
fn a_rotten_block_in_the_last_batch_is_damage() {
    let disk = mem_disk(0);
    let mut log = fresh(&disk);
    log.write(&[Write { entries: vec![large(1, 1, 14_000)], ..term(1, 1) }]).unwrap();
    drop(log);
    disk.set_disk_bytes(&segment(1), 0, &[0; 4096]).unwrap();
    let torn = disk.restart();
    torn.flip_bit(&segment(1), 2 * BLOCK * 8 + 77).unwrap();
    let damage = damage(reopen(&torn).unwrap().1.repair);
    assert_eq!((damage.offset, damage.reason), (2 * BLOCK, DamageReason::Checksum));
}

/// At most 16 copies of torn tails are kept.
#[test]
fn copies_of_torn_tails_do_not_pile_up() {
    let disk = mem_disk(0);
    drop(fresh(&disk));
    let mut disk = disk;
    let mut cut = 0;
    for id in 1.. {
        let (mut log, recovered) = reopen(&disk).unwrap();
        cut += u32::from(recovered.repair != Repair::Clean);
        if cut == 20 {
            break;
        }
        let index = log.last().index.next().0;
        log.write(&[Write { entries: vec![entry(index, id, "a")], ..term(1, id) }]).unwrap();
        disk.set_fault(disk.operations() + 1, Fault::PowerCut);
        log.write(&[append(2, vec![large(index + 1, id, 14_000)])]).unwrap_err();
        disk = disk.restart();
    }
    let (log, _) = reopen(&disk.restart()).unwrap();
    drop(log);
    let aside = raftmap_log::Disk::list(&disk.restart(), &dir().join("group-1/aside")).unwrap();
    assert_eq!(aside.len(), 16);
}

fn with_checksum(mut block: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c(&block[4..]);
    block[..4].copy_from_slice(&checksum.to_le_bytes());
    block
}

#[test]
fn a_newer_format_version_is_refused() {
    for (path, offset) in
        [(segment(1), 0), (segment(1), BLOCK), (segment(1), 5 * BLOCK), (common::hard_state_file(), BLOCK)]
    {
        let disk = mem_disk(0);
        let mut log = fresh(&disk);
        log.write(&[Write { entries: vec![large(1, 1, 5000)], ..term(1, 1) }]).unwrap();
        drop(log);
        let at = usize::try_from(offset).unwrap();
        let mut block = disk.disk_bytes(&path).unwrap()[at..at + 4096].to_vec();
        block[4] = 2;
        disk.set_disk_bytes(&path, offset, &with_checksum(block)).unwrap();
        let error = reopen(&disk.restart()).map(drop).unwrap_err();
        assert!(
            matches!(&error, OpenError::UnknownVersion { version: 2, known: 1, path: at } if *at == path),
            "{error}"
        );
    }
}

/// A file of another node, a missing file, a file that was cut: all are found.
#[test]
fn files_that_do_not_belong_together_are_found() {
    let begin = || {
        let disk = mem_disk(1);
        written(&disk);
        disk
    };
    let first_damage = |disk: &MemDisk| damage(reopen(&disk.restart()).unwrap().1.repair);
    let remove = |disk: &MemDisk, number| {
        raftmap_log::Disk::remove(&disk.restart(), &segment(number)).unwrap();
        disk.restart()
    };

    let disk = remove(&begin(), 2);
    assert_eq!(first_damage(&disk).reason, DamageReason::Missing);
    let disk = remove(&begin(), 1);
    let found = first_damage(&disk);
    assert_eq!((found.segment, found.offset, found.first_lost), (1, 0, LogIndex(1)));

    // Another node of the same cluster, with the same entries.
    let other = mem_disk(1);
    let stranger = raftmap_log::Identity::new(0xC1, NodeId(2), 78, vec![common::member(2)]).unwrap();
    Log::init(&other, &dir(), &stranger, &tiny()).unwrap();
    let (mut log, _) = reopen(&other).unwrap();
    log.write(&[Write { entries: vec![entry(1, 1, "a")], ..term(1, 1) }]).unwrap();
    let disk = begin();
    disk.set_disk_bytes(&segment(1), 0, &other.disk_bytes(&segment(1)).unwrap()).unwrap();
    assert_eq!(first_damage(&disk).reason, DamageReason::Foreign);

    // The last segment loses its end.
    let disk = begin();
    let last = segments(&disk).len() as u64;
    let bytes = disk.disk_bytes(&segment(last)).unwrap();
    let disk = remove(&disk, last);
    let file = raftmap_log::Disk::create(&disk, &segment(last), 4 * BLOCK).unwrap();
    raftmap_log::DiskFile::write_at(&file, &bytes[..16384], 0).unwrap();
    assert_eq!(first_damage(&disk).reason, DamageReason::Length);
}

/// A batch, or a block of one, of another history of the same log: number, place and ids fit, and only the chain tells.
#[test]
fn a_batch_of_another_history_breaks_the_chain() {
    let history = |text: &str| {
        let disk = mem_disk(0);
        let mut log = fresh(&disk);
        log.write(&[term(1, 1)]).unwrap();
        for index in 1..=2 {
            log.write(&[append(1 + index, vec![entry(index, 1, &text.repeat(5000))])]).unwrap();
        }
        disk
    };
    for (place, shown, reason) in [
        (2, 2, DamageReason::Chain),
        // Only the head of the last batch says what the rest of it is.
        (3, 2, DamageReason::Inconsistent),
    ] {
        let (disk, other) = (history("a"), history("b"));
        let at = place * 4096;
        let foreign = &other.disk_bytes(&segment(1)).unwrap()[at..at + 4096];
        disk.set_disk_bytes(&segment(1), at as u64, foreign).unwrap();
        let (log, recovered) = reopen(&disk.restart()).unwrap();
        let damage = damage(recovered.repair);
        assert_eq!((damage.offset, damage.reason), (shown * BLOCK, reason));
        assert_eq!(entries(&log), [entry(1, 1, &"a".repeat(5000))]);
    }
}

/// A device that tears blocks may leave a node damaged, but nothing that was acknowledged is lost without the flag.
#[test]
fn a_device_that_tears_blocks_loses_nothing_in_silence() {
    let mut seen = [0; 2];
    for seed in 0..300 {
        let options = MemDiskOptions { seed, atomic_bytes: 512, ..MemDiskOptions::default() };
        let disk = MemDisk::new(options);
        let mut log = fresh(&disk);
        log.write(&[Write { entries: vec![entry(1, 1, "a")], ..term(1, 1) }]).unwrap();
        disk.set_fault(disk.operations() + seed % 6, Fault::PowerCut);
        let new = Write { entries: vec![large(2, 2, 6000)], ..term(2, 2) };
        log.write(&[new]).unwrap_err();
        let (log, recovered) = reopen(&disk.restart()).unwrap();
        let is_damaged = matches!(recovered.repair, Repair::Damaged(_));
        assert_eq!(recovered.hard_state.damaged, is_damaged);
        assert_eq!(entries(&log)[0], entry(1, 1, "a"));
        seen[usize::from(is_damaged)] += 1;
    }
    assert!(seen[0] > 50 && seen[1] > 20, "{seen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in the files, a start ends in a log or in an error, and a log that is not damaged has all.
    #[test]
    fn a_start_survives_any_bytes(
        number in 1u64..4,
        offset in 0u64..8 * BLOCK,
        bytes in proptest::collection::vec(any::<u8>(), 1..200),
    ) {
        let disk = mem_disk(1);
        let (log, states) = written(&disk);
        drop(log);
        let offset = offset.min(8 * BLOCK - bytes.len() as u64);
        disk.set_disk_bytes(&segment(number), offset, &bytes).unwrap();
        let (log, recovered) = reopen(&disk.restart()).unwrap();
        let there = entries(&log);
        prop_assert!(states.contains(&there));
        prop_assert!(recovered.hard_state.damaged || Some(&there) == states.last());
    }
}

/// What holds on the disk in memory holds on the real one.
#[test]
fn rot_is_found_on_a_real_disk() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let open = || Log::open(raftmap_log::RealDisk, &data, &tiny()).unwrap();
    Log::init(&raftmap_log::RealDisk, &data, &identity(3), &tiny()).unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&data).unwrap());
    assert_eq!(mode & 0o777, 0o700, "it is for the server's user alone");
    let (mut log, _) = open();
    for id in 1..=9 {
        log.write(&[Write { entries: vec![entry(id, 1, "a")], ..term(id, 1) }]).unwrap();
    }
    drop(log);
    let path = |name: &str| data.join("group-1").join(Path::new(name));
    common::flip_real(&path("segment-000000000001"), 5 * 4096 * 8 + 1000);
    let (log, recovered) = open();
    let damage = damage(recovered.repair);
    assert_eq!((damage.segment, damage.offset, damage.first_lost), (1, 5 * BLOCK, LogIndex(6)));
    assert_eq!((damage.reached, entries(&log).len()), (Some(LogIndex(9)), 5));
    for aside in ["aside/damaged-000000000001-1", "aside/damaged-000000000002-1"] {
        assert!(path(aside).is_file(), "{aside}");
    }
}

/// Scenario 50 on a real disk.
#[test]
fn a_torn_tail_is_cut_on_a_real_disk() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let open = || Log::open(raftmap_log::RealDisk, &data, &tiny()).unwrap();
    Log::init(&raftmap_log::RealDisk, &data, &identity(3), &tiny()).unwrap();
    let (mut log, _) = open();
    log.write(&[Write { entries: vec![entry(1, 1, "a")], ..term(1, 1) }]).unwrap();
    log.write(&[append(2, vec![large(2, 1, 14_000)])]).unwrap();
    drop(log);
    let path = data.join("group-1/segment-000000000001");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3 * 4096..4 * 4096].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let (mut log, recovered) = open();
    let Repair::TornTailCut { segment: 1, offset: BLOCK, aside } = recovered.repair else {
        panic!("{:?}", recovered.repair)
    };
    assert_eq!(std::fs::read(data.join("group-1/aside").join(aside)).unwrap().len(), 4 * 4096);
    assert!(!recovered.hard_state.damaged);
    log.write(&[append(1, vec![entry(2, 1, "b")])]).unwrap();
    drop(log);
    assert_eq!(entries(&open().0), [entry(1, 1, "a"), entry(2, 1, "b")]);
}
