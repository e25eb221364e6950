//! Scans: all servers read all their rows from the disk, and compare what they found.

use crate::support::World;
use crate::support::load::must_put;

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_scan_and_say_that_they_agree() {
    let mut world =
        World::found(|plan| plan.serve_arguments.extend(["--scan-every", "1"].map(Into::into))).await;
    world.start_all().await.unwrap();
    let client = world.client().await.unwrap();
    for number in 0..24 {
        must_put(&client, &format!("key/{number}"), &format!("{number} ").repeat(16 << 10)).await;
    }
    for id in world.ids() {
        let mark = world.log_mark(id);
        world.says(id, mark, "a scan has read all rows, and a majority has the same").await;
    }
}
