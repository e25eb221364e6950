//! Clusters that are made anew: of a backup, or of what a lost majority left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use raftmap::local_cluster::OPERATOR;
use raftmap_client::{Client, Error};
use raftmap_raft::NodeId;

use crate::support::load::{must_get, must_put};
use crate::support::segments::blocks;
use crate::support::{Load, World};

fn raftmap() -> Command {
    Command::new(env!("CARGO_BIN_EXE_raftmap"))
}

/// Runs a command to its end beside everything else, and gives what it printed.
async fn run(mut command: Command, code: i32) -> String {
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    assert_eq!(ended.status.code(), Some(code), "{said}");
    said
}

fn backup(world: &World, out: &Path) -> Command {
    let mut command = raftmap();
    command.args(["backup", "--as", "operator", "--json", "--timeout-ms", "60000", "--out"]).arg(out);
    command.env("RAFTMAP_ENDPOINTS", world.endpoints().join(",")).env("RAFTMAP_CERTS", world.certs_dir());
    command
}

/// A file of a test's own, which outlives its clusters.
fn place(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join(name);
    (folder, file)
}

fn restore(world: &World, id: NodeId, file: &Path) -> Command {
    let mut command = raftmap();
    command.arg("restore").arg(file).args(["--cluster", "new", "--id", &id.to_string(), "--data"]);
    command.arg(world.data_dir(id));
    for member in &world.plan().members {
        command.arg("--member");
        command.arg(format!("{}={},{}", member.id, member.peer_address, member.client_address));
    }
    command
}

/// Three servers of a new cluster, restored from a file.
async fn restored(file: &Path) -> World {
    let mut world = World::found(|plan| plan.cluster = "new".parse().unwrap()).await;
    for id in world.ids() {
        fs::remove_dir_all(world.data_dir(id)).unwrap();
        run(restore(&world, id, file), 0).await;
    }
    world.start_all().await.unwrap();
    world.leader().await.unwrap();
    world
}

fn number(json: &str, field: &str) -> u64 {
    // A server that ended on the way is told of beside it.
    let json = json.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no JSON: {json}"));
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    json[field].as_u64().unwrap()
}

/// The leader is killed while backups are taken and writes go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_has_every_write_that_was_acknowledged_before_it_began() {
    let (folder, file) = place("under-load");
    let mut world = World::start().await;
    let client = world.client().await.unwrap();
    // Large enough that backups take a while.
    for n in 0..40 {
        must_put(&client, &format!("large/{n}"), &"x".repeat(500 << 10)).await;
    }
    let load = Load::start(&world, 4).await;
    load.more(100).await;
    let mark = must_put(&client, "mark", "acknowledged").await;
    let leader = world.leader().await.unwrap();
    let under_way = tokio::spawn(run(backup(&world, &file), 0));
    load.more(20).await;
    world.kill(leader).unwrap();
    let said = under_way.await.unwrap();
    let revision = number(&said, "revision");
    assert!(revision >= mark, "{said}");
    load.more(100).await;
    world.start(leader).await.unwrap();
    world.verify(&load.stop().await).await;
    let second = folder.path().join("second");
    let revision_of_second = number(&run(backup(&world, &second), 0).await, "revision");
    let last = must_put(&client, "after", "the second backup").await;
    assert!(revision < revision_of_second && revision_of_second < last);
    drop((client, world));

    let mut new = restored(&file).await;
    let client = new.client().await.unwrap();
    assert_eq!(must_get(&client, "mark").await.as_deref(), Some("acknowledged"));
    assert_eq!(must_get(&client, "large/39").await.unwrap().len(), 500 << 10);
    assert_eq!(must_get(&client, "after").await, None);
    assert!(must_put(&client, "new", "write").await > revision, "revisions go back");
    new.agree(&new.ids()).await;
    // It is a cluster as any other.
    let leader = new.leader().await.unwrap();
    new.kill(leader).unwrap();
    must_put(&client, "new", "without its leader").await;
    new.start(leader).await.unwrap();
    let load = Load::start(&new, 2).await;
    load.more(50).await;
    let ledger = load.stop().await;
    ledger.demand_no_failure();
    let fourth = new.join().unwrap();
    new.start(fourth).await.unwrap();
    new.operator().await.unwrap().add_member(new.addresses(fourth).unwrap(), None).await.unwrap();
    new.agree(&new.ids()).await;
    new.stop_all().await.unwrap();
    new.start_all().await.unwrap();
    new.agree(&new.ids()).await;
}

/// All that a client had an answer for before the backup began is in it, each time.
#[tokio::test(flavor = "multi_thread")]
async fn backups_of_any_server_see_the_last_acknowledged_write() {
    let (folder, _) = place("none");
    let world = World::start().await;
    let client = world.client().await.unwrap();
    for round in 0..12 {
        let written = must_put(&client, "round", &round.to_string()).await;
        let mut command = backup(&world, &folder.path().join(round.to_string()));
        let server = NodeId(1 + round % 3);
        command.env("RAFTMAP_ENDPOINTS", world.client_address(server));
        let revision = number(&run(command, 0).await, "revision");
        assert!(revision >= written, "{revision} after {written} was acknowledged");
    }
}

