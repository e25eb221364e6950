//! Calls that share a stream.

use raftmap_client::{Code, Error};
use tokio::task::JoinSet;

use crate::server::{Act, Incoming};
use crate::world::{not_applied, tag_of};
use crate::{SHORT, TestCluster, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_at_once_share_one_stream_and_all_end() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    let mut calls = JoinSet::new();
    for n in 0..5000 {
        let key = format!("k{n}");
        let writer = client.clone();
        calls.spawn(async move { writer.put(key.clone(), key).await.map(drop) });
        let reader = client.clone();
        calls.spawn(async move { reader.get(format!("k{n}")).await.map(drop) });
    }
    for ended in calls.join_all().await {
        ended.unwrap();
    }
    assert_eq!(cluster.world().puts.len(), 5000);
    let batches = cluster.servers[0].batches();
    assert_eq!(batches.iter().sum::<usize>(), 10_000);
    assert!(batches.len() < 5000, "{} messages for 10,000 requests", batches.len());
    assert_eq!(cluster.servers[0].streams(), 1);
}

#[tokio::test]
async fn what_waits_travels_in_one_message() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    client.get("k").await.unwrap();
    // On one thread, all are queued before the stream's task runs.
    let calls: Vec<_> = (0..100).map(|_| client.get("k")).map(IntoFuture::into_future).collect();
    for got in futures::future::join_all(calls).await {
        assert_eq!(got.unwrap(), None);
    }
    assert_eq!(cluster.servers[0].batches(), [1, 100]);
}

#[tokio::test]
async fn a_lost_stream_loses_no_call() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    client.put("first", "opens the session").await.unwrap();
    cluster.servers[0].script(|incoming| match incoming {
        Incoming::Request => Act::ApplyAndIgnore,
        _ => Act::Apply,
    });
    let mut calls = JoinSet::new();
    for n in 0..100 {
        let client = client.clone();
        calls.spawn(async move { client.put(format!("k{n}"), "v").await });
    }
    eventually("all requests", || cluster.servers[0].received().len() == 101).await;
    cluster.servers[0].cut();
    for written in calls.join_all().await {
        written.unwrap();
    }
    assert!((0..100).all(|n| cluster.puts(&format!("k{n}")) == 1));
    let sequences = |server: usize| {
        let mut sequences: Vec<u64> = cluster.servers[server]
            .received()
            .iter()
            .filter_map(|received| tag_of(&received.request).map(|tag| tag.sequence))
            .collect();
        sequences.sort_unstable();
        sequences
    };
    assert_eq!(sequences(0)[1..], sequences(1), "the same writes, each once");
}

#[tokio::test]
async fn a_read_is_repeated_elsewhere() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    client.put("k", "v").await.unwrap();
    cluster.servers[0].script_requests([Act::Cut]);
    assert_eq!(client.get("k").await.unwrap().unwrap().value, "v");
}

#[tokio::test]
async fn a_stream_that_broke_is_opened_again() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    client.put("k", "1").await.unwrap();
    cluster.servers[0].cut();
    client.put("k", "2").await.unwrap();
    assert_eq!(client.get("k").await.unwrap().unwrap().value, "2");
    assert_eq!(cluster.puts("k"), 2);
}

#[tokio::test]
async fn a_stream_takes_a_bounded_number_of_requests_without_an_answer() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    cluster.servers[0].script(|incoming| match incoming {
        Incoming::Request => Act::Hold,
        _ => Act::Apply,
    });
    let mut calls = JoinSet::new();
    for _ in 0..6000 {
        let client = client.clone();
        calls.spawn(async move { client.get("k").await.map(drop) });
    }
    eventually("a full stream", || cluster.servers[0].received().len() >= 4096).await;
    // What would come in excess of it comes while these calls go to and fro on the same connection.
    for _ in 0..50 {
        client.status().await.unwrap();
    }
    assert_eq!(cluster.servers[0].received().len(), 4096);
    cluster.servers[0].release();
    for ended in calls.join_all().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_its_caller_dropped_while_it_waited_is_not_sent() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    client.get("opens the stream").await.unwrap();
    // On one thread, the stream's task does not run between the two.
    let mut dropped = client.get("dropped").into_future();
    assert!(futures::poll!(&mut dropped).is_pending());
    drop(dropped);
    client.get("kept").await.unwrap();
    assert_eq!(cluster.servers[0].batches(), [1, 1]);
}

#[tokio::test]
async fn a_slow_answer_holds_back_no_other() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    cluster.servers[0].script_requests([Act::Hold]);
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.get("slow").await }
    });
    eventually("the slow request", || !cluster.servers[0].received().is_empty()).await;
    client.put("k", "v").await.unwrap();
    assert!(!slow.is_finished());
    cluster.servers[0].release();
    slow.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_read_that_all_refuse_ends_with_what_they_said() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    for server in &cluster.servers {
        server.script(|incoming| match incoming {
            Incoming::Request => Act::Fail(not_applied(Code::NO_QUORUM)),
            _ => Act::Apply,
        });
    }
    let error = client.get("k").timeout(SHORT).await.unwrap_err();
    assert!(matches!(error, Error::NotApplied(_)));
    assert_eq!(error.cause().code, Some(Code::NO_QUORUM));
}
