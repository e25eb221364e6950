//! `raftmap demo`.

mod input;
mod live;
mod load;
mod tally;

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use futures::stream::{self, StreamExt};
use raftmap::local_cluster::{CLIENT, LocalCluster, LocalPlan};
use raftmap::survey;
use raftmap_client::Client;
use raftmap_raft::NodeId;
use tokio::signal::unix::{SignalKind, signal};

use self::input::Line;
use self::tally::Tally;
use super::connect::block_on_all_cores;
use super::exit::{self, Failure};
use super::live::terminal::Terminal;
use super::output;

const EXAMPLES: &str = "\
Examples:
    raftmap demo
  The same story without keys, line by line, as it is told where there is no terminal:
    raftmap demo --plain
  With lines of your own:
    raftmap demo --input /usr/share/dict/words";

/// Show it: three servers on this machine, killed, paused and cut off while writes go on
///
/// Makes certificates and data in a folder of the current directory, and starts three server processes on free ports of the
/// loopback interface. On a terminal it writes lines without an end, reads them back, and shows the servers; keys kill, pause, stall, cut
/// off and revive them, and add more. Without one, or with --plain, it writes every line of the input once, kills the leader with
/// SIGKILL half-way, starts it again later, and reads everything back. Ends with code 1 if anything that was acknowledged is
/// lost or wrong.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Demo {
    /// The lines to write [default: 10,000 lines that the program carries]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Tell the story line by line, also on a terminal
    #[arg(long)]
    plain: bool,

    /// Tell the story on standard error, and what was lost as JSON
    #[arg(long)]
    json: bool,

    /// Writes a second, on a terminal
    #[arg(long, value_name = "PER_SECOND", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,

    /// Where to keep certificates, data and logs; that of an earlier demo is replaced
    #[arg(long, value_name = "DIR", default_value = "raftmap-demo")]
    folder: PathBuf,

    /// Writes in flight at once
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    writers: u16,
}

/// Tells a folder that the demo may replace.
const MARKER: &str = "made-by-raftmap-demo";

/// Longer than any election takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Keys of one read.
const READ_KEYS: usize = 256;
/// Values of one read, in bytes, if there is more than one.
const READ_BYTES: usize = 1 << 20;

const SURVEY_TIMEOUT: Duration = Duration::from_secs(1);

/// While nothing else happens.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

const POLL: Duration = Duration::from_millis(50);

