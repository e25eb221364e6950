//! The depth-first search through the orders of one component.
//!
//! A configuration (which operations are in the order, by which names, and what the map holds) is tried once: [`memo`]
//! keeps a fingerprint of 128 bits of each. Two that differ are taken for one with a chance of less than n²/2¹²⁸ for n
//! configurations, which is less than that of a memory error.
//!
//! Three rules keep the search small without losing an order that exists:
//!
//! - A read that fits now is taken now, and nothing else is tried: it changes nothing, so an order that has it later has
//!   a twin that has it here.
//! - A write of unknown outcome that nobody saw before its keys were all written again is not taken: the order without
//!   it is as good. Of those that ask for the same, the earliest called is taken first.
//! - A write of unknown outcome is put as late as it can be: right before an answered operation (the *goal*) that has to
//!   do with its keys, directly or through other such writes in between.

use std::collections::{HashMap, HashSet};

use crate::model::{Cells, run};
use crate::program::{Cell, KeyId, Op, OpId, Program};

use super::components::Component;
use super::entries::Entries;
use super::labels::Labels;
use super::memo::{Mark, mark};

/// How the search in a component ended.
pub(crate) enum End {
    Linearizable,
    /// No order gets beyond the return at this time.
    Not {
        until: u64,
    },
    Undecided,
}

/// What stands under a key, and by which write of unknown outcome.
#[derive(Clone, Copy, Default)]
struct Slot {
    cell: Option<Cell>,
    writer: Option<usize>,
}

/// The map that the searches of all components work on, one after the other.
pub(crate) struct Scratch {
    slots: Vec<Slot>,
}

impl Scratch {
    pub(crate) fn new(keys: usize) -> Self {
        Self { slots: vec![Slot::default(); keys] }
    }
}

enum Undo {
    Set(KeyId, Slot),
    Observed(usize),
}

/// The map on the way through an order.
struct Map<'a> {
    slots: &'a mut [Slot],
    undo: Vec<Undo>,
    /// For each write of unknown outcome: how many keys hold what it left.
    live: Vec<u32>,
    observed: Vec<bool>,
    /// Who writes now, if that is one of those.
    writer: Option<usize>,
    /// One of those was written over before anybody saw it.
    wasted: bool,
    /// Of all that is in the map.
    fingerprint: u128,
}

impl Cells for Map<'_> {
    fn observe(&mut self, key: KeyId) -> Option<Cell> {
        let slot = self.slots[key.index()];
        if let Some(writer) = slot.writer
            && !std::mem::replace(&mut self.observed[writer], true)
        {
            self.undo.push(Undo::Observed(writer));
        }
        slot.cell
    }

    fn set(&mut self, key: KeyId, cell: Option<Cell>) {
        let before = self.exchange(key, Slot { cell, writer: self.writer });
        self.undo.push(Undo::Set(key, before));
        if let Some(writer) = before.writer {
            self.wasted |= self.live[writer] == 0 && !self.observed[writer];
        }
    }
}

impl Map<'_> {
    fn exchange(&mut self, key: KeyId, slot: Slot) -> Slot {
        let before = std::mem::replace(&mut self.slots[key.index()], slot);
        for cell in [before.cell, slot.cell].into_iter().flatten() {
            self.fingerprint ^=
                mark(Mark::Cell, u64::from(key.0) << 32 | u64::from(cell.value.0), cell.revision);
        }
        slot.writer.into_iter().for_each(|writer| self.live[writer] += 1);
        before.writer.into_iter().for_each(|writer| self.live[writer] -= 1);
        before
    }

    fn undo_to(&mut self, length: usize) {
        while self.undo.len() > length {
            match self.undo.pop() {
                Some(Undo::Set(key, before)) => {
                    self.exchange(key, before);
                }
                Some(Undo::Observed(writer)) => self.observed[writer] = false,
                None => {}
            }
        }
    }
}

/// A write of unknown outcome under one of its possible names.
#[derive(Clone, Copy)]
struct Alternative {
    unknown: usize,
    name: u64,
}

/// One of the writes of unknown outcome that are of use.
struct Unknown {
    id: OpId,
    taken: bool,
    /// The one before it that asks for the same.
    twin: Option<usize>,
}

/// By what the revisions suggest, and then by number.
type Order = ((u64, bool), usize);

/// What is to be tried next in a configuration.
#[derive(Clone, Copy)]
enum Cursor {
    /// A read that fits.
    Read,
    /// The first open operation after this one, and then its suitors.
    Known(Option<Order>),
    /// The suitor of this place of an open operation, and then the next of those.
    Suitor {
        goal: Order,
        place: usize,
    },
    /// The goal of the writes that were just taken.
    Goal,
    /// Another one for that goal.
    More {
        place: usize,
    },
    Spent,
}

#[derive(Clone, Copy)]
enum Taken {
    Known(usize),
    Unknown { alternative: Alternative, goal: usize },
}

