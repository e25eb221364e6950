//! A front door with real sockets and real TLS, before a node whose cluster is itself alone: the state machine on its
//! engine in memory, without consensus and without a log.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use buffa::Message as _;
use bytes::Bytes;
use connectrpc::client::{ClientConfig, Http2Connection};
use connectrpc::{ConnectError, Protocol};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use raftmap::api::{
    Backup, Call, Checked, Code, Failure, FailureOutcome, GetValueInput, MembersChange, ReadAndWrite,
    ScanInput, ScanPage, ScanPages, WriteInput, by_deadline,
};
use raftmap::backup::{BackupHeader, BackupParts, Origin};
use raftmap::front::{Admission, FrontDoor, FrontDoorConfig, Security};
use raftmap::tls::certs::{Authority, LIFETIME};
use raftmap::tls::config::{ALPN_HTTP1, ClientAuth, Credentials, TlsFiles};
use raftmap::tls::identity::{ClusterName, Role};
use raftmap_proto::health::HealthClient;
use raftmap_proto::reflection::ServerReflectionClient;
use raftmap_proto::v1;
use raftmap_raft::{Entry, GroupId, LogIndex, NodeId, Payload, Term};
use raftmap_state::validate::RequestLimits;
use raftmap_state::{
    Answer, Body, Command, GetAnswer, MemoryEngine, ReadError, SessionLimits, SessionOpened, StateMachine,
    Write,
};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What comes within [`PATIENCE`].
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

/// Waits until `condition` holds.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A cluster of one. Its requests can be held up, to see what happens meanwhile.
pub(crate) struct Node {
    machine: Mutex<StateMachine<MemoryEngine>>,
    limits: RequestLimits,
    session_limits: SessionLimits,
    held: watch::Sender<bool>,
    waiting: AtomicUsize,
    pub(crate) members_index: AtomicU64,
    /// Whether it says that it answers requests.
    pub(crate) ready: watch::Sender<bool>,
}

impl Node {
    pub(crate) fn new(limits: RequestLimits) -> Arc<Self> {
        let machine = StateMachine::open(MemoryEngine::new(), GroupId::DEFAULT).unwrap();
        Arc::new(Self {
            machine: Mutex::new(machine),
            limits,
            session_limits: SessionLimits::default(),
            held: watch::Sender::new(false),
            waiting: AtomicUsize::new(0),
            members_index: AtomicU64::new(0),
            ready: watch::Sender::new(true),
        })
    }

    /// Requests wait from now on.
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Requests go on.
    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    async fn pass(&self, call: &Call) -> Result<(), Failure> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let mut held = self.held.subscribe();
        if !*held.borrow() {
            return Ok(());
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        by_deadline(call.deadline, FailureOutcome::NotApplied, async {
            held.wait_for(|held| !held).await.expect("the sender lives in the node");
            Ok(())
        })
        .await
    }

    fn apply(&self, body: Body) -> Result<Answer, Failure> {
        let mut machine = self.machine.lock().unwrap();
        let index = machine.applied().index.next();
        let command = Command { stamped_time_ms: None, trace: None, body };
        let entry = Entry { term: Term(1), index, payload: Payload::Command(command.encode()) };
        let outcome = machine.apply(&[entry]).unwrap().remove(0);
        Ok(outcome.result?)
    }

    fn applied(&self) -> LogIndex {
        self.machine.lock().unwrap().applied().index
    }

    fn behind(&self, min_revision: LogIndex) -> Result<(), Failure> {
        if self.applied() >= min_revision {
            return Ok(());
        }
        Err(Failure::not_applied(Code::Behind, "this server is behind"))
    }
}

impl ReadAndWrite for Node {
    fn limits(&self) -> &RequestLimits {
        &self.limits
    }

    async fn submit_write(&self, write: Checked<WriteInput>) -> Result<Answer, Failure> {
        let WriteInput { request, session, call } = write.into_inner();
        self.pass(&call).await?;
        self.apply(Body::Write(Write { request, session, answer_bytes_max: self.limits.answer_bytes_max }))
    }

