//! The map, gone through in the order of revisions, and back.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Cells, Mismatch, run};
use crate::program::{Cell, KeyId, Op, OpId, Program, Range, Seen};

use super::timeline::{Position, position};
use super::unknown::Placing;

/// What stands under a key.
#[derive(Clone, Copy, Default)]
struct Held {
    cell: Option<Cell>,
    /// The revision of the last write to it, also if that removed it; 0: none.
    written: u64,
}

struct Undo {
    revision: u64,
    key: KeyId,
    held: Held,
}

/// An answer that does not fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Misfit {
    pub(super) position: Position,
    pub(super) op: OpId,
    pub(super) mismatch: Mismatch,
    /// It is no answer, but a condition on which the branch of a placed write depends.
    pub(super) is_placed: bool,
}

/// A map on its way through the history.
pub(super) struct Replay<'a> {
    program: &'a Program,
    order: &'a [OpId],
    /// The next known operation.
    pub(super) at: usize,
    held: Vec<Held>,
    /// The keys that are there; only with scans.
    present: Option<BTreeSet<KeyId>>,
    undo: Vec<Undo>,
    /// Without writes of unknown outcome nothing goes back further than one operation.
    is_certain: bool,
    pub(super) placed: BTreeMap<u64, Placing>,
    /// Placed writes below this were applied.
    reached: u64,
    /// The first of the others; `u64::MAX`: none.
    next_slot: u64,
    /// The revision that is being applied.
    now: u64,
    /// Operations that were run.
    pub(super) steps: u64,
}

impl Cells for Replay<'_> {
    fn observe(&mut self, key: KeyId) -> Option<Cell> {
        self.held[key.index()].cell
    }

    fn set(&mut self, key: KeyId, cell: Option<Cell>) {
        let before = self.hold(key, Held { cell, written: self.now });
        self.undo.push(Undo { revision: self.now, key, held: before });
    }
}

impl<'a> Replay<'a> {
    pub(super) fn new(program: &'a Program, order: &'a [OpId]) -> Self {
        Self {
            program,
            order,
            at: 0,
            held: vec![Held::default(); program.keys.len()],
            present: program.ops.iter().any(|op| op.range.is_some()).then(BTreeSet::new),
            undo: Vec::new(),
            is_certain: program.ops.iter().all(|op| op.known),
            placed: BTreeMap::new(),
            reached: 0,
            next_slot: u64::MAX,
            now: 0,
            steps: 0,
        }
    }

    /// Goes on to the first answer that does not fit, and stands before it; or to the end. Ends early after `steps_max`
    /// steps.
    pub(super) fn go_on(&mut self, steps_max: u64) -> Result<(), Misfit> {
        while self.steps < steps_max {
            self.steps += 1;
            let known = self.order.get(self.at).map(|id| (*id, self.program.op(*id)));
            let applied =
                if self.next_slot != u64::MAX && known.is_none_or(|(_, op)| self.next_slot <= op.revision) {
                    self.apply_placed()
                } else if let Some((id, op)) = known {
                    self.apply_known(id, op)
                } else {
                    return Ok(());
                };
            if let Err(misfit) = applied {
                if !misfit.position.1 {
                    self.take_back(misfit.position.0);
                }
                return Err(misfit);
            }
        }
        Ok(())
    }

    fn apply_placed(&mut self) -> Result<(), Misfit> {
        let Placing { slot, op, branch } = self.placed[&self.next_slot];
        self.now = slot;
        run(self.program, self.program.op(op), Some(branch), slot, self).map_err(|mismatch| Misfit {
            position: (slot, false),
            op,
            mismatch,
            is_placed: true,
        })?;
        self.reached = slot + 1;
        self.next_slot = self.first_from(self.reached);
        Ok(())
    }

    fn apply_known(&mut self, id: OpId, op: &Op) -> Result<(), Misfit> {
        self.now = op.revision;
        if self.is_certain {
            self.undo.clear();
        }
        match op.range {
            Some(range) => self.scan(op, range),
            None => run(self.program, op, op.succeeded, op.revision, self),
        }
        .map_err(|mismatch| Misfit { position: position(op), op: id, mismatch, is_placed: false })?;
        self.at += 1;
        Ok(())
    }

    /// Compares what a scan found with what is there, key by key.
    fn scan(&self, op: &Op, range: Range) -> Result<(), Mismatch> {
        let present = self.present.as_ref().expect("it is kept if the history has a scan");
        let found = self.program.steps(op, true);
        let covered = if range.start < range.end { range.start..range.end } else { range.start..range.start };
        let mut there = present.range(covered).copied().peekable();
        for step in found {
            let Seen::Saw(saw) = step.seen else { continue };
            if let Some(missed) = there.next_if(|key| *key < step.key) {
                return Err(Mismatch::Saw { key: missed, saw: None, holds: self.held[missed.index()].cell });
            }
            there.next_if_eq(&step.key);
            let holds = self.held[step.key.index()].cell;
            if saw != holds {
                return Err(Mismatch::Saw { key: step.key, saw, holds });
            }
        }
        let cut_off = range.limit > 0 && found.len() == range.limit;
        match there.next().filter(|_| !cut_off) {
            Some(missed) => {
                Err(Mismatch::Saw { key: missed, saw: None, holds: self.held[missed.index()].cell })
            }
            None => Ok(()),
        }
    }

    /// The revision of the last write to a key; 0: none.
    pub(super) fn written(&self, key: KeyId) -> u64 {
        self.held[key.index()].written
    }

    pub(super) fn cell(&self, key: KeyId) -> Option<Cell> {
        self.held[key.index()].cell
    }

    /// Goes back to before `revision` and places a write there.
    pub(super) fn place(&mut self, placing: Placing) {
        self.placed.insert(placing.slot, placing);
        self.go_back(placing.slot);
    }

    /// Goes back to before a placed write, and takes it out.
    pub(super) fn take_out(&mut self, slot: u64) {
        self.placed.remove(&slot);
        self.go_back(slot);
    }

    /// To before the write of a revision.
    fn go_back(&mut self, revision: u64) {
        self.take_back(revision);
        let before = (revision, false);
        self.at = self.at.min(self.order.partition_point(|id| position(self.program.op(*id)) < before));
        self.reached = self.reached.min(revision);
        self.next_slot = self.first_from(self.reached);
    }

    /// Undoes what the writes from a revision on have set.
    fn take_back(&mut self, revision: u64) {
        while let Some(undo) = self.undo.pop_if(|undo| undo.revision >= revision) {
            self.hold(undo.key, undo.held);
        }
    }

    fn first_from(&self, revision: u64) -> u64 {
        self.placed.range(revision..).next().map_or(u64::MAX, |(slot, _)| *slot)
    }

    fn hold(&mut self, key: KeyId, held: Held) -> Held {
        if let Some(present) = &mut self.present {
            if held.cell.is_some() {
                present.insert(key);
            } else {
                present.remove(&key);
            }
        }
        std::mem::replace(&mut self.held[key.index()], held)
    }
}
