//! `raftmap export`.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write, stderr};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use raftmap::backup::{OutFile, OutFileError};
use raftmap_client::{Client, Entry};
use serde_json::{Map, Value, json};

use super::connect::ConnectArgs;
use super::encoding::Encoding;
use super::exit::{self, Failure};
use super::import::lines::Format;
use super::output;
use super::scan::{Range, RangeArgs};

const EXAMPLES: &str = "\
Examples:
  All entries, and their way back, into the same cluster or another one:
    raftmap export --out map.jsonl
    raftmap import map.jsonl
  Those whose keys begin with user:, compressed on the way:
    raftmap export user: | gzip > users.jsonl.gz
  Lines of key, tab, value:
    raftmap export --start price:a --end price:n --out prices.tsv";

/// Write the entries of a range as lines that `raftmap import` reads, all at one revision
///
/// JSON: `key` or `key_base64`, the same for `value`, and `expires_at_ms` (Unix time) of entries that expire. Revisions stay
/// behind: an import gives new ones; `raftmap backup` keeps them. Tab-separated lines say neither an expiry nor a line end within a
/// key or value: an entry that would need it ends the command with code 2.
///
/// A file is written as FILE.partial, for its owner alone, and gets its name when it is whole and on disk. If the server fails on the
/// way, another one is asked, from the beginning. On standard output there is no beginning anew: only code 0 says that all is there.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Export {
    #[command(flatten)]
    range: RangeArgs,

    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Replace the file if it is there
    #[arg(long, requires = "out")]
    force: bool,

    /// What the lines are [default: tsv for files, but for names that end with .jsonl, .ndjson or .json; else jsonl]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    #[command(flatten)]
    encoding: Encoding,

    /// What was written as JSON; on standard error, if the lines are on standard output
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// How often it is begun anew, at whichever server, before the command gives up.
const ATTEMPTS_MAX: u32 = 5;

/// What was written.
#[derive(Default)]
struct Written {
    revision: u64,
    keys: u64,
    bytes: u64,
}

/// Why an attempt ended.
enum Stop {
    /// The scan broke off: another one may do better.
    Again(String),
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(failure: E) -> Self {
        Self::Failed(failure.into())
    }
}

impl Export {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let format = self.format.or(self.out.as_deref().map(Format::of_path)).unwrap_or(Format::Jsonl);
        if format == Format::Tsv && !self.encoding.is_plain() {
            let message = "tab-separated lines have keys and values as they are: --hex and --base64 need --format jsonl";
            return Err(Failure::Usage(message.to_owned()));
        }
        let range = self.range.range(self.encoding)?;
        let began = Instant::now();
        let mut sink = match &self.out {
            Some(path) => Sink::File(OutFile::create(path, self.force)?),
            None => Sink::Out(BufWriter::new(io::stdout())),
        };
        let written = self.connect.block_on(async {
            let client = self.connect.client().await?;
            let mut attempt = 1;
            loop {
                match take(&client, &range, Lines { format, encoding: self.encoding }, &mut sink).await {
                    Ok(written) => return Ok(written),
                    Err(Stop::Failed(failure)) => return Err(failure),
                    Err(Stop::Again(reason)) if attempt < ATTEMPTS_MAX && sink.restart()? => {
                        attempt += 1;
                        eprintln!("raftmap: {reason}; the export begins anew");
                    }
                    Err(Stop::Again(reason)) => return Err(sink.broke_off(&reason)),
                }
            }
        })?;
        sink.finish()?;
        self.report(&written, began.elapsed().as_secs_f64())
    }

    fn report(&self, written: &Written, seconds: f64) -> Result<(), Failure> {
        let Written { revision, keys, bytes } = written;
        let text = if self.json {
            json!({ "file": self.out, "revision": revision, "keys": keys, "bytes": bytes, "seconds": seconds })
                .to_string()
        } else {
            let place = self.out.as_ref().map_or_else(String::new, |path| format!("{}: ", path.display()));
            format!("{place}revision {revision}, {keys} keys, {bytes} bytes, in {seconds:.2} s")
        };
        if self.out.is_some() {
            return output::line(&text);
        }
        eprintln!("{text}");
        Ok(())
    }
}

/// Where the lines go.
enum Sink {
    File(OutFile),
    Out(BufWriter<Stdout>),
}

impl Sink {
    fn write(&mut self, line: &[u8]) -> Result<(), Failure> {
        match self {
            Self::File(file) => Ok(file.write(line)?),
            Self::Out(out) => out.write_all(line).map_err(|error| unwritten(&error)),
        }
    }

    /// Takes back what was written, if that is possible.
    fn restart(&mut self) -> Result<bool, OutFileError> {
        match self {
            Self::File(file) => file.restart().map(|()| true),
            Self::Out(_) => Ok(false),
        }
    }

    /// What it means that the last attempt broke off.
    fn broke_off(&self, reason: &str) -> Failure {
        Failure::Failed(match self {
            Self::File(_) => format!("no export after {ATTEMPTS_MAX} attempts: {reason}"),
            Self::Out(_) => format!("{reason}\nWhat was written is not all: run the export again."),
        })
    }

    fn finish(self) -> Result<(), Failure> {
        match self {
            Self::File(file) => Ok(file.place()?),
            Self::Out(mut out) => out.flush().map_err(|error| unwritten(&error)),
        }
    }
}

