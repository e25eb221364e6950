//! What is left when a majority is lost.

use std::path::Path;

use raftmap_log::{LogEnd, LogError, LogOptions, RealDisk, fence};
use raftmap_raft::{LogIndex, LogPosition, Membership, NodeId, Term};
use raftmap_state::{Discarded, DiskEngine, DiskOptions, SnapshotError, StateError, StateMachine};

use super::{NoState, Stopped, StoppedError};
use crate::backup::{BackupHeader, BackupParts, BackupReader, BackupSummary, Origin, OutFile, OutFileError};
use crate::causes::causes;

/// How much of a log is applied at a time, in bytes.
const APPLIED_BYTES: usize = 1 << 20;

/// What a server holds that does not run.
pub struct Survivor {
    stopped: Stopped,
    /// Term and vote, unless they are lost.
    pub term: Option<(Term, Option<NodeId>)>,
    /// Where the log begins, and its last entry that can be read; `None`: nothing of it can.
    pub log: Option<(LogIndex, LogPosition)>,
    /// The last entry that the state machine on disk has applied; `None`: it cannot be read.
    pub applied: Option<LogPosition>,
    /// How far what can be saved goes: the state machine with all of the log that follows it applied. `None`: nothing can be.
    pub reaches: Option<LogPosition>,
    /// The members that are in force by its log.
    pub members: Membership,
    /// What is not as it should be, in words.
    pub wrong: Vec<String>,
}

