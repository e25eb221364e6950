//! The search for places of writes of unknown outcome.
//!
//! A replay without them goes on to the first answer that does not fit. If the history is linearizable, then some key of
//! that answer was last written by a write that is not placed yet: so each of those is tried, at each revision between the
//! last write to that key and the answer, the latest first. Revisions between which nothing touches the keys of the
//! write are alike, and one of them is tried. When nothing is left to try, the search goes back to the last choice that
//! had a part in the failure (conflict-directed backjumping: Prosser 1993), over all choices that had none.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::finding::{self, Contradiction, Finding};
use crate::model::{Mismatch, effect};
use crate::program::{Cell, KeyId, Op, OpId, Program, Test};

use super::replay::{Misfit, Replay};
use super::timeline::Timeline;
use super::unknown::{Group, Placing, Unknowns};

/// What must become of a key, for an answer to fit.
#[derive(Clone, Copy)]
struct Need {
    key: KeyId,
    want: Want,
}

#[derive(Clone, Copy)]
enum Want {
    Cell(Option<Cell>),
    Test(Test, bool),
}

impl Need {
    fn is_met(&self, cell: Option<Cell>) -> bool {
        match self.want {
            Want::Cell(want) => cell == want,
            Want::Test(test, holds) => test.holds(cell) == holds,
        }
    }

    /// The one revision at which a write can meet it.
    fn only_slot(&self) -> Option<u64> {
        match self.want {
            Want::Cell(Some(Cell { revision, .. })) | Want::Test(Test::Revision(revision @ 1..), true) => {
                Some(revision)
            }
            _ => None,
        }
    }
}

/// A misfit, and what can still be tried to mend it.
struct Choice {
    left: Vec<Placing>,
    taken: Option<Placing>,
    /// Earlier choices without which it might not have come so far.
    because: BTreeSet<usize>,
}

pub(super) struct Search<'a> {
    program: &'a Program,
    timeline: &'a Timeline,
    unknowns: &'a Unknowns,
    replay: Replay<'a>,
    choices: Vec<Choice>,
    /// Placed writes; those that are forced have no choice.
    used: HashMap<OpId, Option<usize>>,
    /// Keys that chosen writes write, with their number.
    crowd: HashMap<KeyId, u32>,
    every_slot: bool,
    /// One of several like slots was tried.
    skipped: bool,
    /// Two chosen writes might stand in each other's way.
    crowded: bool,
    steps_max: u64,
}

