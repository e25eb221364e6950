//! Feature levels: raised once all members understand a higher one, and nobody gets what it does not understand.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use std::num::NonZeroU64;

use common::{Cluster, End, member};
use raftmap_raft::{NodeId, Payload};
use raftmap_replica::{
    Event, Forward, ForwardReply, Notice, PeerBatch, PeerMessage, Reason, ReplicaConfig, RequestKind,
};
use raftmap_state::{Answer, Body, Command, Introduction, LEVEL, LEVEL_FIRST, TraceContext};

/// As long as anything takes that comes by itself.
const LONG_MS: u64 = 10_000;

/// Three servers, with programs of these levels.
fn cluster(levels: [u8; 3]) -> Cluster {
    Cluster::with(3, |config| {
        let place = usize::try_from(config.raft.id.0).unwrap() - 1;
        ReplicaConfig { level: levels[place], ..config }
    })
}

fn levels(cluster: &Cluster) -> Vec<u8> {
    cluster.nodes.values().map(|server| server.replica.status().level).collect()
}

/// The raises in a server's log.
fn raises(cluster: &Cluster, id: u64) -> usize {
    let raises = |payload: &Payload| match payload {
        Payload::Command(bytes) => Command::level_of(bytes) > LEVEL_FIRST,
        _ => false,
    };
    cluster.nodes[&id].log.iter().filter(|entry| raises(&entry.payload)).count()
}

fn raised(cluster: &Cluster) -> bool {
    levels(cluster).iter().all(|level| *level == LEVEL)
}

fn elect_one_of(cluster: &mut Cluster, level: u8, levels: [u8; 3]) -> u64 {
    let mut leader = cluster.elect();
    while levels[usize::try_from(leader).unwrap() - 1] != level {
        let to = (1..=3u64).find(|id| levels[usize::try_from(*id).unwrap() - 1] == level).map(NodeId);
        cluster.event(leader, Event::HandOver { to });
        cluster.pass(1_000);
        leader = cluster.elect();
    }
    leader
}

#[test]
fn the_level_rises_once_when_all_understand_a_higher_one() {
    let mut cluster = cluster([LEVEL; 3]);
    cluster.elect();
    cluster.until("the level to rise", raised);
    cluster.pass(LONG_MS);
    for (id, server) in &cluster.nodes {
        assert_eq!(raises(&cluster, *id), 1, "server {id}");
        let told = |notice: &&Notice| **notice == Notice::LevelRaised { level: LEVEL };
        assert_eq!(server.notices.iter().filter(told).count(), 1, "server {id}");
        assert_eq!((&server.stopped, &server.refused), (&None, &vec![]), "server {id}");
    }
}

#[test]
fn a_server_alone_raises_the_level_by_itself() {
    let mut cluster = Cluster::new(1);
    cluster.elect();
    cluster.until("the level to rise", raised);
}

#[test]
fn one_old_program_keeps_the_level_where_it_is_until_it_is_replaced() {
    for old in 1..=3u64 {
        let mut levels_ = [LEVEL; 3];
        levels_[usize::try_from(old).unwrap() - 1] = LEVEL_FIRST;
        let mut cluster = cluster(levels_);
        let leader = elect_one_of(&mut cluster, LEVEL, levels_);
        let write = cluster.put(leader, "a", "1");
        cluster.pass(LONG_MS);
        assert!(matches!(cluster.end_of(write), End::Answered(_)), "mixed programs serve");
        assert_eq!(levels(&cluster), [LEVEL_FIRST; 3]);
        assert!((1..=3).all(|id| raises(&cluster, id) == 0));

        cluster.restart_with(old, LEVEL);
        cluster.until("the level to rise", raised);
        assert!(cluster.nodes.values().all(|server| server.refused.is_empty() && server.stopped.is_none()));
    }
}

/// A leader of an old program knows of no levels; whoever comes after it raises them.
#[test]
fn the_leader_may_be_the_last_one_that_is_replaced() {
    let levels_ = [LEVEL, LEVEL, LEVEL_FIRST];
    let mut cluster = cluster(levels_);
    let leader = elect_one_of(&mut cluster, LEVEL_FIRST, levels_);
    cluster.pass(LONG_MS);
    assert_eq!(levels(&cluster), [LEVEL_FIRST; 3]);
    cluster.restart_with(leader, LEVEL);
    cluster.until("the level to rise", raised);
}

