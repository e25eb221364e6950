//! Item 10 of the end-to-end tests at the port for servers: who does not belong there is refused, and the operators of
//! both sides read why.

use std::sync::Arc;

use raftmap::peers::{Security, Transport};
use raftmap::tls::identity::Role;
use raftmap_proto::peer::peer_frame::Frame;
use raftmap_raft::NodeId;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::logs::Logs;
use crate::raw::{Raw, hello};
use crate::servers::{Certificates, Server, batch, config, eventually, forward, listener, nowhere, pair};

/// What the accepting and the dialing side log.
const ACCEPTING: &str = "a connection to the port for servers came to nothing";
const DIALING: &str = "not connected";

/// Server 1 dials server 2, and they do not come together.
async fn meet(security: [Security; 2]) -> (Server, Server) {
    let [(one, one_at), (two, two_at)] = [listener().await, listener().await];
    let [first, second] = security;
    let one = Server::start(config(1, first, &[(2, two_at)]), one);
    let two = Server::start(config(2, second, &[(1, one_at)]), two);
    (one, two)
}

fn no_connection(servers: &[&Server]) {
    for server in servers {
        assert_eq!(server.peers.status()[0].connected, None);
    }
}

#[tokio::test]
async fn item_10_a_certificate_of_another_authority_is_refused_with_a_reason_on_both_sides() {
    let logs = Logs::capture();
    let [ours, theirs] = [Certificates::new("demo"), Certificates::new("demo")];
    let (one, two) = meet([theirs.of_node(1), ours.of_node(2)]).await;
    // The dialer does not trust the listener either, and finds out first.
    logs.expect(&[DIALING, "the other side's certificate is of another authority"]).await;
    logs.expect(&[ACCEPTING, "address=127.0.0.1:", "does not trust this server's certificate"]).await;
    no_connection(&[&one, &two]);
}

#[tokio::test]
async fn item_10_a_certificate_that_the_listener_does_not_trust_is_refused_with_a_reason_on_both_sides() {
    let logs = Logs::capture();
    let [ours, theirs] = [Certificates::new("demo"), Certificates::new("demo")];
    theirs.trust(&ours);
    let (one, two) = meet([theirs.of_node(1), ours.of_node(2)]).await;
    logs.expect(&[ACCEPTING, "address=127.0.0.1:", "the other side's certificate is of another authority"])
        .await;
    logs.expect(&[DIALING, "does not trust this server's certificate"]).await;
    no_connection(&[&one, &two]);
}

#[tokio::test]
async fn item_10_a_certificate_of_another_cluster_is_refused_with_a_reason_on_both_sides() {
    let logs = Logs::capture();
    let [ours, theirs] = [Certificates::new("demo"), Certificates::new("other")];
    ours.trust(&theirs);
    theirs.trust(&ours);
    let (mut one, mut two) = meet([theirs.of_node(1), ours.of_node(2)]).await;
    // Each has that against the other.
    logs.expect(&[DIALING, "refused: the certificate is of cluster demo, this is cluster other"]).await;
    logs.expect(&[ACCEPTING, "refused: the certificate is of cluster other, this is cluster demo"]).await;
    no_connection(&[&one, &two]);
    assert!(one.is_idle() && two.is_idle());
}

#[tokio::test]
async fn item_10_another_cluster_that_dials_is_told_why_it_is_refused() {
    let logs = Logs::capture();
    let [ours, theirs] = [Certificates::new("demo"), Certificates::new("other")];
    ours.trust(&theirs);
    theirs.trust(&ours);
    let (two, two_at) = listener().await;
    let _two = Server::start(config(2, ours.of_node(2), &[(1, nowhere().await)]), two);
    let mut raw = Raw::tls(two_at, theirs.of(&Role::Node(NodeId(1))).dialler().unwrap()).await;
    raw.frame(Frame::Hello(hello(1, 2)));
    assert_eq!(raw.refusal().await, "the certificate is of cluster other, this is cluster demo");
    logs.expect(&[ACCEPTING, "refused: the certificate is of cluster other, this is cluster demo"]).await;
}

