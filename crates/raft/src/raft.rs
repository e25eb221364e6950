//! The node: one role at a time over one core.

use std::collections::BTreeSet;

use crate::candidate::{Candidate, PreCandidate};
use crate::config::{Config, Restored};
use crate::core::Core;
use crate::entry::{Entry, LogPosition};
use crate::follower::Follower;
use crate::ids::{Ctx, LogIndex, NodeId, Term};
use crate::invariants::Witness;
use crate::io::{Action, ChangeRefusal, Event, FailReason, FetchPurpose, Input, Outcome, TransferFailure};
use crate::leader::Leader;
use crate::membership::Membership;
use crate::message::{Body, HeartbeatReply, Message};
use crate::outbox::Free;
use crate::status::{FollowerStatus, RoleName, Status};

/// One member of a Raft group. [`Self::step`] tells it what happened, [`Self::take_actions`] asks what is to be done.
/// Several steps may be taken before the actions: proposals that come together then travel together.
///
/// # Panics
/// When one of Raft's invariants is broken: by a defect here, or by a disk or a member that does not keep its word.
/// Whoever runs it must let the node end then.
#[derive(Debug)]
pub struct Raft {
    core: Core,
    role: Role,
    witness: Witness,
}

/// What a node is at the moment. What it may do is in the methods of the type of its role. A role's method answers the
/// next role where it ends.
#[derive(Debug)]
pub(crate) enum Role {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Leader),
}

impl Raft {
    /// A node that starts, for the first time or again, as a follower.
    pub fn new(config: Config, restored: Restored) -> Self {
        let mut core = Core::new(config, restored);
        let role = Role::Follower(Follower::starting(&mut core));
        let witness = Witness::new(&core);
        Self { core, role, witness }
    }

    /// Takes in what happened.
    pub fn step(&mut self, input: Input) {
        let next = match input {
            Input::Tick => {
                self.core.want_applied(self.core.commit());
                self.role.tick(&mut self.core)
            }
            Input::Receive { from, message } => self.receive(from, message),
            Input::Persisted(write) => {
                self.core.persisted(write);
                self.role.persisted(&mut self.core)
            }
            Input::Applied(index) => {
                self.core.applied_to(index);
                None
            }
            Input::ChangeMembers { ctx, voters, learners } => {
                match &mut self.role {
                    Role::Leader(leader) => leader.change_members(&mut self.core, ctx, voters, learners),
                    _ => self.core.fail(
                        ctx,
                        FailReason::NotLeader { leader: self.leader() },
                        Outcome::NotApplied,
                    ),
                }
                None
            }
            Input::Compact { to, durable } => {
                self.core.compact(to, durable);
                if let Role::Leader(leader) = &mut self.role {
                    leader.compacted(&self.core);
                }
                None
            }
            Input::SnapshotReady(snapshot) => {
                // Its sender may be in a term that this node has not heard of.
                let follows = (snapshot.position.term > self.core.term()).then(|| {
                    self.core.enter_term(snapshot.position.term, None);
                    Role::follower(&mut self.core, None)
                });
                self.core.snapshot_ready(snapshot);
                follows
            }
            Input::SnapshotFailed => {
                self.core.snapshot_failed();
                None
            }
            Input::DistrustState => {
                self.core.distrust_state();
                // It must not win any more.
                let stands = matches!(self.role, Role::PreCandidate(_) | Role::Candidate(_));
                stands.then(|| Role::follower(&mut self.core, None))
            }
            Input::Fetched { purpose, entries } => self.fetched(purpose, entries),
            Input::Propose { ctx, command } => {
                match &mut self.role {
                    Role::Leader(leader) => leader.propose(&mut self.core, ctx, command),
                    _ => self.core.fail(
                        ctx,
                        FailReason::NotLeader { leader: self.leader() },
                        Outcome::NotApplied,
                    ),
                }
                None
            }
            Input::Read { ctx } => self.read(ctx),
            Input::Campaign => match &self.role {
                Role::Leader(_) => None,
                _ => self.core.may_campaign().then(|| PreCandidate::start(&mut self.core)),
            },
            Input::TransferLeadership { to } => {
                match &mut self.role {
                    Role::Leader(leader) => leader.transfer(&mut self.core, to),
                    _ => self
                        .core
                        .outbox
                        .event(Event::TransferFailed { to, reason: TransferFailure::NotLeader }),
                }
                None
            }
            Input::PeerLost(peer) => {
                if let Role::Follower(follower) = &mut self.role {
                    follower.peer_lost(peer);
                }
                None
            }
        };
        self.become_role(next);
    }

