//! What the demo writes.

use std::fs;
use std::path::Path;

use bytes::Bytes;

use super::super::exit::Failure;

/// Two lists, adjectives and nouns.
const WORDS: &str = include_str!("words.txt");

/// Fewer could not be written half-way.
const LINES_MIN: usize = 10;
const LINES_MAX: usize = 1_000_000;
/// As much as a server takes unless its flags say otherwise.
const LINE_BYTES_MAX: usize = 1 << 20;

/// One line: it is written under its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

/// The lines of a file.
pub(super) fn of_file(path: &Path) -> Result<Vec<Line>, Failure> {
    let content = Bytes::from(fs::read(path).map_err(|error| Failure::io("read", path, &error))?);
    let lines: Vec<Line> = content
        .split(|byte| *byte == b'\n')
        .zip(1..)
        .map(|(text, number)| line(number, content.slice_ref(text)))
        .collect();
    // Behind the last line end nothing is left.
    let lines = match lines.split_last() {
        Some((last, rest)) if last.value.is_empty() => rest.to_vec(),
        _ => lines,
    };
    let unfit = |reason: String| Err(Failure::Usage(format!("{}: {reason}", path.display())));
    if !(LINES_MIN..=LINES_MAX).contains(&lines.len()) {
        return unfit(format!("has {} lines, and the demo takes {LINES_MIN} to {LINES_MAX}", lines.len()));
    }
    match lines.iter().position(|line| line.value.len() > LINE_BYTES_MAX) {
        Some(place) => unfit(format!("line {} is longer than {LINE_BYTES_MAX} bytes", place + 1)),
        None => Ok(lines),
    }
}

/// Every adjective with every noun: 10,000 lines.
pub(super) fn of_words() -> Vec<Line> {
    let (adjectives, nouns) = WORDS.split_once("--").expect("the lists are divided");
    let pairs = adjectives
        .split_whitespace()
        .flat_map(|adjective| nouns.split_whitespace().map(move |noun| format!("{adjective} {noun}")));
    pairs.zip(1..).map(|(pair, number)| line(number, pair.into())).collect()
}

fn line(number: usize, value: Bytes) -> Line {
    Line { key: format!("line-{number:07}").into(), value }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_words_give_ten_thousand_different_lines() {
        let lines = of_words();
        assert_eq!(lines.len(), 10_000);
        assert_eq!(lines[0], Line { key: "line-0000001".into(), value: "able acorn".into() });
        let values: HashSet<_> = lines.iter().map(|line| &line.value).collect();
        let keys: HashSet<_> = lines.iter().map(|line| &line.key).collect();
        assert_eq!((values.len(), keys.len()), (10_000, 10_000));
    }

    #[test]
    fn lines_of_a_file_are_taken_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input");
        fs::write(&path, "a\n\nb\r\n".to_owned() + &"c\n".repeat(9)).unwrap();
        let values: Vec<_> = of_file(&path).unwrap().into_iter().take(4).map(|line| line.value).collect();
        assert_eq!(values, ["a", "", "b\r", "c"]);

        fs::write(&path, "too\nshort\n").unwrap();
        assert!(matches!(of_file(&path), Err(Failure::Usage(_))));
    }
}
