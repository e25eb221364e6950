//! Scans, page by page.

use raftmap_client::{Client, Code, Error, Pages};

use crate::server::{Act, Incoming};
use crate::world::not_applied;
use crate::{SHORT, TestCluster};

async fn keys(pages: &mut Pages) -> Vec<String> {
    let mut keys = Vec::new();
    while let Some(page) = pages.next_page().await.unwrap() {
        keys.extend(page.entries.iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()));
    }
    keys
}

async fn filled(cluster: &TestCluster) -> Client {
    let client = cluster.client().await;
    client.put_many(["a", "b/1", "b/2", "c"].map(|key| (key, key))).await.unwrap();
    client
}

#[tokio::test]
async fn a_scan_brings_its_range_in_order() {
    let cluster = TestCluster::start(1).await;
    let client = filled(&cluster).await;
    assert_eq!(keys(&mut client.scan().await.unwrap()).await, ["a", "b/1", "b/2", "c"]);
    assert_eq!(keys(&mut client.scan().prefix("b/").await.unwrap()).await, ["b/1", "b/2"]);
    assert_eq!(keys(&mut client.scan().start("b").end("c").reverse().await.unwrap()).await, ["b/2", "b/1"]);
    assert_eq!(keys(&mut client.scan().prefix("none").await.unwrap()).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_limited_scan_says_whether_there_is_more() {
    let cluster = TestCluster::start(1).await;
    let client = filled(&cluster).await;
    for (limit, more) in [(2, true), (4, false)] {
        let mut pages = client.scan().limit(limit).await.unwrap();
        assert_eq!(keys(&mut pages).await.len(), limit as usize);
        assert_eq!(pages.more(), more);
    }
}

#[tokio::test]
async fn a_scan_is_opened_elsewhere_if_a_server_refuses_it() {
    let cluster = TestCluster::start(2).await;
    let client = filled(&cluster).await;
    cluster.servers[0].script(|incoming| match incoming {
        Incoming::Scan => Act::Fail(not_applied(Code::NO_LEADER)),
        _ => Act::Apply,
    });
    assert_eq!(keys(&mut client.scan().await.unwrap()).await.len(), 4);
}

#[tokio::test]
async fn a_scan_whose_view_is_lost_ends_with_an_error_and_stays_ended() {
    let cluster = TestCluster::start(2).await;
    let client = filled(&cluster).await;
    cluster.servers[0].script(|incoming| match incoming {
        Incoming::Scan => Act::Cut,
        _ => Act::Apply,
    });
    let mut pages = client.scan().await.unwrap();
    assert_eq!(pages.next_page().await.unwrap().unwrap().entries.len(), 1);
    for _ in 0..2 {
        let error = pages.next_page().await.unwrap_err();
        assert_eq!(error.cause().code, Some(Code::SCAN_LOST));
    }
    assert!(!pages.more());
}

#[tokio::test]
async fn a_scan_whose_page_came_too_late_stays_ended() {
    let cluster = TestCluster::start(1).await;
    let client = filled(&cluster).await;
    cluster.servers[0].script(|incoming| match incoming {
        Incoming::Scan => Act::Hold,
        _ => Act::Apply,
    });
    let mut pages = client.scan().timeout(SHORT).await.unwrap();
    pages.next_page().await.unwrap().unwrap();
    let late = pages.next_page().await.unwrap_err();
    assert_eq!(late.cause().code, Some(Code::DEADLINE));
    cluster.servers[0].release();
    assert_eq!(pages.next_page().await.unwrap_err(), late);
}

#[tokio::test]
async fn a_scan_that_ends_without_its_last_message_was_cut_off() {
    let cluster = TestCluster::start(1).await;
    let client = filled(&cluster).await;
    cluster.servers[0].script(|incoming| match incoming {
        Incoming::Scan => Act::Ignore,
        _ => Act::Apply,
    });
    let mut pages = client.scan().await.unwrap();
    pages.next_page().await.unwrap().unwrap();
    let error = pages.next_page().await.unwrap_err();
    assert!(error.cause().reason.contains("cut off"), "{error}");
}

#[tokio::test]
async fn a_scan_whose_connection_breaks_ends_with_an_error() {
    let cluster = TestCluster::start(1).await;
    let client = cluster.client().await;
    // More than the windows hold, so that the server cannot have sent it all.
    for n in 0..40 {
        client.put(format!("k{n}"), vec![0; 200 << 10]).await.unwrap();
    }
    let mut pages = client.scan().await.unwrap();
    pages.next_page().await.unwrap().unwrap();
    cluster.servers[0].cut();
    let error = loop {
        match pages.next_page().await {
            Ok(page) => assert!(page.is_some(), "it ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::NotApplied(_)), "{error}");
}

#[tokio::test]
async fn only_so_many_scans_are_open_at_once() {
    let cluster = TestCluster::start(1).await;
    let client = filled(&cluster).await;
    let mut open = Vec::new();
    for _ in 0..raftmap_client::SCANS_MAX {
        open.push(client.scan().await.unwrap());
    }
    let Err(error) = client.scan().await else { panic!("one too many") };
    assert_eq!((error.cause().code, error.cause().limit), (Some(Code::OVERLOADED), 8));
    open.pop();
    client.scan().await.unwrap();
}
