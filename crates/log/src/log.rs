//! The log itself: one thread writes, any thread reads.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use raftmap_raft::{Base, HardState, LogIndex, LogPosition, Term, Write, WriteId};

use crate::batch::{self, LogIds, Position, Record};
use crate::block::BLOCK_BYTES;
use crate::cut::{Cut, Segments};
use crate::directory;
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Disk, DiskFile, Space};
use crate::error::{InitError, LogError, OpenError};
use crate::hard_state::HardStateFile;
use crate::identity::Identity;
use crate::index::{OutOfOrder, Span};
use crate::options::LogOptions;
use crate::plan::{Plan, Stage, fitting};
use crate::reader::{LogReader, Shared};
use crate::recovered::{Recovered, SegmentUse};
use crate::recovery::read_log;
use crate::repair::repair;
use crate::scrub::Scrubber;
use crate::segment::{Segment, SegmentFolder};

/// The log and the hard state of one group, open on a disk, held by one thread.
pub struct Log<D: Disk> {
    shared: Arc<Shared<D>>,
    hard_state: HardStateFile<D>,
    ids: LogIds,
    options: LogOptions,
    segment: Segment<D>,
    spare: Spare<D>,
    segments: Segments,
    /// Where the next batch or mark goes.
    next: Position,
    /// Whether a mark stands right before it, or nothing at all.
    marked: bool,
    last_write: WriteId,
    buffer: AlignedBuffer,
    lock: Arc<D::Lock>,
}

/// The segment after the one in use.
enum Spare<D: Disk> {
    None,
    Ready(Segment<D>),
    InTheMaking(Receiver<Segment<D>>),
}

/// The making of the next segment, to be run on any thread. Dropping it leaves the making to the log, when it needs it.
pub struct Preparation<D: Disk> {
    shared: Arc<Shared<D>>,
    number: u64,
    bytes: u64,
    done: SyncSender<Segment<D>>,
    /// Until the file has its name nobody else may open the log, and make one of the same name.
    lock: Arc<D::Lock>,
}

impl<D: Disk> Log<D> {
    /// Makes a data directory at `dir`, which must be empty or not be there; the folder above it must be.
    ///
    /// # Errors
    /// If there is something, an earlier `init` was cut short, or the disk fails.
    pub fn init(disk: &D, dir: &Path, identity: &Identity, options: &LogOptions) -> Result<(), InitError> {
        directory::init(disk, dir, identity, options)
    }

    /// Makes a data directory of a cluster that goes on from a state which was taken elsewhere: its log begins at `base`, in
    /// the term of that. `make_state` makes the state machine that the base names, durably; it is called when the directory is
    /// known to be empty, and before it is a data directory. As with [`Self::init`], a crash leaves a directory that is none.
    ///
    /// # Errors
    /// As [`Self::init`], and what `make_state` gives.
    ///
    /// # Panics
    /// If `base` is before the first entry: there is nothing to go on from.
    pub fn init_at<E: From<InitError>>(
        disk: &D,
        dir: &Path,
        identity: &Identity,
        options: &LogOptions,
        base: &Base,
        make_state: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        assert!(
            base.position.index > LogIndex(0) && base.position.term > Term(0),
            "a base before the first entry"
        );
        directory::init_at(disk, dir, identity, options, Some(base), make_state)
    }

    /// Opens the data directory at `dir`, recovers its log and repairs what may be repaired.
    ///
    /// # Errors
    /// See [`OpenError`]. The node must not start.
    pub fn open(disk: D, dir: &Path, options: &LogOptions) -> Result<(Self, Recovered), OpenError> {
        options.check().map_err(OpenError::Options)?;
        let (lock, identity) = directory::open(&disk, dir)?;
        let ids = directory::log_ids(&identity, options.group);
        let path = directory::hard_state_path(dir, options.group);
        let mut hard_state = HardStateFile::open(&disk, &path, ids)?;
        let folder = SegmentFolder { disk, path: directory::group_path(dir, options.group) };
        folder.sync_names()?;
        folder.remove_unfinished()?;
        let mut found = read_log(&folder, ids)?;
        let term = hard_state.stored().hard_state.term;
        if found.term > term {
            return Err(OpenError::HardStateBehindLog { hard_state: term, log: found.term, node: ids.node });
        }
        let repair = repair(&folder, &mut hard_state, &identity, ids, options, &mut found)?;

        let (mut there, mut spare) = (Vec::new(), Spare::None);
        for number in folder.numbers()? {
            let segment = folder.open(number)?;
            if number <= found.next.generation {
                there.push((number, segment.bytes()));
            } else {
                spare = Spare::Ready(segment);
            }
        }
        let segments = Segments::new(there);
        let recovered = Recovered {
            hard_state: hard_state.stored().hard_state,
            base: found.base,
            last: found.index.last(),
            terms: found.index.terms().collect(),
            segments: segments.uses(&found.index, 0),
            memberships: found.memberships,
            reached: hard_state.stored().reached,
            identity,
            repair,
        };
        let segment = folder.open(found.next.generation)?;
        let log = Self {
            hard_state,
            ids,
            options: options.clone(),
            next: Position { segment_blocks: segment.blocks, ..found.next },
            segment,
            spare,
            segments,
            marked: found.marked,
            last_write: WriteId(0),
            buffer: AlignedBuffer::default(),
            shared: Arc::new(Shared::new(folder, found.index, (found.next.generation, found.next.place))),
            lock: Arc::new(lock),
        };
        Ok((log, recovered))
    }

