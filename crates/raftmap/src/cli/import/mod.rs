//! `raftmap import`.
//!
//! Of each key, only its last line is ever written. So all writes of one key, from however many runs over the same file,
//! are one and the same: a run that is killed may leave writes on their way, and however late they arrive, they change
//! nothing that a later run has written. That is why the file is read twice: once to check every line and to find the
//! last of each key, before anything is written, and once to write. And that is why a run may go on where an earlier one
//! stopped: `progress` says how far everything was acknowledged.

mod batches;
mod hashed;
mod last_lines;
pub(super) mod lines;
mod progress;

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use futures::stream::{self, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use raftmap_client::Client;
use serde_json::json;

use self::batches::{Batches, write_batch};
use self::hashed::Hashed;
use self::last_lines::LastLines;
use self::lines::{Format, Line, Lines};
use self::progress::{Bound, Progress, ProgressError};
use super::connect::{ConnectArgs, block_on_all_cores};
use super::exit::{self, Failure};
use super::output;

const EXAMPLES: &str = "\
Examples:
  Lines of key, tab, value:
    raftmap import prices.tsv
  Lines of JSON, as `raftmap export` writes them, such as {\"key\": \"greeting\", \"value\": \"hello\"}:
    raftmap import map.jsonl
  After an import that broke off the same again: it goes on. Or all of it anew:
    raftmap import prices.tsv --restart";

/// Set a key to a value for every line of a file
///
/// The last line of a key wins. All lines are checked before anything is written. An import that was interrupted, by
/// whatever, is simply run again: it goes on where everything before was acknowledged, and then the map holds exactly what the
/// file says, for all keys that it names, but for lines whose time is over. How far it has come stands in FILE.progress until it is through, with a hash of the
/// file and the id of the cluster: if one of them is another one, or the map has lost what was written, it refuses to go on. The file is
/// read twice and must not change meanwhile; 50 bytes of memory are needed for each key.
///
/// Tab-separated: a line is a key, a tab and the value, byte for byte, up to the line's end (LF or CRLF); nothing is
/// escaped, and empty lines are skipped. JSON: `key` or `key_base64` or `key_hex`, and the same for `value`. Lines whose
/// `expires_at_ms` (Unix time) has passed by this machine's clock are left out, and others expire then.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Import {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// What its lines are [default: jsonl for names that end with .jsonl, .ndjson or .json, else tsv]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Where to note how far it has come [default: FILE.progress]
    #[arg(long, value_name = "FILE")]
    progress: Option<PathBuf>,

    /// Write all lines, whatever an earlier import of the file has written
    #[arg(long)]
    restart: bool,

    /// Requests in flight at once; each carries up to 64 lines or 64 KiB
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: u16,

    /// The counts as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// What became of an import.
#[derive(Default)]
struct Counts {
    /// Keys that an earlier import had written.
    skipped: u64,
    /// Keys that this one has written, or left out because their time is over.
    done: u64,
    expired: u64,
}

/// Why an import ended before its end.
enum Stop {
    /// The file is not the one any more that was checked; how that was seen, if there is more to say.
    Changed(String),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Import {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let format = self.format.unwrap_or_else(|| Format::of_path(&self.file));
        let mut file = open(&self.file)?;
        let mut content = Hashed::new(&file);
        let last_lines = LastLines::read(Lines::new(&mut content, format), fastrand::u64(..))
            .map_err(|error| self.malformed(&error))?;
        let content = content.digest();
        file.rewind().map_err(|error| Failure::io("read again", &self.file, &error))?;

        let began = Instant::now();
        let counts = block_on_all_cores(async {
            let client = self.connect.client().await?;
            let members = client.members().await.map_err(Failure::of_read)?;
            let mut progress = self.progress(&Bound::new(content, format, &members))?;
            if let Some(progress) = &progress {
                progress.recognize(&client).await?;
            }
            let mut source = Hashed::new(&file);
            let written = self.write(&client, &mut source, format, &last_lines, progress.as_mut()).await;
            let written = match written {
                Ok(_) if source.digest() != content => Err(Stop::Changed(String::new())),
                written => written,
            };
            if let Some(progress) = progress {
                keep(progress, &written)?;
            }
            written.map_err(|stop| self.failure(stop))
        })?;
        self.report(&last_lines, &counts, began.elapsed().as_secs_f64())
    }

    /// Where it is noted how far the import has come. Beside a file in a folder that nobody may write to there is no place for that.
    fn progress(&self, bound: &Bound) -> Result<Option<Progress>, Failure> {
        let path = self.progress.clone().unwrap_or_else(|| {
            let mut name = self.file.clone().into_os_string();
            name.push(".progress");
            name.into()
        });
        match Progress::open(&path, bound, self.restart) {
            Err(ProgressError::Io("open", path, error))
                if self.progress.is_none() && is_forbidden(&error) =>
            {
                eprintln!(
                    "raftmap: cannot make {}: {error}; an import that breaks off begins anew (--progress chooses another place)",
                    path.display()
                );
                Ok(None)
            }
            opened => Ok(Some(opened?)),
        }
    }

    async fn write(
        &self,
        client: &Client,
        source: &mut Hashed<&File>,
        format: Format,
        last_lines: &LastLines,
        mut progress: Option<&mut Progress>,
    ) -> Result<Counts, Stop> {
        let through = progress.as_ref().map_or(0, |progress| progress.through());
        let mut counts = Counts { skipped: last_lines.keys_through(through), ..Counts::default() };
        if counts.skipped > 0 {
            eprintln!(
                "raftmap: goes on behind line {through}, where an earlier import stopped: skips {} keys",
                counts.skipped
            );
        }
        let bar = progress_bar(last_lines.keys(), counts.skipped);
        let mut check = last_lines.check();
        let lines = Lines::new(source, format);
        let is_done = |line: &Result<Line, _>| line.as_ref().is_ok_and(|line| line.number <= through);
        let batches = Batches::of(lines.filter(|line| check.is_last(line) && !is_done(line)));
        let writes = (0..).zip(batches).map(|(request, batch)| async move {
            match batch {
                Ok(batch) => Ok(write_batch(client, request, batch).await?),
                // All lines were well-formed a moment ago.
                Err(error) => Err(Stop::Changed(format!(" ({error})"))),
            }
        });
        let mut writes = stream::iter(writes).buffer_unordered(usize::from(self.in_flight));
        while let Some(written) = writes.next().await {
            let written = written?;
            if let Some(progress) = progress.as_deref_mut() {
                progress.acknowledge(&written).map_err(|error| noted(&error))?;
            }
            counts.done += written.lines;
            counts.expired += written.expired;
            bar.inc(written.lines);
        }
        drop(writes);
        bar.finish_and_clear();
        if check.is_complete() { Ok(counts) } else { Err(Stop::Changed(String::new())) }
    }

    fn report(&self, last_lines: &LastLines, counts: &Counts, seconds: f64) -> Result<(), Failure> {
        let (keys, lines) = (last_lines.keys(), last_lines.lines());
        let Counts { skipped, done, expired } = counts;
        let written = done - expired;
        if self.json {
            return output::json(&json!({
                "lines": lines,
                "keys": keys,
                "written": written,
                "skipped": skipped,
                "expired": expired,
                "seconds": seconds,
            }));
        }
        let mut text = format!(
            "imported {written} keys from {lines} lines, of which {} were replaced by later ones, in {seconds:.2} s",
            lines - keys
        );
        if *skipped > 0 {
            text.push_str(&format!("; {skipped} keys were skipped: an earlier import had written them"));
        }
        if *expired > 0 {
            text.push_str(&format!("; {expired} keys were left out: their time is over"));
        }
        output::line(&text)
    }

    fn failure(&self, stop: Stop) -> Failure {
        match stop {
            Stop::Failed(failure) => failure,
            Stop::Changed(how) => {
                let file = self.file.display();
                Failure::Failed(format!("{file} changed while it was imported{how}: run the import again"))
            }
        }
    }

    fn malformed(&self, error: &lines::LineError) -> Failure {
        let message = format!("{}, {error}", self.file.display());
        match error.is_malformed() {
            true => Failure::Usage(format!("{message}\nNothing was written.")),
            false => Failure::Failed(message),
        }
    }
}

/// Notes how far the import has come, if there is anything to go on from.
fn keep(mut progress: Progress, written: &Result<Counts, Stop>) -> Result<(), Failure> {
    match written {
        // What was malformed must be corrected, and the file is another one then.
        Ok(_) | Err(Stop::Changed(_) | Stop::Failed(Failure::Usage(_))) => progress.remove(),
        Err(Stop::Failed(_)) => {
            // Without this mark the one before counts.
            let _fewer_are_skipped = progress.write();
            Ok(())
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

/// Whether a file cannot be made because of where it would be.
fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn noted(error: &io::Error) -> Failure {
    Failure::Failed(format!(
        "cannot note how far the import has come: {error}\nSome lines were written: run the import again, perhaps with \
         --progress in another place."
    ))
}

fn progress_bar(keys: u64, skipped: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} keys, {per_sec}, {eta} left");
    let bar = ProgressBar::new(keys).with_style(style.expect("the template is well-formed"));
    bar.with_position(skipped)
}
