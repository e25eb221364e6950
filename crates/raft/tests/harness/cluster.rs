//! The cluster: what the test does to it, and how nodes carry out their actions.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raftmap_raft::{
    Action, Config, Ctx, FetchPurpose, Input, LogIndex, Message, NodeId, Snapshot, StateId, Status,
};

use super::checks::Checks;
use super::draw::{self, Trace};
use super::node::{Asked, Fetch, Node};

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    /// Messages on their way, in the order in which they were sent.
    pub(crate) network: Vec<Envelope>,
    /// Ways on which messages get lost: from, to.
    pub(crate) cut: BTreeSet<(NodeId, NodeId)>,
    pub(crate) checks: Checks,
    pub(crate) trace: Trace,
    /// Who votes before anything changed that.
    founders: Vec<NodeId>,
    ctxs: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
}

impl Cluster {
    /// Nodes 1 to `count`, with empty disks, all up, of which the first so many are the founding voters. `config` is theirs but
    /// for the id and the seed.
    pub(crate) fn new(count: u64, voters: u64, config: &Config) -> Self {
        let nodes = (1..=count).map(NodeId).map(|id| (id, Node::new(Config { id, ..config.clone() })));
        let mut cluster = Self {
            nodes: nodes.collect(),
            network: Vec::new(),
            cut: BTreeSet::new(),
            checks: Checks::new((1..=voters).map(NodeId)),
            trace: Trace::default(),
            founders: (1..=voters).map(NodeId).collect(),
            ctxs: 0,
        };
        for id in cluster.ids() {
            cluster.start(id);
        }
        cluster
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the cluster")
    }

    pub(crate) fn is_up(&self, id: NodeId) -> bool {
        self.nodes[&id].raft.is_some()
    }

    pub(crate) fn status(&self, id: NodeId) -> Option<Status> {
        self.nodes[&id].raft.as_ref().map(raftmap_raft::Raft::status)
    }

    /// Gives `input` to a node that is up, and lets it carry out what follows.
    pub(crate) fn step(&mut self, id: NodeId, input: Input) {
        if let Some(raft) = &mut self.node(id).raft {
            let quiet = matches!(input, Input::Tick) && raft.quiet_ticks() > 0;
            raft.step(input);
            if quiet {
                let actions = raft.take_actions();
                assert!(actions.is_empty(), "a tick that was said to be quiet: {actions:?}");
            }
            self.settle(id);
        }
    }

    /// Gives a node several inputs before it acts.
    pub(crate) fn step_together(&mut self, id: NodeId, inputs: Vec<Input>) {
        if let Some(raft) = &mut self.node(id).raft {
            inputs.into_iter().for_each(|input| raft.step(input));
            self.settle(id);
        }
    }

    /// Carries out actions until there are none, but for the work that is held.
    fn settle(&mut self, id: NodeId) {
        loop {
            let actions = self.node(id).raft.as_mut().expect("it is up").take_actions();
            self.checks.commits(&self.nodes, id);
            for action in actions {
                self.carry_out(id, action);
            }
            if !self.work(id) {
                return;
            }
        }
    }

    fn carry_out(&mut self, id: NodeId, action: Action) {
        self.checks.action(&self.nodes[&id], &action);
        let lost = matches!(&action, Action::Send { to, .. } if self.cut.contains(&(id, *to)));
        self.trace.line(|| draw::action(id, &action) + if lost { " (lost)" } else { "" });
        let node = self.node(id);
        match action {
            Action::Write(write) => node.disk.write(write),
            Action::Send { to, message } if !lost => self.network.push(Envelope { from: id, to, message }),
            Action::Apply { entries, .. } => node.applying = entries.last().map(|last| last.index),
            Action::Fetch { purpose, from, to, max_bytes } => {
                node.fetches.push_back(Fetch { purpose, from, to, max_bytes });
            }
            Action::FetchSnapshot { from, at_least } => {
                assert!(node.asked.is_none(), "n{id} asks for two snapshots");
                node.asked = Some(Asked { from, at_least, taken: None });
            }
            Action::Install { state, .. } => {
                let held = node.snapshots.iter().find(|snapshot| snapshot.state == state);
                node.applying = Some(held.expect("it is held here").position.index);
            }
            Action::Discard { state } => node.snapshots.retain(|snapshot| snapshot.state != state),
            Action::Send { .. } | Action::ReadReady { .. } | Action::Failed { .. } | Action::Event(_) => {}
        }
    }

