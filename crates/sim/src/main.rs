//! `raftmap-sim`: simulates clusters, seed after seed, and says which one breaks a promise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use clap::Parser;
use raftmap_sim::{Choice, Class, Outcome, Plan, Time, Trace, Violation, run, shrink};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  Many seeds:
    raftmap-sim --seeds 5000
  For a while, with some faults only:
    raftmap-sim --minutes 10 --faults power,rot
  One seed again, with all that happened in it:
    raftmap-sim --seed 17 --seeds 1 --trace trace.txt";

/// Simulate whole clusters and check that they keep their promises
///
/// Each seed is one run: a cluster, its faults and its clients, about a minute of virtual time. Ends with code 1 at the
/// first seed that breaks a promise, and says how to see it again.
#[derive(Parser)]
#[command(name = "raftmap-sim", version, before_help = EXAMPLES)]
struct Arguments {
    /// The first seed
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 100)]
    seeds: u64,

    /// Go on with further seeds for so long, whatever their number
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<u64>,

    /// Servers of each cluster; else drawn by the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: Option<u64>,

    /// Only these kinds of fault
    #[arg(long, value_name = "KIND", value_enum, value_delimiter = ',')]
    faults: Vec<Class>,

    /// Of the faults of a seed only these, by their numbers, as a shrunk failure names them
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    only: Option<Vec<usize>>,

    /// Write what happens to this file; with one seed only
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Seeds that run at the same time; else one for each core
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Print the trace hash of each seed
    #[arg(long)]
    hashes: bool,

    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

