//! Free revisions for a write of unknown outcome, by what stands between them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::program::{KeyId, Op, OpId, Program};

use super::timeline::Timeline;
use super::unknown::{Group, Placing, Unknowns};

/// The operations of a timeline that have to do with a key, by their places in it.
pub(super) struct Neighbours {
    by_key: HashMap<KeyId, Vec<usize>>,
    scans: Vec<usize>,
}

impl Neighbours {
    /// Of all keys that writes of unknown outcome name.
    pub(super) fn new(program: &Program, timeline: &Timeline) -> Self {
        let unknown = program.ops.iter().filter(|op| !op.known);
        let mut by_key: HashMap<KeyId, Vec<usize>> =
            unknown.flat_map(|op| program.keys_of(op)).map(|key| (key, Vec::new())).collect();
        let mut scans = Vec::new();
        let order: &[OpId] = if by_key.is_empty() { &[] } else { &timeline.order };
        for (place, id) in order.iter().enumerate() {
            let op = program.op(*id);
            if op.range.is_some() {
                scans.push(place);
                continue;
            }
            for key in program.keys_of(op) {
                if let Some(places) = by_key.get_mut(&key).filter(|places| places.last() != Some(&place)) {
                    places.push(place);
                }
            }
        }
        Self { by_key, scans }
    }

    /// Those of some keys from one place to before another, the last first.
    fn between(
        &self,
        program: &Program,
        timeline: &Timeline,
        keys: &HashSet<KeyId>,
        from: usize,
        to: usize,
    ) -> Vec<usize> {
        let part = |places: &[usize]| {
            let [from, to] = [from, to].map(|end| places.partition_point(|place| *place < end));
            places[from..to.max(from)].to_vec()
        };
        let mut places: Vec<usize> =
            keys.iter().filter_map(|key| self.by_key.get(key)).flat_map(|places| part(places)).collect();
        let in_range = |op: &Op| {
            op.range.is_some_and(|range| keys.iter().any(|key| range.start <= *key && *key < range.end))
        };
        places.extend(
            part(&self.scans).into_iter().filter(|place| in_range(program.op(timeline.order[*place]))),
        );
        places.sort_unstable_by(|one, other| other.cmp(one));
        places.dedup();
        places
    }
}

/// What the search for slots stands on.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) program: &'a Program,
    pub(super) timeline: &'a Timeline,
    pub(super) unknowns: &'a Unknowns,
    pub(super) neighbours: &'a Neighbours,
    /// Also slots that are like others.
    pub(super) every_slot: bool,
}

/// The slots that were found, and what was met on the way.
pub(super) struct Slots {
    /// The latest first.
    pub(super) found: Vec<u64>,
    /// Choices that occupy other slots.
    pub(super) because: BTreeSet<usize>,
    /// A slot that is like another one was left out.
    pub(super) skipped: bool,
    /// Looks at slots and operations.
    pub(super) steps: u64,
    /// The next free slot is unlike the last one found.
    open: bool,
}

/// Where to look.
pub(super) struct Stretch {
    /// The last write to this key must be there.
    pub(super) key: KeyId,
    /// It removes the key.
    pub(super) removes: bool,
    /// Above this revision.
    pub(super) low: u64,
    /// Up to this one.
    pub(super) high: u64,
    /// Before the known operation of this place.
    pub(super) before: usize,
    /// At most so many steps.
    pub(super) steps_max: u64,
}

impl Slots {
    /// Slots for a write of the group, from the end of a stretch back to the first that looked at the key.
    pub(super) fn find(
        ground: Ground<'_>,
        group: &Group,
        stretch: &Stretch,
        placed: &BTreeMap<u64, Placing>,
        used: &HashMap<OpId, Option<usize>>,
    ) -> Self {
        let Ground { program, timeline, .. } = ground;
        let mut slots =
            Self { found: Vec::new(), because: BTreeSet::new(), skipped: false, steps: 0, open: true };
        let keys: HashSet<KeyId> = program.keys_of(program.op(group.members[0])).collect();
        let mut high = stretch.high;
        let from = timeline.order.partition_point(|id| program.op(*id).revision <= stretch.low);
        for place in ground.neighbours.between(program, timeline, &keys, from, stretch.before) {
            let neighbour = program.op(timeline.order[place]);
            slots.offer(ground, group, (neighbour.revision, high), stretch, placed, used);
            // Whoever looked at the key after the write saw what it left.
            match program.saw(neighbour, stretch.key) {
                Some(None) if stretch.removes => {}
                Some(_) => return slots,
                None => {}
            }
            slots.open = true;
            high = if neighbour.is_read { neighbour.revision } else { neighbour.revision - 1 };
        }
        slots.offer(ground, group, (stretch.low, high), stretch, placed, used);
        slots
    }

    /// Offers the free slots above `floor` up to `high`, between which no known operation has to do with the write.
    fn offer(
        &mut self,
        ground: Ground<'_>,
        group: &Group,
        (floor, mut high): (u64, u64),
        stretch: &Stretch,
        placed: &BTreeMap<u64, Placing>,
        used: &HashMap<OpId, Option<usize>>,
    ) {
        while high > floor && self.steps < stretch.steps_max {
            self.steps += 1;
            if let Some(occupant) = placed.get(&high) {
                self.because.extend(used.get(&occupant.op).copied().flatten());
                self.open = true;
            } else if ground.unknowns.seen.contains_key(&high) {
                // Only for the write that set what was seen, and a boundary for all others.
                if ground.unknowns.fits(ground.program, group.members[0], group.branch, high) {
                    self.found.push(high);
                }
                self.open = true;
            } else if ground.timeline.is_taken(high) {
                // The way on to the next free one.
            } else if self.open || ground.every_slot {
                self.found.push(high);
                self.open = false;
            }
            high -= 1;
            if !self.open && !ground.every_slot && high > floor {
                // All are alike down to the next that is occupied or seen.
                let seen = &ground.unknowns.seen;
                let placed = placed.range(floor + 1..=high).next_back().map(|(slot, _)| *slot);
                let seen = seen.range(floor + 1..=high).next_back().map(|(slot, _)| *slot);
                high = placed.max(seen).unwrap_or(floor);
                self.skipped = true;
            }
        }
    }
}
