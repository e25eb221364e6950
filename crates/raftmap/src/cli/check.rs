//! `raftmap check`.

use std::env;
use std::path::PathBuf;

use clap::Args;
use raftmap::stopped::{CheckReport, Finding, StoppedError, check};
use raftmap_log::OpenError;
use serde_json::json;

use super::exit::{self, Failure};
use super::output;

const EXAMPLES: &str = "\
Examples:
    raftmap check data
  For programs:
    raftmap check data --json";

/// Say whether the data directory of a stopped server is whole
///
/// Reads every block of the log and every row of the state machine, and changes nothing. What a crash leaves and the next start
/// makes good by itself is told, and is no damage. Ends with code 6 if something is damaged; with 1 if a server runs on the
/// directory. The state machine is read through links in the folder for temporary files (TMPDIR).
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Check {
    /// The data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// The same as JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let report = check(&self.dir, &env::temp_dir()).map_err(failure)?;
        if self.json {
            output::json(&as_json(&report))?;
        } else {
            for part in &report.parts {
                output::line(&format!("{:<13}  {:<10}  {}", part.name, word(part.finding), part.text))?;
            }
        }
        match report.is_whole() {
            true => Ok(()),
            false => Err(Failure::Damaged(format!("{}: not whole", self.dir.display()))),
        }
    }
}

pub(super) fn failure(error: StoppedError) -> Failure {
    let hint = match &error {
        StoppedError::Open(OpenError::Locked(_)) => ": stop its server first",
        _ => "",
    };
    Failure::Failed(format!("{error}{hint}"))
}

fn word(finding: Finding) -> &'static str {
    match finding {
        Finding::Whole => "whole",
        Finding::Repairable => "repairable",
        Finding::Damaged => "DAMAGED",
    }
}

fn as_json(report: &CheckReport) -> serde_json::Value {
    let parts = report.parts.iter().map(
        |part| json!({ "part": part.name, "finding": word(part.finding).to_lowercase(), "text": part.text }),
    );
    json!({
        "whole": report.is_whole(),
        "applied_index": report.content.map(|(index, _)| index.0),
        "content_digest": report.content.map(|(_, digest)| digest.to_string()),
        "parts": parts.collect::<Vec<_>>(),
    })
}
