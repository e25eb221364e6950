//! Members that come and go: what an operator does in a round by `raftmap member`, one change after the other. The operator
//! remembers who must be a member, by what the commands said, and holds the servers to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use fastrand::Rng;
use raftmap::local_cluster::{LocalClusterError, OPERATOR};
use raftmap_proto::v1::member::Role;
use raftmap_raft::NodeId;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::error::{Failure, refused};
use crate::rig::Rig;

/// At most so many members: few enough that faults often take the quorum.
const MEMBERS_MAX: usize = 5;

/// At most so many servers go in one round: one that is down meanwhile still knows a member that tells it.
const GONE_MAX: usize = 2;

/// How long one request of a command may take, its retries included.
const REQUEST_TIMEOUT_MS: &str = "5000";

/// How long to wait for what must happen once all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two attempts of a change whose outcome is unknown.
const PAUSE: Duration = Duration::from_millis(200);

const POLL: Duration = Duration::from_millis(50);

/// One change of the members.
#[derive(Clone, Copy, Debug)]
struct Change {
    comes: Option<NodeId>,
    goes: Option<NodeId>,
    /// The command ends when the server that comes votes; else once it is a learner.
    waits: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.comes, self.goes) {
            (Some(comes), Some(goes)) => write!(f, "replace {goes} by {comes}"),
            (Some(comes), None) => write!(f, "add {comes}"),
            (None, Some(goes)) => write!(f, "remove {goes}"),
            (None, None) => f.write_str("nothing"),
        }
    }
}

impl Change {
    fn name(&self) -> &'static str {
        match (self.comes, self.goes) {
            (Some(_), Some(_)) => "replaced",
            (Some(_), None) => "added",
            (None, _) => "removed",
        }
    }
}

/// What became of a change.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    /// Certainly nothing, and why.
    Refused(String),
    /// The command did not end as it may.
    Broken(String),
}

/// What is awaited of a change.
#[derive(Debug)]
enum Step {
    /// That there is a data directory.
    Init(JoinHandle<io::Result<Output>>),
    /// An answer of the cluster.
    Ask(JoinHandle<io::Result<Answer>>),
}

/// The end of a step.
#[derive(Debug)]
pub(crate) enum Progress {
    Init(io::Result<Output>),
    Answer(io::Result<Answer>),
}

/// Who changes the members.
#[derive(Debug)]
pub(crate) struct Operator {
    /// The `raftmap` binary.
    program: PathBuf,
    /// Who is to be a member.
    members: BTreeSet<NodeId>,
    /// Those that came in the place of another one in this round: if they went at once, it would be open whether that one goes.
    heirs: BTreeSet<NodeId>,
    /// Those that went in this round.
    gone: BTreeSet<NodeId>,
    /// Changes to come; each is drawn when its turn has come.
    coming: Vec<Rng>,
    under_way: Option<(Change, Step)>,
    /// What became of all changes.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Operator {
    pub(crate) fn new(program: PathBuf, members: BTreeSet<NodeId>) -> Self {
        let (heirs, gone) = (BTreeSet::new(), BTreeSet::new());
        Self { program, members, heirs, gone, coming: Vec::new(), under_way: None, counts: BTreeMap::new() }
    }

    /// Wants some changes, which `roll` stands for.
    pub(crate) fn want(&mut self, roll: u64) {
        let mut rng = Rng::with_seed(roll);
        for _ in 0..rng.u32(1..=3) {
            self.coming.push(rng.fork());
        }
    }

    /// Whether there is something to wait for.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Waits for the end of a step of the change that is under way; may be dropped.
    pub(crate) async fn progress(&mut self) -> Progress {
        match &mut self.under_way {
            Some((_, Step::Init(task))) => Progress::Init(task.await.unwrap_or_else(|e| Err(e.into()))),
            Some((_, Step::Ask(task))) => Progress::Answer(task.await.unwrap_or_else(|e| Err(e.into()))),
            None => std::future::pending().await,
        }
    }

