//! Logs that are compacted, and servers that come back by a snapshot.

use std::fs;
use std::path::Path;
use std::time::Duration;

use raftmap::local_cluster::bytes_below;
use raftmap_client::Client;
use raftmap_raft::NodeId;
use tokio::time::sleep;

use crate::support::load::{must_get, must_put};
use crate::support::{Load, World};

/// Logs that let go of their beginning as soon as may be.
const SHORT: &[&str] = &["--log-mib", "1"];
/// And that wait for no follower.
const SHORT_FOR_ALL: &[&str] = &["--log-mib", "1", "--log-max-mib", "1"];

const MIB: u64 = 1 << 20;

/// Writes so much, in values of half a MiB under a few keys.
async fn write(client: &Client, name: &str, mib: u64) {
    for number in 0..2 * mib {
        let mut value = format!("{number} ");
        value.extend(std::iter::repeat_n('x', 512 << 10));
        must_put(client, &format!("{name}/{}", number % 5), &value).await;
    }
}

/// The names in a data directory that begin like this.
fn names(world: &World, id: NodeId, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(world.data_dir(id)).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with(prefix));
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_while_the_logs_went_on_comes_back_by_a_snapshot() {
    let mut world = World::start_with(SHORT_FOR_ALL).await;
    let client = world.client().await.unwrap();
    must_put(&client, "before", "it was away").await;
    let leader = world.agree(&world.ids()).await;
    let away = world.others(&[leader])[0];
    world.kill(away).unwrap();
    write(&client, "meanwhile", 6).await;

    let mark = world.log_mark(away);
    world.start(away).await.unwrap();
    world.says(away, mark, "a snapshot takes the place of the state").await;
    world.agree(&world.ids()).await;
    // It counts again, and has what it missed.
    let other = world.others(&[leader, away])[0];
    world.kill(other).unwrap();
    must_put(&client, "after", "it is back").await;
    let at_away = world.client_among(&[away]).await;
    assert_eq!(must_get(&at_away, "before").await.as_deref(), Some("it was away"));
    assert_eq!(must_get(&at_away, "after").await.as_deref(), Some("it is back"));
    assert!(must_get(&at_away, "meanwhile/4").await.unwrap().starts_with('9'));
    world.start(other).await.unwrap();
    world.agree(&world.ids()).await;
    assert_eq!(names(&world, away, "state-").len(), 1, "the state before it is removed once nobody reads it");
}

/// Wherever a crash strikes on the way, there is the old state or the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_at_any_moment_of_a_snapshot_takes_it_in_the_end() {
    let mut world = World::start_with(SHORT_FOR_ALL).await;
    let client = world.client().await.unwrap();
    let leader = world.agree(&world.ids()).await;
    let away = world.others(&[leader])[0];
    for round in 0..6 {
        world.kill(away).unwrap();
        write(&client, "meanwhile", 3).await;
        for attempt in 0..4 {
            world.spawn(away, |_| {}).unwrap();
            // Not until something happens: the moment is what differs.
            sleep(Duration::from_millis(30 + 45 * (round + 6 * attempt))).await;
            world.kill(away).unwrap();
        }
        world.start(away).await.unwrap();
        world.agree(&world.ids()).await;
    }
    let load = Load::start(&world, 2).await;
    load.more(20).await;
    world.verify(&load.stop().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_does_not_grow_under_a_constant_set_of_keys() {
    let world = World::start_with(SHORT).await;
    let client = world.client().await.unwrap();
    write(&client, "again", 160).await;
    world.agree(&world.ids()).await;
    for id in world.ids() {
        let log = bytes_below(&world.group_dir(id)).unwrap();
        assert!(log <= 5 * 16 * MIB, "the log of server {id} takes {log} bytes after 160 MiB");
    }
    assert!(must_get(&client, "again/4").await.unwrap().starts_with("319 "));
}

/// STORAGE, start-up 5: a state machine that comes back as it was before the log let go of its beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_machine_that_lost_what_it_had_on_disk_is_replaced_by_a_snapshot() {
    let mut world = World::start_with(SHORT).await;
    let client = world.client().await.unwrap();
    must_put(&client, "k", "early").await;
    let leader = world.agree(&world.ids()).await;
    let loser = world.others(&[leader])[0];
    world.stop(loser).await.unwrap();
    let (state, copy) = (world.data_dir(loser).join("state-0"), world.path("early"));
    copy_folder(&state, &copy);
    world.start(loser).await.unwrap();
    world.agree(&world.ids()).await;
    let mark = world.log_mark(loser);
    write(&client, "more", 6).await;
    world.says(loser, mark, "the log lets go of its beginning").await;
    world.stop(loser).await.unwrap();
    // On a busy machine it may have taken a snapshot meanwhile, which has a folder of its own.
    let state = world.data_dir(loser).join(&names(&world, loser, "state-")[0]);
    fs::remove_dir_all(&state).unwrap();
    copy_folder(&copy, &state);

    let mark = world.log_mark(loser);
    world.start(loser).await.unwrap();
    world.says(loser, mark, "the state machine is damaged or has lost something").await;
    world.says(loser, mark, "a snapshot takes the place of the state").await;
    world.agree(&world.ids()).await;
    assert_eq!(names(&world, loser, "lost-state-").len(), 1);
    let at_loser = world.client_among(&[loser]).await;
    assert!(must_get(&at_loser, "more/4").await.unwrap().starts_with('9'));
}

/// Somebody removed the state machine, or the disk lost the record of the one that it was replaced by.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_state_machine_is_gone_is_damaged_until_it_has_everything_again() {
    let mut world = World::start_with(SHORT).await;
    let client = world.client().await.unwrap();
    write(&client, "more", 6).await;
    let leader = world.agree(&world.ids()).await;
    let loser = world.others(&[leader])[0];
    world.stop(loser).await.unwrap();
    fs::remove_dir_all(world.data_dir(loser).join("state-0")).unwrap();
    let mark = world.log_mark(loser);
    world.start(loser).await.unwrap();
    world.says(loser, mark, "a snapshot takes the place of the state").await;
    world.says(loser, mark, "this server votes and counts").await;
    world.agree(&world.ids()).await;
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
