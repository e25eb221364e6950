//! The hard state on disk: a file of two slots, so that one of them is always whole.
//!
//! ```text
//!  0  u32  CRC32C of bytes 4..4096          40  u64  last index that a damaged log is known to have reached, or 0
//!  4  u8   format version, 1                48  u128 cluster
//!  5  u8   4                                64  u64  node
//!  6  u16  0                                72  u64  group
//!  8  u64  counter, one more in each state  80  u32  own slot: 0 or 1
//! 16  u64  term                             84  …    zeroes
//! 24  u64  vote, 0 if none
//! 32  u8   damaged: 0 or 1
//! 33  …    zeroes
//! ```
//! A change writes slot 0, syncs, writes slot 1, syncs. A crash in between leaves one slot that is whole, and only what
//! stands in both was promised to anybody. At start the newer one is copied over the other before anything else.

use std::path::{Path, PathBuf};

use raftmap_raft::{HardState, LogIndex, NodeId, Term};

use crate::batch::LogIds;
use crate::block::{BLOCK_BYTES, VERSION, checksum, read_u32, read_u64};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Disk, DiskFile, ReadFrom, read_past_cache};
use crate::error::{LogError, OpenError};

const KIND: u8 = 4;
const SLOTS: [u32; 2] = [0, 1];
const USED_BYTES: usize = 84;

/// What a slot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredState {
    counter: u64,
    /// Term, vote, damaged flag.
    pub(crate) hard_state: HardState,
    /// While damaged: the last index that the log is known to have reached.
    pub(crate) reached: Option<LogIndex>,
}

/// What a slot read from a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Valid(StoredState),
    UnknownVersion(u8),
    Unreadable(&'static str),
}

/// The open file.
pub(crate) struct HardStateFile<D: Disk> {
    file: D::File,
    path: PathBuf,
    ids: LogIds,
    stored: StoredState,
    buffer: AlignedBuffer,
}

impl<D: Disk> HardStateFile<D> {
    /// Makes the file with the state of a node that has seen nothing yet. Its name is not synced.
    pub(crate) fn create(disk: &D, path: &Path, ids: LogIds) -> Result<(), LogError> {
        let len = (SLOTS.len() * BLOCK_BYTES) as u64;
        let file = disk.create(path, len).map_err(LogError::io("create", path))?;
        let (stored, buffer) = (StoredState::default(), AlignedBuffer::default());
        Self { file, path: path.to_owned(), ids, stored, buffer }.write(HardState::default(), None)
    }

    /// Opens the file and makes both slots hold the newer state.
    pub(crate) fn open(disk: &D, path: &Path, ids: LogIds) -> Result<Self, OpenError> {
        let lost =
            |reasons: String| OpenError::HardStateLost { path: path.to_owned(), reasons, node: ids.node };
        let file = match disk.open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(lost("the file is missing".to_owned()));
            }
            opened => opened.map_err(LogError::io("open", path))?,
        };
        if file.size_bytes().map_err(LogError::io("look at", path))? != (SLOTS.len() * BLOCK_BYTES) as u64 {
            return Err(lost("the file has another length".to_owned()));
        }
        // What a dead process wrote must be on the disk before it counts; and after a failed sync the page cache holds
        // what the disk does not.
        file.sync_data().map_err(LogError::io("sync", path))?;
        let mut buffer = AlignedBuffer::default();
        buffer.resize(SLOTS.len() * BLOCK_BYTES);
        let from = read_past_cache(disk, path, &file, &mut buffer).map_err(LogError::io("read", path))?;

        let slots =
            SLOTS.map(|slot| decode(&buffer[slot as usize * BLOCK_BYTES..][..BLOCK_BYTES], &ids, slot));
        let stored = newest(slots).map_err(|refusal| match refusal {
            Refusal::UnknownVersion(version) => OpenError::UnknownVersion {
                path: path.to_owned(),
                version: version.into(),
                known: VERSION.into(),
            },
            Refusal::Lost(reasons) => lost(reasons),
        })?;
        let mut this = Self { file, path: path.to_owned(), ids, stored, buffer };
        for slot in SLOTS {
            // Without a way past the page cache both are written anew: nothing else proves that they are on the disk.
            if from == ReadFrom::Cache || slots[slot as usize] != Slot::Valid(stored) {
                this.write_slot(slot)?;
            }
        }
        Ok(this)
    }

    /// What is durable.
    pub(crate) fn stored(&self) -> StoredState {
        self.stored
    }

    /// Makes a new state durable, in both slots.
    pub(crate) fn write(&mut self, hard_state: HardState, reached: Option<LogIndex>) -> Result<(), LogError> {
        self.stored = StoredState { counter: self.stored.counter + 1, hard_state, reached };
        SLOTS.into_iter().try_for_each(|slot| self.write_slot(slot))
    }

    fn write_slot(&mut self, slot: u32) -> Result<(), LogError> {
        self.buffer.resize(BLOCK_BYTES);
        encode(&self.stored, &self.ids, slot, &mut self.buffer);
        let offset = u64::from(slot) * BLOCK_BYTES as u64;
        self.file.write_at(&self.buffer, offset).map_err(LogError::io("write", &self.path))?;
        self.file.sync_data().map_err(LogError::io("sync", &self.path))
    }
}

