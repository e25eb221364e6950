//! The replica: it hands events to consensus and turns what consensus wants, and what clients wait for, into effects.

use std::collections::{BTreeMap, VecDeque};

use raftmap_raft::{
    Action, Ctx, Event as RaftEvent, FailReason, Input, LogIndex, LogPosition, NodeId, Outcome as Certainty,
    Raft, Restored,
};
use raftmap_state::{Answer, Outcome};

use crate::clock::Clock;
use crate::compaction::{Compaction, LogSize};
use crate::config::ReplicaConfig;
use crate::event::{Effect, Event, Notice, Now, StateView};
use crate::failure::{Failure, Reason};
use crate::levels::Connected;
use crate::peer::{ForwardReply, PeerBatch, PeerMessage};
use crate::queue::Queue;
use crate::repair::Repair;
use crate::requests::{Origin, Requests, Stage};
use crate::status::ReplicaStatus;

/// One member of a group, with everything that it decides. [`Self::step`] tells it what happened; [`Self::take_effects`]
/// asks what is to be done. All that waits is to be stepped before the effects are taken: what came together then shares
/// one write, one message to each follower and one round of reads.
///
/// # Panics
/// When an invariant is broken; see [`Raft`]. The server must end then.
#[derive(Debug)]
pub struct Replica {
    pub(crate) config: ReplicaConfig,
    pub(crate) raft: Raft,
    pub(crate) clock: Clock,
    pub(crate) requests: Requests,
    pub(crate) queue: Queue,
    /// The last index of each batch of proposals that is on its way to being committed.
    pub(crate) batches: VecDeque<LogIndex>,
    compaction: Compaction,
    /// The proposals among the entries that are being applied.
    applying: Vec<(LogIndex, Ctx)>,
    pub(crate) view: StateView,
    /// Where the state machine stood at the start, or when a snapshot became it.
    began_at: LogPosition,
    pub(crate) repair: Repair,
    /// The servers that are connected, as they introduced themselves.
    pub(crate) connected: BTreeMap<NodeId, Connected>,
    /// The latest sequence of a forwarded command from each server: none is taken twice.
    pub(crate) forward_seen: BTreeMap<NodeId, u64>,
    pub(crate) next_forward: u64,
    pub(crate) next_internal: u64,
    /// A command of the replica's own that is under way.
    pub(crate) own_command: Option<Ctx>,
    /// Since when nobody leads.
    leaderless_since_ms: Option<u64>,
    /// Whether requests find a leader, or wait for the next one.
    has_leader: bool,
    pub(crate) free_bytes: Option<u64>,
    clock_distrusted: bool,
    pub(crate) shutting_down: bool,
    pub(crate) outgoing: BTreeMap<NodeId, Vec<PeerMessage>>,
    effects: Vec<Effect>,
}

impl Replica {
    /// A replica that starts: `restored` is what its log holds, `log_size` how large that is, `view` how its state machine
    /// stands.
    pub fn new(config: ReplicaConfig, restored: Restored, log_size: LogSize, view: StateView) -> Self {
        assert!(restored.applied == view.applied, "log and state machine speak of two indexes");
        let removed = view.removed.contains(&config.member.node_id);
        let raft = Raft::new(config.raft.clone(), restored);
        let mut this = Self {
            repair: Repair::new(raft.is_state_lost()),
            raft,
            clock: Clock::new(config.clock_skew_max_ms),
            requests: Requests::default(),
            queue: Queue::default(),
            batches: VecDeque::new(),
            compaction: Compaction::new(config.compaction, log_size),
            applying: Vec::new(),
            began_at: LogPosition { term: view.applied_term, index: view.applied },
            view,
            connected: BTreeMap::new(),
            forward_seen: BTreeMap::new(),
            // Elsewhere in each life: a late answer to what an earlier life passed on must answer nothing in this one.
            next_forward: 1 + (config.raft.seed >> 16),
            next_internal: 0,
            own_command: None,
            leaderless_since_ms: None,
            has_leader: false,
            free_bytes: None,
            clock_distrusted: false,
            shutting_down: false,
            outgoing: BTreeMap::new(),
            effects: Vec::new(),
            config,
        };
        this.locate();
        if removed {
            this.check_members();
        }
        this
    }

