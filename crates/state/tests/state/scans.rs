//! The command that marks a scan, and what a scan makes of damaged files.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use raftmap_raft::{GroupId, LogIndex};
use raftmap_state::{
    Body, Command, ContentDigest, Digest, Engine, FjallEngine, FjallOptions, MemoryEngine, StateMachine,
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
    assert!(is_scan(&at(1, Body::Scan)) && is_scan(&Command { stamped_time_ms: None, body: Body::Scan }));
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

fn to_the_end(mut scan: ContentDigest) -> Result<Digest, raftmap_state::EngineError> {
    loop {
        if let Some(digest) = scan.advance(10_000)? {
            return Ok(digest);
        }
    }
}

#[test]
fn a_scan_of_damaged_files_ends_and_says_that_they_are_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let open = || FjallEngine::open(folder.path(), FjallOptions::default()).unwrap();
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
    let (length, path) = largest(&folder.path().join("keyspaces"));
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
