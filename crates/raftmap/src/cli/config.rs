//! `raftmap config`.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Subcommand};
use serde::Serialize;
use serde_json::json;

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

    /// The same as JSON
    #[arg(long)]
    json: bool,
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
        let settings = in_force(&serve, &matches, &of_file);
        if !self.json {
            output::line(output::aligned(&table(&settings)).trim_end())?;
        }
        let verdict = Serve::from_arg_matches(&matches).map_err(refused)?.check()?;
        match self.json {
            true => output::json(&json!({ "settings": settings, "verdict": verdict })),
            false => output::line(&verdict),
        }
    }
}

/// A setting, and where its value comes from.
#[derive(Serialize)]
struct Setting {
    name: String,
    /// `null`: there is none.
    value: Option<String>,
    /// The variable, or the file; `null`: it is what is usual.
    from: Option<String>,
}

fn in_force(serve: &Command, matches: &ArgMatches, of_file: &[String]) -> Vec<Setting> {
    let setting = |arg: &Arg| {
        let long = arg.get_long().filter(|_| arg.get_id() != settings::FILE)?;
        let id = arg.get_id().as_str();
        let values: Vec<_> =
            matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy()).collect();
        let from = match matches.value_source(id) {
            Some(ValueSource::EnvVariable) => arg.get_env().map(|name| name.to_string_lossy().into_owned()),
            Some(_) if of_file.iter().any(|name| name == long) => Some("the file".to_owned()),
            _ => None,
        };
        let value = (!values.is_empty()).then(|| values.join(","));
        Some(Setting { name: long.to_owned(), value, from })
    };
    serve.get_arguments().filter_map(setting).collect()
}

fn table(settings: &[Setting]) -> Vec<[String; 3]> {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "–".to_owned());
    let rows = settings
        .iter()
        .map(|setting| [setting.name.clone(), or_none(&setting.value), or_none(&setting.from)]);
    std::iter::once(["SETTING", "VALUE", "FROM"].map(str::to_owned)).chain(rows).collect()
}
