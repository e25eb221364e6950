//! Clients: they call, wait, try again elsewhere, and write down what they were told.
//!
//! They behave as the client library does: a write with a session tag is sent again until its outcome is known, one without
//! is not once it may have been applied; reads are sent again freely.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fastrand::Rng;
use raftmap_lincheck::{self as history, Operation, Outcome, Request, Response, Step};
use raftmap_raft::{Ctx, LogIndex, NodeId, Outcome as Certainty};
use raftmap_replica::{Failure, Reason, RequestKind};
use raftmap_state::{
    Answer, Condition, Delete, Expected, Get, Operation as MapOperation, Put, PutEntry, Record, Refusal,
    Scan, SessionId, SessionTag, Txn, WriteRequest,
};

use crate::plan::{Climate, Spread};
use crate::time::Time;

/// How long a client waits for an answer before it asks another server.
const ATTEMPT: Time = Time::secs(2);
/// How long it tries in all.
const CALL: Time = Time::secs(12);
/// How long it waits before it tries again.
const RETRY: Spread = Spread(Time::ms(5), Time::ms(200));
/// Clients that share a session.
const SHARED: usize = 3;

/// What a client asks a server for.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) ctx: Ctx,
    pub(crate) client: u32,
    pub(crate) kind: RequestKind,
    pub(crate) read: Option<ReadRequest>,
    /// When the client gives up on this attempt.
    pub(crate) deadline: Time,
}

/// What is read when a server's state is fit for it.
#[derive(Clone, Debug)]
pub(crate) enum ReadRequest {
    Get(Get),
    Scan(Scan),
}

/// What a client hears.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Answer(Answer),
    Read(Response),
    Failed(Failure),
    /// The connection to the server ended.
    Broken,
}

/// What a client does next.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    /// Send this to a server, then wait.
    Send(NodeId, Attempt),
    /// Look again after that time.
    Wait(Time),
    /// Nothing any more.
    Rest,
}

/// All clients of a run, and their history.
pub(crate) struct Clients {
    rng: Rng,
    climate: Climate,
    nodes: u64,
    clients: Vec<Client>,
    sessions: Vec<Session>,
    history: Vec<Operation>,
    /// The highest revision that had been acknowledged to anybody when each call began.
    acknowledged_before: Vec<u64>,
    next_ctx: u64,
    /// No new calls begin.
    closing: bool,
}

struct Client {
    server: NodeId,
    call: Option<Call>,
    /// The attempt that it waits for; other answers come too late.
    waits_for: Option<Ctx>,
    /// Counts its timers: only the latest one matters.
    token: u64,
    seen: LogIndex,
    /// After the end of all faults it has written once more.
    wrote_last: bool,
}

#[derive(Clone, Debug)]
enum Call {
    OpenSession,
    /// A call that stands in the history.
    Noted(Noted),
    /// One that does not: it keeps time and expiry busy.
    Unnoted(RequestKind),
}

#[derive(Clone, Debug)]
struct Noted {
    place: usize,
    kind: RequestKind,
    read: Option<ReadRequest>,
    /// Its session and its number there, the same in each attempt.
    number: Option<(SessionId, u64)>,
    deadline: Time,
    may_be_applied: bool,
}

/// A session that some clients share, as callers of one client library do.
#[derive(Default)]
struct Session {
    id: Option<SessionId>,
    opening: bool,
    next_sequence: u64,
    unfinished: BTreeSet<u64>,
}

