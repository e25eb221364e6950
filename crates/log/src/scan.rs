//! Tells, block by block, what a start finds in the log: pure decisions over bytes.
//!
//! [`batch_at`] says whether a batch or mark stands where the log goes on. Where none does, a [`Survey`] of everything
//! behind that place tells the end of the log, a torn last batch and damage apart:
//!
//! - *torn*: a crash cut the last write short. All blocks behind are either parts of that one batch or were never
//!   written, at least one of its blocks is missing, and nothing proves that its sync returned (no batch or mark after
//!   it). Nobody was told of it.
//! - *damaged*: anything else. A block that a finished write left and that is not whole any more, a batch that is missing
//!   although later ones are there, a block that belongs elsewhere.

use raftmap_raft::{Base, LogIndex};

use crate::base;
use crate::batch::{BatchHeader, LogIds, Position, RecordHeader, StreamReader, rest_checksum};
use crate::block::{BLOCK_BYTES, Block, BlockHeader, BlockKind, checksum, classify};
use crate::recovered::DamageReason;

/// No sequence number reaches it: behind a larger one there would be no room to count.
const SEQUENCE_MAX: u64 = 1 << 62;

/// A batch or mark that stands where it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) kind: BlockKind,
    pub(crate) header: BatchHeader,
    /// The checksum of its head.
    pub(crate) checksum: u32,
}

/// Why no batch stands at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Its first block was never written in this use of the segment, or the segment ends.
    Old,
    /// Its first block is there, others were never written.
    Torn,
    /// Damage, given away by a block so many blocks into the batch.
    Damaged(u32, DamageReason),
    /// A block of a version that this code does not know.
    UnknownVersion(u8),
}

/// A block, as seen from a log that expects the segment's generation and a sequence number there.
enum Seen {
    Old,
    Ours(BlockHeader),
    Rotten(DamageReason),
    UnknownVersion(u8),
}

fn look(block: &[u8], generation: u64, place: u32) -> Seen {
    match classify(block) {
        Block::Zero => Seen::Old,
        Block::Rotten => Seen::Rotten(DamageReason::Checksum),
        Block::UnknownVersion(version) => Seen::UnknownVersion(version),
        Block::Valid(header) if header.generation < generation => Seen::Old,
        Block::Valid(header) if header.generation > generation || header.place != place => {
            Seen::Rotten(DamageReason::Misplaced)
        }
        Block::Valid(header) if header.sequence > SEQUENCE_MAX => Seen::Rotten(DamageReason::Inconsistent),
        Block::Valid(header) => Seen::Ours(header),
    }
}

fn block_at(segment: &[u8], place: u32) -> Option<&[u8]> {
    segment.get(place as usize * BLOCK_BYTES..)?.get(..BLOCK_BYTES)
}

/// The blocks of the batch at `place`, which was found to be whole.
pub(crate) fn blocks_of<'a>(segment: &'a [u8], place: u32, header: &BatchHeader) -> &'a [u8] {
    &segment[place as usize * BLOCK_BYTES..][..header.blocks as usize * BLOCK_BYTES]
}

/// Where a log goes on whose first segments were removed: the first batch in `segment`, of that generation, says itself what
/// it follows. Whether it is whole is not looked at.
pub(crate) fn start_in_the_middle(
    segment: &[u8],
    ids: &LogIds,
    generation: u64,
) -> Result<Position, Missing> {
    let segment_blocks = u32::try_from(segment.len() / BLOCK_BYTES).expect("a segment has at most 1 GiB");
    let at = Position { generation, place: 0, segment_blocks, sequence: 0, previous: 0 };
    if let Some(head) = block_at(segment, 0)
        && let Seen::Ours(header) = look(head, generation, 0)
        && let Some(batch) = BatchHeader::decode(header.kind, head)
    {
        return Ok(Position { sequence: header.sequence, previous: batch.previous, ..at });
    }
    // It holds nothing that could be the first batch, so one is lost: no segment before the one in use is empty.
    match batch_at(segment, ids, &at) {
        Err(Missing::Old) | Ok(_) => Err(Missing::Damaged(0, DamageReason::Missing)),
        Err(missing) => Err(missing),
    }
}

