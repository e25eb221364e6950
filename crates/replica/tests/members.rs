//! Members come, move and go, and who must not take part is refused.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod common;

use common::{Cluster, ELECTION_TICKS, End, TICK_MS, connected, member};
use raftmap_raft::{ChangeRefusal, Ctx, Membership, NodeId};
use raftmap_replica::{Event, Reason, RequestKind};
use raftmap_state::{Answer, Introduction, Member};

fn others(cluster: &Cluster, leader: u64) -> Vec<u64> {
    cluster.nodes.keys().copied().filter(|id| *id != leader).collect()
}

fn add(cluster: &mut Cluster, at: u64, introduction: Introduction) -> Ctx {
    cluster.request(at, 10_000, RequestKind::AddMember(introduction))
}

fn remove(cluster: &mut Cluster, at: u64, id: u64) -> Ctx {
    cluster.request(at, 10_000, RequestKind::RemoveMember(NodeId(id)))
}

fn introduction(id: u64, replaces: Option<u64>) -> Introduction {
    let (peer_address, client_address) = (format!("host-{id}:7001"), format!("host-{id}:7000"));
    Introduction { node_id: NodeId(id), peer_address, client_address, replaces: replaces.map(NodeId) }
}

#[test]
fn members_are_recorded_and_a_wiped_one_is_refused() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.until("all are recorded", |cluster| {
        cluster.nodes.values().all(|server| server.worker.view().members.len() == 3)
    });
    let wiped = others(&cluster, leader)[0];
    for id in others(&cluster, wiped) {
        cluster.event(id, connected(Member { incarnation: 1, ..member(wiped) }));
        cluster.settle();
        let refused = &cluster.nodes[&id].refused;
        assert_eq!(refused.len(), 1);
        assert!(refused[0].0 == NodeId(wiped) && refused[0].1.contains("wiped"), "{refused:?}");
    }
    let stranger = Member { founding_hash: 8, ..member(wiped) };
    cluster.event(leader, connected(stranger));
    cluster.settle();
    assert!(cluster.nodes[&leader].refused[1].1.contains("founded"), "{:?}", cluster.nodes[&leader].refused);
}

#[test]
fn members_go_at_the_leader_and_the_request_ends_when_they_are_none() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let [other, out]: [u64; 2] = (1..=3).filter(|id| *id != leader).collect::<Vec<_>>().try_into().unwrap();
    let elsewhere = cluster.request(other, 10_000, RequestKind::RemoveMember(NodeId(out)));
    let stranger = cluster.request(leader, 10_000, RequestKind::RemoveMember(NodeId(9)));
    let changed = cluster.request(leader, 10_000, RequestKind::RemoveMember(NodeId(out)));
    cluster.settle();
    assert_eq!(cluster.failure_of(elsewhere).reason, Reason::NoLeader);
    assert_eq!(cluster.failure_of(stranger).reason, Reason::NotAMember { id: NodeId(9) });
    assert_eq!(*cluster.end_of(changed), End::Answered(Answer::Done));
    for id in [leader, other, out] {
        let status = cluster.nodes[&id].replica.status();
        assert_eq!(status.membership.voters.len(), 2, "server {id}: {:?}", status.membership);
        let membership = cluster.nodes[&id].worker.machine().membership();
        assert!(membership.is_some_and(|(_, membership)| !membership.is_joint()), "server {id}");
    }
    let stopped = cluster.nodes[&out].stopped.clone().expect("who is removed ends, and says why");
    assert!(stopped.contains("was removed"), "{stopped}");
    let again = cluster.request(leader, 10_000, RequestKind::AddMember(introduction(out, None)));
    cluster.settle();
    assert_eq!(cluster.failure_of(again).reason, Reason::MemberRemoved { id: NodeId(out) });
}

#[test]
fn who_comes_is_a_learner_first_and_takes_the_place_of_another_once_it_has_caught_up() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let out = (1..=3).find(|id| *id != leader).unwrap();
    let nobody = cluster.request(leader, 10_000, RequestKind::AddMember(introduction(4, Some(9))));
    let added = cluster.request(leader, 10_000, RequestKind::AddMember(introduction(4, Some(out))));
    cluster.settle();
    assert_eq!(cluster.failure_of(nobody).reason, Reason::NotAMember { id: NodeId(9) });
    assert_eq!(*cluster.end_of(added), End::Answered(Answer::Done));
    let membership = |cluster: &Cluster| cluster.nodes[&leader].replica.status().membership;
    assert_eq!(membership(&cluster).learners, [NodeId(4)].into(), "it is not there yet");

    cluster.join(4);
    cluster.until("it votes", |cluster| membership(cluster).is_voter(NodeId(4)));
    cluster.settle();
    let voters = (1..=4).filter(|id| *id != out).map(NodeId).collect();
    assert_eq!(membership(&cluster), Membership { voters, ..Membership::default() });
    assert!(cluster.nodes[&out].stopped.is_some(), "whose place was taken ends");
    assert_eq!(cluster.nodes[&4].located, [introduction(4, Some(out))]);
    let known = cluster.nodes[&4].worker.view();
    assert!(known.members.iter().any(|member| member.node_id == NodeId(4)), "{:?}", known.members);
}

