//! Scans: all rows are read from the disk and hashed, beside everything else, at a bounded rate (STORAGE.md, "Scrub and digests").

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use raftmap_replica::{Event, StateDigest};
use raftmap_state::{ContentDigest, StateError};
use rustix::fs::{Advice, fadvise};

use super::failstop::{Failstop, NodeError};
use super::inbox::Inbox;

/// How much is read at a time.
const STEP_BYTES: u64 = 256 << 10;

/// Scans the state, one scan at a time.
pub(crate) struct Scanner {
    pub(crate) inbox: Inbox,
    pub(crate) failstop: Failstop,
    pub(crate) bytes_per_second: u64,
    pub(crate) running: Option<Running>,
}

/// A scan that was begun.
pub(crate) struct Running {
    cancelled: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Scanner {
    /// Begins a scan of the state in `directory`, unless one is still under way: then this one is left out.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(crate) fn begin(&mut self, directory: PathBuf, scan: ContentDigest) -> Result<(), NodeError> {
        let index = scan.at().index;
        if self.running.as_ref().is_some_and(|running| !running.thread.is_finished()) {
            tracing::warn!(%index, "a scan is left out: the one before is still under way");
            return Ok(());
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let (inbox, bytes_per_second) = (self.inbox.clone(), self.bytes_per_second);
        let watch = Arc::clone(&cancelled);
        let thread = self.failstop.spawn("scan", move || {
            if let Err(error) = forget_cached(&directory) {
                // Then it hashes what memory has of the files: that finds less, and nothing that is not so.
                tracing::warn!(%error, "a scan reads what the page cache holds, too");
            }
            if let Some(found) = read(scan, bytes_per_second, &watch)? {
                inbox.event(found);
            }
            Ok(())
        })?;
        self.running = Some(Running { cancelled, thread });
        Ok(())
    }

    /// Ends the scan that is under way, if one is: once this is back, nothing is heard of it, and the state is free.
    pub(crate) fn cancel(&mut self) {
        if let Some(Running { cancelled, thread }) = self.running.take() {
            cancelled.store(true, Ordering::Release);
            // Whatever it ended with, the failstop knows.
            drop(thread.join());
        }
    }
}

/// Reads to the end; `None` if it is cancelled on the way.
///
/// # Errors
/// If the engine fails for another reason than that its rows are damaged: the node ends.
fn read(
    mut scan: ContentDigest,
    bytes_per_second: u64,
    cancelled: &AtomicBool,
) -> Result<Option<Event>, NodeError> {
    let (index, began) = (scan.at().index, Instant::now());
    let pause = Duration::from_nanos(STEP_BYTES.saturating_mul(1_000_000_000) / bytes_per_second.max(1));
    let mut next = began;
    while !cancelled.load(Ordering::Acquire) {
        match scan.advance(STEP_BYTES) {
            Ok(None) => {}
            Ok(Some(digest)) => {
                tracing::info!(%index, took = ?began.elapsed(), "all rows are read");
                metrics::histogram!("raftmap_scan_seconds").record(began.elapsed());
                return Ok(Some(Event::Scanned(StateDigest { index, digest: digest.0 })));
            }
            Err(error) if error.is_damage() => {
                return Ok(Some(Event::ScanFailed { index, reason: error.to_string() }));
            }
            Err(error) => return Err(StateError::from(error).into()),
        }
        next += pause;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(None)
}

/// Lets the page cache forget all files in a directory, so that they are read from the disk again.
fn forget_cached(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            forget_cached(&path)?;
        } else {
            match File::open(&path) {
                Ok(file) => fadvise(file, 0, None, Advice::DontNeed)?,
                // The engine removes files beside this.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
