//! `raftmap certs`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use raftmap::tls::certs::Authority;
use raftmap::tls::identity::{ClusterName, Role};
use raftmap_raft::NodeId;
use serde_json::json;

use super::exit::{self, Failure};
use super::output;

const EXAMPLES: &str = "\
Examples:
  Everything that a cluster of three needs, into the folder certs:
    raftmap certs --cluster shop --out certs --server 1=host1 --server 2=host2 --server 3=host3 \\
      --client app --operator admin
  A server that is reached by a name and by an address:
    raftmap certs --cluster shop --out certs --server 4=host4.example.org,10.0.0.4
  Later, where ca.key is kept: one more client:
    raftmap certs --cluster shop --out certs --client reports";

/// Make certificates for servers, clients and operators
///
/// The first run makes the cluster's authority, too: ca.pem, which everyone needs, and ca.key, which signs for the whole
/// cluster and belongs on no server. A server needs ca.pem, node-N.pem and node-N.key; a client ca.pem, NAME.pem and
/// NAME.key. What is there is never written again. Clients read and write the map; operators may change the cluster, too.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Certs {
    /// The cluster's name: certificates are good for it alone
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// The folder; it is made if needed
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// A server: its id, and the names and addresses by which it is dialled, without ports
    #[arg(long = "server", value_name = "ID=HOST,...", value_parser = parse_server)]
    servers: Vec<(NodeId, Vec<String>)>,

    /// A client
    #[arg(long = "client", value_name = "NAME")]
    clients: Vec<String>,

    /// An operator
    #[arg(long = "operator", value_name = "NAME")]
    operators: Vec<String>,

    /// How long the certificates are good for, in days
    #[arg(long, value_name = "DAYS", default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,

    /// What was made as JSON
    #[arg(long)]
    json: bool,
}

fn parse_server(text: &str) -> Result<(NodeId, Vec<String>), String> {
    let (id, hosts) = text.split_once('=').ok_or("write ID=HOST, as in 1=host1")?;
    let hosts: Vec<String> = hosts.split(',').map(str::to_owned).collect();
    Ok((super::init::parse_id(id)?, hosts))
}

impl Certs {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let roles: Vec<(Role, Vec<String>)> = self
            .servers
            .into_iter()
            .map(|(id, hosts)| (Role::Node(id), hosts))
            .chain(self.clients.into_iter().map(|name| (Role::Client(name), Vec::new())))
            .chain(self.operators.into_iter().map(|name| (Role::Operator(name), Vec::new())))
            .collect();
        if roles.is_empty() {
            let message = "for whom? Name at least one --server, --client or --operator";
            return Err(Failure::Usage(message.to_owned()));
        }
        let lifetime = Duration::from_secs(u64::from(self.days) * 24 * 3600);
        let authority = Authority::open_or_create(&self.out, self.cluster)?;
        let mut made = Vec::new();
        for (role, hosts) in &roles {
            let paths = authority.issue_to(&self.out, role, hosts, lifetime)?;
            if self.json {
                let holder = role.to_string();
                made.push(json!({ "holder": holder, "certificate": paths.certificate, "key": paths.key }));
            } else {
                output::line(&format!("{role}: {}, {}", paths.certificate.display(), paths.key.display()))?;
            }
        }
        if self.json {
            return output::json(&json!({ "folder": self.out, "made": made }));
        }
        let folder = self.out.display();
        output::line(&format!(
            "Keep {folder}/ca.key away from the servers. Each needs {folder}/ca.pem and its own two files."
        ))
    }
}
