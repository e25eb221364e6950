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

mod agreement;
mod error;
mod members;
mod network;
mod plan;
mod ports;
mod process;
mod sizes;
mod stall;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use raftmap_client::{Client, Tls};
use raftmap_raft::NodeId;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use self::plan::server_folder;
use self::process::{PATIENCE, ServerProcess, serve_command};
use crate::survey;

pub use self::agreement::Agreement;
pub use self::error::LocalClusterError;
pub use self::network::{Link, Network, Proxy};
pub use self::plan::{LocalMember, LocalPlan};
pub use self::ports::free_loopback_addresses;
pub use self::sizes::bytes_below;

/// The client's name in the certificates.
pub const CLIENT: &str = "client";

/// The operator's name in the certificates.
pub const OPERATOR: &str = "operator";

/// How long one question for the leader may take.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(1);

const POLL: Duration = Duration::from_millis(20);

/// A founded cluster; its servers run or not, as told. Dropped, all of them are killed; the folder stays.
#[derive(Debug)]
pub struct LocalCluster {
    plan: LocalPlan,
    /// Of each member, in the plan's order.
    processes: Vec<Option<ServerProcess>>,
    /// The highest id that was given to a server.
    last_id: NodeId,
}

impl LocalCluster {
    /// Nothing of it runs.
    fn new(plan: LocalPlan) -> Self {
        let processes = plan.members.iter().map(|_| None).collect();
        let last_id = plan.members.iter().map(|member| member.id).max().unwrap_or_default();
        Self { plan, processes, last_id }
    }

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
        self.ask_to_end(id)?;
        self.wait_exit(id).await
    }

    /// Asks every server that runs to end, and waits until all have.
    ///
    /// # Errors
    /// If one has not ended after a minute.
    pub async fn stop_all(&mut self) -> Result<(), LocalClusterError> {
        let ids: Vec<NodeId> = self.ids().into_iter().filter(|id| self.is_running(*id)).collect();
        for id in &ids {
            self.ask_to_end(*id)?;
        }
        for id in ids {
            self.wait_exit(id).await?;
        }
        Ok(())
    }

    /// A server whose disk is stalled could not end.
    fn ask_to_end(&mut self, id: NodeId) -> Result<(), LocalClusterError> {
        let process = self.process(id)?;
        process.let_go();
        process.signal(Signal::TERM)
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

    /// Stalls a server's disk: the thread that writes its log stands still, as if its write never ended, and all else goes on.
    ///
    /// # Errors
    /// If it does not run, or this system lets no process hold a thread of its child.
    pub fn stall_disk(&mut self, id: NodeId) -> Result<(), LocalClusterError> {
        self.process(id)?.stall_disk()
    }

    /// Lets a server go on that was paused (SIGCONT), or whose disk was stalled.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&mut self, id: NodeId) -> Result<(), LocalClusterError> {
        let process = self.process(id)?;
        process.let_go();
        process.signal(Signal::CONT)
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
