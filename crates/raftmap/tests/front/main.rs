//! The front door, over real sockets and real TLS.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access;
mod backups;
mod calls;
mod connections;
mod console;
mod health;
mod pipeline;
mod reflection;
mod refusals;
mod support;