/// It cannot know whether what it has applied is all that was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_ask_the_others_gives_no_backup() {
    let mut world = World::start().await;
    must_put(&world.client().await.unwrap(), "k", "v").await;
    let leader = world.agree(&world.ids()).await;
    let alone = world.others(&[leader])[0];
    for id in world.others(&[alone]) {
        world.kill(id).unwrap();
    }
    let builder = Client::builder([world.client_address(alone)], world.tls(OPERATOR).unwrap());
    let operator = builder.discover(false).timeout(Duration::from_secs(3)).connect().await.unwrap();
    let error = operator.backup().await.err().expect("a backup of nobody knows what");
    assert!(matches!(error, Error::NotApplied(_)), "{error}");
}

/// Two servers of three are gone for ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_survivor_holds_becomes_a_new_cluster() {
    let (_folder, file) = place("recovered");
    let mut world = World::start().await;
    let load = Load::start(&world, 4).await;
    load.more(200).await;
    let ledger = load.stop().await;
    let leader = world.agree(&world.ids()).await;
    let survivor = world.others(&[leader])[0];
    // What follows is on the leader and the survivor: acknowledged, and perhaps not known there to be committed.
    let other = world.others(&[leader, survivor])[0];
    world.kill(other).unwrap();
    let client = world.client_among(&[leader]).await;
    let last = must_put(&client, "last", "acknowledged by two").await;
    world.kill_all().unwrap();
    for gone in [leader, other] {
        fs::remove_dir_all(world.data_dir(gone)).unwrap();
    }

    let mut show = raftmap();
    show.arg("recover").arg(world.data_dir(survivor));
    let said = run(show, 0).await;
    assert!(said.contains(&format!("Server {survivor} has the most complete log")), "{said}");
    assert!(said.contains("What may be lost"), "{said}");
    let mut save = raftmap();
    save.arg("recover").arg(world.data_dir(survivor)).arg("--out").arg(&file).args(["--yes", "--json"]);
    let revision = number(&run(save, 0).await, "revision");
    assert!(revision >= last);
    let refused = world.start(survivor).await.unwrap_err().to_string();
    assert!(refused.contains("fenced"), "{refused}");
    drop((client, world));

    let new = restored(&file).await;
    new.verify(&ledger).await;
    let client = new.client().await.unwrap();
    assert_eq!(must_get(&client, "last").await.as_deref(), Some("acknowledged by two"));
    assert!(must_put(&client, "new", "write").await > revision);
}

/// One of two survivors has the longer log.
#[tokio::test(flavor = "multi_thread")]
async fn the_survivor_with_the_most_complete_log_is_named() {
    let mut world = World::found(|plan| {
        let five = raftmap::local_cluster::LocalPlan::new(&plan.program, &plan.folder, 5).unwrap();
        plan.members = five.members;
    })
    .await;
    world.start_all().await.unwrap();
    let client = world.client().await.unwrap();
    must_put(&client, "k", "early").await;
    world.agree(&world.ids()).await;
    let leader = world.leader().await.unwrap();
    let [behind, ahead] = world.others(&[leader])[..2] else { panic!("five servers") };
    world.kill(behind).unwrap();
    must_put(&client, "k", "late").await;
    let running = world.others(&[behind]);
    world.agree(&running).await;
    world.kill_all().unwrap();

    let mut show = raftmap();
    show.args(["recover", "--json"]).arg(world.data_dir(behind)).arg(world.data_dir(ahead));
    let json: serde_json::Value = serde_json::from_str(&run(show, 0).await).unwrap();
    assert_eq!((&json["best"], &json["may_have_lost"]), (&ahead.0.into(), &true.into()), "{json}");
    let mut show = raftmap();
    show.args(["recover", "--json"]);
    for id in world.others(&[leader, behind]) {
        show.arg(world.data_dir(id));
    }
    let json: serde_json::Value = serde_json::from_str(&run(show, 0).await).unwrap();
    assert_eq!((&json["majority_is_here"], &json["may_have_lost"]), (&true.into(), &false.into()), "{json}");
}

/// One server restored, the others not, or from another file.
#[tokio::test(flavor = "multi_thread")]
async fn servers_of_two_restorations_refuse_each_other_with_the_reason() {
    let (folder, file) = place("one");
    let other = folder.path().join("other");
    {
        let world = World::start().await;
        let client = world.client().await.unwrap();
        must_put(&client, "k", "1").await;
        run(backup(&world, &file), 0).await;
        must_put(&client, "k", "2").await;
        run(backup(&world, &other), 0).await;
    }
    let mut world = World::found(|plan| plan.cluster = "new".parse().unwrap()).await;
    for (id, file) in [(NodeId(1), &file), (NodeId(2), &other)] {
        fs::remove_dir_all(world.data_dir(id)).unwrap();
        run(restore(&world, id, file), 0).await;
    }
    // Server 3 was made by `raftmap init`.
    for id in world.ids() {
        world.spawn(id, |_| {}).unwrap();
    }
    for id in world.ids() {
        world.says(id, 0, "or restored from another backup").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_directory_is_named_by_check() {
    let mut world = World::start().await;
    let load = Load::start(&world, 2).await;
    load.more(100).await;
    load.stop().await;
    world.stop_all().await.unwrap();
    let check = |id: NodeId| {
        let mut command = raftmap();
        command.arg("check").arg(world.data_dir(id));
        command
    };
    for id in world.ids() {
        run(check(id), 0).await;
    }
    let all = blocks(&world.group_dir(NodeId(2)));
    let block = &all[all.len() / 2];
    block.flip(100);
    let said = run(check(NodeId(2)), 6).await;
    let place = format!("segment {} is damaged at offset {}", block.segment, block.offset);
    assert!(said.contains(&place), "{place}: {said}");
    run(check(NodeId(1)), 0).await;
}
