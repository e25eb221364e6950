//! Bytes: how commands, answers and rows are written down. `docs/format.md` draws them.
//!
//! Everything is *canonical*: a value has one encoding, and bytes that decode are the encoding of what they decode to.
//! Numbers are LEB128 varints in their shortest form, byte strings a varint length and the bytes, lists a varint count
//! and the items. Decoding takes slices of the bytes that it is given and copies nothing; it never trusts a length or a
//! count further than the bytes that are there.

mod answer;
mod command;
mod row;

pub(crate) use answer::{RESULT_BYTES, put_result};
pub use answer::{decode_result, encode_result};
pub use command::{DecodedCommand, RequestBytes};
pub(crate) use row::{
    Applied, MapRow, SessionRow, decode_introduction_row, decode_member, decode_membership, decode_scanned,
    encode_introduction, encode_member, encode_membership, encode_scanned, table,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::level::{LEVEL, LEVEL_FIRST};

/// Bytes that this version cannot understand. Who meets them in the log or in the engine stops; it never guesses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer version of the format.
    #[error("{what} of unknown version {version}: written by a newer version of raftmap?")]
    UnknownVersion {
        /// What was read.
        what: &'static str,
        /// Its version byte.
        version: u8,
    },
    /// A feature level above [`LEVEL`].
    #[error(
        "{what} of feature level {level}, and this program understands level {LEVEL} at most: it was written by a newer \
         version of raftmap, start that one"
    )]
    TooNew {
        /// What was read.
        what: &'static str,
        /// Its level.
        level: u8,
    },
    /// A kind, flag or variant that this version does not know.
    #[error("{what} has the unknown value {value}: written by a newer version of raftmap?")]
    Unknown {
        /// What was read.
        what: &'static str,
        /// The byte that stands for it.
        value: u8,
    },
    /// The bytes end early.
    #[error("the bytes end in the middle of {what}")]
    Truncated {
        /// What was read.
        what: &'static str,
    },
    /// Bytes follow the end.
    #[error("{bytes} bytes follow the end of {what}")]
    Trailing {
        /// What was read.
        what: &'static str,
        /// How many bytes too many.
        bytes: usize,
    },
    /// Bytes that say what cannot be.
    #[error("{what} is malformed")]
    Malformed {
        /// What was read.
        what: &'static str,
    },
    /// A number that is too large for what it means, or not in its shortest form.
    #[error("{what} is not a valid number")]
    Number {
        /// What was read.
        what: &'static str,
    },
}

/// Bit `0` and so on of a flags byte; a bit that is not among those expected is an error.
pub(crate) const FLAG_0: u8 = 1;
pub(crate) const FLAG_1: u8 = 2;
pub(crate) const FLAG_2: u8 = 4;

pub(crate) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8((value & 0x7f) as u8);
}

pub(crate) fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

pub(crate) fn put_list<T>(out: &mut BytesMut, items: &[T], mut put: impl FnMut(&mut BytesMut, &T)) {
    put_varint(out, items.len() as u64);
    for item in items {
        put(out, item);
    }
}

/// Reads what the functions above wrote, from the front.
pub(crate) struct Decoder {
    rest: Bytes,
}

impl Decoder {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &Bytes {
        &self.rest
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.rest.try_get_u8().map_err(|_| DecodeError::Truncated { what })
    }

    pub(crate) fn version(&mut self, what: &'static str, known: u8) -> Result<(), DecodeError> {
        match self.u8(what)? {
            version if version == known => Ok(()),
            version => Err(DecodeError::UnknownVersion { what, version }),
        }
    }

    /// A feature level, one that this program understands.
    pub(crate) fn level(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        match self.u8(what)? {
            level @ LEVEL_FIRST..=LEVEL => Ok(level),
            0 => Err(DecodeError::UnknownVersion { what, version: 0 }),
            level => Err(DecodeError::TooNew { what, level }),
        }
    }

    /// A flags byte, of which only the bits in `known` may be set.
    pub(crate) fn flags(&mut self, what: &'static str, known: u8) -> Result<u8, DecodeError> {
        match self.u8(what)? {
            flags if flags & !known == 0 => Ok(flags),
            value => Err(DecodeError::Unknown { what, value }),
        }
    }

    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        Ok(self.flags(what, FLAG_0)? != 0)
    }

    pub(crate) fn u32_le(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.rest.try_get_u32_le().map_err(|_| DecodeError::Truncated { what })
    }

    pub(crate) fn u64_le(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.rest.try_get_u64_le().map_err(|_| DecodeError::Truncated { what })
    }

    pub(crate) fn u128_le(&mut self, what: &'static str) -> Result<u128, DecodeError> {
        self.rest.try_get_u128_le().map_err(|_| DecodeError::Truncated { what })
    }

    pub(crate) fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            let overflows = shift == 63 && bits > 1;
            let padded = byte == 0 && shift > 0;
            if overflows || padded {
                return Err(DecodeError::Number { what });
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Number { what })
    }

    pub(crate) fn varint_u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        u32::try_from(self.varint(what)?).map_err(|_| DecodeError::Number { what })
    }

    /// A byte string: a slice of what is decoded.
    pub(crate) fn bytes(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let len = self.varint(what)?;
        match usize::try_from(len) {
            Ok(len) if len <= self.rest.len() => Ok(self.rest.split_to(len)),
            _ => Err(DecodeError::Truncated { what }),
        }
    }

    /// A list. Room is taken as items are read, whatever the count claims.
    pub(crate) fn list<T>(
        &mut self,
        what: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.varint(what)?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Ends the reading: nothing may be left.
    pub(crate) fn end(self, what: &'static str) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { what, bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(bytes: &[u8]) -> Result<u64, DecodeError> {
        let mut decoder = Decoder::new(Bytes::copy_from_slice(bytes));
        let value = decoder.varint("it")?;
        decoder.end("it")?;
        Ok(value)
    }

    #[test]
    fn varints_have_one_form_each() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(varint(&out), Ok(value));
        }
        let number = Err(DecodeError::Number { what: "it" });
        assert_eq!(varint(&[0x80, 0x00]), number, "0 in two bytes");
        assert_eq!(
            varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            number,
            "2^64 and more"
        );
        assert_eq!(varint(&[0xff; 11]), number, "too long");
        assert_eq!(varint(&[0xff]), Err(DecodeError::Truncated { what: "it" }));
    }

    #[test]
    fn a_length_beyond_the_end_takes_no_memory() {
        let mut out = BytesMut::new();
        put_varint(&mut out, u64::MAX);
        assert_eq!(
            Decoder::new(out.clone().freeze()).bytes("it"),
            Err(DecodeError::Truncated { what: "it" })
        );
        let list = Decoder::new(out.freeze()).list("it", |decoder| decoder.u8("it"));
        assert_eq!(list, Err(DecodeError::Truncated { what: "it" }));
    }
}
