//! `raftmap serve`: one server of a cluster.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use raftmap::front::{Admission, FrontDoor, FrontDoorConfig, Security};
use raftmap::node::{Node, NodeConfig, StartFailure, cluster_id};
use raftmap::observe::http::{Observation, Readiness};
use raftmap::observe::logs::{self, LogFormat};
use raftmap::observe::metrics;
use raftmap::tls::config::{ClientAuth, Credentials, TlsFiles};
use raftmap::tls::identity::Role;
use raftmap_log::{FoundingMember, Identity, OpenError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::connect::block_on_all_cores;
use super::exit::{self, Failure};

const EXAMPLES: &str = "\
Examples:
  Serve what `raftmap init` made; the addresses are those that it was told:
    raftmap serve --data data --certs certs
  With metrics and health for machines, and logs for them, too:
    raftmap serve --data data --certs certs --metrics-listen 127.0.0.1:7002 --log-format json
  Inside a container, whatever the outside calls it:
    raftmap serve --data /data --certs /certs --client-listen 0.0.0.0:7000 --peer-listen 0.0.0.0:7001
";

/// Serve a data directory as one server of its cluster
///
/// Ends in good order at SIGTERM or SIGINT. Ends at once, with code 5 and the reason in its last line, when its disk
/// fails or an invariant breaks: a server never goes on with what it cannot trust.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Serve {
    /// The data directory, made by `raftmap init`
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    #[command(flatten)]
    security: SecurityArgs,

    /// Where to listen for clients [default: the port that `init` was told; its address, too, if that is a number,
    /// else all addresses]
    #[arg(long, value_name = "IP:PORT", help_heading = "Addresses")]
    client_listen: Option<SocketAddr>,

    /// Where to listen for the other servers [default: as for clients]
    #[arg(long, value_name = "IP:PORT", help_heading = "Addresses")]
    peer_listen: Option<SocketAddr>,

    /// Where to tell /metrics, /healthz and /readyz, over plain HTTP [default: nowhere]
    #[arg(long, value_name = "IP:PORT", help_heading = "Addresses")]
    metrics_listen: Option<SocketAddr>,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    timing: TimingArgs,

    /// How much to log: a level, or levels by target, as in info,raftmap::front=debug
    #[arg(long, env = "RAFTMAP_LOG", value_name = "FILTER", default_value = "info", help_heading = "Logs")]
    log: String,

    /// Lines for people, or JSON objects for programs
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Logs")]
    log_format: Format,

    /// Only for a cluster of one server whose log is damaged: start without what was lost
    #[arg(long, help_heading = "Operation")]
    accept_loss: bool,

    /// Write this file once requests are taken: a line of JSON with the addresses and the process id
    #[arg(long, value_name = "FILE", help_heading = "Operation")]
    ready_file: Option<PathBuf>,

    /// End in good order when standard input ends: so a program's servers end with it
    #[arg(long, help_heading = "Operation")]
    stop_with_stdin: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Security")]
struct SecurityArgs {
    /// Folder of certificates, as `raftmap certs` makes it
    #[arg(long, env = "RAFTMAP_CERTS", value_name = "DIR")]
    certs: Option<PathBuf>,

    /// Certificate of the cluster's authority, instead of DIR/ca.pem
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// This server's certificate, instead of DIR/node-ID.pem
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,

    /// Its key, instead of DIR/node-ID.key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// Whether clients must show a certificate of the cluster
    #[arg(long, value_name = "WHETHER", default_value = "required")]
    client_auth: ClientCertificates,

    /// No TLS at all, neither to clients nor between servers: for tests on one machine
    #[arg(long, conflicts_with_all = ["certs", "ca", "cert", "key"])]
    insecure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClientCertificates {
    /// Whoever shows none is refused
    Required,
    /// Whoever reaches the port may read and write the map
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// The longest key, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 10)]
    key_bytes_max: usize,

    /// The largest value, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    value_bytes_max: usize,

    /// All keys and values of one request together, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    request_bytes_max: usize,

    /// The largest answer, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    answer_bytes_max: u32,

    /// Keys, conditions and operations of one request together
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    operations_max: usize,

    /// Requests that wait at this server
    #[arg(long, value_name = "COUNT", default_value_t = 65_536)]
    requests_max: usize,

    /// Connections of clients at once
    #[arg(long, value_name = "COUNT", default_value_t = 1024)]
    connections_max: usize,

    /// Puts are refused while less than this is free on the disk, in MiB; deletes and reads go on
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    space_reserve_mib: u64,
}

#[derive(Args)]
#[command(next_help_heading = "Times")]
struct TimingArgs {
    /// A follower that hears nothing from the leader for this long, or up to twice as long by chance, stands for
    /// election, in milliseconds; the same on all servers
    #[arg(long, value_name = "MS", default_value_t = 500)]
    election_timeout_ms: u64,

    /// How often the leader shows that it is there, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100)]
    heartbeat_ms: u64,

    /// How long a request may take if its sender does not say, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    request_timeout_ms: u64,

    /// A leader whose clock is further than this from the others' does not stamp times with it, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    clock_skew_max_ms: u64,

    /// At the end, how long requests that are under way may go on, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    shutdown_timeout_ms: u64,
}

impl Serve {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let format = match self.log_format {
            Format::Text => LogFormat::Text,
            Format::Json => LogFormat::Json,
        };
        logs::init(format, &self.log).map_err(|error| Failure::Usage(error.to_string()))?;
        block_on_all_cores(self.serve())
    }

    async fn serve(self) -> Result<(), Failure> {
        let identity = read_identity(&self.data)?;
        let stop = Stop::listen(self.stop_with_stdin)?;
        let server = Server::open(&self, &identity).await?;
        self.announce(&server)?;
        let (id, node) = (server.id, server.node.clone());
        tokio::select! {
            reason = node.failed() => return Err(Failure::ServerEnded { id, reason }),
            why = stop.wait() => tracing::info!(why, "this server ends in good order"),
        }
        // A disk that fails meanwhile is a failure still.
        tokio::select! {
            reason = node.failed() => Err(Failure::ServerEnded { id, reason }),
            () = server.close(Duration::from_millis(self.timing.shutdown_timeout_ms)) => {
                tracing::info!("ended");
                Ok(())
            }
        }
    }

    /// Says that requests are taken: in the log, and in the file for programs.
    fn announce(&self, server: &Server) -> Result<(), Failure> {
        let (node, client, peer) = (server.id, server.client_address, server.peer_address);
        tracing::info!(node, %client, %peer, "ready: this server takes requests");
        let Some(path) = &self.ready_file else { return Ok(()) };
        let metrics = server.observation.as_ref().map(Observation::address);
        let ready = serde_json::json!({
            "node": node,
            "client": client,
            "peer": peer,
            "metrics": metrics,
            "pid": std::process::id(),
        });
        write_whole(path, &format!("{ready}\n")).map_err(|error| Failure::io("write", path, &error))
    }

    fn node_config(&self, own: &FoundingMember, tls: Option<TlsFiles>) -> Result<NodeConfig, Failure> {
        let peer_listen = listen_address(self.peer_listen, &own.peer_address)?;
        let mut config = NodeConfig::new(&self.data, peer_listen, tls);
        let (limits, timing) = (&self.limits, &self.timing);
        config.limits.key_bytes_max = limits.key_bytes_max;
        config.limits.value_bytes_max = limits.value_bytes_max;
        config.limits.request_bytes_max = limits.request_bytes_max;
        config.limits.answer_bytes_max = limits.answer_bytes_max;
        config.limits.operations_max = limits.operations_max;
        config.requests_max = limits.requests_max;
        config.space_reserve_bytes = limits.space_reserve_mib.saturating_mul(1 << 20);
        config.election_timeout = Duration::from_millis(timing.election_timeout_ms);
        config.heartbeat = Duration::from_millis(timing.heartbeat_ms);
        config.clock_skew_max = Duration::from_millis(timing.clock_skew_max_ms);
        config.log.accept_loss = self.accept_loss;
        Ok(config)
    }

    fn front_door_config(&self) -> FrontDoorConfig {
        let request_timeout = Duration::from_millis(self.timing.request_timeout_ms);
        let defaults = FrontDoorConfig::default();
        FrontDoorConfig {
            connections_max: self.limits.connections_max,
            handshakes_max: defaults.handshakes_max.min(self.limits.connections_max),
            drain_timeout: Duration::from_millis(self.timing.shutdown_timeout_ms),
            request_timeout,
            request_timeout_max: defaults.request_timeout_max.max(request_timeout),
            ..defaults
        }
    }
}

/// A running server: the node and its ports.
struct Server {
    id: u64,
    node: Node,
    door: FrontDoor,
    observation: Option<Observation>,
    client_address: SocketAddr,
    peer_address: SocketAddr,
}

impl Server {
    async fn open(serve: &Serve, identity: &Identity) -> Result<Self, Failure> {
        let own = own_entry(identity)?;
        let (files, door_security, admission) = serve.security.check(identity)?;
        let recorder = metrics::init().map_err(|error| Failure::Failed(error.to_string()))?;
        // The ports first: what is in their way is known before the data is touched.
        let client_listen = listen_address(serve.client_listen, &own.client_address)?;
        let door_listener = bind(client_listen, "--client-listen").await?;
        let metrics_listener = match serve.metrics_listen {
            Some(address) => Some(bind(address, "--metrics-listen").await?),
            None => None,
        };
        let config = serve.node_config(own, files)?;
        let peer_address = config.peer_listen;
        let node = Node::start(config).await?;
        let unusable = |error: io::Error| Failure::Failed(format!("a port cannot be used: {error}"));
        let config = serve.front_door_config();
        let door = FrontDoor::open(door_listener, door_security, admission, config, Arc::new(node.clone()))
            .map_err(unusable)?;
        let observation = match metrics_listener {
            Some(listener) => {
                Some(Observation::open(listener, recorder, readiness(node.clone())).map_err(unusable)?)
            }
            None => None,
        };
        let client_address = door.address();
        Ok(Self { id: identity.node().0, node, door, observation, client_address, peer_address })
    }

    /// Ends in good order: first the requests, then the node.
    async fn close(self, patience: Duration) {
        tokio::join!(self.door.close(), self.node.shut_down(patience));
    }
}

impl SecurityArgs {
    /// The certificates between servers, and how the front door is secured and whom it lets in.
    fn check(&self, identity: &Identity) -> Result<(Option<TlsFiles>, Security, Admission), Failure> {
        if self.insecure {
            tracing::warn!(
                "--insecure: no TLS; whoever reaches the ports may read and write everything, or claim to be a server"
            );
            return Ok((None, Security::Plaintext, Admission::Everyone));
        }
        let files = self.files(identity)?;
        let failed = |error: raftmap::tls::config::TlsError| Failure::from(StartFailure::Tls(error));
        let credentials = Credentials::load(&files).map_err(failed)?;
        let own = credentials.identity().map_err(failed)?;
        if own.role != Role::Node(identity.node()) || cluster_id(&own.cluster) != identity.cluster() {
            return Err(Failure::Failed(format!(
                "{}: is the certificate of {own}, and {} serves node {} of the cluster that `raftmap init` was told: \
                 wrong certificate, or wrong data directory",
                files.certificate.display(),
                std::env::args().next().unwrap_or_default(),
                identity.node(),
            )));
        }
        let (auth, admission) = match self.client_auth {
            ClientCertificates::Required => (ClientAuth::Required, Admission::Certificates(own.cluster)),
            ClientCertificates::None => {
                tracing::warn!(
                    "--client-auth none: whoever reaches the port for clients may read and write the map"
                );
                (ClientAuth::None, Admission::Everyone)
            }
        };
        let tls = credentials.front_door(auth).map_err(failed)?;
        Ok((Some(files), Security::Tls(tls), admission))
    }

    fn files(&self, identity: &Identity) -> Result<TlsFiles, Failure> {
        let stem = format!("node-{}", identity.node());
        let file = |given: &Option<PathBuf>, name: String| {
            let in_folder = || self.certs.as_ref().map(|folder| folder.join(name));
            given.clone().or_else(in_folder).ok_or_else(|| {
                Failure::Usage(
                    "which certificates? --certs DIR, or --ca, --cert and --key; `raftmap certs` makes them"
                        .to_owned(),
                )
            })
        };
        Ok(TlsFiles {
            ca: file(&self.ca, "ca.pem".to_owned())?,
            certificate: file(&self.cert, format!("{stem}.pem"))?,
            key: file(&self.key, format!("{stem}.key"))?,
        })
    }
}

/// What ends a server in good order.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    stdin_ended: Arc<Notify>,
}

