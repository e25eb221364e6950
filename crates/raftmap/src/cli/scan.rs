//! `raftmap scan`.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};

use bytes::Bytes;
use clap::Args;
use raftmap_client::{Client, Entry, Page, Pages, Scan as Call};

use super::encoding::Encoding;
use super::exit::{self, Failure};
use super::get::Freshness;
use super::output;
use super::request::{Connection, Request};

const EXAMPLES: &str = "\
Examples:
  All entries, in key order, key and value separated by a tab; what is not text is escaped:
    raftmap scan
  Those whose keys begin with user:, and a range from a to below c, last key first:
    raftmap scan user:
    raftmap scan --start a --end c --reverse --limit 10
  With revisions and expiries, for programs; `raftmap export` makes files of many entries:
    raftmap scan user: --json";

/// List the entries of a range in key order, all at one revision
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Scan {
    #[command(flatten)]
    range: RangeArgs,

    /// At most so many entries
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// From the last key to the first
    #[arg(long)]
    reverse: bool,

    /// Keys without values
    #[arg(long)]
    keys_only: bool,

    #[command(flatten)]
    encoding: Encoding,

    #[command(flatten)]
    freshness: Freshness,

    /// An entry a line as JSON, with its revision
    #[arg(long)]
    json: bool,
}

/// Which entries.
#[derive(Args)]
pub(crate) struct RangeArgs {
    /// Only keys that begin with this
    #[arg(value_name = "PREFIX", conflicts_with_all = ["start", "end"])]
    prefix: Option<OsString>,

    /// From this key on, it included
    #[arg(long, value_name = "KEY")]
    start: Option<OsString>,

    /// Up to this key, it excluded
    #[arg(long, value_name = "KEY")]
    end: Option<OsString>,
}

/// The same, as bytes.
#[derive(Clone)]
pub(crate) struct Range {
    prefix: Option<Bytes>,
    start: Bytes,
    end: Bytes,
}

impl RangeArgs {
    pub(crate) fn range(&self, encoding: Encoding) -> Result<Range, Failure> {
        let key = |what: &str, argument: &Option<OsString>| -> Result<Option<Bytes>, Failure> {
            argument.as_deref().map(|key| encoding.decode(what, key)).transpose()
        };
        Ok(Range {
            prefix: key("PREFIX", &self.prefix)?,
            start: key("--start", &self.start)?.unwrap_or_default(),
            end: key("--end", &self.end)?.unwrap_or_default(),
        })
    }
}

impl Range {
    /// A scan of these entries, which has not begun.
    pub(crate) fn scan<'a>(&self, client: &'a Client) -> Call<'a> {
        match &self.prefix {
            Some(prefix) => client.scan().prefix(prefix.clone()),
            None => client.scan().start(self.start.clone()).end(self.end.clone()),
        }
    }
}

impl Request for Scan {
    const WRITES: bool = false;

    async fn send(self, to: &Connection) -> Result<(), Failure> {
        let range = self.range.range(self.encoding)?;
        let mut pages = self.open(to.client().await?, &range).await?;
        let mut out = BufWriter::new(io::stdout().lock());
        while let Some(page) = pages.next_page().await.map_err(Failure::of_read)? {
            self.write(&mut out, &page).map_err(output::failure)?;
        }
        out.flush().map_err(output::failure)
    }
}

impl Scan {
    async fn open(&self, client: &Client, range: &Range) -> Result<Pages, Failure> {
        let mut scan =
            range.scan(client).limit(self.limit.unwrap_or(0)).min_revision(self.freshness.min_revision);
        if self.reverse {
            scan = scan.reverse();
        }
        if self.keys_only {
            scan = scan.keys_only();
        }
        if self.freshness.stale {
            scan = scan.stale();
        }
        scan.await.map_err(Failure::of_read)
    }

    fn write(&self, out: &mut impl Write, page: &Page) -> io::Result<()> {
        for entry in &page.entries {
            if self.json {
                writeln!(out, "{}", self.encoding.entry(entry, !self.keys_only))?;
            } else {
                self.write_line(out, entry)?;
            }
        }
        out.flush()
    }

    fn write_line(&self, out: &mut impl Write, entry: &Entry) -> io::Result<()> {
        let key = self.encoding.show(&entry.key);
        if self.keys_only {
            return writeln!(out, "{key}");
        }
        writeln!(out, "{key}\t{}", self.encoding.show(&entry.value))
    }
}
