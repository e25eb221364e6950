//! The bytes of a file, in the page cache and on the disk, which may differ.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::block::BLOCK_BYTES;

type Block = Box<[u8]>;

/// A file. Blocks that are in neither map are zeroes.
#[derive(Debug, Default)]
pub(super) struct Content {
    len: u64,
    synced_len: u64,
    /// What the page cache holds, where that may differ from the disk.
    cache: BTreeMap<u64, Block>,
    /// The blocks in the cache that the next sync writes. The others in it look clean, and never reach the disk: they
    /// are what a sync that failed, or a lost write, leaves.
    dirty: BTreeSet<u64>,
    disk: BTreeMap<u64, Block>,
    /// Blocks that the disk cannot read until they are written again.
    bad: BTreeSet<u64>,
}

/// What becomes of the blocks of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The next sync writes them.
    Dirty,
    /// They look written and never are.
    Lost,
    /// As lost, and they land so many blocks further on.
    Misdirected(i64),
}

impl Content {
    pub(super) fn new(len: u64) -> Self {
        Self { len, ..Self::default() }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    fn seen(&self, number: u64) -> Option<&Block> {
        self.cache.get(&number).or_else(|| self.disk.get(&number))
    }

    /// Reads through the page cache.
    pub(super) fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.check_blocks(offset, bytes.len(), |number| self.cache.contains_key(&number))?;
        for_blocks(offset, bytes.len(), |number, within, part| {
            copy(self.seen(number), within, &mut bytes[part]);
        });
        Ok(())
    }

    /// Reads what the disk holds.
    pub(super) fn read_disk(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.check_blocks(offset, bytes.len(), |_| false)?;
        for_blocks(offset, bytes.len(), |number, within, part| {
            copy(self.disk.get(&number), within, &mut bytes[part]);
        });
        Ok(())
    }

    fn check_blocks(&self, offset: u64, len: usize, cached: impl Fn(u64) -> bool) -> io::Result<()> {
        let mut bad = false;
        for_blocks(offset, len, |number, _, _| bad |= self.bad.contains(&number) && !cached(number));
        if bad { Err(io::Error::other("a bad sector")) } else { Ok(()) }
    }

    /// Makes the block with the byte at `offset` unreadable, until it is written again.
    pub(super) fn make_bad(&mut self, offset: u64) {
        self.bad.insert(offset / BLOCK_BYTES as u64);
    }

    /// Writes into the page cache.
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64, fate: Fate) {
        for_blocks(offset, bytes.len(), |number, within, part| {
            let mut block = self.seen(number).cloned().unwrap_or_else(zeroes);
            block[within..within + part.len()].copy_from_slice(&bytes[part]);
            if let Fate::Misdirected(distance) = fate {
                self.disk.insert(number.saturating_add_signed(distance), block.clone());
            }
            self.cache.insert(number, block);
            if fate == Fate::Dirty {
                self.dirty.insert(number);
            }
        });
    }

    /// Changes what the disk holds, behind the back of everybody.
    pub(super) fn write_disk(&mut self, bytes: &[u8], offset: u64) {
        for_blocks(offset, bytes.len(), |number, within, part| {
            self.cache.remove(&number);
            self.dirty.remove(&number);
            let block = self.disk.entry(number).or_insert_with(zeroes);
            block[within..within + part.len()].copy_from_slice(&bytes[part]);
        });
    }

    pub(super) fn sync(&mut self) {
        for number in std::mem::take(&mut self.dirty) {
            if let Some(block) = self.cache.remove(&number) {
                self.disk.insert(number, block);
                self.bad.remove(&number);
            }
        }
        self.synced_len = self.len;
    }

    /// A sync that fails: some of the blocks reach the disk, and all of them look clean from then on.
    pub(super) fn sync_badly(&mut self, mut keep: impl FnMut() -> bool) {
        for number in std::mem::take(&mut self.dirty) {
            if keep()
                && let Some(block) = self.cache.remove(&number)
            {
                self.disk.insert(number, block);
            }
        }
    }

    /// Power is cut: of what was not synced each piece of `atomic_bytes` reaches the disk, or does not, as `keep` says.
    pub(super) fn cut_power(&mut self, atomic_bytes: usize, mut keep: impl FnMut() -> bool) {
        for number in std::mem::take(&mut self.dirty) {
            let Some(block) = self.cache.remove(&number) else { continue };
            for (nth, piece) in block.chunks(atomic_bytes).enumerate() {
                if keep() {
                    let on_disk = self.disk.entry(number).or_insert_with(zeroes);
                    on_disk[nth * atomic_bytes..][..piece.len()].copy_from_slice(piece);
                }
            }
        }
        if self.synced_len != self.len && !keep() {
            self.len = self.synced_len;
        }
        self.synced_len = self.len;
        self.cache.clear();
        let end = self.len.div_ceil(BLOCK_BYTES as u64);
        self.disk.retain(|number, _| *number < end);
    }

    /// The page cache forgets all that looks clean.
    pub(super) fn drop_clean(&mut self) {
        let dirty = &self.dirty;
        self.cache.retain(|number, _| dirty.contains(number));
    }
}

fn zeroes() -> Block {
    vec![0; BLOCK_BYTES].into()
}

fn copy(block: Option<&Block>, within: usize, out: &mut [u8]) {
    match block {
        Some(block) => out.copy_from_slice(&block[within..within + out.len()]),
        None => out.fill(0),
    }
}

/// Calls `each` with the number of each block that a range touches, where in the block the range begins, and which part
/// of the range that is.
fn for_blocks(offset: u64, len: usize, mut each: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let number = at / BLOCK_BYTES as u64;
        let within = usize::try_from(at % BLOCK_BYTES as u64).expect("less than 4096");
        let end = len.min(done + BLOCK_BYTES - within);
        each(number, within, done..end);
        done = end;
    }
}
