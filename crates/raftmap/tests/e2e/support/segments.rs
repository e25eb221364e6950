//! The blocks of a server's log, as `docs/format.md` draws them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(crate) const BLOCK_BYTES: usize = 4096;

const KIND_AT: usize = 5;
const SEQUENCE_AT: usize = 16;
const PART_AT: usize = 28;
const MARK: u8 = 3;

/// A block that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The segment's file.
    pub(crate) path: PathBuf,
    /// Its number.
    pub(crate) segment: u64,
    /// Where the block is, in bytes.
    pub(crate) offset: u64,
    /// Whether it is a mark.
    pub(crate) is_mark: bool,
    /// The number of its batch or mark.
    pub(crate) sequence: u64,
    /// Its place in the batch; 0 in heads and marks.
    pub(crate) part: u32,
}

/// All blocks that were written, in order.
pub(crate) fn blocks(group_dir: &Path) -> Vec<Block> {
    let names =
        fs::read_dir(group_dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let numbers = names.filter_map(|name| name.strip_prefix("segment-")?.parse().ok());
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    numbers.into_iter().flat_map(|number| segment(group_dir, number)).collect()
}

fn segment(group_dir: &Path, number: u64) -> Vec<Block> {
    let path = group_dir.join(format!("segment-{number:012}"));
    let bytes = fs::read(&path).unwrap();
    let written =
        bytes.chunks(BLOCK_BYTES).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0));
    let block = |(place, block): (usize, &[u8])| Block {
        path: path.clone(),
        segment: number,
        offset: (place * BLOCK_BYTES) as u64,
        is_mark: block[KIND_AT] == MARK,
        sequence: u64::from_le_bytes(block[SEQUENCE_AT..SEQUENCE_AT + 8].try_into().unwrap()),
        part: u32::from_le_bytes(block[PART_AT..PART_AT + 4].try_into().unwrap()),
    };
    written.map(block).collect()
}

impl Block {
    fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(&self.path).unwrap()
    }

    /// Makes it as if it had never been written.
    pub(crate) fn erase(&self) {
        let file = self.open();
        file.write_all_at(&[0; BLOCK_BYTES], self.offset).unwrap();
        file.sync_all().unwrap();
    }

    /// Changes one bit of it, in the byte `at`.
    pub(crate) fn flip(&self, at: usize) {
        let (file, offset) = (self.open(), self.offset + at as u64);
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
        file.sync_all().unwrap();
    }
}

/// The last batch, and the mark behind it if there is one.
pub(crate) fn last_batch(blocks: &[Block]) -> (Vec<Block>, Option<Block>) {
    let mut rest = blocks.to_vec();
    let mark = rest.pop_if(|last| last.is_mark);
    let sequence = rest.last().expect("the log is not empty").sequence;
    (rest.into_iter().filter(|block| block.sequence == sequence).collect(), mark)
}
