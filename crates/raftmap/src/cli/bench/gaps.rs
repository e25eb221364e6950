//! How long nobody's write is acknowledged when a leader ends: killed, or asked to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use raftmap::local_cluster::LocalCluster;
use raftmap_client::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::super::exit::Failure;
use super::keys::key;
use super::load::Load;

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LeaderEvent {
    /// Killed with SIGKILL
    Kill,
    /// Asked to end with SIGTERM: it hands over first
    Stop,
    /// Stopped with SIGSTOP: it falls silent, and its connections stay
    Pause,
}

/// How long the load goes on before an event, and after writes are acknowledged again: by then any gap that belongs to the
/// event is over.
const CALM: Duration = Duration::from_secs(1);
/// How long it may take until writes are acknowledged again.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// When writes were acknowledged, whoever wrote.
#[derive(Debug)]
struct Acknowledged {
    last: Instant,
    longest_gap: Duration,
    writes: u64,
    failed: u64,
}

impl Acknowledged {
    fn record(&mut self, now: Instant) {
        self.longest_gap = self.longest_gap.max(now.saturating_duration_since(self.last));
        self.last = self.last.max(now);
        self.writes += 1;
    }
}

type Shared = Arc<Mutex<Acknowledged>>;

fn with<T>(shared: &Shared, what: impl FnOnce(&mut Acknowledged) -> T) -> T {
    what(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The longest gap of each event, in the order in which they happened.
pub(super) struct GapReport {
    event: LeaderEvent,
    load: Load,
    gaps: Vec<Duration>,
    writes: u64,
    failed: u64,
}

/// Runs `load` against `cluster`, and lets `event` happen to its leader `count` times.
pub(super) async fn measure(
    cluster: &mut LocalCluster,
    connections: &[Client],
    load: Load,
    event: LeaderEvent,
    count: u16,
) -> Result<GapReport, Failure> {
    let began = Acknowledged { last: Instant::now(), longest_gap: Duration::ZERO, writes: 0, failed: 0 };
    let shared: Shared = Arc::new(Mutex::new(began));
    let mut writers = JoinSet::new();
    for client in connections.iter().cycle().take(usize::from(load.clients)) {
        writers.spawn(write(client.clone(), load, Arc::clone(&shared)));
    }
    let mut gaps = Vec::new();
    for _ in 0..count {
        gaps.push(strike(cluster, &shared, event).await?);
    }
    writers.abort_all();
    let (writes, failed) = with(&shared, |shared| (shared.writes, shared.failed));
    Ok(GapReport { event, load, gaps, writes, failed })
}

async fn write(client: Client, load: Load, shared: Shared) {
    let value = vec![b'x'; load.value_bytes as usize];
    loop {
        let written = client.put(key(fastrand::u32(..load.keys)), value.clone()).await;
        let now = Instant::now();
        with(&shared, |shared| match written {
            Ok(_) => shared.record(now),
            Err(_) => shared.failed += 1,
        });
    }
}

/// One event: the gap that it made.
async fn strike(
    cluster: &mut LocalCluster,
    shared: &Shared,
    event: LeaderEvent,
) -> Result<Duration, Failure> {
    let leader = cluster.leader().await?;
    tokio::time::sleep(CALM).await;
    let before = with(shared, |shared| {
        shared.longest_gap = Duration::ZERO;
        shared.writes
    });
    match event {
        LeaderEvent::Kill => cluster.kill(leader)?,
        LeaderEvent::Pause => cluster.pause(leader)?,
        LeaderEvent::Stop => drop(cluster.stop(leader).await?),
    }
    let struck = Instant::now();
    while with(shared, |shared| shared.writes == before || shared.last < struck) {
        if struck.elapsed() > PATIENCE {
            return Err(Failure::Failed(format!("no write was acknowledged within {PATIENCE:?}")));
        }
        tokio::time::sleep(POLL).await;
    }
    tokio::time::sleep(CALM).await;
    let gap = with(shared, |shared| shared.longest_gap);
    match event {
        LeaderEvent::Kill | LeaderEvent::Stop => cluster.start(leader).await?,
        LeaderEvent::Pause => cluster.resume(leader)?,
    }
    Ok(gap)
}

impl GapReport {
    fn sorted_ms(&self) -> Vec<f64> {
        let mut gaps: Vec<f64> =
            self.gaps.iter().map(|gap| (gap.as_secs_f64() * 1e4).round() / 10.0).collect();
        gaps.sort_by(f64::total_cmp);
        gaps
    }

    pub(super) fn json(&self) -> Value {
        let sorted = self.sorted_ms();
        json!({
            "event": format!("{:?}", self.event).to_lowercase(),
            "clients": self.load.clients,
            "value_bytes": self.load.value_bytes,
            "gaps_ms": sorted,
            "median_gap_ms": sorted[sorted.len() / 2],
            "writes": self.writes,
            "failed": self.failed,
        })
    }

    pub(super) fn text(&self) -> String {
        let sorted = self.sorted_ms();
        let (median, longest) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
        format!(
            "{} times {:?} of the leader under {} clients · {} writes, {} failed\n\
             longest gap between two acknowledged writes: median {median} ms, shortest {} ms, longest {longest} ms",
            sorted.len(),
            self.event,
            self.load.clients,
            self.writes,
            self.failed,
            sorted[0],
        )
    }

    /// What went wrong, if anything did.
    pub(super) fn failure(&self) -> Option<String> {
        (self.failed > 0).then(|| format!("{} writes failed", self.failed))
    }
}
