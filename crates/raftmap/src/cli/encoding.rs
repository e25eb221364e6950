//! Keys and values as arguments and as output.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use clap::Args;
use data_encoding::{BASE64, DecodeError, HEXLOWER, HEXLOWER_PERMISSIVE};
use raftmap_client::Entry;
use serde_json::{Map, Value, json};

use super::exit::Failure;

/// How keys and values stand on the command line and in the output: as they are, unless asked otherwise.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Encoding {
    /// Keys and values, in arguments and output, are in hexadecimal digits
    #[arg(long, conflicts_with = "base64")]
    hex: bool,

    /// Keys and values, in arguments and output, are in base64
    #[arg(long)]
    base64: bool,
}

impl Encoding {
    /// Whether keys and values stand as they are.
    pub(crate) fn is_plain(self) -> bool {
        !self.hex && !self.base64
    }

    /// The bytes that an argument stands for; `what` names it.
    pub(crate) fn decode(self, what: &str, argument: &OsStr) -> Result<Bytes, Failure> {
        let bytes = argument.as_bytes();
        let malformed = |form: &str, error: DecodeError| {
            Failure::Usage(format!("{what} {}: is not {form}: {error}", argument.display()))
        };
        if self.hex {
            let decoded = HEXLOWER_PERMISSIVE.decode(bytes);
            return decoded.map(Bytes::from).map_err(|error| malformed("hexadecimal", error));
        }
        if self.base64 {
            return BASE64.decode(bytes).map(Bytes::from).map_err(|error| malformed("base64", error));
        }
        Ok(Bytes::copy_from_slice(bytes))
    }

    /// Bytes for the output, exactly: as they are, unless asked otherwise.
    pub(crate) fn encode(self, bytes: &Bytes) -> Bytes {
        match (self.hex, self.base64) {
            (true, _) => HEXLOWER.encode(bytes).into(),
            (_, true) => BASE64.encode(bytes).into(),
            _ => bytes.clone(),
        }
    }

    /// Bytes for people: on one line, whatever they are. What is neither printable nor text is escaped.
    pub(crate) fn show(self, bytes: &Bytes) -> String {
        if self.hex || self.base64 {
            return String::from_utf8_lossy(&self.encode(bytes)).into_owned();
        }
        let mut shown = String::new();
        for chunk in bytes.utf8_chunks() {
            for letter in chunk.valid().chars() {
                match letter {
                    '\\' => shown.push_str("\\\\"),
                    letter if letter.is_control() => shown.extend(letter.escape_default()),
                    letter => shown.push(letter),
                }
            }
            shown.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
        }
        shown
    }

    /// Adds bytes to a JSON object: as `name` if they are text, else as `name_base64`; or in the form that was asked
    /// for, as `name_hex` or `name_base64`. `raftmap import` reads all of these.
    pub(crate) fn add(self, object: &mut Map<String, Value>, name: &str, bytes: &Bytes) {
        let (name, text) = match (self.hex, self.base64, std::str::from_utf8(bytes)) {
            (true, ..) => (format!("{name}_hex"), HEXLOWER.encode(bytes)),
            (false, false, Ok(text)) => (name.to_owned(), text.to_owned()),
            _ => (format!("{name}_base64"), BASE64.encode(bytes)),
        };
        object.insert(name, Value::String(text));
    }

    /// An entry as JSON; `with_value` is false where the value is not known.
    pub(crate) fn entry(self, entry: &Entry, with_value: bool) -> Value {
        let mut object = Map::new();
        self.add(&mut object, "key", &entry.key);
        if with_value {
            self.add(&mut object, "value", &entry.value);
        }
        object.insert("revision".to_owned(), json!(entry.revision));
        if let Some(expires_at_ms) = entry.expires_at_ms {
            object.insert("expires_at_ms".to_owned(), json!(expires_at_ms));
        }
        Value::Object(object)
    }

    /// What stood at a key, as JSON; `null` if nothing did.
    pub(crate) fn entry_or_null(self, entry: Option<&Entry>) -> Value {
        entry.map_or(Value::Null, |entry| self.entry(entry, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Encoding = Encoding { hex: false, base64: false };
    const IN_HEX: Encoding = Encoding { hex: true, base64: false };
    const IN_BASE64: Encoding = Encoding { hex: false, base64: true };

    #[test]
    fn arguments_of_every_form_give_their_bytes() {
        let argument = OsStr::from_bytes(b"a\xff");
        assert_eq!(PLAIN.decode("KEY", argument).unwrap(), &b"a\xff"[..]);
        assert_eq!(IN_HEX.decode("KEY", OsStr::new("61Ff")).unwrap(), &b"a\xff"[..]);
        assert_eq!(IN_BASE64.decode("KEY", OsStr::new("Yf8=")).unwrap(), &b"a\xff"[..]);
        for (encoding, text) in [(IN_HEX, "6"), (IN_HEX, "6g"), (IN_BASE64, "Yf8")] {
            let error = encoding.decode("KEY", OsStr::new(text)).unwrap_err();
            assert!(matches!(&error, Failure::Usage(message) if message.starts_with("KEY ")), "{error}");
        }
    }

    #[test]
    fn what_is_shown_stays_on_its_line_and_loses_nothing() {
        let shown = |bytes: &'static [u8]| PLAIN.show(&Bytes::from_static(bytes));
        assert_eq!(shown("größe ☃".as_bytes()), "größe ☃");
        assert_eq!(shown(b"a\tb\nc\\d\x1b\xff"), r"a\tb\nc\\d\u{1b}\xff");
    }

    #[test]
    fn json_says_in_the_name_what_is_not_text() {
        let object = |encoding: Encoding, bytes: &'static [u8]| {
            let mut object = Map::new();
            encoding.add(&mut object, "key", &Bytes::from_static(bytes));
            Value::Object(object).to_string()
        };
        assert_eq!(object(PLAIN, b"a"), r#"{"key":"a"}"#);
        assert_eq!(object(PLAIN, b"\xff"), r#"{"key_base64":"/w=="}"#);
        assert_eq!(object(IN_HEX, b"a"), r#"{"key_hex":"61"}"#);
        assert_eq!(object(IN_BASE64, b"a"), r#"{"key_base64":"YQ=="}"#);
    }
}
