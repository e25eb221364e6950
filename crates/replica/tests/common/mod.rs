//! A few replicas in one thread: disks that obey, a network that the test rules, a clock that it moves.
#![expect(unreachable_pub, clippy::unwrap_used, reason = "a module of tests")]
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raftmap_raft::{
    Base, Config, Ctx, Entry, GroupId, HardState, LogIndex, Membership, NodeId, Payload, Restored, Snapshot,
    StateId, Term, Write, WriteId,
};
use raftmap_replica::{
    Effect, Event, Failure, LogSize, Notice, Now, PeerBatch, Replica, ReplicaConfig, Request, RequestKind,
    Serves, StateDigest, StateView, StateWorker,
};
use raftmap_state::{
    Answer, Body, Command, Engine, Get, Introduction, LEVEL, Member, MemoryEngine, MemoryIngest, Put,
    PutEntry, Snapshot as _, SnapshotInstall, StateMachine, TraceContext, WriteRequest,
};

/// Milliseconds of one tick.
pub const TICK_MS: u64 = 20;
pub const ELECTION_TICKS: u32 = 25;
pub const HEARTBEAT_TICKS: u32 = 5;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Answered(Answer),
    Failed(Failure),
    /// A read: the value of the key that it was for.
    Read(Option<Bytes>),
}

pub struct Cluster {
    pub nodes: BTreeMap<u64, Server>,
    pub now: Now,
    /// Batches on their way, oldest first.
    pub wire: VecDeque<(NodeId, NodeId, PeerBatch)>,
    /// Pairs that hear nothing of each other.
    pub cut: BTreeSet<(u64, u64)>,
    pub ended: BTreeMap<Ctx, End>,
    next_ctx: u64,
}

pub struct Server {
    pub replica: Replica,
    config: ReplicaConfig,
    hard_state: HardState,
    pub worker: StateWorker<MemoryEngine>,
    pub log: Vec<Entry>,
    /// With a slow disk writes wait here.
    pub unsynced: Vec<WriteId>,
    pub slow_disk: bool,
    pub writes: usize,
    pub notices: Vec<Notice>,
    pub refused: Vec<(NodeId, String)>,
    pub stopped: Option<String>,
    /// Where it was told last that servers are.
    pub located: Vec<Introduction>,
    /// The next write that it applies has another effect here than elsewhere.
    pub misapplies: bool,
    /// Scans are carried out, and not left out because another one is under way.
    pub scans: bool,
    pub engine: MemoryEngine,
    pub serves: Serves,
    /// The states that its log named, in order, and whether it trusts them.
    pub bases: Vec<Base>,
    /// Where it took snapshots from.
    pub sources: Vec<u64>,
    snapshots: BTreeMap<StateId, StateMachine<MemoryEngine>>,
    events: VecDeque<Event>,
    reads: BTreeMap<Ctx, Bytes>,
}

pub fn member(id: u64) -> Member {
    Member { node_id: NodeId(id), incarnation: u128::from(id) + 1000, founding_hash: 7 }
}

/// A server is connected, of a program as new as this one.
pub fn connected(member: Member) -> Event {
    Event::PeerConnected { member, level: LEVEL }
}

impl Cluster {
    pub fn new(count: u64) -> Self {
        Self::with(count, |config| config)
    }

    pub fn with(count: u64, adjust: impl Fn(ReplicaConfig) -> ReplicaConfig) -> Self {
        let voters = Membership::of_voters((1..=count).map(NodeId));
        let nodes = (1..=count).map(|id| (id, Server::new(id, &voters, &adjust))).collect();
        let now = Now { wall_ms: 1_000_000, monotonic_ms: 0 };
        let (wire, cut, ended) = (VecDeque::new(), BTreeSet::new(), BTreeMap::new());
        let mut cluster = Self { nodes, now, wire, cut, ended, next_ctx: 1 };
        for (a, b) in (1..=count).flat_map(|a| (1..=count).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            cluster.connect(a, b);
        }
        cluster
    }

