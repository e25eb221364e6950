//! A history in numbers: keys by rank, values by identity, every request as conditions and steps with what each one saw.
//!
//! Both methods work on this form. What cannot matter is left out of it: operations that were not applied, and reads and
//! write-less transactions whose answer nobody got.

use std::collections::HashMap;

use crate::history::{
    Condition as Wanted, Expected, Key, Malformed, Operation, Outcome, Record, Request, Response,
    Step as Asked, Value, validate,
};

/// A key, by its rank among all keys of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyId(pub(crate) u32);

impl KeyId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value: equal values have equal ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ValueId(pub(crate) u32);

/// What stands under a key: its value and the revision that set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cell {
    pub(crate) value: ValueId,
    pub(crate) revision: u64,
}

/// An operation, by its place in [`Program::ops`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OpId(pub(crate) u32);

impl OpId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A part of one of the lists of a [`Program`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    from: u32,
    to: u32,
}

impl Span {
    fn slice<T>(self, list: &[T]) -> &[T] {
        &list[self.from as usize..self.to as usize]
    }
}

/// What a step does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Get,
    Put(ValueId),
    Delete,
}

/// What the answer says of a key before its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Untold,
    Saw(Option<Cell>),
}

impl Seen {
    fn cell(self) -> Option<Option<Cell>> {
        match self {
            Self::Untold => None,
            Self::Saw(cell) => Some(cell),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) key: KeyId,
    pub(crate) action: Action,
    pub(crate) seen: Seen,
}

/// What a condition asks of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Exists(bool),
    Revision(u64),
    Value(ValueId),
}

