//! A run: servers, network, clients and faults, one event after the other.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;
use raftmap_lincheck::Response;
use raftmap_raft::{Ctx, LogIndex, NodeId, StateId};
use raftmap_state::LEVEL_FIRST;

use crate::budget::Budget;
use crate::clients::{Attempt, Clients, Next, Reply};
use crate::network::{Network, Parcel, pair};
use crate::oracle::{Checked, Oracle, Violation, broken};
use crate::plan::{Plan, Spread};
use crate::server::Server;
use crate::time::Time;
use crate::trace::Trace;
use crate::work::Fetch;

/// How long the cluster may take to come to rest once everything is healed.
const HEALED_MAX: Time = Time::secs(120);
/// A run that does not end after so many events hangs.
const EVENTS_MAX: u64 = 20_000_000;
/// After so many events each it is looked whether the cluster is at rest.
const LOOK_EVERY: u64 = 50;
/// A connection over a link that is cut is given up after this time.
const GIVE_UP: Time = Time::secs(4);
/// How long a server waits before it dials again.
const REDIAL: Spread = Spread(Time::ms(50), Time::ms(400));
/// How long a message between a client and a server takes.
const CLIENT_DELAY: Spread = Spread(Time(50), Time::ms(3));

/// What happens next.
#[derive(Debug)]
pub(crate) enum What {
    /// A server takes in what has happened to it.
    Wake(NodeId),
    /// A server's ticks are due.
    Timer(NodeId, u64),
    /// A batch arrives.
    Arrive(Parcel),
    /// Two servers try to connect.
    Connect((NodeId, NodeId)),
    /// A connection, by its number, is given up if its links are still cut.
    GiveUp((NodeId, NodeId), u64),
    /// A connection, by its number, is given up, since its other end is gone.
    Vanish((NodeId, NodeId), u64),
    /// A server's log has written what it was writing.
    Written(NodeId),
    /// A server's log has been idle since that write.
    LogIdle(NodeId, u64),
    Applied(NodeId),
    /// A server's state machine is durable.
    StatePersisted(NodeId),
    /// A server goes on with the snapshot that it fetches.
    Transfer(NodeId),
    /// A snapshot becomes a server's state machine.
    Installed(NodeId, StateId),
    Fetched(NodeId, Box<Fetch>),
    Space(NodeId),
    /// A server reads its log again.
    Scrub(NodeId),
    /// A server's state is read for a request.
    Read(NodeId, Attempt),
    Start(NodeId),
    /// A server's program is replaced by the newer one.
    Upgrade(NodeId),
    Resume(NodeId, u64),
    /// A fault of the plan strikes.
    Fault(usize),
    /// A fault ends.
    Undo(Undo),
    /// A client's timer, by its number.
    Client(u32, u64),
    /// A request arrives at a server.
    Request(NodeId, Attempt),
    Reply(u32, Ctx, Reply),
    Heal,
}

/// How a fault ends.
#[derive(Debug)]
pub(crate) enum Undo {
    Mend(Vec<(NodeId, NodeId)>),
    Speed(NodeId, Time),
    Space(NodeId),
    Clients(NodeId),
}

impl What {
    /// The server whose process carries it out.
    fn process(&self) -> Option<NodeId> {
        match self {
            Self::Wake(id)
            | Self::Timer(id, _)
            | Self::Written(id)
            | Self::LogIdle(id, _)
            | Self::Applied(id)
            | Self::StatePersisted(id)
            | Self::Transfer(id)
            | Self::Installed(id, _)
            | Self::Fetched(id, _)
            | Self::Space(id)
            | Self::Scrub(id)
            | Self::Read(id, _)
            | Self::Request(id, _) => Some(*id),
            Self::Arrive(parcel) => Some(parcel.to),
            _ => None,
        }
    }

    /// Whether it ends with the life of the process.
    fn dies_with_process(&self) -> bool {
        !matches!(self, Self::Arrive(_) | Self::Request(..))
    }
}

#[derive(Debug)]
struct Scheduled {
    at: Time,
    order: u64,
    /// The life of the process that it belongs to.
    life: Option<u64>,
    what: What,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// What was broken, if anything was.
    pub violation: Option<Violation>,
    /// The hash of the trace.
    pub trace_hash: u64,
    /// How much virtual time passed.
    pub virtual_time: Time,
    /// How many events happened.
    pub events: u64,
    /// The faults that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What servers did to keep the cluster well, by kind: without faults, too.
    pub repairs: BTreeMap<&'static str, u64>,
    /// Calls of clients, by their outcome.
    pub calls: BTreeMap<&'static str, u64>,
    /// Entries that were committed.
    pub committed: u64,
    /// The history was also judged by search, which trusts no revision; otherwise by revision alone.
    pub searched: bool,
}

