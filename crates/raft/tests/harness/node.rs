//! A node as the harness runs it: the core, its disk, and a state machine that only counts.

use std::collections::VecDeque;

use raftmap_raft::{Base, Config, FetchPurpose, LogIndex, NodeId, Raft, Snapshot, StateId};

use super::disk::Disk;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) config: Config,
    /// `None` while it is down.
    pub(crate) raft: Option<Raft>,
    pub(crate) disk: Disk,
    /// What it does not do by itself, but only when it is told.
    pub(crate) held: Held,
    /// What the state machine has applied.
    pub(crate) applied: LogIndex,
    /// What of it is durable.
    pub(crate) durable: LogIndex,
    pub(crate) state: StateId,
    /// The snapshot that it asked for.
    pub(crate) asked: Option<Asked>,
    /// Snapshots that are held beside the state machine.
    pub(crate) snapshots: Vec<Snapshot>,
    /// The end of what it is applying.
    pub(crate) applying: Option<LogIndex>,
    /// Reads from disk that wait.
    pub(crate) fetches: VecDeque<Fetch>,
    pub(crate) starts: u64,
}

/// Work that waits for the test's word instead of being done at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    pub(crate) syncs: bool,
    pub(crate) applies: bool,
    pub(crate) fetches: bool,
    pub(crate) snapshots: bool,
}

/// A snapshot that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) from: NodeId,
    pub(crate) at_least: LogIndex,
    /// As it was taken there: it arrives later.
    pub(crate) taken: Option<Snapshot>,
}

/// A read from disk, as asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    pub(crate) purpose: FetchPurpose,
    pub(crate) from: LogIndex,
    pub(crate) to: LogIndex,
    pub(crate) max_bytes: usize,
}

impl Node {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            id: config.id,
            config,
            raft: None,
            disk: Disk::default(),
            held: Held::default(),
            applied: LogIndex(0),
            durable: LogIndex(0),
            state: StateId(0),
            asked: None,
            snapshots: Vec::new(),
            applying: None,
            fetches: VecDeque::new(),
            starts: 0,
        }
    }

    /// Starts, for the first time or again, from what the disk holds. Each start has another seed.
    pub(crate) fn start(&mut self, voters: &[NodeId]) {
        self.starts += 1;
        self.install_named();
        self.snapshots.clear();
        let durable = self.disk.state().1;
        if durable == Base::DISTRUSTED {
            // It is set aside.
            (self.applied, self.durable) = (LogIndex(0), LogIndex(0));
        }
        assert!(
            durable <= self.applied || self.applied == LogIndex(0),
            "a log that names more than there is"
        );
        let seed = self.config.seed.wrapping_mul(1_000_003).wrapping_add(self.id.0 * 1009 + self.starts);
        let config = Config { seed, ..self.config.clone() };
        let restored = self.disk.restored(self.applied, voters.iter().copied());
        self.raft = Some(Raft::new(config, restored));
    }

    /// Puts the snapshot that the log names in the place of the state machine, if it is not there yet.
    pub(crate) fn install_named(&mut self) {
        let (state, _) = self.disk.state();
        if state != self.state {
            let at = self.snapshots.iter().position(|snapshot| snapshot.state == state);
            let snapshot = self.snapshots.remove(at.expect("the log names a state machine that is there"));
            self.state = state;
            self.applied = snapshot.position.index;
            self.durable = self.applied;
        }
    }

    /// Power fails: of the unsynced writes `kept` survive, and the state machine comes back at `applied`.
    pub(crate) fn crash(&mut self, kept: usize, applied: LogIndex) {
        self.raft = None;
        self.disk.crash(kept);
        self.applied = applied.min(self.applied).max(self.durable);
        self.applying = None;
        self.asked = None;
        self.fetches.clear();
    }
}
