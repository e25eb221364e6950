//! Tables on disk: one tree of lsm-tree, without a memtable of its own and without a journal.
//!
//! What of lsm-tree (3.1.10) matters here:
//! - An ingestion writes table files, syncs them and the folder they are in, and registers all of them in one step when it is
//!   finished, by a version file that is synced before it is named. What comes back after a crash is some version that was
//!   named: durable by construction. Keys that do not ascend make it panic.
//! - Each ingestion adds a *run* to level 0, whose number is kept in one byte: from 256 on the tree could not be read
//!   again. Nothing in lsm-tree bounds it, nor merges anything by itself: who adds has to.
//! - Whoever reads at a sequence number sees what was registered before it, as long as the merges that run meanwhile are told
//!   of it (their *watermark*).
//! - It registers a version under a lock that readers take, too: a read may wait for the disk.
//! - An error in an iteration comes out of the guard, when the row is taken from it.
//! - It keeps a checksum of each table file as a whole, and never looks at it. No document speaks of that; it is what
//!   [`Tables::files`] rests on, and nothing else that is hidden.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lsm_tree::compaction::Leveled;
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Guard as _, SequenceNumberCounter, Slice};

use super::files::{FileCheck, WrittenFile, is_unreadable};
use super::flusher::Store;
use super::recent::Layer;
use super::{EngineError, Row};

/// Where the tree is, and where it is made.
const TREE: &str = "tree";
const NEW_TREE: &str = "new";
/// Locked by whoever has the directory open.
const LOCK: &str = "lock";
/// The file that a tree of lsm-tree has as soon as it is one.
const CURRENT: &str = "current";
/// A tree that an earlier version of this program kept by means of fjall, and what else fjall put beside it. Its journal
/// holds nothing that is not in the log.
const EARLIER_TREE: &str = "keyspaces/1";
const EARLIER_REST: [&str; 2] = ["keyspaces", "version"];
const EARLIER_JOURNAL: &str = "jnl";

/// The tables. A clone is another handle of the same ones.
#[derive(Clone)]
pub(super) struct Tables {
    tree: AnyTree,
    /// Behind the last sequence number that readers may see.
    visible: SequenceNumberCounter,
    opened: Arc<Opened>,
    _lock: Arc<File>,
}

/// The sequence numbers at which the tables are read now, and by how many.
#[derive(Default)]
struct Opened(Mutex<BTreeMap<u64, usize>>);

/// A view of the tables as they were at one moment.
pub(super) struct TablesView {
    tables: Tables,
    at: u64,
}

impl Tables {
    /// Opens the tables in `directory`, or makes it. It is locked while a handle lives.
    pub(super) fn open(directory: &Path, cache_bytes: u64) -> Result<Self, EngineError> {
        let failed = |doing| move |error: io::Error| EngineError::new(doing, error);
        fs::create_dir_all(directory).map_err(failed("create directory"))?;
        let lock = File::create(directory.join(LOCK)).map_err(failed("lock directory"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => EngineError::new("lock directory", "it is open already"),
            TryLockError::Error(error) => EngineError::new("lock directory", error),
        })?;
        let path = directory.join(TREE);
        if !path.try_exists().map_err(failed("open tables"))?
            && !take_over(directory).map_err(failed("take over tables"))?
        {
            make(directory)?;
        }
        if !path.join(CURRENT).try_exists().map_err(failed("open tables"))? {
            return Err(EngineError::new("open tables", lsm_tree::Error::Unrecoverable));
        }
        let (tree, visible) = open_tree(&path, cache_bytes)?;
        Ok(Self { tree, visible, opened: Arc::default(), _lock: Arc::new(lock) })
    }

    /// As the tables are now.
    pub(super) fn view(&self) -> TablesView {
        let mut opened = self.opened.lock();
        let at = self.visible.get();
        *opened.entry(at).or_default() += 1;
        drop(opened);
        TablesView { tables: self.clone(), at }
    }

    /// Begins to take in rows.
    pub(super) fn ingest(&self) -> Result<Ingestion<'_>, EngineError> {
        let rows = self.tree.ingestion().map_err(|error| EngineError::new("start ingestion", error))?;
        Ok(Ingestion(rows))
    }

    /// How much they take on disk, in bytes.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.tree.disk_space()
    }

    /// A check of the files that hold the rows now.
    pub(super) fn files(&self) -> FileCheck {
        let version = self.tree.current_version();
        let file = |path: &Path, checksum| WrittenFile { path: path.to_owned(), checksum };
        let files = version.iter_tables().map(|table| file(&table.path, table.checksum().into_u128()));
        FileCheck::new(files.collect(), version)
    }
}

impl Store for Tables {
    /// Adds tables that hold the rows of a layer, all of them in one step.
    fn add(&self, layer: &Layer) -> Result<(), EngineError> {
        let mut rows = self.ingest()?;
        layer.try_for_each(|key, value| rows.add(key, value.cloned()))?;
        rows.finish()
    }

    fn merge_some(&self) -> Result<bool, EngineError> {
        let before = self.tree.current_version().id();
        let merged = self.tree.compact(Arc::new(Leveled::default()), self.opened.watermark(&self.visible));
        merged.map_err(|error| EngineError::new("merge tables", error))?;
        Ok(self.tree.current_version().id() != before)
    }

    fn runs(&self) -> usize {
        self.tree.l0_run_count()
    }
}

impl Opened {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Below it nobody reads, now or later: of rows that were written before it the latest is enough.
    fn watermark(&self, visible: &SequenceNumberCounter) -> u64 {
        let opened = self.lock();
        let oldest = opened.first_key_value().map_or_else(|| visible.get(), |(at, _)| *at);
        oldest.saturating_sub(1)
    }
}

