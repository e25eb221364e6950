//! A cluster for one test.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::Command;
use std::thread::panicking;
use std::time::Duration;

use raftmap::local_cluster::{CLIENT, LocalCluster, LocalPlan, Network};
use raftmap_client::{Client, MemberStatus};
use raftmap_raft::NodeId;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep};

use super::load::{Ledger, must_put};

/// How long a test waits for what must come: generous, as nothing is measured by it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often it looks.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// How much of each server's log a failed test prints.
const PRINTED_LINES: usize = 40;

/// So many clusters at a time: more would starve each other.
static TURNS: Semaphore = Semaphore::const_new(2);

/// What comes within [`PATIENCE`].
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(PATIENCE, future).await;
    result.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// Asks until there is an answer, for at most [`PATIENCE`].
pub(crate) async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        sleep(POLL).await;
    }
}

/// Three servers, and where they are. Dropped, the servers are killed and the folder is gone.
pub(crate) struct World {
    cluster: LocalCluster,
    folder: TempDir,
    _turn: SemaphorePermit<'static>,
}

impl Deref for World {
    type Target = LocalCluster;

    fn deref(&self) -> &LocalCluster {
        &self.cluster
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut LocalCluster {
        &mut self.cluster
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if panicking() {
            for id in self.cluster.ids() {
                let text = self.cluster.log_text(id);
                let lines: Vec<&str> = text.lines().collect();
                let last = &lines[lines.len().saturating_sub(PRINTED_LINES)..];
                eprintln!("--- server {id} ---\n{}", last.join("\n"));
            }
        }
    }
}

impl World {
    /// Three servers that run, one of which leads.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with these arguments to each.
    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(Into::into);
        let mut world = Self::found(|plan| plan.serve_arguments.extend(arguments)).await;
        world.start_all().await.unwrap();
        world.leader().await.unwrap();
        world
    }

    /// Three servers that run, with a network of the test's own between them.
    pub(crate) async fn start_with_network() -> (Self, Network) {
        let mut network = None;
        let mut world = Self::found(|plan| network = Some(Network::between(plan).unwrap())).await;
        world.start_all().await.unwrap();
        world.leader().await.unwrap();
        (world, network.expect("it was made with the plan"))
    }

    /// Three servers that do not run yet, when it is this test's turn.
    pub(crate) async fn found(change: impl FnOnce(&mut LocalPlan)) -> Self {
        Self::found_of(3, change).await
    }

    /// So many servers that do not run yet, when it is this test's turn.
    pub(crate) async fn found_of(servers: u8, change: impl FnOnce(&mut LocalPlan)) -> Self {
        let turn = TURNS.acquire().await.unwrap();
        // Not the system's folder for temporary files, which often is no disk.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut plan = LocalPlan::new(env!("CARGO_BIN_EXE_raftmap"), folder.path(), servers).unwrap();
        change(&mut plan);
        Self { cluster: plan.found().unwrap(), folder, _turn: turn }
    }

    /// A file of this test's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts servers with a changed command, and waits until all of them take requests.
    pub(crate) async fn start_changed(&mut self, ids: &[NodeId], change: impl Fn(NodeId, &mut Command)) {
        for id in ids {
            self.spawn(*id, |command| change(*id, command)).unwrap();
        }
        for id in ids {
            self.wait_ready(*id).await.unwrap();
        }
    }

    /// All servers but these.
    pub(crate) fn others(&self, but: &[NodeId]) -> Vec<NodeId> {
        self.ids().into_iter().filter(|id| !but.contains(id)).collect()
    }

    /// Where a server listens for clients.
    pub(crate) fn client_address(&self, id: NodeId) -> String {
        let member = self.plan().members.iter().find(|member| member.id == id).unwrap();
        member.client_listen.to_string()
    }

    /// A client of these servers and no others.
    pub(crate) async fn client_among(&self, ids: &[NodeId]) -> Client {
        let addresses: Vec<String> = ids.iter().map(|id| self.client_address(*id)).collect();
        let builder = Client::builder(addresses, self.tls(CLIENT).unwrap());
        builder.discover(false).timeout(PATIENCE).connect().await.unwrap()
    }

    /// The same, with its session open and connections made: its next write is one entry of the log and nothing else.
    pub(crate) async fn warm_client_among(&self, ids: &[NodeId]) -> Client {
        let client = self.client_among(ids).await;
        must_put(&client, "warm", "the session is open").await;
        for _ in ids {
            client.get("warm").stale().await.unwrap();
        }
        client
    }

    /// What a server says of itself, once it does so and `fits`.
    pub(crate) async fn status_when(
        &self,
        id: NodeId,
        what: &str,
        fits: impl Fn(&MemberStatus) -> bool,
    ) -> MemberStatus {
        let what = format!("server {id} to be {what}");
        until(&what, async || self.status(id).await.filter(|status| fits(status))).await
    }

    /// What a server says in its log from here on: to be handed to [`Self::said_since`].
    pub(crate) fn log_mark(&self, id: NodeId) -> usize {
        self.log_text(id).len()
    }

    /// What a server has said in its log since a mark.
    pub(crate) fn said_since(&self, id: NodeId, mark: usize) -> String {
        self.log_text(id).split_off(mark)
    }

    /// Waits until a server says `text` in its log, after `mark`, and gives the line.
    pub(crate) async fn says(&self, id: NodeId, mark: usize, text: &str) -> String {
        let what = format!("server {id} to say {text:?}");
        until(&what, async || {
            let said = self.said_since(id, mark);
            said.lines().find(|line| line.contains(text)).map(str::to_owned)
        })
        .await
    }

    /// Waits until these servers, at rest, are one: a leader among them, all in its term, at the same applied index with
    /// the same running digest, and none damaged. Gives the leader.
    pub(crate) async fn agree(&self, ids: &[NodeId]) -> NodeId {
        self.cluster.agree(ids).await.unwrap_or_else(|error| panic!("{error}")).leader
    }

    /// Waits until all servers agree, then holds the ledger against what each of them has.
    pub(crate) async fn verify(&self, ledger: &Ledger) {
        self.agree(&self.ids()).await;
        for id in self.ids() {
            let client = self.client_among(&[id]).await;
            ledger.compare(&client, true).await.unwrap_or_else(|wrong| panic!("at server {id}: {wrong}"));
        }
        let client = self.client_among(&self.ids()).await;
        ledger.compare(&client, false).await.unwrap_or_else(|wrong| panic!("{wrong}"));
    }

    /// A server's data directory for its Raft group.
    pub(crate) fn group_dir(&self, id: NodeId) -> PathBuf {
        self.data_dir(id).join("group-1")
    }

    /// Forgets all that a server had on its disk.
    pub(crate) fn wipe(&self, id: NodeId) {
        let data = self.data_dir(id);
        fs::remove_dir_all(&data).unwrap();
        let plan = self.plan();
        raftmap::node::init(&data, &plan.cluster, id, plan.founding_members()).unwrap();
    }
}
