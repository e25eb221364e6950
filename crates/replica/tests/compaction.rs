//! When logs let go of their beginnings.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Cluster;
use raftmap_raft::LogIndex;
use raftmap_replica::{CompactionConfig, Event, Notice, ReplicaConfig};

/// A scrub found rot in the log of a leader, and in that of a follower: both let go of it, and nobody needs a snapshot.
#[test]
fn a_log_that_rotted_begins_behind_that_once_the_state_is_durable() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for number in 0..20 {
        cluster.put(leader, "k", &number.to_string());
    }
    cluster.settle();
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let status = |cluster: &Cluster, id: u64| cluster.nodes[&id].replica.status().raft;
    let applied = status(&cluster, leader).applied;
    for id in [leader, follower] {
        assert_eq!(status(&cluster, id).base.index, LogIndex(0));
        let last = LogIndex(applied.0 + 2);
        cluster.event(id, Event::LogRotten { last, reason: "a block".to_owned() });
        cluster.settle();
        assert_eq!(status(&cluster, id).base.index, LogIndex(0), "the state does not hold it yet");
        assert!(cluster.nodes[&id].notices.iter().any(|notice| matches!(notice, Notice::LogRotten { .. })));
    }
    for number in 0..3 {
        cluster.put(leader, "k", &number.to_string());
    }
    cluster.until("both logs begin behind it", |cluster| {
        [leader, follower].iter().all(|id| status(cluster, *id).base.index.0 == applied.0 + 2)
    });
    let followers = status(&cluster, leader).followers;
    assert!(followers.iter().all(|follower| !follower.needs_snapshot), "{followers:?}");
}

/// Scenario 33, and what compaction leaves for those that are a little behind.
#[test]
fn a_log_that_has_grown_is_compacted_up_to_what_a_connected_follower_needs() {
    let compaction = CompactionConfig { start_bytes: 4_000, tail_bytes: 500, max_bytes: 20_000 };
    let mut cluster = Cluster::with(3, |config| ReplicaConfig { compaction, ..config });
    let leader = cluster.elect();
    let behind = (1..=3).find(|id| *id != leader).unwrap();
    cluster.nodes.get_mut(&behind).unwrap().slow_disk = true;
    let base = |cluster: &Cluster, id: u64| cluster.nodes[&id].replica.status().raft.base.index;
    let write = |cluster: &mut Cluster, count: u64| {
        for number in 0..count {
            cluster.put(leader, "k", &number.to_string().repeat(50));
            cluster.settle();
        }
    };
    let held = cluster.nodes[&leader].replica.status().raft.last.index;
    write(&mut cluster, 60);
    assert!(base(&cluster, leader) <= held, "{} needs what is behind {held}", behind);
    let other = (1..=3).find(|id| *id != leader && *id != behind).unwrap();
    assert!(base(&cluster, other) > held, "who does not lead waits for nobody");
    cluster.sync(behind);
    write(&mut cluster, 20);
    let status = cluster.nodes[&leader].replica.status().raft;
    assert!(status.base.index > held && status.base.index < status.applied, "{status:?}");
    assert!(status.followers.iter().all(|follower| !follower.needs_snapshot), "{status:?}");
    write(&mut cluster, 300);
    assert!(base(&cluster, leader) > status.base.index, "at its limit a log waits for nobody");
}