impl Clients {
    pub(crate) fn new(climate: &Climate, nodes: u64, mut rng: Rng) -> Self {
        let client = |rng: &mut Rng| Client {
            server: NodeId(rng.u64(1..=nodes)),
            call: None,
            waits_for: None,
            token: 0,
            seen: LogIndex(0),
            wrote_last: false,
        };
        let clients: Vec<_> = (0..climate.clients).map(|_| client(&mut rng)).collect();
        let sessions = clients.iter().step_by(SHARED).map(|_| Session::default()).collect();
        Self {
            rng,
            climate: climate.clone(),
            nodes,
            clients,
            sessions,
            history: Vec::new(),
            acknowledged_before: Vec::new(),
            next_ctx: 1,
            closing: false,
        }
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.clients.len()).expect("few clients")
    }

    /// From now on each client ends its call, writes once more, and rests.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    pub(crate) fn all_rest(&self) -> bool {
        self.clients.iter().all(|client| client.call.is_none() && client.wrote_last)
    }

    /// How the calls ended.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for operation in &self.history {
            let outcome = match operation.outcome {
                Outcome::Done(_) => "done",
                Outcome::Unknown => "unknown",
                Outcome::NotApplied => "not applied",
            };
            *counts.entry(outcome).or_default() += 1;
        }
        counts
    }

    pub(crate) fn history(&self) -> &[Operation] {
        &self.history
    }

    /// A new timer of a client: the earlier ones are void.
    pub(crate) fn set_timer(&mut self, client: u32) -> u64 {
        let client = &mut self.clients[client as usize];
        client.token += 1;
        client.token
    }

    pub(crate) fn is_current(&self, client: u32, token: u64) -> bool {
        self.clients[client as usize].token == token
    }

    pub(crate) fn waits_for(&self, client: u32, ctx: Ctx) -> bool {
        self.clients[client as usize].waits_for == Some(ctx)
    }

    /// The highest revision that had been acknowledged when the call at hand began, if it is a read that must see it.
    pub(crate) fn must_see(&self, client: u32) -> Option<u64> {
        match &self.clients[client as usize].call {
            Some(Call::Noted(Noted {
                place, kind: RequestKind::Read { linearizable: true, .. }, ..
            })) => Some(self.acknowledged_before[*place]),
            _ => None,
        }
    }

    /// A client's time has come: it begins a call, or goes on with one.
    pub(crate) fn act(&mut self, client: u32, now: Time, acknowledged: u64) -> Next {
        let id = client as usize;
        if self.clients[id].waits_for.take().is_some() {
            // Nothing came in time.
            return self.heard(client, Reply::Broken, now);
        }
        if self.clients[id].call.is_none() {
            if self.closing && self.clients[id].wrote_last {
                return Next::Rest;
            }
            let call = self.draw_call(id, now, acknowledged);
            self.clients[id].call = Some(call);
        }
        self.attempt(client, now)
    }

    fn attempt(&mut self, client: u32, now: Time) -> Next {
        let id = client as usize;
        let Some(call) = self.clients[id].call.clone() else { return Next::Rest };
        let (kind, read) = match call {
            Call::OpenSession => (RequestKind::OpenSession, None),
            Call::Unnoted(kind) => (kind, None),
            Call::Noted(noted) => {
                if now >= noted.deadline {
                    let outcome = if noted.may_be_applied { Outcome::Unknown } else { Outcome::NotApplied };
                    return self.finish(id, outcome, now);
                }
                (self.tagged(id, &noted), noted.read)
            }
        };
        let ctx = Ctx(self.next_ctx);
        self.next_ctx += 1;
        self.clients[id].waits_for = Some(ctx);
        let deadline = now + ATTEMPT;
        Next::Send(self.clients[id].server, Attempt { ctx, client, kind, read, deadline })
    }

    fn session(&mut self, id: usize) -> &mut Session {
        &mut self.sessions[id / SHARED]
    }

    fn tagged(&self, id: usize, noted: &Noted) -> RequestKind {
        let mut kind = noted.kind.clone();
        if let (RequestKind::Write { session, .. }, Some((session_id, sequence))) = (&mut kind, noted.number)
        {
            let own = &self.sessions[id / SHARED];
            let unfinished = own.unfinished.first().filter(|_| own.id == Some(session_id));
            let acknowledged_below = unfinished.map_or(sequence, |first| sequence.min(*first));
            *session = Some(SessionTag { session_id, sequence, acknowledged_below });
        }
        kind
    }

    /// What the client was told, or that it was told nothing.
    pub(crate) fn heard(&mut self, client: u32, reply: Reply, now: Time) -> Next {
        let id = client as usize;
        self.clients[id].waits_for = None;
        let Some(call) = self.clients[id].call.clone() else { return Next::Rest };
        match call {
            Call::OpenSession => {
                let session = self.session(id);
                session.opening = false;
                if let Reply::Answer(Answer::SessionOpened(opened)) = reply {
                    *session =
                        Session { id: Some(opened.session_id), next_sequence: 1, ..Session::default() };
                    self.clients[id].call = None;
                    return Next::Wait(Time(1));
                }
                self.clients[id].call = None;
                self.move_on(id, &reply)
            }
            Call::Unnoted(_) => {
                self.clients[id].call = None;
                self.move_on(id, &reply)
            }
            Call::Noted(noted) => self.heard_of_noted(id, noted, reply, now),
        }
    }

    fn heard_of_noted(&mut self, id: usize, mut noted: Noted, reply: Reply, now: Time) -> Next {
        let is_write = matches!(noted.kind, RequestKind::Write { .. });
        let unsure = if noted.may_be_applied { Outcome::Unknown } else { Outcome::NotApplied };
        match &reply {
            Reply::Answer(answer) => {
                let response = response_of(answer);
                self.clients[id].seen = self.clients[id].seen.max(LogIndex(response.revision()));
                return self.finish(id, Outcome::Done(response), now);
            }
            Reply::Read(response) => {
                let response = response.clone();
                self.clients[id].seen = self.clients[id].seen.max(LogIndex(response.revision()));
                return self.finish(id, Outcome::Done(response), now);
            }
            Reply::Failed(Failure { reason: Reason::Refused(refusal), .. }) => {
                if let Refusal::SessionUnknown { session_id } = refusal
                    && self.session(id).id == Some(*session_id)
                {
                    *self.session(id) = Session::default();
                }
                return self.finish(id, unsure, now);
            }
            Reply::Failed(failure) if failure.outcome == Certainty::NotApplied => {}
            Reply::Failed(_) | Reply::Broken if is_write => {
                noted.may_be_applied = true;
                if noted.number.is_none() {
                    self.choose_server(id, &reply);
                    return self.finish(id, Outcome::Unknown, now);
                }
            }
            Reply::Failed(_) | Reply::Broken => {}
        }
        self.clients[id].call = Some(Call::Noted(noted));
        self.move_on(id, &reply)
    }

    /// Tries another server, or the one that leads.
    fn move_on(&mut self, id: usize, reply: &Reply) -> Next {
        self.choose_server(id, reply);
        Next::Wait(RETRY.draw(&mut self.rng))
    }

    fn choose_server(&mut self, id: usize, reply: &Reply) {
        let leader = match reply {
            Reply::Failed(failure) => failure.leader,
            _ => None,
        };
        self.clients[id].server = leader.unwrap_or(NodeId(self.rng.u64(1..=self.nodes)));
    }

    fn finish(&mut self, id: usize, outcome: Outcome, now: Time) -> Next {
        if let Some(Call::Noted(noted)) = self.clients[id].call.take() {
            let operation = &mut self.history[noted.place];
            // What is not known may still happen.
            operation.end = (outcome != Outcome::Unknown).then_some(now.0);
            operation.outcome = outcome;
            let wrote = matches!(noted.kind, RequestKind::Write { .. }) && operation.end.is_some();
            self.clients[id].wrote_last |= self.closing && wrote;
            if let Some((session_id, sequence)) = noted.number
                && self.session(id).id == Some(session_id)
            {
                self.session(id).unfinished.remove(&sequence);
            }
        }
        Next::Wait(self.climate.think.draw(&mut self.rng))
    }

    // What is called.

    fn draw_call(&mut self, id: usize, now: Time, acknowledged: u64) -> Call {
        let tagged = self.rng.u32(..100) < self.climate.tagged;
        let session = &mut self.sessions[id / SHARED];
        if tagged && session.id.is_none() && !session.opening {
            session.opening = true;
            return Call::OpenSession;
        }
        if self.rng.u32(..40) == 0 {
            return Call::Unnoted(self.expiring_put());
        }
        let place = self.history.len();
        let (request, kind, read) = if !self.closing && self.rng.u32(..100) < self.climate.reads {
            self.draw_read(id)
        } else {
            let (request, write) = self.draw_write(place);
            (request, RequestKind::Write { request: write, session: None }, None)
        };
        let is_write = matches!(kind, RequestKind::Write { .. });
        // A read that may be stale is only to be of one revision.
        let stale = matches!(kind, RequestKind::Read { linearizable: false, .. });
        let session = &mut self.sessions[id / SHARED];
        let number = session.id.filter(|_| is_write && tagged).map(|session_id| {
            session.next_sequence += 1;
            session.unfinished.insert(session.next_sequence);
            (session_id, session.next_sequence)
        });
        self.history.push(Operation {
            client: id as u64,
            call: if stale { 0 } else { now.0 },
            end: None,
            request,
            outcome: Outcome::Unknown,
        });
        self.acknowledged_before.push(acknowledged);
        let deadline = now + CALL;
        Call::Noted(Noted { place, kind, read, number, deadline, may_be_applied: false })
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("k{:02}", self.rng.u32(..self.climate.keys)))
    }

    /// One or a few keys, each once.
    fn keys(&mut self) -> Vec<Bytes> {
        let count = [1, 1, 1, 2, 3][self.rng.usize(..5)];
        let keys: BTreeSet<Bytes> = (0..count).map(|_| self.key()).collect();
        keys.into_iter().collect()
    }

    fn value(&mut self, place: usize, nth: usize) -> Bytes {
        let mut value = format!("v{place}.{nth}").into_bytes();
        if self.rng.u32(..20) == 0 {
            value.resize(self.rng.usize(100..6_000).max(value.len()), b'.');
        }
        Bytes::from(value)
    }

    fn expiring_put(&mut self) -> RequestKind {
        let ttl_ms = std::num::NonZeroU64::new(self.rng.u64(1..5_000));
        let key = Bytes::from(format!("expires{}", self.rng.u32(..5)));
        let entries = vec![PutEntry { key, value: Bytes::from_static(b"x"), ttl_ms }];
        let put = Put { entries, return_previous: self.rng.bool() };
        RequestKind::Write { request: WriteRequest::Put(put), session: None }
    }

    fn draw_read(&mut self, id: usize) -> (Request, RequestKind, Option<ReadRequest>) {
        let linearizable = self.rng.u32(..6) > 0;
        let min_revision = if linearizable { LogIndex(0) } else { self.clients[id].seen };
        let kind = RequestKind::Read { linearizable, min_revision };
        if self.rng.u32(..5) == 0 {
            let (start, end) = (Bytes::from_static(b"k"), Bytes::from_static(b"l"));
            let limit = self.rng.u32(..4);
            let request = Request::Scan {
                start: start.to_vec().into(),
                end: end.to_vec().into(),
                limit: limit as usize,
            };
            let scan = Scan { start, end, limit, ..Scan::default() };
            return (request, kind, Some(ReadRequest::Scan(scan)));
        }
        let keys = self.keys();
        let request = Request::Get { keys: keys.clone() };
        (request, kind, Some(ReadRequest::Get(Get { keys })))
    }

    fn draw_write(&mut self, place: usize) -> (Request, WriteRequest) {
        match self.rng.u32(..10) {
            0 => {
                let keys = self.keys();
                let delete = Delete { keys: keys.clone(), return_previous: false };
                (Request::Delete { keys }, WriteRequest::Delete(delete))
            }
            1..4 => self.draw_txn(place),
            _ => {
                let keys = self.keys();
                let entries: Vec<_> =
                    keys.into_iter().enumerate().map(|(nth, key)| (key, self.value(place, nth))).collect();
                let put = entries.iter().cloned().map(|(key, value)| PutEntry { key, value, ttl_ms: None });
                let put = Put { entries: put.collect(), return_previous: false };
                (Request::Put { entries }, WriteRequest::Put(put))
            }
        }
    }

    /// A compare-and-swap, or something of that kind.
    fn draw_txn(&mut self, place: usize) -> (Request, WriteRequest) {
        let key = self.key();
        let expected = match self.rng.u32(..3) {
            0 => Expected::Exists(self.rng.bool()),
            1 => Expected::Revision(self.clients[self.rng.usize(..self.clients.len())].seen),
            _ => {
                let place = self.rng.usize(..=place);
                Expected::Value(self.value(place, 0))
            }
        };
        let conditions = vec![Condition { key: key.clone(), expected }];
        let mut steps = Vec::new();
        for (nth, key) in self.keys().into_iter().enumerate() {
            steps.push(match self.rng.u32(..4) {
                0 => MapOperation::Get(key),
                1 => MapOperation::Delete(key),
                _ => MapOperation::Put(PutEntry { key, value: self.value(place, nth), ttl_ms: None }),
            });
        }
        let otherwise = if self.rng.bool() { vec![MapOperation::Get(key)] } else { Vec::new() };
        let request = Request::Txn {
            conditions: conditions.iter().map(noted_condition).collect(),
            then: steps.iter().map(noted_step).collect(),
            otherwise: otherwise.iter().map(noted_step).collect(),
        };
        (request, WriteRequest::Txn(Txn { conditions, then: steps, otherwise }))
    }
}

