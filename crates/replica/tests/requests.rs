//! What becomes of requests, whatever happens to the servers.

mod common;

use bytes::Bytes;
use common::{Cluster, ELECTION_TICKS, End, HEARTBEAT_TICKS, TICK_MS, put, put_for};
use raftmap_raft::{Config, LogIndex, NodeId, Outcome, Term};
use raftmap_replica::{
    Effect, Event, Forward, ForwardReply, Notice, Now, PeerBatch, PeerMessage, Reason, ReplicaConfig,
    RequestKind,
};
use raftmap_state::{Answer, Delete, PutAnswer, WriteRequest};

fn read_value(cluster: &Cluster, ctx: raftmap_raft::Ctx) -> Option<&[u8]> {
    match cluster.end_of(ctx) {
        End::Read(value) => value.as_deref(),
        other => panic!("not read: {other:?}"),
    }
}

fn others(cluster: &Cluster, leader: u64) -> Vec<u64> {
    cluster.nodes.keys().copied().filter(|id| *id != leader).collect()
}

#[test]
fn a_write_is_answered_and_seen_by_a_read_at_any_server() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let write = cluster.put(leader, "k", "v");
    cluster.settle();
    assert!(matches!(cluster.end_of(write), End::Answered(Answer::Put(_))));
    for id in 1..=3 {
        let read = cluster.read(id, "k");
        cluster.settle();
        cluster.until("the read is answered", |cluster| cluster.ended.contains_key(&read));
        assert_eq!(read_value(&cluster, read), Some(&b"v"[..]), "at server {id}");
    }
}

/// An idle server need not be awake at every tick: a leader is at its heartbeats, a follower when it has heard of none.
#[test]
fn ticks_are_quiet_where_nothing_waits() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.pass(3_000);
    let quiet = |cluster: &Cluster, id: u64| cluster.nodes[&id].replica.quiet_ticks();
    assert!((1..HEARTBEAT_TICKS).contains(&quiet(&cluster, leader)), "{}", quiet(&cluster, leader));
    for follower in others(&cluster, leader) {
        let quiet = quiet(&cluster, follower);
        assert!(quiet >= ELECTION_TICKS - HEARTBEAT_TICKS, "{quiet}");
        // A deadline is looked at every tick.
        cluster.isolate(follower);
        cluster.put(follower, "k", "v");
        assert_eq!(cluster.nodes[&follower].replica.quiet_ticks(), 0);
    }
}

#[test]
fn a_follower_passes_a_write_on_and_gets_the_answer() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = others(&cluster, leader)[0];
    let write = cluster.put(follower, "k", "v");
    cluster.settle();
    let End::Answered(Answer::Put(answer)) = cluster.end_of(write) else { panic!("not answered") };
    let log = &cluster.nodes[&leader].log;
    assert_eq!(Some(answer.revision), log.last().map(|entry| entry.index));
}

#[test]
fn a_command_that_is_passed_on_twice_by_the_network_is_applied_once() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = others(&cluster, leader)[0];
    cluster.put(follower, "k", "v");
    let now = cluster.now;
    let effects = cluster.nodes.get_mut(&follower).unwrap().replica.take_effects(now);
    let forward = effects.into_iter().find_map(|effect| match effect {
        Effect::Send { batch, .. } => Some(batch),
        _ => None,
    });
    let batch = forward.unwrap();
    assert!(batch.messages.iter().any(|message| matches!(message, PeerMessage::Forward(_))));
    let before = cluster.nodes[&leader].log.len();
    for _ in 0..2 {
        cluster.event(leader, Event::Peer { from: NodeId(follower), batch: batch.clone() });
    }
    cluster.settle();
    assert_eq!(cluster.nodes[&leader].log.len(), before + 1);
}

#[test]
fn a_command_is_passed_on_at_most_once() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let (a, b) = (others(&cluster, leader)[0], others(&cluster, leader)[1]);
    let write = cluster.put(a, "k", "v");
    let now = cluster.now;
    for effect in cluster.nodes.get_mut(&a).unwrap().replica.take_effects(now) {
        if let Effect::Send { batch, .. } = effect {
            cluster.wire.push_back((NodeId(a), NodeId(b), batch));
        }
    }
    cluster.settle();
    let sent_on = cluster.nodes[&leader].log.iter().filter(|entry| entry.index.0 > 4).count();
    assert_eq!(sent_on, 0, "a server that does not lead must not pass on what was passed to it");
    assert!(!cluster.ended.contains_key(&write), "the answer came from a server that was not asked");
}

