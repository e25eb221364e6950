//! `raftmap-raft`: inputs in, actions out. What a node was sent is stepped together, and then its actions are taken, as the
//! replica does it.

use std::time::{Duration, Instant};

use raftmap_raft::{
    Action, Config, Ctx, Entry, Input, LogIndex, Membership, Message, NodeId, Raft, Restored,
};

use crate::load::{Load, NODES};

struct Node {
    raft: Raft,
    /// What is on its disk.
    log: Vec<Entry>,
    inbox: Vec<(NodeId, Message)>,
    applied: LogIndex,
    /// The proposals made here that were applied.
    answered: usize,
}

struct Cluster {
    nodes: Vec<Node>,
}

/// How long it takes until all three nodes have applied the load.
pub(crate) fn run(load: &Load) -> Duration {
    let mut cluster = Cluster::elected();
    let start = Instant::now();
    let mut asked = 0;
    for batch in load.batches() {
        for command in batch {
            asked += 1;
            cluster.nodes[0].raft.step(Input::Propose { ctx: Ctx(asked), command: command.clone() });
        }
        cluster.act(0);
        while (cluster.nodes[0].answered as u64) < asked {
            cluster.turn();
        }
    }
    let last = cluster.nodes[0].applied;
    while cluster.nodes.iter().any(|node| node.applied < last) {
        // Followers hear of a commit with the next append. Of the last one they hear with a tick.
        (0..cluster.nodes.len()).for_each(|at| cluster.tick(at));
        cluster.turn();
    }
    let took = start.elapsed();
    assert_eq!(cluster.nodes[0].answered, load.entries(), "each was committed");
    took
}

impl Cluster {
    fn elected() -> Self {
        let members = Membership::of_voters((1..=NODES).map(NodeId));
        let restored =
            || Restored { memberships: vec![(LogIndex(0), members.clone())], ..Restored::default() };
        let node = |id| Node {
            raft: Raft::new(Config::new(NodeId(id), id), restored()),
            log: Vec::new(),
            inbox: Vec::new(),
            applied: LogIndex(0),
            answered: 0,
        };
        let mut this = Self { nodes: (1..=NODES).map(node).collect() };
        this.nodes[0].raft.step(Input::Campaign);
        this.act(0);
        while this.nodes.iter().any(|node| !node.inbox.is_empty()) {
            this.turn();
        }
        assert!(this.nodes[0].raft.is_leader());
        this
    }

    fn tick(&mut self, at: usize) {
        self.nodes[at].raft.step(Input::Tick);
        self.act(at);
    }

    /// Hands every node what it was sent.
    fn turn(&mut self) {
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            if node.inbox.is_empty() {
                continue;
            }
            for (from, message) in node.inbox.drain(..) {
                node.raft.step(Input::Receive { from, message });
            }
            self.act(at);
        }
    }

    /// Carries out what a node wants done, and reports at once what it waits for.
    fn act(&mut self, at: usize) {
        let mut waits = true;
        while std::mem::take(&mut waits) {
            let node = &mut self.nodes[at];
            let from = node.raft.id();
            for action in node.raft.take_actions() {
                let node = &mut self.nodes[at];
                match action {
                    Action::Write(write) => {
                        node.log.extend(write.entries);
                        node.raft.step(Input::Persisted(write.id));
                        waits = true;
                    }
                    Action::Apply { entries, proposals } => {
                        node.applied = entries.last().map_or(node.applied, |entry| entry.index);
                        node.answered += proposals.len();
                        node.raft.step(Input::Applied(node.applied));
                        waits = true;
                    }
                    Action::Send { to, message } => {
                        let to = usize::try_from(to.0 - 1).expect("one of three");
                        self.nodes[to].inbox.push((from, message));
                    }
                    Action::Event(_) => {}
                    other => unreachable!("nothing is lost, compacted or refused here: {other:?}"),
                }
            }
        }
    }
}
