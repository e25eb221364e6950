//! What was committed and is not in tables yet: rows in memory, with those earlier versions that an open view needs.
//!
//! Commits go to the newest *layer*. A layer that is large enough is sealed: nothing is written to it any more, and it goes
//! away once its rows are in tables. Whoever has a view of it keeps it until then.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use byteview::ByteView;

use super::RowChange;
use super::layer_range::LayerRange;

/// What a row takes besides its bytes, about.
const ROW_OVERHEAD_BYTES: usize = 128;

/// The number of a commit.
type Sequence = u64;

/// The layers, newest first, and who looks at them.
#[derive(Debug, Default)]
pub(super) struct Recent {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    committed: Sequence,
    newest: Arc<Layer>,
    /// Oldest first.
    sealed: Vec<Arc<Layer>>,
    /// Open views, by what they see.
    open: BTreeMap<Sequence, usize>,
}

/// Rows of consecutive commits.
#[derive(Debug, Default)]
pub(super) struct Layer {
    rows: RwLock<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    /// Short keys stand in the tree itself.
    by_key: BTreeMap<ByteView, Versions>,
    bytes: usize,
}

/// What a row is now, and what it was before, newest first.
#[derive(Debug)]
struct Versions {
    now: Version,
    before: Vec<Version>,
}

/// What a commit made of a row: `None`, if it removed it.
#[derive(Debug)]
struct Version {
    since: Sequence,
    value: Option<Bytes>,
}

/// All that was committed up to some moment and was not in tables then.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Newest first.
    layers: Vec<Arc<Layer>>,
    opened: Arc<Opened>,
}

/// Says which versions must stay.
#[derive(Debug)]
struct Opened {
    recent: Arc<Recent>,
    at: Sequence,
}

impl Recent {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a batch in one atomic step, and gives how large the newest layer is now, in bytes. There is one writer.
    pub(super) fn commit(&self, batch: &[RowChange]) -> usize {
        // Copies: a slice of a batch of the log would keep all of that in memory.
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let rows: Vec<_> = batch.iter().map(|(key, value)| (&key[..], value.as_ref().map(copy))).collect();
        // Held until all is there: a view that was opened meanwhile would see a part of it.
        let mut state = self.state();
        let since = state.committed + 1;
        let mut layer = state.newest.rows.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in rows {
            layer.put(key, Version { since, value }, &state.open);
        }
        let bytes = layer.bytes;
        drop(layer);
        state.committed = since;
        bytes
    }

    /// Everything that was committed so far, and what `below` gives for the tables at the same moment.
    pub(super) fn view<T>(self: &Arc<Self>, below: impl FnOnce() -> T) -> (View, T) {
        let mut state = self.state();
        let at = state.committed;
        *state.open.entry(at).or_default() += 1;
        let layers = std::iter::once(&state.newest).chain(state.sealed.iter().rev()).cloned().collect();
        // Under the lock: no layer goes between the two.
        let below = below();
        drop(state);
        (View { layers, opened: Arc::new(Opened { recent: Arc::clone(self), at }) }, below)
    }

    /// Seals the newest layer, unless it is empty. To be called between two commits.
    pub(super) fn seal(&self) -> bool {
        let mut state = self.state();
        let has_rows = !state.newest.read().by_key.is_empty();
        if has_rows {
            let sealed = std::mem::take(&mut state.newest);
            state.sealed.push(sealed);
        }
        has_rows
    }

    /// The sealed layer whose rows are to be in tables first.
    pub(super) fn oldest_sealed(&self) -> Option<Arc<Layer>> {
        self.state().sealed.first().cloned()
    }

    /// The rows of the oldest sealed layer are in tables.
    pub(super) fn remove_oldest_sealed(&self) {
        self.state().sealed.remove(0);
    }
}

