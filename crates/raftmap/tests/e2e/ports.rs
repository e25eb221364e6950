//! Whoever is no server of the cluster, at the port for servers; and what a client may not, at the front door.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use raftmap::local_cluster::CLIENT;
use raftmap::tls::certs::{Authority, LIFETIME};
use raftmap::tls::config::{ALPN_H2, ALPN_HTTP1, Credentials, TlsFiles, provider};
use raftmap::tls::identity::{ClusterName, Role};
use raftmap_raft::NodeId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::load::must_put;
use crate::support::{World, soon};

/// What the log says of each connection at the port for servers that came to nothing.
const CAME_TO_NOTHING: &str = "a connection to the port for servers came to nothing";

/// The files of one holder in a folder of certificates.
fn files(folder: &Path, stem: &str) -> TlsFiles {
    TlsFiles {
        ca: folder.join("ca.pem"),
        certificate: folder.join(format!("{stem}.pem")),
        key: folder.join(format!("{stem}.key")),
    }
}

fn show(command: &mut Command, files: &TlsFiles) {
    command.arg("--ca").arg(&files.ca).arg("--cert").arg(&files.certificate).arg("--key").arg(&files.key);
}

/// A certificate for server `id` of the cluster `name`, in a folder of its own.
fn certificate_by(authority: &Authority, folder: &Path, id: NodeId) -> TlsFiles {
    let addresses = ["127.0.0.1".to_owned()];
    authority.issue_to(folder, &Role::Node(id), &addresses, LIFETIME).unwrap();
    files(folder, &format!("node-{id}"))
}

/// Servers that say of each other that they are not connected, with the reason on each side.
async fn neither_wants_the_other(world: &World, id: NodeId, there: &str, here: &str) {
    for other in world.others(&[id]) {
        world.says(other, 0, there).await;
    }
    world.says(id, 0, here).await;
}

/// Promise 10: a server that shows a certificate of another authority, whether it dials (the first) or is dialed (the
/// last).
#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_authority_is_refused_with_a_reason_on_both_sides() {
    for place in [0, 2] {
        let mut world = World::found(|_| {}).await;
        let id = world.ids()[place];
        let folder = world.path("other-authority");
        let authority = Authority::open_or_create(&folder, world.plan().cluster.clone()).unwrap();
        let strange = certificate_by(&authority, &folder, id);
        world.start_changed(&[id], |_, command| show(command, &strange)).await;
        let others = world.others(&[id]);
        world.start_changed(&others, |_, _| {}).await;
        let reason = "the other side's certificate is of another authority";
        let untrusted = "the other side does not trust this server's certificate";
        // Who dials sees the certificate first.
        match place {
            0 => neither_wants_the_other(&world, id, untrusted, reason).await,
            _ => neither_wants_the_other(&world, id, reason, untrusted).await,
        }
        must_put(&world.client_among(&others).await, "k", "the others do without it").await;
    }
}

/// Promise 10: a server of another cluster that was told our addresses, with a certificate of the same authority.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_cluster_is_refused_with_a_reason_on_both_sides() {
    for place in [0, 2] {
        let mut world = World::found(|_| {}).await;
        let id = world.ids()[place];
        let other_cluster: ClusterName = "elsewhere".parse().unwrap();
        let data = world.data_dir(id);
        fs::remove_dir_all(&data).unwrap();
        raftmap::node::init(&data, &other_cluster, id, world.plan().founding_members()).unwrap();
        let strange = shared_authority(&world, &other_cluster, id);
        world.start_changed(&[id], |_, command| show(command, &strange)).await;
        let others = world.others(&[id]);
        world.start_changed(&others, |_, _| {}).await;
        // Either side may be the first to refuse; it tells the other one why.
        let reason = "the certificate is of cluster";
        neither_wants_the_other(&world, id, reason, reason).await;
        must_put(&world.client_among(&others).await, "k", "the others do without it").await;
    }
}

