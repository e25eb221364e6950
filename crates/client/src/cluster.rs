//! The servers that the client knows, and which of them to ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raftmap_proto::v1::{MembersRequest, MembersResponse};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::Config;
use crate::endpoint::Endpoint;
use crate::link::Link;
use crate::retry::{Failed, Next};

/// How often the members are asked for when nothing else gives cause to: all addresses of a cluster may be replaced
/// while a client is idle.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// How long to wait for the members from servers that do not answer.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a refresh waits for servers that are slow to answer; what they say later counts all the same.
const REFRESH_PATIENCE: Duration = Duration::from_millis(200);
/// The shortest time between two refreshes.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);
/// How many servers are known at most: what a member list names beyond is not used.
const SERVERS_MAX: usize = 64;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// The leader if it is known; any other server passes the request on to it.
    Leader,
    /// Any server, in turn.
    Any,
}

/// The servers of the cluster.
pub(crate) struct Cluster {
    config: Config,
    servers: Mutex<Servers>,
    /// Asks for a refresh.
    stale: Arc<Notify>,
}

struct Servers {
    /// Where the members answer, by id: not every server knows of all.
    addresses: BTreeMap<u64, String>,
    /// Of the membership that `addresses` are of.
    membership_index: u64,
    /// To the members by id, then to the endpoints that the client started with and that are no members.
    links: Vec<Arc<Link>>,
    /// How many of `links` are preferred to the others: the members, or all while no member is known.
    preferred: usize,
    leader: Option<Arc<Link>>,
    /// The leader of `term`, whether or not calls to it failed since.
    elected: Option<Arc<Link>>,
    /// The latest term of which the leader is known.
    term: u64,
    /// Whose turn it is when the leader is not known.
    turn: usize,
}

