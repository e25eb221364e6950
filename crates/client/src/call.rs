//! What all calls have in common: they are set up, then awaited.

use std::future::Future;
use std::pin::Pin;

use crate::error::{Cause, Error};

/// A call that runs once it is awaited.
pub type Running<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A server that answers with something that was not asked for: a fault of it, or of something in between.
pub(crate) fn unexpected_answer() -> Box<Cause> {
    Box::new(Cause { reason: "the server's answer does not fit the request".to_owned(), ..Cause::default() })
}

/// Of a write: it was taken, and more is not known.
pub(crate) fn unexpected_write_answer() -> Error {
    Error::OutcomeUnknown(unexpected_answer())
}

/// Of a read.
pub(crate) fn unexpected_read_answer() -> Error {
    Error::NotApplied(unexpected_answer())
}

/// The option of every call.
macro_rules! timeout_option {
    () => {
        /// How long the call may take, its retries included; the client's default otherwise.
        pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
            self.timeout = Some(timeout);
            self
        }
    };
}

/// The options of every read, kept in `self.freshness`.
macro_rules! freshness_options {
    () => {
        /// Reads what the asked server has applied, which may be behind; any server may be asked. Otherwise the read
        /// sees every write that was acknowledged before it began.
        pub fn stale(mut self) -> Self {
            self.freshness.consistency = raftmap_proto::v1::Consistency::STALE;
            self
        }

        /// Waits until the server has applied this revision: with [`Self::stale`], reads one's own write at any server.
        pub fn min_revision(mut self, revision: u64) -> Self {
            self.freshness.min_revision = revision;
            self
        }
    };
}

/// The option of every write that replaces or removes, kept in `self.return_previous`.
macro_rules! previous_option {
    () => {
        /// Answers with what stood there before, too.
        pub fn return_previous(mut self) -> Self {
            self.return_previous = true;
            self
        }
    };
}

pub(crate) use {freshness_options, previous_option, timeout_option};
