//! The command that marks a scan.

use raftmap_raft::LogIndex;
use raftmap_state::{Body, Command, MemoryEngine};

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
