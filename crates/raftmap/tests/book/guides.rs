//! The Rust code of the guides: it stands here, runs, and the pages have it word for word.

use std::time::Duration;

use bytes::Bytes;
use raftmap::local_cluster::{LocalCluster, LocalPlan};
use raftmap_client::{Client, Entry, Error, Expected, Operation, Swap};
use tempfile::TempDir;

use crate::page::pages;

/// What a block of Rust may be taken from.
const SOURCES: [&str; 3] = [
    include_str!("guides.rs"),
    include_str!("../../examples/embedded.rs"),
    include_str!("../../../client/src/lib.rs"),
];

#[test]
fn rust_in_the_pages_is_code_that_runs() {
    let lines = |text: &str| {
        let bare = |line: &str| line.trim().trim_start_matches("//! ").trim().to_owned();
        text.lines().map(bare).filter(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    let sources = SOURCES.map(lines);
    let mut count = 0;
    for page in pages() {
        for block in page.blocks.iter().filter(|block| block.language == "rust") {
            let code = lines(&block.lines.join("\n"));
            let is_there = sources.iter().any(|source| source.windows(code.len()).any(|some| some == code));
            assert!(is_there, "{}: this code stands in none of the sources", page.place(block.line));
            count += 1;
        }
    }
    assert!(count > 3, "{count}");
}

/// One server, and a client of it.
struct World {
    cluster: LocalCluster,
    client: Client,
    _folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plan = LocalPlan::new(env!("CARGO_BIN_EXE_raftmap"), folder.path().join("c"), 1).unwrap();
        let mut cluster = plan.found().unwrap();
        cluster.start_all().await.unwrap();
        let client = cluster.client().await.unwrap();
        Self { cluster, client, _folder: folder }
    }

    async fn end(mut self) {
        self.cluster.stop_all().await.unwrap();
    }
}

/// Takes the lock if nobody has it, and gives the token.
async fn acquire(client: &Client, lock: &str, owner: &str, ttl_ms: u64) -> Result<Option<u64>, Error> {
    let taken = client
        .txn()
        .when(lock.to_owned(), Expected::Absent)
        .then(Operation::put_expiring(lock.to_owned(), owner.to_owned(), ttl_ms))
        .await?;
    Ok(taken.succeeded.then_some(taken.revision))
}

/// Keeps the lock for longer, if it is still ours, and gives the new token, which is higher.
async fn renew(
    client: &Client,
    lock: &str,
    owner: &str,
    token: u64,
    ttl_ms: u64,
) -> Result<Option<u64>, Error> {
    let renewed = client
        .txn()
        .when(lock.to_owned(), Expected::Revision(token))
        .then(Operation::put_expiring(lock.to_owned(), owner.to_owned(), ttl_ms))
        .await?;
    Ok(renewed.succeeded.then_some(renewed.revision))
}

/// Gives the lock back, if it is still ours.
async fn release(client: &Client, lock: &str, token: u64) -> Result<bool, Error> {
    let released = client
        .txn()
        .when(lock.to_owned(), Expected::Revision(token))
        .then(Operation::delete(lock.to_owned()))
        .await?;
    Ok(released.succeeded)
}

/// Writes only as long as the lock is ours: if it is not, nothing is written.
async fn put_under_lock(
    client: &Client,
    lock: &str,
    token: u64,
    key: &str,
    value: &str,
) -> Result<bool, Error> {
    let written = client
        .txn()
        .when(lock.to_owned(), Expected::Revision(token))
        .then(Operation::put(key.to_owned(), value.to_owned()))
        .await?;
    Ok(written.succeeded)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_has_one_owner_and_its_tokens_rise() {
    let world = World::start().await;
    let client = &world.client;
    let hour = 3_600_000;
    let ann = acquire(client, "lock/printer", "ann", hour).await.unwrap().unwrap();
    assert_eq!(acquire(client, "lock/printer", "bob", hour).await.unwrap(), None);
    let renewed = renew(client, "lock/printer", "ann", ann, hour).await.unwrap().unwrap();
    assert!(renewed > ann);
    assert!(!put_under_lock(client, "lock/printer", ann, "page", "1").await.unwrap(), "an old token");
    assert!(put_under_lock(client, "lock/printer", renewed, "page", "1").await.unwrap());
    assert!(!release(client, "lock/printer", ann).await.unwrap());
    assert!(release(client, "lock/printer", renewed).await.unwrap());

    let short = acquire(client, "lock/printer", "ann", 1).await.unwrap().unwrap();
    let bob = loop {
        if let Some(token) = acquire(client, "lock/printer", "bob", hour).await.unwrap() {
            break token;
        }
    };
    assert!(bob > short && short > renewed);
    assert!(!put_under_lock(client, "lock/printer", short, "page", "2").await.unwrap(), "it is bob's");
    world.end().await;
}

/// Adds an item at the end, and gives its number.
async fn push(client: &Client, queue: &str, item: &str) -> Result<u64, Error> {
    let last_key = format!("{queue}.last");
    loop {
        let last = client.get(last_key.clone()).await?;
        let number = last.as_ref().map_or(0, number_in) + 1;
        let unchanged = last.map_or(Expected::Absent, |last| Expected::Revision(last.revision));
        let pushed = client
            .txn()
            .when(last_key.clone(), unchanged)
            .then(Operation::put(last_key.clone(), number.to_string()))
            .then(Operation::put(format!("{queue}/{number:012}"), item.to_owned()))
            .await?;
        if pushed.succeeded {
            return Ok(number);
        }
    }
}

/// Takes the first item away, if there is one. Nobody else gets it.
async fn pop(client: &Client, queue: &str) -> Result<Option<Entry>, Error> {
    loop {
        let mut pages = client.scan().prefix(format!("{queue}/")).limit(1).await?;
        let first = pages.next_page().await?.and_then(|page| page.entries.into_iter().next());
        let Some(first) = first else { return Ok(None) };
        let taken = client
            .txn()
            .when(first.key.clone(), Expected::Revision(first.revision))
            .then(Operation::delete(first.key.clone()))
            .await?;
        if taken.succeeded {
            return Ok(Some(first));
        }
    }
}

fn number_in(entry: &Entry) -> u64 {
    std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_gives_each_item_once_and_in_order() {
    let world = World::start().await;
    let client = &world.client;
    assert_eq!(pop(client, "mail").await.unwrap(), None);
    let pushes = (0..20).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { push(&client, "mail", "letter").await.unwrap() })
    });
    let mut numbers = Vec::new();
    for push in pushes.collect::<Vec<_>>() {
        numbers.push(push.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());

    let pops = (0..4).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut keys = Vec::new();
            while let Some(entry) = pop(&client, "mail").await.unwrap() {
                keys.push(entry.key);
            }
            assert!(keys.is_sorted());
            keys
        })
    });
    let mut keys: Vec<Bytes> = Vec::new();
    for pop in pops.collect::<Vec<_>>() {
        keys.extend(pop.await.unwrap());
    }
    keys.sort_unstable();
    let expected: Vec<Bytes> = (1..=20).map(|number| format!("mail/{number:012}").into()).collect();
    assert_eq!(keys, expected);
    assert_eq!(push(client, "mail", "another").await.unwrap(), 21, "numbers are not used again");
    world.end().await;
}

