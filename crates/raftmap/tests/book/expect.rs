//! Whether what came is what the page says.

use std::collections::BTreeMap;
use std::fmt;

/// The log indexes that a page names, each with the one that came.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Indexes(BTreeMap<u64, u64>);

/// A part of a line.
enum Piece {
    Text(String),
    /// `...`
    Any,
    /// A log index, by the page's number.
    Index(u64),
}

/// The words that a log index stands behind.
const NAMES: [&str; 2] = ["revision", "sessionid"];

impl Indexes {
    /// A command with the indexes that came in the place of the page's.
    ///
    /// # Errors
    /// If it names one that the page has not shown.
    pub(crate) fn to_real(&self, command: &str) -> Result<String, String> {
        let mut real = String::new();
        for piece in pieces(command) {
            match piece {
                Piece::Text(text) => real.push_str(&text),
                Piece::Any => real.push_str("..."),
                Piece::Index(number) => match self.0.get(&number) {
                    Some(came) => real.push_str(&came.to_string()),
                    None => return Err(format!("{number} has not been shown as a revision before")),
                },
            }
        }
        Ok(real)
    }

    /// Compares lines. Takes note of indexes that are new; what is only `like` the page's tells none.
    pub(crate) fn fit(&mut self, expected: &[String], came: &[&str], like: bool) -> bool {
        let shaped = |line: &str| if like { shape(line) } else { line.trim_end().to_owned() };
        let expected: Vec<_> = expected
            .iter()
            .map(|line| match line.trim() {
                "..." => None,
                _ => Some(pieces(&shaped(line))),
            })
            .collect();
        let came: Vec<_> = came.iter().map(|line| shaped(line)).collect();
        let fits = lines_fit(&expected, &came, self);
        let is_fit = fits.is_some();
        if let Some(indexes) = fits.filter(|_| !like) {
            *self = indexes;
        }
        is_fit
    }
}

/// `None` among the expected lines: any lines.
fn lines_fit(expected: &[Option<Vec<Piece>>], came: &[String], indexes: &Indexes) -> Option<Indexes> {
    match (expected.split_first(), came.split_first()) {
        (None, None) => Some(indexes.clone()),
        (Some((None, rest)), _) => {
            (0..=came.len()).find_map(|skipped| lines_fit(rest, &came[skipped..], indexes))
        }
        (Some((Some(line), rest)), Some((first, others))) => {
            line_fits(line, first, indexes).and_then(|indexes| lines_fit(rest, others, &indexes))
        }
        _ => None,
    }
}

fn line_fits(pieces: &[Piece], text: &str, indexes: &Indexes) -> Option<Indexes> {
    let Some((first, rest)) = pieces.split_first() else {
        return text.is_empty().then(|| indexes.clone());
    };
    match first {
        Piece::Text(exact) => line_fits(rest, text.strip_prefix(&**exact)?, indexes),
        Piece::Any => {
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.into_iter().find_map(|end| line_fits(rest, &text[end..], indexes))
        }
        Piece::Index(number) => {
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            let came = text[..digits].parse().ok()?;
            let mut indexes = indexes.clone();
            if *indexes.0.entry(*number).or_insert(came) != came || !indexes.is_in_order() {
                return None;
            }
            line_fits(rest, &text[digits..], &indexes)
        }
    }
}

impl Indexes {
    /// What comes later on a page comes later in the log.
    fn is_in_order(&self) -> bool {
        self.0.values().is_sorted_by(|one, next| one < next)
    }
}

/// What revisions of the page stand for, if there are any yet.
impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, came) in &self.0 {
            writeln!(f, "revision {number} of the page is {came} here")?;
        }
        Ok(())
    }
}

