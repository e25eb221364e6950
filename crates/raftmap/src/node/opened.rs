//! What a node finds on its disk when it starts.

use std::path::Path;
use std::time::Duration;

use raftmap_log::{Identity, Log, RealDisk, Recovered, Repair};
use raftmap_raft::{LogIndex, StateId};
use raftmap_replica::{FoundState, LogSize, Replica, StateWorker, is_alone, restore};
use raftmap_state::{DiskEngine, StateError, StateMachine};

use super::{NodeConfig, StartFailure, replica_config};
use crate::causes::causes;
use crate::runtime::StateDirs;

/// How long a state machine that looks damaged is left alone before it is looked at once more.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// What a node has on its disk, ready to run.
pub(super) struct Opened {
    pub(super) log: Log<RealDisk>,
    pub(super) identity: Identity,
    pub(super) dirs: StateDirs,
    /// The state machine that the log names.
    pub(super) current: StateId,
    pub(super) engine: DiskEngine,
    pub(super) worker: StateWorker<DiskEngine>,
    pub(super) replica: Replica,
}

impl Opened {
    pub(super) fn open(config: &NodeConfig) -> Result<Self, StartFailure> {
        let (mut log, recovered) = Log::open(RealDisk, &config.data_dir, &config.log)?;
        match &recovered.repair {
            Repair::Clean => {}
            Repair::TornTailCut { segment, offset, aside } => {
                tracing::warn!(
                    segment,
                    offset,
                    aside,
                    "the last batch was cut short by a crash; it was never acknowledged and is gone"
                );
            }
            Repair::Damaged(damage) => tracing::error!("{damage}"),
        }
        let identity = recovered.identity.clone();
        let dirs = StateDirs::new(&config.data_dir);
        let current = recovered.base.as_ref().map_or(StateId(0), |base| base.state);
        let OpenedState { engine, machine, found } = open_state(config, &dirs, current, &recovered)?;
        let worker = StateWorker::new(machine)?;
        let restored = restore(&mut log, &recovered, found)?;
        if restored.hard_state.damaged {
            tracing::error!(
                "this server lost entries that it may have acknowledged: it neither votes nor counts until a leader has re-sent them"
            );
        }
        if restored.applied < restored.base.index {
            tracing::error!(
                "this server lost its state: it serves nothing until it has a snapshot of another one"
            );
        }
        let (size, view) = (LogSize::of(&recovered), worker.view());
        let replica = Replica::new(replica_config(config, &identity)?, restored, size, view);
        Ok(Self { log, identity, dirs, current, engine, worker, replica })
    }
}

/// The state machine that the log names.
struct OpenedState {
    engine: DiskEngine,
    machine: StateMachine<DiskEngine>,
    found: FoundState,
}

/// Opens the state machine that the log names, and removes what it does not name. One that has less than the log says, or whose
/// files are damaged, is set aside, and an empty one takes its place.
fn open_state(
    config: &NodeConfig,
    dirs: &StateDirs,
    named: StateId,
    recovered: &Recovered,
) -> Result<OpenedState, StartFailure> {
    let disk = StartFailure::StateDirs;
    dirs.keep_only(named).map_err(disk)?;
    let path = dirs.path(named);
    let suspect = dirs.is_suspect().map_err(disk)?;
    // A crash may have come right after it was set aside.
    let there = suspect || dirs.exists(named).map_err(disk)?;
    let found = |applied| if there { FoundState::There(applied) } else { FoundState::Missing };
    if suspect {
        tracing::warn!(
            "the state machine may have been why this server ended: its files are read, all of them"
        );
    }
    let alone = is_alone(recovered);
    let lost = match open_twice(config, &path, suspect) {
        Ok((engine, machine)) => {
            let applied = machine.applied();
            // An empty one was put there before.
            if recovered.state_is_whole(applied.index) || alone || applied.index == LogIndex(0) {
                dirs.clear().map_err(disk)?;
                return Ok(OpenedState { engine, machine, found: found(applied) });
            }
            format!("it has applied {}, and had more on disk", applied.index)
        }
        Err(StateError::Engine(error)) if error.is_damage() => {
            let reason = causes(&error);
            if alone || is_only_voter(recovered) {
                return Err(StartFailure::StateDamaged { reason });
            }
            reason
        }
        Err(error) => return Err(error.into()),
    };
    dirs.suspect().map_err(disk)?;
    let aside = dirs.set_aside(named).map_err(disk)?;
    tracing::error!(reason = lost, aside = %aside.display(), "the state machine is damaged or has lost something; it is set aside");
    let (engine, machine) = open_engine(config, &path, false)?;
    dirs.clear().map_err(disk)?;
    let applied = machine.applied();
    Ok(OpenedState { engine, machine, found: found(applied) })
}

/// Whether no other server votes: whoever learns from this one may have nothing yet.
fn is_only_voter(recovered: &Recovered) -> bool {
    let membership = recovered.memberships.last().map(|(_, membership)| membership);
    let membership = membership.or(recovered.base.as_ref().map(|base| &base.membership));
    let own = recovered.identity.node();
    membership.is_some_and(|membership| {
        membership.all().into_iter().all(|id| id == own || !membership.is_voter(id))
    })
}

/// What looks damaged is looked at twice: a disk that cannot be read for a moment, perhaps that of all servers, is no reason to give
/// a state up.
fn open_twice(
    config: &NodeConfig,
    path: &Path,
    suspect: bool,
) -> Result<(DiskEngine, StateMachine<DiskEngine>), StateError> {
    match open_engine(config, path, suspect) {
        Err(StateError::Engine(error)) if error.is_damage() => {
            tracing::warn!(
                error = causes(&error),
                "the state machine looks damaged; it is looked at once more"
            );
            std::thread::sleep(AGAIN_AFTER);
            open_engine(config, path, suspect)
        }
        opened => opened,
    }
}

/// Opens a state machine, and reads all of its files if they are not to be trusted.
fn open_engine(
    config: &NodeConfig,
    path: &Path,
    suspect: bool,
) -> Result<(DiskEngine, StateMachine<DiskEngine>), StateError> {
    let engine = DiskEngine::open(path, config.engine)?;
    if suspect {
        engine.file_check().advance(u64::MAX)?;
    }
    let machine = StateMachine::open(engine.clone(), config.log.group)?;
    Ok((engine, machine))
}
