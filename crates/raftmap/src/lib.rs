//! A replicated hash map: the server that the `raftmap` binary runs, and the library that embeds it.

pub mod api;
pub mod backup;
mod causes;
pub mod front;
pub mod local_cluster;
pub mod node;
pub mod observe;
pub mod peers;
pub mod renewed;
mod runtime;
pub mod stopped;
pub mod survey;
pub mod tls;
pub mod users;

pub use api::ReadAndWrite;
pub use node::{Node, NodeConfig};
/// What requests and answers are made of.
pub use raftmap_state as state;
