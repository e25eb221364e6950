//! What became of the lines: acknowledged, read back, lost.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

/// The lines of a demo, by their place in the input.
#[derive(Debug)]
pub(super) struct Tally {
    acked: Vec<bool>,
    acked_at: Vec<Instant>,
    /// Why writes were not acknowledged.
    pub(super) refused: Vec<String>,
    verified: usize,
    lost: usize,
    wrong: usize,
}

impl Tally {
    pub(super) fn new(lines: usize) -> Self {
        let (acked, acked_at) = (vec![false; lines], Vec::with_capacity(lines));
        Self { acked, acked_at, refused: Vec::new(), verified: 0, lost: 0, wrong: 0 }
    }

    /// A line's write was acknowledged.
    pub(super) fn ack(&mut self, place: usize, at: Instant) {
        self.acked[place] = true;
        self.acked_at.push(at);
    }

    /// A line was read back: what it should be, and what is there. What was never acknowledged may be there or not, but
    /// nothing else may.
    pub(super) fn check(&mut self, place: usize, expected: &Bytes, found: Option<&Bytes>) {
        match found {
            Some(found) if found != expected => self.wrong += 1,
            Some(_) => self.verified += usize::from(self.acked[place]),
            None => self.lost += usize::from(self.acked[place]),
        }
    }

    pub(super) fn acked(&self) -> usize {
        self.acked_at.len()
    }

    /// Whether everything was acknowledged and came back.
    pub(super) fn is_whole(&self) -> bool {
        self.verified == self.acked.len()
    }

    /// Lines of which something else came back.
    pub(super) fn wrong(&self) -> usize {
        self.wrong
    }

    /// The longest time between two acknowledgements.
    pub(super) fn longest_gap(&self) -> Duration {
        let mut times = self.acked_at.clone();
        times.sort();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// The last line of the demo.
    pub(super) fn summary(&self) -> String {
        format!(
            "acked {} · verified {} · lost {} · longest gap {} ms",
            self.acked(),
            self.verified,
            self.lost,
            self.longest_gap().as_millis()
        )
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "lines": self.acked.len(),
            "acked": self.acked(),
            "verified": self.verified,
            "lost": self.lost,
            "wrong": self.wrong,
            "refused": self.refused,
            "longest_gap_ms": u64::try_from(self.longest_gap().as_millis()).unwrap_or(u64::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: Bytes = Bytes::from_static(b"v");

    /// Four lines, of which the first three were acknowledged.
    fn tally() -> Tally {
        let mut tally = Tally::new(4);
        let began = Instant::now();
        for (place, ms) in [(1, 10), (0, 0), (2, 45)] {
            tally.ack(place, began + Duration::from_millis(ms));
        }
        tally
    }

    #[test]
    fn the_longest_gap_is_between_neighbours_in_time() {
        assert_eq!(tally().longest_gap(), Duration::from_millis(35));
        assert_eq!(Tally::new(1).longest_gap(), Duration::ZERO);
    }

    #[test]
    fn what_was_acknowledged_must_come_back() {
        let mut tally = tally();
        tally.check(0, &VALUE, Some(&VALUE));
        tally.check(1, &VALUE, None);
        tally.check(2, &VALUE, Some(&Bytes::from_static(b"x")));
        tally.check(3, &VALUE, None);
        assert_eq!(tally.summary(), "acked 3 · verified 1 · lost 1 · longest gap 35 ms");
        assert_eq!(tally.wrong(), 1);
        assert!(!tally.is_whole());
    }

    #[test]
    fn what_was_not_acknowledged_is_neither_lost_nor_verified() {
        for found in [None, Some(&VALUE)] {
            let mut tally = tally();
            for place in 0..3 {
                tally.check(place, &VALUE, Some(&VALUE));
            }
            tally.check(3, &VALUE, found);
            assert_eq!(tally.summary(), "acked 3 · verified 3 · lost 0 · longest gap 35 ms");
            assert!(!tally.is_whole());
        }
    }
}
