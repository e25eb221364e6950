//! Snapshots from one engine to another: what arrives is what was there, and goes on as the sender does.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;
use raftmap_raft::{Entry, GroupId, LogIndex, LogPosition, Membership, NodeId, Payload, Term};
use raftmap_state::{
    Body, CHUNK_BYTES_MAX, Damage, Delete, Digest, DiskEngine, DiskOptions, Engine, EngineError, Ingest,
    Member, MemoryEngine, MemoryIngest, MemorySnapshot, Put, PutEntry, Row, RowChange, Snapshot,
    SnapshotError, SnapshotInstall, SnapshotReader, StateMachine, WriteRequest,
};

use crate::common::{SMALL_SESSIONS, Server, at, content_digest, open, put, tag, tagged, timeless, write};
use crate::crash::{copy, eventful_log, open_on_disk};
use crate::differential::{Scribe, assert_same_state, cases, history, results};

/// All chunks but the header.
pub(crate) fn chunks_of(snapshot: &SnapshotReader<impl Snapshot>, bytes: usize) -> Vec<Bytes> {
    snapshot.chunks(bytes).map(Result::unwrap).collect()
}

pub(crate) fn install<I: Ingest>(
    header: &Bytes,
    chunks: &[Bytes],
    ingest: I,
) -> Result<StateMachine<I::Engine>, SnapshotError> {
    let mut install = SnapshotInstall::new(GroupId::DEFAULT, header, ingest)?;
    for chunk in chunks {
        install.take(chunk)?;
    }
    assert!(install.is_complete(), "all chunks were taken");
    install.finish()
}

fn on_disk(directory: &Path) -> DiskEngine {
    DiskEngine::open(directory, DiskOptions::default()).unwrap()
}

/// How a machine stands: all that two of them must agree in.
type Standing = (LogPosition, u64, Option<(LogIndex, Membership)>, [Digest; 2]);

fn state_of<E: Engine>(machine: &StateMachine<E>) -> Standing {
    let digests = [machine.running_digest(), content_digest(machine)];
    (machine.applied(), machine.log_time_ms(), machine.membership(), digests)
}

/// Half of the history is applied on the one engine, then a snapshot is taken, then the other half is applied while the
/// snapshot has not been read. What is installed from it stands where the sender stood, and does with the other half what the
/// sender did.
fn a_snapshot_goes_on_as_its_sender<E: Engine, I: Ingest>(
    history: &[crate::differential::Stretch],
    chunk_bytes: usize,
    engine: E,
    ingest: I,
) {
    let mut scribe = Scribe::default();
    let mut sender = Server::on(engine.clone());
    let (before, after) = history.split_at(history.len() / 2);
    for step in before.iter().flat_map(|stretch| &stretch.steps) {
        sender.append(scribe.payload(step));
    }
    assert_eq!(results(&mut sender, 5), scribe.expected);
    let at_snapshot = state_of(&sender.machine);
    let deadline = open(engine).next_deadline_ms();
    let snapshot = sender.machine.reader().snapshot().unwrap();
    assert_eq!(snapshot.header().applied, sender.machine.reader().applied().unwrap());
    let content = content_digest(&sender.machine);
    let (model, taken) = (scribe.model.clone(), scribe.expected.len());

    for step in after.iter().flat_map(|stretch| &stretch.steps) {
        sender.append(scribe.payload(step));
    }
    assert_eq!(&results(&mut sender, 3)[..], &scribe.expected[taken..]);

    let chunks = chunks_of(&snapshot, chunk_bytes);
    let machine = install(snapshot.header_bytes(), &chunks, ingest).unwrap();
    assert_eq!(snapshot.content_digest().advance(u64::MAX).unwrap(), Some(content));
    assert_eq!(state_of(&machine), at_snapshot);
    assert_eq!(machine.next_deadline_ms(), deadline);
    assert_same_state(&machine, &model);

    let mut receiver = Server { log: sender.log.clone(), machine };
    assert_eq!(&results(&mut receiver, 7)[..], &scribe.expected[taken..]);
    assert_eq!(state_of(&receiver.machine), state_of(&sender.machine));
    assert_same_state(&receiver.machine, &scribe.model);
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn a_snapshot_from_memory_goes_on_in_memory(history in history(8), chunk_bytes in 0usize..2000) {
        a_snapshot_goes_on_as_its_sender(&history, chunk_bytes, MemoryEngine::new(), MemoryIngest::default());
    }
}

