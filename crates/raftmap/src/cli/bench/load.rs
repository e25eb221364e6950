//! The load: clients that each wait for an answer before they go on, and that send at once or when the pacer says so.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::sync::mpsc::UnboundedReceiver;

use super::super::exit::Failure;
use super::keys::{Distribution, Keys, key};
use super::pace;
use super::record::{Recorder, Worked};
use super::report::Report;
use super::target::{Target, Targets};

/// What is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) clients: u16,
    pub(super) connections: u16,
    pub(super) warm_up: Duration,
    pub(super) measured: Duration,
    pub(super) value_bytes: u32,
    pub(super) keys: u32,
    pub(super) distribution: Distribution,
    pub(super) mix: Mix,
    /// Requests a second, of all clients; `None`: as many as are answered.
    pub(super) rate: Option<f64>,
    /// Whether a line on stderr, if that is a terminal, shows how it goes.
    pub(super) progress: bool,
}

/// How many of a hundred requests are gets; the others are puts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mix {
    pub(super) gets_percent: u8,
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("{text:?}: write put, get, or percentages of gets and puts, as 90/10");
        match text {
            "put" => return Ok(Self { gets_percent: 0 }),
            "get" => return Ok(Self { gets_percent: 100 }),
            _ => {}
        }
        let (gets, puts) = text.split_once('/').ok_or_else(malformed)?;
        let percent = |text: &str| text.parse().ok().filter(|percent: &u8| *percent <= 100);
        match (percent(gets), percent(puts)) {
            (Some(gets), Some(puts)) if gets + puts == 100 => Ok(Self { gets_percent: gets }),
            _ => Err(malformed()),
        }
    }
}

/// Latencies from 1 µs to a minute, to three digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

/// How many requests are under way while keys are written for the first time.
const FILLERS: u32 = 8;
/// Keys of one of them.
const FILL_KEYS: u32 = 128;
/// Values of one request then, in bytes, if there is more than one.
const FILL_BYTES: u32 = 1 << 20;

/// After a request that failed, so that servers that are down are not asked in a tight loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Values are slices of random bytes, at random places, so that no two follow each other.
const POOL_BYTES: usize = 4 << 20;

impl Load {
    /// Runs the load.
    pub(super) async fn run(self, targets: &Targets) -> Result<Report, Failure> {
        if self.mix.gets_percent > 0 {
            self.fill(targets).await?;
        }
        // It sleeps from when the load has begun.
        let over = async { tokio::time::sleep(self.warm_up + self.measured).await };
        Ok(self.run_until(targets, over).await?.0)
    }

    /// Runs the load until `event` has happened, however long that takes, and gives what came of it, too.
    pub(super) async fn run_until<T>(
        self,
        targets: &Targets,
        event: impl Future<Output = T>,
    ) -> Result<(Report, T), Failure> {
        let (pool, keys) = (pool(), Keys::new(self.distribution, self.keys));
        let (over, clients) = (Arc::new(AtomicBool::new(false)), usize::from(self.clients));
        let mut recorder = Recorder::new(self);
        let mut workers = Vec::new();
        for n in 0..clients {
            let (target, worked) = (targets.of_client(n).await?, recorder.share(n));
            let (keys, pool) = (keys.clone(), pool.clone());
            workers.push(Worker { load: self, target, keys, pool, due: None, worked });
        }
        if let Some(rate) = self.rate {
            let due = pace::start(rate, clients, Arc::clone(&over));
            let due = due.map_err(|error| Failure::Failed(format!("no pacer: {error}")))?;
            workers.iter_mut().zip(due).for_each(|(worker, due)| worker.due = Some(due));
        }
        let begin = recorder.begin();
        let run = |worker: Worker| tokio::spawn(worker.run(begin, Arc::clone(&over)));
        let tasks: Vec<_> = workers.into_iter().map(run).collect();
        let happened = tokio::select! {
            happened = event => happened,
            never = recorder.every_second() => match never {},
        };
        over.store(true, Ordering::Release);
        let report = recorder.finish();
        for task in tasks {
            task.await.map_err(|error| Failure::Failed(format!("a client failed: {error}")))?;
        }
        Ok((report, happened))
    }

    /// Writes every key once, so that gets find something.
    pub(super) async fn fill(&self, targets: &Targets) -> Result<(), Failure> {
        let pool = pool();
        try_join_all((0..FILLERS).map(|n| self.fill_share(targets, n, &pool))).await.map(drop)
    }

    async fn fill_share(&self, targets: &Targets, n: u32, pool: &Bytes) -> Result<(), Failure> {
        let mut target = targets.of_client(n as usize).await?;
        let step = FILL_KEYS.min(FILL_BYTES / self.value_bytes.max(1)).max(1);
        for from in (n * step..self.keys).step_by((FILLERS * step) as usize) {
            let to = self.keys.min(from + step);
            target.put_many((from..to).map(|number| (key(number), self.value(pool))).collect()).await?;
        }
        Ok(())
    }

    fn value(&self, pool: &Bytes) -> Bytes {
        let bytes = self.value_bytes as usize;
        let start = fastrand::usize(..=pool.len() - bytes);
        pool.slice(start..start + bytes)
    }
}

fn pool() -> Bytes {
    std::iter::repeat_with(|| fastrand::u8(..)).take(POOL_BYTES).collect()
}

/// One client.
struct Worker {
    load: Load,
    target: Target,
    keys: Keys,
    pool: Bytes,
    /// When its requests are due, if they have their times.
    due: Option<UnboundedReceiver<Instant>>,
    worked: Arc<Mutex<Worked>>,
}

impl Worker {
    /// Sends requests until it is over; those that were sent from `begin` on and answered by then count.
    async fn run(mut self, begin: Instant, over: Arc<AtomicBool>) {
        loop {
            let due = match &mut self.due {
                None => Some(Instant::now()),
                Some(due) => due.recv().await,
            };
            let Some(due) = due.filter(|_| !over.load(Ordering::Acquire)) else { return };
            let (is_get, key) = (fastrand::u8(..100) < self.load.mix.gets_percent, self.keys.pick());
            let result = match is_get {
                true => self.target.get(key).await,
                false => self.target.put(key, self.load.value(&self.pool)).await,
            };
            let answered = Instant::now();
            if over.load(Ordering::Acquire) {
                return;
            }
            let failed = result.is_err();
            self.note(is_get, result, (due >= begin).then(|| answered - due));
            if failed {
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }

    /// Takes in what became of a request; it took `latency`, if that counts.
    fn note(&self, is_get: bool, result: Result<(), String>, latency: Option<Duration>) {
        let mut worked = self.worked.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = if is_get { &mut worked.gets } else { &mut worked.puts };
        match result {
            Ok(()) => latency.into_iter().for_each(|latency| calls.record(latency)),
            Err(error) => calls.fail(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_put_get_or_two_percentages() {
        for (text, gets_percent) in [("put", 0), ("get", 100), ("90/10", 90), ("0/100", 0)] {
            assert_eq!(text.parse(), Ok(Mix { gets_percent }));
        }
        for text in ["", "puts", "90", "90/20", "200/100", "-1/101", "90/10/0"] {
            assert!(text.parse::<Mix>().is_err(), "{text}");
        }
    }
}