impl Test {
    pub(crate) fn holds(self, cell: Option<Cell>) -> bool {
        match self {
            Self::Exists(exists) => cell.is_some() == exists,
            Self::Revision(revision) => cell.map_or(0, |cell| cell.revision) == revision,
            Self::Value(value) => cell.is_some_and(|cell| cell.value == value),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition {
    pub(crate) key: KeyId,
    pub(crate) test: Test,
}

/// The keys from `start` to before `end`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) start: KeyId,
    pub(crate) end: KeyId,
    pub(crate) limit: usize,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    /// Its place in the history.
    pub(crate) source: usize,
    pub(crate) client: u64,
    pub(crate) call: u64,
    /// `u64::MAX`: never known to have returned.
    pub(crate) end: u64,
    /// Whether there is an answer; only writes are here without one.
    pub(crate) known: bool,
    /// Of its answer; 0 without one.
    pub(crate) revision: u64,
    /// It has no log entry of its own.
    pub(crate) is_read: bool,
    /// Which branch ran, if that is certain.
    pub(crate) succeeded: Option<bool>,
    /// How many of the keys of a delete were there.
    pub(crate) existed: Option<u64>,
    /// Of a scan, whose steps are what it found.
    pub(crate) range: Option<Range>,
    /// Writes without an answer that ask for the same have the same one.
    pub(crate) class: u32,
    conditions: Span,
    then: Span,
    otherwise: Span,
}

/// What is to be judged.
#[derive(Debug, Default)]
pub(crate) struct Program {
    /// By rank.
    pub(crate) keys: Vec<Key>,
    /// By id.
    pub(crate) values: Vec<Value>,
    pub(crate) ops: Vec<Op>,
    /// How many operations were left out.
    pub(crate) left_out: usize,
    conditions: Vec<Condition>,
    steps: Vec<Step>,
}

/// Why there is nothing to search for.
#[derive(Debug)]
pub(crate) enum Problem {
    Malformed(Malformed),
    /// An answer that no state of the map could have given.
    Impossible {
        source: usize,
        reason: String,
    },
}

impl Program {
    pub(crate) fn new(history: &[Operation]) -> Result<Self, Problem> {
        validate(history).map_err(Problem::Malformed)?;
        if history.iter().map(size).sum::<usize>() >= u32::MAX as usize {
            return Err(Problem::Malformed(Malformed::TooLarge));
        }
        let mut builder = Builder::default();
        for (source, operation) in history.iter().enumerate() {
            builder.add(source, operation).map_err(|reason| Problem::Impossible { source, reason })?;
        }
        Ok(builder.finish())
    }

    pub(crate) fn op(&self, id: OpId) -> &Op {
        &self.ops[id.index()]
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = OpId> + use<> {
        (0..number(self.ops.len())).map(OpId)
    }

    pub(crate) fn conditions(&self, op: &Op) -> &[Condition] {
        op.conditions.slice(&self.conditions)
    }

    pub(crate) fn steps(&self, op: &Op, branch: bool) -> &[Step] {
        if branch { op.then } else { op.otherwise }.slice(&self.steps)
    }

    /// The steps of each branch that may have run.
    pub(crate) fn branches<'a>(&'a self, op: &'a Op) -> impl Iterator<Item = (bool, &'a [Step])> + 'a {
        [true, false]
            .into_iter()
            .filter(|branch| op.succeeded.is_none_or(|succeeded| succeeded == *branch))
            .map(|branch| (branch, self.steps(op, branch)))
    }

    /// What an operation without a mistake saw under a key that it did not write; `None`: it did not look.
    pub(crate) fn saw(&self, op: &Op, key: KeyId) -> Option<Option<Cell>> {
        let steps = self.steps(op, op.succeeded.unwrap_or(true));
        let Some(range) = op.range else {
            return steps.iter().find(|step| step.key == key).and_then(|step| step.seen.cell());
        };
        if let Ok(place) = steps.binary_search_by_key(&key, |step| step.key) {
            return steps[place].seen.cell();
        }
        let cut_off = range.limit > 0 && steps.len() == range.limit;
        let last = steps.last().map(|step| step.key);
        let covered =
            range.start <= key && key < range.end && !(cut_off && last.is_some_and(|last| last < key));
        covered.then_some(None)
    }

    /// Whether no step that may have run writes.
    pub(crate) fn changes_nothing(&self, op: &Op) -> bool {
        self.branches(op).all(|(_, steps)| steps.iter().all(|step| step.action == Action::Get))
    }

    /// All keys that an operation names; a key may come twice. Not those of a scan's range.
    pub(crate) fn keys_of<'a>(&'a self, op: &'a Op) -> impl Iterator<Item = KeyId> + 'a {
        let conditions = self.conditions(op).iter().map(|condition| condition.key);
        conditions.chain(self.branches(op).flat_map(|(_, steps)| steps.iter().map(|step| step.key)))
    }
}

/// How many ids an operation may need, at most.
fn size(operation: &Operation) -> usize {
    let request = match &operation.request {
        Request::Get { keys } | Request::Delete { keys } => keys.len(),
        Request::Put { entries } => entries.len(),
        Request::Txn { conditions, then, otherwise } => conditions.len() + then.len() + otherwise.len(),
        Request::Scan { .. } => 2,
    };
    let answer = match &operation.outcome {
        Outcome::Done(Response::Scanned { records, .. }) => records.len(),
        _ => 0,
    };
    // A condition, a key and a value each, and the operation itself.
    3 * (request + answer) + 1
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("Program::new refuses histories that need more ids")
}

#[derive(Default)]
struct Builder<'a> {
    program: Program,
    keys: HashMap<&'a [u8], KeyId>,
    names: Vec<&'a Key>,
    values: HashMap<&'a [u8], ValueId>,
    classes: HashMap<&'a Request, u32>,
}

impl<'a> Builder<'a> {
    fn key(&mut self, key: &'a Key) -> KeyId {
        let names = &mut self.names;
        *self.keys.entry(key).or_insert_with(|| {
            names.push(key);
            KeyId(number(names.len() - 1))
        })
    }

    fn value(&mut self, value: &'a Value) -> ValueId {
        let named = &mut self.program.values;
        *self.values.entry(value).or_insert_with(|| {
            named.push(value.clone());
            ValueId(number(named.len() - 1))
        })
    }

