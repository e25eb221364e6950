//! The file system of this machine, to be looked at: nothing on it is changed.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use super::real::{RealDisk, RealFile, RealLock};
use super::{Disk, DiskFile, Space};

/// The file system of this machine, on which every change fails. Files are opened to be read alone, so that it may be mounted
/// so, too. A sync does nothing: there is nothing of this process to be synced.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOnlyDisk;

/// A file that is read.
#[derive(Debug)]
pub struct ReadOnlyFile(RealFile);

fn refused() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl Disk for ReadOnlyDisk {
    type File = ReadOnlyFile;
    type Lock = RealLock;

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn create(&self, _: &Path, _: u64) -> io::Result<ReadOnlyFile> {
        Err(refused())
    }

    fn open(&self, path: &Path) -> io::Result<ReadOnlyFile> {
        Ok(ReadOnlyFile(RealFile::new(File::open(path)?)))
    }

    fn open_uncached(&self, path: &Path) -> io::Result<Option<ReadOnlyFile>> {
        Ok(RealDisk.open_uncached(path)?.map(ReadOnlyFile))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Err(refused())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    /// The file must be there.
    fn lock(&self, path: &Path) -> io::Result<RealLock> {
        let file = File::open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(RealLock::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        RealDisk.space(path)
    }
}

impl DiskFile for ReadOnlyFile {
    fn size_bytes(&self) -> io::Result<u64> {
        self.0.size_bytes()
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(refused())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
