//! A disk in memory that keeps the promises of [`Disk`] and no more, for tests and for the simulator.
//!
//! All of it follows from a seed and from what is done: the same steps give the same faults. A power cut loses any subset
//! of what was not synced, block by block, and any subset of the names. A sync that fails leaves pages that look written
//! and are not. Faults are set for the n-th operation, so that a test can sweep over all of them.

mod content;
mod names;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use content::{Content, Fate};
use names::{Names, Node};

use crate::block::BLOCK_BYTES;
use crate::disk::{Disk, DiskFile, Space};

/// How a [`MemDisk`] behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemDiskOptions {
    /// Where all chance comes from.
    pub seed: u64,
    /// What a power cut does not divide, in bytes: 4096, or 512 for a device that tears blocks.
    pub atomic_bytes: usize,
    /// Whether reads past the page cache are possible.
    pub direct_reads: bool,
    /// How much fits, in bytes; beyond, files cannot be made.
    pub capacity_bytes: u64,
}

impl Default for MemDiskOptions {
    fn default() -> Self {
        Self { seed: 0, atomic_bytes: BLOCK_BYTES, direct_reads: true, capacity_bytes: 1 << 40 }
    }
}

/// What goes wrong in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Power is cut while it runs.
    PowerCut,
    /// The process is killed before it runs; what was written stays in the page cache.
    Kill,
    /// It fails. Of a write or a sync, any part may have been done.
    Error(io::ErrorKind),
    /// A write ends early and says so. Other operations are not changed.
    ShortWrite,
    /// A write is lost, and says nothing. Other operations are not changed.
    LostWrite,
    /// A write lands so many blocks further on in its file, and says nothing. Other operations are not changed.
    MisdirectedWrite(i64),
}

/// A disk in memory. A handle belongs to one life of a process: after a power cut or a kill everything that is done with
/// it fails, and [`MemDisk::restart`] gives the handle of the next life.
#[derive(Clone)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
    life: u64,
}

/// A file on a [`MemDisk`].
pub struct MemFile {
    disk: MemDisk,
    number: u64,
    direct: bool,
}

/// A lock on a [`MemDisk`].
pub struct MemLock {
    disk: MemDisk,
    path: PathBuf,
}

struct State {
    options: MemDiskOptions,
    rng: fastrand::Rng,
    life: u64,
    down: bool,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    names: Names,
    files: BTreeMap<u64, Content>,
    files_made: u64,
    locks: BTreeMap<PathBuf, u64>,
}

impl MemDisk {
    /// An empty disk with a root folder.
    ///
    /// # Panics
    /// If a block is not a multiple of `atomic_bytes`.
    pub fn new(options: MemDiskOptions) -> Self {
        assert!(options.atomic_bytes > 0 && BLOCK_BYTES.is_multiple_of(options.atomic_bytes));
        let state = State {
            rng: fastrand::Rng::with_seed(options.seed),
            options,
            life: 0,
            down: false,
            operations: 0,
            faults: BTreeMap::new(),
            names: Names::default(),
            files: BTreeMap::new(),
            files_made: 0,
            locks: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), life: 0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many operations were begun: all of [`Disk`] and [`DiskFile`] but locks, sizes and space.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Sets what goes wrong in the operation of that number, from 0: the next one is [`Self::operations`].
    pub fn set_fault(&self, operation: u64, fault: Fault) {
        self.state().faults.insert(operation, fault);
    }

    /// Sets what the next power cuts do not divide; see [`MemDiskOptions::atomic_bytes`].
    ///
    /// # Panics
    /// If a block is not a multiple of it.
    pub fn set_atomic_bytes(&self, atomic_bytes: usize) {
        assert!(atomic_bytes > 0 && BLOCK_BYTES.is_multiple_of(atomic_bytes));
        self.state().options.atomic_bytes = atomic_bytes;
    }

    /// Forgets the faults that have not struck yet.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Cuts the power now.
    pub fn cut_power(&self) {
        self.state().cut_power();
    }

    /// Kills the process now. What it wrote stays in the page cache.
    pub fn kill(&self) {
        self.state().kill();
    }

    /// Whether the power is off, or the process dead.
    pub fn is_down(&self) -> bool {
        self.state().down
    }

    /// Begins the next life and gives its handle. If the last one has not ended, it is killed.
    #[must_use]
    pub fn restart(&self) -> Self {
        let mut state = self.state();
        state.kill();
        state.down = false;
        state.life += 1;
        Self { state: self.state.clone(), life: state.life }
    }

    /// Lets the page cache forget everything that looks clean, as memory pressure does.
    pub fn drop_caches(&self) {
        self.state().files.values_mut().for_each(Content::drop_clean);
    }

    /// All files with their lengths in bytes, in the order of their paths.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state();
        state.names.seen_files().map(|(path, number)| (path.clone(), state.files[&number].len())).collect()
    }

