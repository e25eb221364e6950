//! `raftmap cas`.

use std::ffi::OsString;

use clap::Args;
use raftmap_client::{Entry, Expected, Swap};
use serde_json::json;

use super::encoding::Encoding;
use super::exit::{self, Failure};
use super::output;
use super::put::ValueArgs;
use super::request::{Connection, Request};

const EXAMPLES: &str = "\
Examples:
  Set a key only if nobody has:
    raftmap cas leader me --absent
  Change what was read, unless somebody else did meanwhile:
    raftmap get counter --json          # value 41, revision 17
    raftmap cas counter 42 --revision 17
  By value:
    raftmap cas state closed --expect open";

/// Set a key to a value if it is as expected, in one atomic step
///
/// Ends with code 4 if it is not, and says what is there.
#[derive(Args)]
#[command(
    before_help = EXAMPLES,
    after_help = exit::TABLE,
    override_usage = "raftmap cas [OPTIONS] <KEY> <VALUE|--file FILE> \
        <--absent|--present|--revision REVISION|--expect VALUE>"
)]
pub(crate) struct Cas {
    /// The key
    #[arg(value_name = "KEY")]
    key: OsString,

    #[command(flatten)]
    value: ValueArgs,

    #[command(flatten)]
    expected: ExpectedArgs,

    #[command(flatten)]
    encoding: Encoding,

    /// The outcome as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
#[command(next_help_heading = "The key must be")]
struct ExpectedArgs {
    /// Not there
    #[arg(long)]
    absent: bool,

    /// There, with any value
    #[arg(long)]
    present: bool,

    /// Last set by the write of this revision
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    revision: Option<u64>,

    /// There, with this value
    #[arg(long, value_name = "VALUE")]
    expect: Option<OsString>,
}

impl ExpectedArgs {
    fn expected(&self, encoding: Encoding) -> Result<Expected, Failure> {
        Ok(match (&self.expect, self.revision) {
            (Some(value), _) => Expected::Value(encoding.decode("--expect", value)?),
            (None, Some(revision)) => Expected::Revision(revision),
            (None, None) if self.present => Expected::Present,
            (None, None) => Expected::Absent,
        })
    }
}

impl Request for Cas {
    const WRITES: bool = true;

    async fn send(self, to: &Connection) -> Result<(), Failure> {
        let key = self.encoding.decode("KEY", &self.key)?;
        let value = self.value.read(self.encoding, to)?;
        let expected = self.expected.expected(self.encoding)?;
        match to.client().await?.compare_and_swap(key, expected, value).await? {
            Swap::Done { revision } if self.json => {
                output::json(&json!({ "swapped": true, "revision": revision }))
            }
            Swap::Done { revision } => output::line(&format!("revision {revision}")),
            Swap::Refused { current } => {
                if self.json {
                    let current = self.encoding.entry_or_null(current.as_ref());
                    output::json(&json!({ "swapped": false, "current": current }))?;
                }
                Err(Failure::NotAsExpected(refusal(current.as_ref())))
            }
        }
    }
}

fn refusal(current: Option<&Entry>) -> String {
    match current {
        None => "not applied: the key is not there".to_owned(),
        Some(entry) => format!(
            "not applied: the key is not as expected: revision {}, {} bytes; `raftmap get` shows them",
            entry.revision,
            entry.value.len(),
        ),
    }
}
