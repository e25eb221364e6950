//! A long run at half of what the servers can do, with a fault every few seconds: no acknowledged write may be lost, and what the
//! servers take of memory, disk and open files is shown, for people to judge whether it stays level.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use raftmap::local_cluster::bytes_below;
use raftmap_client::{Client, Error};
use raftmap_raft::NodeId;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::error::{Failure, refused};
use crate::nemesis::{Class, Fault};
use crate::offer::Offer;
use crate::rig::Rig;
use crate::torture::{Settings, found};

/// Each writes keys of its own, one after the other, and again from the beginning.
const WRITERS: u32 = 64;
const KEYS_OF_EACH: u32 = 1_000;
const VALUE_BYTES: usize = 128;
/// How long it is measured what the servers can do.
const PEAK_FOR: Duration = Duration::from_secs(10);
/// A fault begins so often.
const FAULT_EVERY: Duration = Duration::from_secs(10);
/// How long everything is calm before the first and after the last sample.
const CALM: Duration = Duration::from_secs(10);
/// After a write that failed, so that servers that are down are not asked in a tight loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);
/// How long a value may take to be read in the end.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// What a server takes.
#[derive(Clone, Debug, Serialize)]
pub struct Usage {
    /// Seconds since the load began.
    pub at: u64,
    /// Which server.
    pub server: u64,
    /// For how many seconds its process has run.
    pub up_seconds: u64,
    /// Its resident memory that is not a file's, in MiB.
    pub memory_mib: u64,
    /// Its data directory, in MiB.
    pub disk_mib: u64,
    /// Its open files and sockets.
    pub open_files: u64,
}

/// What a soak came to.
#[derive(Debug, Default, Serialize)]
pub struct SoakReport {
    /// Acknowledged writes a second, as fast as they go, before the soak.
    pub peak_per_second: u64,
    /// Writes a second that were asked for.
    pub rate_per_second: u64,
    /// Seconds.
    pub seconds: u64,
    /// Writes that were acknowledged, all of which are there in the end.
    pub acknowledged: u64,
    /// Writes that were not.
    pub failed: u64,
    /// Faults by kind; one that strikes several servers counts for each.
    pub faults: BTreeMap<Class, u64>,
    /// Keys that were read in the end.
    pub keys_read: u64,
    /// What each server took, while all was calm between two faults.
    pub usage: Vec<Usage>,
}

/// The counters that all writers share.
#[derive(Default)]
struct Shared {
    over: AtomicBool,
    acknowledged: AtomicU64,
    failed: AtomicU64,
}

/// Soaks a cluster for so long; `said` is told a line for each fault.
///
/// # Errors
/// The first thing that is wrong.
pub async fn soak(
    settings: &Settings,
    offer: &Offer,
    time: Duration,
    said: impl Fn(String),
) -> Result<SoakReport, Failure> {
    let mut rig = found(settings, offer, &[])?;
    rig.calm().await?;
    let client = rig.cluster.client().await?;
    let mut writers: Vec<Writer> = (0..WRITERS).map(|number| Writer::new(number, client.clone())).collect();
    let mut report = SoakReport::default();
    let peak = Arc::new(Shared::default());
    writers = write(writers, None, &peak, async { sleep(PEAK_FOR).await }).await?.0;
    report.peak_per_second = peak.acknowledged.load(Ordering::Relaxed) / PEAK_FOR.as_secs();
    report.rate_per_second = (report.peak_per_second / 2).max(1);
    said(format!("{} writes a second at most: half of that from now on", report.peak_per_second));

    let shared = Arc::new(Shared::default());
    let rate = Some(report.rate_per_second);
    let disturbed = disturb(settings, &mut rig, time, &mut report, &said);
    let (writers, disturbed) = write(writers, rate, &shared, disturbed).await?;
    disturbed?;
    report.acknowledged = shared.acknowledged.load(Ordering::Relaxed);
    report.failed = shared.failed.load(Ordering::Relaxed);
    rig.cluster.agree(&rig.cluster.ids()).await?;
    let client = rig.cluster.client().await?;
    for writer in &writers {
        report.keys_read += writer.verify(&client).await?;
    }
    Ok(report)
}

/// Lets all write until `event` has happened: as fast as they can, or at `rate` writes a second together.
async fn write<T>(
    writers: Vec<Writer>,
    rate: Option<u64>,
    shared: &Arc<Shared>,
    event: impl Future<Output = T>,
) -> Result<(Vec<Writer>, T), Failure> {
    let mut tasks = JoinSet::new();
    for writer in writers {
        tasks.spawn(writer.run(rate, Arc::clone(shared)));
    }
    let happened = event.await;
    shared.over.store(true, Ordering::Relaxed);
    let mut back = Vec::new();
    while let Some(writer) = tasks.join_next().await {
        back.push(writer.map_err(|panic| Failure::Client(panic.to_string()))?);
    }
    Ok((back, happened))
}

