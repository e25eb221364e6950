//! `raftmap-torture`: does to real servers what life does, and says whether they kept their promises.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use raftmap_torture::{
    Class, ClientArguments, Failure, Offer, Report, Settings, SoakReport, run_client, soak, torture,
};

const EXAMPLES: &str = "\
Examples:
  Twenty rounds of everything that this machine offers (the server: cargo build --release):
    raftmap-torture --rounds 20
  For ten minutes, kills and power cuts only, as root:
    raftmap-torture --minutes 10 --faults kill,power
  Two hundred rounds in each of which servers come and go, beside all else:
    raftmap-torture --rounds 200 --always members
  Half an hour at half of what the servers can do, with a fault every ten seconds: do they grow?
    raftmap-torture --soak 30";

/// Torture real servers, and judge what clients were told
///
/// Three servers at first (one to five, where members come and go), clients in processes of their own, and a few faults in each
/// round; after each round all must be well again within a minute, and the history of all clients must be linearizable. What this machine does not offer is left out, and
/// said so. Ends with code 1 at the first round that breaks a promise, and leaves everything in its folder.
#[derive(Parser)]
#[command(name = "raftmap-torture", version, before_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,

    #[command(flatten)]
    run: RunArguments,
}

#[derive(Subcommand)]
enum Role {
    /// One of the clients of a run
    #[command(hide = true)]
    Client(ClientArguments),
}

#[derive(clap::Args)]
struct RunArguments {
    /// How many rounds
    #[arg(long, value_name = "N", default_value_t = 20)]
    rounds: u64,

    /// Go on with further rounds for so long, whatever their number
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<u64>,

    /// Instead of rounds: clients at half of what the servers can do for so long, a fault every ten seconds, and what the
    /// servers take of memory, disk and open files meanwhile
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["rounds", "minutes", "always", "clients", "workers", "keys"])]
    soak: Option<u64>,

    /// Only these kinds of fault
    #[arg(long, value_name = "KIND", value_enum, value_delimiter = ',')]
    faults: Vec<Class>,

    /// A fault of each of these kinds in every round, beside those that are drawn
    #[arg(long, value_name = "KIND", value_enum, value_delimiter = ',')]
    always: Vec<Class>,

    /// Put each server into a network namespace, and cut links by rules of the kernel instead of proxies; as root, with `ip`
    /// and `nft`
    #[arg(long)]
    namespaces: bool,

    /// Fail if this machine does not offer one of the kinds of fault
    #[arg(long)]
    all: bool,

    /// Where the choice of faults and calls comes from
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Client processes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    clients: u64,

    /// Calls at a time in each of them
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    workers: u32,

    /// Keys of each round
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    keys: u32,

    /// Where to keep everything; must not be there [default: a new folder, removed if all is well]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,

    /// The server [default: `raftmap` beside this program]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,

    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

/// How many looks at the servers are printed, about; the JSON has all of them.
const SOAK_ROWS: usize = 12;

/// Says that this process has namespaces of its own already.
const UNSHARED: &str = "RAFTMAP_TORTURE_UNSHARED";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.role {
        Some(Role::Client(client)) => block_on(run_client(client)).map(|()| true),
        None => run(&arguments.run),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(future)
}

