//! How a cluster is, as its own servers tell it: each of them is asked, and what they say is put together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use raftmap_client::{Client, MemberStatus, Security, SetupError, StatusResponse};
use raftmap_proto::v1::member_status::State;
use raftmap_raft::NodeId;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// What the servers of a cluster say.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// The server that leads: of those that say so, the one of the latest term.
    pub leader: Option<NodeId>,
    /// The latest term that a server knows of; 0 if none answered.
    pub term: u64,
    /// The members, by id.
    pub members: Vec<MemberView>,
    /// Addresses that did not answer and are of no known member, and why.
    pub silent: Vec<(String, String)>,
}

impl ClusterView {
    /// The term of which the leader leads. Another server may know of a later one already; without a leader it is that.
    pub fn leader_term(&self) -> u64 {
        let leader = self.members.iter().find(|member| Some(member.id) == self.leader);
        leader.and_then(|leader| leader.own.as_ref()).map_or(self.term, |own| own.term)
    }
}

/// What is known of one member.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// Its id.
    pub id: NodeId,
    /// Where it answers clients (`host:port`).
    pub client_address: String,
    /// What it says of itself; `None`: it did not answer.
    pub own: Option<MemberStatus>,
    /// Why it did not answer, if it was asked.
    pub silence: Option<String>,
    /// What the leader knows of it; `None`: there is no leader, or it is the leader.
    pub by_leader: Option<MemberStatus>,
    /// Who has had no connection to it for how long, in milliseconds.
    pub away: BTreeMap<NodeId, u64>,
}

impl MemberView {
    /// A member of which nothing is known but where it is.
    pub fn unknown(id: NodeId, client_address: String) -> Self {
        Self { id, client_address, own: None, silence: None, by_leader: None, away: BTreeMap::new() }
    }

    /// The last entry that is durable on it, as it says itself, or else as the leader knows.
    pub fn last_log_index(&self) -> Option<u64> {
        self.own.as_ref().or(self.by_leader.as_ref()).map(|status| status.last_log_index)
    }

    /// Whether its disk lost something that it may have acknowledged.
    pub fn damaged(&self) -> bool {
        self.own.iter().chain(&self.by_leader).any(|status| status.damaged)
    }

    /// Whether it says that it leads.
    pub fn says_leader(&self) -> bool {
        self.own.as_ref().is_some_and(leads)
    }
}

/// Asks the servers at `endpoints`, then those that they name, each for at most `timeout`.
pub async fn ask(endpoints: &[String], security: &Security, timeout: Duration) -> ClusterView {
    let mut asked: Vec<String> = Vec::new();
    let mut answers = Vec::new();
    let mut silent = Vec::new();
    let mut next = endpoints.to_vec();
    // Two rounds: every member knows the addresses of all.
    for _ in 0..2 {
        let round = join_all(next.iter().map(|endpoint| ask_one(endpoint, security, timeout))).await;
        for (endpoint, result) in next.iter().zip(round) {
            match result {
                Ok(answer) => answers.push(answer),
                Err(reason) => silent.push((endpoint.clone(), reason)),
            }
        }
        asked.append(&mut next);
        next = unasked(&answers, &asked);
    }
    put_together(&answers, silent)
}

/// A cluster that is watched: each server is asked again and again, over a connection that stays, without waiting for the others. It ends
/// when this is dropped.
pub struct Watch {
    security: Security,
    every: Duration,
    said: Arc<Mutex<Said>>,
    tasks: JoinSet<()>,
    watched: Vec<String>,
}

/// The last word of each server, by the address that it is asked at.
type Said = BTreeMap<String, Result<StatusResponse, String>>;

impl Watch {
    /// Watches the servers at `endpoints`, each of which is asked once in `every`. To be called within a runtime.
    pub fn start(endpoints: &[String], security: Security, every: Duration) -> Self {
        let mut this =
            Self { security, every, said: Arc::default(), tasks: JoinSet::new(), watched: Vec::new() };
        endpoints.iter().for_each(|endpoint| this.watch(endpoint.clone()));
        this
    }

    /// Watches one more server.
    pub fn watch(&mut self, endpoint: String) {
        if self.watched.contains(&endpoint) {
            return;
        }
        self.watched.push(endpoint.clone());
        let (security, every, said) = (self.security.clone(), self.every, Arc::clone(&self.said));
        self.tasks.spawn(async move {
            let mut client = None;
            let mut turns = tokio::time::interval(every);
            // One that was away is not asked all that it missed.
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                turns.tick().await;
                let answer = ask_again(&mut client, &endpoint, &security).await;
                locked(&said).insert(endpoint.clone(), answer);
            }
        });
    }

    /// What they said last. Members that they name are watched from then on.
    pub fn view(&mut self) -> ClusterView {
        let said = locked(&self.said).clone();
        let answers: Vec<_> = said.values().flatten().cloned().collect();
        let failed = |(endpoint, said): (String, Result<_, String>)| Some((endpoint, said.err()?));
        let silent = said.into_iter().filter_map(failed).collect();
        for address in unasked(&answers, &self.watched) {
            self.watch(address);
        }
        put_together(&answers, silent)
    }
}

/// How long a server that is watched may take for an answer.
const WATCH_TIMEOUT: Duration = Duration::from_secs(1);

async fn ask_again(
    client: &mut Option<Client>,
    endpoint: &str,
    security: &Security,
) -> Result<StatusResponse, String> {
    let connected = match client {
        Some(client) => client,
        None => client.insert(connect(endpoint, security, WATCH_TIMEOUT).await?),
    };
    connected.status().await.map_err(|error| error.cause().to_string())
}

