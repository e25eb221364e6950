//! Who the other servers are, and the few commands that a leader proposes of its own accord.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use raftmap_raft::{ChangeRefusal, Ctx, FollowerStatus, Input, Membership, NodeId};
use raftmap_state::{Answer, Body, Introduction, Member};

use crate::event::{Effect, Now};
use crate::failure::{Failure, Reason};
use crate::levels::Connected;
use crate::replica::Replica;
use crate::requests::Stage;

/// Why a server must not take part.
pub(crate) struct Objection {
    /// For the operators of both sides.
    pub(crate) reason: String,
    /// It was removed: that is for ever.
    pub(crate) removed: bool,
}

impl Replica {
    /// A server is connected. If the cluster knows another one under that id, it is refused: its disk was wiped, or it
    /// is of another cluster, and what it once acknowledged is gone (STORAGE: Identity). So is one whose program is too old.
    pub(crate) fn peer_connected(&mut self, peer: Connected) {
        let id = peer.member.node_id;
        // A new connection may be of another life, which counts its forwarded commands from another number.
        self.forward_seen.remove(&id);
        self.forget_digests_of(id);
        match self.objection_to(&peer) {
            None => {
                self.connected.insert(id, peer);
            }
            Some(objection) => self.refuse_peer(id, objection),
        }
    }

    pub(crate) fn peer_lost(&mut self, peer: NodeId) {
        self.connected.remove(&peer);
        self.clock.lost(peer);
        self.raft.step(Input::PeerLost(peer));
        if self.raft.leader() == Some(peer) {
            self.fail_forwarded_elsewhere(None);
        }
    }

    /// Lets `to` lead instead of this server, or whoever is connected and has most of the log.
    pub(crate) fn hand_over(&mut self, to: Option<NodeId>) {
        let status = self.raft.status();
        let ready = |follower: &&FollowerStatus| {
            !follower.damaged
                && self.connected.contains_key(&follower.id)
                && self.may_take_over(follower.id)
                && self.raft.membership().is_voter(follower.id)
        };
        let best =
            || status.followers.iter().filter(ready).max_by_key(|each| (each.matched, Reverse(each.id)));
        if let Some(to) = to.or_else(|| best().map(|best| best.id)) {
            self.raft.step(Input::TransferLeadership { to });
        }
    }

    /// Looks again at everybody, now that the log has recorded somebody, or somebody may have handed over. A leader that was removed
    /// takes part until another one leads: it is to tell the others, and to hand over (dissertation, 4.2.2).
    pub(crate) fn check_members(&mut self) {
        let leads = |id| self.raft.leader() == Some(id);
        let own = Connected { member: self.config.member, level: self.config.level };
        let own_objection =
            self.objection_to(&own).filter(|objection| !(objection.removed && leads(self.raft.id())));
        let refused: Vec<(NodeId, Objection)> = self
            .connected
            .values()
            .filter_map(|peer| Some((peer.member.node_id, self.objection_to(peer)?)))
            .filter(|(peer, objection)| !(objection.removed && leads(*peer)))
            .collect();
        if let Some(Objection { reason, .. }) = own_objection {
            self.effect(Effect::Stop { reason });
        }
        for (peer, objection) in refused {
            self.refuse_peer(peer, objection);
        }
    }

    /// Whoever was removed and led until now goes.
    pub(crate) fn see_off_removed(&mut self) {
        let removed = &self.view.removed;
        if removed.contains(&self.raft.id()) || self.connected.keys().any(|id| removed.contains(id)) {
            self.check_members();
        }
    }

    pub(crate) fn refuse_peer(&mut self, peer: NodeId, Objection { reason, removed }: Objection) {
        self.connected.remove(&peer);
        self.effect(Effect::RefusePeer { peer, reason, removed });
    }

    /// Says where servers are, as far as the log has told.
    pub(crate) fn locate(&mut self) {
        let (introductions, removed) = (self.view.introductions.clone(), self.view.removed.clone());
        self.effect(Effect::Locate { introductions, removed, index: self.view.members_index });
    }