/// How a search ended.
pub(super) struct End {
    pub(super) finding: Finding,
    /// It found nothing, but did not try all that a search of every slot would.
    pub(super) must_try_every_slot: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        program: &'a Program,
        timeline: &'a Timeline,
        unknowns: &'a Unknowns,
        every_slot: bool,
        steps_max: u64,
    ) -> Self {
        let mut replay = Replay::new(program, &timeline.order);
        for placing in &unknowns.forced {
            replay.place(*placing);
        }
        Self {
            program,
            timeline,
            unknowns,
            replay,
            choices: Vec::new(),
            used: unknowns.forced.iter().map(|placing| (placing.op, None)).collect(),
            crowd: HashMap::new(),
            every_slot,
            skipped: false,
            crowded: false,
            steps_max,
        }
    }

    pub(super) fn run(mut self) -> End {
        let mut first_misfit = None;
        loop {
            let misfit = self.replay.go_on(self.steps_max).err();
            if self.is_spent() {
                let reason = format!(
                    "no place was found for the writes of unknown outcome within {} steps",
                    self.steps_max
                );
                return End { finding: Finding::Undecided(reason), must_try_every_slot: false };
            }
            let Some(misfit) = misfit else {
                return End { finding: Finding::Linearizable, must_try_every_slot: false };
            };
            if first_misfit.is_none() {
                first_misfit = Some(self.contradiction(&misfit));
            }
            let choice = self.choice(&misfit);
            self.choices.push(choice);
            if !self.is_spent() && !self.try_next() {
                let contradiction = first_misfit.expect("the first misfit was kept");
                return End {
                    finding: Finding::Not(contradiction),
                    must_try_every_slot: self.skipped && self.crowded && !self.every_slot,
                };
            }
        }
    }

    fn is_spent(&self) -> bool {
        self.replay.steps >= self.steps_max
    }

    /// Takes the next thing to try of the last choice; where there is none, goes back. `false`: all was tried.
    fn try_next(&mut self) -> bool {
        loop {
            let number = self.choices.len().checked_sub(1).expect("a choice was pushed before");
            if let Some(placing) = self.choices[number].left.pop() {
                self.take(number, placing);
                return true;
            }
            let because = self.choices.pop().map(|dead| dead.because).unwrap_or_default();
            let Some(culprit) = because.last().copied() else { return false };
            while self.choices.len() > culprit + 1 {
                self.choices.pop().and_then(|choice| choice.taken).into_iter().for_each(|p| self.give_up(p));
            }
            let choice = &mut self.choices[culprit];
            choice.because.extend(because.into_iter().filter(|earlier| *earlier < culprit));
            choice.taken.take().into_iter().for_each(|placing| self.give_up(placing));
        }
    }

    fn take(&mut self, number: usize, placing: Placing) {
        self.choices[number].taken = Some(placing);
        self.used.insert(placing.op, Some(number));
        for key in self.keys_of(placing) {
            let writers = self.crowd.entry(key).or_default();
            *writers += 1;
            self.crowded |= *writers > 1;
        }
        self.replay.place(placing);
    }

    fn give_up(&mut self, placing: Placing) {
        self.used.remove(&placing.op);
        for key in self.keys_of(placing) {
            self.crowd.entry(key).and_modify(|writers| *writers -= 1);
        }
        self.replay.take_out(placing.slot);
    }

    fn keys_of(&self, placing: Placing) -> HashSet<KeyId> {
        self.program.keys_of(self.program.op(placing.op)).collect()
    }

    fn contradiction(&self, misfit: &Misfit) -> Contradiction {
        let op = self.program.op(misfit.op);
        let (revision, is_read) = misfit.position;
        let when = format!("{} revision {revision}", if is_read { "at" } else { "before" });
        let mut reason = finding::mismatch(self.program, op, &misfit.mismatch, &when);
        if !self.timeline.after.is_empty() {
            reason.push_str(", and no place for the writes of unknown outcome explains it");
        }
        let keys = match misfit.mismatch {
            Mismatch::Saw { key, .. } => vec![key],
            _ => self.program.keys_of(op).collect(),
        };
        let reason = format!("{}: {reason}", finding::subject(op));
        Contradiction { reason, alone: Vec::new(), keys, until: u64::MAX }
    }

    /// What could mend a misfit, best last, and which choices it hangs on.
    fn choice(&mut self, misfit: &Misfit) -> Choice {
        let op = *self.program.op(misfit.op);
        let (needs, keys) = self.needs(&op, &misfit.mismatch);
        let mut because = BTreeSet::new();
        if misfit.is_placed {
            because.extend(self.used.get(&misfit.op).copied().flatten());
        }
        for key in keys {
            because.extend(self.choice_at(self.replay.written(key)));
        }
        let mut left = Vec::new();
        let unknowns = self.unknowns;
        for need in needs {
            for group in unknowns.writers(need.key) {
                left.extend(self.places(group, need, misfit, &mut because));
            }
        }
        left.reverse();
        Choice { left, taken: None, because }
    }

    fn choice_at(&self, slot: u64) -> Option<usize> {
        self.replay.placed.get(&slot).and_then(|placing| self.used.get(&placing.op).copied().flatten())
    }

    /// The changes of which at least one is needed, and all keys that have a part in the misfit.
    fn needs(&self, op: &Op, mismatch: &Mismatch) -> (Vec<Need>, Vec<KeyId>) {
        let conditions = self.program.conditions(op);
        match *mismatch {
            Mismatch::Saw { key, saw, .. } => (vec![Need { key, want: Want::Cell(saw) }], vec![key]),
            Mismatch::SawOwn { .. } => (Vec::new(), Vec::new()),
            Mismatch::Failed { condition } => {
                let condition = conditions[condition];
                let want = Want::Test(condition.test, true);
                (vec![Need { key: condition.key, want }], vec![condition.key])
            }
            Mismatch::AllHeld => conditions
                .iter()
                .map(|condition| {
                    (Need { key: condition.key, want: Want::Test(condition.test, false) }, condition.key)
                })
                .unzip(),
            Mismatch::Existed { said, were } => {
                let keys: Vec<KeyId> = self.program.keys_of(op).collect();
                let want = Want::Test(Test::Exists(true), said > were);
                let other = keys.iter().filter(|key| self.replay.cell(**key).is_some() != (said > were));
                (other.map(|key| Need { key: *key, want }).collect(), keys)
            }
        }
    }

    /// Where a write of the group would meet the need as the last write to that key before the misfit; latest first.
    fn places(
        &mut self,
        group: &Group,
        need: Need,
        misfit: &Misfit,
        because: &mut BTreeSet<usize>,
    ) -> Vec<Placing> {
        let sample = *self.program.op(group.members[0]);
        let (revision, is_read) = misfit.position;
        let high = if is_read { revision } else { revision - 1 };
        let low = self.timeline.after[&group.members[0]].max(self.replay.written(need.key));
        let mut slots = Slots { low, open: true, found: Vec::new() };
        // What it leaves does not depend on where it is, but for the revision.
        let shown = need.only_slot().unwrap_or(u64::MAX);
        let leaves = effect(self.program, &sample, group.branch, need.key, shown);
        if !leaves.is_some_and(|cell| need.is_met(cell)) {
            return Vec::new();
        }
        if let Some(slot) = need.only_slot() {
            if low < slot && slot <= high && !self.timeline.is_taken(slot) {
                self.offer(&mut slots, slot - 1, slot, group, because);
            }
        } else {
            self.walk(&mut slots, high, group, need, because);
        }
        because.extend(group.members.iter().filter_map(|op| self.used.get(op).copied().flatten()));
        let free = |slot: u64| {
            group
                .members
                .iter()
                .rev()
                .find(|op| !self.used.contains_key(op) && self.timeline.after[*op] < slot)
                .map(|op| Placing { slot, op: *op, branch: group.branch })
        };
        slots.found.into_iter().filter_map(free).collect()
    }

    /// Goes back from the misfit, and offers the slots between known operations.
    fn walk(
        &mut self,
        slots: &mut Slots,
        mut high: u64,
        group: &Group,
        need: Need,
        because: &mut BTreeSet<usize>,
    ) {
        let keys: HashSet<KeyId> = self.program.keys_of(self.program.op(group.members[0])).collect();
        let removes = matches!(
            effect(self.program, self.program.op(group.members[0]), group.branch, need.key, 0),
            Some(None)
        );
        let mut at = self.replay.at;
        while high > slots.low && !self.is_spent() {
            self.replay.steps += 1;
            let before = at.checked_sub(1).map(|at| *self.program.op(self.timeline.order[at]));
            let floor = before.map_or(0, |op| op.revision).max(slots.low);
            self.offer(slots, floor, high, group, because);
            let Some(before) = before else { return };
            // Whoever looked at the key after the write saw what it left.
            match self.program.saw(&before, need.key) {
                Some(None) if removes => slots.open = true,
                Some(_) => return,
                None => {}
            }
            slots.open |= self.touches(&before, &keys);
            high = if before.is_read { before.revision } else { before.revision - 1 };
            at -= 1;
        }
    }

    fn touches(&self, op: &Op, keys: &HashSet<KeyId>) -> bool {
        let in_range = |key: &KeyId| op.range.is_some_and(|range| range.start <= *key && *key < range.end);
        self.program.keys_of(op).any(|key| keys.contains(&key)) || keys.iter().any(in_range)
    }

    /// Offers slots above `floor` up to `high`, between which there is no known operation.
    fn offer(
        &mut self,
        slots: &mut Slots,
        floor: u64,
        mut high: u64,
        group: &Group,
        because: &mut BTreeSet<usize>,
    ) {
        while high > floor && !self.is_spent() {
            self.replay.steps += 1;
            if let Some(occupant) = self.replay.placed.get(&high) {
                let choice = self.used.get(&occupant.op).copied().flatten();
                self.crowded |= choice.is_some();
                because.extend(choice);
                slots.open = true;
            } else if self.unknowns.seen.contains_key(&high) {
                // Only for the write that set what was seen; and later a boundary for all others.
                if self.unknowns.fits(self.program, group.members[0], group.branch, high) {
                    slots.found.push(high);
                }
                slots.open = true;
            } else if slots.open || self.every_slot {
                slots.found.push(high);
                slots.open = false;
            } else {
                self.skipped = true;
                high = self.next_boundary(floor, high);
                continue;
            }
            high -= 1;
        }
    }

    /// The highest slot at or below `high` that is not like the one above it; `floor` if there is none.
    fn next_boundary(&self, floor: u64, high: u64) -> u64 {
        let placed = self.replay.placed.range(floor + 1..=high).next_back().map(|(slot, _)| *slot);
        let seen = self.unknowns.seen.range(floor + 1..=high).next_back().map(|(slot, _)| *slot);
        placed.max(seen).unwrap_or(floor)
    }
}

/// The slots that were found for a write.
struct Slots {
    low: u64,
    /// The next free slot is unlike the last one found.
    open: bool,
    found: Vec<u64>,
}
