//! What is driven: raftmap, or another store that it is compared with.

use bytes::Bytes;
use clap::ValueEnum;
use raftmap::Node;
use raftmap_client::Client;
use raftmap_rivals::{Etcd, Redis};

use super::super::connect::ConnectArgs;
use super::super::exit::Failure;
use super::embedded;

/// The stores that can be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Store {
    Raftmap,
    /// Version 3, in plaintext; the leader is asked directly
    Etcd,
    /// In plaintext, its master; a put is SET and WAIT 1, each client has a connection of its own
    Redis,
}

/// How clients get at the store.
pub(super) enum Targets {
    Raftmap(Vec<Client>),
    Etcd(Vec<Etcd>),
    Redis(String),
    /// The node that leads.
    Embedded(Node),
}

/// The store, as one client has it.
pub(super) enum Target {
    Raftmap(Client),
    Etcd(Box<Etcd>),
    Redis(Redis),
    Embedded(Node),
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

impl Targets {
    /// Connects, so many times to each server.
    pub(super) async fn connect(
        store: Store,
        connect: &ConnectArgs,
        connections: u16,
    ) -> Result<Self, Failure> {
        match store {
            Store::Raftmap => {
                let mut clients = Vec::new();
                for _ in 0..connections {
                    clients.push(connect.client().await?);
                }
                Ok(Self::Raftmap(clients))
            }
            Store::Etcd => {
                let mut etcds = Vec::new();
                for _ in 0..connections {
                    etcds.push(Etcd::connect(connect.endpoints()?).await.map_err(failed)?);
                }
                Ok(Self::Etcd(etcds))
            }
            Store::Redis => Ok(Self::Redis(connect.endpoints()?[0].clone())),
        }
    }

    /// What client `n` has of it.
    pub(super) async fn of_client(&self, n: usize) -> Result<Target, Failure> {
        Ok(match self {
            Self::Raftmap(clients) => Target::Raftmap(clients[n % clients.len()].clone()),
            Self::Etcd(etcds) => Target::Etcd(Box::new(etcds[n % etcds.len()].clone())),
            Self::Embedded(node) => Target::Embedded(node.clone()),
            Self::Redis(server) => Target::Redis(Redis::connect(server).await.map_err(failed)?),
        })
    }
}

impl Target {
    pub(super) async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), String> {
        match self {
            Self::Raftmap(client) => client.put(key, value).await.map(drop).map_err(|e| e.to_string()),
            Self::Etcd(etcd) => etcd.put(key, value).await.map_err(|e| e.to_string()),
            Self::Embedded(node) => embedded::put_many(node, vec![(key, value)]).await,
            Self::Redis(redis) => redis.put(&key, &value).await.map_err(|e| e.to_string()),
        }
    }

    pub(super) async fn get(&mut self, key: Bytes) -> Result<(), String> {
        match self {
            Self::Raftmap(client) => client.get(key).await.map(drop).map_err(|e| e.to_string()),
            Self::Etcd(etcd) => etcd.get(key).await.map(drop).map_err(|e| e.to_string()),
            Self::Embedded(node) => embedded::get(node, key).await,
            Self::Redis(redis) => redis.get(&key).await.map(drop).map_err(|e| e.to_string()),
        }
    }

    pub(super) async fn put_many(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), Failure> {
        match self {
            Self::Raftmap(client) => Ok(client.put_many(entries).await.map(drop)?),
            Self::Etcd(etcd) => etcd.put_many(entries).await.map_err(failed),
            Self::Embedded(node) => embedded::put_many(node, entries).await.map_err(failed),
            Self::Redis(redis) => redis.put_many(&entries).await.map_err(failed),
        }
    }
}
