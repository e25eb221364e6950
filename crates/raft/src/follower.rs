//! A follower: it takes what its leader sends, votes, and stands for election when it hears nothing (section 5.2).

use crate::candidate::{Candidate, PreCandidate};
use crate::core::Core;
use crate::entry::Entry;
use crate::ids::{Ctx, NodeId};
use crate::io::{Action, Event, FailReason};
use crate::message::{
    Append, Body, Heartbeat, HeartbeatReply, ReadIndex, ReadIndexReply, Repair, SnapshotOffer, VoteReply,
};
use crate::outbox::{Free, Promise};
use crate::raft::Role;

/// A node that follows.
#[derive(Debug)]
pub(crate) struct Follower {
    leader: Option<NodeId>,
    /// Ticks since the leader was heard of, or a vote was given.
    elapsed: u32,
    timeout: u32,
    /// The connection to the leader broke since it was heard of.
    leader_lost: bool,
    /// How many others should stand for election before this node, by the leader's last word.
    rank: u32,
    /// With a damaged disk: what must be held to be whole again, once a leader has said so.
    repair: Option<Repair>,
    reads: Reads,
}

/// Reads that wait for the leader's word. One question at a time is under way; what comes meanwhile waits for the next.
#[derive(Debug, Default)]
struct Reads {
    waiting: Vec<Ctx>,
    asked: Option<Asked>,
    next_id: u64,
}

#[derive(Debug)]
struct Asked {
    id: u64,
    ctxs: Vec<Ctx>,
    /// Ticks since it was sent: the question or its answer may be lost (scenario 44).
    elapsed: u32,
}

impl Follower {
    /// A follower in the current term.
    pub(crate) fn new(core: &mut Core, leader: Option<NodeId>) -> Self {
        core.outbox.event(Event::Following { term: core.term(), leader });
        // Questions before a restart or another role are never answered for one of these (scenario 42).
        let reads = Reads { next_id: core.random_u64(), ..Reads::default() };
        let timeout = core.random_timeout();
        Self { leader, elapsed: 0, timeout, leader_lost: false, rank: 0, repair: None, reads }
    }

