//! The state machine's thread, and the state machine that readers find.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use raftmap_raft::{Entry, GroupId, StateId};
use raftmap_replica::{Event, Serves, StateWorker};
use raftmap_state::{DiskEngine, DiskOptions, Reader, StateError, StateMachine};

use super::failstop::{Failstop, NodeError};
use super::inbox::Inbox;
use super::scan::Scanner;
use super::state_dirs::StateDirs;

/// How often it is looked whether the last reader of a replaced state machine is done.
const JANITOR_EVERY: Duration = Duration::from_secs(1);

/// The state machine as readers see it. Whoever reads for longer holds it, so that its files stay.
pub(crate) struct StateHandle {
    pub(crate) reader: Reader<DiskEngine>,
    engine: DiskEngine,
    readable: AtomicBool,
    copyable: Arc<AtomicBool>,
}

impl StateHandle {
    pub(crate) fn new(reader: Reader<DiskEngine>, engine: DiskEngine) -> Arc<Self> {
        let (readable, copyable) = (AtomicBool::new(true), Arc::new(AtomicBool::new(true)));
        Arc::new(Self { reader, engine, readable, copyable })
    }

    /// Whether reads may go on. The replica lets none begin while they may not.
    pub(crate) fn is_readable(&self) -> bool {
        self.readable.load(Ordering::Acquire)
    }

    /// Whether other servers may copy it; clones say the same.
    pub(crate) fn copyable(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.copyable)
    }

    /// About how much there is, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.engine.disk_bytes()
    }
}

/// Where readers find the state machine, which a snapshot may replace. Clones share it.
#[derive(Clone)]
pub(crate) struct StateSlot(Arc<RwLock<Arc<StateHandle>>>);

impl StateSlot {
    pub(crate) fn new(handle: Arc<StateHandle>) -> Self {
        Self(Arc::new(RwLock::new(handle)))
    }

    pub(crate) fn get(&self) -> Arc<StateHandle> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says what may be done with the state that is here now.
    pub(crate) fn serve(&self, serves: Serves) {
        let state = self.get();
        state.readable.store(serves.reads, Ordering::Release);
        state.copyable.store(serves.snapshots, Ordering::Release);
    }

    /// Puts another one in its place, and gives the one before.
    fn replace(&self, handle: Arc<StateHandle>) -> Arc<StateHandle> {
        std::mem::replace(&mut self.0.write().unwrap_or_else(PoisonError::into_inner), handle)
    }

    /// Whether its store still works; see [`DiskEngine::check`].
    ///
    /// # Errors
    /// If it does not: the node ends.
    pub(crate) fn check(&self) -> Result<(), StateError> {
        Ok(self.get().engine.check()?)
    }
}

/// What the state machine's thread is to do.
pub(crate) enum StateJob {
    /// Apply these entries.
    Apply(Vec<Entry>),
    /// Make durable what was applied so far, while more is applied.
    Persist,
    /// Go on with the state machine of this name.
    Install(StateId),
}

/// Applies entries. The engine may block it.
pub(crate) struct StateThread {
    pub(crate) worker: StateWorker<DiskEngine>,
    pub(crate) slot: StateSlot,
    pub(crate) dirs: StateDirs,
    pub(crate) current: StateId,
    pub(crate) group: GroupId,
    pub(crate) options: DiskOptions,
    pub(crate) inbox: Inbox,
    pub(crate) scanner: Scanner,
    pub(crate) failstop: Failstop,
}

impl StateThread {
    /// Runs until the replica is gone; then what was applied is made durable, if the node ends in good order.
    ///
    /// # Errors
    /// If the state machine fails: the node ends.
    pub(crate) fn run(mut self, jobs: &Receiver<StateJob>) -> Result<(), NodeError> {
        let done = jobs.iter().try_for_each(|job| match job {
            StateJob::Apply(entries) => self.apply(&entries),
            StateJob::Persist => self.persist(),
            StateJob::Install(state) => self.install(state),
        });
        self.scanner.cancel();
        done?;
        if !self.failstop.has_failed() {
            // Not for safety, since the log has it all: the next start then has less to apply again.
            self.worker.machine().persist()?;
        }
        Ok(())
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<(), NodeError> {
        let began = Instant::now();
        let applied = self.worker.apply(entries)?;
        self.inbox.event(applied);
        metrics::histogram!("raftmap_apply_seconds").record(began.elapsed());
        metrics::counter!("raftmap_applied_entries_total").increment(entries.len() as u64);
        match self.worker.take_scan() {
            Some(rows) => self.scanner.begin(self.slot.get().engine.file_check(), rows),
            None => Ok(()),
        }
    }

    fn persist(&self) -> Result<(), NodeError> {
        let (persist, inbox) = (self.worker.machine().persistence(), self.inbox.clone());
        // Held: if a snapshot takes its place meanwhile, its files stay until this is done.
        let state = self.slot.get();
        self.failstop.spawn("persist", move || {
            let began = Instant::now();
            let position = persist.run()?;
            drop(state);
            metrics::histogram!("raftmap_persist_seconds").record(began.elapsed());
            inbox.event(Event::StatePersisted(position.index));
            Ok(())
        })?;
        Ok(())
    }

    fn install(&mut self, state: StateId) -> Result<(), NodeError> {
        let engine = DiskEngine::open(&self.dirs.path(state), self.options).map_err(StateError::from)?;
        let machine = StateMachine::open(engine.clone(), self.group)?;
        self.scanner.cancel();
        let before = self.slot.replace(StateHandle::new(machine.reader(), engine));
        let installed = self.worker.install(machine)?;
        let replaced = std::mem::replace(&mut self.current, state);
        self.remove_when_unread(before, replaced)?;
        self.inbox.event(installed);
        Ok(())
    }

    /// Removes a replaced state machine once nobody reads it any more, and its own threads have ended. A node that ends before
    /// leaves it to its next start.
    fn remove_when_unread(&self, mut handle: Arc<StateHandle>, state: StateId) -> Result<(), NodeError> {
        let (dirs, failstop) = (self.dirs.clone(), self.failstop.clone());
        let alive = Arc::downgrade(&self.slot.0);
        self.failstop.spawn("janitor", move || {
            let unread = loop {
                match Arc::try_unwrap(handle) {
                    Ok(unread) => break unread,
                    Err(read) => handle = read,
                }
                if alive.strong_count() == 0 || failstop.has_failed() {
                    return Ok(());
                }
                std::thread::sleep(JANITOR_EVERY);
            };
            drop(unread);
            dirs.remove(state).map_err(|source| NodeError::StateDirs(Arc::new(source)))
        })?;
        Ok(())
    }
}
