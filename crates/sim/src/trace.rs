//! What happened in a run: a hash of all of it, and the text where somebody wants to read it.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};

use xxhash_rust::xxh3::Xxh3;

use crate::time::Time;

/// A trace. The same seed gives the same hash, with text or without.
#[derive(Default)]
pub struct Trace {
    hash: Xxh3,
    out: Option<BufWriter<File>>,
}

impl Trace {
    /// A trace whose text goes to a file.
    pub fn to_file(file: File) -> Self {
        Self { out: Some(BufWriter::new(file)), ..Self::default() }
    }

    /// Notes an event: `code` and `numbers` go into the hash, `text` to whoever reads.
    pub fn note<T: fmt::Display>(&mut self, at: Time, code: &str, numbers: &[u64], text: impl FnOnce() -> T) {
        self.mark(at, code, numbers);
        self.say(at, text);
    }

    /// Notes an event that nobody wants to read of.
    pub fn mark(&mut self, at: Time, code: &str, numbers: &[u64]) {
        self.hash.update(&at.0.to_le_bytes());
        self.hash.update(code.as_bytes());
        for number in numbers {
            self.hash.update(&number.to_le_bytes());
        }
    }

    /// Says something that follows from what was noted.
    pub fn say<T: fmt::Display>(&mut self, at: Time, text: impl FnOnce() -> T) {
        if let Some(out) = &mut self.out {
            // A trace that cannot be written is no reason to end: the run itself tells what is wrong.
            let _full = writeln!(out, "{at}  {}", text());
        }
    }

    /// The hash of all that was noted.
    pub fn hash(&self) -> u64 {
        self.hash.digest()
    }
}
