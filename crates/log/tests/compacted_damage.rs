//! Disks that lie about a log whose first segments are gone. What was acknowledged is there, or the log says that it is
//! damaged; and it never begins at a place that it was not told of.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;

use common::history::{Content, Writer};
use common::{
    BLOCK, append, base, dir, entries, entry, fresh, large, mem_disk, rebase, reopen, segment, term,
};
use proptest::prelude::*;
use raftmap_log::mem_disk::Fault;
use raftmap_log::{
    Damage, DamageReason, Disk, Log, LogOptions, MemDisk, MemDiskOptions, OpenError, Recovered, Repair,
};
use raftmap_raft::{Base, LogIndex, Membership, NodeId, Term, Write, WriteId};

/// What a log went through.
#[derive(Default)]
struct Story {
    /// What it held meanwhile; the last one: what it holds.
    steps: Vec<Content>,
    /// The blocks of the record of its newest base: segment and place.
    of_base: Vec<(u64, u64)>,
}

impl Story {
    fn last(&self) -> &Content {
        self.steps.last().unwrap()
    }

    fn newest_base(&self) -> Option<&Base> {
        self.last().base.as_ref()
    }

    /// Whether a damaged log may hold this: what it once held, or nothing behind a base that it was told of.
    fn allows(&self, content: &Content) -> bool {
        let told = |base: &Base| self.steps.iter().any(|step| step.base.as_ref() == Some(base));
        self.steps.contains(content) || (content.entries.is_empty() && content.base.as_ref().is_none_or(told))
    }

    fn write(&mut self, log: &mut Log<MemDisk>, disk: &MemDisk, write: Write) {
        let before = self.steps.last().cloned().unwrap_or_default();
        self.steps.extend(before.steps(&write));
        let blocks_before = blocks(disk);
        let is_base = write.base.is_some();
        log.write(&[write]).unwrap();
        if is_base {
            self.of_base = blocks(disk).into_iter().filter(|block| !blocks_before.contains(block)).collect();
        }
    }
}

/// The numbers of all segments on the disk.
fn segments(disk: &MemDisk) -> Vec<u64> {
    let number = |path: &std::path::Path| {
        let name = path.file_name()?.to_str()?.strip_prefix("segment-")?;
        path.parent()?.ends_with("group-1").then(|| name.parse().ok()).flatten()
    };
    disk.files().iter().filter_map(|(path, _)| number(path)).collect()
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

/// How the newest base of a log came about, and what was done then.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// It leaves a tail; all before it is removed.
    Compacted,
    /// It leaves a tail; what is before it waits to be removed.
    Waiting,
    /// It leaves nothing; all before it is removed.
    Installed,
}

const SHAPES: [Shape; 3] = [Shape::Compacted, Shape::Waiting, Shape::Installed];

/// A log over several segments with two bases, and a mark at its end.
fn written(disk: &MemDisk, shape: Shape) -> Story {
    let mut log = fresh(disk);
    let mut story = Story::default();
    story.write(&mut log, disk, term(1, 1));
    let mut id = 1;
    let mut append = |log: &mut Log<MemDisk>, story: &mut Story, count: u64| {
        for _ in 0..count {
            id += 1;
            let index = log.last().index.next().0;
            let size = [10, 6000, 100, 9000][usize::try_from(id % 4).unwrap()];
            let write = Write { entries: vec![large(index, id, size)], ..term(id, id) };
            story.write(log, disk, write);
        }
        id += 1;
        id
    };
    let next = append(&mut log, &mut story, 9);
    let position = story.last().entries[5].position();
    story.write(&mut log, disk, rebase(next, base(position.index.0, position.term.0)));
    assert!(!common::cut(&mut log).is_empty());
    let next = append(&mut log, &mut story, 9);
    let position = story.last().entries[9].position();
    let newest = match shape {
        Shape::Installed => base(40, next - 1),
        _ => Base { durable: position.index.plus(2), ..base(position.index.0, position.term.0) },
    };
    story.write(&mut log, disk, rebase(next, newest));
    if !matches!(shape, Shape::Waiting) {
        assert!(!common::cut(&mut log).is_empty());
    }
    append(&mut log, &mut story, 5);
    log.mark().unwrap();
    assert_eq!(entries(&log), story.last().entries);
    story
}

fn damage(repair: &Repair) -> &Damage {
    match repair {
        Repair::Damaged(damage) => damage,
        other => panic!("{other:?}"),
    }
}