/// A leader answers over the connection of a server's next life what an earlier one passed on.
#[test]
fn an_answer_to_an_earlier_life_answers_nothing_in_the_next() {
    let passed_on = |life: u64| {
        let mut cluster = Cluster::with(3, |mut config| {
            config.raft.seed |= life << 32;
            config
        });
        let leader = cluster.elect();
        let follower = others(&cluster, leader)[0];
        let write = cluster.put(follower, "k", "v");
        let now = cluster.now;
        let effects = cluster.nodes.get_mut(&follower).unwrap().replica.take_effects(now);
        let batch = effects.into_iter().find_map(|effect| match effect {
            Effect::Send { batch, .. } => Some(batch),
            _ => None,
        });
        (cluster, leader, follower, write, batch.unwrap())
    };
    let (_, _, _, _, earlier) = passed_on(1);
    let Some(PeerMessage::Forward(Forward { sequence, .. })) = earlier.messages.first() else {
        panic!("nothing was passed on")
    };
    let (mut cluster, leader, follower, write, batch) = passed_on(2);
    let result = Ok(Answer::Put(PutAnswer { revision: LogIndex(1), previous: Vec::new() }));
    let reply = PeerMessage::ForwardReply(ForwardReply { sequence: *sequence, result });
    let late = PeerBatch { messages: vec![reply], ..batch.clone() };
    cluster.event(follower, Event::Peer { from: NodeId(leader), batch: late });
    cluster.settle();
    assert!(!cluster.ended.contains_key(&write), "it got the answer to another write");
    cluster.event(leader, Event::Peer { from: NodeId(follower), batch });
    cluster.settle();
    assert!(matches!(cluster.end_of(write), End::Answered(_)));
}

/// Scenario 46, and the other ends that a write can come to.
#[test]
fn a_deposed_leader_fails_what_it_has_proposed_as_unknown_and_what_waits_as_not_applied() {
    let mut cluster = Cluster::with(3, |config| ReplicaConfig { batches_max: 1, ..config });
    let old = cluster.elect();
    cluster.isolate(old);
    let proposed = cluster.request(old, 60_000, put("a", "1"));
    cluster.settle();
    let queued = cluster.request(old, 60_000, put("b", "1"));
    cluster.until("both have ended", |cluster| {
        cluster.ended.contains_key(&proposed) && cluster.ended.contains_key(&queued)
    });
    assert_eq!(cluster.failure_of(proposed).outcome, Outcome::Unknown);
    assert_eq!(cluster.failure_of(proposed).reason, Reason::LeadershipLost);
    assert_eq!(cluster.failure_of(queued).outcome, Outcome::NotApplied);
}

/// Scenario 46: the leader is gone before its answer, and nothing tells so but the next leader. It is one of the two that
/// passed a write on; the other one follows it.
#[test]
fn a_write_that_was_passed_on_to_a_leader_that_is_gone_ends_as_unknown_long_before_its_deadline() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    let followers = others(&cluster, old);
    cluster.isolate(old);
    let writes: Vec<_> = followers.iter().map(|id| cluster.request(*id, 60_000, put("k", "v"))).collect();
    cluster.until("both have ended", |cluster| writes.iter().all(|write| cluster.ended.contains_key(write)));
    for write in writes {
        assert_eq!(cluster.failure_of(write).outcome, Outcome::Unknown);
        assert_eq!(cluster.failure_of(write).reason, Reason::LeadershipLost);
    }
}

#[test]
fn a_deadline_ends_a_request_with_what_is_known_of_it() {
    let mut cluster = Cluster::with(3, |config| ReplicaConfig { batches_max: 1, ..config });
    let leader = cluster.elect();
    cluster.isolate(leader);
    let proposed = cluster.request(leader, 100, put("a", "1"));
    cluster.settle();
    let queued = cluster.request(leader, 100, put("b", "1"));
    let read =
        cluster.request(leader, 100, RequestKind::Read { linearizable: true, min_revision: LogIndex(0) });
    cluster.pass(200);
    assert_eq!(cluster.failure_of(proposed).outcome, Outcome::Unknown);
    assert_eq!(cluster.failure_of(proposed).reason, Reason::Deadline);
    assert_eq!(cluster.failure_of(queued).outcome, Outcome::NotApplied);
    assert_eq!(cluster.failure_of(read).outcome, Outcome::NotApplied);
}

