//! Entries a second through three nodes of the core alone, in this thread; an iteration proposes one batch and goes on until
//! nothing is on its way: the leader has applied it, and followers in the measure in which they do. What is to be written is called
//! durable at once. `bench/cores` measures the same beside other cores.

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use raftmap_raft::{Action, Config, Ctx, Input, LogIndex, Membership, Message, NodeId, Raft, Restored};

const BATCHES: [u64; 2] = [1, 64];

fn main() {
    divan::main();
}

struct Node {
    raft: Raft,
    inbox: Vec<(NodeId, Message)>,
}

/// Hands round what was sent until nothing is on its way.
fn settle(nodes: &mut [Node]) {
    act(nodes, 0);
    while nodes.iter().any(|node| !node.inbox.is_empty()) {
        for at in 0..nodes.len() {
            let node = &mut nodes[at];
            for (from, message) in std::mem::take(&mut node.inbox) {
                node.raft.step(Input::Receive { from, message });
            }
            act(nodes, at);
        }
    }
}

fn act(nodes: &mut [Node], at: usize) {
    let from = nodes[at].raft.id();
    let mut waits = true;
    while std::mem::take(&mut waits) {
        for action in nodes[at].raft.take_actions() {
            let report = match action {
                Action::Write(write) => Input::Persisted(write.id),
                Action::Apply { entries, .. } => {
                    Input::Applied(entries.last().map_or(LogIndex(0), |entry| entry.index))
                }
                Action::Send { to, message } => {
                    let to = usize::try_from(to.0 - 1).expect("one of three");
                    nodes[to].inbox.push((from, message));
                    continue;
                }
                _ => continue,
            };
            nodes[at].raft.step(report);
            waits = true;
        }
    }
}

#[divan::bench(args = BATCHES)]
fn replicate(bencher: Bencher, batch: u64) {
    let members = Membership::of_voters([1, 2, 3].map(NodeId));
    let node = |id| {
        let memberships = vec![(LogIndex(0), members.clone())];
        let raft = Raft::new(Config::new(NodeId(id), id), Restored { memberships, ..Restored::default() });
        Node { raft, inbox: Vec::new() }
    };
    let mut nodes = [1, 2, 3].map(node);
    nodes[0].raft.step(Input::Campaign);
    settle(&mut nodes);
    let command = Bytes::from(vec![7; 144]);
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        for ctx in 0..batch {
            nodes[0].raft.step(Input::Propose { ctx: Ctx(ctx), command: command.clone() });
        }
        settle(&mut nodes);
    });
}