/// Looks at a log that was damaged: what it holds, and that the next starts find the same and go on.
fn check(disk: &MemDisk, story: &Story, context: &str) -> Recovered {
    let (log, recovered) = reopen(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let there = Content::of(&log, &recovered);
    assert!(story.allows(&there), "{context}: {there:?}");
    if matches!(recovered.repair, Repair::Damaged(_)) {
        assert!(recovered.hard_state.damaged, "{context}");
        assert!(recovered.reached >= Some(there.last().index).filter(|index| index.0 > 0), "{context}");
    }
    drop(log);
    disk.cut_power();
    let disk = disk.restart();
    let (mut log, again) = reopen(&disk).unwrap();
    assert_eq!(again.repair, Repair::Clean, "{context}");
    assert_eq!((again.hard_state, again.reached), (recovered.hard_state, recovered.reached), "{context}");
    assert_eq!(Content::of(&log, &again), there, "{context}");
    common::cut(&mut log);
    let index = log.last().index.next();
    log.write(&[append(1, vec![large(index.0, 99, 9000)])]).map(drop).unwrap_or_else(|error| {
        assert!(error.to_string().contains("in term"), "{context}: {error}");
    });
    drop(log);
    disk.cut_power();
    let (log, last) = reopen(&disk.restart()).unwrap();
    assert_eq!((last.repair, last.base), (Repair::Clean, there.base), "{context}");
    assert!(entries(&log).starts_with(&there.entries), "{context}");
    recovered
}

/// Ways to spoil a block, and whether it is certain to be found.
const SPOILS: [&str; 4] = ["rotten", "lost", "misplaced in its segment", "misplaced from another segment"];

fn spoil(disk: &MemDisk, how: &str, (number, block): (u64, u64), rng: &mut fastrand::Rng) {
    let at = |number: u64, block: u64| {
        let begin = usize::try_from(block * BLOCK).unwrap();
        disk.disk_bytes(&segment(number)).unwrap()[begin..][..4096].to_vec()
    };
    let content = match how {
        "rotten" => {
            return disk.flip_bit(&segment(number), block * BLOCK * 8 + rng.u64(..BLOCK * 8)).unwrap();
        }
        "lost" => vec![0; 4096],
        "misplaced in its segment" => at(number, if block == 0 { 1 } else { block - 1 }),
        _ => at(if segments(disk)[0] == number { number + 1 } else { number - 1 }, block),
    };
    disk.set_disk_bytes(&segment(number), block * BLOCK, &content).unwrap();
}

/// Scenario 49 for a log that was cut: nothing is silently shorter, and unless its own record is hit, the newest base is
/// where the log begins.
#[test]
fn every_block_of_a_compacted_log_is_spoiled_in_turn() {
    let mut outcomes = BTreeMap::new();
    for shape in SHAPES {
        let first = mem_disk(1);
        let story = written(&first, shape);
        let all = blocks(&first);
        assert!(all.len() > 12, "{}", all.len());
        for at in all.iter().copied() {
            for how in SPOILS {
                let disk = mem_disk(1);
                written(&disk, shape);
                spoil(&disk, how, at, &mut fastrand::Rng::with_seed(at.0 * 100 + at.1));
                let context = format!("{shape:?}: block {} of segment {} is {how}", at.1, at.0);
                let disk = disk.restart();
                let recovered = check(&disk, &story, &context);
                let lost_mark =
                    Some(&at) == all.last() && how != "rotten" && recovered.repair == Repair::Clean;
                if !lost_mark {
                    let damage = damage(&recovered.repair);
                    // A batch that is lost where two segments meet is given away by the other one.
                    assert!(at.0.abs_diff(damage.segment) <= 1, "{context}: {damage}");
                    assert!(
                        at != all[0] || (damage.segment, damage.offset) == (at.0, 0),
                        "{context}: {damage}"
                    );
                }
                let kept = recovered.base.as_ref() == story.newest_base();
                assert!(kept || story.of_base.contains(&at), "{context}: {:?}", recovered.base);
                *outcomes.entry((kept, recovered.last.index > LogIndex(0))).or_insert(0) += 1;
            }
        }
    }
    assert!(outcomes[&(true, true)] > 100 && outcomes.keys().any(|(kept, _)| !kept), "{outcomes:?}");
}

/// Segments that are missing altogether: those that the log needs are damage, the others nobody misses.
#[test]
fn missing_segments_are_found_if_they_are_needed() {
    let mut needed = 0;
    for shape in SHAPES {
        let numbers = {
            let disk = mem_disk(1);
            written(&disk, shape);
            segments(&disk)
        };
        let log_needs = {
            let disk = mem_disk(1);
            written(&disk, shape);
            let (mut log, _) = reopen(&disk.restart()).unwrap();
            common::cut(&mut log);
            log.segments()[0].number
        };
        for up_to in numbers.iter().copied() {
            let disk = mem_disk(1);
            let story = written(&disk, shape);
            let disk = disk.restart();
            for number in numbers.iter().copied().filter(|number| *number <= up_to) {
                Disk::remove(&disk, &segment(number)).unwrap();
            }
            let context = format!("{shape:?}: segments up to {up_to} are missing");
            let recovered = check(&disk, &story, &context);
            if up_to < log_needs {
                assert_eq!(
                    (&recovered.repair, &recovered.base),
                    (&Repair::Clean, &story.last().base),
                    "{context}"
                );
                continue;
            }
            needed += 1;
            let damage = damage(&recovered.repair);
            assert_eq!(damage.reason, DamageReason::Missing, "{context}");
            if up_to + 1 < numbers[numbers.len() - 1] {
                assert_eq!(recovered.reached, Some(story.last().last().index), "{context}");
            }
            assert_eq!(
                recovered.last.index,
                recovered.base.map_or(LogIndex(0), |base| base.position.index),
                "{context}"
            );
        }
        for number in numbers[1..].iter().copied() {
            let disk = mem_disk(1);
            let story = written(&disk, shape);
            let disk = disk.restart();
            Disk::remove(&disk, &segment(number)).unwrap();
            let context = format!("{shape:?}: segment {number} is missing");
            let last = number == *numbers.last().unwrap();
            let recovered = check(&disk, &story, &context);
            assert_eq!(matches!(recovered.repair, Repair::Damaged(_)), !last, "{context}");
        }
    }
    assert!(needed > 5, "{needed}");
}

/// A crash at any step of the repair, and at any step of the repair that follows it: the flag is there, the newest base is
/// there unless it was hit itself, and in the end nothing is left to repair.
#[test]
fn a_repair_that_begins_anew_may_be_cut_short_anywhere() {
    let mut cut_short = 0;
    for shape in SHAPES {
        let first = mem_disk(1);
        let story = written(&first, shape);
        let all = blocks(&first);
        for (nth, at) in all.iter().copied().enumerate().filter(|(nth, _)| nth % 2 == 0) {
            for operation in 0.. {
                let seed = nth as u64 ^ operation;
                let options = MemDiskOptions {
                    seed,
                    direct_reads: !seed.is_multiple_of(3),
                    ..MemDiskOptions::default()
                };
                let mut disk = MemDisk::new(options);
                written(&disk, shape);
                let mut rng = fastrand::Rng::with_seed(seed);
                spoil(&disk, SPOILS[rng.usize(..2)], at, &mut rng);
                disk = disk.restart();
                let mut after = operation;
                let mut crashes = 0;
                let context = format!("{shape:?}: block {at:?}, cut short at {operation}");
                loop {
                    let fault = if rng.bool() { Fault::PowerCut } else { Fault::Kill };
                    disk.set_fault(disk.operations() + after, fault);
                    let opened = reopen(&disk).map(drop);
                    disk.clear_faults();
                    if opened.is_ok() {
                        break;
                    }
                    crashes += 1;
                    after = if rng.bool() { rng.u64(..60) } else { u64::MAX >> 1 };
                    disk = disk.restart();
                }
                disk.cut_power();
                let disk = disk.restart();
                let recovered = check(&disk, &story, &context);
                assert_eq!(
                    recovered.repair,
                    Repair::Clean,
                    "{context}: the start before this one came to its end"
                );
                assert!(recovered.hard_state.damaged || recovered.last == story.last().last(), "{context}");
                let kept = recovered.base.as_ref() == story.newest_base();
                assert!(kept || story.of_base.contains(&at), "{context}: {:?}", recovered.base);
                cut_short += crashes;
                if crashes == 0 {
                    break;
                }
            }
        }
    }
    assert!(cut_short > 1000, "{cut_short}");
}

/// A base in a batch that a crash cut short was never acknowledged: the log begins where it did before.
#[test]
fn a_base_in_a_torn_tail_does_not_count() {
    let mut seen = [0; 2];
    for seed in 0..40 {
        let disk = mem_disk(seed);
        let mut log = fresh(&disk);
        let entries = (1..=4).map(|index| entry(index, 1, "a")).collect();
        log.write(&[Write { entries, base: None, ..term(1, 1) }]).unwrap();
        log.write(&[rebase(2, base(2, 1))]).unwrap();
        disk.set_fault(disk.operations() + seed % 2, Fault::PowerCut);
        let write = Write { entries: vec![large(21, 1, 14_000)], ..rebase(3, base(20, 1)) };
        log.write(&[write]).unwrap_err();
        let (mut log, recovered) = reopen(&disk.restart()).unwrap();
        assert!(!recovered.hard_state.damaged);
        let expected = match recovered.repair {
            Repair::Clean if recovered.last.index == LogIndex(21) => base(20, 1),
            _ => base(2, 1),
        };
        seen[usize::from(matches!(recovered.repair, Repair::TornTailCut { .. }))] += 1;
        assert_eq!(recovered.base, Some(expected));
        let next = log.last().index.next().0;
        log.write(&[append(1, vec![entry(next, 1, "goes on")])]).unwrap();
    }
    assert!(seen.iter().all(|count| *count > 5), "{seen:?}");
}

/// A script of random writes that move the base, with cuts and marks among them. Gives, too, at which operation and step each
/// write of a batch began, and the last term.
fn run(disk: &MemDisk, seed: u64) -> (Story, Vec<(u64, usize)>, Term) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut log, _) = reopen(disk).unwrap();
    let mut writer = Writer::new();
    let mut story = Story::default();
    let mut began = Vec::new();
    for _ in 0..14 {
        let write = writer.write(&mut rng);
        if write.truncate_to.is_some() || write.base.is_some() || !write.entries.is_empty() {
            began.push((disk.operations(), story.steps.len()));
        }
        let before = story.steps.last().cloned().unwrap_or_default();
        story.steps.extend(before.steps(&write));
        log.write(&[write]).unwrap();
        match rng.u8(..6) {
            0 => log.mark().unwrap(),
            1 | 2 => drop(common::cut(&mut log)),
            _ => {}
        }
    }
    (story, began, writer.hard_state.term)
}

