//! A random script of writes, with bases that move up and segments that are removed, is cut short at each operation, in
//! each way that a disk has, and the log is opened again. A model knows what was acknowledged: nothing of that may be lost,
//! nothing that was cut may come back, and what a start found must be there at the next start, even if the power fails in
//! between.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::ErrorKind;

use common::history::{Content, Writer};
use common::{dir, identity, tiny};
use raftmap_log::mem_disk::Fault;
use raftmap_log::{InitError, Log, MemDisk, MemDiskOptions, OpenError, Recovered, Repair};
use raftmap_raft::{HardState, Term, Write, WriteId};

/// What a log and its hard state hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    hard_state: HardState,
    log: Content,
}

impl State {
    fn of(log: &Log<MemDisk>, recovered: &Recovered) -> Self {
        Self { hard_state: log.hard_state(), log: Content::of(log, recovered) }
    }
}

/// The state that must be there, and those that a write in flight may have led to.
#[derive(Clone, Debug, Default)]
struct Model {
    acknowledged: State,
    possible: Vec<State>,
}

impl Model {
    fn begin(&mut self, writes: &[Write]) {
        let mut state = self.acknowledged.clone();
        // The hard states of writes that go together are durable before their entries, so any of them may be there with
        // any number of the records.
        let mut hard_states = vec![state.hard_state];
        hard_states.extend(writes.iter().filter_map(|write| write.hard_state));
        let mut logs = vec![state.log.clone()];
        for write in writes {
            logs.extend(state.log.steps(write));
            state.log = logs[logs.len() - 1].clone();
        }
        let last_hard_state = *hard_states.last().unwrap();
        self.possible = hard_states
            .into_iter()
            .map(|hard_state| State { hard_state, log: logs[0].clone() })
            .chain(logs.iter().map(|log| State { hard_state: last_hard_state, log: log.clone() }))
            .collect();
        state.hard_state = last_hard_state;
        self.possible.push(state);
    }

    fn acknowledge(&mut self) {
        if let Some(state) = self.possible.pop() {
            self.acknowledged = state;
        }
        self.possible.clear();
    }

    fn found(&mut self, state: State, context: &str) {
        let allowed = state == self.acknowledged || self.possible.contains(&state);
        assert!(allowed, "{context}: found {state:?}\nmust be {self:?}");
        self.acknowledged = state;
        self.possible.clear();
    }
}

enum Step {
    Write(Vec<Write>),
    Mark,
    Prepare,
    Cut,
    Reopen,
}

/// A script of so many steps.
fn script(rng: &mut fastrand::Rng, steps: usize) -> Vec<Step> {
    let mut writer = Writer::new();
    let mut all = Vec::new();
    for step in 0..steps {
        all.push(match rng.u8(..12) {
            0 if step > 0 => Step::Mark,
            1 => Step::Prepare,
            2 if step > 0 => Step::Reopen,
            3 | 4 if step > 0 => Step::Cut,
            _ => Step::Write((0..rng.u8(1..4)).map(|_| writer.write(rng)).collect()),
        });
    }
    all
}

/// Runs a script until it ends or the disk fails; true if it ended.
fn run(disk: &MemDisk, script: &[Step], model: &mut Model) -> bool {
    let Ok((mut log, _)) = Log::open(disk.clone(), &dir(), &tiny()) else { return false };
    for step in script {
        let done = match step {
            Step::Write(writes) => {
                model.begin(writes);
                let done = log.write(writes);
                if let Ok(id) = done {
                    assert_eq!(id, writes.last().unwrap().id);
                    model.acknowledge();
                }
                done.map(drop).map_err(drop)
            }
            Step::Mark => log.mark().map_err(drop),
            Step::Prepare => match log.prepare() {
                Ok(Some(preparation)) => preparation.run().map_err(drop),
                Ok(None) => Ok(()),
                Err(_) => Err(()),
            },
            Step::Cut => match log.cut() {
                Ok(Some(cut)) => cut.run().map_err(drop),
                Ok(None) => Ok(()),
                Err(_) => Err(()),
            },
            Step::Reopen => {
                drop(log);
                let Ok((opened, recovered)) = Log::open(disk.clone(), &dir(), &tiny()) else { return false };
                assert_eq!(recovered.repair, Repair::Clean);
                log = opened;
                Ok(())
            }
        };
        if done.is_err() {
            let again = Write { id: WriteId(u64::MAX), ..Write::default() };
            assert!(log.write(&[again]).is_err(), "after an error nothing is written");
            return false;
        }
    }
    true
}

