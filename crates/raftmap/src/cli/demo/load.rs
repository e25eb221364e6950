//! The load of a live demo: writes without an end, each read back once it is acknowledged, and again and again after that.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use raftmap_client::Client;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::super::live::history::keep;
use super::input::Line;

/// Keys of one read.
const READ_KEYS: usize = 64;
/// Values of one read, in bytes, if there is more than one.
const READ_BYTES: usize = 1 << 20;
/// Between two reads, unless there is much to read.
const READ_PAUSE: Duration = Duration::from_millis(100);
/// How many seconds of latency are kept.
const SECONDS_MAX: usize = 120;

/// Writes that go on, and what became of them.
pub(super) struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    client: Client,
    lines: Vec<Line>,
    next: AtomicU64,
    over: CancellationToken,
    seen: Mutex<Seen>,
}

/// What became of the writes.
#[derive(Debug)]
pub(super) struct Seen {
    /// The numbers of those that were acknowledged, in that order.
    acked: Vec<u64>,
    /// How many of them, from the first one on, were read back at least once.
    read: usize,
    /// Those that were not there, or were something else, when they were read back.
    lost: BTreeSet<u64>,
    pub(super) refused: u64,
    /// Why the last reading back did not come to its end, if it did not.
    unread: Option<String>,
    last_refusal: Option<String>,
    last_ack: Option<Instant>,
    pub(super) longest_gap: Duration,
    /// The longest gap since [`Load::watch_gap`].
    gap: Duration,
    /// Of the current second, in microseconds.
    latency: Histogram<u64>,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) p99s: VecDeque<u64>,
}

impl Load {
    /// Writes `per_second` lines a second, by so many writers.
    pub(super) fn start(client: Client, lines: Vec<Line>, writers: u16, per_second: u32) -> Self {
        let shared = Arc::new(Shared {
            client,
            lines,
            next: AtomicU64::new(0),
            over: CancellationToken::new(),
            seen: Mutex::new(Seen::new()),
        });
        let mut tasks = JoinSet::new();
        let period = Duration::from_secs(1) * u32::from(writers) / per_second;
        let now = tokio::time::Instant::now();
        for writer in 0..writers {
            // Evenly, and not all at once: what stands still between two writes is to be no more than it must.
            let first = now + period * u32::from(writer) / u32::from(writers);
            tasks.spawn(Arc::clone(&shared).write(first, period));
        }
        tasks.spawn(Arc::clone(&shared).verify());
        Self { shared, tasks }
    }

    /// What became of the writes so far.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.shared.seen()
    }

    /// Forgets how long writes stood still before now.
    pub(super) fn watch_gap(&self) {
        let mut seen = self.seen();
        seen.gap = Duration::ZERO;
    }

    /// Begins no more writes, and waits for those that are under way. What was acknowledged is read back from the beginning, all of it.
    pub(super) async fn conclude(mut self) -> Seen {
        self.shared.over.cancel();
        while self.tasks.join_next().await.is_some() {}
        let mut read = 0;
        while let Some(some) = self.shared.next_to_read(read) {
            if let Err(reason) = self.shared.read_back(&some).await {
                self.shared.seen().unread = Some(reason);
                break;
            }
            read += some.len();
        }
        self.shared.seen().read = read;
        std::mem::replace(&mut *self.shared.seen(), Seen::new())
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is written under a number.
    fn line(&self, number: u64) -> (Bytes, Bytes) {
        let count = self.lines.len() as u64;
        let place = usize::try_from(number % count).expect("below a length");
        (format!("live-{number:09}").into(), self.lines[place].value.clone())
    }

    async fn write(self: Arc<Self>, first: tokio::time::Instant, period: Duration) {
        let mut turns = interval_at(first, period);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.over.run_until_cancelled(turns.tick()).await.is_some() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let (key, value) = self.line(number);
            let began = Instant::now();
            let written = self.client.put(key, value).await;
            let now = Instant::now();
            match written {
                Ok(_) => self.seen().ack(number, now, now - began),
                Err(error) => self.seen().refuse(error.to_string()),
            }
        }
    }

    async fn verify(self: Arc<Self>) {
        let mut again = 0;
        while !self.over.is_cancelled() {
            let read = self.seen().read;
            // What was acknowledged lately first; while there is nothing of it, what was there before must be there still.
            if let Some(some) = self.next_to_read(read) {
                if self.read_back(&some).await.is_ok() {
                    let behind = {
                        let mut seen = self.seen();
                        seen.read += some.len();
                        seen.acked.len() - seen.read
                    };
                    if behind >= READ_KEYS {
                        continue;
                    }
                }
            } else if let Some(some) = self.next_to_read(again) {
                if self.read_back(&some).await.is_ok() {
                    again += some.len();
                }
            } else {
                again = 0;
            }
            tokio::time::sleep(READ_PAUSE).await;
        }
    }

    /// Some of those that were acknowledged, from a place on; `None`: there are no more.
    fn next_to_read(&self, from: usize) -> Option<Vec<u64>> {
        let seen = self.seen();
        let mut bytes = 0;
        let mut fits = |number: &u64| {
            bytes += self.line(*number).1.len();
            bytes <= READ_BYTES
        };
        let next: Vec<u64> = seen.acked.iter().skip(from).take(READ_KEYS).copied().collect();
        let count = next.iter().take_while(|number| fits(number)).count().max(1).min(next.len());
        (count > 0).then(|| next[..count].to_vec())
    }

    /// Reads some back, and notes those that are not as they were written; or says why that could not be done.
    async fn read_back(&self, some: &[u64]) -> Result<(), String> {
        let found = self.client.get_many(some.iter().map(|number| self.line(*number).0)).await;
        let found = found.map_err(|error| error.to_string())?;
        let mut seen = self.seen();
        for (number, entry) in some.iter().zip(found.entries) {
            if entry.map(|entry| entry.value).as_ref() != Some(&self.line(*number).1) {
                seen.lost.insert(*number);
            }
        }
        Ok(())
    }
}

