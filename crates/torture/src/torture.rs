//! The run: round after round of clients and faults on one cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use raftmap::local_cluster::{LocalPlan, Network};
use raftmap_client::Client;
use raftmap_lincheck::{
    Operation, Options, Outcome, Record, Request, Response, Verdict, check, write_history,
};
use raftmap_raft::{LogIndex, NodeId};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::{sleep, sleep_until, timeout};

use crate::client::{CONNECTED, ask, now, read_histories};
use crate::error::{Failure, refused};
use crate::inspect;
use crate::links::Links;
use crate::members::Operator;
use crate::namespaces::Namespaces;
use crate::nemesis::{Class, Fault, pick};
use crate::offer::Offer;
use crate::rig::Rig;
use crate::shim::Shim;
use crate::volumes::Volumes;

/// Little room is kept free, so that disks may be filled; and logs are short, so that servers come back by snapshots, too.
const SERVE_ARGUMENTS: [&str; 6] = ["--space-reserve-mib", "64", "--log-mib", "1", "--log-max-mib", "1"];

/// How long clients run without a fault, at the beginning and at the end of a round.
const CALM: Duration = Duration::from_millis(200);

/// How long a client process has to end.
const CLIENT_PATIENCE: Duration = Duration::from_secs(60);

/// How long the reads at the end of a round may take.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The search is a second opinion, and may give up; the witness check must not.
const BOUNDS: Options = Options {
    revision_steps_max: 100_000_000,
    memo_max: 2_000_000,
    search_steps_max: 20_000_000,
    minimise_steps_max: 5_000_000,
};

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `raftmap` binary.
    pub server_program: PathBuf,
    /// This program: it runs again as each client.
    pub client_program: PathBuf,
    /// Where everything is kept.
    pub folder: PathBuf,
    /// How many rounds at most.
    pub rounds: u64,
    /// No round begins later than this.
    pub time: Option<Duration>,
    /// Kinds of fault.
    pub classes: Vec<Class>,
    /// A fault of each of these kinds is in every round.
    pub always: Vec<Class>,
    /// The servers are in network namespaces; else there are proxies between them.
    pub namespaces: bool,
    /// Where the choice of faults and calls comes from.
    pub seed: u64,
    /// Client processes.
    pub clients: u64,
    /// Calls at a time in each.
    pub workers: u32,
    /// Keys of each round.
    pub keys: u32,
}

/// What a run came to.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Rounds, all of them linearizable.
    pub rounds: u64,
    /// Those that were also judged by search.
    pub searched: u64,
    /// Seconds.
    pub seconds: f64,
    /// Calls of clients, by outcome.
    pub calls: BTreeMap<&'static str, u64>,
    /// Acknowledged writes.
    pub acknowledged_writes: u64,
    /// Faults by kind; one that strikes several servers counts for each.
    pub faults: BTreeMap<Class, u64>,
    /// Changes of the members, by what became of them.
    pub members: BTreeMap<&'static str, u64>,
    /// Servers that ended by themselves, as they should when their disk fails.
    pub ended: u64,
    /// Comparisons of what survived on the disks of all servers after their power was cut.
    pub inspections: u64,
    /// Keys that were read again at the end of the run, and were as their round had left them.
    pub keys_read_again: u64,
}

/// What stands under the keys of a round.
type Records = BTreeMap<Bytes, Option<Record>>;

struct Run<'a> {
    settings: &'a Settings,
    rig: Rig,
    operator: Operator,
    client: Client,
    /// What was done in this round.
    done: Vec<String>,
    /// What each round left. Its clients have ended and all servers were at rest: nobody changes it any more.
    left: Vec<Records>,
    report: Report,
}

/// Runs; `said` is told a line for each round.
///
/// # Errors
/// The first thing that is wrong.
pub async fn torture(settings: &Settings, offer: &Offer, said: impl Fn(String)) -> Result<Report, Failure> {
    let began = Instant::now();
    let mut run = Run::start(settings, offer).await?;
    let mut rng = Rng::with_seed(settings.seed);
    while run.report.rounds < settings.rounds && settings.time.is_none_or(|time| began.elapsed() < time) {
        let round = run.report.rounds;
        let faults = draw(settings, round, &mut rng);
        let line = run.round(round, &faults, rng.u64(..)).await;
        let done = std::mem::take(&mut run.done).join(", ");
        let line = line.inspect_err(|_| said(format!("round {round}: {done} · FAILED")))?;
        run.report.rounds += 1;
        said(format!("round {round}: {done} · {line}"));
    }
    run.read_all_again().await?;
    run.report.ended = run.rig.ended;
    run.report.members = std::mem::take(&mut run.operator.counts);
    run.report.seconds = began.elapsed().as_secs_f64();
    Ok(run.report)
}

