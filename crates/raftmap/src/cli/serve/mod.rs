//! `raftmap serve`: one server of a cluster.

mod limits;
mod place;
mod security;
mod stop;
mod traces;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use raftmap::ReadAndWrite;
use raftmap::front::{FrontDoor, FrontDoorConfig};
use raftmap::node::{Node, NodeConfig, NodeError};
use raftmap::observe::audit::Audit;
use raftmap::observe::http::{Observation, Readiness};
use raftmap::observe::logs::{self, LogFormat};
use raftmap::observe::metrics;
use raftmap::observe::traces::Tracer;
use raftmap::tls::config::TlsFiles;
use raftmap_log::{FoundingMember, Identity};

use self::limits::{LimitArgs, TimingArgs};
use self::place::{bind, listen_address, own_entry, read_identity};
use self::security::SecurityArgs;
use self::stop::Stop;
use self::traces::{TraceArgs, Traces};
use super::connect::block_on_half_of_the_cores;
use super::exit::{self, Failure};

const EXAMPLES: &str = "\
Examples:
  Serve what `raftmap init` made; the addresses are those that it was told:
    raftmap serve --data data --certs certs
  With metrics and health for machines, and logs for them, too:
    raftmap serve --data data --certs certs --metrics-listen 127.0.0.1:7002 --log-format json
  With settings from a file, and one of them otherwise:
    raftmap serve --config raftmap.toml --log-mib 256
  With users that may read and write some keys each, by token or certificate, and a log of who was refused:
    raftmap serve --data data --certs certs --users users.toml --client-auth optional --audit-log audit.log
  Inside a container, whatever the outside calls it:
    raftmap serve --data /data --certs /certs --client-listen 0.0.0.0:7000 --peer-listen 0.0.0.0:7001";

