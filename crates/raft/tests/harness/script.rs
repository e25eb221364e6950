//! Runs the commands of a script on a cluster, and gives back what is drawn.

use std::collections::BTreeSet;
use std::error::Error;

use bytes::Bytes;
use goldenscript::{Context, Runner};
use raftmap_raft::{
    Append, Body, Config, Entry, HardState, Input, LogIndex, LogPosition, Message, NodeId, Payload, Term,
    Write, WriteId,
};

use super::commands::Command;
use super::harness::cluster::{Cluster, Envelope};
use super::harness::disk::Disk;
use super::harness::draw;

/// What one script has set up.
#[derive(Default)]
pub(crate) struct Script {
    cluster: Option<Cluster>,
    /// Messages that are kept back.
    delayed: Vec<Envelope>,
}

type Lines = Result<Vec<String>, Box<dyn Error>>;

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Result<String, Box<dyn Error>> {
        if let Command::Cluster { nodes, voters, .. } = command {
            let mut cluster = Cluster::new(*nodes, voters.unwrap_or(*nodes), &config(command));
            cluster.trace.on = true;
            *self = Self { cluster: Some(cluster), delayed: Vec::new() };
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
    let usual = Config {
        election_ticks: 10,
        heartbeat_ticks: 3,
        disk_stall_ticks: 15,
        max_follower_lag: 0,
        ..Config::new(NodeId(0), 1)
    };
    let Command::Cluster {
        nodes: _,
        voters: _,
        window,
        window_bytes,
        append_bytes,
        uncommitted_bytes,
        command_bytes,
        cache_bytes,
        apply_bytes,
        reads,
        lag,
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
        max_follower_lag: lag.unwrap_or(usual.max_follower_lag),
        ..usual
    }
}

fn run(cluster: &mut Cluster, delayed: &mut Vec<Envelope>, command: &Command) -> Lines {
    let n = NodeId;
    match command {
        Command::Cluster { .. } => {}
        Command::Given { id, terms, term, vote, applied } => {
            let terms = terms.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
            let term = Term(term.or(terms.last().copied()).unwrap_or(0));
            let hard_state = HardState { term, vote: vote.map(NodeId), damaged: false };
            given(cluster, n(*id), &terms, hard_state, LogIndex(applied.unwrap_or(0)));
        }
        Command::Campaign(id) => cluster.step(n(*id), Input::Campaign),
        Command::Transfer(id, to) => cluster.step(n(*id), Input::TransferLeadership { to: n(*to) }),
        Command::Lost(id, peer) => cluster.step(n(*id), Input::PeerLost(n(*peer))),
        Command::Tick(id, count) => tick(cluster, *id, *count),
        Command::Propose(id, commands) => {
            let commands = commands.iter().map(|(key, value)| Bytes::from(format!("{key}={value}")));
            cluster.propose(n(*id), commands.collect());
        }
        Command::Members { id, voters, learners } => {
            let ids = |text: &str| -> Result<_, Box<dyn Error>> {
                Ok(text
                    .split_whitespace()
                    .map(|id| id.parse().map(NodeId))
                    .collect::<Result<BTreeSet<_>, _>>()?)
            };
            cluster.change_members(n(*id), ids(voters)?, ids(learners.as_deref().unwrap_or_default())?);
        }
        Command::Read(id) => cluster.read(n(*id)),
        Command::Deliver { to, from, count } => deliver(cluster, *to, *from, count.unwrap_or(usize::MAX)),
        Command::Gather(to) => cluster.deliver_together(n(*to)),
        Command::Forge { from, to, after, terms, commit } => {
            let terms = terms.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
            forge(cluster, n(*from), n(*to), LogIndex(*after), &terms, LogIndex(*commit))?;
        }
        Command::Drop(from, to) => {
            let lost = take_between(&mut cluster.network, *from, *to);
            return Ok(lost.iter().map(|sent| draw_envelope(sent) + " (lost)").collect());
        }
        Command::Duplicate(from, to) => {
            let sent = cluster.network.iter().filter(|sent| is_between(sent, *from, *to));
            let again: Vec<_> = sent.cloned().collect();
            cluster.network.extend(again);
        }
        Command::Delay(from, to) => delayed.extend(take_between(&mut cluster.network, *from, *to)),
        Command::Release => cluster.network.append(delayed),
        Command::Partition(inside) => partition(cluster, &inside.iter().copied().map(NodeId).collect()),
        Command::Cut(from, to) => {
            cluster.cut.insert((n(*from), n(*to)));
        }
        Command::Heal => cluster.cut.clear(),
        Command::Stabilize => stabilize(cluster)?,
        Command::Network => return Ok(cluster.network.iter().map(draw_envelope).collect()),
        Command::Hold(id, what) => hold(cluster, *id, what, true)?,
        Command::Go(id, what) => hold(cluster, *id, what, false)?,
        Command::Persist(id, count) => cluster.sync(n(*id), count.unwrap_or(usize::MAX)),
        Command::PersistedAgain(id, write) => cluster.step(n(*id), Input::Persisted(WriteId(*write))),
        Command::Compact { id, to } => cluster.compact(n(*id), LogIndex(*to)),
        Command::Snapshot(id) => cluster.go_on_with_snapshot(n(*id)),
        Command::Distrust(id) => cluster.step(n(*id), Input::DistrustState),
        Command::LoseState(id) => cluster.lose_state(n(*id)),
        Command::Apply(id) => cluster.finish_apply(n(*id)),
        Command::Fetch(id) => cluster.finish_fetch(n(*id)),
        Command::Crash { id, kept, applied } => {
            cluster.crash(n(*id), kept.unwrap_or(0), LogIndex(applied.unwrap_or(u64::MAX)));
        }
        Command::Restart(id) => cluster.start(n(*id)),
        Command::Damage { id, from, unnoticed } => {
            cluster.damage(n(*id), LogIndex(*from), !unnoticed.unwrap_or(false));
        }
        Command::Status(id) => {
            let wanted = cluster.ids().into_iter().filter(|each| id.is_none_or(|id| *each == n(id)));
            return Ok(wanted.map(|id| draw_status(cluster, id)).collect());
        }
        Command::Waiting => return Ok(vec![format!("{} requests wait", cluster.checks.waiting())]),
        Command::Logs => return Ok(cluster.ids().into_iter().map(|id| draw_log(cluster, id)).collect()),
    }
    Ok(Vec::new())
}

fn given(cluster: &mut Cluster, id: NodeId, terms: &[u64], hard_state: HardState, applied: LogIndex) {
    cluster.crash(id, 0, LogIndex(0));
    let node = cluster.node(id);
    node.disk = disk_with_log(terms, hard_state);
    node.applied = applied;
    cluster.start(id);
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

fn tick(cluster: &mut Cluster, id: u64, count: u64) {
    for _ in 0..count {
        for each in cluster.ids().into_iter().filter(|each| id == 0 || *each == NodeId(id)) {
            cluster.step(each, Input::Tick);
        }
    }
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

fn forge(
    cluster: &mut Cluster,
    from: NodeId,
    to: NodeId,
    after: LogIndex,
    terms: &[u64],
    commit: LogIndex,
) -> Result<(), Box<dyn Error>> {
    let term_after = cluster.nodes[&to].raft.as_ref().and_then(|raft| raft.term_at(after));
    let prev = LogPosition { index: after, term: term_after.ok_or("the receiver has no such entry")? };
    let entry =
        |(at, term): (u64, &u64)| Entry { term: Term(*term), index: after.plus(at), payload: Payload::Noop };
    let entries = (1..).zip(terms).map(entry).collect();
    let term = cluster.status(from).ok_or("the sender is down")?.term;
    let message = Message { term, body: Body::Append(Append { prev, entries, commit, round: 0 }) };
    cluster.network.push(Envelope { from, to, message });
    Ok(())
}

fn stabilize(cluster: &mut Cluster) -> Result<(), Box<dyn Error>> {
    for _ in 0..1000 {
        if cluster.network.is_empty() {
            return Ok(());
        }
        cluster.deliver(0);
    }
    Err("the network does not come to rest".into())
}

fn is_between(sent: &Envelope, from: u64, to: u64) -> bool {
    (sent.from, sent.to) == (NodeId(from), NodeId(to))
}

fn take_between(network: &mut Vec<Envelope>, from: u64, to: u64) -> Vec<Envelope> {
    network.extract_if(.., |sent| is_between(sent, from, to)).collect()
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
        "snapshots" => node.held.snapshots = held,
        _ => return Err(format!("{what} is neither disk, machine, fetches nor snapshots").into()),
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
    let from = raft.base().index.next();
    let terms = (from.0..).map(LogIndex).map_while(|index| raft.term_at(index).map(|term| (index, term)));
    let drawn: Vec<_> = terms
        .map(|(index, term)| if index <= commit { format!("[{term}]") } else { format!(" {term} ") })
        .collect();
    let gone = if from == LogIndex(1) { String::new() } else { format!("({}) ", raft.base().index) };
    format!("n{id} {gone}{}", drawn.concat()).trim_end().to_owned()
}