    /// Takes a server in as a learner, or says where a member is now. What is said of it comes first in the log: whoever hears
    /// that it is a member knows where it is.
    pub(crate) fn add_member(&mut self, now: Now, ctx: Ctx, mut introduction: Introduction) {
        let Membership { voters, mut learners, .. } = self.raft.membership().clone();
        let (id, replaces) = (introduction.node_id, introduction.replaces);
        let votes = voters.contains(&id);
        let refusal = match replaces {
            _ if !self.raft.is_leader() => Some(self.no_leader()),
            _ if self.view.removed.contains(&id) => Some(Reason::MemberRemoved { id }),
            // An earlier attempt may have done it.
            Some(gone) if votes && self.view.removed.contains(&gone) => None,
            Some(_) if votes => Some(Reason::VotesAlready { id }),
            Some(gone) if !voters.contains(&gone) => Some(Reason::NotAMember { id: gone }),
            _ => None,
        };
        if let Some(reason) = refusal {
            return self.respond(ctx, Err(Failure::not_applied(reason, self.raft.leader())));
        }
        if votes || learners.contains(&id) {
            // Who only moves still takes the place that it was to take.
            let known = self.view.introductions.iter().find(|said| said.node_id == id);
            introduction.replaces = replaces.or(known.and_then(|said| said.replaces));
            return self.propose(now, ctx, Body::IntroduceMember(introduction), None);
        }
        learners.insert(id);
        if let Err(refusal) = self.check_change(&voters, &learners) {
            return self.refuse_change(ctx, refusal);
        }
        let before = self.raft.last_index();
        self.propose_own(now, Body::IntroduceMember(introduction));
        if self.raft.last_index() == before {
            // There is no room in the log: it has room in a moment.
            return self.refuse_change(ctx, ChangeRefusal::Busy);
        }
        self.change_members(ctx, voters, learners);
    }

    pub(crate) fn remove_member(&mut self, ctx: Ctx, id: NodeId) {
        let Membership { mut voters, mut learners, .. } = self.raft.membership().clone();
        let reason = match voters.remove(&id) || learners.remove(&id) {
            _ if !self.raft.is_leader() => self.no_leader(),
            true => return self.change_members(ctx, voters, learners),
            // An earlier attempt may have done it.
            false if self.view.removed.contains(&id) => return self.respond(ctx, Ok(Answer::Done)),
            false => Reason::NotAMember { id },
        };
        self.respond(ctx, Err(Failure::not_applied(reason, self.raft.leader())));
    }

    fn change_members(&mut self, ctx: Ctx, voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId>) {
        match self.check_change(&voters, &learners) {
            Err(refusal) => self.refuse_change(ctx, refusal),
            Ok(()) => {
                self.requests.set_stage(ctx, Stage::Proposed);
                self.raft.step(Input::ChangeMembers { ctx, voters, learners });
            }
        }
    }

    fn refuse_change(&mut self, ctx: Ctx, refusal: ChangeRefusal) {
        let reason = Reason::Members(refusal);
        self.respond(ctx, Err(Failure::not_applied(reason, self.raft.leader())));
    }

    fn check_change(
        &self,
        voters: &BTreeSet<NodeId>,
        learners: &BTreeSet<NodeId>,
    ) -> Result<(), ChangeRefusal> {
        // The core knows who was silent for a while, this one who is not connected now.
        let here = |id: &&NodeId| **id == self.raft.id() || self.connected.contains_key(*id);
        let fit = voters.iter().filter(here).count();
        if 2 * fit <= voters.len() && !voters.is_empty() {
            return Err(ChangeRefusal::NoQuorum { fit, voters: voters.len() });
        }
        self.raft.check_change(voters, learners)
    }

