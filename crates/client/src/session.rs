//! Sessions and their sequences: what makes a retry safe (Raft dissertation, section 6.3).
//!
//! A session keeps the answers of all writes from the lowest one that its client still needs, and their number is
//! bounded. So the bound is not on how many writes are in flight but on how far they are apart: one that takes long
//! holds back those far ahead of it.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use raftmap_proto::v1::{OpenSessionResponse, SessionTag};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::retry::Failed;

/// The client's session, opened when the first write needs it and again when the servers have forgotten it.
#[derive(Default)]
pub(crate) struct Sessions {
    current: RwLock<Option<Arc<Session>>>,
    /// Held by the one that opens, so that all others wait for its session; and how the last opening failed, which is
    /// the answer for all who waited for it.
    opening: tokio::sync::Mutex<Option<(Instant, Failed)>>,
}

struct Session {
    id: u64,
    /// One for each sequence between the lowest needed one and the bound above it. Closed with the session.
    room: Semaphore,
    window: Mutex<Window>,
}

/// The sequences that are not acknowledged, from `lowest` on: whether each is done.
struct Window {
    lowest: u64,
    done: VecDeque<bool>,
}

impl Window {
    fn next(&mut self) -> u64 {
        self.done.push_back(false);
        self.lowest + self.done.len() as u64 - 1
    }

    /// Marks `sequence` as done and forgets the lowest ones that are. Says how many those are.
    fn finish(&mut self, sequence: u64) -> usize {
        let place = usize::try_from(sequence - self.lowest).expect("a sequence in use lies in the window");
        self.done[place] = true;
        let before = self.done.len();
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.lowest += 1;
        }
        before - self.done.len()
    }
}

/// One write's place in a session. Its end acknowledges the answer, whatever that was.
pub(crate) struct Sequence {
    session: Arc<Session>,
    number: u64,
}

impl Sequence {
    /// The next one of `session`, which has room for it.
    fn next(session: Arc<Session>) -> Self {
        let number = session.window.lock().unwrap_or_else(PoisonError::into_inner).next();
        Self { session, number }
    }

    /// What the write carries now. Only the acknowledgement moves between two attempts.
    pub(crate) fn tag(&self) -> SessionTag {
        let window = self.session.window.lock().unwrap_or_else(PoisonError::into_inner);
        SessionTag { session_id: self.session.id, sequence: self.number, acknowledged_below: window.lowest }
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        let mut window = self.session.window.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = window.finish(self.number);
        drop(window);
        self.session.room.add_permits(forgotten);
    }
}

impl Sessions {
    /// A place in the current session, which `open` makes if there is none. Waits while the session is full.
    pub(crate) async fn sequence<F>(&self, open: impl Fn() -> F) -> Result<Sequence, Failed>
    where
        F: Future<Output = Result<OpenSessionResponse, Failed>>,
    {
        loop {
            let session = match self.current() {
                Some(session) => session,
                None => self.open(&open).await?,
            };
            let Ok(permit) = session.room.acquire().await else { continue };
            permit.forget();
            return Ok(Sequence::next(session));
        }
    }

    /// A place in the current session, if there is one and it has room.
    pub(crate) fn sequence_now(&self) -> Option<Sequence> {
        let session = self.current()?;
        session.room.try_acquire().ok()?.forget();
        Some(Sequence::next(session))
    }

    /// The servers do not know the session of `sequence` any more: the next write opens another one.
    pub(crate) fn forget(&self, sequence: &Sequence) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|session| Arc::ptr_eq(session, &sequence.session)) {
            *current = None;
        }
        sequence.session.room.close();
    }

    fn current(&self) -> Option<Arc<Session>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn open<F>(&self, open: &impl Fn() -> F) -> Result<Arc<Session>, Failed>
    where
        F: Future<Output = Result<OpenSessionResponse, Failed>>,
    {
        let began = Instant::now();
        let mut last_failure = self.opening.lock().await;
        if let Some(opened_meanwhile) = self.current() {
            return Ok(opened_meanwhile);
        }
        if let Some((at, failed)) = &*last_failure
            && *at >= began
        {
            return Err(failed.clone());
        }
        let opened = match open().await {
            Ok(opened) => opened,
            Err(failed) => {
                *last_failure = Some((Instant::now(), failed.clone()));
                return Err(failed);
            }
        };
        let in_flight_max = usize::try_from(opened.max_in_flight).unwrap_or(usize::MAX);
        let session = Arc::new(Session {
            id: opened.session_id,
            room: Semaphore::new(in_flight_max.clamp(1, Semaphore::MAX_PERMITS)),
            window: Mutex::new(Window { lowest: 1, done: VecDeque::new() }),
        });
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&session));
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn opened() -> Result<OpenSessionResponse, Failed> {
        Ok(OpenSessionResponse { session_id: 7, max_in_flight: 3, ..OpenSessionResponse::default() })
    }

    async fn must_wait(sessions: &Sessions) {
        let waiting = tokio::time::timeout(Duration::from_secs(5), sessions.sequence(opened));
        assert!(waiting.await.is_err(), "a sequence was given beyond the bound");
    }

    #[tokio::test(start_paused = true)]
    async fn the_acknowledgement_is_the_lowest_sequence_that_is_still_needed() {
        let sessions = Sessions::default();
        let first = sessions.sequence(opened).await.unwrap();
        let second = sessions.sequence(opened).await.unwrap();
        let third = sessions.sequence(opened).await.unwrap();
        assert_eq!(third.tag(), SessionTag { session_id: 7, sequence: 3, acknowledged_below: 1 });
        drop(second);
        assert_eq!(third.tag().acknowledged_below, 1, "the first one is needed");
        drop(first);
        assert_eq!(third.tag().acknowledged_below, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_write_holds_back_those_that_would_be_too_far_ahead_of_it() {
        let sessions = Sessions::default();
        let slow = sessions.sequence(opened).await.unwrap();
        for _ in 0..2 {
            drop(sessions.sequence(opened).await.unwrap());
        }
        must_wait(&sessions).await;
        drop(slow);
        assert_eq!(sessions.sequence(opened).await.unwrap().tag().sequence, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_for_a_forgotten_session_go_on_in_the_next_one() {
        let sessions = Arc::new(Sessions::default());
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(sessions.sequence(opened).await.unwrap());
        }
        let waiting = tokio::spawn({
            let sessions = Arc::clone(&sessions);
            async move { sessions.sequence(opened).await.unwrap().tag() }
        });
        tokio::task::yield_now().await;
        sessions.forget(&held[0]);
        assert_eq!(waiting.await.unwrap().sequence, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_opened_once_for_all_who_wait_for_it() {
        let sessions = Sessions::default();
        let openings = std::sync::atomic::AtomicU32::new(0);
        let open = || async {
            openings.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::task::yield_now().await;
            opened().await
        };
        let (a, b) = tokio::join!(sessions.sequence(open), sessions.sequence(open));
        assert_ne!(a.unwrap().tag().sequence, b.unwrap().tag().sequence);
        assert_eq!(openings.into_inner(), 1);
    }
}