    /// What the disk itself holds of a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`].
    pub fn disk_bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state();
        let content = &state.files[&state.names.file(path)?];
        let mut bytes = vec![0; usize::try_from(content.len()).map_err(io::Error::other)?];
        content.read_disk(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Changes what the disk itself holds of a file, within its length, behind the back of everybody.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`].
    pub fn set_disk_bytes(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let number = state.names.file(path)?;
        state.file(number).write_disk(bytes, offset);
        Ok(())
    }

    /// Flips a bit of what the disk holds of a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`].
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        let mut state = self.state();
        let number = state.names.file(path)?;
        let (offset, mut byte) = (bit / 8, [0]);
        state.file(number).read_disk(&mut byte, offset)?;
        byte[0] ^= 1 << (bit % 8);
        state.file(number).write_disk(&byte, offset);
        Ok(())
    }

    /// Makes the block at `offset` of a file a bad sector: it cannot be read until it is written again.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`].
    pub fn make_bad_sector(&self, path: &Path, offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let number = state.names.file(path)?;
        state.file(number).make_bad(offset);
        Ok(())
    }

    /// Begins an operation: gives the state and what is to go wrong, unless it goes wrong at once.
    fn begin(&self) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = self.state();
        if state.down || self.life != state.life {
            return Err(gone());
        }
        let operation = state.operations;
        state.operations += 1;
        let fault = state.faults.remove(&operation);
        if fault == Some(Fault::Kill) {
            state.kill();
            return Err(gone());
        }
        Ok((state, fault))
    }

    /// Does an operation that is done whole or not at all.
    fn run<T>(&self, operation: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let (mut state, fault) = self.begin()?;
        if let Some(Fault::Error(kind)) = fault {
            return Err(kind.into());
        }
        let result = operation(&mut state);
        if fault == Some(Fault::PowerCut) {
            state.cut_power();
            return Err(gone());
        }
        result
    }
}

fn gone() -> io::Error {
    io::Error::other("the power is off, or the process dead")
}

impl State {
    fn file(&mut self, number: u64) -> &mut Content {
        self.files.get_mut(&number).expect("a file lives as long as a name or a handle of this life")
    }

    fn kill(&mut self) {
        self.down = true;
        self.locks.clear();
    }

    fn cut_power(&mut self) {
        self.kill();
        let rng = &mut self.rng;
        self.names.cut_power(|| rng.bool());
        for content in self.files.values_mut() {
            content.cut_power(self.options.atomic_bytes, || rng.bool());
        }
        let named = self.names.files();
        self.files.retain(|number, _| named.contains(number));
    }

    fn used_bytes(&self) -> u64 {
        self.names.files().iter().map(|number| self.files[number].len()).sum()
    }
}

