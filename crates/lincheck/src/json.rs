//! Histories as JSON lines; the crate's documentation shows the format.

use std::fmt;
use std::io::{self, BufRead, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::history::{Malformed, Operation, validate};

/// Why a history could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file itself.
    #[error("the history cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A line that is no operation.
    #[error("line {line}: {source}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A line that nobody could have recorded.
    #[error("line {line}: {source}")]
    Malformed {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        source: Malformed,
    },
}

/// Reads a history: one operation a line, in any order; empty lines are passed over.
///
/// # Errors
/// The first line that is no operation or that [`validate`] refuses; or the reader's own error.
pub fn read_history(reader: impl BufRead) -> Result<Vec<Operation>, ReadError> {
    let mut history = Vec::new();
    for (number, text) in reader.lines().enumerate() {
        let (line, text) = (number + 1, text?);
        if text.trim().is_empty() {
            continue;
        }
        let operation: Operation =
            serde_json::from_str(&text).map_err(|source| ReadError::Line { line, source })?;
        validate(std::slice::from_ref(&operation)).map_err(|source| ReadError::Malformed { line, source })?;
        history.push(operation);
    }
    Ok(history)
}

/// Writes a history: one operation a line.
///
/// # Errors
/// Those of the writer.
pub fn write_history(mut writer: impl Write, history: &[Operation]) -> io::Result<()> {
    for operation in history {
        serde_json::to_writer(&mut writer, operation)?;
        writer.write_all(b"\n")?;
    }
    writer.flush()
}

/// Bytes: a string if they are UTF-8, else `{"base64": "..."}`.
struct Blob(Bytes);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &STANDARD.encode(&self.0))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or an object with the one field \"base64\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(text.as_bytes())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Blob, A::Error> {
                let field: Option<(String, String)> = map.next_entry()?;
                let bytes = match field {
                    Some((name, text)) if name == "base64" => {
                        STANDARD.decode(text).map_err(de::Error::custom)?
                    }
                    _ => return Err(de::Error::invalid_type(de::Unexpected::Map, &self)),
                };
                match map.next_key::<String>()? {
                    None => Ok(Blob(bytes.into())),
                    Some(more) => Err(de::Error::unknown_field(&more, &["base64"])),
                }
            }
        }

        deserializer.deserialize_any(Form)
    }
}

/// `#[serde(with)]` for a key or value.
pub(crate) mod blob {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        Blob(bytes.clone()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        Blob::deserialize(deserializer).map(|blob| blob.0)
    }
}

/// `#[serde(with)]` for a list of keys.
pub(crate) mod blobs {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(keys: &[Bytes], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(keys.iter().map(|key| Blob(key.clone())))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Bytes>, D::Error> {
        let keys = Vec::<Blob>::deserialize(deserializer)?;
        Ok(keys.into_iter().map(|key| key.0).collect())
    }
}

/// `#[serde(with)]` for a list of keys and values: `[key, value]` each.
pub(crate) mod pairs {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        list: &[(Bytes, Bytes)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|(key, value)| (Blob(key.clone()), Blob(value.clone()))))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(Bytes, Bytes)>, D::Error> {
        let list = Vec::<(Blob, Blob)>::deserialize(deserializer)?;
        Ok(list.into_iter().map(|(key, value)| (key.0, value.0)).collect())
    }
}

/// `#[serde(with)]` for a list of keys and records: `[key, record]` each.
pub(crate) mod records {
    use super::*;
    use crate::history::Record;

    pub(crate) fn serialize<S: Serializer>(
        list: &[(Bytes, Record)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|(key, record)| (Blob(key.clone()), record)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(Bytes, Record)>, D::Error> {
        let list = Vec::<(Blob, Record)>::deserialize(deserializer)?;
        Ok(list.into_iter().map(|(key, record)| (key.0, record)).collect())
    }
}
