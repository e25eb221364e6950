//! What the servers of a test agree on: a map with sessions, as map.proto describes them. It keeps the rules of sessions
//! strictly and remembers every breach.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use raftmap_proto::v1::condition::Expected;
use raftmap_proto::v1::failure::{Code, Outcome};
use raftmap_proto::v1::operation::Operation;
use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;
use raftmap_proto::v1::{
    DeleteResponse, Entry, Failure, GetResponse, GetResult, OperationResult, PutEntry, PutResponse,
    ScanRequest, SessionTag, TxnResponse,
};

type Field = buffa::MessageField<Entry, buffa::Inline<Entry>>;

fn field(entry: Option<Entry>) -> Field {
    entry.map_or_else(Field::none, Field::some)
}

pub struct World {
    pub revision: u64,
    pub entries: BTreeMap<Bytes, Entry>,
    /// How often each key was set.
    pub puts: HashMap<Bytes, u32>,
    pub sessions: HashMap<u64, Session>,
    pub sessions_opened: u32,
    pub max_in_flight: u32,
    /// Breaches of the rules of sessions.
    pub breaches: Vec<String>,
}

#[derive(Default)]
pub struct Session {
    answers: BTreeMap<u64, Response>,
    pub acknowledged_below: u64,
}

pub fn failure(code: Code, outcome: Outcome) -> Failure {
    Failure {
        reason: format!("the test says {code:?}"),
        code: code.into(),
        outcome: outcome.into(),
        ..Failure::default()
    }
}

/// A failure of an attempt that certainly was not applied.
pub fn not_applied(code: Code) -> Failure {
    failure(code, Outcome::NOT_APPLIED)
}

pub fn tag_of(request: &Request) -> Option<&SessionTag> {
    match request {
        Request::Get(_) => None,
        Request::Put(put) => put.session.as_option(),
        Request::Delete(delete) => delete.session.as_option(),
        Request::Txn(txn) => txn.session.as_option(),
    }
}

impl World {
    pub fn new() -> Self {
        Self {
            revision: 0,
            entries: BTreeMap::new(),
            puts: HashMap::new(),
            sessions: HashMap::new(),
            sessions_opened: 0,
            max_in_flight: 1024,
            breaches: Vec::new(),
        }
    }

    pub fn open_session(&mut self) -> u64 {
        self.revision += 1;
        self.sessions_opened += 1;
        self.sessions.insert(self.revision, Session::default());
        self.revision
    }

    /// Applies a request once.
    pub fn apply(&mut self, request: &Request) -> Response {
        let Some(tag) = tag_of(request).cloned() else {
            if !matches!(request, Request::Get(_)) {
                self.breaches.push("a write without a session".to_owned());
            }
            return self.execute(request);
        };
        let max_in_flight = u64::from(self.max_in_flight);
        let Some(session) = self.sessions.get_mut(&tag.session_id) else {
            return Response::Failure(failure(Code::SESSION_UNKNOWN, Outcome::UNKNOWN));
        };
        if tag.sequence == 0 || tag.acknowledged_below > tag.sequence {
            self.breaches.push(format!("{tag:?}"));
        }
        session.acknowledged_below = session.acknowledged_below.max(tag.acknowledged_below);
        let lowest = session.acknowledged_below;
        session.answers.retain(|sequence, _| *sequence >= lowest);
        if tag.sequence < lowest {
            return Response::Failure(failure(Code::SEQUENCE_FORGOTTEN, Outcome::UNKNOWN));
        }
        if tag.sequence >= lowest.max(1) + max_in_flight {
            self.breaches.push(format!("{tag:?} is too far ahead of {lowest}"));
        }
        if let Some(answer) = session.answers.get(&tag.sequence) {
            return answer.clone();
        }
        let answer = self.execute(request);
        if let Some(session) = self.sessions.get_mut(&tag.session_id) {
            session.answers.insert(tag.sequence, answer.clone());
        }
        answer
    }

    fn result(&self, key: &Bytes) -> GetResult {
        GetResult { entry: field(self.entries.get(key).cloned()) }
    }

    fn put(&mut self, put: &PutEntry) -> Option<Entry> {
        *self.puts.entry(put.key.clone()).or_default() += 1;
        let entry = Entry {
            key: put.key.clone(),
            value: put.value.clone(),
            revision: self.revision,
            expires_at_ms: put.ttl_ms,
        };
        self.entries.insert(put.key.clone(), entry)
    }

    fn holds(&self, key: &Bytes, expected: &Expected) -> bool {
        let entry = self.entries.get(key);
        match expected {
            Expected::Exists(exists) => entry.is_some() == *exists,
            Expected::Revision(revision) => entry.map_or(0, |entry| entry.revision) == *revision,
            Expected::Value(value) => entry.is_some_and(|entry| entry.value == *value),
        }
    }

    fn execute(&mut self, request: &Request) -> Response {
        if !matches!(request, Request::Get(_)) {
            self.revision += 1;
        }
        let revision = self.revision;
        match request {
            Request::Get(get) => Response::Get(GetResponse {
                revision,
                results: get.keys.iter().map(|key| self.result(key)).collect(),
                ..GetResponse::default()
            }),
            Request::Put(put) => {
                let previous: Vec<_> =
                    put.entries.iter().map(|entry| GetResult { entry: field(self.put(entry)) }).collect();
                let previous = if put.return_previous { previous } else { Vec::new() };
                Response::Put(PutResponse { revision, previous, ..PutResponse::default() })
            }
            Request::Delete(delete) => {
                let removed: Vec<_> = delete.keys.iter().map(|key| self.entries.remove(key)).collect();
                Response::Delete(DeleteResponse {
                    revision,
                    deleted: removed.iter().flatten().count() as u64,
                    previous: removed
                        .into_iter()
                        .filter(|_| delete.return_previous)
                        .map(|entry| GetResult { entry: field(entry) })
                        .collect(),
                    ..DeleteResponse::default()
                })
            }
            Request::Txn(txn) => {
                let succeeded = txn.conditions.iter().all(|condition| {
                    self.holds(&condition.key, condition.expected.as_ref().expect("a condition is set"))
                });
                let branch = if succeeded { &txn.then } else { &txn.otherwise };
                let results = branch.iter().map(|operation| match operation.operation.as_ref() {
                    Some(Operation::Put(put)) => {
                        OperationResult { previous: field(self.put(put)), ..OperationResult::default() }
                    }
                    Some(Operation::Delete(key)) => {
                        let removed = self.entries.remove(key);
                        OperationResult {
                            deleted: removed.is_some(),
                            previous: field(removed),
                            ..OperationResult::default()
                        }
                    }
                    Some(Operation::Get(key)) => {
                        OperationResult { entry: self.result(key).entry, ..OperationResult::default() }
                    }
                    None => panic!("an operation is not set"),
                });
                let results = results.collect();
                Response::Txn(TxnResponse { revision, succeeded, results, ..TxnResponse::default() })
            }
        }
    }

    /// All entries of a scan, in its order.
    pub fn scan(&self, scan: &ScanRequest) -> Vec<Entry> {
        let from_start = self.entries.range(scan.start.clone()..);
        let mut found: Vec<Entry> = from_start
            .map(|(_, entry)| entry.clone())
            .filter(|entry| scan.end.is_empty() || entry.key < scan.end)
            .collect();
        if scan.reverse {
            found.reverse();
        }
        found
    }

    /// The sequences whose answers are kept, over all sessions.
    pub fn kept(&self) -> BTreeSet<u64> {
        self.sessions.values().flat_map(|session| session.answers.keys().copied()).collect()
    }
}
