//! What no store on this machine can be faster than: a write to the disk, and a round trip between two threads over loopback; and how
//! long the machine itself stands still when all of it is used.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::super::exit::Failure;
use super::load::histogram;

/// What a log writes at least.
const BLOCK_BYTES: usize = 4096;
const FILE_BYTES: usize = 4 << 20;
/// What a small request takes on the wire.
const MESSAGE_BYTES: usize = 256;
const REPETITIONS: usize = 2_000;
/// How long all cores and the disk are kept busy.
const BUSY: Duration = Duration::from_secs(3);
/// A thread that always could run, and did not for so long, was kept from it by more than another thread's turn.
const STANDSTILL: Duration = Duration::from_millis(5);

/// Medians, in microseconds.
pub(super) struct MachineReport {
    sync: u64,
    round_trip: u64,
    put: u64,
    stalls: Stalls,
}

/// When a busy thread did not run.
#[derive(Clone, Copy, Default)]
struct Stalls {
    longest: Duration,
    all: Duration,
}

/// Measures, on the disk of `folder`.
pub(super) fn measure(folder: &std::path::Path) -> Result<MachineReport, Failure> {
    measured(folder).map_err(|error| Failure::Failed(format!("cannot measure this machine: {error}")))
}

fn measured(folder: &std::path::Path) -> io::Result<MachineReport> {
    let mut disk = Disk::new(folder)?;
    let mut peer = Peer::new()?;
    let [mut sync, mut round_trip, mut put] = [(); 3].map(|()| histogram());
    // In turn, so that all have the same share of what else goes on.
    for _ in 0..REPETITIONS {
        timed(&mut sync, || disk.write())?;
        timed(&mut round_trip, || peer.round_trip())?;
        timed(&mut put, || {
            peer.round_trip()?;
            disk.write()?;
            peer.round_trip()
        })?;
    }
    let median = |latencies: &Histogram<u64>| latencies.value_at_quantile(0.5);
    let (sync, round_trip, put) = (median(&sync), median(&round_trip), median(&put));
    Ok(MachineReport { sync, round_trip, put, stalls: stalls(disk)? })
}

/// How the machine stands still while each core computes and the disk writes: virtual machines are often stopped for the rest of each tenth
/// of a second in which they have taken more than their share. Of the core that fared worst.
fn stalls(mut disk: Disk) -> io::Result<Stalls> {
    let until = Instant::now() + BUSY;
    let cores = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let cores: Vec<_> = (0..cores).map(|_| scope.spawn(move || watch_the_clock(until))).collect();
        while Instant::now() < until {
            disk.write()?;
        }
        let watched = cores.into_iter().map(|core| core.join().expect("reading the clock does not panic"));
        Ok(watched.max_by_key(|stalls| stalls.all).unwrap_or_default())
    })
}

fn watch_the_clock(until: Instant) -> Stalls {
    let (mut stalls, mut last) = (Stalls::default(), Instant::now());
    while last < until {
        let now = Instant::now();
        let gap = now - last;
        if gap >= STANDSTILL {
            stalls.all += gap;
            stalls.longest = stalls.longest.max(gap);
        }
        last = now;
    }
    stalls
}

fn timed(latencies: &mut Histogram<u64>, what: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let began = Instant::now();
    what()?;
    latencies.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    Ok(())
}

/// A file that is written already: nothing but its blocks goes to the disk.
struct Disk {
    file: File,
    at: usize,
}

impl Disk {
    fn new(folder: &std::path::Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(folder)?;
        file.write_all_at(&vec![0; FILE_BYTES], 0)?;
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&[1; BLOCK_BYTES], self.at as u64)?;
        self.at = (self.at + BLOCK_BYTES) % FILE_BYTES;
        self.file.sync_data()
    }
}

/// A thread that sends back what it gets.
struct Peer(TcpStream);

impl Peer {
    /// The thread ends when this is dropped.
    fn new() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let (mut other, _) = listener.accept()?;
        for end in [&stream, &other] {
            end.set_nodelay(true)?;
            end.set_read_timeout(Some(Duration::from_secs(60)))?;
        }
        std::thread::Builder::new().name("echo".to_owned()).spawn(move || {
            let mut message = [0; MESSAGE_BYTES];
            while other.read_exact(&mut message).and_then(|()| other.write_all(&message)).is_ok() {}
        })?;
        Ok(Self(stream))
    }

    fn round_trip(&mut self) -> io::Result<()> {
        let mut message = [0; MESSAGE_BYTES];
        self.0.write_all(&message)?;
        self.0.read_exact(&mut message)
    }
}

impl MachineReport {
    /// One sync and two round trips, each as fast as when it comes alone.
    fn sum(&self) -> u64 {
        self.sync + 2 * self.round_trip
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "sync_us": self.sync,
            "round_trip_us": self.round_trip,
            "sync_and_two_round_trips_us": self.sum(),
            "one_after_another_us": self.put,
            "standstill_percent": self.standstill_percent(),
            "standstill_longest_us": u64::try_from(self.stalls.longest.as_micros()).unwrap_or(u64::MAX),
        })
    }

    pub(super) fn text(&self) -> String {
        format!(
            "medians on this machine:\n\
             {:>6} µs  4 KiB written and synced, in a file that is written already\n\
             {:>6} µs  a round trip over loopback, between two threads\n\
             {:>6} µs  one sync and two round trips, added up: what a put that waits for no other takes at least\n\
             {:>6} µs  a round trip, a sync and a round trip, one after another\n\
             {:>6} %   of the time a core stands still for 5 ms or more, when all compute and the disk writes; {:.1} ms at the longest",
            self.sync,
            self.round_trip,
            self.sum(),
            self.put,
            self.standstill_percent(),
            self.stalls.longest.as_secs_f64() * 1e3,
        )
    }

    fn standstill_percent(&self) -> u64 {
        u64::try_from(100 * self.stalls.all.as_micros() / BUSY.as_micros()).unwrap_or(u64::MAX)
    }
}