/// Whether all promises were kept.
fn run(arguments: &RunArguments) -> Result<bool> {
    if rustix::process::geteuid().is_root() && std::env::var_os(UNSHARED).is_none() && can_unshare() {
        return Err(unshared(arguments.namespaces).into());
    }
    let mut offer = Offer::here(arguments.namespaces);
    if arguments.soak.is_some() {
        offer = offer.without_volumes();
    }
    let asked: Vec<Class> = match arguments.faults.is_empty() {
        true => Class::value_variants().to_vec(),
        false => arguments.faults.clone(),
    };
    let is_offered = |class: &Class| {
        offer.missing(*class).is_none() && (arguments.soak.is_none() || *class != Class::Members)
    };
    let (classes, mut skipped): (Vec<Class>, Vec<Class>) = asked.into_iter().partition(is_offered);
    let (always, more): (Vec<Class>, Vec<Class>) =
        arguments.always.iter().partition(|class| is_offered(class));
    skipped.extend(more);
    for class in &skipped {
        eprintln!("SKIPPED: {class}: it takes {}", offer.missing(*class).unwrap_or("rounds"));
    }
    if classes.is_empty() || (arguments.all && !skipped.is_empty()) {
        let names: Vec<String> = skipped.iter().map(Class::to_string).collect();
        return Err(Failure::NotOffered(names.join(", ")).into());
    }
    let kept = match &arguments.folder {
        Some(folder) => {
            std::fs::create_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            None
        }
        None => Some(tempfile::Builder::new().prefix("raftmap-torture-").tempdir_in(".")?),
    };
    let folder = kept.as_ref().map(|kept| kept.path().to_owned()).or(arguments.folder.clone());
    let folder = folder.expect("one of the two").canonicalize()?;
    let client_program = std::env::current_exe()?;
    let server_program = arguments.server.clone().unwrap_or_else(|| client_program.with_file_name("raftmap"));
    if !server_program.is_file() {
        return Err(
            format!("no server at {}; build it: cargo build --release", server_program.display()).into()
        );
    }
    let settings = Settings {
        server_program,
        client_program,
        folder: folder.clone(),
        rounds: if arguments.minutes.is_some() { u64::MAX } else { arguments.rounds },
        time: arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes)),
        classes,
        always,
        namespaces: arguments.namespaces,
        seed: arguments.seed,
        clients: arguments.clients,
        workers: arguments.workers,
        keys: arguments.keys,
    };
    let tell = |line| if arguments.json { eprintln!("{line}") } else { println!("{line}") };
    let ran = block_on(async {
        Ok(match arguments.soak {
            None => torture(&settings, &offer, tell).await.map(Ran::Torture),
            Some(minutes) => {
                soak(&settings, &offer, Duration::from_secs(60 * minutes), tell).await.map(Ran::Soak)
            }
        })
    })?;
    match ran {
        Ok(ran) => {
            match (&ran, arguments.json) {
                (_, true) => println!("{}", serde_json::to_string_pretty(&ran)?),
                (Ran::Torture(report), false) => print_report(report),
                (Ran::Soak(report), false) => print_soak(report),
            }
            Ok(true)
        }
        Err(failure) => {
            let folder = kept.map_or(folder, tempfile::TempDir::keep);
            let everything = format!("everything is in {}", folder.display());
            if !failure.is_broken_promise() {
                return Err(format!("{failure}\n{everything}").into());
            }
            println!(
                "\na promise is broken, or a server does not do what it should:\n{failure}\n\n{everything}"
            );
            Ok(false)
        }
    }
}

/// What a run came to.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Ran {
    Torture(Report),
    Soak(SoakReport),
}

fn can_unshare() -> bool {
    let tried = Command::new("unshare").args(["--mount", "--propagation", "private", "--", "true"]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// Runs this program again with mounts, and a network, that nobody else sees and that vanish with it, however it ends.
/// Returns only if that fails.
fn unshared(network: bool) -> std::io::Error {
    let Ok(program) = std::env::current_exe() else { return std::io::ErrorKind::NotFound.into() };
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .args(network.then_some("--net"))
        .arg("--")
        .arg(program);
    command.args(std::env::args_os().skip(1)).env(UNSHARED, "1").exec()
}

fn print_report(report: &Report) {
    println!();
    println!(
        "{} rounds in {:.0} s: all linearizable, {} also by search",
        report.rounds, report.seconds, report.searched
    );
    println!("acknowledged writes {} · lost 0", report.acknowledged_writes);
    println!("keys read again at the end {} · changed since 0", report.keys_read_again);
    println!("disks of all servers compared after a power cut {}", report.inspections);
    for (outcome, count) in &report.members {
        println!("changes of the members {outcome} {count}");
    }
    println!("servers that ended by themselves, their disks failing {}", report.ended);
    println!("calls:");
    for (outcome, count) in &report.calls {
        println!("{count:>12}  {outcome}");
    }
    println!("faults:");
    for (class, count) in &report.faults {
        println!("{count:>12}  {class}");
    }
}

fn print_soak(report: &SoakReport) {
    println!();
    println!(
        "{} s at {} writes a second (at most {}): acknowledged {}, failed {}, keys read in the end {} · lost 0",
        report.seconds,
        report.rate_per_second,
        report.peak_per_second,
        report.acknowledged,
        report.failed,
        report.keys_read
    );
    println!("faults:");
    for (class, count) in &report.faults {
        println!("{count:>12}  {class}");
    }
    println!(
        "{:>7} {:>7} {:>7} {:>11} {:>9} {:>11}",
        "at s", "server", "up s", "memory MiB", "disk MiB", "open files"
    );
    let looks: std::collections::BTreeSet<u64> = report.usage.iter().map(|usage| usage.at).collect();
    let looks: Vec<u64> = looks.into_iter().collect();
    let step = (looks.len() / SOAK_ROWS).max(1);
    for usage in &report.usage {
        let place = looks.binary_search(&usage.at).unwrap_or(0);
        if place.is_multiple_of(step) || place + 1 == looks.len() {
            println!(
                "{:>7} {:>7} {:>7} {:>11} {:>9} {:>11}",
                usage.at, usage.server, usage.up_seconds, usage.memory_mib, usage.disk_mib, usage.open_files
            );
        }
    }
}
