//! A leader: it appends proposals, replicates them, commits what a quorum has on disk, and confirms reads (section 5.3,
//! section 8).

mod members;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::config::Config;
use crate::core::Core;
use crate::entry::{Entry, LogPosition, Payload};
use crate::ids::{Ctx, LogIndex, NodeId, Term};
use crate::io::{Action, Event, FailReason, FetchPurpose, Outcome, StepDownReason, TransferFailure};
use crate::log_view::Cached;
use crate::message::{
    Append, AppendReply, AppendResult, Body, Heartbeat, HeartbeatReply, ReadIndexReply, SnapshotOffer,
    VoteReply,
};
use crate::outbox::Free;
use crate::progress::{Progress, Window};
use crate::quorum;
use crate::raft::Role;
use crate::reads::{Reader, Reads};

/// A node that leads its term.
#[derive(Debug)]
pub(crate) struct Leader {
    progress: BTreeMap<NodeId, Progress>,
    /// The no-op that opens the term. Once it is committed, this node knows what is (section 8).
    opening: LogIndex,
    /// The latest round of heartbeats, begun by the clock or for reads.
    round: u64,
    /// The latest round that a quorum answered.
    confirmed_round: u64,
    reads: Reads,
    heartbeat_elapsed: u32,
    quorum_elapsed: u32,
    disk: DiskWatch,
    /// Whether followers are to be told what is committed though no append is about to carry it.
    tells_commit: bool,
    transfer: Option<Transfer>,
    /// The change of members that waits for its joint configuration to be committed.
    change: Option<Ctx>,
}

/// Leadership that is being handed over.
#[derive(Debug)]
struct Transfer {
    to: NodeId,
    elapsed: u32,
    /// Whether `to` was told to stand for election: once it has all of this log, since it might lose otherwise, and all is
    /// committed, since its fate would be unknown to those who wait for it.
    told: bool,
}

/// Watches whether the disk gets on with what waits for it.
#[derive(Debug)]
struct DiskWatch {
    durable: LogIndex,
    elapsed: u32,
}

impl Leader {
    /// Begins the term with an entry of its own.
    pub(crate) fn start(core: &mut Core, votes: Vec<NodeId>) -> Role {
        core.outbox.event(Event::Leading { term: core.term(), votes });
        core.recount_uncommitted();
        let last = core.log.last_index();
        let mut this = Self {
            progress: core.others().into_iter().map(|id| (id, Progress::new(last))).collect(),
            opening: last.next(),
            round: 0,
            confirmed_round: 0,
            reads: Reads::default(),
            heartbeat_elapsed: 0,
            quorum_elapsed: 0,
            disk: DiskWatch { durable: core.durable(), elapsed: 0 },
            tells_commit: false,
            transfer: None,
            change: None,
        };
        Self::append(core, Payload::Noop);
        this.clock_round(core);
        Role::Leader(this)
    }

    pub(crate) fn progress(&self) -> &BTreeMap<NodeId, Progress> {
        &self.progress
    }

    fn append(core: &mut Core, payload: Payload) -> LogIndex {
        let index = core.log.last_index().next();
        core.append_one(Entry { term: core.term(), index, payload });
        index
    }

    // Time.

    pub(crate) fn tick(&mut self, core: &mut Core) -> Option<Role> {
        if let Some(reason) = self.check_quorum(core).or_else(|| self.disk.tick(core)) {
            core.outbox.event(Event::SteppedDown { term: core.term(), reason });
            return Some(Role::follower(core, None));
        }
        if let Some(follower) = self.depart(core) {
            return Some(follower);
        }
        self.tick_transfer(core);
        self.tells_commit = true;
        self.heartbeat_elapsed += 1;
        if self.heartbeat_elapsed >= core.config.heartbeat_ticks {
            self.clock_round(core);
        }
        None
    }

    /// See [`crate::Raft::quiet_ticks`].
    pub(crate) fn quiet_ticks(&self, core: &Core) -> u32 {
        let Config { heartbeat_ticks, election_ticks, disk_stall_ticks, .. } = core.config;
        let timers = [
            (self.heartbeat_elapsed, heartbeat_ticks),
            (self.quorum_elapsed, election_ticks),
            (self.disk.elapsed, disk_stall_ticks),
            (self.transfer.as_ref().map_or(0, |transfer| transfer.elapsed), election_ticks),
        ];
        if Self::is_removed(core) || self.owes_commit(core) {
            return 0;
        }
        let quiet = timers.map(|(elapsed, limit)| limit.saturating_sub(elapsed + 1));
        quiet.into_iter().min().unwrap_or(0)
    }

