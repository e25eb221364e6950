//! Reads entries back while the log goes on.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use raftmap_raft::{Entry, LogIndex, Payload};

use crate::batch::{RECORD_HEADER_BYTES, RecordHeader, StreamReader, first_part};
use crate::block::{BLOCK_BYTES, Block, BlockKind, classify};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::index::{Index, Span};
use crate::recovered::DamageReason;
use crate::segment::{Segment, SegmentFolder};

/// What the writer of a log and its readers share.
pub(crate) struct Shared<D: Disk> {
    pub(crate) folder: SegmentFolder<D>,
    /// What is durable. The writer adds to it when the sync has returned.
    index: RwLock<Index>,
    /// All segments with lower numbers are removed.
    removed_below: AtomicU64,
    /// Where the log ends on the disk: the segment in use, and how many blocks of it.
    end: Mutex<(u64, u32)>,
    /// The segments up to this number are not written to any more.
    left: AtomicU64,
    /// The first error, which is final.
    failure: OnceLock<LogError>,
}

impl<D: Disk> Shared<D> {
    /// Of a log that ends in this segment, after so many blocks.
    pub(crate) fn new(folder: SegmentFolder<D>, index: Index, end: (u64, u32)) -> Self {
        Self {
            folder,
            index: RwLock::new(index),
            removed_below: AtomicU64::new(0),
            end: Mutex::new(end),
            left: AtomicU64::new(0),
            failure: OnceLock::new(),
        }
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number below which all segments are removed, durably.
    pub(crate) fn removed_below(&self) -> u64 {
        self.removed_below.load(Ordering::Acquire)
    }

    /// The segment of this number is removed, durably, and all before it.
    pub(crate) fn set_removed(&self, number: u64) {
        self.removed_below.store(number + 1, Ordering::Release);
    }

    pub(crate) fn end(&self) -> (u64, u32) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was written up to here is synced.
    pub(crate) fn set_end(&self, end: (u64, u32)) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// Nothing is to be written to this segment any more.
    pub(crate) fn leave(&self, number: u64) {
        self.left.fetch_max(number, Ordering::AcqRel);
    }

    pub(crate) fn is_left(&self, number: u64) -> bool {
        number <= self.left.load(Ordering::Acquire)
    }

    /// The first error, if there was one.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        self.failure.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Keeps an error as the final one, unless there is one, and gives the final one.
    pub(crate) fn fail(&self, error: LogError) -> LogError {
        self.failure.get_or_init(|| error).clone()
    }
}

/// Reads entries that are durable, from any thread, while the [`crate::Log`] goes on.
pub struct LogReader<D: Disk> {
    shared: Arc<Shared<D>>,
    /// The segment that was read last.
    open: Option<Arc<Segment<D>>>,
    buffer: AlignedBuffer,
}

impl<D: Disk> Clone for LogReader<D> {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone())
    }
}

impl<D: Disk> LogReader<D> {
    pub(crate) fn new(shared: Arc<Shared<D>>) -> Self {
        Self { shared, open: None, buffer: AlignedBuffer::default() }
    }

    /// The first entry that the log holds, or will hold: the one after its base.
    pub fn first_index(&self) -> LogIndex {
        self.shared.index().base().index.next()
    }

    /// The last entry that is durable; the base's index if there is none.
    pub fn last_index(&self) -> LogIndex {
        self.shared.index().last().index
    }

