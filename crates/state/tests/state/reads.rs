//! Gets and scans.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use raftmap_raft::{LogIndex, Payload};
use raftmap_state::{Body, DiskEngine, DiskOptions, Engine, Get, MemoryEngine, ReadError, Record, Scan};

use crate::common::{Done, Server, at, bytes, delete, put, put_with_ttl, record, scan_all, write};

fn names(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| std::str::from_utf8(&record.key).unwrap()).collect()
}

fn five_keys() -> Server<MemoryEngine> {
    let mut server = Server::in_memory();
    for key in ["a", "b", "ba", "c", "d"] {
        server.write(put(key, "1234567890")).unwrap();
    }
    server
}

#[test]
fn a_get_answers_each_key_in_order_at_the_applied_revision() {
    let mut server = five_keys();
    server.append(Payload::Noop);
    server.catch_up(1);
    let get = Get { keys: ["c", "nothing", "a", "c"].map(bytes).into() };
    let answer = server.machine.reader().get(&get, u32::MAX).unwrap();
    assert_eq!(answer.revision, LogIndex(6));
    let c = Some(record("c", "1234567890", 4));
    assert_eq!(answer.records, [c.clone(), None, Some(record("a", "1234567890", 1)), c]);
}

#[test]
fn a_get_whose_answer_would_be_too_large_says_the_limit() {
    let server = five_keys();
    let get = Get { keys: ["a", "b"].map(bytes).into() };
    let size = 192 + 2 * (64 + 11);
    assert!(server.machine.reader().get(&get, size).is_ok());
    let refused = server.machine.reader().get(&get, size - 1);
    assert!(matches!(refused, Err(ReadError::AnswerTooLarge { limit }) if limit == u64::from(size) - 1));
}

#[test]
fn a_scan_reads_its_range_and_nothing_else() {
    let server = five_keys();
    let cases: [(&str, &str, &[&str]); 9] = [
        ("", "", &["a", "b", "ba", "c", "d"]),
        ("b", "", &["b", "ba", "c", "d"]),
        ("", "b", &["a"]),
        ("b", "c", &["b", "ba"]),
        ("b", "ba", &["b"]),
        ("aa", "bb", &["b", "ba"]),
        ("c", "c", &[]),
        ("d", "a", &[]),
        ("e", "", &[]),
    ];
    for (start, end, expected) in cases {
        let scan = Scan { start: bytes(start), end: bytes(end), ..Scan::default() };
        assert_eq!(names(&scan_all(&server.machine, &scan)), expected, "{start}..{end}");
        let mut backwards = scan_all(&server.machine, &Scan { reverse: true, ..scan });
        backwards.reverse();
        assert_eq!(names(&backwards), expected, "{start}..{end} in reverse");
    }
}

#[test]
fn the_last_possible_key_is_in_a_scan_without_an_end() {
    let mut server = Server::in_memory();
    let key = Bytes::from(vec![0xff; 40]);
    let entry = raftmap_state::PutEntry { key: key.clone(), ..raftmap_state::PutEntry::default() };
    let put = raftmap_state::Put { entries: vec![entry], return_previous: false };
    server.write(raftmap_state::WriteRequest::Put(put)).unwrap();
    assert_eq!(scan_all(&server.machine, &Scan::default())[0].key, key);
}

#[test]
fn a_scan_of_keys_only_leaves_the_values_out() {
    let records = scan_all(&five_keys().machine, &Scan { keys_only: true, ..Scan::default() });
    assert_eq!(records.len(), 5);
    assert!(records.iter().all(|record| record.value.is_empty()));
}

