//! Is what the clients of a raftmap cluster saw what one map, used by one client after the other, would have answered?
//! That is *linearizability* (Herlihy and Wing 1990): each operation took effect at one moment between its call and its
//! return.
//!
//! [`check`] takes a *history*, a list of [`Operation`]s, and gives a [`Verdict`]: linearizable; not, with a drawing of the
//! few operations that contradict each other; or undecided, which counts as a failure. The map is empty at the start of a
//! history; keys that expire have no place in one.
//!
//! # Two methods
//!
//! | | [`check_by_revision`] | [`check_by_search`] |
//! |---|---|---|
//! | idea | the revisions in the answers tell the order; replay it | look for any order that fits (Wing, Gong, Lowe) |
//! | trusts revisions | as a part of every answer that must be right | only as names of writes |
//! | judges | everything: transactions, many keys, scans | everything but scans |
//! | cost | one replay; a search only over writes of unknown outcome | a search for each group of keys that operations join |
//! | finds beyond the other | revisions that lie, orders across keys and scans | nothing: it guards against a mistake in the other |
//!
//! An order that the witness check accepts is a proof, whatever revisions are worth. The search tells whether a history
//! that fails is wrong in its values, too, or only in its revisions.
//!
//! A write of unknown outcome may have been applied at any time after its call, or never. Both methods say
//! "linearizable" if *some* fate of these writes explains all answers. Both give up at a bound ([`Options`]), never before
//! the bound, and say so.
//!
//! # The file format
//!
//! JSON lines, one [`Operation`] each, in any order. Keys and values are strings, or `{"base64": "..."}` if they are not
//! UTF-8. Times are of one monotonic clock, in any unit.
//!
//! ```
//! # use raftmap_lincheck::{Options, check, read_history};
//! let lines = r#"
//! {"client": 1, "call": 10, "end": 25, "request": {"put": {"entries": [["cat", "tom"]]}}, "outcome": {"done": {"put": {"revision": 4}}}}
//! {"client": 2, "call": 15, "end": 31, "request": {"get": {"keys": ["cat", "dog"]}}, "outcome": {"done": {"got": {"revision": 4, "records": [{"value": "tom", "revision": 4}, null]}}}}
//! {"client": 3, "call": 33, "request": {"delete": {"keys": ["cat"]}}, "outcome": "unknown"}
//! {"client": 1, "call": 35, "end": 41, "request": {"txn": {"conditions": [{"key": "cat", "expected": {"exists": false}}], "then": [{"put": ["cat", {"base64": "/wA="}]}, {"delete": "dog"}], "otherwise": [{"get": "cat"}]}}, "outcome": {"done": {"txn": {"revision": 6, "succeeded": true, "results": [null, null]}}}}
//! {"client": 2, "call": 50, "end": 58, "request": {"scan": {"start": "a", "end": "", "limit": 0}}, "outcome": {"done": {"scanned": {"revision": 7, "records": [["cat", {"value": {"base64": "/wA="}, "revision": 6}]]}}}}
//! {"client": 2, "call": 60, "end": 62, "request": {"put": {"entries": [["cat", ""]]}}, "outcome": "not_applied"}
//! "#;
//! let history = read_history(lines.as_bytes())?;
//! assert!(check(&history, &Options::default()).is_linearizable());
//! # Ok::<(), raftmap_lincheck::ReadError>(())
//! ```
//!
//! `expected` of a condition is `{"exists": true}`, `{"revision": 4}` or `{"value": "tom"}`. A delete is answered by
//! `{"deleted": {"revision": 8, "existed": 1}}`. A transaction has a result for each step that ran: what a get saw, what
//! stood there before a put or delete.

mod draw;
mod finding;
mod history;
mod json;
mod minimise;
mod model;
mod program;
mod revision;
mod search;
mod verdict;

use self::draw::{Row, time_line};
use self::finding::{Contradiction, Finding};
use self::minimise::{Judge, Small, minimise};
use self::program::{Problem, Program};
use self::search::{Bounds, Searched};

pub use self::history::{
    Condition, Expected, Key, Malformed, Operation, Outcome, Record, Request, Response, Step, Value, validate,
};
pub use self::json::{ReadError, read_history, write_history};
pub use self::verdict::{Coverage, Method, Options, SearchCoverage, Undecided, Verdict, Violation};

