//! Scrubs: the log is read again from the disk, beside everything else, at a bounded rate (STORAGE.md, "Scrub and digests").

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use raftmap_log::{Disk, Rot, ScrubStep, Scrubber};
use raftmap_replica::Event;

use super::failstop::NodeError;
use super::inbox::Inbox;

/// After a pass that found something the next one is soon: entries may have come to the same segment since, and the log may have let
/// go of it.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Sent by nobody: that its sender is gone ends the thread.
pub(crate) enum Never {}

/// Reads the log again and again.
pub(crate) struct ScrubThread<D: Disk> {
    pub(crate) scrubber: Scrubber<D>,
    pub(crate) inbox: Inbox,
    /// Between the beginnings of two passes.
    pub(crate) every: Duration,
    pub(crate) bytes_per_second: u64,
}

impl<D: Disk> ScrubThread<D> {
    /// Runs until the sender of `alive` is gone.
    ///
    /// # Errors
    /// If the log fails: the node ends.
    pub(crate) fn run(self, alive: &Receiver<Never>) -> Result<(), NodeError> {
        let pause = |time: Duration| matches!(alive.recv_timeout(time), Err(RecvTimeoutError::Timeout));
        let mut wait = self.every;
        while pause(wait) {
            let began = Instant::now();
            let mut scrub = self.scrubber.scrub();
            let mut next = began;
            wait = loop {
                match scrub.advance()? {
                    (bytes, ScrubStep::More) => {
                        next += self.time_for(bytes);
                        if !pause(next.saturating_duration_since(Instant::now())) {
                            return Ok(());
                        }
                    }
                    (_, ScrubStep::Sound) => {
                        tracing::info!(took = ?began.elapsed(), "the log is on the disk as it was written");
                        metrics::counter!("raftmap_log_scrubs_total").increment(1);
                        break self.every;
                    }
                    (_, ScrubStep::Rotten(Rot { segment, offset, reason, last })) => {
                        let reason = format!("segment {segment} is damaged at offset {offset}: {reason}");
                        self.inbox.event(Event::LogRotten { last, reason });
                        break self.every.min(AGAIN_AFTER);
                    }
                }
            };
        }
        Ok(())
    }

    fn time_for(&self, bytes: usize) -> Duration {
        Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second.max(1))
    }
}
