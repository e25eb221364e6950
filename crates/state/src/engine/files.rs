//! The files of an engine, byte by byte.

use std::any::Any;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::vec::IntoIter;

use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

use super::EngineError;

/// How much is read at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// A file that is written once, and the checksum (XXH3, 128 bits) of all its bytes as they were written.
pub(super) struct WrittenFile {
    pub(super) path: PathBuf,
    pub(super) checksum: u128,
}

/// Reads all files that hold an engine's rows from the disk, past the page cache, and compares each with the checksum that the
/// engine kept of it. What rotted is found wherever it is: in rows that nobody asks for, that a newer one hides, or in what
/// helps to find rows. They stay on disk while it lives.
pub struct FileCheck {
    files: IntoIter<WrittenFile>,
    current: Option<Reading>,
    buffer: Vec<u8>,
    _held: Box<dyn Any + Send>,
}

struct Reading {
    written: WrittenFile,
    file: File,
    hash: Xxh3,
}

impl FileCheck {
    /// Of `files`, which are there as long as `held` is.
    pub(super) fn new(files: Vec<WrittenFile>, held: impl Any + Send) -> Self {
        Self { files: files.into_iter(), current: None, buffer: vec![0; BUFFER_BYTES], _held: Box::new(held) }
    }

    /// Reads on, until `bytes_max` bytes are read or the end is reached. Gives whether it is.
    ///
    /// # Errors
    /// If a file is not what was written, which is damage; or if it cannot be read.
    pub fn advance(&mut self, bytes_max: u64) -> Result<bool, EngineError> {
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(mut reading) = self.current.take() else {
                let Some(written) = self.files.next() else { return Ok(true) };
                self.current = Some(Reading::begin(written)?);
                continue;
            };
            let read = reading.advance(&mut self.buffer)?;
            if read > 0 {
                self.current = Some(reading);
                bytes += read as u64;
            }
        }
        Ok(false)
    }
}

impl Reading {
    fn begin(written: WrittenFile) -> Result<Self, EngineError> {
        let open = || {
            let file = File::open(&written.path)?;
            // What memory has of it says nothing of the disk.
            fadvise(&file, 0, None, Advice::DontNeed)?;
            Ok(file)
        };
        match open() {
            Ok(file) => Ok(Self { written, file, hash: Xxh3::new() }),
            Err(error) => Err(FileError::of(&written, Trouble::Disk(error))),
        }
    }

    /// Gives how much was read: nothing, if the file is at its end, and whole.
    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize, EngineError> {
        let read =
            self.file.read(buffer).map_err(|error| FileError::of(&self.written, Trouble::Disk(error)))?;
        self.hash.update(&buffer[..read]);
        if read == 0 && self.hash.digest128() != self.written.checksum {
            return Err(FileError::of(&self.written, Trouble::Rotten));
        }
        Ok(read)
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {trouble}", path.display())]
pub(super) struct FileError {
    path: PathBuf,
    trouble: Trouble,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("its bytes are not those that were written: they do not have their checksum")]
    Rotten,
    #[error(transparent)]
    Disk(io::Error),
}

impl FileError {
    fn of(written: &WrittenFile, trouble: Trouble) -> EngineError {
        EngineError::new("read files again", Self { path: written.path.clone(), trouble })
    }

    /// See [`EngineError::is_damage`].
    pub(super) fn is_damage(&self) -> bool {
        match &self.trouble {
            Trouble::Rotten => true,
            Trouble::Disk(error) => is_unreadable(error),
        }
    }
}

/// Whether the disk cannot give back what it should hold: a file that the engine has not removed, bytes of it, or as many as it says
/// to be there.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::NotFound, io::ErrorKind::UnexpectedEof];
    error.raw_os_error() == Some(Errno::IO.raw_os_error()) || kinds.contains(&error.kind())
}