impl Demo {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let lines = match &self.input {
            Some(path) => input::of_file(path)?,
            None => input::of_words(),
        };
        block_on_all_cores(async {
            let failed = |error| Failure::Failed(format!("no signals: {error}"));
            let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
            let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
            let shown = async {
                match !self.plain && !self.json && Terminal::is_there() {
                    true => live::run(&self, self.plan()?, lines).await,
                    false => self.tell(&lines).await,
                }
            };
            // What loses is dropped, and with it all servers, and the view on the terminal.
            tokio::select! {
                shown = shown => shown,
                _ = terminate.recv() => Err(Failure::Interrupted),
                _ = interrupt.recv() => Err(Failure::Interrupted),
                _ = hangup.recv() => Err(Failure::Interrupted),
            }
        })
    }

    async fn tell(&self, lines: &[Line]) -> Result<(), Failure> {
        let story = Story::new(self.json);
        let mut cluster = self.plan()?.found()?;
        let folder = self.folder.display();
        story.line(&format!("certificates and three data directories are in {folder}"))?;
        cluster.start_all().await?;
        story.line(&started(&mut cluster)?)?;
        let leader = cluster.leader().await?;
        story.line(&format!("server {leader} is elected leader"))?;

        let client =
            Client::builder(cluster.endpoints(), cluster.tls(CLIENT)?).timeout(TIMEOUT).connect().await?;
        let (tally, killed) = self.write(&story, &mut cluster, &client, lines).await?;
        cluster.wait_ready(killed).await?;
        story.line(&caught_up(&cluster, killed).await?)?;
        let tally = read_back(&client, lines, tally).await?;
        story.line(&format!("all {} lines are read back", lines.len()))?;
        cluster.stop_all().await?;
        story.line(&format!("the servers have ended; what they said is in {folder}/server-*/server.log"))?;
        conclude(&tally, self.json)
    }

    /// Three servers in a folder that is empty but for the marker.
    fn plan(&self) -> Result<LocalPlan, Failure> {
        make_folder(&self.folder)?;
        let program = std::env::current_exe()
            .map_err(|error| Failure::Failed(format!("this program does not know where it is: {error}")))?;
        let mut plan = LocalPlan::new(program, &self.folder, 3)
            .map_err(|error| Failure::Failed(format!("no ports: {error}")))?;
        plan.cluster = "demo".parse().map_err(|error| Failure::Failed(format!("{error}")))?;
        Ok(plan)
    }

    /// Writes all lines while the plot goes on. Says which server was killed and started again.
    async fn write(
        &self,
        story: &Story,
        cluster: &mut LocalCluster,
        client: &Client,
        lines: &[Line],
    ) -> Result<(Tally, NodeId), Failure> {
        story.line(&format!("writing {} lines, {} at a time", lines.len(), self.writers))?;
        let mut plot = Plot::new(lines.len());
        let mut tally = Tally::new(lines.len());
        // Tasks of their own, so that acknowledgements have their true times whatever happens here.
        let writes = lines
            .iter()
            .enumerate()
            .map(|(place, line)| tokio::spawn(write(client.clone(), place, line.clone())));
        let mut writes = stream::iter(writes).buffer_unordered(usize::from(self.writers));
        while let Some(written) = writes.next().await {
            match written.map_err(|error| Failure::Failed(format!("a writer failed: {error}")))? {
                (place, Ok(at)) => tally.ack(place, at),
                (_, Err(reason)) => tally.refused.push(reason),
            }
            story.progress(|| format!("{} lines are acknowledged", tally.acked()))?;
            plot.go_on(tally.acked(), story, cluster).await?;
        }
        story.line(&format!("{} of {} lines are acknowledged", tally.acked(), lines.len()))?;
        match plot {
            Plot { killed: Some(server), revived: true, .. } => Ok((tally, server)),
            _ => Err(Failure::Failed(format!(
                "only {} lines were acknowledged: {}",
                tally.acked(),
                tally.refused.first().map_or("no reason is known", String::as_str)
            ))),
        }
    }
}

/// What happens to the servers, and after how many acknowledgements.
struct Plot {
    half: usize,
    three_quarters: usize,
    killed: Option<NodeId>,
    revived: bool,
}

impl Plot {
    fn new(lines: usize) -> Self {
        Self { half: lines / 2, three_quarters: lines * 3 / 4, killed: None, revived: false }
    }

    async fn go_on(
        &mut self,
        acked: usize,
        story: &Story,
        cluster: &mut LocalCluster,
    ) -> Result<(), Failure> {
        match self.killed {
            None if acked >= self.half => {
                let leader = cluster.leader().await?;
                cluster.kill(leader)?;
                self.killed = Some(leader);
                story.line(&format!(
                    "{acked} lines are acknowledged: the leader, server {leader}, is killed (SIGKILL)"
                ))
            }
            Some(server) if acked >= self.three_quarters && !self.revived => {
                cluster.spawn(server, |_| {})?;
                self.revived = true;
                story.line(&format!("{acked} lines are acknowledged: server {server} starts again"))
            }
            _ => Ok(()),
        }
    }
}

/// Prints what happens, with the time since the beginning.
struct Story {
    on_stderr: bool,
    began: Instant,
    last_line: Cell<Instant>,
}

impl Story {
    fn new(on_stderr: bool) -> Self {
        let now = Instant::now();
        Self { on_stderr, began: now, last_line: Cell::new(now) }
    }

    /// A line that stands for many: not too often.
    fn progress(&self, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.last_line.get().elapsed() < PROGRESS_INTERVAL { Ok(()) } else { self.line(&text()) }
    }

    fn line(&self, text: &str) -> Result<(), Failure> {
        self.last_line.set(Instant::now());
        let line = format!("[{:6.2} s] {text}", self.began.elapsed().as_secs_f64());
        if !self.on_stderr {
            return output::line(&line);
        }
        eprintln!("{line}");
        Ok(())
    }
}