/// Judges a history by both methods.
///
/// Not linearizable if one of them says so. Linearizable if the witness check says so: it has an order in hand; what the
/// search could not decide then stands in the coverage.
pub fn check(history: &[Operation], options: &Options) -> Verdict {
    let case = match Case::new(history, options) {
        Ok(case) => case,
        Err(verdict) => return verdict,
    };
    let searched = search::judge(&case.program, case.bounds());
    match (revision::judge(&case.program, options.revision_steps_max), &searched.finding) {
        (Finding::Linearizable, Finding::Linearizable | Finding::Undecided(_)) => {
            Verdict::Linearizable(case.coverage(true, Some(&searched)))
        }
        (Finding::Linearizable, Finding::Not(contradiction)) => {
            Verdict::Undecided(Undecided::Contradiction(contradiction.reason.clone()))
        }
        (Finding::Not(found), without_order) => {
            let mut violation = case.violation(Method::Revision, found);
            violation.explained_without_order = match without_order {
                Finding::Linearizable => Some(true),
                Finding::Not(_) => Some(false),
                Finding::Undecided(_) => None,
            };
            Verdict::NotLinearizable(violation)
        }
        (Finding::Undecided(reason), Finding::Linearizable | Finding::Undecided(_)) => {
            Verdict::Undecided(Undecided::Bound { method: Method::Revision, reason })
        }
        (Finding::Undecided(_), Finding::Not(_)) => case.searched(searched),
    }
}

/// Judges a history by its revisions.
pub fn check_by_revision(history: &[Operation], options: &Options) -> Verdict {
    let case = match Case::new(history, options) {
        Ok(case) => case,
        Err(verdict) => return verdict,
    };
    match revision::judge(&case.program, options.revision_steps_max) {
        Finding::Linearizable => Verdict::Linearizable(case.coverage(true, None)),
        Finding::Not(found) => Verdict::NotLinearizable(case.violation(Method::Revision, found)),
        Finding::Undecided(reason) => {
            Verdict::Undecided(Undecided::Bound { method: Method::Revision, reason })
        }
    }
}

/// Judges a history, but for its scans, without trust in revisions.
pub fn check_by_search(history: &[Operation], options: &Options) -> Verdict {
    match Case::new(history, options) {
        Ok(case) => case.searched(search::judge(&case.program, case.bounds())),
        Err(verdict) => verdict,
    }
}

/// A history that is being judged.
struct Case<'a> {
    history: &'a [Operation],
    options: &'a Options,
    program: Program,
}

impl<'a> Case<'a> {
    /// # Errors
    /// The verdict, if there is nothing to look for.
    fn new(history: &'a [Operation], options: &'a Options) -> Result<Self, Verdict> {
        match Program::new(history) {
            Ok(program) => Ok(Self { history, options, program }),
            Err(Problem::Malformed(malformed)) => Err(Verdict::Undecided(malformed.into())),
            Err(Problem::Impossible { source, reason }) => {
                let row = Row { part: &history[source], whole: &history[source], source };
                Err(Verdict::NotLinearizable(Violation {
                    method: Method::Revision,
                    reason: format!("no map gives such an answer: {reason}"),
                    operations: vec![source],
                    drawing: time_line(&[row]),
                    explained_without_order: None,
                }))
            }
        }
    }

    fn bounds(&self) -> Bounds {
        Bounds { memo_max: self.options.memo_max, steps_max: self.options.search_steps_max }
    }

    fn coverage(&self, by_revision: bool, searched: Option<&Searched>) -> Coverage {
        let scans = self.program.ops.iter().filter(|op| op.range.is_some()).count();
        let operations = self.program.ops.len();
        Coverage {
            operations,
            left_out: self.program.left_out,
            by_revision,
            by_search: searched.map(|searched| SearchCoverage {
                operations: operations - scans,
                scans,
                groups: searched.components,
                groups_undecided: searched.undecided,
            }),
        }
    }

    fn searched(&self, searched: Searched) -> Verdict {
        let coverage = self.coverage(false, Some(&searched));
        match searched.finding {
            Finding::Linearizable => Verdict::Linearizable(coverage),
            Finding::Not(found) => Verdict::NotLinearizable(self.violation(Method::Search, found)),
            Finding::Undecided(reason) => {
                Verdict::Undecided(Undecided::Bound { method: Method::Search, reason })
            }
        }
    }

    /// Makes the offending part small and draws it.
    fn violation(&self, method: Method, found: Contradiction) -> Violation {
        let steps_max = self.options.minimise_steps_max;
        let by_revision = |program: &Program| revision::judge(program, steps_max);
        let by_search = |program: &Program| search::judge(program, self.bounds()).finding;
        let judge: &dyn Fn(&Program) -> Finding = match method {
            Method::Revision => &by_revision,
            Method::Search => &by_search,
        };
        let mut judge = Judge { method, judge, steps_left: steps_max };
        let Small { parts, reason } = minimise(self.history, &self.program, found, &mut judge);
        let rows = parts.iter().map(|part| Row {
            part: &part.operation,
            whole: &self.history[part.source],
            source: part.source,
        });
        let drawing = time_line(&rows.collect::<Vec<_>>());
        let operations = parts.iter().map(|part| part.source).collect();
        Violation { method, reason, operations, drawing, explained_without_order: None }
    }
}
