//! An engine in memory, for the simulator and for tests: it can crash as a real one does.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Engine, EngineError, Ingest, Row, RowChange, Snapshot};

/// How many batches may wait to become durable on their own, as a real store's do: beyond that the oldest is durable.
const BATCHES_PENDING_MAX: usize = 256;

/// How an engine comes back from a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// With all that was persisted, and perhaps some of what was committed since.
    None,
    /// Empty: even what was persisted is gone.
    Emptied,
    /// One row, drawn at random, has a flipped bit in its value, and nothing says so.
    BitFlip,
    /// Every use of it fails.
    Unreadable,
}

/// An engine in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine {
    store: Arc<Mutex<Store>>,
}

type Rows = BTreeMap<Bytes, Bytes>;

#[derive(Debug, Default)]
struct Store {
    rows: Arc<Rows>,
    durable: Rows,
    /// Committed since `durable`, oldest first.
    pending: VecDeque<Vec<RowChange>>,
    failed: bool,
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every commit, persist and read fails, as on a disk that is gone.
    pub fn fail(&self) {
        self.lock().failed = true;
    }

    /// The engine as it comes back after a crash at this moment: a random suffix of the batches that were committed
    /// since the last [`Engine::persist`] is lost, then `damage` is done. The old handles keep what they had.
    pub fn crash(&self, seed: u64, damage: Damage) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let store = self.lock();
        let mut rows = store.durable.clone();
        for batch in store.pending.iter().take(rng.usize(..=store.pending.len())) {
            apply(&mut rows, batch);
        }
        match damage {
            Damage::None | Damage::Unreadable => {}
            Damage::Emptied => rows.clear(),
            Damage::BitFlip => flip_a_bit(&mut rows, &mut rng),
        }
        let store = Store {
            rows: Arc::new(rows.clone()),
            durable: rows,
            failed: damage == Damage::Unreadable,
            ..Store::default()
        };
        Self { store: Arc::new(Mutex::new(store)) }
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        // A holder that panicked was in the middle of nothing: every change below is one call on one map.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(rows: &mut Rows, batch: &[RowChange]) {
    for (key, value) in batch {
        match value {
            Some(value) => rows.insert(key.clone(), value.clone()),
            None => rows.remove(key),
        };
    }
}

fn flip_a_bit(rows: &mut Rows, rng: &mut fastrand::Rng) {
    let with_value: Vec<Bytes> =
        rows.iter().filter(|(_, value)| !value.is_empty()).map(|(key, _)| key.clone()).collect();
    if let Some(key) = rng.choice(&with_value) {
        let mut value = rows[key].to_vec();
        let at = rng.usize(..value.len());
        value[at] ^= 1 << rng.u8(..8);
        rows.insert(key.clone(), value.into());
    }
}

fn failed(doing: &'static str) -> EngineError {
    EngineError::new(doing, "the simulated disk failed")
}

impl Engine for MemoryEngine {
    type Snapshot = MemorySnapshot;

    fn snapshot(&self) -> MemorySnapshot {
        let store = self.lock();
        MemorySnapshot { rows: store.rows.clone(), failed: store.failed }
    }

    fn commit(&self, batch: Vec<RowChange>) -> Result<(), EngineError> {
        let mut store = self.lock();
        if store.failed {
            return Err(failed("commit"));
        }
        let copy = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
        let batch: Vec<RowChange> =
            batch.into_iter().map(|(key, value)| (copy(key), value.map(copy))).collect();
        apply(Arc::make_mut(&mut store.rows), &batch);
        store.pending.push_back(batch);
        if store.pending.len() > BATCHES_PENDING_MAX
            && let Some(oldest) = store.pending.pop_front()
        {
            apply(&mut store.durable, &oldest);
        }
        Ok(())
    }

    fn persist(&self) -> Result<(), EngineError> {
        let mut store = self.lock();
        if store.failed {
            return Err(failed("persist"));
        }
        for batch in std::mem::take(&mut store.pending) {
            apply(&mut store.durable, &batch);
        }
        Ok(())
    }
}

/// A [`MemoryEngine`] in the making. There is nothing of it on the simulated disk before it is finished: a crash until then
/// is its being dropped.
#[derive(Debug, Default)]
pub struct MemoryIngest {
    rows: Rows,
}

impl Ingest for MemoryIngest {
    type Engine = MemoryEngine;

    fn add(&mut self, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        self.rows.insert(key, value);
        Ok(())
    }

    fn finish(self) -> Result<MemoryEngine, EngineError> {
        let store = Store { rows: Arc::new(self.rows.clone()), durable: self.rows, ..Store::default() };
        Ok(MemoryEngine { store: Arc::new(Mutex::new(store)) })
    }
}

/// A view of a [`MemoryEngine`].
#[derive(Clone, Debug)]
pub struct MemorySnapshot {
    rows: Arc<Rows>,
    failed: bool,
}

impl Snapshot for MemorySnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if self.failed { Err(failed("get")) } else { Ok(self.rows.get(key).cloned()) }
    }

    fn range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Row, EngineError>> + Send + 'static {
        MemoryRange {
            rows: self.rows.clone(),
            failed: self.failed,
            rest: (start < end).then(|| (Bound::Included(start.to_vec()), Bound::Excluded(end.to_vec()))),
        }
    }
}

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Looks each row up anew, from where it stands: it owns its rows and borrows nothing.
struct MemoryRange {
    rows: Arc<Rows>,
    failed: bool,
    /// What is left; `None`: nothing.
    rest: Option<Bounds>,
}

impl MemoryRange {
    fn step(&mut self, from_back: bool) -> Option<Result<Row, EngineError>> {
        let (start, end) = self.rest.take()?;
        if self.failed {
            return Some(Err(failed("range")));
        }
        let bounds = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
        let mut range = self.rows.range::<[u8], _>(bounds);
        let (key, value) = if from_back { range.next_back() } else { range.next() }?;
        let row = (key.clone(), value.clone());
        let at = Bound::Excluded(key.to_vec());
        let rest = if from_back { (start, at) } else { (at, end) };
        // Two equal excluded bounds are no range; then nothing is left.
        self.rest = (!is_empty(&rest)).then_some(rest);
        Some(Ok(row))
    }
}

fn is_empty((start, end): &Bounds) -> bool {
    match (start, end) {
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
        _ => false,
    }
}

impl Iterator for MemoryRange {
    type Item = Result<Row, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(false)
    }
}

impl DoubleEndedIterator for MemoryRange {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}
