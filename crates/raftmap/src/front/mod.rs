//! The front door: one port on which clients and operators reach a node.
//!
//! It serves `map.proto` and `cluster.proto` as gRPC and as Connect, over HTTP/2 and HTTP/1.1, behind TLS 1.3 with
//! client certificates; beside them the standard services of gRPC for health and reflection. The way of a request:
//!
//! | module | what it does |
//! |---|---|
//! | `accept`, `places` | takes connections up to a cap, in all and from one address, and gives each a deadline for its handshake |
//! | `connection` | speaks HTTP on one connection, ends it when it idles or the server stops |
//! | `access` | who asks, by certificate or token, and which calls that may make |
//! | `behalf` | the node, as the caller may use it: with which keys |
//! | `gate` | takes one request's body within limits and deadline, and hands it to `connectrpc` |
//! | `answer` | what of an answer is not sent yet |
//! | `console` | the web page for people |
//! | `calls` | the calls: from messages to the vocabulary of [`crate::api`] and back (`convert`) |
//! | `scan` | pages of one snapshot, sent as the client takes them |
//! | `backup` | the parts of a backup file, sent as the caller takes them |
//! | `standard` | what gRPC has for all servers: health and reflection |
//! | `pipeline` | many requests over one stream |
//! | `budget`, `sizes` | the memory that all of them may hold for clients |
//! | `status` | how a failure travels: status and detail |
//! | `meters` | what is counted and logged |
//!
//! Everything that a stranger can send or hold has a limit, in [`FrontDoorConfig`]; memory is taken as bytes arrive,
//! never by a length that a peer claims.

mod accept;
mod access;
mod answer;
mod arrival;
mod backup;
mod behalf;
mod body;
mod budget;
mod calls;
mod connection;
mod console;
mod convert;
mod gate;
mod meters;
mod pipeline;
mod places;
mod scan;
mod sizes;
mod standard;
mod status;
mod timeouts;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use connectrpc::Chain;
use raftmap_proto::v1;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::accept::Door;
use self::behalf::Guarded;
use self::budget::Budget;
use self::calls::{Calls, Service};
use self::gate::Gate;
use self::meters::Meters;
use crate::api::ReadAndWrite;
use crate::observe::audit::Audit;
use crate::observe::traces::Tracer;
use crate::tls::renewal::ServerTls;

pub use self::access::Admission;
#[doc(hidden)]
pub use self::convert::fuzz_request;

/// The limits of the front door.
#[derive(Clone, Debug)]
pub struct FrontDoorConfig {
    /// Connections at once; one more is closed unanswered.
    pub connections_max: usize,
    /// Of these, and of those whose handshake is not finished, from one address (of IPv6: one network of 64 bits).
    pub connections_per_address_max: usize,
    /// Connections whose handshake is not finished, at once. Fewer than [`Self::connections_max`], so that strangers
    /// who never finish do not take the place of clients.
    pub handshakes_max: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How long a new connection may take to its first whole request head, and one of HTTP/1.1 to each further one.
    pub head_timeout: Duration,
    /// A connection without a request under way is closed after this long.
    pub idle_timeout: Duration,
    /// The longest request head, in bytes.
    pub head_bytes_max: u32,
    /// Requests at once on one HTTP/2 connection.
    pub streams_max: u32,
    /// How often the other end of an HTTP/2 connection must show that it is there, and within which time.
    pub ping_interval: Duration,
    /// How long requests that are under way may go on when the server stops.
    pub drain_timeout: Duration,
    /// How long a request may take, if its caller does not say.
    pub request_timeout: Duration,
    /// The longest that a caller may ask for.
    pub request_timeout_max: Duration,
    /// Bytes of requests that run and of answers that are not sent yet, over all connections; what is beyond is
    /// OVERLOADED.
    pub held_bytes_max: usize,
    /// Scans at once, over all connections: each holds a snapshot.
    pub scans_max: usize,
    /// The largest message of a scan, in bytes, unless an answer may not even be that large.
    pub scan_page_bytes: u32,
    /// Streams that tell how the server is, at once, over all connections.
    pub watches_max: usize,
    /// How long the next page of a scan may take: the node to read it, and the client to take it.
    pub scan_stall_timeout: Duration,
    /// How long a backup may take; it keeps old data alive.
    pub backup_time_max: Duration,
    /// How long the next part of a backup may take: the node to read it, and the caller to take it.
    pub backup_stall_timeout: Duration,
    /// The limits of each stream of requests.
    pub pipeline: PipelineLimits,
    /// Where it is told who was refused, and who changed the cluster.
    pub audit: Audit,
    /// Takes the spans of requests that are followed.
    pub tracer: Tracer,
}

