//! A chunk: the unit that travels, a head of fixed length and content.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use super::error::SnapshotError;
use crate::format::Decoder;

/// The longest chunk, in bytes. Far more than a row takes under usual limits: a row is never cut in two.
pub const CHUNK_BYTES_MAX: usize = 256 << 20;

const VERSION: u8 = 1;

/// The length of a chunk's head: checksum (4), version, kind, zeroes (2), number (8), content's length (4), rows (4), chain
/// (16).
pub const HEAD_BYTES: usize = 40;
const CHECKED_FROM: usize = 4;
const CHAIN_AT: usize = 24;

/// The length of a chunk, by its head: for who reads chunks back to back. The head says nothing but that; what it claims is to
/// be believed as far as there are bytes.
///
/// # Errors
/// If it claims more than a chunk may have.
pub fn chunk_bytes(head: &[u8; HEAD_BYTES]) -> Result<usize, SnapshotError> {
    let claimed = u32::from_le_bytes([head[16], head[17], head[18], head[19]]);
    let bytes = usize::try_from(claimed).unwrap_or(usize::MAX).saturating_add(HEAD_BYTES);
    match bytes > CHUNK_BYTES_MAX {
        true => Err(SnapshotError::TooLarge { bytes, limit: CHUNK_BYTES_MAX }),
        false => Ok(bytes),
    }
}

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Header = 1,
    Rows = 2,
    Trailer = 3,
}

/// A chunk that was read, and stands where it belongs.
pub(super) struct Chunk {
    pub(super) kind: Kind,
    pub(super) rows: u32,
    /// The chain up to and with it.
    pub(super) chain: u128,
    pub(super) content: Bytes,
}

/// Room for a head, for the content to be put behind it.
pub(super) fn begin(content_bytes: usize) -> BytesMut {
    let mut chunk = BytesMut::with_capacity(HEAD_BYTES + content_bytes);
    chunk.put_bytes(0, HEAD_BYTES);
    chunk
}

/// Fills in the head of a chunk of at most [`CHUNK_BYTES_MAX`] bytes. `chain` is that of the chunk before, and becomes that of
/// this one.
pub(super) fn seal(mut chunk: BytesMut, kind: Kind, number: u64, rows: u32, chain: &mut u128) -> Bytes {
    let content_bytes = u32::try_from(chunk.len() - HEAD_BYTES).expect("a chunk is within its limit");
    let mut head = &mut chunk[CHECKED_FROM..CHAIN_AT];
    head.put_u8(VERSION);
    head.put_u8(kind as u8);
    head.put_u16_le(0);
    head.put_u64_le(number);
    head.put_u32_le(content_bytes);
    head.put_u32_le(rows);
    *chain = chain_after(*chain, &chunk);
    chunk[CHAIN_AT..HEAD_BYTES].copy_from_slice(&chain.to_le_bytes());
    let checksum = crc32c::crc32c(&chunk[CHECKED_FROM..]);
    chunk[..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
    chunk.freeze()
}

fn chain_after(before: u128, chunk: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&before.to_le_bytes());
    hash.update(&chunk[CHECKED_FROM..CHAIN_AT]);
    hash.update(&chunk[HEAD_BYTES..]);
    hash.digest128()
}

impl Chunk {
    /// Reads the chunk that is to be number `number`, where the chain before it is `chain`.
    pub(super) fn read(bytes: &Bytes, number: u64, chain: u128) -> Result<Self, SnapshotError> {
        if bytes.len() > CHUNK_BYTES_MAX {
            return Err(SnapshotError::TooLarge { bytes: bytes.len(), limit: CHUNK_BYTES_MAX });
        }
        if bytes.len() < HEAD_BYTES {
            return Err(SnapshotError::Malformed("a chunk is shorter than its head"));
        }
        let mut head = Decoder::new(bytes.clone());
        if head.u32_le("head")? != crc32c::crc32c(&bytes[CHECKED_FROM..]) {
            return Err(SnapshotError::Checksum { number });
        }
        head.version("snapshot", VERSION)?;
        let kind = match head.u8("head")? {
            1 => Kind::Header,
            2 => Kind::Rows,
            3 => Kind::Trailer,
            value => return Err(SnapshotError::UnknownKind { value }),
        };
        if head.u8("head")? != 0 || head.u8("head")? != 0 {
            return Err(SnapshotError::Malformed("a chunk's head holds what is not known"));
        }
        let found = head.u64_le("head")?;
        if found != number {
            return Err(SnapshotError::OutOfOrder { expected: number, found });
        }
        let content_bytes = head.u32_le("head")?;
        let rows = head.u32_le("head")?;
        let chain = chain_after(chain, bytes);
        if head.u128_le("head")? != chain {
            return Err(SnapshotError::Chain { number });
        }
        let content = head.rest().clone();
        if content.len() as u64 != u64::from(content_bytes) {
            return Err(SnapshotError::Malformed("a chunk is not as long as it says"));
        }
        Ok(Self { kind, rows, chain, content })
    }
}
