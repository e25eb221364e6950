//! `raftmap del`.

use std::ffi::OsString;

use clap::Args;
use serde_json::json;

use super::encoding::Encoding;
use super::exit::{self, Failure};
use super::output;
use super::request::{Connection, Request};

const EXAMPLES: &str = "\
Examples:
    raftmap del greeting
  Several keys in one atomic step:
    raftmap del cart:17 cart:17:total";

/// Remove keys, all in one atomic step
///
/// Keys that are not there are no failure: the output says how many were.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Del {
    /// The keys
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<OsString>,

    #[command(flatten)]
    encoding: Encoding,

    /// The revision and the count as JSON
    #[arg(long)]
    json: bool,
}

impl Request for Del {
    const WRITES: bool = true;

    async fn send(self, to: &Connection) -> Result<(), Failure> {
        let keys: Result<Vec<_>, _> = self.keys.iter().map(|key| self.encoding.decode("KEY", key)).collect();
        let keys = keys?;
        let named = keys.len();
        let deleted = to.client().await?.delete_many(keys).await?;
        if self.json {
            return output::json(&json!({ "revision": deleted.revision, "deleted": deleted.deleted }));
        }
        output::line(&format!("deleted {} of {named}, revision {}", deleted.deleted, deleted.revision))
    }
}