impl TablesView {
    /// The value under `key`.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.tables.tree.get(key, self.at).map_err(|error| EngineError::new("get", error))?;
        Ok(value.map(Bytes::from))
    }

    /// The rows from `start` (inclusive) to `end` (exclusive), of which there may be some only if `start` is before `end`.
    pub(super) fn range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Row, EngineError>> + Send + 'static {
        self.tables.tree.range(start..end, self.at, None).map(|guard| {
            let (key, value): (Slice, Slice) =
                guard.into_inner().map_err(|error| EngineError::new("range", error))?;
            Ok((key.into(), value.into()))
        })
    }
}

impl Clone for TablesView {
    fn clone(&self) -> Self {
        *self.tables.opened.lock().entry(self.at).or_default() += 1;
        Self { tables: self.tables.clone(), at: self.at }
    }
}

impl Drop for TablesView {
    fn drop(&mut self) {
        let mut opened = self.tables.opened.lock();
        if let Some(count) = opened.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                opened.remove(&self.at);
            }
        }
    }
}

/// Rows on their way into tables, in the order of their keys.
pub(super) struct Ingestion<'a>(lsm_tree::AnyIngestion<'a>);

impl Ingestion<'_> {
    /// Takes a row, or says that it was removed.
    pub(super) fn add(&mut self, key: impl Into<Slice>, value: Option<Bytes>) -> Result<(), EngineError> {
        let added = match value {
            Some(value) => self.0.write(key, value),
            None => self.0.write_tombstone(key),
        };
        added.map_err(|error| EngineError::new("ingest", error))
    }

    /// Makes them durable, and adds them in one step.
    pub(super) fn finish(self) -> Result<(), EngineError> {
        self.0.finish().map_err(|error| EngineError::new("finish ingestion", error))
    }
}

fn open_tree(path: &Path, cache_bytes: u64) -> Result<(AnyTree, SequenceNumberCounter), EngineError> {
    let (next, visible) = (SequenceNumberCounter::default(), SequenceNumberCounter::default());
    let config = Config::new(path, next.clone(), visible.clone());
    let config = config.use_cache(Arc::new(Cache::with_capacity_bytes(cache_bytes)));
    let tree = config.open().map_err(|error| EngineError::new("open tables", error))?;
    let behind = tree.get_highest_seqno().map_or(0, |highest| highest + 1);
    next.fetch_max(behind);
    visible.fetch_max(behind);
    Ok((tree, visible))
}

/// Makes a tree under another name first: what a crash leaves of it is not taken for one.
fn make(directory: &Path) -> Result<(), EngineError> {
    let (new, path) = (directory.join(NEW_TREE), directory.join(TREE));
    let failed = |error: io::Error| EngineError::new("make tables", error);
    if new.try_exists().map_err(failed)? {
        fs::remove_dir_all(&new).map_err(failed)?;
    }
    drop(open_tree(&new, 0)?);
    rename(&new, &path).map_err(failed)?;
    match directory.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync(Path::new(".")),
        Some(parent) => sync(parent),
        None => Ok(()),
    }
    .map_err(failed)
}

/// Takes over a tree of an earlier version, if there is one, and removes what else is left of that.
fn take_over(directory: &Path) -> io::Result<bool> {
    let earlier = directory.join(EARLIER_TREE);
    if !earlier.join(CURRENT).try_exists()? {
        return Ok(false);
    }
    rename(&earlier, &directory.join(TREE))?;
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        let is_journal = path.extension().is_some_and(|extension| extension == EARLIER_JOURNAL);
        if is_journal || EARLIER_REST.iter().any(|rest| path.ends_with(rest)) {
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
    }
    Ok(true)
}

/// Renames a folder for good.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    sync(from)?;
    fs::rename(from, to)?;
    to.parent().map_or(Ok(()), sync)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// See [`EngineError::is_damage`].
pub(super) fn is_damage(error: &lsm_tree::Error) -> bool {
    match error {
        // Another program wrote it.
        lsm_tree::Error::InvalidVersion(_) => false,
        // What the tables say is an error of theirs, unless the file system is its cause.
        error => match error.source() {
            None => true,
            Some(cause) => cause.downcast_ref().is_some_and(is_unreadable),
        },
    }
}

/// The folders whose files are written once and only removed then.
const WRITTEN_ONCE: [&str; 2] = ["tables", "blobs"];

/// Makes in `target`, which must not be there, a database that holds what the one in `original` holds and can be written to
/// without it: the files that are written once are links to those of `original`, the others are copies. `original` must not
/// be open, and must stay as it is while the other one is used; nothing in it is changed, whatever becomes of the other one.
///
/// # Errors
/// If the disk fails.
pub fn shadow(original: &Path, target: &Path) -> Result<(), EngineError> {
    let original = original.canonicalize();
    let shadowed = original.and_then(|original| shadow_folder(&original, target, false));
    shadowed.map_err(|error| EngineError::new("shadow database", error))
}

fn shadow_folder(original: &Path, target: &Path, written_once: bool) -> io::Result<()> {
    fs::create_dir(target)?;
    for entry in fs::read_dir(original)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let shadow = target.join(&name);
        if entry.is_dir() {
            shadow_folder(&entry, &shadow, WRITTEN_ONCE.iter().any(|once| name == *once))?;
        } else if written_once {
            std::os::unix::fs::symlink(&entry, &shadow)?;
        } else {
            fs::copy(&entry, &shadow)?;
        }
    }
    Ok(())
}
