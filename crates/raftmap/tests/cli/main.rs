//! The command line, as a process: what it prints, how it ends, and what it leaves behind.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail loudly")]


mod demo;
mod help;
mod import;
mod map;
mod serve;
mod support;
