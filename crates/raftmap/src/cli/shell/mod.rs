//! `raftmap shell`: commands on a connection that stays.
//!
//! | module | what it is |
//! |---|---|
//! | `commands` | a line as a command: those of the same names that can be run by themselves |
//! | `script` | lines from a file or a pipe |
//! | `prompt` | lines from a terminal, with history |
//! | `complete` | what may stand where the cursor is |

mod commands;
mod complete;
mod prompt;
mod script;

use std::io::{IsTerminal, stdin, stdout};

use clap::Args;

use self::commands::Commands;
use super::connect::ConnectArgs;
use super::exit::{self, Failure};

const EXAMPLES: &str = "\
Examples:
  On a terminal; Tab completes commands, options and keys, the arrows go through the history:
    raftmap shell
    shop> put greeting 'hello world'
    shop> get greeting --json
    shop> help scan
  Commands from a file, up to the first that fails; or all of them:
    raftmap shell < commands
    raftmap shell --keep-going < commands";

/// Run commands at a prompt, or from standard input, on one connection
///
/// Commands are get, put, del, cas, scan, status and members (as `member list`), with the options, output and messages that
/// they have by themselves; help and quit. Words are quoted as in a shell ('...', \"...\", \\); a # begins a comment. Ctrl-C leaves a line
/// or breaks off a request, Ctrl-D quits.
///
/// The history is in ~/.local/state/raftmap/history (or XDG_STATE_HOME), which its owner alone can read. Lines that begin with a
/// space are not kept.
///
/// Without a terminal, lines are read from standard input; the first command that fails ends the shell with its exit code.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Shell {
    /// Without a terminal: go on after a command that failed. The shell still ends with the exit code of the first one
    #[arg(long)]
    keep_going: bool,

    /// Neither read the history nor add to it
    #[arg(long)]
    no_history: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

impl Shell {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let commands = Commands::new(self.connect)?;
        match stdin().is_terminal() && stdout().is_terminal() {
            true => prompt::run(&commands, self.no_history),
            false => script::run(&commands, self.keep_going),
        }
    }
}
