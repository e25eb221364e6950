//! How servers talk to each other: gRPC over TLS 1.3 with certificates on both ends, one long-lived stream for each pair.
//!
//! ```text
//!  replica ── send ──► outbox ─► writer ─► HTTP/2 ═══ TLS ═══ HTTP/2 ─► reader ─► PeerSink ──► replica
//!             never     bounded,  what has gathered                      stops while the sink
//!             waits     drops     leaves as one frame                    is full
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `dialer`, `listener` | one connection for each pair of servers: the one with the lower id dials, or the other after a while |
//! | `hello` | who is at the other end, and whether it is welcome |
//! | `session` | carries batches over a connection for as long as it lives |
//! | `peer`, `outbox` | what is kept of each peer: its queue, and whose turn it is to speak for it |
//! | `snapshots` | the state of one server for another, over a connection of its own |
//! | `strangers` | what is kept of those who have not said who they are |
//! | `connection`, `grpc`, `watched` | HTTP/2 and gRPC: windows, signs of life, frames |
//! | `wire` | batches as the messages of `peer.proto` |
//! | `meters` | what is counted |
//!
//! Delivery is in order and at most once on a connection; what is in flight when it breaks is lost, and consensus makes
//! up for it. For each peer the sink gets `Connected`, then what is received, then `Lost`, and so on; when a peer connects
//! anew while its old connection seems alive, the old one is lost first.
//!
//! Everything that a peer or a stranger can hold has a limit, in [`PeerLimits`].

mod connection;
mod dialer;
mod grpc;
mod hello;
mod listener;
mod meters;
mod outbox;
mod peer;
mod security;
mod session;
mod snapshots;
mod strangers;
mod watched;
mod wire;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use raftmap_raft::{GroupId, LogIndex, NodeId};
use raftmap_replica::PeerBatch;
use raftmap_state::{DiskOptions, LEVEL, Member, SnapshotHeader};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use self::hello::{Hello, Unwelcome};
use self::peer::{Located, Peer};
use self::snapshots::{Fetch, Pacer, Shelf, Wanted};
use self::strangers::Strangers;

pub use self::hello::PROTOCOL;
pub use self::security::{Security, SecurityError};
pub use self::snapshots::{FetchError, HeldSnapshot, SnapshotSource};
#[doc(hidden)]
pub use self::wire::fuzz_frame;

/// What carries batches to the other servers. Behind it are sockets, or something faster, or a test.
pub trait Transport: Send + Sync {
    /// Sends `batch` to a peer. Never waits: what cannot be queued is dropped and counted.
    fn send(&self, to: NodeId, batch: PeerBatch);

    /// Closes the connection to a peer, and tells it why, for the operators of both sides.
    fn refuse(&self, peer: NodeId, refusal: Refusal);
}

/// What takes in what happens between servers: the way to the replica.
pub trait PeerSink: Send + Sync + 'static {
    /// Hands `event` on; waits while there is no room, and what is not read from the network meanwhile slows down the
    /// peer. Events that were handed in one after the other must stay in order. If the future is dropped before it is
    /// ready, the event was not taken.
    ///
    /// # Errors
    /// If nobody takes events any more.
    fn deliver(&self, event: PeerEvent) -> impl Future<Output = Result<(), SinkClosed>> + Send;
}

impl<E: From<PeerEvent> + Send + 'static> PeerSink for mpsc::Sender<E> {
    async fn deliver(&self, event: PeerEvent) -> Result<(), SinkClosed> {
        self.send(event.into()).await.map_err(|_| SinkClosed)
    }
}

/// Nobody takes events any more: the node is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes events of peers any more")]
pub struct SinkClosed;

/// What happens between servers.
#[derive(Debug)]
pub enum PeerEvent {
    /// A connection to a peer stands, and it said who it is.
    Connected {
        /// Who, by its data directory; the id by its certificate, too.
        member: Member,
        /// What else it says of itself.
        info: PeerInfo,
    },
    /// The connection to a peer is no more.
    Lost(NodeId),
    /// A peer sent something.
    Received {
        /// Which.
        from: NodeId,
        /// What.
        batch: PeerBatch,
        /// To be dropped when the batch is taken in.
        room: Room,
    },
    /// A peer does not want this server.
    Refused {
        /// Which.
        by: NodeId,
        /// Why, in its words.
        refusal: Refusal,
    },
}

