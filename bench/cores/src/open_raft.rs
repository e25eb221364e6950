//! `openraft`: its `Raft` on a runtime of one thread. Its engine, which decides without it, is private; so what its tasks and
//! channels cost is measured, too.

mod store;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{Config, EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2, SnapshotPolicy};

use crate::load::{Load, NODES};
use store::{Log, Machine};

/// What an entry carries. It has a name for logs, which nobody reads here.
#[derive(Clone, Debug)]
pub(crate) struct Command(Bytes);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    /// The types of the nodes.
    pub(crate) Types: D = Command, R = (), Node = EmptyNode,
);

type Raft = openraft::Raft<Types, Machine>;
type Peers = Arc<Vec<OnceLock<Raft>>>;

/// How long it takes until all three nodes have applied the load.
pub(crate) fn run(load: &Load) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (rafts, machines) = elected().await;
        let start = Instant::now();
        for batch in load.batches() {
            if let [command] = batch {
                rafts[0].client_write(Command(command.clone())).await.expect("it leads");
            } else {
                let answers =
                    rafts[0].client_write_many(batch.iter().cloned().map(Command)).await.expect("it runs");
                answers
                    .try_for_each(async |answer| {
                        answer.expect("it leads");
                        Ok(())
                    })
                    .await
                    .expect("it runs");
            }
        }
        let last = machines[0].applied();
        while machines.iter().any(|machine| machine.applied() < last) {
            tokio::task::yield_now().await;
        }
        let took = start.elapsed();
        assert_eq!(machines[0].commands(), load.entries(), "each was committed");
        for raft in rafts {
            raft.shutdown().await.expect("it ends");
        }
        took
    })
}

/// Three nodes, of which the first one leads.
async fn elected() -> (Vec<Raft>, Vec<Machine>) {
    // No snapshot, and no other leader, in the middle of it; the rest is as it comes.
    let config = Config {
        snapshot_policy: SnapshotPolicy::Never,
        election_timeout_min: 5_000,
        election_timeout_max: 10_000,
        ..Config::default()
    };
    let config = Arc::new(config.validate().expect("a configuration that holds"));
    let peers: Peers = Arc::new((0..NODES).map(|_| OnceLock::new()).collect());
    let (mut rafts, mut machines) = (Vec::new(), Vec::new());
    for id in 1..=NODES {
        let machine = Machine::default();
        let network = Network(Arc::clone(&peers));
        let raft = Raft::new(id, Arc::clone(&config), network, Log::default(), machine.clone())
            .await
            .expect("it starts");
        peers[at(id)].get_or_init(|| raft.clone());
        rafts.push(raft);
        machines.push(machine);
    }
    let members: std::collections::BTreeMap<_, _> = (1..=NODES).map(|id| (id, EmptyNode {})).collect();
    rafts[0].initialize(members).await.expect("it is new");
    rafts[0].wait(None).current_leader(1, "elected").await.expect("it stands for election at once");
    (rafts, machines)
}

fn at(id: u64) -> usize {
    usize::try_from(id - 1).expect("one of three")
}

/// Hands requests to the nodes themselves.
struct Network(Peers);

struct Peer(Raft);

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Peer {
        Peer(self.0[at(target)].get().expect("all nodes are there before one leads").clone())
    }
}

type Answer<T> = Result<T, RPCError<Types>>;

fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Answer<AppendEntriesResponse<Types>> {
        self.0.append_entries(request).await.map_err(|error| unreachable(&error))
    }

    async fn vote(&mut self, request: VoteRequest<Types>, _: RPCOption) -> Answer<VoteResponse<Types>> {
        self.0.vote(request).await.map_err(|error| unreachable(&error))
    }

    async fn full_snapshot(
        &mut self,
        _: VoteOf<Types>,
        _: SnapshotOf<Types, ()>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        unreachable!("no log is cut")
    }
}
