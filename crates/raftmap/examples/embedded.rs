//! Three nodes in one program: each keeps the same map, and each can be asked.
//!
//! ```text
//! cargo run --example embedded
//! ```
//!
//! Real programs run one node each, on machines of their own; the code is the same. Here the nodes talk over loopback without
//! TLS, which is for one machine only.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use raftmap::api::{Call, GetValueInput, ProposeValueInput, ReadOptions};
use raftmap::node::{self, FoundingMember, NodeId};
use raftmap::state::{Get, Put, PutEntry};
use raftmap::{Node, NodeConfig, ReadAndWrite};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let ports = free_ports::<3>()?;
    let member = |at: usize| FoundingMember {
        node: NodeId(at as u64 + 1),
        peer_address: ports[at].to_string(),
        client_address: ports[at].to_string(),
    };
    let members: Vec<_> = (0..3).map(member).collect();

    let mut nodes = Vec::new();
    for (member, port) in members.iter().zip(ports) {
        let data_dir = folder.path().join(format!("node-{}", member.node));
        node::init(&data_dir, &"embedded".parse()?, member.node, members.clone())?;
        nodes.push(Node::start(NodeConfig::new(data_dir, port, None)).await?);
    }

    let entry = PutEntry { key: "order/1".into(), value: "paid".into(), ttl_ms: NonZeroU64::new(3_600_000) };
    let put = Put { entries: vec![entry], return_previous: false };
    let written = nodes[0].propose_value(ProposeValueInput { put, session: None, call: call() }).await?;
    println!("on disk on a majority, at revision {}", written.revision);

    for node in &nodes {
        let get = Get { keys: vec!["order/1".into()] };
        let answer =
            node.get_value(GetValueInput { get, options: ReadOptions::default(), call: call() }).await?;
        let value =
            answer.records[0].as_ref().map(|record| String::from_utf8_lossy(&record.value).into_owned());
        println!("node {} reads {value:?}", node.identity().node());
    }

    for node in nodes {
        node.shut_down(Duration::from_secs(5)).await;
    }
    Ok(())
}

fn call() -> Call {
    Call { request_id: String::new(), deadline: Instant::now() + Duration::from_secs(10), trace: None }
}

/// Ports of this machine that were free a moment ago.
fn free_ports<const N: usize>() -> std::io::Result<[SocketAddr; N]> {
    let mut ports = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    let listeners: Vec<_> = ports.iter().map(TcpListener::bind).collect::<Result<_, _>>()?;
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?;
    }
    Ok(ports)
}
