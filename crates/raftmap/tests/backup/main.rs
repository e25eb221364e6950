//! Backup files and data directories, without servers that run.
#![expect(clippy::unwrap_used, reason = "a test")]

mod file;
mod restore;
mod support;
