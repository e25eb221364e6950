//! What a local cluster is to be.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use raftmap_log::FoundingMember;
use raftmap_raft::NodeId;

use super::{CLIENT, LocalCluster, LocalClusterError, OPERATOR, free_loopback_addresses};
use crate::node;
use crate::tls::certs::{Authority, LIFETIME};
use crate::tls::identity::{ClusterName, Role};

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

impl LocalMember {
    /// On three addresses: for the other servers, for clients, for metrics.
    pub(super) fn at(id: NodeId, addresses: &[SocketAddr]) -> Self {
        let [peer_listen, client_listen, metrics_listen] = addresses[..] else {
            unreachable!("three addresses are asked for and given")
        };
        Self {
            id,
            peer_listen,
            client_listen,
            metrics_listen,
            peer_address: peer_listen.to_string(),
            client_address: client_listen.to_string(),
        }
    }
}

impl LocalPlan {
    /// Servers 1 to `servers` on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// If there are not enough free ports.
    pub fn new(program: impl Into<PathBuf>, folder: impl Into<PathBuf>, servers: u8) -> io::Result<Self> {
        let addresses = free_loopback_addresses(3 * usize::from(servers))?;
        let members = (1..).zip(addresses.chunks_exact(3)).map(|(id, at)| LocalMember::at(NodeId(id), at));
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
        let addresses = names_of(&self.members);
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
        Ok(LocalCluster::new(self))
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

/// What certificates say where these servers are.
pub(super) fn names_of<'a>(members: impl IntoIterator<Item = &'a LocalMember>) -> Vec<String> {
    let mut names = ["127.0.0.1", "localhost"].map(str::to_owned).to_vec();
    names.extend(members.into_iter().map(|member| member.client_listen.ip().to_string()));
    names.sort();
    names.dedup();
    names
}

/// Where all of a server is kept.
pub(super) fn server_folder(folder: &Path, id: NodeId) -> PathBuf {
    folder.join(format!("server-{id}"))
}
