//! Whether the servers of a local cluster are at rest and hold the same.

use std::time::Duration;

use raftmap_client::{Client, MemberStatus};
use raftmap_proto::v1::member_status::State;
use raftmap_raft::{LogIndex, NodeId};
use tokio::time::{Instant, sleep};

use super::process::PATIENCE;
use super::{CLIENT, LocalCluster, LocalClusterError, POLL};

/// How long one question for a status may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// What servers agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The server that leads.
    pub leader: NodeId,
    /// The last entry of every log, applied everywhere.
    pub applied: LogIndex,
}

impl LocalCluster {
    /// What a server says of itself, if it answers.
    pub async fn status(&self, id: NodeId) -> Option<MemberStatus> {
        let member = &self.plan.members[self.place(id).ok()?];
        let builder = Client::builder([member.client_listen.to_string()], self.tls(CLIENT).ok()?);
        let client = builder.discover(false).timeout(STATUS_TIMEOUT).connect().await.ok()?;
        let status = client.status().await.ok()?;
        status.members.into_iter().find(|member| member.id == id.0)
    }

    /// Waits until these servers, at rest, are one: a leader among them, all in its term, at the same applied index with
    /// the same running digest, and none damaged.
    ///
    /// # Errors
    /// If they are not after a minute.
    pub async fn agree(&self, ids: &[NodeId]) -> Result<Agreement, LocalClusterError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut statuses = Vec::new();
            for id in ids {
                statuses.extend(self.status(*id).await);
            }
            if statuses.len() == ids.len()
                && let Some(agreement) = agreement(&statuses)
            {
                return Ok(agreement);
            }
            if Instant::now() > deadline {
                let said = statuses.iter().map(|status| format!("\n{status:?}")).collect();
                return Err(LocalClusterError::NoAgreement { said });
            }
            sleep(POLL).await;
        }
    }
}

fn agreement(statuses: &[MemberStatus]) -> Option<Agreement> {
    let stands = |status: &MemberStatus| {
        let digest = status.running_digest.clone();
        (status.term, status.last_log_index, status.applied_index, status.damaged, digest)
    };
    let leader = statuses.iter().find(|status| status.state == State::LEADER)?;
    let at_rest = !leader.damaged && leader.applied_index == leader.last_log_index;
    let same = statuses.iter().all(|status| stands(status) == stands(leader));
    let agreement = Agreement { leader: NodeId(leader.id), applied: LogIndex(leader.applied_index) };
    (at_rest && same).then_some(agreement)
}