    /// A server comes up that is none of the founders, and all are connected to it.
    pub fn join(&mut self, id: u64) {
        self.join_with(id, LEVEL);
    }

    /// Tells a server that another one is connected.
    pub fn connect(&mut self, id: u64, to: u64) {
        let level = self.nodes[&to].config.level;
        self.event(id, Event::PeerConnected { member: member(to), level });
    }

    /// A server comes up that is none of the founders, of a program of this level, and all are connected to it.
    pub fn join_with(&mut self, id: u64, level: u8) {
        let voters = Membership::of_voters((1..id).map(NodeId));
        self.nodes.insert(id, Server::new(id, &voters, &|config| ReplicaConfig { level, ..config }));
        for other in 1..id {
            self.connect(other, id);
            self.connect(id, other);
        }
    }

    /// A server ends in good order and starts again, as a program of this level; all are connected to it.
    pub fn restart_with(&mut self, id: u64, level: u8) {
        let voters = Membership::of_voters((1..=self.nodes.len() as u64).map(NodeId));
        self.nodes.get_mut(&id).unwrap().restart(&voters, level);
        for other in self.nodes.keys().copied().filter(|other| *other != id).collect::<Vec<_>>() {
            self.event(other, Event::PeerLost(NodeId(id)));
            self.connect(other, id);
            self.connect(id, other);
        }
    }