/// Why a server may not take part, for the operators of both sides.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// Why.
    pub reason: String,
    /// It was removed from the cluster: it ends.
    pub removed: bool,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self { reason, removed: false }
    }
}

/// What a peer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// The other end of the connection.
    pub address: SocketAddr,
    /// Where it answers clients; empty: nowhere.
    pub client_address: String,
    /// Where other servers reach it, as it was told last; empty: it was told nothing.
    pub peer_address: String,
    /// The version of its program.
    pub version: String,
    /// The highest feature level that its program understands; see [`raftmap_state::LEVEL`].
    pub level: u8,
    /// It lost something that it may have acknowledged. As of the beginning of the connection.
    pub damaged: bool,
}

/// The place of a batch among those that were received and not yet taken in, by [`PeerLimits::inbox_bytes_max`].
#[derive(Debug)]
pub struct Room {
    _place: OwnedSemaphorePermit,
}

/// How a peer is doing, as far as the connection to it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which.
    pub id: NodeId,
    /// What it said of itself, if it is connected.
    pub connected: Option<PeerInfo>,
    /// Since when it is not, if it is not.
    pub away_since: Option<Instant>,
    /// Bytes that wait to be sent.
    pub queued_bytes: usize,
    /// Batches that were dropped since this server began: the queue was full, or the peer not connected.
    pub dropped_batches: u64,
}

/// The limits between servers.
#[derive(Clone, Debug)]
pub struct PeerLimits {
    /// The largest frame, in bytes: more than any single message of consensus, command or answer, and at least 64 KiB.
    /// The same on all servers.
    pub frame_bytes_max: u32,
    /// Messages that may wait to be sent to one peer.
    pub outbox_messages_max: usize,
    /// Bytes that may wait to be sent to one peer, besides what is on its way in HTTP/2 (1 MiB and one frame).
    pub outbox_bytes_max: usize,
    /// Bytes of frames of one peer that were received and not yet taken in by the replica. One frame always may be.
    pub inbox_bytes_max: u32,
    /// Accepted connections that have not said who they are, at once. One more, and the oldest is closed: strangers that
    /// never say anything do not keep peers out.
    pub handshakes_max: usize,
    /// Servers of this cluster that call and that this one has not heard of: such as came while it was away.
    pub unknown_peers_max: usize,
    /// How long a connection may take to be made, or accepted, and to say who is there.
    pub handshake_timeout: Duration,
    /// After how long a silence a peer is asked for a sign of life.
    pub ping_interval: Duration,
    /// The connection is closed when nothing came for this many intervals.
    pub pings_missed_max: u32,
    /// How long a server waits at first before it dials again.
    pub redial_min: Duration,
    /// How long it waits at most, with each wait twice as long as the one before.
    pub redial_max: Duration,
    /// How long a server waits for one with a lower id to dial, before it does.
    pub dial_patience: Duration,
    /// How long it waits after one side refused the other.
    pub redial_refused: Duration,
    /// How long connections may take to send what waits when the server stops.
    pub stop_timeout: Duration,
    /// The size of a chunk of a snapshot, in bytes; one that holds a single row may be larger, up to that of a frame.
    pub snapshot_chunk_bytes: usize,
    /// Bytes a second of all snapshots together that this server sends; 0 counts as 1.
    pub snapshot_bytes_per_second: u64,
    /// Snapshots that this server sends at once, or keeps for a receiver to go on with; at least 1.
    pub snapshots_max: usize,
    /// How long a snapshot is kept after its connection broke.
    pub snapshot_kept: Duration,
    /// How long the receiver of a snapshot waits for the next part, whatever it tries; and the sender, for it to be taken.
    pub snapshot_silence_max: Duration,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 8 << 20,
            outbox_messages_max: 65_536,
            outbox_bytes_max: 64 << 20,
            inbox_bytes_max: 16 << 20,
            handshakes_max: 64,
            unknown_peers_max: 64,
            handshake_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(1),
            pings_missed_max: 3,
            redial_min: Duration::from_millis(50),
            redial_max: Duration::from_secs(1),
            dial_patience: Duration::from_secs(3),
            redial_refused: Duration::from_secs(5),
            stop_timeout: Duration::from_secs(2),
            snapshot_chunk_bytes: 256 << 10,
            snapshot_bytes_per_second: 32 << 20,
            snapshots_max: 2,
            snapshot_kept: Duration::from_secs(60),
            snapshot_silence_max: Duration::from_secs(30),
        }
    }
}

