//! Snapshots that become something else than the same store again, and stores that are only looked at.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use raftmap_raft::{GroupId, Membership, NodeId, Payload};
use raftmap_state::{
    CHUNK_HEAD_BYTES, Discarded, MemoryIngest, OfNewCluster, SnapshotInstall, StateMachine, chunk_bytes,
    shadow,
};

use crate::common::content_digest;
use crate::crash::{eventful_log, open_on_disk};
use crate::snapshots::{an_eventful_server, chunks_of, install};

#[test]
fn a_new_cluster_has_everything_but_who_the_old_members_were() {
    let mut server = an_eventful_server();
    // Server 1 leaves: its id is remembered.
    server.append(Payload::Membership(Box::new(Membership::of_voters([NodeId(2), NodeId(3)]))));
    server.catch_up(9);
    let old = &server.machine;
    assert!(!old.reader().members().unwrap().is_empty() && !old.reader().removed().unwrap().is_empty());
    let snapshot = old.reader().snapshot().unwrap();
    let chunks = chunks_of(&snapshot, 400);
    let new = install(snapshot.header_bytes(), &chunks, OfNewCluster(MemoryIngest::default())).unwrap();

    assert!(new.reader().members().unwrap().is_empty() && new.reader().removed().unwrap().is_empty());
    assert_eq!(new.membership(), None);
    assert_eq!(new.reader().applied().unwrap(), old.reader().applied().unwrap());
    let rows = |machine: &StateMachine<_>| {
        let snapshot = machine.reader().snapshot().unwrap();
        // A chunk of one row: a head of 40 bytes, the length of the key, the key.
        let rows = chunks_of(&snapshot, 0).into_iter().map(|chunk| chunk.slice(CHUNK_HEAD_BYTES..));
        rows.filter(|row| !row.is_empty() && !matches!(row.get(1), Some(7..=9))).collect::<Vec<_>>()
    };
    let (kept, all) = (rows(&new), rows(old));
    // The last one is the trailer, which counts them.
    assert_eq!(kept[..kept.len() - 1], all[..all.len() - 1]);
}

#[test]
fn a_snapshot_that_is_only_checked_tells_how_many_keys_it_has() {
    let server = an_eventful_server();
    let snapshot = server.machine.reader().snapshot().unwrap();
    let mut check = SnapshotInstall::new(GroupId::DEFAULT, snapshot.header_bytes(), Discarded).unwrap();
    let mut keys = 0;
    for chunk in chunks_of(&snapshot, 0) {
        check.take(&chunk).unwrap();
        keys += u64::from(chunk[5] == 2 && chunk[41] == 2);
    }
    assert!(check.is_complete());
    assert!(keys > 3, "{keys}");
    assert_eq!(check.keys(), keys);
}

#[test]
fn the_head_of_a_chunk_says_how_long_it_is_up_to_a_limit() {
    let server = an_eventful_server();
    for chunk in chunks_of(&server.machine.reader().snapshot().unwrap(), 400) {
        assert_eq!(chunk_bytes(chunk.first_chunk().unwrap()).unwrap(), chunk.len());
    }
    assert!(chunk_bytes(&[0xFF; CHUNK_HEAD_BYTES]).is_err());
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

/// So many writes go into the shadow that it flushes, and compacts what it shares with the original.
#[test]
fn a_shadow_holds_what_its_original_holds_and_never_changes_it() {
    let folder = tempfile::tempdir().unwrap();
    let (original, target) = (folder.path().join("original"), folder.path().join("shadow"));
    let log = eventful_log(60).log;
    let mut machine = open_on_disk(&original).unwrap();
    for some in log.chunks(10) {
        machine.apply(some).unwrap();
        machine.persist().unwrap();
    }
    let (applied, content) = (machine.applied(), content_digest(&machine));
    drop(machine);
    let before = files(&original);
    assert!(before.keys().any(|path| path.to_string_lossy().contains("/tables/")), "{:?}", before.keys());

    shadow(&original, &target).unwrap();

    let mut machine = open_on_disk(&target).unwrap();
    assert_eq!((machine.applied(), content_digest(&machine)), (applied, content));
    let mut more = eventful_log(400).log.split_off(log.len());
    more.retain(|entry| entry.index > applied.index);
    for some in more.chunks(40) {
        machine.apply(some).unwrap();
        machine.persist().unwrap();
    }
    assert!(machine.applied().index > applied.index);
    drop(machine);
    assert_eq!(files(&original), before);
    assert!(shadow(&original, &target).is_err(), "it is there already");
    let machine = open_on_disk(&original).unwrap();
    assert_eq!((machine.applied(), content_digest(&machine)), (applied, content));
}
