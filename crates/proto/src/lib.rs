//! The messages and services of raftmap, generated at build time from the files in `proto/`, where they are described.
//!
//! [`v1`] is what clients speak (`map.proto`) and what clients and operators ask of a cluster (`cluster.proto`);
//! [`peer`] is what servers say to each other (`peer.proto`); [`health`] and [`reflection`] are what gRPC has for all servers.
//! `bytes` fields are [`bytes::Bytes`]: decoded from a `Bytes`
//! they are slices of it, without a copy. The generated service traits and clients are those of [`connectrpc`], which
//! serves gRPC and Connect, protobuf and JSON, from one implementation. The clients need the feature `client`.

pub mod descriptors;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
mod generated {
    connectrpc::include_generated!();
}

pub use generated::grpc::health::v1 as health;
pub use generated::grpc::reflection::v1 as reflection;
pub use generated::raftmap::peer::v1 as peer;
pub use generated::raftmap::v1;
