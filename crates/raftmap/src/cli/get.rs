//! `raftmap get`.

use std::ffi::OsString;
use std::io::IsTerminal;

use clap::Args;

use super::encoding::Encoding;
use super::exit::{self, Failure};
use super::output;
use super::request::{Connection, Request};

const EXAMPLES: &str = "\
Examples:
  The value, byte for byte; on a terminal with a line end behind it:
    raftmap get greeting
    raftmap get photo > photo.jpg
  With revision and expiry:
    raftmap get greeting --json
  What any server has at hand, at least as new as a revision that a put told:
    raftmap get greeting --stale --min-revision 17
  Keys that are not text:
    raftmap get --hex 00ff01";

/// Read the value of a key
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Get {
    /// The key
    #[arg(value_name = "KEY")]
    key: OsString,

    #[command(flatten)]
    encoding: Encoding,

    #[command(flatten)]
    freshness: Freshness,

    /// Key, value, revision and expiry as JSON
    #[arg(long)]
    json: bool,
}

/// What a read may miss.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Freshness {
    /// Read what the asked server has applied, which may be behind; else the read sees every write that was
    /// acknowledged before it
    #[arg(long)]
    pub(crate) stale: bool,

    /// Wait until the server has applied this revision
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    pub(crate) min_revision: u64,
}

impl Request for Get {
    const WRITES: bool = false;

    async fn send(self, to: &Connection) -> Result<(), Failure> {
        let key = self.encoding.decode("KEY", &self.key)?;
        let get = to.client().await?.get(key.clone()).min_revision(self.freshness.min_revision);
        let get = if self.freshness.stale { get.stale() } else { get };
        let Some(entry) = get.await.map_err(Failure::of_read)? else {
            return Err(Failure::NotAsExpected(format!("no such key: {}", self.encoding.show(&key))));
        };
        if self.json {
            return output::json(&self.encoding.entry(&entry, true));
        }
        let mut bytes = self.encoding.encode(&entry.value).to_vec();
        if to.is_shell() || std::io::stdout().is_terminal() {
            bytes.push(b'\n');
        }
        output::bytes(&bytes)
    }
}
