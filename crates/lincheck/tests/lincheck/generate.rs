//! Histories of a map that is really linearizable: each operation takes effect at one moment, between a random call and a
//! random return; and corruptions of them.

use std::collections::BTreeMap;

use fastrand::Rng;
use raftmap_lincheck::{
    Condition, Expected, Key, Operation, Outcome, Record, Request, Response, Step, Value,
};

/// What a history is like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub operations: usize,
    pub clients: u64,
    pub keys: usize,
    /// Values are drawn from so many; 0: each is used once.
    pub values: u64,
    /// Percent of the operations that have no answer.
    pub unknown: u32,
    /// How far, in operations, calls and returns are from the moment in between.
    pub overlap: u64,
    /// Percent of the operations that name several keys.
    pub many_keys: u32,
    /// Percent of the operations that are scans.
    pub scans: u32,
    /// Percent of the operations that are transactions.
    pub txns: u32,
    /// Percent of log entries that are nobody's.
    pub other_entries: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            operations: 40,
            clients: 4,
            keys: 3,
            values: 0,
            unknown: 10,
            overlap: 4,
            many_keys: 20,
            scans: 10,
            txns: 25,
            other_entries: 10,
        }
    }
}

/// The map behind a lock, so to say.
pub struct Executor {
    pub rng: Rng,
    shape: Shape,
    map: BTreeMap<Key, Record>,
    index: u64,
    next_value: u64,
}

impl Executor {
    pub fn new(seed: u64, shape: Shape) -> Self {
        Self { rng: Rng::with_seed(seed), shape, map: BTreeMap::new(), index: 0, next_value: 0 }
    }

    pub fn history(&mut self) -> Vec<Operation> {
        (0..self.shape.operations as u64).map(|number| self.operation(number)).collect()
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }

    fn operation(&mut self, number: u64) -> Operation {
        // Moments lie 10 apart, so that calls and returns seldom fall on one.
        let reach = 10 * self.shape.overlap;
        let moment = reach + 10 * number;
        let (call, end) = (moment - self.rng.u64(..=reach), moment + self.rng.u64(..=reach));
        let client = self.rng.u64(..self.shape.clients);
        let request = self.request();
        while self.percent(self.shape.other_entries) {
            self.index += 1;
        }
        let (outcome, end) = if self.percent(self.shape.unknown) {
            let applied = self.rng.bool();
            if applied {
                self.apply(&request);
            }
            let outcome = if applied || self.rng.bool() { Outcome::Unknown } else { Outcome::NotApplied };
            (outcome, self.rng.bool().then_some(end))
        } else {
            (Outcome::Done(self.apply(&request)), Some(end))
        };
        Operation { client, call, end, request, outcome }
    }

    fn key(&mut self) -> Key {
        Key::from(format!("k{}", self.rng.usize(..self.shape.keys)))
    }

    fn value(&mut self) -> Value {
        self.next_value += 1;
        let number = if self.shape.values == 0 { self.next_value } else { self.rng.u64(..self.shape.values) };
        Value::from(format!("v{number}"))
    }

    fn keys(&mut self) -> Vec<Key> {
        let count = if self.percent(self.shape.many_keys) { 2 } else { 1 };
        let mut keys: Vec<Key> = (0..count).map(|_| self.key()).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    fn request(&mut self) -> Request {
        if self.percent(self.shape.scans) {
            let [start, end] = [self.key(), self.key()];
            let start = if self.rng.bool() { Key::new() } else { start };
            let end = if self.rng.bool() { Key::new() } else { end };
            return Request::Scan { start, end, limit: self.rng.usize(..3) };
        }
        let keys = self.keys();
        if self.percent(self.shape.txns) {
            return self.txn(&keys);
        }
        match self.rng.u32(..100) {
            ..45 => Request::Get { keys },
            45..80 => Request::Put { entries: keys.into_iter().map(|key| (key, self.value())).collect() },
            _ => Request::Delete { keys },
        }
    }

    fn txn(&mut self, keys: &[Key]) -> Request {
        let mut conditions = Vec::new();
        for key in keys {
            let held = self.map.get(key).cloned();
            let expected = match self.rng.u32(..4) {
                0 => Expected::Exists(self.rng.bool()),
                1 => Expected::Value(held.map_or_else(|| self.value(), |record| record.value)),
                2 => Expected::Revision(self.rng.u64(..=self.index)),
                _ => Expected::Revision(held.map_or(0, |record| record.revision)),
            };
            conditions.push(Condition { key: key.clone(), expected });
        }
        if self.rng.bool() {
            conditions.pop();
        }
        let [then, otherwise] = [self.steps(keys), self.steps(keys)];
        Request::Txn { conditions, then, otherwise }
    }

    fn steps(&mut self, keys: &[Key]) -> Vec<Step> {
        (0..self.rng.usize(..3))
            .map(|_| {
                let key = self.rng.choice(keys).cloned().unwrap_or_default();
                match self.rng.u32(..3) {
                    0 => Step::Get(key),
                    1 => Step::Delete(key),
                    _ => Step::Put(key, self.value()),
                }
            })
            .collect()
    }

    fn apply(&mut self, request: &Request) -> Response {
        if !matches!(request, Request::Get { .. } | Request::Scan { .. }) {
            self.index += 1;
        }
        let (map, revision) = (&mut self.map, self.index);
        match request {
            Request::Get { keys } => {
                Response::Got { revision, records: keys.iter().map(|key| map.get(key).cloned()).collect() }
            }
            Request::Put { entries } => {
                map.extend(
                    entries
                        .iter()
                        .map(|(key, value)| (key.clone(), Record { value: value.clone(), revision })),
                );
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
                        Expected::Revision(revision) => {
                            record.map_or(0, |record| record.revision) == *revision
                        }
                        Expected::Value(value) => record.is_some_and(|record| record.value == value),
                    }
                });
                let steps = if succeeded { then } else { otherwise };
                let run = |step: &Step| match step {
                    Step::Put(key, value) => {
                        map.insert(key.clone(), Record { value: value.clone(), revision })
                    }
                    Step::Delete(key) => map.remove(key),
                    Step::Get(key) => map.get(key).cloned(),
                };
                Response::Txn { revision, succeeded, results: steps.iter().map(run).collect() }
            }
            Request::Scan { start, end, limit } => {
                let inside = map.iter().filter(|(key, _)| *key >= start && (end.is_empty() || *key < end));
                let limit = if *limit == 0 { usize::MAX } else { *limit };
                let records = inside.take(limit).map(|(key, record)| (key.clone(), record.clone())).collect();
                Response::Scanned { revision, records }
            }
        }
    }
}