#[test]
fn a_member_that_is_not_there_keeps_the_level_where_it_is() {
    let mut cluster = cluster([LEVEL; 3]);
    for id in [1, 2] {
        cluster.event(id, Event::PeerLost(NodeId(3)));
    }
    cluster.isolate(3);
    cluster.elect();
    cluster.pass(LONG_MS);
    assert_eq!(levels(&cluster)[..2], [LEVEL_FIRST; 2], "nobody knows what the third one understands");
    cluster.cut.clear();
    for id in [1, 2] {
        cluster.connect(id, 3);
    }
    cluster.until("the level to rise", raised);
}

fn traces(cluster: &Cluster, id: u64) -> Vec<TraceContext> {
    let trace = |payload: &Payload| match payload {
        Payload::Command(bytes) => Command::trace_of(bytes),
        _ => None,
    };
    cluster.nodes[&id].log.iter().filter_map(|entry| trace(&entry.payload)).collect()
}

/// Of the leader's own clients and of a follower's alike. Until the level has risen a traced request runs all the same, untraced.
#[test]
fn a_trace_goes_into_every_log_once_all_understand_it() {
    let mut cluster = cluster([LEVEL, LEVEL, LEVEL_FIRST]);
    let leader = elect_one_of(&mut cluster, LEVEL, [LEVEL, LEVEL, LEVEL_FIRST]);
    let follower = 3 - leader;
    let trace = |number: u64| {
        let span_id = NonZeroU64::new(number).unwrap();
        TraceContext::new(span_id.into(), span_id)
    };
    let put = |cluster: &mut Cluster, id, number| {
        let written = cluster.request_traced(id, LONG_MS, common::put("a", "1"), Some(trace(number)));
        cluster.settle();
        assert!(matches!(cluster.end_of(written), End::Answered(Answer::Put(_))));
    };
    put(&mut cluster, leader, 1);
    put(&mut cluster, follower, 2);
    cluster.restart_with(3, LEVEL);
    cluster.until("the level to rise", raised);
    assert!((1..=3).all(|id| traces(&cluster, id).is_empty()));
    put(&mut cluster, leader, 3);
    put(&mut cluster, follower, 4);
    cluster.pass(LONG_MS);
    for id in 1..=3 {
        assert_eq!(traces(&cluster, id), [trace(3), trace(4)], "server {id}");
    }
}

fn introduction(id: u64) -> Introduction {
    let (peer_address, client_address) = (format!("host-{id}:7001"), format!("host-{id}:7000"));
    Introduction { node_id: NodeId(id), peer_address, client_address, replaces: None }
}

#[test]
fn a_learner_counts_too() {
    let mut cluster = cluster([LEVEL, LEVEL, LEVEL_FIRST]);
    let leader = elect_one_of(&mut cluster, LEVEL, [LEVEL, LEVEL, LEVEL_FIRST]);
    let added = cluster.request(leader, LONG_MS, RequestKind::AddMember(introduction(4)));
    cluster.settle();
    assert_eq!(*cluster.end_of(added), End::Answered(Answer::Done));
    // It is a learner, and has not come yet.
    cluster.restart_with(3, LEVEL);
    cluster.pass(LONG_MS);
    assert_eq!(levels(&cluster), [LEVEL_FIRST; 3]);
    cluster.join_with(4, LEVEL_FIRST);
    cluster.pass(LONG_MS);
    assert_eq!(levels(&cluster), [LEVEL_FIRST; 4]);
    cluster.restart_with(4, LEVEL);
    cluster.until("the level to rise", raised);
}