    /// Does work that is not held; whether there was any.
    fn work(&mut self, id: NodeId) -> bool {
        let held = self.nodes[&id].held;
        (!held.syncs && self.sync_step(id, usize::MAX))
            || (!held.applies && self.applied_step(id))
            || (!held.fetches && self.fetched_step(id))
            || (!held.snapshots && self.snapshot_step(id))
    }

    /// Takes the snapshot that a node asked for, where it asked; the next step brings it.
    fn snapshot_step(&mut self, id: NodeId) -> bool {
        let Some(Asked { from, at_least, taken }) = self.node(id).asked.take() else { return false };
        if let Some(snapshot) = taken {
            let node = self.node(id);
            node.snapshots.push(snapshot.clone());
            node.raft.as_mut().expect("it is up").step(Input::SnapshotReady(snapshot));
            return true;
        }
        let source = &self.nodes[&from];
        let whole = source.raft.as_ref().is_some_and(|raft| !raft.is_state_lost());
        if !whole || source.applied < at_least || self.cut.contains(&(from, id)) {
            self.trace.line(|| format!("n{id} gets no snapshot of n{from}"));
            self.node(id).raft.as_mut().expect("it is up").step(Input::SnapshotFailed);
            return true;
        }
        let (position, membership) = self.checks.state_at(source.applied);
        let node = self.node(id);
        let state = StateId(node.state.0 + 1);
        node.asked = Some(Asked { from, at_least, taken: Some(Snapshot { position, membership, state }) });
        true
    }

    /// Goes on with the snapshot that a node asked for.
    pub(crate) fn go_on_with_snapshot(&mut self, id: NodeId) {
        if self.is_up(id) && self.snapshot_step(id) {
            self.settle(id);
        }
    }

    /// Makes a node's state machine durable, and lets it compact its log.
    pub(crate) fn compact(&mut self, id: NodeId, to: LogIndex) {
        if self.is_up(id) {
            let node = self.node(id);
            node.durable = node.applied;
            let input = Input::Compact { to: to.min(node.applied), durable: node.applied };
            self.step(id, input);
        }
    }

    /// A node that is down loses its state machine.
    pub(crate) fn lose_state(&mut self, id: NodeId) {
        let node = self.node(id);
        assert!(node.raft.is_none(), "n{id} is up");
        let named = node.disk.state().0;
        node.snapshots.retain(|snapshot| snapshot.state != named);
        (node.applied, node.durable, node.state) = (LogIndex(0), LogIndex(0), named);
    }

    fn sync_step(&mut self, id: NodeId, count: usize) -> bool {
        let node = self.node(id);
        let Some(synced) = node.disk.sync(count) else { return false };
        node.raft.as_mut().expect("it is up").step(Input::Persisted(synced));
        self.trace.line(|| format!("n{id} synced {synced}"));
        true
    }

    fn applied_step(&mut self, id: NodeId) -> bool {
        let node = self.node(id);
        let Some(applied) = node.applying.take() else { return false };
        node.applied = applied;
        node.install_named();
        node.raft.as_mut().expect("it is up").step(Input::Applied(applied));
        true
    }

    fn fetched_step(&mut self, id: NodeId) -> bool {
        let node = self.node(id);
        let Some(Fetch { purpose, from, to, max_bytes }) = node.fetches.pop_front() else { return false };
        let entries = node.disk.read(from, to, max_bytes);
        if entries.is_empty() {
            let overtaken =
                matches!(purpose, FetchPurpose::Send { term, .. } if term < node.disk.hard_state().term);
            let compacted = matches!(purpose, FetchPurpose::Send { .. }) && from <= node.disk.base().index;
            assert!(
                overtaken || compacted,
                "n{id} has not on disk what it wants to read: {purpose:?} from {from}"
            );
        }
        node.raft.as_mut().expect("it is up").step(Input::Fetched { purpose, entries });
        true
    }