/// A cluster of three that does not run yet, with all that can be done to it.
pub(crate) fn found(settings: &Settings, offer: &Offer, serve_arguments: &[&str]) -> Result<Rig, Failure> {
    let folder = &settings.folder;
    let plan = LocalPlan::new(&settings.server_program, folder, 3);
    let mut plan = plan.map_err(refused("find free ports"))?;
    let links = if settings.namespaces {
        Links::Namespaces(Namespaces::between(&mut plan).map_err(refused("make network namespaces"))?)
    } else {
        Links::Proxies(Network::between(&mut plan).map_err(refused("listen"))?)
    };
    plan.serve_arguments.extend(serve_arguments.iter().map(Into::into));
    let shim = match offer.shim() {
        true => Some(Shim::build(&folder.join("shim")).map_err(refused("build the library to preload"))?),
        false => None,
    };
    let data = |id: &NodeId| (*id, folder.join(format!("server-{id}/data")));
    let data_dirs: Vec<(NodeId, PathBuf)> = plan.members.iter().map(|member| data(&member.id)).collect();
    let volumes = match offer.volumes() {
        true => Some(Volumes::make(folder, &data_dirs).map_err(refused("make disks in files"))?),
        false => None,
    };
    Ok(Rig::new(plan.found()?, links, shim, volumes))
}

/// One to three faults, and those that are always there; each kind has its turn.
fn draw(settings: &Settings, round: u64, rng: &mut Rng) -> Vec<Fault> {
    let classes = &settings.classes;
    let mut faults = vec![Fault::draw(pick(round, classes), rng)];
    for _ in 0..rng.u32(..3) {
        faults.push(Fault::draw(classes[rng.usize(..classes.len())], rng));
    }
    faults.extend(settings.always.iter().map(|class| Fault::draw(*class, rng)));
    faults.sort_by_key(|fault| fault.at);
    faults
}

impl<'a> Run<'a> {
    async fn start(settings: &'a Settings, offer: &Offer) -> Result<Self, Failure> {
        let mut rig = found(settings, offer, &SERVE_ARGUMENTS)?;
        let members: BTreeSet<NodeId> = rig.cluster.ids().into_iter().collect();
        start_all(&mut rig).await?;
        let client = rig.cluster.client().await?;
        let operator = Operator::new(settings.server_program.clone(), members);
        let (left, done, report) = (Vec::new(), Vec::new(), Report::default());
        Ok(Self { settings, rig, operator, client, done, left, report })
    }

    async fn round(&mut self, round: u64, faults: &[Fault], seed: u64) -> Result<String, Failure> {
        let prefix = format!("{round:06}/");
        let histories: Vec<PathBuf> = (0..self.settings.clients)
            .map(|number| self.settings.folder.join(format!("history-{number}.jsonl")))
            .collect();
        let mut clients = Vec::new();
        for (number, history) in histories.iter().enumerate() {
            clients.push(self.start_client(number as u64 + 1, &prefix, seed, history)?);
        }
        for client in &mut clients {
            connected(client).await?;
        }
        sleep(CALM).await;
        self.disturb(faults).await?;
        self.rig.heal()?;
        self.done.extend(self.operator.finish(&mut self.rig).await?);
        self.rig.calm().await?;
        self.operator.settle(&mut self.rig).await?;
        // One that does nothing asks for the members every 30 s: meanwhile all that it knows may have gone.
        self.client = self.rig.cluster.client().await?;
        sleep(CALM).await;
        for client in &mut clients {
            drop(client.stdin.take());
        }
        for client in clients {
            end(client).await?;
        }
        self.agree().await?;
        let mut history = read_histories(&histories).map_err(refused("read a history"))?;
        let acknowledged = self.report.acknowledged_writes;
        let line = self.count(&history);
        if self.report.acknowledged_writes == acknowledged {
            return Err(Failure::Client("no write of the round was acknowledged".to_owned()));
        }
        self.left.push(self.read(&prefix, &mut history).await?);
        self.check(round, history).await?;
        if faults.iter().any(|fault| matches!(fault.class, Class::Power | Class::Members)) {
            self.inspect().await?;
        }
        Ok(line)
    }

