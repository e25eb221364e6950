//! How a command ends.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use raftmap::backup::{OutFileError, RestoreError};
use raftmap::local_cluster::LocalClusterError;
use raftmap::node::{InitFailure, NodeError, StartFailure};
use raftmap::tls::certs::CertsError;
use raftmap_client::{Cause, Code, Error, SetupError};

/// The code of a server that ended itself.
const SERVER_ENDED: u8 = 5;

/// The exit codes, for `--help` and README.
pub(crate) const TABLE: &str = "\
Exit codes:
  0    done
  1    failed; what was to be written certainly was not applied
  2    the arguments or the input are malformed, and would be refused again; nothing was applied
  3    the outcome is unknown: what was to be written may have been applied, or may be later
  4    no such key (get); the key was not as expected (cas)
  5    a running server ended itself: its disk failed or an invariant broke
  6    what was read is damaged: a data directory (check, recover), a backup (restore)
  130  interrupted";

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing was applied.
    #[error("{0}")]
    Failed(String),
    /// The arguments, or the input, are of no use.
    #[error("{0}")]
    Usage(String),
    /// A write may have been applied.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// Who could have answered was not there.
    #[error("{message}")]
    Unanswered {
        /// What happened, and whether it was applied.
        message: String,
        /// Whether a write may have been applied.
        maybe_applied: bool,
    },
    /// The key is not there, or not as expected.
    #[error("{0}")]
    NotAsExpected(String),
    /// A server ended itself.
    #[error("server {id} ended: {reason}")]
    ServerEnded {
        /// Which.
        id: u64,
        /// Why.
        reason: NodeError,
    },
    /// What was read is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// What happened has been said; this is its code.
    #[error("it has failed")]
    Said(u8),
    /// Who reads the output wants no more of it.
    #[error("the output was closed")]
    OutputClosed,
}

impl Failure {
    /// Nothing was applied, because a file or the like failed.
    pub(crate) fn io(operation: &str, path: &Path, error: &io::Error) -> Self {
        Self::Failed(format!("cannot {operation} {}: {error}", path.display()))
    }

    /// A read changes nothing: that is not worth a word.
    pub(crate) fn of_read(error: Error) -> Self {
        let cause = error.cause();
        let message = format!("the read failed: {cause}");
        match () {
            () if is_malformed(cause) => Self::Usage(message),
            () if is_unanswered(cause) => Self::Unanswered { message, maybe_applied: false },
            () => Self::Failed(message),
        }
    }

    /// Nothing was made of a backup.
    pub(crate) fn of_restore(file: &Path, error: RestoreError) -> Self {
        match error {
            RestoreError::Backup(error) if error.is_of_file() => {
                Self::Damaged(format!("{}: {error}\nNothing was restored.", file.display()))
            }
            RestoreError::SameCluster(_) => Self::Usage(error.to_string()),
            RestoreError::Init(error) => error.into(),
            error => Self::Failed(format!("{}: {error}", file.display())),
        }
    }

    /// Says what happened, and with which code to exit.
    pub(crate) fn report(&self) -> ExitCode {
        ExitCode::from(self.say())
    }

    /// The same, for a program that goes on.
    pub(crate) fn say(&self) -> u8 {
        if matches!(self, Self::ServerEnded { .. }) {
            end_server(&self.to_string());
        }
        if !matches!(self, Self::OutputClosed | Self::Said(_)) {
            eprintln!("raftmap: {self}");
        }
        self.code()
    }

    /// As [`TABLE`] says.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Said(code) => *code,
            Self::OutputClosed => 0,
            Self::Failed(_) | Self::Unanswered { maybe_applied: false, .. } => 1,
            Self::Usage(_) => 2,
            Self::OutcomeUnknown(_) | Self::Unanswered { maybe_applied: true, .. } => 3,
            Self::NotAsExpected(_) => 4,
            Self::ServerEnded { .. } => SERVER_ENDED,
            Self::Damaged(_) => 6,
            Self::Interrupted => 130,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::NotApplied(cause) if is_malformed(cause) => Self::Usage(error.to_string()),
            Error::NotApplied(cause) if is_unanswered(cause) => {
                Self::Unanswered { message: error.to_string(), maybe_applied: false }
            }
            Error::NotApplied(_) => Self::Failed(error.to_string()),
            Error::OutcomeUnknown(cause) => {
                let message = format!(
                    "{error}\nThe write may have been applied, or may be later: read before you write again."
                );
                match is_unanswered(cause) {
                    true => Self::Unanswered { message, maybe_applied: true },
                    false => Self::OutcomeUnknown(message),
                }
            }
        }
    }
}

