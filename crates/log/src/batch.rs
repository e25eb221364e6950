//! The batch: what one write and one sync make durable.
//!
//! A batch is a head block and as many continuation blocks as it needs. The contents of the blocks, one after the other,
//! are one stream: the header below, then records back to back, then zeroes.
//!
//! ```text
//! header                                           record
//!  0  u128 cluster                                  0  u8   kind: 1 entry, 2 truncation, 3 base
//! 16  u64  node                                     1  u8   entry: kind of the payload; others: 0
//! 24  u64  group                                    2  u16  0
//! 32  u32  length of the batch, in blocks           4  u32  length of the content, in bytes
//! 36  u32  checksum of the head or mark before       8  u64  entry, base: index; truncation: the last index to keep
//! 40  u32  CRC32C of the checksums of blocks 1..   16  u64  entry, base: term; truncation: 0
//! 44  u32  number of records                       24  …    entry: the content of the payload; base: see `base`
//! 48  u32  length of all records, in bytes
//! 52  u32  length of the segment, in blocks: finds a file that was cut
//! ```
//! The checksum of the head covers all of the batch, through the checksum at 40, and the one before it, through the one
//! at 36: batches and marks form a chain, and one that is lost is missed. A mark is a batch of one block without records.

use bytes::Bytes;
use raftmap_raft::{Entry, GroupId, LogIndex, LogPosition, NodeId, Term};

use crate::base::BaseRecord;
use crate::block::{BLOCK_BYTES, BLOCK_CONTENT_BYTES, BLOCK_HEADER_BYTES, BlockHeader, BlockKind};
use crate::block::{checksum, read_u32, read_u64};
use crate::disk::aligned::AlignedBuffer;

/// What comes before the records of a batch.
pub(crate) const BATCH_HEADER_BYTES: usize = 56;
/// What comes before the content of a record.
pub(crate) const RECORD_HEADER_BYTES: usize = 24;

/// How many blocks a batch takes whose records are `body_bytes` long.
pub(crate) fn blocks_for(body_bytes: usize) -> usize {
    (BATCH_HEADER_BYTES + body_bytes).div_ceil(BLOCK_CONTENT_BYTES)
}

/// How long the records of a batch of `blocks` blocks may be, in bytes.
pub(crate) fn capacity_bytes(blocks: u32) -> usize {
    (blocks as usize * BLOCK_CONTENT_BYTES).saturating_sub(BATCH_HEADER_BYTES)
}

/// Whose log it is: stands in every batch, so that a block of another log is never taken for one of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogIds {
    pub(crate) cluster: u128,
    pub(crate) node: NodeId,
    pub(crate) group: GroupId,
}

/// Where the next batch or mark goes, and what it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The generation of the segment.
    pub(crate) generation: u64,
    /// The place in the segment, in blocks.
    pub(crate) place: u32,
    /// The length of the segment, in blocks.
    pub(crate) segment_blocks: u32,
    /// The number of the batch or mark.
    pub(crate) sequence: u64,
    /// The checksum of the head or mark before it; 0 before the first one.
    pub(crate) previous: u32,
}

/// A step of the log's stream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record<'a> {
    Entry(&'a Entry),
    /// The last index to keep.
    Truncate(LogIndex),
    Base(BaseRecord<'a>),
}

impl Record<'_> {
    /// Its length in the stream, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Self::Entry(entry) => RECORD_HEADER_BYTES + content_bytes(entry),
            Self::Truncate(_) => RECORD_HEADER_BYTES,
            Self::Base(record) => RECORD_HEADER_BYTES + record.content_bytes(),
        }
    }
}

/// The length of an entry's content, in bytes.
pub(crate) fn content_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        raftmap_raft::Payload::Noop => 0,
        raftmap_raft::Payload::Command(bytes) => bytes.len(),
        raftmap_raft::Payload::Membership(membership) => membership.encoded_len(),
    }
}

