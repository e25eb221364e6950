//! Short ways to write commands, and a server's log beside its state machine.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use raftmap_raft::{Entry, GroupId, LogIndex, NodeId, Payload, Term};
use raftmap_state::{
    Answer, Body, Command, Condition, Delete, Digest, Engine, Expected, Get, Introduction, MemoryEngine,
    Operation, Outcome, Put, PutEntry, Record, Refusal, Scan, SessionId, SessionLimits, SessionTag,
    StateMachine, Txn, Write, WriteRequest,
};

pub(crate) const ANSWER_BYTES_MAX: u32 = 1 << 20;

pub(crate) type Outcomes = Vec<Result<Answer, Refusal>>;

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn entry(key: &str, value: &str) -> PutEntry {
    PutEntry { key: bytes(key), value: bytes(value), ttl_ms: None }
}

pub(crate) fn entry_with_ttl(key: &str, value: &str, ttl_ms: u64) -> PutEntry {
    PutEntry { ttl_ms: NonZeroU64::new(ttl_ms), ..entry(key, value) }
}

pub(crate) fn put(key: &str, value: &str) -> WriteRequest {
    WriteRequest::Put(Put { entries: vec![entry(key, value)], return_previous: false })
}

pub(crate) fn put_with_ttl(key: &str, value: &str, ttl_ms: u64) -> WriteRequest {
    WriteRequest::Put(Put { entries: vec![entry_with_ttl(key, value, ttl_ms)], return_previous: false })
}

pub(crate) fn delete(key: &str) -> WriteRequest {
    WriteRequest::Delete(Delete { keys: vec![bytes(key)], return_previous: false })
}

pub(crate) fn condition(key: &str, expected: Expected) -> Condition {
    Condition { key: bytes(key), expected }
}

pub(crate) fn txn(
    conditions: Vec<Condition>,
    then: Vec<Operation>,
    otherwise: Vec<Operation>,
) -> WriteRequest {
    WriteRequest::Txn(Txn { conditions, then, otherwise })
}

pub(crate) fn record(key: &str, value: &str, revision: u64) -> Record {
    Record { key: bytes(key), value: bytes(value), revision: LogIndex(revision), expires_at_ms: None }
}

/// A server with its addresses.
pub(crate) fn introduction(id: u64, replaces: Option<u64>) -> Introduction {
    let address = |port: &str| format!("a:{port}");
    let (peer_address, client_address) = (address("1"), address("2"));
    Introduction { node_id: NodeId(id), peer_address, client_address, replaces: replaces.map(NodeId) }
}

pub(crate) fn tag(session_id: SessionId, sequence: u64) -> SessionTag {
    SessionTag { session_id, sequence, acknowledged_below: 0 }
}

pub(crate) fn write(request: WriteRequest) -> Body {
    Body::Write(Write { request, session: None, answer_bytes_max: ANSWER_BYTES_MAX })
}

pub(crate) fn tagged(request: WriteRequest, session: SessionTag) -> Body {
    Body::Write(Write { request, session: Some(session), answer_bytes_max: ANSWER_BYTES_MAX })
}

pub(crate) fn at(time_ms: u64, body: Body) -> Command {
    Command { stamped_time_ms: Some(time_ms), trace: None, body }
}

pub(crate) fn timeless(body: Body) -> Command {
    Command { stamped_time_ms: None, trace: None, body }
}

pub(crate) const SMALL_SESSIONS: SessionLimits =
    SessionLimits { idle_expiry_ms: 1000, in_flight_max: 3, kept_bytes_max: 1000, sessions_max: 2 };

/// Tells another thread to end when this one is done, also if that is by a failed assertion.
pub(crate) struct Done<'a>(pub(crate) &'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A server: its log, and the state machine that applies it.
pub(crate) struct Server<E: Engine> {
    pub(crate) log: Vec<Entry>,
    pub(crate) machine: StateMachine<E>,
}

impl Server<MemoryEngine> {
    pub(crate) fn in_memory() -> Self {
        Self::on(MemoryEngine::new())
    }
}

impl<E: Engine> Server<E> {
    pub(crate) fn on(engine: E) -> Self {
        Self { log: Vec::new(), machine: open(engine) }
    }

    pub(crate) fn append(&mut self, payload: Payload) {
        let index = LogIndex(self.log.len() as u64 + 1);
        self.log.push(Entry { term: Term(1), index, payload });
    }

    pub(crate) fn append_command(&mut self, command: &Command) {
        self.append(Payload::Command(command.encode()));
    }

    /// Applies what is in the log and was not applied yet, in batches of at most `batch_max` entries.
    pub(crate) fn catch_up(&mut self, batch_max: usize) -> Vec<Outcome> {
        let from = usize::try_from(self.machine.applied().index.0).unwrap();
        let mut outcomes = Vec::new();
        for batch in self.log[from..].chunks(batch_max) {
            outcomes.extend(self.machine.apply(batch).unwrap());
        }
        outcomes
    }

    pub(crate) fn run(&mut self, command: &Command) -> Result<Answer, Refusal> {
        self.append_command(command);
        let outcomes = self.catch_up(usize::MAX);
        assert_eq!(outcomes.last().map(|outcome| outcome.index), Some(self.machine.applied().index));
        outcomes.into_iter().next_back().unwrap().result
    }

    /// Carries out a write at the log time that the server has.
    pub(crate) fn write(&mut self, request: WriteRequest) -> Result<Answer, Refusal> {
        self.run(&timeless(write(request)))
    }

    pub(crate) fn open_session(&mut self, limits: SessionLimits) -> SessionId {
        match self.run(&timeless(Body::OpenSession(limits))) {
            Ok(Answer::SessionOpened(opened)) => opened.session_id,
            other => panic!("no session: {other:?}"),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Record> {
        let get = Get { keys: vec![bytes(key)] };
        self.machine.reader().get(&get, ANSWER_BYTES_MAX).unwrap().records.remove(0)
    }

    pub(crate) fn value(&self, key: &str) -> Option<String> {
        self.get(key).map(|record| String::from_utf8(record.value.to_vec()).unwrap())
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        let scan = Scan { keys_only: true, ..Scan::default() };
        scan_all(&self.machine, &scan)
            .into_iter()
            .map(|record| String::from_utf8(record.key.to_vec()).unwrap())
            .collect()
    }
}

pub(crate) fn open<E: Engine>(engine: E) -> StateMachine<E> {
    StateMachine::open(engine, GroupId::DEFAULT).unwrap()
}

pub(crate) fn scan_all<E: Engine>(machine: &StateMachine<E>, scan: &Scan) -> Vec<Record> {
    let mut cursor = machine.reader().scan(scan).unwrap();
    let records = cursor.next_page(u64::MAX).unwrap().records;
    assert!(cursor.is_done(), "one page without a bound is all");
    records
}

pub(crate) fn content_digest<E: Engine>(machine: &StateMachine<E>) -> Digest {
    let mut digest = machine.reader().content_digest().unwrap();
    assert_eq!(digest.at(), machine.applied());
    digest.advance(u64::MAX).unwrap().expect("no bound was given")
}
