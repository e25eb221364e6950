//! Shrinking: which of a seed's faults does it take to break a promise?
//!
//! Delta debugging (Zeller and Hildebrandt, 2002) over the list of faults. A smaller run may break another promise than the
//! first one did: it is as good, since it is a smaller run to read.

use std::collections::BTreeSet;

use crate::plan::Plan;
use crate::trace::Trace;

/// How many runs it may take.
const RUNS_MAX: usize = 400;

/// A failing run with as few faults as were found to be enough.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The whole plan.
    pub plan: Plan,
    /// The numbers of the faults that are enough.
    pub only: Vec<usize>,
}

/// Shrinks a plan that breaks a promise.
pub fn shrink(plan: &Plan) -> Shrunk {
    let mut runs = 0;
    let only = smallest(plan.faults.len(), |only| {
        runs += 1;
        let mut smaller = plan.clone();
        smaller.keep_only(&only.iter().copied().collect::<BTreeSet<_>>());
        runs <= RUNS_MAX && crate::run(smaller, Trace::default()).violation.is_some()
    });
    Shrunk { plan: plan.clone(), only }
}

/// A list of numbers below `count` that fails, and fails no more without any one of them, as far as was tried.
fn smallest(count: usize, mut fails: impl FnMut(&[usize]) -> bool) -> Vec<usize> {
    let mut only: Vec<usize> = (0..count).collect();
    let mut parts = 2;
    while !only.is_empty() {
        let size = only.len().div_ceil(parts);
        let mut without = only.chunks(size).enumerate().map(|(left_out, _)| {
            let chunks = only.chunks(size).enumerate().filter(|(place, _)| *place != left_out);
            chunks.flat_map(|(_, chunk)| chunk).copied().collect::<Vec<_>>()
        });
        match without.find(|rest| fails(rest)) {
            Some(rest) => {
                drop(without);
                only = rest;
                parts = parts.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => parts *= 2,
        }
    }
    only
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_takes_is_kept_and_nothing_else() {
        for needed in [vec![], vec![0], vec![99], vec![3, 40, 41], (0..100).step_by(9).collect()] {
            let fails = |only: &[usize]| needed.iter().all(|number| only.contains(number));
            assert_eq!(smallest(100, fails), needed);
        }
    }

    #[test]
    fn it_takes_either_of_two() {
        assert_eq!(smallest(50, |only| only.contains(&7) || only.contains(&31)).len(), 1);
    }
}
