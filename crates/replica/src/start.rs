//! How a replica starts: what log and state machine hold is put together, and must fit.

use raftmap_log::{Disk, Identity, Log, LogError, Recovered};
use raftmap_raft::{Base, Entry, LogIndex, LogPosition, Membership, NodeId, Payload, Restored, StateId};
use raftmap_state::{Command, ContentDigest, Engine, Introduction, Member, StateError, StateMachine};

use crate::digests::StateDigest;
use crate::event::{Event, StateView};

/// Why a replica cannot start. Nothing was lost by trying.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log and the state machine hold two histories.
    #[error(
        "the state machine has applied index {} in term {}, the log has term {log_term} there: \
         they do not belong together; remove neither, and restore this server from a copy of both",
        .applied.index, .applied.term
    )]
    Diverged {
        /// What the state machine applied last.
        applied: LogPosition,
        /// The term of the log at that index.
        log_term: u64,
    },
    /// The log of a cluster of one lost entries that the state machine has.
    #[error(
        "the log ends at {last}, the state machine has applied {applied}, and there is no other server to ask"
    )]
    LogLost {
        /// The end of the log.
        last: LogIndex,
        /// What the state machine applied last.
        applied: LogIndex,
    },
    /// The state machine of a cluster of one is not what it was when the log let go of its beginning.
    #[error(
        "the state machine comes back at {applied}, it was on disk up to {durable} before, and there is no other server to ask"
    )]
    StateLost {
        /// What the state machine has applied.
        applied: LogIndex,
        /// What it had made durable.
        durable: LogIndex,
    },
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state machine failed.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Who a server is, by its data directory.
pub fn member_of(identity: &Identity) -> Member {
    Member {
        node_id: identity.node(),
        incarnation: u128::from(identity.incarnation()),
        founding_hash: identity.founding_hash(),
    }
}

/// The state machine that the log names, as a start found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundState {
    /// It is there, and has applied this much. What was set aside since it has less than it must counts as one that has
    /// applied nothing.
    There(LogPosition),
    /// There is none of that name: this is the first start, or the log has lost the record that named another one.
    Missing,
}

/// Puts together what a node starts from.
///
/// The state machine applies only what is on the log's disk. If it is further than the log, the disk lost the log's last
/// batch after its sync, before its mark: the corner that a scan of the log cannot see. The node is damaged then, and is
/// flagged so before it says a word. On a disk that is known to be damaged the two may differ: a log that lost a truncation
/// still has what was never committed, until a leader replaces it. Whether they fit is looked at once the disk is whole again.
///
/// A state machine that comes back with less than the log names is lost ([`Recovered::state_is_whole`]): whoever runs the
/// replica sets it aside before, and an empty one takes its place until a snapshot of another server does.
///
/// If there is no state machine of the name that the log gives, a snapshot had taken its place, and the disk has lost the
/// record that says so: the node is damaged.
///
/// # Errors
/// If the two do not fit, or the log cannot be written.
pub fn restore<D: Disk>(
    log: &mut Log<D>,
    recovered: &Recovered,
    state: FoundState,
) -> Result<Restored, StartError> {
    let applied = match state {
        FoundState::There(applied) => applied,
        FoundState::Missing => LogPosition::default(),
    };
    let last = recovered.last.index;
    let mut hard_state = recovered.hard_state;
    let terms: Vec<_> = recovered.terms.iter().map(|run| (run.first, run.term)).collect();
    let base = recovered.base.as_ref();
    let base_position = base.map(|base| base.position).unwrap_or_default();
    let alone = is_alone(recovered);
    if !recovered.state_is_whole(applied.index) {
        if alone {
            let durable = base.map_or(LogIndex(0), |base| base.durable);
            return Err(StartError::StateLost { applied: applied.index, durable });
        }
    } else if applied.index <= last {
        let run = terms.partition_point(|run| run.0 <= applied.index);
        let log_term = run.checked_sub(1).map_or(base_position.term.0, |run| terms[run].1.0);
        if log_term != applied.term.0 && !hard_state.damaged {
            return Err(StartError::Diverged { applied, log_term });
        }
    } else if !hard_state.damaged {
        if alone {
            return Err(StartError::LogLost { last, applied: applied.index });
        }
        hard_state = log.flag_damaged(applied.index)?;
    }
    let had_one = state == FoundState::Missing && last > LogIndex(0);
    if had_one && !alone && !hard_state.damaged {
        hard_state = log.flag_damaged(last)?;
    }
    let first = (base_position.index, first_membership(recovered));
    Ok(Restored {
        hard_state,
        base: base_position,
        terms,
        last,
        state: base.map_or(StateId(0), |base| base.state),
        applied: applied.index,
        state_distrusted: base.is_some_and(Base::is_state_distrusted),
        memberships: std::iter::once(first).chain(recovered.memberships.iter().cloned()).collect(),
    })
}