/// Whoever reads an export counts on all of it: that he went away is no end in good order, as it is elsewhere.
fn unwritten(error: &io::Error) -> Failure {
    Failure::Failed(format!("standard output: {error}\nWhat was written is not all."))
}

/// Writes all entries of a range, as of one revision.
async fn take(client: &Client, range: &Range, lines: Lines, sink: &mut Sink) -> Result<Written, Stop> {
    // Until a server has begun a scan the client itself asks again.
    let mut pages = range.scan(client).await.map_err(Failure::of_read)?;
    let bar = progress_bar();
    let (mut written, mut line) = (Written::default(), Vec::new());
    loop {
        let page = pages.next_page().await;
        let page = page.map_err(|error| Stop::Again(format!("the export broke off: {}", error.cause())))?;
        let Some(page) = page else { break };
        written.revision = page.revision;
        for entry in &page.entries {
            line.clear();
            lines.write(entry, &mut line)?;
            sink.write(&line)?;
            written.keys += 1;
            written.bytes += line.len() as u64;
        }
        bar.inc(page.entries.len() as u64);
    }
    bar.finish_and_clear();
    Ok(written)
}

/// How far it is; nothing where nobody looks. How many keys there are nobody knows before the last one.
fn progress_bar() -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {human_pos} keys, {per_sec}");
    ProgressBar::no_length().with_style(style.expect("the template is well-formed"))
}

/// Entries as lines.
#[derive(Clone, Copy)]
struct Lines {
    format: Format,
    encoding: Encoding,
}

impl Lines {
    /// Adds an entry's line to `line`.
    fn write(self, entry: &Entry, line: &mut Vec<u8>) -> Result<(), Failure> {
        match self.format {
            Format::Tsv => {
                if let Some(reason) = unsayable(entry) {
                    let key = self.encoding.show(&entry.key);
                    return Err(Failure::Usage(format!(
                        "key {key}: {reason}, which a tab-separated line cannot say: --format jsonl does"
                    )));
                }
                line.extend_from_slice(&entry.key);
                line.push(b'\t');
                line.extend_from_slice(&entry.value);
            }
            Format::Jsonl => {
                let mut object = Map::new();
                self.encoding.add(&mut object, "key", &entry.key);
                self.encoding.add(&mut object, "value", &entry.value);
                if let Some(expires_at_ms) = entry.expires_at_ms {
                    object.insert("expires_at_ms".to_owned(), json!(expires_at_ms));
                }
                line.extend_from_slice(Value::Object(object).to_string().as_bytes());
            }
        }
        line.push(b'\n');
        Ok(())
    }
}

/// What of an entry gets lost in a tab-separated line.
fn unsayable(entry: &Entry) -> Option<&'static str> {
    match () {
        () if entry.expires_at_ms.is_some() => Some("it expires"),
        () if entry.key.contains(&b'\t') => Some("it has a tab"),
        () if entry.key.contains(&b'\n') => Some("it has a line end"),
        () if entry.value.contains(&b'\n') => Some("its value has a line end"),
        // An import takes it for a part of the line's end.
        () if entry.value.ends_with(b"\r") => Some("its value ends with a carriage return"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::import::lines::Lines as ReadLines;
    use super::*;

    fn entry(key: &'static [u8], value: &'static [u8], expires_at_ms: Option<u64>) -> Entry {
        Entry { key: key.into(), value: value.into(), revision: 7, expires_at_ms }
    }

    fn line(format: Format, entry: &Entry) -> Result<Vec<u8>, String> {
        let mut line = Vec::new();
        let written = Lines { format, encoding: Encoding::default() }.write(entry, &mut line);
        written.map(|()| line).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_as_a_line_is_read_back_or_refused() {
        let entries = [
            entry(b"a", b"", None),
            entry("ö\"\\".as_bytes(), b" \\n\t ", None),
            entry(b"\xff\0", &[0, 255, b'\r', 1], None),
            entry(b"\r", b"\r\r1", None),
            entry(b"tab\t", b"1", None),
            entry(b"line\n", b"1", None),
            entry(b"k", b"1\n2", None),
            entry(b"k", b"1\r", None),
            entry(b"k", b"1", Some(1_900_000_000_000)),
        ];
        for (format, sayable) in [(Format::Tsv, 4), (Format::Jsonl, entries.len())] {
            for (place, entry) in entries.iter().enumerate() {
                let line = line(format, entry);
                assert_eq!(line.is_ok(), place < sayable, "{format:?} {entry:?} {line:?}");
                let Ok(line) = line else { continue };
                let read: Vec<_> = ReadLines::new(&line[..], format).map(Result::unwrap).collect();
                let [read] = &read[..] else { panic!("{format:?} {entry:?}: {read:?}") };
                assert_eq!(
                    (&read.key, &read.value, read.expires_at_ms),
                    (&entry.key, &entry.value, entry.expires_at_ms),
                    "{format:?}"
                );
            }
        }
    }

    #[test]
    fn an_entry_that_no_line_can_say_is_named() {
        let error = line(Format::Tsv, &entry(b"photo", b"\n", None)).unwrap_err();
        assert!(error.contains("key photo: its value has a line end") && error.contains("jsonl"), "{error}");
    }
}
