//! The client against real servers on real sockets, whose answers are scripted.

#![allow(unreachable_pub, clippy::unwrap_used)]

mod calls;
mod discovery;
mod scans;
mod server;
mod streams;
mod tls;
mod world;
mod writes;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use raftmap_client::{Builder, Client, Security};
use raftmap_proto::v1::{Member, MembersResponse};

use crate::server::Server;
use crate::world::World;

/// A generous deadline: what waits for it has failed.
const LONG: Duration = Duration::from_secs(60);

/// A time that is over soon, for calls that are to run into it; long enough for a few attempts on a busy machine.
const SHORT: Duration = Duration::from_millis(1500);

/// Servers of one cluster, the first of which is the leader.
struct TestCluster {
    world: Arc<Mutex<World>>,
    servers: Vec<Server>,
}

impl TestCluster {
    async fn start(count: usize) -> Self {
        let world = Arc::new(Mutex::new(World::new()));
        let mut servers = Vec::new();
        for _ in 0..count {
            servers.push(Server::start(&world).await);
        }
        let cluster = Self { world, servers };
        let members = cluster.members(1, Some(0));
        for server in &cluster.servers {
            server.set_members(members.clone());
        }
        cluster
    }

    fn members(&self, term: u64, leader: Option<usize>) -> MembersResponse {
        members_of(&self.servers.iter().collect::<Vec<_>>(), term, leader)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn builder(&self) -> Builder {
        Client::builder(self.servers.iter().map(Server::address), Security::Insecure).timeout(LONG)
    }

    async fn client(&self) -> Client {
        self.builder().connect().await.unwrap()
    }

    /// How often `key` was set.
    fn puts(&self, key: &str) -> u32 {
        self.world().puts.get(key.as_bytes()).copied().unwrap_or(0)
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.world().breaches, Vec::<String>::new());
        }
    }
}

fn members_of(servers: &[&Server], term: u64, leader: Option<usize>) -> MembersResponse {
    let member = |(place, server): (usize, &&Server)| Member {
        id: place as u64 + 1,
        client_address: server.address(),
        leader: leader == Some(place),
        ..Member::default()
    };
    let members = servers.iter().enumerate().map(member).collect();
    MembersResponse { term, membership_index: term, members, ..MembersResponse::default() }
}

/// Waits until `condition` holds.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("{what} did not come about"));
}