    /// Puts a server in the place of one, with a damaged disk that holds nothing, and a state machine that says it began
    /// at index 0 in `applied_term`.
    pub fn replace_by_damaged(&mut self, id: u64, applied_term: Term) {
        let server = self.nodes.get_mut(&id).unwrap();
        let raft = Config { election_ticks: ELECTION_TICKS, ..Config::new(NodeId(id), id + 100) };
        let memberships = vec![(LogIndex(0), Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]))];
        let hard_state = HardState { damaged: true, ..HardState::default() };
        let restored = Restored { hard_state, memberships, ..Restored::default() };
        let view = StateView { applied_term, ..server.worker.view() };
        server.replica =
            Replica::new(ReplicaConfig::new(raft, member(id)), restored, LogSize::default(), view);
    }

    pub fn event(&mut self, id: u64, event: Event) {
        let now = self.now;
        self.nodes.get_mut(&id).unwrap().replica.step(now, event);
    }

    /// Hands in a request, to be answered within `timeout_ms`.
    pub fn request(&mut self, id: u64, timeout_ms: u64, kind: RequestKind) -> Ctx {
        self.request_traced(id, timeout_ms, kind, None)
    }

    pub fn request_traced(
        &mut self,
        id: u64,
        timeout_ms: u64,
        kind: RequestKind,
        trace: Option<TraceContext>,
    ) -> Ctx {
        let ctx = Ctx(self.next_ctx);
        self.next_ctx += 1;
        let deadline_ms = self.now.monotonic_ms + timeout_ms;
        self.event(id, Event::Request(Request { ctx, deadline_ms, kind, trace }));
        ctx
    }

    pub fn put(&mut self, id: u64, key: &str, value: &str) -> Ctx {
        self.request(id, 10_000, put(key, value))
    }

    pub fn read(&mut self, id: u64, key: &str) -> Ctx {
        self.read_with(id, key, true, LogIndex(0))
    }

    /// A linearizable read that may wait for longer than an election takes.
    pub fn request_read(&mut self, id: u64, key: &str, timeout_ms: u64) -> Ctx {
        let kind = RequestKind::Read { linearizable: true, min_revision: LogIndex(0) };
        let ctx = self.request(id, timeout_ms, kind);
        self.note_read(id, ctx, key)
    }

    pub fn read_with(&mut self, id: u64, key: &str, linearizable: bool, min_revision: LogIndex) -> Ctx {
        let ctx = self.request(id, 10_000, RequestKind::Read { linearizable, min_revision });
        self.note_read(id, ctx, key)
    }

    fn note_read(&mut self, id: u64, ctx: Ctx, key: &str) -> Ctx {
        self.nodes.get_mut(&id).unwrap().reads.insert(ctx, Bytes::copy_from_slice(key.as_bytes()));
        ctx
    }

    /// Carries out what all want, until nothing is left to do. Time stands still.
    pub fn settle(&mut self) {
        loop {
            let mut busy = false;
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                busy |= self.run(id);
            }
            while let Some((from, to, batch)) = self.wire.pop_front() {
                busy = true;
                if self.nodes.contains_key(&to.0) && !self.is_cut(from.0, to.0) {
                    self.event(to.0, Event::Peer { from, batch });
                }
            }
            if !busy {
                return;
            }
        }
    }

    pub fn is_cut(&self, a: u64, b: u64) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }

    /// Cuts off a server from all others.
    pub fn isolate(&mut self, id: u64) {
        for other in self.nodes.keys().copied().filter(|other| *other != id).collect::<Vec<_>>() {
            self.cut.insert((id, other));
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) {
        for _ in 0..ms / TICK_MS {
            self.now.wall_ms += TICK_MS;
            self.now.monotonic_ms += TICK_MS;
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.event(id, Event::Tick);
            }
            self.settle();
        }
    }

    /// Lets time pass until `done`; it must come true.
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..3_000 {
            if done(self) {
                return;
            }
            self.pass(TICK_MS);
        }
        panic!("a minute has passed without: {what}");
    }

    /// The server that leads the latest term, once all that are not cut off follow it.
    pub fn elect(&mut self) -> u64 {
        self.until("a leader that has applied an entry of its own", |cluster| cluster.leader().is_some());
        self.leader().unwrap()
    }

    pub fn leader(&self) -> Option<u64> {
        let statuses = self.nodes.values().map(|server| server.replica.status().raft);
        let leader = statuses.filter(|raft| raft.leader == Some(raft.id)).max_by_key(|raft| raft.term)?;
        (leader.applied == leader.last.index).then_some(leader.id.0)
    }

    pub fn end_of(&self, ctx: Ctx) -> &End {
        self.ended.get(&ctx).unwrap_or_else(|| panic!("request {ctx} has not ended"))
    }

    pub fn failure_of(&self, ctx: Ctx) -> &Failure {
        match self.end_of(ctx) {
            End::Failed(failure) => failure,
            other => panic!("request {ctx} did not fail: {other:?}"),
        }
    }

    fn end(&mut self, ctx: Ctx, end: End) {
        let earlier = self.ended.insert(ctx, end);
        assert!(earlier.is_none(), "request {ctx} ended twice");
    }

    /// Carries out what one server wants; whether there was anything.
    fn run(&mut self, id: u64) -> bool {
        let now = self.now;
        let server = self.nodes.get_mut(&id).unwrap();
        let events = std::mem::take(&mut server.events);
        let mut busy = !events.is_empty();
        for event in events {
            server.replica.step(now, event);
        }
        for effect in server.replica.take_effects(now) {
            busy = true;
            let server = self.nodes.get_mut(&id).unwrap();
            match effect {
                Effect::Write(write) => server.write(write),
                Effect::Send { to, batch } => self.wire.push_back((NodeId(id), to, batch)),
                Effect::Apply(mut entries) => {
                    server.misapply(&mut entries);
                    let applied = server.worker.apply(&entries).unwrap();
                    server.events.push_back(applied);
                    let scan = server.worker.take_scan().filter(|_| server.scans);
                    server.events.extend(scan.map(|mut scan| {
                        let index = scan.at().index;
                        match scan.advance(u64::MAX) {
                            Ok(digest) => Event::Scanned(StateDigest { index, digest: digest.unwrap().0 }),
                            Err(error) => Event::ScanFailed { index, reason: error.to_string() },
                        }
                    }));
                }
                Effect::PersistState => {
                    let position = server.worker.machine().persist().unwrap();
                    server.events.push_back(Event::StatePersisted(position.index));
                }
                Effect::FetchSnapshot { from, at_least } => self.fetch_snapshot(id, from.0, at_least),
                Effect::Install { state, .. } => {
                    let machine = server.snapshots.remove(&state).unwrap();
                    let installed = server.worker.install(machine).unwrap();
                    server.events.push_back(installed);
                }
                Effect::Discard(state) => drop(server.snapshots.remove(&state)),
                Effect::Serve(serves) => server.serves = serves,
                Effect::Fetch { purpose, from, to, .. } => {
                    let range = usize::try_from(from.0 - 1).unwrap()..usize::try_from(to.0).unwrap();
                    let entries = server.log[range].to_vec();
                    server.events.push_back(Event::Fetched { purpose, entries });
                }
                Effect::Answer { ctx, result } => {
                    self.end(ctx, result.map_or_else(End::Failed, End::Answered));
                }
                Effect::Read { ctx } => {
                    let key = server.reads.remove(&ctx).unwrap();
                    let got =
                        server.worker.machine().reader().get(&Get { keys: vec![key] }, 1 << 20).unwrap();
                    let value = got.records[0].as_ref().map(|record| record.value.clone());
                    self.end(ctx, End::Read(value));
                }
                Effect::RefusePeer { peer, reason, removed: _ } => server.refused.push((peer, reason)),
                Effect::Locate { introductions, removed: _, index: _ } => server.located = introductions,
                Effect::Stop { reason } => server.stopped = Some(reason),
                Effect::Notice(notice) => server.notices.push(notice),
            }
        }
        busy
    }

    fn fetch_snapshot(&mut self, id: u64, from: u64, at_least: LogIndex) {
        let source = &self.nodes[&from];
        let machine = source.worker.machine();
        let serves = source.serves.snapshots && machine.applied().index >= at_least && !self.is_cut(id, from);
        let copied = serves.then(|| copy(machine));
        let server = self.nodes.get_mut(&id).unwrap();
        server.sources.push(from);
        server.events.push_back(match copied {
            None => Event::SnapshotFailed,
            Some(machine) => {
                let (position, state) = (machine.applied(), StateId(server.sources.len() as u64));
                let membership = server.replica.status().membership;
                server.snapshots.insert(state, machine);
                Event::SnapshotReady(Snapshot { position, membership, state })
            }
        });
    }

    /// Lets a slow disk finish.
    pub fn sync(&mut self, id: u64) {
        let server = self.nodes.get_mut(&id).unwrap();
        if let Some(last) = server.unsynced.drain(..).next_back() {
            server.events.push_back(Event::Persisted(last));
        }
        self.settle();
    }
}

