//! Servers that join a local cluster, and that leave it.

use std::fs;
use std::io;
use std::process::Command;

use raftmap_raft::NodeId;

use super::plan::{LocalMember, names_of, server_folder};
use super::process::forget_settings;
use super::{LocalCluster, LocalClusterError, OPERATOR, free_loopback_addresses};
use crate::tls::certs::{Authority, LIFETIME};
use crate::tls::identity::Role;
use raftmap_client::{Client, MemberAddresses};

impl LocalCluster {
    /// Makes the certificates and the data directory of one more server, by `raftmap init --join`. It is to be started, and to
    /// be made a member: [`LocalCluster::operator`], [`LocalCluster::addresses`].
    ///
    /// # Errors
    /// If no server of the cluster answers, or a file cannot be made.
    pub fn join(&mut self) -> Result<NodeId, LocalClusterError> {
        let (id, mut init) = self.prepare_join(|_| Ok(()))?;
        let output = init.output().map_err(LocalClusterError::io("run", &self.plan.program))?;
        if !output.status.success() {
            self.leave(id)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(LocalClusterError::Join { id, said });
        }
        Ok(id)
    }

    /// The id of the next server that joins.
    pub fn next_id(&self) -> NodeId {
        NodeId(self.last_id.0 + 1)
    }

    /// Gives one more server an id that none had before, ports and certificates, and the command that makes its data directory:
    /// `raftmap init --join`. `change` may put a proxy before it, or put it elsewhere. If it never gets that directory:
    /// [`LocalCluster::leave`].
    ///
    /// # Errors
    /// What `change` says, or if a file cannot be made.
    pub fn prepare_join(
        &mut self,
        change: impl FnOnce(&mut LocalMember) -> io::Result<()>,
    ) -> Result<(NodeId, Command), LocalClusterError> {
        let id = self.next_id();
        self.last_id = id;
        let folder = server_folder(&self.plan.folder, id);
        let addresses =
            free_loopback_addresses(3).map_err(LocalClusterError::io("find ports for", &folder))?;
        let mut member = LocalMember::at(id, &addresses);
        change(&mut member).map_err(LocalClusterError::io("find a place for", &folder))?;
        let certs = self.certs_dir();
        let authority = Authority::open_or_create(&certs, self.plan.cluster.clone())?;
        authority.issue_to(&certs, &Role::Node(id), &names_of([&member]), LIFETIME)?;
        fs::create_dir_all(&folder).map_err(LocalClusterError::io("create", &folder))?;
        let own = format!("{id}={},{}", member.peer_address, member.client_address);
        let mut init = Command::new(&self.plan.program);
        forget_settings(&mut init);
        init.args([
            "init",
            "--cluster",
            self.plan.cluster.as_str(),
            "--id",
            &id.to_string(),
            "--member",
            &own,
        ])
        .arg("--data")
        .arg(self.data_dir(id))
        .arg("--join")
        .arg(self.endpoints().join(","))
        .arg("--certs")
        .arg(certs);
        self.plan.members.push(member);
        self.processes.push(None);
        Ok((id, init))
    }

    /// What a cluster is told of a server that is to become a member.
    ///
    /// # Errors
    /// If there is no such server.
    pub fn addresses(&self, id: NodeId) -> Result<MemberAddresses, LocalClusterError> {
        let member = &self.plan.members[self.place(id)?];
        Ok(MemberAddresses {
            id: id.0,
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
        })
    }

    /// A client that may change the cluster.
    ///
    /// # Errors
    /// If no server answers.
    pub async fn operator(&self) -> Result<Client, LocalClusterError> {
        Ok(Client::connect(self.endpoints(), self.tls(OPERATOR)?).await?)
    }

    /// Has nothing to do any more with a server that does not run: it was removed.
    ///
    /// # Errors
    /// If it runs.
    pub fn leave(&mut self, id: NodeId) -> Result<(), LocalClusterError> {
        if self.is_running(id) {
            return Err(LocalClusterError::Running(id));
        }
        let place = self.place(id)?;
        self.plan.members.remove(place);
        self.processes.remove(place);
        Ok(())
    }
}