/// Changes one thing in one answer, or when it came.
pub fn corrupt(history: &mut [Operation], rng: &mut Rng) {
    let mut records: Vec<Record> = history.iter().flat_map(shown).collect();
    records.extend(history.iter().flat_map(written));
    let answered: Vec<usize> =
        (0..history.len()).filter(|at| matches!(history[*at].outcome, Outcome::Done(_))).collect();
    let Some(at) = rng.choice(answered) else { return };
    let operation = &mut history[at];
    let Outcome::Done(response) = &mut operation.outcome else { return };
    match rng.u32(..10) {
        0 => {
            operation.call = operation.call.saturating_sub(rng.u64(..60));
            return;
        }
        1 => {
            operation.end = operation.end.map(|end| operation.call.max(end.saturating_sub(rng.u64(..60))));
            return;
        }
        _ => {}
    }
    let other = |rng: &mut Rng, record: &mut Option<Record>| {
        *record = match rng.u32(..4) {
            0 => None,
            1 => record.clone().map(|record| Record { revision: (record.revision + 1).max(1), ..record }),
            _ => rng.choice(&records).cloned(),
        };
    };
    let nudge = |rng: &mut Rng, revision: &mut u64| {
        *revision = (*revision + rng.u64(..7)).saturating_sub(3).max(1);
    };
    match response {
        Response::Got { revision, records } => match rng.usize(..=records.len()) {
            0 => nudge(rng, revision),
            place => other(rng, &mut records[place - 1]),
        },
        Response::Put { revision } => nudge(rng, revision),
        Response::Deleted { revision, existed } => {
            if rng.bool() {
                nudge(rng, revision)
            } else {
                *existed = rng.u64(..3)
            }
        }
        Response::Txn { revision, succeeded, results } => match rng.usize(..results.len() + 2) {
            0 => nudge(rng, revision),
            1 => *succeeded = !*succeeded,
            place => other(rng, &mut results[place - 2]),
        },
        Response::Scanned { revision, records } => match rng.usize(..=records.len()) {
            0 => nudge(rng, revision),
            place if rng.bool() => {
                records.remove(place - 1);
            }
            place => {
                let mut record = Some(records[place - 1].1.clone());
                other(rng, &mut record);
                match record {
                    Some(record) => records[place - 1].1 = record,
                    None => drop(records.remove(place - 1)),
                }
            }
        },
    }
}

fn shown(operation: &Operation) -> Vec<Record> {
    match &operation.outcome {
        Outcome::Done(Response::Got { records, .. } | Response::Txn { results: records, .. }) => {
            records.iter().flatten().cloned().collect()
        }
        Outcome::Done(Response::Scanned { records, .. }) => {
            records.iter().map(|(_, record)| record.clone()).collect()
        }
        _ => Vec::new(),
    }
}

fn written(operation: &Operation) -> Vec<Record> {
    match (&operation.request, &operation.outcome) {
        (Request::Put { entries }, Outcome::Done(Response::Put { revision })) => {
            entries.iter().map(|(_, value)| Record { value: value.clone(), revision: *revision }).collect()
        }
        _ => Vec::new(),
    }
}
