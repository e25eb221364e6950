//! Log time, and keys that expire.

use std::num::NonZeroU64;

use raftmap_raft::Payload;
use raftmap_state::{
    Answer, Body, DeleteAnswer, Engine, Expected, MemoryEngine, Operation, Put, Snapshot, WriteRequest,
};

use crate::common::{
    Server, at, bytes, condition, delete, entry_with_ttl, open, put, put_with_ttl, timeless, txn, write,
};

fn rows(engine: &MemoryEngine) -> (usize, usize) {
    let snapshot = engine.snapshot();
    (snapshot.range(&[2], &[3]).count(), snapshot.range(&[3], &[4]).count())
}

#[test]
fn log_time_is_the_latest_that_was_stamped_and_never_goes_back() {
    let mut server = Server::in_memory();
    let mut times = Vec::new();
    for stamped in [Some(50), Some(20), None, Some(50), Some(51), Some(0)] {
        server
            .run(&raftmap_state::Command { stamped_time_ms: stamped, trace: None, body: Body::Time })
            .unwrap();
        times.push(server.machine.log_time_ms());
    }
    assert_eq!(times, [50, 50, 50, 50, 51, 51]);
}

#[test]
fn a_key_lives_for_its_time_from_the_log_time_of_its_write() {
    let mut server = Server::in_memory();
    server.run(&at(1000, write(put_with_ttl("a", "1", 500)))).unwrap();
    assert_eq!(server.get("a").unwrap().expires_at_ms, NonZeroU64::new(1500));
    server.run(&at(900, write(put_with_ttl("b", "1", 500)))).unwrap();
    assert_eq!(
        server.get("b").unwrap().expires_at_ms,
        NonZeroU64::new(1500),
        "by log time, not by the stamp"
    );
    server.run(&at(1499, Body::Time)).unwrap();
    assert_eq!(server.keys(), ["a", "b"]);
    server.run(&at(1500, Body::Time)).unwrap();
    assert_eq!(server.keys(), [""; 0]);
}

/// Every way to look at a key, at an entry that carries the deadline itself, while the row is still there.
#[test]
fn an_expired_key_is_absent_for_every_read_condition_and_scan() {
    let looks: [(&str, WriteRequest); 5] = [
        ("exists", txn(vec![condition("a", Expected::Exists(false))], vec![], vec![])),
        (
            "revision",
            txn(vec![condition("a", Expected::Revision(raftmap_raft::LogIndex(0)))], vec![], vec![]),
        ),
        ("value", txn(vec![condition("a", Expected::Value(bytes("1")))], vec![], vec![])),
        ("get", txn(vec![], vec![Operation::Get(bytes("a"))], vec![])),
        ("put", txn(vec![], vec![Operation::Put(entry_with_ttl("a", "2", 5))], vec![])),
    ];
    for (name, request) in looks {
        let mut server = Server::in_memory();
        server.run(&at(100, write(put_with_ttl("a", "1", 50)))).unwrap();
        let Ok(Answer::Txn(answer)) = server.run(&at(150, write(request))) else { panic!("{name}") };
        assert_eq!(answer.succeeded, name != "value", "{name}");
        assert!(answer.results.iter().all(|result| result.record().is_none()), "{name}: {answer:?}");
    }
    let mut server = Server::in_memory();
    server.run(&at(100, write(put_with_ttl("a", "1", 50)))).unwrap();
    let deleted = server.run(&at(150, write(delete("a"))));
    let revision = server.machine.applied().index;
    assert_eq!(deleted, Ok(Answer::Delete(DeleteAnswer { revision, deleted: 0, previous: vec![] })));
}

#[test]
fn a_key_that_expired_is_never_there_again_without_a_new_write() {
    let mut server = Server::in_memory();
    server.run(&at(100, write(put_with_ttl("a", "1", 50)))).unwrap();
    server.run(&at(150, Body::Time)).unwrap();
    for stamped in [None, Some(0), Some(149), Some(120)] {
        server
            .run(&raftmap_state::Command {
                stamped_time_ms: stamped,
                trace: None,
                body: write(put("b", "1")),
            })
            .unwrap();
        assert_eq!(server.get("a"), None, "{stamped:?}");
    }
    server.write(put("a", "2")).unwrap();
    assert_eq!(server.value("a").as_deref(), Some("2"));
}

