//! Writes of unknown outcome: where each could be, and those whose place others saw.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::draw::quoted;
use crate::finding::{self, Contradiction};
use crate::model::effect;
use crate::program::{Action, Cell, KeyId, OpId, Program, Seen, ValueId};

use super::timeline::Timeline;

/// Writes that ask for the same and so stand for each other, with the branch that is supposed to have run.
pub(super) struct Group {
    pub(super) branch: bool,
    /// By the revision that each must come after, ascending.
    pub(super) members: Vec<OpId>,
}

/// What one revision without a known write was seen to have set.
type Sighting = Vec<(KeyId, ValueId)>;

/// A write of unknown outcome at a revision, with the branch that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placing {
    pub(super) slot: u64,
    pub(super) op: OpId,
    pub(super) branch: bool,
}

pub(super) struct Unknowns {
    groups: Vec<Group>,
    /// Which groups write a key.
    by_key: HashMap<KeyId, Vec<usize>>,
    /// By revision.
    pub(super) seen: BTreeMap<u64, Sighting>,
    /// Those for which nothing else is left.
    pub(super) forced: Vec<Placing>,
}

impl Unknowns {
    /// # Errors
    /// A record whose write cannot have been there.
    pub(super) fn new(program: &Program, timeline: &Timeline) -> Result<Self, Contradiction> {
        let mut unknowns = Self {
            groups: groups(program, timeline),
            by_key: HashMap::new(),
            seen: sightings(program, timeline),
            forced: Vec::new(),
        };
        for (number, group) in unknowns.groups.iter().enumerate() {
            let steps = program.steps(program.op(group.members[0]), group.branch);
            for key in steps.iter().filter(|step| step.action != Action::Get).map(|step| step.key) {
                let writers = unknowns.by_key.entry(key).or_default();
                if writers.last() != Some(&number) {
                    writers.push(number);
                }
            }
        }
        unknowns.force(program, timeline)?;
        Ok(unknowns)
    }

    /// The groups that write a key.
    pub(super) fn writers(&self, key: KeyId) -> impl Iterator<Item = &Group> {
        self.by_key.get(&key).into_iter().flatten().map(|number| &self.groups[*number])
    }

    /// Whether a write at `slot` would set all that was seen of that revision.
    pub(super) fn fits(&self, program: &Program, op: OpId, branch: bool, slot: u64) -> bool {
        self.seen.get(&slot).is_none_or(|sighting| {
            sighting.iter().all(|(key, value)| {
                let cell = Cell { value: *value, revision: slot };
                effect(program, program.op(op), branch, *key, slot) == Some(Some(cell))
            })
        })
    }

    /// Places what only one write explains, until nothing is as certain.
    fn force(&mut self, program: &Program, timeline: &Timeline) -> Result<(), Contradiction> {
        let mut used = HashSet::new();
        let mut open: Vec<u64> = self.seen.keys().copied().collect();
        loop {
            let mut left = Vec::new();
            let before = open.len();
            for slot in open {
                let Some((key, _)) = self.seen[&slot].first() else { continue };
                // Of those that ask for the same, the last called one that could be here: the others are free for
                // earlier places, and any exchange is as good.
                let mut explanations = self.writers(*key).filter_map(|group| {
                    let free = group
                        .members
                        .iter()
                        .rev()
                        .find(|op| !used.contains(*op) && timeline.after[*op] < slot)?;
                    let (op, branch) = (*free, group.branch);
                    self.fits(program, op, branch, slot).then_some(Placing { slot, op, branch })
                });
                match (explanations.next(), explanations.next()) {
                    (None, _) => return Err(self.unexplained(program, slot)),
                    (Some(only), None) => {
                        drop(explanations);
                        used.insert(only.op);
                        self.forced.push(only);
                    }
                    (Some(_), Some(_)) => left.push(slot),
                }
            }
            if left.len() == before || left.is_empty() {
                return Ok(());
            }
            open = left;
        }
    }

    fn unexplained(&self, program: &Program, slot: u64) -> Contradiction {
        let sighting = &self.seen[&slot];
        let cells: Vec<String> = sighting
            .iter()
            .map(|(key, value)| {
                let cell = Cell { value: *value, revision: slot };
                format!("{} under {}", finding::cell(program, Some(cell)), quoted(&program.keys[key.index()]))
            })
            .collect();
        let reason =
            format!("{} was seen, but no write can have set that at revision {slot}", cells.join(" and "));
        Contradiction {
            reason,
            alone: Vec::new(),
            keys: sighting.iter().map(|(key, _)| *key).collect(),
            until: u64::MAX,
        }
    }
}

fn groups(program: &Program, timeline: &Timeline) -> Vec<Group> {
    let mut by_class: BTreeMap<(u32, bool), Vec<OpId>> = BTreeMap::new();
    for id in program.ids().filter(|id| !program.op(*id).known) {
        let op = program.op(id);
        for (branch, _) in program.branches(op) {
            by_class.entry((op.class, branch)).or_default().push(id);
        }
    }
    let group = |((_, branch), mut members): ((u32, bool), Vec<OpId>)| {
        members.sort_by_key(|id| timeline.after[id]);
        Group { branch, members }
    };
    by_class.into_iter().map(group).collect()
}

fn sightings(program: &Program, timeline: &Timeline) -> BTreeMap<u64, Sighting> {
    let mut seen: BTreeMap<u64, Sighting> = BTreeMap::new();
    for id in &timeline.order {
        for step in program.branches(program.op(*id)).flat_map(|(_, steps)| steps) {
            let Seen::Saw(Some(cell)) = step.seen else { continue };
            if timeline.is_taken(cell.revision) {
                continue;
            }
            let sighting = seen.entry(cell.revision).or_default();
            if !sighting.contains(&(step.key, cell.value)) {
                sighting.push((step.key, cell.value));
            }
        }
    }
    seen
}