fn pieces(line: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = line;
    while let Some(letter) = rest.chars().next() {
        if let Some(behind) = rest.strip_prefix("...") {
            pieces.extend([Piece::Text(std::mem::take(&mut text)), Piece::Any]);
            rest = behind;
            continue;
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 && names_index(&text) {
            let number = rest[..digits].parse().unwrap_or(u64::MAX);
            pieces.extend([Piece::Text(std::mem::take(&mut text)), Piece::Index(number)]);
            rest = &rest[digits..];
            continue;
        }
        text.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    pieces.push(Piece::Text(text));
    pieces
}

/// Whether a number behind `text` is a log index.
fn names_index(text: &str) -> bool {
    let word = text.trim_end_matches([' ', ':', '"', '=', '\\']);
    let separated = word.len() < text.len() && text.len() - word.len() <= 6;
    separated && NAMES.iter().any(|name| word.to_ascii_lowercase().ends_with(name))
}

/// A line without its numbers and hashes; the parts that servers may play are one.
fn shape(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        if matches!(word, "leader" | "follower" | "candidate" | "pre-candidate") {
            return "PART".to_owned();
        }
        let mut shaped = String::new();
        for (start, run) in runs(word) {
            let is_hash = run.len() >= 16 && run.bytes().all(|byte| byte.is_ascii_hexdigit());
            match is_hash || start.is_ascii_digit() {
                true => shaped.push('0'),
                false => shaped.push_str(run),
            }
        }
        shaped.replace("0.0", "0")
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A word in runs of hexadecimal letters and digits if those are long, else of digits and of what is none; each with its first letter.
fn runs(word: &str) -> Vec<(char, &str)> {
    let mut runs = Vec::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let long = |same: fn(char) -> bool| rest.find(|letter| !same(letter)).unwrap_or(rest.len());
        let hex = long(|letter| letter.is_ascii_hexdigit());
        let end = match first.is_ascii_digit() {
            _ if hex >= 16 => hex,
            true => long(|letter| letter.is_ascii_digit()),
            false => first.len_utf8(),
        };
        runs.push((first, &rest[..end]));
        rest = &rest[end..];
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(indexes: &mut Indexes, expected: &str, came: &str, like: bool) -> bool {
        let expected: Vec<String> = expected.lines().map(str::to_owned).collect();
        indexes.fit(&expected, &came.lines().collect::<Vec<_>>(), like)
    }

    #[test]
    fn what_is_said_is_what_comes_but_for_dots() {
        let fits = |expected, came| fit(&mut Indexes::default(), expected, came, false);
        assert!(fits("hello", "hello  "));
        assert!(!fits("hello", "hell"));
        assert!(!fits("hello", "hello\nworld"));
        assert!(!fits("hello\nworld", "hello"));
        assert!(fits("in ... s, of server ...", "in 0.11 s, of server 2"));
        assert!(!fits("in ... s, of server ...", "in 0.11 s, of 2"));
        assert!(fits("a\n...\nz", "a\nz") && fits("a\n...\nz", "a\nb\nc\nz"));
        assert!(!fits("a\n...\nz", "a\nb"));
        assert!(!fits("a  b", "a b"));
    }

    #[test]
    fn a_revision_is_a_name_for_what_came() {
        let mut indexes = Indexes::default();
        assert!(fit(&mut indexes, "revision 9", "revision 31", false));
        assert!(fit(&mut indexes, r#"{"revision":9,"value":"9"}"#, r#"{"revision":31,"value":"9"}"#, false));
        assert!(!fit(&mut indexes, "revision 9", "revision 32", false), "another one");
        assert!(!fit(&mut indexes, "revision 10", "revision 30", false), "the order");
        assert!(fit(&mut indexes, r#"{"revision":"10"}"#, r#"{"revision":"40"}"#, false));
        assert_eq!(indexes.to_real("cas k v --revision 10").unwrap(), "cas k v --revision 40");
        assert_eq!(indexes.to_real(r#"{"revision":"9"} 9"#).unwrap(), r#"{"revision":"31"} 9"#);
        assert!(indexes.to_real("get k --min-revision 11").is_err());
    }

    #[test]
    fn what_is_like_it_differs_in_numbers_and_parts() {
        let fits = |expected, came| fit(&mut Indexes::default(), expected, came, true);
        assert!(fits("1   127.0.0.1:7100  leader  1     9  5s", "1  127.0.0.1:7100  follower  2   12  17s"));
        assert!(fits(
            "members d5d473c41f9fd035dcc6269b23d73362, in 0.11 s",
            "members aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb, in 11 s"
        ));
        assert!(!fits("5 keys", "5 rows"));
        assert!(fits("[  0.35 s] ...", "[ 12.01 s] server 3 is elected leader"));
        assert!(!fits("all good", "all good things"));
    }
}
