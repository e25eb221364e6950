//! The map as it should be: what an operation does to it, and whether its answer fits.

use crate::program::{Action, Cell, KeyId, Op, Program, Seen};

/// The cells of a map that an operation runs on.
pub(crate) trait Cells {
    /// What stands under a key, for an answer to be compared with.
    fn observe(&mut self, key: KeyId) -> Option<Cell>;
    /// Sets or removes a key.
    fn set(&mut self, key: KeyId, cell: Option<Cell>);
}

/// The first thing in an answer that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// A key held something other than what was seen.
    Saw { key: KeyId, saw: Option<Cell>, holds: Option<Cell> },
    /// So too, but the operation itself had set the key.
    SawOwn { key: KeyId, saw: Option<Cell>, holds: Option<Cell> },
    /// The condition of this number did not hold, but the branch for its holding ran.
    Failed { condition: usize },
    /// All conditions held, but the branch for their failing ran.
    AllHeld,
    /// Another number of the deleted keys was there.
    Existed { said: u64, were: u64 },
}

/// Runs an operation and compares what it saw; it sets cells with `revision`. `branch` is the one that must run, if that
/// is certain. After a mismatch some steps have run: the caller takes them back.
pub(crate) fn run(
    program: &Program,
    op: &Op,
    branch: Option<bool>,
    revision: u64,
    cells: &mut impl Cells,
) -> Result<(), Mismatch> {
    let failed = program
        .conditions(op)
        .iter()
        .position(|condition| !condition.test.holds(cells.observe(condition.key)));
    let branch = match (branch, failed) {
        (Some(true), Some(condition)) => return Err(Mismatch::Failed { condition }),
        (Some(false), None) => return Err(Mismatch::AllHeld),
        (_, failed) => failed.is_none(),
    };
    let mut were = 0;
    let steps = program.steps(op, branch);
    for (place, step) in steps.iter().enumerate() {
        if op.existed.is_some() {
            were += u64::from(cells.observe(step.key).is_some());
        }
        if let Seen::Saw(saw) = step.seen {
            let holds = cells.observe(step.key);
            if holds != saw {
                let key = step.key;
                let own =
                    steps[..place].iter().any(|before| before.key == key && before.action != Action::Get);
                return Err(if own {
                    Mismatch::SawOwn { key, saw, holds }
                } else {
                    Mismatch::Saw { key, saw, holds }
                });
            }
        }
        match step.action {
            Action::Get => {}
            Action::Put(value) => cells.set(step.key, Some(Cell { value, revision })),
            Action::Delete => cells.set(step.key, None),
        }
    }
    match op.existed {
        Some(said) if said != were => Err(Mismatch::Existed { said, were }),
        _ => Ok(()),
    }
}

/// What a branch leaves under a key: `None` if it does not write it, `Some(None)` if it removes it.
pub(crate) fn effect(
    program: &Program,
    op: &Op,
    branch: bool,
    key: KeyId,
    revision: u64,
) -> Option<Option<Cell>> {
    program.steps(op, branch).iter().rev().filter(|step| step.key == key).find_map(|step| match step.action {
        Action::Get => None,
        Action::Put(value) => Some(Some(Cell { value, revision })),
        Action::Delete => Some(None),
    })
}
