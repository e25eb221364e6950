//! What the state machine is to do, as simply as it can be said: whole maps, no rows, no batches, nothing removed late.
//! Written against `map.proto` and DESIGN, not against the code.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use bytes::Bytes;
use raftmap_raft::{LogIndex, Membership, NodeId};
use raftmap_state::limits::answer_bytes;
use raftmap_state::{
    Answer, Body, Command, Condition, DeleteAnswer, Expected, Member, Operation, OperationResult, PutAnswer,
    PutEntry, Record, Refusal, SessionId, SessionLimits, SessionOpened, SessionTag, TxnAnswer, Write,
    WriteRequest,
};

#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) index: u64,
    pub(crate) log_time_ms: u64,
    /// 0: it was never raised.
    pub(crate) level: u8,
    map: BTreeMap<Bytes, Record>,
    sessions: BTreeMap<SessionId, Session>,
    pub(crate) members: BTreeMap<NodeId, Member>,
    pub(crate) membership: Option<(LogIndex, Membership)>,
}

#[derive(Clone)]
struct Session {
    limits: SessionLimits,
    acknowledged_below: u64,
    last_used_ms: u64,
    last_used: u64,
    kept: BTreeMap<u64, (WriteRequest, Result<Answer, Refusal>)>,
}

impl Session {
    fn is_open(&self, log_time_ms: u64) -> bool {
        self.last_used_ms + self.limits.idle_expiry_ms > log_time_ms
    }

    fn kept_bytes(&self) -> u64 {
        self.kept.values().map(|(_, result)| kept_bytes(result)).sum()
    }
}

impl Model {
    /// An entry that is no command.
    pub(crate) fn skip(&mut self) -> Result<Answer, Refusal> {
        self.index += 1;
        Ok(Answer::Done)
    }

