//! Servers within this process, which are called without a client: as a program does that embeds them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use raftmap::api::{Call, GetValueInput, ProposeValueInput, ReadOptions};
use raftmap::local_cluster::LocalCluster;
use raftmap::state::{Get, Put, PutEntry};
use raftmap::tls::config::TlsFiles;
use raftmap::{Node, NodeConfig, ReadAndWrite};
use raftmap_proto::v1;

use super::super::exit::Failure;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take until one leads.
const STARTING: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// All nodes of a cluster.
pub(super) struct Nodes {
    nodes: Vec<Node>,
    /// The place of the one that leads.
    leader: usize,
}

impl Nodes {
    pub(super) fn leader(&self) -> &Node {
        &self.nodes[self.leader]
    }

    /// The leader ends last: nobody has to be elected.
    pub(super) async fn shut_down(mut self) {
        let last = self.nodes.swap_remove(self.leader);
        for node in self.nodes.iter().chain([&last]) {
            node.shut_down(PATIENCE).await;
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::Failed(format!("a node did not start: {error}"))
}

/// Starts the nodes of `cluster`, of which none runs as a process, and waits until one leads.
pub(super) async fn start(cluster: &LocalCluster) -> Result<Nodes, Failure> {
    let mut nodes = Vec::new();
    for member in &cluster.plan().members {
        let file = |name: &str| cluster.certs_dir().join(name);
        let tls = TlsFiles {
            ca: file("ca.pem"),
            certificate: file(&format!("node-{}.pem", member.id)),
            key: file(&format!("node-{}.key", member.id)),
        };
        let config = NodeConfig::new(cluster.data_dir(member.id), member.peer_listen, Some(tls));
        nodes.push(Node::start(config).await.map_err(|error| failed(&error))?);
    }
    let deadline = Instant::now() + STARTING;
    while Instant::now() < deadline {
        for (leader, node) in nodes.iter().enumerate() {
            let status = node.status(call()).await.map_err(|failure| failed(&failure.reason))?;
            let leads = |member: &v1::MemberStatus| member.state == v1::member_status::State::LEADER;
            if status.members.iter().any(|member| member.id == status.answered_by && leads(member)) {
                return Ok(Nodes { nodes, leader });
            }
        }
        tokio::time::sleep(POLL).await;
    }
    Err(failed(&"none leads"))
}

/// A request that is tried once.
fn call() -> Call {
    Call { request_id: String::new(), deadline: Instant::now() + PATIENCE, trace: None }
}

pub(super) async fn put_many(node: &Node, entries: Vec<(Bytes, Bytes)>) -> Result<(), String> {
    let entries = entries.into_iter().map(|(key, value)| PutEntry { key, value, ttl_ms: None }).collect();
    let put = Put { entries, return_previous: false };
    let input = ProposeValueInput { put, session: None, call: call() };
    node.propose_value(input).await.map(drop).map_err(|failure| failure.reason)
}

pub(super) async fn get(node: &Node, key: Bytes) -> Result<(), String> {
    let input = GetValueInput { get: Get { keys: vec![key] }, options: ReadOptions::default(), call: call() };
    node.get_value(input).await.map(drop).map_err(|failure| failure.reason)
}
