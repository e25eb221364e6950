//! Certificates that are replaced while servers run: under load, and nobody notices.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use raftmap::local_cluster::CLIENT;
use raftmap::tls::certs::Authority;
use raftmap::tls::identity::Role;
use raftmap_client::{Client, Tls};
use raftmap_raft::NodeId;

use crate::support::{Load, PATIENCE, World, until};

const A_YEAR: Duration = Duration::from_secs(365 * 86_400);

/// What a server says when its files took effect, of both ports.
const RENEWED: [&str; 2] = ["what=\"certificates for clients\"", "what=\"certificates between servers\""];

/// A second authority of the same cluster, in a folder of its own, and what it signed.
struct Successor {
    folder: PathBuf,
}

impl Successor {
    fn of(world: &World) -> Self {
        let folder = world.path("successor");
        let authority = Authority::open_or_create(&folder, world.plan().cluster.clone()).unwrap();
        let hosts = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        for id in world.ids() {
            authority.issue_to(&folder, &Role::Node(id), &hosts, A_YEAR).unwrap();
        }
        authority.issue_to(&folder, &Role::Client(CLIENT.to_owned()), &[], A_YEAR).unwrap();
        Self { folder }
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.join(name)).unwrap()
    }
}

/// Puts a file into the place of another one.
fn replace(path: &Path, bytes: &[u8]) {
    let next = path.with_extension("next");
    fs::write(&next, bytes).unwrap();
    fs::rename(&next, path).unwrap();
}

/// Waits until every server has taken in what `change` changes.
async fn renewed(world: &World, change: impl FnOnce()) {
    let marks: Vec<(NodeId, usize)> = world.ids().into_iter().map(|id| (id, world.log_mark(id))).collect();
    change();
    for (id, mark) in marks {
        for port in RENEWED {
            let what = format!("server {id} to say that it has renewed {port}");
            until(&what, async || {
                let said = world.said_since(id, mark);
                said.lines().any(|line| line.contains("read anew") && line.contains(port)).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_under_load_and_nobody_notices() {
    let world = World::start().await;
    let successor = Successor::of(&world);
    let certs = world.certs_dir();
    let (old_ca, new_ca) = (fs::read(certs.join("ca.pem")).unwrap(), successor.read("ca.pem"));
    let both = [old_ca.clone(), new_ca.clone()].concat();
    let old_client = world.client().await.unwrap();
    old_client.put("old", "1").await.unwrap();

    // Both are trusted.
    renewed(&world, || replace(&certs.join("ca.pem"), &both)).await;
    let tls = Tls::new(both.clone(), successor.read("client.pem"), successor.read("client.key"));
    let client = Client::builder(world.endpoints(), tls).timeout(PATIENCE).connect().await.unwrap();
    let load = Load::start_by(client, 4);
    load.more(100).await;

    // Everyone shows a certificate of the new one. Between the two files of a pair nothing fits, and nothing happens.
    renewed(&world, || {
        for id in world.ids() {
            for kind in ["key", "pem"] {
                let name = format!("node-{id}.{kind}");
                replace(&certs.join(&name), &successor.read(&name));
            }
        }
    })
    .await;
    load.more(100).await;

    // The old one goes, and with it every connection that was made with its certificates.
    let marks: Vec<(NodeId, usize)> = world.ids().into_iter().map(|id| (id, world.log_mark(id))).collect();
    renewed(&world, || replace(&certs.join("ca.pem"), &new_ca)).await;
    load.more(100).await;
    let what = "some server to close a connection of the old authority";
    until(what, async || {
        let closed =
            |(id, mark): &(NodeId, usize)| world.said_since(*id, *mark).contains("is not trusted any more");
        marks.iter().any(closed).then_some(())
    })
    .await;
    let refused = async || old_client.put("old", "2").await.err();
    until("the old client is refused", refused).await;

    let ledger = load.stop().await;
    ledger.demand_no_failure();
    let tls = Tls::new(new_ca, successor.read("client.pem"), successor.read("client.key"));
    let client = Client::builder(world.endpoints(), tls).timeout(PATIENCE).connect().await.unwrap();
    ledger.compare(&client, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_of_no_use_change_nothing() {
    let world = World::start().await;
    let certs = world.certs_dir();
    let id = world.ids()[0];
    let client = world.client_of(id).await.unwrap();
    let own = |kind: &str| certs.join(format!("node-{id}.{kind}"));
    let sound = fs::read(own("pem")).unwrap();
    let others = fs::read(certs.join("node-2.pem")).unwrap();
    for (broken, reason) in [
        (b"nothing".to_vec(), "no items found"),
        (others.clone(), "the certificate is that of"),
        (sound[..sound.len() / 2].to_vec(), "node-1.pem"),
    ] {
        let mark = world.log_mark(id);
        replace(&own("pem"), &broken);
        let line = world.says(id, mark, "what there was stays in force").await;
        assert!(line.contains(reason), "{line}");
        client.put("k", "v").await.unwrap();
        world.client_of(id).await.unwrap().put("k", "v").await.unwrap();
    }
    let mark = world.log_mark(id);
    replace(&own("pem"), &sound);
    world.says(id, mark, "read anew").await;
}
