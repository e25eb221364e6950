//! Reads the log again while it is in use, past the page cache, with the eyes of a start.

use std::io;
use std::sync::Arc;

use raftmap_raft::LogIndex;

use crate::batch::{LogIds, Position};
use crate::block::BLOCK_BYTES;
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Disk, DiskFile, UNREADABLE, UNREADABLE_BLOCKS_MAX};
use crate::error::LogError;
use crate::reader::Shared;
use crate::recovered::DamageReason;
use crate::scan::{Ending, Missing, Survey, batch_at, start_in_the_middle};
use crate::segment::blocks_of;

/// How much is read with one call.
const READ_BYTES: usize = 256 << 10;

/// A place where the log is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rot {
    /// The segment's number.
    pub segment: u64,
    /// The offset in the segment, in bytes, of the block that gave it away.
    pub offset: u64,
    /// What is wrong there.
    pub reason: DamageReason,
    /// The last entry that stands in the segment now: it is needed no more once the log begins behind that.
    pub last: LogIndex,
}

/// What a step of a [`Scrub`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScrubStep {
    /// There is more to read.
    More,
    /// All that was in the log when the last segment was begun is as it was written.
    Sound,
    /// This is not. Nothing is written to that segment any more; what stands behind it was not looked at.
    Rotten(Rot),
}

/// One pass over all segments that the log needs, from any thread while the [`crate::Log`] goes on. It holds one segment in
/// memory. After [`ScrubStep::Sound`] or [`ScrubStep::Rotten`] it is done.
///
/// The process that uses the log does not need what rotted: it has read it, or will find out. The next start does, and would
/// take this server for damaged. So whoever hears of rot lets the log begin behind it.
pub struct Scrub<D: Disk> {
    shared: Arc<Shared<D>>,
    ids: LogIds,
    /// Where the next batch is expected; `None` before the first segment.
    at: Option<Position>,
    current: Option<Reading<D>>,
    buffer: AlignedBuffer,
}

/// A segment that is being read.
struct Reading<D: Disk> {
    number: u64,
    /// Past the page cache, where the file system can do that.
    uncached: Option<D::File>,
    cached: D::File,
    blocks: u32,
    bytes_read: usize,
    /// Blocks that the disk could not read.
    unreadable: usize,
    /// Where the log ended when this segment was begun, if it was in this one, in blocks.
    end: Option<u32>,
}

/// Looks at a log again and again, from any thread.
#[derive(Clone)]
pub struct Scrubber<D: Disk> {
    shared: Arc<Shared<D>>,
    ids: LogIds,
}

impl<D: Disk> Scrubber<D> {
    pub(crate) fn new(shared: Arc<Shared<D>>, ids: LogIds) -> Self {
        Self { shared, ids }
    }

    /// Begins a pass.
    pub fn scrub(&self) -> Scrub<D> {
        Scrub {
            shared: Arc::clone(&self.shared),
            ids: self.ids,
            at: None,
            current: None,
            buffer: AlignedBuffer::default(),
        }
    }
}

impl<D: Disk> Reading<D> {
    /// How much of it is looked at.
    fn bytes(&self) -> usize {
        self.end.unwrap_or(self.blocks).min(self.blocks) as usize * BLOCK_BYTES
    }

    fn fill(&mut self, part: &mut [u8], offset: u64) -> io::Result<()> {
        let file = self.uncached.as_ref().unwrap_or(&self.cached);
        match file.read_at(part, offset) {
            Ok(()) => return Ok(()),
            // Some file systems take O_DIRECT and refuse the read.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && self.uncached.is_some() => {
                self.uncached = None;
                return self.fill(part, offset);
            }
            Err(_) => {}
        }
        for (offset, block) in (offset..).step_by(BLOCK_BYTES).zip(part.chunks_exact_mut(BLOCK_BYTES)) {
            if let Err(error) = file.read_at(block, offset) {
                self.unreadable += 1;
                if self.unreadable > UNREADABLE_BLOCKS_MAX {
                    return Err(error);
                }
                block.fill(UNREADABLE);
            }
        }
        Ok(())
    }
}

impl<D: Disk> Scrub<D> {
    /// Reads on: a few hundred KiB at most, which it gives with what they came to.
    ///
    /// # Errors
    /// If the disk fails in another way than that it cannot give back what was written; or if the log failed.
    pub fn advance(&mut self) -> Result<(usize, ScrubStep), LogError> {
        self.shared.check()?;
        let Some(mut reading) = self.current.take() else {
            let next = self.next_number()?;
            match self.begin(next)? {
                Some(reading) => self.current = Some(reading),
                // It was cut meanwhile: on with the one that the log begins in now.
                None if next < self.shared.index().first_segment() => self.at = None,
                None => return Ok((0, self.rotten(next, 0, DamageReason::Missing))),
            }
            return Ok((0, ScrubStep::More));
        };
        let bytes = self.read(&mut reading)?;
        if reading.bytes_read < reading.bytes() {
            self.current = Some(reading);
            return Ok((bytes, ScrubStep::More));
        }
        let step = match self.judge(&reading) {
            Ok(()) if reading.end.is_some() => ScrubStep::Sound,
            Ok(()) => ScrubStep::More,
            // Whatever stands in a segment that the log has let go of since.
            Err(_) if reading.number < self.shared.index().first_segment() => {
                self.at = None;
                ScrubStep::More
            }
            Err((place, reason)) => self.rotten(reading.number, place, reason),
        };
        Ok((bytes, step))
    }