/// What no `raftmap certs` makes, but an authority that two clusters share would.
fn shared_authority(world: &World, cluster: &ClusterName, id: NodeId) -> TlsFiles {
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
    let (certs, folder) = (world.certs_dir(), world.path("shared-authority"));
    fs::create_dir(&folder).unwrap();
    fs::copy(certs.join("ca.pem"), folder.join("ca.pem")).unwrap();
    let authority_key = KeyPair::from_pem(&fs::read_to_string(certs.join("ca.key")).unwrap()).unwrap();
    let mut authority = CertificateParams::default();
    authority.distinguished_name = rcgen::DistinguishedName::new();
    authority.distinguished_name.push(DnType::OrganizationName, world.plan().cluster.as_str());
    authority.distinguished_name.push(DnType::CommonName, "raftmap authority");
    let mut params = CertificateParams::default();
    let name = format!("raftmap://{cluster}/node/{id}");
    params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
    params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
    let files = files(&folder, &format!("node-{id}"));
    fs::write(&files.certificate, certificate.pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

async fn dial(address: SocketAddr, tls: Arc<rustls::ClientConfig>) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(tls).connect(ServerName::from(address.ip()), socket).await.unwrap()
}

/// Promise 10: a client with its own certificate, which is good for the front door only.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_refused_at_the_port_for_servers_with_a_reason_on_both_sides() {
    let world = World::start().await;
    let member = &world.plan().members[0];
    let tls = Credentials::load(&files(&world.certs_dir(), CLIENT)).unwrap().dialler().unwrap();
    let stream = dial(member.peer_listen, tls).await;
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}/raftmap.peer.v1.Peer/Stream", member.peer_listen))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut body) = requests.ready().await.unwrap().send_request(request, false).unwrap();
    // One message, which says nothing.
    body.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
    let mut answer = soon("an answer", response).await.unwrap().into_body();
    let mut said = Vec::new();
    while let Some(chunk) = soon("the end of the answer", answer.data()).await {
        said.extend_from_slice(&chunk.unwrap());
    }
    let reason = "the certificate is that of client/client, and only servers may connect here";
    assert!(String::from_utf8_lossy(&said).contains(reason), "{:?}", String::from_utf8_lossy(&said));
    let line = world.says(member.id, 0, CAME_TO_NOTHING).await;
    assert!(line.contains(reason), "{line}");
}

/// Promise 10: TLS without a certificate.
#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_certificate_is_refused_at_the_port_for_servers_with_a_reason_on_both_sides() {
    let world = World::start().await;
    let member = &world.plan().members[0];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.certs_dir().join("ca.pem")).unwrap()).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut tls = tls.with_no_client_auth();
    tls.alpn_protocols = vec![ALPN_H2.to_vec()];
    // In TLS 1.3 the handshake ends here before the server has looked at the certificate.
    let mut stream = dial(member.peer_listen, Arc::new(tls)).await;
    let error = soon("the server's reason", stream.read_u8()).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    let line = world.says(member.id, 0, CAME_TO_NOTHING).await;
    assert!(line.contains("the other side shows no certificate"), "{line}");
}

/// Promise 10: no TLS at all. What reads only plaintext cannot be told more than that nobody listens to it.
#[tokio::test(flavor = "multi_thread")]
async fn plaintext_is_refused_at_the_port_for_servers_with_a_reason_in_the_log() {
    let mut world = World::found(|_| {}).await;
    let others = world.ids().split_off(1);
    world.start_changed(&others, |_, _| {}).await;
    let member = world.plan().members[1].clone();
    let mut socket = TcpStream::connect(member.peer_listen).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: raftmap\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    soon("the end of the connection", socket.read_to_end(&mut said)).await.unwrap();
    // An alert of TLS (RFC 8446, section 6), and nothing else.
    assert!(said.len() <= 7 && said.first() == Some(&21), "{said:?}");
    let line = world.says(member.id, 0, CAME_TO_NOTHING).await;
    assert!(line.contains("the other side does not speak TLS"), "{line}");
    must_put(&world.client_among(&others).await, "k", "the servers go on").await;
}

/// Promise 10: a client's certificate may look at the cluster and not change it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_ask_about_the_cluster_and_is_denied_every_call_that_it_does_not_know() {
    let world = World::start().await;
    let client = world.client().await.unwrap();
    assert_eq!(client.status().await.unwrap().members.len(), 3);
    let address = world.plan().members[0].client_listen;
    for (call, status) in [("Members", "200"), ("ChangeMembers", "403"), ("TransferLeadership", "403")] {
        let mut tls = Credentials::load(&files(&world.certs_dir(), CLIENT)).unwrap().dialler().unwrap();
        Arc::make_mut(&mut tls).alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        let mut stream = dial(address, tls).await;
        let request = format!(
            "POST /raftmap.v1.Cluster/{call} HTTP/1.1\r\nhost: raftmap\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon("the answer", stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{call}: {answer}");
    }
}
