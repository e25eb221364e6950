//! Whether what clients were told goes together.

use raftmap_lincheck::{Operation, Options, Verdict, check};

use crate::oracle::{Violation, broken};

/// How far the checks go in each run. The search is the second opinion, and needs no revision to be true; the first one,
/// by revision, is exact and must be decided.
const BOUNDS: Options = Options {
    revision_steps_max: 100_000_000,
    memo_max: 50_000,
    search_steps_max: 200_000,
    minimise_steps_max: 20_000_000,
};

/// Checks a history both ways. Gives whether the search came to an end.
pub(crate) fn of(history: &[Operation]) -> Result<bool, Violation> {
    match check(history, &BOUNDS) {
        Verdict::Linearizable(coverage) => Ok(coverage.is_searched()),
        verdict => broken!("{verdict}"),
    }
}