struct Frame {
    taken: Taken,
    /// What to try after it.
    cursor: Cursor,
    goal: Option<usize>,
    helpers: usize,
    undo: usize,
    fingerprint: u128,
}

pub(crate) struct Explorer<'a> {
    program: &'a Program,
    component: &'a Component,
    labels: &'a Labels,
    /// Whether an operation with an answer only read.
    changes_nothing: Vec<bool>,
    entries: Entries,
    unknown: Vec<Unknown>,
    /// By the set of keys that they have to do with.
    suitors: HashMap<usize, Vec<Alternative>>,
    names_taken: HashSet<u64>,
    map: Map<'a>,
    /// Of what is in the order.
    fingerprint: u128,
    goal: Option<usize>,
    /// How many writes of unknown outcome were taken for the goal.
    helpers: usize,
    /// At most so many are.
    helpers_max: usize,
    /// That was too few for some goal.
    is_curtailed: bool,
    frames: Vec<Frame>,
    memo: HashSet<u128>,
    until: u64,
}

impl<'a> Explorer<'a> {
    pub(crate) fn new(
        program: &'a Program,
        component: &'a Component,
        labels: &'a Labels,
        scratch: &'a mut Scratch,
    ) -> Self {
        let mut unknown: Vec<Unknown> = Vec::new();
        let mut suitors: HashMap<usize, Vec<Alternative>> = HashMap::new();
        let mut twins = HashMap::new();
        for id in &component.unknown {
            let (number, op) = (unknown.len(), program.op(*id));
            let names = labels.names(*id);
            let Some(key) = program.keys_of(op).next().filter(|_| !names.is_empty()) else { continue };
            unknown.push(Unknown { id: *id, taken: false, twin: twins.insert(op.class, number) });
            let set = suitors.entry(labels.set_of(key)).or_default();
            set.extend(names.iter().map(|name| Alternative { unknown: number, name: *name }));
        }
        let map = Map {
            slots: &mut scratch.slots,
            undo: Vec::new(),
            live: vec![0; unknown.len()],
            observed: vec![false; unknown.len()],
            writer: None,
            wasted: false,
            fingerprint: 0,
        };
        Self {
            program,
            component,
            labels,
            changes_nothing: component
                .ops
                .iter()
                .map(|id| program.changes_nothing(program.op(*id)))
                .collect(),
            entries: Entries::new(program, &component.ops),
            unknown,
            suitors,
            names_taken: HashSet::new(),
            map,
            fingerprint: 0,
            goal: None,
            helpers: 0,
            helpers_max: 1,
            is_curtailed: false,
            frames: Vec::new(),
            memo: HashSet::new(),
            until: 0,
        }
    }

    /// Searches; `steps_left` is taken from.
    ///
    /// Nearly always one write of unknown outcome explains what others do not, and the number of sequences of them grows
    /// fast. So more than one for a goal are tried only when there is no order with one for each.
    pub(crate) fn run(mut self, memo_max: usize, steps_left: &mut u64) -> End {
        loop {
            let end = self.search(memo_max, steps_left);
            self.map.undo_to(0);
            if !matches!(end, End::Not { .. }) || !self.is_curtailed {
                return end;
            }
            self.memo.clear();
            self.is_curtailed = false;
            self.helpers_max *= 2;
        }
    }

    fn search(&mut self, memo_max: usize, steps_left: &mut u64) -> End {
        let mut cursor = Cursor::Read;
        loop {
            if self.entries.is_empty() {
                return End::Linearizable;
            }
            if *steps_left == 0 || self.memo.len() >= memo_max {
                return End::Undecided;
            }
            *steps_left -= 1;
            if let Some(taken) = self.next(&mut cursor) {
                if self.take(taken, cursor) {
                    cursor = if self.goal.is_some() { Cursor::Goal } else { Cursor::Read };
                }
                continue;
            }
            let blocked = self.entries.first_return().map_or(0, |number| self.op(number).end);
            self.until = self.until.max(blocked);
            match self.frames.pop() {
                Some(frame) => cursor = self.give_up(frame),
                None => return End::Not { until: self.until },
            }
        }
    }