#[tokio::test]
async fn item_10_certificates_of_clients_and_operators_are_refused_with_a_reason_on_both_sides() {
    let logs = Logs::capture();
    let certificates = Certificates::new("demo");
    let (two, two_at) = listener().await;
    let mut two = Server::start(config(2, certificates.of_node(2), &[(1, nowhere().await)]), two);
    for role in [Role::Client("ann".to_owned()), Role::Operator("bob".to_owned())] {
        let mut raw = Raw::tls(two_at, certificates.of(&role).dialler().unwrap()).await;
        raw.frame(Frame::Hello(hello(1, 2)));
        let reason = format!("the certificate is that of {role}, and only servers may connect here");
        assert_eq!(raw.refusal().await, reason);
        logs.expect(&[ACCEPTING, "address=127.0.0.1:", &reason]).await;
    }
    assert!(two.is_idle());
}

#[tokio::test]
async fn item_10_a_connection_without_a_certificate_is_refused_with_a_reason_on_both_sides() {
    let logs = Logs::capture();
    let certificates = Certificates::new("demo");
    let (two, two_at) = listener().await;
    let _two = Server::start(config(2, certificates.of_node(2), &[(1, nowhere().await)]), two);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.ca()).unwrap()).unwrap();
    let mut anonymous = rustls::ClientConfig::builder_with_provider(raftmap::tls::config::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    anonymous.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(two_at).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(anonymous));
    let mut stream = connector.connect("127.0.0.1".try_into().unwrap(), socket).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let error = stream.read(&mut [0; 100]).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    logs.expect(&[ACCEPTING, "address=127.0.0.1:", "shows no certificate"]).await;
}

#[tokio::test]
async fn item_10_plaintext_is_refused_with_a_reason_on_both_sides() {
    let logs = Logs::capture();
    let certificates = Certificates::new("demo");
    let (one, two) = meet([Security::insecure(), certificates.of_node(2)]).await;
    logs.expect(&[ACCEPTING, "address=127.0.0.1:", "does not speak TLS"]).await;
    logs.expect(&[DIALING, "runs with --insecure; does the other one use TLS?"]).await;
    no_connection(&[&one, &two]);
}

#[tokio::test]
async fn item_10_tls_at_a_plaintext_port_is_refused_with_a_reason_on_both_sides() {
    let logs = Logs::capture();
    let certificates = Certificates::new("demo");
    let (one, two) = meet([certificates.of_node(1), Security::insecure()]).await;
    logs.expect(&[ACCEPTING, "address=127.0.0.1:", "runs with --insecure; does the other one use TLS?"])
        .await;
    logs.expect(&[DIALING, "does not speak TLS"]).await;
    no_connection(&[&one, &two]);
}

#[tokio::test]
async fn a_data_directory_of_another_cluster_is_refused_on_both_sides() {
    let logs = Logs::capture();
    let certificates = Certificates::new("demo");
    let [(one, one_at), (two, two_at)] = [listener().await, listener().await];
    let mut other = config(1, certificates.of_node(1), &[(2, two_at)]);
    other.cluster_id = 0xdead;
    let mut one = Server::start(other, one);
    let _two = Server::start(config(2, certificates.of_node(2), &[(1, one_at)]), two);
    let (by, reason) = one.refused().await;
    assert_eq!(by, NodeId(2));
    assert!(reason.contains("is of cluster 0000000000000000000000000000dead"), "{reason}");
    logs.expect(&[ACCEPTING, &reason]).await;
    logs.expect(&[DIALING, "refused by the other side", &reason]).await;
}