    /// A follower that has just started: it has disturbed nobody yet, and asks around soon.
    pub(crate) fn starting(core: &mut Core) -> Self {
        let mut this = Self::new(core, None);
        if core.may_campaign() {
            this.timeout = core.random_first_timeout();
        }
        this
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    pub(crate) fn tick(&mut self, core: &mut Core) -> Option<Role> {
        // A node that must not campaign may wait for a leader as long as it runs.
        self.elapsed = self.elapsed.saturating_add(1);
        if self.elapsed < self.timeout {
            self.reads.tick(core, self.leader);
            return None;
        }
        if core.may_campaign() {
            return Some(PreCandidate::start(core));
        }
        // Who must not stand for election waits for those who may.
        if self.leader.take().is_some() {
            self.reads.fail(core, None);
            core.outbox.event(Event::Following { term: core.term(), leader: None });
        }
        if core.lacks_but_a_state() {
            self.elapsed = 0;
            self.timeout = core.random_timeout();
            core.want_snapshot_of_anybody();
        }
        None
    }

    /// See [`crate::Raft::quiet_ticks`].
    pub(crate) fn quiet_ticks(&self, core: &Core) -> u32 {
        let waits_for_others = self.leader.is_none() && !core.may_campaign() && !core.lacks_but_a_state();
        let own = if waits_for_others { u32::MAX } else { self.timeout.saturating_sub(self.elapsed + 1) };
        if core.holds_back() { 0 } else { own.min(self.reads.quiet_ticks(core)) }
    }

    pub(crate) fn receive(&mut self, core: &mut Core, from: NodeId, body: Body) -> Option<Role> {
        match body {
            Body::PreVote(request) => {
                let granted = !self.hears_from_another_leader(core, from) && core.would_vote(request);
                core.send(from, Free::PreVoteReply(VoteReply { granted }));
            }
            Body::Vote(request) => {
                if core.answer_vote(from, request) {
                    self.elapsed = 0;
                }
            }
            Body::Append(append) => {
                self.hear_from_leader(core, from);
                self.append(core, from, append);
                self.repair(core);
            }
            Body::Heartbeat(heartbeat) => {
                self.hear_from_leader(core, from);
                self.heartbeat(core, from, heartbeat);
                self.repair(core);
            }
            Body::SnapshotOffer(offer) => {
                self.hear_from_leader(core, from);
                Self::snapshot_offered(core, from, offer);
            }
            Body::ReadIndexReply(reply) => self.reads.answered(core, reply),
            // No pre-vote: the others still hear from the leader, and would refuse (scenario 7).
            Body::TimeoutNow => {
                self.hear_from_leader(core, from);
                return core.may_campaign().then(|| Candidate::start(core));
            }
            // Answers to what this node asked in an earlier role, and questions to a leader that it is not: the asker
            // asks again once it knows better.
            Body::PreVoteReply(_)
            | Body::VoteReply(_)
            | Body::AppendReply(_)
            | Body::HeartbeatReply(_)
            | Body::ReadIndex(_) => {}
        }
        None
    }

    /// A live leader makes this node refuse a pre-vote (dissertation, section 9.6), unless it is that leader that asks,
    /// since it leads no more (scenario 6). Answering changes nothing here.
    fn hears_from_another_leader(&self, core: &Core, candidate: NodeId) -> bool {
        self.leader.is_some_and(|leader| leader != candidate)
            && self.elapsed < core.config.election_ticks
            && !self.leader_lost
    }

    /// If the connection to the leader broke, its process has most likely ended, and the others notice at the same moment.
    /// This node no longer takes it for alive, and asks around soon: the one that is most likely to win first. Whoever still
    /// hears from the leader refuses.
    pub(crate) fn peer_lost(&mut self, peer: NodeId) {
        if self.leader == Some(peer) {
            self.leader_lost = true;
            self.timeout = self.timeout.min(self.elapsed.saturating_add(1 + self.rank));
        }
    }

    fn hear_from_leader(&mut self, core: &mut Core, from: NodeId) {
        assert!(
            self.leader.is_none_or(|leader| leader == from),
            "two leaders in term {}: {:?} and {from}",
            core.term(),
            self.leader
        );
        self.elapsed = 0;
        if std::mem::take(&mut self.leader_lost) {
            self.timeout = core.random_timeout();
        }
        if self.leader.is_none() {
            self.leader = Some(from);
            core.outbox.event(Event::Following { term: core.term(), leader: Some(from) });
        }
        if core.is_state_lost() {
            core.want_snapshot(from, core.snapshot_needed());
        }
    }

    /// Section 5.3, "receiver implementation" of figure 2.
    fn append(&mut self, core: &mut Core, from: NodeId, append: Append) {
        let Append { prev, entries, commit, round } = append;
        let damage = core.damage();
        if !core.log.matches(prev) {
            assert!(
                prev.index > core.commit() || damage.is_some(),
                "the leader lacks what is committed here, at {}",
                prev.index
            );
            let hint = core.hint_for(prev);
            core.send(from, Free::AppendRejected { round, damage, prev: prev.index, hint });
            return;
        }
        // What follows in this log was perhaps never the leader's (scenarios 16 and 17).
        let matched = entries.last().map_or(prev.index, |last| last.index);
        self.take_new(core, entries);
        core.commit_to(commit.min(matched));
        core.promise(from, Promise::AppendAccepted { round, damage, matched });
    }

    /// What is needed next is not in the leader's log any more, unless it came here another way meanwhile.
    fn snapshot_offered(core: &mut Core, from: NodeId, offer: SnapshotOffer) {
        let SnapshotOffer { base, round } = offer;
        let damage = core.damage();
        if core.log.matches(base) {
            core.promise(from, Promise::AppendAccepted { round, damage, matched: base.index });
        } else {
            let hint = core.hint_for(base);
            core.send(from, Free::AppendRejected { round, damage, prev: base.index, hint });
            core.want_snapshot(from, base.index);
        }
    }

    /// Adds those entries that this log does not have. What it has beyond them stays, unless it conflicts: an old message
    /// that arrives late must cut nothing off (scenario 15).
    fn take_new(&mut self, core: &mut Core, mut entries: Vec<Entry>) {
        let known = entries.iter().take_while(|entry| core.log.matches(entry.position())).count();
        entries.drain(..known);
        let Some(first) = entries.first() else { return };
        if first.index <= core.log.last_index() {
            core.truncate(first.index.previous());
        }
        core.append(entries);
    }

    fn heartbeat(&mut self, core: &mut Core, from: NodeId, heartbeat: Heartbeat) {
        let Heartbeat { commit, round, repair, rank } = heartbeat;
        self.rank = rank;
        if core.log.matches(commit) {
            core.commit_to(commit.index);
            // No append follows that would bring more.
            core.want_applied(commit.index);
        }
        if repair.is_some_and(|repair| core.damage() == Some(repair.damage)) {
            self.repair = repair;
        }
        core.send(from, Free::HeartbeatReply(HeartbeatReply { round, damage: core.damage() }));
    }

    pub(crate) fn persisted(&mut self, core: &mut Core) {
        self.repair(core);
    }

    fn repair(&mut self, core: &mut Core) {
        if self.repair.is_some_and(|Repair { to, .. }| core.log.matches(to) && to.index <= core.durable()) {
            core.clear_damage();
        }
    }

    pub(crate) fn read(&mut self, core: &mut Core, ctx: Ctx) {
        if self.leader.is_none() {
            core.fail_read(ctx, FailReason::NotLeader { leader: None });
        } else if self.reads.count() >= core.config.max_reads {
            core.fail_read(ctx, FailReason::Overloaded);
        } else {
            self.reads.waiting.push(ctx);
        }
    }

    pub(crate) fn flush(&mut self, core: &mut Core) {
        self.reads.flush(core, self.leader);
    }

    /// Ends what waits here, before the node takes another role or term.
    pub(crate) fn leave(mut self, core: &mut Core) {
        self.reads.fail(core, None);
    }
}

impl Reads {
    fn count(&self) -> usize {
        self.waiting.len() + self.asked.as_ref().map_or(0, |asked| asked.ctxs.len())
    }

