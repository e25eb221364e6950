//! A cluster of real processes on this machine: for the demo, for benchmarks and for tests.
//!
//! ```text
//! FOLDER/certs/                the authority, and the certificates of the servers, of `client` and of `operator`
//! FOLDER/server-N/data/        the data directory of server N
//! FOLDER/server-N/server.log   what it said, in all its starts
//! FOLDER/server-N/ready        written by the server when it takes requests
//! ```
//!
//! ```no_run
//! use raftmap::local_cluster::LocalPlan;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let plan = LocalPlan::new("target/release/raftmap", "/tmp/three", 3)?;
//! let mut cluster = plan.found()?;
//! cluster.start_all().await?;
//! let client = cluster.client().await?;
//! client.put("greeting", "hello").await?;
//! let leader = cluster.leader().await?;
//! cluster.kill(leader)?;
//! assert!(client.get("greeting").await?.is_some());
//! cluster.start(leader).await?;
//! # Ok(()) }
//! ```

mod ports;
mod process;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use raftmap_client::{Client, SetupError, Tls};
use raftmap_log::FoundingMember;
use raftmap_raft::NodeId;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use self::process::{ServerProcess, serve_command};
use crate::node::{self, InitFailure};
use crate::survey;
use crate::tls::certs::{Authority, CertsError, LIFETIME};
use crate::tls::identity::{ClusterName, Role};

pub use self::ports::free_loopback_addresses;

/// The client's name in the certificates.
pub const CLIENT: &str = "client";

/// The operator's name in the certificates.
pub const OPERATOR: &str = "operator";

/// How long to wait for a leader.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one question for the leader may take.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(1);

const POLL: Duration = Duration::from_millis(20);

/// A cluster that is not founded yet: all of it may be changed.
#[derive(Clone, Debug)]
pub struct LocalPlan {
    /// The `raftmap` binary.
    pub program: PathBuf,
    /// Where everything is kept. It is made if needed.
    pub folder: PathBuf,
    /// The cluster's name.
    pub cluster: ClusterName,
    /// The servers.
    pub members: Vec<LocalMember>,
    /// Further arguments of every `serve`.
    pub serve_arguments: Vec<OsString>,
}

/// One server of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalMember {
    /// Its id.
    pub id: NodeId,
    /// Where it listens for the other servers.
    pub peer_listen: SocketAddr,
    /// Where it listens for clients.
    pub client_listen: SocketAddr,
    /// Where it tells metrics and health.
    pub metrics_listen: SocketAddr,
    /// Where the others are told to reach it (`host:port`): where it listens, unless a test puts a proxy in between.
    pub peer_address: String,
    /// Where clients are told to reach it (`host:port`): where it listens, unless a test puts a proxy in between.
    pub client_address: String,
}

/// A founded cluster; its servers run or not, as told. Dropped, all of them are killed; the folder stays.
#[derive(Debug)]
pub struct LocalCluster {
    plan: LocalPlan,
    /// Of each member, in the plan's order.
    processes: Vec<Option<ServerProcess>>,
}