impl Cluster {
    pub(crate) fn new(config: Config) -> Self {
        let stale = Arc::new(Notify::new());
        let mut links: Vec<Arc<Link>> = Vec::new();
        for seed in &config.seeds {
            if links.iter().all(|link| link.server() != seed.as_str()) {
                links.push(Link::start(seed.clone(), config.secured.clone(), Arc::clone(&stale)));
            }
        }
        let servers = Servers {
            addresses: BTreeMap::new(),
            membership_index: 0,
            preferred: links.len(),
            turn: fastrand::usize(..links.len()),
            links,
            leader: None,
            elected: None,
            term: 0,
        };
        Self { config, servers: Mutex::new(servers), stale }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server to ask. One that failed a moment ago is asked only if all did.
    pub(crate) fn pick(&self, whom: Whom) -> Arc<Link> {
        let mut servers = self.servers();
        match (&servers.leader, whom) {
            (Some(leader), Whom::Leader) if !leader.is_aside() => Arc::clone(leader),
            _ => servers.next(),
        }
    }

    /// Learns from a failed attempt at `link` where to go instead.
    pub(crate) fn learn(&self, link: &Arc<Link>, failed: &Failed) {
        let server_works = failed.next != Next::Elsewhere;
        if server_works && failed.leader.is_none() {
            return;
        }
        let mut servers = self.servers();
        if servers.leader.as_ref().is_some_and(|leader| Arc::ptr_eq(leader, link)) {
            servers.leader = None;
        }
        if !server_works {
            link.set_aside();
        }
        // A hint has no term: it counts only where nothing better is known.
        if servers.leader.is_none() {
            let hinted = failed.leader.as_deref().and_then(|hint| self.link_to(&servers, hint));
            servers.leader = hinted.filter(|hinted| !hinted.is_aside());
        }
        drop(servers);
        self.stale.notify_one();
    }

    /// The link to `server`: one that is there, or a new one if other servers than the given ones may be used.
    fn link_to(&self, servers: &Servers, server: &str) -> Option<Arc<Link>> {
        if let Some(link) = servers.links.iter().chain(&servers.leader).find(|link| link.server() == server) {
            return Some(Arc::clone(link));
        }
        if !self.config.discover {
            return None;
        }
        let endpoint = Endpoint::parse(server).ok()?;
        Some(Link::start(endpoint, self.config.secured.clone(), Arc::clone(&self.stale)))
    }

    /// Takes in what a server says of the members. What is older than what is known changes nothing.
    pub(crate) fn adopt(&self, response: &MembersResponse) {
        let mut servers = self.servers();
        let newer = response.membership_index >= servers.membership_index;
        if self.config.discover && newer && !response.members.is_empty() {
            self.adopt_members(&mut servers, response);
        }
        if response.term >= servers.term {
            let leader = response.members.iter().find(|member| member.leader);
            let leader = leader.and_then(|member| self.link_to(&servers, &member.client_address));
            // Of two answers of one term, one may be from before the election was won.
            if leader.is_some() || response.term > servers.term {
                servers.leader.clone_from(&leader);
            }
            if let Some(leader) = leader {
                leader.set_succeeded(false);
                let before = servers.elected.replace(Arc::clone(&leader));
                if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, &leader)) {
                    before.set_succeeded(true);
                }
            }
            servers.term = response.term;
        }
    }

    fn adopt_members(&self, servers: &mut Servers, response: &MembersResponse) {
        servers.membership_index = response.membership_index;
        servers.addresses.retain(|id, _| response.members.iter().any(|member| member.id == *id));
        for member in response.members.iter().take(SERVERS_MAX) {
            if Endpoint::parse(&member.client_address).is_ok() {
                servers.addresses.insert(member.id, member.client_address.clone());
            }
        }
        let mut links: Vec<Arc<Link>> = Vec::new();
        let mut preferred = 0;
        let members = servers.addresses.values().map(|address| (1, address.as_str()));
        let seeds = self.config.seeds.iter().map(|seed| (0, seed.as_str()));
        for (prefer, server) in members.chain(seeds) {
            if links.iter().all(|link| link.server() != server) {
                links.extend(self.link_to(servers, server));
                preferred += prefer;
            }
        }
        // A server that is new here may know of others that are newer.
        if links.iter().any(|link| servers.links.iter().all(|known| !Arc::ptr_eq(known, link))) {
            self.stale.notify_one();
        }
        servers.preferred = if preferred == 0 { links.len() } else { preferred };
        servers.links = links;
    }

    /// Asks all servers for the members and adopts what they say as it comes.
    fn ask_all(self: &Arc<Self>) -> JoinSet<Result<(), Failed>> {
        let links = self.servers().links.clone();
        links
            .into_iter()
            .map(|link| {
                let cluster = Arc::clone(self);
                async move {
                    let response = members(&link).await?;
                    cluster.adopt(&response);
                    Ok(())
                }
            })
            .collect()
    }

    /// Waits until one server answered. If none did, says why, for each of them.
    pub(crate) async fn reach(self: &Arc<Self>) -> Result<(), Vec<Failed>> {
        let mut asked = self.ask_all();
        let mut failures = Vec::new();
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(())) => {
                    asked.detach_all();
                    return Ok(());
                }
                Ok(Err(failed)) => failures.push(failed),
                Err(panicked) => failures.push(Failed::not_sent("", panicked.to_string())),
            }
        }
        Err(failures)
    }

    /// Refreshes whenever a call gave cause to, and from time to time.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        loop {
            // What fails here fails in the calls, too, which say so to their callers. One that is silent is not waited for.
            let mut asked = self.ask_all();
            let all = async { while asked.join_next().await.is_some() {} };
            let _some_are_silent = tokio::time::timeout(REFRESH_PATIENCE, all).await;
            asked.detach_all();
            let last = Instant::now();
            drop(tokio::time::timeout(REFRESH_INTERVAL, self.stale.notified()).await);
            tokio::time::sleep_until(last + REFRESH_PAUSE).await;
        }
    }
}

impl Servers {
    /// The next one in turn that did not fail a moment ago, a preferred one if there is any.
    fn next(&mut self) -> Arc<Link> {
        self.turn = self.turn.wrapping_add(1);
        let (preferred, others) = self.links.split_at(self.preferred);
        let in_turn = |links: &[Arc<Link>]| {
            let (before, from) = links.split_at(self.turn % links.len().max(1));
            from.iter().chain(before).find(|link| !link.is_aside()).cloned()
        };
        let next = in_turn(preferred).or_else(|| in_turn(others));
        next.unwrap_or_else(|| Arc::clone(&self.links[self.turn % self.links.len()]))
    }
}

