//! Members that change: a leader is told so, and servers that are none any more end.

use raftmap_raft::{Ctx, Membership, NodeId};
use raftmap_replica::{Event, Request, RequestKind};
use raftmap_state::Introduction;

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
        let voter = |at: usize| membership.voters.iter().copied().nth(at % membership.voters.len());
        let kind = match change {
            MembersChange::Add { replaces } => {
                let fresh =
                    |server: &NodeId| !membership.all().contains(server) && self.never_was_member(*server);
                let Some(node_id) = self.ids().into_iter().find(fresh) else { return };
                RequestKind::AddMember(Introduction {
                    node_id,
                    peer_address: format!("server-{node_id}:7001"),
                    client_address: format!("server-{node_id}:7000"),
                    replaces: replaces.and_then(voter),
                })
            }
            MembersChange::Remove(at) if membership.voters.len() > VOTERS_MIN => {
                let Some(gone) = voter(at) else { return };
                RequestKind::RemoveMember(gone)
            }
            MembersChange::Remove(_) => return,
        };
        self.ask_for_members(id, kind);
    }

    fn ask_for_members(&mut self, id: NodeId, kind: RequestKind) {
        self.count("changes of members asked for");
        self.changes += 1;
        let ctx = Ctx(FIRST_CTX + self.changes);
        let now = self.now;
        let server = self.server(id);
        let deadline_ms = server.clock.now(now).monotonic_ms + PATIENCE_MS;
        if let Some(running) = &mut server.running {
            running.requests.insert(ctx, u32::MAX);
        }
        self.tell(id, Event::Request(Request { ctx, deadline_ms, kind, trace: None }));
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

    /// A server refuses another one: rightly, if that was removed, or if its program is too old.
    pub(crate) fn refused(&mut self, id: NodeId, peer: NodeId, reason: &str, removed: bool) -> Checked {
        if !removed && self.is_too_old(peer) {
            self.count_repair("servers refused as too old");
            self.disconnect(id, peer);
            return Ok(());
        }
        if !removed || !self.knows_removed(id, peer) {
            return broken!("server {id} refuses server {peer}, and both are who they were: {reason}");
        }
        self.disconnect(id, peer);
        self.told_removed.insert(peer);
        let reason = reason.to_owned();
        self.tell(peer, Event::Removed { reason });
        Ok(())
    }

    /// A server ends for good: rightly, if it was removed.
    pub(crate) fn expelled(&mut self, id: NodeId, reason: &str) -> Checked {
        if !self.told_removed.contains(&id) && !self.knows_removed(id, id) {
            return broken!("server {id} is expelled: {reason}");
        }
        self.retire(id, reason);
        Ok(())
    }

    fn retire(&mut self, id: NodeId, reason: &str) {
        if !self.servers[&id].is_up() {
            return;
        }
        self.count_repair("servers removed");
        self.trace.say(self.now, || format!("server {id} ends for good: {reason}"));
        self.server(id).retired = true;
        self.go_down(id, false, false);
    }

    fn knows_removed(&self, id: NodeId, removed: NodeId) -> bool {
        let running = self.servers[&id].running.as_ref();
        running.is_some_and(|running| running.worker.view().removed.contains(&removed))
    }
}
