//! The command line: one file a command, and what they share.
//!
//! | module | what it is |
//! |---|---|
//! | `exit` | how a command ends: exit codes, and the last line on standard error |
//! | `connect` | the options by which a command reaches a cluster |
//! | `settings` | where the settings of a server come from |
//! | `encoding` | keys and values as arguments and output |
//! | `request` | commands that are a request to a cluster: run by themselves, or at the prompt of `shell` |
//! | `live` | what is shown on a terminal by `top` and `demo` |
//! | the others | a command each |

mod backup;
mod bench;
mod cas;
mod certs;
mod check;
mod completions;
mod config;
mod connect;
mod del;
mod demo;
mod encoding;
mod exit;
mod export;
mod get;
mod import;
mod init;
mod live;
mod member;
mod output;
mod put;
mod recover;
mod request;
mod restore;
mod scan;
mod serve;
mod settings;
mod shell;
mod status;
mod token;
mod top;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::exit::Failure;
use self::request::Once;

const EXAMPLES: &str = "\
Examples:
  A cluster of three servers on this machine, killed and healed before your eyes:
    raftmap demo

  Three machines. Once, anywhere; then copy ca.pem and its own pair to each machine:
    raftmap certs --cluster shop --out certs --server 1=host1 --server 2=host2 --server 3=host3 --client app
  On each machine, with its own --id and the same members:
    raftmap init --cluster shop --data data --id 1 --member 1=host1:7001,host1:7000 \\
      --member 2=host2:7001,host2:7000 --member 3=host3:7001,host3:7000
    raftmap serve --data data --certs certs
  From anywhere:
    export RAFTMAP_ENDPOINTS=host1:7000,host2:7000,host3:7000 RAFTMAP_CERTS=certs RAFTMAP_AS=app
    raftmap put greeting hello
    raftmap get greeting
    raftmap shell
    raftmap status
    raftmap member list";

/// A replicated hash map: three or more servers hold the same map, agree on every change through Raft, and keep each
/// acknowledged write through crashes, power loss and partitions.
#[derive(Parser)]
#[command(name = "raftmap", version, before_help = EXAMPLES, after_help = exit::TABLE)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Certs(certs::Certs),
    Token(token::Token),
    Init(init::Init),
    Serve(Box<serve::Serve>),
    Get(Once<get::Get>),
    Put(Once<put::Put>),
    Del(Once<del::Del>),
    Cas(Once<cas::Cas>),
    Scan(Once<scan::Scan>),
    Import(import::Import),
    Export(export::Export),
    Shell(shell::Shell),
    Status(Once<status::Status>),
    Top(top::Top),
    Member(member::Member),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Check(check::Check),
    Recover(recover::Recover),
    Bench(bench::Bench),
    Demo(demo::Demo),
    Config(config::Config),
    Completions(completions::Completions),
    Man(completions::ManPages),
}

/// Runs what the arguments ask for.
pub(crate) fn main() -> ExitCode {
    // Before anything that might speak TLS. It can only fail if it was installed already, which is as good.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match arguments().and_then(|arguments| run(arguments.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// What all arguments are, and may be.
fn definition() -> clap::Command {
    Arguments::command().mut_subcommand("serve", settings::with_variables)
}

/// The arguments of this process. Ends it, if they ask for help or make no sense.
fn arguments() -> Result<Arguments, Failure> {
    let given: Vec<OsString> = std::env::args_os().collect();
    let mut command = definition();
    if let Some(file) = settings::file_of(&command, &given) {
        let mut read = Ok(());
        command = command.mut_subcommand("serve", |serve| {
            settings::with_file(serve.clone(), &file).map_or_else(
                |failure| {
                    read = Err(failure);
                    serve
                },
                |(serve, _)| serve,
            )
        });
        read?;
    }
    let matches = command.clone().get_matches_from(given);
    Ok(Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit()))
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Certs(certs) => certs.run(),
        Command::Token(token) => token.run(),
        Command::Init(init) => init.run(),
        Command::Serve(serve) => serve.run(),
        Command::Get(get) => get.run(),
        Command::Put(put) => put.run(),
        Command::Del(del) => del.run(),
        Command::Cas(cas) => cas.run(),
        Command::Scan(scan) => scan.run(),
        Command::Import(import) => import.run(),
        Command::Export(export) => export.run(),
        Command::Shell(shell) => shell.run(),
        Command::Status(status) => status.run(),
        Command::Top(top) => top.run(),
        Command::Member(member) => member.run(),
        Command::Backup(backup) => backup.run(),
        Command::Restore(restore) => restore.run(),
        Command::Check(check) => check.run(),
        Command::Recover(recover) => recover.run(),
        Command::Bench(bench) => bench.run(),
        Command::Demo(demo) => demo.run(),
        Command::Config(config) => config.run(),
        Command::Completions(completions) => completions.run(definition()),
        Command::Man(pages) => pages.run(definition()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_all_arguments_is_sound() {
        definition().debug_assert();
    }

    /// What ends in one answer has it as JSON, too.
    #[test]
    fn every_command_with_an_answer_has_it_as_json() {
        let without = ["serve", "top", "shell", "completions", "man", "help"];
        fn leaves(command: &clap::Command) -> Vec<&clap::Command> {
            let mut below = command.get_subcommands().peekable();
            if below.peek().is_none() { vec![command] } else { below.flat_map(leaves).collect() }
        }
        let raftmap = definition();
        for command in leaves(&raftmap) {
            let has_json = command.get_arguments().any(|arg| arg.get_long() == Some("json"));
            assert_eq!(has_json, !without.contains(&command.get_name()), "{}", command.get_name());
        }
    }

    #[test]
    fn every_help_text_opens_with_examples() {
        let mut raftmap = definition();
        raftmap.build();
        for command in std::iter::once(&raftmap).chain(raftmap.get_subcommands()) {
            let mut command = command.clone();
            if command.get_name() != "help" {
                let help = command.render_long_help().to_string();
                assert!(help.starts_with("Examples:\n"), "{}: {help}", command.get_name());
            }
        }
    }
}
