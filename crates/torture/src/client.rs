//! A client process: workers that read and write a few keys without a pause, and the history of what they were told.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use raftmap_client::{Client, Entry, Error, Expected, Tls};
use raftmap_lincheck::{self as history, Condition, Operation, Outcome, Record, Request, Response, Step};
use rustix::time::{ClockId, clock_gettime};

/// How long a call may take, and one attempt of it.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);

/// What a client process says when it has reached the servers.
pub(crate) const CONNECTED: &str = "connected\n";

/// How much larger the few large values are: state machines are to write out tables, too.
const LARGE_BYTES: usize = 32 << 10;

/// Between two calls of a worker, at most.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// A client process.
#[derive(Debug, clap::Args)]
pub struct ClientArguments {
    /// Where clients reach the servers
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,

    /// The folder with `ca.pem`, `client.pem` and `client.key`
    #[arg(long)]
    certs: PathBuf,

    /// What all keys begin with; the last byte is not 255
    #[arg(long)]
    prefix: String,

    /// How many keys
    #[arg(long)]
    keys: u32,

    /// How many calls at a time
    #[arg(long)]
    workers: u32,

    /// A number for this process, from which those of its workers follow
    #[arg(long)]
    number: u64,

    /// Of the choice of calls
    #[arg(long)]
    seed: u64,

    /// Where to write the history, when standard input ends
    #[arg(long)]
    history: PathBuf,
}

/// Calls until standard input ends, then writes down what happened.
///
/// # Errors
/// If no server can be reached at the start, or the history cannot be written.
pub async fn run(arguments: ClientArguments) -> Result<(), Box<dyn std::error::Error>> {
    let read = |name: &str| std::fs::read(arguments.certs.join(name));
    let tls = Tls::new(read("ca.pem")?, read("client.pem")?, read("client.key")?);
    let builder = Client::builder(arguments.endpoints.clone(), tls);
    let client = builder.timeout(TIMEOUT).attempt_timeout(ATTEMPT_TIMEOUT).connect().await?;
    print!("{CONNECTED}");
    io::stdout().flush()?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..u64::from(arguments.workers) {
        let number = arguments.number * u64::from(arguments.workers) + worker;
        workers.spawn(
            Worker {
                client: client.clone(),
                number,
                rng: Rng::with_seed(arguments.seed.wrapping_add(number)),
                prefix: arguments.prefix.clone(),
                keys: arguments.keys,
                values: 0,
                seen: None,
                history: Vec::new(),
            }
            .run(Arc::clone(&stop)),
        );
    }
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    stop.store(true, Ordering::Relaxed);
    let histories = workers.join_all().await;
    let file = BufWriter::new(File::create(&arguments.history)?);
    history::write_history(file, &histories.concat())?;
    Ok(())
}

/// Nanoseconds of the clock that all processes of a machine share.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

struct Worker {
    client: Client,
    number: u64,
    rng: Rng,
    prefix: String,
    keys: u32,
    /// Values that it has written: each is another.
    values: u64,
    /// A record that it saw: for conditions that may hold.
    seen: Option<(Bytes, Record)>,
    history: Vec<Operation>,
}

impl Worker {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Vec<Operation> {
        while !stop.load(Ordering::Relaxed) {
            let request = self.draw();
            let call = now();
            let outcome = ask(&self.client, &request).await;
            let end = Some(now());
            self.remember(&request, &outcome);
            self.history.push(Operation { client: self.number, call, end, request, outcome });
            let pause = self.rng.u64(..u64::try_from(PAUSE_MAX.as_micros()).unwrap_or(1));
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
        self.history
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("{}{:03}", self.prefix, self.rng.u32(..self.keys)))
    }

