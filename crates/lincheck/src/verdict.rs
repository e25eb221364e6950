//! What a check gives.

use std::fmt;

use crate::history::Malformed;

/// How far the checkers go before they say [`Verdict::Undecided`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Witness check: operations replayed and places looked at. Without writes of unknown outcome it takes one for each
    /// operation.
    pub revision_steps_max: u64,
    /// Search: configurations that are kept for one group of keys, at about 40 bytes each; they are forgotten before the
    /// next group.
    pub memo_max: usize,
    /// Search: operations tried, in all.
    pub search_steps_max: u64,
    /// Operations judged while the offending part is made small. When they are used up, the part is as small as it got.
    pub minimise_steps_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            revision_steps_max: 100_000_000,
            memo_max: 8_000_000,
            search_steps_max: 200_000_000,
            minimise_steps_max: 20_000_000,
        }
    }
}

/// Which way a history was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The witness check: the order that the revisions tell.
    Revision,
    /// The search of Wing, Gong and Lowe: any order.
    Search,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Revision => "by revision",
            Self::Search => "by search",
        })
    }
}

/// Whether a history is linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is, as far as the coverage says.
    Linearizable(Coverage),
    /// It is not.
    NotLinearizable(Violation),
    /// Nobody knows. This is a failure of the test that recorded the history.
    Undecided(Undecided),
}

impl Verdict {
    /// Whether it is [`Verdict::Linearizable`].
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable(coverage) => write!(f, "linearizable: {coverage}"),
            Self::NotLinearizable(violation) => write!(f, "not linearizable, {violation}"),
            Self::Undecided(undecided) => write!(f, "undecided: {undecided}"),
        }
    }
}

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Operations with an answer, and writes of unknown outcome.
    pub operations: usize,
    /// Operations that can tell nothing: not applied, or reads without an answer.
    pub left_out: usize,
    /// Whether the witness check looked at them.
    pub by_revision: bool,
    /// What the search looked at, if it was asked.
    pub by_search: Option<SearchCoverage>,
}

impl Coverage {
    /// Whether the search came to an end, too, in every group of keys.
    pub fn is_searched(&self) -> bool {
        self.by_search.as_ref().is_some_and(|search| search.groups_undecided == 0)
    }
}

/// What the search looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchCoverage {
    /// Operations that it judged.
    pub operations: usize,
    /// Scans, which it leaves to the witness check.
    pub scans: usize,
    /// Groups of keys that it judged apart.
    pub groups: usize,
    /// Groups that were too much for its bounds. Only next to a witness check that passed: that alone is a proof.
    pub groups_undecided: usize,
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations", self.operations)?;
        if self.left_out > 0 {
            write!(f, " (and {} that tell nothing)", self.left_out)?;
        }
        if self.by_revision {
            f.write_str(", all of them by revision")?;
        }
        if let Some(search) = &self.by_search {
            write!(f, ", {} by search in {} groups of keys", search.operations, search.groups)?;
            if search.scans > 0 {
                let who = if self.by_revision {
                    "by revision alone"
                } else {
                    "by nobody: run the witness check, too"
                };
                write!(f, "; {} scans {who}", search.scans)?;
            }
            if search.groups_undecided > 0 {
                write!(f, "; {} groups were too much for the search", search.groups_undecided)?;
            }
        }
        Ok(())
    }
}

/// A part of a history that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who found it.
    pub method: Method,
    /// What contradicts what, in a sentence.
    pub reason: String,
    /// The operations, by their places in the history.
    pub operations: Vec<usize>,
    /// Their time line, as text.
    pub drawing: String,
    /// Whether an order exists if revisions are only names: then it is the revisions that are wrong, or a scan. `None`:
    /// nobody looked, or it is not known.
    pub explained_without_order: Option<bool>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.method, self.reason)?;
        if self.explained_without_order == Some(true) {
            writeln!(f, "(the search finds an order: it is the revisions that are wrong, or a scan)")?;
        }
        writeln!(f)?;
        f.write_str(&self.drawing)
    }
}

/// Why there is no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// The history is not one.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A bound of [`Options`] was reached.
    #[error("{method}: {reason}")]
    Bound {
        /// Whose bound.
        method: Method,
        /// Which, and how far it got.
        reason: String,
    },
    /// The witness check has an order in hand and the search says that there is none: one of them is wrong.
    #[error(
        "the witness check found an order, the search says that there is none: this is a mistake of the checker. {0}"
    )]
    Contradiction(String),
}