    fn start_client(&self, number: u64, prefix: &str, seed: u64, history: &Path) -> Result<Child, Failure> {
        let settings = self.settings;
        let mut command = Command::new(&settings.client_program);
        command.arg("client").arg("--endpoints").arg(self.rig.cluster.endpoints().join(","));
        command.arg("--certs").arg(self.rig.cluster.certs_dir()).arg("--prefix").arg(prefix);
        command.arg("--history").arg(history);
        for (flag, value) in [
            ("--keys", settings.keys.into()),
            ("--workers", settings.workers.into()),
            ("--number", number),
            ("--seed", seed.wrapping_add(number << 32)),
        ] {
            command.arg(flag).arg(value.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().map_err(refused("start a client"))
    }

    /// Makes the faults of a round and ends them, each when its time has come.
    async fn disturb(&mut self, faults: &[Fault]) -> Result<(), Failure> {
        let began = tokio::time::Instant::now();
        let mut under_way: Vec<(Duration, &Fault, Vec<NodeId>)> = Vec::new();
        let mut coming = faults.iter().peekable();
        loop {
            under_way.sort_by_key(|(until, _, _)| *until);
            let next_end = under_way.first().map(|(until, _, _)| *until);
            let next_begin = coming.peek().map(|fault| fault.at);
            let Some(next) = next_begin.into_iter().chain(next_end).min() else { return Ok(()) };
            tokio::select! {
                progress = self.operator.progress() => {
                    self.done.extend(self.operator.go_on(&mut self.rig, progress)?);
                }
                () = sleep_until(began + next) => match coming.next_if(|fault| fault.at == next) {
                    Some(fault) => {
                        let struck = self.strike(fault).await?;
                        under_way.push((fault.at + fault.lasts, fault, struck));
                    }
                    None => {
                        let (_, fault, ids) = under_way.remove(0);
                        self.rig.mend(fault, &ids)?;
                        self.renew(&under_way)?;
                    }
                }
            }
            if self.operator.begin(&mut self.rig).await? {
                self.renew(&under_way)?;
            }
        }
    }

    async fn strike(&mut self, fault: &Fault) -> Result<Vec<NodeId>, Failure> {
        let count = self.report.faults.entry(fault.class).or_default();
        if fault.class == Class::Members {
            *count += 1;
            self.operator.want(fault.roll);
            return Ok(Vec::new());
        }
        let struck = self.rig.strike(fault).await?;
        *count += struck.len() as u64;
        self.done.push(fault.told(&struck));
        Ok(struck)
    }

    /// Faults of links go on, although another one ended, or a server came.
    fn renew(&mut self, under_way: &[(Duration, &Fault, Vec<NodeId>)]) -> Result<(), Failure> {
        under_way.iter().try_for_each(|(_, fault, ids)| self.rig.renew(fault, ids))
    }

    /// Waits until all servers are at rest, and hold the same up to the index that it gives.
    async fn agree(&self) -> Result<LogIndex, Failure> {
        let ids = self.rig.cluster.ids();
        Ok(self.rig.cluster.agree(&ids).await?.applied)
    }

    fn count(&mut self, history: &[Operation]) -> String {
        let mut unknown = 0;
        for operation in history {
            let is_write = !matches!(operation.request, Request::Get { .. } | Request::Scan { .. });
            let name = match &operation.outcome {
                Outcome::Done(_) => {
                    self.report.acknowledged_writes += u64::from(is_write);
                    "done"
                }
                Outcome::Unknown => {
                    unknown += 1;
                    "unknown"
                }
                Outcome::NotApplied => "not applied",
            };
            *self.report.calls.entry(name).or_default() += 1;
        }
        format!("{} calls, {unknown} unknown", history.len())
    }

    /// Reads all keys of a round, and adds that to its history.
    async fn read(&self, prefix: &str, history: &mut Vec<Operation>) -> Result<Records, Failure> {
        let keys: Vec<Bytes> =
            (0..self.settings.keys).map(|key| Bytes::from(format!("{prefix}{key:03}"))).collect();
        let request = Request::Get { keys: keys.clone() };
        let deadline = Instant::now() + READ_TIMEOUT;
        while Instant::now() < deadline {
            let call = now();
            let outcome = ask(&self.client, &request).await;
            let end = Some(now());
            if let Outcome::Done(Response::Got { records, .. }) = &outcome {
                let found = keys.into_iter().zip(records.clone()).collect();
                history.push(Operation { client: 0, call, end, request, outcome });
                return Ok(found);
            }
        }
        Err(Failure::Client(format!("the keys {prefix} cannot be read")))
    }

    async fn check(&mut self, round: u64, history: Vec<Operation>) -> Result<(), Failure> {
        let path = self.settings.folder.join(format!("round-{round}.jsonl"));
        let judged =
            tokio::task::spawn_blocking(move || judge(&history).map_err(|verdict| (verdict, history)));
        match judged.await.map_err(|panic| Failure::Client(panic.to_string()))? {
            Ok(searched) => {
                self.report.searched += u64::from(searched);
                Ok(())
            }
            Err((verdict, history)) => {
                let file = fs::File::create(&path).map_err(refused("keep a history"))?;
                write_history(file, &history).map_err(refused("keep a history"))?;
                Err(Failure::History { verdict, history: path })
            }
        }
    }

    /// Cuts the power of all servers at rest, and compares what is on their disks.
    async fn inspect(&mut self) -> Result<(), Failure> {
        let applied = self.agree().await?;
        self.rig.down()?;
        if let Some(volumes) = &self.rig.volumes {
            let copies = volumes.copies().map_err(refused("copy the disks"))?;
            let data_dirs: Vec<(NodeId, PathBuf)> = copies.dirs().to_vec();
            let compared = tokio::task::spawn_blocking(move || inspect::compare(&data_dirs, applied));
            compared.await.map_err(|panic| Failure::Client(panic.to_string()))?.map_err(Failure::Differs)?;
            self.report.inspections += 1;
        }
        start_all(&mut self.rig).await
    }

    /// Reads what all rounds left once more.
    async fn read_all_again(&mut self) -> Result<(), Failure> {
        for (round, left) in self.left.iter().enumerate() {
            let now = self.read(&format!("{round:06}/"), &mut Vec::new()).await?;
            for (key, was) in left {
                if now[key] != *was {
                    let text = |record: &Option<Record>| format!("{record:?}");
                    let name = String::from_utf8_lossy(key).into_owned();
                    return Err(Failure::Lost { key: name, was: text(was), is: text(&now[key]) });
                }
            }
            self.report.keys_read_again += left.len() as u64;
        }
        Ok(())
    }
}

async fn start_all(rig: &mut Rig) -> Result<(), Failure> {
    rig.calm().await?;
    let ids = rig.cluster.ids();
    rig.cluster.agree(&ids).await?;
    Ok(())
}

/// Waits until a client says that it has reached the servers.
async fn connected(client: &mut Child) -> Result<(), Failure> {
    let Some(out) = &mut client.stdout else { return Ok(()) };
    let mut said = [0; CONNECTED.len()];
    let read = timeout(CLIENT_PATIENCE, out.read_exact(&mut said)).await;
    match read {
        Ok(Ok(_)) => Ok(()),
        _ => Err(Failure::Client("it reaches no server".to_owned())),
    }
}

async fn end(client: Child) -> Result<(), Failure> {
    let output = timeout(CLIENT_PATIENCE, client.wait_with_output()).await;
    let output = output.map_err(|_| Failure::Client("it does not end".to_owned()))?;
    let output = output.map_err(refused("wait for a client"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::Client(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Whether a history was also decided by search; or what is wrong with it.
fn judge(history: &[Operation]) -> Result<bool, String> {
    match check(history, &BOUNDS) {
        Verdict::Linearizable(coverage) => Ok(coverage.is_searched()),
        verdict => Err(verdict.to_string()),
    }
}