    /// A leader that a quorum does not answer would keep its clients waiting for nothing (dissertation, section 6.2).
    fn check_quorum(&mut self, core: &Core) -> Option<StepDownReason> {
        self.quorum_elapsed += 1;
        if self.quorum_elapsed < core.config.election_ticks {
            return None;
        }
        self.quorum_elapsed = 0;
        let here =
            |id: NodeId| id == core.id() || self.progress.get(&id).is_some_and(Progress::counts_as_active);
        let alive = quorum::is_quorum(core.membership(), here);
        self.progress.values_mut().for_each(Progress::begin_watch);
        (!alive).then_some(StepDownReason::NoQuorum)
    }

    fn clock_round(&mut self, core: &mut Core) {
        self.heartbeat_elapsed = 0;
        self.see_off();
        self.rank(core);
        self.begin_round(core);
        self.progress.values_mut().for_each(|progress| progress.clock_began(self.round));
    }

    /// Says who should stand for election first if this node is gone.
    fn rank(&mut self, core: &Core) {
        let place = |(id, progress): (&NodeId, &Progress)| (Reverse(progress.counted_match()), *id);
        let voters = self.progress.iter().filter(|(id, _)| core.membership().is_voter(**id));
        let mut places: Vec<_> = voters.map(place).collect();
        places.sort_unstable();
        for (rank, (_, id)) in (0..).zip(places) {
            self.progress.entry(id).and_modify(|progress| progress.rank = rank);
        }
    }

    fn begin_round(&mut self, core: &mut Core) {
        self.round += 1;
        for (to, progress) in &mut self.progress {
            send_heartbeat(core, *to, progress, self.round);
        }
    }

    // Requests.

    pub(crate) fn propose(&mut self, core: &mut Core, ctx: Ctx, command: Bytes) {
        let limit_bytes = core.config.max_command_bytes;
        if command.len() > limit_bytes {
            core.fail(ctx, FailReason::TooLarge { limit_bytes }, Outcome::NotApplied);
            return;
        }
        if let Some(transfer) = &self.transfer {
            core.fail(ctx, FailReason::HandingOver { to: transfer.to }, Outcome::NotApplied);
            return;
        }
        let payload = Payload::Command(command);
        if !core.has_room_for(&payload) {
            core.fail(ctx, FailReason::Overloaded, Outcome::NotApplied);
        } else {
            let index = Self::append(core, payload);
            core.expect_proposal(index, ctx);
        }
    }

    pub(crate) fn read(&mut self, core: &mut Core, ctx: Ctx) {
        if !self.reads.add(Reader::Here(ctx), core.config.max_reads) {
            core.fail_read(ctx, FailReason::Overloaded);
        }
    }

    // Handing over (dissertation, section 3.10).

    /// Begins to hand over. From here on nothing new is proposed, so that `to` can come to have all of this log.
    pub(crate) fn transfer(&mut self, core: &mut Core, to: NodeId) {
        let can_lead = core.membership().is_voter(to)
            && self.progress.get(&to).is_some_and(|progress| !progress.is_damaged());
        let reason = match &self.transfer {
            Some(_) => TransferFailure::Busy,
            // A learner, or nobody: it could not win (scenario 35).
            None if !can_lead => TransferFailure::CannotLead,
            None => {
                core.outbox.event(Event::HandingOver { to });
                self.transfer = Some(Transfer { to, elapsed: 0, told: false });
                return;
            }
        };
        core.outbox.event(Event::TransferFailed { to, reason });
    }

    pub(crate) fn handing_over_to(&self) -> Option<NodeId> {
        self.transfer.as_ref().map(|transfer| transfer.to)
    }

