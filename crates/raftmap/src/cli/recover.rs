//! `raftmap recover`.

use std::env;
use std::io::{BufRead, IsTerminal, Write, stderr, stdin};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use raftmap::backup::OutFile;
use raftmap::stopped::{RecoverError, Survivor, Survivors};
use raftmap_raft::{LogPosition, Membership, NodeId};
use serde_json::{Value, json};

use super::backup::{progress_bar, report};
use super::exit::{self, Failure};
use super::output;

const EXAMPLES: &str = "\
Examples:
  A majority of the servers is lost for ever. What do those that are left hold?
    raftmap recover data-2 data-3
  Save what the one with the most complete log holds, and never start it again:
    raftmap recover data-2 --out shop.backup
  Then make a new cluster of it, with a name of its own:
    raftmap restore shop.backup --cluster shop-2 ...";

/// For a lost majority: show what the stopped servers that are left hold, and save it
///
/// Without --out nothing is changed: it shows what each directory holds, which of them has the most complete log, and what may be
/// lost. With --out everything that the server of one directory holds is written to a backup file, its last entries included,
/// which may never have been committed; then the directory is fenced: no server starts on it any more. `raftmap restore` makes a
/// new cluster of the file. If a majority of the old servers can still come back, start them instead.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Recover {
    /// Data directories of stopped servers of one cluster
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,

    /// Write what the server of the one directory holds to this file, and fence the directory
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Replace the file if it is there
    #[arg(long, requires = "out")]
    force: bool,

    /// Ask nothing
    #[arg(long, requires = "out")]
    yes: bool,

    /// The same as JSON
    #[arg(long)]
    json: bool,
}

impl Recover {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.out.clone() {
            None => self.show(),
            Some(out) => self.save(&out),
        }
    }

    fn show(&self) -> Result<(), Failure> {
        let scratch = env::temp_dir();
        let look = |dir: &PathBuf| Survivor::look(dir, &scratch).map_err(super::check::failure);
        let survivors = Survivors(self.dirs.iter().map(look).collect::<Result<_, _>>()?);
        check_set(&survivors.0)?;
        match self.json {
            true => output::json(&as_json(&survivors)),
            false => output::line(text(&survivors).trim_end()),
        }
    }

    fn save(&self, out: &Path) -> Result<(), Failure> {
        let [dir] = &self.dirs[..] else {
            let message = "with --out name one directory: the one with the most complete log, as `raftmap recover DIR...` shows it";
            return Err(Failure::Usage(message.to_owned()));
        };
        let began = Instant::now();
        let file = OutFile::create(out, self.force)?;
        // On the disk that has room for the file, there is room for a shadow that all of the log is applied to.
        let scratch = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let survivor = Survivor::look(dir, scratch).map_err(super::check::failure)?;
        if !self.yes {
            confirm(&survivor, out)?;
        }
        let bar = progress_bar(0, "written");
        let summary = survivor.write_backup(file, |bytes| bar.inc(bytes)).map_err(failure)?;
        bar.finish_and_clear();
        report(out, &summary, began.elapsed().as_secs_f64(), self.json)?;
        if !self.json {
            output::line(&format!(
                "{} is fenced: no server starts on it any more\nnext: raftmap restore {} --cluster NEWNAME ...",
                dir.display(),
                out.display()
            ))?;
        }
        Ok(())
    }
}

fn failure(error: RecoverError) -> Failure {
    match error {
        RecoverError::Stopped(error) => super::check::failure(error),
        RecoverError::Nothing { .. } => Failure::Damaged(error.to_string()),
        error => Failure::Failed(error.to_string()),
    }
}

/// They must be different servers of one cluster.
fn check_set(survivors: &[Survivor]) -> Result<(), Failure> {
    for (place, survivor) in survivors.iter().enumerate() {
        for other in &survivors[..place] {
            let (one, two) = (survivor.dir().display(), other.dir().display());
            if survivor.cluster() != other.cluster() {
                return Err(Failure::Usage(format!("{two} and {one} are of two clusters")));
            }
            if survivor.node() == other.node() {
                let id = survivor.node();
                return Err(Failure::Usage(format!("{two} and {one} are both of server {id}")));
            }
        }
    }
    Ok(())
}

fn confirm(survivor: &Survivor, out: &Path) -> Result<(), Failure> {
    let unconfirmed = |message: &str| Failure::Usage(format!("{message}; nothing was done"));
    if !stdin().is_terminal() {
        return Err(unconfirmed("this needs a confirmation: --yes, where nobody can be asked"));
    }
    let held = survivor.reaches.map_or_else(|| "nothing".to_owned(), |reaches| position(Some(reaches)));
    let ask = format!(
        "Server {} holds everything up to {held}.\nWrite it to {}, and never start the server on {} again? Type yes: ",
        survivor.node(),
        out.display(),
        survivor.dir().display()
    );
    let (mut err, mut answer) = (stderr().lock(), String::new());
    let asked =
        write!(err, "{ask}").and_then(|()| err.flush()).and_then(|()| stdin().lock().read_line(&mut answer));
    match asked {
        Ok(_) if answer.trim() == "yes" => Ok(()),
        _ => Err(unconfirmed("not confirmed")),
    }
}

