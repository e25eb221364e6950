//! What becomes of a server whose state is not that of the others (STORAGE.md, "Scrub and digests").
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bytes::Bytes;
use common::{Cluster, End};
use raftmap_raft::{Base, LogIndex, NodeId, Outcome};
use raftmap_replica::{DigestKind, Event, Notice, PeerBatch, Reason, RequestKind, StateDigest};
use raftmap_state::Answer;

/// A cluster with a leader, and its followers.
fn elected(count: u64) -> (Cluster, u64, Vec<u64>) {
    let mut cluster = Cluster::new(count);
    let leader = cluster.elect();
    let followers = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    (cluster, leader, followers)
}

fn misapplies(cluster: &mut Cluster, id: u64) {
    cluster.nodes.get_mut(&id).unwrap().misapplies = true;
}

fn value(text: &str) -> End {
    End::Read(Some(Bytes::copy_from_slice(text.as_bytes())))
}

fn was_quarantined(cluster: &Cluster, id: u64) -> bool {
    cluster.nodes[&id].notices.iter().any(|notice| matches!(notice, Notice::Quarantined { .. }))
}

fn is_replaced(cluster: &Cluster, id: u64) -> bool {
    let status = cluster.nodes[&id].replica.status();
    let notices = &cluster.nodes[&id].notices;
    let told = notices.iter().any(|notice| matches!(notice, Notice::StateReplaced { .. }));
    told && !status.quarantined && !status.raft.state_lost
}

fn digests(cluster: &Cluster) -> Vec<(LogIndex, u128)> {
    let views = cluster.nodes.values().map(|server| server.worker.view());
    views.map(|view| (view.applied, view.digest)).collect()
}

/// A follower applied an entry to another effect. It is outvoted, serves nothing, votes on, and comes back by itself.
#[test]
fn a_follower_that_is_outvoted_is_quarantined_and_replaced() {
    let (mut cluster, leader, followers) = elected(3);
    let wrong = followers[0];
    misapplies(&mut cluster, wrong);
    // Nobody gives it a snapshot yet.
    cluster.nodes.values_mut().for_each(|server| server.serves.snapshots = false);
    cluster.put(leader, "k", "right");
    cluster.until("it is quarantined", |cluster| was_quarantined(cluster, wrong));
    let status = cluster.nodes[&wrong].replica.status();
    assert!(status.quarantined && !status.states_differ);
    assert!(!cluster.nodes[&wrong].serves.reads && !cluster.nodes[&wrong].serves.snapshots);
    assert!(!cluster.nodes[&wrong].replica.is_ready() && cluster.nodes[&leader].replica.is_ready());
    assert!(!was_quarantined(&cluster, leader) && !was_quarantined(&cluster, followers[1]));

    // Neither stale nor linearizable reads, and certainly without effect.
    for linearizable in [true, false] {
        let read = cluster.read_with(wrong, "k", linearizable, LogIndex(0));
        cluster.settle();
        let failure = cluster.failure_of(read);
        assert_eq!((failure.reason, failure.outcome), (Reason::Quarantined, Outcome::NotApplied));
    }
    // Its log counts: with the third server away it makes the majority.
    cluster.isolate(followers[1]);
    let put = cluster.put(leader, "k", "later");
    cluster.settle();
    assert!(matches!(cluster.end_of(put), End::Answered(_)));
    let applied = cluster.nodes[&wrong].worker.view().applied;
    assert!(applied < cluster.nodes[&leader].worker.view().applied, "nothing more is applied to it");
    // A restart would not trust its state either.
    assert!(cluster.nodes[&wrong].bases.last().is_some_and(Base::is_state_distrusted));

    cluster.cut.clear();
    cluster.nodes.values_mut().filter(|server| server.stopped.is_none()).for_each(|server| {
        server.serves.snapshots = server.serves.reads;
    });
    cluster.until("it is replaced", |cluster| is_replaced(cluster, wrong));
    assert!(!cluster.nodes[&wrong].bases.last().unwrap().is_state_distrusted());
    let read = cluster.read(wrong, "k");
    cluster.pass(200);
    assert_eq!(cluster.end_of(read), &value("later"));
    assert!(digests(&cluster).iter().all(|each| *each == digests(&cluster)[0]));
}

