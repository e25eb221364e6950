//! Scans: all servers hash all rows at one entry, and who finds other rows than a majority has takes those (STORAGE.md, "Scrub and
//! digests").
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bytes::Bytes;
use common::{Cluster, End};
use raftmap_raft::{Base, Entry, GroupId, LogIndex, NodeId, Payload, Term};
use raftmap_replica::{DigestKind, Event, Notice, ReplicaConfig, RequestKind, StateDigest, StateWorker};
use raftmap_state::{Answer, Body, Command, LEVEL_OF_SCANS, MemoryEngine, StateMachine};

const SCAN_EVERY_MS: u64 = 2_000;

/// A cluster in which the key `k` has the value `right`, with scans, its leader, and its followers.
fn scanned(count: u64) -> (Cluster, u64, Vec<u64>) {
    let mut cluster =
        Cluster::with(count, |config| ReplicaConfig { scan_every_ms: Some(SCAN_EVERY_MS), ..config });
    let leader = cluster.elect();
    put(&mut cluster, leader);
    let followers = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    (cluster, leader, followers)
}

/// Gives the key its value at all servers.
fn put(cluster: &mut Cluster, leader: u64) {
    let put = cluster.put(leader, "k", "right");
    cluster.settle();
    assert!(matches!(cluster.end_of(put), End::Answered(_)));
    cluster.until("all have applied it", |cluster| {
        let applied = |id: u64| cluster.nodes[&id].worker.view().applied;
        cluster.nodes.keys().all(|id| applied(*id) == applied(leader))
    });
}

fn notices<'a>(
    cluster: &'a Cluster,
    id: u64,
    wanted: impl Fn(&Notice) -> bool + 'a,
) -> impl Iterator<Item = &'a Notice> {
    cluster.nodes[&id].notices.iter().filter(move |notice| wanted(notice))
}

fn is_sound(cluster: &Cluster, id: u64) -> usize {
    notices(cluster, id, |notice| matches!(notice, Notice::StateSound { .. })).count()
}

fn was_quarantined(cluster: &Cluster, id: u64) -> bool {
    notices(cluster, id, |notice| matches!(notice, Notice::Quarantined { kind: DigestKind::Content, .. }))
        .next()
        .is_some()
}

fn is_replaced(cluster: &Cluster, id: u64) -> bool {
    notices(cluster, id, |notice| matches!(notice, Notice::StateReplaced { .. })).next().is_some()
}

fn read_of(cluster: &mut Cluster, id: u64) -> End {
    let read = cluster.read(id, "k");
    cluster.until("a read is answered", |cluster| cluster.ended.contains_key(&read));
    cluster.end_of(read).clone()
}

fn right() -> End {
    End::Read(Some(Bytes::from_static(b"right")))
}

#[test]
fn servers_scan_again_and_again_and_say_that_a_majority_agrees() {
    let (mut cluster, _, _) = scanned(3);
    cluster.until("two scans", |cluster| cluster.nodes.keys().all(|id| is_sound(cluster, *id) >= 2));
    let times: Vec<Option<u64>> =
        cluster.nodes.values().map(|server| server.worker.view().scanned_ms).collect();
    assert!(times[0].is_some() && times.iter().all(|time| *time == times[0]), "{times:?}");
    let scans = cluster.nodes.values().map(|server| server.notices.len()).max().unwrap();
    cluster.pass(SCAN_EVERY_MS / 2);
    assert!(
        cluster.nodes.values().all(|server| server.notices.len() <= scans + 1),
        "not more often than they are to"
    );
}

#[test]
fn rows_that_rotted_are_found_and_replaced_while_nothing_is_written() {
    let (mut cluster, leader, followers) = scanned(3);
    for wrong in [followers[0], leader] {
        cluster.nodes.get_mut(&wrong).unwrap().rot("k");
        cluster.until("it is found", |cluster| was_quarantined(cluster, wrong));
        cluster.until("it is replaced", |cluster| is_replaced(cluster, wrong));
        assert_eq!(read_of(&mut cluster, wrong), right());
    }
    assert!(!was_quarantined(&cluster, followers[1]));
}

