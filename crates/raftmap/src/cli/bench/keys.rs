//! Which key a request takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use clap::ValueEnum;

/// How requests are spread over the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Distribution {
    /// Each as likely as any other
    #[default]
    Uniform,
    /// Few of them most of the time: Zipf's law, exponent 0.99
    Zipf,
    /// One after the other
    Sequential,
}

/// Picks keys. Clones go on where the others are.
#[derive(Clone)]
pub(super) enum Keys {
    Uniform { count: u32 },
    Zipf(Zipf),
    Sequential { count: u32, next: Arc<AtomicU32> },
}

impl Keys {
    pub(super) fn new(distribution: Distribution, count: u32) -> Self {
        match distribution {
            Distribution::Uniform => Self::Uniform { count },
            Distribution::Zipf => Self::Zipf(Zipf::new(count)),
            Distribution::Sequential => Self::Sequential { count, next: Arc::default() },
        }
    }

    pub(super) fn pick(&self) -> Bytes {
        key(match self {
            Self::Uniform { count } => fastrand::u32(..count),
            Self::Zipf(zipf) => zipf.pick(fastrand::f64()),
            Self::Sequential { count, next } => next.fetch_add(1, Ordering::Relaxed) % count,
        })
    }
}

/// So many different keys there can be.
pub(super) const KEYS_MAX: u32 = 1_000_000_000;

/// The key of that number, 16 bytes.
pub(super) fn key(number: u32) -> Bytes {
    format!("rbench/{number:09}").into()
}

/// Zipf's law by the method of Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD 1994).
#[derive(Clone)]
pub(super) struct Zipf {
    count: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    const THETA: f64 = 0.99;

    fn new(count: u32) -> Self {
        let zeta = |count: u32| -> f64 { (1..=count).map(|n| f64::from(n).powf(-Self::THETA)).sum() };
        let (total, alpha, count) = (zeta(count), 1.0 / (1.0 - Self::THETA), f64::from(count));
        let eta = (1.0 - (2.0 / count).powf(1.0 - Self::THETA)) / (1.0 - zeta(2) / total);
        Self { count, zeta: total, alpha, eta }
    }

    /// The key for a number between 0 and 1 by chance; the first ones are the likely ones.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to below the count")]
    fn pick(&self, chance: f64) -> u32 {
        let scaled = chance * self.zeta;
        if scaled < 1.0 || self.count < 2.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(Self::THETA) {
            return 1;
        }
        let place = self.count * (self.eta * chance - self.eta + 1.0).powf(self.alpha);
        place.min(self.count - 1.0) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_of_sixteen_bytes() {
        assert_eq!(key(0).len(), 16);
        assert_eq!(key(KEYS_MAX - 1).len(), 16);
    }

    #[test]
    fn a_few_keys_are_most_of_what_zipf_picks() {
        let zipf = Zipf::new(10_000);
        let picked: Vec<u32> = (0..10_000).map(|n| zipf.pick(f64::from(n) / 10_000.0)).collect();
        assert!(picked.is_sorted() && *picked.last().unwrap() > 9_900);
        let hot = picked.iter().filter(|key| **key < 100).count();
        assert!((4_000..7_000).contains(&hot), "{hot} of 10,000 for a hundredth of the keys");
        assert_eq!(Zipf::new(1).pick(0.99), 0);
    }

    #[test]
    fn sequential_keys_come_round() {
        let keys = Keys::new(Distribution::Sequential, 3);
        let picked: Vec<_> = (0..4).map(|_| keys.clone().pick()).collect();
        assert_eq!(picked, [key(0), key(1), key(2), key(0)]);
    }
}