fn noted_condition(condition: &Condition) -> history::Condition {
    let expected = match &condition.expected {
        Expected::Exists(exists) => history::Expected::Exists(*exists),
        Expected::Revision(revision) => history::Expected::Revision(revision.0),
        Expected::Value(value) => history::Expected::Value(value.clone()),
    };
    history::Condition { key: condition.key.clone(), expected }
}

fn noted_step(operation: &MapOperation) -> Step {
    match operation {
        MapOperation::Put(entry) => Step::Put(entry.key.clone(), entry.value.clone()),
        MapOperation::Delete(key) => Step::Delete(key.clone()),
        MapOperation::Get(key) => Step::Get(key.clone()),
    }
}

pub(crate) fn noted_record(record: &Record) -> history::Record {
    history::Record { value: record.value.clone(), revision: record.revision.0 }
}

fn response_of(answer: &Answer) -> Response {
    match answer {
        Answer::Put(put) => Response::Put { revision: put.revision.0 },
        Answer::Delete(delete) => Response::Deleted { revision: delete.revision.0, existed: delete.deleted },
        Answer::Txn(txn) => Response::Txn {
            revision: txn.revision.0,
            succeeded: txn.succeeded,
            results: txn.results.iter().map(|result| result.record().map(noted_record)).collect(),
        },
        Answer::Done | Answer::SessionOpened(_) => unreachable!("no call that is noted is answered so"),
    }
}
