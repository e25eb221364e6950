//! Reads the whole log at start and finds its end.

use bytes::Bytes;
use raftmap_raft::{LogIndex, Membership, Payload};

use crate::batch::{LogIds, Position, RecordHeader, StreamReader};
use crate::block::{BLOCK_BYTES, BlockKind, VERSION};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Disk, DiskFile, ReadFrom};
use crate::error::{LogError, OpenError};
use crate::index::{Index, Span};
use crate::recovered::DamageReason;
use crate::scan::{Batch, Ending, Missing, Survey, batch_at, blocks_of};
use crate::segment::SegmentFolder;

/// What stands on the disk.
pub(crate) struct Found {
    /// The entries that count.
    pub(crate) index: Index,
    /// The memberships among them.
    pub(crate) memberships: Vec<(LogIndex, Membership)>,
    /// Where the log goes on, unless it has to be cut before.
    pub(crate) next: Position,
    /// Whether a mark stands right before it, or nothing at all.
    pub(crate) marked: bool,
    /// Whether all was read from the disk itself.
    pub(crate) from: ReadFrom,
    /// How the log ends.
    pub(crate) ending: Ending,
    /// The last segment in which anything stands.
    pub(crate) last_used: u64,
    /// The last index that can be read behind the end.
    pub(crate) reached: Option<LogIndex>,
    /// The first index that can be read behind the end.
    pub(crate) lowest: Option<LogIndex>,
}

/// Reads all segments of a log and changes nothing.
pub(crate) fn read_log<D: Disk>(folder: &SegmentFolder<D>, ids: LogIds) -> Result<Found, OpenError> {
    let numbers = folder.numbers()?;
    // What a dead process wrote must be on the disk before it counts. Only the segment in use and, if a crash came
    // between two segments, the one after it can hold anything unsynced.
    for number in numbers.iter().rev().take(2) {
        let path = folder.segment_path(*number);
        folder.open(*number)?.file.sync_data().map_err(LogError::io("sync", &path))?;
    }
    let mut scan = Scan {
        folder,
        ids,
        numbers,
        index: Index::default(),
        memberships: Vec::new(),
        at: Position { generation: 1, place: 0, segment_blocks: 0, sequence: 1, previous: 0 },
        marked: true,
        from: ReadFrom::Disk,
    };
    let (missing, stopped_at, survey) = scan.run()?;
    let Scan { index, memberships, at, marked, from, .. } = scan;
    let end = (at.generation, at.place);
    let ending = survey.ending(stopped_at, missing, (end.0 + 1, 0));
    let last_used = survey.last_used.map_or(end.0, |used| used.max(end.0));
    Ok(Found {
        index,
        memberships,
        next: at,
        marked,
        from,
        ending,
        last_used,
        reached: survey.reached,
        lowest: survey.lowest,
    })
}

struct Scan<'a, D: Disk> {
    folder: &'a SegmentFolder<D>,
    ids: LogIds,
    numbers: Vec<u64>,
    index: Index,
    memberships: Vec<(LogIndex, Membership)>,
    /// Where the log goes on.
    at: Position,
    marked: bool,
    from: ReadFrom,
}