    /// How many of the next ticks only count time, if nothing else happens before. A driver may sleep that long and hand
    /// them in together: an idle node is hardly ever awake.
    pub fn quiet_ticks(&self) -> u32 {
        self.role.quiet_ticks(&self.core)
    }

    /// What is to be done, in order, for everything that happened since it was asked last.
    pub fn take_actions(&mut self) -> Vec<Action> {
        self.role.flush(&mut self.core);
        self.core.flush_snapshot();
        self.core.flush_apply();
        self.core.trim_cache();
        self.witness.check(&self.core, &self.role);
        self.core.outbox.take(self.core.term())
    }

    /// Rules for all servers (figure 2): a later term makes a follower; an earlier one is answered so that its sender
    /// learns of this one.
    fn receive(&mut self, from: NodeId, message: Message) -> Option<Role> {
        let Message { term, body } = message;
        if term < self.core.term() {
            self.refuse(from, &body);
            return None;
        }
        if term > self.core.term() {
            self.core.enter_term(term, None);
            let follower = Role::follower(&mut self.core, None);
            self.become_role(Some(follower));
        }
        self.role.receive(&mut self.core, from, body)
    }

    /// Lets the sender of a message of an earlier term know of this one. The answer says nothing else, and above all
    /// repeats no round: its sender may come to lead this very term, and its rounds begin anew (scenario 42).
    fn refuse(&mut self, from: NodeId, body: &Body) {
        if let Body::PreVote(_)
        | Body::Vote(_)
        | Body::Append(_)
        | Body::SnapshotOffer(_)
        | Body::Heartbeat(_) = body
        {
            let damage = self.core.damage();
            self.core.send(from, Free::HeartbeatReply(HeartbeatReply { round: 0, damage }));
        }
    }

    fn fetched(&mut self, purpose: FetchPurpose, entries: Vec<Entry>) -> Option<Role> {
        match (purpose, &mut self.role) {
            (FetchPurpose::Apply, _) => self.core.apply_fetched(entries),
            (FetchPurpose::Send { to, term }, Role::Leader(leader)) => {
                leader.fetched(&mut self.core, to, term, entries);
            }
            (FetchPurpose::Send { .. }, _) => {}
        }
        None
    }

    fn read(&mut self, ctx: Ctx) -> Option<Role> {
        match &mut self.role {
            Role::Leader(leader) => leader.read(&mut self.core, ctx),
            Role::Follower(follower) => follower.read(&mut self.core, ctx),
            Role::PreCandidate(_) | Role::Candidate(_) => {
                self.core.fail_read(ctx, FailReason::NotLeader { leader: None });
            }
        }
        None
    }

    /// Takes the next role, after the last one ended what waited with it: no request is left behind (scenario 46).
    fn become_role(&mut self, next: Option<Role>) {
        if let Some(next) = next {
            match std::mem::replace(&mut self.role, next) {
                Role::Leader(leader) => leader.leave(&mut self.core),
                Role::Follower(follower) => follower.leave(&mut self.core),
                Role::PreCandidate(_) | Role::Candidate(_) => {}
            }
        }
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.core.id()
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.core.term()
    }

