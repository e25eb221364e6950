//! `raftmap backup` and `raftmap restore`.

use std::fs;
use std::path::Path;

use raftmap::local_cluster::{LocalCluster, LocalPlan};

use crate::support::{Ended, OneServer, SERVER, raftmap, run};

fn backup(one: &OneServer, out: &Path, more: &[&str]) -> Ended {
    let mut command = one.command(["backup", "--as", "operator", "--out"]);
    run(command.arg(out).args(more))
}

/// A cluster of one server, of another name, that is not there yet but for its certificates.
pub(crate) fn new_cluster(folder: &Path) -> LocalCluster {
    let mut plan = LocalPlan::new(env!("CARGO_BIN_EXE_raftmap"), folder.join("new"), 1).unwrap();
    plan.cluster = "new".parse().unwrap();
    let cluster = plan.found().unwrap();
    fs::remove_dir_all(cluster.data_dir(SERVER)).unwrap();
    cluster
}

/// `raftmap restore` for the one server of a new cluster.
pub(crate) fn restore(file: &Path, cluster: &LocalCluster, name: &str, more: &[&str]) -> Ended {
    let member = &cluster.plan().members[0];
    let mut command = raftmap();
    command.arg("restore").arg(file).args(["--cluster", name, "--id", "1", "--data"]);
    command.arg(cluster.data_dir(SERVER)).arg("--member");
    command.arg(format!("1={},{}", member.peer_address, member.client_address));
    run(command.args(more))
}

pub(crate) fn start(cluster: &mut LocalCluster) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(cluster.start_all()).unwrap();
}

/// A command at a cluster that is not [`OneServer`]'s.
pub(crate) fn at(cluster: &LocalCluster, line: &str) -> Ended {
    let mut command = raftmap();
    command.args(line.split_whitespace());
    command.env("RAFTMAP_ENDPOINTS", cluster.endpoints().join(",")).env("RAFTMAP_CERTS", cluster.certs_dir());
    run(&mut command)
}

#[test]
fn a_backup_becomes_a_new_cluster_whose_revisions_go_on() {
    let one = OneServer::start();
    let put = one.run("put greeting hello --json").json();
    one.run("put brief candle --ttl-ms 3600000").text();
    let file = one.folder.path().join("map.backup");
    let said = backup(&one, &file, &["--json"]).json();
    let revision = said["revision"].as_u64().unwrap();
    assert!(revision >= put["revision"].as_u64().unwrap(), "{said}");
    assert_eq!((&said["keys"], &said["bytes"]), (&2.into(), &fs::metadata(&file).unwrap().len().into()));
    assert!(!file.with_file_name("map.backup.partial").exists());

    let mut new = new_cluster(one.folder.path());
    let error = restore(&file, &new, "local", &[]).failure(2);
    assert!(error.contains("the backup is of cluster local, too"), "{error}");
    let told = restore(&file, &new, "new", &[]).text();
    assert!(
        told.contains(&format!("restored revision {revision} with 2 keys, taken from server 1")),
        "{told}"
    );
    start(&mut new);
    let entry = at(&new, "get greeting --json").json();
    assert_eq!((&entry["value"], &entry["revision"]), (&"hello".into(), &put["revision"]));
    assert_eq!(at(&new, "get brief").text(), "candle");
    let after = at(&new, "put greeting again --json").json();
    assert!(after["revision"].as_u64().unwrap() > revision, "{after}");
    // The old cluster's certificates are of no use here, and the other way round.
    let mut stranger = one.command(["get", "greeting", "--endpoints", &new.endpoints()[0]]);
    run(&mut stranger).failure(1);
}

#[test]
fn a_backup_says_what_it_wrote_and_replaces_nothing_unless_told() {
    let one = OneServer::start();
    one.run("put k v").text();
    let file = one.folder.path().join("b");
    let said = backup(&one, &file, &[]).text();
    assert!(said.contains("1 keys") && said.contains("revision ") && said.contains("\nxxh3 "), "{said}");
    let before = fs::read(&file).unwrap();
    let error = backup(&one, &file, &[]).failure(1);
    assert!(error.contains("is there already; --force"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), before);
    one.run("put more v").text();
    backup(&one, &file, &["--force"]).text();
    assert!(fs::read(&file).unwrap().len() > before.len());
}

#[test]
fn a_backup_needs_an_operator() {
    let one = OneServer::start();
    let file = one.folder.path().join("b");
    let mut command = one.command(["backup", "--out"]);
    let error = run(command.arg(&file)).failure(1);
    assert!(error.contains("needs an operator's certificate, not that of client/client"), "{error}");
    assert!(error.contains("--as"), "{error}");
    assert!(!file.exists() && !file.with_file_name("b.partial").exists());
}

#[test]
fn a_file_that_is_not_as_it_was_written_is_refused_with_the_place() {
    let one = OneServer::start();
    one.run("put k v").text();
    let file = one.folder.path().join("b");
    backup(&one, &file, &[]).text();
    let new = new_cluster(one.folder.path());
    let whole = fs::read(&file).unwrap();
    let mut rotten = whole.clone();
    let at = whole.len() - 150;
    rotten[at] ^= 1;
    for (bytes, part) in [
        (&rotten[..], "it is damaged: in the part that begins at byte"),
        (&whole[..whole.len() - 7], "it was cut off"),
        (b"something else", "it was cut off"),
        (&[7; 500][..], "does not begin as a backup does"),
    ] {
        fs::write(&file, bytes).unwrap();
        let error = restore(&file, &new, "new", &[]).failure(6);
        assert!(error.contains(part) && error.contains("Nothing was restored"), "{error}");
        assert!(!new.data_dir(SERVER).exists());
    }
    fs::write(&file, whole).unwrap();
    restore(&file, &new, "new", &["--json"]).json();
    let again = restore(&file, &new, "new", &[]).failure(1);
    assert!(again.contains("is a data directory already"), "{again}");
}
