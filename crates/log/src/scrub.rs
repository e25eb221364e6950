//! Reads the log again while it is in use, past the page cache, with the eyes of a start.

use std::io;
use std::sync::Arc;

use raftmap_raft::LogIndex;

use crate::batch::{LogIds, Position};
use crate::block::BLOCK_BYTES;
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Disk, DiskFile, read_what_can_be_read};
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
    file: D::File,
    /// For a file system that opens a file past its cache, and does not read it.
    cached: D::File,
    blocks: u32,
    bytes_read: usize,
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
                None => self.at = None,
            }
            return Ok((0, ScrubStep::More));
        };
        let bytes = self.read(&mut reading)?;
        if reading.bytes_read < reading.bytes() {
            self.current = Some(reading);
            return Ok((bytes, ScrubStep::More));
        }
        let judged = self.judge(&reading);
        let step = match judged {
            Ok(()) if reading.end.is_some() => ScrubStep::Sound,
            Ok(()) => ScrubStep::More,
            // Whatever stands in a segment that the log has let go of since.
            Err(_) if reading.number < self.shared.index().first_segment() => {
                self.at = None;
                ScrubStep::More
            }
            Err((place, reason)) => {
                self.shared.leave(reading.number);
                ScrubStep::Rotten(Rot {
                    segment: reading.number,
                    offset: u64::from(place) * BLOCK_BYTES as u64,
                    reason,
                    last: self.shared.index().last_in(reading.number),
                })
            }
        };
        Ok((bytes, step))
    }

    fn next_number(&self) -> Result<u64, LogError> {
        if let Some(at) = self.at {
            return Ok(at.generation + 1);
        }
        let first = self.shared.index().first_segment();
        let there = self.shared.folder.numbers()?;
        Ok(there.into_iter().find(|number| *number >= first).unwrap_or(first))
    }

    /// Opens a segment; `None` if the log needs it no more.
    fn begin(&mut self, number: u64) -> Result<Option<Reading<D>>, LogError> {
        let folder = &self.shared.folder;
        let path = folder.segment_path(number);
        let end = self.shared.end();
        let opened = folder.open(number).and_then(|segment| {
            let uncached = folder.disk.open_uncached(&path).map_err(LogError::io("open", &path))?;
            Ok((segment, uncached))
        });
        let (segment, uncached) = match opened {
            Err(LogError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound
                    && number < self.shared.index().first_segment() =>
            {
                return Ok(None);
            }
            opened => opened?,
        };
        let cached = segment.file;
        let file = match uncached {
            Some(file) => file,
            None => folder.open(number)?.file,
        };
        let end = (end.0 == number).then_some(end.1);
        let blocks = blocks_of(cached.size_bytes().map_err(LogError::io("look at", &path))?);
        let reading = Reading { number, file, cached, blocks, bytes_read: 0, end };
        self.buffer.resize(blocks as usize * BLOCK_BYTES);
        // What stands behind the end may be being written.
        self.buffer[reading.bytes()..].fill(0);
        Ok(Some(reading))
    }

    /// Reads a part of a segment. A block that the disk cannot read is as good as a rotten one.
    fn read(&mut self, reading: &mut Reading<D>) -> Result<usize, LogError> {
        let from = reading.bytes_read;
        let to = reading.bytes().min(from + READ_BYTES);
        let part = &mut self.buffer[from..to];
        let path = self.shared.folder.segment_path(reading.number);
        let read = match reading.file.read_at(part, from as u64) {
            // Some file systems take O_DIRECT and refuse the read.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                read_what_can_be_read(&reading.cached, part, from as u64)
            }
            Err(_) => read_what_can_be_read(&reading.file, part, from as u64),
            Ok(()) => Ok(()),
        };
        read.map_err(LogError::io("read", &path))?;
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