    fn rotten(&self, segment: u64, place: u32, reason: DamageReason) -> ScrubStep {
        self.shared.leave(segment);
        let last = self.shared.index().last_in(segment);
        ScrubStep::Rotten(Rot { segment, offset: u64::from(place) * BLOCK_BYTES as u64, reason, last })
    }

    fn next_number(&self) -> Result<u64, LogError> {
        if let Some(at) = self.at {
            return Ok(at.generation + 1);
        }
        let (first, first_entry) = {
            let index = self.shared.index();
            (index.first_segment(), index.segment_of_first())
        };
        if first > 0 {
            return Ok(first);
        }
        // A log that was never cut; it may have begun anew.
        let lowest = self.shared.folder.numbers()?.first().copied().unwrap_or(1);
        Ok(first_entry.map_or(lowest, |first| first.min(lowest)))
    }

    /// Opens a segment; `None` if there is none of this number.
    fn begin(&mut self, number: u64) -> Result<Option<Reading<D>>, LogError> {
        let folder = &self.shared.folder;
        let path = folder.segment_path(number);
        let end = self.shared.end();
        let open = || -> Result<_, LogError> {
            let uncached = folder.disk.open_uncached(&path).map_err(LogError::io("open", &path))?;
            let cached = folder.open(number)?.file;
            Ok((cached, uncached))
        };
        let (cached, uncached) = match open() {
            Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let end = (end.0 == number).then_some(end.1);
        let blocks = blocks_of(cached.size_bytes().map_err(LogError::io("look at", &path))?);
        let reading = Reading { number, uncached, cached, blocks, bytes_read: 0, unreadable: 0, end };
        self.buffer.resize(blocks as usize * BLOCK_BYTES);
        // What stands behind the end may be being written.
        self.buffer[reading.bytes()..].fill(0);
        Ok(Some(reading))
    }

    /// Reads a part of a segment. A block that the disk cannot read is as good as a rotten one.
    fn read(&mut self, reading: &mut Reading<D>) -> Result<usize, LogError> {
        let from = reading.bytes_read;
        let to = reading.bytes().min(from + READ_BYTES);
        let path = self.shared.folder.segment_path(reading.number);
        reading.fill(&mut self.buffer[from..to], from as u64).map_err(LogError::io("read", &path))?;
        reading.bytes_read = to;
        Ok(to - from)
    }

    /// Whether batch follows batch in a segment, up to where the next one goes on, or the log ended; or where not, and why.
    fn judge(&mut self, reading: &Reading<D>) -> Result<(), (u32, DamageReason)> {
        let segment = &self.buffer[..];
        let here = Position {
            generation: reading.number,
            place: 0,
            segment_blocks: reading.blocks,
            sequence: 1,
            previous: 0,
        };
        let mut at = match self.at {
            Some(before) => Position { sequence: before.sequence, previous: before.previous, ..here },
            None if reading.number == 1 => here,
            None => {
                let start = start_in_the_middle(segment, &self.ids, reading.number);
                start
                    .map(|start| Position { segment_blocks: reading.blocks, ..start })
                    .map_err(|missing| wrong(0, missing))?
            }
        };
        loop {
            if reading.end.is_some_and(|end| at.place >= end) {
                break;
            }
            match batch_at(segment, &self.ids, &at) {
                Ok(batch) => {
                    at.place += batch.header.blocks;
                    at.sequence += 1;
                    at.previous = batch.checksum;
                }
                Err(Missing::Old) if reading.end.is_none() && self.ends_at(segment, &at) => break,
                Err(missing) => return Err(wrong(at.place, missing)),
            }
        }
        self.at = Some(at);
        Ok(())
    }

    /// Whether nothing was written to a segment behind a place.
    fn ends_at(&self, segment: &[u8], at: &Position) -> bool {
        let here = (at.generation, at.place);
        let mut survey = Survey::new(self.ids, at.sequence);
        let looked = survey.look_at(segment, at.generation, at.place);
        looked.is_ok() && survey.ending(here, Missing::Old, (at.generation + 1, 0)) == Ending::Clean
    }
}

/// Why a batch that was written and synced is not there.
fn wrong(place: u32, missing: Missing) -> (u32, DamageReason) {
    match missing {
        Missing::Damaged(part, reason) => (place + part, reason),
        Missing::Old | Missing::Torn => (place, DamageReason::Missing),
        Missing::UnknownVersion(_) => (place, DamageReason::Checksum),
    }
}