fn position(position: Option<LogPosition>) -> String {
    position.map_or_else(|| "unknown".to_owned(), |at| format!("index {} (term {})", at.index, at.term))
}

fn ids(ids: impl IntoIterator<Item = NodeId>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    ids.join(", ")
}

fn members(members: &Membership) -> String {
    let mut text = format!("voters {}", ids(members.voters.iter().copied()));
    if members.is_joint() {
        text.push_str(&format!(
            "; before the change that is under way {}",
            ids(members.voters_outgoing.iter().copied())
        ));
    }
    if !members.learners.is_empty() {
        text.push_str(&format!("; learners {}", ids(members.learners.iter().copied())));
    }
    text
}

fn text(survivors: &Survivors) -> String {
    let mut text = String::new();
    for survivor in &survivors.0 {
        let term = survivor.term.map_or_else(
            || "unknown".to_owned(),
            |(term, vote)| {
                vote.map_or(format!("{term}, no vote"), |vote| format!("{term}, vote for server {vote}"))
            },
        );
        text.push_str(&format!(
            "{}: server {} of cluster {:032x}\n  term           {term}\n  log            {}\n  state machine  {}\n  can be saved   {}\n  members        {}\n",
            survivor.dir().display(),
            survivor.node(),
            survivor.cluster(),
            survivor.log.map_or_else(
                || "unreadable".to_owned(),
                |(first, last)| format!("from index {first} to {}", position(Some(last)))
            ),
            position(survivor.applied),
            survivor.reaches.map_or_else(|| "nothing".to_owned(), |reaches| format!("up to {}", position(Some(reaches)))),
            members(&survivor.members),
        ));
        let fenced = survivor.fenced().map(|reason| format!("fenced: {reason}"));
        for note in survivor.wrong.iter().cloned().chain(fenced) {
            text.push_str(&format!("  note           {note}\n"));
        }
    }
    text.push('\n');
    text.push_str(&verdict(survivors));
    text
}

/// What to do, and what that may cost.
fn verdict(survivors: &Survivors) -> String {
    let missing = survivors.missing();
    if survivors.can_go_on() {
        return "A majority of the voters is here and whole: start these servers, and nothing is lost. Do not recover.".to_owned();
    }
    let Some(best) = survivors.best() else {
        return "None of these directories holds a state machine that can be read: nothing can be saved from them.".to_owned();
    };
    let (node, dir) = (best.node(), best.dir().display());
    let reaches = position(best.reaches);
    let lost = if survivors.may_have_lost() {
        format!(
            "What may be lost: servers {} are not here, or not whole, and they are a majority. Whatever they acknowledged without \
             any of the servers above, behind {reaches}, is on none of them. How much that is nobody can tell from here: look for \
             those disks first.",
            ids(missing)
        )
    } else {
        "Nothing that was acknowledged is lost: the servers that are missing were not enough to acknowledge anything without one \
         of those above."
            .to_owned()
    };
    format!(
        "Server {node} has the most complete log.\n{lost}\nWhat may be there without ever having been acknowledged: the last \
         writes in its log, whose clients had no answer.\nTo save what it holds: raftmap recover {dir} --out FILE"
    )
}

fn as_json(survivors: &Survivors) -> Value {
    let at =
        |position: Option<LogPosition>| position.map(|at| json!({ "index": at.index.0, "term": at.term.0 }));
    let all = |ids: &std::collections::BTreeSet<NodeId>| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let survivor = |survivor: &Survivor| {
        json!({
            "dir": survivor.dir(),
            "server": survivor.node().0,
            "cluster": format!("{:032x}", survivor.cluster()),
            "term": survivor.term.map(|(term, _)| term.0),
            "vote": survivor.term.and_then(|(_, vote)| vote).map(|vote| vote.0),
            "first_log_index": survivor.log.map(|(first, _)| first.0),
            "last_log": at(survivor.log.map(|(_, last)| last)),
            "applied": at(survivor.applied),
            "reaches": at(survivor.reaches),
            "voters": all(&survivor.members.voters),
            "voters_outgoing": all(&survivor.members.voters_outgoing),
            "learners": all(&survivor.members.learners),
            "fenced": survivor.fenced(),
            "wrong": survivor.wrong,
        })
    };
    json!({
        "survivors": survivors.0.iter().map(survivor).collect::<Vec<_>>(),
        "best": survivors.best().map(|best| best.node().0),
        "missing": survivors.missing().iter().map(|id| id.0).collect::<Vec<_>>(),
        "majority_is_here": survivors.can_go_on(),
        "may_have_lost": survivors.may_have_lost(),
    })
}
