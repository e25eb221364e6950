//! Which line of a key is its last.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::lines::{Line, LineError};

/// The last line of each key of a file, by a hash of the key. 128 bits with a random seed: that two of a billion keys
/// share one is less likely than 1 in 10^20, and nobody can choose keys that do.
pub(super) struct LastLines {
    seed: u64,
    last: HashMap<u128, u64>,
    lines: u64,
}

impl LastLines {
    /// Reads all lines.
    pub(super) fn read(
        lines: impl Iterator<Item = Result<Line, LineError>>,
        seed: u64,
    ) -> Result<Self, LineError> {
        let mut found = Self { seed, last: HashMap::new(), lines: 0 };
        for line in lines {
            let line = line?;
            found.lines += 1;
            found.last.insert(xxh3_128_with_seed(&line.key, seed), line.number);
        }
        Ok(found)
    }

    /// How many lines there are; empty ones do not count.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// How many keys.
    pub(super) fn keys(&self) -> u64 {
        self.last.len() as u64
    }

    /// How many keys have their last line up to this one.
    pub(super) fn keys_through(&self, line: u64) -> u64 {
        self.last.values().filter(|last| **last <= line).count() as u64
    }

    /// For reading the file again.
    pub(super) fn check(&self) -> Check<'_> {
        Check { last_lines: self, lines: 0, last: 0, strange: false }
    }
}

/// Tells the last lines from the others, and whether the file is still the same.
pub(super) struct Check<'a> {
    last_lines: &'a LastLines,
    lines: u64,
    last: u64,
    strange: bool,
}

impl Check<'_> {
    /// Whether a line is the last of its key. Errors are left where they are.
    pub(super) fn is_last(&mut self, line: &Result<Line, LineError>) -> bool {
        let Ok(line) = line else { return true };
        self.lines += 1;
        let last = self.last_lines.last.get(&xxh3_128_with_seed(&line.key, self.last_lines.seed));
        self.strange |= last.is_none_or(|last| *last < line.number);
        let is_last = last == Some(&line.number);
        self.last += u64::from(is_last);
        is_last
    }

    /// Whether the same lines came again, as far as their keys tell.
    pub(super) fn is_complete(&self) -> bool {
        !self.strange && (self.lines, self.last) == (self.last_lines.lines, self.last_lines.keys())
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::{Format, Lines};
    use super::*;

    fn lines(text: &str) -> impl Iterator<Item = Result<Line, LineError>> {
        Lines::new(text.as_bytes(), Format::Tsv)
    }

    fn import(first: &str, again: &str) -> (Vec<u64>, bool) {
        let last_lines = LastLines::read(lines(first), 7).unwrap();
        let mut check = last_lines.check();
        let numbers =
            lines(again).filter(|line| check.is_last(line)).map(|line| line.unwrap().number).collect();
        (numbers, check.is_complete())
    }

    #[test]
    fn only_the_last_line_of_a_key_counts() {
        let text = "a\t1\nb\t1\na\t2\nc\t1\nb\t2\n";
        assert_eq!(import(text, text), (vec![3, 4, 5], true));
        let last_lines = LastLines::read(lines(text), 7).unwrap();
        assert_eq!((last_lines.lines(), last_lines.keys()), (5, 3));
        assert_eq!([0, 3, 4, 5].map(|line| last_lines.keys_through(line)), [0, 1, 2, 3]);
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_noticed() {
        let text = "a\t1\nb\t1\n";
        for changed in ["a\t1\n", "a\t1\nb\t1\nc\t1\n", "a\t1\nb\t1\na\t2\n", "b\t1\na\t1\n", "c\t1\nd\t1\n"]
        {
            assert!(!import(text, changed).1, "{changed}");
        }
    }
}
