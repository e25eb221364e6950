//! What it costs requests that a server loses its state and takes a snapshot of another one.

use std::fs;
use std::time::Duration;

use raftmap::local_cluster::{LocalCluster, bytes_below};
use raftmap::node::NodeId;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::super::exit::Failure;
use super::load::Load;
use super::report::Report;
use super::target::Targets;

/// How long a copy may take.
const PATIENCE: Duration = Duration::from_secs(1800);
const POLL: Duration = Duration::from_millis(100);

/// The load while all servers have their state, and while one takes that of another.
pub(super) struct CopyReport {
    usual: Report,
    meanwhile: Report,
    bytes: u64,
    took: Duration,
}

/// Fills `cluster` with all keys of `load`, measures as usual, takes the state of a follower away, and measures until it has
/// one again.
pub(super) async fn measure(
    cluster: &mut LocalCluster,
    targets: &Targets,
    load: Load,
) -> Result<CopyReport, Failure> {
    load.fill(targets).await?;
    let usual = load.run(targets).await?;
    let leader = cluster.leader().await?;
    let loser = cluster.ids().into_iter().find(|id| *id != leader);
    let loser = loser.ok_or_else(|| Failure::Failed("there is no follower".to_owned()))?;
    cluster.stop(loser).await?;
    let bytes = remove_state(cluster, loser).map_err(|error| Failure::Failed(error.to_string()))?;
    cluster.start(loser).await?;
    let load = Load { warm_up: Duration::ZERO, ..load };
    let (meanwhile, took) = load.run_until(targets, has_state(cluster, loser)).await?;
    Ok(CopyReport { usual, meanwhile, bytes, took: took? })
}

/// Gives how many bytes it took on the disk.
fn remove_state(cluster: &LocalCluster, id: NodeId) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(cluster.data_dir(id))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("state-") {
            bytes += bytes_below(&entry.path())?;
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(bytes)
}

/// Waits until a server has a state, and gives how long that took.
async fn has_state(cluster: &LocalCluster, id: NodeId) -> Result<Duration, Failure> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if cluster.status(id).await.is_some_and(|status| !status.state_lost) {
            return Ok(began.elapsed());
        }
        sleep(POLL).await;
    }
    Err(Failure::Failed(format!("server {id} has no state after {PATIENCE:?}")))
}

impl CopyReport {
    /// The latency of puts meanwhile, as a multiple of what is usual: median and p99.
    fn ratios(&self) -> [f64; 2] {
        [50.0, 99.0].map(|percentile| {
            let ratio = self.meanwhile.put_us(percentile) / self.usual.put_us(percentile).max(1.0);
            (ratio * 100.0).round() / 100.0
        })
    }

    pub(super) fn json(&self) -> Value {
        let [p50, p99] = self.ratios();
        json!({
            "state_bytes": self.bytes,
            "copy_seconds": self.took.as_secs_f64(),
            "usual": self.usual.json(),
            "meanwhile": self.meanwhile.json(),
            "p50_ratio": p50,
            "p99_ratio": p99,
        })
    }

    pub(super) fn text(&self) -> String {
        let [p50, p99] = self.ratios();
        format!(
            "as usual:\n{}\nwhile a follower takes a snapshot of the leader ({} MiB, {:.1} s):\n{}\n\
             latency of puts meanwhile: p50 {p50} times, p99 {p99} times what is usual",
            self.usual.text(),
            self.bytes >> 20,
            self.took.as_secs_f64(),
            self.meanwhile.text(),
        )
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.usual.failure().or_else(|| self.meanwhile.failure())
    }
}
