//! Standing for election: first the question whether it would succeed, which changes nobody's term (dissertation, section
//! 9.6), then the election itself (section 5.2).

use std::collections::BTreeMap;

use crate::core::Core;
use crate::ids::{NodeId, WriteId};
use crate::io::Event;
use crate::leader::Leader;
use crate::message::{Body, VoteReply, VoteRequest};
use crate::outbox::{Free, Promise};
use crate::quorum::{Tally, tally};
use crate::raft::Role;

/// A node that asks whether it would be elected. It is still in its old term.
#[derive(Debug)]
pub(crate) struct PreCandidate {
    votes: Votes,
    clock: Clock,
    /// How often it has asked.
    asked: u32,
}

/// A node that stands for election in its term.
#[derive(Debug)]
pub(crate) struct Candidate {
    votes: Votes,
    clock: Clock,
    /// The write that holds its own vote: it counts once this is durable.
    own_vote: WriteId,
}

/// Who said what, each node once: a second word of the same node changes nothing (scenario 10).
#[derive(Debug, Default)]
struct Votes(BTreeMap<NodeId, bool>);

#[derive(Debug)]
struct Clock {
    elapsed: u32,
    timeout: u32,
}

impl PreCandidate {
    /// Begins to ask around.
    pub(crate) fn start(core: &mut Core) -> Role {
        core.outbox.event(Event::PreCampaigning { term: core.term() });
        Self::ask(core, 0)
    }

    /// Asks all voters, who were asked `before` times. With nobody to ask the answer is there at once.
    fn ask(core: &mut Core, before: u32) -> Role {
        let request = VoteRequest { last: core.log.last() };
        for to in voters_but_self(core) {
            core.send(to, Free::PreVote(request));
        }
        let clock = Clock::start(core.random_retry(before));
        let mut this = Self { votes: Votes::default(), clock, asked: before.saturating_add(1) };
        this.votes.record(core.id(), true);
        this.conclude(core).unwrap_or(Role::PreCandidate(this))
    }

    pub(crate) fn tick(&mut self, core: &mut Core) -> Option<Role> {
        self.clock.tick().then(|| go_on(core, |core| Self::ask(core, self.asked)))
    }

    /// See [`crate::Raft::quiet_ticks`].
    pub(crate) fn quiet_ticks(&self) -> u32 {
        self.clock.quiet_ticks()
    }

    pub(crate) fn receive(&mut self, core: &mut Core, from: NodeId, body: Body) -> Option<Role> {
        match body {
            Body::PreVoteReply(reply) => {
                self.votes.record(from, reply.granted);
                self.conclude(core)
            }
            body => receive_while_campaigning(core, from, body),
        }
    }

    fn conclude(&self, core: &mut Core) -> Option<Role> {
        (self.votes.tally(core) == Tally::Won).then(|| go_on(core, Candidate::start))
    }
}

/// The next step of a campaign. Who may not stand for election any more follows: meanwhile it may have heard that it is no voter, by a
/// snapshot or by what was committed.
fn go_on(core: &mut Core, step: impl FnOnce(&mut Core) -> Role) -> Role {
    if core.may_campaign() { step(core) } else { Role::follower(core, None) }
}

impl Candidate {
    /// Enters the next term with a vote for itself, and asks for votes as soon as that is durable.
    pub(crate) fn start(core: &mut Core) -> Role {
        assert!(core.may_campaign(), "node {} must not campaign", core.id());
        core.enter_term(core.term().next(), Some(core.id()));
        core.outbox.event(Event::Campaigning { term: core.term() });
        let request = VoteRequest { last: core.log.last() };
        for to in voters_but_self(core) {
            core.promise(to, Promise::Vote(request));
        }
        let own_vote = core.outbox.latest_write();
        let clock = Clock::start(core.random_timeout());
        Role::Candidate(Self { votes: Votes::default(), clock, own_vote })
    }

    pub(crate) fn tick(&mut self, core: &mut Core) -> Option<Role> {
        self.clock.tick().then(|| go_on(core, PreCandidate::start))
    }

