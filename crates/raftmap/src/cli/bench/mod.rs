//! `raftmap bench`.

mod copies;
mod gaps;
mod keys;
mod load;
mod pace;
mod report;
mod target;

use std::time::Duration;

use clap::Args;
use raftmap::local_cluster::{CLIENT, LocalCluster, LocalPlan};
use raftmap_client::Client;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use self::copies::CopyReport;
use self::gaps::{GapReport, LeaderEvent};
use self::keys::{Distribution, KEYS_MAX};
use self::load::{Load, Mix};
use self::report::Report;
use self::target::{Store, Targets};
use super::connect::{ConnectArgs, block_on_all_cores};
use super::exit::{self, Failure};
use super::output;

const EXAMPLES: &str = "\
Examples:
  Three servers on this machine, started and ended by the command itself, TLS on:
    raftmap bench --local
    raftmap bench --local --clients 1 --seconds 10
  Reads of a running cluster, nine for each write:
    raftmap bench --mix 90/10 --json
  Latency at 5,000 puts a second, of which none waits for another one's answer:
    raftmap bench --local --rate 5000 --clients 256
  How long writes stand still when a leader dies, 20 times:
    raftmap bench --local --event kill --events 20
  What it costs others that a server takes a snapshot of 1 GiB:
    raftmap bench --local --copy --keys 1048576 --value-bytes 1024 --clients 8
  The same load on an etcd:
    raftmap bench --store etcd --endpoints 127.0.0.1:2379 --connections 4";

/// Measure throughput and latency
///
/// Each client sends its next request when the last one is answered; or, with --rate, when it is due, and latency
/// counts from then. Puts are durable on a majority, gets are linearizable. Writes keys that begin with rbench/ and
/// leaves them there. Ends with code 1 if a request failed.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Bench {
    /// Clients at once
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,

    /// Over how many connections to each server the clients are spread
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,

    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,

    /// How long the load runs before it is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    warm_up_seconds: u32,

    /// The size of values
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    value_bytes: u32,

    /// How many different keys there are
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(KEYS_MAX)))]
    keys: u32,

    /// How requests are spread over the keys
    #[arg(long, value_enum, default_value_t)]
    distribution: Distribution,

    /// Send so many requests a second, of all clients together, instead of as many as are answered
    #[arg(long, value_name = "PER_SECOND", value_parser = rate, conflicts_with = "event")]
    rate: Option<f64>,

    /// put, get, or percentages of gets and puts, as 90/10
    #[arg(long, value_name = "MIX", default_value = "put")]
    mix: Mix,

    /// What is driven, to compare; another store than raftmap without TLS, at --endpoints
    #[arg(long, value_enum, default_value_t = Store::Raftmap, conflicts_with_all = ["local", "event", "copy"])]
    store: Store,

    /// Write all keys, and measure nothing
    #[arg(long, conflicts_with_all = ["mix", "event", "copy", "local", "rate"])]
    fill: bool,

    /// Start three servers on this machine in a temporary folder, and measure those
    #[arg(long)]
    local: bool,

    /// Instead of throughput and latency, measure how long no write is acknowledged when this happens to the leader
    #[arg(long, value_name = "EVENT", requires = "local", conflicts_with_all = ["mix", "seconds", "warm_up_seconds"])]
    event: Option<LeaderEvent>,

    /// How often it happens
    #[arg(long, value_name = "COUNT", default_value_t = 20, requires = "event", value_parser = clap::value_parser!(u16).range(1..))]
    events: u16,

    /// Fill the cluster with all keys, and measure puts twice: as usual, and while a follower that lost its state takes a snapshot
    #[arg(long, requires = "local", conflicts_with_all = ["mix", "event"])]
    copy: bool,

    /// The figures as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// What was measured.
enum Measured {
    Nothing,
    Throughput(Box<Report>),
    Gaps(GapReport),
    Copy(Box<CopyReport>),
}

impl Bench {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let measured = block_on_all_cores(async {
            let failed = |error| Failure::Failed(format!("no signals: {error}"));
            let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
            // What loses is dropped, and with it all servers of this command.
            tokio::select! {
                measured = self.measure() => measured,
                _ = terminate.recv() => Err(Failure::Interrupted),
                _ = interrupt.recv() => Err(Failure::Interrupted),
            }
        })?;
        let (json, text, failure) = match &measured {
            Measured::Nothing => return Ok(()),
            Measured::Throughput(report) => (report.json(), report.text(), report.failure()),
            Measured::Gaps(report) => (report.json(), report.text(), report.failure()),
            Measured::Copy(report) => (report.json(), report.text(), report.failure()),
        };
        if self.json {
            output::json(&json)?;
        } else {
            output::line(&text)?;
        }
        match failure {
            None => Ok(()),
            Some(failure) => Err(Failure::Failed(failure)),
        }
    }

    async fn measure(&self) -> Result<Measured, Failure> {
        if !self.local {
            let targets = Targets::connect(self.store, &self.connect, self.connections).await?;
            if self.fill {
                self.load().fill(&targets).await?;
                return Ok(Measured::Nothing);
            }
            return self.load().run(&targets).await.map(|report| Measured::Throughput(Box::new(report)));
        }
        let (mut cluster, folder) = start_local().await?;
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            clients.push(Client::connect(cluster.endpoints(), cluster.tls(CLIENT)?).await?);
        }
        let measured = match self.event {
            None if self.copy => {
                let targets = Targets::Raftmap(clients);
                Measured::Copy(Box::new(copies::measure(&mut cluster, &targets, self.load()).await?))
            }
            None => Measured::Throughput(Box::new(self.load().run(&Targets::Raftmap(clients)).await?)),
            Some(event) => {
                let gaps = gaps::measure(&mut cluster, &clients, self.load(), event, self.events).await?;
                Measured::Gaps(gaps)
            }
        };
        cluster.stop_all().await?;
        drop(folder);
        Ok(measured)
    }

    fn load(&self) -> Load {
        Load {
            clients: self.clients,
            connections: self.connections,
            warm_up: Duration::from_secs(self.warm_up_seconds.into()),
            measured: Duration::from_secs(self.seconds.into()),
            value_bytes: self.value_bytes,
            keys: self.keys,
            distribution: self.distribution,
            mix: self.mix,
            rate: self.rate,
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.1..=1e7).contains(rate));
    rate.ok_or_else(|| "a number from 0.1 to 10,000,000".to_owned())
}

/// Three servers, of which one leads. They end before their folder does.
async fn start_local() -> Result<(LocalCluster, TempDir), Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("no cluster on this machine: {error}"));
    let folder = tempfile::Builder::new().prefix("raftmap-bench").tempdir().map_err(failed)?;
    let program = std::env::current_exe().map_err(failed)?;
    let mut cluster = LocalPlan::new(program, folder.path(), 3).map_err(failed)?.found()?;
    cluster.start_all().await?;
    cluster.leader().await?;
    Ok((cluster, folder))
}
