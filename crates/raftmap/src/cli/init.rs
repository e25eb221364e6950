//! `raftmap init`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use raftmap::node;
use raftmap::tls::identity::ClusterName;
use raftmap_client::{Client, Identity, MemberAddresses, MembersResponse, Security, Tls};
use raftmap_log::{FoundingMember, Identity as ServerIdentity, RestoredFrom};
use raftmap_proto::v1;
use raftmap_raft::{LogIndex, LogPosition, NodeId, Term};
use serde_json::json;

use super::connect::block_on;
use super::exit::{self, Failure};
use super::output;

const EXAMPLES: &str = "\
Examples:
  On each of three machines, the same members, and its own --id:
    raftmap init --cluster shop --data data --id 1 --member 1=host1:7001,host1:7000 \\
      --member 2=host2:7001,host2:7000 --member 3=host3:7001,host3:7000
  A cluster of one, to try things out:
    raftmap init --cluster toy --data toy --id 1 --member 1=127.0.0.1:7001,127.0.0.1:7000
  On a fourth machine, which joins a cluster that runs; `raftmap member add` makes it a member:
    raftmap init --cluster shop --data data --id 4 --member 4=host4:7001,host4:7000 \\
      --join host1:7000,host2:7000 --certs certs";

/// Make the data directory of a server, once in its life
///
/// The members are those that the cluster is founded with, the same on all of them. A server whose directory is lost does
/// not come back under its id: what it promised is gone with it. A server that joins later asks the cluster whom it was founded
/// with, and where its members are.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Init {
    /// The cluster's name, as in its certificates
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// The data directory; it must be empty, and is made if needed
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// This server's id
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    id: NodeId,

    /// A founding member: its id, where the other servers reach it, and where clients reach it
    #[arg(long = "member", value_name = "ID=HOST:PORT,HOST:PORT", value_parser = parse_member, required = true)]
    members: Vec<FoundingMember>,

    /// Servers of a cluster that runs, host:port, separated by commas: this one joins it
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    join: Vec<String>,

    /// With --join: folder with ca.pem, node-ID.pem and node-ID.key
    #[arg(long, value_name = "DIR", requires = "join")]
    certs: Option<PathBuf>,

    /// With --join: speak without TLS, to servers that were started so
    #[arg(long, requires = "join")]
    insecure: bool,

    /// What was made as JSON
    #[arg(long)]
    json: bool,
}

/// A server's id in its one spelling.
pub(super) fn parse_id(text: &str) -> Result<NodeId, String> {
    let id = text.parse().ok().filter(|id: &u64| *id > 0 && id.to_string() == text);
    id.map(NodeId).ok_or_else(|| format!("{text:?} is no id: a number from 1"))
}

pub(super) fn parse_member(text: &str) -> Result<FoundingMember, String> {
    let form = "write ID=HOST:PORT,HOST:PORT: for servers, then for clients, as in 1=host1:7001,host1:7000";
    let (id, addresses) = text.split_once('=').ok_or(form)?;
    let (peer, client) = addresses.split_once(',').ok_or(form)?;
    for address in [peer, client] {
        check_address(address)?;
    }
    if peer == client {
        return Err(format!("{peer} cannot be for servers and for clients at once: choose two ports"));
    }
    Ok(FoundingMember {
        node: parse_id(id)?,
        peer_address: peer.to_owned(),
        client_address: client.to_owned(),
    })
}

/// Others dial this: it has a host and a port, and means this machine elsewhere, too.
fn check_address(address: &str) -> Result<(), String> {
    let form = || format!("{address:?} is not host:port; an IPv6 address stands in brackets");
    let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
    let port: u16 = port.parse().map_err(|_| form())?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || port == 0 || (host.contains(':') && !bracketed) || host.contains('/') {
        return Err(form());
    }
    if address.parse().is_ok_and(|address: SocketAddr| address.ip().is_unspecified()) {
        return Err(format!("{address} is no address to reach a server by: name its host"));
    }
    Ok(())
}

impl Init {
    pub(crate) fn run(self) -> Result<(), Failure> {
        if self.join.is_empty() { self.found() } else { block_on(self.join()) }
    }

    fn found(self) -> Result<(), Failure> {
        let members = self.members.len();
        let identity = node::init(&self.data, &self.cluster, self.id, self.members)?;
        if self.json {
            return made(&self.data, &self.cluster, &identity);
        }
        let data = self.data.display();
        output::line(&format!("{data}: server {} of cluster {}, {members} members", self.id, self.cluster))?;
        output::line(&format!(
            "founding members {:032x}: must be the same on all of them",
            identity.founding_hash()
        ))?;
        if members.is_multiple_of(2) {
            output::line(&format!(
                "{members} servers survive no more failures than {}: an odd number is better",
                members - 1
            ))?;
        }
        output::line(&format!("next: raftmap serve --data {data} --certs DIR"))
    }

