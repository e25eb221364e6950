//! The driver of the replica: it waits for what happens, tells the replica, and carries out what it wants. It is a task on the
//! thread of the connections to the other servers, so that what they say, and what is said to them, wakes no other thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use raftmap_raft::{Ctx, LogIndex, NodeId, StateId, Write};
use raftmap_replica::{Effect, Event, Notice, Now, Replica, Request, Serves, Ticks};
use raftmap_state::{Introduction, StateError};
use tokio::sync::watch;

use super::failstop::{Failstop, NodeError};
use super::inbox::{Inbound, Outbox, Reply, Submission};
use super::meters::{Meters, memory_bytes};
use super::scrub::Never;
use super::state::StateJob;
use super::traces::Traces;
use super::workers::FetchRequest;
use crate::observe::traces::Tracer;
use crate::peers::{PeerEvent, PeerInfo, Refusal, Transport};

/// How many things are taken in before their effects are carried out: what comes together shares a batch.
const STEPS_MAX: usize = 8192;
/// How often the engine is checked and the gauges are set.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Takes in where servers are, as of an index, and which were removed; see [`Effect::Locate`].
type Locate = dyn Fn(LogIndex, &[Introduction], &[NodeId]) + Send;

/// Where the driver's effects go.
pub(crate) struct DriverSettings<T> {
    pub(crate) tick: Duration,
    pub(crate) writes: Sender<Write>,
    pub(crate) state: Sender<StateJob>,
    pub(crate) fetches: Sender<FetchRequest>,
    pub(crate) outlet: Arc<T>,
    /// Fetches a snapshot of a server, which must have applied so much.
    pub(crate) fetch_snapshot: Box<dyn Fn(NodeId, LogIndex) + Send>,
    /// Removes a snapshot.
    pub(crate) discard_snapshot: Box<dyn Fn(StateId) -> Result<(), NodeError> + Send>,
    /// Says what may be done with the state from now on.
    pub(crate) serve: Box<dyn Fn(Serves) + Send>,
    /// Whether the engine still works. Its own threads may fail while an apply waits for them for ever.
    pub(crate) check_engine: Box<dyn Fn() -> Result<(), StateError> + Send>,
    pub(crate) locate: Box<Locate>,
    pub(crate) ready: Ready,
    /// Dropped when the driver ends; the scrub of the log ends then.
    pub(crate) _alive: Sender<Never>,
    pub(crate) failstop: Failstop,
    pub(crate) meters: Arc<Meters>,
    pub(crate) tracer: Tracer,
}

/// Tells whoever wants to know whether the node answers requests. One that has ended does not.
pub(crate) struct Ready(pub(crate) watch::Sender<bool>);

impl Ready {
    fn tell(&self, ready: bool) {
        self.0.send_if_modified(|told| std::mem::replace(told, ready) != ready);
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.tell(false);
    }
}

/// The driver's own.
pub(crate) struct Driver<T> {
    replica: Replica,
    outbox: Outbox,
    settings: DriverSettings<T>,
    replies: HashMap<Ctx, Reply>,
    next_ctx: u64,
    began: Instant,
    ticks: Ticks,
    traces: Traces,
    stopping: bool,
}

impl<T: Transport> Driver<T> {
    pub(crate) fn new(replica: Replica, outbox: Outbox, settings: DriverSettings<T>) -> Self {
        let (replies, began) = (HashMap::new(), Instant::now());
        let ticks = Ticks::new(settings.tick, began.elapsed());
        let traces = Traces::new(settings.tracer.clone());
        Self { replica, outbox, settings, replies, next_ctx: 1, began, ticks, traces, stopping: false }
    }

