//! How fast snapshots leave.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Lets so many bytes a second pass, of all snapshots together. What was not used is not saved up: after a pause the rate is
/// the same as ever, so that the other work of disk and network is never pushed aside by a burst.
#[derive(Debug)]
pub(in crate::peers) struct Pacer {
    bytes_per_second: u64,
    /// When the bytes before are through.
    free_at: Mutex<Instant>,
}

impl Pacer {
    pub(in crate::peers) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Waits for the turn of this many bytes.
    pub(super) async fn pass(&self, bytes: usize) {
        let begin = self.reserve(Instant::now(), bytes);
        sleep_until(begin).await;
    }

    /// When this many bytes may leave.
    fn reserve(&self, now: Instant, bytes: usize) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = now.max(*free_at);
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(self.bytes_per_second);
        *free_at = begin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX >> 8));
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_leave_at_the_rate_and_a_pause_saves_nothing_up() {
        let (pacer, start) = (Pacer::new(1000), Instant::now());
        let ms = Duration::from_millis;
        assert_eq!(pacer.reserve(start, 500), start.max(pacer.reserve(start, 0) - ms(500)));
        assert_eq!(pacer.reserve(start, 1000), start + ms(500));
        assert_eq!(pacer.reserve(start + ms(1400), 100), start + ms(1500));
        // A pause of a minute.
        let later = start + ms(61_600);
        assert_eq!(pacer.reserve(later, 1000), later);
        assert_eq!(pacer.reserve(later, 1000), later + ms(1000));
    }

    #[tokio::test]
    async fn a_rate_of_nothing_is_slow_and_does_not_fail() {
        let (pacer, start) = (Pacer::new(0), Instant::now());
        pacer.reserve(start, 10);
        assert_eq!(pacer.reserve(start, 0), start.max(pacer.reserve(start, 0)));
        assert!(pacer.reserve(start, usize::MAX) >= start + Duration::from_secs(9));
    }
}
