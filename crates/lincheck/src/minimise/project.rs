//! A history seen through some of its keys: if the history is linearizable, so is what is seen.

use std::collections::HashSet;

use crate::history::{Key, Operation, Outcome, Record, Request, Response, Step};

use super::Part;

type Keys<'a> = HashSet<&'a Key>;

impl Part {
    pub(super) fn is_read(&self) -> bool {
        matches!(self.operation.request, Request::Get { .. } | Request::Scan { .. })
    }
}

/// What concerns the keys. `None`: a transaction of unknown outcome hangs on other keys, too.
pub(super) fn project(history: &[Operation], keys: &Keys<'_>) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    for (source, operation) in history.iter().enumerate() {
        let projected = match &operation.outcome {
            Outcome::NotApplied => continue,
            Outcome::Unknown => unknown(&operation.request, keys)?.map(|request| (request, Outcome::Unknown)),
            Outcome::Done(response) => done(&operation.request, response, keys),
        };
        if let Some((request, outcome)) = projected {
            let operation = Operation { request, outcome, ..*operation };
            parts.push(Part { source, operation });
        }
    }
    Some(parts)
}

/// What was called up to a moment. What returned later counts as unknown.
pub(super) fn before(parts: &[Part], moment: u64) -> Vec<Part> {
    let mut early: Vec<Part> = parts.iter().filter(|part| part.operation.call <= moment).cloned().collect();
    for part in &mut early {
        if part.operation.end.is_none_or(|end| end > moment) {
            part.operation.outcome = Outcome::Unknown;
        }
    }
    early.retain(|part| !(part.is_read() && part.operation.outcome == Outcome::Unknown));
    early
}

fn unknown(request: &Request, keys: &Keys<'_>) -> Option<Option<Request>> {
    let Request::Txn { conditions, then, otherwise } = request else {
        return Some(plain(request, keys));
    };
    let mut named = conditions
        .iter()
        .map(|condition| &condition.key)
        .chain(then.iter().chain(otherwise).map(key_of))
        .map(|key| keys.contains(key));
    let first = named.next().unwrap_or(false);
    named.all(|inside| inside == first).then(|| first.then(|| request.clone()))
}

/// What is left of a put or delete.
fn plain(request: &Request, keys: &Keys<'_>) -> Option<Request> {
    match request {
        Request::Put { entries } => {
            let entries: Vec<_> = entries.iter().filter(|(key, _)| keys.contains(key)).cloned().collect();
            (!entries.is_empty()).then_some(Request::Put { entries })
        }
        Request::Delete { keys: removed } => {
            let removed: Vec<Key> = removed.iter().filter(|key| keys.contains(key)).cloned().collect();
            (!removed.is_empty()).then_some(Request::Delete { keys: removed })
        }
        Request::Get { .. } | Request::Txn { .. } | Request::Scan { .. } => None,
    }
}

fn done(request: &Request, response: &Response, keys: &Keys<'_>) -> Option<(Request, Outcome)> {
    match (request, response) {
        (Request::Get { keys: asked }, Response::Got { revision, records }) => {
            let found = asked.iter().zip(records).filter(|(key, _)| keys.contains(key));
            get(found.map(|(key, record)| (key.clone(), record.clone())), *revision)
        }
        (Request::Scan { start, end, limit }, Response::Scanned { revision, records }) => {
            let last = records.last().filter(|_| *limit > 0 && records.len() == *limit).map(|(key, _)| key);
            let covered = |key: &Key| {
                key >= start && (end.is_empty() || key < end) && last.is_none_or(|last| key <= last)
            };
            let mut asked: Vec<&Key> = keys.iter().copied().filter(|key| covered(key)).collect();
            asked.sort_unstable();
            let find = |key: &Key| {
                let place = records.binary_search_by(|(found, _)| found.cmp(key)).ok()?;
                Some(records[place].1.clone())
            };
            get(asked.into_iter().map(|key| (key.clone(), find(key))), *revision)
        }
        (Request::Delete { keys: asked }, Response::Deleted { revision, existed }) => {
            let left = plain(request, keys)?;
            let Request::Delete { keys: removed } = &left else { return None };
            let (all, some) = (asked.len() as u64, removed.len() as u64);
            // How many of some keys were there is certain only if all were, or none.
            let existed = match *existed {
                0 => Some(0),
                existed if all == some => Some(existed),
                existed if existed == all => Some(some),
                _ => None,
            };
            let done = |existed| Outcome::Done(Response::Deleted { revision: *revision, existed });
            Some((left, existed.map_or(Outcome::Unknown, done)))
        }
        (Request::Txn { .. }, Response::Txn { .. }) => txn(request, response, keys),
        _ => plain(request, keys).map(|left| (left, Outcome::Done(response.clone()))),
    }
}

fn get(found: impl Iterator<Item = (Key, Option<Record>)>, revision: u64) -> Option<(Request, Outcome)> {
    let (keys, records): (Vec<Key>, Vec<Option<Record>>) = found.unzip();
    let outcome = Outcome::Done(Response::Got { revision, records });
    (!keys.is_empty()).then_some((Request::Get { keys }, outcome))
}

fn txn(request: &Request, response: &Response, keys: &Keys<'_>) -> Option<(Request, Outcome)> {
    let Request::Txn { conditions, then, otherwise } = request else { return None };
    let Response::Txn { revision, succeeded, results } = response else { return None };
    let (revision, succeeded) = (*revision, *succeeded);
    let held: Vec<_> = conditions.iter().filter(|condition| keys.contains(&condition.key)).cloned().collect();
    let (steps, results): (Vec<Step>, Vec<Option<Record>>) = if succeeded { then } else { otherwise }
        .iter()
        .zip(results)
        .filter(|(step, _)| keys.contains(key_of(step)))
        .map(|(step, result)| (step.clone(), result.clone()))
        .unzip();
    if held.is_empty() && steps.is_empty() {
        return None;
    }
    // That a condition failed says something of its key only if it cannot have been another.
    let (conditions, then, otherwise, succeeded) = match (succeeded, held.len() == conditions.len()) {
        (true, _) => (held, steps, Vec::new(), true),
        (false, true) => (held, Vec::new(), steps, false),
        (false, false) => (Vec::new(), steps, Vec::new(), true),
    };
    let outcome = Outcome::Done(Response::Txn { revision, succeeded, results });
    Some((Request::Txn { conditions, then, otherwise }, outcome))
}

pub(super) fn key_of(step: &Step) -> &Key {
    match step {
        Step::Put(key, _) | Step::Delete(key) | Step::Get(key) => key,
    }
}
