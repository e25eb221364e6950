//! How a call fails. What counts for the caller is whether the write may have happened; the rest says why.

use std::fmt;

use raftmap_proto::v1::failure::Code;

/// Why a call has no answer. Every variant says what became of the write; a read changes nothing, so that a failed read
/// is [`Error::NotApplied`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The write certainly was not applied, by no attempt, and will not be. The caller may send it again.
    #[error("not applied: {0}")]
    NotApplied(Box<Cause>),
    /// The write may have been applied, or may be later: an attempt reached a server and its answer did not come back.
    /// A new call would be a new write; read the key before deciding.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(Box<Cause>),
}

impl Error {
    /// Why, in either case.
    pub fn cause(&self) -> &Cause {
        match self {
            Self::NotApplied(cause) | Self::OutcomeUnknown(cause) => cause,
        }
    }

    /// Whether the write may have been applied.
    pub fn maybe_applied(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(_))
    }
}

/// Why the last attempt failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// For a person: what happened and what to do.
    pub reason: String,
    /// The server's code; [`Code::DEADLINE`] also when time ran out here, [`Code::UNAUTHENTICATED`] also when a
    /// certificate was refused, by either side. `None`: no server said anything, as when none was reached or a connection
    /// was lost.
    pub code: Option<Code>,
    /// Of [`Code::INVALID`] and [`Code::TOO_LARGE`]: which field of the request; empty otherwise.
    pub field: String,
    /// Of [`Code::TOO_LARGE`] and [`Code::OVERLOADED`]: what is allowed; 0 otherwise.
    pub limit: u64,
    /// The server of the last attempt (`host:port`); empty if there was none.
    pub server: String,
    /// How many attempts were made.
    pub attempts: u32,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        let mut separator = " (";
        let mut part = |f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>| {
            let written = write!(f, "{separator}{text}");
            separator = ", ";
            written
        };
        if let Some(code) = self.code {
            part(f, format_args!("{code:?}"))?;
        }
        if !self.field.is_empty() {
            part(f, format_args!("field {}", self.field))?;
        }
        if self.limit > 0 {
            part(f, format_args!("limit {}", self.limit))?;
        }
        if !self.server.is_empty() {
            part(f, format_args!("server {}", self.server))?;
        }
        if self.attempts > 1 {
            part(f, format_args!("{} attempts", self.attempts))?;
        }
        if separator == ", " { f.write_str(")") } else { Ok(()) }
    }
}

/// Why there is no client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// No endpoint was given.
    #[error("no endpoint was given; name at least one server as host:port")]
    NoEndpoint,
    /// An endpoint is not `host:port`.
    #[error("{endpoint:?} is not an endpoint: {reason}; write host:port, an IPv6 address in brackets")]
    BadEndpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The CA, certificate or key cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// No server answered in time, or all refused.
    #[error("no server answered: {0}")]
    Unreachable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_all_that_it_knows_and_nothing_else() {
        let bare = Cause { reason: "no server was reached".to_owned(), attempts: 1, ..Cause::default() };
        assert_eq!(Error::NotApplied(Box::new(bare)).to_string(), "not applied: no server was reached");
        let full = Cause {
            reason: "the value is too large".to_owned(),
            code: Some(Code::TOO_LARGE),
            field: "entries[0].value".to_owned(),
            limit: 1_048_576,
            server: "a:1".to_owned(),
            attempts: 2,
        };
        assert_eq!(
            Error::OutcomeUnknown(Box::new(full)).to_string(),
            "outcome unknown: the value is too large \
             (TOO_LARGE, field entries[0].value, limit 1048576, server a:1, 2 attempts)"
        );
    }
}
