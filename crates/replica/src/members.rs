//! Who the other servers are, and the few commands that a leader proposes of its own accord.

use std::cmp::Reverse;

use raftmap_raft::{FollowerStatus, Input, NodeId};
use raftmap_state::{Body, Member};

use crate::event::{Effect, Now};
use crate::replica::Replica;

impl Replica {
    /// A server is connected. If the cluster knows another one under that id, it is refused: its disk was wiped, or it
    /// is of another cluster, and what it once acknowledged is gone (STORAGE: Identity).
    pub(crate) fn peer_connected(&mut self, member: Member) {
        // A new connection may be of another life, which counts its forwarded commands from another number.
        self.forward_seen.remove(&member.node_id);
        match self.objection_to(&member) {
            None => {
                self.connected.insert(member.node_id, member);
            }
            Some(reason) => self.effect(Effect::RefusePeer { peer: member.node_id, reason }),
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
                && self.raft.membership().is_voter(follower.id)
        };
        let best =
            || status.followers.iter().filter(ready).max_by_key(|each| (each.matched, Reverse(each.id)));
        if let Some(to) = to.or_else(|| best().map(|best| best.id)) {
            self.raft.step(Input::TransferLeadership { to });
        }
    }

    /// Looks again at everybody, now that the log has recorded somebody.
    pub(crate) fn check_members(&mut self) {
        let own = self.config.member;
        if let Some(reason) = self.objection_to(&own) {
            self.effect(Effect::Stop { reason });
        }
        let refused: Vec<(NodeId, String)> = self
            .connected
            .values()
            .filter_map(|member| Some((member.node_id, self.objection_to(member)?)))
            .collect();
        for (peer, reason) in refused {
            self.connected.remove(&peer);
            self.effect(Effect::RefusePeer { peer, reason });
        }
    }

    fn objection_to(&self, member: &Member) -> Option<String> {
        let own = &self.config.member;
        let Member { node_id, incarnation, founding_hash } = *member;
        if self.view.removed.contains(&node_id) {
            return Some(format!(
                "server {node_id} was removed from the cluster: stop it, and remove its data directory; an id is never used again"
            ));
        }
        if founding_hash != own.founding_hash {
            return Some(format!(
                "server {node_id} was founded with other members than server {}: check what `raftmap init` was told on both",
                own.node_id
            ));
        }
        let recorded = self.view.members.iter().find(|recorded| recorded.node_id == node_id)?;
        (recorded.incarnation != incarnation).then(|| {
            format!(
                "server {node_id} is known to the cluster with another data directory (incarnation {:032x}, now {incarnation:032x}): \
                 its disk was wiped or replaced, and what it had acknowledged is gone; give it a new id",
                recorded.incarnation
            )
        })
    }

    /// What a leader does when nobody asks it to: it records members at first contact, and lets log time pass when
    /// something expires and no other entry carries the time.
    pub(crate) fn housekeep(&mut self, now: Now) {
        let handing_over = self.raft.handing_over_to().is_some();
        if self.own_command.is_some() || self.shutting_down || handing_over {
            return;
        }
        let recorded =
            |member: &&Member| !self.view.members.iter().any(|known| known.node_id == member.node_id);
        let unrecorded = std::iter::once(&self.config.member).chain(self.connected.values()).find(recorded);
        if let Some(member) = unrecorded.copied() {
            return self.propose_own(now, Body::RecordMember(member));
        }
        if let Some(deadline_ms) = self.view.next_deadline_ms
            && self.is_idle()
            && deadline_ms <= self.clock.stamp_ms(now)
        {
            self.propose_own(now, Body::Time);
        }
    }
}
