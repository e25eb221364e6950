//! Segments: files of a fixed size, filled with zeroes and synced before first use, so that an append changes no
//! metadata and its `fdatasync` is one flush.
//!
//! A segment's number is its generation: it goes up by one with each use, and stands in the file's name and in every
//! block. A file gets its name only when it is whole; until then it ends in `.new`, and a start removes it.

use std::path::{Path, PathBuf};

use crate::block::BLOCK_BYTES;
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Disk, DiskFile, ReadFrom, read_past_cache};
use crate::error::LogError;

/// The largest segment, in bytes: places and lengths in it fit 32 bits, and a start reads it whole.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;

const PREFIX: &str = "segment-";
/// How the name of a file ends that is still being made.
const UNFINISHED: &str = ".new";
/// The folder for what was cut from the log.
const ASIDE: &str = "aside";

/// The folder of a group's segments.
#[derive(Clone)]
pub(crate) struct SegmentFolder<D: Disk> {
    pub(crate) disk: D,
    pub(crate) path: PathBuf,
}

/// An open segment.
pub(crate) struct Segment<D: Disk> {
    /// Its number, which is its generation.
    pub(crate) number: u64,
    /// Its length in blocks.
    pub(crate) blocks: u32,
    pub(crate) file: D::File,
}

impl<D: Disk> SegmentFolder<D> {
    /// The path of a segment.
    pub(crate) fn segment_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("{PREFIX}{number:012}"))
    }

    /// The numbers of the segments that are there, in ascending order.
    pub(crate) fn numbers(&self) -> Result<Vec<u64>, LogError> {
        let names = self.disk.list(&self.path).map_err(LogError::io("list", &self.path))?;
        let number = |name: &String| name.strip_prefix(PREFIX)?.parse::<u64>().ok();
        let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
        numbers.retain(|number| names.contains(&format!("{PREFIX}{number:012}")));
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Makes names durable that a process gave which died before it synced them: what is written into a file whose name
    /// can still be lost would be lost with it.
    pub(crate) fn sync_names(&self) -> Result<(), LogError> {
        for folder in [&self.path.join(ASIDE), &self.path] {
            self.disk.sync_dir(folder).map_err(LogError::io("sync", folder))?;
        }
        Ok(())
    }

    /// Removes what a crash left half made.
    pub(crate) fn remove_unfinished(&self) -> Result<(), LogError> {
        for folder in [self.path.clone(), self.path.join(ASIDE)] {
            for name in self.disk.list(&folder).map_err(LogError::io("list", &folder))? {
                if name.ends_with(UNFINISHED) {
                    let path = folder.join(name);
                    self.disk.remove(&path).map_err(LogError::io("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    /// Makes a segment of `bytes` that begins with `content`, in place of the one that has this number, if any: after
    /// a crash there is the old one or the new one, whole.
    pub(crate) fn make(&self, number: u64, bytes: u64, content: &[u8]) -> Result<Segment<D>, LogError> {
        let path = self.segment_path(number);
        let file = self.make_file(&path, bytes, content)?;
        Ok(Segment { number, blocks: blocks_of(bytes), file })
    }

    fn make_file(&self, path: &Path, bytes: u64, content: &[u8]) -> Result<D::File, LogError> {
        let unfinished = path.with_extension(&UNFINISHED[1..]);
        let file = self.disk.create(&unfinished, bytes).map_err(LogError::io("create", &unfinished))?;
        if !content.is_empty() {
            file.write_at(content, 0).map_err(LogError::io("write", &unfinished))?;
        }
        file.sync_data().map_err(LogError::io("sync", &unfinished))?;
        self.disk.rename(&unfinished, path).map_err(LogError::io("rename", &unfinished))?;
        self.sync_folder_of(path)?;
        Ok(file)
    }

    fn sync_folder_of(&self, path: &Path) -> Result<(), LogError> {
        let folder = path.parent().expect("a path that was joined has a parent");
        self.disk.sync_dir(folder).map_err(LogError::io("sync", folder))
    }

    /// Opens a segment.
    pub(crate) fn open(&self, number: u64) -> Result<Segment<D>, LogError> {
        let path = self.segment_path(number);
        let file = self.disk.open(&path).map_err(LogError::io("open", &path))?;
        let bytes = file.size_bytes().map_err(LogError::io("look at", &path))?;
        if bytes > SEGMENT_BYTES_MAX {
            let what = std::io::Error::new(std::io::ErrorKind::FileTooLarge, "larger than any segment");
            return Err(LogError::io("open", &path)(what));
        }
        Ok(Segment { number, blocks: blocks_of(bytes), file })
    }

    /// Reads all blocks of a segment, past the page cache if that can be.
    pub(crate) fn read(&self, number: u64, buffer: &mut AlignedBuffer) -> Result<ReadFrom, LogError> {
        let segment = self.open(number)?;
        let path = self.segment_path(number);
        buffer.resize(segment.blocks as usize * BLOCK_BYTES);
        read_past_cache(&self.disk, &path, &segment.file, buffer).map_err(LogError::io("read", &path))
    }

    /// Removes a segment; to be made durable by the caller.
    pub(crate) fn remove(&self, number: u64) -> Result<(), LogError> {
        let path = self.segment_path(number);
        self.disk.remove(&path).map_err(LogError::io("remove", &path))
    }

    /// Makes the removal of segments durable.
    pub(crate) fn sync(&self) -> Result<(), LogError> {
        self.disk.sync_dir(&self.path).map_err(LogError::io("sync", &self.path))
    }

    /// Keeps a copy of `content`, cut from the log, under `name` in the folder for what was cut.
    pub(crate) fn keep_aside(&self, name: &str, content: &[u8]) -> Result<(), LogError> {
        let path = self.path.join(ASIDE).join(name);
        self.make_file(&path, content.len() as u64, content).map(drop)
    }

    /// Moves a segment into the folder for what was cut, under `name`.
    pub(crate) fn move_aside(&self, number: u64, name: &str) -> Result<(), LogError> {
        let (from, to) = (self.segment_path(number), self.path.join(ASIDE).join(name));
        self.disk.rename(&from, &to).map_err(LogError::io("rename", &from))?;
        self.sync_folder_of(&to)?;
        self.sync()
    }

    /// The names in the folder for what was cut, sorted.
    pub(crate) fn aside(&self) -> Result<Vec<String>, LogError> {
        let folder = self.path.join(ASIDE);
        self.disk.list(&folder).map_err(LogError::io("list", &folder))
    }

    /// Removes what was kept under `name`.
    pub(crate) fn remove_aside(&self, name: &str) -> Result<(), LogError> {
        let path = self.path.join(ASIDE).join(name);
        self.disk.remove(&path).map_err(LogError::io("remove", &path))
    }

    /// Makes the folder with a first segment, which begins with `content`. The name of the folder is not synced.
    pub(crate) fn create(&self, segment_bytes: u64, content: &[u8]) -> Result<(), LogError> {
        for folder in [&self.path, &self.path.join(ASIDE)] {
            self.disk.create_dir(folder).map_err(LogError::io("create", folder))?;
        }
        self.make(1, segment_bytes, content).map(drop)
    }
}

impl<D: Disk> Segment<D> {
    /// Its length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_BYTES as u64
    }
}

/// How many blocks a segment of `bytes` has.
pub(crate) fn blocks_of(bytes: u64) -> u32 {
    u32::try_from(bytes / BLOCK_BYTES as u64).expect("a segment has at most 1 GiB")
}