proptest! {
    #![proptest_config(cases(10))]

    #[test]
    fn a_snapshot_from_memory_goes_on_on_disk(history in history(8), chunk_bytes in 0usize..2000) {
        let directory = tempfile::tempdir().unwrap();
        let fresh = DiskEngine::fresh(&directory.path().join("new"), DiskOptions::default()).unwrap();
        a_snapshot_goes_on_as_its_sender(&history, chunk_bytes, MemoryEngine::new(), fresh.ingest().unwrap());
    }

    #[test]
    fn a_snapshot_from_disk_goes_on_in_memory(history in history(8), chunk_bytes in 0usize..2000) {
        let directory = tempfile::tempdir().unwrap();
        a_snapshot_goes_on_as_its_sender(&history, chunk_bytes, on_disk(directory.path()), MemoryIngest::default());
    }
}

/// A server of which every table has rows.
pub(crate) fn an_eventful_server() -> Server<MemoryEngine> {
    let mut server = eventful_log(60);
    server.append(Payload::Membership(Box::new(Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]))));
    let member = Member { node_id: NodeId(3), incarnation: 5, founding_hash: 7 };
    server.append_command(&timeless(Body::RecordMember(member)));
    server.append_command(&timeless(write(put("large", &"v".repeat(500)))));
    let session = server.open_session(SMALL_SESSIONS);
    let delete = Delete { keys: vec![Bytes::from_static(b"large")], return_previous: true };
    server.append_command(&timeless(tagged(WriteRequest::Delete(delete), tag(session, 1))));
    server.append_command(&at(600, Body::Time));
    server.catch_up(9);
    server
}