/// Each write of a script is lost, or lands elsewhere, while the base moves and segments are removed.
fn lying_disk(fault: Fault) -> BTreeMap<&'static str, u64> {
    let mut outcomes = BTreeMap::new();
    for seed in 0..30 {
        let begin = || {
            let options = MemDiskOptions { seed, direct_reads: seed % 2 == 0, ..MemDiskOptions::default() };
            let disk = MemDisk::new(options);
            drop(fresh(&disk));
            disk.restart()
        };
        let disk = begin();
        run(&disk, seed);
        let operations = disk.operations();
        for operation in begin().operations()..operations {
            let disk = begin();
            disk.set_fault(operation, fault);
            let (story, began, of_term) = run(&disk, seed);
            disk.cut_power();
            let context = format!("seed {seed}, operation {operation}");
            let disk = disk.restart();
            let (log, recovered) = reopen(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            let there = Content::of(&log, &recovered);
            let context = format!("{context}: {:?}", recovered.repair);
            assert_eq!(recovered.hard_state.term, of_term, "{context}");
            let outcome = match recovered.repair {
                Repair::Damaged(_) => {
                    assert!(recovered.hard_state.damaged, "{context}");
                    assert!(story.allows(&there), "{context}: {there:?}");
                    "damaged"
                }
                Repair::Clean if there == *story.last() => "all there",
                Repair::Clean => {
                    let (last_began, steps) = *began.last().unwrap();
                    assert!(operation >= last_began && story.steps[steps..].contains(&there), "{context}");
                    "accepted corner"
                }
                Repair::TornTailCut { .. } => panic!("{context}"),
            };
            drop(log);
            disk.cut_power();
            let (log, again) = reopen(&disk.restart()).unwrap();
            assert_eq!((Content::of(&log, &again), again.repair), (there, Repair::Clean), "{context}");
            *outcomes.entry(outcome).or_insert(0) += 1;
        }
    }
    outcomes
}

