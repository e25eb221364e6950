//! `raftmap config`.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};

use super::exit::{self, Failure};
use super::serve::Serve;
use super::{output, settings};

const EXAMPLES: &str = "\
Examples:
  What a server would do with a file, before it does:
    raftmap config check raftmap.toml
  Such a file has the names of the options of `raftmap serve`:
    data = \"/var/lib/raftmap\"
    certs = \"/etc/raftmap/certs\"
    log-format = \"json\"
    log-mib = 128";

/// Look at the settings of a server
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Config {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Subcommand)]
enum Commands {
    Check(Check),
}

/// Say whether a file of settings is sound, and what holds then
///
/// Prints every setting with where it comes from: the environment, the file, or what is usual. Certificates are looked at as the server
/// would, if its data directory is there. Starts and changes nothing.
#[derive(Args)]
struct Check {
    /// The file, as `raftmap serve --config` takes it
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Config {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let Commands::Check(check) = self.command;
        check.run()
    }
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        let serve = settings::with_variables(Serve::augment_args(Command::new("serve")));
        let (serve, of_file) = settings::with_file(serve, &self.file)?;
        let refused = |error: clap::Error| {
            let told = error.to_string();
            Failure::Usage(
                told.split("\n\nUsage").next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
            )
        };
        let matches = serve.clone().try_get_matches_from(["serve"]).map_err(refused)?;
        output::line(output::aligned(&table(&serve, &matches, &of_file)).trim_end())?;
        let server = Serve::from_arg_matches(&matches).map_err(refused)?.check()?;
        output::line(&server)
    }
}

/// Each setting, its value, and where that comes from.
fn table(serve: &Command, matches: &ArgMatches, of_file: &[String]) -> Vec<[String; 3]> {
    let mut rows = vec![["SETTING", "VALUE", "FROM"].map(str::to_owned)];
    for arg in serve.get_arguments() {
        let Some(long) = arg.get_long().filter(|_| arg.get_id() != settings::FILE) else { continue };
        let id = arg.get_id().as_str();
        let values: Vec<_> =
            matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy()).collect();
        let from = match matches.value_source(id) {
            Some(ValueSource::EnvVariable) => {
                arg.get_env().unwrap_or_default().to_string_lossy().into_owned()
            }
            Some(_) if of_file.iter().any(|name| name == long) => "the file".to_owned(),
            _ => "–".to_owned(),
        };
        let value = if values.is_empty() { "–".to_owned() } else { values.join(",") };
        rows.push([long.to_owned(), value, from]);
    }
    rows
}
