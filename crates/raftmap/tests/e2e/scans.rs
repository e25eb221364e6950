//! Rows that rot on the disk: a scan finds them, and another server's take their place.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use raftmap_client::Client;
use raftmap_raft::NodeId;
use tokio::time::{Instant, sleep};

use crate::support::World;
use crate::support::load::{must_get, must_put};
use crate::support::world::{PATIENCE, POLL};

const KEYS: u32 = 24;

async fn start_with(arguments: &[&str]) -> World {
    let arguments = arguments.iter().map(Into::into);
    let mut world = World::found(|plan| plan.serve_arguments.extend(arguments)).await;
    world.start_all().await.unwrap();
    world.leader().await.unwrap();
    world
}

async fn write(client: &Client) {
    for number in 0..KEYS {
        must_put(client, &format!("key/{number}"), &format!("{number} ").repeat(16 << 10)).await;
    }
}

/// The largest file in which a state's engine keeps rows.
fn rows(state: &Path) -> PathBuf {
    fn files(folder: &Path, found: &mut Vec<(u64, PathBuf)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, found);
            } else if path
                .parent()
                .is_some_and(|parent| parent.ends_with("tables") || parent.ends_with("blobs"))
            {
                found.push((fs::metadata(&path).unwrap().len(), path));
            }
        }
    }
    let mut found = Vec::new();
    files(state, &mut found);
    found.into_iter().max().expect("rows are in files by now").1
}

/// Starts a server whenever it is down, as whatever supervises it would: its engine may meet rotten rows before a scan does, by what
/// it does in the background, and then the server ends.
async fn supervise_until_it_says(world: &mut World, id: NodeId, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    let mut mark = 0;
    while !world.said_since(id, 0).contains(text) {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for server {id} to say {text:?}");
        if mark == 0 || world.said_since(id, mark).contains("this server ends") {
            // Perhaps it has ended, or is up.
            drop(world.kill(id));
            mark = world.log_mark(id);
            drop(world.start(id).await);
        }
        sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_scan_and_say_that_they_agree() {
    let world = start_with(&["--scan-every", "1"]).await;
    write(&world.client().await.unwrap()).await;
    for id in world.ids() {
        let mark = world.log_mark(id);
        world.says(id, mark, "a scan has read all rows, and a majority has the same").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_rotted_on_the_disk_are_found_and_replaced() {
    let mut world = start_with(&["--scan-every", "1"]).await;
    write(&world.client().await.unwrap()).await;
    let leader = world.agree(&world.ids()).await;
    let rotten = world.others(&[leader])[0];
    world.stop(rotten).await.unwrap();
    let path = rows(&world.data_dir(rotten).join("state-0"));
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let (at, mut byte) = (file.metadata().unwrap().len() / 3, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();

    supervise_until_it_says(&mut world, rotten, "this server cannot read its state any more").await;
    supervise_until_it_says(&mut world, rotten, "another server's state has taken the place of this one's")
        .await;
    world.agree(&world.ids()).await;
    let client = world.client_among(&[rotten]).await;
    for number in 0..KEYS {
        let value = must_get(&client, &format!("key/{number}")).await.unwrap();
        assert!(value.starts_with(&format!("{number} ")), "key {number}");
    }
    let mark = world.log_mark(rotten);
    world.says(rotten, mark, "a scan has read all rows, and a majority has the same").await;
}