/// Ends a server that must not go on. `message` is the last thing that it says: other threads may still run, and what they
/// would say waits for the locks until the process is gone.
pub(crate) fn end_server(message: &str) -> ! {
    let _out = io::stdout().lock();
    let mut err = io::stderr().lock();
    // Where nobody listens there is nobody to tell.
    let _unheard = writeln!(err, "raftmap: {message}");
    std::process::exit(i32::from(SERVER_ENDED));
}

/// Whether the same request would be refused again, by any server.
fn is_malformed(cause: &Cause) -> bool {
    matches!(cause.code, Some(Code::INVALID | Code::TOO_LARGE | Code::UNSUPPORTED))
}

/// Whether no server could answer: how each of them is tells why.
pub(super) fn is_unanswered(cause: &Cause) -> bool {
    matches!(cause.code, None | Some(Code::DEADLINE | Code::NO_LEADER | Code::NO_QUORUM))
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        let message = error.to_string();
        match error {
            SetupError::NoEndpoint | SetupError::BadEndpoint { .. } => Self::Usage(message),
            SetupError::Tls(_) => Self::Failed(message),
            SetupError::Unreachable(_) => Self::Failed(format!(
                "{message}\nDo the servers run, are these their addresses for clients, and does the \
                 certificate belong to their cluster?"
            )),
        }
    }
}

impl From<StartFailure> for Failure {
    fn from(error: StartFailure) -> Self {
        let hint = match &error {
            StartFailure::Listen { .. } => "; --peer-listen chooses another",
            _ => "",
        };
        Self::Failed(format!("the server does not start: {error}{hint}"))
    }
}

impl From<InitFailure> for Failure {
    fn from(error: InitFailure) -> Self {
        match error {
            InitFailure::Identity(_) | InitFailure::NotAMember(_) => Self::Usage(error.to_string()),
            InitFailure::Init(_) | InitFailure::Random(_) => Self::Failed(error.to_string()),
        }
    }
}

impl From<OutFileError> for Failure {
    fn from(error: OutFileError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<CertsError> for Failure {
    fn from(error: CertsError) -> Self {
        match error {
            CertsError::Address(_) | CertsError::Addresses(..) | CertsError::Name(_) => {
                Self::Usage(error.to_string())
            }
            CertsError::Exists(_)
            | CertsError::Io { .. }
            | CertsError::NotTheAuthority { .. }
            | CertsError::Crypto(_) => Self::Failed(error.to_string()),
        }
    }
}

impl From<LocalClusterError> for Failure {
    fn from(error: LocalClusterError) -> Self {
        Self::Failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(of: fn(Box<Cause>) -> Error, code: Option<Code>) -> Failure {
        let cause = Cause { reason: "because".to_owned(), code, ..Cause::default() };
        Failure::from(of(Box::new(cause)))
    }

    #[test]
    fn the_exit_code_of_a_write_says_what_became_of_it() {
        let down = failure(Error::NotApplied, None);
        assert_eq!(down.code(), 1);
        assert!(matches!(down, Failure::Unanswered { .. }), "how each server is will be told: {down}");
        assert_eq!(failure(Error::NotApplied, Some(Code::NO_QUORUM)).code(), 1);
        assert_eq!(failure(Error::NotApplied, Some(Code::TOO_LARGE)).code(), 2);
        for code in [None, Some(Code::DEADLINE), Some(Code::INVALID)] {
            let failure = failure(Error::OutcomeUnknown, code);
            assert_eq!(failure.code(), 3);
            assert!(failure.to_string().contains("may have been applied"), "{failure}");
        }
    }

    #[test]
    fn the_table_names_every_exit_code() {
        let reason = NodeError::Expelled("its disk was wiped".to_owned());
        for failure in [
            Failure::OutputClosed,
            Failure::Failed(String::new()),
            Failure::Usage(String::new()),
            Failure::OutcomeUnknown(String::new()),
            Failure::Unanswered { message: String::new(), maybe_applied: false },
            Failure::Unanswered { message: String::new(), maybe_applied: true },
            Failure::NotAsExpected(String::new()),
            Failure::ServerEnded { id: 1, reason },
            Failure::Damaged(String::new()),
            Failure::Interrupted,
        ] {
            assert!(TABLE.contains(&format!("\n  {:<3}  ", failure.code())), "{failure:?}");
        }
    }
}