    /// Takes in what happened.
    pub fn step(&mut self, now: Now, event: Event) {
        match event {
            Event::Tick => self.tick(now),
            Event::Request(request) => self.admit(now, request),
            Event::Peer { from, batch } => self.receive(now, from, batch),
            Event::PeerConnected { member, level } => self.peer_connected(Connected { member, level }),
            Event::Removed { reason } => self.effect(Effect::Stop { reason }),
            Event::PeerLost(peer) => self.peer_lost(peer),
            Event::Persisted(write) => self.raft.step(Input::Persisted(write)),
            Event::Applied { outcomes, view } => self.applied(now, outcomes, view),
            Event::Scanned(digest) => self.scanned(digest),
            Event::ScanFailed { index, reason } => self.scan_failed(index, reason),
            Event::LogRotten { last, reason } => self.log_rotten(last, reason),
            Event::Fetched { purpose, entries } => self.raft.step(Input::Fetched { purpose, entries }),
            Event::StatePersisted(index) => self.state_persisted(index),
            Event::SnapshotReady(snapshot) => self.raft.step(Input::SnapshotReady(snapshot)),
            Event::SnapshotFailed => self.raft.step(Input::SnapshotFailed),
            Event::Space { free_bytes } => self.space(free_bytes),
            Event::HandOver { to } => self.hand_over(to),
            Event::ShutDown => self.shutting_down = true,
        }
    }

    /// How many of the next ticks only count time, if nothing else happens before; see [`Raft::quiet_ticks`]. None while
    /// a request waits or a key may expire: their time is not counted in ticks.
    pub fn quiet_ticks(&self) -> u32 {
        let expires = self.raft.is_leader() && self.view.next_deadline_ms.is_some();
        if self.requests.len() > 0 || expires {
            0
        } else {
            self.raft.quiet_ticks().min(self.quiet_repair_ticks())
        }
    }

    /// Whether requests are answered here: there is a leader, or there was one and they wait for the next, and this server's
    /// state may be read. A change of the leader in which no request fails does not show.
    pub fn is_ready(&self) -> bool {
        self.has_leader && !self.shutting_down && self.check_state().is_ok()
    }

    /// Whether this server leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    /// The last entry that a majority has on disk, as far as this server knows.
    pub fn commit(&self) -> LogIndex {
        self.raft.commit()
    }

    /// What is to be done, in order, for everything that happened since it was asked last.
    pub fn take_effects(&mut self, now: Now) -> Vec<Effect> {
        self.pump(now);
        for action in self.raft.take_actions() {
            self.act(action);
        }
        self.has_leader |= self.leader_in_reach().is_some();
        self.tell_what_is_served();
        self.answer_reads();
        if self.may_compact() && self.compaction.begins(self.view.applied) {
            self.effects.push(Effect::PersistState);
        }
        for (to, messages) in std::mem::take(&mut self.outgoing) {
            let batch = PeerBatch { clock_ms: now.wall_ms, messages, ..self.own_digests() };
            self.effects.push(Effect::Send { to, batch });
        }
        std::mem::take(&mut self.effects)
    }

    // What happens.

    fn tick(&mut self, now: Now) {
        self.raft.step(Input::Tick);
        while let Some(ctx) = self.requests.overdue(now.monotonic_ms) {
            self.fail_overdue(ctx);
        }
        self.watch_leader(now);
        self.tick_repair();
        self.see_off_removed();
        if self.raft.is_leader() {
            self.watch_clock();
            self.housekeep(now);
        }
    }