/// A leader that is outvoted does not answer from its state, and lets another one lead before it is replaced.
#[test]
fn a_leader_that_is_outvoted_hands_over_and_answers_nothing() {
    let (mut cluster, leader, _) = elected(3);
    misapplies(&mut cluster, leader);
    cluster.put(leader, "k", "right");
    cluster.until("it is quarantined", |cluster| was_quarantined(cluster, leader));
    cluster.until("it is replaced", |cluster| is_replaced(cluster, leader));
    let now = cluster.elect();
    assert_ne!(now, leader);
    assert!(cluster.nodes[&leader].sources.iter().all(|from| *from == now));
    let read = cluster.read(leader, "k");
    cluster.pass(200);
    assert_eq!(cluster.end_of(read), &value("right"));
}

/// What a leader has proposed when it is outvoted may be applied, and it is not the one to say with what effect.
#[test]
fn what_an_outvoted_leader_has_proposed_is_of_unknown_outcome() {
    let (mut cluster, leader, followers) = elected(3);
    misapplies(&mut cluster, leader);
    cluster.put(leader, "k", "right");
    cluster.settle();
    // It learns of it while a write and a read are under way.
    let index = cluster.nodes[&leader].worker.view().applied;
    cluster.isolate(leader);
    let (put, read) = (cluster.put(leader, "k", "later"), cluster.read(leader, "k"));
    cluster.settle();
    let digest = cluster.nodes[&followers[0]].worker.view().digest;
    for id in &followers {
        let batch = PeerBatch { applied: index, digest, ..PeerBatch::default() };
        cluster.event(leader, Event::Peer { from: NodeId(*id), batch });
    }
    cluster.settle();
    assert_eq!(cluster.failure_of(put).outcome, Outcome::Unknown);
    assert_eq!(cluster.failure_of(read).outcome, Outcome::NotApplied);
}

/// No majority has one state: nobody knows who is right, so nobody is believed, until a majority agrees again.
#[test]
fn without_a_majority_everybody_refuses_until_there_is_one() {
    let (mut cluster, leader, followers) = elected(3);
    for id in &followers {
        misapplies(&mut cluster, *id);
    }
    cluster.put(leader, "k", "right");
    cluster.until("all say that they differ", |cluster| {
        cluster.nodes.values().all(|server| server.replica.status().states_differ)
    });
    for id in [leader, followers[0]] {
        let requests = [
            cluster.put(id, "k", "more"),
            cluster.read(id, "k"),
            cluster.read_with(id, "k", false, LogIndex(0)),
            cluster.request(id, 1000, RequestKind::OpenSession),
        ];
        cluster.settle();
        for request in requests {
            let failure = cluster.failure_of(request);
            assert_eq!((failure.reason, failure.outcome), (Reason::StatesDiffer, Outcome::NotApplied));
        }
    }
    assert!(cluster.nodes.values().all(|server| !server.serves.reads && !server.serves.snapshots));
    assert!(cluster.nodes.keys().all(|id| !was_quarantined(&cluster, *id)));

    // The operator decides: the leader's state is the right one, and it goes on alone.
    for follower in followers {
        let removed = cluster.request(leader, 10_000, RequestKind::RemoveMember(NodeId(follower)));
        cluster.until("a server is gone", |cluster| cluster.ended.contains_key(&removed));
        assert_eq!(*cluster.end_of(removed), End::Answered(Answer::Done));
    }
    cluster.until("it goes on", |cluster| !cluster.nodes[&leader].replica.status().states_differ);
    let read = cluster.read(leader, "k");
    cluster.pass(200);
    assert_eq!(cluster.end_of(read), &value("right"));
}