/// Fills `buffer` with the blocks of a batch and gives the checksum of its head.
pub(crate) fn encode(ids: &LogIds, at: &Position, records: &[Record<'_>], buffer: &mut AlignedBuffer) -> u32 {
    let body_bytes: usize = records.iter().map(Record::size_bytes).sum();
    buffer.resize(blocks_for(body_bytes) * BLOCK_BYTES);
    let mut stream = StreamWriter { blocks: buffer, position: BATCH_HEADER_BYTES };
    for record in records {
        stream.put_record(record);
    }
    stream.finish();
    seal(ids, at, BlockKind::Head, records.len(), body_bytes, buffer)
}

/// Fills `buffer` with a mark and gives its checksum.
pub(crate) fn encode_mark(ids: &LogIds, at: &Position, buffer: &mut AlignedBuffer) -> u32 {
    buffer.resize(BLOCK_BYTES);
    StreamWriter { blocks: buffer, position: BATCH_HEADER_BYTES }.finish();
    seal(ids, at, BlockKind::Mark, 0, 0, buffer)
}

fn seal(
    ids: &LogIds,
    at: &Position,
    kind: BlockKind,
    records: usize,
    body_bytes: usize,
    blocks: &mut [u8],
) -> u32 {
    let small = |number: usize| u32::try_from(number).expect("a batch fits a segment of at most 1 GiB");
    let count = small(blocks.len() / BLOCK_BYTES);
    let (head, rest) = blocks.split_at_mut(BLOCK_BYTES);
    let header = |kind, part| BlockHeader {
        kind,
        generation: at.generation,
        sequence: at.sequence,
        place: at.place + part,
        part,
    };
    let mut rest_checksum = 0;
    for (part, block) in (1..count).zip(rest.chunks_exact_mut(BLOCK_BYTES)) {
        let checksum = header(BlockKind::Continuation, part).seal(block);
        rest_checksum = crc32c::crc32c_append(rest_checksum, &checksum.to_le_bytes());
    }
    let content = &mut head[BLOCK_HEADER_BYTES..];
    content[..16].copy_from_slice(&ids.cluster.to_le_bytes());
    content[16..24].copy_from_slice(&ids.node.0.to_le_bytes());
    content[24..32].copy_from_slice(&ids.group.0.to_le_bytes());
    content[32..36].copy_from_slice(&count.to_le_bytes());
    content[36..40].copy_from_slice(&at.previous.to_le_bytes());
    content[40..44].copy_from_slice(&rest_checksum.to_le_bytes());
    content[44..48].copy_from_slice(&small(records).to_le_bytes());
    content[48..52].copy_from_slice(&small(body_bytes).to_le_bytes());
    content[52..56].copy_from_slice(&at.segment_blocks.to_le_bytes());
    header(kind, 0).seal(head)
}

/// Writes the stream of a batch around the headers of its blocks.
struct StreamWriter<'a> {
    blocks: &'a mut [u8],
    position: usize,
}

impl StreamWriter<'_> {
    fn put_record(&mut self, record: &Record<'_>) {
        match record {
            Record::Entry(entry) => {
                let content = entry.payload.to_bytes();
                self.put_parts([1, entry.payload.kind()], entry.position(), &content);
            }
            Record::Truncate(last) => {
                self.put_parts([2, 0], LogPosition { index: *last, term: Term(0) }, &[]);
            }
            Record::Base(record) => self.put_parts([3, 0], record.base.position, &record.to_bytes()),
        }
    }

    fn put_parts(&mut self, kinds: [u8; 2], at: LogPosition, content: &[u8]) {
        let len = u32::try_from(content.len()).expect("a record fits a segment of at most 1 GiB");
        let mut header = [0; RECORD_HEADER_BYTES];
        header[..2].copy_from_slice(&kinds);
        header[4..8].copy_from_slice(&len.to_le_bytes());
        header[8..16].copy_from_slice(&at.index.0.to_le_bytes());
        header[16..24].copy_from_slice(&at.term.0.to_le_bytes());
        self.put(&header);
        self.put(content);
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.position += now.len();
            bytes = later;
        }
    }

    fn room(&mut self) -> &mut [u8] {
        let (block, within) = (self.position / BLOCK_CONTENT_BYTES, self.position % BLOCK_CONTENT_BYTES);
        &mut self.blocks[block * BLOCK_BYTES..][..BLOCK_BYTES][BLOCK_HEADER_BYTES + within..]
    }

    /// Zeroes after the last record: the buffer was used before.
    fn finish(mut self) {
        if !self.position.is_multiple_of(BLOCK_CONTENT_BYTES) {
            self.room().fill(0);
        }
    }
}

