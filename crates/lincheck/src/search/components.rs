//! Which operations have to be judged together.

use crate::program::{KeyId, OpId, Program};

/// Operations that share keys, directly or through others.
#[derive(Debug, Default)]
pub(crate) struct Component {
    /// With an answer, by call.
    pub(crate) ops: Vec<OpId>,
    /// Writes of unknown outcome, by call.
    pub(crate) unknown: Vec<OpId>,
    pub(crate) keys: Vec<KeyId>,
}

/// All of them.
pub(crate) struct Components {
    pub(crate) list: Vec<Component>,
    /// For each key, the component that it is in.
    pub(crate) of_key: Vec<usize>,
}

/// Joins the keys that stand in one operation. Scans join nothing and are in no component.
pub(crate) fn components(program: &Program) -> Components {
    let mut joined = Sets::new(program.keys.len());
    for op in program.ops.iter().filter(|op| op.range.is_none()) {
        let mut keys = program.keys_of(op);
        if let Some(first) = keys.next() {
            keys.for_each(|key| joined.join(first.index(), key.index()));
        }
    }
    let mut numbers = vec![None; program.keys.len()];
    let mut list: Vec<Component> = Vec::new();
    let mut of_key = Vec::with_capacity(program.keys.len());
    for (index, key) in (0..).map(KeyId).enumerate().take(program.keys.len()) {
        let number = *numbers[joined.find(index)].get_or_insert_with(|| {
            list.push(Component::default());
            list.len() - 1
        });
        list[number].keys.push(key);
        of_key.push(number);
    }
    for id in program.ids() {
        let op = program.op(id);
        let Some(key) = program.keys_of(op).next().filter(|_| op.range.is_none()) else { continue };
        let component = &mut list[of_key[key.index()]];
        if op.known { &mut component.ops } else { &mut component.unknown }.push(id);
    }
    for component in &mut list {
        component.ops.sort_by_key(|id| program.op(*id).call);
        component.unknown.sort_by_key(|id| program.op(*id).call);
    }
    Components { list, of_key }
}

/// Disjoint sets of numbers, as a forest with path halving.
pub(crate) struct Sets {
    parents: Vec<usize>,
}

impl Sets {
    pub(crate) fn new(count: usize) -> Self {
        Self { parents: (0..count).collect() }
    }

    pub(crate) fn find(&mut self, mut item: usize) -> usize {
        while self.parents[item] != item {
            self.parents[item] = self.parents[self.parents[item]];
            item = self.parents[item];
        }
        item
    }

    pub(crate) fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.find(one), self.find(other));
        // The lower number is the root: which of two equal sets is named first must not depend on the order of joins.
        self.parents[one.max(other)] = one.min(other);
    }
}