/// The batch or mark at `at` in `segment`, the bytes of a whole segment, if it is one that continues the log.
pub(crate) fn batch_at(segment: &[u8], ids: &LogIds, at: &Position) -> Result<Batch, Missing> {
    let damaged = |reason| Missing::Damaged(0, reason);
    let head = block_at(segment, at.place).ok_or(Missing::Old)?;
    let kind = match look(head, at.generation, at.place) {
        Seen::Old => return Err(Missing::Old),
        Seen::Rotten(reason) => return Err(damaged(reason)),
        Seen::UnknownVersion(version) => return Err(Missing::UnknownVersion(version)),
        Seen::Ours(header) if header.sequence > at.sequence => return Err(damaged(DamageReason::Missing)),
        Seen::Ours(header) if header.sequence < at.sequence || header.kind == BlockKind::Continuation => {
            return Err(damaged(DamageReason::Inconsistent));
        }
        Seen::Ours(header) => header.kind,
    };
    let header = BatchHeader::decode(kind, head).ok_or(damaged(DamageReason::Inconsistent))?;
    if header.ids != *ids {
        return Err(damaged(DamageReason::Foreign));
    }
    if header.previous != at.previous {
        return Err(damaged(DamageReason::Chain));
    }
    if header.segment_blocks != at.segment_blocks || segment.len() != at.segment_blocks as usize * BLOCK_BYTES
    {
        return Err(damaged(DamageReason::Length));
    }
    let mut torn = false;
    for part in 1..header.blocks {
        let block = at.place.checked_add(part).and_then(|place| block_at(segment, place));
        let block = block.ok_or(damaged(DamageReason::Inconsistent))?;
        match look(block, at.generation, at.place + part) {
            Seen::Old => torn = true,
            Seen::Rotten(reason) => return Err(Missing::Damaged(part, reason)),
            Seen::UnknownVersion(version) => return Err(Missing::UnknownVersion(version)),
            Seen::Ours(seen) if seen.sequence != at.sequence || seen.part != part => {
                return Err(Missing::Damaged(part, DamageReason::Inconsistent));
            }
            Seen::Ours(_) => {}
        }
    }
    if torn {
        return Err(Missing::Torn);
    }
    if rest_checksum(&blocks_of(segment, at.place, &header)[BLOCK_BYTES..]) != header.rest_checksum {
        return Err(damaged(DamageReason::Inconsistent));
    }
    Ok(Batch { kind, header, checksum: checksum(head) })
}

/// What lies behind the place where the log does not go on.
#[derive(Debug)]
pub(crate) struct Survey {
    ids: LogIds,
    /// The number of the batch that was expected.
    sequence: u64,
    /// The first block that gives damage away.
    damage: Option<(u64, u32, DamageReason)>,
    /// A later batch or mark is there.
    later: bool,
    /// Where the batch that was expected begins, by generation and place, if a block of it is there.
    torn_at: Option<(u64, u32)>,
    /// The last index among the entries that can still be read.
    pub(crate) reached: Option<LogIndex>,
    /// The first index that those entries replace.
    pub(crate) lowest: Option<LogIndex>,
    /// The newest base that can still be read.
    pub(crate) base: Option<Base>,
    /// The sequence number of the batch that holds it.
    base_sequence: u64,
    /// The highest sequence number.
    pub(crate) highest: u64,
    /// The last segment with a block in it that was written.
    pub(crate) last_used: Option<u64>,
}

/// How a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Where the last batch ends.
    Clean,
    /// In a batch that a crash cut short, which begins at this generation and place.
    Torn(u64, u32),
    /// In damage, given away by the block at this generation and place; `None`: nothing is there where there should be.
    Damaged(Option<(u64, u32)>, DamageReason),
}

impl Survey {
    /// A survey for a log that expects batch `sequence` next.
    pub(crate) fn new(ids: LogIds, sequence: u64) -> Self {
        Self {
            ids,
            sequence,
            damage: None,
            later: false,
            torn_at: None,
            reached: None,
            lowest: None,
            base: None,
            base_sequence: sequence,
            highest: 0,
            last_used: None,
        }
    }