/// What the head of a batch, or a mark, says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) ids: LogIds,
    pub(crate) blocks: u32,
    pub(crate) previous: u32,
    pub(crate) rest_checksum: u32,
    pub(crate) records: u32,
    pub(crate) body_bytes: u32,
    pub(crate) segment_blocks: u32,
}

impl BatchHeader {
    /// Reads a block that was found valid and of the given kind; `None` if its numbers contradict each other.
    pub(crate) fn decode(kind: BlockKind, block: &[u8]) -> Option<Self> {
        let content = &block[BLOCK_HEADER_BYTES..];
        let header = Self {
            ids: LogIds {
                cluster: u128::from_le_bytes(content[..16].try_into().expect("16 bytes were taken")),
                node: NodeId(read_u64(content, 16)),
                group: GroupId(read_u64(content, 24)),
            },
            blocks: read_u32(content, 32),
            previous: read_u32(content, 36),
            rest_checksum: read_u32(content, 40),
            records: read_u32(content, 44),
            body_bytes: read_u32(content, 48),
            segment_blocks: read_u32(content, 52),
        };
        let empty = header.body_bytes == 0 && header.records == 0;
        let fits = header.blocks as usize == blocks_for(header.body_bytes as usize);
        (fits && empty == (kind == BlockKind::Mark)).then_some(header)
    }
}

/// The CRC32C of the checksums of `blocks`, the continuation blocks of a batch.
pub(crate) fn rest_checksum(blocks: &[u8]) -> u32 {
    blocks
        .chunks_exact(BLOCK_BYTES)
        .fold(0, |sum, block| crc32c::crc32c_append(sum, &checksum(block).to_le_bytes()))
}

/// A record as it stands in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordHeader {
    Entry { payload_kind: u8, content_bytes: usize, index: LogIndex, term: Term },
    Truncate(LogIndex),
    Base { content_bytes: usize, position: LogPosition },
}

/// Bytes that are not a record, in a block whose checksum fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MalformedRecord;

/// Reads the records of a batch, or of a part of it.
pub(crate) struct StreamReader<'a> {
    blocks: &'a [u8],
    position: usize,
    end: usize,
}

impl<'a> StreamReader<'a> {
    /// Reads all records of a batch, whose blocks were found valid.
    pub(crate) fn of_batch(blocks: &'a [u8], header: &BatchHeader) -> Self {
        let end = BATCH_HEADER_BYTES + header.body_bytes as usize;
        assert!(end.div_ceil(BLOCK_CONTENT_BYTES) * BLOCK_BYTES <= blocks.len());
        Self { blocks, position: BATCH_HEADER_BYTES, end }
    }

    /// Reads the records between two positions in the stream, from the blocks that hold them.
    pub(crate) fn of_range(blocks: &'a [u8], start: u32, end: u32) -> Self {
        let skipped = first_part(start) as usize * BLOCK_CONTENT_BYTES;
        Self { blocks, position: start as usize - skipped, end: end as usize - skipped }
    }

    /// Where in the stream it stands, if it reads all of a batch.
    pub(crate) fn position(&self) -> u32 {
        u32::try_from(self.position).expect("a batch fits a segment of at most 1 GiB")
    }