#[test]
fn pages_are_bounded_hold_at_least_one_entry_and_say_whether_more_follow() {
    let server = five_keys();
    let page_of = |entries: u64| 192 + entries * (64 + 12);
    for (page_bytes_max, lengths) in
        [(0, vec![1, 1, 1, 1, 1]), (page_of(2), vec![2, 2, 1]), (page_of(5), vec![5])]
    {
        let mut cursor = server.machine.reader().scan(&Scan::default()).unwrap();
        let mut pages = Vec::new();
        loop {
            let page = cursor.next_page(page_bytes_max).unwrap();
            assert_eq!(page.revision, LogIndex(5));
            assert_eq!(page.more, !cursor.is_done());
            pages.push(page.records.len());
            assert!(pages.len() <= lengths.len());
            if cursor.is_done() {
                break;
            }
        }
        assert_eq!(pages, lengths);
    }
}

#[test]
fn a_scans_limit_holds_over_all_its_pages() {
    let server = five_keys();
    for (limit, expected, more) in [(3, 3, true), (5, 5, false), (9, 5, false), (0, 5, false)] {
        let mut cursor = server.machine.reader().scan(&Scan { limit, ..Scan::default() }).unwrap();
        let mut page = cursor.next_page(0).unwrap();
        let mut total = page.records.len();
        while !cursor.is_done() {
            page = cursor.next_page(0).unwrap();
            assert_eq!(page.records.len(), 1, "limit {limit}");
            total += page.records.len();
        }
        assert_eq!((total, page.more), (expected, more), "limit {limit}");
    }
}

#[test]
fn an_empty_scan_is_one_empty_page() {
    let mut cursor = Server::in_memory().machine.reader().scan(&Scan::default()).unwrap();
    assert!(cursor.is_done());
    let page = cursor.next_page(0).unwrap();
    assert_eq!((page.records.len(), page.more), (0, false));
}

fn a_scan_stays_at_its_revision(engine: impl Engine) {
    let mut server = Server::on(engine);
    for key in ["a", "b", "c"] {
        server.run(&at(0, write(put_with_ttl(key, "1", 100)))).unwrap();
    }
    let mut cursor = server.machine.reader().scan(&Scan::default()).unwrap();
    assert_eq!(names(&cursor.next_page(0).unwrap().records), ["a"]);
    server.write(delete("b")).unwrap();
    server.write(put("bb", "new")).unwrap();
    server.run(&at(500, Body::Time)).unwrap();
    assert_eq!(server.keys(), ["bb"]);
    let page = cursor.next_page(u64::MAX).unwrap();
    assert_eq!((page.revision, names(&page.records)), (LogIndex(3), vec!["b", "c"]));
}

#[test]
fn all_pages_of_a_scan_are_of_one_revision_and_one_log_time() {
    a_scan_stays_at_its_revision(MemoryEngine::new());
    let directory = tempfile::tempdir().unwrap();
    a_scan_stays_at_its_revision(DiskEngine::open(directory.path(), DiskOptions::default()).unwrap());
}

/// Each entry sets two keys to its own index: a reader that sees anything else looked at two states at once.
#[test]
fn a_read_beside_writes_sees_exactly_the_state_at_its_revision() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::on(DiskEngine::open(directory.path(), DiskOptions::default()).unwrap());
    server.write(put("x", "1")).unwrap();
    server.write(put("y", "2")).unwrap();
    let reader = server.machine.reader();
    let done = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut last = LogIndex(0);
            while !done.load(Ordering::Relaxed) {
                let get = Get { keys: vec![bytes("x"), bytes("y")] };
                let answer = reader.get(&get, u32::MAX).unwrap();
                let revisions: Vec<_> =
                    answer.records.iter().flatten().map(|record| record.revision).collect();
                assert_eq!(revisions.iter().max(), Some(&answer.revision));
                assert_eq!(revisions[0].0.abs_diff(revisions[1].0), 1, "{answer:?}");
                assert!(answer.revision >= last);
                last = answer.revision;
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _done = Done(&done);
        // The scheduler may start the reader late: the writes go on until there were enough reads beside them.
        let mut x = true;
        while reads.load(Ordering::Relaxed) < 1000 && !watcher.is_finished() {
            for _ in 0..100 {
                server.write(put(if x { "x" } else { "y" }, "1")).unwrap();
                x = !x;
            }
        }
    });
}
