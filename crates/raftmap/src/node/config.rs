//! How a node is set up, and why it may not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use raftmap_log::{InitError, LogOptions, OpenError};
use raftmap_replica::{CompactionConfig, StartError};
use raftmap_state::validate::RequestLimits;
use raftmap_state::{DiskOptions, StateError};

use crate::causes::causes;
use crate::observe::traces::Tracer;
use crate::peers::SecurityError;
use crate::runtime::NodeError;
use crate::tls::config::{TlsError, TlsFiles};

/// How a node is set up. Who it is and whom it was founded with stands in its data directory since
/// [`crate::node::init`].
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where the other servers reach this one.
    pub peer_listen: SocketAddr,
    /// The certificates between servers. `None`: none, and whoever reaches the port may claim to be a server
    /// (`--insecure`).
    pub tls: Option<TlsFiles>,
    /// What requests must keep to.
    pub limits: RequestLimits,
    /// The log's settings.
    pub log: LogOptions,
    /// The engine's settings.
    pub engine: DiskOptions,
    /// The clock of consensus: one tick.
    pub tick: Duration,
    /// A follower that hears nothing from a leader for this long, or up to twice as long by chance, stands for election.
    pub election_timeout: Duration,
    /// How often a leader sends heartbeats.
    pub heartbeat: Duration,
    /// Puts are refused while less than this is free on the disk, in bytes.
    pub space_reserve_bytes: u64,
    /// When the log lets go of its beginning.
    pub compaction: CompactionConfig,
    /// How fast snapshots are sent to other servers, all together, in bytes a second.
    pub snapshot_bytes_per_second: u64,
    /// How often all servers read all their rows and compare what they found, by the leader's setting. `None`: never.
    pub scan_every: Option<Duration>,
    /// How fast this server reads its rows then, in bytes a second.
    pub scan_bytes_per_second: u64,
    /// Requests that wait for the replica, and that wait in it.
    pub requests_max: usize,
    /// A leader whose clock is further than this from the median of the servers' clocks does not stamp it.
    pub clock_skew_max: Duration,
    /// Takes the spans of requests that are followed.
    pub tracer: Tracer,
}

impl NodeConfig {
    /// The usual settings: 10 ms a tick, heartbeats every 150 ms, elections after 0.5 to 1 s.
    pub fn new(data_dir: impl Into<PathBuf>, peer_listen: SocketAddr, tls: Option<TlsFiles>) -> Self {
        Self {
            data_dir: data_dir.into(),
            peer_listen,
            tls,
            limits: RequestLimits::default(),
            log: LogOptions::default(),
            engine: DiskOptions::default(),
            tick: Duration::from_millis(10),
            election_timeout: Duration::from_millis(500),
            heartbeat: Duration::from_millis(150),
            space_reserve_bytes: 256 << 20,
            compaction: CompactionConfig::default(),
            snapshot_bytes_per_second: 32 << 20,
            scan_every: Some(Duration::from_secs(24 * 60 * 60)),
            scan_bytes_per_second: 16 << 20,
            requests_max: 65_536,
            clock_skew_max: Duration::from_secs(5),
            tracer: Tracer::off(),
        }
    }

    /// A duration in ticks, at least one.
    pub(super) fn ticks(&self, duration: Duration) -> u32 {
        let ticks = duration.as_nanos().div_ceil(self.tick.as_nanos().max(1));
        u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
    }
}

/// Why a data directory cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InitFailure {
    /// What it was told is not possible.
    #[error(transparent)]
    Identity(#[from] raftmap_log::IdentityError),
    /// The directory cannot be made.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The node is not among the founding members that it was told.
    #[error(
        "server {0} is not among the members that the cluster is founded with: name it with its addresses, too"
    )]
    NotAMember(u64),
    /// The operating system gives no random numbers.
    #[error("no randomness for the incarnation: {0}")]
    Random(io::Error),
}

/// Why a node does not start. Nothing was lost by trying.
#[derive(Debug, thiserror::Error)]
pub enum StartFailure {
    /// The data directory does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directories of the state machine cannot be read or changed.
    #[error("the directories of the state machine: {0}")]
    StateDirs(#[source] io::Error),
    /// The state machine or its engine does not open.
    #[error("{}", causes(.0))]
    State(#[from] StateError),
    /// The state machine's files are damaged.
    #[error(
        "the state machine is damaged, and there is no other server to take it from: restore a backup ({reason})"
    )]
    StateDamaged {
        /// What is wrong with them.
        reason: String,
    },
    /// Log and state machine do not fit.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The certificates are of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate is of another cluster.
    #[error(
        "the certificate is of cluster {certified}, and this data directory belongs to another one: check --certs and --data"
    )]
    OtherCluster {
        /// The cluster that the certificate names.
        certified: String,
    },
    /// The certificate is of no use between servers.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// A port cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A setting is not possible.
    #[error("{0}")]
    Setting(String),
    /// It ended while it started.
    #[error(transparent)]
    Ended(#[from] NodeError),
}