    /// Runs until it is told to stop or the node fails. Whoever still waits then learns that the node has ended, by its
    /// reply being dropped.
    ///
    /// # Errors
    /// If the replica wants the node to end, or the engine does not work any more.
    pub(crate) async fn run(mut self) -> Result<(), NodeError> {
        let mut next_look = Instant::now();
        while !self.stopping && !self.settings.failstop.has_failed() {
            let due = self.began + self.ticks.due(self.replica.quiet_ticks());
            let first = self.wait(due.min(next_look)).await;
            for _ in 0..self.ticks.caught_up(self.began.elapsed()) {
                self.tick();
            }
            self.take_in(first);
            if self.ticks.is_due(self.began.elapsed()) {
                self.tick();
            }
            self.carry_out()?;
            self.settings.ready.tell(self.replica.is_ready());
            let now = Instant::now();
            if now >= next_look {
                (self.settings.check_engine)()?;
                self.set_gauges();
                next_look = now + LOOK_EVERY;
            }
        }
        Ok(())
    }

    /// Waits for what happens next, until `until` at most.
    async fn wait(&mut self, until: Instant) -> Option<Inbound> {
        let next = self.outbox.receiver.recv();
        let first = tokio::time::timeout_at(until.into(), next).await;
        if let Ok(None) = first {
            self.stopping = true;
        }
        first.ok().flatten()
    }

    fn tick(&mut self) {
        let now = self.now();
        self.replica.step(now, Event::Tick);
    }

    /// Takes in `first` and all that has come since.
    fn take_in(&mut self, first: Option<Inbound>) {
        let Some(first) = first else { return };
        let now = self.now();
        self.step(now, first);
        for _ in 1..STEPS_MAX {
            match self.outbox.receiver.try_recv() {
                Ok(inbound) => self.step(now, inbound),
                Err(_) => break,
            }
        }
    }

    fn step(&mut self, now: Now, inbound: Inbound) {
        match inbound {
            Inbound::Submissions(submissions) => {
                self.outbox.requests_taken(submissions.len());
                let instant = Instant::now();
                submissions.into_iter().for_each(|submission| self.submit(now, instant, submission));
            }
            Inbound::Event(event) => {
                self.traces.event(&event);
                self.replica.step(now, event);
            }
            Inbound::Peer(event) => self.peer_event(now, event),
            // Whoever asked may have gone meanwhile.
            Inbound::Status(reply) => drop(reply.send(self.replica.status())),
            Inbound::Stop => self.stopping = true,
        }
    }

    fn peer_event(&mut self, now: Now, event: PeerEvent) {
        match event {
            PeerEvent::Connected { member, info: PeerInfo { level, .. } } => {
                self.replica.step(now, Event::PeerConnected { member, level });
            }
            PeerEvent::Lost(peer) => self.replica.step(now, Event::PeerLost(peer)),
            // The batch is taken in: there is room for the next.
            PeerEvent::Received { from, batch, room: _taken } => {
                self.replica.step(now, Event::Peer { from, batch });
            }
            PeerEvent::Refused { refusal: Refusal { reason, removed: true }, by: _ } => {
                self.replica.step(now, Event::Removed { reason });
            }
            // The transport has told the operator; whoever refuses may be the one that is wrong.
            PeerEvent::Refused { .. } => {}
        }
    }

    fn submit(&mut self, now: Now, instant: Instant, submission: Submission) {
        let Submission { kind, deadline, trace, reply } = submission;
        let ctx = Ctx(self.next_ctx);
        self.next_ctx += 1;
        self.replies.insert(ctx, reply);
        self.traces.submitted(ctx, trace.as_ref(), &kind);
        let remaining = deadline.saturating_duration_since(instant);
        let deadline_ms = now.monotonic_ms.saturating_add(millis(remaining));
        self.replica.step(now, Event::Request(Request { ctx, deadline_ms, kind, trace }));
    }

