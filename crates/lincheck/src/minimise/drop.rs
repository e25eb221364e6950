//! Which writes a part of a history can do without.

use crate::history::{Key, Outcome, Record, Request, Response, Step, Value};
use crate::verdict::Method;

use super::Part;
use super::project::key_of;

/// What an operation may leave under a key.
enum Effect<'a> {
    Put(&'a Key, &'a Value),
    Delete(&'a Key),
}

/// What an answer says of a key.
enum Look<'a> {
    /// It shows what was there.
    Saw(Option<&'a Record>),
    /// Something in it depends on the key.
    Hint,
}

/// Whether a linearizable history without this write were linearizable: nothing in the rest can have seen what it did.
///
/// A record that an answer shows keeps its write, even where it could not have been seen any more: a stale read is
/// understood by the write that it saw and the one that it missed.
pub(super) fn may_drop(method: Method, write: &Part, rest: &[Part]) -> bool {
    effects(write).into_iter().all(|effect| {
        let key = match effect {
            Effect::Put(key, _) | Effect::Delete(key) => key,
        };
        rest.iter().all(|other| {
            looks_at(other, key).into_iter().all(|look| match (&look, &effect) {
                (Look::Saw(Some(record)), Effect::Put(_, value)) => {
                    let named = revision(write).is_none_or(|revision| revision == record.revision);
                    !(named && record.value == **value)
                }
                (Look::Saw(Some(_)), Effect::Delete(_)) | (Look::Saw(None), Effect::Put(..)) => true,
                (Look::Saw(None), Effect::Delete(_)) | (Look::Hint, _) => {
                    surely_before(method, other, write) || is_hidden(method, write, key, other, rest)
                }
            })
        })
    })
}

/// Whether another write to the key certainly came in between.
fn is_hidden(method: Method, write: &Part, key: &Key, other: &Part, rest: &[Part]) -> bool {
    rest.iter().any(|between| {
        revision(between).is_some()
            && surely_before(method, write, between)
            && surely_before(method, between, other)
            && effects(between).iter().any(|effect| match effect {
                Effect::Put(at, _) | Effect::Delete(at) => *at == key,
            })
    })
}

fn revision(part: &Part) -> Option<u64> {
    match &part.operation.outcome {
        Outcome::Done(response) => Some(response.revision()),
        Outcome::Unknown | Outcome::NotApplied => None,
    }
}

/// Whether every order has one before the other.
fn surely_before(method: Method, one: &Part, other: &Part) -> bool {
    let Some(first) = revision(one) else { return false };
    let by_time = one.operation.end.is_some_and(|end| end < other.operation.call);
    let by_revision = method == Method::Revision
        && revision(other).is_some_and(|second| (first, one.is_read()) < (second, other.is_read()));
    by_time || by_revision
}

/// The steps of a branch, and what they gave, if that is known.
type Branch<'a> = (&'a [Step], Option<&'a [Option<Record>]>);

/// The branches of a transaction that may have run.
fn ran(part: &Part) -> Vec<Branch<'_>> {
    let Request::Txn { then, otherwise, .. } = &part.operation.request else { return Vec::new() };
    match &part.operation.outcome {
        Outcome::Done(Response::Txn { succeeded, results, .. }) => {
            vec![(if *succeeded { then } else { otherwise }, Some(results))]
        }
        _ => vec![(then, None), (otherwise, None)],
    }
}

fn effects(part: &Part) -> Vec<Effect<'_>> {
    match &part.operation.request {
        Request::Get { .. } | Request::Scan { .. } => Vec::new(),
        Request::Put { entries } => entries.iter().map(|(key, value)| Effect::Put(key, value)).collect(),
        Request::Delete { keys } => keys.iter().map(Effect::Delete).collect(),
        Request::Txn { .. } => {
            ran(part).into_iter().flat_map(|(steps, _)| steps).filter_map(effect).collect()
        }
    }
}

fn effect(step: &Step) -> Option<Effect<'_>> {
    match step {
        Step::Put(key, value) => Some(Effect::Put(key, value)),
        Step::Delete(key) => Some(Effect::Delete(key)),
        Step::Get(_) => None,
    }
}

fn looks_at<'a>(part: &'a Part, key: &Key) -> Vec<Look<'a>> {
    match (&part.operation.request, &part.operation.outcome) {
        (Request::Get { keys }, Outcome::Done(Response::Got { records, .. })) => {
            let found = keys.iter().zip(records).filter(|(at, _)| *at == key);
            found.map(|(_, record)| Look::Saw(record.as_ref())).collect()
        }
        (Request::Delete { keys }, Outcome::Done(_)) => {
            keys.iter().filter(|at| *at == key).map(|_| Look::Hint).collect()
        }
        (Request::Txn { conditions, .. }, _) => {
            let hints = conditions.iter().filter(|condition| condition.key == *key).map(|_| Look::Hint);
            let results =
                ran(part).into_iter().flat_map(|(steps, results)| steps.iter().zip(results.unwrap_or(&[])));
            let saw = results.filter(|(step, _)| key_of(step) == key);
            hints.chain(saw.map(|(_, result)| Look::Saw(result.as_ref()))).collect()
        }
        (Request::Scan { start, end, .. }, Outcome::Done(Response::Scanned { records, .. })) => {
            let inside = key >= start && (end.is_empty() || key < end);
            let found = records.iter().find(|(at, _)| at == key);
            let look = found.map_or(Look::Hint, |(_, record)| Look::Saw(Some(record)));
            inside.then_some(look).into_iter().collect()
        }
        _ => Vec::new(),
    }
}