/// The whole of a run.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Time,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    events: u64,
    pub(crate) rng: Rng,
    pub(crate) servers: BTreeMap<NodeId, Server>,
    pub(crate) deferred: BTreeMap<NodeId, Vec<(Option<u64>, What)>>,
    pub(crate) network: Network,
    pub(crate) clients: Clients,
    pub(crate) oracle: Oracle,
    pub(crate) budget: Budget,
    pub(crate) trace: Trace,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) repairs: BTreeMap<&'static str, u64>,
    /// The clients that are to hear it when a server's process ends, by attempt.
    pub(crate) attempts: BTreeMap<Ctx, Attempt>,
    pub(crate) healed: bool,
    /// The search through its history came to an end.
    pub(crate) searched: bool,
    /// Counts the changes of members that were asked for.
    pub(crate) changes: u64,
    /// Servers that were told by another one that they were removed, rightly.
    pub(crate) told_removed: BTreeSet<NodeId>,
    /// The entries that a server has applied to another effect. A second one does not, for it could be the same one.
    pub(crate) misapplied: BTreeSet<LogIndex>,
    /// The highest feature level that stands in any log.
    pub(crate) level_proposed: u8,
}

impl World {
    pub(crate) fn new(plan: Plan, trace: Trace) -> Self {
        // Streams of their own: a fault that is left out does not change what clients ask for.
        let mut seeds = Rng::with_seed(plan.seed ^ 0x5EED);
        let mut rng = seeds.fork();
        let clients = Clients::new(&plan.climate, plan.nodes, seeds.fork());
        let ids = || (1..=plan.nodes).map(NodeId);
        let servers = ids().map(|id| (id, Server::new(id, &plan, &mut rng))).collect();
        Self {
            network: Network::new(plan.nodes, plan.climate.network, plan.climate.chaos),
            oracle: Oracle::new(plan.nodes, plan.voters),
            // Members change down to three voters.
            budget: Budget::new(if plan.nodes > plan.voters { 3 } else { plan.voters }),
            deferred: ids().map(|id| (id, Vec::new())).collect(),
            servers,
            clients,
            trace,
            rng: seeds.fork(),
            plan,
            now: Time(0),
            queue: BinaryHeap::new(),
            order: 0,
            events: 0,
            faults: BTreeMap::new(),
            repairs: BTreeMap::new(),
            attempts: BTreeMap::new(),
            healed: false,
            searched: false,
            changes: 0,
            told_removed: BTreeSet::new(),
            misapplied: BTreeSet::new(),
            level_proposed: LEVEL_FIRST,
        }
    }

