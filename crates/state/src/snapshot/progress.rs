//! How far a stream is, and the token that tells it to the other end.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_128;

use super::error::SnapshotError;
use super::header;
use crate::format::{DecodeError, Decoder};

/// What was sent or taken in so far: the same at both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// The number of the last chunk.
    pub(super) number: u64,
    /// The chain up to and with it.
    pub(super) chain: u128,
    /// Rows so far.
    pub(super) rows: u64,
    /// The lengths of their keys and values so far.
    pub(super) bytes: u64,
    /// The key of the last row; empty: none yet.
    pub(super) last_key: Bytes,
}

const VERSION: u8 = 1;

impl Progress {
    /// Behind the header.
    pub(super) fn start(header_chain: u128) -> Self {
        Self { number: header::NUMBER, chain: header_chain, rows: 0, bytes: 0, last_key: Bytes::new() }
    }

    pub(super) fn add_row(&mut self, key: &Bytes, value: &Bytes) {
        self.rows += 1;
        self.bytes += (key.len() + value.len()) as u64;
        self.last_key = key.clone();
    }

    /// The token that says how far it is with the stream of this header. It fits no other stream, since the header's
    /// chain, which names the state, is in its checksum.
    pub(super) fn token(&self, header_chain: u128) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u64_le(self.number);
        out.put_u128_le(self.chain);
        out.put_u64_le(self.rows);
        out.put_u64_le(self.bytes);
        out.put_slice(&self.last_key);
        let checksum = checksum(&out, header_chain);
        out.put_u128_le(checksum);
        out.freeze()
    }

    /// What [`Self::token`] says.
    pub(super) fn of_token(token: &Bytes, header_chain: u128) -> Result<Self, SnapshotError> {
        let Some((said, checksum_of_it)) = token.split_last_chunk::<16>() else {
            return Err(SnapshotError::TokenUnfit);
        };
        if u128::from_le_bytes(*checksum_of_it) != checksum(said, header_chain) {
            return Err(SnapshotError::TokenUnfit);
        }
        Self::decode(token.slice(..said.len())).map_err(SnapshotError::Format)
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        const WHAT: &str = "snapshot token";
        let mut decoder = Decoder::new(bytes);
        decoder.version(WHAT, VERSION)?;
        Ok(Self {
            number: decoder.u64_le(WHAT)?,
            chain: decoder.u128_le(WHAT)?,
            rows: decoder.u64_le(WHAT)?,
            bytes: decoder.u64_le(WHAT)?,
            last_key: decoder.rest().clone(),
        })
    }
}

fn checksum(said: &[u8], header_chain: u128) -> u128 {
    xxh3_128(&[said, &header_chain.to_le_bytes()].concat())
}
