//! Servers that are killed: SIGKILL, at any moment.

use std::process::Command;
use std::time::Duration;

use raftmap_client::{Code, Error};

use crate::support::load::{must_get, must_put};
use crate::support::{Load, PATIENCE, World, until};

/// How long one request at a server that may never answer may take.
const SHORT: Duration = Duration::from_secs(1);

/// Promise 1.
#[tokio::test(flavor = "multi_thread")]
async fn any_one_server_is_killed_and_the_others_go_on_without_losing_anything() {
    let mut world = World::start().await;
    let load = Load::start(&world, 4).await;
    let leader = world.leader().await.unwrap();
    let followers = world.others(&[leader]);
    for id in [followers[0], leader, followers[1]] {
        load.more(100).await;
        world.kill(id).unwrap();
        load.more(200).await;
        world.start(id).await.unwrap();
    }
    world.verify(&load.stop().await).await;
}

/// Promise 2.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_just_before_the_leader_was_killed_is_there_fifty_times_over() {
    let mut world = World::found(|plan| {
        // Elections are most of what this test waits for.
        plan.serve_arguments =
            ["--election-timeout-ms", "250", "--heartbeat-ms", "50"].map(Into::into).to_vec();
    })
    .await;
    world.start_all().await.unwrap();
    let client = world.client().await.unwrap();
    let load = Load::start(&world, 4).await;
    for round in 0..50 {
        load.more(10).await;
        let leader = world.leader().await.unwrap();
        let key = format!("last/{round}");
        let revision = must_put(&client, &key, "acknowledged").await;
        world.kill(leader).unwrap();
        let entry = client.get(key.clone()).timeout(PATIENCE).await.unwrap();
        let entry = entry.unwrap_or_else(|| panic!("{key} was acknowledged at {revision}, and lost"));
        assert_eq!(entry.revision, revision, "{key}");
        world.start(leader).await.unwrap();
    }
    world.verify(&load.stop().await).await;
}

/// Promises 1 and 2; scenario 9: of the two that are left one has missed what was acknowledged. It asks to be elected long
/// before the other one would, and must not be.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_missed_writes_is_not_elected_by_one_that_has_them() {
    let (mut world, network) = World::start_with_network().await;
    for round in 0..2 {
        let leader = world.agree(&world.ids()).await;
        let [whole, behind] = world.others(&[leader]).try_into().unwrap();
        network.isolate(behind);
        let client = world.client_among(&[leader, whole]).await;
        let mark = world.log_mark(behind);
        must_put(&client, &format!("missed/{round}"), "acknowledged").await;
        world.says(behind, mark, "asking around").await;
        world.kill(leader).unwrap();
        world.kill(whole).unwrap();
        // What is on its way to it is lost with the leader.
        network.cut(behind);
        network.heal();
        let patient = |_, command: &mut Command| _ = command.args(["--election-timeout-ms", "3000"]);
        world.start_changed(&[whole], patient).await;
        let client = world.client_among(&[whole, behind]).await;
        let found = must_get(&client, &format!("missed/{round}")).await;
        assert_eq!(found.as_deref(), Some("acknowledged"));
        world.start(leader).await.unwrap();
    }
}

/// Promise 3.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_requests_end_with_a_clear_error_until_one_returns() {
    let mut world = World::start().await;
    let leader = world.leader().await.unwrap();
    let followers = world.others(&[leader]);
    let client = world.client_among(&[leader]).await;

    world.kill(followers[0]).unwrap();
    must_put(&client, "k", "two are enough").await;
    assert_eq!(must_get(&client, "k").await.as_deref(), Some("two are enough"));

    world.kill(followers[1]).unwrap();
    let mut refused = Vec::new();
    let mut number = 0;
    until("a write to end with NO_QUORUM", async || {
        number += 1;
        let key = format!("alone/{number}");
        let error =
            client.put(key.clone(), "").timeout(SHORT).await.expect_err("one of three acknowledges nothing");
        if let Error::NotApplied(cause) = &error {
            refused.push(key);
            return (cause.code == Some(Code::NO_QUORUM)).then_some(());
        }
        None
    })
    .await;
    let read = client.get("k").timeout(SHORT).await.expect_err("one of three confirms no read");
    assert_eq!(read.cause().code, Some(Code::NO_QUORUM), "{read}");
    assert!(read.to_string().contains("1 of 3 servers are connected, and 2 are needed"), "{read}");
    let stale = client.get("k").stale().await.unwrap().expect("it was put");
    assert_eq!(stale.value, "two are enough");

    // On the command line it is told of each server why.
    let mut put = Command::new(env!("CARGO_BIN_EXE_raftmap"));
    put.args(["put", "alone/told", "x", "--timeout-ms", "1000", "--endpoints", &world.endpoints().join(",")]);
    let ended = put.arg("--certs").arg(world.certs_dir()).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(matches!(ended.status.code(), Some(1 | 3)), "{told}");
    assert!(told.contains(&format!("server {leader} at ")) && told.contains(": answers, "), "{told}");
    for gone in &followers {
        let line = told.lines().find(|line| line.contains(&format!("server {gone} at "))).unwrap_or_default();
        assert!(line.contains(&format!("server {leader} has not reached it for ")), "{told}");
        assert!(line.contains("refused"), "{told}");
    }

    world.start(followers[0]).await.unwrap();
    must_put(&client, "k", "two again").await;
    assert_eq!(must_get(&client, "k").await.as_deref(), Some("two again"));
    for key in refused {
        assert_eq!(must_get(&client, &key).await, None, "{key} was certainly not applied");
    }
}

/// Promise 5.
#[tokio::test(flavor = "multi_thread")]
async fn all_servers_are_killed_at_once_and_every_acknowledged_write_is_there() {
    let mut world = World::start().await;
    let load = Load::start(&world, 8).await;
    for _ in 0..8 {
        load.more(150).await;
        world.kill_all().unwrap();
        world.start_all().await.unwrap();
    }
    load.more(1).await;
    world.verify(&load.stop().await).await;
}
