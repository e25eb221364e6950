//! What the tests have in common: a cluster's certificates, and servers without anything behind their connections.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use raftmap::peers::{PeerEvent, PeerInfo, PeerLimits, Peers, PeersConfig, Refusal, Security};
use raftmap::tls::certs::{Authority, LIFETIME};
use raftmap::tls::config::{Credentials, TlsFiles};
use raftmap::tls::identity::{ClusterName, Role};
use raftmap_raft::{LogIndex, NodeId};
use raftmap_replica::{Forward, PeerBatch, PeerMessage};
use raftmap_state::Member;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::states::Source;

/// What is waited for comes within this, or the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster's authority, and a folder for what it signs.
pub(crate) struct Certificates {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Certificates {
    pub(crate) fn new(cluster: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name: ClusterName = cluster.parse().unwrap();
        let authority = Authority::open_or_create(folder.path(), name).unwrap();
        Self { folder, authority }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Also trusts the authority of another cluster, as while one is being replaced.
    pub(crate) fn trust(&self, other: &Self) {
        let both = [self.ca(), other.ca()].map(|path| std::fs::read_to_string(path).unwrap()).concat();
        std::fs::write(self.ca(), both).unwrap();
    }

    pub(crate) fn of(&self, role: &Role) -> Credentials {
        let addresses: &[String] = if matches!(role, Role::Node(_)) {
            &["127.0.0.1".to_owned(), "localhost".to_owned()]
        } else {
            &[]
        };
        let paths = self.authority.issue_to(self.folder.path(), role, addresses, LIFETIME).unwrap();
        let files = TlsFiles { ca: self.ca(), certificate: paths.certificate, key: paths.key };
        Credentials::load(&files).unwrap()
    }

    /// The credentials that were made for a server before.
    pub(crate) fn of_again(&self, id: u64) -> Credentials {
        let path = |ending| self.folder.path().join(format!("node-{id}.{ending}"));
        Credentials::load(&TlsFiles { ca: self.ca(), certificate: path("pem"), key: path("key") }).unwrap()
    }

    pub(crate) fn of_node(&self, id: u64) -> Security {
        Security::tls(&self.of(&Role::Node(NodeId(id))), NodeId(id)).unwrap()
    }
}

pub(crate) const CLUSTER_ID: u128 = 0xc1;

/// The data directory of a server in these tests.
pub(crate) fn member(id: u64) -> Member {
    Member { node_id: NodeId(id), incarnation: u128::from(id) << 64, founding_hash: 99 }
}

/// What a server is told about itself; `members` are the others.
pub(crate) fn config(id: u64, security: Security, members: &[(u64, SocketAddr)]) -> PeersConfig {
    let limits = PeerLimits { redial_refused: Duration::from_millis(200), ..PeerLimits::default() };
    let address = |(id, address): &(u64, SocketAddr)| (NodeId(*id), address.to_string());
    PeersConfig {
        cluster_id: CLUSTER_ID,
        member: member(id),
        client_address: format!("clients-of-{id}:1"),
        damaged: false,
        members: members.iter().map(address).collect::<BTreeMap<_, _>>(),
        security,
        limits,
    }
}

pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address at which nobody answers.
pub(crate) async fn nowhere() -> SocketAddr {
    listener().await.1
}

/// A server's connections, and what they deliver.
pub(crate) struct Server {
    pub(crate) peers: Peers,
    events: mpsc::Receiver<PeerEvent>,
    /// Taken from the queue and not asked for yet.
    seen: VecDeque<PeerEvent>,
}

impl Server {
    pub(crate) fn start(config: PeersConfig, listener: TcpListener) -> Self {
        Self::with_inbox(config, listener, 64)
    }

    /// A server that takes this many events ahead of what it works on.
    pub(crate) fn with_inbox(config: PeersConfig, listener: TcpListener, events: usize) -> Self {
        let (sink, events) = mpsc::channel(events);
        Self { peers: Peers::start(config, listener, sink, Source::default()), events, seen: VecDeque::new() }
    }

