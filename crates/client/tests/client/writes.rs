//! Retries of writes: applied once, and honest about what is not known.

use std::sync::Arc;

use raftmap_client::{Code, Error};
use raftmap_proto::v1::failure::Outcome;
use raftmap_proto::v1::{Failure, SessionTag};

use crate::server::{Act, Incoming, Received, Server};
use crate::world::{failure, not_applied, tag_of};
use crate::{SHORT, TestCluster, eventually};

fn tags(server: &Server) -> Vec<SessionTag> {
    server.received().iter().filter_map(|Received { request, .. }| tag_of(request).cloned()).collect()
}

fn refuse_all(server: &Server, failure: &Failure) {
    let failure = failure.clone();
    server.script(move |incoming| match incoming {
        Incoming::Request => Act::Fail(failure.clone()),
        _ => Act::Apply,
    });
}

/// Scenario 45: a retry after failover applies twice. Also item 7 of the first issue: the answer was lost.
#[tokio::test]
async fn a_write_whose_answer_was_lost_is_repeated_with_its_tag_and_applied_once() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    cluster.servers[0].script_requests([Act::ApplyAndCut]);
    let written = client.put("k", "v").await.unwrap();
    assert_eq!(cluster.puts("k"), 1);
    assert_eq!(written.revision, client.get("k").await.unwrap().unwrap().revision);
    let (first, second) = (tags(&cluster.servers[0]), tags(&cluster.servers[1]));
    assert_eq!(first.len(), 1);
    assert_eq!(first, second);
}

#[tokio::test]
async fn a_write_that_no_answer_comes_for_is_repeated_with_its_tag_elsewhere() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.builder().attempt_timeout(SHORT).connect().await.unwrap();
    client.put("first", "opens the session").await.unwrap();
    cluster.servers[0].script_requests([Act::ApplyAndIgnore]);
    client.put("k", "v").await.unwrap();
    assert_eq!(cluster.puts("k"), 1);
    let ignored = tags(&cluster.servers[0]).pop().unwrap();
    let repeated = tags(&cluster.servers[1]).pop().unwrap();
    assert_eq!(
        (ignored.session_id, ignored.sequence),
        (repeated.session_id, repeated.sequence),
        "the repetition is another write"
    );
}

#[tokio::test]
async fn an_overloaded_leader_is_asked_again() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    let busy = Failure { retry_after_ms: 5, ..not_applied(Code::OVERLOADED) };
    cluster.servers[0].script_requests([Act::Fail(busy.clone()), Act::Fail(busy)]);
    client.put("k", "v").await.unwrap();
    let tags = tags(&cluster.servers[0]);
    assert_eq!(tags.len(), 3);
    assert!(tags.iter().all(|tag| *tag == tags[0]));
    assert!(cluster.servers[1].received().is_empty());
}

#[tokio::test]
async fn a_hint_leads_to_the_leader() {
    let cluster = TestCluster::start(3).await;
    let client = cluster.client().await;
    let hint = Failure { leader: cluster.servers[2].address(), ..not_applied(Code::NO_LEADER) };
    cluster.servers[0].script_requests([Act::Fail(hint)]);
    client.put("k", "v").await.unwrap();
    assert_eq!(tags(&cluster.servers[0]), tags(&cluster.servers[2]));
    assert!(cluster.servers[1].received().is_empty());
}

#[tokio::test]
async fn a_write_that_every_server_refuses_is_not_applied() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    for server in &cluster.servers {
        refuse_all(server, &not_applied(Code::NO_QUORUM));
    }
    let error = client.put("k", "v").timeout(SHORT).await.unwrap_err();
    let Error::NotApplied(cause) = &error else { panic!("{error}") };
    assert_eq!(cause.code, Some(Code::NO_QUORUM));
    assert!(cause.attempts > 1, "{error}");
}