#[test]
fn without_a_leader_requests_wait_for_a_while_and_then_fail_with_the_reason() {
    let mut cluster = Cluster::new(3);
    for other in [2, 3] {
        cluster.event(1, Event::PeerLost(NodeId(other)));
    }
    cluster.isolate(1);
    let write = cluster.request(1, 60_000, put("k", "v"));
    cluster.pass(1_000);
    assert!(!cluster.ended.contains_key(&write), "an election may yet succeed");
    cluster.until("it has failed", |cluster| cluster.ended.contains_key(&write));
    assert_eq!(cluster.failure_of(write).reason, Reason::NoQuorum { connected: 1, voters: 3, needed: 2 });
    assert_eq!(cluster.failure_of(write).outcome, Outcome::NotApplied);
}

#[test]
fn what_waits_for_a_leader_goes_on_when_there_is_one() {
    let mut cluster = Cluster::new(3);
    let early: Vec<_> = (1..=3).map(|id| cluster.put(id, "k", "v")).collect();
    let reads: Vec<_> = (1..=3).map(|id| cluster.read(id, "k")).collect();
    cluster.elect();
    cluster.until("all have ended", |cluster| {
        early.iter().chain(&reads).all(|ctx| cluster.ended.contains_key(ctx))
    });
    for write in early {
        assert!(matches!(cluster.end_of(write), End::Answered(_)), "{:?}", cluster.end_of(write));
    }
    for read in reads {
        assert!(matches!(cluster.end_of(read), End::Read(_)), "{:?}", cluster.end_of(read));
    }
}

/// A broken connection is heard of before the election: no client is to run from server to server meanwhile.
#[test]
fn what_comes_while_the_connection_to_the_leader_is_broken_waits_for_a_while() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = others(&cluster, leader)[0];
    cluster.isolate(leader);
    cluster.event(follower, Event::PeerLost(NodeId(leader)));
    let put = cluster.put(follower, "a", "1");
    cluster.settle();
    assert!(!cluster.ended.contains_key(&put), "it waits for the next leader");
    cluster.until("the next leader answers", |cluster| cluster.ended.contains_key(&put));
    assert!(matches!(cluster.end_of(put), End::Answered(_)), "{:?}", cluster.end_of(put));

    let next = cluster.elect();
    let follower = others(&cluster, next).into_iter().find(|id| *id != leader).unwrap();
    cluster.isolate(follower);
    cluster.event(follower, Event::PeerLost(NodeId(next)));
    let put = cluster.put(follower, "a", "1");
    cluster.settle();
    assert!(!cluster.ended.contains_key(&put));
    cluster.until("it gives up", |cluster| cluster.ended.contains_key(&put));
    assert_eq!(cluster.failure_of(put).outcome, Outcome::NotApplied);
}

#[test]
fn a_server_is_ready_while_requests_are_answered_or_wait_for_the_next_leader() {
    let mut cluster = Cluster::new(3);
    let ready = |cluster: &Cluster, id: u64| cluster.nodes[&id].replica.is_ready();
    assert!((1..=3).all(|id| !ready(&cluster, id)), "nobody has led yet");
    let old = cluster.elect();
    assert!((1..=3).all(|id| ready(&cluster, id)));

    let rest = others(&cluster, old);
    cluster.isolate(old);
    for id in &rest {
        cluster.event(*id, Event::PeerLost(NodeId(old)));
    }
    cluster.until("the others have a leader", |cluster| {
        assert!(rest.iter().all(|id| ready(cluster, *id)), "what comes meanwhile waits, and is answered");
        rest.contains(&cluster.leader().unwrap_or(old))
    });
    cluster.until("it gives up", |cluster| !ready(cluster, old));
    let write = cluster.request(old, 60_000, put("k", "v"));
    cluster.pass(2 * TICK_MS);
    assert_eq!(cluster.failure_of(write).outcome, Outcome::NotApplied);
    cluster.cut.clear();
    for id in &rest {
        cluster.connect(*id, old);
    }
    cluster.until("it hears of a leader", |cluster| ready(cluster, old));

    cluster.event(old, Event::ShutDown);
    assert!(!ready(&cluster, old));
}

#[test]
fn a_read_outlives_a_change_of_leader() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    let follower = others(&cluster, old)[0];
    let write = cluster.put(old, "k", "v");
    cluster.settle();
    assert!(matches!(cluster.end_of(write), End::Answered(_)));
    cluster.isolate(old);
    let read = cluster.request_read(follower, "k", 60_000);
    cluster.until("the read is answered", |cluster| cluster.ended.contains_key(&read));
    assert_eq!(read_value(&cluster, read), Some(&b"v"[..]));
}