/// The limits of one `Pipeline` stream.
#[derive(Clone, Copy, Debug)]
pub struct PipelineLimits {
    /// Requests that run, and answers that are not sent yet; what is beyond that is OVERLOADED. A client that takes no
    /// answers while twice as many wait for it loses the stream.
    pub in_flight_max: usize,
    /// Bytes of the requests that run; one request always may.
    pub bytes_in_flight_max: usize,
    /// Bytes of answers that are not sent yet; one answer always may wait.
    pub unread_bytes_max: usize,
}

impl Default for PipelineLimits {
    fn default() -> Self {
        Self { in_flight_max: 4096, bytes_in_flight_max: 32 << 20, unread_bytes_max: 32 << 20 }
    }
}

impl Default for FrontDoorConfig {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            connections_per_address_max: 512,
            handshakes_max: 256,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            head_bytes_max: 16 << 10,
            streams_max: 256,
            ping_interval: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            request_timeout_max: Duration::from_secs(60),
            held_bytes_max: 160 << 20,
            scans_max: 64,
            watches_max: 64,
            scan_page_bytes: 256 << 10,
            scan_stall_timeout: Duration::from_secs(30),
            backup_time_max: Duration::from_secs(3600),
            backup_stall_timeout: Duration::from_secs(30),
            pipeline: PipelineLimits::default(),
            audit: Audit::none(),
            tracer: Tracer::off(),
        }
    }
}

/// How connections are secured.
#[derive(Clone)]
pub enum Security {
    /// TLS, with settings from [`crate::tls::config::Credentials::front_door`], or with those of files, which may change.
    Tls(ServerTls),
    /// None: for tests on one machine, by the explicit flag `--insecure`.
    Plaintext,
}

/// A message of `Pipeline` may be larger than its largest request or answer by this, for the tag and the lengths around
/// it.
pub const PIPELINE_ENVELOPE_BYTES: usize = 1 << 10;

/// The front door of a node while it is open. Dropped, it takes no new connections, and those that there are end as
/// with [`Self::close`].
pub struct FrontDoor {
    address: SocketAddr,
    stop: CancellationToken,
    connections: TaskTracker,
}

impl FrontDoor {
    /// Opens the door on `listener`, for the map of `node`. Needs a tokio runtime; install the recorder of metrics
    /// before.
    ///
    /// # Errors
    /// If the listener does not know its address.
    pub fn open<N: ReadAndWrite>(
        listener: TcpListener,
        security: Security,
        admission: Admission,
        config: FrontDoorConfig,
        node: Arc<N>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let connections = TaskTracker::new();
        let config = Arc::new(config);
        let meters = Arc::new(Meters::new(config.audit.clone()));
        let request_bytes_max = node.limits().request_bytes_max;
        let standard = standard::services(node.as_ref(), &config, &stop);
        let calls = Service(Arc::new(Calls {
            node: Guarded::new(node),
            config: Arc::clone(&config),
            meters: Arc::clone(&meters),
            scans: Arc::new(Semaphore::new(config.scans_max)),
            backups: Arc::new(Semaphore::new(1)),
            stop: stop.clone(),
        }));
        let cluster = v1::ClusterServer::new(calls.clone());
        let served = Chain(v1::MapServer::new(calls), Chain(cluster, standard));
        let budget = Budget::new(config.held_bytes_max);
        let gate = Gate::new(served, request_bytes_max, Arc::clone(&config), Arc::clone(&meters), budget);
        let door = Arc::new(Door::new(security, admission, config, meters, stop.clone(), Arc::new(gate)));
        connections.spawn(door.accept(listener, connections.clone()));
        Ok(Self { address, stop, connections })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new connections, lets the requests that are under way end within the drain timeout, and returns when
    /// all connections are gone.
    pub async fn close(self) {
        self.stop.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

impl Drop for FrontDoor {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