    fn submit_writes<F>(self: &Arc<Self>, writes: Vec<(Checked<WriteInput>, F)>)
    where
        F: FnOnce(Result<Answer, Failure>) + Send + 'static,
    {
        for (write, answer) in writes {
            let node = Arc::clone(self);
            tokio::spawn(async move { answer(node.submit_write(write).await) });
        }
    }

    async fn submit_get(&self, get: Checked<GetValueInput>) -> Result<GetAnswer, Failure> {
        let GetValueInput { get, options, call } = get.into_inner();
        self.pass(&call).await?;
        self.behind(options.min_revision)?;
        let reader = self.machine.lock().unwrap().reader();
        reader.get(&get, self.limits.answer_bytes_max).map_err(|error| match error {
            ReadError::AnswerTooLarge { limit } => {
                Failure::not_applied(Code::TooLarge, error.to_string()).in_field("keys").over_limit(limit)
            }
            ReadError::State(error) => panic!("{error}"),
        })
    }

    async fn submit_scan(&self, scan: Checked<ScanInput>) -> Result<ScanPages, Failure> {
        let ScanInput { scan, page_bytes_max, options, call } = scan.into_inner();
        self.pass(&call).await?;
        self.behind(options.min_revision)?;
        let cursor = self.machine.lock().unwrap().reader().scan(&scan).unwrap();
        Ok(Box::pin(futures::stream::unfold(Some(cursor), move |cursor| async move {
            let mut cursor = cursor?;
            let answer = cursor.next_page(page_bytes_max.into()).unwrap();
            let last = cursor.is_done();
            Some((Ok(ScanPage { answer, last }), (!last).then_some(cursor)))
        })))
    }

    async fn backup(&self, call: Call) -> Result<Backup, Failure> {
        self.pass(&call).await?;
        let snapshot = self.machine.lock().unwrap().reader().snapshot().unwrap();
        let header = BackupHeader::of(snapshot.header(), Origin::Cluster, 1, NodeId(1));
        let parts = BackupParts::new(&header, &snapshot).map(|part| Ok(part.unwrap()));
        Ok(Backup { parts: Box::pin(futures::stream::iter(parts)), bytes_expected: 7 })
    }

    async fn open_session(&self, call: Call) -> Result<SessionOpened, Failure> {
        self.pass(&call).await?;
        match self.apply(Body::OpenSession(self.session_limits))? {
            Answer::SessionOpened(opened) => Ok(opened),
            other => panic!("{other:?}"),
        }
    }

    async fn change_members(&self, _change: MembersChange, call: Call) -> Result<(), Failure> {
        self.pass(&call).await
    }

    fn members_index(&self) -> u64 {
        self.members_index.load(Ordering::Relaxed)
    }

    async fn members(&self, _call: Call) -> Result<v1::MembersResponse, Failure> {
        let member = v1::Member { id: 1, leader: true, ..Default::default() };
        Ok(v1::MembersResponse { term: 1, members: vec![member], ..Default::default() })
    }

    async fn status(&self, _call: Call) -> Result<v1::StatusResponse, Failure> {
        let member = v1::MemberStatus { id: 1, applied_index: self.applied().0, ..Default::default() };
        Ok(v1::StatusResponse { answered_by: 1, members: vec![member], ..Default::default() })
    }

    fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }
}

/// The certificates of a cluster, in a folder of their own.
pub(crate) struct Certificates {
    pub(crate) folder: tempfile::TempDir,
}