/// Item 4 of what must hold: no stale read from a leader that is cut off.
#[test]
fn a_leader_that_is_cut_off_answers_no_linearizable_read() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.isolate(old);
    let read = cluster.request(old, 400, RequestKind::Read { linearizable: true, min_revision: LogIndex(0) });
    cluster.pass(600);
    assert_eq!(cluster.failure_of(read).outcome, Outcome::NotApplied);
}

#[test]
fn a_stale_read_is_answered_at_once_and_one_with_a_revision_waits_for_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.pass(200);
    let follower = others(&cluster, leader)[0];
    let stale = cluster.read_with(follower, "k", false, LogIndex(0));
    cluster.settle();
    assert_eq!(read_value(&cluster, stale), None);
    let next = LogIndex(cluster.nodes[&leader].log.len() as u64 + 1);
    let ahead = cluster.read_with(follower, "k", false, next);
    cluster.settle();
    assert!(!cluster.ended.contains_key(&ahead));
    cluster.put(leader, "k", "v");
    cluster.settle();
    assert_eq!(read_value(&cluster, ahead), Some(&b"v"[..]));
    let never = cluster.read_with(follower, "k", false, next.plus(100));
    cluster.pass(10_100);
    assert!(matches!(cluster.failure_of(never).reason, Reason::Behind { .. }));
}

/// Followers that may lag have applied what was acknowledged a tick or two later, though nothing else comes.
#[test]
fn a_follower_that_may_lag_reads_what_was_written_soon() {
    let mut cluster = Cluster::with(3, |config| {
        let raft = Config { max_follower_lag: 256, ..config.raft.clone() };
        ReplicaConfig { raft, ..config }
    });
    let leader = cluster.elect();
    cluster.pass(200);
    let follower = others(&cluster, leader)[0];
    for value in ["a", "b", "c"] {
        cluster.put(leader, "k", value);
        cluster.settle();
        let written = LogIndex(cluster.nodes[&leader].log.len() as u64);
        let stale = cluster.read_with(follower, "k", false, written);
        cluster.settle();
        assert!(!cluster.ended.contains_key(&stale), "nobody has told the follower yet");
        cluster.pass(20);
        assert_eq!(read_value(&cluster, stale), Some(value.as_bytes()));
        // The round that confirms a linearizable read tells it at once.
        cluster.put(leader, "k", &value.repeat(2));
        cluster.settle();
        let read = cluster.read_with(follower, "k", true, LogIndex(0));
        cluster.settle();
        assert_eq!(read_value(&cluster, read), Some(value.repeat(2).as_bytes()));
    }
}

#[test]
fn proposals_gather_while_two_batches_are_on_their_way() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.pass(200);
    for id in 1..=3 {
        cluster.nodes.get_mut(&id).unwrap().slow_disk = true;
    }
    let before = cluster.nodes[&leader].log.len();
    let writes: Vec<_> = (0..10)
        .map(|n| {
            let write = cluster.put(leader, &format!("k{n}"), "v");
            cluster.settle();
            write
        })
        .collect();
    assert_eq!(cluster.nodes[&leader].log.len(), before + 2, "two batches of one");
    for _ in 0..4 {
        for id in 1..=3 {
            cluster.sync(id);
        }
    }
    assert_eq!(cluster.nodes[&leader].log.len(), before + 10);
    assert_eq!(cluster.nodes[&leader].unsynced.len(), 0);
    assert!(writes.iter().all(|write| matches!(cluster.end_of(*write), End::Answered(_))));
}

#[test]
fn a_full_queue_refuses_and_says_its_limit() {
    let mut cluster = Cluster::with(3, |config| ReplicaConfig { requests_max: 3, ..config });
    let leader = cluster.elect();
    cluster.isolate(leader);
    for n in 0..3 {
        cluster.put(leader, &format!("k{n}"), "v");
    }
    let refused = cluster.put(leader, "k9", "v");
    cluster.settle();
    assert_eq!(cluster.failure_of(refused).reason, Reason::Overloaded { limit: 3 });
    assert_eq!(cluster.failure_of(refused).outcome, Outcome::NotApplied);
}

#[test]
fn a_nearly_full_disk_refuses_what_grows_the_map_and_lets_deletes_in() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.event(leader, Event::Space { free_bytes: 1 << 20 });
    let refused = cluster.put(leader, "k", "v");
    let request = WriteRequest::Delete(Delete { keys: vec![Bytes::from("k")], return_previous: false });
    let delete = cluster.request(leader, 10_000, RequestKind::Write { request, session: None });
    cluster.settle();
    let expected = Reason::DiskFull { free_bytes: 1 << 20, reserve_bytes: 256 << 20 };
    assert_eq!(cluster.failure_of(refused).reason, expected);
    assert!(matches!(cluster.end_of(delete), End::Answered(_)));
    cluster.event(leader, Event::Space { free_bytes: 1 << 30 });
    let again = cluster.put(leader, "k", "v");
    cluster.settle();
    assert!(matches!(cluster.end_of(again), End::Answered(_)), "it clears by itself");
}

