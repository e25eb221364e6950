//! Feature levels: raised, never lowered, and what a program makes of one that it does not understand.

use bytes::Bytes;
use raftmap_raft::{GroupId, LogIndex};
use raftmap_state::{
    Answer, Body, Command, Damage, DecodeError, Engine, LEVEL, LEVEL_FIRST, MemoryEngine, MemoryIngest,
    OfNewCluster, StateError, StateMachine,
};

use crate::common::{Server, at, content_digest, open, put, timeless, write};
use crate::snapshots::{chunks_of, install};

const APPLIED_ROW: &[u8] = &[1];

fn raise(level: u8) -> Command {
    timeless(Body::RaiseLevel(level))
}

#[test]
fn a_level_is_raised_and_never_lowered() {
    let mut server = Server::in_memory();
    server.write(put("a", "1")).unwrap();
    assert_eq!(server.machine.level(), LEVEL_FIRST);
    for level in [LEVEL_FIRST, 2, LEVEL_FIRST, 2] {
        let before = server.machine.level();
        assert_eq!(server.run(&raise(level)), Ok(Answer::Done));
        assert_eq!(server.machine.level(), level.max(before));
        assert_eq!(server.machine.reader().applied().unwrap().level, level.max(before));
    }
}

/// Programs without levels know the version 1 of rows and no other: this is what keeps them from a state of a later level.
#[test]
fn the_level_is_the_version_of_all_rows() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    let version = || raftmap_state::Snapshot::get(&engine.snapshot(), APPLIED_ROW).unwrap().unwrap()[0];
    server.write(put("a", "1")).unwrap();
    assert_eq!(version(), 1);
    server.run(&raise(2)).unwrap();
    assert_eq!(version(), 2);
}

#[test]
fn a_state_of_a_newer_level_is_not_opened() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    server.run(&raise(LEVEL)).unwrap();
    let row = raftmap_state::Snapshot::get(&engine.snapshot(), APPLIED_ROW).unwrap().unwrap();
    let with = |version: u8| {
        let changed = Bytes::from([&[version], &row[1..]].concat());
        engine.commit(vec![(Bytes::from_static(APPLIED_ROW), Some(changed))]).unwrap();
        StateMachine::open(engine.clone(), GroupId::DEFAULT).err()
    };
    let Some(StateError::Row(error)) = with(LEVEL + 1) else { panic!("it is opened") };
    assert_eq!(error, DecodeError::TooNew { what: "state machine", level: LEVEL + 1 });
    assert!(error.to_string().contains("written by a newer version of raftmap"), "{error}");
    assert!(matches!(with(0), Some(StateError::Row(DecodeError::UnknownVersion { version: 0, .. }))));
    assert!(with(LEVEL).is_none());
}

#[test]
fn a_command_that_raises_the_level_beyond_this_program_stops_the_server() {
    let mut server = Server::in_memory();
    server.append_command(&raise(LEVEL + 1));
    let error = server.machine.apply(&server.log).unwrap_err();
    let StateError::Command { index: LogIndex(1), source } = error else { panic!("{error}") };
    assert_eq!(source, DecodeError::TooNew { what: "raised level", level: LEVEL + 1 });
    assert_eq!(server.machine.level(), LEVEL_FIRST);
}

/// From the moment at which a server has applied it, no older program starts on its directory.
#[test]
fn a_raised_level_survives_every_crash() {
    for seed in 0..50 {
        let engine = MemoryEngine::new();
        let mut server = Server::on(engine.clone());
        server.write(put("a", "1")).unwrap();
        server.run(&raise(2)).unwrap();
        server.write(put("a", "2")).unwrap();
        assert_eq!(open(engine.crash(seed, Damage::None)).level(), 2, "seed {seed}");
    }
}

#[test]
fn servers_of_two_levels_have_two_digests() {
    let digests = |body| {
        let mut server = Server::in_memory();
        server.run(&timeless(body)).unwrap();
        (server.machine.running_digest(), content_digest(&server.machine))
    };
    let (time, raised) = (digests(Body::Time), digests(Body::RaiseLevel(2)));
    assert_ne!(time.0, raised.0);
    assert_ne!(time.1, raised.1);
    assert_eq!(digests(Body::RaiseLevel(LEVEL_FIRST)), time, "nothing was raised");
}

#[test]
fn a_snapshot_has_the_level_also_in_a_new_cluster() {
    let mut server = Server::in_memory();
    server.write(put("a", "1")).unwrap();
    server.run(&raise(2)).unwrap();
    let snapshot = server.machine.reader().snapshot().unwrap();
    assert_eq!(snapshot.header().applied.level, 2);
    let chunks = chunks_of(&snapshot, 400);
    let same = install(snapshot.header_bytes(), &chunks, MemoryIngest::default()).unwrap();
    assert_eq!((same.level(), same.running_digest()), (2, server.machine.running_digest()));
    let new = install(snapshot.header_bytes(), &chunks, OfNewCluster(MemoryIngest::default())).unwrap();
    assert_eq!(new.level(), 2);
}

#[test]
fn the_bytes_of_a_command_say_which_level_they_need() {
    let write = timeless(write(put("a", "1"))).encode();
    for (bytes, level) in [
        (&write, LEVEL_FIRST),
        (&at(1 << 40, Body::Time).encode(), LEVEL_FIRST),
        (&raise(2).encode(), 2),
        (&at(1 << 40, Body::RaiseLevel(2)).encode(), 2),
        (&Bytes::from_static(&[1, 8, 0, 7]), 7),
        (&Bytes::from_static(&[1, 99, 0]), u8::MAX),
        (&Bytes::from_static(&[2, 5, 0]), u8::MAX),
        (&Bytes::new(), u8::MAX),
    ] {
        assert_eq!(Command::level_of(bytes), level, "{bytes:?}");
    }
}