    /// A successor that does not take over must not stop the group for ever.
    fn tick_transfer(&mut self, core: &mut Core) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.elapsed += 1;
        if transfer.elapsed >= core.config.election_ticks {
            let (to, reason) = (transfer.to, TransferFailure::TimedOut);
            self.transfer = None;
            core.outbox.event(Event::TransferFailed { to, reason });
        }
    }

    fn flush_transfer(&mut self, core: &mut Core) {
        let Some(transfer) = self.transfer.as_mut().filter(|transfer| !transfer.told) else { return };
        let matched = self.progress.get(&transfer.to).map(Progress::counted_match);
        let last = core.log.last_index();
        if matched == Some(last) && core.commit() == last {
            transfer.told = true;
            core.send(transfer.to, Free::TimeoutNow);
        }
    }

    // Messages.

    pub(crate) fn receive(&mut self, core: &mut Core, from: NodeId, body: Body) -> Option<Role> {
        match body {
            Body::PreVote(_) => core.send(from, Free::PreVoteReply(VoteReply { granted: false })),
            // It has voted for itself in this term.
            Body::Vote(request) => {
                let granted = core.answer_vote(from, request);
                assert!(!granted, "a leader voted for {from} in its own term {}", core.term());
            }
            Body::AppendReply(reply) => self.append_reply(core, from, reply),
            Body::HeartbeatReply(reply) => self.heartbeat_reply(core, from, reply),
            Body::ReadIndex(read) => {
                // A question that finds no room is asked again.
                self.reads.add(Reader::At { node: from, id: read.id }, core.config.max_reads);
            }
            Body::Append(_) | Body::SnapshotOffer(_) | Body::Heartbeat(_) | Body::TimeoutNow => {
                panic!("two leaders in term {}: {} and {from}", core.term(), core.id())
            }
            Body::PreVoteReply(_) | Body::VoteReply(_) | Body::ReadIndexReply(_) => {}
        }
        None
    }

    fn append_reply(&mut self, core: &mut Core, from: NodeId, reply: AppendReply) {
        let Some(progress) = self.progress.get_mut(&from) else { return };
        progress.active = true;
        if !progress.learn_damage(reply.damage, reply.round, self.round) {
            return;
        }
        match reply.result {
            AppendResult::Accepted { matched } => {
                assert!(
                    matched <= core.log.last_index(),
                    "{from} acknowledged {matched}, which was never sent"
                );
                progress.accepted(matched, self.round, &core.log);
                if progress.counted_match() > core.commit() {
                    self.advance_commit(core);
                }
            }
            AppendResult::Rejected { prev, hint } => {
                if let Some(acknowledged) = progress.rejected(prev, hint, reply.round, &core.log) {
                    core.outbox.event(Event::AcknowledgedLost { by: from, acknowledged });
                }
            }
        }
    }

    fn heartbeat_reply(&mut self, core: &mut Core, from: NodeId, reply: HeartbeatReply) {
        let Some(progress) = self.progress.get_mut(&from) else { return };
        progress.active = true;
        if !progress.learn_damage(reply.damage, reply.round, self.round) {
            return;
        }
        if progress.heartbeat_answered(reply.round) {
            send_gap_check(core, from, progress, self.round);
        }
        // A node that is whole again may complete a quorum. Whoever has no more than what is committed completes none.
        if progress.counted_match() > core.commit() {
            self.advance_commit(core);
        }
        self.confirm_rounds(core);
    }

    /// Takes note of the latest round that a quorum answered, and answers the reads that waited for it.
    fn confirm_rounds(&mut self, core: &mut Core) {
        let answered = |id: NodeId| {
            if id == core.id() {
                self.round
            } else {
                self.progress.get(&id).map_or(0, Progress::counted_round)
            }
        };
        let confirmed = quorum::reached(core.membership(), answered);
        if confirmed <= self.confirmed_round {
            return;
        }
        self.confirmed_round = confirmed;
        for progress in self.progress.values_mut() {
            progress.round_confirmed(confirmed, core.log.last());
        }
        for (reader, index) in self.reads.confirmed(confirmed) {
            match reader {
                Reader::Here(ctx) => core.outbox.act(Action::ReadReady { ctx, index }),
                Reader::At { node, id } => {
                    core.send(node, Free::ReadIndexReply(ReadIndexReply { id, index }))
                }
            }
        }
    }

    /// Section 5.4.2: what a quorum has on disk is committed, if it is of this term; what comes before it is, too
    /// (scenario 12). This node's own log counts as far as its disk has it (scenario 21).
    fn advance_commit(&mut self, core: &mut Core) {
        let on_disk = |id: NodeId| {
            if id == core.id() {
                core.durable()
            } else {
                self.progress.get(&id).map_or(LogIndex(0), Progress::counted_match)
            }
        };
        let index = quorum::reached(core.membership(), on_disk);
        if index > core.commit() && core.log.term_at(index) == Some(core.term()) {
            core.commit_to(index);
        }
    }

    pub(crate) fn persisted(&mut self, core: &mut Core) {
        self.advance_commit(core);
    }

    /// The log was compacted: some followers may need what it does not have any more.
    pub(crate) fn compacted(&mut self, core: &Core) {
        let base = core.log.base().index;
        self.progress.values_mut().for_each(|progress| progress.log_begins_behind(base));
    }

    /// Goes on with entries that were read from disk for a follower, if they are still what it needs (scenario 26).
    pub(crate) fn fetched(&mut self, core: &mut Core, to: NodeId, term: Term, entries: Vec<Entry>) {
        let Some(progress) = self.progress.get_mut(&to).filter(|_| term == core.term()) else { return };
        progress.fetching = false;
        if progress.needs_snapshot() {
            return;
        }
        let expected = progress.next();
        if entries.first().is_some_and(|first| first.index == expected) {
            assert!(
                entries.iter().all(|entry| core.log.matches(entry.position())),
                "the disk holds another log"
            );
            send_entries(core, to, progress, self.round, entries);
        }
    }

    // Sending.

    /// Sends what can be sent now: one append for all that was proposed meanwhile, one round for all reads that wait.
    pub(crate) fn flush(&mut self, core: &mut Core) {
        self.flush_members(core);
        let window =
            Window { messages: core.config.max_inflight_messages, bytes: core.config.max_inflight_bytes };
        for (to, progress) in &mut self.progress {
            while progress.may_send(window)
                && (progress.wants_probe() || progress.next() <= core.log.last_index())
            {
                send_append(core, *to, progress, self.round);
            }
        }
        self.flush_reads(core);
        self.flush_commit(core);
        self.flush_transfer(core);
    }

    /// Begins a round for the reads that wait, unless one is under way, or it is not known yet what is committed
    /// (scenario 41).
    fn flush_reads(&mut self, core: &mut Core) {
        if core.commit() >= self.opening && self.reads.wants_round() {
            self.begin_round(core);
            self.reads.begin(self.round, core.commit());
            self.confirm_rounds(core);
        }
    }

    /// Tells followers the commit index when no append is about to carry it, nor one is likely to follow at once; see
    /// [`Config::max_follower_lag`].
    fn flush_commit(&mut self, core: &mut Core) {
        let tells = std::mem::take(&mut self.tells_commit) || core.config.max_follower_lag == 0;
        if !tells || core.commit() < core.log.last_index() {
            return;
        }
        for (to, progress) in &mut self.progress {
            if progress.is_owed_commit(core.commit()) {
                send_heartbeat(core, *to, progress, self.round);
            }
        }
    }

    fn owes_commit(&self, core: &Core) -> bool {
        core.commit() == core.log.last_index()
            && self.progress.values().any(|progress| progress.is_owed_commit(core.commit()))
    }

    /// Ends what waits here, before the node takes another role.
    pub(crate) fn leave(self, core: &mut Core) {
        for reader in self.reads.into_readers() {
            if let Reader::Here(ctx) = reader {
                core.fail_read(ctx, FailReason::LeadershipLost);
            }
        }
        core.fail_uncommitted_proposals();
        if let Some(ctx) = self.change {
            core.fail(ctx, FailReason::LeadershipLost, Outcome::Unknown);
        }
    }
}