    /// Begins the next change, if none is under way and one is wanted. Tells whether a server comes.
    pub(crate) async fn begin(&mut self, rig: &mut Rig) -> Result<bool, Failure> {
        if self.is_busy() {
            return Ok(false);
        }
        let Some(mut rng) = self.coming.pop() else { return Ok(false) };
        let leader = if rng.bool() { rig.leader().await? } else { None };
        let Some(mut change) = self.draw(leader, &mut rng) else { return Ok(false) };
        if change.comes.is_none() {
            self.ask(rig, change)?;
            return Ok(false);
        }
        let (id, init) = rig.prepare_join()?;
        change.comes = Some(id);
        let mut init = Command::from(init);
        init.stdin(Stdio::null()).kill_on_drop(true);
        self.under_way = Some((change, Step::Init(tokio::spawn(async move { init.output().await }))));
        Ok(true)
    }

    /// A change that may be asked for now; who comes has no id yet.
    fn draw(&self, leader: Option<NodeId>, rng: &mut Rng) -> Option<Change> {
        let may_go = self.members.difference(&self.heirs).copied();
        let may_go: Vec<NodeId> = may_go.filter(|_| self.gone.len() < GONE_MAX).collect();
        let goes = leader.filter(|id| may_go.contains(id)).or(rng.choice(&may_go).copied());
        let (comes, waits) = (Some(NodeId::default()), rng.bool());
        let remove = Change { comes: None, goes, waits };
        let replace = Change { comes, goes, waits };
        let add = Change { comes, goes: None, waits };
        match rng.u32(..3) {
            0 if goes.is_some() && self.members.len() > 1 => Some(remove),
            1 if goes.is_some() => Some(replace),
            _ if self.members.len() < MEMBERS_MAX => Some(add),
            _ => goes.map(|_| remove),
        }
    }

    /// Goes on with a change after a step of it; tells what there is to say.
    pub(crate) fn go_on(&mut self, rig: &mut Rig, progress: Progress) -> Result<Option<String>, Failure> {
        let Some((change, _)) = self.under_way.take() else { return Ok(None) };
        match progress {
            Progress::Init(output) => {
                let output = output.map_err(refused("make a data directory"))?;
                if output.status.success() {
                    change.comes.map_or(Ok(()), |id| rig.start_new(id))?;
                    self.ask(rig, change)?;
                    return Ok(None);
                }
                self.end(rig, change, Answer::Refused(last_line(&output))).map(Some)
            }
            Progress::Answer(answer) => {
                let answer = answer.map_err(refused("run a command"))?;
                self.end(rig, change, answer).map(Some)
            }
        }
    }

    fn ask(&mut self, rig: &mut Rig, change: Change) -> Result<(), Failure> {
        let arguments = arguments(rig, change)?;
        rig.leaving.extend(change.goes);
        let task = tokio::spawn(ask(self.program.clone(), arguments));
        self.under_way = Some((change, Step::Ask(task)));
        Ok(())
    }

    /// Takes note of what became of a change.
    fn end(&mut self, rig: &mut Rig, change: Change, answer: Answer) -> Result<String, Failure> {
        match answer {
            Answer::Done => {
                self.members.extend(change.comes);
                if let Some(goes) = change.goes {
                    self.members.remove(&goes);
                    self.gone.insert(goes);
                    self.heirs.extend(change.comes);
                }
                *self.counts.entry(change.name()).or_default() += 1;
                Ok(change.to_string())
            }
            Answer::Refused(why) => {
                change.goes.inspect(|goes| _ = rig.leaving.remove(goes));
                change.comes.map_or(Ok(()), |id| rig.dismiss(id))?;
                *self.counts.entry("refused").or_default() += 1;
                Ok(format!("{change} refused ({why})"))
            }
            Answer::Broken(said) => Err(Failure::Members(format!("{change}: {said}"))),
        }
    }