    /// The next record's header; `None` at the end. For one with content, [`Self::content`] or [`Self::skip`] must follow.
    pub(crate) fn next_header(&mut self) -> Result<Option<RecordHeader>, MalformedRecord> {
        if self.position == self.end {
            return Ok(None);
        }
        let mut header = [0; RECORD_HEADER_BYTES];
        if self.end - self.position < header.len() {
            return Err(MalformedRecord);
        }
        self.take(&mut header);
        let content_bytes = read_u32(&header, 4) as usize;
        let (index, term) = (LogIndex(read_u64(&header, 8)), Term(read_u64(&header, 16)));
        match (header[0], header[1], &header[2..4]) {
            (1, payload_kind, [0, 0]) if content_bytes <= self.end - self.position => {
                Ok(Some(RecordHeader::Entry { payload_kind, content_bytes, index, term }))
            }
            (2, 0, [0, 0]) if content_bytes == 0 && term == Term(0) => {
                Ok(Some(RecordHeader::Truncate(index)))
            }
            (3, 0, [0, 0]) if content_bytes <= self.end - self.position => {
                Ok(Some(RecordHeader::Base { content_bytes, position: LogPosition { term, index } }))
            }
            _ => Err(MalformedRecord),
        }
    }

    /// The content of the record whose header was read last.
    pub(crate) fn content(&mut self, content_bytes: usize) -> Bytes {
        let mut content = vec![0; content_bytes];
        self.take(&mut content);
        content.into()
    }

    /// Passes over the content of the record whose header was read last.
    pub(crate) fn skip(&mut self, content_bytes: usize) {
        assert!(content_bytes <= self.end - self.position);
        self.position += content_bytes;
    }

    fn take(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            let (block, within) = (self.position / BLOCK_CONTENT_BYTES, self.position % BLOCK_CONTENT_BYTES);
            let content = &self.blocks[block * BLOCK_BYTES..][..BLOCK_BYTES][BLOCK_HEADER_BYTES + within..];
            let (now, later) = out.split_at_mut(out.len().min(content.len()));
            now.copy_from_slice(&content[..now.len()]);
            self.position += now.len();
            out = later;
        }
    }
}