/// Makes a fault every few seconds and ends it, and looks what servers take right before the next one.
async fn disturb(
    settings: &Settings,
    rig: &mut Rig,
    time: Duration,
    report: &mut SoakReport,
    said: &impl Fn(String),
) -> Result<(), Failure> {
    let mut rng = Rng::with_seed(settings.seed);
    let began = Instant::now();
    let mut ups = Ups::default();
    sleep(CALM).await;
    while began.elapsed() < time {
        let next = Instant::now() + FAULT_EVERY;
        ups.look(rig, began, report)?;
        let fault = Fault::draw(settings.classes[rng.usize(..settings.classes.len())], &mut rng);
        let struck = rig.strike(&fault).await?;
        *report.faults.entry(fault.class).or_default() += struck.len() as u64;
        sleep(fault.lasts).await;
        rig.mend(&fault, &struck)?;
        rig.calm().await?;
        said(format!("{:>5} s  {}", began.elapsed().as_secs(), fault.told(&struck)));
        sleep_until(next).await;
    }
    sleep(CALM).await;
    ups.look(rig, began, report)?;
    report.seconds = began.elapsed().as_secs();
    Ok(())
}

/// Since when the processes run.
#[derive(Default)]
struct Ups(BTreeMap<NodeId, (u32, Instant)>);

impl Ups {
    fn look(&mut self, rig: &mut Rig, began: Instant, report: &mut SoakReport) -> Result<(), Failure> {
        for id in rig.cluster.ids() {
            let pid = rig.cluster.pid(id)?;
            let up = self.0.entry(id).or_insert((pid, Instant::now()));
            if up.0 != pid {
                *up = (pid, Instant::now());
            }
            let taken = taken(pid, &rig.cluster.data_dir(id)).map_err(refused("see what a server takes"))?;
            let [memory_kib, disk_bytes, open_files] = taken;
            report.usage.push(Usage {
                at: began.elapsed().as_secs(),
                server: id.0,
                up_seconds: up.1.elapsed().as_secs(),
                memory_mib: memory_kib >> 10,
                disk_mib: disk_bytes >> 20,
                open_files,
            });
        }
        Ok(())
    }
}

/// KiB of memory, bytes of disk, open files.
fn taken(pid: u32, data_dir: &Path) -> io::Result<[u64; 3]> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let memory = memory.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0);
    let open_files = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
    Ok([memory, bytes_below(data_dir)?, open_files])
}

/// Writes keys that nobody else writes, and knows what must be there.
struct Writer {
    number: u32,
    client: Client,
    next: u64,
    /// By key: the last write that was acknowledged, and the last that was tried.
    keys: Vec<(u64, u64)>,
}

impl Writer {
    fn new(number: u32, client: Client) -> Self {
        Self { number, client, next: 1, keys: vec![(0, 0); KEYS_OF_EACH as usize] }
    }

    fn key(&self, place: usize) -> String {
        format!("soak/{:03}/{place:05}", self.number)
    }

    async fn run(mut self, rate: Option<u64>, shared: Arc<Shared>) -> Self {
        let every =
            rate.map(|rate| Duration::from_secs(WRITERS.into()) / u32::try_from(rate).unwrap_or(u32::MAX));
        let mut pace = every.map(interval);
        if let Some(pace) = &mut pace {
            // What could not be written in time is not made up for: nothing piles up behind a fault.
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        while !shared.over.load(Ordering::Relaxed) {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            match self.write().await {
                Ok(()) => shared.acknowledged.fetch_add(1, Ordering::Relaxed),
                Err(_) => {
                    sleep(PAUSE_AFTER_FAILURE).await;
                    shared.failed.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
        self
    }

    async fn write(&mut self) -> Result<(), Error> {
        let (write, place) = (self.next, usize::try_from(self.next).unwrap_or(0) % self.keys.len());
        self.next += 1;
        self.keys[place].1 = write;
        self.client.put(self.key(place), format!("{write:0VALUE_BYTES$}")).await?;
        self.keys[place].0 = write;
        Ok(())
    }

    /// Reads all keys: each must hold what was acknowledged last, or what was tried since. Gives how many there are.
    async fn verify(&self, client: &Client) -> Result<u64, Failure> {
        let deadline = Instant::now() + READ_TIMEOUT;
        for (place, (acknowledged, tried)) in self.keys.iter().enumerate() {
            let found = loop {
                match client.get(self.key(place)).await {
                    Ok(found) => break found,
                    Err(error) if Instant::now() > deadline => {
                        return Err(Failure::Client(error.to_string()));
                    }
                    Err(_) => {}
                }
            };
            let text = found.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
            let write = text.as_ref().map_or(Some(0), |text| text.parse::<u64>().ok());
            if write.is_none_or(|write| write < *acknowledged || write > *tried) {
                return Err(Failure::Lost {
                    key: self.key(place),
                    was: format!("write {acknowledged} or one up to {tried}"),
                    is: text.unwrap_or_else(|| "nothing".to_owned()),
                });
            }
        }
        Ok(self.keys.len() as u64)
    }
}
