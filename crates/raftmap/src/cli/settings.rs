//! Where the settings of a server come from: its flags, then the environment, then a file, then what is usual. Each has one name:
//! `--log-mib` is `RAFTMAP_LOG_MIB` is `log-mib`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::{BoolishValueParser, Resettable};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};

use super::exit::Failure;

/// The option that names the file. It is not a setting itself.
pub(crate) const FILE: &str = "config";

/// What clients call by the same names in the same environment, and mean another thing by: a client's own certificate, say.
const OF_CLIENTS: [&str; 4] = ["ca", "cert", "key", "insecure"];

/// Gives every option its variable, unless it has one.
pub(crate) fn with_variables(serve: Command) -> Command {
    serve.mut_args(|arg| {
        let arg = match (arg.get_long(), arg.get_env()) {
            (Some(long), None) if !OF_CLIENTS.contains(&long) => {
                let variable = format!("RAFTMAP_{}", long.to_uppercase().replace('-', "_"));
                arg.env(for_good(variable))
            }
            _ => arg,
        };
        if is_flag(&arg) { arg.value_parser(BoolishValueParser::new()) } else { arg }
    })
}

/// The file that the arguments or the environment name, if they run a server. Whatever else is wrong with them is told later.
pub(crate) fn file_of(raftmap: &Command, arguments: &[OsString]) -> Option<PathBuf> {
    let matches = raftmap.clone().ignore_errors(true).try_get_matches_from(arguments).ok()?;
    matches.subcommand_matches("serve")?.get_one(FILE).cloned()
}

/// Gives every option the value that the file has for it, for want of another one. Names them, too.
///
/// # Errors
/// If the file cannot be read, or says what cannot be set.
pub(crate) fn with_file(mut serve: Command, path: &Path) -> Result<(Command, Vec<String>), Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        Failure::Usage(format!("{}: {}", path.display(), error.to_string().trim_end()))
    })?;
    let mut names = Vec::new();
    for (name, value) in table {
        let unfit = |reason: String| Failure::Usage(format!("{}: {name}: {reason}", path.display()));
        let arg = serve.get_arguments().find(|arg| arg.get_long() == Some(&name) && arg.get_id() != FILE);
        let arg =
            arg.ok_or_else(|| unfit("there is no such setting; see `raftmap serve --help`".to_owned()))?;
        let id = arg.get_id().clone();
        let text = text_of(&value, is_flag(arg)).map_err(unfit)?;
        refused(&serve, arg, &text).map_or(Ok(()), |reason| Err(unfit(reason)))?;
        serve = serve.mut_arg(id, |arg| arg.required(false).default_value(for_good(text)));
        names.push(name);
    }
    Ok((serve, names))
}

/// A value as it would stand on the command line.
fn text_of(value: &toml::Value, is_flag: bool) -> Result<String, String> {
    match value {
        toml::Value::Boolean(whether) if is_flag => Ok(whether.to_string()),
        _ if is_flag => Err("true or false, nothing else".to_owned()),
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        _ => Err("a text or a whole number, nothing else".to_owned()),
    }
}

/// Why the command would not take a value for an option.
fn refused(serve: &Command, arg: &Arg, text: &str) -> Option<String> {
    if is_flag(arg) {
        return None;
    }
    let name = format!("--{}={text}", arg.get_long().unwrap_or_default());
    // What the environment says is judged on its own.
    let alone = serve.clone().mut_args(|arg| arg.env(Resettable::Reset));
    let error = alone.try_get_matches_from(["serve".to_owned(), name]).err()?;
    // That others are missing is no fault of this one.
    let is_its_own = matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue);
    let told = error.to_string();
    is_its_own.then(|| told.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
}

fn is_flag(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// What the definition of arguments holds lives as long as the program. There is little of it, once.
fn for_good(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}