fn send_heartbeat(core: &mut Core, to: NodeId, progress: &mut Progress, round: u64) {
    let commit = core.committed();
    progress.told_commit = commit.index;
    core.send(
        to,
        Free::Heartbeat(Heartbeat { commit, round, repair: progress.repair(), rank: progress.rank }),
    );
}

/// Sends what follows next, or asks the disk for it, or offers a snapshot in its stead.
fn send_append(core: &mut Core, to: NodeId, progress: &mut Progress, round: u64) {
    if progress.needs_snapshot() {
        let base = core.log.base();
        core.send(to, Free::SnapshotOffer(SnapshotOffer { base, round }));
        progress.sent(base.index, 0);
        return;
    }
    let (from, max_bytes) = (progress.next(), core.config.max_append_bytes);
    match core.log.entries(from, core.log.last_index(), max_bytes) {
        Cached::Entries(entries) => send_entries(core, to, progress, round, entries),
        Cached::OnDisk { to: last } => {
            progress.fetching = true;
            let purpose = FetchPurpose::Send { to, term: core.term() };
            core.outbox.act(Action::Fetch { purpose, from, to: last, max_bytes });
        }
    }
}

fn send_entries(core: &mut Core, to: NodeId, progress: &mut Progress, round: u64, entries: Vec<Entry>) {
    let prev = position_before(core, progress.next());
    let last = entries.last().map_or(prev.index, |last| last.index);
    let size_bytes = entries.iter().map(Entry::size_bytes).sum();
    let commit = core.commit();
    core.send(to, Free::Append(Append { prev, entries, commit, round }));
    progress.told_commit = commit;
    progress.sent(last, size_bytes);
}

/// Asks a follower whether it has all that was sent; if something got lost, it says so.
fn send_gap_check(core: &mut Core, to: NodeId, progress: &Progress, round: u64) {
    let prev = position_before(core, progress.next());
    core.send(to, Free::Append(Append { prev, entries: Vec::new(), commit: core.commit(), round }));
}

fn position_before(core: &Core, next: LogIndex) -> LogPosition {
    let index = next.previous();
    let term = core.log.term_at(index).expect("nothing is sent from behind the end of the log");
    LogPosition { term, index }
}

impl DiskWatch {
    fn tick(&mut self, core: &Core) -> Option<StepDownReason> {
        let waiting = core.durable() < core.log.last_index();
        if !waiting || core.durable() > self.durable {
            *self = Self { durable: core.durable(), elapsed: 0 };
            return None;
        }
        self.elapsed += 1;
        (self.elapsed >= core.config.disk_stall_ticks).then_some(StepDownReason::DiskStalled)
    }
}