#[test]
fn every_table_has_rows_in_the_eventful_server() {
    let server = an_eventful_server();
    let snapshot = server.machine.reader().snapshot().unwrap();
    let mut tables = std::collections::BTreeSet::new();
    for chunk in chunks_of(&snapshot, 0) {
        // A chunk of one row: a head of 40 bytes, the length of the key, the key.
        if chunk[5] == 2 {
            tables.insert(chunk[41]);
        }
    }
    assert_eq!(tables.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn what_was_installed_is_on_disk_when_it_is_finished() {
    let mut server = an_eventful_server();
    let snapshot = server.machine.reader().snapshot().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let new = directory.path().join("new");
    let fresh = DiskEngine::fresh(&new, DiskOptions::default()).unwrap();
    let machine =
        install(snapshot.header_bytes(), &chunks_of(&snapshot, 300), fresh.ingest().unwrap()).unwrap();
    let expected = state_of(&server.machine);
    assert_eq!(state_of(&machine), expected);
    // Nothing is flushed at the end of a process that could make up for it.
    drop((machine, fresh));

    let mut again = open_on_disk(&new).unwrap();
    assert_eq!(state_of(&again), expected);
    let from = server.log.len();
    for n in 0..40 {
        server.append_command(&timeless(write(put(&format!("k{n}"), "after"))));
    }
    server.catch_up(usize::MAX);
    again.apply(&server.log[from..from + 20]).unwrap();
    again.persist().unwrap();
    drop(again);
    let mut again = open_on_disk(&new).unwrap();
    assert_eq!(again.applied().index, LogIndex(from as u64 + 20), "it persists as any other");
    again.apply(&server.log[from + 20..]).unwrap();
    assert_eq!(state_of(&again), state_of(&server.machine));
}

/// Whatever a crash leaves of it is no state, and can be removed.
#[test]
fn before_it_is_finished_a_database_holds_nothing_and_can_be_removed() {
    let server = an_eventful_server();
    let snapshot = server.machine.reader().snapshot().unwrap();
    let chunks = chunks_of(&snapshot, 300);
    let directory = tempfile::tempdir().unwrap();
    let new = directory.path().join("new");
    for count in [0, 1, chunks.len() - 1, chunks.len()] {
        let fresh = DiskEngine::fresh(&new, DiskOptions::default()).unwrap();
        let mut install =
            SnapshotInstall::new(GroupId::DEFAULT, snapshot.header_bytes(), fresh.ingest().unwrap()).unwrap();
        chunks[..count].iter().for_each(|chunk| install.take(chunk).unwrap());
        let image = directory.path().join(format!("image-{count}"));
        copy(&new, &image);
        assert_eq!(open_on_disk(&image).unwrap().applied().index, LogIndex(0), "after {count} chunks");
        drop(install);
        drop(fresh);
        let there = DiskEngine::fresh(&new, DiskOptions::default());
        assert!(there.is_err_and(|error| error.doing == "create directory"), "it is there already");
        std::fs::remove_dir_all(&new).unwrap();
    }
    let fresh = DiskEngine::fresh(&new, DiskOptions::default()).unwrap();
    install(snapshot.header_bytes(), &chunks, fresh.ingest().unwrap()).unwrap();
}

#[test]
fn an_engine_in_memory_keeps_what_was_ingested_and_can_be_damaged() {
    let server = an_eventful_server();
    let snapshot = server.machine.reader().snapshot().unwrap();
    let mut ingest = MemoryIngest::default();
    for n in 0..50u8 {
        ingest.add(Bytes::from(vec![n]), Bytes::from_static(b"v")).unwrap();
    }
    let engine = ingest.finish().unwrap();
    let rows = |engine: &MemoryEngine| engine.snapshot().range(&[0], &[255]).filter(Result::is_ok).count();
    for seed in 0..20 {
        assert_eq!(rows(&engine.crash(seed, Damage::None)), 50);
    }
    assert_eq!(rows(&engine.crash(1, Damage::Emptied)), 0);
    assert_eq!(rows(&engine.crash(1, Damage::Unreadable)), 0);

    let chunks = chunks_of(&snapshot, 300);
    let installed = install(snapshot.header_bytes(), &chunks, MemoryIngest::default()).unwrap();
    assert_eq!(state_of(&installed), state_of(&server.machine));
}

#[test]
fn a_snapshot_of_nothing_can_be_installed() {
    let server = Server::in_memory();
    let snapshot = server.machine.reader().snapshot().unwrap();
    let chunks = chunks_of(&snapshot, 300);
    assert_eq!(chunks.len(), 1, "the trailer");
    let directory = tempfile::tempdir().unwrap();
    let fresh = DiskEngine::fresh(&directory.path().join("new"), DiskOptions::default()).unwrap();
    let machine = install(snapshot.header_bytes(), &chunks, fresh.ingest().unwrap()).unwrap();
    assert_eq!(state_of(&machine), state_of(&server.machine));
}

#[test]
fn chunks_keep_their_size_and_a_larger_row_travels_alone() {
    let mut server = an_eventful_server();
    server.write(put("k5", &"w".repeat(3000))).unwrap();
    let snapshot = server.machine.reader().snapshot().unwrap();
    let chunks = chunks_of(&snapshot, 1000);
    let rows = |chunk: &Bytes| u32::from_le_bytes(*chunk[20..].first_chunk().unwrap());
    let large: Vec<u32> = chunks.iter().filter(|chunk| chunk.len() > 1000).map(rows).collect();
    assert_eq!(large, [1]);
    assert!(chunks.iter().any(|chunk| rows(chunk) > 5));
    let rows_bytes: Vec<usize> = chunks_of(&snapshot, 0).iter().map(|chunk| chunk.len() - 40).collect();
    for limit in 60..600 {
        let chunks = chunks_of(&snapshot, limit);
        let mut at = 0;
        for two in chunks[..chunks.len() - 1].windows(2) {
            at += rows(&two[0]) as usize;
            assert!(two[0].len() + rows_bytes[at] > limit, "the next row would have fitted into {limit}");
            assert!(two[0].len() <= limit || rows(&two[0]) == 1);
        }
    }
    let one = chunks_of(&snapshot, usize::MAX);
    assert_eq!(one.len(), 2, "all rows, and the trailer");
    install(snapshot.header_bytes(), &one, MemoryIngest::default()).unwrap();
}

/// An engine of which a few rows can be read, and then no more.
#[derive(Clone)]
struct Rotten(MemoryEngine);

struct RottenView(MemorySnapshot);

const ROWS_UNTIL_IT_FAILS: usize = 12;

impl Engine for Rotten {
    type Snapshot = RottenView;

    fn snapshot(&self) -> RottenView {
        RottenView(self.0.snapshot())
    }

    fn commit(&self, batch: Vec<RowChange>) -> Result<(), EngineError> {
        self.0.commit(batch)
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.0.persist()
    }
}

impl Snapshot for RottenView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(key)
    }

    fn range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Row, EngineError>> + Send + 'static {
        let rows: Vec<_> = self.0.range(start, end).collect();
        let rotten = || EngineError { doing: "range", source: "a block that rotted".into() };
        rows.into_iter()
            .enumerate()
            .map(move |(at, row)| if at < ROWS_UNTIL_IT_FAILS { row } else { Err(rotten()) })
    }
}

