//! `raftmap restore`.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use raftmap::backup::{BackupHeader, BackupSummary, Origin, RestorePlan, restore};
use raftmap::tls::identity::ClusterName;
use raftmap_log::FoundingMember;
use raftmap_raft::NodeId;
use serde_json::json;

use super::backup::progress_bar;
use super::exit::{self, Failure};
use super::init::{parse_id, parse_member};
use super::output;

const EXAMPLES: &str = "\
Examples:
  On each machine of the new cluster, the same file and members, and its own --id:
    raftmap restore shop.backup --cluster shop-2 --data data --id 1 --member 1=host1:7001,host1:7000 \\
      --member 2=host2:7001,host2:7000 --member 3=host3:7001,host3:7000
  Then, with certificates for the new name (`raftmap certs --cluster shop-2 ...`):
    raftmap serve --data data --certs certs";

/// Make the data directory of a server of a new cluster, whose map is that of a backup
///
/// The new cluster has a name of its own: what is left of the old one can never be mistaken for a part of it. Revisions, expiries
/// and sessions go on from the backup's. All servers of the new cluster restore the same file; those that did not refuse each
/// other. A file of which a byte has changed is refused, and nothing is made of it.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The new cluster's name, as in its certificates; not that of the backup's
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// The data directory; it must be empty, and is made if needed
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// This server's id
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    id: NodeId,

    /// A member of the new cluster: its id, where the other servers reach it, and where clients reach it
    #[arg(long = "member", value_name = "ID=HOST:PORT,HOST:PORT", value_parser = parse_member, required = true)]
    members: Vec<FoundingMember>,

    /// What was restored as JSON
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let Self { file, cluster, data, id, members, json: as_json } = self;
        let count = members.len();
        let bytes = fs::metadata(&file).map_err(|error| Failure::io("read", &file, &error))?.len();
        // It is read twice.
        let bar = progress_bar(2 * bytes, "read");
        let plan = RestorePlan { cluster: cluster.clone(), node: id, members };
        let restored = restore(&file, &data, plan, |read| bar.inc(read));
        bar.finish_and_clear();
        let (identity, summary) = restored.map_err(|error| Failure::of_restore(&file, error))?;
        let BackupSummary { header, keys, digest, .. } = summary;
        let revision = header.position.index;
        if as_json {
            return output::json(&json!({
                "data": data,
                "cluster": cluster.as_str(),
                "server": id.0,
                "revision": revision.0,
                "keys": keys,
                "xxh3": format!("{digest:032x}"),
                "founding": format!("{:032x}", identity.founding_hash()),
            }));
        }
        let dir = data.display();
        output::line(&format!("{dir}: server {id} of cluster {cluster}, {count} members"))?;
        output::line(&format!("restored revision {revision} with {keys} keys, {}", describe(&header)))?;
        output::line(&format!(
            "founding members and backup {:032x}: must be the same on all of them",
            identity.founding_hash()
        ))?;
        output::line(&format!("next: raftmap serve --data {dir} --certs DIR"))
    }
}

/// Where a backup comes from, in words.
pub(super) fn describe(header: &BackupHeader) -> String {
    let (server, program) = (header.server, &header.program);
    let how = match header.origin {
        Origin::Cluster => format!("taken from server {server}"),
        Origin::Survivor => format!("recovered from the directory of server {server}"),
    };
    format!("{how} by raftmap {program} on {}", output::utc(header.made_at_ms))
}
