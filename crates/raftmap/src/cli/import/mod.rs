//! `raftmap import`.
//!
//! Of each key, only its last line is ever written. So all writes of one key, from however many runs over the same file,
//! are one and the same: a run that is killed may leave writes on their way, and however late they arrive, they change
//! nothing that a later run has written. That is why the file is read twice: once to check every line and to find the
//! last of each key, before anything is written, and once to write.

mod last_lines;
mod lines;

use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use futures::stream::{self, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use raftmap_client::{Client, Error};
use serde_json::json;

use self::last_lines::LastLines;
use self::lines::{Format, Line, Lines};
use super::connect::{ConnectArgs, block_on_all_cores};
use super::exit::{self, Failure};
use super::output;

const EXAMPLES: &str = "\
Examples:
  Lines of key, tab, value:
    raftmap import prices.tsv
  Lines of JSON, as `raftmap scan --json` writes them, such as {\"key\": \"greeting\", \"value\": \"hello\"}:
    raftmap import map.jsonl";

/// Set a key to a value for every line of a file
///
/// The last line of a key wins. All lines are checked before anything is written. An import that was interrupted, by
/// whatever, is simply run again: then the map holds exactly what the file says, for all keys that it names. The file is
/// read twice and must not change meanwhile; 50 bytes of memory are needed for each key.
///
/// Tab-separated: a line is a key, a tab and the value, byte for byte, up to the line's end (LF or CRLF); nothing is
/// escaped, and empty lines are skipped. JSON: `key` or `key_base64` or `key_hex`, and the same for `value`.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Import {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// What its lines are [default: jsonl for names that end with .jsonl, .ndjson or .json, else tsv]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Requests in flight at once; each carries up to 64 lines or 64 KiB
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: u16,

    /// The counts as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Lines of one request.
const BATCH_LINES_MAX: usize = 64;
/// Keys and values of one request, in bytes; one line always may.
const BATCH_BYTES_MAX: usize = 64 << 10;

impl Import {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let format = self.format.unwrap_or_else(|| Format::of_path(&self.file));
        let mut file = open(&self.file)?;
        let last_lines = LastLines::read(Lines::new(BufReader::new(&file), format), fastrand::u64(..))
            .map_err(|error| self.malformed(&error))?;
        file.rewind().map_err(|error| Failure::io("read again", &self.file, &error))?;

        let began = Instant::now();
        let bar = progress_bar(last_lines.keys());
        block_on_all_cores(async {
            let client = self.connect.client().await?;
            let lines = Lines::new(BufReader::new(&file), format);
            self.write(&client, lines, &last_lines, &bar).await
        })?;
        bar.finish_and_clear();
        let seconds = began.elapsed().as_secs_f64();
        let (keys, lines) = (last_lines.keys(), last_lines.lines());
        if self.json {
            return output::json(&json!({ "lines": lines, "keys": keys, "seconds": seconds }));
        }
        output::line(&format!(
            "imported {keys} keys from {lines} lines, of which {} were replaced by later ones, in {seconds:.2} s",
            lines - keys
        ))
    }

    async fn write(
        &self,
        client: &Client,
        lines: Lines<BufReader<&File>>,
        last_lines: &LastLines,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let mut check = last_lines.check();
        let batches = Batches { lines: lines.filter(|line| check.is_last(line)), next: None };
        let writes = batches.map(|batch| async {
            match batch {
                Ok(batch) => write_batch(client, batch).await,
                // All lines were well-formed a moment ago.
                Err(error) => Err(self.changed(&format!(" ({error})"))),
            }
        });
        let mut writes = stream::iter(writes).buffer_unordered(usize::from(self.in_flight));
        while let Some(written) = writes.next().await {
            bar.inc(written?);
        }
        drop(writes);
        if check.is_complete() {
            return Ok(());
        }
        Err(self.changed(""))
    }

    fn changed(&self, how: &str) -> Failure {
        let file = self.file.display();
        Failure::Failed(format!("{file} changed while it was imported{how}: run the import again"))
    }

    fn malformed(&self, error: &lines::LineError) -> Failure {
        let message = format!("{}, {error}", self.file.display());
        match error.is_malformed() {
            true => Failure::Usage(format!("{message}\nNothing was written.")),
            false => Failure::Failed(message),
        }
    }
}

/// Reads twice, so that it must be a file that stays.
fn open(path: &Path) -> Result<File, Failure> {
    let failed = |error: io::Error| Failure::io("read", path, &error);
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_file() {
        return Ok(file);
    }
    Err(Failure::Usage(format!("{}: must be a regular file, as it is read twice", path.display())))
}

fn progress_bar(keys: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} keys, {per_sec}, {eta} left");
    ProgressBar::new(keys).with_style(style.expect("the template is well-formed"))
}

/// Lines of distinct keys, in requests.
struct Batches<I> {
    lines: I,
    next: Option<Line>,
}

impl<I: Iterator<Item = Result<Line, lines::LineError>>> Iterator for Batches<I> {
    type Item = Result<Vec<Line>, lines::LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch: Vec<Line> = Vec::new();
        let mut bytes = 0;
        loop {
            let line = match self.next.take().map(Ok).or_else(|| self.lines.next()) {
                Some(Ok(line)) => line,
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            };
            let line_bytes = line.key.len() + line.value.len();
            if !batch.is_empty() && (batch.len() == BATCH_LINES_MAX || bytes + line_bytes > BATCH_BYTES_MAX) {
                self.next = Some(line);
                break;
            }
            bytes += line_bytes;
            batch.push(line);
        }
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

/// Writes some lines, and says how many.
async fn write_batch(client: &Client, batch: Vec<Line>) -> Result<u64, Failure> {
    let entries = batch.iter().map(|line| (line.key.clone(), line.value.clone()));
    let error = match client.put_many(entries).await {
        Ok(_) => return Ok(batch.len() as u64),
        Err(error) => error,
    };
    // The request was refused as a whole: which line is to blame?
    if matches!(Failure::from(error.clone()), Failure::Usage(_)) && batch.len() > 1 {
        for line in &batch {
            if let Err(error) = client.put(line.key.clone(), line.value.clone()).await {
                return Err(failure(&error, line));
            }
        }
        return Ok(batch.len() as u64);
    }
    Err(failure(&error, &batch[0]))
}

fn failure(error: &Error, line: &Line) -> Failure {
    let message = format!("line {}: {error}", line.number);
    match Failure::from(error.clone()) {
        Failure::Usage(_) => Failure::Usage(format!(
            "{message}\nOther lines were written: correct this one and run the import again."
        )),
        Failure::OutcomeUnknown(_) => Failure::OutcomeUnknown(format!(
            "{message}\nRun the import again: it may write a line twice without harm."
        )),
        _ => Failure::Failed(format!("{message}\nSome lines were written: run the import again.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(text: &str) -> Vec<Vec<u64>> {
        let lines = Lines::new(text.as_bytes(), Format::Tsv);
        let batches = Batches { lines, next: None };
        batches.map(|batch| batch.unwrap().iter().map(|line| line.number).collect()).collect()
    }

    #[test]
    fn batches_end_at_their_limits_and_lose_no_line() {
        let short: String = (0..150).map(|n| format!("k{n}\tv\n")).collect();
        let numbers = batches(&short);
        assert_eq!(numbers.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 22]);
        assert_eq!(numbers.concat(), (1..=150).collect::<Vec<_>>());

        let large = "v".repeat(BATCH_BYTES_MAX);
        assert_eq!(batches(&format!("a\tv\nb\t{large}\nc\tv\n")), [[1], [2], [3]]);
    }
}
