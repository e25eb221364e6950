//! A node: one server of a cluster, as `raftmap serve` runs it and as a program embeds it.

mod addresses;
mod backup;
mod config;
mod describe;
mod opened;
mod requests;
mod snapshots;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use raftmap_log::{Identity, Log, LogOptions, RealDisk};
use raftmap_raft::Membership;
use raftmap_replica::{Event, ReplicaConfig, member_of};
use raftmap_state::validate::RequestLimits;
use tokio::sync::watch;
use tokio::task;
use xxhash_rust::xxh3::xxh3_128;

use crate::peers::{PeerLimits, Peers, PeersConfig, Security};
use crate::runtime::{
    Driver, DriverSettings, Failstop, FetchWorker, Inbox, LogThread, Meters, PeersRuntime, Ready, Scanner,
    ScrubThread, StateDirs, StateHandle, StateSlot, StateThread,
};
use crate::tls::config::Credentials;
use crate::tls::identity::ClusterName;

use self::addresses::AddressBook;
use self::opened::Opened;
use self::snapshots::{SnapshotFetcher, StateSource};

pub use self::config::{InitFailure, NodeConfig, StartFailure};
pub use crate::runtime::NodeError;
pub use raftmap_log::{FoundingMember, RestoredFrom};
pub use raftmap_raft::NodeId;
pub use raftmap_replica::CompactionConfig;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A running node. Clones are handles of the same one. It ends with [`Node::shut_down`], or by itself when its disk
/// fails or an invariant is broken: [`Node::failed`].
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    addresses: Arc<AddressBook>,
    limits: RequestLimits,
    state: StateSlot,
    inbox: Inbox,
    ready: watch::Receiver<bool>,
    failstop: Failstop,
    began: Instant,
    meters: Arc<Meters>,
    peers: Arc<Peers>,
    /// Dropped after [`Self::peers`].
    _peers_runtime: PeersRuntime,
    /// Taken when it is shut down.
    work: Mutex<Option<Work>>,
}