#[test]
fn a_write_without_a_time_to_live_takes_an_earlier_one_away() {
    let mut server = Server::in_memory();
    server.run(&at(100, write(put_with_ttl("a", "1", 50)))).unwrap();
    server.write(put("a", "2")).unwrap();
    server.run(&at(1000, Body::Time)).unwrap();
    assert_eq!(server.value("a").as_deref(), Some("2"));
}

#[test]
fn only_the_last_time_to_live_counts() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    for (now, ttl_ms) in [(100, 50), (110, 500), (120, 100)] {
        server.run(&at(now, write(put_with_ttl("a", "1", ttl_ms)))).unwrap();
    }
    assert_eq!(rows(&engine), (1, 1));
    server.run(&at(219, Body::Time)).unwrap();
    assert_eq!(server.keys(), ["a"]);
    server.run(&at(220, Body::Time)).unwrap();
    assert_eq!(server.keys(), [""; 0]);
    assert_eq!(rows(&engine), (0, 0));
}

#[test]
fn a_time_to_live_beyond_all_time_never_ends() {
    let mut server = Server::in_memory();
    server.run(&at(100, write(put_with_ttl("a", "1", u64::MAX)))).unwrap();
    server.run(&at(u64::MAX - 1, Body::Time)).unwrap();
    assert_eq!(server.keys(), ["a"]);
    assert_eq!(server.machine.next_deadline_ms(), None);
}

#[test]
fn rows_of_expired_keys_are_removed_a_bounded_number_at_an_entry() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    let entries = (0..600).map(|n| entry_with_ttl(&format!("k{n:03}"), "1", 50)).collect();
    server.run(&at(0, write(WriteRequest::Put(Put { entries, return_previous: false })))).unwrap();
    assert_eq!(rows(&engine), (600, 600));
    server.run(&at(50, Body::Time)).unwrap();
    assert_eq!(rows(&engine), (344, 344));
    assert_eq!(server.keys(), [""; 0], "absent, whether or not the row is there");
    assert_eq!(server.machine.next_deadline_ms(), Some(50), "there is more to remove");
    server.append(Payload::Noop);
    server.append_command(&timeless(Body::Time));
    server.catch_up(usize::MAX);
    assert_eq!(rows(&engine), (0, 0));
    assert_eq!(server.machine.next_deadline_ms(), None);
}

/// Else rows would pile up under writes that each set more keys than one entry removes.
#[test]
fn an_entry_removes_as_many_rows_as_it_changes() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    for round in 0..10 {
        let entries = (0..1000).map(|n| entry_with_ttl(&format!("k{round}-{n:04}"), "1", 50)).collect();
        server
            .run(&at(100 * round, write(WriteRequest::Put(Put { entries, return_previous: false }))))
            .unwrap();
        assert_eq!(rows(&engine), (1000, 1000), "round {round}");
    }
}

#[test]
fn a_key_set_again_after_it_expired_is_not_removed_with_the_old_one() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    let entries = (0..300).map(|n| entry_with_ttl(&format!("k{n:03}"), "1", 50)).collect();
    server.run(&at(0, write(WriteRequest::Put(Put { entries, return_previous: false })))).unwrap();
    server.append_command(&at(50, write(put("k299", "again"))));
    server.append_command(&timeless(write(put_with_ttl("k298", "again", 10))));
    server.append(Payload::Noop);
    server.catch_up(usize::MAX);
    assert_eq!(server.keys(), ["k298", "k299"]);
    assert_eq!(rows(&engine), (2, 1));
}

#[test]
fn the_next_deadline_is_told_so_that_time_can_pass_without_traffic() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    assert_eq!(server.machine.next_deadline_ms(), None);
    server.run(&at(100, write(put_with_ttl("a", "1", 50)))).unwrap();
    server.run(&at(100, write(put_with_ttl("b", "1", 20)))).unwrap();
    assert_eq!(server.machine.next_deadline_ms(), Some(120));
    assert_eq!(open(engine).next_deadline_ms(), Some(120), "after a restart");
    server.write(delete("b")).unwrap();
    assert!(server.machine.next_deadline_ms() <= Some(150), "perhaps too early, never too late");
    server.run(&at(120, Body::Time)).unwrap();
    assert_eq!(server.machine.next_deadline_ms(), Some(150), "one entry puts it right");
    server.run(&at(150, Body::Time)).unwrap();
    assert_eq!(server.machine.next_deadline_ms(), None);
}