    fn seen(&mut self, record: Option<&'a Record>) -> Result<Seen, String> {
        let Some(record) = record else { return Ok(Seen::Saw(None)) };
        if record.revision == 0 {
            return Err("a record has revision 0, which is no write's".to_owned());
        }
        Ok(Seen::Saw(Some(Cell { value: self.value(&record.value), revision: record.revision })))
    }

    fn add(&mut self, source: usize, operation: &'a Operation) -> Result<(), String> {
        let response = match &operation.outcome {
            Outcome::Done(response) => Some(response),
            Outcome::Unknown if writes(&operation.request) => None,
            Outcome::Unknown | Outcome::NotApplied => {
                self.program.left_out += 1;
                return Ok(());
            }
        };
        let mut op = Op {
            source,
            client: operation.client,
            call: operation.call,
            end: response.and(operation.end).unwrap_or(u64::MAX),
            known: response.is_some(),
            revision: response.map_or(0, Response::revision),
            is_read: matches!(operation.request, Request::Get { .. } | Request::Scan { .. }),
            succeeded: Some(true),
            existed: None,
            range: None,
            class: 0,
            conditions: Span::default(),
            then: Span::default(),
            otherwise: Span::default(),
        };
        if op.known && !op.is_read && op.revision == 0 {
            return Err("a write has revision 0, where the log has no entry".to_owned());
        }
        if !op.known {
            let next = number(self.classes.len());
            op.class = *self.classes.entry(&operation.request).or_insert(next);
        }
        self.request(&mut op, &operation.request, response)?;
        self.program.ops.push(op);
        Ok(())
    }

    fn request(
        &mut self,
        op: &mut Op,
        request: &'a Request,
        response: Option<&'a Response>,
    ) -> Result<(), String> {
        match request {
            Request::Get { keys } => {
                let Some(Response::Got { records, .. }) = response else { return Ok(()) };
                if records.len() != keys.len() {
                    return Err(format!("{} records answer {} keys", records.len(), keys.len()));
                }
                let steps = keys.iter().zip(records);
                op.then = self
                    .steps(steps.map(|(key, record)| (key, None, Some(record.as_ref()))), |_| Action::Get)?;
            }
            Request::Put { entries } => {
                let steps = entries.iter().map(|(key, value)| (key, Some(value), None));
                op.then = self.steps(steps, put_or_delete)?;
            }
            Request::Delete { keys } => {
                if let Some(Response::Deleted { existed, .. }) = response {
                    if *existed > keys.len() as u64 {
                        return Err(format!("{existed} of {} keys were there", keys.len()));
                    }
                    op.existed = Some(*existed);
                }
                op.then = self.steps(keys.iter().map(|key| (key, None, None)), put_or_delete)?;
            }
            Request::Txn { conditions, then, otherwise } => {
                op.conditions = self.conditions(conditions);
                match response {
                    Some(Response::Txn { succeeded: false, .. }) if conditions.is_empty() => {
                        return Err("a condition failed, but there is none".to_owned());
                    }
                    Some(Response::Txn { succeeded, results, .. }) => {
                        op.succeeded = Some(*succeeded);
                        let steps = self.branch(if *succeeded { then } else { otherwise }, Some(results))?;
                        *(if *succeeded { &mut op.then } else { &mut op.otherwise }) = steps;
                    }
                    _ => {
                        op.succeeded = conditions.is_empty().then_some(true);
                        op.then = self.branch(then, None)?;
                        op.otherwise = self.branch(otherwise, None)?;
                    }
                }
            }
            Request::Scan { start, end, limit } => {
                let Some(Response::Scanned { records, .. }) = response else { return Ok(()) };
                scan_in_order(start, end, *limit, records)?;
                let end = if end.is_empty() { KeyId(u32::MAX) } else { self.key(end) };
                op.range = Some(Range { start: self.key(start), end, limit: *limit });
                let steps = records.iter().map(|(key, record)| (key, None, Some(Some(record))));
                op.then = self.steps(steps, |_| Action::Get)?;
            }
        }
        Ok(())
    }

