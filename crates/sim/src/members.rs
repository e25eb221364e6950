//! Members that change: a leader is told so, and servers that are none any more end.

use std::collections::BTreeSet;

use raftmap_raft::{Ctx, Membership, NodeId};
use raftmap_replica::{Event, Request, RequestKind};

use crate::oracle::{Checked, Violation, broken};
use crate::plan::MembersChange;
use crate::world::World;

/// Fewer voters there never are, or the budget of damaged disks would be another one.
const VOTERS_MIN: usize = 3;
/// Where the numbers of these requests begin: behind those of all clients.
const FIRST_CTX: u64 = 1 << 60;
const PATIENCE_MS: u64 = 10_000;

impl World {
    /// Tells the leader to change the members, if there is one, and something to change.
    pub(crate) fn change_members(&mut self, change: MembersChange) {
        let Some(id) = self.leader() else { return };
        let Some(membership) = self.membership_at(id) else { return };
        let Membership { mut voters, mut learners, .. } = membership.clone();
        match change {
            MembersChange::AddLearner => {
                let fresh =
                    |server: &NodeId| !membership.all().contains(server) && self.never_was_member(*server);
                learners.extend(self.ids().into_iter().find(fresh));
            }
            MembersChange::Promote => voters.append(&mut learners),
            MembersChange::RemoveVoter(at) if voters.len() > VOTERS_MIN => {
                let gone = voters.iter().copied().nth(at % voters.len());
                voters.retain(|voter| Some(*voter) != gone);
            }
            MembersChange::RemoveVoter(_) => return,
        }
        self.ask_for_members(id, voters, learners);
    }

    fn ask_for_members(&mut self, id: NodeId, voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId>) {
        self.count("changes of members asked for");
        self.changes += 1;
        let ctx = Ctx(FIRST_CTX + self.changes);
        let now = self.now;
        let server = self.server(id);
        let deadline_ms = server.clock.now(now).monotonic_ms + PATIENCE_MS;
        if let Some(running) = &mut server.running {
            running.requests.insert(ctx, u32::MAX);
        }
        let kind = RequestKind::ChangeMembers { voters, learners };
        self.tell(id, Event::Request(Request { ctx, deadline_ms, kind }));
    }

    fn membership_at(&self, id: NodeId) -> Option<Membership> {
        Some(self.servers[&id].running.as_ref()?.replica.status().membership)
    }

    /// Whether nobody has known it as a member so far.
    fn never_was_member(&self, id: NodeId) -> bool {
        id.0 > self.plan.voters && !self.oracle.was_member(id)
    }

    /// The membership of the leader, once no change is under way.
    pub(crate) fn settled_membership(&self) -> Option<Membership> {
        let membership = self.membership_at(self.leader()?)?;
        (!membership.is_joint()).then_some(membership)
    }

    /// A server refuses another one: rightly, if that was removed.
    pub(crate) fn refused(&mut self, id: NodeId, peer: NodeId, reason: &str) -> Checked {
        if !self.knows_removed(id, peer) {
            return broken!("server {id} refuses server {peer}, and both are who they were: {reason}");
        }
        self.disconnect(id, peer);
        Ok(())
    }

    /// A server ends for good: rightly, if it was removed.
    pub(crate) fn expelled(&mut self, id: NodeId, reason: &str) -> Checked {
        if !self.knows_removed(id, id) {
            return broken!("server {id} is expelled: {reason}");
        }
        self.count("servers removed");
        self.trace.say(self.now, || format!("server {id} ends for good: {reason}"));
        self.server(id).retired = true;
        self.go_down(id, false, false);
        Ok(())
    }

    fn knows_removed(&self, id: NodeId, removed: NodeId) -> bool {
        let running = self.servers[&id].running.as_ref();
        running.is_some_and(|running| running.worker.view().removed.contains(&removed))
    }
}
