//! What it costs a server to apply an entry: decode it, look at its session, change rows, chain the digest, commit to the engine.
//! Entries a second; an iteration applies one batch of entries, as the log gives them.

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use raftmap_raft::{Entry, GroupId, LogIndex, Payload, Term};
use raftmap_state::{
    Body, Command, DiskEngine, DiskOptions, Engine, MemoryEngine, Put, PutEntry, SessionId, SessionLimits,
    SessionTag, StateMachine, Write, WriteRequest,
};

const KEYS: [u32; 2] = [10_000, 1_000_000];
const BATCHES: [u64; 3] = [1, 16, 64];
/// How many writes of the session are under way.
const IN_FLIGHT: u64 = 64;

fn main() {
    divan::main();
}

/// A log of puts of 128 bytes with the tags of one session.
struct Puts {
    keys: u32,
    index: LogIndex,
    value: Bytes,
}

impl Puts {
    fn next(&mut self, write: bool) -> Entry {
        self.index = self.index.next();
        let sequence = self.index.0;
        let body = if write {
            let key = format!("raftmap-bench/{:010}", fastrand::u32(..self.keys)).into();
            let entry = PutEntry { key, value: self.value.clone(), ttl_ms: None };
            let tag = SessionTag {
                session_id: SessionId(1),
                sequence,
                acknowledged_below: sequence.saturating_sub(IN_FLIGHT),
            };
            let request = WriteRequest::Put(Put { entries: vec![entry], return_previous: false });
            Body::Write(Write { request, session: Some(tag), answer_bytes_max: 4 << 20 })
        } else {
            Body::OpenSession(SessionLimits {
                idle_expiry_ms: 60_000,
                in_flight_max: 4096,
                kept_bytes_max: 16 << 20,
                sessions_max: 100,
            })
        };
        let command = Command { stamped_time_ms: Some(1_700_000_000_000), trace: None, body };
        Entry { term: Term(1), index: self.index, payload: Payload::Command(command.encode()) }
    }
}

fn apply<E: Engine>(bencher: Bencher, engine: E, keys: u32, batch: u64) {
    let mut machine = StateMachine::open(engine, GroupId::DEFAULT).expect("an empty engine");
    let mut puts = Puts { keys, index: LogIndex(0), value: vec![7; 128].into() };
    machine.apply(&[puts.next(false)]).expect("applied");
    // Every key once or so: what is measured is a map that is full.
    for _ in 0..keys / 1000 {
        let entries: Vec<Entry> = (0..1000).map(|_| puts.next(true)).collect();
        machine.apply(&entries).expect("applied");
    }
    bencher
        .counter(ItemsCount::new(batch))
        .with_inputs(|| (0..batch).map(|_| puts.next(true)).collect::<Vec<_>>())
        .bench_local_refs(|entries| machine.apply(entries).expect("applied"));
}

#[divan::bench(args = BATCHES, consts = KEYS)]
fn on_disk<const KEYS: u32>(bencher: Bencher, batch: u64) {
    let directory = tempfile::tempdir().expect("a folder");
    let engine = DiskEngine::open(directory.path(), DiskOptions::default()).expect("an engine");
    apply(bencher, engine, KEYS, batch);
}

#[divan::bench(args = BATCHES)]
fn in_memory(bencher: Bencher, batch: u64) {
    apply(bencher, MemoryEngine::new(), KEYS[0], batch);
}