/// What does the work.
struct Work {
    replica: task::JoinHandle<()>,
    /// They end when the replica has.
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Shared {
    /// A node that nobody holds any more ends; its threads follow the replica.
    fn drop(&mut self) {
        self.inbox.stop();
    }
}

/// The number that stands for a cluster on disk and between servers: a hash of its name.
pub fn cluster_id(name: &ClusterName) -> u128 {
    xxh3_128(name.as_str().as_bytes())
}

/// Makes the data directory of a server that joins a cluster which was founded with `founders`, of a backup perhaps, and of which servers are at
/// `contacts` now. It takes part once it is made a member: [`crate::api::MembersChange::Add`].
///
/// # Errors
/// If the directory is not empty, or what it was told is not possible.
pub fn init_joining(
    data_dir: &Path,
    cluster: &ClusterName,
    own: FoundingMember,
    founders: Vec<FoundingMember>,
    restored_from: Option<RestoredFrom>,
    contacts: Vec<FoundingMember>,
) -> Result<Identity, InitFailure> {
    let incarnation = random_u64().map_err(InitFailure::Random)?;
    let joining = Identity::joining(cluster_id(cluster), incarnation, own, founders, contacts)?;
    let identity = restored_from.into_iter().fold(joining, Identity::restored);
    Log::init(&RealDisk, data_dir, &identity, &LogOptions::default())?;
    Ok(identity)
}

/// Makes the data directory of server `node` of a cluster that is founded with `members`, all of which must be told the
/// same.
///
/// # Errors
/// If the directory is not empty, or what it was told is not possible.
pub fn init(
    data_dir: &Path,
    cluster: &ClusterName,
    node: NodeId,
    members: Vec<FoundingMember>,
) -> Result<Identity, InitFailure> {
    if !members.iter().any(|member| member.node == node) {
        return Err(InitFailure::NotAMember(node.0));
    }
    let incarnation = random_u64().map_err(InitFailure::Random)?;
    let identity = Identity::new(cluster_id(cluster), node, incarnation, members)?;
    Log::init(&RealDisk, data_dir, &identity, &LogOptions::default())?;
    Ok(identity)
}

pub(crate) fn random_u64() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

impl Node {
    /// Starts a node on its data directory: recovers its log and state machine, listens for the other servers, and takes
    /// part in the cluster.
    ///
    /// # Errors
    /// If it cannot start. Nothing was lost by trying.
    pub async fn start(config: NodeConfig) -> Result<Self, StartFailure> {
        let failstop = Failstop::new(StateDirs::new(&config.data_dir));
        let opening = config.clone();
        let opened = task::spawn_blocking(move || Opened::open(&opening)).await;
        let opened =
            opened.map_err(|panic| StartFailure::Setting(format!("opening the data failed: {panic}")))??;
        let Opened { log, identity, dirs, current, engine, worker, replica } = opened;
        let (inbox, outbox) = Inbox::new(config.requests_max);
        let peers_config = peers_config(&config, &identity, replica.status().raft.damaged)?;
        let peers_runtime = PeersRuntime::start()?;
        let slot = StateSlot::new(StateHandle::new(worker.machine().reader(), engine));
        let source = StateSource { slot: slot.clone(), failstop: failstop.clone() };
        let peers = peers_runtime.listen(config.peer_listen, peers_config, inbox.clone(), source)?;
        let peers = Arc::new(peers);
        let (writes, write_queue) = mpsc::channel();
        let (state, state_queue) = mpsc::channel();
        let (fetches, fetch_queue) = mpsc::channel();
        let (alive, is_alive) = mpsc::channel();
        let scrub = config.scan_every.map(|every| ScrubThread {
            scrubber: log.scrubber(),
            inbox: inbox.clone(),
            every,
            bytes_per_second: config.scan_bytes_per_second,
        });
        let fetch = FetchWorker { reader: log.reader(), inbox: inbox.clone() };
        let meters = Arc::new(Meters::new());
        let log =
            LogThread { log, inbox: inbox.clone(), meters: Arc::clone(&meters), failstop: failstop.clone() };
        let fetcher = SnapshotFetcher {
            peers: Arc::clone(&peers),
            runtime: peers_runtime.handle(),
            dirs: dirs.clone(),
            group: config.log.group,
            options: config.engine,
            founders: Membership::of_voters(identity.founding_members().iter().map(|member| member.node)),
            inbox: inbox.clone(),
            failstop: failstop.clone(),
        };
        let addresses = Arc::new(AddressBook::new(&identity));
        let (locating, book) = (Arc::clone(&peers), Arc::clone(&addresses));
        let (discarding, discarder) = (dirs.clone(), failstop.clone());
        let (served, checked) = (slot.clone(), slot.clone());
        let (telling, ready) = watch::channel(false);
        let settings = DriverSettings {
            tick: config.tick,
            writes,
            state,
            fetches,
            outlet: Arc::clone(&peers),
            fetch_snapshot: Box::new(move |from, at_least| fetcher.fetch(from, at_least)),
            discard_snapshot: Box::new(move |state| {
                let dirs = discarding.clone();
                let remove =
                    move || dirs.remove(state).map_err(|source| NodeError::StateDirs(Arc::new(source)));
                discarder.spawn("discard", remove).map(drop)
            }),
            serve: Box::new(move |serves| served.serve(serves)),
            check_engine: Box::new(move || checked.check()),
            locate: Box::new(move |index, introductions, removed| {
                book.learn(index, introductions, removed);
                locating.locate(book.of_peers());
            }),
            ready: Ready(telling),
            failstop: failstop.clone(),
            meters: Arc::clone(&meters),
            tracer: config.tracer.clone(),
            _alive: alive,
        };
        let state_thread = StateThread {
            worker,
            slot: slot.clone(),
            dirs,
            current,
            group: config.log.group,
            options: config.engine,
            inbox: inbox.clone(),
            scanner: Scanner {
                inbox: inbox.clone(),
                failstop: failstop.clone(),
                bytes_per_second: config.scan_bytes_per_second,
                running: None,
            },
            failstop: failstop.clone(),
        };
        let driver = Driver::new(replica, outbox, settings);
        let mut threads = vec![
            failstop.spawn("log", move || log.run(&write_queue))?,
            failstop.spawn("state", move || state_thread.run(&state_queue))?,
            failstop.spawn("fetch", move || fetch.run(&fetch_queue))?,
        ];
        if let Some(scrub) = scrub {
            threads.push(failstop.spawn("scrub", move || scrub.run(&is_alive))?);
        }
        let replica = failstop.spawn_on(&peers_runtime.handle(), "replica", driver.run());
        let (limits, began) = (config.limits, Instant::now());
        let shared = Shared {
            identity,
            addresses,
            limits,
            state: slot,
            inbox,
            ready,
            failstop,
            began,
            meters,
            peers,
            _peers_runtime: peers_runtime,
            work: Mutex::new(Some(Work { replica, threads })),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Who this server is.
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Waits until the node ends for a reason of its own, and tells it.
    pub async fn failed(&self) -> NodeError {
        self.shared.failstop.failed().await
    }

    /// Lets another server lead, if this one does: `to`, or else the connected one that has most of the log. Requests that
    /// come meanwhile wait for the next leader. Returns when it is done, or has failed: [`crate::api::ReadAndWrite::status`] tells.
    pub async fn hand_over(&self, to: Option<NodeId>) {
        self.shared.inbox.event(Event::HandOver { to });
        let under_way = async || {
            let status = self.replica_status().await;
            status.is_ok_and(|status| status.raft.handing_over_to.is_some())
        };
        while under_way().await {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends the node in good order: another server leads, if one can; new requests are refused, those that are under way may
    /// end within `patience`, then the threads stop.
    pub async fn shut_down(&self, patience: Duration) {
        self.hand_over(None).await;
        self.shared.inbox.event(Event::ShutDown);
        let idle = async {
            while self.replica_status().await.is_ok_and(|status| status.requests > 0) {
                tokio::time::sleep(POLL).await;
            }
        };
        // Who is not done by then learns that the outcome is unknown.
        let _timed_out = tokio::time::timeout(patience, idle).await;
        self.shared.inbox.stop();
        self.shared.peers.stop().await;
        let work = self.shared.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Work { replica, threads }) = work else { return };
        // If it panicked it has told so.
        let _panicked = replica.await;
        let joined = task::spawn_blocking(move || {
            for thread in threads {
                // A thread that panicked has told so.
                let _panicked = thread.join();
            }
        });
        let _cancelled = joined.await;
    }
}

fn peers_config(
    config: &NodeConfig,
    identity: &Identity,
    damaged: bool,
) -> Result<PeersConfig, StartFailure> {
    let own = identity.node();
    let security = match &config.tls {
        None => Security::insecure(),
        Some(files) => {
            let certified = Credentials::load(files)?.identity()?.cluster;
            if cluster_id(&certified) != identity.cluster() {
                return Err(StartFailure::OtherCluster { certified: certified.to_string() });
            }
            Security::tls_of_files(files, own)?
        }
    };
    Ok(PeersConfig {
        cluster_id: identity.cluster(),
        member: member_of(identity),
        client_address: identity.own().map(|member| member.client_address.clone()).unwrap_or_default(),
        damaged,
        members: identity.addresses().map(|member| (member.node, member.peer_address.clone())).collect(),
        security,
        limits: PeerLimits {
            snapshot_bytes_per_second: config.snapshot_bytes_per_second,
            ..PeerLimits::default()
        },
    })
}

fn replica_config(config: &NodeConfig, identity: &Identity) -> Result<ReplicaConfig, StartFailure> {
    let seed = random_u64().map_err(|error| StartFailure::Setting(format!("no randomness: {error}")))?;
    let (election_ticks, heartbeat_ticks) =
        (config.ticks(config.election_timeout), config.ticks(config.heartbeat));
    if election_ticks < 2 * heartbeat_ticks {
        let message = "the election timeout must be at least twice the heartbeat interval";
        return Err(StartFailure::Setting(message.to_owned()));
    }
    let raft = raftmap_raft::Config {
        election_ticks,
        heartbeat_ticks,
        disk_stall_ticks: 10 * election_ticks,
        max_command_bytes: config.log.entry_bytes_max,
        ..raftmap_raft::Config::new(identity.node(), seed)
    };
    Ok(ReplicaConfig {
        answer_bytes_max: config.limits.answer_bytes_max,
        requests_max: config.requests_max,
        clock_skew_max_ms: u64::try_from(config.clock_skew_max.as_millis()).unwrap_or(u64::MAX),
        space_reserve_bytes: config.space_reserve_bytes,
        compaction: config.compaction,
        scan_every_ms: config.scan_every.map(|every| u64::try_from(every.as_millis()).unwrap_or(u64::MAX)),
        ..ReplicaConfig::new(raft, member_of(identity))
    })
}

/// How often it is looked whether something is still under way.
const POLL: Duration = Duration::from_millis(5);