impl Stop {
    fn listen(with_stdin: bool) -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::Failed(format!("no signals: {error}")));
        let stdin_ended = Arc::new(Notify::new());
        if with_stdin {
            let ended = Arc::clone(&stdin_ended);
            let wait = move || {
                // What comes is of no interest; an error is an end, too.
                let _end = io::copy(&mut io::stdin().lock(), &mut io::sink());
                ended.notify_one();
            };
            // A thread that nobody joins: a read of standard input cannot be called off.
            std::thread::Builder::new()
                .name("raftmap-stdin".to_owned())
                .spawn(wait)
                .map_err(|error| Failure::Failed(format!("no thread: {error}")))?;
        }
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            stdin_ended,
        })
    }

    async fn wait(mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = self.stdin_ended.notified() => "standard input ended",
        }
    }
}

/// How often a node is asked whether it is ready, while somebody may want to know.
const READINESS_INTERVAL: Duration = Duration::from_millis(500);

/// Whether the node can do its work, as of half a second ago at most.
fn readiness(node: Node) -> Readiness {
    let ready = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ready);
    tokio::spawn(async move {
        loop {
            seen.store(node.is_ready().await, Ordering::Relaxed);
            tokio::time::sleep(READINESS_INTERVAL).await;
        }
    });
    Arc::new(move || match ready.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err("no leader is known".to_owned()),
    })
}

