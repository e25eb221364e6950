//! `raftmap put`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::{Map, json};

use super::encoding::Encoding;
use super::exit::{self, Failure};
use super::output;
use super::request::{Connection, Request};

const EXAMPLES: &str = "\
Examples:
    raftmap put greeting hello
  From a file, or from standard input, byte for byte:
    raftmap put photo --file photo.jpg
    date | raftmap put now -
  Gone after a minute:
    raftmap put lock me --ttl-ms 60000
  Bytes that are not text:
    raftmap put --hex 00ff01 cafe";

/// Set a key to a value
///
/// When it has ended with code 0, the value is on disk on a majority of the servers.
#[derive(Args)]
#[command(
    before_help = EXAMPLES,
    after_help = exit::TABLE,
    override_usage = "raftmap put [OPTIONS] <KEY> <VALUE|--file FILE>"
)]
pub(crate) struct Put {
    /// The key
    #[arg(value_name = "KEY")]
    key: OsString,

    #[command(flatten)]
    value: ValueArgs,

    #[command(flatten)]
    encoding: Encoding,

    /// Let the key expire after so many milliseconds
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    ttl_ms: Option<u64>,

    /// The revision as JSON, and what stood there before
    #[arg(long)]
    json: bool,
}

/// Where a value comes from.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ValueArgs {
    /// The value; - reads it from standard input
    #[arg(value_name = "VALUE")]
    value: Option<OsString>,

    /// Read the value from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// No server takes larger values, whatever its flags say.
const VALUE_BYTES_MAX: u64 = 64 << 20;

impl ValueArgs {
    /// The value. What comes from a file or from standard input is taken as it is.
    pub(crate) fn read(&self, encoding: Encoding, to: &Connection) -> Result<Bytes, Failure> {
        let limited = |source: &mut dyn Read, name: &str| {
            let mut bytes = Vec::new();
            let read = source.take(VALUE_BYTES_MAX + 1).read_to_end(&mut bytes);
            read.map_err(|error| Failure::Failed(format!("cannot read {name}: {error}")))?;
            if bytes.len() as u64 > VALUE_BYTES_MAX {
                return Err(Failure::Usage(format!("{name}: a value has at most {VALUE_BYTES_MAX} bytes")));
            }
            Ok(Bytes::from(bytes))
        };
        match (&self.value, &self.file) {
            (Some(value), _) if value == "-" && to.is_shell() => {
                let message = "here standard input has commands: --file FILE reads a value";
                Err(Failure::Usage(message.to_owned()))
            }
            (Some(value), _) if value == "-" => limited(&mut io::stdin().lock(), "standard input"),
            (Some(value), _) => encoding.decode("VALUE", value),
            (None, Some(path)) => {
                let mut file = fs::File::open(path).map_err(|error| Failure::io("read", path, &error))?;
                limited(&mut file, &path.display().to_string())
            }
            (None, None) => Err(Failure::Usage("which value? VALUE, - or --file FILE".to_owned())),
        }
    }
}

impl Request for Put {
    const WRITES: bool = true;

    async fn send(self, to: &Connection) -> Result<(), Failure> {
        let key = self.encoding.decode("KEY", &self.key)?;
        let value = self.value.read(self.encoding, to)?;
        let mut put = to.client().await?.put(key, value);
        if let Some(ttl_ms) = self.ttl_ms {
            put = put.ttl(Duration::from_millis(ttl_ms));
        }
        let written = if self.json { put.return_previous().await } else { put.await }?;
        if !self.json {
            return output::line(&format!("revision {}", written.revision));
        }
        let mut object = Map::new();
        object.insert("revision".to_owned(), json!(written.revision));
        object.insert("previous".to_owned(), self.encoding.entry_or_null(written.previous.as_ref()));
        output::json(&object.into())
    }
}