impl Server {
    fn new(id: u64, voters: &Membership, adjust: &impl Fn(ReplicaConfig) -> ReplicaConfig) -> Self {
        let raft = Config {
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: HEARTBEAT_TICKS,
            // What is committed has reached everybody when nothing moves any more, without a tick.
            max_follower_lag: 0,
            ..Config::new(NodeId(id), id)
        };
        let config = adjust(ReplicaConfig::new(raft, member(id)));
        let engine = MemoryEngine::new();
        let machine = StateMachine::open(engine.clone(), GroupId::DEFAULT).unwrap();
        let worker = StateWorker::new(machine).unwrap();
        let memberships = vec![(LogIndex(0), voters.clone())];
        let restored = Restored { memberships, ..Restored::default() };
        let view = StateView { applied: LogIndex(0), ..worker.view() };
        Self {
            replica: Replica::new(config.clone(), restored, LogSize::default(), view),
            config,
            hard_state: HardState::default(),
            worker,
            log: Vec::new(),
            unsynced: Vec::new(),
            slow_disk: false,
            writes: 0,
            notices: Vec::new(),
            refused: Vec::new(),
            stopped: None,
            located: Vec::new(),
            misapplies: false,
            scans: true,
            engine,
            serves: Serves::default(),
            bases: Vec::new(),
            sources: Vec::new(),
            snapshots: BTreeMap::new(),
            events: VecDeque::new(),
            reads: BTreeMap::new(),
        }
    }

