//! The command that marks a scan, and what a scan makes of damaged files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftmap_raft::{GroupId, LogIndex};
use raftmap_state::{
    Body, Command, ContentDigest, Digest, DiskEngine, DiskOptions, Engine, EngineError, Ingest, MemoryEngine,
    StateMachine,
};

use crate::common::{Server, at, open, put, write};

#[test]
fn a_scan_is_remembered_with_its_log_time_and_found_by_its_bytes() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    assert_eq!(server.machine.scanned_ms(), None);
    server.run(&at(1_000, write(put("a", "1")))).unwrap();
    let before = server.machine.reader().content_digest().unwrap().advance(u64::MAX).unwrap();
    server.run(&at(2_000, Body::Scan)).unwrap();
    // A clock that went back: log time does not.
    server.run(&at(500, Body::Scan)).unwrap();
    assert_eq!(server.machine.scanned_ms(), Some(2_000));
    let mut scan = server.machine.reader().content_digest().unwrap();
    assert_eq!(scan.at().index, LogIndex(3));
    assert_ne!(scan.advance(u64::MAX).unwrap(), before, "another index is another digest");
    assert_eq!(open(engine).scanned_ms(), Some(2_000), "after a restart");

    let is_scan = |command: &Command| Command::is_scan(&command.encode());
    assert!(
        is_scan(&at(1, Body::Scan))
            && is_scan(&Command { stamped_time_ms: None, trace: None, body: Body::Scan })
    );
    assert!(!is_scan(&at(1, Body::Time)) && !Command::is_scan(&[]));
}

/// The largest file below a folder.
fn largest(folder: &Path) -> (u64, PathBuf) {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let sized = entries.map(|path| match path.is_dir() {
        true => largest(&path),
        false => (fs::metadata(&path).unwrap().len(), path),
    });
    sized.max().unwrap_or_default()
}

fn to_the_end(mut scan: ContentDigest) -> Result<Digest, EngineError> {
    loop {
        if let Some(digest) = scan.advance(10_000)? {
            return Ok(digest);
        }
    }
}

#[test]
fn a_scan_of_damaged_files_ends_and_says_that_they_are_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let open = || DiskEngine::open(folder.path(), DiskOptions::default()).unwrap();
    let engine = open();
    let mut server = Server::on(engine.clone());
    for key in 0..50 {
        server.run(&at(1_000, write(put(&format!("key {key}"), &"v".repeat(4_000 + key))))).unwrap();
    }
    engine.persist().unwrap();
    let scan = |engine| {
        to_the_end(StateMachine::open(engine, GroupId::DEFAULT).unwrap().reader().content_digest().unwrap())
    };
    drop((server, engine));
    let whole = scan(open()).unwrap();
    let (length, path) = largest(&folder.path().join("tree"));
    let mut bytes = fs::read(&path).unwrap();
    let at = usize::try_from(length).unwrap() / 3;
    bytes[at] ^= 0x10;
    fs::write(&path, &bytes).unwrap();
    let error = scan(open()).unwrap_err();
    assert!(error.is_damage(), "{error:?}");
    bytes[at] ^= 0x10;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(scan(open()).unwrap(), whole);

    // A store that fails is not one that is damaged.
    let engine = MemoryEngine::new();
    engine.fail();
    assert!(!engine.commit(vec![(Bytes::from_static(b"a"), None)]).unwrap_err().is_damage());
}

fn check(engine: &DiskEngine) -> Result<(), EngineError> {
    let mut check = engine.file_check();
    while !check.advance(10_000)? {}
    Ok(())
}

/// Where the engine keeps rows; what it knows of itself is beside that, and is read when it is opened.
const ROWS: &str = "tree";

/// The files of tables below a folder.
fn tables(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let tables = entries.flat_map(|path| match path.is_dir() {
        true => tables(&path),
        false if path.parent().is_some_and(|parent| parent.ends_with("tables")) => vec![path],
        false => Vec::new(),
    });
    tables.collect()
}

/// Whatever the engine writes: tables that are flushed, that compactions make of those, and that are ingested.
#[test]
fn the_files_of_a_sound_engine_have_their_checksums() {
    let folder = tempfile::tempdir().unwrap();
    let row = |round: u32, key: u32| {
        (Bytes::from(format!("key {key:05}")), Some(Bytes::from(format!("{round} {key} ").repeat(20))))
    };
    let engine = DiskEngine::open(&folder.path().join("flushed"), DiskOptions::default()).unwrap();
    let mut written = BTreeSet::new();
    for round in 0..20 {
        engine.commit((0..2_000).map(|key| row(round, key * (round + 1))).collect()).unwrap();
        engine.persist().unwrap();
        check(&engine).unwrap();
        written.extend(tables(folder.path()));
    }
    let left = tables(folder.path()).len();
    assert!(left < written.len(), "compactions have replaced tables: {left} of {}", written.len());
    let fresh = DiskEngine::fresh(&folder.path().join("ingested"), DiskOptions::default()).unwrap();
    let mut rows = fresh.ingest().unwrap();
    for key in 0..2_000 {
        let (key, value) = row(0, key);
        rows.add(key, value.unwrap()).unwrap();
    }
    check(&rows.finish().unwrap()).unwrap();
}

/// Wherever in a file: rows, what finds them, what describes them.
#[test]
fn a_byte_that_changed_in_a_file_is_found_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let open = || DiskEngine::open(folder.path(), DiskOptions::default());
    let engine = open().unwrap();
    engine
        .commit(
            (0..400)
                .map(|key| (Bytes::from(format!("key {key}")), Some(Bytes::from("v".repeat(90)))))
                .collect(),
        )
        .unwrap();
    engine.persist().unwrap();
    let [path] = tables(&folder.path().join(ROWS)).try_into().unwrap();
    let whole = fs::read(&path).unwrap();
    // The engine holds its file open, and has what it needs of it in memory: only the check reads it.
    for at in (0..whole.len()).step_by(whole.len() / 100) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        let error = check(&engine).unwrap_err();
        assert!(error.is_damage(), "byte {at}: {error:?}");
    }
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(check(&engine).unwrap_err().is_damage(), "cut short");
    fs::remove_file(&path).unwrap();
    assert!(check(&engine).unwrap_err().is_damage(), "gone");
    fs::write(&path, &whole).unwrap();
    check(&engine).unwrap();
}

/// The files of tables may go while they are read: the engine keeps them for whoever does.
#[test]
fn files_that_a_compaction_replaces_stay_until_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let engine = DiskEngine::open(folder.path(), DiskOptions::default()).unwrap();
    let fill = |round: u32| {
        let row = |key: u32| (Bytes::from(format!("key {key}")), Some(Bytes::from(format!("{round}"))));
        engine.commit((0..100).map(row).collect()).unwrap();
        engine.persist().unwrap();
    };
    fill(0);
    let [first] = tables(&folder.path().join(ROWS)).try_into().unwrap();
    let mut reading = engine.file_check();
    for round in 1..20 {
        fill(round);
    }
    while !reading.advance(100).unwrap() {}
    drop(reading);
    let deadline = Instant::now() + Duration::from_secs(60);
    while first.exists() {
        assert!(Instant::now() < deadline, "no compaction has replaced the first table");
        fill(20);
    }
}