/// What went wrong with a local cluster.
#[derive(Debug, thiserror::Error)]
pub enum LocalClusterError {
    /// A file or process could not be handled.
    #[error("cannot {operation} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Certificates could not be made.
    #[error(transparent)]
    Certs(#[from] CertsError),
    /// A data directory could not be made.
    #[error(transparent)]
    Init(#[from] InitFailure),
    /// The client could not be set up.
    #[error(transparent)]
    Client(#[from] SetupError),
    /// A server ended when it should have started.
    #[error("server {id} ended ({status}) before it was ready; it said:\n{last_lines}")]
    Ended {
        /// Which.
        id: NodeId,
        /// How.
        status: ExitStatus,
        /// The end of its log.
        last_lines: String,
    },
    /// A server did not do in a minute what it should.
    #[error("server {id} is not {awaited} after {} s; it said:\n{last_lines}", PATIENCE.as_secs())]
    TimedOut {
        /// Which.
        id: NodeId,
        /// What was waited for.
        awaited: &'static str,
        /// The end of its log.
        last_lines: String,
    },
    /// No server led.
    #[error("no server leads after {} s", PATIENCE.as_secs())]
    NoLeader,
    /// It is not in the plan, or does not run.
    #[error("server {0} does not run")]
    NotRunning(NodeId),
    /// It runs already.
    #[error("server {0} runs already")]
    Running(NodeId),
}

impl LocalClusterError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }
}

impl LocalPlan {
    /// Servers 1 to `servers` on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// If there are not enough free ports.
    pub fn new(program: impl Into<PathBuf>, folder: impl Into<PathBuf>, servers: u8) -> io::Result<Self> {
        let mut addresses = free_loopback_addresses(3 * usize::from(servers))?.into_iter();
        let mut address = || addresses.next().expect("three for each server");
        let members = (1..=u64::from(servers)).map(|id| {
            let (peer_listen, client_listen, metrics_listen) = (address(), address(), address());
            LocalMember {
                id: NodeId(id),
                peer_listen,
                client_listen,
                metrics_listen,
                peer_address: peer_listen.to_string(),
                client_address: client_listen.to_string(),
            }
        });
        Ok(Self {
            program: program.into(),
            folder: folder.into(),
            cluster: "local".parse().expect("it keeps the rules for names"),
            members: members.collect(),
            serve_arguments: Vec::new(),
        })
    }

    /// Makes certificates and data directories.
    ///
    /// # Errors
    /// If a file cannot be made, or is there already.
    pub fn found(self) -> Result<LocalCluster, LocalClusterError> {
        let certs = self.folder.join("certs");
        let authority = Authority::open_or_create(&certs, self.cluster.clone())?;
        let addresses = ["127.0.0.1", "localhost"].map(str::to_owned);
        for role in [Role::Client(CLIENT.to_owned()), Role::Operator(OPERATOR.to_owned())] {
            authority.issue_to(&certs, &role, &[], LIFETIME)?;
        }
        let founding = self.founding_members();
        for member in &self.members {
            authority.issue_to(&certs, &Role::Node(member.id), &addresses, LIFETIME)?;
            let folder = server_folder(&self.folder, member.id);
            fs::create_dir_all(&folder).map_err(LocalClusterError::io("create", &folder))?;
            node::init(&folder.join("data"), &self.cluster, member.id, founding.clone())?;
        }
        let processes = self.members.iter().map(|_| None).collect();
        Ok(LocalCluster { plan: self, processes })
    }

    /// The members as every data directory is told them.
    pub fn founding_members(&self) -> Vec<FoundingMember> {
        let member = |member: &LocalMember| FoundingMember {
            node: member.id,
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
        };
        self.members.iter().map(member).collect()
    }
}

fn server_folder(folder: &Path, id: NodeId) -> PathBuf {
    folder.join(format!("server-{id}"))
}

impl LocalCluster {
    /// The plan that it was founded by.
    pub fn plan(&self) -> &LocalPlan {
        &self.plan
    }

    /// The ids of all servers.
    pub fn ids(&self) -> Vec<NodeId> {
        self.plan.members.iter().map(|member| member.id).collect()
    }

    /// Where the certificates are.
    pub fn certs_dir(&self) -> PathBuf {
        self.plan.folder.join("certs")
    }

    /// A server's data directory.
    pub fn data_dir(&self, id: NodeId) -> PathBuf {
        server_folder(&self.plan.folder, id).join("data")
    }

    /// The file with all that a server has said.
    pub fn log_path(&self, id: NodeId) -> PathBuf {
        server_folder(&self.plan.folder, id).join("server.log")
    }