    /// Voters and learners once those learners vote that have caught up, each in the place of the one that it replaces.
    fn promotion(&self) -> Option<(BTreeSet<NodeId>, BTreeSet<NodeId>)> {
        let Membership { mut voters, voters_outgoing, mut learners } = self.raft.membership().clone();
        if learners.is_empty() || !voters_outgoing.is_empty() {
            return None;
        }
        let status = self.raft.status();
        let caught_up = |follower: &&FollowerStatus| {
            let lag = status.last.index.0.saturating_sub(follower.matched.0);
            let fit = follower.active && !follower.damaged && !follower.needs_snapshot;
            let has_come = follower.matched >= self.raft.membership_index();
            let connected = self.connected.contains_key(&follower.id);
            fit && has_come && connected && lag <= self.config.raft.max_promotion_lag
        };
        let before = learners.len();
        for FollowerStatus { id, .. } in status.followers.iter().filter(caught_up) {
            if learners.remove(id) {
                voters.insert(*id);
                let introduction = self.view.introductions.iter().find(|said| said.node_id == *id);
                if let Some(replaced) = introduction.and_then(|said| said.replaces) {
                    voters.remove(&replaced);
                }
            }
        }
        (learners.len() < before).then_some((voters, learners))
    }

    fn objection_to(&self, peer: &Connected) -> Option<Objection> {
        let own = &self.config.member;
        let Member { node_id, incarnation, founding_hash } = peer.member;
        let objection = |reason| Some(Objection { reason, removed: false });
        // First: the ids of another founding are other servers.
        if founding_hash != own.founding_hash {
            return objection(format!(
                "server {node_id} was founded with other members than server {}, or restored from another backup: check what \
                 `raftmap init` or `raftmap restore` was told on both",
                own.node_id
            ));
        }
        if self.view.removed.contains(&node_id) {
            let reason = format!(
                "server {node_id} was removed from the cluster, and its id is never used again: its data directory may go"
            );
            return Some(Objection { reason, removed: true });
        }
        let recorded = self.view.members.iter().find(|recorded| recorded.node_id == node_id);
        let Some(recorded) = recorded.filter(|recorded| recorded.incarnation != incarnation) else {
            return self.objection_to_level(node_id, peer.level, self.view.level);
        };
        objection(format!(
            "server {node_id} is known to the cluster with another data directory (incarnation {:032x}, now {incarnation:032x}): \
             its disk was wiped or replaced, and what it had acknowledged is gone; give it a new id",
            recorded.incarnation
        ))
    }

    /// What a leader does when nobody asks it to: it records members at first contact, makes learners that have caught up
    /// voters, raises the feature level when all members understand a higher one, and lets log time pass when something expires
    /// and no other entry carries the time. One thing at a time.
    pub(crate) fn housekeep(&mut self, now: Now) {
        let handing_over = self.raft.handing_over_to().is_some();
        if self.own_command.is_some() || self.shutting_down || handing_over || self.repair.lost {
            return;
        }
        // Also while states are in dispute: it may settle that.
        let stamp_ms = self.clock.stamp_ms(now);
        if self.is_scan_due(now, stamp_ms) {
            self.own_command = Some(self.propose_own(now, Body::Scan));
            return;
        }
        if self.check_state().is_err() {
            return;
        }
        let recorded =
            |member: &&Member| !self.view.members.iter().any(|known| known.node_id == member.node_id);
        let members = self.raft.membership().all();
        let connected = self.connected.values().map(|peer| &peer.member);
        let connected = connected.filter(|member| members.contains(&member.node_id));
        let unrecorded = std::iter::once(&self.config.member).chain(connected).find(recorded);
        if let Some(member) = unrecorded.copied() {
            self.own_command = Some(self.propose_own(now, Body::RecordMember(member)));
            return;
        }
        if let Some((voters, learners)) = self.promotion() {
            let ctx = self.own_request(now);
            self.own_command = Some(ctx);
            return self.change_members(ctx, voters, learners);
        }
        if let Some(level) = self.level_to_raise() {
            self.own_command = Some(self.propose_own(now, Body::RaiseLevel(level)));
            return;
        }
        if let Some(deadline_ms) = self.view.next_deadline_ms
            && self.is_idle()
            && deadline_ms <= stamp_ms
        {
            self.own_command = Some(self.propose_own(now, Body::Time));
        }
    }
}
