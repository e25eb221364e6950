//! A checker without any cleverness: all orders, all fates of the writes of unknown outcome. It shares no code with the
//! checkers under test; it is for a handful of operations.

use std::collections::{BTreeMap, BTreeSet};

use raftmap_lincheck::{Expected, Key, Operation, Outcome, Record, Request, Response, Step};

/// What revisions mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Revisions {
    /// The order of all that happened.
    Order,
    /// Names of writes.
    Names,
}

type Map = BTreeMap<Key, Record>;

/// What an operation does and answers, at a revision.
fn apply(map: &mut Map, request: &Request, revision: u64) -> Response {
    match request {
        Request::Get { keys } => {
            Response::Got { revision, records: keys.iter().map(|key| map.get(key).cloned()).collect() }
        }
        Request::Put { entries } => {
            for (key, value) in entries {
                map.insert(key.clone(), Record { value: value.clone(), revision });
            }
            Response::Put { revision }
        }
        Request::Delete { keys } => {
            let existed = keys.iter().filter(|key| map.remove(*key).is_some()).count() as u64;
            Response::Deleted { revision, existed }
        }
        Request::Txn { conditions, then, otherwise } => {
            let succeeded = conditions.iter().all(|condition| {
                let record = map.get(&condition.key);
                match &condition.expected {
                    Expected::Exists(exists) => record.is_some() == *exists,
                    Expected::Revision(0) => record.is_none(),
                    Expected::Revision(revision) => record.is_some_and(|record| record.revision == *revision),
                    Expected::Value(value) => record.is_some_and(|record| record.value == *value),
                }
            });
            let steps = if succeeded { then } else { otherwise };
            let results = steps
                .iter()
                .map(|step| match step {
                    Step::Put(key, value) => {
                        map.insert(key.clone(), Record { value: value.clone(), revision })
                    }
                    Step::Delete(key) => map.remove(key),
                    Step::Get(key) => map.get(key).cloned(),
                })
                .collect();
            Response::Txn { revision, succeeded, results }
        }
        Request::Scan { start, end, limit } => {
            let inside = map.iter().filter(|(key, _)| *key >= start && (end.is_empty() || *key < end));
            let limit = if *limit == 0 { usize::MAX } else { *limit };
            let records = inside.take(limit).map(|(key, record)| (key.clone(), record.clone())).collect();
            Response::Scanned { revision, records }
        }
    }
}

pub fn is_linearizable(history: &[Operation], revisions: Revisions) -> bool {
    let ops: Vec<&Operation> = history
        .iter()
        .filter(|op| match (&op.request, &op.outcome) {
            (_, Outcome::NotApplied) => false,
            (Request::Get { .. }, Outcome::Unknown) | (Request::Scan { .. }, Outcome::Unknown) => false,
            (Request::Scan { .. }, _) => revisions == Revisions::Order,
            _ => true,
        })
        .collect();
    let mut taken = BTreeSet::new();
    let mut named = BTreeSet::new();
    for op in &ops {
        if let Request::Txn { conditions, .. } = &op.request {
            for condition in conditions {
                if let Expected::Revision(revision) = condition.expected {
                    named.insert(revision);
                }
            }
        }
        let Outcome::Done(response) = &op.outcome else { continue };
        let is_read = matches!(op.request, Request::Get { .. } | Request::Scan { .. });
        if !is_read && !taken.insert(response.revision()) && revisions == Revisions::Order {
            return false;
        }
        match response {
            Response::Got { records, .. } | Response::Txn { results: records, .. } => {
                named.extend(records.iter().flatten().map(|record| record.revision));
            }
            Response::Scanned { records, .. } => {
                named.extend(records.iter().map(|(_, record)| record.revision))
            }
            _ => {}
        }
    }
    named.remove(&0);
    let named = named.difference(&taken).copied().collect();
    let left = vec![true; ops.len()];
    Brute { ops, taken, named, revisions, left, used: BTreeSet::new() }.go_on(&Map::new(), 0)
}

struct Brute<'a> {
    ops: Vec<&'a Operation>,
    /// Revisions of known writes.
    taken: BTreeSet<u64>,
    /// Other revisions that somebody spoke of.
    named: Vec<u64>,
    revisions: Revisions,
    left: Vec<bool>,
    used: BTreeSet<u64>,
}

impl Brute<'_> {
    fn go_on(&mut self, map: &Map, index: u64) -> bool {
        let known = |op: &Operation| matches!(op.outcome, Outcome::Done(_));
        let waiting: Vec<usize> = (0..self.ops.len()).filter(|op| self.left[*op]).collect();
        if !waiting.iter().any(|op| known(self.ops[*op])) {
            return true;
        }
        let first_end =
            waiting.iter().filter(|op| known(self.ops[**op])).filter_map(|op| self.ops[*op].end).min();
        for number in waiting {
            let op = self.ops[number];
            if first_end.is_some_and(|end| end < op.call) {
                continue;
            }
            self.left[number] = false;
            let found = match &op.outcome {
                Outcome::Done(response) => self.known(op, response, map, index),
                _ => self.unknown(op, map, index),
            };
            self.left[number] = true;
            if found {
                return true;
            }
        }
        false
    }

    fn known(&mut self, op: &Operation, response: &Response, map: &Map, index: u64) -> bool {
        let revision = response.revision();
        let is_read = matches!(op.request, Request::Get { .. } | Request::Scan { .. });
        let in_order = if is_read { revision >= index } else { revision > index };
        if self.revisions == Revisions::Order && !in_order {
            return false;
        }
        let mut map = map.clone();
        apply(&mut map, &op.request, revision) == *response && self.go_on(&map, revision)
    }

    fn unknown(&mut self, op: &Operation, map: &Map, index: u64) -> bool {
        let free = |revision: &u64| !self.taken.contains(revision) && !self.named.contains(revision);
        let mut names: Vec<u64> = match self.revisions {
            Revisions::Order => (index + 1..).find(free).into_iter().collect(),
            Revisions::Names => {
                (1_000_000..).find(|name| free(name) && !self.used.contains(name)).into_iter().collect()
            }
        };
        let named = self.named.iter().copied();
        names.extend(named.filter(|name| self.revisions == Revisions::Names || *name > index));
        names.into_iter().any(|name| {
            if !self.used.insert(name) {
                return false;
            }
            let mut map = map.clone();
            apply(&mut map, &op.request, name);
            let found = self.go_on(&map, name);
            self.used.remove(&name);
            found
        })
    }
}