impl Seen {
    fn new() -> Self {
        Self {
            acked: Vec::new(),
            read: 0,
            lost: BTreeSet::new(),
            refused: 0,
            unread: None,
            last_refusal: None,
            last_ack: None,
            longest_gap: Duration::ZERO,
            gap: Duration::ZERO,
            latency: Histogram::new_with_bounds(1, 60_000_000, 2).expect("the bounds are in order"),
            p50_us: 0,
            p99_us: 0,
            p99s: VecDeque::new(),
        }
    }

    fn ack(&mut self, number: u64, at: Instant, latency: Duration) {
        self.acked.push(number);
        let gap = self.last_ack.map(|last| at.saturating_duration_since(last)).unwrap_or_default();
        self.last_ack = self.last_ack.max(Some(at));
        self.longest_gap = self.longest_gap.max(gap);
        self.gap = self.gap.max(gap);
        self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    fn refuse(&mut self, reason: String) {
        self.refused += 1;
        self.last_refusal = Some(reason);
    }

    /// Ends a second: what it was like is told from now on.
    pub(super) fn turn_second(&mut self) {
        self.p50_us = self.latency.value_at_quantile(0.5);
        self.p99_us = self.latency.value_at_quantile(0.99);
        keep(&mut self.p99s, SECONDS_MAX, self.p99_us);
        self.latency.reset();
    }

    pub(super) fn acked(&self) -> usize {
        self.acked.len()
    }

    /// How many of them were there, as they were written, when they were read back.
    pub(super) fn verified(&self) -> usize {
        self.read.saturating_sub(self.lost.len())
    }

    pub(super) fn lost(&self) -> usize {
        self.lost.len()
    }

    /// When the last write was acknowledged, and the longest gap since [`Load::watch_gap`].
    pub(super) fn gap(&self) -> (Option<Instant>, Duration) {
        (self.last_ack, self.gap)
    }

    pub(super) fn last_refusal(&self) -> Option<&str> {
        self.last_refusal.as_deref()
    }

    /// Why not everything could be read back, if that is so.
    pub(super) fn unread(&self) -> Option<&str> {
        self.unread.as_deref()
    }

    /// Whether everything that was acknowledged is there.
    pub(super) fn is_whole(&self) -> bool {
        self.verified() == self.acked.len()
    }

    /// The last line of the demo.
    pub(super) fn summary(&self) -> String {
        format!(
            "acked {} · verified {} · lost {} · longest gap {} ms",
            self.acked.len(),
            self.verified(),
            self.lost.len(),
            self.longest_gap.as_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_between_acknowledgements_and_may_be_watched_anew() {
        let (mut seen, began) = (Seen::new(), Instant::now());
        for (number, ms) in [(0, 0), (1, 40), (2, 45)] {
            seen.ack(number, began + Duration::from_millis(ms), Duration::from_millis(2));
        }
        assert_eq!((seen.longest_gap, seen.gap().1), (Duration::from_millis(40), Duration::from_millis(40)));
        seen.gap = Duration::ZERO;
        seen.ack(3, began + Duration::from_millis(50), Duration::from_millis(2));
        assert_eq!((seen.longest_gap, seen.gap().1), (Duration::from_millis(40), Duration::from_millis(5)));
        seen.turn_second();
        assert!((1_900..2_100).contains(&seen.p50_us), "{}", seen.p50_us);
        seen.read = 4;
        assert!(seen.is_whole());
        seen.lost.insert(2);
        assert!(!seen.is_whole());
        assert_eq!(seen.summary(), "acked 4 · verified 3 · lost 1 · longest gap 40 ms");
    }
}
