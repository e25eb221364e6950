//! A replicated hash map: the server that the `raftmap` binary runs, and the library that embeds it.

pub mod api;
pub mod front;
<<<<<<< HEAD
pub mod node;
mod runtime;
=======
pub mod observe;
>>>>>>> front
pub mod tls;

pub use api::ReadAndWrite;
pub use node::{Node, NodeConfig};
