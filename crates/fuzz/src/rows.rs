//! A state machine's store of which any row may be another: what a flipped bit past all checksums, or another version,
//! would leave.

use bytes::Bytes;
use raftmap_raft::{Entry, GroupId, Payload};
use raftmap_state::{Body, Command, Engine, MemoryEngine, RowChange, Scan, StateMachine};

/// The group to which the rows belong, or do not.
const GROUP: GroupId = GroupId(1);

/// No server gets this far; from there on, the next index may be none.
const INDEX_MAX: u64 = 1 << 62;

/// Opens a state machine over the rows that `bytes` tell, reads all keys, and applies an entry after which every key and
/// session has expired: each gives a result or an error.
pub fn state_rows(bytes: &[u8]) {
    let engine = MemoryEngine::new();
    engine.commit(rows(bytes)).expect("memory takes all");
    let Ok(mut machine) = StateMachine::open(engine, GROUP) else { return };
    read_all(&machine);
    let applied = machine.applied();
    if applied.index.0 < INDEX_MAX {
        let time = Command { stamped_time_ms: Some(u64::MAX), trace: None, body: Body::Time };
        let entry = Entry {
            term: applied.term,
            index: applied.index.next(),
            payload: Payload::Command(time.encode()),
        };
        // A row that cannot be read ends the node here, and nothing else.
        let _refused = machine.apply(&[entry]);
    }
}

/// A row is the length of its key, the length of its value (a byte each), the key and the value; the last one may be short.
fn rows(mut bytes: &[u8]) -> Vec<RowChange> {
    let mut rows = Vec::new();
    while let [key_len, value_len, rest @ ..] = bytes {
        let (key, rest) = rest.split_at(usize::from(*key_len).min(rest.len()));
        let (value, rest) = rest.split_at(usize::from(*value_len).min(rest.len()));
        rows.push((Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value))));
        bytes = rest;
    }
    rows
}

fn read_all(machine: &StateMachine<MemoryEngine>) {
    let all = Scan { start: Bytes::new(), end: Bytes::new(), limit: 0, reverse: false, keys_only: false };
    if let Ok(mut cursor) = machine.reader().scan(&all) {
        let _unreadable = cursor.next_page(u64::MAX);
    }
}
