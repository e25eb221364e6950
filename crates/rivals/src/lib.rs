//! Drives etcd and Redis as `raftmap bench` drives raftmap, so that anyone can compare: one put or one get at a time for each
//! caller, in plaintext, as durable and as consistent as each of them offers.
//!
//! - [`Etcd`]: puts are durable on a majority, gets are linearizable. The leader is asked directly, over some connections
//!   that callers share.
//! - [`Redis`]: a put is a `SET` and a `WAIT 1` in one message: it counts once a replica has it, too, and is durable if the
//!   servers run with `appendfsync always`. It can be lost at a failover all the same. Gets are those of the master. Each
//!   caller has a connection, since a `WAIT` holds up what follows on the same one.

mod etcd;
mod redis;

pub use etcd::Etcd;
pub use redis::Redis;

#[allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::pedantic,
    clippy::cast_possible_truncation
)]
mod generated {
    connectrpc::include_generated!();
}

/// Why a rival did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RivalError {
    /// The address is none.
    #[error("{0:?} is not host:port")]
    Address(String),
    /// No connection to it, or it broke.
    #[error("{server}: {source}")]
    Connection {
        /// The server.
        server: String,
        /// What happened.
        source: std::io::Error,
    },
    /// etcd refused, or the call broke.
    #[error("etcd: {0}")]
    Etcd(#[from] connectrpc::ConnectError),
    /// None of the servers that were named leads.
    #[error("none of these servers leads: {0:?}")]
    NoLeader(Vec<String>),
    /// Redis answered with something else than was asked for: its error, as a rule.
    #[error("redis: {0}")]
    Redis(String),
}