    fn receive(&mut self, now: Now, from: NodeId, batch: PeerBatch) {
        // It was refused, and what it had sent by then is of one that must not take part.
        if !self.connected.contains_key(&from) {
            return;
        }
        self.clock.heard(from, batch.clock_ms, now);
        self.hear_digests(from, &batch);
        for message in batch.messages {
            match message {
                PeerMessage::Raft(message) => match message.validate() {
                    Ok(()) => self.raft.step(Input::Receive { from, message }),
                    Err(error) => {
                        self.effects.push(Effect::RefusePeer {
                            peer: from,
                            reason: error.to_string(),
                            removed: false,
                        });
                        return;
                    }
                },
                PeerMessage::Forward(forward) => self.admit_forwarded(now, from, forward),
                PeerMessage::ForwardReply(ForwardReply { sequence, result }) => {
                    if let Some(ctx) = self.requests.forwarded_as(from, sequence) {
                        self.respond(ctx, result);
                    }
                }
            }
        }
    }

    fn applied(&mut self, now: Now, outcomes: Vec<Outcome>, view: StateView) {
        let proposals = std::mem::take(&mut self.applying);
        let mut proposals = proposals.into_iter().peekable();
        for outcome in outcomes {
            if let Some((_, ctx)) = proposals.next_if(|proposal| proposal.0 == outcome.index) {
                let refused = |refusal| Failure::not_applied(Reason::Refused(refusal), None);
                let result = outcome.result.map_err(refused);
                self.respond(ctx, result);
            }
        }
        assert!(proposals.peek().is_none(), "a proposal was applied and has no outcome");
        self.raft.step(Input::Applied(view.applied));
        self.clock.reached(view.log_time_ms, now);
        let before = std::mem::replace(&mut self.view, view);
        self.note_replaced();
        self.note_own_digests();
        self.note_level(before.level);
        let members_changed = before.says_of_members() != self.view.says_of_members();
        if members_changed {
            self.locate();
        }
        if members_changed || before.level < self.view.level {
            self.check_members();
        }
    }

    /// The log lets go of what the state machine holds durably. A leader keeps what those that it hears from still need, so that
    /// a follower that takes a snapshot finds what comes behind it.
    fn state_persisted(&mut self, durable: LogIndex) {
        let followers = self.raft.status().followers;
        let heard_from = followers.iter().filter(|follower| follower.active);
        let needed = heard_from.map(|follower| follower.matched).min().unwrap_or(durable);
        if let Some(to) = self.compaction.persisted(durable, needed) {
            self.raft.step(Input::Compact { to, durable });
        }
    }

    /// What rotted is let go of, as soon as the state machine holds it durably.
    fn log_rotten(&mut self, last: LogIndex, reason: String) {
        // There may be nothing but the record of where the log begins.
        let last = last.max(self.raft.base().index.next());
        self.compaction.rotten(last);
        self.notice(Notice::LogRotten { last, reason });
    }

    fn space(&mut self, free_bytes: u64) {
        let was_low = self.space_is_low();
        self.free_bytes = Some(free_bytes);
        match (was_low, self.space_is_low()) {
            (false, true) => self.notice(Notice::SpaceLow { free_bytes }),
            (true, false) => self.notice(Notice::SpaceEnough { free_bytes }),
            _ => {}
        }
    }

    pub(crate) fn space_is_low(&self) -> bool {
        self.free_bytes.is_some_and(|free_bytes| free_bytes < self.config.space_reserve_bytes)
    }

    // What consensus wants.