#[tokio::test]
async fn a_write_of_which_one_attempt_was_lost_has_an_unknown_outcome() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    cluster.servers[0].script(|incoming| match incoming {
        Incoming::Request => Act::Cut,
        _ => Act::Apply,
    });
    let certain = [Code::NO_LEADER, Code::NO_LEADER, Code::INVALID].map(|code| Act::Fail(not_applied(code)));
    cluster.servers[1].script_requests(certain);
    let error = client.put("k", "v").await.unwrap_err();
    let Error::OutcomeUnknown(cause) = &error else { panic!("{error}") };
    assert_eq!(cause.code, Some(Code::INVALID));
}

#[tokio::test]
async fn a_write_of_which_the_server_does_not_know_the_outcome_has_an_unknown_outcome() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    let lost = failure(Code::LEADERSHIP_LOST, Outcome::UNKNOWN);
    cluster.servers[0].script_requests([Act::Fail(lost), Act::Fail(not_applied(Code::INVALID))]);
    let error = client.put("k", "v").await.unwrap_err();
    let Error::OutcomeUnknown(cause) = &error else { panic!("{error}") };
    assert_eq!((cause.code, cause.attempts), (Some(Code::INVALID), 2));
}

#[tokio::test]
async fn a_write_to_servers_that_are_gone_is_not_applied() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    client.put("first", "opens the session").await.unwrap();
    for server in &cluster.servers {
        server.stop().await;
    }
    let error = client.put("k", "v").timeout(SHORT).await.unwrap_err();
    let Error::NotApplied(cause) = &error else { panic!("{error}") };
    assert!(cause.code.is_none() && cause.reason.contains("connect"), "{error}");
}

#[tokio::test]
async fn a_wrong_request_fails_at_once_and_says_which_field_and_limit() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    let wrong =
        Failure { field: "entries[0].value".to_owned(), limit: 1 << 20, ..not_applied(Code::TOO_LARGE) };
    refuse_all(&cluster.servers[0], &wrong);
    for size in [1, 1 << 20] {
        let error = client.put("k", vec![0; size]).await.unwrap_err();
        let Error::NotApplied(cause) = &error else { panic!("{error}") };
        assert_eq!(cause.code, Some(Code::TOO_LARGE));
        assert_eq!((cause.field.as_str(), cause.limit, cause.attempts), ("entries[0].value", 1 << 20, 1));
    }
    assert!(cluster.servers[1].received().is_empty());
}

#[tokio::test]
async fn a_forgotten_session_is_replaced_and_the_write_applied() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    client.put("k", "1").await.unwrap();
    cluster.world().sessions.clear();
    client.put("k", "2").await.unwrap();
    assert_eq!(cluster.puts("k"), 2);
    assert_eq!(cluster.world().sessions_opened, 2);
}

/// Scenario 45, the other half: the session that would know the first attempt is gone.
#[tokio::test]
async fn a_write_that_may_have_been_applied_in_a_forgotten_session_is_not_repeated() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    let world = Arc::clone(&cluster.world);
    cluster.servers[0].script(move |incoming| match incoming {
        Incoming::Request => {
            world.lock().unwrap().sessions.clear();
            Act::Cut
        }
        _ => Act::Apply,
    });
    let error = client.put("k", "v").await.unwrap_err();
    let Error::OutcomeUnknown(cause) = &error else { panic!("{error}") };
    assert_eq!(cause.code, Some(Code::SESSION_UNKNOWN));
    assert_eq!(cluster.puts("k"), 0);
    cluster.servers[0].script(|_| Act::Apply);
    client.put("k", "v").await.unwrap();
    assert_eq!(cluster.puts("k"), 1, "the next write has a session");
}

#[tokio::test]
async fn answers_are_acknowledged_as_they_come() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    for sequence in 1..=5 {
        client.put("k", "v").await.unwrap();
        let tag = tags(&cluster.servers[0]).pop().unwrap();
        assert_eq!((tag.sequence, tag.acknowledged_below), (sequence, sequence));
    }
    assert_eq!(cluster.world().kept(), [5].into());
}