/// Of two servers that differ nobody can tell which one is right.
#[test]
fn two_servers_that_differ_both_refuse() {
    let (mut cluster, leader, followers) = elected(2);
    misapplies(&mut cluster, followers[0]);
    cluster.put(leader, "k", "right");
    cluster.until("both say so", |cluster| {
        cluster.nodes.values().all(|server| server.replica.status().states_differ)
    });
}

/// One against one while the third is away is no majority; when the third is back it decides.
#[test]
fn who_was_away_decides() {
    let (mut cluster, leader, followers) = elected(3);
    let (wrong, away) = (followers[0], followers[1]);
    misapplies(&mut cluster, wrong);
    cluster.isolate(away);
    for id in [leader, wrong] {
        cluster.event(id, Event::PeerLost(NodeId(away)));
        cluster.event(away, Event::PeerLost(NodeId(id)));
    }
    cluster.put(leader, "k", "right");
    cluster.until("the two differ", |cluster| {
        [leader, wrong].iter().all(|id| cluster.nodes[id].replica.status().states_differ)
    });
    cluster.cut.clear();
    for id in [leader, wrong] {
        cluster.connect(id, away);
        cluster.connect(away, id);
    }
    cluster.until("the wrong one is replaced", |cluster| is_replaced(cluster, wrong));
    assert!(cluster.nodes.values().all(|server| !server.replica.status().states_differ));
    assert!(!was_quarantined(&cluster, leader) && !was_quarantined(&cluster, away));
}

/// Messages that come late, twice, or of another index accuse nobody.
#[test]
fn only_what_is_said_of_one_index_is_held_together() {
    let (mut cluster, leader, followers) = elected(3);
    cluster.put(leader, "k", "1");
    cluster.settle();
    let early: Vec<_> = followers.iter().map(|id| cluster.nodes[id].worker.view()).collect();
    for n in 0..10 {
        cluster.put(leader, "k", &n.to_string());
        cluster.settle();
    }
    // What the followers said then, again and late, and what nobody has applied yet.
    for (id, view) in followers.iter().zip(&early) {
        for (applied, digest) in [(view.applied, view.digest), (LogIndex(1 << 40), 1), (LogIndex(1 << 61), 2)]
        {
            let scan = Some(StateDigest { index: applied, digest: 3 });
            let batch = PeerBatch { applied, digest, scan, ..PeerBatch::default() };
            cluster.event(leader, Event::Peer { from: NodeId(*id), batch });
        }
    }
    cluster.pass(1000);
    let server = &cluster.nodes[&leader];
    assert!(
        !server.notices.iter().any(|notice| matches!(notice, Notice::Diverged { .. })),
        "{:?}",
        server.notices
    );
    assert!(server.serves.reads && server.serves.snapshots);
}

/// A state in dispute is not copied: the copy would take its side.
#[test]
fn who_is_contradicted_says_so_and_gives_no_snapshot_until_that_is_settled() {
    let (mut cluster, leader, followers) = elected(3);
    cluster.put(leader, "k", "1");
    cluster.settle();
    let view = cluster.nodes[&leader].worker.view();
    let says = |id: u64, digest| {
        let batch = PeerBatch { applied: view.applied, digest, ..PeerBatch::default() };
        Event::Peer { from: NodeId(id), batch }
    };
    // The second follower said nothing of this index on its new connection.
    cluster.connect(leader, followers[1]);
    cluster.isolate(leader);
    cluster.event(leader, says(followers[0], 1));
    cluster.settle();
    let server = &cluster.nodes[&leader];
    assert!(server.serves.reads && !server.serves.snapshots);
    let expected = Notice::Diverged { peer: NodeId(followers[0]), index: view.applied };
    assert!(server.notices.contains(&expected));
    cluster.event(leader, says(followers[1], view.digest));
    cluster.settle();
    assert!(cluster.nodes[&leader].serves.snapshots);
}

