//! The servers that the client knows, and which of them to ask.

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
    stale: Notify,
}

struct Servers {
    /// The members, then the endpoints that the client started with and that are no members.
    links: Vec<Arc<Link>>,
    leader: Option<Arc<Link>>,
    /// The latest term of which the leader is known.
    term: u64,
    /// Of the membership that `links` lists.
    membership_index: u64,
    /// Whose turn it is when the leader is not known.
    turn: usize,
}

impl Cluster {
    pub(crate) fn new(config: Config) -> Self {
        let mut links: Vec<Arc<Link>> = Vec::new();
        for seed in &config.seeds {
            if links.iter().all(|link| link.server() != seed.as_str()) {
                links.push(Link::start(seed.clone(), config.tls.clone()));
            }
        }
        let servers = Servers {
            turn: fastrand::usize(..links.len()),
            links,
            leader: None,
            term: 0,
            membership_index: 0,
        };
        Self { config, servers: Mutex::new(servers), stale: Notify::new() }
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
        if let Some(leader) = failed.leader.as_deref().and_then(|hint| self.link_to(&servers, hint)) {
            servers.leader = Some(leader);
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
        Some(Link::start(endpoint, self.config.tls.clone()))
    }

    /// Takes in what a server says of the members. An older answer changes nothing.
    fn adopt(&self, response: &MembersResponse) {
        let mut servers = self.servers();
        if self.config.discover && response.membership_index >= servers.membership_index {
            let members = response.members.iter().map(|member| member.client_address.as_str());
            let seeds = self.config.seeds.iter().map(Endpoint::as_str);
            let mut links: Vec<Arc<Link>> = Vec::new();
            for server in members.chain(seeds).filter(|server| !server.is_empty()).take(SERVERS_MAX) {
                if links.iter().all(|link| link.server() != server) {
                    links.extend(self.link_to(&servers, server));
                }
            }
            servers.links = links;
            servers.membership_index = response.membership_index;
        }
        if response.term >= servers.term {
            let leader = response.members.iter().find(|member| member.leader);
            let leader = leader.and_then(|member| self.link_to(&servers, &member.client_address));
            // Of two answers of one term, one may be from before the election was won.
            if leader.is_some() || response.term > servers.term {
                servers.leader = leader;
            }
            servers.term = response.term;
        }
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
            // What fails here fails in the calls, too, which say so to their callers.
            self.ask_all().join_all().await;
            let last = Instant::now();
            drop(tokio::time::timeout(REFRESH_INTERVAL, self.stale.notified()).await);
            tokio::time::sleep_until(last + REFRESH_PAUSE).await;
        }
    }
}

impl Servers {
    fn next(&mut self) -> Arc<Link> {
        let count = self.links.len();
        let in_turn = (0..count).map(|step| (self.turn + step) % count);
        let place = in_turn.clone().find(|place| !self.links[*place].is_aside());
        let place = place.unwrap_or(self.turn % count);
        self.turn = (place + 1) % count;
        Arc::clone(&self.links[place])
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
