//! What a server starts from: its log and its state machine, put together.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use bytes::Bytes;
use raftmap_log::{FoundingMember, Identity, Log, LogOptions, MemDisk, MemDiskOptions, Recovered};
use raftmap_raft::{
    Base, Entry, HardState, LogIndex, LogPosition, Membership, NodeId, Payload, StateId, Term, Write, WriteId,
};
use raftmap_replica::{FoundState, StartError, restore};

const DIR: &str = "/data";

/// A log with three entries of term 1, as it is found at a start.
fn log_of_three(nodes: u64, damaged: bool) -> (MemDisk, Log<MemDisk>, Recovered) {
    let disk = MemDisk::new(MemDiskOptions::default());
    let members = (1..=nodes).map(|id| FoundingMember {
        node: NodeId(id),
        peer_address: format!("server-{id}:7001"),
        client_address: format!("server-{id}:7000"),
    });
    let identity = Identity::new(1, NodeId(1), 5, members.collect()).unwrap();
    Log::init(&disk, Path::new(DIR), &identity, &LogOptions::default()).unwrap();
    let (mut log, _) = open(&disk);
    let entries = (1..=3).map(|index| Entry {
        term: Term(1),
        index: LogIndex(index),
        payload: Payload::Command(Bytes::from_static(b"a command")),
    });
    let hard_state = HardState { term: Term(2), vote: None, damaged };
    log.write(&[Write {
        id: WriteId(1),
        hard_state: Some(hard_state),
        entries: entries.collect(),
        ..Write::default()
    }])
    .unwrap();
    drop(log);
    let (log, recovered) = open(&disk);
    (disk, log, recovered)
}

fn open(disk: &MemDisk) -> (Log<MemDisk>, Recovered) {
    Log::open(disk.clone(), Path::new(DIR), &LogOptions::default()).unwrap()
}

fn applied(index: u64, term: u64) -> LogPosition {
    LogPosition { term: Term(term), index: LogIndex(index) }
}

#[test]
fn a_state_machine_that_is_behind_its_log_or_level_with_it_fits() {
    for applied in [applied(0, 0), applied(2, 1), applied(3, 1)] {
        let (_, mut log, recovered) = log_of_three(3, false);
        let restored = restore(&mut log, &recovered, FoundState::There(applied)).unwrap();
        assert_eq!((restored.applied, restored.last), (applied.index, LogIndex(3)));
        assert!(!restored.hard_state.damaged);
    }
}

#[test]
fn a_log_that_is_behind_its_state_machine_is_damaged_and_says_so_durably() {
    let (disk, mut log, recovered) = log_of_three(3, false);
    let restored = restore(&mut log, &recovered, FoundState::There(applied(4, 1))).unwrap();
    assert!(restored.hard_state.damaged);
    drop(log);
    assert!(open(&disk).1.hard_state.damaged);
}

#[test]
fn a_cluster_of_one_does_not_start_on_a_log_that_is_behind_its_state_machine() {
    let (_, mut log, recovered) = log_of_three(1, false);
    let refused = restore(&mut log, &recovered, FoundState::There(applied(4, 1))).unwrap_err();
    assert!(matches!(refused, StartError::LogLost { last: LogIndex(3), applied: LogIndex(4) }));
}

#[test]
fn a_state_machine_of_another_history_is_refused() {
    let (_, mut log, recovered) = log_of_three(3, false);
    let refused = restore(&mut log, &recovered, FoundState::There(applied(3, 2))).unwrap_err();
    assert!(matches!(refused, StartError::Diverged { log_term: 1, .. }), "{refused}");
}

/// A disk that lost a truncation comes back with what was never committed, where the state machine has applied what was.
#[test]
fn a_log_that_is_known_to_be_damaged_may_be_of_an_older_state_than_the_state_machine() {
    let (_, mut log, recovered) = log_of_three(3, true);
    let restored = restore(&mut log, &recovered, FoundState::There(applied(3, 2))).unwrap();
    assert!(restored.hard_state.damaged);
    assert_eq!(restored.applied, LogIndex(3));
}

/// A snapshot had taken the place of the first state machine; a disk that lost the record of it comes back with an older log.
#[test]
fn a_log_that_names_a_state_machine_which_is_not_there_is_damaged() {
    let (disk, mut log, recovered) = log_of_three(3, false);
    let restored = restore(&mut log, &recovered, FoundState::Missing).unwrap();
    assert!(restored.hard_state.damaged);
    assert_eq!(restored.applied, LogIndex(0));
    drop(log);
    assert!(open(&disk).1.hard_state.damaged);
    let (_, mut log, recovered) = log_of_three(1, false);
    let alone = restore(&mut log, &recovered, FoundState::Missing).unwrap();
    assert!(!alone.hard_state.damaged, "its log has everything");
}

fn log_that_begins_behind_two(members: u64) -> (Log<MemDisk>, Recovered) {
    let (disk, mut log, _) = log_of_three(members, false);
    let base = Base {
        position: applied(2, 1),
        membership: Membership::of_voters((1..=members).map(NodeId)),
        durable: LogIndex(3),
        state: StateId(0),
    };
    log.write(&[Write { id: WriteId(2), base: Some(Box::new(base)), ..Write::default() }]).unwrap();
    drop(log);
    open(&disk)
}

/// STORAGE, start-up 5.
#[test]
fn a_state_machine_with_less_than_it_had_made_durable_is_lost() {
    let (mut log, recovered) = log_that_begins_behind_two(3);
    assert!(!recovered.state_is_whole(LogIndex(2)) && recovered.state_is_whole(LogIndex(3)));
    let restored = restore(&mut log, &recovered, FoundState::There(LogPosition::default())).unwrap();
    assert_eq!((restored.applied, restored.base), (LogIndex(0), applied(2, 1)));
    assert!(!restored.hard_state.damaged, "its log votes");
    let (mut log, recovered) = log_that_begins_behind_two(1);
    let refused = restore(&mut log, &recovered, FoundState::There(applied(2, 1))).unwrap_err();
    assert!(matches!(refused, StartError::StateLost { durable: LogIndex(3), .. }), "{refused}");
}
