//! The hard state on disk: a file of two slots, so that one of them is always whole.
//!
//! ```text
//!  0  u32  CRC32C of bytes 4..4096          33  …    zeroes
//!  4  u8   format version, 1                40  u64  last index that a damaged log is known to have reached, or 0
//!  5  u8   4                                48  u128 cluster
//!  6  u16  0                                64  u64  node
//!  8  u64  counter, one more in each state  72  u64  group
//! 16  u64  term                             80  …    zeroes
//! 24  u64  vote, 0 if none
//! 32  u8   damaged: 0 or 1
//! ```
//! A change writes slot 0, syncs, writes slot 1, syncs. A crash in between leaves one slot that is whole, and only what
//! stands in both was promised to anybody. At start the newer one is copied over the other before anything else. A slot
//! does not say which of the two it is: should the disk put slot 1 where slot 0 was, it is still the newest state.

use std::path::{Path, PathBuf};

use raftmap_raft::{HardState, LogIndex, NodeId, Term};

use crate::batch::LogIds;
use crate::block::{BLOCK_BYTES, VERSION, checksum, read_u64};
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Disk, DiskFile, ReadFrom, read_past_cache};
use crate::error::{LogError, OpenError};

const KIND: u8 = 4;
const SLOTS: [usize; 2] = [0, 1];

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
    /// Makes the file with the state that a node begins with. Its name is not synced.
    pub(crate) fn create(disk: &D, path: &Path, ids: LogIds, hard_state: HardState) -> Result<(), LogError> {
        let len = (SLOTS.len() * BLOCK_BYTES) as u64;
        let file = disk.create(path, len).map_err(LogError::io("create", path))?;
        let (stored, buffer) = (StoredState::default(), AlignedBuffer::default());
        Self { file, path: path.to_owned(), ids, stored, buffer }.write(hard_state, None)
    }

    /// Opens the file and makes both slots hold the newer state.
    pub(crate) fn open(disk: &D, path: &Path, ids: LogIds) -> Result<Self, OpenError> {
        let ReadSlots { file, from, slots, stored } = read_slots(disk, path, ids)?;
        let mut this = Self { file, path: path.to_owned(), ids, stored, buffer: AlignedBuffer::default() };
        for slot in SLOTS {
            // Without a way past the page cache both are written anew: nothing else proves that they are on the disk.
            if from == ReadFrom::Cache || slots[slot] != Slot::Valid(stored) {
                this.write_slot(slot)?;
            }
        }
        Ok(this)
    }

    /// What the file says, and what is wrong with each slot, if one is unreadable. Nothing is changed.
    pub(crate) fn look(
        disk: &D,
        path: &Path,
        ids: LogIds,
    ) -> Result<(StoredState, [Option<&'static str>; 2]), OpenError> {
        let read = read_slots(disk, path, ids)?;
        let unreadable = read.slots.map(|slot| match slot {
            Slot::Unreadable(reason) => Some(reason),
            Slot::Valid(_) | Slot::UnknownVersion(_) => None,
        });
        Ok((read.stored, unreadable))
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

    fn write_slot(&mut self, slot: usize) -> Result<(), LogError> {
        self.buffer.resize(BLOCK_BYTES);
        encode(&self.stored, &self.ids, &mut self.buffer);
        let offset = (slot * BLOCK_BYTES) as u64;
        self.file.write_at(&self.buffer, offset).map_err(LogError::io("write", &self.path))?;
        self.file.sync_data().map_err(LogError::io("sync", &self.path))
    }
}

/// What stands in both slots.
struct ReadSlots<D: Disk> {
    file: D::File,
    from: ReadFrom,
    slots: [Slot; 2],
    /// What the newer one says.
    stored: StoredState,
}

fn read_slots<D: Disk>(disk: &D, path: &Path, ids: LogIds) -> Result<ReadSlots<D>, OpenError> {
    let lost = |reasons: String| OpenError::HardStateLost { path: path.to_owned(), reasons, node: ids.node };
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

    let slots = SLOTS.map(|slot| decode(&buffer[slot * BLOCK_BYTES..][..BLOCK_BYTES], &ids));
    let stored = newest(slots).map_err(|refusal| match refusal {
        Refusal::UnknownVersion(version) => OpenError::UnknownVersion {
            path: path.to_owned(),
            version: version.into(),
            known: VERSION.into(),
        },
        Refusal::Lost(reasons) => lost(reasons),
    })?;
    Ok(ReadSlots { file, from, slots, stored })
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

fn encode(stored: &StoredState, ids: &LogIds, block: &mut [u8]) {
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
    let checksum = crc32c::crc32c(&block[4..]);
    block[..4].copy_from_slice(&checksum.to_le_bytes());
}

fn decode(block: &[u8], ids: &LogIds) -> Slot {
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
    encode(&stored, ids, &mut expected);
    if block == expected {
        Slot::Valid(stored)
    } else if block[48..80] != expected[48..80] {
        Slot::Unreadable("it belongs to another cluster, node or group")
    } else {
        Slot::Unreadable("it contradicts itself")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raftmap_raft::GroupId;

    use super::*;

    const IDS: LogIds = LogIds { cluster: 7, node: NodeId(3), group: GroupId(1) };

    fn state(counter: u64, term: u64) -> StoredState {
        StoredState {
            counter,
            hard_state: HardState { term: Term(term), vote: Some(NodeId(2)), damaged: true },
            reached: Some(LogIndex(99)),
        }
    }

    fn encoded(state: &StoredState) -> [u8; BLOCK_BYTES] {
        let mut block = [0xAA; BLOCK_BYTES];
        encode(state, &IDS, &mut block);
        block
    }

    #[test]
    fn the_newest_readable_slot_is_taken() {
        let valid = |counter| Slot::Valid(state(counter, counter));
        let bad = Slot::Unreadable("x");
        assert_eq!(newest([valid(4), valid(3)]), Ok(state(4, 4)));
        assert_eq!(newest([valid(3), valid(4)]), Ok(state(4, 4)));
        assert_eq!(newest([valid(4), valid(4)]), Ok(state(4, 4)));
        assert_eq!(newest([bad, valid(3)]), Ok(state(3, 3)));
        assert_eq!(newest([valid(3), bad]), Ok(state(3, 3)));
        assert!(matches!(newest([bad, bad]), Err(Refusal::Lost(_))));
        assert!(matches!(newest([valid(4), Slot::Valid(state(4, 5))]), Err(Refusal::Lost(_))));
        assert_eq!(newest([Slot::UnknownVersion(9), valid(1)]), Err(Refusal::UnknownVersion(9)));
    }

    #[test]
    fn a_slot_of_another_node_or_version_is_told_apart() {
        let block = encoded(&state(1, 1));
        let other = LogIds { node: NodeId(4), ..IDS };
        assert_eq!(decode(&block, &other), Slot::Unreadable("it belongs to another cluster, node or group"));
        let with = |offset: usize, byte: u8| {
            let mut block = block;
            block[offset] = byte;
            let checksum = crc32c::crc32c(&block[4..]);
            block[..4].copy_from_slice(&checksum.to_le_bytes());
            decode(&block, &IDS)
        };
        assert_eq!(with(4, 2), Slot::UnknownVersion(2));
        for offset in [5, 6, 32, 33, 80, 4095] {
            assert_eq!(with(offset, 7), Slot::Unreadable("it contradicts itself"), "byte {offset}");
        }
    }

    proptest! {
        #[test]
        fn a_slot_survives_its_encoding_and_no_flipped_bit(
            counter: u64, term: u64, vote: u64, damaged: bool, reached: u64, bit in 0..BLOCK_BYTES * 8,
        ) {
            let hard_state = HardState {
                term: Term(term),
                vote: Some(NodeId(vote)).filter(|node| node.0 != 0),
                damaged,
            };
            let reached = Some(LogIndex(reached)).filter(|index| index.0 != 0);
            let stored = StoredState { counter, hard_state, reached };
            let mut block = encoded(&stored);
            prop_assert_eq!(decode(&block, &IDS), Slot::Valid(stored));
            block[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&block, &IDS), Slot::Unreadable("the checksum does not fit"));
        }

        #[test]
        fn random_bytes_are_not_a_slot(bytes in proptest::collection::vec(any::<u8>(), BLOCK_BYTES)) {
            prop_assert!(matches!(decode(&bytes, &IDS), Slot::Unreadable(_)));
        }
    }
}