#[test]
fn of_a_member_only_its_addresses_change() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let before = cluster.nodes[&leader].replica.status().membership;
    let moved = cluster.request(leader, 10_000, RequestKind::AddMember(introduction(2, None)));
    cluster.settle();
    assert_eq!(*cluster.end_of(moved), End::Answered(Answer::Done));
    for (id, node) in &cluster.nodes {
        assert_eq!(node.worker.view().introductions, [introduction(2, None)], "server {id}");
        assert_eq!(node.replica.status().membership, before, "server {id}");
    }
}

#[test]
fn what_a_refused_server_had_sent_is_not_taken_in() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let [wiped, away]: [u64; 2] = others(&cluster, leader).try_into().unwrap();
    cluster.until("all are recorded", |cluster| {
        cluster.nodes.values().all(|server| server.worker.view().members.len() == 3)
    });
    cluster.isolate(away);
    cluster.event(leader, connected(Member { incarnation: 1, ..member(wiped) }));
    let put = cluster.put(leader, "a", "1");
    cluster.settle();
    assert!(!cluster.ended.contains_key(&put), "a server that is refused makes no quorum");
    cluster.connect(leader, wiped);
    cluster.until("the write is answered", |cluster| cluster.ended.contains_key(&put));
    assert!(matches!(cluster.end_of(put), End::Answered(_)));
}

/// The ids of another founding are other servers: nobody of them was ever removed here.
#[test]
fn a_server_of_another_founding_is_told_so_even_if_its_id_was_removed() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let out = others(&cluster, leader)[0];
    remove(&mut cluster, leader, out);
    cluster.settle();
    cluster.event(leader, connected(Member { founding_hash: 8, ..member(out) }));
    cluster.settle();
    let refused = cluster.nodes[&leader].refused.last().unwrap();
    assert!(refused.1.contains("founded with other members"), "{refused:?}");
}

#[test]
fn a_change_that_is_refused_leaves_nothing_in_the_log() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for id in others(&cluster, leader) {
        cluster.event(leader, Event::PeerLost(NodeId(id)));
    }
    let before = cluster.nodes[&leader].replica.status().raft.last;
    let added = add(&mut cluster, leader, introduction(4, None));
    cluster.settle();
    let refusal = ChangeRefusal::NoQuorum { fit: 1, voters: 3 };
    assert_eq!(cluster.failure_of(added).reason, Reason::Members(refusal));
    assert_eq!(cluster.nodes[&leader].replica.status().raft.last, before);
}

#[test]
fn who_votes_takes_nobodys_place_but_may_ask_twice() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let [one, other]: [u64; 2] = others(&cluster, leader).try_into().unwrap();
    let late = add(&mut cluster, leader, introduction(one, Some(other)));
    cluster.settle();
    assert_eq!(cluster.failure_of(late).reason, Reason::VotesAlready { id: NodeId(one) });

    add(&mut cluster, leader, introduction(4, Some(other)));
    cluster.join(4);
    cluster.until("it has taken the place", |cluster| cluster.nodes[&other].stopped.is_some());
    let again = add(&mut cluster, leader, introduction(4, Some(other)));
    cluster.settle();
    assert_eq!(*cluster.end_of(again), End::Answered(Answer::Done));
}

/// Whoever asks for the same server twice may have forgotten what it said of its place; the cluster has not.
#[test]
fn a_learner_that_moves_still_takes_the_place_that_it_was_to_take() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let out = others(&cluster, leader)[0];
    add(&mut cluster, leader, introduction(4, Some(out)));
    cluster.settle();
    add(&mut cluster, leader, introduction(4, None));
    cluster.join(4);
    cluster.until("whose place was taken ends", |cluster| cluster.nodes[&out].stopped.is_some());
    assert!(cluster.nodes[&leader].replica.status().membership.is_voter(NodeId(4)));
}

/// However short the log is: a server whose disk has taken nothing yet has not caught up.
#[test]
fn a_learner_votes_only_once_its_disk_has_taken_something() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    add(&mut cluster, leader, introduction(4, None));
    cluster.join(4);
    cluster.nodes.get_mut(&4).unwrap().slow_disk = true;
    cluster.pass(2_000);
    let membership = |cluster: &Cluster| cluster.nodes[&leader].replica.status().membership;
    assert_eq!(membership(&cluster).learners, [NodeId(4)].into());
    cluster.nodes.get_mut(&4).unwrap().slow_disk = false;
    cluster.sync(4);
    cluster.until("it votes", |cluster| membership(cluster).is_voter(NodeId(4)));
}

/// Dissertation, 4.2.2, and SCENARIOS 33.
#[test]
fn a_leader_that_is_removed_hands_over_before_it_ends() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let removed_ms = cluster.now.monotonic_ms;
    remove(&mut cluster, leader, leader);
    cluster.until("it ends", |cluster| cluster.nodes[&leader].stopped.is_some());
    let successor = cluster.leader().unwrap();
    assert_ne!(successor, leader, "another one leads by then");
    let election_ms = u64::from(ELECTION_TICKS) * TICK_MS;
    assert!(cluster.now.monotonic_ms - removed_ms < election_ms, "nobody waited for an election");
    let put = cluster.put(successor, "a", "1");
    cluster.settle();
    assert!(matches!(cluster.end_of(put), End::Answered(_)));
}