/// Who a data directory belongs to.
fn read_identity(data: &Path) -> Result<Identity, Failure> {
    let path = data.join("identity");
    let mut text = String::new();
    let read = fs::File::open(&path).and_then(|file| file.take(IDENTITY_BYTES_MAX).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(StartFailure::Open(OpenError::NotInitialised(data.to_owned())).into())
        }
        Err(error) => Err(Failure::io("read", &path, &error)),
        Ok(_) => Identity::parse(&text)
            .map_err(|source| StartFailure::Open(OpenError::Identity { path, source }).into()),
    }
}

/// More than a thousand members take.
const IDENTITY_BYTES_MAX: u64 = 1 << 20;

fn own_entry(identity: &Identity) -> Result<&FoundingMember, Failure> {
    let own = identity.founding_members().iter().find(|member| member.node == identity.node());
    own.ok_or_else(|| Failure::Failed(format!("node {} is none of its own members", identity.node())))
}

/// Where to listen: as told, or else by the address that the others were told. A name may mean other addresses here than
/// it does elsewhere, so that only its port counts.
fn listen_address(told: Option<SocketAddr>, advertised: &str) -> Result<SocketAddr, Failure> {
    if let Some(address) = told {
        return Ok(address);
    }
    if let Ok(address) = advertised.parse() {
        return Ok(address);
    }
    let port = advertised.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let port = port.ok_or_else(|| {
        Failure::Failed(format!(
            "the data directory names {advertised:?}, which has no port: say where to listen"
        ))
    })?;
    Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
}

async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let in_use = "; another program has the port (another server, perhaps)";
        let hint = if error.kind() == io::ErrorKind::AddrInUse { in_use } else { "" };
        Failure::Failed(format!("cannot listen on {address}: {error}{hint}; {flag} chooses another"))
    })
}

/// Writes a file that is there whole or not at all.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_listened_on_and_of_names_only_the_port_counts() {
        let listen = |told: Option<&str>, advertised: &str| {
            listen_address(told.map(|told| told.parse().unwrap()), advertised).unwrap().to_string()
        };
        assert_eq!(listen(None, "10.0.0.1:7000"), "10.0.0.1:7000");
        assert_eq!(listen(None, "[::1]:7000"), "[::1]:7000");
        assert_eq!(listen(None, "host1:7000"), "0.0.0.0:7000");
        assert_eq!(listen(Some("127.0.0.1:1"), "host1:7000"), "127.0.0.1:1");
        assert!(listen_address(None, "host1").is_err());
    }
}
