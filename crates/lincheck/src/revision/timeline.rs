//! The order that the revisions tell, held against the clocks.

use std::collections::HashMap;

use crate::finding::{Contradiction, subject};
use crate::program::{Op, OpId, Program};

/// A place in the order: a write comes before the reads of its revision.
pub(super) type Position = (u64, bool);

pub(super) fn position(op: &Op) -> Position {
    (op.revision, op.is_read)
}

/// The order of all operations with an answer.
pub(super) struct Timeline {
    /// By position.
    pub(super) order: Vec<OpId>,
    /// The revisions of the writes among them, ascending.
    writes: Vec<u64>,
    /// For each write without an answer: the revision that must be below its own, because it was seen before the call.
    pub(super) after: HashMap<OpId, u64>,
}

impl Timeline {
    /// # Errors
    /// Two writes of one revision, or two operations that the clocks order otherwise.
    pub(super) fn new(program: &Program) -> Result<Self, Contradiction> {
        let mut order: Vec<OpId> = program.ids().filter(|id| program.op(*id).known).collect();
        order.sort_by_key(|id| (position(program.op(*id)), program.op(*id).call));
        for pair in order.windows(2) {
            let [first, second] = [program.op(pair[0]), program.op(pair[1])];
            if !second.is_read && first.revision == second.revision {
                let reason = format!(
                    "two writes have revision {}; a revision is the index of one log entry",
                    first.revision
                );
                return Err(Contradiction::between(reason, pair));
            }
        }
        let writes = order.iter().map(|id| program.op(*id)).filter(|op| !op.is_read);
        let writes = writes.map(|op| op.revision).collect();
        let after = real_time(program, &order)?;
        Ok(Self { order, writes, after })
    }

    /// Whether a known write has this revision.
    pub(super) fn is_taken(&self, revision: u64) -> bool {
        self.writes.binary_search(&revision).is_ok()
    }
}

/// Goes through calls and ends by time, and keeps the latest position that has returned.
fn real_time(program: &Program, order: &[OpId]) -> Result<HashMap<OpId, u64>, Contradiction> {
    let mut ends = order.to_vec();
    ends.sort_by_key(|id| program.op(*id).end);
    let mut calls: Vec<OpId> = program.ids().collect();
    calls.sort_by_key(|id| program.op(*id).call);

    let mut ends = ends.into_iter().peekable();
    let mut latest: Option<OpId> = None;
    let mut after = HashMap::new();
    for id in calls {
        let op = program.op(id);
        while let Some(ended) = ends.next_if(|ended| program.op(*ended).end < op.call) {
            if latest.is_none_or(|latest| position(program.op(latest)) < position(program.op(ended))) {
                latest = Some(ended);
            }
        }
        match latest {
            Some(latest) if op.known && position(program.op(latest)) > position(op) => {
                let before = subject(program.op(latest));
                let reason = format!("{before} had returned before {} was called", subject(op));
                return Err(Contradiction::between(reason, &[latest, id]));
            }
            latest if !op.known => {
                after.insert(id, latest.map_or(0, |latest| program.op(latest).revision));
            }
            _ => {}
        }
    }
    Ok(after)
}