impl Disk for MemDisk {
    type File = MemFile;
    type Lock = MemLock;

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.run(|state| match state.names.add(path, Node::Folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        })
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<MemFile> {
        let number = self.run(|state| {
            if state.used_bytes() + len > state.options.capacity_bytes {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let number = state.files_made;
            state.names.add(path, Node::File(number))?;
            state.files_made += 1;
            state.files.insert(number, Content::new(len));
            Ok(number)
        })?;
        Ok(MemFile { disk: self.clone(), number, direct: false })
    }

    fn open(&self, path: &Path) -> io::Result<MemFile> {
        let number = self.run(|state| state.names.file(path))?;
        Ok(MemFile { disk: self.clone(), number, direct: false })
    }

    fn open_uncached(&self, path: &Path) -> io::Result<Option<MemFile>> {
        let (number, possible) =
            self.run(|state| Ok((state.names.file(path)?, state.options.direct_reads)))?;
        Ok(possible.then(|| MemFile { disk: self.clone(), number, direct: true }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.run(|state| state.names.list(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(|state| state.names.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(|state| state.names.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut state, fault) = self.begin()?;
        match fault {
            Some(Fault::PowerCut) => {
                state.cut_power();
                Err(gone())
            }
            Some(Fault::Error(kind)) => Err(kind.into()),
            _ => {
                state.names.sync(dir);
                Ok(())
            }
        }
    }

    fn lock(&self, path: &Path) -> io::Result<MemLock> {
        let mut state = self.state();
        if state.down || self.life != state.life {
            return Err(gone());
        }
        if state.locks.contains_key(path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locks.insert(path.to_owned(), self.life);
        Ok(MemLock { disk: self.clone(), path: path.to_owned() })
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let state = self.state();
        let total_bytes = state.options.capacity_bytes;
        Ok(Space { free_bytes: total_bytes.saturating_sub(state.used_bytes()), total_bytes })
    }
}

impl DiskFile for MemFile {
    fn size_bytes(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        if state.down || self.disk.life != state.life {
            return Err(gone());
        }
        Ok(state.file(self.number).len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut state, fault) = self.disk.begin()?;
        if offset + bytes.len() as u64 > state.file(self.number).len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // The page cache takes a write page by page: what fails is cut there.
        let pages = bytes.len().div_ceil(BLOCK_BYTES);
        let part = (state.rng.usize(..=pages) * BLOCK_BYTES).min(bytes.len());
        let short = (state.rng.usize(..pages.max(1)) * BLOCK_BYTES).min(bytes.len());
        let file = state.file(self.number);
        match fault {
            Some(Fault::Error(kind)) => {
                file.write(&bytes[..part], offset, Fate::Dirty);
                return Err(kind.into());
            }
            Some(Fault::ShortWrite) => {
                file.write(&bytes[..short], offset, Fate::Dirty);
                return Err(io::ErrorKind::WriteZero.into());
            }
            Some(Fault::LostWrite) => file.write(bytes, offset, Fate::Lost),
            Some(Fault::MisdirectedWrite(by)) => file.write(bytes, offset, Fate::Misdirected(by)),
            _ => file.write(bytes, offset, Fate::Dirty),
        }
        if fault == Some(Fault::PowerCut) {
            state.cut_power();
            return Err(gone());
        }
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.run(|state| {
            let file = state.file(self.number);
            if offset + bytes.len() as u64 > file.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.direct { file.read_disk(bytes, offset) } else { file.read(bytes, offset) }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut state, fault) = self.disk.begin()?;
        match fault {
            Some(Fault::PowerCut) => {
                state.cut_power();
                Err(gone())
            }
            Some(Fault::Error(kind)) => {
                let mut rng = state.rng.fork();
                state.file(self.number).sync_badly(|| rng.bool());
                Err(kind.into())
            }
            _ => {
                state.file(self.number).sync();
                Ok(())
            }
        }
    }
}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.locks.get(&self.path) == Some(&self.disk.life) {
            state.locks.remove(&self.path);
        }
    }
}

impl fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemDisk").field("life", &self.life).finish_non_exhaustive()
    }
}