/// Why nothing was saved.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The directory cannot be looked at.
    #[error(transparent)]
    Stopped(#[from] StoppedError),
    /// Its state machine cannot be read.
    #[error("server {node} holds nothing that can be saved: {reason}")]
    Nothing {
        /// Which.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// An entry of its log cannot be read.
    #[error("the log: {0}")]
    Log(#[from] LogError),
    /// An entry of its log cannot be applied.
    #[error("the state machine: {0}")]
    State(#[from] StateError),
    /// The state machine cannot be written down.
    #[error("the state machine: {0}")]
    Snapshot(#[from] SnapshotError),
    /// What was written is not what was to be written.
    #[error("the file was written wrong: {0}")]
    Written(#[from] crate::backup::BackupError),
    /// The file cannot be written.
    #[error(transparent)]
    Out(#[from] OutFileError),
}

impl Survivor {
    /// Looks at the data directory at `dir`, and changes nothing there. The shadow of its state machine is made in `scratch`.
    ///
    /// # Errors
    /// If it is no data directory, a server runs on it, or there is no room for the shadow.
    pub fn look(dir: &Path, scratch: &Path) -> Result<Self, StoppedError> {
        let stopped = Stopped::open(dir, scratch)?;
        let examination = &stopped.examination;
        let mut wrong = Vec::new();
        let term = match &examination.hard_state {
            Ok(examined) => {
                if examined.hard_state.damaged {
                    wrong.push(
                        "its log was damaged before, and a leader has not sent again what it lost".to_owned(),
                    );
                }
                Some((examined.hard_state.term, examined.hard_state.vote))
            }
            Err(error) => {
                wrong.push(error.to_string());
                None
            }
        };
        let founders = examination.identity.founding_members().iter().map(|member| member.node);
        let mut members = Membership::of_voters(founders);
        let log = match &examination.log {
            Ok(log) => {
                if let LogEnd::Damaged(damage) = &log.end {
                    wrong.push(damage.to_string());
                }
                let base = log.base.as_ref().map(|base| &base.membership);
                let newest = log.memberships.last().map(|(_, newest)| newest).or(base);
                members = newest.cloned().unwrap_or(members);
                Some((log.base.as_ref().map_or(LogIndex(0), |base| base.position.index).next(), log.last))
            }
            Err(error) => {
                wrong.push(causes(error));
                None
            }
        };
        let applied = match stopped.state_and_files() {
            Ok((machine, mut files)) => {
                // What rows can be read is seen when they are.
                wrong.extend(files.advance(u64::MAX).err().map(|error| causes(&error)));
                Some(machine.applied())
            }
            // Nothing was made durable yet: all is in the log.
            Err(NoState::Missing(_)) if log.is_some_and(|(first, _)| first == LogIndex(1)) => {
                Some(LogPosition::default())
            }
            Err(error) => {
                wrong.push(causes(&error));
                None
            }
        };
        let mut survivor = Self { stopped, term, log, applied, reaches: None, members, wrong };
        survivor.reaches = survivor.reach();
        Ok(survivor)
    }

    /// How far the state machine comes with the log.
    fn reach(&mut self) -> Option<LogPosition> {
        let applied = self.applied?;
        if let Some(misfit) = self.stopped.misfit(applied) {
            self.wrong.push(misfit);
            return Some(applied).filter(|applied| applied.index > LogIndex(0));
        }
        Some(self.log.map_or(applied, |(_, last)| last)).filter(|reaches| reaches.index > LogIndex(0))
    }

    /// The state machine as it is on disk, or an empty one where all is in the log.
    fn machine(&self) -> Result<StateMachine<DiskEngine>, NoState> {
        match self.stopped.state() {
            Err(NoState::Missing(_)) if self.applied == Some(LogPosition::default()) => {
                let empty = self.stopped.scratch.path().join("empty");
                let engine = DiskEngine::open(&empty, DiskOptions::default())?;
                Ok(StateMachine::open(engine, LogOptions::default().group)?)
            }
            state => state,
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.stopped.dir
    }

    /// The server.
    pub fn node(&self) -> NodeId {
        self.stopped.examination.identity.node()
    }

    /// Its cluster.
    pub fn cluster(&self) -> u128 {
        self.stopped.examination.identity.cluster()
    }

    /// Why no server may start there any more, if that is so.
    pub fn fenced(&self) -> Option<&str> {
        self.stopped.examination.fenced.as_deref()
    }

    /// Writes everything that this server holds into a backup file: its state machine, with all entries of its log applied,
    /// committed or not, for they may have been acknowledged. Then the directory is fenced, so that its server never goes on with
    /// the old cluster; only then the file gets its name. Whatever stops it in between: a file that is there is whole, and its
    /// directory is fenced; and it can be done again. `written` hears how many bytes were written.
    ///
    /// # Errors
    /// If something cannot be read or written. The directory may be fenced by then, and is unchanged otherwise.
    pub fn write_backup(
        mut self,
        mut out: OutFile,
        mut written: impl FnMut(u64),
    ) -> Result<BackupSummary, RecoverError> {
        let node = self.node();
        let nothing = |reason: String| RecoverError::Nothing { node, reason };
        let Some(reaches) = self.reaches else { return Err(nothing(self.wrong.join("; "))) };
        let mut machine = self.machine().map_err(|error| nothing(causes(&error)))?;
        while machine.applied().index < reaches.index
            && let Ok(log) = &mut self.stopped.examination.log
        {
            let next = machine.applied().index.next();
            machine.apply(&log.reader.entries(next, reaches.index, APPLIED_BYTES)?)?;
        }
        let snapshot = machine.reader().snapshot()?;
        let header = BackupHeader::of(snapshot.header(), Origin::Survivor, self.cluster(), node);
        // What is written is read as it will be: a store that gives nonsense is found here, and not when it is needed.
        let mut reader = BackupReader::new(Discarded);
        for part in BackupParts::new(&header, &snapshot) {
            let part = part?;
            reader.feed(&part)?;
            out.write(&part)?;
            written(part.len() as u64);
        }
        let (summary, _) = reader.finish()?;
        out.sync()?;
        let reason = format!(
            "what server {node} held was saved by `raftmap recover` (revision {}, xxh3 {:032x}); its map goes on in the cluster \
             that is restored from that file",
            reaches.index, summary.digest
        );
        fence(&RealDisk, self.dir(), &reason)?;
        out.place()?;
        Ok(summary)
    }
}

/// All that is left of a cluster, as far as it is known.
pub struct Survivors(pub Vec<Survivor>);

impl Survivors {
    /// The one with the most complete log: of the latest term, then the longest. Whatever was committed and is on any of these
    /// servers, is on this one: an entry of a later term was sent by a leader that had everything that was committed before
    /// (Raft paper, section 5.4), and of one term the longer log has all of the shorter one.
    pub fn best(&self) -> Option<&Survivor> {
        let reaches = |survivor: &&Survivor| {
            survivor.reaches.map(|reaches| (reaches.term, reaches.index, std::cmp::Reverse(survivor.node())))
        };
        self.0.iter().filter(|survivor| survivor.reaches.is_some()).max_by_key(reaches)
    }

    /// The members in force, as the most complete log has them.
    pub fn members(&self) -> Membership {
        self.best().or(self.0.first()).map(|best| best.members.clone()).unwrap_or_default()
    }

    /// The voters that are not here, or have lost something.
    pub fn missing(&self) -> Vec<NodeId> {
        let members = self.members();
        let whole =
            |id: NodeId| self.0.iter().any(|survivor| survivor.node() == id && survivor.wrong.is_empty());
        members.all().into_iter().filter(|id| members.is_voter(*id) && !whole(*id)).collect()
    }

    /// Whether a majority is here and whole: it can simply be started.
    pub fn can_go_on(&self) -> bool {
        let missing = self.missing();
        self.members().is_quorum(|id| !missing.contains(&id))
    }

    /// Whether something may have been acknowledged that is on none of these servers: those that are missing are enough to
    /// have committed it among themselves.
    pub fn may_have_lost(&self) -> bool {
        let missing = self.missing();
        self.members().is_quorum(|id| missing.contains(&id))
    }
}