fn locked(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask_one(endpoint: &str, security: &Security, timeout: Duration) -> Result<StatusResponse, String> {
    let client = connect(endpoint, security, timeout).await?;
    client.status().await.map_err(|error| error.cause().to_string())
}

/// A client of one server alone.
async fn connect(endpoint: &str, security: &Security, timeout: Duration) -> Result<Client, String> {
    let builder = Client::builder([endpoint], security.clone()).discover(false).timeout(timeout);
    builder.connect().await.map_err(|error| match error {
        SetupError::Unreachable(reason) => reason,
        error => error.to_string(),
    })
}

/// The addresses of members that have not answered, and were not asked at that address.
fn unasked(answers: &[StatusResponse], asked: &[String]) -> Vec<String> {
    let mut addresses: Vec<String> = answers
        .iter()
        .flat_map(|answer| &answer.members)
        .filter(|member| answers.iter().all(|answer| answer.answered_by != member.id))
        .map(|member| member.client_address.clone())
        .filter(|address| !address.is_empty() && !asked.contains(address))
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn leads(status: &MemberStatus) -> bool {
    status.state == State::LEADER
}

/// What a server says of itself.
fn own(answer: &StatusResponse) -> Option<&MemberStatus> {
    answer.members.iter().find(|member| member.id == answer.answered_by)
}

/// One view out of what each server said.
fn put_together(answers: &[StatusResponse], mut silent: Vec<(String, String)>) -> ClusterView {
    let leader_answer = answers
        .iter()
        .filter(|answer| own(answer).is_some_and(leads))
        .max_by_key(|answer| own(answer).map(|status| status.term));
    let leader = leader_answer.map(|answer| NodeId(answer.answered_by));
    let mut members = BTreeMap::new();
    for status in answers.iter().flat_map(|answer| &answer.members) {
        members
            .entry(status.id)
            .or_insert_with(|| MemberView::unknown(NodeId(status.id), status.client_address.clone()));
    }
    for answer in answers {
        for status in answer.members.iter().filter(|status| status.away_ms > 0) {
            if let Some(member) = members.get_mut(&status.id) {
                member.away.insert(NodeId(answer.answered_by), status.away_ms);
            }
        }
    }
    for status in answers.iter().filter_map(own) {
        if let Some(member) = members.get_mut(&status.id) {
            member.own = Some(status.clone());
        }
    }
    for member in members.values_mut() {
        if leader.is_some_and(|leader| leader != member.id) {
            let told = leader_answer.and_then(|answer| answer.members.iter().find(|m| m.id == member.id.0));
            member.by_leader = told.cloned();
        }
        if let Some(place) = silent.iter().position(|(address, _)| *address == member.client_address) {
            member.silence = Some(silent.swap_remove(place).1);
        }
    }
    let term = answers.iter().filter_map(own).map(|status| status.term).max().unwrap_or_default();
    ClusterView { leader, term, members: members.into_values().collect(), silent }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: u64, state: State, term: u64) -> MemberStatus {
        MemberStatus {
            id,
            client_address: format!("h{id}:1"),
            state: state.into(),
            term,
            ..MemberStatus::default()
        }
    }

    /// What server `by` answers about three members, of which it knows only itself well.
    fn answer(by: u64, state: State, term: u64) -> StatusResponse {
        let members = (1..=3).map(|id| match id == by {
            true => status(id, state, term),
            false => MemberStatus { lag: 10 * by + id, ..status(id, State::STATE_UNSPECIFIED, 0) },
        });
        StatusResponse { answered_by: by, members: members.collect(), ..StatusResponse::default() }
    }

    #[test]
    fn of_two_leaders_the_one_of_the_later_term_leads() {
        let answers =
            [answer(1, State::LEADER, 3), answer(2, State::LEADER, 4), answer(3, State::FOLLOWER, 4)];
        let view = put_together(&answers, Vec::new());
        assert_eq!((view.leader, view.term), (Some(NodeId(2)), 4));
        assert!(view.members[0].says_leader() && !view.members[2].says_leader());
        let lags: Vec<_> = view.members.iter().map(|m| m.by_leader.as_ref().map(|s| s.lag)).collect();
        assert_eq!(lags, [Some(21), None, Some(23)]);
    }

    #[test]
    fn a_member_that_does_not_answer_is_there_with_the_reason() {
        let answers = [answer(1, State::FOLLOWER, 2), answer(3, State::FOLLOWER, 2)];
        let silent = vec![("h2:1".to_owned(), "refused".to_owned()), ("old:1".to_owned(), "gone".to_owned())];
        let view = put_together(&answers, silent);
        assert_eq!(view.leader, None);
        assert!(view.members[1].own.is_none());
        assert_eq!(view.members[1].silence.as_deref(), Some("refused"));
        assert_eq!(view.silent, [("old:1".to_owned(), "gone".to_owned())]);
    }

    #[test]
    fn members_are_asked_at_the_addresses_that_others_name() {
        let answers = [answer(1, State::FOLLOWER, 2)];
        assert_eq!(unasked(&answers, &["h1:1".to_owned(), "h3:1".to_owned()]), ["h2:1"]);
        assert_eq!(unasked(&answers, &["other-name-of-h1:1".to_owned()]), ["h2:1", "h3:1"]);
    }
}
