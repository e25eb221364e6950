//! The commands of the scripts.

use std::collections::BTreeSet;
use std::error::Error;

use bytes::Bytes;
use goldenscript::{Context, Runner};
use raftmap_raft::{Config, Entry, HardState, Input, LogIndex, NodeId, Payload, Term, Write, WriteId};

use super::harness::cluster::{Cluster, Envelope};
use super::harness::disk::Disk;
use super::harness::draw;

#[derive(goldenscript::Command)]
pub(crate) enum Command {
    /// A new cluster with empty disks. Time is short here: an election timeout of 10 to 20 ticks, a heartbeat every 3.
    Cluster {
        #[arg(key)]
        nodes: u64,
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
    /// Lets time pass, at one node or, with 0, at all in turn.
    Tick(u64, u64),
    /// Proposes commands, all before the node acts.
    Propose(u64, Vec<(String, String)>),
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
    /// Lets a node's disk, its state machine, or its reads from disk wait for a word.
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

/// Runs one script.
#[derive(Default)]
pub(crate) struct Script {
    cluster: Option<Cluster>,
    delayed: Vec<Envelope>,
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Result<String, Box<dyn Error>> {
        if let Command::Cluster { nodes, .. } = command {
            let mut cluster = Cluster::new(*nodes, &config(command));
            cluster.trace.on = true;
            self.cluster = Some(cluster);
            return Ok(String::new());
        }
        let cluster = self.cluster.as_mut().ok_or("no cluster yet")?;
        let answer = run(cluster, &mut self.delayed, command)?;
        let mut lines = cluster.trace.take();
        lines.extend(answer);
        Ok(lines.join("\n"))
    }
}

fn config(command: &Command) -> Config {
    let usual =
        Config { election_ticks: 10, heartbeat_ticks: 3, disk_stall_ticks: 15, ..Config::new(NodeId(0), 1) };
    let Command::Cluster {
        nodes: _,
        window,
        window_bytes,
        append_bytes,
        uncommitted_bytes,
        command_bytes,
        cache_bytes,
        apply_bytes,
        reads,
    } = command
    else {
        return usual;
    };
    Config {
        max_inflight_messages: window.unwrap_or(usual.max_inflight_messages),
        max_inflight_bytes: window_bytes.unwrap_or(usual.max_inflight_bytes),
        max_append_bytes: append_bytes.unwrap_or(usual.max_append_bytes),
        max_uncommitted_bytes: uncommitted_bytes.unwrap_or(usual.max_uncommitted_bytes),
        max_command_bytes: command_bytes.unwrap_or(usual.max_command_bytes),
        cache_bytes: cache_bytes.unwrap_or(usual.cache_bytes),
        max_apply_bytes: apply_bytes.unwrap_or(usual.max_apply_bytes),
        max_reads: reads.unwrap_or(usual.max_reads),
        ..usual
    }
}

fn run(
    cluster: &mut Cluster,
    delayed: &mut Vec<Envelope>,
    command: &Command,
) -> Result<Vec<String>, Box<dyn Error>> {
    let between =
        |from: u64, to: u64| move |sent: &Envelope| sent.from == NodeId(from) && sent.to == NodeId(to);
    match command {
        Command::Cluster { .. } => {}
        Command::Given { id, terms, term, vote, applied } => {
            let id = NodeId(*id);
            let terms = terms.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
            let term = Term(term.or(terms.last().copied()).unwrap_or(0));
            cluster.crash(id, 0, LogIndex(0));
            let node = cluster.node(id);
            node.disk = disk_with_log(&terms, HardState { term, vote: vote.map(NodeId), damaged: false });
            node.applied = LogIndex(applied.unwrap_or(0));
            cluster.start(id);
        }
        Command::Campaign(id) => cluster.step(NodeId(*id), Input::Campaign),
        Command::Tick(id, count) => {
            for _ in 0..*count {
                for each in cluster.ids().into_iter().filter(|each| *id == 0 || *each == NodeId(*id)) {
                    cluster.step(each, Input::Tick);
                }
            }
        }
        Command::Propose(id, commands) => {
            let commands = commands.iter().map(|(key, value)| Bytes::from(format!("{key}={value}")));
            cluster.propose(NodeId(*id), commands.collect());
        }
        Command::Read(id) => cluster.read(NodeId(*id)),
        Command::Deliver { to, from, count } => deliver(cluster, *to, *from, count.unwrap_or(usize::MAX)),
        Command::Gather(to) => cluster.deliver_together(NodeId(*to)),
        Command::Drop(from, to) => {
            let (lost, kept) =
                std::mem::take(&mut cluster.network).into_iter().partition(between(*from, *to));
            cluster.network = kept;
            let lost: Vec<Envelope> = lost;
            return Ok(lost.iter().map(|sent| draw_envelope(sent) + " (lost)").collect());
        }
        Command::Duplicate(from, to) => {
            let again: Vec<_> =
                cluster.network.iter().filter(|sent| between(*from, *to)(sent)).cloned().collect();
            cluster.network.extend(again);
        }
        Command::Delay(from, to) => {
            let (late, kept): (Vec<_>, Vec<_>) =
                std::mem::take(&mut cluster.network).into_iter().partition(between(*from, *to));
            cluster.network = kept;
            delayed.extend(late);
        }
        Command::Release => cluster.network.append(delayed),
        Command::Partition(inside) => partition(cluster, &inside.iter().copied().map(NodeId).collect()),
        Command::Cut(from, to) => {
            cluster.cut.insert((NodeId(*from), NodeId(*to)));
        }
        Command::Heal => cluster.cut.clear(),
        Command::Stabilize => {
            for _ in 0..1000 {
                if cluster.network.is_empty() {
                    return Ok(Vec::new());
                }
                cluster.deliver(0);
            }
            return Err("the network does not come to rest".into());
        }
        Command::Network => return Ok(cluster.network.iter().map(draw_envelope).collect()),
        Command::Hold(id, what) => hold(cluster, *id, what, true)?,
        Command::Go(id, what) => hold(cluster, *id, what, false)?,
        Command::Persist(id, count) => cluster.sync(NodeId(*id), count.unwrap_or(usize::MAX)),
        Command::PersistedAgain(id, write) => cluster.step(NodeId(*id), Input::Persisted(WriteId(*write))),
        Command::Apply(id) => cluster.finish_apply(NodeId(*id)),
        Command::Fetch(id) => cluster.finish_fetch(NodeId(*id)),
        Command::Crash { id, kept, applied } => {
            let applied = LogIndex(applied.unwrap_or(u64::MAX));
            cluster.crash(NodeId(*id), kept.unwrap_or(0), applied);
        }
        Command::Restart(id) => cluster.start(NodeId(*id)),
        Command::Damage { id, from, unnoticed } => {
            cluster.node(NodeId(*id)).disk.damage(LogIndex(*from), !unnoticed.unwrap_or(false));
        }
        Command::Status(id) => {
            let wanted = cluster.ids().into_iter().filter(|each| id.is_none_or(|id| *each == NodeId(id)));
            return Ok(wanted.map(|id| draw_status(cluster, id)).collect());
        }
        Command::Waiting => return Ok(vec![format!("{} requests wait", cluster.checks.waiting())]),
        Command::Logs => return Ok(cluster.ids().into_iter().map(|id| draw_log(cluster, id)).collect()),
    }
    Ok(Vec::new())
}

/// A disk that holds no-ops of these terms, each from a write of its own.
fn disk_with_log(terms: &[u64], hard_state: HardState) -> Disk {
    let mut disk = Disk::default();
    disk.write(Write { hard_state: Some(hard_state), ..Write::default() });
    for (index, term) in (1..).zip(terms) {
        let entry = Entry { term: Term(*term), index: LogIndex(index), payload: Payload::Noop };
        disk.write(Write { entries: vec![entry], ..Write::default() });
    }
    disk.sync(usize::MAX);
    disk
}

/// Delivers the messages that are on their way now, and not those that they give rise to.
fn deliver(cluster: &mut Cluster, to: Option<u64>, from: Option<u64>, count: usize) {
    let (mut at, mut left, mut delivered) = (0, cluster.network.len(), 0);
    while left > 0 && delivered < count {
        let sent = &cluster.network[at];
        if to.is_none_or(|to| sent.to == NodeId(to)) && from.is_none_or(|from| sent.from == NodeId(from)) {
            cluster.deliver(at);
            delivered += 1;
        } else {
            at += 1;
        }
        left -= 1;
    }
}

fn partition(cluster: &mut Cluster, inside: &BTreeSet<NodeId>) {
    for from in cluster.ids() {
        for to in cluster.ids() {
            if inside.contains(&from) != inside.contains(&to) {
                cluster.cut.insert((from, to));
            }
        }
    }
    let cut = &cluster.cut;
    cluster.network.retain(|sent| !cut.contains(&(sent.from, sent.to)));
}

fn hold(cluster: &mut Cluster, id: u64, what: &str, held: bool) -> Result<(), Box<dyn Error>> {
    let node = cluster.node(NodeId(id));
    match what {
        "disk" => node.held.syncs = held,
        "machine" => node.held.applies = held,
        "fetches" => node.held.fetches = held,
        _ => return Err(format!("{what} is neither disk, machine nor fetches").into()),
    }
    Ok(())
}

fn draw_envelope(sent: &Envelope) -> String {
    format!("n{} → n{} {}", sent.from, sent.to, draw::message(&sent.message))
}

fn draw_status(cluster: &Cluster, id: NodeId) -> String {
    let Some(status) = cluster.status(id) else { return format!("n{id} is down") };
    let unsynced = match cluster.nodes[&id].disk.unsynced() {
        0 => String::new(),
        count => format!("\n  {count} writes wait for the disk"),
    };
    draw::status(&status) + &unsynced
}

fn draw_log(cluster: &Cluster, id: NodeId) -> String {
    let Some(raft) = &cluster.nodes[&id].raft else { return format!("n{id} is down") };
    // What is left on a damaged disk need not be what was committed there.
    let commit = if raft.status().damaged { LogIndex(0) } else { raft.status().commit };
    let terms = (1..).map(LogIndex).map_while(|index| raft.term_at(index).map(|term| (index, term)));
    let drawn: Vec<_> = terms
        .map(|(index, term)| if index <= commit { format!("[{term}]") } else { format!(" {term} ") })
        .collect();
    format!("n{id} {}", drawn.concat()).trim_end().to_owned()
}
