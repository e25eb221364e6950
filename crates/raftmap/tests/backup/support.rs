//! A small state with something in every table.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use raftmap::backup::{BackupHeader, BackupParts, Origin};
use raftmap::node::FoundingMember;
use raftmap_raft::{Entry, GroupId, LogIndex, Membership, NodeId, Payload, Term};
use raftmap_state::{
    Body, Command, Engine, Member, MemoryEngine, Put, PutEntry, SessionId, SessionLimits, SessionTag,
    StateMachine, Write, WriteRequest,
};

pub(crate) const OLD_CLUSTER: u128 = 0xFACE;

fn put(key: &str, value: &str, ttl_ms: u64, session: Option<SessionTag>) -> Body {
    let entry = PutEntry {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ttl_ms: std::num::NonZeroU64::new(ttl_ms),
    };
    let request = WriteRequest::Put(Put { entries: vec![entry], return_previous: false });
    Body::Write(Write { request, session, answer_bytes_max: 1 << 20 })
}

/// The log of the old cluster.
pub(crate) fn log() -> Vec<Entry> {
    let tag = SessionTag { session_id: SessionId(3), sequence: 1, acknowledged_below: 1 };
    let member = |id| Member { node_id: NodeId(id), incarnation: 5, founding_hash: 7 };
    let of =
        |ids: &[u64]| Payload::Membership(Box::new(Membership::of_voters(ids.iter().map(|id| NodeId(*id)))));
    let command = |time: u64, body: Body| {
        Payload::Command(Command { stamped_time_ms: Some(time), trace: None, body }.encode())
    };
    let payloads = [
        Payload::Noop,
        command(1000, Body::RecordMember(member(1))),
        command(1001, Body::OpenSession(SessionLimits::default())),
        command(1002, put("greeting", "hello", 0, Some(tag))),
        of(&[1, 2, 3]),
        of(&[1, 2]),
        command(1003, put("brief", "candle", 60_000, None)),
        command(1004, put("large", &"v".repeat(500), 0, None)),
    ];
    let entry = |(index, payload)| Entry { term: Term(2), index: LogIndex(index), payload };
    (1..).zip(payloads).map(entry).collect()
}

/// The state that it comes to.
pub(crate) fn state() -> StateMachine<MemoryEngine> {
    let mut machine = StateMachine::open(MemoryEngine::new(), GroupId::DEFAULT).unwrap();
    machine.apply(&log()).unwrap();
    machine
}

/// The header of its backup, made at a fixed moment.
pub(crate) fn header(machine: &StateMachine<impl Engine>) -> BackupHeader {
    let snapshot = machine.reader().snapshot().unwrap();
    let header = BackupHeader::of(snapshot.header(), Origin::Cluster, OLD_CLUSTER, NodeId(2));
    BackupHeader { made_at_ms: 1_790_000_000_000, program: "0.1.0".to_owned(), ..header }
}

/// The parts of a file.
pub(crate) fn parts(machine: &StateMachine<impl Engine>) -> Vec<Bytes> {
    let snapshot = machine.reader().snapshot().unwrap();
    BackupParts::new(&header(machine), &snapshot).map(Result::unwrap).collect()
}

/// The file of [`state`].
pub(crate) fn file() -> Vec<u8> {
    parts(&state()).concat()
}

pub(crate) fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The members of a new cluster.
pub(crate) fn members(ids: std::ops::RangeInclusive<u64>) -> Vec<FoundingMember> {
    let member = |id| FoundingMember {
        node: NodeId(id),
        peer_address: format!("host{id}:7001"),
        client_address: format!("host{id}:7000"),
    };
    ids.map(member).collect()
}
