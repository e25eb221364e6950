//! The website of the example `todo`, used as browsers use it, while servers are killed, paused and cut off.

#[path = "../../examples/todo/app.rs"]
mod app;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::{World, soon};

/// Browsers that add items at the same time.
const BROWSERS: usize = 4;

async fn website(world: &World) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(app::serve(listener, world.client().await.unwrap()));
    address
}

/// One request: the status, and the body.
async fn ask(website: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(website).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// As the page does: again under the same id, until there is an answer.
async fn confirm(website: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    soon("the website confirms it", async {
        loop {
            let (status, answer) = ask(website, method, path, body).await;
            if status != 503 {
                return (status, answer);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

async fn list(website: SocketAddr) -> BTreeMap<String, serde_json::Value> {
    let (status, body) = confirm(website, "GET", "/items", "").await;
    assert_eq!(status, 200, "{body}");
    let items: Vec<serde_json::Value> = serde_json::from_str(&body).unwrap();
    let by_id = items.iter().map(|item| (item["id"].as_str().unwrap().to_owned(), item.clone()));
    let by_id: BTreeMap<_, _> = by_id.collect();
    assert_eq!(by_id.len(), items.len(), "an item is there twice");
    by_id
}

/// Adds items until it is over, and gives the ids of those that were confirmed.
async fn browse(website: SocketAddr, browser: usize, over: Arc<AtomicBool>) -> Vec<String> {
    let mut confirmed = Vec::new();
    while !over.load(Ordering::Acquire) {
        let id = format!("{browser}-{}", confirmed.len());
        let (status, body) = confirm(website, "PUT", &format!("/items/{id}"), &format!("item {id}")).await;
        assert_eq!(status, 200, "{body}");
        confirmed.push(id);
    }
    confirmed
}

#[tokio::test(flavor = "multi_thread")]
async fn every_confirmed_item_is_there_whatever_happened_to_the_servers() {
    let (mut world, network) = World::start_with_network().await;
    let website = website(&world).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut browsers = JoinSet::new();
    for browser in 0..BROWSERS {
        browsers.spawn(browse(website, browser, Arc::clone(&over)));
    }
    // What is added after the death of a leader counts as what was before.
    let goes_on = async |after: &str| {
        for number in 0..10 {
            let path = format!("/items/{after}-{number}");
            assert_eq!(confirm(website, "PUT", &path, after).await.0, 200);
        }
    };
    let first = world.leader().await.unwrap();
    world.kill(first).unwrap();
    goes_on("killed").await;
    world.start(first).await.unwrap();

    let second = world.leader().await.unwrap();
    network.isolate(second);
    goes_on("cut-off").await;
    network.heal();

    let third = world.leader().await.unwrap();
    let follower = world.others(&[third])[0];
    world.pause(follower).unwrap();
    goes_on("paused").await;
    world.resume(follower).unwrap();

    over.store(true, Ordering::Release);
    let mut confirmed = Vec::new();
    while let Some(browser) = browsers.join_next().await {
        confirmed.extend(browser.unwrap());
    }
    world.kill_all().unwrap();
    world.start_all().await.unwrap();
    let there = list(website).await;
    let lost: Vec<_> = confirmed.iter().filter(|id| !there.contains_key(*id)).collect();
    assert!(lost.is_empty(), "of {} confirmed items these are lost: {lost:?}", confirmed.len());
    assert_eq!(there.len(), confirmed.len() + 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_changed_meanwhile_is_not_overwritten() {
    let world = World::start().await;
    let website = website(&world).await;
    assert!(ask(website, "GET", "/", "").await.1.contains("<title>To do</title>"));
    assert_eq!(ask(website, "PUT", "/items/a", "buy milk").await.0, 200);
    // Asked again, and by somebody else with the same id.
    assert_eq!(ask(website, "PUT", "/items/a", "buy milk").await.0, 200);
    assert_eq!(ask(website, "PUT", "/items/a", "sell milk").await.0, 409);
    let revision = list(website).await["a"]["revision"].as_u64().unwrap();
    let done = format!("/items/a/done?revision={revision}");
    assert_eq!(ask(website, "POST", &done, "").await.0, 200);
    assert_eq!(ask(website, "POST", &done, "").await.0, 200, "asked again");
    assert_eq!(ask(website, "POST", &format!("/items/a/open?revision={revision}"), "").await.0, 409);
    assert_eq!(list(website).await["a"]["done"], true);
    for (method, path, body, status) in [
        ("PUT", "/items/b", " ", 400),
        ("PUT", "/items/b", &*"x".repeat(5000), 400),
        ("PUT", "/items/b%2f", "x", 404),
        ("POST", "/items/a/done", "", 400),
        ("GET", "/other", "", 404),
    ] {
        assert_eq!(ask(website, method, path, body).await.0, status, "{method} {path}");
    }
    assert_eq!(ask(website, "DELETE", "/items/a", "").await.0, 200);
    assert!(list(website).await.is_empty());
}
