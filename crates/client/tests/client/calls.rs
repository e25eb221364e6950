//! Every kind of call, from its options to its answer.

use std::time::Duration;

use bytes::Bytes;
use raftmap_client::{Expected, Operation, Swap};
use raftmap_proto::v1::Consistency;
use raftmap_proto::v1::tagged_request::Request;

use crate::TestCluster;
use crate::server::Act;

#[tokio::test]
async fn a_put_is_there_for_a_get() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    let written = client.put("k", "v").await.unwrap();
    assert_eq!(written.previous, None);
    let entry = client.get("k").await.unwrap().unwrap();
    assert_eq!((entry.key.as_ref(), entry.value.as_ref()), (b"k".as_slice(), b"v".as_slice()));
    assert_eq!((entry.revision, entry.expires_at_ms), (written.revision, None));
    assert_eq!(client.get("other").await.unwrap(), None);
}

#[tokio::test]
async fn options_travel_with_a_put() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    client.put("k", "1").await.unwrap();
    let written = client.put("k", "2").ttl(Duration::from_secs(5)).return_previous().await.unwrap();
    assert_eq!(written.previous.unwrap().value, "1");
    assert_eq!(cluster.world().entries[b"k".as_slice()].expires_at_ms, 5000);
    client.put("k", "3").ttl(Duration::from_nanos(1)).await.unwrap();
    assert_eq!(cluster.world().entries[b"k".as_slice()].expires_at_ms, 1, "0 would be for ever");
}

#[tokio::test]
async fn several_keys_go_in_one_step_and_come_in_order() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    let written = client.put_many([("a", "1"), ("b", "2")]).return_previous().await.unwrap();
    assert_eq!(written.previous, [None, None]);
    let values = client.get_many(["b", "none", "a"]).await.unwrap();
    assert_eq!(values.revision, written.revision);
    let found: Vec<Option<Bytes>> = values.entries.into_iter().map(|entry| entry.map(|e| e.value)).collect();
    assert_eq!(found, [Some("2".into()), None, Some("1".into())]);
    let deleted = client.delete_many(["a", "none"]).return_previous().await.unwrap();
    assert_eq!((deleted.deleted, deleted.previous.len()), (1, 2));
}

#[tokio::test]
async fn a_delete_says_whether_the_key_was_there() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    client.put("k", "v").await.unwrap();
    let deleted = client.delete("k").return_previous().await.unwrap();
    assert!(deleted.existed);
    assert_eq!(deleted.previous.unwrap().value, "v");
    assert!(!client.delete("k").await.unwrap().existed);
}

#[tokio::test]
async fn compare_and_swap_sets_what_is_as_expected_and_shows_what_is_not() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    let Swap::Done { revision } = client.compare_and_swap("k", Expected::Absent, "1").await.unwrap() else {
        panic!("it was absent")
    };
    let swap = client.compare_and_swap("k", Expected::Absent, "2").await.unwrap();
    let Swap::Refused { current: Some(current) } = swap else { panic!("{swap:?}") };
    assert_eq!((current.value.as_ref(), current.revision), (b"1".as_slice(), revision));
    for expected in [Expected::Revision(revision), Expected::Value("2".into()), Expected::Present] {
        let swap = client.compare_and_swap("k", expected, "2").await.unwrap();
        assert!(matches!(swap, Swap::Done { .. }), "{swap:?}");
    }
    let swap = client.compare_and_swap("none", Expected::Present, "2").await.unwrap();
    assert_eq!(swap, Swap::Refused { current: None });
}

#[tokio::test]
async fn a_transaction_runs_one_of_its_branches() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    client.put("k", "v").await.unwrap();
    let txn = || {
        client
            .txn()
            .when("k", Expected::Present)
            .then(Operation::delete("k"))
            .then(Operation::get("k"))
            .otherwise(Operation::put("k", "again"))
    };
    let ran = txn().await.unwrap();
    assert!(ran.succeeded && ran.results[0].deleted);
    assert_eq!(
        (ran.results[0].previous.as_ref().unwrap().value.as_ref(), &ran.results[1].entry),
        (b"v".as_slice(), &None)
    );
    let ran = txn().await.unwrap();
    assert!(!ran.succeeded);
    assert_eq!(client.get("k").await.unwrap().unwrap().value, "again");
}

#[tokio::test]
async fn a_read_may_be_stale_and_goes_to_any_server() {
    let cluster = TestCluster::start(3).await;
    let client = cluster.client().await;
    for _ in 0..3 {
        client.get("k").stale().min_revision(7).await.unwrap();
    }
    for server in &cluster.servers {
        let received = server.received();
        let [received] = received.as_slice() else { panic!("{received:?}") };
        let Request::Get(get) = &received.request else { panic!("{received:?}") };
        assert_eq!((get.consistency, get.min_revision), (Consistency::STALE.into(), 7));
    }
    client.get("k").await.unwrap();
    assert_eq!(cluster.servers[0].received().len(), 2, "a linearizable read goes to the leader");
}

#[tokio::test]
async fn status_comes_from_a_server() {
    let cluster = TestCluster::start(2).await;
    let client = cluster.client().await;
    assert_eq!(client.status().await.unwrap().answered_by, 1);
    cluster.servers[0].script_requests([Act::Apply]);
}