    /// Wants nothing more, and waits for the end of what is under way: all servers run and hear each other.
    pub(crate) async fn finish(&mut self, rig: &mut Rig) -> Result<Vec<String>, Failure> {
        self.coming.clear();
        let mut told = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while let Some((change, _)) = self.under_way {
            let left = deadline.saturating_duration_since(Instant::now());
            let progress = timeout(left, self.progress()).await;
            let progress = progress.map_err(|_| {
                Failure::Members(format!("{change}: no end after {} s without a fault", PATIENCE.as_secs()))
            })?;
            told.extend(self.go_on(rig, progress)?);
        }
        Ok(told)
    }

    /// Waits until every server says that the members are those that they must be, all of them voters, and until those that went have
    /// ended.
    pub(crate) async fn settle(&mut self, rig: &mut Rig) -> Result<(), Failure> {
        let wanted: Vec<(NodeId, bool)> = self.members.iter().map(|id| (*id, true)).collect();
        let deadline = Instant::now() + PATIENCE;
        for id in &self.members {
            loop {
                let seen = voters_seen_by(rig, *id).await;
                if seen.as_ref().is_ok_and(|seen| *seen == wanted) {
                    break;
                }
                if Instant::now() >= deadline {
                    let text = format!("the voters must be {:?}, server {id} says: {seen:?}", self.members);
                    return Err(Failure::Members(text));
                }
                sleep(POLL).await;
            }
        }
        for id in std::mem::take(&mut self.gone) {
            rig.see_off(id).await?;
        }
        self.heirs.clear();
        Ok(())
    }
}

/// The members as a server sees them, and whether they vote.
async fn voters_seen_by(rig: &Rig, id: NodeId) -> Result<Vec<(NodeId, bool)>, String> {
    let client = rig.cluster.client_of(id).await.map_err(|error| error.to_string())?;
    let members = client.members().await.map_err(|error| error.to_string())?.members;
    Ok(members.iter().map(|member| (NodeId(member.id), member.role == Role::VOTER)).collect())
}

/// Of `raftmap member`, for a change.
fn arguments(rig: &Rig, change: Change) -> Result<Vec<String>, LocalClusterError> {
    let place = |id: NodeId| {
        let addresses = rig.cluster.addresses(id)?;
        Ok::<_, LocalClusterError>(format!("{id}={},{}", addresses.peer_address, addresses.client_address))
    };
    let mut arguments = vec!["member".to_owned()];
    match (change.comes, change.goes) {
        (Some(comes), Some(goes)) => {
            arguments.extend(["replace".to_owned(), goes.to_string(), place(comes)?]);
        }
        (Some(comes), None) => arguments.extend(["add".to_owned(), place(comes)?]),
        (None, goes) => {
            arguments.extend(["remove".to_owned(), goes.unwrap_or_default().to_string()]);
        }
    }
    if change.comes.is_some() && !change.waits {
        arguments.push("--no-wait".to_owned());
    }
    let certs = rig.cluster.certs_dir().display().to_string();
    let options = [
        ("--as", OPERATOR.to_owned()),
        ("--certs", certs),
        ("--endpoints", rig.cluster.endpoints().join(",")),
        ("--timeout-ms", REQUEST_TIMEOUT_MS.to_owned()),
    ];
    arguments.extend(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    Ok(arguments)
}

/// Asks for a change until it is clear what became of it, as an operator would: exit codes are in `raftmap member --help`.
async fn ask(program: PathBuf, arguments: Vec<String>) -> io::Result<Answer> {
    let mut may_be_done = false;
    loop {
        let mut command = Command::new(&program);
        command.args(&arguments).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await?;
        match output.status.code() {
            Some(0) => return Ok(Answer::Done),
            Some(1 | 2) if !may_be_done => return Ok(Answer::Refused(last_line(&output))),
            Some(1 | 2) => {}
            Some(3) => may_be_done = true,
            _ => return Ok(Answer::Broken(format!("{}: {}", output.status, last_line(&output)))),
        }
        sleep(PAUSE).await;
    }
}

/// What a command said why it failed.
fn last_line(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.lines().find(|line| line.starts_with("raftmap: ")).or(said.lines().next_back());
    why.unwrap_or_default().to_owned()
}