/// Opens the log, again and again while power fails, or the process is killed, in the middle of it.
fn open_through_crashes(
    disk: &mut MemDisk,
    rng: &mut fastrand::Rng,
    context: &str,
) -> (Log<MemDisk>, Recovered) {
    loop {
        if rng.bool() {
            let fault = if rng.bool() { Fault::PowerCut } else { Fault::Kill };
            disk.set_fault(disk.operations() + rng.u64(..40), fault);
        }
        match Log::open(disk.clone(), &dir(), &tiny()) {
            Ok((log, recovered)) => {
                disk.clear_faults();
                assert!(!matches!(recovered.repair, Repair::Damaged(_)), "{context}: {:?}", recovered.repair);
                return (log, recovered);
            }
            Err(error) => {
                assert!(disk.is_down() && matches!(error, OpenError::Log(_)), "{context}: {error}");
                *disk = disk.restart();
            }
        }
    }
}

fn sweep(seed: u64, options: &MemDiskOptions, fault: Fault, power_fails_too: bool) -> u64 {
    let options = MemDiskOptions { seed, ..options.clone() };
    let whole = script(&mut fastrand::Rng::with_seed(seed), 14);
    let begin = || {
        let disk = MemDisk::new(options.clone());
        Log::init(&disk, &dir(), &identity(3), &tiny()).unwrap();
        disk
    };
    let disk = begin();
    let first = disk.operations();
    let mut model = Model::default();
    assert!(run(&disk, &whole, &mut model), "the script runs without faults");
    let operations = disk.operations();
    for operation in first..operations {
        let context = format!("seed {seed}, {fault:?} at {operation}, power fails too: {power_fails_too}");
        let mut rng = fastrand::Rng::with_seed(seed ^ operation);
        let mut disk = begin();
        disk.set_fault(operation, fault);
        let mut model = Model::default();
        run(&disk, &whole, &mut model);
        if power_fails_too {
            disk.cut_power();
        }
        disk.clear_faults();
        disk = disk.restart();
        let (mut log, mut recovered) = open_through_crashes(&mut disk, &mut rng, &context);
        model.found(State::of(&log, &recovered), &context);
        if rng.bool() {
            // What a start counted is durable.
            disk.cut_power();
            disk = disk.restart();
            (log, recovered) = open_through_crashes(&mut disk, &mut rng, &context);
            model.found(State::of(&log, &recovered), &context);
        }
        // New entries follow it, and are as durable. What is left to be removed is offered again.
        let mut next = Write { id: WriteId(1), ..Write::default() };
        next.hard_state = Some(HardState { term: Term(1000), ..HardState::default() });
        next.entries = vec![common::large(log.last().index.next().0, 1000, 9000)];
        model.begin(std::slice::from_ref(&next));
        log.write(&[next]).unwrap();
        model.acknowledge();
        common::cut(&mut log);
        assert_eq!(common::cut(&mut log), [0; 0], "{context}");
        let there: u64 = log.segments().iter().map(|segment| segment.bytes).sum();
        assert_eq!(log.bytes(), there, "{context}: nothing is left that is not needed");
        drop(log);
        disk.cut_power();
        disk = disk.restart();
        let (log, recovered) = open_through_crashes(&mut disk, &mut rng, &context);
        model.found(State::of(&log, &recovered), &context);
        assert_eq!(recovered.segments, log.segments(), "{context}");
    }
    operations - first
}