    /// Looks at the blocks of a segment from `place` on.
    ///
    /// # Errors
    /// The version of a block that this code does not know.
    pub(crate) fn look_at(&mut self, segment: &[u8], generation: u64, place: u32) -> Result<(), u8> {
        let mut place = place;
        while let Some(block) = block_at(segment, place) {
            match look(block, generation, place) {
                Seen::Old => {}
                Seen::UnknownVersion(version) => return Err(version),
                Seen::Rotten(reason) => self.rotten(generation, place, reason),
                Seen::Ours(header) => self.ours(segment, &header),
            }
            place += 1;
        }
        Ok(())
    }

    fn rotten(&mut self, generation: u64, place: u32, reason: DamageReason) {
        self.last_used = Some(generation);
        self.damage = self.damage.or(Some((generation, place, reason)));
    }

    fn ours(&mut self, segment: &[u8], header: &BlockHeader) {
        self.last_used = Some(header.generation);
        self.highest = self.highest.max(header.sequence);
        let begin = header.place.checked_sub(header.part);
        if header.kind != BlockKind::Continuation {
            self.read_records(segment, header);
        }
        match (header.sequence.cmp(&self.sequence), begin) {
            (std::cmp::Ordering::Greater, _) => self.later = true,
            (std::cmp::Ordering::Equal, Some(begin)) => {
                let torn_at = *self.torn_at.get_or_insert((header.generation, begin));
                if torn_at != (header.generation, begin) {
                    self.rotten(header.generation, header.place, DamageReason::Inconsistent);
                }
            }
            _ => self.rotten(header.generation, header.place, DamageReason::Inconsistent),
        }
    }

    /// Takes from a batch that does not count which entries were there, and where the log began.
    fn read_records(&mut self, segment: &[u8], head: &BlockHeader) {
        let block = block_at(segment, head.place).expect("the head was just read");
        let Some(header) = BatchHeader::decode(head.kind, block) else { return };
        let at = Position {
            generation: head.generation,
            place: head.place,
            segment_blocks: header.segment_blocks,
            sequence: head.sequence,
            previous: header.previous,
        };
        if batch_at(segment, &self.ids, &at).is_err() {
            return;
        }
        let mut stream = StreamReader::of_batch(blocks_of(segment, head.place, &header), &header);
        while let Ok(Some(record)) = stream.next_header() {
            match record {
                RecordHeader::Entry { content_bytes, index, .. } => {
                    self.reached = self.reached.max(Some(index));
                    self.lowest = Some(self.lowest.map_or(index, |lowest| lowest.min(index)));
                    stream.skip(content_bytes);
                }
                RecordHeader::Base { content_bytes, position } => {
                    let content = stream.content(content_bytes);
                    if let Ok((base, _)) = base::decode(position, &content)
                        && head.sequence >= self.base_sequence
                    {
                        self.reached = self.reached.max(Some(position.index));
                        (self.base, self.base_sequence) = (Some(base), head.sequence);
                    }
                }
                RecordHeader::Truncate(_) => {}
            }
        }
    }

    /// The verdict, once everything behind was looked at. `at` is where the log would have gone on, `missing` why it
    /// does not, and `next` the first place of the segment after the last one that counts.
    pub(crate) fn ending(&self, at: (u64, u32), missing: Missing, next: (u64, u32)) -> Ending {
        if let Missing::Damaged(part, reason) = missing {
            return Ending::Damaged(Some((at.0, at.1 + part)), reason);
        }
        if let Some((generation, place, reason)) = self.damage {
            return Ending::Damaged(Some((generation, place)), reason);
        }
        if self.later {
            return Ending::Damaged(None, DamageReason::Missing);
        }
        match self.torn_at {
            None => Ending::Clean,
            Some(torn_at) if torn_at == at || torn_at == next => Ending::Torn(torn_at.0, torn_at.1),
            Some(torn_at) => Ending::Damaged(Some(torn_at), DamageReason::Inconsistent),
        }
    }
}
