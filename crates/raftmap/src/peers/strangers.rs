//! What is kept of those at the port who have not said who they are.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

/// The addresses whose last failure is remembered.
const SAID_MAX: usize = 64;

/// Connections that have not said who they are, up to a limit, and what was said of those that failed.
#[derive(Debug)]
pub(super) struct Strangers {
    places_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By age.
    places: VecDeque<(u64, CancellationToken)>,
    said: BTreeMap<IpAddr, Arc<str>>,
}

/// The place of one connection among the strangers.
#[derive(Debug)]
pub(super) struct Place<'a> {
    strangers: &'a Strangers,
    number: u64,
    taken: CancellationToken,
}

impl Strangers {
    pub(super) fn new(places_max: usize) -> Self {
        Self { places_max: places_max.max(1), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// A place for a new connection. If there is none, the oldest one loses its own: whoever means it is done soon, and
    /// strangers that never say anything do not keep the others out.
    pub(super) fn place(&self) -> Place<'_> {
        let taken = CancellationToken::new();
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.places.push_back((number, taken.clone()));
        if state.places.len() > self.places_max
            && let Some((_, oldest)) = state.places.pop_front()
        {
            oldest.cancel();
        }
        Place { strangers: self, number, taken }
    }

    /// Whether it is news that a connection from this address failed for this reason: one that is tried again and again
    /// would fill the log.
    pub(super) fn is_news(&self, address: IpAddr, reason: &str) -> bool {
        let mut state = self.state();
        if state.said.get(&address).is_some_and(|said| **said == *reason) {
            return false;
        }
        if state.said.len() >= SAID_MAX {
            state.said.clear();
        }
        state.said.insert(address, reason.into());
        true
    }

    /// A connection from this address did not fail.
    pub(super) fn forget(&self, address: IpAddr) {
        self.state().said.remove(&address);
    }
}

impl Place<'_> {
    /// Waits until the place is taken by a newer connection.
    pub(super) async fn lost(&self) {
        self.taken.cancelled().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.strangers.state().places.retain(|place| place.0 != self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_oldest_stranger_makes_way() {
        let strangers = Strangers::new(2);
        let [first, second] = [strangers.place(), strangers.place()];
        assert!(!first.taken.is_cancelled());
        let third = strangers.place();
        assert!(first.taken.is_cancelled() && !second.taken.is_cancelled());
        drop(second);
        let fourth = strangers.place();
        assert!(!third.taken.is_cancelled() && !fourth.taken.is_cancelled(), "a place was given back");
    }

    #[test]
    fn a_failure_is_news_once() {
        let strangers = Strangers::new(2);
        let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        assert!(strangers.is_news(address(1), "expired"));
        assert!(!strangers.is_news(address(1), "expired"));
        assert!(strangers.is_news(address(2), "expired"));
        assert!(strangers.is_news(address(1), "of another cluster"));
        strangers.forget(address(1));
        assert!(strangers.is_news(address(1), "of another cluster"));
        for last in 0..=u8::MAX {
            strangers.is_news(address(last), "expired");
        }
        assert!(strangers.state().said.len() <= SAID_MAX);
    }
}