    /// Syncs the first `count` writes that wait.
    pub(crate) fn sync(&mut self, id: NodeId, count: usize) {
        if self.is_up(id) && self.sync_step(id, count) {
            self.settle(id);
        }
    }

    /// Lets the state machine finish what it is applying.
    pub(crate) fn finish_apply(&mut self, id: NodeId) {
        if self.is_up(id) && self.applied_step(id) {
            self.settle(id);
        }
    }

    /// Answers the oldest read from disk.
    pub(crate) fn finish_fetch(&mut self, id: NodeId) {
        if self.is_up(id) && self.fetched_step(id) {
            self.settle(id);
        }
    }

    pub(crate) fn propose(&mut self, id: NodeId, commands: Vec<Bytes>) {
        let inputs = commands.into_iter().map(|command| {
            let ctx = self.next_ctx();
            self.checks.proposed(id, ctx, command.clone());
            Input::Propose { ctx, command }
        });
        let inputs = inputs.collect();
        self.step_together(id, inputs);
    }

    pub(crate) fn change_members(
        &mut self,
        id: NodeId,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) {
        let ctx = self.next_ctx();
        self.checks.change_began(id, ctx);
        self.step(id, Input::ChangeMembers { ctx, voters, learners });
    }

    pub(crate) fn read(&mut self, id: NodeId) {
        let ctx = self.next_ctx();
        self.checks.read_began(id, ctx);
        self.step(id, Input::Read { ctx });
    }

    fn next_ctx(&mut self) -> Ctx {
        self.ctxs += 1;
        Ctx(self.ctxs)
    }

    /// Takes a message off the network and gives it to its receiver, if that is up.
    pub(crate) fn deliver(&mut self, at: usize) {
        let Envelope { from, to, message } = self.network.remove(at);
        let up = self.is_up(to);
        self.trace.line(|| {
            let name = draw::name(&message.body);
            format!("n{to} ← n{from} {name}{}", if up { "" } else { " (down)" })
        });
        message.validate().expect("a message of a member");
        self.step(to, Input::Receive { from, message });
    }

    /// Delivers all messages to one node before it acts.
    pub(crate) fn deliver_together(&mut self, to: NodeId) {
        let mut inputs = Vec::new();
        for sent in self.network.extract_if(.., |sent| sent.to == to) {
            self.trace.line(|| format!("n{to} ← n{} {}", sent.from, draw::name(&sent.message.body)));
            inputs.push(Input::Receive { from: sent.from, message: sent.message });
        }
        self.step_together(to, inputs);
    }

    pub(crate) fn start(&mut self, id: NodeId) {
        let founders = self.founders.clone();
        let node = self.node(id);
        node.start(&founders);
        let (disk, applied) = (&self.nodes[&id].disk, self.nodes[&id].applied);
        self.checks.restored(disk.base(), disk.entries());
        self.trace.line(|| {
            let (state, last) = (draw::hard_state(disk.hard_state()), draw::position(disk.last()));
            format!("n{id} starts: {state}, log to {last}, applied {applied}")
        });
        self.settle(id);
    }

    /// A node that is down loses what its disk holds from `index` on, and finds out or not.
    pub(crate) fn damage(&mut self, id: NodeId, index: LogIndex, noticed: bool) {
        self.node(id).disk.damage(index, noticed);
        if !noticed {
            self.checks.a_disk_lied();
        }
    }

    /// Power fails at a node: see [`Node::crash`].
    pub(crate) fn crash(&mut self, id: NodeId, kept: usize, applied: LogIndex) {
        self.node(id).crash(kept, applied);
        self.checks.crashed(id);
    }
}