#[test]
fn a_row_that_cannot_be_read_ends_the_stream_without_a_trailer() {
    let server = an_eventful_server();
    let engine = MemoryEngine::new();
    let mut reading = open(Rotten(engine.clone()));
    reading.apply(&server.log).unwrap();
    let snapshot = reading.reader().snapshot().unwrap();
    let chunks: Vec<_> = snapshot.chunks(150).collect();
    let (last, before) = chunks.split_last().unwrap();
    assert!(before.len() > 2 && before.iter().all(Result::is_ok));
    assert!(matches!(last, Err(SnapshotError::Engine(_))), "and nothing behind it");
    engine.fail();
    assert!(reading.reader().snapshot().is_err());
}

#[test]
fn a_row_that_no_chunk_can_hold_ends_the_stream() {
    let engine = MemoryEngine::new();
    let large = Bytes::from(vec![0; CHUNK_BYTES_MAX]);
    engine.commit(vec![(Bytes::from_static(b"\x02large"), Some(large))]).unwrap();
    let snapshot = open(engine).reader().snapshot().unwrap();
    let mut chunks = snapshot.chunks(300);
    assert!(matches!(chunks.next(), Some(Err(SnapshotError::TooLarge { .. }))));
    assert!(chunks.next().is_none());
}

/// A store whose disk is full after a few rows.
struct Full(usize);

impl Ingest for Full {
    type Engine = MemoryEngine;

    fn add(&mut self, _: Bytes, _: Bytes) -> Result<(), EngineError> {
        self.0 =
            self.0.checked_sub(1).ok_or(EngineError { doing: "ingest", source: "no space left".into() })?;
        Ok(())
    }

    fn finish(self) -> Result<MemoryEngine, EngineError> {
        panic!("a store that failed is not finished")
    }
}

#[test]
fn a_store_that_fails_while_it_is_filled_takes_nothing_more() {
    let server = an_eventful_server();
    let snapshot = server.machine.reader().snapshot().unwrap();
    let mut install =
        SnapshotInstall::new(GroupId::DEFAULT, snapshot.header_bytes(), Full(ROWS_UNTIL_IT_FAILS)).unwrap();
    let errors: Vec<SnapshotError> =
        snapshot.chunks(150).filter_map(|chunk| install.take(&chunk.unwrap()).err()).collect();
    assert!(matches!(errors[..], [SnapshotError::Engine(_), SnapshotError::Refused, ..]), "{errors:?}");
    assert!(matches!(install.finish(), Err(SnapshotError::Refused)));
}

/// Prints how fast it is: `cargo test --release -p raftmap-state --test state million -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn a_million_rows_are_exported_and_installed() {
    const ENTRIES: u32 = 1000;
    const KEYS: u32 = 1000;
    let directory = tempfile::tempdir().unwrap();
    let mut sender = open(on_disk(&directory.path().join("old")));
    for index in 1..=ENTRIES {
        let key =
            |n: u32| Bytes::from(format!("key-{:016x}", (n * ENTRIES + index).wrapping_mul(0x9e37_79b1)));
        let value = Bytes::from(vec![b'v'; 128]);
        let entries =
            (0..KEYS).map(|n| PutEntry { key: key(n), value: value.clone(), ttl_ms: None }).collect();
        let put = WriteRequest::Put(Put { entries, return_previous: false });
        let payload = Payload::Command(timeless(write(put)).encode());
        sender.apply(&[Entry { term: Term(1), index: LogIndex(u64::from(index)), payload }]).unwrap();
    }
    sender.persist().unwrap();
    let start = Instant::now();
    let snapshot = sender.reader().snapshot().unwrap();
    let chunks = chunks_of(&snapshot, 1 << 20);
    println!("export: {:?}, {} chunks", start.elapsed(), chunks.len());
    let start = Instant::now();
    content_digest(&sender);
    println!("content digest: {:?}", start.elapsed());
    let start = Instant::now();
    let in_memory = install(snapshot.header_bytes(), &chunks, MemoryIngest::default()).unwrap();
    println!("install in memory: {:?}", start.elapsed());
    let start = Instant::now();
    let new = directory.path().join("new");
    let fresh = DiskEngine::fresh(&new, DiskOptions::default()).unwrap();
    let installed = install(snapshot.header_bytes(), &chunks, fresh.ingest().unwrap()).unwrap();
    println!("install on disk, durable and opened: {:?}", start.elapsed());
    assert_eq!(state_of(&installed), state_of(&in_memory));
    assert_eq!(state_of(&installed), state_of(&sender));
}