    fn carry_out(&mut self) -> Result<(), NodeError> {
        let now = self.now();
        let effects = self.replica.take_effects(now);
        self.traces.effects(&effects, self.replica.commit(), self.replica.leads());
        for effect in effects {
            match effect {
                // A worker that is gone has failed, and the node ends for its reason.
                Effect::Write(write) => drop(self.settings.writes.send(write)),
                Effect::Apply(entries) => drop(self.settings.state.send(StateJob::Apply(entries))),
                Effect::PersistState => drop(self.settings.state.send(StateJob::Persist)),
                Effect::Install { state, position: _ } => {
                    drop(self.settings.state.send(StateJob::Install(state)));
                }
                Effect::FetchSnapshot { from, at_least } => (self.settings.fetch_snapshot)(from, at_least),
                Effect::Discard(state) => (self.settings.discard_snapshot)(state)?,
                Effect::Fetch { purpose, from, to, max_bytes } => {
                    drop(self.settings.fetches.send(FetchRequest { purpose, from, to, max_bytes }));
                }
                Effect::Send { to, batch } => self.settings.outlet.send(to, batch),
                Effect::RefusePeer { peer, reason, removed } => {
                    self.settings.outlet.refuse(peer, Refusal { reason, removed });
                }
                Effect::Locate { introductions, removed, index } => {
                    (self.settings.locate)(index, &introductions, &removed);
                }
                Effect::Answer { ctx, result } => match self.replies.remove(&ctx) {
                    Some(Reply::Write(reply)) => drop(reply.send(result)),
                    Some(Reply::Read(reply)) => drop(reply.send(result.map(|_| ()))),
                    Some(Reply::Callback(callback)) => callback.answer(result),
                    None => {}
                },
                Effect::Read { ctx } => {
                    if let Some(Reply::Read(reply)) = self.replies.remove(&ctx) {
                        drop(reply.send(Ok(())));
                    }
                }
                Effect::Serve(serves) => (self.settings.serve)(serves),
                Effect::Notice(notice) => {
                    if let Notice::Raft(raftmap_raft::Event::Leading { term, votes }) = &notice {
                        self.settings.meters.elected(*term, votes);
                    }
                    tell(&notice);
                }
                Effect::Stop { reason } => return Err(NodeError::Expelled(reason)),
            }
        }
        Ok(())
    }