    fn conditions(&mut self, conditions: &'a [Wanted]) -> Span {
        let from = number(self.program.conditions.len());
        for condition in conditions {
            let key = self.key(&condition.key);
            let test = match &condition.expected {
                Expected::Exists(exists) => Test::Exists(*exists),
                Expected::Revision(revision) => Test::Revision(*revision),
                Expected::Value(value) => Test::Value(self.value(value)),
            };
            self.program.conditions.push(Condition { key, test });
        }
        Span { from, to: number(self.program.conditions.len()) }
    }

    fn branch(
        &mut self,
        asked: &'a [Asked],
        results: Option<&'a Vec<Option<Record>>>,
    ) -> Result<Span, String> {
        if let Some(results) = results.filter(|results| results.len() != asked.len()) {
            return Err(format!("{} results answer {} steps", results.len(), asked.len()));
        }
        let from = number(self.program.steps.len());
        for (place, step) in asked.iter().enumerate() {
            let seen = match results {
                Some(results) => self.seen(results[place].as_ref())?,
                None => Seen::Untold,
            };
            let (key, action) = match step {
                Asked::Put(key, value) => (key, Action::Put(self.value(value))),
                Asked::Delete(key) => (key, Action::Delete),
                Asked::Get(key) => (key, Action::Get),
            };
            let key = self.key(key);
            self.program.steps.push(Step { key, action, seen });
        }
        Ok(Span { from, to: number(self.program.steps.len()) })
    }

    fn steps<I>(&mut self, steps: I, action: impl Fn(Option<ValueId>) -> Action) -> Result<Span, String>
    where
        I: Iterator<Item = (&'a Key, Option<&'a Key>, Option<Option<&'a Record>>)>,
    {
        let from = number(self.program.steps.len());
        for (key, value, record) in steps {
            let key = self.key(key);
            let value = value.map(|value| self.value(value));
            let seen = record.map_or(Ok(Seen::Untold), |record| self.seen(record))?;
            self.program.steps.push(Step { key, action: action(value), seen });
        }
        Ok(Span { from, to: number(self.program.steps.len()) })
    }

    /// Numbers the keys anew, by rank.
    fn finish(self) -> Program {
        let mut program = self.program;
        let mut sorted: Vec<u32> = (0..number(self.names.len())).collect();
        sorted.sort_unstable_by_key(|id| self.names[*id as usize]);
        let mut ranks = vec![KeyId(0); sorted.len()];
        for (rank, id) in sorted.iter().enumerate() {
            ranks[*id as usize] = KeyId(number(rank));
        }
        program.keys = sorted.iter().map(|id| self.names[*id as usize].clone()).collect();
        let rank = |key: &mut KeyId| {
            if let Some(rank) = ranks.get(key.index()) {
                *key = *rank;
            }
        };
        program.steps.iter_mut().for_each(|step| rank(&mut step.key));
        program.conditions.iter_mut().for_each(|condition| rank(&mut condition.key));
        for range in program.ops.iter_mut().filter_map(|op| op.range.as_mut()) {
            rank(&mut range.start);
            rank(&mut range.end);
        }
        program
    }
}

fn put_or_delete(value: Option<ValueId>) -> Action {
    value.map_or(Action::Delete, Action::Put)
}

/// Whether a request could change anything.
fn writes(request: &Request) -> bool {
    match request {
        Request::Get { .. } | Request::Scan { .. } => false,
        Request::Put { .. } | Request::Delete { .. } => true,
        Request::Txn { then, otherwise, .. } => {
            then.iter().chain(otherwise).any(|step| !matches!(step, Asked::Get(_)))
        }
    }
}

fn scan_in_order(start: &Key, end: &Key, limit: usize, records: &[(Key, Record)]) -> Result<(), String> {
    if limit > 0 && records.len() > limit {
        return Err(format!("{} records answer a scan of at most {limit}", records.len()));
    }
    if !records.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        return Err("the records of a scan are not in order of keys".to_owned());
    }
    let inside = |key: &Key| key >= start && (end.is_empty() || key < end);
    if !records.iter().all(|(key, _)| inside(key)) {
        return Err("a scan found a key outside of its range".to_owned());
    }
    Ok(())
}
