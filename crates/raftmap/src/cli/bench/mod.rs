//! `raftmap bench`.

mod copies;
mod embedded;
mod gaps;
mod keys;
mod load;
mod machine;
mod pace;
mod plot;
mod record;
mod report;
mod target;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use raftmap::local_cluster::{CLIENT, LocalCluster, LocalPlan};
use raftmap_client::Client;
use serde_json::json;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use self::copies::CopyReport;
use self::gaps::{GapReport, LeaderEvent};
use self::keys::{Distribution, KEYS_MAX};
use self::load::{Load, Mix};
use self::machine::MachineReport;
use self::report::Report;
use self::target::{Store, Targets};
use super::connect::{ConnectArgs, block_on_half_of_the_cores};
use super::exit::{self, Failure};
use super::output;

const EXAMPLES: &str = "\
Examples:
  Three servers on this machine, started and ended by the command itself, TLS on:
    raftmap bench --local
    raftmap bench --local --clients 1 --seconds 10
  Five servers in this process, called without a client, as a program does that embeds them:
    raftmap bench --local --embedded --servers 5
  Reads of a running cluster, nine for each write:
    raftmap bench --mix 90/10 --json
  Latency at 5,000 puts a second, of which none waits for another one's answer:
    raftmap bench --local --rate 5000 --clients 256 --plot latency.svg
  How long writes stand still when a leader dies, 20 times:
    raftmap bench --local --event kill --events 20
  What it costs others that a server takes a snapshot of 1 GiB:
    raftmap bench --local --copy --keys 1048576 --value-bytes 1024 --clients 8
  What nothing on this machine can be faster than:
    raftmap bench --machine
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

    /// How many servers those are
    #[arg(long, value_name = "COUNT", default_value_t = 3, requires = "local", value_parser = clap::value_parser!(u8).range(1..=9))]
    servers: u8,

    /// Start them in this process, and call the one that leads without a client
    #[arg(long, requires = "local", conflicts_with_all = ["event", "copy", "connections"])]
    embedded: bool,

    /// Measure no store, but a sync of this machine's disk, a round trip over loopback, and how long it stands still when it is busy
    #[arg(long, conflicts_with_all = ["local", "fill", "store", "mix", "rate", "plot"])]
    machine: bool,

    /// Instead of throughput and latency, measure how long no write is acknowledged when this happens to the leader
    #[arg(long, value_name = "EVENT", requires = "local", conflicts_with_all = ["mix", "seconds", "warm_up_seconds"])]
    event: Option<LeaderEvent>,

    /// How often it happens
    #[arg(long, value_name = "COUNT", default_value_t = 20, requires = "event", value_parser = clap::value_parser!(u16).range(1..))]
    events: u16,

    /// Fill the cluster with all keys, and measure puts twice: as usual, and while a follower that lost its state takes a snapshot
    #[arg(long, requires = "local", conflicts_with_all = ["mix", "event"])]
    copy: bool,

    /// Draw requests a second and latency over time, and latency by percentile, as SVG
    #[arg(long, value_name = "FILE", conflicts_with_all = ["event", "copy", "fill"])]
    plot: Option<PathBuf>,

    /// The figures as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// What was measured.
enum Measured {
    /// All keys were written.
    Filled,
    Throughput(Box<Report>),
    Gaps(GapReport),
    Copy(Box<CopyReport>),
    Machine(MachineReport),
}

impl Bench {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let measured = block_on_half_of_the_cores(async {
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
            Measured::Filled if self.json => return output::json(&json!({ "keys": self.keys })),
            Measured::Filled => return Ok(()),
            Measured::Throughput(report) => (report.json(), report.text(), report.failure()),
            Measured::Gaps(report) => (report.json(), report.text(), report.failure()),
            Measured::Copy(report) => (report.json(), report.text(), report.failure()),
            Measured::Machine(report) => (report.json(), report.text(), None),
        };
        if let (Some(path), Measured::Throughput(report)) = (&self.plot, &measured) {
            plot::write(report, path)?;
        }
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
        if self.machine {
            return machine::measure(&std::env::temp_dir()).map(Measured::Machine);
        }
        if self.local {
            return self.measure_local().await;
        }
        let targets = Targets::connect(self.store, &self.connect, self.connections).await?;
        if self.fill {
            self.load().fill(&targets).await?;
            return Ok(Measured::Filled);
        }
        self.measure_throughput(&targets).await
    }

    async fn measure_throughput(&self, targets: &Targets) -> Result<Measured, Failure> {
        self.load().run(targets).await.map(|report| Measured::Throughput(Box::new(report)))
    }

    async fn measure_local(&self) -> Result<Measured, Failure> {
        // The servers end before their folder does.
        let (mut cluster, folder) = self.found_local()?;
        if self.embedded {
            let nodes = embedded::start(&cluster).await?;
            let measured = self.measure_throughput(&Targets::Embedded(nodes.leader().clone())).await;
            nodes.shut_down().await;
            return measured;
        }
        cluster.start_all().await?;
        cluster.leader().await?;
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            clients.push(Client::connect(cluster.endpoints(), cluster.tls(CLIENT)?).await?);
        }
        let measured = match self.event {
            None if self.copy => {
                let targets = Targets::Raftmap(clients);
                Measured::Copy(Box::new(copies::measure(&mut cluster, &targets, self.load()).await?))
            }
            None => self.measure_throughput(&Targets::Raftmap(clients)).await?,
            Some(event) => {
                let gaps = gaps::measure(&mut cluster, &clients, self.load(), event, self.events).await?;
                Measured::Gaps(gaps)
            }
        };
        cluster.stop_all().await?;
        drop(folder);
        Ok(measured)
    }

    /// A cluster of which nothing runs.
    fn found_local(&self) -> Result<(LocalCluster, TempDir), Failure> {
        let failed = |error: std::io::Error| Failure::Failed(format!("no cluster on this machine: {error}"));
        let folder = tempfile::Builder::new().prefix("raftmap-bench").tempdir().map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let cluster = LocalPlan::new(program, folder.path(), self.servers).map_err(failed)?.found()?;
        Ok((cluster, folder))
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
            progress: !self.json,
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.1..=1e7).contains(rate));
    rate.ok_or_else(|| "a number from 0.1 to 10,000,000".to_owned())
}