    fn some_keys(&mut self) -> Vec<Bytes> {
        let mut keys: Vec<Bytes> = (0..self.rng.usize(1..=3)).map(|_| self.key()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn value(&mut self) -> Bytes {
        self.values += 1;
        let padding = if self.rng.u32(..16) == 0 { LARGE_BYTES } else { 0 };
        Bytes::from(format!("{}.{}{}", self.number, self.values, ".".repeat(padding)))
    }

    fn draw(&mut self) -> Request {
        match self.rng.u32(..100) {
            0..35 => Request::Get { keys: self.some_keys() },
            35..65 => {
                let keys = self.some_keys();
                Request::Put { entries: keys.into_iter().map(|key| (key, self.value())).collect() }
            }
            65..73 => Request::Delete { keys: self.some_keys() },
            73..95 => self.draw_txn(),
            _ => {
                let mut end = self.prefix.clone().into_bytes();
                end.last_mut().into_iter().for_each(|last| *last += 1);
                Request::Scan { start: Bytes::from(self.prefix.clone()), end: Bytes::from(end), limit: 0 }
            }
        }
    }

    fn draw_txn(&mut self) -> Request {
        let (key, expected) = match (self.rng.u32(..4), self.seen.clone()) {
            (0, Some((key, seen))) => (key, history::Expected::Value(seen.value)),
            (1 | 2, Some((key, seen))) => (key, history::Expected::Revision(seen.revision)),
            _ => (self.key(), history::Expected::Exists(self.rng.bool())),
        };
        let conditions = vec![Condition { key: key.clone(), expected }];
        let then = match self.rng.u32(..3) {
            0 => vec![Step::Delete(key)],
            1 => vec![Step::Put(key, self.value()), Step::Put(self.key(), self.value())],
            _ => vec![Step::Put(key.clone(), self.value()), Step::Get(key)],
        };
        Request::Txn { conditions, then, otherwise: vec![Step::Get(self.key())] }
    }

    fn remember(&mut self, request: &Request, outcome: &Outcome) {
        if let (Request::Get { keys }, Outcome::Done(Response::Got { records, .. })) = (request, outcome) {
            let found = keys.iter().zip(records).find_map(|(key, record)| Some((key, record.as_ref()?)));
            self.seen = found.map(|(key, record)| (key.clone(), record.clone())).or(self.seen.take());
        }
    }
}

/// Makes a call, and tells what became of it.
pub(crate) async fn ask(client: &Client, request: &Request) -> Outcome {
    match answer(client, request).await {
        Ok(response) => Outcome::Done(response),
        Err(Error::NotApplied(_)) => Outcome::NotApplied,
        Err(Error::OutcomeUnknown(_)) => Outcome::Unknown,
    }
}

async fn answer(client: &Client, request: &Request) -> Result<Response, Error> {
    Ok(match request.clone() {
        Request::Get { keys } => {
            let values = client.get_many(keys).await?;
            let records = values.entries.into_iter().map(|entry| entry.map(record)).collect();
            Response::Got { revision: values.revision, records }
        }
        Request::Put { entries } => Response::Put { revision: client.put_many(entries).await?.revision },
        Request::Delete { keys } => {
            let deleted = client.delete_many(keys).await?;
            Response::Deleted { revision: deleted.revision, existed: deleted.deleted }
        }
        Request::Txn { conditions, then, otherwise } => {
            let mut txn = client.txn();
            for Condition { key, expected } in conditions {
                txn = txn.when(key, expectation(expected));
            }
            for step in then {
                txn = txn.then(operation(step));
            }
            for step in otherwise {
                txn = txn.otherwise(operation(step));
            }
            let answer = txn.await?;
            let saw = |result: raftmap_client::OperationResult| result.entry.or(result.previous).map(record);
            let results = answer.results.into_iter().map(saw).collect();
            Response::Txn { revision: answer.revision, succeeded: answer.succeeded, results }
        }
        Request::Scan { start, end, .. } => {
            let mut pages = client.scan().start(start).end(end).await?;
            let (mut revision, mut records) = (0, Vec::new());
            while let Some(page) = pages.next_page().await? {
                revision = page.revision;
                records.extend(page.entries.into_iter().map(|entry| (entry.key.clone(), record(entry))));
            }
            Response::Scanned { revision, records }
        }
    })
}

fn record(entry: Entry) -> Record {
    Record { value: entry.value, revision: entry.revision }
}

fn expectation(expected: history::Expected) -> Expected {
    match expected {
        history::Expected::Exists(true) => Expected::Present,
        history::Expected::Exists(false) => Expected::Absent,
        history::Expected::Revision(revision) => Expected::Revision(revision),
        history::Expected::Value(value) => Expected::Value(value),
    }
}

fn operation(step: Step) -> raftmap_client::Operation {
    match step {
        Step::Put(key, value) => raftmap_client::Operation::put(key, value),
        Step::Delete(key) => raftmap_client::Operation::delete(key),
        Step::Get(key) => raftmap_client::Operation::get(key),
    }
}

/// Reads the histories that client processes wrote.
pub(crate) fn read_histories(paths: &[PathBuf]) -> io::Result<Vec<Operation>> {
    let mut all = Vec::new();
    for path in paths {
        let file = io::BufReader::new(File::open(path)?);
        let history = history::read_history(file);
        all.extend(history.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?);
    }
    Ok(all)
}