#[test]
fn an_idle_cluster_writes_nothing_until_something_expires() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.pass(2_000);
    let write = cluster.request(leader, 10_000, put_for("k", "v", Some(5_000)));
    cluster.settle();
    assert!(matches!(cluster.end_of(write), End::Answered(_)));
    let writes = |cluster: &Cluster| cluster.nodes.values().map(|server| server.writes).sum::<usize>();
    let before = writes(&cluster);
    cluster.pass(4_000);
    assert_eq!(writes(&cluster), before, "nothing to write");
    cluster.pass(2_000);
    assert!(writes(&cluster) > before, "a time entry");
    let read = cluster.read(leader, "k");
    cluster.settle();
    assert_eq!(read_value(&cluster, read), None);
    let after = writes(&cluster);
    cluster.pass(10_000);
    assert_eq!(writes(&cluster), after, "and nothing again");
}

#[test]
fn a_leader_with_a_wrong_clock_says_so_and_does_not_stamp_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.pass(200);
    let before = cluster.nodes[&leader].worker.view().log_time_ms;
    let jumped = Now { wall_ms: cluster.now.wall_ms + 3_600_000, ..cluster.now };
    let batches: Vec<_> = others(&cluster, leader)
        .into_iter()
        .map(|id| (id, PeerBatch { clock_ms: cluster.now.wall_ms, ..PeerBatch::default() }))
        .collect();
    let server = cluster.nodes.get_mut(&leader).unwrap();
    for (id, batch) in batches {
        server.replica.step(jumped, Event::Peer { from: NodeId(id), batch });
    }
    server.replica.step(jumped, Event::Tick);
    cluster.put(leader, "k", "v");
    cluster.settle();
    let server = &cluster.nodes[&leader];
    assert!(
        server
            .notices
            .iter()
            .any(|notice| matches!(notice, Notice::ClockDistrusted { skew_ms } if *skew_ms > 3_000_000))
    );
    let after = server.worker.view().log_time_ms;
    assert!(after - before < 60_000, "log time went from {before} to {after}");
}

#[test]
fn a_server_that_shuts_down_refuses_what_is_new_and_ends_what_is_under_way() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let before = cluster.put(leader, "a", "1");
    cluster.event(leader, Event::ShutDown);
    let after = cluster.put(leader, "b", "1");
    cluster.settle();
    assert!(matches!(cluster.end_of(before), End::Answered(_)));
    assert_eq!(cluster.failure_of(after).reason, Reason::ShuttingDown);
}

#[test]
fn a_leader_that_leads_again_does_not_wait_for_batches_that_were_replaced() {
    let mut cluster = Cluster::with(3, |config| ReplicaConfig { batches_max: 1, ..config });
    let old = cluster.elect();
    cluster.isolate(old);
    let lost: Vec<_> = (0..10).map(|n| cluster.put(old, &format!("lost{n}"), "v")).collect();
    cluster.until("the old leader has given up", |cluster| {
        lost.iter().all(|write| cluster.ended.contains_key(write))
    });
    cluster.cut.clear();
    cluster.elect();
    for _ in 0..50 {
        let leader = cluster.elect();
        if leader == old {
            break;
        }
        cluster.isolate(leader);
        cluster.until("another leader", |cluster| cluster.leader().is_some_and(|id| id != leader));
        cluster.cut.clear();
    }
    assert_eq!(cluster.elect(), old, "fifty elections");
    let write = cluster.put(old, "k", "v");
    cluster.settle();
    assert!(matches!(cluster.end_of(write), End::Answered(_)));
}

#[test]
fn a_state_machine_of_another_history_ends_the_server_once_its_log_is_whole_again() {
    for (applied_term, ends) in [(Term(0), false), (Term(9), true)] {
        let mut cluster = Cluster::new(3);
        cluster.replace_by_damaged(3, applied_term);
        for other in [1, 2] {
            cluster.connect(3, other);
        }
        cluster.elect();
        cluster.until("server 3 is whole", |cluster| !cluster.nodes[&3].replica.status().raft.damaged);
        let stopped = &cluster.nodes[&3].stopped;
        assert_eq!(
            stopped.as_ref().is_some_and(|reason| reason.contains("another history")),
            ends,
            "{stopped:?}"
        );
    }
}