impl<D: Disk> Scan<'_, D> {
    /// Takes batch after batch until there is none. Gives why there is none, at which generation and place that showed,
    /// and what stands behind.
    fn run(&mut self) -> Result<(Missing, (u64, u32), Survey), OpenError> {
        let (mut current, mut next) = (AlignedBuffer::default(), AlignedBuffer::default());
        if !self.load(self.at.generation, &mut current)? {
            return self.survey(Missing::Damaged(0, DamageReason::Missing), (1, 0), &[]);
        }
        self.at.segment_blocks = length_in_blocks(&current);
        loop {
            let missing = self.take_batches(&current)?;
            let here = (self.at.generation, self.at.place);
            if missing != Missing::Old || !self.load(here.0 + 1, &mut next)? {
                return self.survey(missing, here, &current);
            }
            let start = Position {
                generation: here.0 + 1,
                place: 0,
                segment_blocks: length_in_blocks(&next),
                ..self.at
            };
            match batch_at(&next, &self.ids, &start) {
                Ok(_) => {
                    self.at = start;
                    std::mem::swap(&mut current, &mut next);
                }
                Err(Missing::Old) => return self.survey(Missing::Old, here, &current),
                Err(missing) => return self.survey(missing, (start.generation, 0), &current),
            }
        }
    }

    /// Reads a segment; false if there is none of that number.
    fn load(&mut self, number: u64, buffer: &mut AlignedBuffer) -> Result<bool, OpenError> {
        let there = self.numbers.binary_search(&number).is_ok();
        if there && self.folder.read(number, buffer)? == ReadFrom::Cache {
            self.from = ReadFrom::Cache;
        }
        Ok(there)
    }

    /// Takes the batches of a segment until there is none.
    fn take_batches(&mut self, segment: &[u8]) -> Result<Missing, OpenError> {
        loop {
            let batch = match batch_at(segment, &self.ids, &self.at) {
                Ok(batch) => batch,
                Err(missing) => return Ok(missing),
            };
            self.take_records(segment, &batch)?;
            self.marked = batch.kind == BlockKind::Mark;
            self.at.place += batch.header.blocks;
            self.at.sequence += 1;
            self.at.previous = batch.checksum;
        }
    }

    fn take_records(&mut self, segment: &[u8], batch: &Batch) -> Result<(), OpenError> {
        let malformed = OpenError::Malformed {
            segment: self.at.generation,
            offset: u64::from(self.at.place) * BLOCK_BYTES as u64,
        };
        let blocks = blocks_of(segment, self.at.place, &batch.header);
        let mut stream = StreamReader::of_batch(blocks, &batch.header);
        let mut records = 0;
        loop {
            let start = stream.position();
            match stream.next_header() {
                Ok(None) if records == batch.header.records => return Ok(()),
                Ok(None) | Err(_) => return Err(malformed),
                Ok(Some(RecordHeader::Truncate(to))) => {
                    let Ok(()) = self.index.truncate(to) else { return Err(malformed) };
                    self.memberships.truncate(self.memberships.partition_point(|(index, _)| *index <= to));
                }
                Ok(Some(RecordHeader::Entry { payload_kind, content_bytes, index, term })) => {
                    self.take_payload(payload_kind, content_bytes, index, &mut stream)?;
                    let span = Span {
                        first: index,
                        segment: self.at.generation,
                        sequence: self.at.sequence,
                        place: self.at.place,
                        start,
                        end: stream.position(),
                    };
                    let Ok(()) = self.index.append(span, term) else { return Err(malformed) };
                }
            }
            records += 1;
        }
    }

    /// Commands are passed over: what they say is for the state machine.
    fn take_payload(
        &mut self,
        payload_kind: u8,
        content_bytes: usize,
        index: LogIndex,
        stream: &mut StreamReader<'_>,
    ) -> Result<(), OpenError> {
        if payload_kind == Payload::Command(Bytes::new()).kind() {
            stream.skip(content_bytes);
            return Ok(());
        }
        match Payload::decode(payload_kind, stream.content(content_bytes)) {
            Ok(Payload::Membership(membership)) => self.memberships.push((index, membership)),
            Ok(_) => {}
            Err(source) => {
                return Err(OpenError::Payload { segment: self.at.generation, index, source });
            }
        }
        Ok(())
    }

    /// Looks at everything behind the end, from which `current` is what the last segment holds.
    fn survey(
        &self,
        missing: Missing,
        stopped_at: (u64, u32),
        current: &[u8],
    ) -> Result<(Missing, (u64, u32), Survey), OpenError> {
        let unknown = |number: u64, version: u8| OpenError::UnknownVersion {
            path: self.folder.segment_path(number),
            version: version.into(),
            known: VERSION.into(),
        };
        if let Missing::UnknownVersion(version) = missing {
            return Err(unknown(stopped_at.0, version));
        }
        let mut survey = Survey::new(self.ids, self.at.sequence);
        let at = self.at.generation;
        survey.look_at(current, at, self.at.place).map_err(|version| unknown(at, version))?;
        let mut buffer = AlignedBuffer::default();
        for number in self.numbers.iter().copied().filter(|number| *number > at) {
            self.folder.read(number, &mut buffer)?;
            survey.look_at(&buffer, number, 0).map_err(|version| unknown(number, version))?;
        }
        Ok((missing, stopped_at, survey))
    }
}

fn length_in_blocks(segment: &[u8]) -> u32 {
    u32::try_from(segment.len() / BLOCK_BYTES).expect("a segment has at most 1 GiB")
}