async fn members(link: &Link) -> Result<MembersResponse, Failed> {
    let ask = async {
        let calls = link.calls().await?;
        let answer = calls.cluster.members(MembersRequest::default()).await;
        answer.map_err(|e| Failed::status(link.server(), &e))
    };
    match tokio::time::timeout(REFRESH_TIMEOUT, ask).await {
        Ok(answer) => Ok(answer?.into_owned()),
        Err(_) => Err(Failed::timed_out(link.server(), true, REFRESH_TIMEOUT)),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use raftmap_proto::v1::failure::Code;
    use raftmap_proto::v1::{Failure, Member};

    use super::*;

    fn cluster(seeds: &[&str], discover: bool) -> Cluster {
        let seeds = seeds.iter().map(|seed| Endpoint::parse(seed).unwrap()).collect();
        let timeout = Duration::from_secs(1);
        Cluster::new(Config { seeds, secured: None, timeout, attempt_timeout: timeout, discover })
    }

    fn members(term: u64, index: u64, addresses: &[&str], leader: Option<&str>) -> MembersResponse {
        let member = |(place, address): (usize, &&str)| Member {
            id: place as u64 + 1,
            client_address: (*address).to_owned(),
            leader: leader == Some(*address),
            ..Member::default()
        };
        let members = addresses.iter().enumerate().map(member).collect();
        MembersResponse { term, membership_index: index, members, ..MembersResponse::default() }
    }

    fn known(cluster: &Cluster) -> Vec<String> {
        cluster.servers().links.iter().map(|link| link.server().to_owned()).collect()
    }

    fn leader(cluster: &Cluster) -> Option<String> {
        cluster.servers().leader.as_ref().map(|link| link.server().to_owned())
    }

    #[tokio::test]
    async fn the_newer_members_and_the_leader_of_the_later_term_count() {
        let cluster = cluster(&["a:1"], true);
        cluster.adopt(&members(5, 20, &["b:1", "c:1"], Some("b:1")));
        assert_eq!(known(&cluster), ["b:1", "c:1", "a:1"]);
        assert_eq!(leader(&cluster).as_deref(), Some("b:1"));
        cluster.adopt(&members(4, 10, &["a:1"], Some("a:1")));
        assert_eq!(known(&cluster), ["b:1", "c:1", "a:1"], "an older list");
        assert_eq!(leader(&cluster).as_deref(), Some("b:1"), "a leader of an older term");
        cluster.adopt(&members(5, 20, &["b:1", "c:1"], None));
        assert_eq!(leader(&cluster).as_deref(), Some("b:1"), "from before the election of this term was won");
        cluster.adopt(&members(6, 20, &["b:1", "c:1"], None));
        assert_eq!(leader(&cluster), None, "a new term, in which nobody is known to have won");
    }

    #[tokio::test]
    async fn a_server_that_does_not_know_an_address_does_not_take_it_away() {
        let cluster = cluster(&["a:1"], true);
        cluster.adopt(&members(1, 1, &["a:1", "b:1", "c:1"], None));
        cluster.adopt(&members(1, 1, &["a:1", "", "c:2"], None));
        assert_eq!(known(&cluster), ["a:1", "b:1", "c:2"]);
        cluster.adopt(&members(1, 1, &[], None));
        assert_eq!(known(&cluster), ["a:1", "b:1", "c:2"]);
        cluster.adopt(&members(1, 2, &["a:1", ""], None));
        assert_eq!(known(&cluster), ["a:1", "b:1"]);
    }

    #[tokio::test]
    async fn endpoints_that_are_no_members_are_asked_only_if_all_members_failed() {
        let cluster = cluster(&["proxy:1"], true);
        cluster.adopt(&members(1, 1, &["a:1", "b:1"], None));
        let picked: Vec<Arc<Link>> = (0..4).map(|_| cluster.pick(Whom::Any)).collect();
        assert!(picked.iter().all(|link| link.server() != "proxy:1"));
        for link in &picked[..2] {
            cluster.learn(link, &Failed::not_sent(link.server(), "no route"));
        }
        assert_eq!(cluster.pick(Whom::Any).server(), "proxy:1");
    }

    #[tokio::test]
    async fn a_hint_counts_only_where_nothing_better_is_known() {
        let cluster = cluster(&["a:1", "b:1", "c:1"], true);
        let hint = |server: &str, leader: &str| {
            Failed::refused(
                server,
                Failure { code: Code::NO_LEADER.into(), leader: leader.to_owned(), ..Failure::default() },
            )
        };
        let a = Arc::clone(&cluster.servers().links[0]);
        cluster.learn(&a, &hint("a:1", "d:1"));
        assert_eq!(leader(&cluster).as_deref(), Some("d:1"));
        cluster.learn(&a, &hint("a:1", "b:1"));
        assert_eq!(
            leader(&cluster).as_deref(),
            Some("d:1"),
            "a hint of a server that is not the leader, come late"
        );
        let d = cluster.pick(Whom::Leader);
        cluster.learn(&d, &hint("d:1", "a:1"));
        assert_eq!(leader(&cluster), None, "the hint names a server that failed a moment ago");
    }

    #[tokio::test]
    async fn servers_that_are_new_give_cause_to_ask_again() {
        let cluster = cluster(&["a:1"], true);
        cluster.adopt(&members(1, 1, &["a:1", "b:1"], None));
        assert!(cluster.stale.notified().now_or_never().is_some());
        cluster.adopt(&members(1, 1, &["a:1", "b:1"], None));
        assert!(cluster.stale.notified().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_link_stays_while_its_server_is_a_member() {
        let cluster = cluster(&["a:1"], true);
        let before = Arc::clone(&cluster.servers().links[0]);
        cluster.adopt(&members(1, 1, &["b:1", "a:1"], None));
        assert!(Arc::ptr_eq(&before, &cluster.servers().links[1]), "its connection was lost");
    }

    #[tokio::test]
    async fn without_discovery_the_given_servers_stay_and_one_of_them_may_lead() {
        let cluster = cluster(&["a:1", "b:1"], false);
        cluster.adopt(&members(1, 1, &["c:1"], Some("c:1")));
        assert_eq!((known(&cluster), leader(&cluster)), (vec!["a:1".to_owned(), "b:1".to_owned()], None));
        cluster.adopt(&members(1, 1, &["c:1", "b:1"], Some("b:1")));
        assert_eq!(leader(&cluster).as_deref(), Some("b:1"));
    }

    #[tokio::test]
    async fn addresses_that_are_none_and_too_many_are_left_out() {
        let cluster = cluster(&["a:1"], true);
        let many: Vec<String> = (0..100).map(|n| format!("m{n}:1")).collect();
        let mut addresses = vec!["", "no port", "m0:1"];
        addresses.extend(many.iter().map(String::as_str));
        cluster.adopt(&members(1, 1, &addresses, Some("no port")));
        assert!(known(&cluster).len() <= SERVERS_MAX);
        assert_eq!(known(&cluster)[0], "m0:1");
        assert_eq!(leader(&cluster), None);
    }

    #[tokio::test]
    async fn a_server_that_failed_is_asked_last() {
        let cluster = cluster(&["a:1", "b:1"], true);
        cluster.adopt(&members(1, 1, &["a:1", "b:1"], Some("a:1")));
        let asked = cluster.pick(Whom::Leader);
        assert_eq!(asked.server(), "a:1");
        cluster.learn(&asked, &Failed::lost("a:1", "the connection broke"));
        for _ in 0..3 {
            assert_eq!(cluster.pick(Whom::Leader).server(), "b:1");
        }
        // Another server may still take it for the leader.
        cluster.adopt(&members(1, 1, &["a:1", "b:1"], Some("a:1")));
        assert_eq!(cluster.pick(Whom::Leader).server(), "b:1");
        cluster.learn(&cluster.pick(Whom::Any), &Failed::lost("b:1", "the connection broke"));
        let picked: Vec<String> = (0..2).map(|_| cluster.pick(Whom::Any).server().to_owned()).collect();
        assert!(picked.contains(&"a:1".to_owned()) && picked.contains(&"b:1".to_owned()), "{picked:?}");
    }

    #[tokio::test]
    async fn a_refusal_of_the_request_says_nothing_against_the_server() {
        let cluster = cluster(&["a:1", "b:1"], true);
        cluster.adopt(&members(1, 1, &["a:1", "b:1"], Some("a:1")));
        let invalid = Failure { code: Code::INVALID.into(), ..Failure::default() };
        cluster.learn(&cluster.pick(Whom::Leader), &Failed::refused("a:1", invalid));
        assert_eq!(cluster.pick(Whom::Leader).server(), "a:1");
    }
}
