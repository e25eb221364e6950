//! Item 10 of the end-to-end tests for snapshots: who does not belong to the cluster gets none.

use std::net::SocketAddr;

use raftmap::peers::Security;
use raftmap::tls::identity::Role;
use raftmap_proto::peer;
use raftmap_proto::peer::peer_frame::Frame;
use raftmap_proto::peer::snapshot_denied::Reason;
use raftmap_raft::NodeId;

use crate::raw::{Raw, hello};
use crate::servers::{Certificates, Server, config, listener, nowhere};
use crate::states::{Source, State};

/// Server 1, which has a state and is connected to server 2.
struct Sender {
    certificates: Certificates,
    one_at: SocketAddr,
    source: Source,
    one: Server,
    two: Server,
    _state: State,
}

impl Sender {
    async fn start(certificates: Certificates) -> Self {
        let state = State::of(100);
        let [(one, one_at), (two, two_at)] = [listener().await, listener().await];
        let source = state.source();
        let config_of_one = config(1, certificates.of_node(1), &[(2, two_at), (3, nowhere().await)]);
        let mut one = Server::with_state(config_of_one, one, source.clone());
        let mut two = Server::start(config(2, certificates.of_node(2), &[(1, one_at)]), two);
        one.connected().await;
        two.connected().await;
        Self { certificates, one_at, source, one, two, _state: state }
    }

    async fn call(&self, certificates: &Certificates, role: &Role) -> Raw {
        Raw::snapshot(self.one_at, certificates.of(role).dialler().unwrap()).await
    }

    /// Nobody got anything, and the connection of server 2 is what it was.
    fn undisturbed(&mut self) {
        assert_eq!(self.source.taken(), 0);
        assert!(self.one.is_idle() && self.two.is_idle());
    }
}

fn request() -> Frame {
    Frame::SnapshotRequest(peer::SnapshotRequest { group_id: 1, at_least: 1, token: None })
}

async fn denied(raw: &mut Raw) -> Reason {
    match raw.next().await {
        Some(Frame::SnapshotDenied(denied)) => denied.reason.unwrap(),
        other => panic!("{other:?} instead of a reason"),
    }
}

#[tokio::test]
async fn item_10_clients_operators_and_other_clusters_get_no_snapshot() {
    let [ours, theirs] = [Certificates::new("demo"), Certificates::new("other")];
    ours.trust(&theirs);
    theirs.trust(&ours);
    let mut sender = Sender::start(ours).await;
    for role in [Role::Client("ann".to_owned()), Role::Operator("bob".to_owned())] {
        let mut raw = sender.call(&sender.certificates, &role).await;
        raw.frame(Frame::Hello(hello(2, 1)));
        let reason = format!("the certificate is that of {role}, and only servers may connect here");
        assert_eq!(raw.refusal().await, reason);
    }
    let mut raw = sender.call(&theirs, &Role::Node(NodeId(2))).await;
    raw.frame(Frame::Hello(hello(2, 1)));
    assert_eq!(raw.refusal().await, "the certificate is of cluster other, this is cluster demo");
    let config = sender.certificates.of_again(2).dialler().unwrap();
    let mut raw = Raw::snapshot(sender.one_at, config).await;
    let other_data = peer::Hello { cluster_id: vec![9; 16].into(), ..hello(2, 1) };
    raw.frame(Frame::Hello(other_data));
    assert!(raw.refusal().await.contains("the data directory of server 2 is of cluster"));
    sender.undisturbed();
}

#[tokio::test]
async fn item_10_a_server_that_is_no_member_gets_no_snapshot() {
    let mut sender = Sender::start(Certificates::new("demo")).await;
    let mut raw = sender.call(&sender.certificates, &Role::Node(NodeId(9))).await;
    raw.frame(Frame::Hello(hello(9, 1)));
    assert_eq!(raw.refusal().await, "server 9 is not a member of this cluster");
    sender.undisturbed();
}

/// Only the replica knows which data directory a member has: it counts what it holds against the stream.
#[tokio::test]
async fn a_wiped_disk_and_a_member_without_a_stream_get_no_snapshot() {
    let mut sender = Sender::start(Certificates::new("demo")).await;
    let again = sender.certificates.of_again(2).dialler().unwrap();
    let mut raw = Raw::snapshot(sender.one_at, again).await;
    raw.frame(Frame::Hello(peer::Hello { incarnation: vec![9; 16].into(), ..hello(2, 1) }));
    assert!(matches!(raw.next().await, Some(Frame::Hello(_))));
    raw.frame(request());
    assert_eq!(denied(&mut raw).await, Reason::Unconnected(peer::Nothing {}));

    let mut raw = sender.call(&sender.certificates, &Role::Node(NodeId(3))).await;
    raw.greet(3, 1).await;
    raw.frame(request());
    assert_eq!(denied(&mut raw).await, Reason::Unconnected(peer::Nothing {}));
    sender.undisturbed();
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_stream_goes_on() {
    let mut sender = Sender::start(Certificates::new("demo")).await;
    for (frame, expected) in [
        (Frame::Hello(hello(2, 1)), "something else came instead of a request for a snapshot"),
        (
            Frame::SnapshotRequest(peer::SnapshotRequest { group_id: 7, ..Default::default() }),
            "group 7 is not hosted here",
        ),
        (
            Frame::SnapshotDenied(peer::SnapshotDenied { reason: None }),
            "why there is no snapshot is unset or unknown: is the other server of another version?",
        ),
    ] {
        let config = sender.certificates.of_again(2).dialler().unwrap();
        let mut raw = Raw::snapshot(sender.one_at, config).await;
        raw.greet(2, 1).await;
        raw.frame(frame);
        assert_eq!(raw.refusal().await, expected);
    }
    sender.undisturbed();
}

#[tokio::test]
async fn a_snapshot_has_no_place_on_the_stream() {
    let (two, two_at) = listener().await;
    let mut two = Server::start(config(2, Security::insecure(), &[(1, nowhere().await)]), two);
    let mut raw = Raw::plaintext(two_at).await;
    raw.greet(1, 2).await;
    two.connected().await;
    raw.frame(request());
    assert_eq!(raw.refusal().await, "a snapshot has a call of its own");
}