/// Why neither slot is taken.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    UnknownVersion(u8),
    Lost(String),
}

fn newest(slots: [Slot; 2]) -> Result<StoredState, Refusal> {
    match slots {
        [Slot::UnknownVersion(version), _] | [_, Slot::UnknownVersion(version)] => {
            Err(Refusal::UnknownVersion(version))
        }
        [Slot::Valid(a), Slot::Valid(b)] if a.counter == b.counter && a != b => {
            Err(Refusal::Lost("they contradict each other".to_owned()))
        }
        [Slot::Valid(a), Slot::Valid(b)] => Ok(if a.counter >= b.counter { a } else { b }),
        [Slot::Valid(state), Slot::Unreadable(_)] | [Slot::Unreadable(_), Slot::Valid(state)] => Ok(state),
        [Slot::Unreadable(a), Slot::Unreadable(b)] => Err(Refusal::Lost(format!("first: {a}; second: {b}"))),
    }
}

fn encode(stored: &StoredState, ids: &LogIds, slot: u32, block: &mut [u8]) {
    let hard_state = &stored.hard_state;
    block.fill(0);
    block[4] = VERSION;
    block[5] = KIND;
    block[8..16].copy_from_slice(&stored.counter.to_le_bytes());
    block[16..24].copy_from_slice(&hard_state.term.0.to_le_bytes());
    block[24..32].copy_from_slice(&hard_state.vote.map_or(0, |node| node.0).to_le_bytes());
    block[32] = u8::from(hard_state.damaged);
    block[40..48].copy_from_slice(&stored.reached.map_or(0, |index| index.0).to_le_bytes());
    block[48..64].copy_from_slice(&ids.cluster.to_le_bytes());
    block[64..72].copy_from_slice(&ids.node.0.to_le_bytes());
    block[72..80].copy_from_slice(&ids.group.0.to_le_bytes());
    block[80..84].copy_from_slice(&slot.to_le_bytes());
    let checksum = crc32c::crc32c(&block[4..]);
    block[..4].copy_from_slice(&checksum.to_le_bytes());
}

fn decode(block: &[u8], ids: &LogIds, slot: u32) -> Slot {
    if crc32c::crc32c(&block[4..]) != checksum(block) {
        return Slot::Unreadable("the checksum does not fit");
    }
    if block[4] != VERSION {
        return Slot::UnknownVersion(block[4]);
    }
    let stored = StoredState {
        counter: read_u64(block, 8),
        hard_state: HardState {
            term: Term(read_u64(block, 16)),
            vote: Some(NodeId(read_u64(block, 24))).filter(|node| node.0 != 0),
            damaged: block[32] == 1,
        },
        reached: Some(LogIndex(read_u64(block, 40))).filter(|index| index.0 != 0),
    };
    let mut expected = [0; BLOCK_BYTES];
    encode(&stored, ids, slot, &mut expected);
    if block == expected {
        Slot::Valid(stored)
    } else if read_u32(block, 80) != slot {
        Slot::Unreadable("it belongs elsewhere")
    } else if block[48..USED_BYTES] != expected[48..USED_BYTES] {
        Slot::Unreadable("it belongs to another cluster, node or group")
    } else {
        Slot::Unreadable("it contradicts itself")
    }
}