/// What many runs came to.
#[derive(Default, Serialize)]
struct Summary {
    seeds: u64,
    virtual_seconds: u64,
    wall_seconds: f64,
    events: u64,
    committed: u64,
    /// Histories that were also judged by search, which trusts no revision.
    searched: u64,
    calls: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
    repairs: BTreeMap<&'static str, u64>,
    /// Of all traces together, in whatever order they ended.
    trace_hash: u64,
    failed_seed: Option<u64>,
    failure: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A broken invariant is a result here, and is said once, with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    match simulate(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

impl Arguments {
    fn plan(&self, seed: u64) -> Plan {
        let choice = Choice { nodes: self.nodes, classes: self.faults.iter().copied().collect() };
        let mut plan = Plan::draw(seed, &choice);
        if let Some(only) = &self.only {
            plan.keep_only(&only.iter().copied().collect::<BTreeSet<_>>());
        }
        plan
    }

    /// How to run one seed again.
    fn command(&self, seed: u64, only: &[usize]) -> String {
        let mut command = format!("cargo run --release -p raftmap-sim -- --seed {seed} --seeds 1");
        if let Some(nodes) = self.nodes {
            command += &format!(" --nodes {nodes}");
        }
        if !self.faults.is_empty() {
            let names: Vec<_> = self.faults.iter().filter_map(clap::ValueEnum::to_possible_value).collect();
            let names: Vec<_> = names.iter().map(clap::builder::PossibleValue::get_name).collect();
            command += &format!(" --faults {}", names.join(","));
        }
        let only: Vec<_> = only.iter().map(usize::to_string).collect();
        command + &format!(" --only {}", only.join(",")) + " --trace trace.txt"
    }
}

/// Runs all seeds; whether all kept their promises.
fn simulate(arguments: &Arguments) -> Result<bool, std::io::Error> {
    if let Some(path) = &arguments.trace {
        return trace_one(arguments, path);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.unwrap_or(cores).max(1);
    let began = Instant::now();
    let end = arguments.minutes.map(|minutes| began + Duration::from_secs(60 * minutes));
    let next = AtomicU64::new(arguments.seed);
    let stop = Mutex::new(false);
    let (results, outcomes) = mpsc::channel();
    let mut summary = Summary::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let results = results.clone();
            let (next, stop) = (&next, &stop);
            scope.spawn(move || {
                while !*stop.lock().unwrap_or_else(PoisonError::into_inner) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = match end {
                        Some(end) => Instant::now() >= end,
                        None => seed - arguments.seed >= arguments.seeds,
                    };
                    if over || results.send((seed, run(arguments.plan(seed), Trace::default()))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        let mut said = Instant::now();
        for (seed, outcome) in outcomes {
            summary.take(seed, &outcome, arguments.hashes);
            if outcome.violation.is_some() {
                *stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
            }
            if said.elapsed() > Duration::from_secs(5) {
                said = Instant::now();
                summary.say_progress(began.elapsed());
            }
        }
    });
    summary.wall_seconds = began.elapsed().as_secs_f64();
    summary.print(arguments.json)?;
    if let (Some(seed), Some(failure)) = (summary.failed_seed, &summary.failure) {
        tell_failure(arguments, seed, failure)?;
    }
    Ok(summary.failed_seed.is_none())
}

/// Shrinks a failing seed, and says how to see it.
fn tell_failure(arguments: &Arguments, seed: u64, failure: &str) -> Result<(), std::io::Error> {
    println!("\nseed {seed} breaks a promise:\n{failure}\n");
    println!("shrinking ...");
    let shrunk = shrink::shrink(&arguments.plan(seed));
    println!("it takes {} of its faults:", shrunk.only.len());
    for place in &shrunk.only {
        let planned = &shrunk.plan.faults[*place];
        println!("  {place:>4}  {:>12}  {}", planned.at.to_string(), planned.fault);
    }
    let path = PathBuf::from(format!("trace-{seed}.txt"));
    let mut plan = shrunk.plan.clone();
    plan.keep_only(&shrunk.only.iter().copied().collect());
    let outcome = run(plan, Trace::to_file(File::create(&path)?));
    let broken = outcome.violation.unwrap_or(Violation("nothing".to_owned()));
    println!("\nthen this is broken:\n{broken}\n\nwhat happened: {}", path.display());
    println!("again: {}", arguments.command(seed, &shrunk.only));
    Ok(())
}

fn trace_one(arguments: &Arguments, path: &PathBuf) -> Result<bool, std::io::Error> {
    let plan = arguments.plan(arguments.seed);
    println!("{} servers, {:#?}", plan.nodes, plan.climate);
    let outcome = run(plan, Trace::to_file(File::create(path)?));
    println!("trace hash {:016x}, {} events: {}", outcome.trace_hash, outcome.events, path.display());
    if let Some(violation) = &outcome.violation {
        println!("broken: {violation}");
    }
    Ok(outcome.violation.is_none())
}

impl Summary {
    fn take(&mut self, seed: u64, outcome: &Outcome, hashes: bool) {
        self.seeds += 1;
        self.virtual_seconds += outcome.virtual_time.0 / Time::secs(1).0;
        self.events += outcome.events;
        self.committed += outcome.committed;
        self.searched += u64::from(outcome.searched);
        let kinds = [
            (&mut self.calls, &outcome.calls),
            (&mut self.faults, &outcome.faults),
            (&mut self.repairs, &outcome.repairs),
        ];
        for (sums, counts) in kinds {
            for (kind, count) in counts {
                *sums.entry(kind).or_default() += count;
            }
        }
        self.trace_hash = self.trace_hash.wrapping_add(outcome.trace_hash);
        if hashes {
            println!("seed {seed}  {:016x}", outcome.trace_hash);
        }
        if let Some(violation) = &outcome.violation
            && self.failed_seed.is_none_or(|failed| seed < failed)
        {
            self.failed_seed = Some(seed);
            self.failure = Some(violation.to_string());
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn say_progress(&self, elapsed: Duration) {
        let faults: u64 = self.faults.values().sum();
        let rate = self.seeds as f64 / elapsed.as_secs_f64();
        eprintln!("{} seeds, {rate:.1} a second, {faults} faults survived", self.seeds);
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn print(&self, json: bool) -> Result<(), std::io::Error> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let times = self.virtual_seconds as f64 / self.wall_seconds.max(1e-9);
        println!(
            "{} seeds in {:.1} s: {} s of virtual time, {times:.0} times real time; {} events, {} entries committed",
            self.seeds, self.wall_seconds, self.virtual_seconds, self.events, self.committed
        );
        println!("histories judged by revision: {}, also by search: {}", self.seeds, self.searched);
        println!("trace hash {:016x}", self.trace_hash);
        for (title, counts) in [("calls", &self.calls), ("faults", &self.faults), ("repairs", &self.repairs)]
        {
            println!("{title}:");
            for (kind, count) in counts {
                println!("  {count:>10}  {kind}");
            }
        }
        Ok(())
    }
}
