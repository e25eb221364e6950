//! A line as a command.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use raftmap_client::Client;
use tokio::runtime::Runtime;

use crate::cli::cas::Cas;
use crate::cli::connect::ConnectArgs;
use crate::cli::del::Del;
use crate::cli::exit::Failure;
use crate::cli::get::Get;
use crate::cli::member::List;
use crate::cli::put::Put;
use crate::cli::request::{Connection, Request};
use crate::cli::scan::Scan;
use crate::cli::status::Status;

/// Commands of this shell; `help COMMAND` explains one
#[derive(Parser)]
#[command(multicall = true, help_template = "{about}\n\n{subcommands}")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Get(Get),
    Put(Put),
    Del(Del),
    Cas(Cas),
    Scan(Scan),
    Status(Status),
    Members(List),
    /// End the shell, as Ctrl-D does
    #[command(visible_alias = "exit")]
    Quit,
}

/// What follows a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Line,
    End,
}

/// What runs lines: the connection, and what works for it while a line is typed.
pub(super) struct Commands {
    connection: Connection,
    runtime: Runtime,
}

impl Commands {
    pub(super) fn new(options: ConnectArgs) -> Result<Self, Failure> {
        // One thread of its own: it keeps the connection while this one waits for a line.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
        Ok(Self { connection: Connection::of_shell(options), runtime })
    }

    pub(super) fn options(&self) -> &ConnectArgs {
        self.connection.options()
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(super) async fn client(&self) -> Result<&Client, Failure> {
        self.connection.client().await
    }

    /// What all lines are, and may be.
    pub(super) fn definition() -> clap::Command {
        Line::command()
    }

    /// Runs a line, unless it is interrupted.
    pub(super) fn run(&self, line: &[u8], interrupted: impl Future<Output = ()>) -> Result<Next, Failure> {
        let Some(command) = parse(line)? else { return Ok(Next::Line) };
        self.runtime.block_on(async {
            match command {
                Command::Get(get) => self.send(get, interrupted).await,
                Command::Put(put) => self.send(put, interrupted).await,
                Command::Del(del) => self.send(del, interrupted).await,
                Command::Cas(cas) => self.send(cas, interrupted).await,
                Command::Scan(scan) => self.send(scan, interrupted).await,
                Command::Status(status) => self.send(status, interrupted).await,
                Command::Members(list) => self.send(list, interrupted).await,
                Command::Quit => Ok(Next::End),
            }
        })
    }

    async fn send<R: Request>(
        &self,
        request: R,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Next, Failure> {
        let answered = self.options().explained(request.send(&self.connection));
        tokio::select! {
            biased;
            () = interrupted => Err(broken_off::<R>()),
            answered = answered => answered.map(|()| Next::Line),
        }
    }
}

fn broken_off<R: Request>() -> Failure {
    if !R::WRITES {
        return Failure::Interrupted;
    }
    let message =
        "interrupted: the write may have been applied, or may be later: read before you write again.";
    Failure::OutcomeUnknown(message.to_owned())
}

/// The command of a line; `None`: there is none, or it was a question for help, which is answered.
fn parse(line: &[u8]) -> Result<Option<Command>, Failure> {
    let Some(words) = shlex::bytes::split(line) else {
        return Err(Failure::Usage("a quote is not closed, or nothing follows a backslash".to_owned()));
    };
    let words = words.into_iter().map(OsString::from_vec);
    // As the examples of the help texts have it.
    let words: Vec<OsString> = words.skip_while(|word| word == "raftmap").collect();
    if words.is_empty() {
        return Ok(None);
    }
    let mut definition = Commands::definition();
    let parsed = definition
        .try_get_matches_from_mut(words)
        .and_then(|matches| Line::from_arg_matches(&matches).map_err(|error| error.format(&mut definition)));
    match parsed {
        Ok(line) => Ok(Some(line.command)),
        Err(error) => {
            // It goes where it belongs: help to standard output. If nobody reads that, nothing is lost.
            let _unheard = error.print();
            if error.use_stderr() { Err(Failure::Said(2)) } else { Ok(None) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_all_lines_is_sound() {
        Commands::definition().debug_assert();
    }

    #[test]
    fn a_line_is_the_command_of_that_name() {
        for line in ["get k", "  raftmap get k # the first", "get 'k'", "get -- k"] {
            assert!(matches!(parse(line.as_bytes()), Ok(Some(Command::Get(_)))), "{line}");
        }
        for (line, is_it) in [
            ("put \"a b\" '' --ttl-ms 5", (|it| matches!(it, Command::Put(_))) as fn(&Command) -> bool),
            ("del a b --hex", |it| matches!(it, Command::Del(_))),
            ("cas k v --absent --json", |it| matches!(it, Command::Cas(_))),
            ("scan user: --limit 3", |it| matches!(it, Command::Scan(_))),
            ("status --json", |it| matches!(it, Command::Status(_))),
            ("members", |it| matches!(it, Command::Members(_))),
            ("exit", |it| matches!(it, Command::Quit)),
        ] {
            assert!(parse(line.as_bytes()).unwrap().as_ref().is_some_and(is_it), "{line}");
        }
        for line in ["", "   ", "# nothing", "help", "help put", "get --help"] {
            assert!(matches!(parse(line.as_bytes()), Ok(None)), "{line}");
        }
    }

    #[test]
    fn a_line_that_makes_no_sense_is_refused_as_arguments_are() {
        for line in ["gut k", "get", "get k --endpoints h:1", "put k", "put 'k v", "get k\\"] {
            let failure = parse(line.as_bytes()).err().unwrap();
            assert_eq!(failure.code(), 2, "{line}: {failure}");
        }
    }
}