/// Serve a data directory as one server of its cluster
///
/// Ends in good order at SIGTERM or SIGINT: a leader hands over first. Ends at once, with code 5 and the reason in its last line, when its disk
/// fails or an invariant breaks: a server never goes on with what it cannot trust.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Serve {
    /// The data directory, made by `raftmap init`
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// A file of settings (TOML), which have the names of these options; what is said here or by the environment comes first
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

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

    #[command(flatten)]
    traces: TraceArgs,

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

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Serve {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let format = match self.log_format {
            Format::Text => LogFormat::Text,
            Format::Json => LogFormat::Json,
        };
        logs::init(format, &self.log).map_err(|error| Failure::Usage(error.to_string()))?;
        std::panic::set_hook(Box::new(end_at_once));
        block_on_half_of_the_cores(self.serve())
    }

    /// Whether it could serve, as far as that is known without a start; in words.
    pub(crate) fn check(&self) -> Result<String, Failure> {
        if !self.data.try_exists().unwrap_or(true) {
            return Ok(format!(
                "sound; {} is not there, so that certificates were not looked at",
                self.data.display()
            ));
        }
        let identity = read_identity(&self.data)?;
        let own = own_entry(&identity)?;
        let checked = self.security.check(&identity)?;
        self.node_config(own, checked.files)?;
        Ok(format!("sound: this would be server {} of its cluster", identity.node()))
    }

    async fn serve(self) -> Result<(), Failure> {
        if let Some(file) = &self.config {
            tracing::info!(file = %file.display(), "settings are taken from a file, too");
        }
        let identity = read_identity(&self.data)?;
        let stop = Stop::listen(self.stop_with_stdin)?;
        let server = Server::open(&self, &identity).await?;
        self.announce(&server)?;
        let (id, node) = (server.id, server.node.clone());
        tokio::select! {
            reason = node.failed() => {
                // Who was removed has nothing to hide: what it said last, to servers and clients, is to arrive.
                if matches!(reason, NodeError::Expelled(_)) {
                    server.close(self.timing.shutdown_timeout()).await;
                }
                return Err(Failure::ServerEnded { id, reason });
            }
            why = stop.wait() => tracing::info!(why, "this server ends in good order"),
        }
        // A disk that fails meanwhile is a failure still.
        tokio::select! {
            reason = node.failed() => Err(Failure::ServerEnded { id, reason }),
            () = server.close(self.timing.shutdown_timeout()) => {
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
        config.compaction = limits.compaction();
        config.snapshot_bytes_per_second = limits.snapshot_mib_per_second << 20;
        config.scan_every = (limits.scan_every > 0).then(|| Duration::from_secs(limits.scan_every));
        config.scan_bytes_per_second = limits.scan_mib_per_second << 20;
        config.election_timeout = Duration::from_millis(timing.election_timeout_ms);
        config.heartbeat = Duration::from_millis(timing.heartbeat_ms);
        config.clock_skew_max = Duration::from_millis(timing.clock_skew_max_ms);
        config.log.accept_loss = self.accept_loss;
        Ok(config)
    }

    fn front_door_config(&self, audit: Audit, tracer: Tracer) -> FrontDoorConfig {
        let request_timeout = Duration::from_millis(self.timing.request_timeout_ms);
        let defaults = FrontDoorConfig::default();
        FrontDoorConfig {
            connections_max: self.limits.connections_max,
            connections_per_address_max: self.limits.connections_per_address_max(),
            handshakes_max: defaults.handshakes_max.min(self.limits.connections_max),
            backup_time_max: Duration::from_secs(60 * self.timing.backup_minutes_max),
            drain_timeout: self.timing.shutdown_timeout(),
            request_timeout,
            request_timeout_max: defaults.request_timeout_max.max(request_timeout),
            audit,
            tracer,
            ..defaults
        }
    }
}

/// A broken invariant, on whatever thread: nothing that this process does or says from then on can be trusted.
fn end_at_once(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed").to_owned();
    tracing::error!(thread = name, %panic, "this server ends: an invariant is broken");
    let message = panic.payload_as_str().unwrap_or("no message");
    exit::end_server(&format!("broken invariant on the thread {name}: {message}"));
}

/// A running server: the node and its ports.
struct Server {
    id: u64,
    node: Node,
    door: FrontDoor,
    observation: Option<Observation>,
    traces: Traces,
    client_address: SocketAddr,
    peer_address: SocketAddr,
}

impl Server {
    async fn open(serve: &Serve, identity: &Identity) -> Result<Self, Failure> {
        let own = own_entry(identity)?;
        let checked = serve.security.check(identity)?;
        let recorder = metrics::init().map_err(|error| Failure::Failed(error.to_string()))?;
        // The ports first: what is in their way is known before the data is touched.
        let client_listen = listen_address(serve.client_listen, &own.client_address)?;
        let door_listener = bind(client_listen, "--client-listen").await?;
        let metrics_listener = match serve.metrics_listen {
            Some(address) => Some(bind(address, "--metrics-listen").await?),
            None => None,
        };
        let (door_security, admission) = checked.front_door()?;
        let audit = serve.security.audit()?;
        let traces = serve.traces.begin(identity);
        let mut config = serve.node_config(own, checked.files)?;
        config.tracer = traces.tracer.clone();
        let peer_address = config.peer_listen;
        let node = Node::start(config).await?;
        let unusable = |error: io::Error| Failure::Failed(format!("a port cannot be used: {error}"));
        let config = serve.front_door_config(audit, traces.tracer.clone());
        let door = FrontDoor::open(door_listener, door_security, admission, config, Arc::new(node.clone()))
            .map_err(unusable)?;
        let observation = match metrics_listener {
            Some(listener) => {
                Some(Observation::open(listener, recorder, readiness(&node)).map_err(unusable)?)
            }
            None => None,
        };
        let client_address = door.address();
        Ok(Self { id: identity.node().0, node, door, observation, traces, client_address, peer_address })
    }

    /// Ends in good order: first the requests, then the node.
    async fn close(self, patience: Duration) {
        tokio::join!(self.door.close(), self.node.shut_down(patience));
        self.traces.end().await;
    }
}

/// Whether the node answers requests.
fn readiness(node: &Node) -> Readiness {
    let ready = node.readiness();
    Arc::new(move || match *ready.borrow() {
        true => Ok(()),
        false => {
            Err("no leader is known, or this server's state is not whole: `raftmap status` tells".to_owned())
        }
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
    use clap::{Args, FromArgMatches};
    use raftmap::node::NodeId;

    use super::*;

    /// Who embeds a server and who runs one get the same.
    #[test]
    fn a_server_that_is_told_nothing_runs_as_one_that_is_embedded() {
        let command = Serve::augment_args(clap::Command::new("serve").no_binary_name(true));
        let matches = command.try_get_matches_from(["--data", "data", "--certs", "certs"]).unwrap();
        let serve = Serve::from_arg_matches(&matches).unwrap();
        let (peer_address, client_address) = ("127.0.0.1:7001".to_owned(), "127.0.0.1:7000".to_owned());
        let own = FoundingMember { node: NodeId(1), peer_address, client_address };
        let config = serve.node_config(&own, None).unwrap();
        let embedded = NodeConfig::new("data", "127.0.0.1:7001".parse().unwrap(), None);
        assert_eq!(format!("{config:?}"), format!("{embedded:?}"));
    }
}