    async fn join(self) -> Result<(), Failure> {
        let id = self.id;
        let [own] = &self.members[..] else {
            return Err(Failure::Usage("with --join, --member names this server alone".to_owned()));
        };
        if own.node != id {
            return Err(Failure::Usage(format!("--member names server {}, and --id is {id}", own.node)));
        }
        let client = Client::builder(self.join.clone(), self.security()?).connect().await?;
        let known = client.members().await?;
        let founders: Vec<_> = known.founding_members.iter().map(member_of).collect();
        let is_known = |member: &&v1::Member| member.id != id.0 && !member.peer_address.is_empty();
        let contacts = known.members.iter().filter(is_known).map(|member| FoundingMember {
            node: NodeId(member.id),
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
        });
        if founders.iter().any(|founder| founder.node == id) {
            return Err(Failure::Failed(format!(
                "server {id} was there when the cluster was founded, and an id is never used again: give this one a new id"
            )));
        }
        let identity = node::init_joining(
            &self.data,
            &self.cluster,
            own.clone(),
            founders,
            restored_from(&known)?,
            contacts.collect(),
        )?;
        if self.json {
            return made(&self.data, &self.cluster, &identity);
        }
        let (data, founding) = (self.data.display(), identity.founding_hash());
        output::line(&format!("{data}: server {id}, which joins cluster {}", self.cluster))?;
        output::line(&format!("founding members {founding:032x}, as the cluster says"))?;
        let certs = self.certs.as_deref().map_or("DIR".to_owned(), |folder| folder.display().to_string());
        output::line(&format!("next: raftmap serve --data {data} --certs {certs}"))?;
        output::line(&format!(
            "and, anywhere: raftmap member add {id}={},{} --as OPERATOR",
            own.peer_address, own.client_address
        ))
    }

    /// What a server shows when it asks the cluster.
    fn security(&self) -> Result<Security, Failure> {
        if self.insecure {
            return Ok(Security::Insecure);
        }
        let Some(folder) = &self.certs else {
            let message =
                "--join asks the cluster over TLS: name the folder of this server's certificates by --certs";
            return Err(Failure::Usage(message.to_owned()));
        };
        let read = |name: String| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|error| Failure::io("read", &path, &error))
        };
        let certificate = read(format!("node-{}.pem", self.id))?;
        let key = read(format!("node-{}.key", self.id))?;
        Ok(Security::Tls(Tls {
            ca: read("ca.pem".to_owned())?,
            identity: Some(Identity { certificate, key }),
            token: None,
        }))
    }
}

/// Says in JSON what was made.
fn made(data: &Path, cluster: &ClusterName, identity: &ServerIdentity) -> Result<(), Failure> {
    output::json(&json!({
        "data": data,
        "cluster": cluster.as_str(),
        "server": identity.node().0,
        "founding_members": identity.founding_members().len(),
        "founding": format!("{:032x}", identity.founding_hash()),
    }))
}

/// The backup that the cluster was made of, if it was.
fn restored_from(known: &MembersResponse) -> Result<Option<RestoredFrom>, Failure> {
    let Some(from) = known.restored_from.as_option() else { return Ok(None) };
    let digest = from.digest.as_ref().try_into();
    let digest = digest
        .map_err(|_| Failure::Failed("the cluster names its backup in a way unknown here".to_owned()))?;
    let position = LogPosition { term: Term(from.term), index: LogIndex(from.index) };
    Ok(Some(RestoredFrom { position, digest: u128::from_be_bytes(digest) }))
}

fn member_of(member: &MemberAddresses) -> FoundingMember {
    FoundingMember {
        node: NodeId(member.id),
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_an_id_and_two_addresses() {
        let member = parse_member("2=host2:7001,[::1]:7000").unwrap();
        assert_eq!((member.node, member.client_address.as_str()), (NodeId(2), "[::1]:7000"));
        for (text, part) in [
            ("host2:7001,host2:7000", "write ID="),
            ("2=host2:7001", "write ID="),
            ("0=host2:7001,host2:7000", "no id"),
            ("02=host2:7001,host2:7000", "no id"),
            ("2=host2,host2:7000", "not host:port"),
            ("2=host2:7001,host2:70000", "not host:port"),
            ("2=::1:7001,host2:7000", "not host:port"),
            ("2=https://host2:7001,host2:7000", "not host:port"),
            ("2=0.0.0.0:7001,host2:7000", "no address to reach"),
            ("2=host2:7000,host2:7000", "two ports"),
        ] {
            let error = parse_member(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