impl Layer {
    fn read(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes over all rows as they are now, in order.
    pub(super) fn try_for_each<E>(
        &self,
        mut each: impl FnMut(&[u8], Option<&Bytes>) -> Result<(), E>,
    ) -> Result<(), E> {
        let rows = self.read();
        rows.by_key.iter().try_for_each(|(key, versions)| each(key, versions.now.value.as_ref()))
    }

    /// Up to `max` rows between these bounds as they were at `at`, from the front or from the back.
    pub(super) fn some_rows(
        &self,
        between: (Bound<&[u8]>, Bound<&[u8]>),
        at: Sequence,
        max: usize,
        from_back: bool,
    ) -> Vec<RowChange> {
        let rows = self.read();
        let range = rows.by_key.range::<[u8], _>(between).map(|(key, versions)| (&key[..], versions));
        let seen = |(key, versions): (&[u8], &Versions)| {
            Some((Bytes::copy_from_slice(key), versions.at(at)?.value.clone()))
        };
        match from_back {
            true => range.rev().filter_map(seen).take(max).collect(),
            false => range.filter_map(seen).take(max).collect(),
        }
    }
}

impl Rows {
    fn put(&mut self, key: &[u8], version: Version, open: &BTreeMap<Sequence, usize>) {
        self.bytes += version.value_bytes();
        let Some(versions) = self.by_key.get_mut(key) else {
            self.bytes += key.len() + ROW_OVERHEAD_BYTES;
            self.by_key.insert(key.into(), Versions { now: version, before: Vec::new() });
            return;
        };
        let before = std::mem::replace(&mut versions.now, version);
        let mut until = versions.now.since;
        let mut is_needed = |version: &Version| {
            let needed = open.range(version.since..until).next().is_some();
            until = version.since;
            needed
        };
        // Nobody looks, as a rule: then there is nothing to keep a list of.
        let stays = is_needed(&before);
        let mut freed = if stays { 0 } else { before.value_bytes() };
        let gone = versions.before.extract_if(.., |version| !is_needed(version));
        freed += gone.map(|version| version.value_bytes()).sum::<usize>();
        if stays {
            versions.before.insert(0, before);
        }
        self.bytes -= freed;
    }
}

impl Versions {
    /// The one that was there at that moment, if any was.
    fn at(&self, at: Sequence) -> Option<&Version> {
        std::iter::once(&self.now).chain(&self.before).find(|version| version.since <= at)
    }
}

impl Version {
    fn value_bytes(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl View {
    /// What became of the row: `None`, if nothing here says anything of it.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.layers.iter().find_map(|layer| {
            let rows = layer.read();
            Some(rows.by_key.get(key)?.at(self.opened.at)?.value.clone())
        })
    }

    /// What became of the rows from `start` (inclusive) to `end` (exclusive), of each layer, newest first.
    pub(super) fn ranges(&self, start: &[u8], end: &[u8]) -> impl Iterator<Item = LayerRange> {
        self.layers.iter().map(move |layer| LayerRange::new(self.clone(), Arc::clone(layer), start, end))
    }

    pub(super) fn at(&self) -> Sequence {
        self.opened.at
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut state = self.recent.state();
        if let Some(count) = state.open.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                state.open.remove(&self.at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &'static str, value: &'static str) -> RowChange {
        (Bytes::from_static(key.as_bytes()), Some(Bytes::from_static(value.as_bytes())))
    }

    fn view(recent: &Arc<Recent>) -> View {
        recent.view(|| ()).0
    }

    fn versions(recent: &Recent, key: &str) -> usize {
        1 + recent.state().newest.read().by_key[key.as_bytes()].before.len()
    }

    #[test]
    fn only_what_an_open_view_needs_is_kept() {
        let recent = Arc::new(Recent::default());
        let empty = recent.commit(&[set("a", "1")]);
        recent.commit(&[set("a", "2")]);
        assert_eq!(versions(&recent, "a"), 1, "nobody looks");
        let second = view(&recent);
        recent.commit(&[set("a", "3")]);
        recent.commit(&[set("a", "4")]);
        assert_eq!(versions(&recent, "a"), 2, "nobody needs the third");
        assert_eq!(second.get(b"a"), Some(Some(Bytes::from("2"))));
        drop(second);
        assert_eq!(recent.commit(&[(Bytes::from("a"), None)]), empty - 1, "one value less");
        assert_eq!(versions(&recent, "a"), 1);
        assert_eq!(view(&recent).get(b"a"), Some(None));
        assert_eq!(view(&recent).get(b"b"), None);
    }

    #[test]
    fn a_view_keeps_the_layers_that_it_was_opened_on() {
        let recent = Arc::new(Recent::default());
        assert!(!recent.seal(), "there is nothing");
        recent.commit(&[set("a", "1"), set("b", "1")]);
        assert!(recent.seal());
        recent.commit(&[set("b", "2")]);
        let opened = view(&recent);
        assert!(recent.seal());
        recent.commit(&[set("a", "3"), set("b", "3")]);
        while recent.oldest_sealed().is_some() {
            recent.remove_oldest_sealed();
        }
        assert_eq!((opened.get(b"a"), opened.get(b"b")), (Some(Some("1".into())), Some(Some("2".into()))));
        assert_eq!(view(&recent).layers.len(), 1);
    }
}
