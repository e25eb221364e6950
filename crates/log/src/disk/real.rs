//! The real disk: files of the operating system.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Disk, DiskFile, Space};

/// The file system of this machine. The calls that matter go through libc, so that tests can make them fail in the real
/// process.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// A file of the operating system.
#[derive(Debug)]
pub struct RealFile(File);

/// The lock on a file: `flock`, which the kernel lets go of when the process dies.
#[derive(Debug)]
pub struct RealLock {
    _file: File,
}

impl RealFile {
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }
}

impl RealLock {
    pub(super) fn new(file: File) -> Self {
        Self { _file: file }
    }
}

/// A new file goes to the disk in pieces of this size: what others sync meanwhile waits for a piece, not for all of it.
const PIECE_BYTES: u64 = 1 << 20;

static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

impl Disk for RealDisk {
    type File = RealFile;
    type Lock = RealLock;

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        // What is in the map is nobody's business who happens to be on the machine.
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result,
        }
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<RealFile> {
        let file = RealFile(OpenOptions::new().read(true).write(true).create_new(true).open(path)?);
        let mut offset = 0;
        while offset < len {
            let chunk = usize::try_from(len - offset).unwrap_or(usize::MAX).min(ZEROES.len());
            file.write_at(&ZEROES[..chunk], offset)?;
            offset += chunk as u64;
            if offset.is_multiple_of(PIECE_BYTES) {
                file.sync_data()?;
            }
        }
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<RealFile> {
        Ok(RealFile(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn open_uncached(&self, path: &Path) -> io::Result<Option<RealFile>> {
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(RealFile(File::from(fd)))),
            // What tmpfs and some network file systems answer to O_DIRECT.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = std::fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Ok(rustix::fs::fsync(File::open(dir)?)?)
    }

    fn lock(&self, path: &Path) -> io::Result<RealLock> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(RealLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}

impl DiskFile for RealFile {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.0, bytes, offset))?;
        if written == bytes.len() {
            return Ok(());
        }
        let what = format!("short write: {written} of {} bytes", bytes.len());
        Err(io::Error::new(io::ErrorKind::WriteZero, what))
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            let (rest, at) = (&mut bytes[filled..], offset + filled as u64);
            match rustix::io::pread(&self.0, rest, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }
}