/// The server that contradicted gave its state up, since others outvoted it, and who could have settled it here waits for a copy.
#[test]
fn a_dispute_ends_when_whoever_contradicts_gives_its_state_up() {
    let (mut cluster, leader, followers) = elected(4);
    cluster.put(leader, "k", "1");
    cluster.settle();
    let view = cluster.nodes[&leader].worker.view();
    let says = |id: u64, digest| {
        let batch = PeerBatch { applied: view.applied, digest, ..PeerBatch::default() };
        Event::Peer { from: NodeId(id), batch }
    };
    let has_none = |id: u64| Event::Peer { from: NodeId(id), batch: PeerBatch::default() };
    // Those two said nothing of this index on their new connections.
    followers[1..].iter().for_each(|id| cluster.connect(leader, *id));
    cluster.isolate(leader);
    cluster.event(leader, says(followers[0], 1));
    cluster.event(leader, says(followers[1], view.digest));
    cluster.event(leader, has_none(followers[0]));
    cluster.pass(1000);
    assert!(!cluster.nodes[&leader].serves.snapshots, "the last one may contradict, too");
    cluster.event(leader, has_none(followers[2]));
    cluster.until("it gives snapshots", |cluster| cluster.nodes[&leader].serves.snapshots);
}

/// While nobody leads it asks around. Who is not known to have the state of those that outvoted it may have the very state that
/// was given up, and who is not connected keeps it waiting.
#[test]
fn an_outvoted_server_asks_those_who_outvoted_it_and_are_connected() {
    let (mut cluster, leader, followers) = elected(5);
    let (wrong, away, sound) = (followers[0], followers[1], [leader, followers[2], followers[3]]);
    cluster.isolate(away);
    misapplies(&mut cluster, wrong);
    cluster.nodes.values_mut().for_each(|server| server.serves.snapshots = false);
    cluster.put(leader, "k", "right");
    cluster.until("it is quarantined", |cluster| was_quarantined(cluster, wrong));
    cluster.nodes.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| cluster.isolate(id));
    cluster.pass(5_000);
    cluster.nodes.get_mut(&wrong).unwrap().sources.clear();
    sound.into_iter().for_each(|id| cluster.event(wrong, Event::PeerLost(NodeId(id))));
    cluster.pass(10_000);
    assert_eq!(cluster.nodes[&wrong].sources, []);
    cluster.connect(wrong, sound[1]);
    cluster.pass(10_000);
    let sources = &cluster.nodes[&wrong].sources;
    assert!(!sources.is_empty() && sources.iter().all(|from| *from == sound[1]), "{sources:?}");
}

/// Servers that cut the entries into batches differently meet at milestones.
#[test]
fn a_server_that_applies_in_other_batches_is_found_by_its_milestone() {
    let (mut cluster, leader, followers) = elected(3);
    let view = cluster.nodes[&followers[0]].worker.view();
    for _ in 0..70 {
        cluster.put(leader, "k", "v");
        cluster.settle();
    }
    let milestone = cluster.nodes[&leader].worker.view().milestone.unwrap();
    assert_eq!(milestone.index, LogIndex(64));
    let wrong = Some(StateDigest { digest: milestone.digest + 1, ..milestone });
    for id in &followers {
        // Each at an index at which the leader did not stop.
        let batch = PeerBatch {
            applied: LogIndex(1 << 40),
            digest: view.digest,
            milestone: wrong,
            ..PeerBatch::default()
        };
        cluster.event(leader, Event::Peer { from: NodeId(*id), batch });
    }
    cluster.settle();
    let quarantined = Notice::Quarantined {
        kind: DigestKind::Running,
        index: LogIndex(64),
        by: followers.iter().copied().map(NodeId).collect(),
    };
    assert!(cluster.nodes[&leader].notices.contains(&quarantined), "{:?}", cluster.nodes[&leader].notices);
}