    fn now(&self) -> Now {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { wall_ms: millis(since_epoch), monotonic_ms: millis(self.began.elapsed()) }
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    fn set_gauges(&self) {
        let status = self.replica.status();
        let raft = &status.raft;
        metrics::gauge!("raftmap_term").set(raft.term.0 as f64);
        metrics::gauge!("raftmap_is_leader").set(f64::from(u8::from(raft.leader == Some(raft.id))));
        metrics::gauge!("raftmap_has_leader").set(f64::from(u8::from(raft.leader.is_some())));
        metrics::gauge!("raftmap_log_last_index").set(raft.last.index.0 as f64);
        metrics::gauge!("raftmap_log_durable_index").set(raft.durable.0 as f64);
        metrics::gauge!("raftmap_commit_index").set(raft.commit.0 as f64);
        metrics::gauge!("raftmap_applied_index").set(raft.applied.0 as f64);
        metrics::gauge!("raftmap_log_base_index").set(raft.base.index.0 as f64);
        metrics::gauge!("raftmap_state_lost").set(f64::from(u8::from(raft.state_lost)));
        metrics::gauge!("raftmap_quarantined").set(f64::from(u8::from(status.quarantined)));
        metrics::gauge!("raftmap_states_differ").set(f64::from(u8::from(status.states_differ)));
        metrics::gauge!("raftmap_feature_level").set(f64::from(status.level));
        metrics::gauge!("raftmap_damaged").set(f64::from(u8::from(raft.damaged)));
        metrics::gauge!("raftmap_requests_waiting").set(status.requests as f64);
        metrics::gauge!("raftmap_peers_connected").set(status.connected.len() as f64);
        if let Some(memory_bytes) = memory_bytes() {
            metrics::gauge!("raftmap_memory_bytes").set(memory_bytes as f64);
        }
        if let Some(free_bytes) = status.free_bytes {
            metrics::gauge!("raftmap_disk_free_bytes").set(free_bytes as f64);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Tells the operator.
fn tell(notice: &Notice) {
    use raftmap_raft::Event as Raft;
    match notice {
        Notice::Raft(Raft::Following { term, leader: Some(leader) }) => {
            tracing::info!(%term, %leader, "following");
        }
        Notice::Raft(Raft::Following { term, leader: None }) => tracing::info!(%term, "following nobody yet"),
        Notice::Raft(Raft::PreCampaigning { term }) => {
            tracing::info!(%term, "hearing from no leader, asking around")
        }
        Notice::Raft(Raft::Campaigning { term }) => tracing::info!(%term, "standing for election"),
        Notice::Raft(Raft::Leading { term, votes }) => tracing::info!(%term, ?votes, "elected"),
        Notice::Raft(Raft::SteppedDown { term, reason }) => tracing::warn!(%term, ?reason, "stepped down"),
        Notice::Raft(Raft::HandingOver { to }) => tracing::info!(%to, "handing over"),
        Notice::Raft(Raft::TransferFailed { to, reason }) => {
            tracing::warn!(%to, ?reason, "leadership was not handed over");
        }
        Notice::Raft(Raft::Compacted { to }) => tracing::info!(%to, "the log lets go of its beginning"),
        Notice::Raft(Raft::StateDistrusted { applied }) => {
            tracing::error!(%applied, "this server's state is wrong: it serves nothing until it has that of another one");
        }
        Notice::Raft(Raft::SnapshotWanted { from }) => tracing::info!(%from, "asking for a snapshot"),
        Notice::Raft(Raft::Installing { position }) => {
            tracing::info!(index = %position.index, term = %position.term, "a snapshot takes the place of the state");
        }
        Notice::Raft(Raft::Truncated { to }) => {
            tracing::info!(%to, "entries that were never committed are replaced");
        }
        Notice::Raft(Raft::Repaired { up_to }) => {
            tracing::info!(%up_to, "what was lost on this disk is there again: this server votes and counts");
        }
        Notice::Raft(Raft::AcknowledgedLost { .. }) => {
            tracing::error!(?notice, "acknowledged entries are lost")
        }
        Notice::ClockDistrusted { skew_ms } => {
            tracing::warn!(
                skew_ms,
                "this server's clock is far from the others': log time goes on without it"
            );
        }
        Notice::ClockTrusted => tracing::info!("this server's clock agrees with the others' again"),
        Notice::LevelRaised { level } => {
            tracing::info!(
                level,
                "the cluster's feature level has risen: no older version takes part any more"
            );
        }
        Notice::Diverged { peer, index } => {
            tracing::error!(%peer, %index, "the same entries had another effect on that server: one of the two is wrong");
            metrics::counter!("raftmap_diverged_total").increment(1);
        }
        Notice::Quarantined { kind, index, by } => {
            tracing::error!(
                ?kind,
                %index,
                ?by,
                "a majority has another state than this server: it is quarantined until it has a snapshot of one of them"
            );
            metrics::counter!("raftmap_quarantines_total").increment(1);
        }
        Notice::StateUnreadable { index, reason } => {
            tracing::error!(
                %index,
                reason,
                "this server cannot read its state any more: it is quarantined until it has a snapshot of another one"
            );
            metrics::counter!("raftmap_quarantines_total").increment(1);
        }
        Notice::LogRotten { last, reason } => {
            tracing::error!(
                %last,
                reason,
                "a part of the log has rotted on the disk: it is let go of once the state machine holds it durably"
            );
            metrics::counter!("raftmap_log_rot_total").increment(1);
        }
        Notice::StateSound { index } => {
            tracing::info!(%index, "a scan has read all rows, and a majority has the same");
            metrics::counter!("raftmap_scans_total").increment(1);
        }
        Notice::StateReplaced { index } => {
            tracing::info!(%index, "another server's state has taken the place of this one's: it is served again");
        }
        Notice::StatesDiffer => tracing::error!(
            "the servers' states differ, and no majority has one of them: requests are refused until one has"
        ),
        Notice::StatesAgree => {
            tracing::info!("a majority has this server's state: requests are served again")
        }
        Notice::SpaceLow { free_bytes } => {
            tracing::warn!(free_bytes, "the disk is nearly full: puts are refused until there is room");
        }
        Notice::SpaceEnough { free_bytes } => tracing::info!(free_bytes, "there is room on the disk again"),
    }
}