#[tokio::test]
async fn a_server_at_the_address_of_another_is_refused_on_both_sides() {
    let logs = Logs::capture();
    let certificates = Certificates::new("demo");
    let [(one, one_at), (three, three_at)] = [listener().await, listener().await];
    let mut one = Server::start(config(1, certificates.of_node(1), &[(2, three_at)]), one);
    let _three = Server::start(config(3, certificates.of_node(3), &[(1, one_at)]), three);
    let reason = "server 3 answers at the address of server 2: check the addresses of the members";
    logs.expect(&[DIALING, reason]).await;
    logs.expect(&[ACCEPTING, reason]).await;
    assert!(one.is_idle());
}

#[tokio::test]
async fn own_ids_and_unknown_ones_that_want_a_snapshot_are_refused() {
    let certificates = Certificates::new("demo");
    let (two, two_at) = listener().await;
    let nowhere = nowhere().await;
    let members = config(2, certificates.of_node(2), &[(1, nowhere), (3, nowhere)]);
    let _two = Server::start(members, two);
    let mut raw = Raw::tls(two_at, certificates.of_again(2).dialler().unwrap()).await;
    raw.frame(Frame::Hello(hello(2, 2)));
    assert_eq!(
        raw.refusal().await,
        "server 2 was called by another server 2: was a data directory copied, or an address mistaken?"
    );
    let stranger = certificates.of(&Role::Node(NodeId(9))).dialler().unwrap();
    let mut raw = Raw::snapshot(two_at, stranger).await;
    raw.frame(Frame::Hello(hello(9, 2)));
    assert_eq!(raw.refusal().await, "server 9 is not a member of this cluster");
    let mut raw = Raw::tls(two_at, certificates.of_again(9).dialler().unwrap()).await;
    raw.frame(Frame::Hello(hello(1, 2)));
    assert_eq!(
        raw.refusal().await,
        "the certificate is that of server 9, the data directory that of server 1"
    );
}

#[tokio::test]
async fn a_server_does_not_start_with_the_certificate_of_another() {
    let certificates = Certificates::new("demo");
    let error = Security::tls(&certificates.of(&Role::Node(NodeId(1))), NodeId(2)).unwrap_err();
    assert_eq!(error.to_string(), "the certificate is that of node/1, and this is node/2");
    let error = Security::tls(&certificates.of(&Role::Client("ann".to_owned())), NodeId(2)).unwrap_err();
    assert_eq!(error.to_string(), "the certificate is that of client/ann, and this is node/2");
}

/// What the replica finds out later, such as a wiped disk.
#[tokio::test]
async fn a_peer_that_the_replica_refuses_is_told_why() {
    let logs = Logs::capture();
    let (mut one, mut two) = pair().await;
    two.peers.send(NodeId(1), batch(vec![forward(1, 1)]));
    one.received().await;
    two.peers.refuse(NodeId(1), "its disk was wiped".to_owned().into());
    assert_eq!(two.lost().await, NodeId(1));
    assert_eq!(one.lost().await, NodeId(2));
    assert_eq!(one.refused().await, (NodeId(2), "its disk was wiped".to_owned()));
    logs.expect(&["the peer is refused", "peer=1", "its disk was wiped"]).await;
    logs.expect(&["the peer refuses this server", "peer=2", "its disk was wiped"]).await;
    // It may have been mended meanwhile: it is heard again.
    assert_eq!(one.connected().await.0.node_id, NodeId(2));

    one.peers.refuse(NodeId(2), "so was this one".to_owned().into());
    let (mut lost, mut refused) = (0, None);
    while refused.is_none() {
        match two.event().await {
            raftmap::peers::PeerEvent::Refused { by, refusal } => refused = Some((by, refusal.reason)),
            raftmap::peers::PeerEvent::Lost(_) => lost += 1,
            _ => {}
        }
    }
    assert_eq!((lost, refused), (1, Some((NodeId(1), "so was this one".to_owned()))));
    eventually("it is refused at the dialer, too", || one.peers.status()[0].connected.is_none()).await;
}
