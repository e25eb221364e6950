//! Lines from a file or a pipe.

use std::future::pending;
use std::io::{BufRead, stdin};

use super::commands::{Commands, Next};
use crate::cli::exit::Failure;

/// Runs all lines of standard input, up to the first that fails unless told otherwise.
pub(super) fn run(commands: &Commands, keep_going: bool) -> Result<(), Failure> {
    let mut first_code = None;
    let (mut lines, mut line) = (stdin().lock(), Vec::new());
    for number in 1_u64.. {
        line.clear();
        let read = lines.read_until(b'\n', &mut line);
        let read = read.map_err(|error| Failure::Failed(format!("cannot read standard input: {error}")))?;
        if read == 0 {
            break;
        }
        let line = line.strip_suffix(b"\r\n").unwrap_or(&line);
        let failure = match commands.run(line, pending()) {
            Ok(Next::Line) => continue,
            Ok(Next::End) => break,
            Err(Failure::OutputClosed) => {
                // Not in good order, as elsewhere: there are lines that somebody counts on.
                eprintln!(
                    "raftmap: standard output was closed at line {number}; those behind it were not run"
                );
                return Err(Failure::Said(first_code.unwrap_or(1)));
            }
            Err(failure) => failure,
        };
        let code = failure.say();
        if !keep_going {
            eprintln!(
                "raftmap: that was line {number}; those behind it were not run (--keep-going runs them)"
            );
            return Err(Failure::Said(code));
        }
        eprintln!("raftmap: that was line {number}");
        first_code.get_or_insert(code);
    }
    first_code.map_or(Ok(()), |code| Err(Failure::Said(code)))
}