/// However the entries are cut into batches, a scan is of the state at its own entry: else digests could not be compared.
#[test]
fn a_scan_in_the_middle_of_a_batch_is_of_its_entry() {
    let command =
        |body: Body| Payload::Command(Command { stamped_time_ms: Some(5), trace: None, body }.encode());
    let entry = |index, payload| Entry { term: Term(1), index: LogIndex(index), payload };
    let entries = [
        entry(1, Payload::Noop),
        entry(2, command(Body::Scan)),
        entry(3, command(Body::Time)),
        entry(4, Payload::Noop),
    ];
    let scan_of = |batches: &[&[Entry]]| {
        let machine = StateMachine::open(MemoryEngine::new(), GroupId::DEFAULT).unwrap();
        let mut worker = StateWorker::new(machine).unwrap();
        for batch in batches {
            worker.apply(batch).unwrap();
        }
        let mut scan = worker.take_scan().expect("there was one");
        assert!(worker.take_scan().is_none());
        (scan.at().index, scan.advance(u64::MAX).unwrap().unwrap())
    };
    let whole = scan_of(&[&entries]);
    assert_eq!(whole.0, LogIndex(2));
    assert_eq!(whole, scan_of(&[&entries[..1], &entries[1..2], &entries[2..]]));
}

/// An older program would stop at the command.
#[test]
fn nobody_scans_before_all_programs_understand_it() {
    let mut cluster = Cluster::with(3, |config| ReplicaConfig {
        level: if config.raft.id == NodeId(1) { LEVEL_OF_SCANS - 1 } else { LEVEL_OF_SCANS },
        scan_every_ms: Some(SCAN_EVERY_MS),
        ..config
    });
    cluster.elect();
    cluster.pass(10 * SCAN_EVERY_MS);
    assert!(cluster.nodes.values().all(|server| server.worker.view().scanned_ms.is_none()));
}

/// The engine itself finds that a row cannot be read: nobody needs to vote on that.
#[test]
fn rows_that_cannot_be_read_are_replaced() {
    let (mut cluster, _, followers) = scanned(3);
    let wrong = followers[0];
    cluster.event(wrong, Event::ScanFailed { index: LogIndex(2), reason: "a checksum is wrong".to_owned() });
    cluster.until("it is replaced", |cluster| is_replaced(cluster, wrong));
    assert_eq!(read_of(&mut cluster, wrong), right());
}

#[test]
fn a_lone_server_that_cannot_read_its_rows_ends_and_says_what_to_do() {
    let (mut cluster, leader, _) = scanned(1);
    cluster.event(leader, Event::ScanFailed { index: LogIndex(2), reason: "a checksum is wrong".to_owned() });
    cluster.settle();
    let stopped = cluster.nodes[&leader].stopped.clone().expect("it ends");
    assert!(stopped.contains("restore a backup") && stopped.contains("a checksum is wrong"), "{stopped}");
}

/// All scan at the same time: if all cannot read their rows, the last one that has a state does not give it up.
#[test]
fn the_last_state_is_not_given_up() {
    let (mut cluster, leader, followers) = scanned(3);
    cluster.nodes.values_mut().for_each(|server| server.serves.snapshots = false);
    for id in &followers {
        cluster
            .event(*id, Event::ScanFailed { index: LogIndex(2), reason: "a checksum is wrong".to_owned() });
    }
    cluster.pass(1_000);
    assert!(followers.iter().all(|id| cluster.nodes[id].replica.status().quarantined));
    cluster.event(leader, Event::ScanFailed { index: LogIndex(2), reason: "a checksum is wrong".to_owned() });
    cluster.settle();
    let stopped = cluster.nodes[&leader].stopped.clone().expect("it ends");
    assert!(stopped.contains("no server is connected that has one"), "{stopped}");
    assert!(!cluster.nodes[&leader].bases.last().is_some_and(Base::is_state_distrusted));
}