/// Who this server is among the others, and where they are.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// The cluster's id by the data directory.
    pub cluster_id: u128,
    /// This server, by its data directory.
    pub member: Member,
    /// Where this server answers clients; empty: nowhere.
    pub client_address: String,
    /// Whether this server lost something that it may have acknowledged; see [`Peers::set_damaged`].
    pub damaged: bool,
    /// Where other members are at first; see [`Peers::locate`].
    pub members: BTreeMap<NodeId, String>,
    /// How connections are secured.
    pub security: Security,
    /// What peers and strangers may hold.
    pub limits: PeerLimits,
}

/// The connections to the other servers.
pub struct Peers {
    net: Arc<Net>,
    /// Keeps a connection to a peer.
    dial: Box<dyn Fn(Arc<Peer>) + Send + Sync>,
}

/// What all tasks share.
struct Net {
    cluster_id: u128,
    member: Member,
    client_address: String,
    /// Where the others reach this server, as far as it was told.
    peer_address: RwLock<String>,
    damaged: AtomicBool,
    security: Security,
    limits: PeerLimits,
    /// Those that are known, and those that called.
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    strangers: Strangers,
    source: Arc<dyn SnapshotSource>,
    /// Snapshots that are being sent, or kept.
    shelf: Shelf<HeldSnapshot>,
    pacer: Pacer,
    /// Nothing new begins, and what waits is sent.
    stop: CancellationToken,
    /// Everything ends.
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Peers {
    /// Accepts peers on `listener` and dials those with a higher id, for as long as it lives. What happens goes to
    /// `sink`; peers that need a snapshot get one of `source`. To be called within a tokio runtime, after the recorder of
    /// metrics was installed.
    pub fn start(
        config: PeersConfig,
        listener: TcpListener,
        sink: impl PeerSink,
        source: impl SnapshotSource,
    ) -> Self {
        let PeersConfig { cluster_id, member, client_address, damaged, members, security, limits } = config;
        let net = Arc::new(Net {
            cluster_id,
            member,
            client_address,
            peer_address: RwLock::default(),
            damaged: AtomicBool::new(damaged),
            security,
            strangers: Strangers::new(limits.handshakes_max),
            source: Arc::new(source),
            shelf: Shelf::new(limits.snapshots_max),
            pacer: Pacer::new(limits.snapshot_bytes_per_second),
            limits,
            peers: RwLock::default(),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let sink = Arc::new(sink);
        net.tasks.spawn(listener::run(Arc::clone(&net), Arc::clone(&sink), listener));
        let (handle, dialing) = (Handle::current(), Arc::clone(&net));
        let dial = move |peer| {
            let dialer = dialer::run(Arc::clone(&dialing), Arc::clone(&sink), peer);
            dialing.tasks.spawn_on(dialer, &handle);
        };
        let this = Self { net, dial: Box::new(dial) };
        this.locate(members);
        this
    }

    /// From now on, new connections are told whether this server is damaged.
    pub fn set_damaged(&self, damaged: bool) {
        self.net.damaged.store(damaged, Ordering::Relaxed);
    }

    /// Gets the state of server `from`, with `at_least` applied, and makes a store of it in `dir`, which must not be there
    /// yet. Says what state it is when all of it is durable; the store is closed then, to be opened by whoever needs it. To
    /// be awaited within a tokio runtime.
    ///
    /// It dials as often as it takes, and goes on where it was. Dropping the future ends it; the directory is removed then
    /// in the background, as soon as the thread that fills it takes note.
    ///
    /// # Errors
    /// If no such state can be had, or this server itself is broken: [`FetchError::ends_node`]. The directory is removed.
    pub fn fetch_snapshot(
        &self,
        from: NodeId,
        at_least: LogIndex,
        group: GroupId,
        dir: PathBuf,
        options: DiskOptions,
    ) -> impl Future<Output = Result<SnapshotHeader, FetchError>> + Send + use<> {
        Fetch::run(Arc::clone(&self.net), Wanted { from, at_least, group, dir, options })
    }

    /// From now on, the other servers are there, as `host:port`: these are dialed, and no others. Names are looked up again each
    /// time. Who calls is heard in any case.
    pub fn locate(&self, addresses: BTreeMap<NodeId, String>) {
        if let Some(own) = addresses.get(&self.net.member.node_id) {
            own.clone_into(
                &mut self.net.peer_address.write().expect("nothing panics while it holds this lock"),
            );
        }
        for (id, peer) in &*self.net.peers() {
            if !addresses.contains_key(id) {
                peer.forget();
            }
        }
        for (id, address) in addresses.into_iter().filter(|(id, _)| *id != self.net.member.node_id) {
            let peer = self.net.peer_or_new(id);
            if let Located::Anew = peer.locate(address) {
                (self.dial)(peer);
            }
        }
    }

    /// How the peers are doing, by id.
    pub fn status(&self) -> Vec<PeerStatus> {
        self.net.peers().values().map(|peer| peer.status()).collect()
    }

    /// Ends all connections, when what waits is sent or the time for that is over. Nothing is delivered afterwards.
    pub async fn stop(&self) {
        self.net.stop.cancel();
        self.net.tasks.close();
        if timeout(self.net.limits.stop_timeout, self.net.tasks.wait()).await.is_err() {
            info!("connections to other servers are cut off: not everything could be sent in time");
            self.net.cut();
            self.net.tasks.wait().await;
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.net.cut();
    }
}

impl Transport for Peers {
    fn send(&self, to: NodeId, batch: PeerBatch) {
        if let Some(peer) = self.net.peer(to) {
            peer.send(batch);
        }
    }

    fn refuse(&self, peer: NodeId, refusal: Refusal) {
        if let Some(peer) = self.net.peer(peer) {
            peer.refuse(refusal);
        }
    }
}

impl Net {
    fn peers(&self) -> RwLockReadGuard<'_, BTreeMap<NodeId, Arc<Peer>>> {
        self.peers.read().expect("nothing panics while it holds this lock")
    }

    fn peer(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.peers().get(&id).cloned()
    }

    fn peer_or_new(&self, id: NodeId) -> Arc<Peer> {
        let mut peers = self.peers.write().expect("nothing panics while it holds this lock");
        Arc::clone(peers.entry(id).or_insert_with(|| Arc::new(Peer::new(id, &self.limits))))
    }

    /// The server that calls, known or not: whoever leads may have come while this server was away.
    fn caller(&self, id: NodeId) -> Result<Arc<Peer>, Unwelcome> {
        let strangers = {
            let mut peers = self.peers.write().expect("nothing panics while it holds this lock");
            // Those that some connection still holds, or that are known.
            peers.retain(|_, peer| peer.address().is_some() || Arc::strong_count(peer) > 1);
            peers.values().filter(|peer| peer.address().is_none()).count()
        };
        match self.peer(id) {
            Some(peer) => Ok(peer),
            None if strangers < self.limits.unknown_peers_max => Ok(self.peer_or_new(id)),
            None => Err(Unwelcome::Crowded { node: id, limit: self.limits.unknown_peers_max }),
        }
    }

    /// What this server says of itself to `peer`.
    fn hello(&self, peer: NodeId) -> Hello {
        Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            level: LEVEL,
            cluster_id: self.cluster_id,
            member: self.member,
            peer_id: peer,
            client_address: self.client_address.clone(),
            peer_address: self.peer_address.read().expect("nothing panics while it holds this lock").clone(),
            damaged: self.damaged.load(Ordering::Relaxed),
        }
    }

    fn frame_bytes_max(&self) -> usize {
        // A hello or a refusal always fits.
        self.limits.frame_bytes_max.max(64 << 10) as usize
    }

    /// Hands `event` to the sink. A server whose sink is gone has nothing to say to the others any more, and leaves them.
    async fn deliver(&self, sink: &impl PeerSink, event: PeerEvent) -> Result<(), SinkClosed> {
        tokio::select! {
            result = sink.deliver(event) => result.inspect_err(|_| self.cut()),
            () = self.cut.cancelled() => Err(SinkClosed),
        }
    }

    fn cut(&self) {
        self.stop.cancel();
        self.cut.cancel();
    }
}
