//! Short ways to write a history down.

use raftmap_lincheck::{
    Condition, Expected, Key, Operation, Outcome, Record, Request, Response, Step, Value,
};

pub fn bytes(text: &str) -> Key {
    Key::copy_from_slice(text.as_bytes())
}

pub fn record(value: &str, revision: u64) -> Option<Record> {
    Some(Record { value: bytes(value), revision })
}

fn operation(client: u64, times: (u64, u64), request: Request, outcome: Outcome) -> Operation {
    let end = matches!(outcome, Outcome::Done(_)).then_some(times.1);
    Operation { client, call: times.0, end, request, outcome }
}

pub fn put(client: u64, times: (u64, u64), key: &str, value: &str, revision: u64) -> Operation {
    let entries = vec![(bytes(key), bytes(value))];
    operation(client, times, Request::Put { entries }, Outcome::Done(Response::Put { revision }))
}

pub fn put_all(client: u64, times: (u64, u64), entries: &[(&str, &str)], revision: u64) -> Operation {
    let entries = entries.iter().map(|(key, value)| (bytes(key), bytes(value))).collect();
    operation(client, times, Request::Put { entries }, Outcome::Done(Response::Put { revision }))
}

pub fn delete(client: u64, times: (u64, u64), key: &str, existed: u64, revision: u64) -> Operation {
    let request = Request::Delete { keys: vec![bytes(key)] };
    operation(client, times, request, Outcome::Done(Response::Deleted { revision, existed }))
}

pub fn get(client: u64, times: (u64, u64), key: &str, found: Option<Record>, revision: u64) -> Operation {
    get_all(client, times, &[(key, found)], revision)
}

pub fn get_all(client: u64, times: (u64, u64), found: &[(&str, Option<Record>)], revision: u64) -> Operation {
    let keys = found.iter().map(|(key, _)| bytes(key)).collect();
    let records = found.iter().map(|(_, record)| record.clone()).collect();
    operation(client, times, Request::Get { keys }, Outcome::Done(Response::Got { revision, records }))
}

pub fn scan(client: u64, times: (u64, u64), found: &[(&str, Option<Record>)], revision: u64) -> Operation {
    let request = Request::Scan { start: Key::new(), end: Key::new(), limit: 0 };
    let records =
        found.iter().filter_map(|(key, record)| Some((bytes(key), record.clone()?))).collect::<Vec<_>>();
    operation(client, times, request, Outcome::Done(Response::Scanned { revision, records }))
}

pub fn txn(conditions: Vec<Condition>, then: Vec<Step>, otherwise: Vec<Step>) -> Request {
    Request::Txn { conditions, then, otherwise }
}

pub fn done_txn(
    client: u64,
    times: (u64, u64),
    request: Request,
    (succeeded, results): (bool, &[Option<Record>]),
    revision: u64,
) -> Operation {
    let results = results.to_vec();
    operation(client, times, request, Outcome::Done(Response::Txn { revision, succeeded, results }))
}

/// If the key is of `expected`, sets it.
pub fn swap(key: &str, expected: u64, value: &str) -> Request {
    txn(vec![of_revision(key, expected)], vec![step_put(key, value)], Vec::new())
}

pub fn of_revision(key: &str, revision: u64) -> Condition {
    Condition { key: bytes(key), expected: Expected::Revision(revision) }
}

pub fn of_value(key: &str, value: &str) -> Condition {
    Condition { key: bytes(key), expected: Expected::Value(value_of(value)) }
}

pub fn exists(key: &str) -> Condition {
    Condition { key: bytes(key), expected: Expected::Exists(true) }
}

fn value_of(text: &str) -> Value {
    bytes(text)
}

pub fn step_put(key: &str, value: &str) -> Step {
    Step::Put(bytes(key), bytes(value))
}

pub fn step_get(key: &str) -> Step {
    Step::Get(bytes(key))
}

pub fn unknown(client: u64, call: u64, request: Request) -> Operation {
    operation(client, (call, 0), request, Outcome::Unknown)
}

pub fn unknown_put(client: u64, call: u64, key: &str, value: &str) -> Operation {
    unknown(client, call, Request::Put { entries: vec![(bytes(key), bytes(value))] })
}

pub fn unknown_delete(client: u64, call: u64, key: &str) -> Operation {
    unknown(client, call, Request::Delete { keys: vec![bytes(key)] })
}
