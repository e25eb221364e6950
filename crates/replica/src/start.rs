//! How a replica starts: what log and state machine hold is put together, and must fit.

use raftmap_log::{Disk, Identity, Log, LogError, Recovered};
use raftmap_raft::{LogIndex, LogPosition, Membership, Restored};
use raftmap_state::Engine;
use raftmap_state::{Member, StateError, StateMachine};

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

/// Puts together what a node starts from.
///
/// The state machine applies only what is on the log's disk. If it is further than the log, the disk lost the log's last
/// batch after its sync, before its mark: the corner that a scan of the log cannot see. The node is damaged then, and is
/// flagged so before it says a word. On a disk that is known to be damaged the two may differ: a log that lost a truncation
/// still has what was never committed, until a leader replaces it. Whether they fit is looked at once the disk is whole again.
///
/// # Errors
/// If the two do not fit, or the log cannot be written.
pub fn restore<D: Disk>(
    log: &mut Log<D>,
    recovered: &Recovered,
    applied: LogPosition,
) -> Result<Restored, StartError> {
    let last = recovered.last.index;
    let mut hard_state = recovered.hard_state;
    let terms: Vec<_> = recovered.terms.iter().map(|run| (run.first, run.term)).collect();
    if applied.index <= last {
        let run = terms.partition_point(|run| run.0 <= applied.index);
        let log_term = run.checked_sub(1).map_or(0, |run| terms[run].1.0);
        if log_term != applied.term.0 && !hard_state.damaged {
            return Err(StartError::Diverged { applied, log_term });
        }
    } else if !hard_state.damaged {
        if recovered.identity.founding_members().len() == 1 {
            return Err(StartError::LogLost { last, applied: applied.index });
        }
        hard_state = log.flag_damaged(applied.index)?;
    }
    let founders = recovered.identity.founding_members().iter().map(|member| member.node);
    let founding = (LogIndex(0), Membership::of_voters(founders));
    let memberships = std::iter::once(founding).chain(recovered.memberships.iter().cloned()).collect();
    Ok(Restored { hard_state, terms, last, applied: applied.index, memberships })
}

/// The state machine as its worker runs it.
pub struct StateWorker<E: Engine> {
    machine: StateMachine<E>,
    members: Vec<Member>,
}

impl<E: Engine> StateWorker<E> {
    /// A worker over `machine`.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn new(machine: StateMachine<E>) -> Result<Self, StateError> {
        let members = machine.reader().members()?;
        Ok(Self { machine, members })
    }

    /// The state machine.
    pub fn machine(&self) -> &StateMachine<E> {
        &self.machine
    }

    /// How it stands.
    pub fn view(&self) -> StateView {
        StateView {
            applied: self.machine.applied().index,
            applied_term: self.machine.applied().term,
            log_time_ms: self.machine.log_time_ms(),
            next_deadline_ms: self.machine.next_deadline_ms(),
            digest: self.machine.running_digest().0,
            members: self.members.clone(),
        }
    }

    /// Carries out [`crate::Effect::Apply`].
    ///
    /// # Errors
    /// Any error ends the node.
    pub fn apply(&mut self, entries: &[raftmap_raft::Entry]) -> Result<Event, StateError> {
        let outcomes = self.machine.apply(entries)?;
        // Members are recorded by entries without an answer, which are rare.
        if outcomes.iter().any(|outcome| matches!(outcome.result, Ok(raftmap_state::Answer::Done))) {
            self.members = self.machine.reader().members()?;
        }
        Ok(Event::Applied { outcomes, view: self.view() })
    }
}