    /// Who leads this term, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(_) => Some(self.core.id()),
            Role::Follower(follower) => follower.leader(),
            Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    /// At a leader: to whom it is handing over. Meanwhile proposals fail.
    pub fn handing_over_to(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.handing_over_to(),
            _ => None,
        }
    }

    /// Whether this node leads its term, as far as it knows.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Whether [`Input::ChangeMembers`] to this would be taken now.
    ///
    /// # Errors
    /// Why not. A node that does not lead is [`ChangeRefusal::Busy`].
    pub fn check_change(
        &self,
        voters: &BTreeSet<NodeId>,
        learners: &BTreeSet<NodeId>,
    ) -> Result<(), ChangeRefusal> {
        match &self.role {
            Role::Leader(leader) => leader.check_change(&self.core, voters, learners),
            _ => Err(ChangeRefusal::Busy),
        }
    }

    /// The index of the entry that put it in force; 0: it is that of the founding, or of where the log begins.
    pub fn membership_index(&self) -> LogIndex {
        self.core.membership_index()
    }

    /// The membership in force.
    pub fn membership(&self) -> &Membership {
        self.core.membership()
    }

    /// The last index that is known to be committed.
    pub fn commit(&self) -> LogIndex {
        self.core.commit()
    }

    /// The last entry that is in the state machine alone, and not in the log any more; all zero if the log begins with the
    /// first entry.
    pub fn base(&self) -> LogPosition {
        self.core.log.base()
    }

    /// Whether the state machine is lost, and a snapshot of another node is to take its place. Until then this node applies
    /// nothing, and does not stand for election.
    pub fn is_state_lost(&self) -> bool {
        self.core.is_state_lost()
    }

    /// Whether the state machine was found to be wrong, and nothing has taken its place yet.
    pub fn is_state_distrusted(&self) -> bool {
        self.core.is_state_distrusted()
    }

    /// The end of the log, on disk or not.
    pub fn last_index(&self) -> LogIndex {
        self.core.log.last_index()
    }

    /// The term of the entry at `index`; 0 at index 0; nothing behind the end of the log and before [`Self::base`].
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.core.log.term_at(index)
    }

    /// How the node stands.
    pub fn status(&self) -> Status {
        let core = &self.core;
        let followers = match &self.role {
            Role::Leader(leader) => leader.progress().iter().map(FollowerStatus::of).collect(),
            _ => Vec::new(),
        };
        Status {
            id: core.id(),
            role: self.role.name(),
            term: core.term(),
            vote: core.vote(),
            leader: self.leader(),
            base: core.log.base(),
            last: core.log.last(),
            durable: core.durable(),
            commit: core.commit(),
            applied: core.applied(),
            damaged: core.is_damaged(),
            state_lost: core.is_state_lost(),
            state_distrusted: core.is_state_distrusted(),
            handing_over_to: self.handing_over_to(),
            followers,
        }
    }
}

impl Role {
    pub(crate) fn follower(core: &mut Core, leader: Option<NodeId>) -> Self {
        Self::Follower(Follower::new(core, leader))
    }

    fn tick(&mut self, core: &mut Core) -> Option<Role> {
        match self {
            Self::Follower(role) => role.tick(core),
            Self::PreCandidate(role) => role.tick(core),
            Self::Candidate(role) => role.tick(core),
            Self::Leader(role) => role.tick(core),
        }
    }

    fn quiet_ticks(&self, core: &Core) -> u32 {
        match self {
            Self::Follower(role) => role.quiet_ticks(core),
            Self::PreCandidate(role) => role.quiet_ticks(),
            Self::Candidate(role) => role.quiet_ticks(),
            Self::Leader(role) => role.quiet_ticks(core),
        }
    }

    pub(crate) fn receive(&mut self, core: &mut Core, from: NodeId, body: Body) -> Option<Role> {
        match self {
            Self::Follower(role) => role.receive(core, from, body),
            Self::PreCandidate(role) => role.receive(core, from, body),
            Self::Candidate(role) => role.receive(core, from, body),
            Self::Leader(role) => role.receive(core, from, body),
        }
    }

    fn persisted(&mut self, core: &mut Core) -> Option<Role> {
        match self {
            Self::Follower(role) => role.persisted(core),
            Self::PreCandidate(_) => {}
            Self::Candidate(role) => return role.persisted(core),
            Self::Leader(role) => role.persisted(core),
        }
        None
    }

    fn flush(&mut self, core: &mut Core) {
        match self {
            Self::Follower(role) => return role.flush(core),
            Self::PreCandidate(_) | Self::Candidate(_) => {}
            Self::Leader(role) => role.flush(core),
        }
        // It is about to answer clients, or does already.
        core.want_applied(core.commit());
    }

    pub(crate) fn name(&self) -> RoleName {
        match self {
            Self::Follower(_) => RoleName::Follower,
            Self::PreCandidate(_) => RoleName::PreCandidate,
            Self::Candidate(_) => RoleName::Candidate,
            Self::Leader(_) => RoleName::Leader,
        }
    }
}