/// An empty folder with the marker in it. What is there is replaced only if the demo made it.
fn make_folder(folder: &Path) -> Result<(), Failure> {
    let failed = |operation: &'static str| move |error: io::Error| Failure::io(operation, folder, &error);
    if folder.join(MARKER).is_file() {
        fs::remove_dir_all(folder).map_err(failed("remove"))?;
    } else if folder.exists() {
        return Err(Failure::Failed(format!(
            "{} is there and was not made by the demo: choose another --folder, or remove it",
            folder.display()
        )));
    }
    fs::create_dir_all(folder).map_err(failed("create"))?;
    let text = "This folder was made by `raftmap demo`, and the next demo replaces it.\n";
    fs::write(folder.join(MARKER), text).map_err(failed("write to"))
}

fn started(cluster: &mut LocalCluster) -> Result<String, Failure> {
    let mut servers = Vec::new();
    for (id, endpoint) in cluster.ids().into_iter().zip(cluster.endpoints()) {
        servers.push(format!("server {id} is process {} at {endpoint}", cluster.pid(id)?));
    }
    Ok(servers.join(", "))
}

/// Writes one line, and says when it was acknowledged.
async fn write(client: Client, place: usize, line: Line) -> (usize, Result<Instant, String>) {
    let written = client.put(line.key, line.value).await;
    (place, written.map(|_| Instant::now()).map_err(|error| error.to_string()))
}

/// Waits until all servers have applied the same entries, and compares what came of them.
async fn caught_up(cluster: &LocalCluster, server: NodeId) -> Result<String, Failure> {
    let security = cluster.tls(CLIENT)?.into();
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        let view = survey::ask(&cluster.endpoints(), &security, SURVEY_TIMEOUT).await;
        let states: Vec<_> = view.members.iter().filter_map(|member| member.own.as_ref()).collect();
        let applied: Vec<u64> = states.iter().map(|state| state.applied_index).collect();
        if states.len() == cluster.ids().len() && applied.iter().all(|index| *index == applied[0]) {
            if states.iter().any(|state| state.running_digest != states[0].running_digest) {
                return Err(Failure::Failed(format!("the servers differ at entry {}", applied[0])));
            }
            return Ok(format!(
                "server {server} has caught up: all three have applied the same {} entries, to the same state",
                applied[0]
            ));
        }
        tokio::time::sleep(POLL).await;
    }
    Err(Failure::Failed(format!("server {server} has not caught up after {} s", TIMEOUT.as_secs())))
}

async fn read_back(client: &Client, lines: &[Line], mut tally: Tally) -> Result<Tally, Failure> {
    let mut place = 0;
    while place < lines.len() {
        let mut bytes = 0;
        let fits = |line: &&Line| {
            bytes += line.value.len();
            bytes <= READ_BYTES
        };
        let count = lines[place..].iter().take(READ_KEYS).take_while(fits).count().max(1);
        let some = &lines[place..place + count];
        let values =
            client.get_many(some.iter().map(|line| line.key.clone())).await.map_err(Failure::of_read)?;
        for (line, entry) in some.iter().zip(values.entries) {
            tally.check(place, &line.value, entry.as_ref().map(|entry| &entry.value));
            place += 1;
        }
    }
    Ok(tally)
}

fn conclude(tally: &Tally, as_json: bool) -> Result<(), Failure> {
    if as_json {
        output::json(&tally.json())?;
    } else {
        if tally.wrong() > 0 {
            output::line(&format!("{} lines came back with another content", tally.wrong()))?;
        }
        if let Some(reason) = tally.refused.first() {
            let count = tally.refused.len();
            output::line(&format!("{count} lines were not acknowledged; the first: {reason}"))?;
        }
        output::line(&tally.summary())?;
    }
    if tally.is_whole() {
        return Ok(());
    }
    Err(Failure::Failed("not everything was acknowledged and came back".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_of_the_demo_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("demo");
        make_folder(&folder).unwrap();
        fs::write(folder.join("old"), "").unwrap();
        make_folder(&folder).unwrap();
        assert!(!folder.join("old").exists() && folder.join(MARKER).is_file());

        let foreign = root.path().join("thesis");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("chapter-1"), "").unwrap();
        assert!(make_folder(&foreign).is_err());
        assert!(foreign.join("chapter-1").exists());
    }
}