    /// See [`crate::Raft::quiet_ticks`].
    pub(crate) fn quiet_ticks(&self) -> u32 {
        self.clock.quiet_ticks()
    }

    pub(crate) fn persisted(&mut self, core: &mut Core) -> Option<Role> {
        if !core.outbox.is_persisted(self.own_vote) {
            return None;
        }
        self.votes.record(core.id(), true);
        self.conclude(core)
    }

    pub(crate) fn receive(&mut self, core: &mut Core, from: NodeId, body: Body) -> Option<Role> {
        match body {
            // The reply is of this very term: one of a later term made a follower of this node (scenario 4).
            Body::VoteReply(reply) => {
                self.votes.record(from, reply.granted);
                self.conclude(core)
            }
            body => receive_while_campaigning(core, from, body),
        }
    }

    fn conclude(&self, core: &mut Core) -> Option<Role> {
        (self.votes.tally(core) == Tally::Won).then(|| Leader::start(core, self.votes.granted()))
    }
}

/// What a node that campaigns does with messages other than the votes that it waits for.
fn receive_while_campaigning(core: &mut Core, from: NodeId, body: Body) -> Option<Role> {
    match body {
        Body::PreVote(request) => {
            let granted = core.would_vote(request);
            core.send(from, Free::PreVoteReply(VoteReply { granted }));
            None
        }
        // One that has only asked around so far may still vote for another; then it gives that one time.
        Body::Vote(request) => core.answer_vote(from, request).then(|| Role::follower(core, None)),
        // Somebody else was elected in this term.
        body @ (Body::Append(_) | Body::SnapshotOffer(_) | Body::Heartbeat(_) | Body::TimeoutNow) => {
            let mut role = Role::follower(core, Some(from));
            let next = role.receive(core, from, body);
            Some(next.unwrap_or(role))
        }
        Body::PreVoteReply(_)
        | Body::VoteReply(_)
        | Body::AppendReply(_)
        | Body::HeartbeatReply(_)
        | Body::ReadIndex(_)
        | Body::ReadIndexReply(_) => None,
    }
}

fn voters_but_self(core: &Core) -> Vec<NodeId> {
    core.others().into_iter().filter(|id| core.membership().is_voter(*id)).collect()
}

impl Votes {
    fn record(&mut self, from: NodeId, granted: bool) {
        self.0.entry(from).or_insert(granted);
    }

    fn tally(&self, core: &Core) -> Tally {
        tally(core.membership(), |id| self.0.get(&id).copied())
    }

    fn granted(&self) -> Vec<NodeId> {
        self.0.iter().filter(|vote| *vote.1).map(|vote| *vote.0).collect()
    }
}

impl Clock {
    fn start(timeout: u32) -> Self {
        Self { elapsed: 0, timeout }
    }

    /// Counts a tick; whether the time is up.
    fn tick(&mut self) -> bool {
        self.elapsed += 1;
        self.elapsed >= self.timeout
    }

    fn quiet_ticks(&self) -> u32 {
        self.timeout.saturating_sub(self.elapsed + 1)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Input, LogIndex, Membership, NodeId, Raft, Restored, RoleName};

    /// A server that was cut off for long asks as often as it likes.
    #[test]
    fn who_is_answered_by_nobody_asks_for_ever() {
        let config = Config::new(NodeId(1), 7);
        let heartbeat_ticks = config.heartbeat_ticks;
        let memberships = vec![(LogIndex(0), Membership::of_voters([1, 2, 3].map(NodeId)))];
        let mut raft = Raft::new(config, Restored { memberships, ..Restored::default() });
        let mut since_asked = 0;
        for tick in 0..5_000 {
            raft.step(Input::Tick);
            since_asked = if raft.take_actions().is_empty() { since_asked + 1 } else { 0 };
            let asks = raft.status().role == RoleName::PreCandidate;
            assert!(!asks || since_asked <= 2 * heartbeat_ticks, "tick {tick}: it has ceased to ask");
        }
        assert_eq!(raft.status().role, RoleName::PreCandidate);
    }
}