#[tokio::test]
async fn a_write_that_is_not_answered_is_not_acknowledged_by_those_after_it() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    cluster.servers[0].script_requests([Act::Hold]);
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.put("held", "v").await }
    });
    eventually("the first write", || !cluster.servers[0].received().is_empty()).await;
    client.put("k", "v").await.unwrap();
    client.put("k", "v").await.unwrap();
    assert!(tags(&cluster.servers[0]).iter().all(|tag| tag.acknowledged_below == 1));
    cluster.servers[0].release();
    held.await.unwrap().unwrap();
    client.put("k", "v").await.unwrap();
    assert_eq!(tags(&cluster.servers[0]).pop().unwrap().acknowledged_below, 4);
}

#[tokio::test]
async fn a_write_that_its_caller_dropped_is_acknowledged() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    cluster.servers[0].script_requests([Act::Ignore]);
    let dropped = tokio::spawn({
        let client = client.clone();
        async move { client.put("dropped", "v").await }
    });
    eventually("the first write", || !cluster.servers[0].received().is_empty()).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    client.put("k", "v").await.unwrap();
    assert_eq!(tags(&cluster.servers[0]).pop().unwrap().acknowledged_below, 2);
}

/// The world counts a write that is too far ahead of an unacknowledged one as a breach.
#[tokio::test]
async fn no_write_is_further_ahead_of_a_slow_one_than_the_session_allows() {
    let cluster = TestCluster::start(1).await;
    cluster.world().max_in_flight = 4;
    let client = cluster.client().await;
    cluster.servers[0].script_requests([Act::Hold]);
    let mut writes = tokio::task::JoinSet::new();
    for n in 0..50 {
        let client = client.clone();
        writes.spawn(async move { client.put(format!("k{n}"), "v").await });
    }
    eventually("those that may pass", || cluster.world().puts.len() == 3).await;
    cluster.servers[0].release();
    for written in writes.join_all().await {
        written.unwrap();
    }
    assert_eq!(cluster.world().puts.len(), 50);
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_with_an_unknown_outcome_if_it_was_sent() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    cluster.servers[0].script_requests([Act::Ignore, Act::Ignore]);
    let error = client.put("k", "v").timeout(SHORT).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    assert_eq!(error.cause().code, Some(Code::DEADLINE));
    let told = cluster.servers[0].received()[0].timeout_ms;
    assert!((1..1500).contains(&told), "the server was told {told} ms");
    let error = client.get("k").timeout(SHORT).await.unwrap_err();
    assert!(matches!(error, Error::NotApplied(_)), "a read changes nothing: {error}");
}

#[tokio::test]
async fn a_session_that_cannot_be_opened_leaves_the_write_not_applied() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    for server in &cluster.servers {
        server.script(|incoming| match incoming {
            Incoming::OpenSession => Act::Cut,
            _ => Act::Apply,
        });
    }
    let error = client.put("k", "v").timeout(SHORT).await.unwrap_err();
    assert!(matches!(error, Error::NotApplied(_)), "{error}");
    assert_eq!(cluster.puts("k"), 0);
}

#[tokio::test]
async fn a_large_write_travels_alone_and_is_repeated_like_any_other() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    cluster.servers[0].script_requests([Act::ApplyAndCut]);
    client.put("large", vec![7; 1 << 20]).await.unwrap();
    assert_eq!(cluster.puts("large"), 1);
    assert_eq!(tags(&cluster.servers[0]), tags(&cluster.servers[1]));
    client.put("small", "v").await.unwrap();
    let all: Vec<Received> = cluster.servers.iter().flat_map(Server::received).collect();
    let in_stream: Vec<bool> = all.iter().map(|received| received.in_stream).collect();
    assert_eq!(in_stream.iter().filter(|in_stream| **in_stream).count(), 1);
}
