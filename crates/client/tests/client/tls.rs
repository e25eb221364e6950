//! TLS: who is let in, and who is believed.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use raftmap_client::{Client, Code, Error, SetupError, Tls};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::server::{Act, Incoming, Server};
use crate::world::{World, not_applied};
use crate::{LONG, SHORT};

struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, both in PEM.
struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        Self::named("test")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: SanType) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    fn client(&self) -> Identity {
        self.sign(SanType::URI("raftmap://test/client/a".try_into().unwrap()))
    }

    /// A server that demands a certificate of this authority.
    async fn server(&self, name: SanType) -> Server {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let identity = self.sign(name);
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let world = Arc::new(Mutex::new(World::new()));
        Server::start_with(&world, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    fn tls(&self, identity: &Identity) -> Tls {
        Tls::new(self.0.pem(), identity.certificate.as_str(), identity.key.as_str())
    }
}

fn loopback() -> SanType {
    SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

async fn refusal(server: &Server, tls: Tls) -> String {
    // It ends at once: the deadline is for a test that fails.
    let connecting = Client::builder([server.address()], tls).timeout(LONG).connect();
    match tokio::time::timeout(LONG / 2, connecting).await.expect("a refusal does not wait for the deadline")
    {
        Ok(_) => panic!("it was let in"),
        Err(SetupError::Unreachable(reason)) => reason,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn both_sides_know_each_other_by_their_certificates() {
    let authority = Authority::new();
    let server = authority.server(loopback()).await;
    let client = Client::connect([server.address()], authority.tls(&authority.client())).await.unwrap();
    client.put("k", "v").await.unwrap();
    assert_eq!(client.get("k").await.unwrap().unwrap().value, "v");
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_believed() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = theirs.server(loopback()).await;
    let reason = refusal(&server, ours.tls(&ours.client())).await;
    assert!(reason.contains("certificate"), "{reason}");
    assert!(server.received().is_empty());
}

#[tokio::test]
async fn a_server_whose_certificate_names_another_host_is_not_believed() {
    let authority = Authority::new();
    let server = authority.server(SanType::DnsName("elsewhere.example.org".try_into().unwrap())).await;
    let reason = refusal(&server, authority.tls(&authority.client())).await;
    assert!(reason.contains("not valid for name"), "{reason}");
}

#[tokio::test]
async fn a_client_without_a_certificate_learns_that_it_needs_one() {
    let authority = Authority::new();
    let server = authority.server(loopback()).await;
    let reason = refusal(&server, Tls { identity: None, ..authority.tls(&authority.client()) }).await;
    assert!(reason.contains("CertificateRequired") && reason.contains("UNAUTHENTICATED"), "{reason}");
}

#[tokio::test]
async fn a_client_of_another_authority_learns_that_it_is_not_believed() {
    let ours = Authority::new();
    let server = ours.server(loopback()).await;
    for theirs in [Authority::new(), Authority::named("another name")] {
        let reason = refusal(&server, ours.tls(&theirs.client())).await;
        assert!(reason.contains("UNAUTHENTICATED"), "{reason}");
    }
    assert!(server.received().is_empty());
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let client = authority.client();
    for (tls, what) in [
        (Tls { ca: b"nothing".to_vec(), ..authority.tls(&client) }, "the CA"),
        (Tls::new(authority.0.pem(), "nothing", client.key.as_str()), "the client's certificate"),
        (Tls::new(authority.0.pem(), client.certificate.as_str(), "nothing"), "the client's key"),
    ] {
        let Err(SetupError::Tls(reason)) = Client::connect(["localhost:1"], tls).await else {
            panic!("{what}")
        };
        assert!(reason.contains(what), "{reason}");
    }
}

/// The way to the leader hangs in the handshake: the request did not leave.
#[tokio::test]
async fn a_call_ends_at_its_deadline_as_not_applied_if_it_was_not_sent() {
    let authority = Authority::new();
    let server = authority.server(loopback()).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let leader = silent.local_addr().unwrap().to_string();
    let client = Client::connect([server.address()], authority.tls(&authority.client())).await.unwrap();
    client.put("first", "opens the session").await.unwrap();
    server.script(move |incoming| match incoming {
        Incoming::Request => {
            Act::Fail(raftmap_proto::v1::Failure { leader: leader.clone(), ..not_applied(Code::NO_LEADER) })
        }
        _ => Act::Apply,
    });
    let error = client.put("k", "v").timeout(SHORT).await.unwrap_err();
    let Error::NotApplied(cause) = &error else { panic!("{error}") };
    assert_eq!((cause.code, cause.attempts), (Some(Code::NO_LEADER), 2));
}