/// The block of a batch that holds the byte at `position` of its stream.
pub(crate) fn first_part(position: u32) -> u32 {
    position / u32::try_from(BLOCK_CONTENT_BYTES).expect("4064 fits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raftmap_raft::{Base, Membership, Payload, StateId};

    use super::*;
    use crate::base;
    use crate::block::{Block, classify};

    const IDS: LogIds = LogIds { cluster: 5, node: NodeId(2), group: GroupId(1) };
    const AT: Position =
        Position { generation: 4, place: 9, segment_blocks: 5000, sequence: 77, previous: 0xABCD };

    fn any_entry() -> impl Strategy<Value = Entry> {
        let payload = prop_oneof![
            Just(Payload::Noop),
            proptest::collection::vec(any::<u8>(), 0..6000).prop_map(|bytes| Payload::Command(bytes.into())),
            proptest::collection::btree_set(1u64..99, 1..9).prop_map(|ids| Payload::Membership(Box::new(
                Membership::of_voters(ids.into_iter().map(NodeId))
            ))),
        ];
        (any::<u64>(), any::<u64>(), payload).prop_map(|(term, index, payload)| Entry {
            term: Term(term),
            index: LogIndex(index),
            payload,
        })
    }

    #[derive(Clone, Debug, PartialEq)]
    enum Owned {
        Entry(Entry),
        Truncate(LogIndex),
        Base(Base, LogIndex),
    }

    impl Owned {
        fn borrowed(&self) -> Record<'_> {
            match self {
                Self::Entry(entry) => Record::Entry(entry),
                Self::Truncate(to) => Record::Truncate(*to),
                Self::Base(base, last) => Record::Base(BaseRecord { base, last: *last }),
            }
        }
    }

    fn any_base() -> impl Strategy<Value = (Base, LogIndex)> {
        let numbers = (1u64..99, 1u64..1 << 40, 0u64..99, 0u64..99, any::<u64>());
        (numbers, 1u64..800).prop_map(|((term, index, durable, last, state), members)| {
            let base = Base {
                position: LogPosition { term: Term(term), index: LogIndex(index) },
                membership: Membership::of_voters((1..=members).map(NodeId)),
                durable: LogIndex(index + durable),
                state: StateId(state),
            };
            (base, LogIndex(index + last))
        })
    }

    fn any_records() -> impl Strategy<Value = Vec<Owned>> {
        let record = prop_oneof![
            4 => any_entry().prop_map(Owned::Entry),
            1 => any::<u64>().prop_map(|to| Owned::Truncate(LogIndex(to))),
            1 => any_base().prop_map(|(base, last)| Owned::Base(base, last)),
        ];
        proptest::collection::vec(record, 1..20)
    }

    fn decoded(stream: &mut StreamReader<'_>) -> Vec<Owned> {
        let mut records = Vec::new();
        while let Some(header) = stream.next_header().unwrap() {
            records.push(match header {
                RecordHeader::Truncate(to) => Owned::Truncate(to),
                RecordHeader::Base { content_bytes, position } => {
                    let (base, last) = base::decode(position, &stream.content(content_bytes)).unwrap();
                    Owned::Base(base, last)
                }
                RecordHeader::Entry { payload_kind, content_bytes, index, term } => {
                    let payload = Payload::decode(payload_kind, stream.content(content_bytes)).unwrap();
                    Owned::Entry(Entry { term, index, payload })
                }
            });
        }
        records
    }

    proptest! {
        #[test]
        fn a_batch_survives_its_encoding(records in any_records(), dirt: u8) {
            let mut buffer = AlignedBuffer::default();
            buffer.resize(200 * BLOCK_BYTES);
            buffer.fill(dirt);
            let borrowed: Vec<_> = records.iter().map(Owned::borrowed).collect();
            let sum = encode(&IDS, &AT, &borrowed, &mut buffer);
            prop_assert_eq!(sum, checksum(&buffer));
            for (part, block) in (0..).zip(buffer.chunks(BLOCK_BYTES)) {
                let kind = if part == 0 { BlockKind::Head } else { BlockKind::Continuation };
                let expected = BlockHeader {
                    kind, part, place: AT.place + part, generation: AT.generation, sequence: AT.sequence,
                };
                prop_assert_eq!(classify(block), Block::Valid(expected));
            }
            let header = BatchHeader::decode(BlockKind::Head, &buffer[..BLOCK_BYTES]).unwrap();
            let body_bytes: usize = borrowed.iter().map(Record::size_bytes).sum();
            prop_assert_eq!((header.ids, header.previous, header.segment_blocks), (IDS, AT.previous, 5000));
            prop_assert_eq!(header.records as usize, records.len());
            prop_assert_eq!(header.body_bytes as usize, body_bytes);
            prop_assert_eq!(header.blocks as usize, buffer.len() / BLOCK_BYTES);
            prop_assert_eq!(header.rest_checksum, rest_checksum(&buffer[BLOCK_BYTES..]));
            prop_assert_eq!(decoded(&mut StreamReader::of_batch(&buffer, &header)), &records[..]);
            let end = (BATCH_HEADER_BYTES + body_bytes) % BLOCK_CONTENT_BYTES;
            if end > 0 {
                let last = &buffer[buffer.len() - BLOCK_CONTENT_BYTES + end..];
                prop_assert!(last.iter().all(|byte| *byte == 0), "no dirt behind the end");
            }

            // From any record on, reading only the blocks that hold it and what follows.
            let mut start = u32::try_from(BATCH_HEADER_BYTES).unwrap();
            for (nth, record) in borrowed.iter().enumerate() {
                let blocks = &buffer[first_part(start) as usize * BLOCK_BYTES..];
                let end = u32::try_from(BATCH_HEADER_BYTES + body_bytes).unwrap();
                prop_assert_eq!(decoded(&mut StreamReader::of_range(blocks, start, end)), &records[nth..]);
                start += u32::try_from(record.size_bytes()).unwrap();
            }
        }

        #[test]
        fn decoding_random_bytes_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), BLOCK_BYTES),
            numbers in proptest::collection::vec(0u32..9000, 5),
        ) {
            let mut block = bytes;
            // Small numbers make the lengths plausible now and then.
            for (nth, number) in numbers.iter().enumerate() {
                let at = BLOCK_HEADER_BYTES + 32 + 4 * nth;
                block[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
            for kind in [BlockKind::Head, BlockKind::Mark] {
                if let Some(header) = BatchHeader::decode(kind, &block)
                    && header.blocks == 1
                {
                    let mut stream = StreamReader::of_batch(&block, &header);
                    while let Ok(Some(record)) = stream.next_header() {
                        if let RecordHeader::Entry { content_bytes, .. }
                        | RecordHeader::Base { content_bytes, .. } = record
                        {
                            stream.content(content_bytes);
                        }
                    }
                }
            }
        }

        #[test]
        fn random_records_never_panic(
            len in 0..3 * BLOCK_CONTENT_BYTES - BATCH_HEADER_BYTES,
            bytes in proptest::collection::vec(0u8..4, 3 * BLOCK_BYTES),
        ) {
            let end = u32::try_from(BATCH_HEADER_BYTES + len).unwrap();
            let mut stream = StreamReader::of_range(&bytes, u32::try_from(BATCH_HEADER_BYTES).unwrap(), end);
            while let Ok(Some(record)) = stream.next_header() {
                if let RecordHeader::Entry { content_bytes, .. } | RecordHeader::Base { content_bytes, .. } = record
                {
                    stream.skip(content_bytes);
                }
            }
        }
    }

    #[test]
    fn every_field_of_a_record_is_checked() {
        let entry = Entry { term: Term(1), index: LogIndex(1), payload: Payload::Command("abc".into()) };
        let first = BLOCK_HEADER_BYTES + BATCH_HEADER_BYTES;
        let second = first + RECORD_HEADER_BYTES + 3;
        let read = |offset: usize, byte: u8| {
            let mut buffer = AlignedBuffer::default();
            encode(&IDS, &AT, &[Record::Entry(&entry), Record::Truncate(LogIndex(0))], &mut buffer);
            buffer[offset] = byte;
            let header = BatchHeader::decode(BlockKind::Head, &buffer).unwrap();
            let mut stream = StreamReader::of_batch(&buffer, &header);
            match stream.next_header()? {
                Some(RecordHeader::Entry { content_bytes, .. }) => stream.skip(content_bytes),
                other => panic!("{other:?}"),
            }
            stream.next_header()
        };
        assert_eq!(read(0, 0), Ok(Some(RecordHeader::Truncate(LogIndex(0)))));
        let bad = [
            ("kind", first, 0),
            ("payload kind of a base", first, 3),
            ("kind", first, 4),
            ("reserved", first + 2, 1),
            ("length", first + 6, 1),
            ("payload kind of a truncation", second + 1, 1),
            ("content of a truncation", second + 4, 1),
            ("term of a truncation", second + 16, 1),
        ];
        for (what, offset, byte) in bad {
            assert_eq!(read(offset, byte), Err(MalformedRecord), "{what}");
        }
    }

    #[test]
    fn a_mark_is_a_batch_without_records() {
        let mut buffer = AlignedBuffer::default();
        encode_mark(&IDS, &AT, &mut buffer);
        let header = BatchHeader::decode(BlockKind::Mark, &buffer).unwrap();
        assert_eq!((header.blocks, header.records, header.body_bytes), (1, 0, 0));
        assert_eq!(BatchHeader::decode(BlockKind::Head, &buffer), None);
        assert_eq!(StreamReader::of_batch(&buffer, &header).next_header(), Ok(None));
    }

    #[test]
    fn a_batch_fits_exactly_where_it_should() {
        assert_eq!(blocks_for(capacity_bytes(3)), 3);
        assert_eq!(blocks_for(capacity_bytes(3) + 1), 4);
        assert_eq!((capacity_bytes(0), blocks_for(0)), (0, 1));
    }
}
