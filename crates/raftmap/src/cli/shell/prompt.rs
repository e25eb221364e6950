//! Lines from a terminal.

use std::env;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::pin::pin;

use futures::FutureExt;
use raftmap::tls::identity::Identity;
use raftmap_client::Security;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::commands::{Commands, Next};
use super::complete::Completion;
use crate::cli::exit::Failure;
use crate::cli::{connect::ConnectArgs, output};

/// Lines of the history.
const HISTORY_LINES_MAX: usize = 1000;

/// Runs lines until there are no more.
pub(super) fn run(commands: &Commands, no_history: bool) -> Result<(), Failure> {
    let cluster = cluster(commands.options())?;
    commands.runtime().block_on(commands.options().explained(greet(commands, &cluster)))?;
    let mut interrupts = {
        let _inside = commands.runtime().enter();
        signal(SignalKind::interrupt()).map_err(no_signals)?
    };
    end_at_signals(commands)?;

    let mut editor = editor(commands).map_err(|error| gone(&error))?;
    let history = if no_history { None } else { history(&mut editor) };
    let prompt = format!("{cluster}> ");
    loop {
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(gone(&error)),
        };
        let is_kept = editor.add_history_entry(line.as_str()).unwrap_or(false);
        if let Some(path) = history.as_ref().filter(|_| is_kept) {
            // Without it the next shell does not know of this line, and that is all.
            let _forgotten = editor.append_history(path);
        }
        forget(&mut interrupts);
        let interrupted = async {
            interrupts.recv().await;
        };
        let mut interrupted = pin!(interrupted);
        for line in pasted(&line) {
            match commands.run(line.as_bytes(), interrupted.as_mut()) {
                Ok(Next::Line) => {}
                Ok(Next::End) => return Ok(()),
                Err(failure) => {
                    failure.say();
                    break;
                }
            }
        }
    }
}

/// The lines of what was pasted. An end of a line within quotes is a part of what stands in them.
fn pasted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.split('\n') {
        match lines.last_mut() {
            Some(open) if shlex::split(open).is_none() => {
                open.push('\n');
                open.push_str(line);
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines
}

/// What was signalled while nothing ran meant nothing.
fn forget(interrupts: &mut Signal) {
    while interrupts.recv().now_or_never().is_some() {}
}

fn no_signals(error: io::Error) -> Failure {
    Failure::Failed(format!("no signals: {error}"))
}

fn gone(error: &ReadlineError) -> Failure {
    Failure::Failed(format!("the terminal is gone: {error}"))
}

/// How the prompt names the cluster: as its certificates do, or else by the first of the addresses that were given.
fn cluster(options: &ConnectArgs) -> Result<String, Failure> {
    if let Security::Tls(tls) = options.security()?
        && let Some(own) = tls.identity
        && let Ok(certificate) = CertificateDer::from_pem_slice(&own.certificate)
        && let Ok(identity) = Identity::of_certificate(&certificate)
    {
        return Ok(identity.cluster.to_string());
    }
    Ok(options.endpoints()?[0].clone())
}

async fn greet(commands: &Commands, cluster: &str) -> Result<(), Failure> {
    let members = commands.client().await?.members().await.map_err(Failure::of_read)?;
    let leader = members.members.iter().find(|member| member.leader);
    let leads =
        leader.map_or_else(|| "none leads".to_owned(), |leader| format!("server {} leads", leader.id));
    let servers = match members.members.len() {
        1 => "1 server".to_owned(),
        count => format!("{count} servers"),
    };
    output::line(&format!("{cluster}: {servers}, {leads}. Commands: help; the end: Ctrl-D."))
}

/// A shell that is told to end while a line is typed leaves the terminal as it was.
fn end_at_signals(commands: &Commands) -> Result<(), Failure> {
    let before = tcgetattr(stdin()).map_err(|error| gone(&ReadlineError::Io(error.into())))?;
    let _inside = commands.runtime().enter();
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
    commands.runtime().spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        // A terminal that is gone needs no restoring.
        let _gone = tcsetattr(stdin(), OptionalActions::Now, &before);
        let _gone = writeln!(io::stderr());
        std::process::exit(i32::from(Failure::Interrupted.say()));
    });
    Ok(())
}

type LineEditor<'a> = Editor<Completion<'a>, FileHistory>;

fn editor(commands: &Commands) -> rustyline::Result<LineEditor<'_>> {
    // What is pasted is taken as it is: a tab in it completes nothing.
    let config = Config::builder().completion_type(CompletionType::List).bracketed_paste(true).build();
    let mut editor = Editor::with_config(config)?;
    editor.set_history_ignore_space(true);
    editor.set_history_ignore_dups(true)?;
    editor.set_max_history_size(HISTORY_LINES_MAX)?;
    editor.set_helper(Some(Completion::new(commands)));
    Ok(editor)
}

/// Fills the history, and says where it is kept. A shell without one is a shell.
fn history(editor: &mut LineEditor) -> Option<PathBuf> {
    let path = history_path()?;
    let failed = |error: &dyn std::fmt::Display| {
        eprintln!("raftmap: no history: {}: {error}", path.display());
    };
    make_private(&path).map_err(|error| failed(&error)).ok()?;
    editor.load_history(&path).map_err(|error| failed(&error)).ok()?;
    Some(path)
}

fn history_path() -> Option<PathBuf> {
    let folder = |variable| env::var_os(variable).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    Some(state?.join("raftmap/history"))
}

/// Values stand in it.
fn make_private(path: &PathBuf) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_what_is_pasted_is_one_but_for_those_within_quotes() {
        assert_eq!(pasted("get a"), ["get a"]);
        assert_eq!(pasted("put a 1\nput b 'x\ny'\nget a"), ["put a 1", "put b 'x\ny'", "get a"]);
        assert_eq!(pasted("put a 'x\ny"), ["put a 'x\ny"]);
    }
}