/// Adds to a counter, and gives the sum.
async fn add(client: &Client, counter: &str, amount: u64) -> Result<u64, Error> {
    loop {
        let now = client.get(counter.to_owned()).await?;
        let sum = now.as_ref().map_or(0, number_in) + amount;
        let unchanged = now.map_or(Expected::Absent, |now| Expected::Revision(now.revision));
        if let Swap::Done { .. } =
            client.compare_and_swap(counter.to_owned(), unchanged, sum.to_string()).await?
        {
            return Ok(sum);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_counts_each_once() {
    let world = World::start().await;
    let adds = (0..25).map(|_| {
        let client = world.client.clone();
        tokio::spawn(async move { add(&client, "visits", 2).await.unwrap() })
    });
    let mut sums = Vec::new();
    for add in adds.collect::<Vec<_>>() {
        sums.push(add.await.unwrap());
    }
    sums.sort_unstable();
    assert_eq!(sums, (1..=25).map(|n| 2 * n).collect::<Vec<_>>());
    world.end().await;
}

/// Waits until a key is not as it was at `seen` any more; 0: not there.
async fn changed(client: &Client, key: &str, seen: u64) -> Result<Option<Entry>, Error> {
    loop {
        let entry = client.get(key.to_owned()).await?;
        if entry.as_ref().map_or(0, |entry| entry.revision) != seen {
            return Ok(entry);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_noticed() {
    let world = World::start().await;
    let client = &world.client;
    let first = client.put("config", "on").await.unwrap().revision;
    let entry = changed(client, "config", 0).await.unwrap().unwrap();
    assert_eq!((entry.revision, &entry.value[..]), (first, &b"on"[..]));
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { changed(&client, "config", first).await.unwrap() }
    });
    client.delete("config").await.unwrap();
    let gone = tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
    assert_eq!(gone, None);
    world.end().await;
}