impl Certificates {
    pub(crate) fn new(cluster: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path(), cluster.parse().unwrap()).unwrap();
        Self::issued_by(&authority, folder)
    }

    /// Certificates that say that they are of `cluster`, by the authority of `others`: not what `raftmap certs` makes,
    /// but what an authority that two clusters share would.
    pub(crate) fn signed_by_the_same_authority(others: &Self, cluster: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(others.path("ca.pem"), folder.path().join("ca.pem")).unwrap();
        let key = KeyPair::from_pem(&std::fs::read_to_string(others.path("ca.key")).unwrap()).unwrap();
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = DistinguishedName::new();
        issuer.distinguished_name.push(DnType::OrganizationName, "ours");
        issuer.distinguished_name.push(DnType::CommonName, "raftmap authority");
        let mut params = CertificateParams::default();
        let name = format!("raftmap://{cluster}/client/client");
        params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        let own = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&own, &Issuer::new(issuer, key)).unwrap();
        std::fs::write(folder.path().join("client.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.path().join("client.key"), own.serialize_pem()).unwrap();
        Self { folder }
    }

    fn issued_by(authority: &Authority, folder: tempfile::TempDir) -> Self {
        let addresses = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        authority.issue_to(folder.path(), &Role::Node(NodeId(1)), &addresses, LIFETIME).unwrap();
        authority.issue_to(folder.path(), &Role::Client("client".into()), &[], LIFETIME).unwrap();
        authority.issue_to(folder.path(), &Role::Operator("operator".into()), &[], LIFETIME).unwrap();
        Self { folder }
    }

    /// The path of one of its files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The files of one holder: `node-1`, `client` or `operator`.
    pub(crate) fn files(&self, stem: &str) -> TlsFiles {
        self.files_with_authority(stem, self.folder.path())
    }

    /// The same, trusting the authority in another folder.
    pub(crate) fn files_with_authority(&self, stem: &str, authority: &Path) -> TlsFiles {
        TlsFiles {
            ca: authority.join("ca.pem"),
            certificate: self.path(&format!("{stem}.pem")),
            key: self.path(&format!("{stem}.key")),
        }
    }

    /// The settings of a client that shows none.
    pub(crate) fn without_certificate(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(raftmap::tls::config::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    pub(crate) fn credentials(&self, stem: &str) -> Credentials {
        Credentials::load(&self.files(stem)).unwrap()
    }
}

/// A front door, its node, and the certificates of its cluster.
pub(crate) struct House {
    pub(crate) node: Arc<Node>,
    pub(crate) certificates: Certificates,
    pub(crate) door: FrontDoor,
}

pub(crate) fn cluster() -> ClusterName {
    "ours".parse().unwrap()
}

impl House {
    pub(crate) async fn open() -> Self {
        Self::with(FrontDoorConfig::default(), RequestLimits::default()).await
    }

    pub(crate) async fn with(config: FrontDoorConfig, limits: RequestLimits) -> Self {
        let certificates = Certificates::new("ours");
        let tls = certificates.credentials("node-1").front_door(ClientAuth::Required).unwrap();
        let admission = Admission::Certificates(cluster());
        Self::custom(config, limits, certificates, Security::Tls(tls), admission).await
    }

    pub(crate) async fn custom(
        config: FrontDoorConfig,
        limits: RequestLimits,
        certificates: Certificates,
        security: Security,
        admission: Admission,
    ) -> Self {
        let node = Node::new(limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = FrontDoor::open(listener, security, admission, config, Arc::clone(&node)).unwrap();
        Self { node, certificates, door }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.door.address()
    }
}

pub(crate) type Connection = connectrpc::client::SharedHttp2Connection;

/// Generated clients of one house, over one connection.
pub(crate) struct Clients {
    pub(crate) map: v1::MapClient<Connection>,
    pub(crate) cluster: v1::ClusterClient<Connection>,
    pub(crate) health: HealthClient<Connection>,
    pub(crate) reflection: ServerReflectionClient<Connection>,
    /// What they all use.
    pub(crate) transport: (Connection, ClientConfig),
}

impl House {
    /// Clients with the certificate of `stem`.
    pub(crate) async fn clients(&self, stem: &str, protocol: Protocol) -> Clients {
        let tls = self.certificates.credentials(stem).dialler().unwrap();
        self.clients_with(tls, protocol).await.unwrap()
    }

    pub(crate) async fn clients_with(
        &self,
        tls: Arc<rustls::ClientConfig>,
        protocol: Protocol,
    ) -> Result<Clients, ConnectError> {
        let uri: http::Uri = format!("https://{}", self.address()).parse().unwrap();
        let connection = Http2Connection::builder()
            .adaptive_window(false)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .connect_tls(uri.clone(), tls)
            .await?
            .shared(1024);
        let config = ClientConfig::new(uri).with_protocol(protocol).with_default_max_message_size(8 << 20);
        Ok(Clients {
            map: v1::MapClient::new(connection.clone(), config.clone()),
            cluster: v1::ClusterClient::new(connection.clone(), config.clone()),
            health: HealthClient::new(connection.clone(), config.clone()),
            reflection: ServerReflectionClient::new(connection.clone(), config.clone()),
            transport: (connection, config),
        })
    }

    /// A client that speaks gRPC.
    pub(crate) async fn map(&self) -> v1::MapClient<Connection> {
        self.clients("client", Protocol::Grpc).await.map
    }
}

/// The failure in the details of a status.
pub(crate) fn failure(error: &ConnectError) -> v1::Failure {
    let detail = error.details.iter().find(|detail| detail.type_url.ends_with("raftmap.v1.Failure"));
    let detail = detail.unwrap_or_else(|| panic!("{error:?} carries a failure"));
    let bytes = STANDARD_NO_PAD.decode(detail.value.as_deref().unwrap()).unwrap();
    v1::Failure::decode_from_slice(&bytes).unwrap()
}

/// The code of the failure in the details of a status.
pub(crate) fn code(error: &ConnectError) -> v1::failure::Code {
    failure(error).code.as_known().unwrap()
}

pub(crate) fn put(key: &str, value: &str) -> v1::PutRequest {
    let entry = v1::PutEntry { key: bytes(key), value: bytes(value), ..Default::default() };
    v1::PutRequest { entries: vec![entry], ..Default::default() }
}

pub(crate) fn get(keys: &[&str]) -> v1::GetRequest {
    v1::GetRequest { keys: keys.iter().map(|key| bytes(key)).collect(), ..Default::default() }
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl House {
    /// A connection with nothing on it yet: after the handshake, by the certificate of `stem`.
    pub(crate) async fn dial(&self, stem: &str, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        let tls = self.certificates.credentials(stem).dialler().unwrap();
        self.dial_with(tls, alpn).await.unwrap()
    }

    pub(crate) async fn dial_with(
        &self,
        tls: Arc<rustls::ClientConfig>,
        alpn: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut tls = Arc::unwrap_or_clone(tls);
        tls.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let socket = TcpStream::connect(self.address()).await?;
        let name = ServerName::from(self.address().ip());
        TlsConnector::from(Arc::new(tls)).connect(name, socket).await
    }

    /// Sends one request by HTTP/1.1, on a connection of its own.
    pub(crate) async fn http1(&self, request: Request<Full<Bytes>>) -> (StatusCode, Bytes) {
        let stream = self.dial("client", &[ALPN_HTTP1]).await;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let response = soon(sender.send_request(request)).await.unwrap();
        let status = response.status();
        (status, soon(response.into_body().collect()).await.unwrap().to_bytes())
    }

    /// A request of Connect to the map, with JSON.
    pub(crate) async fn json(&self, call: &str, body: &str) -> (StatusCode, serde_json::Value) {
        self.json_at(&format!("raftmap.v1.Map/{call}"), body).await
    }

    /// A request of Connect, with JSON.
    pub(crate) async fn json_at(&self, path: &str, body: &str) -> (StatusCode, serde_json::Value) {
        let request = Request::post(format!("/{path}"))
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(bytes(body)))
            .unwrap();
        let (status, body) = self.http1(request).await;
        (status, serde_json::from_slice(&body).unwrap())
    }
}

/// The failure in the details of a Connect error.
pub(crate) fn json_failure(error: &serde_json::Value) -> v1::Failure {
    assert_eq!(error["details"][0]["type"], "raftmap.v1.Failure", "{error}");
    let detail = STANDARD_NO_PAD.decode(error["details"][0]["value"].as_str().unwrap()).unwrap();
    v1::Failure::decode_from_slice(&detail).unwrap()
}