fn sweep_all(options: &MemDiskOptions, fault: Fault, power_fails_too: bool) {
    let operations: u64 = (0..12).map(|seed| sweep(seed, options, fault, power_fails_too)).sum();
    assert!(operations > 500, "{operations}");
}

/// Scenarios 1, 2, 50, 51 and 52.
#[test]
fn power_fails_at_every_operation() {
    sweep_all(&MemDiskOptions::default(), Fault::PowerCut, false);
}

#[test]
fn power_fails_at_every_operation_without_direct_reads() {
    let options = MemDiskOptions { direct_reads: false, ..MemDiskOptions::default() };
    sweep_all(&options, Fault::PowerCut, false);
}

#[test]
fn the_process_is_killed_at_every_operation() {
    sweep_all(&MemDiskOptions::default(), Fault::Kill, false);
    sweep_all(&MemDiskOptions::default(), Fault::Kill, true);
}

#[test]
fn the_process_is_killed_at_every_operation_without_direct_reads() {
    let options = MemDiskOptions { direct_reads: false, ..MemDiskOptions::default() };
    sweep_all(&options, Fault::Kill, false);
}

/// Scenario 48: what a sync that failed left in the page cache does not count, or is made durable first.
#[test]
fn every_operation_fails_and_the_process_starts_again() {
    sweep_all(&MemDiskOptions::default(), Fault::Error(ErrorKind::Other), false);
}

/// Scenario 48.
#[test]
fn every_operation_fails_and_the_process_starts_again_without_direct_reads() {
    let options = MemDiskOptions { direct_reads: false, ..MemDiskOptions::default() };
    sweep_all(&options, Fault::Error(ErrorKind::Other), false);
}

#[test]
fn every_operation_fails_and_power_too() {
    sweep_all(&MemDiskOptions::default(), Fault::Error(ErrorKind::StorageFull), true);
}

#[test]
fn every_write_is_short() {
    sweep_all(&MemDiskOptions::default(), Fault::ShortWrite, false);
    sweep_all(&MemDiskOptions::default(), Fault::ShortWrite, true);
}

/// An `init` that was cut short leaves a directory that says so, or an empty one, or a whole one.
#[test]
fn init_is_cut_short_at_every_operation() {
    let mut seen = [0; 3];
    for seed in 0..40 {
        for operation in 0.. {
            let disk = common::mem_disk(seed);
            let fault = if seed % 2 == 0 { Fault::PowerCut } else { Fault::Kill };
            disk.set_fault(operation, fault);
            let init = Log::init(&disk, &dir(), &identity(3), &tiny());
            let done = init.is_ok();
            disk.clear_faults();
            let disk = disk.restart();
            match Log::open(disk.clone(), &dir(), &tiny()) {
                Ok((mut log, recovered)) => {
                    seen[0] += 1;
                    assert_eq!(State::of(&log, &recovered), State::default());
                    let hard_state = HardState { term: Term(1), ..HardState::default() };
                    log.write(&[Write { id: WriteId(1), hard_state: Some(hard_state), ..Write::default() }])
                        .unwrap();
                    disk.cut_power();
                    let (_, recovered) = Log::open(disk.restart(), &dir(), &tiny()).unwrap();
                    assert_eq!(recovered.hard_state, hard_state);
                }
                Err(OpenError::InitCutShort(_)) => {
                    seen[1] += 1;
                    let again = Log::init(&disk, &dir(), &identity(3), &tiny());
                    assert!(matches!(again, Err(InitError::CutShort(_))), "{again:?}");
                }
                Err(OpenError::NotInitialised(_)) => {
                    seen[2] += 1;
                    Log::init(&disk, &dir(), &identity(3), &tiny()).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
            if done {
                break;
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 10), "{seen:?}");
}