    /// All that a server has said, in all its starts.
    pub fn log_text(&self, id: NodeId) -> String {
        let text = fs::read(self.log_path(id)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Where clients are told to reach the servers.
    pub fn endpoints(&self) -> Vec<String> {
        self.plan.members.iter().map(|member| member.client_address.clone()).collect()
    }

    /// What the holder `name` of a certificate shows and trusts: [`CLIENT`], [`OPERATOR`] or `node-N`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn tls(&self, name: &str) -> Result<Tls, LocalClusterError> {
        let read = |name: String| {
            let path = self.certs_dir().join(name);
            fs::read(&path).map_err(LocalClusterError::io("read", &path))
        };
        Ok(Tls::new(read("ca.pem".to_owned())?, read(format!("{name}.pem"))?, read(format!("{name}.key"))?))
    }

    /// A client of all servers.
    ///
    /// # Errors
    /// If no server answers.
    pub async fn client(&self) -> Result<Client, LocalClusterError> {
        Ok(Client::connect(self.endpoints(), self.tls(CLIENT)?).await?)
    }

    /// A client that talks to one server alone, wherever the leader is.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn client_of(&self, id: NodeId) -> Result<Client, LocalClusterError> {
        let address = self.plan.members[self.place(id)?].client_listen.to_string();
        Ok(Client::builder([address], self.tls(CLIENT)?).discover(false).connect().await?)
    }

    /// Starts every server that does not run, and waits until all of them take requests.
    ///
    /// # Errors
    /// If one does not start.
    pub async fn start_all(&mut self) -> Result<(), LocalClusterError> {
        let ids: Vec<NodeId> = self.ids().into_iter().filter(|id| !self.is_running(*id)).collect();
        for id in &ids {
            self.spawn(*id, |_| {})?;
        }
        for id in ids {
            self.wait_ready(id).await?;
        }
        Ok(())
    }

    /// Starts a server, and waits until it takes requests. It may not know a leader yet.
    ///
    /// # Errors
    /// If it runs, or does not start.
    pub async fn start(&mut self, id: NodeId) -> Result<(), LocalClusterError> {
        self.spawn(id, |_| {})?;
        self.wait_ready(id).await
    }

