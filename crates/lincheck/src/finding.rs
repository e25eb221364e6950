//! What a method found, in terms of the program; [`crate::verdict`] is what the caller gets.

use crate::draw::{quoted, record};
use crate::model::Mismatch;
use crate::program::{Cell, KeyId, Op, OpId, Program};

/// What a method found.
#[derive(Debug)]
pub(crate) enum Finding {
    Linearizable,
    Not(Contradiction),
    Undecided(String),
}

/// Why a history is not linearizable, before it is made small.
#[derive(Debug)]
pub(crate) struct Contradiction {
    pub(crate) reason: String,
    /// Operations that contradict each other without any other; empty: it takes others.
    pub(crate) alone: Vec<OpId>,
    /// The keys at which it showed; empty: any.
    pub(crate) keys: Vec<KeyId>,
    /// It showed before this time.
    pub(crate) until: u64,
}

impl Contradiction {
    pub(crate) fn between(reason: String, ops: &[OpId]) -> Self {
        Self { reason, alone: ops.to_vec(), keys: Vec::new(), until: u64::MAX }
    }
}

/// An operation as a person names it.
pub(crate) fn subject(op: &Op) -> String {
    let kind = match (op.is_read, op.range) {
        (true, None) => "get",
        (true, Some(_)) => "scan",
        (false, _) => "write",
    };
    if op.known {
        format!("the {kind} of client {} at revision {}", op.client, op.revision)
    } else {
        format!("the {kind} of client {}, whose outcome is unknown,", op.client)
    }
}

/// A cell as a person reads it.
pub(crate) fn cell(program: &Program, cell: Option<Cell>) -> String {
    cell.map_or_else(
        || "nothing".to_owned(),
        |cell| record(&program.values[cell.value.0 as usize], cell.revision),
    )
}

/// A mismatch as a sentence; `when` says at which moment.
pub(crate) fn mismatch(program: &Program, op: &Op, mismatch: &Mismatch, when: &str) -> String {
    let key = |key: KeyId| quoted(&program.keys[key.index()]);
    match mismatch {
        Mismatch::Saw { key: at, saw, holds } => {
            format!(
                "under {} it saw {}; {when} there was {}",
                key(*at),
                cell(program, *saw),
                cell(program, *holds)
            )
        }
        Mismatch::SawOwn { key: at, saw, holds } => format!(
            "under {} it saw {}; it had itself left {} there, one step before",
            key(*at),
            cell(program, *saw),
            cell(program, *holds)
        ),
        Mismatch::Failed { condition } => format!(
            "its conditions held, it says; {when} the one on {} did not",
            key(program.conditions(op)[*condition].key)
        ),
        Mismatch::AllHeld => format!("a condition of it failed, it says; {when} all of them held"),
        Mismatch::Existed { said, were } => {
            format!("it removed {said} keys, it says; {when} {were} of its keys were there")
        }
    }
}