/// What a scan finds of a state that has been replaced meanwhile says nothing of the one that took its place.
#[test]
fn a_scan_of_a_state_that_was_given_up_says_nothing() {
    let (mut cluster, _, followers) = scanned(3);
    let wrong = followers[0];
    cluster.nodes.get_mut(&wrong).unwrap().rot("k");
    cluster.nodes.values_mut().for_each(|server| server.serves.snapshots = false);
    cluster.until("it is found", |cluster| was_quarantined(cluster, wrong));
    let index = cluster.nodes[&wrong].worker.view().applied;
    let quarantines = cluster.nodes[&wrong].notices.len();
    cluster.event(wrong, Event::Scanned(StateDigest { index, digest: 7 }));
    cluster.event(wrong, Event::ScanFailed { index, reason: "it is gone".to_owned() });
    cluster.settle();
    assert_eq!(cluster.nodes[&wrong].notices.len(), quarantines);
}

/// Found by the simulator: scans followed each other without a pause, for each bore the time of the one before.
#[test]
fn scans_have_their_pause_while_log_time_stands_still() {
    let (mut cluster, leader, _) = scanned(3);
    cluster.until("a scan", |cluster| is_sound(cluster, leader) == 1);
    // All clocks were wrong, and are set right: log time waits for them.
    cluster.now.wall_ms -= 500_000;
    let before = is_sound(&cluster, leader);
    cluster.pass(10 * SCAN_EVERY_MS);
    let scans = is_sound(&cluster, leader) - before;
    assert!((5..=11).contains(&scans), "{scans} scans");
}

/// The third server left out a scan, so nobody knows which of the two is right: they scan again, long before it is due.
#[test]
fn rows_in_dispute_are_scanned_again_soon() {
    let count = 3;
    let day_ms = 24 * 60 * 60 * 1_000;
    let mut cluster = Cluster::with(count, |config| ReplicaConfig { scan_every_ms: Some(day_ms), ..config });
    let leader = cluster.elect();
    put(&mut cluster, leader);
    let wrong = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
    let third = cluster.nodes.keys().copied().find(|id| ![leader, wrong].contains(id)).unwrap();
    cluster.nodes.get_mut(&wrong).unwrap().rot("k");
    cluster.nodes.get_mut(&third).unwrap().scans = false;
    cluster.pass(1_000);
    // A day passes.
    cluster.now.wall_ms += day_ms;
    cluster.now.monotonic_ms += day_ms;
    cluster.until("the two have scanned", |cluster| {
        cluster.nodes[&leader].notices.iter().any(|notice| matches!(notice, Notice::Diverged { .. }))
    });
    assert!(!was_quarantined(&cluster, wrong));
    cluster.nodes.get_mut(&third).unwrap().scans = true;
    cluster.pass(61_000);
    cluster.until("it is found", |cluster| was_quarantined(cluster, wrong));
    let put = cluster.request(leader, 10_000, common::put("k", "later"));
    cluster.settle();
    assert!(matches!(cluster.end_of(put), End::Answered(Answer::Put(_))));
}

#[test]
fn of_two_servers_whose_rows_differ_nobody_knows_which_is_right() {
    let (mut cluster, leader, followers) = scanned(2);
    cluster.nodes.get_mut(&followers[0]).unwrap().rot("k");
    cluster.until("both say so", |cluster| {
        cluster.nodes.values().all(|server| server.replica.status().states_differ)
    });
    // The operator decides: the leader's state is the right one.
    let removed = cluster.request(leader, 10_000, RequestKind::RemoveMember(NodeId(followers[0])));
    cluster.until("it goes on", |cluster| !cluster.nodes[&leader].replica.status().states_differ);
    assert!(cluster.ended.contains_key(&removed));
    assert_eq!(read_of(&mut cluster, leader), right());
}
