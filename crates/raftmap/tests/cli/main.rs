//! The command line, as a process: what it prints, how it ends, and what it leaves behind.
#![expect(clippy::unwrap_used, reason = "a test")]

mod backup;
mod demo;
mod export;
mod help;
mod import;
mod live;
mod map;
mod member;
mod screen;
mod serve;
mod settings;
mod shell;
mod stopped;
mod support;
mod token;