    fn op(&self, number: usize) -> &'a Op {
        self.program.op(self.component.ops[number])
    }

    fn order(&self, number: usize) -> Order {
        let op = self.op(number);
        ((op.revision, op.is_read), number)
    }

    /// What to try next, if anything is left.
    fn next(&mut self, cursor: &mut Cursor) -> Option<Taken> {
        loop {
            *cursor = match *cursor {
                Cursor::Read => match self.fitting_read() {
                    Some(number) => {
                        *cursor = Cursor::Spent;
                        return Some(Taken::Known(number));
                    }
                    None => Cursor::Known(None),
                },
                Cursor::Known(after) => {
                    let order = self.open_after(after)?;
                    *cursor = Cursor::Suitor { goal: order, place: 0 };
                    // A read that fits would have been taken.
                    if self.changes_nothing[order.1] {
                        continue;
                    }
                    return Some(Taken::Known(order.1));
                }
                Cursor::Suitor { goal, place } => match self.suitor(goal.1, place) {
                    Some((place, alternative)) => {
                        *cursor = Cursor::Suitor { goal, place: place + 1 };
                        return Some(Taken::Unknown { alternative, goal: goal.1 });
                    }
                    None => Cursor::Known(Some(goal)),
                },
                Cursor::Goal => {
                    *cursor = Cursor::More { place: 0 };
                    return self.goal.map(Taken::Known);
                }
                Cursor::More { place } => {
                    let goal = self.goal?;
                    let (place, alternative) = self.suitor(goal, place)?;
                    if self.helpers == self.helpers_max {
                        self.is_curtailed = true;
                        return None;
                    }
                    *cursor = Cursor::More { place: place + 1 };
                    return Some(Taken::Unknown { alternative, goal });
                }
                Cursor::Spent => return None,
            }
        }
    }

    /// An open operation that changes nothing and whose answer fits what the map holds.
    fn fitting_read(&mut self) -> Option<usize> {
        let map = &mut self.map;
        let length = map.undo.len();
        let mut fits = |number: usize| {
            let op = self.program.op(self.component.ops[number]);
            let fits = run(self.program, op, op.succeeded, op.revision, map).is_ok();
            map.undo_to(length);
            fits
        };
        self.entries.open().find(|number| self.changes_nothing[*number] && fits(*number))
    }

    /// The next open operation by order.
    fn open_after(&self, after: Option<Order>) -> Option<Order> {
        let open = self.entries.open().map(|number| self.order(number));
        open.filter(|order| after.is_none_or(|after| *order > after)).min()
    }

    /// The next write of unknown outcome, from this place on, that has to do with a goal and could come now.
    fn suitor(&self, goal: usize, from: usize) -> Option<(usize, Alternative)> {
        if self.unknown.is_empty() {
            return None;
        }
        let before = self.op(self.entries.first_return()?).end;
        let mut sets: Vec<usize> =
            self.program.keys_of(self.op(goal)).map(|key| self.labels.set_of(key)).collect();
        sets.sort_unstable();
        sets.dedup();
        let all = sets.iter().filter_map(|set| self.suitors.get(set)).flatten().copied();
        all.enumerate().skip(from).find(|(_, alternative)| {
            let unknown = &self.unknown[alternative.unknown];
            !unknown.taken
                && unknown.twin.is_none_or(|twin| self.unknown[twin].taken)
                && self.program.op(unknown.id).call <= before
                && !self.names_taken.contains(&alternative.name)
        })
    }

    /// Puts an operation next in the order, if its answer fits and this leads to something new.
    fn take(&mut self, taken: Taken, cursor: Cursor) -> bool {
        let frame = Frame {
            taken,
            cursor,
            goal: self.goal,
            helpers: self.helpers,
            undo: self.map.undo.len(),
            fingerprint: self.fingerprint,
        };
        self.map.wasted = false;
        let fits = match taken {
            Taken::Known(number) => {
                let op = self.op(number);
                self.map.writer = None;
                (self.goal, self.helpers) = (None, 0);
                self.fingerprint ^= mark(Mark::Known, number as u64, 0);
                run(self.program, op, op.succeeded, op.revision, &mut self.map).is_ok()
            }
            Taken::Unknown { alternative: Alternative { unknown, name }, goal } => {
                let op = self.program.op(self.unknown[unknown].id);
                self.map.writer = Some(unknown);
                (self.goal, self.helpers) = (Some(goal), self.helpers + 1);
                self.fingerprint ^= mark(Mark::Unknown, unknown as u64, name);
                let fits = run(self.program, op, None, name, &mut self.map).is_ok();
                fits && self.map.live[unknown] > 0
            }
        };
        let goal = self.goal.map_or(0, |goal| mark(Mark::Goal, goal as u64, 0));
        let configuration = self.fingerprint ^ self.map.fingerprint ^ goal;
        if !fits || self.map.wasted || !self.memo.insert(configuration) {
            self.restore(&frame);
            return false;
        }
        match taken {
            Taken::Known(number) => self.entries.lift(number),
            Taken::Unknown { alternative, .. } => {
                self.unknown[alternative.unknown].taken = true;
                if alternative.name != self.labels.unseen {
                    self.names_taken.insert(alternative.name);
                }
            }
        }
        self.frames.push(frame);
        true
    }

    /// Takes the last operation out of the order again.
    fn give_up(&mut self, frame: Frame) -> Cursor {
        match frame.taken {
            Taken::Known(number) => self.entries.unlift(number),
            Taken::Unknown { alternative, .. } => {
                self.unknown[alternative.unknown].taken = false;
                self.names_taken.remove(&alternative.name);
            }
        }
        self.restore(&frame);
        frame.cursor
    }

    fn restore(&mut self, frame: &Frame) {
        self.map.undo_to(frame.undo);
        (self.goal, self.helpers, self.fingerprint) = (frame.goal, frame.helpers, frame.fingerprint);
    }
}