    /// Starts a server with a changed command (an argument, a variable of the environment), and does not wait.
    ///
    /// # Errors
    /// If it runs, or the program is not there.
    pub fn spawn(&mut self, id: NodeId, change: impl FnOnce(&mut Command)) -> Result<(), LocalClusterError> {
        let place = self.place(id)?;
        if self.is_running(id) {
            return Err(LocalClusterError::Running(id));
        }
        let ready = self.ready_path(id);
        match fs::remove_file(&ready) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LocalClusterError::io("remove", &ready)(error));
            }
            _ => {}
        }
        let mut command = self.serve_command(id)?;
        change(&mut command);
        self.processes[place] = Some(ServerProcess::spawn(id, command, &self.log_path(id))?);
        Ok(())
    }

    /// Waits until a server takes requests.
    ///
    /// # Errors
    /// If it does not run, ends, or is not ready after a minute.
    pub async fn wait_ready(&mut self, id: NodeId) -> Result<(), LocalClusterError> {
        let ready = self.ready_path(id);
        self.process(id)?.wait_ready(&ready).await
    }

    /// Waits until a server ends by itself, and says how.
    ///
    /// # Errors
    /// If it does not run, or has not ended after a minute.
    pub async fn wait_exit(&mut self, id: NodeId) -> Result<ExitStatus, LocalClusterError> {
        let status = self.process(id)?.wait_exit().await?;
        self.forget(id)?;
        Ok(status)
    }

    /// Asks a server to end (SIGTERM), waits until it has, and says how.
    ///
    /// # Errors
    /// If it does not run, or has not ended after a minute.
    pub async fn stop(&mut self, id: NodeId) -> Result<ExitStatus, LocalClusterError> {
        self.process(id)?.signal(Signal::TERM)?;
        self.wait_exit(id).await
    }

    /// Asks every server that runs to end, and waits until all have.
    ///
    /// # Errors
    /// If one has not ended after a minute.
    pub async fn stop_all(&mut self) -> Result<(), LocalClusterError> {
        let ids: Vec<NodeId> = self.ids().into_iter().filter(|id| self.is_running(*id)).collect();
        for id in &ids {
            self.process(*id)?.signal(Signal::TERM)?;
        }
        for id in ids {
            self.wait_exit(id).await?;
        }
        Ok(())
    }

    /// Kills a server (SIGKILL). When this returns it is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self, id: NodeId) -> Result<(), LocalClusterError> {
        self.process(id)?.kill()?;
        self.forget(id)
    }

    /// Kills all servers at once.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn kill_all(&mut self) -> Result<(), LocalClusterError> {
        for process in self.processes.iter().flatten() {
            process.signal(Signal::KILL)?;
        }
        for process in &mut self.processes {
            *process = None;
        }
        Ok(())
    }

    /// Pauses a server (SIGSTOP): its connections stay open, and nothing of it runs.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&mut self, id: NodeId) -> Result<(), LocalClusterError> {
        self.process(id)?.signal(Signal::STOP)
    }

    /// Lets a paused server go on (SIGCONT).
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&mut self, id: NodeId) -> Result<(), LocalClusterError> {
        self.process(id)?.signal(Signal::CONT)
    }

    /// Whether a server runs; a paused one does.
    pub fn is_running(&mut self, id: NodeId) -> bool {
        self.process(id).is_ok_and(ServerProcess::is_running)
    }

    /// A server's process id.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&mut self, id: NodeId) -> Result<u32, LocalClusterError> {
        Ok(self.process(id)?.pid())
    }

    /// The server that leads, once one does: of those that say so, the one of the latest term.
    ///
    /// # Errors
    /// If none does within a minute.
    pub async fn leader(&self) -> Result<NodeId, LocalClusterError> {
        let deadline = Instant::now() + PATIENCE;
        let tls = self.tls(CLIENT)?;
        let started = self.plan.members.iter().zip(&self.processes).filter(|(_, process)| process.is_some());
        let endpoints: Vec<String> = started.map(|(member, _)| member.client_listen.to_string()).collect();
        while Instant::now() < deadline {
            let view = survey::ask(&endpoints, &tls.clone().into(), SURVEY_TIMEOUT).await;
            if let Some(leader) = view.leader {
                return Ok(leader);
            }
            sleep(POLL).await;
        }
        Err(LocalClusterError::NoLeader)
    }

    fn serve_command(&self, id: NodeId) -> Result<Command, LocalClusterError> {
        let member = &self.plan.members[self.place(id)?];
        let listen = [member.peer_listen, member.client_listen, member.metrics_listen]
            .map(|address| OsString::from(address.to_string()));
        let (data, certs, ready) = (self.data_dir(id), self.certs_dir(), self.ready_path(id));
        let arguments: [(&str, &OsStr); 6] = [
            ("--data", data.as_os_str()),
            ("--certs", certs.as_os_str()),
            ("--ready-file", ready.as_os_str()),
            ("--peer-listen", &listen[0]),
            ("--client-listen", &listen[1]),
            ("--metrics-listen", &listen[2]),
        ];
        let mut command = serve_command(&self.plan.program, arguments);
        command.args(&self.plan.serve_arguments);
        Ok(command)
    }

    fn ready_path(&self, id: NodeId) -> PathBuf {
        server_folder(&self.plan.folder, id).join("ready")
    }

    fn place(&self, id: NodeId) -> Result<usize, LocalClusterError> {
        let place = self.plan.members.iter().position(|member| member.id == id);
        place.ok_or(LocalClusterError::NotRunning(id))
    }

    fn process(&mut self, id: NodeId) -> Result<&mut ServerProcess, LocalClusterError> {
        let place = self.place(id)?;
        self.processes[place].as_mut().ok_or(LocalClusterError::NotRunning(id))
    }

    fn forget(&mut self, id: NodeId) -> Result<(), LocalClusterError> {
        let place = self.place(id)?;
        self.processes[place] = None;
        Ok(())
    }
}
