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
use super::slots::{Ground, Slots, Stretch};
use super::unknown::{Group, Placing};

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
#[derive(Default)]
struct Choice {
    /// The best last.
    left: Vec<Placing>,
    /// Writes that hang on conditions are among it; they come after all others.
    is_wide: bool,
    taken: Option<Placing>,
    /// Earlier choices without which it might not have come so far.
    because: BTreeSet<usize>,
}

/// What became of an attempt to go on.
enum Next {
    /// Something is placed.
    Tried,
    /// The replay has to go to the misfit of the last choice again, to find more to try.
    Widen,
    /// Nothing is left.
    Exhausted,
}

pub(super) struct Search<'a> {
    program: &'a Program,
    ground: Ground<'a>,
    replay: Replay<'a>,
    choices: Vec<Choice>,
    /// Placed writes; those that are forced have no choice.
    used: HashMap<OpId, Option<usize>>,
    /// Keys that chosen writes write, with their number.
    crowd: HashMap<KeyId, u32>,
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
    pub(super) fn new(ground: Ground<'a>, steps_max: u64) -> Self {
        let program = ground.program;
        let mut replay = Replay::new(program, &ground.timeline.order);
        for placing in &ground.unknowns.forced {
            replay.place(*placing);
        }
        Self {
            program,
            ground,
            replay,
            choices: Vec::new(),
            used: ground.unknowns.forced.iter().map(|placing| (placing.op, None)).collect(),
            crowd: HashMap::new(),
            skipped: false,
            crowded: false,
            steps_max,
        }
    }

    pub(super) fn run(mut self) -> End {
        let mut first_misfit = None;
        let mut widen = false;
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
            if !widen {
                self.choices.push(Choice::default());
            }
            self.find_more(&misfit, widen);
            match self.try_next() {
                Next::Tried => widen = false,
                Next::Widen => widen = true,
                // What remained untried for want of steps is undecided, not impossible.
                Next::Exhausted if self.is_spent() => {}
                Next::Exhausted => {
                    let contradiction = first_misfit.expect("the first misfit was kept");
                    return End {
                        finding: Finding::Not(contradiction),
                        must_try_every_slot: self.skipped && self.crowded && !self.ground.every_slot,
                    };
                }
            }
        }
    }

    fn is_spent(&self) -> bool {
        self.replay.steps >= self.steps_max
    }

    /// Takes the next thing to try of the last choice; where there is none, goes back.
    fn try_next(&mut self) -> Next {
        loop {
            let number = self.choices.len().checked_sub(1).expect("a choice was pushed before");
            if let Some(placing) = self.choices[number].left.pop() {
                self.take(number, placing);
                return Next::Tried;
            }
            if !self.choices[number].is_wide {
                return Next::Widen;
            }
            let because = self.choices.pop().map(|dead| dead.because).unwrap_or_default();
            let Some(culprit) = because.last().copied() else { return Next::Exhausted };
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
        if !self.ground.timeline.after.is_empty() {
            reason.push_str(", and no place for the writes of unknown outcome explains it");
        }
        let keys = match misfit.mismatch {
            Mismatch::Saw { key, .. } => vec![key],
            _ => self.program.keys_of(op).collect(),
        };
        let reason = format!("{}: {reason}", finding::subject(op));
        Contradiction { reason, alone: Vec::new(), keys, until: u64::MAX }
    }

    /// Finds what could mend the misfit of the last choice, and on which choices that hangs: first writes without
    /// conditions; at the second call those with.
    fn find_more(&mut self, misfit: &Misfit, wide: bool) {
        let op = *self.program.op(misfit.op);
        let (needs, keys) = self.needs(&op, &misfit.mismatch);
        let mut because = BTreeSet::new();
        if misfit.is_placed {
            because.extend(self.used.get(&misfit.op).copied().flatten());
        }
        for key in keys {
            // A chosen write that was put late leaves what must come after it little room.
            let writer = self.choice_at(self.replay.written(key));
            self.crowded |= writer.is_some();
            because.extend(writer);
        }
        let mut found = Vec::new();
        let unknowns = self.ground.unknowns;
        for need in needs {
            let suited = |group: &&Group| {
                self.program.conditions(self.program.op(group.members[0])).is_empty() != wide
            };
            let groups: Vec<&Group> = unknowns.writers(need.key).filter(suited).collect();
            for group in groups {
                found.push(self.places(group, need, misfit, &mut because));
            }
        }
        // Those that touch the fewest keys disturb the least.
        let touched =
            |placings: &Vec<Placing>| placings.first().map_or(0, |placing| self.keys_of(*placing).len());
        found.sort_by_cached_key(touched);
        let choice = self.choices.last_mut().expect("the misfit has a choice");
        choice.left.extend(found.into_iter().flatten().rev());
        choice.because.extend(because);
        choice.is_wide = wide;
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
        let low = self.ground.timeline.after[&group.members[0]].max(self.replay.written(need.key));
        // What it leaves does not depend on where it is, but for the revision.
        let shown = need.only_slot().unwrap_or(u64::MAX);
        let Some(leaves) = effect(self.program, &sample, group.branch, need.key, shown) else {
            return Vec::new();
        };
        if !need.is_met(leaves) {
            return Vec::new();
        }
        let slots = match need.only_slot() {
            Some(slot) => self.only(slot, group, (low, high), because),
            None => {
                let stretch = Stretch {
                    key: need.key,
                    removes: leaves.is_none(),
                    low,
                    high,
                    before: self.replay.at,
                    steps_max: self.steps_max - self.replay.steps,
                };
                let slots = Slots::find(self.ground, group, &stretch, &self.replay.placed, &self.used);
                self.replay.steps += slots.steps;
                self.skipped |= slots.skipped;
                self.crowded |= !slots.because.is_empty();
                because.extend(slots.because);
                slots.found
            }
        };
        because.extend(group.members.iter().filter_map(|op| self.used.get(op).copied().flatten()));
        let free = |slot: u64| {
            group
                .members
                .iter()
                .rev()
                .find(|op| !self.used.contains_key(op) && self.ground.timeline.after[*op] < slot)
                .map(|op| Placing { slot, op: *op, branch: group.branch })
        };
        slots.into_iter().filter_map(free).collect()
    }

    /// The one slot that is asked for, if it is free for the group.
    fn only(
        &mut self,
        slot: u64,
        group: &Group,
        (low, high): (u64, u64),
        because: &mut BTreeSet<usize>,
    ) -> Vec<u64> {
        let occupant =
            self.replay.placed.get(&slot).map(|occupant| self.used.get(&occupant.op).copied().flatten());
        if let Some(choice) = occupant.flatten() {
            self.crowded = true;
            because.insert(choice);
        }
        let ground = self.ground;
        let free = occupant.is_none() && low < slot && slot <= high && !ground.timeline.is_taken(slot);
        let fits = free && ground.unknowns.fits(self.program, group.members[0], group.branch, slot);
        fits.then_some(slot).into_iter().collect()
    }
}
