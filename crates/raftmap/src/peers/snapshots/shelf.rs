//! The views of the state that are being sent, or kept for a while in case that somebody goes on with them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use raftmap_raft::NodeId;
use tokio_util::sync::CancellationToken;

/// One view for each peer at most, and a limit to all of them: old rows stay on disk while a view lives.
#[derive(Debug)]
pub(in crate::peers) struct Shelf<V> {
    places_max: usize,
    state: Mutex<State<V>>,
}

#[derive(Debug)]
struct State<V> {
    next: u64,
    places: BTreeMap<NodeId, Kept<V>>,
}

#[derive(Debug)]
struct Kept<V> {
    /// Counts up: the lowest was taken, or put aside, first.
    number: u64,
    view: Option<Arc<V>>,
    /// Somebody is reading it.
    in_use: bool,
    /// Cancelled when somebody else has the place.
    taken: CancellationToken,
}

/// A peer's place on the shelf. Dropping it gives it up, and the view with it.
#[derive(Debug)]
pub(super) struct Place<'a, V> {
    shelf: &'a Shelf<V>,
    peer: NodeId,
    taken: CancellationToken,
}

impl<V> Shelf<V> {
    pub(in crate::peers) fn new(places_max: usize) -> Self {
        let state = State { next: 0, places: BTreeMap::new() };
        Self { places_max: places_max.max(1), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// A place for the peer. Whoever has its place loses it, and what was kept there stays. If all places are taken, the view
    /// goes that nobody has read for longest; `None`, if all are being read.
    pub(super) fn place(&self, peer: NodeId) -> Option<Place<'_, V>> {
        let mut state = self.state();
        let before = state.places.remove(&peer);
        if state.places.len() >= self.places_max {
            let idle = state.places.iter().filter(|(_, kept)| !kept.in_use);
            let oldest = idle.min_by_key(|(_, kept)| kept.number).map(|(id, _)| *id)?;
            if let Some(evicted) = state.places.remove(&oldest) {
                evicted.taken.cancel();
            }
        }
        let view = before.and_then(|before| {
            before.taken.cancel();
            before.view
        });
        let (number, taken) = (state.number(), CancellationToken::new());
        state.places.insert(peer, Kept { number, view, in_use: true, taken: taken.clone() });
        Some(Place { shelf: self, peer, taken })
    }

    pub(super) fn places_max(&self) -> usize {
        self.places_max
    }
}

impl<V> State<V> {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl<V> Place<'_, V> {
    /// The view that is kept here.
    pub(super) fn view(&self) -> Option<Arc<V>> {
        self.with(|kept, _| kept.view.clone()).flatten()
    }

    /// Keeps this view, in the place of the one before.
    pub(super) fn keep(&self, view: Arc<V>) {
        self.with(|kept, _| kept.view = Some(view));
    }

    /// Nobody reads the view for now.
    pub(super) fn rest(&self) {
        self.with(|kept, number| (kept.in_use, kept.number) = (false, number));
    }

    /// Waits until somebody else has the place.
    pub(super) async fn lost(&self) {
        self.taken.cancelled().await;
    }

    /// Does something with what is kept, unless the place is lost.
    fn with<T>(&self, f: impl FnOnce(&mut Kept<V>, u64) -> T) -> Option<T> {
        let mut state = self.shelf.state();
        let number = state.number();
        if self.taken.is_cancelled() {
            return None;
        }
        state.places.get_mut(&self.peer).map(|kept| f(kept, number))
    }
}

impl<V> Drop for Place<'_, V> {
    fn drop(&mut self) {
        let mut state = self.shelf.state();
        // Cancelled under the same lock: else it is another one's.
        if !self.taken.is_cancelled() {
            state.places.remove(&self.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_finds_its_view_again_and_whoever_had_the_place_loses_it() {
        let shelf = Shelf::new(2);
        let first = shelf.place(NodeId(1)).unwrap();
        assert_eq!(first.view(), None);
        first.keep(Arc::new("view"));
        let second = shelf.place(NodeId(1)).unwrap();
        assert!(first.taken.is_cancelled() && !second.taken.is_cancelled());
        assert_eq!(second.view(), Some(Arc::new("view")));
        // Who lost the place changes nothing any more.
        first.keep(Arc::new("late"));
        drop(first);
        assert_eq!(second.view(), Some(Arc::new("view")));
        drop(second);
        assert_eq!(shelf.place(NodeId(1)).unwrap().view(), None, "the view was given up with the place");
    }

    #[test]
    fn the_view_that_rests_longest_makes_way_and_one_that_is_read_does_not() {
        let shelf = Shelf::new(2);
        let [first, second] = [1, 2].map(|id| shelf.place(NodeId(id)).unwrap());
        first.keep(Arc::new(1));
        assert!(shelf.place(NodeId(3)).is_none(), "both are being read");
        assert!(shelf.place(NodeId(1)).is_some(), "a peer takes its own place");
        drop((first, second));

        let [first, second] = [1, 2].map(|id| shelf.place(NodeId(id)).unwrap());
        second.rest();
        first.rest();
        let third = shelf.place(NodeId(3)).unwrap();
        assert!(second.taken.is_cancelled() && !first.taken.is_cancelled() && !third.taken.is_cancelled());
        drop(second);
        assert!(shelf.place(NodeId(2)).is_some(), "another one rests");
        assert!(first.taken.is_cancelled());
    }
}