    pub(crate) fn change_membership(&mut self, membership: &Membership) -> Result<Answer, Refusal> {
        let result = self.skip();
        self.membership = Some((LogIndex(self.index), membership.clone()));
        result
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Result<Answer, Refusal> {
        self.index += 1;
        self.log_time_ms = self.log_time_ms.max(command.stamped_time_ms.unwrap_or(0));
        // Removing at once what expired makes no difference that anyone may see.
        let now = self.log_time_ms;
        self.map.retain(|_, record| record.expires_at_ms.is_none_or(|deadline| deadline.get() > now));
        match &command.body {
            Body::Write(write) => self.write(write),
            Body::OpenSession(limits) => Ok(self.open_session(*limits)),
            Body::Time | Body::Scan | Body::IntroduceMember(_) => Ok(Answer::Done),
            Body::RaiseLevel(level) => {
                self.level = self.level.max(*level);
                Ok(Answer::Done)
            }
            Body::RecordMember(member) => self.record_member(*member),
        }
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        self.map.values().cloned().collect()
    }

    pub(crate) fn get(&self, key: &Bytes) -> Option<Record> {
        self.map.get(key).cloned()
    }

    fn open_session(&mut self, limits: SessionLimits) -> Answer {
        let now = self.log_time_ms;
        self.sessions.retain(|_, session| session.is_open(now));
        while self.sessions.len() >= limits.sessions_max as usize {
            let (&oldest, _) = self.sessions.iter().min_by_key(|(_, session)| session.last_used).unwrap();
            self.sessions.remove(&oldest);
        }
        let session_id = SessionId(self.index);
        let session = Session {
            limits,
            acknowledged_below: 0,
            last_used_ms: self.log_time_ms,
            last_used: self.index,
            kept: BTreeMap::new(),
        };
        self.sessions.insert(session_id, session);
        Answer::SessionOpened(SessionOpened {
            session_id,
            idle_expiry_ms: limits.idle_expiry_ms,
            in_flight_max: limits.in_flight_max,
        })
    }

    fn record_member(&mut self, member: Member) -> Result<Answer, Refusal> {
        let node_id = member.node_id;
        let known = self.members.get(&node_id).is_none_or(|known| *known == member);
        let founded = self.members.values().all(|other| other.founding_hash == member.founding_hash);
        if !known || !founded {
            return Err(Refusal::MemberMismatch { node_id });
        }
        self.members.insert(node_id, member);
        Ok(Answer::Done)
    }

    fn write(&mut self, write: &Write) -> Result<Answer, Refusal> {
        let Some(tag) = write.session else { return self.execute(write) };
        if let Some(early) = self.admit(tag, &write.request) {
            return early;
        }
        let before = self.map.clone();
        let result = self.execute(write);
        let session = self.sessions.get_mut(&tag.session_id).unwrap();
        let limit = session.limits.kept_bytes_max;
        if !session.kept.is_empty() && session.kept_bytes() + kept_bytes(&result) > limit {
            self.map = before;
            return Err(Refusal::KeptAnswersFull { limit });
        }
        session.kept.insert(tag.sequence, (write.request.clone(), result.clone()));
        result
    }

    /// The result of a write that is not carried out.
    fn admit(&mut self, tag: SessionTag, request: &WriteRequest) -> Option<Result<Answer, Refusal>> {
        let (session_id, sequence) = (tag.session_id, tag.sequence);
        let Some(session) =
            self.sessions.get_mut(&session_id).filter(|session| session.is_open(self.log_time_ms))
        else {
            return Some(Err(Refusal::SessionUnknown { session_id }));
        };
        session.last_used_ms = self.log_time_ms;
        session.last_used = self.index;
        session.acknowledged_below = session.acknowledged_below.max(tag.acknowledged_below);
        let acknowledged_below = session.acknowledged_below;
        session.kept.retain(|sequence, _| *sequence >= acknowledged_below);
        if sequence < acknowledged_below {
            return Some(Err(Refusal::SequenceForgotten { sequence, acknowledged_below }));
        }
        if let Some((first, result)) = session.kept.get(&sequence) {
            return Some(if first == request {
                result.clone()
            } else {
                Err(Refusal::SequenceReused { sequence })
            });
        }
        let limit = session.limits.in_flight_max;
        (session.kept.len() >= limit as usize).then_some(Err(Refusal::TooManyInFlight { limit }))
    }

    fn execute(&mut self, write: &Write) -> Result<Answer, Refusal> {
        let before = self.map.clone();
        let answer = match &write.request {
            WriteRequest::Put(put) => {
                let previous: Vec<_> = put.entries.iter().map(|entry| self.put(entry)).collect();
                let previous = if put.return_previous { previous } else { Vec::new() };
                Answer::Put(PutAnswer { revision: LogIndex(self.index), previous })
            }
            WriteRequest::Delete(delete) => {
                let previous: Vec<_> = delete.keys.iter().map(|key| self.map.remove(key)).collect();
                let deleted = previous.iter().flatten().count() as u64;
                let previous = if delete.return_previous { previous } else { Vec::new() };
                Answer::Delete(DeleteAnswer { revision: LogIndex(self.index), deleted, previous })
            }
            WriteRequest::Txn(txn) => {
                let succeeded = txn.conditions.iter().all(|condition| self.holds(condition));
                let operations = if succeeded { &txn.then } else { &txn.otherwise };
                let results = operations.iter().map(|operation| self.operation(operation)).collect();
                Answer::Txn(TxnAnswer { revision: LogIndex(self.index), succeeded, results })
            }
        };
        let limit = u64::from(write.answer_bytes_max);
        if answer_bytes(&answer) > limit {
            self.map = before;
            return Err(Refusal::AnswerTooLarge { limit });
        }
        Ok(answer)
    }

    fn put(&mut self, entry: &PutEntry) -> Option<Record> {
        let record = Record {
            key: entry.key.clone(),
            value: entry.value.clone(),
            revision: LogIndex(self.index),
            expires_at_ms: entry.ttl_ms.and_then(|ttl| NonZeroU64::new(self.log_time_ms + ttl.get())),
        };
        self.map.insert(entry.key.clone(), record)
    }

    fn operation(&mut self, operation: &Operation) -> OperationResult {
        match operation {
            Operation::Put(entry) => OperationResult::Put { previous: self.put(entry) },
            Operation::Delete(key) => OperationResult::Deleted { previous: self.map.remove(key) },
            Operation::Get(key) => OperationResult::Got(self.get(key)),
        }
    }

    fn holds(&self, condition: &Condition) -> bool {
        let record = self.map.get(&condition.key);
        match &condition.expected {
            Expected::Exists(exists) => record.is_some() == *exists,
            Expected::Revision(LogIndex(0)) => record.is_none(),
            Expected::Revision(revision) => record.is_some_and(|record| record.revision == *revision),
            Expected::Value(value) => record.is_some_and(|record| record.value == value),
        }
    }
}

/// What a kept result counts: the request's hash and the result's bytes as docs/format.md draws them.
fn kept_bytes(result: &Result<Answer, Refusal>) -> u64 {
    let record = |record: &Option<Record>| {
        1 + record.as_ref().map_or(0, |record| {
            let string = |bytes: &Bytes| varint(bytes.len() as u64) + bytes.len() as u64;
            let expires = record.expires_at_ms.map_or(0, NonZeroU64::get);
            string(&record.key) + string(&record.value) + varint(record.revision.0) + varint(expires)
        })
    };
    let list =
        |records: &[Option<Record>]| varint(records.len() as u64) + records.iter().map(record).sum::<u64>();
    let content = match result {
        Ok(Answer::Put(put)) => varint(put.revision.0) + list(&put.previous),
        Ok(Answer::Delete(delete)) => {
            varint(delete.revision.0) + varint(delete.deleted) + list(&delete.previous)
        }
        Ok(Answer::Txn(txn)) => {
            let results: u64 = txn.results.iter().map(|result| 1 + record(&result.record().cloned())).sum();
            varint(txn.revision.0) + 1 + varint(txn.results.len() as u64) + results
        }
        Err(Refusal::AnswerTooLarge { limit }) => varint(*limit),
        other => panic!("no session keeps {other:?}"),
    };
    16 + 1 + content
}

fn varint(number: u64) -> u64 {
    u64::from((64 - (number | 1).leading_zeros()).div_ceil(7))
}
