//! The disks that a test runs on: in memory, on a file system, and on ones that refuse O_DIRECT.

use std::path::{Path, PathBuf};

use raftmap_log::{Disk, Log, RealDisk, Recovered};

/// A disk and an empty folder on it.
pub(crate) struct Place<D> {
    pub(crate) disk: D,
    dir: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl<D: Disk> Place<D> {
    pub(crate) fn of(disk: D, dir: PathBuf) -> Self {
        Self { disk, dir, _folder: None }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(crate) fn init(&self) -> Log<D> {
        Log::init(&self.disk, &self.data(), &super::identity(3), &super::tiny()).unwrap();
        self.open().0
    }

    pub(crate) fn open(&self) -> (Log<D>, Recovered) {
        Log::open(self.disk.clone(), &self.data(), &super::tiny()).unwrap()
    }
}

/// Runs a test on each disk.
#[allow(unused_macros, reason = "each test binary uses a part of this module")]
macro_rules! on_every_disk {
    ($($(#[$doc:meta])* $name:ident)*) => {
        use $crate::common::places::{memory, real};
        mod in_memory { $($(#[$doc])* #[test] fn $name() { super::$name(&super::memory(true)); })* }
        mod in_memory_without_direct_reads {
            $($(#[$doc])* #[test] fn $name() { super::$name(&super::memory(false)); })*
        }
        mod on_a_file_system { $($(#[$doc])* #[test] fn $name() { super::$name(&super::real(None)); })* }
        mod on_tmpfs {
            $($(#[$doc])* #[test] fn $name() { super::$name(&super::real(Some("/dev/shm".as_ref()))); })*
        }
    };
}

pub(crate) fn memory(direct_reads: bool) -> Place<raftmap_log::MemDisk> {
    let options = raftmap_log::MemDiskOptions { direct_reads, ..Default::default() };
    Place { disk: raftmap_log::MemDisk::new(options), dir: "/".into(), _folder: None }
}

pub(crate) fn real(folder: Option<&Path>) -> Place<RealDisk> {
    let folder = match folder.filter(|folder| folder.is_dir()) {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    }
    .unwrap();
    Place { disk: RealDisk, dir: folder.path().to_owned(), _folder: Some(folder) }
}
