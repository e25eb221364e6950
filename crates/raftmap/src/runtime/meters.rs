//! What a node counts of itself, for whoever asks how it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use raftmap_raft::{NodeId, Term};

/// Times count for so long at least, and for twice as long at most.
const WINDOW: Duration = Duration::from_secs(10);

/// The meters of one node.
#[derive(Debug)]
pub(crate) struct Meters {
    writes: AtomicU64,
    reads: AtomicU64,
    log_writes: Mutex<Window>,
    elected: Mutex<Option<(Term, Vec<NodeId>)>>,
}

/// Times of the current stretch, and of the one before it.
#[derive(Debug)]
struct Window {
    began: Instant,
    current: Histogram<u64>,
    before: Histogram<u64>,
}

impl Meters {
    pub(crate) fn new() -> Self {
        Self {
            writes: AtomicU64::default(),
            reads: AtomicU64::default(),
            log_writes: Mutex::new(Window::new(Instant::now())),
            elected: Mutex::default(),
        }
    }

    /// A write was answered: it is on disk on a majority.
    pub(crate) fn count_write(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// A read was answered.
    pub(crate) fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// The writes and the reads that were answered since the start.
    pub(crate) fn answered(&self) -> (u64, u64) {
        (self.writes.load(Ordering::Relaxed), self.reads.load(Ordering::Relaxed))
    }

    /// The log was written and synced, which took `time`.
    pub(crate) fn record_log_write(&self, time: Duration) {
        locked(&self.log_writes).record(Instant::now(), time);
    }

    /// What 99 of 100 writes of the log took at most lately, in microseconds; `None`: there were none.
    pub(crate) fn log_write_p99_us(&self) -> Option<u64> {
        locked(&self.log_writes).p99_us(Instant::now())
    }

    /// This node was elected.
    pub(crate) fn elected(&self, term: Term, votes: &[NodeId]) {
        *locked(&self.elected) = Some((term, votes.to_vec()));
    }

    /// Whose votes made it the leader of `term`; nobody's, if it is not.
    pub(crate) fn elected_by(&self, term: Term) -> Vec<NodeId> {
        let elected = locked(&self.elected);
        elected.iter().filter(|(of, _)| *of == term).flat_map(|(_, votes)| votes.clone()).collect()
    }
}

impl Window {
    fn new(began: Instant) -> Self {
        let histogram = || Histogram::new_with_bounds(1, 60_000_000, 2).expect("the bounds are in order");
        Self { began, current: histogram(), before: histogram() }
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.began);
        if age >= WINDOW {
            std::mem::swap(&mut self.before, &mut self.current);
            self.current.reset();
            self.began = now;
        }
        if age >= 2 * WINDOW {
            self.before.reset();
        }
    }

    fn record(&mut self, now: Instant, time: Duration) {
        self.turn(now);
        self.current.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    fn p99_us(&mut self, now: Instant) -> Option<u64> {
        self.turn(now);
        let mut both = self.current.clone();
        both.add(&self.before).expect("both take the same values");
        (!both.is_empty()).then(|| both.value_at_quantile(0.99))
    }
}

/// What this process holds in memory, as the kernel counts it.
pub(crate) fn memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))?;
    kib.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_forgotten_after_two_windows_at_most() {
        let began = Instant::now();
        let mut window = Window::new(began);
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(window.p99_us(at(0)), None);
        window.record(at(1), Duration::from_millis(9));
        window.record(at(11), Duration::from_millis(1));
        assert!(window.p99_us(at(12)).is_some_and(|us| us >= 9_000));
        assert!(window.p99_us(at(22)).is_some_and(|us| us < 2_000));
        assert_eq!(window.p99_us(at(60)), None);
    }

    #[test]
    fn votes_count_for_the_term_that_they_were_given_in() {
        let meters = Meters::new();
        meters.elected(Term(3), &[NodeId(1), NodeId(2)]);
        assert_eq!(meters.elected_by(Term(3)), [NodeId(1), NodeId(2)]);
        assert_eq!(meters.elected_by(Term(4)), []);
    }
}
