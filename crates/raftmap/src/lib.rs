//! A replicated hash map: the server that the `raftmap` binary runs, and the library that embeds it.

pub mod peers;
pub mod tls;
