//! Rows that rot on the disk: a scan finds them, and another server's take their place. Logs that rot: they let go of that.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use raftmap_client::Client;
use raftmap_raft::NodeId;
use tokio::time::{Instant, sleep};

use crate::support::World;
use crate::support::load::{Load, must_get, must_put};
use crate::support::world::{PATIENCE, POLL, until};

const KEYS: u32 = 24;

const SOUND: &str = "a scan has read all rows, and a majority has the same";
const SET_ASIDE: &str = "the state machine is damaged or has lost something; it is set aside";
/// Where a server notes that its state machine failed.
const SUSPECT: &str = "state-suspect";

async fn write(client: &Client) {
    for number in 0..KEYS {
        must_put(client, &format!("key/{number}"), &format!("{number} ").repeat(16 << 10)).await;
    }
}

/// The files in which a server's engine keeps rows.
fn tables(world: &World, id: NodeId) -> Vec<PathBuf> {
    let folder = world.data_dir(id).join("state-0/tree/tables");
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Changes a byte of each of them: one that `place` chooses by their lengths.
fn rot(world: &World, id: NodeId, place: impl Fn(u64) -> u64) {
    let tables = tables(world, id);
    assert!(!tables.is_empty(), "rows are in files by now");
    for path in tables {
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            // Compacted away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{error}"),
        };
        let (at, mut byte) = (place(file.metadata().unwrap().len()), [0]);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }
}

const AMONG_ROWS: fn(u64) -> u64 = |length| length / 3;
/// In what the engine reads first of a file.
const AT_THE_END: fn(u64) -> u64 = |length| length - 14;

/// Starts a server whenever it has ended, as whatever supervises it would, until it says something.
async fn supervise_until_it_says(world: &mut World, id: NodeId, mark: usize, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !world.said_since(id, mark).contains(text) {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for server {id} to say {text:?}");
        if !world.is_running(id) {
            // It may end again, and be started again.
            drop(world.start(id).await);
        }
        sleep(POLL).await;
    }
}

async fn has_all_keys(client: &Client) {
    for number in 0..KEYS {
        let value = must_get(client, &format!("key/{number}")).await.unwrap();
        assert!(value.starts_with(&format!("{number} ")), "key {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_scan_and_say_that_they_agree() {
    let world = World::start_with(&["--scan-every", "1"]).await;
    write(&world.client().await.unwrap()).await;
    for id in world.ids() {
        let mark = world.log_mark(id);
        world.says(id, mark, SOUND).await;
    }
}

/// Whoever meets them first, a scan or what the engine does in the background: another server's state takes their place.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_rot_under_a_running_server_are_found_and_replaced() {
    let mut world = World::start_with(&["--scan-every", "1"]).await;
    write(&world.client().await.unwrap()).await;
    let leader = world.agree(&world.ids()).await;
    let rotten = world.others(&[leader])[0];
    // Who ends in good order leaves all rows in files.
    world.stop(rotten).await.unwrap();
    world.start(rotten).await.unwrap();
    let start = world.log_mark(rotten);
    let found =
        |said: &str| said.contains("this server cannot read its state any more") || said.contains(SET_ASIDE);
    // A compaction may just have written all rows into another file.
    for _ in 0..3 {
        let mark = world.log_mark(rotten);
        rot(&world, rotten, AMONG_ROWS);
        supervise_until_it_says(&mut world, rotten, mark, SOUND).await;
        if found(&world.said_since(rotten, start)) {
            break;
        }
    }
    assert!(found(&world.said_since(rotten, start)));
    world.agree(&world.ids()).await;
    has_all_keys(&world.client_among(&[rotten]).await).await;
}

/// A server whose state machine failed reads all of its files at its next start, before it serves any of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_state_machine_failed_does_not_start_on_damaged_files() {
    let mut world = World::start_with(&[]).await;
    write(&world.client().await.unwrap()).await;
    let leader = world.agree(&world.ids()).await;
    let rotten = world.others(&[leader])[0];
    world.stop(rotten).await.unwrap();
    File::create(world.data_dir(rotten).join(SUSPECT)).unwrap();
    let mark = world.log_mark(rotten);
    world.start(rotten).await.unwrap();
    world.agree(&world.ids()).await;
    let said = world.said_since(rotten, mark);
    assert!(said.contains("its files are read, all of them") && !said.contains(SET_ASIDE), "{said}");
    assert!(!world.data_dir(rotten).join(SUSPECT).exists(), "once is enough");

    world.stop(rotten).await.unwrap();
    rot(&world, rotten, AMONG_ROWS);
    File::create(world.data_dir(rotten).join(SUSPECT)).unwrap();
    let mark = world.log_mark(rotten);
    world.start(rotten).await.unwrap();
    world.agree(&world.ids()).await;
    world.says(rotten, mark, SET_ASIDE).await;
    has_all_keys(&world.client_among(&[rotten]).await).await;
    assert!(world.data_dir(rotten).join("lost-state-1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_engine_does_not_open_takes_the_state_of_another_one() {
    let mut world = World::start_with(&[]).await;
    write(&world.client().await.unwrap()).await;
    let leader = world.agree(&world.ids()).await;
    let rotten = world.others(&[leader])[0];
    world.stop(rotten).await.unwrap();
    rot(&world, rotten, AT_THE_END);
    let mark = world.log_mark(rotten);
    world.start(rotten).await.unwrap();
    world.agree(&world.ids()).await;
    world.says(rotten, mark, SET_ASIDE).await;
    has_all_keys(&world.client_among(&[rotten]).await).await;
}

/// Nobody has what it would have to forget.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_alone_keeps_its_damaged_files_and_asks_for_a_backup() {
    let mut world = World::found_of(1, |_| {}).await;
    world.start_all().await.unwrap();
    let [only] = world.ids().try_into().unwrap();
    write(&world.client().await.unwrap()).await;
    world.stop(only).await.unwrap();
    rot(&world, only, AT_THE_END);
    let before = tables(&world, only);
    let refusal = world.start(only).await.unwrap_err().to_string();
    assert!(refusal.contains("there is no other server to take it from: restore a backup"), "{refusal}");
    assert_eq!(tables(&world, only), before);
}

/// Of a follower and of the leader, while clients write: nobody restarts, and the next start finds a log without damage.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_rots_under_a_running_server_is_let_go_of() {
    let mut world = World::start_with(&["--scan-every", "1"]).await;
    write(&world.client().await.unwrap()).await;
    let leader = world.agree(&world.ids()).await;
    let follower = world.others(&[leader])[0];
    let load = Load::start(&world, 2).await;
    for id in [follower, leader] {
        let segment = world.group_dir(id).join("segment-000000000001");
        let file = File::options().read(true).write(true).open(&segment).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 5_000).unwrap();
        let mark = world.log_mark(id);
        file.write_all_at(&[byte[0] ^ 0x10], 5_000).unwrap();
        world.says(id, mark, "a part of the log has rotted on the disk").await;
        world.says(id, mark, "the log lets go of its beginning").await;
        world.says(id, mark, "the log is on the disk as it was written").await;
        until("the segment to be removed", async || (!segment.exists()).then_some(())).await;
    }
    load.more(20).await;
    for id in [follower, leader] {
        let mark = world.log_mark(id);
        world.stop(id).await.unwrap();
        world.start(id).await.unwrap();
        world.agree(&world.ids()).await;
        let said = world.said_since(id, mark);
        assert!(!said.contains("is damaged at offset"), "{said}");
    }
    world.verify(&load.stop().await).await;
}