#[test]
fn a_program_that_is_too_old_is_refused_once_the_level_has_risen() {
    let mut cluster = cluster([LEVEL; 3]);
    let leader = cluster.elect();
    // No member, and connected while the level rises.
    let stranger = Event::PeerConnected { member: member(9), level: LEVEL_FIRST };
    cluster.event(leader, stranger);
    cluster.until("the level to rise", raised);
    let refused = cluster.nodes[&leader].refused.clone();
    let [(NodeId(9), reason)] = &refused[..] else { panic!("{refused:?}") };
    assert!(
        reason.contains(&format!("understands feature level 1, and the cluster's is {LEVEL}")),
        "{reason}"
    );
    assert!(reason.contains("start the newer version"), "{reason}");
    for id in 1..=3 {
        let old = id % 3 + 1;
        cluster.event(id, Event::PeerConnected { member: member(old), level: LEVEL_FIRST });
        cluster.settle();
        assert_eq!(cluster.nodes[&id].refused.last().unwrap().0, NodeId(old), "by server {id}");
        assert!(!cluster.nodes[&id].replica.status().connected.contains(&NodeId(old)));
    }
}

/// Whoever goes back to the old program at the last moment, when the raise is in the leader's log and no further.
#[test]
fn a_raise_that_is_on_its_way_is_sent_to_no_program_that_is_too_old() {
    let mut cluster = cluster([LEVEL, LEVEL, LEVEL_FIRST]);
    let leader = elect_one_of(&mut cluster, LEVEL, [LEVEL, LEVEL, LEVEL_FIRST]);
    cluster.pass(1_000);
    let other = 3 - leader;
    // The raise gets to nobody for now.
    cluster.isolate(3);
    cluster.nodes.get_mut(&other).unwrap().slow_disk = true;
    cluster.event(leader, Event::PeerLost(NodeId(3)));
    cluster.event(leader, Event::PeerConnected { member: member(3), level: LEVEL });
    cluster.pass(200);
    assert_eq!((raises(&cluster, leader), raises(&cluster, 3)), (1, 0));
    assert_eq!(cluster.nodes[&leader].replica.status().level, LEVEL_FIRST);

    cluster.event(leader, Event::PeerLost(NodeId(3)));
    // First its messages are let through, then it says who it is: nobody knows yet what it understands.
    cluster.cut.clear();
    cluster.pass(200);
    assert_eq!(raises(&cluster, 3), 0, "who has not said what it understands gets nothing that it may not");
    cluster.connect(leader, 3);
    cluster.pass(200);
    assert_eq!(raises(&cluster, 3), 0);
    let (peer, reason) = cluster.nodes[&leader].refused.last().expect("it is refused").clone();
    assert_eq!(peer, NodeId(3));
    assert!(reason.contains(&format!("the cluster's is {LEVEL}")), "{reason}");
    cluster.nodes.get_mut(&other).unwrap().slow_disk = false;
    cluster.sync(other);
    cluster.restart_with(3, LEVEL);
    cluster.until("the level to rise", raised);
}

#[test]
fn a_command_beyond_the_level_is_not_taken_from_another_server() {
    let levels_ = [LEVEL, LEVEL, LEVEL_FIRST];
    let mut cluster = cluster(levels_);
    let leader = elect_one_of(&mut cluster, LEVEL, levels_);
    let command = Command { stamped_time_ms: None, trace: None, body: Body::RaiseLevel(LEVEL) }.encode();
    let forward = PeerMessage::Forward(Forward { sequence: 1 << 60, timeout_ms: LONG_MS, command });
    let mut batch = PeerBatch::default();
    batch.messages.push(forward);
    cluster.event(leader, Event::Peer { from: NodeId(3), batch });
    let now = cluster.now;
    let effects = cluster.nodes.get_mut(&leader).unwrap().replica.take_effects(now);
    let replies: Vec<_> = effects
        .into_iter()
        .filter_map(|effect| match effect {
            raftmap_replica::Effect::Send { batch, .. } => Some(batch.messages),
            _ => None,
        })
        .flatten()
        .filter_map(|message| match message {
            PeerMessage::ForwardReply(ForwardReply { result, .. }) => Some(result),
            _ => None,
        })
        .collect();
    let [Err(failure)] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!(failure.reason, Reason::Unsupported);
    assert_eq!(raises(&cluster, leader), 0);
}
