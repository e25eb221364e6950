//! `raft`, known as raft-rs: messages in, a `Ready` out, over its own `MemStorage`. The loop is that of its example
//! `single_mem_node`: what a node was sent is stepped together, then one `Ready` is taken and advanced.

use std::time::{Duration, Instant};

use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};
use slog::{Discard, Logger, o};

use crate::load::{Load, NODES};

struct Node {
    raft: RawNode<MemStorage>,
    storage: MemStorage,
    inbox: Vec<Message>,
    applied: u64,
}

struct Cluster {
    nodes: Vec<Node>,
}

/// How long it takes until all three nodes have applied the load.
pub(crate) fn run(load: &Load) -> Duration {
    let mut cluster = Cluster::elected();
    let start = Instant::now();
    let first = cluster.nodes[0].applied;
    let mut last = first;
    for batch in load.batches() {
        // One proposal of many entries: one append, and one message to each follower. `propose` sends a message for each.
        let entries: Vec<Entry> =
            batch.iter().map(|command| Entry { data: command.clone(), ..Entry::default() }).collect();
        let mut proposal = Message { from: 1, entries: entries.into(), ..Message::default() };
        proposal.set_msg_type(MessageType::MsgPropose);
        last += batch.len() as u64;
        cluster.nodes[0].raft.step(proposal).expect("it leads");
        cluster.act(0);
        while cluster.nodes[0].applied < last {
            cluster.turn();
        }
    }
    while cluster.nodes.iter().any(|node| node.applied < last) {
        cluster.turn();
    }
    let took = start.elapsed();
    assert_eq!(last - first, load.entries() as u64, "each was committed");
    took
}

impl Cluster {
    fn elected() -> Self {
        let mut this = Self { nodes: (1..=NODES).map(Node::new).collect() };
        this.nodes[0].raft.campaign().expect("it may");
        this.act(0);
        while this.nodes.iter().any(|node| !node.inbox.is_empty()) {
            this.turn();
        }
        assert_eq!(this.nodes[0].raft.raft.state, StateRole::Leader);
        this
    }

    /// Hands every node what it was sent.
    fn turn(&mut self) {
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            if node.inbox.is_empty() {
                continue;
            }
            for message in node.inbox.drain(..) {
                node.raft.step(message).expect("a message of a member");
            }
            self.act(at);
        }
    }

    /// Takes what a node wants done, does it, and reports it at once.
    fn act(&mut self, at: usize) {
        while self.nodes[at].raft.has_ready() {
            let mut ready = self.nodes[at].raft.ready();
            self.send(ready.take_messages());
            let node = &mut self.nodes[at];
            node.apply(ready.take_committed_entries());
            let mut storage = node.storage.wl();
            if !ready.entries().is_empty() {
                storage.append(ready.entries()).expect("behind the last one");
            }
            if let Some(hard_state) = ready.hs() {
                storage.set_hardstate(hard_state.clone());
            }
            drop(storage);
            self.send(ready.take_persisted_messages());
            let node = &mut self.nodes[at];
            let mut light = node.raft.advance(ready);
            if let Some(commit) = light.commit_index() {
                node.storage.wl().mut_hard_state().set_commit(commit);
            }
            node.apply(light.take_committed_entries());
            node.raft.advance_apply();
            self.send(light.take_messages());
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let to = usize::try_from(message.to - 1).expect("one of three");
            self.nodes[to].inbox.push(message);
        }
    }
}

impl Node {
    fn new(id: u64) -> Self {
        let voters: Vec<u64> = (1..=NODES).collect();
        let storage = MemStorage::new_with_conf_state(ConfState::from((voters, Vec::new())));
        // What `raftmap-raft` always does, and the limits that it has.
        let config = Config {
            id,
            check_quorum: true,
            pre_vote: true,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 64,
            ..Config::default()
        };
        let logger = Logger::root(Discard, o!());
        let raft = RawNode::new(&config, storage.clone(), &logger).expect("a configuration that holds");
        Self { raft, storage, inbox: Vec::new(), applied: 0 }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        self.applied = entries.last().map_or(self.applied, |entry| entry.index);
    }
}
