//! The Rust client of raftmap.
//!
//! ```no_run
//! use raftmap_client::{Client, Expected, Tls};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let tls = Tls::new(std::fs::read("ca.pem")?, std::fs::read("client.pem")?, std::fs::read("client.key")?);
//! let client = Client::connect(["db1:7400", "db2:7400", "db3:7400"], tls).await?;
//! client.put("greeting", "hello").await?;
//! let entry = client.get("greeting").await?.expect("it was put");
//! client.compare_and_swap("greeting", Expected::Revision(entry.revision), "hi").await?;
//! let mut pages = client.scan().prefix("gre").await?;
//! while let Some(page) = pages.next_page().await? {
//!     println!("{} entries at revision {}", page.entries.len(), page.revision);
//! }
//! # Ok(()) }
//! ```
//!
//! # What a call does
//!
//! A call is set up, then awaited: `client.put(key, value).ttl(ttl).await`. It is a few *attempts*, each at one server,
//! until one of them brings an answer, a server says that none can, or the time is over. The client asks the leader, as
//! far as it knows it, and turns to the next server when one fails; it learns the members and the leader from all
//! servers, and so survives the replacement of every address that it started with.
//!
//! Calls that run at the same time share one stream to each server and travel in messages of whatever piled up while the
//! last one was on its way. Large requests and scans travel beside it, on the same connection.
//!
//! # What an error says
//!
//! Every write carries the tag of a *session*, by which the servers know a repetition: however often an attempt is
//! repeated, at whichever server, the write is applied once. What remains open when the time is over, the error says:
//! [`Error::NotApplied`] only if every attempt certainly was not, [`Error::OutcomeUnknown`] otherwise. A future that is
//! dropped before its end is a write of unknown outcome, too.
//!
//! # Limits
//!
//! A connection has at most 4,096 requests without an answer and 1,024 in its queue, a session as many writes as the
//! servers say; calls beyond that wait for their turn, within their time. [`SCANS_MAX`] scans may be open at once.

mod attempts;
mod backup;
mod call;
mod client;
mod cluster;
mod config;
mod dial;
mod endpoint;
mod entry;
mod error;
mod link;
mod members;
mod pipeline;
mod read;
mod retry;
mod scan;
mod session;
mod txn;
mod write;

pub use backup::BackupStream;
pub use call::Running;
pub use client::{Client, SCANS_MAX, TIMEOUT_MAX};
pub use config::{Builder, DEFAULT_ATTEMPT_TIMEOUT, DEFAULT_TIMEOUT, Identity, Security, Tls};
pub use entry::Entry;
pub use error::{Cause, Error, SetupError};
pub use raftmap_proto::v1::failure::Code;
pub use raftmap_proto::v1::{MemberAddresses, MemberStatus, MembersResponse, StatusResponse};
pub use read::{Get, GetMany, Values};
pub use scan::{Page, Pages, Scan};
pub use txn::{CompareAndSwap, Expected, Operation, OperationResult, Swap, Txn, TxnAnswer};
pub use write::{Delete, DeleteMany, Deleted, DeletedMany, Put, PutMany, Written, WrittenMany};
