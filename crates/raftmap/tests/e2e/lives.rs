//! What is no failure: servers that end in good order, a cluster at rest, nodes in one's own program.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raftmap::api::{
    Call, Code, Failure, FailureOutcome, GetValueInput, ProposeValueInput, ReadOptions, WriteInput,
};
use raftmap::local_cluster::{LocalCluster, LocalPlan};
use raftmap::tls::config::TlsFiles;
use raftmap::{Node, NodeConfig, ReadAndWrite};
use raftmap_raft::NodeId;
use raftmap_state::{Get, Put, PutEntry, WriteRequest};
use tokio::time::sleep;

use crate::support::{Load, PATIENCE, World, until};

/// How long a cluster at rest is watched.
const REST: Duration = Duration::from_secs(3);

/// A leader that is asked to end hands over first: whoever calls meanwhile waits for the next one, and no call fails.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_asked_to_end_one_after_the_other_fail_no_call() {
    let mut world = World::start().await;
    let load = Load::start(&world, 4).await;
    for _ in 0..2 {
        let leader = world.leader().await.unwrap();
        for id in world.others(&[leader]).into_iter().chain([leader]) {
            load.more(100).await;
            let status = world.stop(id).await.unwrap();
            assert!(status.success(), "server {id} ended with {status}");
            world.start(id).await.unwrap();
        }
    }
    let ledger = load.stop().await;
    ledger.demand_no_failure();
    world.verify(&ledger).await;
}

/// What a process has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    /// Bytes that it caused to be written to disks.
    written_bytes: u64,
    /// Processor time, in ticks of the kernel's clock (100 a second).
    processor_ticks: u64,
}

fn used(pid: u32) -> Use {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name may hold anything; behind it the fields are numbers: user and system time are the 14th and 15th.
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = |at: usize| fields[at - 3].parse::<u64>().unwrap();
    Use { written_bytes: written.parse().unwrap(), processor_ticks: ticks(14) + ticks(15) }
}

/// A cluster at rest writes nothing: neither heartbeats nor reads nor the passing of time reach the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_at_rest_writes_nothing_to_disk() {
    let mut world = World::start().await;
    let load = Load::start(&world, 2).await;
    load.more(200).await;
    load.stop().await;
    world.agree(&world.ids()).await;
    let pids: Vec<u32> = world.ids().into_iter().map(|id| world.pid(id).unwrap()).collect();
    let all = || pids.iter().map(|pid| used(*pid)).collect::<Vec<_>>();
    let busy = until("a while in which no server writes", async || {
        let before = all();
        sleep(REST).await;
        let after = all();
        let silent =
            before.iter().zip(&after).all(|(before, after)| before.written_bytes == after.written_bytes);
        silent.then(|| before.iter().zip(&after).map(|(b, a)| a.processor_ticks - b.processor_ticks).max())
    })
    .await;
    // Printed for who wants to know: the machine may be busy with other things.
    eprintln!("a server at rest used at most {} ms of processor time in {REST:?}", 10 * busy.unwrap());
}

/// Three nodes in one program: no process, no front door.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_in_one_program_keep_a_map() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let plan = LocalPlan::new("none", folder.path(), 3).unwrap();
    let cluster = plan.found().unwrap();
    let config = |id: NodeId| config(&cluster, id);
    let mut nodes = Vec::new();
    for id in cluster.ids() {
        nodes.push(Node::start(config(id)).await.unwrap());
    }
    propose(&nodes[0], "k", "by the first").await;
    assert_eq!(get(&nodes[2], "k").await.as_deref(), Some("by the first"));

    let stopped = nodes.remove(0);
    stopped.shut_down(PATIENCE).await;
    drop(stopped);
    propose(&nodes[0], "k", "without the first").await;
    // The same data directory in the same process.
    let again = Node::start(config(cluster.ids()[0])).await.unwrap();
    assert_eq!(get(&again, "k").await.as_deref(), Some("without the first"));
    nodes.push(again);
    for node in nodes {
        node.shut_down(PATIENCE).await;
    }
}

/// Writes that are handed over together are answered one by one: what there is no room for at once, what the node ends before
/// with an unknown outcome.
#[tokio::test(flavor = "multi_thread")]
async fn of_writes_that_come_together_each_is_answered_once_though_there_is_no_room_or_the_node_ends() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let cluster = LocalPlan::new("none", folder.path(), 3).unwrap().found().unwrap();
    let config = NodeConfig { requests_max: 10, ..config(&cluster, cluster.ids()[0]) };
    // Alone it has no majority: what it takes waits.
    let node = Arc::new(Node::start(config).await.unwrap());
    let (answered, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let call = Call { deadline: Instant::now() + 10 * PATIENCE, ..call() };
    let writes = (0..30).map(|n| {
        let write = WriteInput {
            request: WriteRequest::Put(put(&format!("k{n}"), "v")),
            session: None,
            call: call.clone(),
        };
        let answered = answered.clone();
        (node.check_write(write).unwrap(), move |result| answered.send((n, result)).unwrap())
    });
    node.submit_writes(writes.collect());
    drop(answered);
    for n in 10..30 {
        let (which, result) = answers.recv().await.unwrap();
        let failure: Failure = result.unwrap_err();
        assert_eq!((which, failure.code, failure.limit), (n, Code::Overloaded, Some(10)));
    }
    node.shut_down(Duration::ZERO).await;
    let mut ended = Vec::new();
    while let Some((which, result)) = answers.recv().await {
        assert_eq!(result.unwrap_err().outcome, FailureOutcome::Unknown);
        ended.push(which);
    }
    ended.sort_unstable();
    assert_eq!(ended, (0..10).collect::<Vec<_>>());
}

fn config(cluster: &LocalCluster, id: NodeId) -> NodeConfig {
    let member = cluster.plan().members.iter().find(|member| member.id == id).unwrap();
    let certs = cluster.certs_dir();
    let tls = TlsFiles {
        ca: certs.join("ca.pem"),
        certificate: certs.join(format!("node-{id}.pem")),
        key: certs.join(format!("node-{id}.key")),
    };
    NodeConfig::new(cluster.data_dir(id), member.peer_listen, Some(tls))
}

fn call() -> Call {
    Call { request_id: "embedded".to_owned(), deadline: Instant::now() + Duration::from_secs(5), trace: None }
}

fn put(key: &str, value: &str) -> Put {
    let entry = PutEntry { key: key.to_owned().into(), value: value.to_owned().into(), ttl_ms: None };
    Put { entries: vec![entry], return_previous: false }
}

async fn propose(node: &Node, key: &str, value: &str) {
    let put = put(key, value);
    until("a write", async || {
        let input = ProposeValueInput { put: put.clone(), session: None, call: call() };
        node.propose_value(input).await.ok()
    })
    .await;
}

async fn get(node: &Node, key: &str) -> Option<String> {
    let get = Get { keys: vec![key.to_owned().into()] };
    let answer = until("a read", async || {
        let input = GetValueInput { get: get.clone(), options: ReadOptions::default(), call: call() };
        node.get_value(input).await.ok()
    })
    .await;
    let record = answer.records.into_iter().next().expect("one for each key");
    record.map(|record| String::from_utf8_lossy(&record.value).into_owned())
}