    /// A server that has a state.
    pub(crate) fn with_state(config: PeersConfig, listener: TcpListener, source: Source) -> Self {
        let (sink, events) = mpsc::channel(64);
        Self { peers: Peers::start(config, listener, sink, source), events, seen: VecDeque::new() }
    }

    /// The connections, with nobody who takes events.
    pub(crate) fn without_sink(self) -> Peers {
        self.peers
    }

    pub(crate) async fn event(&mut self) -> PeerEvent {
        if let Some(event) = self.seen.pop_front() {
            return event;
        }
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("the server runs")
    }

    /// The next event, if one comes within `patience`.
    pub(crate) async fn event_within(&mut self, patience: Duration) -> Option<PeerEvent> {
        timeout(patience, self.event()).await.ok()
    }

    pub(crate) async fn connected(&mut self) -> (Member, PeerInfo) {
        match self.event().await {
            PeerEvent::Connected { member, info } => (member, info),
            other => panic!("{other:?} instead of a connection"),
        }
    }

    pub(crate) async fn lost(&mut self) -> NodeId {
        match self.event().await {
            PeerEvent::Lost(id) => id,
            other => panic!("{other:?} instead of a loss"),
        }
    }

    /// The next batch, and who sent it. It counts as taken in.
    pub(crate) async fn received(&mut self) -> (NodeId, PeerBatch) {
        match self.event().await {
            PeerEvent::Received { from, batch, .. } => (from, batch),
            other => panic!("{other:?} instead of a batch"),
        }
    }

    pub(crate) async fn refused(&mut self) -> (NodeId, String) {
        let (by, refusal) = self.refusal().await;
        (by, refusal.reason)
    }

    pub(crate) async fn refusal(&mut self) -> (NodeId, Refusal) {
        match self.event().await {
            PeerEvent::Refused { by, refusal } => (by, refusal),
            other => panic!("{other:?} instead of a refusal"),
        }
    }

    /// Receives messages of [`forward`] until one with this sequence comes; all sequences that came, in order.
    pub(crate) async fn sequences_until(&mut self, last: u64) -> Vec<u64> {
        let mut sequences = Vec::new();
        while sequences.last() != Some(&last) {
            sequences.extend(self.received().await.1.messages.iter().map(sequence));
        }
        sequences
    }

    /// Whether an event waits.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.seen.extend(self.events.try_recv());
        self.seen.is_empty()
    }
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A message with a number and this many bytes.
pub(crate) fn forward(sequence: u64, bytes: usize) -> PeerMessage {
    let command = Bytes::from(vec![sequence.to_le_bytes()[0]; bytes]);
    PeerMessage::Forward(Forward { sequence, timeout_ms: 1, command })
}

pub(crate) fn sequence(message: &PeerMessage) -> u64 {
    match message {
        PeerMessage::Forward(forward) => forward.sequence,
        other => panic!("{other:?} instead of a command"),
    }
}

pub(crate) fn batch(messages: Vec<PeerMessage>) -> PeerBatch {
    PeerBatch { clock_ms: 1, applied: LogIndex(2), digest: 3, messages, ..PeerBatch::default() }
}

/// Two servers with certificates that are connected.
pub(crate) async fn pair() -> (Server, Server) {
    let certificates = Certificates::new("demo");
    pair_with([certificates.of_node(1), certificates.of_node(2)], |_| {}).await
}

pub(crate) async fn pair_with(
    security: [Security; 2],
    change: impl Fn(&mut PeersConfig),
) -> (Server, Server) {
    let [(one, one_at), (two, two_at)] = [listener().await, listener().await];
    let [first, second] = security;
    let mut configs = [config(1, first, &[(2, two_at)]), config(2, second, &[(1, one_at)])];
    configs.iter_mut().for_each(change);
    let [first, second] = configs;
    let (mut one, mut two) = (Server::start(first, one), Server::start(second, two));
    assert_eq!(one.connected().await.0, member(2));
    assert_eq!(two.connected().await.0, member(1));
    (one, two)
}
