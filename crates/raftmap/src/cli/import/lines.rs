//! The lines of a file.

use std::io::{self, BufRead, Read};
use std::path::Path;

use bytes::Bytes;
use clap::ValueEnum;
use data_encoding::{BASE64, DecodeError, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};

/// What a file's lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// Key, tab, value
    Tsv,
    /// An object of JSON a line
    Jsonl,
}

impl Format {
    /// By the end of a file's name.
    pub(crate) fn of_path(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl" | "ndjson" | "json") => Self::Jsonl,
            _ => Self::Tsv,
        }
    }
}

/// A line, as it is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// From 1.
    pub(crate) number: u64,
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// The moment, in milliseconds of Unix time, from which the key is to be absent; `None`: it stays.
    pub(crate) expires_at_ms: Option<u64>,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[error("line {number}: {reason}")]
pub(crate) struct LineError {
    number: u64,
    reason: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    #[error("no tab between key and value")]
    NoTab,
    #[error("the key is empty")]
    EmptyKey,
    #[error("not an entry: {0}")]
    Json(#[from] serde_json::Error),
    #[error("needs exactly one of {0}, {0}_base64 and {0}_hex")]
    OneOf(&'static str),
    #[error("the {0} is encoded wrongly: {1}")]
    Encoding(&'static str, DecodeError),
}

impl LineError {
    /// Whether the file's content is to blame.
    pub(crate) fn is_malformed(&self) -> bool {
        !matches!(self.reason, Reason::Read(_))
    }
}

/// No server takes larger values than 64 MiB, whatever its flags say: that is less than this in base64.
const LINE_BYTES_MAX: usize = 96 << 20;

/// The lines of a file, one after the other, up to the first that is malformed.
pub(crate) struct Lines<R> {
    reader: R,
    format: Format,
    number: u64,
    failed: bool,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R, format: Format) -> Self {
        Self { reader, format, number: 0, failed: false }
    }

    /// The next line that is not empty, without its end.
    fn next_text(&mut self) -> Result<Option<Vec<u8>>, Reason> {
        loop {
            let mut text = Vec::new();
            let read = (&mut self.reader).take(LINE_BYTES_MAX as u64 + 2).read_until(b'\n', &mut text)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if text.ends_with(b"\n") {
                text.pop();
                if text.ends_with(b"\r") {
                    text.pop();
                }
            }
            if text.len() > LINE_BYTES_MAX {
                return Err(Reason::TooLong);
            }
            if !text.is_empty() {
                return Ok(Some(text));
            }
        }
    }

    fn next_line(&mut self) -> Result<Option<Line>, Reason> {
        let Some(text) = self.next_text()? else { return Ok(None) };
        let (key, value, expires_at_ms) = match self.format {
            Format::Tsv => split(text)?,
            Format::Jsonl => serde_json::from_slice::<JsonLine>(&text)?.entry()?,
        };
        if key.is_empty() {
            return Err(Reason::EmptyKey);
        }
        Ok(Some(Line { number: self.number, key, value, expires_at_ms }))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Line, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let line = self.next_line().transpose()?;
        self.failed = line.is_err();
        // What cannot be read has no number yet.
        let number = self.number.max(1);
        Some(line.map_err(|reason| LineError { number, reason }))
    }
}

/// Key, value and expiry.
type Entry = (Bytes, Bytes, Option<u64>);

fn split(text: Vec<u8>) -> Result<Entry, Reason> {
    let tab = text.iter().position(|byte| *byte == b'\t').ok_or(Reason::NoTab)?;
    let mut key = Bytes::from(text);
    let value = key.split_off(tab).slice(1..);
    Ok((key, value, None))
}

/// An entry as JSON. The revision that a scan names is not imported, and may stand there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonLine {
    key: Option<String>,
    key_base64: Option<String>,
    key_hex: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    value_hex: Option<String>,
    #[serde(rename = "revision")]
    _revision: Option<u64>,
    expires_at_ms: Option<u64>,
}

impl JsonLine {
    fn entry(self) -> Result<Entry, Reason> {
        let key = decode("key", self.key, self.key_base64, self.key_hex)?;
        let value = decode("value", self.value, self.value_base64, self.value_hex)?;
        Ok((key, value, self.expires_at_ms))
    }
}

fn decode(
    name: &'static str,
    text: Option<String>,
    base64: Option<String>,
    hex: Option<String>,
) -> Result<Bytes, Reason> {
    let malformed = |error| Reason::Encoding(name, error);
    match (text, base64, hex) {
        (Some(text), None, None) => Ok(text.into()),
        (None, Some(text), None) => Ok(BASE64.decode(text.as_bytes()).map_err(malformed)?.into()),
        (None, None, Some(text)) => {
            Ok(HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(malformed)?.into())
        }
        _ => Err(Reason::OneOf(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line's number, key and value.
    type Read = (u64, Vec<u8>, Vec<u8>);

    fn read(text: &[u8], format: Format) -> Result<Vec<Read>, String> {
        Lines::new(text, format)
            .map(|line| line.map(|line| (line.number, line.key.to_vec(), line.value.to_vec())))
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())
    }

    fn line(number: u64, key: &[u8], value: &[u8]) -> Read {
        (number, key.to_vec(), value.to_vec())
    }

    #[test]
    fn tab_separated_lines_are_taken_byte_for_byte() {
        let text = b"a\t1\n\nb\t\r\nc\xff\tx\\n\ty \nd\tlast";
        let expected = vec![
            line(1, b"a", b"1"),
            line(3, b"b", b""),
            line(4, b"c\xff", b"x\\n\ty "),
            line(5, b"d", b"last"),
        ];
        assert_eq!(read(text, Format::Tsv), Ok(expected));
    }

    #[test]
    fn json_lines_are_text_base64_or_hexadecimal() {
        let text = br#"{"key":"a\n","value":"1","revision":7}
{"key_base64":"/w==","value_hex":"00FF"}"#;
        let expected = vec![line(1, b"a\n", b"1"), line(2, b"\xff", b"\x00\xff")];
        assert_eq!(read(text, Format::Jsonl), Ok(expected));
        let text = br#"{"key":"a","value":"1","expires_at_ms":5}"#;
        let line = Lines::new(&text[..], Format::Jsonl).next().unwrap().unwrap();
        assert_eq!(line.expires_at_ms, Some(5));
    }

    #[test]
    fn a_malformed_line_is_named_with_what_is_wrong() {
        for (text, part) in [("a\t1\nb 2\n", "line 2: no tab"), ("\n\t1\n", "line 2: the key is empty")] {
            let error = read(text.as_bytes(), Format::Tsv).unwrap_err();
            assert!(error.starts_with(part), "{text}: {error}");
        }
        for (text, part) in [
            ("{", "line 1: not an entry"),
            (r#"{"key":"a","value":"1","ttl":5}"#, "line 1: not an entry: unknown field `ttl`"),
            (r#"{"key":"a","key":"b","value":"1"}"#, "line 1: not an entry: duplicate field"),
            (r#"{"key":"a"}"#, "line 1: needs exactly one of value"),
            (r#"{"key":"a","key_hex":"61","value":""}"#, "line 1: needs exactly one of key"),
            (r#"{"key":"a","value_base64":"a"}"#, "line 1: the value is encoded wrongly"),
            (r#"{"key":"a","value":"1","expires_at_ms":"soon"}"#, "line 1: not an entry: invalid type"),
        ] {
            let error = read(text.as_bytes(), Format::Jsonl).unwrap_err();
            assert!(error.starts_with(part), "{text}: {error}");
        }
    }

    #[test]
    fn nothing_follows_a_malformed_line() {
        let mut lines = Lines::new(&b"a\nb\t1\n"[..], Format::Tsv);
        assert!(lines.next().unwrap().is_err());
        assert!(lines.next().is_none());
    }

    #[test]
    fn a_file_is_json_by_its_name() {
        for (name, format) in [("a.jsonl", Format::Jsonl), ("a.tsv", Format::Tsv), ("words", Format::Tsv)] {
            assert_eq!(Format::of_path(Path::new(name)), format);
        }
    }
}