/// The membership where the log begins.
fn first_membership(recovered: &Recovered) -> Membership {
    let founders = recovered.identity.founding_members().iter().map(|member| member.node);
    let base = recovered.base.as_ref();
    base.map_or_else(|| Membership::of_voters(founders), |base| base.membership.clone())
}

/// Whether there is no other server to ask for anything, as far as the log tells.
pub fn is_alone(recovered: &Recovered) -> bool {
    let last = recovered.memberships.last().map(|(_, membership)| membership.clone());
    last.unwrap_or_else(|| first_membership(recovered)).all() == [recovered.identity.node()].into()
}

/// The state machine as its worker runs it.
pub struct StateWorker<E: Engine> {
    machine: StateMachine<E>,
    members: Vec<Member>,
    removed: Vec<NodeId>,
    introductions: Vec<Introduction>,
    introduced: LogIndex,
    scan: Option<ContentDigest>,
}

impl<E: Engine> StateWorker<E> {
    /// A worker over `machine`.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn new(machine: StateMachine<E>) -> Result<Self, StateError> {
        let reader = machine.reader();
        let (members, removed) = (reader.members()?, reader.removed()?);
        let (introduced, introductions) = reader.introductions()?;
        Ok(Self { machine, members, removed, introductions, introduced, scan: None })
    }

    /// The state machine.
    pub fn machine(&self) -> &StateMachine<E> {
        &self.machine
    }

    /// Puts the state machine of a snapshot in the place of this one, for [`crate::Effect::Install`].
    ///
    /// # Errors
    /// If the engine fails.
    pub fn install(&mut self, machine: StateMachine<E>) -> Result<Event, StateError> {
        *self = Self::new(machine)?;
        Ok(Event::Applied { outcomes: Vec::new(), view: self.view() })
    }

    /// How it stands.
    pub fn view(&self) -> StateView {
        StateView {
            applied: self.machine.applied().index,
            applied_term: self.machine.applied().term,
            log_time_ms: self.machine.log_time_ms(),
            next_deadline_ms: self.machine.next_deadline_ms(),
            level: self.machine.level(),
            digest: self.machine.running_digest().0,
            milestone: self
                .machine
                .milestone()
                .map(|(index, digest)| StateDigest { index, digest: digest.0 }),
            members: self.members.clone(),
            removed: self.removed.clone(),
            introductions: self.introductions.clone(),
            scanned_ms: self.machine.scanned_ms(),
            members_index: self
                .introduced
                .max(self.machine.membership().map_or(LogIndex(0), |known| known.0)),
        }
    }

    /// Carries out [`crate::Effect::Apply`].
    ///
    /// # Errors
    /// Any error ends the node.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<Event, StateError> {
        let mut outcomes = Vec::with_capacity(entries.len());
        for part in entries.split_inclusive(is_scan) {
            outcomes.extend(self.machine.apply(part)?);
            if part.last().is_some_and(is_scan) {
                self.scan = Some(self.machine.reader().content_digest()?);
            }
        }
        // What is known of members changes by entries without an answer, which are rare.
        if outcomes.iter().any(|outcome| matches!(outcome.result, Ok(raftmap_state::Answer::Done))) {
            let reader = self.machine.reader();
            self.members = reader.members()?;
            self.removed = reader.removed()?;
            (self.introduced, self.introductions) = reader.introductions()?;
        }
        Ok(Event::Applied { outcomes, view: self.view() })
    }

    /// The scan that the last entries asked for, if any did: to be carried out beside everything else, at a bounded rate. Then
    /// [`Event::Scanned`] or [`Event::ScanFailed`], unless another state machine took the place of this one meanwhile.
    pub fn take_scan(&mut self) -> Option<ContentDigest> {
        self.scan.take()
    }
}

fn is_scan(entry: &Entry) -> bool {
    matches!(&entry.payload, Payload::Command(bytes) if Command::is_scan(bytes))
}
