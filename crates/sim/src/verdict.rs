//! Whether what clients were told goes together.

use raftmap_lincheck::{Operation, Options, Verdict, check_by_revision, check_by_search};

use crate::oracle::{Violation, broken};

/// How far the search goes in each run. It is the second opinion, and needs no revision to be true; the first one, by
/// revision, is exact and must be decided.
const SEARCH: Options = Options {
    revision_steps_max: 0,
    memo_max: 50_000,
    search_steps_max: 200_000,
    minimise_steps_max: 200_000,
};

/// Checks a history both ways. Gives whether the search came to an end.
pub(crate) fn of(history: &[Operation]) -> Result<bool, Violation> {
    let by_revision = check_by_revision(history, &Options::default());
    if !by_revision.is_linearizable() {
        return broken!("{by_revision}");
    }
    match check_by_search(history, &SEARCH) {
        Verdict::Linearizable(_) => Ok(true),
        Verdict::Undecided(_) => Ok(false),
        verdict @ Verdict::NotLinearizable(_) => broken!("{verdict}"),
    }
}
