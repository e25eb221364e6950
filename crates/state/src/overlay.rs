//! What the entries of one batch changed so far, over the engine as it was before the batch: a later entry sees the
//! effects of an earlier one, and all of them reach the engine in one atomic step.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::engine::{Engine, EngineError, Row, RowChange, Snapshot};
use crate::format::table::Span;

/// So much room is made for rows at once, in bytes.
const ROOM_BYTES: usize = 32 << 10;

/// See the module.
pub(crate) struct Overlay<'a, E: Engine> {
    engine: &'a E,
    /// Opened when a row is read first: many batches read none.
    below: OnceCell<E::Snapshot>,
    /// Rows are encoded here, one behind the other, so that they share an allocation.
    room: &'a mut BytesMut,
    rows: BTreeMap<Bytes, Option<Bytes>>,
    /// What the entry at hand did, in order: for its digest, and to take it back.
    effects: Vec<Effect>,
}

struct Effect {
    key: Bytes,
    value: Option<Bytes>,
    /// What the overlay held for this key before; `None`: nothing.
    before: Option<Option<Bytes>>,
}

/// A moment within an entry to which [`Overlay::roll_back`] returns.
#[derive(Clone, Copy)]
pub(crate) struct Mark(usize);

impl<'a, E: Engine> Overlay<'a, E> {
    /// Nothing is committed to `engine` while this lives. `room` is used again once nobody holds what was encoded in it.
    pub(crate) fn new(engine: &'a E, room: &'a mut BytesMut) -> Self {
        Self { engine, below: OnceCell::new(), room, rows: BTreeMap::new(), effects: Vec::new() }
    }

    fn below(&self) -> &E::Snapshot {
        self.below.get_or_init(|| self.engine.snapshot())
    }

    /// What `write` writes, about so many bytes: a key or a value of this batch. It keeps all that was encoded near it in
    /// memory: an engine that holds it for longer makes a copy.
    pub(crate) fn encode(&mut self, bytes: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
        if self.room.capacity() < bytes {
            self.room.reserve(bytes.max(ROOM_BYTES));
        }
        write(self.room);
        self.room.split().freeze()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.rows.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.below().get(key),
        }
    }

    pub(crate) fn set(&mut self, key: Bytes, value: Bytes) {
        self.change(key, Some(value));
    }

    pub(crate) fn remove(&mut self, key: Bytes) {
        self.change(key, None);
    }

    fn change(&mut self, key: Bytes, value: Option<Bytes>) {
        let before = self.rows.insert(key.clone(), value.clone());
        self.effects.push(Effect { key, value, before });
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark(self.effects.len())
    }

    /// Takes back what was changed since `mark`, as if it had never been.
    pub(crate) fn roll_back(&mut self, mark: Mark) {
        while self.effects.len() > mark.0 {
            let Some(Effect { key, before, .. }) = self.effects.pop() else { break };
            match before {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
    }

    /// Ends an entry: its effects in the order in which they came.
    pub(crate) fn end_entry(&mut self, mut each: impl FnMut(&[u8], Option<&Bytes>)) {
        for effect in self.effects.drain(..) {
            each(&effect.key, effect.value.as_ref());
        }
    }

    /// How many rows the entry at hand changed so far.
    pub(crate) fn changes_of_entry(&self) -> usize {
        self.effects.len()
    }

    /// The first rows from `start` (inclusive) to `end` (exclusive), at most `max`.
    pub(crate) fn first_rows(&self, start: &[u8], end: &[u8], max: usize) -> Result<Vec<Row>, EngineError> {
        self.first_rows_while(start, end, max, |_| true)
    }

    /// The first rows from `start` (inclusive) to `end` (exclusive), at most `max`, up to and with the first whose key
    /// `goes_on` denies.
    pub(crate) fn first_rows_while(
        &self,
        start: &[u8],
        end: &[u8],
        max: usize,
        goes_on: impl Fn(&Bytes) -> bool,
    ) -> Result<Vec<Row>, EngineError> {
        let mut found: Vec<Row> = Vec::new();
        let mut above = self.rows.range::<[u8], _>(range_of(start, end)).peekable();
        let mut below = self.below().range(start, end);
        let mut next_below = below.next().transpose()?;
        while found.len() < max && found.last().is_none_or(|(key, _)| goes_on(key)) {
            let below_first = match (&next_below, above.peek()) {
                (None, None) => break,
                (Some((below, _)), Some((above, _))) => below < *above,
                (Some(_), None) => true,
                (None, Some(_)) => false,
            };
            if below_first {
                found.extend(next_below.take());
                next_below = below.next().transpose()?;
            } else if let Some((key, value)) = above.next() {
                if next_below.as_ref().is_some_and(|(below, _)| below == key) {
                    next_below = below.next().transpose()?;
                }
                found.extend(value.as_ref().map(|value| (key.clone(), value.clone())));
            }
        }
        Ok(found)
    }

    /// Whether a row from `start` (inclusive) to `end` (exclusive) was changed.
    pub(crate) fn changes_any(&self, (start, end): Span) -> bool {
        self.rows.range::<[u8], _>(range_of(&start, &end)).next().is_some()
    }

    /// All changes, each key once, in order.
    pub(crate) fn into_batch(self) -> Vec<RowChange> {
        self.rows.into_iter().collect()
    }
}

fn range_of<'a>(start: &'a [u8], end: &'a [u8]) -> (std::ops::Bound<&'a [u8]>, std::ops::Bound<&'a [u8]>) {
    (std::ops::Bound::Included(start), std::ops::Bound::Excluded(end.max(start)))
}