    /// Begins another life on what it has, as a program of this level.
    fn restart(&mut self, founders: &Membership, level: u8) {
        let changes = self.log.iter().filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some((entry.index, Membership::clone(membership))),
            _ => None,
        });
        let mut terms: Vec<_> = self.log.iter().map(|entry| (entry.index, entry.term)).collect();
        terms.dedup_by_key(|run| run.1);
        let view = self.worker.view();
        let restored = Restored {
            hard_state: self.hard_state,
            terms,
            last: self.log.last().map_or(LogIndex(0), |entry| entry.index),
            applied: view.applied,
            memberships: std::iter::once((LogIndex(0), founders.clone())).chain(changes).collect(),
            ..Restored::default()
        };
        self.config.level = level;
        self.config.raft.seed |= 1 << 32;
        self.replica = Replica::new(self.config.clone(), restored, LogSize::default(), view);
        self.events.clear();
        self.unsynced.clear();
    }

    /// A row of the map rots: the last byte of the key's record is another one.
    pub fn rot(&mut self, key: &str) {
        let row_key = Bytes::from([&[2], key.as_bytes()].concat());
        let mut value = self.engine.snapshot().get(&row_key).unwrap().expect("the key is there").to_vec();
        *value.last_mut().unwrap() ^= 1;
        self.engine.commit(vec![(row_key, Some(value.into()))]).unwrap();
    }

    /// Puts another value than the client wanted.
    fn misapply(&mut self, entries: &mut [Entry]) {
        for entry in entries.iter_mut().filter(|_| self.misapplies) {
            let Payload::Command(bytes) = &entry.payload else { continue };
            let mut command = Command::decode(bytes.clone()).unwrap().command;
            let Body::Write(raftmap_state::Write { request: WriteRequest::Put(put), .. }) = &mut command.body
            else {
                continue;
            };
            put.entries[0].value = Bytes::from(format!("wrong at {}", self.replica.status().raft.id));
            entry.payload = Payload::Command(command.encode());
            self.misapplies = false;
            return;
        }
    }

    fn write(&mut self, write: Write) {
        self.bases.extend(write.base.as_deref().cloned());
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(to) = write.truncate_to {
            self.log.truncate(usize::try_from(to.0).unwrap());
        }
        self.log.extend(write.entries);
        self.writes += 1;
        if self.slow_disk {
            self.unsynced.push(write.id);
        } else {
            self.events.push_back(Event::Persisted(write.id));
        }
    }
}

/// A state machine like this one, by way of a snapshot.
fn copy(machine: &StateMachine<MemoryEngine>) -> StateMachine<MemoryEngine> {
    let reader = machine.reader().snapshot().unwrap();
    let ingest = MemoryIngest::default();
    let mut install = SnapshotInstall::new(GroupId::DEFAULT, reader.header_bytes(), ingest).unwrap();
    let token = install.token();
    for chunk in reader.resume(&token, 1 << 20).unwrap() {
        install.take(&chunk.unwrap()).unwrap();
    }
    install.finish().unwrap()
}

pub fn put(key: &str, value: &str) -> RequestKind {
    put_for(key, value, None)
}

pub fn put_for(key: &str, value: &str, ttl_ms: Option<u64>) -> RequestKind {
    let entry = PutEntry {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ttl_ms: ttl_ms.map(|ttl_ms| ttl_ms.try_into().unwrap()),
    };
    let request = WriteRequest::Put(Put { entries: vec![entry], return_previous: false });
    RequestKind::Write { request, session: None }
}
