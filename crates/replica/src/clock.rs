//! The time that a leader stamps on commands.

use std::collections::BTreeMap;

use raftmap_raft::NodeId;

use crate::event::Now;

/// The clock of a leader among the clocks of the others. If it is far from their median, it is not believed: time then
/// goes on by the monotonic clock.
#[derive(Debug)]
pub(crate) struct Clock {
    skew_max_ms: u64,
    /// How far the others' clocks are ahead of this one, when last heard of, in milliseconds.
    offsets_ms: BTreeMap<NodeId, i64>,
    last_stamp_ms: u64,
    last_monotonic_ms: u64,
}

impl Clock {
    pub(crate) fn new(skew_max_ms: u64) -> Self {
        Self { skew_max_ms, offsets_ms: BTreeMap::new(), last_stamp_ms: 0, last_monotonic_ms: 0 }
    }

    /// Takes note of another server's clock.
    pub(crate) fn heard(&mut self, peer: NodeId, clock_ms: u64, now: Now) {
        let offset_ms = i64::try_from(i128::from(clock_ms) - i128::from(now.wall_ms));
        self.offsets_ms
            .insert(peer, offset_ms.unwrap_or(if clock_ms > now.wall_ms { i64::MAX } else { i64::MIN }));
    }

    /// Forgets a server that is not connected any more.
    pub(crate) fn lost(&mut self, peer: NodeId) {
        self.offsets_ms.remove(&peer);
    }

    /// How far this clock is ahead of the median of all clocks known, if that is too far, in milliseconds.
    pub(crate) fn distrusted_skew_ms(&self) -> Option<i64> {
        let mut offsets: Vec<i64> = self.offsets_ms.values().copied().chain([0]).collect();
        offsets.sort_unstable();
        let middle = offsets.len() / 2;
        let median = if offsets.len() % 2 == 1 {
            offsets[middle]
        } else {
            offsets[middle - 1].midpoint(offsets[middle])
        };
        (median.unsigned_abs() > self.skew_max_ms).then_some(median.saturating_neg())
    }

    /// Goes on from the log time that the state machine has reached.
    pub(crate) fn reached(&mut self, log_time_ms: u64, now: Now) {
        if log_time_ms > self.last_stamp_ms {
            self.last_stamp_ms = log_time_ms;
            self.last_monotonic_ms = now.monotonic_ms;
        }
    }

    /// The time for a command that is proposed now. It never goes back.
    pub(crate) fn stamp_ms(&mut self, now: Now) -> u64 {
        let elapsed_ms = now.monotonic_ms.saturating_sub(self.last_monotonic_ms);
        self.last_stamp_ms = match self.distrusted_skew_ms() {
            None => self.last_stamp_ms.max(now.wall_ms),
            Some(_) => self.last_stamp_ms.saturating_add(elapsed_ms),
        };
        self.last_monotonic_ms = now.monotonic_ms;
        self.last_stamp_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_ms: u64, monotonic_ms: u64) -> Now {
        Now { wall_ms, monotonic_ms }
    }

    #[test]
    fn a_clock_that_is_far_from_the_median_is_not_stamped() {
        let mut clock = Clock::new(5_000);
        clock.reached(100_000, at(100_000, 50));
        assert_eq!(clock.stamp_ms(at(100_010, 60)), 100_010);
        let jumped = at(900_000, 70);
        clock.heard(NodeId(2), 100_020, jumped);
        clock.heard(NodeId(3), 100_021, jumped);
        assert_eq!(clock.distrusted_skew_ms(), Some(799_979));
        assert_eq!(clock.stamp_ms(jumped), 100_020, "by the monotonic clock");
        assert_eq!(clock.stamp_ms(at(900_030, 100)), 100_050);
        clock.heard(NodeId(2), 100_060, at(100_060, 110));
        assert_eq!(clock.distrusted_skew_ms(), None, "two of three agree");
    }

    #[test]
    fn time_never_goes_back() {
        let mut clock = Clock::new(5_000);
        assert_eq!(clock.stamp_ms(at(2_000, 0)), 2_000);
        assert_eq!(clock.stamp_ms(at(1_000, 10)), 2_000);
        clock.reached(3_000, at(1_010, 20));
        assert_eq!(clock.stamp_ms(at(1_020, 30)), 3_000);
    }

    #[test]
    fn clocks_at_the_ends_of_time_do_no_harm() {
        let mut clock = Clock::new(5_000);
        clock.heard(NodeId(2), u64::MAX, at(0, 0));
        clock.heard(NodeId(3), 0, at(u64::MAX, 0));
        clock.heard(NodeId(4), 0, at(u64::MAX, 0));
        assert!(clock.distrusted_skew_ms().is_some());
        clock.stamp_ms(at(7, 7));
    }
}
