//! When ticks are handed in: the clock of consensus as a driver keeps it.

use std::time::Duration;

/// A wait that ends so many ticks late was no wait: the process was stopped.
const STALL_TICKS: u32 = 10;

/// How many quiet ticks are slept through at most.
const QUIET_TICKS_MAX: u32 = 100;

/// The ticks of one driver. It sleeps until [`Self::due`], or until something happens; then it hands in what
/// [`Self::caught_up`] says, what has happened, and what [`Self::is_due`] says, in this order. All times are since some
/// moment before it began.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    every: Duration,
    /// When the next tick is to be handed in.
    next: Duration,
    /// How many ticks from then on only count time.
    quiet: u32,
}

impl Ticks {
    /// Ticks of this length, from `now` on.
    pub fn new(every: Duration, now: Duration) -> Self {
        Self { every, next: now + every, quiet: 0 }
    }

    /// Until when there is nothing to do, if nothing happens; `quiet` is [`crate::Replica::quiet_ticks`].
    pub fn due(&mut self, quiet: u32) -> Duration {
        self.quiet = quiet.min(QUIET_TICKS_MAX);
        self.next + self.every * self.quiet
    }

    /// How many quiet ticks passed during the sleep: they come before whatever ended it. None when the process was stopped
    /// meanwhile, for time that it did not live through says nothing of a leader's silence.
    pub fn caught_up(&mut self, now: Duration) -> u32 {
        let due = self.next + self.every * self.quiet;
        if now > due + self.every * STALL_TICKS {
            return 0;
        }
        let mut passed = 0;
        while passed < self.quiet && now >= self.next {
            self.next += self.every;
            passed += 1;
        }
        passed
    }

    /// Whether a tick is due: one, however late, after what was said meanwhile.
    pub fn is_due(&mut self, now: Duration) -> bool {
        let due = now >= self.next;
        if due {
            self.next = (self.next + self.every).max(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn who_sleeps_through_quiet_ticks_hands_them_in_when_woken() {
        let mut ticks = Ticks::new(ms(50), ms(0));
        assert_eq!(ticks.due(4), ms(250), "four quiet ones, and the one that is not");
        assert_eq!(ticks.caught_up(ms(130)), 2);
        assert!(!ticks.is_due(ms(130)));
        assert_eq!(ticks.due(2), ms(250));
        assert_eq!(ticks.caught_up(ms(251)), 2);
        assert!(ticks.is_due(ms(251)));
        assert_eq!(ticks.due(0), ms(300));
    }

    #[test]
    fn a_late_tick_is_one_tick() {
        let mut ticks = Ticks::new(ms(50), ms(0));
        ticks.due(0);
        assert_eq!(ticks.caught_up(ms(400)), 0);
        assert!(ticks.is_due(ms(400)));
        assert_eq!(ticks.due(0), ms(400));
    }

    #[test]
    fn who_was_stopped_has_not_waited() {
        let mut ticks = Ticks::new(ms(50), ms(0));
        ticks.due(10);
        assert_eq!(ticks.caught_up(ms(5000)), 0);
        assert!(ticks.is_due(ms(5000)));
        assert!(ticks.is_due(ms(5000)), "and then goes on from now");
        assert!(!ticks.is_due(ms(5000)));
    }
}
