//! Who may connect: certificates, the identities in them, and the TLS settings of every connection.
//!
//! A cluster has one certificate authority of its own. Each certificate that it signs names, in one URI of its subject
//! alternative names, the cluster and what its holder is there:
//!
//! | URI | holder |
//! |---|---|
//! | `raftmap://CLUSTER/node/N` | server `N` |
//! | `raftmap://CLUSTER/client/NAME` | a client: reads and writes the map |
//! | `raftmap://CLUSTER/operator/NAME` | an operator: a client that may also change the cluster |
//!
//! Connections are TLS 1.3 alone, with aws-lc-rs, without resumption: each handshake shows and checks the certificates
//! anew. While a server runs, its certificates may be replaced: [`renewal`].

pub mod certs;
pub mod config;
pub mod identity;
pub mod renewal;
