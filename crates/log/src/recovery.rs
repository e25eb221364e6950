//! Reads the whole log at start and finds its end.

use bytes::Bytes;
use raftmap_raft::{Base, LogIndex, Membership, Payload, Term};

use crate::base::{self, BaseError};
use crate::batch::{LogIds, Position, RecordHeader, StreamReader};
use crate::block::{BLOCK_BYTES, BlockKind, VERSION};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Disk, DiskFile, ReadFrom};
use crate::error::{LogError, OpenError};
use crate::index::{Index, Span};
use crate::recovered::DamageReason;
use crate::replay::Replay;
use crate::scan::{Batch, Ending, Missing, Survey, batch_at, blocks_of, start_in_the_middle};
use crate::segment::SegmentFolder;

/// What stands on the disk.
pub(crate) struct Found {
    /// The entries that count.
    pub(crate) index: Index,
    /// Where they begin.
    pub(crate) base: Option<Base>,
    /// The memberships among them.
    pub(crate) memberships: Vec<(LogIndex, Membership)>,
    /// The last members that are known; `None`: the founding ones.
    pub(crate) members: Option<Membership>,
    /// The last term in the log.
    pub(crate) term: Term,
    /// Where the log goes on, unless it has to be cut before, or begins anew.
    pub(crate) next: Position,
    /// Whether a mark stands right before it, or nothing at all.
    pub(crate) marked: bool,
    /// Whether all was read from the disk itself.
    pub(crate) from: ReadFrom,
    /// How the log ends.
    pub(crate) ending: Ending,
    /// Where the log has to begin anew, for damage took what its base needs, or its base itself.
    pub(crate) anew: Option<Base>,
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
    let first = numbers.first().copied().unwrap_or(1);
    let mut scan = Scan {
        folder,
        ids,
        numbers,
        replay: Replay::new(first == 1),
        at: Position { generation: first, place: 0, segment_blocks: 0, sequence: 1, previous: 0 },
        marked: true,
        from: ReadFrom::Disk,
    };
    let (missing, stopped_at, survey) = scan.run()?;
    Ok(scan.found(first, missing, stopped_at, survey))
}

struct Scan<'a, D: Disk> {
    folder: &'a SegmentFolder<D>,
    ids: LogIds,
    numbers: Vec<u64>,
    replay: Replay,
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
        if self.at.generation > 1 {
            let lowest = self.at.generation;
            match start_in_the_middle(&current, &self.ids, lowest) {
                Ok(start) => self.at = start,
                Err(missing) => return self.survey(missing, (lowest, 0), &current),
            }
        }
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
                    let Ok(()) = self.replay.truncate(to) else { return Err(malformed) };
                }
                Ok(Some(RecordHeader::Base { content_bytes, position })) => {
                    let content = stream.content(content_bytes);
                    let (base, last) = match base::decode(position, &content) {
                        Ok(decoded) => decoded,
                        Err(BaseError::Malformed) => return Err(malformed),
                        Err(BaseError::Membership(source)) => {
                            let segment = self.at.generation;
                            return Err(OpenError::Base { segment, index: position.index, source });
                        }
                    };
                    let taken = self.replay.base_at(base, last, self.at.generation);
                    let Ok(()) = taken else { return Err(malformed) };
                }
                Ok(Some(RecordHeader::Entry { payload_kind, content_bytes, index, term })) => {
                    let membership = self.membership(payload_kind, content_bytes, index, &mut stream)?;
                    let span = Span {
                        first: index,
                        segment: self.at.generation,
                        sequence: self.at.sequence,
                        place: self.at.place,
                        start,
                        end: stream.position(),
                    };
                    let Ok(()) = self.replay.entry(span, term) else { return Err(malformed) };
                    if let Some(membership) = membership {
                        self.replay.membership(index, membership);
                    }
                }
            }
            records += 1;
        }
    }

    /// The membership that an entry carries, if it does. Commands are passed over: what they say is for the state machine.
    fn membership(
        &self,
        payload_kind: u8,
        content_bytes: usize,
        index: LogIndex,
        stream: &mut StreamReader<'_>,
    ) -> Result<Option<Membership>, OpenError> {
        if payload_kind == Payload::Command(Bytes::new()).kind() {
            stream.skip(content_bytes);
            return Ok(None);
        }
        match Payload::decode(payload_kind, stream.content(content_bytes)) {
            Ok(Payload::Membership(membership)) => Ok(Some(*membership)),
            Ok(_) => Ok(None),
            Err(source) => Err(OpenError::Payload { segment: self.at.generation, index, source }),
        }
    }

    /// Puts together what was found, and decides whether the log has to begin anew: damage took entries or a base that the
    /// newest base which can be read does not make up for. `first` is the lowest segment.
    fn found(self, first: u64, missing: Missing, stopped_at: (u64, u32), survey: Survey) -> Found {
        let Self { replay, at, marked, from, .. } = self;
        let end = (at.generation, at.place);
        let mut ending = survey.ending(stopped_at, missing, (end.0 + 1, 0));
        let is_base = |base: &Base| base.position.index > LogIndex(0) || base.is_state_distrusted();
        let known = replay.base().cloned().filter(is_base);
        let mut members = replay.memberships().last().map(|(_, membership)| membership.clone());
        let mut anew = survey.base.filter(|_| matches!(ending, Ending::Damaged(..)));
        if let Some(later) = anew.iter().find(|base| is_base(base)) {
            members = Some(later.membership.clone());
        } else if anew.is_none() && !replay.is_whole() {
            anew = Some(known.clone().unwrap_or_else(base::before_the_first));
            if !matches!(ending, Ending::Damaged(..)) {
                ending = Ending::Damaged(Some((first.saturating_sub(1), 0)), DamageReason::Missing);
            }
        }
        let last_used = survey.last_used.map_or(end.0, |used| used.max(end.0));
        let found = Found {
            members: members.or_else(|| known.as_ref().map(|base| base.membership.clone())),
            term: replay.last().term,
            index: replay.index(),
            memberships: replay.memberships().to_vec(),
            base: known,
            next: at,
            marked,
            from,
            ending,
            anew: None,
            last_used,
            reached: survey.reached,
            lowest: survey.lowest,
        };
        let Some(anew) = anew else { return found };
        let last = Some(found.index.last().index).filter(|index| *index > LogIndex(0));
        Found {
            term: found.term.max(anew.position.term),
            index: Index::starting_at(anew.position, 0),
            memberships: Vec::new(),
            base: Some(anew.clone()).filter(is_base),
            next: Position { sequence: at.sequence.max(survey.highest + 1), ..at },
            reached: found.reached.max(last),
            lowest: None,
            anew: Some(anew),
            ..found
        }
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
