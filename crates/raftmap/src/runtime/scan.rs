//! Scans: the state's files are read from the disk and compared with their checksums, and all rows are hashed, beside everything
//! else, at a bounded rate (STORAGE.md, "Scrub and digests"). The first finds what rotted, the second what was written wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use raftmap_replica::{Event, StateDigest};
use raftmap_state::{ContentDigest, Digest, EngineError, FileCheck, StateError};

use super::failstop::{Failstop, NodeError};
use super::inbox::Inbox;
use crate::causes::causes;

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
    /// Begins a scan of a state and its files, unless one is still under way: then this one is left out.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(crate) fn begin(&mut self, files: FileCheck, rows: ContentDigest) -> Result<(), NodeError> {
        let index = rows.at().index;
        if self.running.as_ref().is_some_and(|running| !running.thread.is_finished()) {
            tracing::warn!(%index, "a scan is left out: the one before is still under way");
            return Ok(());
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let (inbox, bytes_per_second) = (self.inbox.clone(), self.bytes_per_second);
        let watch = Arc::clone(&cancelled);
        let thread = self.failstop.spawn("scan", move || {
            if let Some(found) = read(Reading { files: Some(files), rows }, bytes_per_second, &watch)? {
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

/// What is left to read.
struct Reading {
    files: Option<FileCheck>,
    rows: ContentDigest,
}

impl Reading {
    fn advance(&mut self) -> Result<Option<Digest>, EngineError> {
        let Some(files) = &mut self.files else { return self.rows.advance(STEP_BYTES) };
        if files.advance(STEP_BYTES)? {
            self.files = None;
        }
        Ok(None)
    }
}

/// Reads to the end; `None` if it is cancelled on the way.
///
/// # Errors
/// If the engine fails for another reason than that its rows are damaged: the node ends.
fn read(
    mut reading: Reading,
    bytes_per_second: u64,
    cancelled: &AtomicBool,
) -> Result<Option<Event>, NodeError> {
    let (index, began) = (reading.rows.at().index, Instant::now());
    let pause = Duration::from_nanos(STEP_BYTES.saturating_mul(1_000_000_000) / bytes_per_second.max(1));
    let mut next = began;
    while !cancelled.load(Ordering::Acquire) {
        match reading.advance() {
            Ok(None) => {}
            Ok(Some(digest)) => {
                tracing::info!(%index, took = ?began.elapsed(), "all rows are read");
                metrics::histogram!("raftmap_scan_seconds").record(began.elapsed());
                return Ok(Some(Event::Scanned(StateDigest { index, digest: digest.0 })));
            }
            Err(error) if error.is_damage() => {
                return Ok(Some(Event::ScanFailed { index, reason: causes(&error) }));
            }
            Err(error) => return Err(StateError::from(error).into()),
        }
        next += pause;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(None)
}
