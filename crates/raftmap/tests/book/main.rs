//! The documentation: its commands run, its links lead somewhere, and what it says of the program is what the program has.
//!
//! # What is run
//!
//! Every page that `docs/SUMMARY.md` names, in its order, but for [`RECORDS`]. A block of commands is one of `console`:
//!
//! ~~~text
//! ```console
//! $ raftmap get greeting
//! hello
//! $ raftmap get nothing
//! raftmap: no such key: nothing
//! (exit code 4)
//! ```
//! ~~~
//!
//! - A line that begins with `$ ` is a command; lines behind it that begin with `> ` belong to it. All commands of a page run in one
//!   bash, in an empty folder, with the built `raftmap` first on its PATH and nothing of raftmap in its environment. What a page
//!   started is ended with it.
//! - Lines below a command are what it prints, on standard output and standard error together. `(exit code N)` as the last one: it
//!   ends with N, else with 0.
//! - `...` stands for anything within a line, and for any lines if it stands alone.
//! - A number behind the word `revision` or `sessionId` stands for what came, and for the same from then on, in commands as well.
//! - A port from 7000 to 7999 behind a host stands for a free one of four digits, which no other test takes: they take those from
//!   10,000 on ([`raftmap::local_cluster`]).
//! - `cargo run --profile quick --` stands for the `raftmap` that was built for the tests.
//!
//! Marks behind `console`: `,like` compares words without their numbers and hashes, and takes the parts of servers for the same
//! (`leader`, `follower`); `,norun` is not run, and counted ([`NOT_RUN`]).
//!
//! A line `> Begin with [...](PAGE#ANCHOR).` runs the commands of that section first: the page goes on from there. Commands with
//! `curl` in them are left out, and that is said, where there is no curl.
//!
//! `BOOK_PAGE=guides/lock.md cargo test -p raftmap --test book -- --nocapture` runs one page, and tells what came.
#![expect(clippy::unwrap_used, reason = "a test")]

mod api;
mod expect;
mod guides;
mod links;
mod page;
mod ports;
mod run;
mod session;
mod settings;

use std::path::PathBuf;

/// Pages that were written down from sessions of their own, on machines with names, over days: their commands do not run one after
/// the other; or whose commands start containers. The guides run what they tell of.
const RECORDS: [&str; 3] = ["cli.md", "operations.md", "deploy/README.md"];

/// Blocks marked `norun`: what takes another machine, the network, or a build of its own.
const NOT_RUN: usize = 8;

/// The repository.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn docs() -> PathBuf {
    root().join("docs")
}