    fn flush(&mut self, core: &mut Core, leader: Option<NodeId>) {
        if let Some(leader) = leader
            && self.asked.is_none()
            && !self.waiting.is_empty()
        {
            let (id, ctxs) = (self.next_id, std::mem::take(&mut self.waiting));
            self.next_id = self.next_id.wrapping_add(1);
            self.asked = Some(Asked { id, ctxs, elapsed: 0 });
            core.send(leader, Free::ReadIndex(ReadIndex { id }));
        }
    }

    fn tick(&mut self, core: &mut Core, leader: Option<NodeId>) {
        if let (Some(leader), Some(asked)) = (leader, &mut self.asked) {
            asked.elapsed += 1;
            if asked.elapsed >= core.config.heartbeat_ticks {
                asked.elapsed = 0;
                core.send(leader, Free::ReadIndex(ReadIndex { id: asked.id }));
            }
        }
    }

    fn quiet_ticks(&self, core: &Core) -> u32 {
        let repeat = core.config.heartbeat_ticks;
        self.asked.as_ref().map_or(u32::MAX, |asked| repeat.saturating_sub(asked.elapsed + 1))
    }

    fn answered(&mut self, core: &mut Core, reply: ReadIndexReply) {
        if let Some(asked) = self.asked.take_if(|asked| asked.id == reply.id) {
            core.want_applied(reply.index);
            for ctx in asked.ctxs {
                core.outbox.act(Action::ReadReady { ctx, index: reply.index });
            }
        }
    }

    fn fail(&mut self, core: &mut Core, leader: Option<NodeId>) {
        let asked = self.asked.take().map(|asked| asked.ctxs).unwrap_or_default();
        for ctx in asked.into_iter().chain(std::mem::take(&mut self.waiting)) {
            core.fail_read(ctx, FailReason::NotLeader { leader });
        }
    }
}
