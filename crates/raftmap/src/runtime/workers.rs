//! The threads that carry out what the replica wants of the disk.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use raftmap_log::{Disk, Log, LogReader};
use raftmap_raft::{FetchPurpose, LogIndex, Write};
use raftmap_replica::Event;

use super::failstop::{Failstop, NodeError};
use super::inbox::Inbox;
use super::meters::Meters;

/// The log is idle when nothing was written for this long; then the mark follows.
const IDLE: Duration = Duration::from_millis(50);
/// How often the room on the disk is measured.
const SPACE_EVERY: Duration = Duration::from_secs(1);
/// How many writes share a sync at most.
const WRITES_MAX: usize = 1024;

/// Writes the log: whatever waits shares one write and one sync.
pub(crate) struct LogThread<D: Disk> {
    pub(crate) log: Log<D>,
    pub(crate) inbox: Inbox,
    pub(crate) meters: Arc<Meters>,
    pub(crate) failstop: Failstop,
}

impl<D: Disk> LogThread<D> {
    /// Runs until the replica is gone.
    ///
    /// # Errors
    /// If the log fails: the node ends.
    pub(crate) fn run(mut self, writes: &Receiver<Write>) -> Result<(), NodeError> {
        let mut helpers = Vec::new();
        let mut marked = true;
        let mut space_at = Instant::now();
        loop {
            if Instant::now() >= space_at {
                self.inbox.event(Event::Space { free_bytes: self.log.space()?.free_bytes });
                space_at = Instant::now() + SPACE_EVERY;
            }
            match writes.recv_timeout(if marked { SPACE_EVERY } else { IDLE }) {
                Ok(first) => {
                    let batch: Vec<_> =
                        std::iter::once(first).chain(writes.try_iter().take(WRITES_MAX - 1)).collect();
                    self.write(&batch, &mut helpers)?;
                    marked = false;
                }
                Err(RecvTimeoutError::Timeout) if marked => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.log.mark()?;
                    marked = true;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // They hold the lock of the directory, which the next start of it wants.
        for helper in helpers {
            // One that panicked has told so.
            let _panicked = helper.join();
        }
        Ok(())
    }

    fn write(&mut self, batch: &[Write], helpers: &mut Vec<JoinHandle<()>>) -> Result<(), NodeError> {
        let began = Instant::now();
        let id = self.log.write(batch)?;
        self.inbox.event(Event::Persisted(id));
        let time = began.elapsed();
        self.meters.record_log_write(time);
        metrics::histogram!("raftmap_log_write_seconds").record(time);
        metrics::counter!("raftmap_log_writes_total").increment(1);
        if let Some(preparation) = self.log.prepare()? {
            helpers.push(self.failstop.spawn("prepare", move || Ok(preparation.run()?))?);
        }
        if let Some(cut) = self.log.cut()? {
            helpers.push(self.failstop.spawn("cut", move || Ok(cut.run()?))?);
        }
        helpers.retain(|helper| !helper.is_finished());
        Ok(())
    }
}

/// A range of the log that the replica wants.
pub(crate) struct FetchRequest {
    pub(crate) purpose: FetchPurpose,
    pub(crate) from: LogIndex,
    pub(crate) to: LogIndex,
    pub(crate) max_bytes: usize,
}

/// Reads old entries, for followers that are behind and for the start.
pub(crate) struct FetchWorker<D: Disk> {
    pub(crate) reader: LogReader<D>,
    pub(crate) inbox: Inbox,
}

impl<D: Disk> FetchWorker<D> {
    /// Runs until the replica is gone.
    ///
    /// # Errors
    /// If the log cannot be read: the node ends, and sends nothing that it is not sure of (scenario 25).
    pub(crate) fn run(mut self, requests: &Receiver<FetchRequest>) -> Result<(), NodeError> {
        for FetchRequest { purpose, from, to, max_bytes } in requests {
            self.inbox.event(Event::fetched(purpose, self.reader.entries(from, to, max_bytes))?);
        }
        Ok(())
    }
}