    fn act(&mut self, action: Action) {
        match action {
            Action::Write(write) => {
                self.compaction.wrote(&write);
                self.effects.push(Effect::Write(write));
            }
            Action::Send { to, message } => self.send_understood(to, message),
            Action::Apply { entries, proposals } => {
                self.applying = proposals;
                self.effects.push(Effect::Apply(entries));
            }
            Action::Fetch { purpose, from, to, max_bytes } => {
                self.effects.push(Effect::Fetch { purpose, from, to, max_bytes });
            }
            Action::FetchSnapshot { from, at_least } => match self.snapshot_source(from) {
                Some(from) => {
                    self.note_copying();
                    self.effects.push(Effect::FetchSnapshot { from, at_least });
                }
                None => self.raft.step(Input::SnapshotFailed),
            },
            Action::Install { state, position } => {
                self.began_at = position;
                self.state_is_replaced();
                self.effects.push(Effect::Install { state, position });
            }
            Action::Discard { state } => self.effects.push(Effect::Discard(state)),
            Action::ReadReady { ctx, index } => self.read_confirmed(ctx, index),
            Action::Failed { ctx, reason, outcome } => self.failed(ctx, reason, outcome),
            Action::Event(event) => self.raft_event(event),
        }
    }

    fn raft_event(&mut self, event: RaftEvent) {
        match &event {
            RaftEvent::Following { leader, .. } => self.fail_forwarded_elsewhere(*leader),
            RaftEvent::Repaired { .. } => self.check_beginning(),
            RaftEvent::Leading { .. } => {
                self.fail_forwarded_elsewhere(None);
                // Those of an earlier leadership may have been replaced, and then are never committed.
                self.batches.clear();
            }
            _ => {}
        }
        self.notice(Notice::Raft(event));
    }

    /// A damaged log may differ from the state machine at the start; one that a leader has re-sent may not.
    fn check_beginning(&mut self) {
        let LogPosition { term, index } = self.began_at;
        // It is lost, and is to be replaced.
        if index < self.raft.base().index {
            return;
        }
        let log_term = self.raft.term_at(index);
        if log_term != Some(term) {
            let reason = format!(
                "its state machine began at index {index} in term {term}, the leader's log has {log_term:?} there: it is \
                 of another history; remove its data directory, and add it again under a new node id"
            );
            self.effects.push(Effect::Stop { reason });
        }
    }

    /// What was passed on to a leader that leads no more may have been applied, and its answer may never come.
    pub(crate) fn fail_forwarded_elsewhere(&mut self, leader: Option<NodeId>) {
        for ctx in self.requests.forwarded_elsewhere(leader) {
            self.respond(ctx, Err(Failure::unknown(Reason::LeadershipLost, leader)));
        }
    }

    fn failed(&mut self, ctx: Ctx, reason: FailReason, outcome: Certainty) {
        let stage = self.requests.get(ctx).map(|pending| pending.stage);
        if let Some(Stage::Confirming { min_revision }) = stage
            && matches!(reason, FailReason::NotLeader { .. } | FailReason::LeadershipLost)
        {
            // A read changes nothing: it may as well wait for the next leader.
            self.requests.set_stage(ctx, Stage::Queued);
            self.queue.push_read(ctx, min_revision);
            return;
        }
        let reason = match reason {
            FailReason::NotLeader { .. } | FailReason::HandingOver { .. } => self.no_leader(),
            FailReason::LeadershipLost => Reason::LeadershipLost,
            FailReason::Members(refusal) => Reason::Members(refusal),
            FailReason::Overloaded => {
                Reason::Overloaded { limit: self.config.raft.max_uncommitted_bytes as u64 }
            }
            FailReason::TooLarge { limit_bytes } => Reason::TooLarge { limit: limit_bytes as u64 },
        };
        self.respond(ctx, Err(Failure { reason, outcome, leader: self.raft.leader() }));
    }

    fn read_confirmed(&mut self, ctx: Ctx, index: LogIndex) {
        if let Some(Stage::Confirming { min_revision }) = self.requests.get(ctx).map(|pending| pending.stage)
        {
            self.requests.set_stage(ctx, Stage::Awaiting { index: index.max(min_revision) });
        }
    }

    fn answer_reads(&mut self) {
        while let Some(ctx) = self.requests.readable(self.view.applied) {
            if let Err(reason) = self.check_state() {
                self.respond(ctx, Err(Failure::not_applied(reason, self.raft.leader())));
                continue;
            }
            self.requests.end(ctx);
            self.effects.push(Effect::Read { ctx });
        }
    }