    /// The entries from `from` to `max_index`, or as many of them from the first on as hold `max_bytes` of content and
    /// record headers (24 bytes each), but at least one. All of them are durable, without a gap, and every block that
    /// holds them is checked (scenario 25).
    ///
    /// # Errors
    /// [`LogError::NotInLog`] if `from` or `max_index` is behind the end or 0; [`LogError::Compacted`] if the log begins behind
    /// `from`, or comes to do so while it is read. Any other is final and ends the node.
    pub fn entries(
        &mut self,
        from: LogIndex,
        max_index: LogIndex,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, LogError> {
        loop {
            self.shared.check()?;
            match self.read(from, max_index, max_bytes) {
                Ok(entries) => return Ok(entries),
                // The log knows where its entries are now, if it still has them.
                Err(Stop::Removed) => {}
                Err(Stop::Refused(error)) => return Err(error),
                Err(Stop::Failed(error)) => return Err(self.shared.fail(error)),
            }
        }
    }

    fn read(&mut self, from: LogIndex, max_index: LogIndex, max_bytes: usize) -> Result<Vec<Entry>, Stop> {
        let shared = self.shared.clone();
        // The spans are taken at once: blocks are never written again, so they stay readable whatever is cut meanwhile, until
        // their segment is removed.
        let mut spans = {
            let index = shared.index();
            let (base, last) = (index.base().index, index.last().index);
            if LogIndex(0) < from && from <= base {
                return Err(Stop::Refused(LogError::Compacted { index: from, first: base.next() }));
            }
            let not_in_log = |at: &LogIndex| *at > last || *at == LogIndex(0);
            if let Some(index) = [from, max_index].into_iter().find(not_in_log) {
                return Err(Stop::Refused(LogError::NotInLog { index, last }));
            }
            index
                .spans(from, max_index)
                .take(max_bytes / RECORD_HEADER_BYTES + 1)
                .collect::<Vec<_>>()
                .into_iter()
        };
        let mut wanted = Wanted { next: from, last: max_index, bytes_left: max_bytes, entries: Vec::new() };
        while !wanted.full() {
            let Some((span, last_in_span)) = spans.next() else { break };
            self.read_span(&span, last_in_span, &mut wanted)?;
        }
        Ok(wanted.entries)
    }

    fn read_span(&mut self, span: &Span, last_in_span: LogIndex, wanted: &mut Wanted) -> Result<(), Stop> {
        self.read_blocks(span)?;
        let inconsistent = Stop::Failed(LogError::Damaged {
            segment: span.segment,
            offset: u64::from(span.place) * BLOCK_BYTES as u64,
            reason: DamageReason::Inconsistent,
        });
        let mut stream = StreamReader::of_range(&self.buffer, span.start, span.end);
        let mut expected = span.first;
        while expected <= last_in_span && !wanted.full() {
            let Ok(Some(RecordHeader::Entry { payload_kind, content_bytes, index, term })) =
                stream.next_header()
            else {
                return Err(inconsistent);
            };
            if index != expected {
                return Err(inconsistent);
            }
            expected = expected.next();
            if index < wanted.next {
                stream.skip(content_bytes);
                continue;
            }
            if !wanted.has_room_for(RECORD_HEADER_BYTES + content_bytes) {
                return Ok(());
            }
            let content = stream.content(content_bytes);
            let Ok(payload) = Payload::decode(payload_kind, content) else { return Err(inconsistent) };
            wanted.take(Entry { term, index, payload });
        }
        Ok(())
    }

    /// Reads and checks the blocks that hold a span.
    fn read_blocks(&mut self, span: &Span) -> Result<(), Stop> {
        let (first, last) = (first_part(span.start), first_part(span.end - 1));
        let segment = self.segment(span.segment)?;
        self.buffer.resize((last - first + 1) as usize * BLOCK_BYTES);
        let offset = |part: u32| u64::from(span.place + part) * BLOCK_BYTES as u64;
        let path = self.shared.folder.segment_path(span.segment);
        segment.file.read_at(&mut self.buffer, offset(first)).map_err(LogError::io("read", &path))?;
        for (part, block) in (first..=last).zip(self.buffer.chunks_exact(BLOCK_BYTES)) {
            let damaged = |reason| {
                Stop::Failed(LogError::Damaged { segment: span.segment, offset: offset(part), reason })
            };
            let Block::Valid(header) = classify(block) else {
                return Err(damaged(DamageReason::Checksum));
            };
            let kind = if part == 0 { BlockKind::Head } else { BlockKind::Continuation };
            if (header.generation, header.place) != (span.segment, span.place + part) {
                return Err(damaged(DamageReason::Misplaced));
            }
            if (header.kind, header.sequence, header.part) != (kind, span.sequence, part) {
                return Err(damaged(DamageReason::Inconsistent));
            }
        }
        Ok(())
    }

    fn segment(&mut self, number: u64) -> Result<Arc<Segment<D>>, Stop> {
        match &self.open {
            Some(segment) if segment.number == number => Ok(segment.clone()),
            _ => {
                let segment =
                    Arc::new(self.shared.folder.open(number).map_err(|error| self.why(number, error))?);
                self.open = Some(segment.clone());
                Ok(segment)
            }
        }
    }

    /// Why segment `number` does not open. One that the log needs no more may have been removed, and that is no failure: its
    /// index says so before anything is removed.
    fn why(&self, number: u64, error: LogError) -> Stop {
        match &error {
            LogError::Io { source, .. }
                if source.kind() == io::ErrorKind::NotFound
                    && number < self.shared.index().first_segment() =>
            {
                Stop::Removed
            }
            _ => Stop::Failed(error),
        }
    }
}

/// Why nothing was read.
enum Stop {
    /// Too much was asked for.
    Refused(LogError),
    /// A segment was removed since the spans were taken.
    Removed,
    /// The log failed.
    Failed(LogError),
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

/// What a reader still looks for.
struct Wanted {
    next: LogIndex,
    last: LogIndex,
    bytes_left: usize,
    entries: Vec<Entry>,
}

impl Wanted {
    /// Nothing more fits, or all is there. A zero is left by [`Self::has_room_for`], too, when it refuses.
    fn full(&self) -> bool {
        self.next > self.last || (self.bytes_left == 0 && !self.entries.is_empty())
    }

    /// The first entry always has room.
    fn has_room_for(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.bytes_left || self.entries.is_empty();
        self.bytes_left = if fits { self.bytes_left.saturating_sub(bytes) } else { 0 };
        fits
    }

    fn take(&mut self, entry: Entry) {
        self.next = entry.index.next();
        self.entries.push(entry);
    }
}
