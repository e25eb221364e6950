//! By which names (revisions) the writes of unknown outcome could be known, and which of them matter at all.
//!
//! A write that nobody saw can be left out of any order: whatever stood before it then stands a little longer, and nobody
//! looked. So a write is only of use if some answer shows a record that it may have set, or shows that a key was absent
//! which it removes, or hangs on its keys in another way (a condition, a count of removed keys).

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::draw::quoted;
use crate::finding::Contradiction;
use crate::program::{Action, KeyId, OpId, Program, Seen, Test, ValueId};

use super::components::{Components, Sets};

/// What answers tell of writes of unknown outcome.
#[derive(Default)]
struct Traces {
    /// Revisions of no known write under which a record was seen.
    seen: HashMap<(KeyId, ValueId), BTreeSet<u64>>,
    /// Such revisions in conditions.
    asked: HashMap<KeyId, BTreeSet<u64>>,
    absent: HashSet<KeyId>,
    /// Keys on which an answer hangs that does not show them.
    hinted: HashSet<KeyId>,
}

pub(crate) struct Labels {
    /// For each write that is of use, the names that it may have.
    names: HashMap<OpId, Vec<u64>>,
    /// Keys that such writes write together.
    together: Vec<usize>,
    /// The name of all those that are not seen under any.
    pub(crate) unseen: u64,
}

impl Labels {
    /// # Errors
    /// One revision that is seen at keys which no operation joins.
    pub(crate) fn new(program: &Program, components: &Components) -> Result<Self, Contradiction> {
        if program.ops.iter().all(|op| op.known) {
            // Without unknown writes a strange name fits none, and the search finds that out.
            return Ok(Self { names: HashMap::new(), together: Vec::new(), unseen: u64::MAX });
        }
        let acknowledged: HashSet<u64> =
            program.ops.iter().filter(|op| op.known && !op.is_read).map(|op| op.revision).collect();
        let traces = traces(program, &acknowledged);
        one_write_each(program, components, &traces)?;
        let unseen = unseen_name(&traces);
        let mut together = Sets::new(program.keys.len());
        let mut names = HashMap::new();
        for id in program.ids().filter(|id| !program.op(*id).known) {
            let of_this = names_of(program, id, &traces, unseen);
            if of_this.is_empty() {
                continue;
            }
            names.insert(id, of_this);
            let mut keys = program.keys_of(program.op(id));
            if let Some(first) = keys.next() {
                keys.for_each(|key| together.join(first.index(), key.index()));
            }
        }
        let together = (0..program.keys.len()).map(|key| together.find(key)).collect();
        Ok(Self { names, together, unseen })
    }

    /// The names that a write may have; none: it is of no use.
    pub(crate) fn names(&self, id: OpId) -> &[u64] {
        self.names.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The number of the set of keys that a key is in, where sets share no useful write.
    pub(crate) fn set_of(&self, key: KeyId) -> usize {
        self.together.get(key.index()).copied().unwrap_or_default()
    }
}

fn traces(program: &Program, acknowledged: &HashSet<u64>) -> Traces {
    let mut traces = Traces::default();
    for op in program.ops.iter().filter(|op| op.range.is_none()) {
        for condition in program.conditions(op) {
            traces.hinted.insert(condition.key);
            if let Test::Revision(revision @ 1..) = condition.test
                && !acknowledged.contains(&revision)
            {
                traces.asked.entry(condition.key).or_default().insert(revision);
            }
        }
        for step in program.branches(op).flat_map(|(_, steps)| steps) {
            match step.seen {
                Seen::Saw(None) => {
                    traces.absent.insert(step.key);
                }
                Seen::Saw(Some(cell)) if !acknowledged.contains(&cell.revision) => {
                    traces.seen.entry((step.key, cell.value)).or_default().insert(cell.revision);
                }
                _ => {}
            }
            if op.existed.is_some() {
                traces.hinted.insert(step.key);
            }
        }
    }
    traces
}

/// Each name is of one write, and so all keys at which it is seen are joined.
fn one_write_each(program: &Program, components: &Components, traces: &Traces) -> Result<(), Contradiction> {
    let mut seen: Vec<(u64, KeyId)> =
        traces.seen.iter().flat_map(|((key, _), names)| names.iter().map(|name| (*name, *key))).collect();
    seen.sort_unstable();
    let apart = seen.windows(2).find(|pair| {
        let [(one, at), (other, and_at)] = [pair[0], pair[1]];
        one == other && components.of_key[at.index()] != components.of_key[and_at.index()]
    });
    let Some([(name, at), (_, and_at)]) = apart else { return Ok(()) };
    let [at, and_at] = [*at, *and_at];
    let quote = |key: KeyId| quoted(&program.keys[key.index()]);
    Err(Contradiction {
        reason: format!(
            "revision {name} was seen under {} and under {}, but no write sets both",
            quote(at),
            quote(and_at)
        ),
        alone: Vec::new(),
        keys: vec![at, and_at],
        until: u64::MAX,
    })
}

/// A name that no answer and no condition has.
fn unseen_name(traces: &Traces) -> u64 {
    let named: HashSet<&u64> = traces.seen.values().chain(traces.asked.values()).flatten().collect();
    (0..u64::MAX).rev().find(|name| !named.contains(name)).unwrap_or(u64::MAX)
}

fn names_of(program: &Program, id: OpId, traces: &Traces, unseen: u64) -> Vec<u64> {
    let mut names = BTreeSet::new();
    for step in program.branches(program.op(id)).flat_map(|(_, steps)| steps) {
        let traceless = match step.action {
            Action::Get => continue,
            Action::Put(value) => {
                names.extend(traces.seen.get(&(step.key, value)).into_iter().flatten());
                names.extend(traces.asked.get(&step.key).into_iter().flatten());
                traces.hinted.contains(&step.key)
            }
            Action::Delete => traces.hinted.contains(&step.key) || traces.absent.contains(&step.key),
        };
        if traceless {
            names.insert(unseen);
        }
    }
    names.into_iter().collect()
}
