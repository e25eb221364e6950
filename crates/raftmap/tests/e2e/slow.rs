//! Servers that stand still, and what that costs the others.

use std::fs;

use raftmap_client::Client;
use raftmap_raft::NodeId;

use crate::support::World;
use crate::support::load::must_get;

const VALUE_BYTES: usize = 256 << 10;

/// Writes so many values, over and over under the same keys.
async fn write(client: &Client, round: u32, count: u32) {
    for number in 0..count {
        let value = format!("{round}/{number} ").repeat(VALUE_BYTES / 8);
        client.put(format!("slow/{}", number % 16), value).await.unwrap();
    }
}

/// What a server holds in memory that is not a file's, in MiB.
fn memory_mib(world: &mut World, id: NodeId) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.pid(id).unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() >> 10
}

/// For longer than any buffer holds: what it lacks waits on the disks of the others. When it goes on it catches up.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stands_still_costs_the_others_no_memory_and_catches_up() {
    const ALLOWED_MIB: u64 = 100;
    let mut world = World::start().await;
    let leader = world.agree(&world.ids()).await;
    let still = world.others(&[leader])[0];
    let client = world.client_among(&[leader]).await;
    write(&client, 0, 400).await;
    let before = memory_mib(&mut world, leader);
    world.pause(still).unwrap();
    write(&client, 1, 800).await;
    let after = memory_mib(&mut world, leader);
    assert!(after <= before + ALLOWED_MIB, "{before} MiB became {after} MiB while 200 MiB were written");
    world.resume(still).unwrap();
    world.agree(&world.ids()).await;
    let at_still = world.client_among(&[still]).await;
    assert!(must_get(&at_still, "slow/15").await.unwrap().starts_with("1/799 "));
}
