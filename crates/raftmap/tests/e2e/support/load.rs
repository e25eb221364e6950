//! Clients that write and read without a pause, and a ledger of what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raftmap_client::{Client, Error};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::world::{PATIENCE, World, soon};

/// How long one write or read may take before its client gives up.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two writes of a writer: the machine is to have time for the servers, too.
const PAUSE: Duration = Duration::from_millis(2);

/// All keys of the load begin so.
const PREFIX: &str = "load/";

/// What became of every write: each has a key of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// Acknowledged: the key, and the value and revision that it must have for ever.
    acknowledged: BTreeMap<String, (String, u64)>,
    /// Of unknown outcome, or not answered yet: it may be there or not.
    open: BTreeMap<String, String>,
    /// Certainly not applied.
    refused: BTreeSet<String>,
    /// What must never happen, and did while the load ran.
    wrong: Vec<String>,
    /// Calls that ended without an answer, and why.
    failed: Vec<String>,
}

impl Ledger {
    /// Every call of the load must have been answered.
    pub(crate) fn demand_no_failure(&self) {
        assert!(self.failed.is_empty(), "calls failed: {}", describe(&self.failed));
    }

    /// Holds the ledger against what a client finds.
    pub(crate) async fn compare(&self, client: &Client, stale: bool) -> Result<(), String> {
        let mut wrong = self.wrong.clone();
        let found = find_all(client, stale).await.map_err(|error| format!("no scan: {error}"))?;
        for (key, (value, revision)) in &self.acknowledged {
            match found.get(key) {
                None => wrong.push(format!("{key}: acknowledged at {revision}, and lost")),
                Some(there) if *there != (value.clone(), *revision) => {
                    wrong
                        .push(format!("{key}: {value:?} was acknowledged at {revision}, {there:?} is there"));
                }
                Some(_) => {}
            }
        }
        for (key, (value, _)) in &found {
            if self.refused.contains(key) {
                wrong.push(format!("{key}: certainly not applied, and it is there"));
            } else if !self.acknowledged.contains_key(key) && self.open.get(key) != Some(value) {
                wrong.push(format!("{key}: {value:?} was never written"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(describe(&wrong)) }
    }
}

fn describe(wrong: &[String]) -> String {
    let first: Vec<&str> = wrong.iter().take(10).map(String::as_str).collect();
    format!("{} wrong:\n{}", wrong.len(), first.join("\n"))
}

async fn find_all(client: &Client, stale: bool) -> Result<BTreeMap<String, (String, u64)>, Error> {
    let scan = client.scan().prefix(PREFIX);
    let mut pages = if stale { scan.stale().await? } else { scan.await? };
    let mut found = BTreeMap::new();
    while let Some(page) = pages.next_page().await? {
        for entry in page.entries {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.insert(text(&entry.key), (text(&entry.value), entry.revision));
        }
    }
    Ok(found)
}

/// Writers, each with one write under way at a time, and as many readers that check what was acknowledged.
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    client: Client,
    stop: AtomicBool,
    ledger: Mutex<Ledger>,
    acknowledged: watch::Sender<usize>,
}

impl Load {
    /// Begins to write, with `writers` at once.
    pub(crate) async fn start(world: &World, writers: usize) -> Self {
        let client = Client::builder(world.endpoints(), world.tls("client").unwrap());
        Self::start_by(client.timeout(CALL_TIMEOUT).connect().await.unwrap(), writers)
    }

    /// The same, by this client.
    pub(crate) fn start_by(client: Client, writers: usize) -> Self {
        let shared = Arc::new(Shared {
            client,
            stop: AtomicBool::new(false),
            ledger: Mutex::default(),
            acknowledged: watch::Sender::new(0),
        });
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move { shared.write(writer).await });
        }
        Self { shared, tasks }
    }

    /// Waits until `count` more writes were acknowledged.
    pub(crate) async fn more(&self, count: usize) {
        let mut acknowledged = self.shared.acknowledged.subscribe();
        let enough = *acknowledged.borrow() + count;
        let what = format!("{count} more writes to be acknowledged");
        soon(&what, acknowledged.wait_for(|now| *now >= enough)).await.unwrap();
    }

    /// Ends the load when what is under way has ended, and gives the ledger.
    pub(crate) async fn stop(self) -> Ledger {
        self.shared.stop.store(true, Ordering::Relaxed);
        soon("the load to end", self.tasks.join_all()).await;
        self.shared.ledger.lock().unwrap().clone()
    }
}

impl Shared {
    async fn write(&self, writer: usize) {
        let mut last_revision = 0;
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let (key, value) = (format!("{PREFIX}{writer}/{number:06}"), format!("{number:0>100}"));
            self.ledger.lock().unwrap().open.insert(key.clone(), value.clone());
            match self.client.put(key.clone(), value.clone()).await {
                Ok(written) => {
                    self.acknowledge(&key, written.revision, last_revision);
                    last_revision = written.revision;
                    if number % 4 == 0 {
                        self.read_back(&key).await;
                    }
                }
                Err(error) => {
                    let mut ledger = self.ledger.lock().unwrap();
                    ledger.failed.push(format!("{key}: {error}"));
                    // What is of unknown outcome stays open.
                    if let Error::NotApplied(_) = error {
                        ledger.open.remove(&key);
                        ledger.refused.insert(key);
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn acknowledge(&self, key: &str, revision: u64, last_revision: u64) {
        let mut ledger = self.ledger.lock().unwrap();
        if revision <= last_revision {
            ledger.wrong.push(format!("{key}: acknowledged at {revision}, after {last_revision} was"));
        }
        let value = ledger.open.remove(key).expect("it was written");
        ledger.acknowledged.insert(key.to_owned(), (value, revision));
        let acknowledged = ledger.acknowledged.len();
        drop(ledger);
        self.acknowledged.send_replace(acknowledged);
    }

    /// A read that begins after the acknowledgement sees the write, or fails.
    async fn read_back(&self, key: &str) {
        let read = self.client.get(key.to_owned()).await;
        let mut ledger = self.ledger.lock().unwrap();
        match read {
            Ok(Some(_)) => {}
            Ok(None) => ledger.wrong.push(format!("{key}: acknowledged, and a later read did not see it")),
            Err(error) => ledger.failed.push(format!("{key}: not read: {error}")),
        }
    }
}

/// Writes until it succeeds, for at most [`PATIENCE`].
pub(crate) async fn must_put(client: &Client, key: &str, value: &str) -> u64 {
    let put = client.put(key.to_owned(), value.to_owned()).timeout(PATIENCE).await;
    put.unwrap_or_else(|error| panic!("{key} cannot be put: {error}")).revision
}

/// Reads until it succeeds, for at most [`PATIENCE`].
pub(crate) async fn must_get(client: &Client, key: &str) -> Option<String> {
    let got = client.get(key.to_owned()).timeout(PATIENCE).await;
    let entry = got.unwrap_or_else(|error| panic!("{key} cannot be read: {error}"));
    entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
}
