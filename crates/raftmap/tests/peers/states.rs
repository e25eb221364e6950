//! States for servers to send, and stores to look at what arrived.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raftmap::peers::{HeldSnapshot, SnapshotSource};
use raftmap_raft::{Entry, GroupId, LogIndex, LogPosition, Payload, Term};
use raftmap_state::{
    Body, Command, Digest, DiskEngine, DiskOptions, Put, PutEntry, Reader, StateError, StateMachine, Write,
    WriteRequest,
};

/// A state machine on a disk.
pub(crate) struct State {
    machine: StateMachine<DiskEngine>,
    _folder: tempfile::TempDir,
}

/// All that a state machine and what was made of its snapshot must agree in.
pub(crate) type Standing = (LogPosition, Digest, Digest);

const ROWS_EACH: usize = 100;

impl State {
    /// With this many keys, a hundred of an entry, each with a value of a thousand bytes.
    pub(crate) fn of(rows: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = DiskEngine::open(&folder.path().join("state"), DiskOptions::default()).unwrap();
        let machine = StateMachine::open(engine, GroupId::DEFAULT).unwrap();
        let mut state = Self { machine, _folder: folder };
        state.put(0..rows);
        state
    }

    pub(crate) fn put(&mut self, rows: std::ops::Range<usize>) {
        let rows: Vec<_> = rows.collect();
        for rows in rows.chunks(ROWS_EACH) {
            let entry = |row: &usize| PutEntry {
                key: Bytes::from(format!("key {row:08}")),
                value: Bytes::from(vec![row.to_le_bytes()[0]; 1000]),
                ttl_ms: None,
            };
            let put = Put { entries: rows.iter().map(entry).collect(), return_previous: false };
            let write = Write { request: WriteRequest::Put(put), session: None, answer_bytes_max: 1 << 20 };
            let command = Command { stamped_time_ms: Some(1), trace: None, body: Body::Write(write) };
            let index = LogIndex(self.index() + 1);
            let payload = Payload::Command(command.encode());
            self.machine.apply(&[Entry { term: Term(1), index, payload }]).unwrap();
        }
    }

    /// The last entry applied.
    pub(crate) fn index(&self) -> u64 {
        self.machine.applied().index.0
    }

    pub(crate) fn standing(&self) -> Standing {
        standing(&self.machine)
    }

    pub(crate) fn source(&self) -> Source {
        let source = Source::default();
        source.set(self);
        source
    }

    /// The bytes of its snapshot.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        let snapshot = self.machine.reader().snapshot().unwrap();
        let chunks = snapshot.chunks(64 << 10).map(|chunk| chunk.unwrap().len());
        (snapshot.header_bytes().len() + chunks.sum::<usize>()) as u64
    }
}

fn standing(machine: &StateMachine<DiskEngine>) -> Standing {
    let content = machine.reader().content_digest().unwrap().advance(u64::MAX).unwrap();
    (machine.applied(), machine.running_digest(), content.unwrap())
}

/// What was installed in this directory.
pub(crate) fn standing_in(directory: &Path) -> Standing {
    let engine = DiskEngine::open(directory, DiskOptions::default()).unwrap();
    standing(&StateMachine::open(engine, GroupId::DEFAULT).unwrap())
}

/// Where a server's snapshots come from; without a state at first. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Source(Arc<Inner>);

#[derive(Default)]
struct Inner {
    reader: Mutex<Option<Reader<DiskEngine>>>,
    taken: AtomicUsize,
}

impl Source {
    pub(crate) fn set(&self, state: &State) {
        *self.0.reader.lock().unwrap() = Some(state.machine.reader());
    }

    /// How many snapshots were taken.
    pub(crate) fn taken(&self) -> usize {
        self.0.taken.load(Ordering::SeqCst)
    }

    /// How many of them live.
    pub(crate) fn held(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

impl SnapshotSource for Source {
    fn snapshot(&self) -> Result<Option<HeldSnapshot>, StateError> {
        let Some(reader) = &*self.0.reader.lock().unwrap() else { return Ok(None) };
        self.0.taken.fetch_add(1, Ordering::SeqCst);
        Ok(Some(HeldSnapshot {
            reader: reader.snapshot()?,
            hold: self.0.clone(),
            fit: Arc::new(AtomicBool::new(true)),
        }))
    }

    fn failed(&self, error: StateError) {
        panic!("the store failed: {error}");
    }
}
