//! The commands of the scripts.

#[derive(goldenscript::Command)]
pub(crate) enum Command {
    /// A new cluster with empty disks. Time is short here: an election timeout of 10 to 20 ticks, a heartbeat every 3.
    Cluster {
        #[arg(key)]
        nodes: u64,
        /// How many of them vote from the beginning; else all.
        #[arg(key)]
        voters: Option<u64>,
        /// Appends on their way to one follower.
        #[arg(key)]
        window: Option<usize>,
        /// Bytes on their way to one follower.
        #[arg(key)]
        window_bytes: Option<usize>,
        /// Bytes of one append.
        #[arg(key)]
        append_bytes: Option<usize>,
        /// Bytes that wait to be committed.
        #[arg(key)]
        uncommitted_bytes: Option<usize>,
        /// Bytes of one command.
        #[arg(key)]
        command_bytes: Option<usize>,
        /// Bytes of entries in memory.
        #[arg(key)]
        cache_bytes: Option<usize>,
        /// Bytes of entries applied at a time.
        #[arg(key)]
        apply_bytes: Option<usize>,
        /// Reads that wait.
        #[arg(key)]
        reads: Option<usize>,
        /// Committed entries that a follower may leave for later: none, if it is not said.
        #[arg(key)]
        lag: Option<u64>,
    },
    /// Restarts a node on a disk that holds a log of these terms, such as "1 1 4".
    Given {
        id: u64,
        #[arg(key)]
        terms: String,
        #[arg(key)]
        term: Option<u64>,
        #[arg(key)]
        vote: Option<u64>,
        #[arg(key)]
        applied: Option<u64>,
    },
    /// Lets a node stand for election.
    Campaign(u64),
    /// Lets a leader hand over, to the second.
    Transfer(u64, u64),
    /// Tells a node that its connection to another broke.
    Lost(u64, u64),
    /// Lets time pass, at one node or, with 0, at all in turn.
    Tick(u64, u64),
    /// Proposes commands, all before the node acts.
    Propose(u64, Vec<(String, String)>),
    /// Lets a leader change who votes and who learns.
    Members {
        id: u64,
        #[arg(key)]
        voters: String,
        #[arg(key)]
        learners: Option<String>,
    },
    /// Begins a read.
    Read(u64),
    /// Delivers what is on its way now: all, or what goes to one node, or from one node.
    Deliver {
        to: Option<u64>,
        #[arg(key)]
        from: Option<u64>,
        /// Only the first so many.
        #[arg(key)]
        count: Option<usize>,
    },
    /// Delivers all that is on its way to a node, before it acts on any of it.
    Gather(u64),
    /// Puts an append on its way that the sender would not send by itself: no-ops of these terms, behind an entry of the
    /// receiver's log.
    Forge {
        from: u64,
        to: u64,
        #[arg(key)]
        after: u64,
        #[arg(key)]
        terms: String,
        #[arg(key)]
        commit: u64,
    },
    /// Loses what is on its way from one node to another.
    Drop(u64, u64),
    /// Doubles what is on its way from one node to another.
    Duplicate(u64, u64),
    /// Keeps what is on its way from one node to another back, until it is released.
    Delay(u64, u64),
    /// Puts what was kept back on its way.
    Release,
    /// Cuts these nodes off from the others; what is on its way between them is lost.
    Partition(Vec<u64>),
    /// Cuts one way, from one node to another.
    Cut(u64, u64),
    /// Ends all cuts.
    Heal,
    /// Delivers until nothing is on its way.
    Stabilize,
    /// What is on its way.
    Network,
    /// Makes a node's state machine durable, and lets it let go of its log up to an index.
    Compact {
        id: u64,
        #[arg(key)]
        to: u64,
    },
    /// Goes on with the snapshot that a node asked for: takes it where it asked, or brings what was taken.
    Snapshot(u64),
    /// A node's state machine is found to be wrong.
    Distrust(u64),
    /// A node that is down loses its state machine.
    LoseState(u64),
    /// Lets a node's disk, its state machine, its reads from disk, or its snapshots wait for a word.
    Hold(u64, String),
    /// Ends that.
    Go(u64, String),
    /// Syncs the writes that wait, or the first so many.
    Persist(u64, Option<usize>),
    /// Reports a write as persisted that was reported before.
    PersistedAgain(u64, u64),
    /// Lets the state machine finish what it applies.
    Apply(u64),
    /// Answers the oldest read from disk.
    Fetch(u64),
    /// Power fails. What is not synced is lost, but for the first `kept` writes; the state machine comes back at
    /// `applied`, or where it was.
    Crash {
        id: u64,
        #[arg(key)]
        kept: Option<usize>,
        #[arg(key)]
        applied: Option<u64>,
    },
    /// Starts a node that is down.
    Restart(u64),
    /// Loses what a node that is down has on disk from this index on. With `unnoticed=true` the node does not find out.
    Damage {
        id: u64,
        #[arg(key)]
        from: u64,
        #[arg(key)]
        unnoticed: Option<bool>,
    },
    /// How nodes stand: all, or one.
    Status(Option<u64>),
    /// How many requests have not ended.
    Waiting,
    /// The logs, as the Raft paper draws them: the terms, with what is committed in brackets.
    Logs,
}
