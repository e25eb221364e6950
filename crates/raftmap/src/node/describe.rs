//! What a node says of its cluster.

use bytes::Bytes;
use raftmap_proto::v1;
use raftmap_raft::{FollowerStatus, Membership, NodeId, RoleName};
use raftmap_replica::ReplicaStatus;

use super::{Node, VERSION};

impl Node {
    /// Where a member answers clients.
    pub(super) fn client_address(&self, id: NodeId) -> Option<&str> {
        let members = self.shared.identity.founding_members();
        members.iter().find(|member| member.node == id).map(|member| member.client_address.as_str())
    }

    pub(super) fn describe_members(&self, status: &ReplicaStatus) -> v1::MembersResponse {
        let member = |id: NodeId| v1::Member {
            id: id.0,
            client_address: self.client_address(id).unwrap_or_default().to_owned(),
            role: role(&status.membership, id).into(),
            leader: status.raft.leader == Some(id),
            version: if id == status.raft.id { VERSION.to_owned() } else { String::new() },
        };
        v1::MembersResponse {
            term: status.raft.term.0,
            members: status.membership.all().into_iter().map(member).collect(),
            ..v1::MembersResponse::default()
        }
    }

    pub(super) fn describe_status(&self, status: &ReplicaStatus) -> v1::StatusResponse {
        let members = status.membership.all().into_iter().map(|id| {
            let member = if id == status.raft.id {
                self.describe_self(status)
            } else {
                let follower = status.raft.followers.iter().find(|follower| follower.id == id);
                self.describe_other(id, status, follower)
            };
            v1::MemberStatus { role: role(&status.membership, id).into(), ..member }
        });
        v1::StatusResponse {
            request_id: String::new(),
            answered_by: status.raft.id.0,
            members: members.collect(),
        }
    }

    fn describe_self(&self, status: &ReplicaStatus) -> v1::MemberStatus {
        let raft = &status.raft;
        v1::MemberStatus {
            state: match raft.role {
                RoleName::Follower => v1::member_status::State::FOLLOWER,
                RoleName::PreCandidate => v1::member_status::State::PRE_CANDIDATE,
                RoleName::Candidate => v1::member_status::State::CANDIDATE,
                RoleName::Leader => v1::member_status::State::LEADER,
            }
            .into(),
            reachable: true,
            term: raft.term.0,
            last_log_index: raft.durable.0,
            commit_index: raft.commit.0,
            applied_index: raft.applied.0,
            damaged: raft.damaged,
            state_lost: raft.state_lost,
            log_base_index: raft.base.index.0,
            version: VERSION.to_owned(),
            uptime_ms: u64::try_from(self.shared.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            running_digest: Bytes::copy_from_slice(&status.digest.to_be_bytes()),
            ..self.describe_address(raft.id)
        }
    }

    /// Another member, as the leader knows it: nothing, at a server that does not lead.
    fn describe_other(
        &self,
        id: NodeId,
        status: &ReplicaStatus,
        follower: Option<&FollowerStatus>,
    ) -> v1::MemberStatus {
        let address = self.describe_address(id);
        let Some(follower) = follower else {
            return v1::MemberStatus { reachable: status.connected.contains(&id), ..address };
        };
        v1::MemberStatus {
            reachable: follower.active && status.connected.contains(&id),
            last_log_index: follower.matched.0,
            lag: status.raft.last.index.0.saturating_sub(follower.matched.0),
            damaged: follower.damaged,
            needs_snapshot: follower.needs_snapshot,
            ..address
        }
    }

    fn describe_address(&self, id: NodeId) -> v1::MemberStatus {
        v1::MemberStatus {
            id: id.0,
            client_address: self.client_address(id).unwrap_or_default().to_owned(),
            ..v1::MemberStatus::default()
        }
    }
}

fn role(membership: &Membership, id: NodeId) -> v1::member::Role {
    if membership.is_voter(id) { v1::member::Role::VOTER } else { v1::member::Role::LEARNER }
}
