//! `raftmap backup`.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use raftmap::backup::{BackupReader, BackupSummary, OutFile};
use raftmap::state::Discarded;
use raftmap_client::{Client, Code, Error};
use serde_json::json;

use super::connect::ConnectArgs;
use super::exit::{self, Failure};
use super::output;

const EXAMPLES: &str = "\
Examples:
    raftmap backup --as operator --out shop.backup
  Every night, the last one kept until the new one is whole:
    raftmap backup --as operator --out shop.backup --force";

/// Write the whole map, at one revision, to a file, while the cluster goes on
///
/// Everything that was acknowledged before the command began is in it, with revisions, expiries and sessions. Any server answers;
/// if it fails on the way, another one is asked, from the beginning. The file is written as FILE.partial and gets its name when
/// it is whole and on disk. Each byte is covered by a checksum: `raftmap restore` refuses a file of which one has changed. An
/// operator's certificate is needed.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Backup {
    /// The file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Replace the file if it is there
    #[arg(long)]
    force: bool,

    /// What was written as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// How often it is begun anew, at whichever server, before the command gives up.
const ATTEMPTS_MAX: u32 = 5;

impl Backup {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let began = Instant::now();
        let mut out = OutFile::create(&self.out, self.force)?;
        let summary = self.connect.block_on(async {
            let client = self.connect.client().await?;
            let mut attempt = 1;
            loop {
                match take(&client, &mut out).await {
                    Err(Stop::Again(reason)) if attempt < ATTEMPTS_MAX => {
                        attempt += 1;
                        eprintln!("raftmap: {reason}; the backup begins anew");
                        out.restart()?;
                    }
                    Err(Stop::Again(reason)) => {
                        return Err(Failure::Failed(format!("no backup after {attempt} attempts: {reason}")));
                    }
                    Err(Stop::Failed(failure)) => return Err(failure),
                    Ok(summary) => return Ok(summary),
                }
            }
        })?;
        out.place()?;
        let seconds = began.elapsed().as_secs_f64();
        report(&self.out, &summary, seconds, self.json)
    }
}

/// Says what was written.
pub(super) fn report(
    out: &std::path::Path,
    summary: &BackupSummary,
    seconds: f64,
    as_json: bool,
) -> Result<(), Failure> {
    let BackupSummary { header, keys, bytes, digest } = summary;
    let (revision, server) = (header.position.index, header.server);
    if as_json {
        return output::json(&json!({
            "file": out,
            "revision": revision.0,
            "keys": keys,
            "bytes": bytes,
            "xxh3": format!("{digest:032x}"),
            "server": server.0,
            "seconds": seconds,
        }));
    }
    output::line(&format!(
        "{}: revision {revision}, {keys} keys, {bytes} bytes, of server {server}, in {seconds:.2} s\nxxh3 {digest:032x}",
        out.display()
    ))
}

/// Why an attempt ended.
enum Stop {
    /// Another one may do better.
    Again(String),
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(failure: E) -> Self {
        Self::Failed(failure.into())
    }
}

async fn take(client: &Client, out: &mut OutFile) -> Result<BackupSummary, Stop> {
    // Until a server has begun one the client itself asks again.
    let mut backup = client.backup().await.map_err(|error| Stop::Failed(refused(error)))?;
    let bar = progress_bar(backup.bytes_expected(), "received");
    let mut reader = BackupReader::new(Discarded);
    let again = |reason: &dyn std::fmt::Display| Stop::Again(format!("the backup broke off: {reason}"));
    loop {
        match backup.next_part().await {
            Ok(Some(part)) => {
                reader.feed(&part).map_err(|error| again(&error))?;
                out.write(&part)?;
                bar.inc(part.len() as u64);
            }
            Ok(None) => {
                bar.finish_and_clear();
                return reader.finish().map(|(summary, _)| summary).map_err(|error| again(&error));
            }
            Err(error) => return Err(again(&error)),
        }
    }
}

fn refused(error: Error) -> Failure {
    let cause = error.cause();
    let message = format!("no backup: {cause}");
    match cause.code {
        Some(Code::DENIED) => {
            Failure::Failed(format!("{message}\nChoose an operator's certificate by --as or RAFTMAP_AS."))
        }
        _ if exit::is_unanswered(cause) => Failure::Unanswered { message, maybe_applied: false },
        _ => Failure::Failed(message),
    }
}

/// How far something is that is about `bytes` long; nothing where nobody looks.
pub(super) fn progress_bar(bytes: u64, done: &str) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = format!("{{bar:40}} {{bytes}} of about {{total_bytes}} {done}, {{bytes_per_sec}}");
    let style = ProgressStyle::with_template(&template);
    ProgressBar::new(bytes).with_style(style.expect("the template is well-formed"))
}
