//! The block: 4 KiB, the unit in which the log is written, checked and told apart.
//!
//! ```text
//!  0  u32  CRC32C of bytes 4..4096
//!  4  u8   format version, 1
//!  5  u8   kind: 1 head of a batch, 2 continuation of a batch, 3 mark
//!  6  u16  0
//!  8  u64  generation of the segment
//! 16  u64  sequence number of the batch or mark
//! 24  u32  own place in the segment, in blocks
//! 28  u32  own place in the batch, in blocks; 0 for heads and marks
//! 32  …    content: in a batch, 4064 bytes of one stream that runs through all of its blocks
//! ```
//! All numbers are little-endian. The place of the checksum and of the version is the same in all versions to come.

/// The unit of writing, in bytes. A block that was acknowledged is never written again.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// What comes before the content.
pub(crate) const BLOCK_HEADER_BYTES: usize = 32;
/// The content of a block.
pub(crate) const BLOCK_CONTENT_BYTES: usize = BLOCK_BYTES - BLOCK_HEADER_BYTES;
/// The version of the format that this code writes.
pub(crate) const VERSION: u8 = 1;

static ZEROES: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// The first block of a batch.
    Head,
    /// Any other block of a batch.
    Continuation,
    /// Says that everything before it was synced.
    Mark,
}

/// What a block says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    /// What it is.
    pub(crate) kind: BlockKind,
    /// The generation of its segment: an earlier use of the same file is told apart by it.
    pub(crate) generation: u64,
    /// The number of its batch or mark in the whole log, from 1, without gaps.
    pub(crate) sequence: u64,
    /// Its own place in the segment, in blocks: finds a misdirected write.
    pub(crate) place: u32,
    /// Its own place in the batch, in blocks.
    pub(crate) part: u32,
}

/// What 4 KiB read from a disk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Never written.
    Zero,
    /// Written whole, by this version of the format.
    Valid(BlockHeader),
    /// Written whole, by a version that this code does not know.
    UnknownVersion(u8),
    /// The checksum does not fit, or the header makes no sense.
    Rotten,
}

impl BlockHeader {
    /// Writes header and checksum around the content of `block` and gives the checksum.
    pub(crate) fn seal(self, block: &mut [u8]) -> u32 {
        assert_eq!(block.len(), BLOCK_BYTES);
        block[4] = VERSION;
        block[5] = match self.kind {
            BlockKind::Head => 1,
            BlockKind::Continuation => 2,
            BlockKind::Mark => 3,
        };
        block[6..8].fill(0);
        block[8..16].copy_from_slice(&self.generation.to_le_bytes());
        block[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        block[24..28].copy_from_slice(&self.place.to_le_bytes());
        block[28..32].copy_from_slice(&self.part.to_le_bytes());
        let checksum = crc32c::crc32c(&block[4..]);
        block[..4].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }
}

/// What `block`, 4 KiB, is.
pub(crate) fn classify(block: &[u8]) -> Block {
    assert_eq!(block.len(), BLOCK_BYTES);
    if *block == ZEROES {
        return Block::Zero;
    }
    if crc32c::crc32c(&block[4..]) != checksum(block) {
        return Block::Rotten;
    }
    if block[4] != VERSION {
        return Block::UnknownVersion(block[4]);
    }
    let kind = match block[5] {
        1 => BlockKind::Head,
        2 => BlockKind::Continuation,
        3 => BlockKind::Mark,
        _ => return Block::Rotten,
    };
    let header = BlockHeader {
        kind,
        generation: read_u64(block, 8),
        sequence: read_u64(block, 16),
        place: read_u32(block, 24),
        part: read_u32(block, 28),
    };
    if block[6..8] != [0, 0] || (header.part == 0) != (kind != BlockKind::Continuation) {
        return Block::Rotten;
    }
    Block::Valid(header)
}

/// The checksum that stands in `block`.
pub(crate) fn checksum(block: &[u8]) -> u32 {
    read_u32(block, 0)
}

/// The little-endian number at `offset`, which the caller knows to be inside.
pub(crate) fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("4 bytes were taken"))
}

/// The little-endian number at `offset`, which the caller knows to be inside.
pub(crate) fn read_u64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("8 bytes were taken"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_header() -> impl Strategy<Value = BlockHeader> {
        let kinds = prop_oneof![Just(BlockKind::Head), Just(BlockKind::Mark), Just(BlockKind::Continuation)];
        (kinds, any::<u64>(), any::<u64>(), any::<u32>(), 1..u32::MAX).prop_map(
            |(kind, generation, sequence, place, part)| {
                let part = if kind == BlockKind::Continuation { part } else { 0 };
                BlockHeader { kind, generation, sequence, place, part }
            },
        )
    }

    fn resealed(mut block: [u8; BLOCK_BYTES], offset: usize, byte: u8) -> Block {
        block[offset] = byte;
        let checksum = crc32c::crc32c(&block[4..]);
        block[..4].copy_from_slice(&checksum.to_le_bytes());
        classify(&block)
    }

    proptest! {
        #[test]
        fn a_block_survives_its_sealing_and_no_flipped_bit(
            header in any_header(), fill: u8, bit in 0..BLOCK_BYTES * 8,
        ) {
            let mut block = [fill; BLOCK_BYTES];
            prop_assert_eq!(header.seal(&mut block), checksum(&block));
            prop_assert_eq!(classify(&block), Block::Valid(header));
            block[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(classify(&block), Block::Rotten);
        }

        #[test]
        fn random_bytes_are_rotten(bytes in proptest::collection::vec(any::<u8>(), BLOCK_BYTES)) {
            prop_assert_eq!(classify(&bytes), Block::Rotten);
        }
    }

    #[test]
    fn every_field_of_the_header_is_checked() {
        let header = BlockHeader { kind: BlockKind::Head, generation: 1, sequence: 2, place: 3, part: 0 };
        let mut block = [0; BLOCK_BYTES];
        header.seal(&mut block);
        assert_eq!(resealed(block, 4, 2), Block::UnknownVersion(2));
        assert_eq!(resealed(block, 4, 0), Block::UnknownVersion(0));
        for (what, offset, byte) in [
            ("kind", 5, 0),
            ("kind", 5, 4),
            ("reserved", 6, 1),
            ("reserved", 7, 1),
            ("part of a head", 28, 1),
        ] {
            assert_eq!(resealed(block, offset, byte), Block::Rotten, "{what}");
        }
        assert_eq!(resealed(block, 5, 2), Block::Rotten, "a continuation with part 0");
        assert_eq!(classify(&[0; BLOCK_BYTES]), Block::Zero);
    }
}
