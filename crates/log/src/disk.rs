//! What the log needs of a disk.
//!
//! A disk promises little: a write may be lost in whole or in part until [`DiskFile::sync_data`] returns, a name until
//! [`Disk::sync_dir`] of its folder does, and after a sync that failed nobody knows. [`crate::RealDisk`] is the real
//! one, [`crate::MemDisk`] one that keeps exactly these promises and no more.

pub mod aligned;
pub mod read_only;
pub mod real;

use std::io;
use std::path::Path;

use aligned::AlignedBuffer;

use crate::block::BLOCK_BYTES;

/// Folders and files. Cloning gives another handle to the same disk.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;
    /// The lock on a file; dropping it, or the death of the process, unlocks.
    type Lock: Send + Sync + 'static;

    /// Makes a folder, if it is not there. The folder above it must be.
    ///
    /// # Errors
    /// Those of the disk.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes a file of `len` zero bytes that really occupy the disk, so that later writes change no metadata. Neither
    /// the file nor its name is synced.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if the name is taken, or those of the disk.
    fn create(&self, path: &Path, len: u64) -> io::Result<Self::File>;

    /// Opens a file to read and write.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or those of the disk.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file to read what the disk holds, past the page cache; `None` where the file system cannot do that.
    /// Buffers, offsets and lengths are multiples of 4 KiB ([`aligned::AlignedBuffer`]).
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or those of the disk.
    fn open_uncached(&self, path: &Path) -> io::Result<Option<Self::File>>;

    /// The names in a folder, sorted.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or those of the disk.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames a file, in one step that a crash cannot divide, over another one if `to` exists.
    ///
    /// # Errors
    /// Those of the disk.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Those of the disk.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes all changes of names in a folder durable.
    ///
    /// # Errors
    /// Those of the disk.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks a file, which is made if it is not there, against every other process and handle.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another one holds it, or those of the disk.
    fn lock(&self, path: &Path) -> io::Result<Self::Lock>;

    /// How full the file system is that holds `path`.
    ///
    /// # Errors
    /// Those of the disk.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// An open file. Reads and writes may run at the same time from several threads.
pub trait DiskFile: Send + Sync + 'static {
    /// Its length in bytes.
    ///
    /// # Errors
    /// Those of the disk.
    fn size_bytes(&self) -> io::Result<u64>;

    /// Writes all of `bytes`, with one call, within the length of the file.
    ///
    /// # Errors
    /// Those of the disk. A short write is one ([`io::ErrorKind::WriteZero`]): it is not continued.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills all of `bytes`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before, or those of the disk.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Makes what was written, and the length, durable (`fdatasync`).
    ///
    /// # Errors
    /// Those of the disk. After one, the file must not be trusted any more, even if a later sync succeeds.
    fn sync_data(&self) -> io::Result<()>;
}

/// How the content of a file was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadFrom {
    /// The disk itself.
    Disk,
    /// The page cache, for the file system has no way past it.
    Cache,
}

/// What stands in a buffer for a block that the disk cannot read: no block of any kind looks like it.
pub(crate) const UNREADABLE: u8 = 0xFF;
/// How many blocks of a file may be unreadable before the disk counts as broken.
pub(crate) const UNREADABLE_BLOCKS_MAX: usize = 64;

/// Fills `buffer`, whole blocks, from the beginning of a file, which is open as `cached`, past the page cache if that can
/// be. A block that the disk cannot read (a latent sector error) is as good as a rotten one, and is filled to be one.
///
/// # Errors
/// If no block can be read, or too many cannot.
pub(crate) fn read_past_cache<D: Disk>(
    disk: &D,
    path: &Path,
    cached: &D::File,
    buffer: &mut AlignedBuffer,
) -> io::Result<ReadFrom> {
    if let Some(uncached) = disk.open_uncached(path)? {
        match read_what_can_be_read(&uncached, buffer) {
            Ok(()) => return Ok(ReadFrom::Disk),
            // Some file systems take O_DIRECT and refuse the read.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) => return Err(error),
        }
    }
    read_what_can_be_read(cached, buffer).map(|()| ReadFrom::Cache)
}

fn read_what_can_be_read<F: DiskFile>(file: &F, buffer: &mut AlignedBuffer) -> io::Result<()> {
    let Err(first_error) = file.read_at(buffer, 0) else { return Ok(()) };
    if matches!(first_error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof) {
        return Err(first_error);
    }
    let blocks = buffer.len() / BLOCK_BYTES;
    let mut unreadable = 0;
    for (offset, block) in (0..).step_by(BLOCK_BYTES).zip(buffer.chunks_exact_mut(BLOCK_BYTES)) {
        if let Err(error) = file.read_at(block, offset) {
            unreadable += 1;
            if unreadable == blocks.min(UNREADABLE_BLOCKS_MAX + 1) {
                return Err(error);
            }
            block.fill(UNREADABLE);
        }
    }
    Ok(())
}

/// How full a file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What this process may still use, in bytes.
    pub free_bytes: u64,
    /// The size of the file system, in bytes.
    pub total_bytes: u64,
}

impl Space {
    /// Whether less than `reserve_bytes` are free.
    pub fn undercuts(&self, reserve_bytes: u64) -> bool {
        self.free_bytes < reserve_bytes
    }
}
