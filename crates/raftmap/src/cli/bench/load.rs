//! The load: clients that each wait for an answer before they go on.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use raftmap_client::Client;

use super::super::exit::Failure;
use super::report::{Calls, Report};

/// What is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) clients: u16,
    pub(super) connections: u16,
    pub(super) warm_up: Duration,
    pub(super) measured: Duration,
    pub(super) value_bytes: u32,
    pub(super) keys: u32,
    pub(super) mix: Mix,
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

/// Keys of one request while they are written for the first time.
const FILL_KEYS: u32 = 256;
/// Values of one request then, in bytes, if there is more than one.
const FILL_BYTES: u32 = 1 << 20;

/// After a request that failed, so that servers that are down are not asked in a tight loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Values are slices of random bytes, at random places, so that no two follow each other.
const POOL_BYTES: usize = 4 << 20;

impl Load {
    /// Runs the load, client n over `connections[n % connections]`.
    pub(super) async fn run(self, connections: &[Client]) -> Result<Report, Failure> {
        if self.mix.gets_percent > 0 {
            self.fill(&connections[0]).await?;
        }
        let over = tokio::time::sleep(self.warm_up + self.measured);
        Ok(self.run_until(connections, over).await?.0)
    }

    /// Runs the load until `event` has happened, however long that takes, and gives what came of it, too.
    pub(super) async fn run_until<T>(
        mut self,
        connections: &[Client],
        event: impl Future<Output = T>,
    ) -> Result<(Report, T), Failure> {
        let pool = pool();
        let begin = Instant::now() + self.warm_up;
        let over = Arc::new(AtomicBool::new(false));
        let clients = connections.iter().cycle().take(usize::from(self.clients));
        let tasks: Vec<_> = clients
            .map(|client| Worker { load: self, client: client.clone(), pool: pool.clone() })
            .map(|worker| tokio::spawn(worker.run(begin, Arc::clone(&over))))
            .collect();
        let happened = event.await;
        self.measured = begin.elapsed();
        over.store(true, Ordering::Release);
        let mut report = Report::new(self);
        for task in tasks {
            let worked = task.await.map_err(|error| Failure::Failed(format!("a client failed: {error}")))?;
            report.add(&worked);
        }
        Ok((report, happened))
    }

    /// Writes every key once, so that gets find something.
    pub(super) async fn fill(&self, client: &Client) -> Result<(), Failure> {
        let pool = pool();
        let step = FILL_KEYS.min(FILL_BYTES / self.value_bytes.max(1)).max(1);
        let mut from = 0;
        while from < self.keys {
            let to = self.keys.min(from + step);
            client.put_many((from..to).map(|number| (key(number), self.value(&pool)))).await?;
            from = to;
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

pub(super) fn key(number: u32) -> Bytes {
    format!("raftmap-bench/{number:010}").into()
}

/// One client.
struct Worker {
    load: Load,
    client: Client,
    pool: Bytes,
}

/// What one client has measured.
pub(super) struct Worked {
    pub(super) puts: Calls,
    pub(super) gets: Calls,
}

impl Worker {
    /// Sends requests until it is over; those that were sent from `begin` on and answered by then count.
    async fn run(self, begin: Instant, over: Arc<AtomicBool>) -> Worked {
        let mut worked = Worked { puts: Calls::new(), gets: Calls::new() };
        loop {
            let is_get = fastrand::u8(..100) < self.load.mix.gets_percent;
            let key = key(fastrand::u32(..self.load.keys));
            let sent = Instant::now();
            let result = if is_get {
                self.client.get(key).await.map(|_| ())
            } else {
                self.client.put(key, self.load.value(&self.pool)).await.map(|_| ())
            };
            let answered = Instant::now();
            if over.load(Ordering::Acquire) {
                return worked;
            }
            let calls = if is_get { &mut worked.gets } else { &mut worked.puts };
            match result {
                Ok(()) if sent >= begin => calls.record(answered - sent),
                Ok(()) => {}
                Err(error) => {
                    calls.fail(&error);
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
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