#[test]
fn a_lost_write_never_moves_the_base() {
    let outcomes = lying_disk(Fault::LostWrite);
    assert!(outcomes["damaged"] > 200 && outcomes["all there"] > 100, "{outcomes:?}");
}

#[test]
fn a_misdirected_write_never_moves_the_base() {
    for distance in [1, -1, 3] {
        let outcomes = lying_disk(Fault::MisdirectedWrite(distance));
        assert!(outcomes["damaged"] > 200, "{distance}: {outcomes:?}");
    }
}

/// Whether a node is the whole cluster is said by the base, once the entry that said so is gone.
#[test]
fn a_base_says_whether_a_node_is_alone() {
    let of = |ids: &[u64]| Membership::of_voters(ids.iter().map(|id| NodeId(*id)));
    let cases = [(3, of(&[1]), true), (1, of(&[1, 2, 3]), false), (3, of(&[2]), false)];
    for (founders, members, alone) in cases {
        let disk = mem_disk(0);
        let mut log = common::fresh_of(&disk, founders, &common::tiny());
        for index in 1..=3 {
            log.write(&[Write { entries: vec![entry(index, 1, "a")], ..term(index, 1) }]).unwrap();
        }
        log.write(&[rebase(4, Base { membership: members.clone(), ..base(2, 1) })]).unwrap();
        log.write(&[append(5, vec![entry(4, 1, "a")])]).unwrap();
        drop(log);
        let newest = Base { membership: members, ..base(2, 1) };
        // Behind the base, and before it.
        for place in [4, 1] {
            disk.flip_bit(&segment(1), place * BLOCK * 8 + 300).unwrap();
            let opened = reopen(&disk.restart()).map(|(_, recovered)| recovered);
            match opened {
                Err(OpenError::SingleNodeDamaged(damage)) => {
                    assert!(alone);
                    assert_eq!(damage.offset, place * BLOCK);
                }
                Ok(recovered) => {
                    assert!(!alone && recovered.hard_state.damaged);
                    assert_eq!(recovered.base, Some(newest.clone()));
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        if alone {
            let options = LogOptions { accept_loss: true, ..common::tiny() };
            let (log, recovered) = Log::open(disk.restart(), &dir(), &options).unwrap();
            assert!(!recovered.hard_state.damaged, "nobody could ever clear it");
            assert_eq!((recovered.base, entries(&log)), (Some(newest), vec![]));
        }
    }
}

/// A base that no segment of the size that is set now could hold gets one that does.
#[test]
fn a_log_begins_anew_whatever_the_size_of_segments_is() {
    let disk = mem_disk(0);
    let mut log = fresh(&disk);
    for index in 1..=3 {
        log.write(&[Write { entries: vec![entry(index, 1, "a")], ..term(index, 1) }]).unwrap();
    }
    let large_base = Base { membership: Membership::of_voters((1..2000).map(NodeId)), ..base(2, 1) };
    log.write(&[rebase(4, large_base.clone())]).unwrap();
    drop(log);
    disk.flip_bit(&segment(1), 300).unwrap();
    let options = LogOptions { segment_bytes: 2 * BLOCK, entry_bytes_max: 4000, ..common::tiny() };
    let (mut log, recovered) = Log::open(disk.restart(), &dir(), &options).unwrap();
    assert_eq!((&recovered.base, recovered.last.index), (&Some(large_base.clone()), LogIndex(2)));
    assert_eq!(damage(&recovered.repair).first_lost, LogIndex(3));
    log.write(&[Write { id: WriteId(1), entries: vec![entry(3, 1, "goes on")], ..Write::default() }])
        .unwrap();
    drop(log);
    let (log, recovered) = reopen(&disk.restart()).unwrap();
    assert_eq!((recovered.repair, recovered.base), (Repair::Clean, Some(large_base)));
    assert_eq!(entries(&log), [entry(3, 1, "goes on")]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in the blocks, with checksums that fit: a start ends in an error, or in a log that the next start
    /// finds, too.
    #[test]
    fn a_start_survives_any_bytes_in_a_compacted_log(
        shape in 0usize..3,
        at in any::<proptest::sample::Index>(),
        offset in prop_oneof![4usize..32, 32usize..250, 4usize..4090],
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..9),
            (any::<u8>(), 1usize..9).prop_map(|(byte, count)| vec![byte; count]),
        ],
    ) {
        let disk = mem_disk(1);
        written(&disk, SHAPES[shape]);
        let all = blocks(&disk);
        let (number, block) = all[at.index(all.len())];
        let begin = usize::try_from(block * BLOCK).unwrap();
        let mut content = disk.disk_bytes(&segment(number)).unwrap()[begin..][..4096].to_vec();
        let end = 4096.min(offset + bytes.len());
        content[offset..end].copy_from_slice(&bytes[..end - offset]);
        let checksum = crc32c::crc32c(&content[4..]);
        content[..4].copy_from_slice(&checksum.to_le_bytes());
        disk.set_disk_bytes(&segment(number), block * BLOCK, &content).unwrap();
        if let Ok((log, recovered)) = reopen(&disk.restart()) {
            let there = Content::of(&log, &recovered);
            drop(log);
            let (mut log, again) = reopen(&disk.restart()).unwrap();
            prop_assert_eq!(Content::of(&log, &again), there);
            prop_assert_eq!(again.hard_state.damaged, recovered.hard_state.damaged);
            common::cut(&mut log);
            prop_assert!(log.prepare().is_ok());
        }
    }
}