    /// Flags this node as damaged, durably: it held entries up to `reached`, and its log does not show them any more. For
    /// a start that knows more than the scan of the log.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn flag_damaged(&mut self, reached: LogIndex) -> Result<HardState, LogError> {
        self.guarded(|log| {
            let stored = log.hard_state.stored();
            let hard_state = HardState { damaged: true, ..stored.hard_state };
            let reached = stored.reached.max(Some(reached));
            log.hard_state.write(hard_state, reached)?;
            Ok(hard_state)
        })
    }

    /// Makes `writes` durable, in their order, and gives the id of the last one: it and all before it are persisted.
    /// The hard state goes first, then all records in one batch, with one write and one sync.
    ///
    /// # Errors
    /// See [`LogError`]: the log is dead, and so must the node be. Which of the writes are durable is unknown.
    pub fn write(&mut self, writes: &[Write]) -> Result<WriteId, LogError> {
        self.guarded(|log| {
            let stages = log.plan(writes)?;
            for stage in stages {
                log.write_stage(&stage)?;
            }
            log.last_write = writes.last().map_or(log.last_write, |write| write.id);
            Ok(log.last_write)
        })
    }

    /// Writes the mark: a block that says that all before it was synced. From then on a lost write of the last batch is
    /// found at start; before that, a batch that the disk lost whole looks as if it had never been. To be called once
    /// nothing has waited to be written for a moment: it takes a sync, which would delay a write that comes meanwhile.
    /// Writes nothing if the mark stands already.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn mark(&mut self) -> Result<(), LogError> {
        self.guarded(|log| {
            if log.marked {
                return Ok(());
            }
            if log.room_blocks() == 0 || log.shared.is_left(log.segment.number) {
                log.enter_next_segment()?;
            }
            let checksum = batch::encode_mark(&log.ids, &log.next, &mut log.buffer);
            log.append_buffer(checksum)?;
            log.marked = true;
            Ok(())
        })
    }

    /// Whether a mark is to be written once the log falls idle.
    pub fn wants_mark(&self) -> bool {
        !self.marked
    }

    /// The making of the next segment, if it is time for it: to be run where it delays no append. [`Self::write`] waits
    /// for it if it needs the segment before it is made, so it must not be held on the thread that writes.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn prepare(&mut self) -> Result<Option<Preparation<D>>, LogError> {
        self.guarded(|log| {
            if let Spare::InTheMaking(done) = &log.spare {
                match done.try_recv() {
                    Ok(segment) => log.spare = Spare::Ready(segment),
                    Err(std::sync::mpsc::TryRecvError::Empty) => {}
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => log.spare = Spare::None,
                }
            }
            if !matches!(log.spare, Spare::None) {
                return Ok(None);
            }
            let (done, receiver) = sync_channel(1);
            log.spare = Spare::InTheMaking(receiver);
            Ok(Some(Preparation {
                shared: log.shared.clone(),
                number: log.segment.number + 1,
                bytes: log.options.segment_bytes,
                done,
                lock: log.lock.clone(),
            }))
        })
    }

    /// The removal of segments that hold nothing of the log any more since its base moved, if there are any: to be run where
    /// it delays no append. One at a time; one that was dropped is offered again, by the next start, too.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn cut(&mut self) -> Result<Option<Cut<D>>, LogError> {
        self.guarded(|log| Ok(log.segments.cut(&log.shared, &log.lock)))
    }

    /// The length of all segments that the log needs, in bytes: those that wait for a [`Cut`] are not among them.
    pub fn bytes(&self) -> u64 {
        self.segments.bytes(&self.shared.index())
    }

    /// The segments in use and those that wait for a [`Cut`], in ascending order.
    pub fn segments(&self) -> Vec<SegmentUse> {
        self.segments.uses(&self.shared.index(), self.shared.removed_below())
    }

    /// A reader of this log.
    pub fn reader(&self) -> LogReader<D> {
        LogReader::new(self.shared.clone())
    }

    /// Looks whether the log is as it was written, while this thread goes on with it.
    pub fn scrubber(&self) -> Scrubber<D> {
        Scrubber::new(self.shared.clone(), self.ids)
    }

    /// Where the log begins: the entry before its first one; zeroes if that is the very first one.
    pub fn base(&self) -> LogPosition {
        self.shared.index().base()
    }

    /// The last entry; the base if there is none.
    pub fn last(&self) -> LogPosition {
        self.shared.index().last()
    }

    /// The hard state.
    pub fn hard_state(&self) -> HardState {
        self.hard_state.stored().hard_state
    }

    /// How full the file system is.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn space(&self) -> Result<Space, LogError> {
        self.shared.check()?;
        let folder = &self.shared.folder;
        let space = folder.disk.space(&folder.path).map_err(LogError::io("look at", &folder.path));
        space.map_err(|error| self.shared.fail(error))
    }

    /// Runs a step. After the first one that fails none is run any more.
    fn guarded<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, LogError>) -> Result<T, LogError> {
        self.shared.check()?;
        step(self).map_err(|error| self.shared.fail(error))
    }

    fn plan<'a>(&self, writes: &'a [Write]) -> Result<Vec<Stage<'a>>, LogError> {
        let index = self.shared.index();
        let plan = Plan::new(&index, self.hard_state(), self.last_write, self.options.entry_bytes_max);
        plan.stages(writes).map_err(LogError::Invariant)
    }

    fn write_stage(&mut self, stage: &Stage<'_>) -> Result<(), LogError> {
        if let Some(hard_state) = stage.hard_state {
            let reached = self.hard_state.stored().reached.filter(|_| hard_state.damaged);
            self.hard_state.write(hard_state, reached)?;
        }
        let mut records = &stage.records[..];
        if !records.is_empty() && self.shared.is_left(self.segment.number) {
            self.enter_next_segment()?;
        }
        while !records.is_empty() {
            let fitting = fitting(records, batch::capacity_bytes(self.room_blocks()));
            if fitting == 0 {
                self.enter_next_segment()?;
                continue;
            }
            let (now, later) = records.split_at(fitting);
            self.append_batch(now)?;
            records = later;
        }
        Ok(())
    }

    fn append_batch(&mut self, records: &[Record<'_>]) -> Result<(), LogError> {
        let at = self.next;
        let checksum = batch::encode(&self.ids, &at, records, &mut self.buffer);
        self.append_buffer(checksum)?;
        self.marked = false;
        self.index_batch(&at, records).map_err(|error| LogError::Invariant(error.to_string()))
    }

    /// One write, one sync.
    fn append_buffer(&mut self, checksum: u32) -> Result<(), LogError> {
        let offset = u64::from(self.next.place) * BLOCK_BYTES as u64;
        let path = |log: &Self| log.shared.folder.segment_path(log.segment.number);
        self.segment
            .file
            .write_at(&self.buffer, offset)
            .map_err(|error| LogError::io("write", &path(self))(error))?;
        self.segment.file.sync_data().map_err(|error| LogError::io("sync", &path(self))(error))?;
        let blocks = self.buffer.len() / BLOCK_BYTES;
        self.next.place += u32::try_from(blocks).expect("a batch fits a segment");
        self.next.sequence += 1;
        self.next.previous = checksum;
        self.shared.set_end((self.segment.number, self.next.place));
        Ok(())
    }

    fn index_batch(&self, at: &Position, records: &[Record<'_>]) -> Result<(), OutOfOrder> {
        let mut index = self.shared.index_mut();
        let mut start = batch::BATCH_HEADER_BYTES;
        let narrow = |position: usize| u32::try_from(position).expect("a batch fits a segment");
        for record in records {
            let end = start + record.size_bytes();
            match record {
                Record::Truncate(to) => index.truncate(*to)?,
                Record::Base(record) => {
                    index.rebase(record.base.position, record.last, at.generation)?;
                }
                Record::Entry(entry) => {
                    let span = Span {
                        first: entry.index,
                        segment: at.generation,
                        sequence: at.sequence,
                        place: at.place,
                        start: narrow(start),
                        end: narrow(end),
                    };
                    index.append(span, entry.term)?;
                }
            }
            start = end;
        }
        Ok(())
    }

    fn room_blocks(&self) -> u32 {
        self.segment.blocks - self.next.place
    }

    fn enter_next_segment(&mut self) -> Result<(), LogError> {
        let made = match std::mem::replace(&mut self.spare, Spare::None) {
            Spare::Ready(segment) => Some(segment),
            Spare::InTheMaking(done) => done.recv().ok(),
            Spare::None => None,
        };
        // The making may have failed meanwhile.
        self.shared.check()?;
        self.segment = match made {
            Some(segment) => segment,
            None => {
                let folder = &self.shared.folder;
                folder.remove_unfinished()?;
                folder.make(self.segment.number + 1, self.options.segment_bytes, &[])?
            }
        };
        self.segments.add(self.segment.number, self.segment.bytes());
        self.next.generation = self.segment.number;
        self.next.segment_blocks = self.segment.blocks;
        self.next.place = 0;
        Ok(())
    }
}

impl<D: Disk> Preparation<D> {
    /// Makes the segment and hands it to the log.
    ///
    /// # Errors
    /// If the disk fails, or failed before. It is final for the log, too.
    pub fn run(self) -> Result<(), LogError> {
        let Self { shared, number, bytes, done, lock } = self;
        shared.check()?;
        let made = shared.folder.make(number, bytes, &[]);
        let segment = made.map_err(|error| shared.fail(error))?;
        drop(lock);
        // A log that is closed meanwhile needs no segment; the file stays for the next start.
        drop(done.send(segment));
        Ok(())
    }
}
