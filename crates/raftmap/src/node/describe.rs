//! What a node says of its cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use raftmap_log::{FoundingMember, RestoredFrom};
use raftmap_proto::v1;
use raftmap_raft::{FollowerStatus, Membership, NodeId, RoleName};
use raftmap_replica::ReplicaStatus;
use raftmap_state::LEVEL;

use super::{Node, VERSION};
use crate::runtime::memory_bytes;

impl Node {
    /// Where a member answers clients.
    pub(super) fn client_address(&self, id: NodeId) -> Option<String> {
        self.shared.addresses.of(id).map(|member| member.client_address)
    }

    pub(super) fn describe_members(&self, status: &ReplicaStatus) -> v1::MembersResponse {
        let member = |id: NodeId| {
            let known = self.shared.addresses.of(id);
            let (peer_address, client_address) =
                known.map(|known| (known.peer_address, known.client_address)).unwrap_or_default();
            v1::Member {
                id: id.0,
                client_address,
                role: role(&status.membership, id).into(),
                leader: status.raft.leader == Some(id),
                version: if id == status.raft.id { VERSION.to_owned() } else { String::new() },
                peer_address,
            }
        };
        let founder = |founder: &FoundingMember| v1::MemberAddresses {
            id: founder.node.0,
            peer_address: founder.peer_address.clone(),
            client_address: founder.client_address.clone(),
        };
        v1::MembersResponse {
            term: status.raft.term.0,
            members: status.membership.all().into_iter().map(member).collect(),
            membership_index: status.members_index.0,
            restored_from: self.shared.identity.restored_from().map(restored_from).into(),
            cluster_id: Bytes::copy_from_slice(&self.shared.identity.cluster().to_be_bytes()),
            founding_members: self.shared.identity.founding_members().iter().map(founder).collect(),
            ..v1::MembersResponse::default()
        }
    }

    pub(super) fn describe_status(&self, status: &ReplicaStatus) -> v1::StatusResponse {
        // A server that is none yet, or none any more, tells of itself all the same.
        let ids: BTreeSet<NodeId> = status.membership.all().into_iter().chain([status.raft.id]).collect();
        let members = ids.into_iter().map(|id| {
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
        let meters = &self.shared.meters;
        let (writes_answered, reads_answered) = meters.answered();
        v1::MemberStatus {
            elected_by: match raft.role {
                RoleName::Leader => meters.elected_by(raft.term).into_iter().map(|id| id.0).collect(),
                _ => Vec::new(),
            },
            memory_bytes: memory_bytes().unwrap_or_default(),
            log_write_p99_us: meters.log_write_p99_us().unwrap_or_default(),
            writes_answered,
            reads_answered,
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
            quarantined: status.quarantined,
            states_differ: status.states_differ,
            log_base_index: raft.base.index.0,
            feature_level: u32::from(status.level),
            feature_level_understood: u32::from(LEVEL),
            version: VERSION.to_owned(),
            uptime_ms: millis(self.shared.began.elapsed()),
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
            reachable: follower.heard_lately && status.connected.contains(&id),
            last_log_index: follower.matched.0,
            lag: status.raft.last.index.0.saturating_sub(follower.matched.0),
            damaged: follower.damaged,
            needs_snapshot: follower.needs_snapshot,
            ..address
        }
    }

    /// Where a server is, and since when it is not connected.
    fn describe_address(&self, id: NodeId) -> v1::MemberStatus {
        let peers = self.shared.peers.status();
        let away_since = peers.into_iter().find(|peer| peer.id == id).and_then(|peer| peer.away_since);
        v1::MemberStatus {
            id: id.0,
            away_ms: away_since.map_or(0, |since| millis(since.elapsed()).max(1)),
            client_address: self.client_address(id).unwrap_or_default(),
            ..v1::MemberStatus::default()
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn role(membership: &Membership, id: NodeId) -> v1::member::Role {
    if membership.is_voter(id) {
        v1::member::Role::VOTER
    } else if membership.learners.contains(&id) {
        v1::member::Role::LEARNER
    } else {
        v1::member::Role::ROLE_UNSPECIFIED
    }
}

fn restored_from(from: RestoredFrom) -> v1::RestoredFrom {
    v1::RestoredFrom {
        index: from.position.index.0,
        term: from.position.term.0,
        digest: Bytes::copy_from_slice(&from.digest.to_be_bytes()),
    }
}