    pub(crate) fn schedule(&mut self, delay: Time, what: What) {
        let life = what
            .process()
            .filter(|_| what.dies_with_process())
            .and_then(|id| self.servers.get(&id))
            .map(|server| server.life);
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at: self.now + delay, order: self.order, life, what }));
    }

    /// Runs to the end, or until a rule is broken.
    pub(crate) fn run(mut self) -> Outcome {
        let ran = catch_unwind(AssertUnwindSafe(|| self.live()));
        let violation = match ran {
            Ok(Ok(())) => None,
            Ok(Err(violation)) => Some(violation),
            Err(panic) => Some(Violation(format!("an invariant: {}", message_of(panic.as_ref())))),
        };
        if let Some(violation) = &violation {
            self.trace.say(self.now, || format!("BROKEN: {violation}"));
        }
        Outcome {
            violation,
            trace_hash: self.trace.hash(),
            virtual_time: self.now,
            events: self.events,
            faults: self.faults.clone(),
            repairs: self.repairs.clone(),
            calls: self.clients.counts(),
            committed: self.oracle.committed() as u64,
            searched: self.searched,
        }
    }

    fn live(&mut self) -> Checked {
        for id in self.ids() {
            self.schedule(Time(id.0), What::Start(id));
        }
        for pair in self.network.pairs() {
            let delay = REDIAL.draw(&mut self.rng);
            self.schedule(delay, What::Connect(pair));
        }
        for client in 0..self.clients.count() {
            let token = self.clients.set_timer(client);
            let delay = self.plan.climate.think.draw(&mut self.rng);
            self.schedule(delay, What::Client(client, token));
        }
        for place in 0..self.plan.faults.len() {
            let planned = &self.plan.faults[place];
            if !planned.left_out {
                self.schedule(planned.at, What::Fault(place));
            }
        }
        self.schedule(self.plan.faults_end, What::Heal);
        let end = self.plan.faults_end + HEALED_MAX;
        while !(self.events.is_multiple_of(LOOK_EVERY) && self.is_at_rest()) {
            let Some(Reverse(next)) = self.queue.pop() else {
                return broken!("nothing happens any more, and the cluster is not at rest");
            };
            self.now = next.at;
            self.events += 1;
            if self.now > end && self.waits_for_its_operator() {
                self.count_repair("clusters that wait for their operator");
                self.searched = crate::verdict::of(self.clients.history())?;
                return Ok(());
            }
            if self.now > end || self.events > EVENTS_MAX {
                return broken!("no progress: {}", self.why_not_at_rest().unwrap_or_default());
            }
            self.dispatch(next.life, next.what)?;
        }
        self.judge()
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.servers.keys().copied().collect()
    }

    fn dispatch(&mut self, life: Option<u64>, what: What) -> Checked {
        if let Some(id) = what.process() {
            let server = &self.servers[&id];
            if life.is_some_and(|life| life != server.life) || (life.is_some() && !server.is_up()) {
                return Ok(());
            }
            if server.paused {
                // Sockets take it in, threads do it when the process goes on.
                self.deferred.entry(id).or_default().push((life, what));
                return Ok(());
            }
        }
        match what {
            What::Wake(id) => self.wake(id),
            What::Timer(id, timer) => self.timer(id, timer),
            What::Arrive(parcel) => self.arrive(parcel),
            What::Connect(pair) => self.connect(pair),
            What::GiveUp(pair, epoch) => self.give_up(pair, epoch),
            What::Vanish(pair, epoch) => self.vanished(pair, epoch),
            What::Written(id) => self.written(id),
            What::LogIdle(id, writes) => self.log_idle(id, writes),
            What::Applied(id) => self.applied(id),
            What::StatePersisted(id) => self.state_persisted(id),
            What::Transfer(id) => self.transfer(id),
            What::Installed(id, state) => self.installed(id, state),
            What::Fetched(id, fetch) => self.fetched(id, *fetch),
            What::Space(id) => self.space(id),
            What::Scrub(id) => self.scrub(id),
            What::Read(id, attempt) => self.read(id, attempt),
            What::Start(id) => self.start(id),
            What::Upgrade(id) => self.upgrade(id),
            What::Resume(id, life) => self.resume(id, life),
            What::Fault(place) => self.strike(place),
            What::Undo(undo) => self.undo(undo),
            What::Client(client, token) => self.client(client, token),
            What::Request(id, attempt) => self.request(id, attempt),
            What::Reply(client, ctx, reply) => self.reply(client, ctx, reply),
            What::Heal => self.heal(),
        }
    }

    fn resume(&mut self, id: NodeId, life: u64) -> Checked {
        let server = self.server(id);
        if server.life != life || !std::mem::replace(&mut server.paused, false) {
            return Ok(());
        }
        self.trace.note(self.now, "resume", &[id.0], || format!("server {id} goes on"));
        for (life, what) in self.deferred.get_mut(&id).map(std::mem::take).unwrap_or_default() {
            self.dispatch(life, what)?;
        }
        Ok(())
    }

    pub(crate) fn server(&mut self, id: NodeId) -> &mut Server {
        self.servers.get_mut(&id).expect("it is a server")
    }

    // The network.

    fn connect(&mut self, ends: (NodeId, NodeId)) -> Checked {
        let (a, b) = ends;
        if self.network.stands(a, b) {
            return Ok(());
        }
        let able = |id: &NodeId| self.servers[id].is_up() && !self.servers[id].paused;
        if !able(&a) || !able(&b) || !self.network.is_open(ends) {
            let delay = REDIAL.draw(&mut self.rng);
            self.schedule(delay, What::Connect(ends));
            return Ok(());
        }
        self.trace.note(self.now, "connect", &[a.0, b.0], || format!("{a} and {b} are connected"));
        self.network.connect(ends);
        for (here, there) in [(a, b), (b, a)] {
            let level = self.servers[&there].level;
            if let Some(member) = self.servers[&there].member() {
                self.tell(here, raftmap_replica::Event::PeerConnected { member, level });
            }
        }
        Ok(())
    }

    /// Ends the connection between two servers, if there is one.
    pub(crate) fn disconnect(&mut self, a: NodeId, b: NodeId) {
        let ends = pair(a, b);
        if !self.network.disconnect(ends) {
            return;
        }
        self.trace.note(self.now, "disconnect", &[ends.0.0, ends.1.0], || {
            format!("{} and {} are not connected any more", ends.0, ends.1)
        });
        self.tell(a, raftmap_replica::Event::PeerLost(b));
        self.tell(b, raftmap_replica::Event::PeerLost(a));
        let delay = REDIAL.draw(&mut self.rng);
        self.schedule(delay, What::Connect(ends));
    }

    pub(crate) fn cut(&mut self, link: (NodeId, NodeId)) {
        self.network.cut(link);
        let ends = pair(link.0, link.1);
        let epoch = self.network.epoch(ends);
        self.schedule(GIVE_UP, What::GiveUp(ends, epoch));
    }

    fn give_up(&mut self, ends: (NodeId, NodeId), epoch: u64) -> Checked {
        if self.network.epoch(ends) == epoch && !self.network.is_open(ends) {
            self.disconnect(ends.0, ends.1);
        }
        Ok(())
    }

    /// One end of a connection is gone without a word; the other notices later.
    pub(crate) fn vanish(&mut self, a: NodeId, b: NodeId, delay: Time) {
        let ends = pair(a, b);
        let epoch = self.network.epoch(ends);
        self.schedule(delay, What::Vanish(ends, epoch));
    }

    fn vanished(&mut self, ends: (NodeId, NodeId), epoch: u64) -> Checked {
        if self.network.epoch(ends) == epoch {
            self.disconnect(ends.0, ends.1);
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, batch: raftmap_replica::PeerBatch) {
        for (at, parcel) in self.network.send(&mut self.rng, self.now, (from, to), batch) {
            let delay = at - self.now;
            self.schedule(delay, What::Arrive(parcel));
        }
    }

    fn arrive(&mut self, parcel: Parcel) -> Checked {
        if let Some(Parcel { from, to, batch, .. }) = self.network.arrive(parcel)
            && self.servers[&to].is_up()
        {
            for message in &batch.messages {
                self.trace
                    .note(self.now, "arrive", &[from.0, to.0], || format!("{from} → {to}: {message:?}"));
            }
            self.tell(to, raftmap_replica::Event::Peer { from, batch });
        }
        Ok(())
    }

    // Clients.

    fn client(&mut self, client: u32, token: u64) -> Checked {
        if self.clients.is_current(client, token) {
            let next = self.clients.act(client, self.now, self.oracle.acknowledged());
            self.client_goes_on(client, next);
        }
        Ok(())
    }

    fn reply(&mut self, client: u32, ctx: Ctx, reply: Reply) -> Checked {
        if !self.clients.waits_for(client, ctx) {
            return Ok(());
        }
        self.trace
            .note(self.now, "reply", &[u64::from(client), ctx.0], || format!("client {client}: {reply:?}"));
        if let Some(must_see) = self.clients.must_see(client)
            && let Reply::Read(response) = &reply
        {
            let revision = response.revision();
            if revision < must_see {
                return broken!(
                    "stale read: client {client} reads at revision {revision}, and {must_see} was acknowledged before it asked"
                );
            }
        }
        let next = self.clients.heard(client, reply, self.now);
        self.client_goes_on(client, next);
        Ok(())
    }

    fn client_goes_on(&mut self, client: u32, next: Next) {
        let token = self.clients.set_timer(client);
        match next {
            Next::Rest => {}
            Next::Wait(delay) => self.schedule(delay.max(Time(1)), What::Client(client, token)),
            Next::Send(to, attempt) => {
                self.trace.note(self.now, "call", &[u64::from(client), to.0, attempt.ctx.0], || {
                    format!("client {client} → server {to}: {:?}", attempt.kind)
                });
                let patience = attempt.deadline - self.now;
                self.schedule(patience, What::Client(client, token));
                let delay = CLIENT_DELAY.draw(&mut self.rng);
                self.schedule(delay, What::Request(to, attempt));
            }
        }
    }

    /// Tells the client of an attempt how it ended, unless they do not hear each other.
    pub(crate) fn answer(&mut self, from: NodeId, ctx: Ctx, reply: Reply) {
        let Some(attempt) = self.attempts.remove(&ctx) else { return };
        if self.servers[&from].clients_cut == 0 {
            let delay = CLIENT_DELAY.draw(&mut self.rng);
            self.schedule(delay, What::Reply(attempt.client, ctx, reply));
        }
    }

    pub(crate) fn answer_read(&mut self, from: NodeId, ctx: Ctx, response: Response) {
        self.answer(from, ctx, Reply::Read(response));
    }
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}
