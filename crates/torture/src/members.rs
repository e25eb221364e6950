//! Members that come and go: what an operator does in a round by `raftmap member`, one change after the other. The operator
//! remembers who must be a member, by what the commands said, and holds the servers to it.

use std::cmp::Ordering;
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
use crate::nemesis::pick;
use crate::rig::Rig;

/// How many members there are to be: a change goes towards a number that is drawn of these, or replaces one that is there.
const SIZES: [usize; 8] = [1, 2, 3, 3, 4, 4, 5, 5];

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Add(NodeId),
    Remove(NodeId),
    Replace { gone: NodeId, by: NodeId },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(id) => write!(f, "add {id}"),
            Self::Remove(id) => write!(f, "remove {id}"),
            Self::Replace { gone, by } => write!(f, "replace {gone} by {by}"),
        }
    }
}

impl Change {
    fn comes(self) -> Option<NodeId> {
        match self {
            Self::Add(id) | Self::Replace { by: id, .. } => Some(id),
            Self::Remove(_) => None,
        }
    }

    fn goes(self) -> Option<NodeId> {
        match self {
            Self::Remove(id) | Self::Replace { gone: id, .. } => Some(id),
            Self::Add(_) => None,
        }
    }

    fn past(self) -> &'static str {
        match self {
            Self::Add(_) => "added",
            Self::Remove(_) => "removed",
            Self::Replace { .. } => "replaced",
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

/// A change that is asked for.
#[derive(Debug)]
struct UnderWay {
    change: Change,
    /// The command ends when the server that comes votes; else once it is a learner.
    waits: bool,
    step: Step,
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
    under_way: Option<UnderWay>,
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

    /// Waits for the end of a step of the change that is under way; may be dropped.
    pub(crate) async fn progress(&mut self) -> Progress {
        match self.under_way.as_mut().map(|under_way| &mut under_way.step) {
            Some(Step::Init(task)) => Progress::Init(task.await.unwrap_or_else(|panic| Err(panic.into()))),
            Some(Step::Ask(task)) => Progress::Answer(task.await.unwrap_or_else(|panic| Err(panic.into()))),
            None => std::future::pending().await,
        }
    }

    /// Begins the next change, if none is under way and one is wanted. Tells whether a server comes.
    pub(crate) async fn begin(&mut self, rig: &mut Rig) -> Result<bool, Failure> {
        if self.under_way.is_some() {
            return Ok(false);
        }
        let Some(mut rng) = self.coming.pop() else { return Ok(false) };
        let leader = if rng.bool() { rig.leader().await? } else { None };
        let Some(change) = self.draw(rig.cluster.next_id(), leader, &mut rng) else { return Ok(false) };
        let waits = rng.bool();
        if change.comes().is_none() {
            self.ask(rig, change, waits)?;
            return Ok(false);
        }
        let mut init = Command::from(rig.prepare_join()?);
        init.stdin(Stdio::null()).kill_on_drop(true);
        let step = Step::Init(tokio::spawn(async move { init.output().await }));
        self.under_way = Some(UnderWay { change, waits, step });
        Ok(true)
    }

    /// A change that may be asked for now; `next` is who comes, if somebody does.
    fn draw(&self, next: NodeId, leader: Option<NodeId>, rng: &mut Rng) -> Option<Change> {
        let may_go = self.members.difference(&self.heirs).copied();
        let may_go: Vec<NodeId> = may_go.filter(|_| self.gone.len() < GONE_MAX).collect();
        let goes = leader.filter(|id| may_go.contains(id)).or_else(|| rng.choice(&may_go).copied());
        let size = pick(rng.u64(..), &SIZES);
        match (self.members.len().cmp(&size), goes) {
            (Ordering::Less, _) => Some(Change::Add(next)),
            (Ordering::Equal, Some(gone)) => Some(Change::Replace { gone, by: next }),
            (Ordering::Greater, Some(gone)) => Some(Change::Remove(gone)),
            (_, None) => None,
        }
    }

    /// Goes on with a change after a step of it; tells what there is to say.
    pub(crate) fn go_on(&mut self, rig: &mut Rig, progress: Progress) -> Result<Option<String>, Failure> {
        let Some(UnderWay { change, waits, .. }) = self.under_way.take() else { return Ok(None) };
        match progress {
            Progress::Init(output) => {
                let output = output.map_err(refused("make a data directory"))?;
                if output.status.success() {
                    change.comes().map_or(Ok(()), |id| rig.start_new(id))?;
                    self.ask(rig, change, waits)?;
                    return Ok(None);
                }
                self.end(rig, change, Answer::Refused(why(&output))).map(Some)
            }
            Progress::Answer(answer) => {
                let answer = answer.map_err(refused("run a command"))?;
                self.end(rig, change, answer).map(Some)
            }
        }
    }

    fn ask(&mut self, rig: &mut Rig, change: Change, waits: bool) -> Result<(), Failure> {
        let arguments = arguments(rig, change, waits)?;
        rig.leaving.extend(change.goes());
        let step = Step::Ask(tokio::spawn(ask(self.program.clone(), arguments)));
        self.under_way = Some(UnderWay { change, waits, step });
        Ok(())
    }

    /// Takes note of what became of a change.
    fn end(&mut self, rig: &mut Rig, change: Change, answer: Answer) -> Result<String, Failure> {
        match answer {
            Answer::Done => {
                self.note(change);
                *self.counts.entry(change.past()).or_default() += 1;
                Ok(change.to_string())
            }
            Answer::Refused(why) => {
                if let Some(goes) = change.goes() {
                    rig.leaving.remove(&goes);
                }
                change.comes().map_or(Ok(()), |id| rig.dismiss(id))?;
                *self.counts.entry("refused").or_default() += 1;
                Ok(format!("{change} refused ({why})"))
            }
            Answer::Broken(said) => Err(Failure::Members(format!("{change}: {said}"))),
        }
    }

    /// The members are to be as after this change.
    fn note(&mut self, change: Change) {
        self.members.extend(change.comes());
        if let Some(goes) = change.goes() {
            self.members.remove(&goes);
            self.gone.insert(goes);
            self.heirs.extend(change.comes());
        }
    }

    /// Wants nothing more, and waits for the end of what is under way: all servers run and hear each other.
    pub(crate) async fn finish(&mut self, rig: &mut Rig) -> Result<Vec<String>, Failure> {
        self.coming.clear();
        let mut told = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while let Some(UnderWay { change, .. }) = self.under_way {
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
fn arguments(rig: &Rig, change: Change, waits: bool) -> Result<Vec<String>, LocalClusterError> {
    let place = |id: NodeId| {
        let addresses = rig.cluster.addresses(id)?;
        Ok::<_, LocalClusterError>(format!("{id}={},{}", addresses.peer_address, addresses.client_address))
    };
    let mut arguments = vec!["member".to_owned()];
    match change {
        Change::Add(id) => arguments.extend(["add".to_owned(), place(id)?]),
        Change::Remove(id) => arguments.extend(["remove".to_owned(), id.to_string()]),
        Change::Replace { gone, by } => {
            arguments.extend(["replace".to_owned(), gone.to_string(), place(by)?]);
        }
    }
    if change.comes().is_some() && !waits {
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
            Some(1 | 2) if !may_be_done => return Ok(Answer::Refused(why(&output))),
            Some(1 | 2) => {}
            Some(3) => may_be_done = true,
            _ => return Ok(Answer::Broken(format!("{}: {}", output.status, why(&output)))),
        }
        sleep(PAUSE).await;
    }
}

/// Why a command failed, as it said.
fn why(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.lines().find(|line| line.starts_with("raftmap: ")).or(said.lines().next_back());
    why.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays rounds in which every change is done.
    #[test]
    fn members_are_one_to_five_and_changes_keep_their_limits() {
        let mut rng = Rng::with_seed(7);
        let mut operator = Operator::new(PathBuf::new(), [1, 2, 3].map(NodeId).into());
        let (mut next, mut sizes, mut kinds) = (4, BTreeSet::new(), BTreeSet::new());
        for _ in 0..1_000 {
            let before = operator.members.clone();
            for _ in 0..3 {
                let leader = operator.members.first().copied().filter(|_| rng.bool());
                let Some(change) = operator.draw(NodeId(next), leader, &mut rng) else { continue };
                next += change.comes().iter().len() as u64;
                if let Some(goes) = change.goes() {
                    assert!(operator.members.contains(&goes) && !operator.heirs.contains(&goes), "{change}");
                }
                operator.note(change);
                sizes.insert(operator.members.len());
                kinds.insert(change.past());
            }
            let gone = before.difference(&operator.members).count();
            assert!(gone <= GONE_MAX, "{before:?} {:?}", operator.members);
            operator.heirs.clear();
            operator.gone.clear();
        }
        assert_eq!(sizes, (1..=5).collect());
        assert_eq!(kinds, ["added", "removed", "replaced"].into());
    }
}