    // Time.

    fn fail_overdue(&mut self, ctx: Ctx) {
        let leader = self.raft.leader();
        let failure = match self.requests.get(ctx).map(|pending| pending.stage) {
            Some(Stage::Proposed | Stage::Forwarded { .. }) => Failure::unknown(Reason::Deadline, leader),
            Some(Stage::Awaiting { index }) if index > self.view.applied => {
                Failure::not_applied(Reason::Behind { applied: self.view.applied }, leader)
            }
            _ => Failure::not_applied(Reason::Deadline, leader),
        };
        self.respond(ctx, Err(failure));
    }

    /// While nobody leads, requests wait for a while: an election is short. Then they fail.
    fn watch_leader(&mut self, now: Now) {
        if self.leader_in_reach().is_some() {
            self.leaderless_since_ms = None;
            return;
        }
        let since_ms = *self.leaderless_since_ms.get_or_insert(now.monotonic_ms);
        if now.monotonic_ms.saturating_sub(since_ms) >= self.config.leaderless_wait_ms {
            self.has_leader = false;
            let failure = Failure::not_applied(self.no_leader(), None);
            for ctx in self.queue.drain() {
                self.respond(ctx, Err(failure.clone()));
            }
        }
    }

    /// Who leads, if commands can be passed on to it. A leader whose connection broke has most likely ended: what comes now waits for
    /// the next one.
    pub(crate) fn leader_in_reach(&self) -> Option<NodeId> {
        self.raft.leader().filter(|id| *id == self.raft.id() || self.connected.contains_key(id))
    }

    /// Why nobody leads, as far as can be told from here.
    pub(crate) fn no_leader(&self) -> Reason {
        let voters = &self.raft.membership().voters;
        let here = |id: &&NodeId| **id == self.raft.id() || self.connected.contains_key(*id);
        let (connected, needed) = (voters.iter().filter(here).count(), voters.len() / 2 + 1);
        if connected < needed {
            Reason::NoQuorum { connected, voters: voters.len(), needed }
        } else {
            Reason::NoLeader
        }
    }

    fn watch_clock(&mut self) {
        let skew_ms = self.clock.distrusted_skew_ms();
        if skew_ms.is_some() != self.clock_distrusted {
            self.clock_distrusted = skew_ms.is_some();
            let notice = skew_ms.map_or(Notice::ClockTrusted, |skew_ms| Notice::ClockDistrusted { skew_ms });
            self.notice(notice);
        }
    }

    // Answers.

    /// Ends a request, whoever waits for it. One that has ended before stays so.
    pub(crate) fn respond(&mut self, ctx: Ctx, result: Result<Answer, Failure>) {
        match self.requests.end(ctx).map(|pending| pending.origin) {
            Some(Origin::Client) => self.effects.push(Effect::Answer { ctx, result }),
            Some(Origin::Peer { node, sequence }) => {
                self.send(node, PeerMessage::ForwardReply(ForwardReply { sequence, result }));
            }
            Some(Origin::Itself) if self.own_command == Some(ctx) => self.own_command = None,
            Some(Origin::Itself) | None => {}
        }
    }

    pub(crate) fn send(&mut self, to: NodeId, message: PeerMessage) {
        self.outgoing.entry(to).or_default().push(message);
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.effects.push(Effect::Notice(notice));
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.leader()
    }

    /// How the replica stands.
    pub fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            raft: self.raft.status(),
            quarantined: self.is_quarantined(),
            states_differ: self.repair.is_split(),
            requests: self.requests.len(),
            log_time_ms: self.view.log_time_ms,
            digest: self.view.digest,
            level: self.view.level,
            connected: self.connected.keys().copied().collect(),
            free_bytes: self.free_bytes,
            membership: self.raft.membership().clone(),
            introductions: self.view.introductions.clone(),
            members_index: self.view.members_index,
        }
    }
}
