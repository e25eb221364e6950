//! The engine on disk: rows in memory, which go in bulk into the tables of one fjall database with one keyspace.
//!
//! What is committed stays in memory until there is enough of it for a table: a row that is written again and again reaches the
//! disk once, in order, without a journal, since the log is one (docs/performance.md). A layer of rows holds whole batches and
//! becomes tables in one step, and layers do in order: tables never hold a part of a batch, nor one without all that came
//! before it (scenario 47).
//!
//! What of fjall (3.1.13) matters here:
//! - **Its memtables and its journal are not used.** An earlier version of this program used them. The journal is not to be
//!   trusted: at start it is cut silently at the first record that does not decode; its checksums leave out each batch's sequence
//!   number, so that one flipped bit makes a batch vanish or hide later ones; and pages that the kernel takes for clean may not
//!   be on disk. So each start empties it, and the engine is what its tables are: checksummed, synced, and registered only after
//!   that. What comes back is durable by construction. The price is to apply again what was in memory.
//! - It syncs its files and the folders right above them, but not the folders that hold those: opening it does.
//! - An ingestion writes table files, syncs them, and registers all of them in one step when it is finished. Keys that do
//!   not ascend make it panic. Never clear a keyspace and ingest into it then: after the next start the rows are gone.
//! - An error in an iteration comes out of the guard, when the row is taken from it.
//! - It keeps a checksum of each table file as a whole, and never looks at it. Its tree, which no document speaks of, names
//!   them: [`FjallEngine::file_check`] rests on that, and on nothing else that is hidden.

use std::error::Error as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fjall::{
    AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode,
    Readable, Slice,
};

use super::files::{FileCheck, WrittenFile, is_unreadable};
use super::flusher::Flusher;
use super::merge::{Merged, Source};
use super::recent::{Layer, Recent, View};
use super::{Engine, EngineError, Ingest, Row, RowChange, Snapshot};

const KEYSPACE: &str = "state";

/// So much is held in memory before it becomes tables.
const LAYER_BYTES: usize = 16 << 20;

/// What fjall compacts with.
const WORKER_THREADS: usize = 1;

/// What a server may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FjallOptions {
    /// The cache of blocks read from disk, in bytes.
    pub cache_bytes: u64,
}

impl Default for FjallOptions {
    /// 64 MiB of cache.
    fn default() -> Self {
        Self { cache_bytes: 64 << 20 }
    }
}

/// An engine on disk.
#[derive(Clone)]
pub struct FjallEngine {
    tables: Tables,
    recent: Arc<Recent>,
    flusher: Arc<Flusher>,
    /// Held from the first row of a batch to the last: a layer is sealed between two.
    writer: Arc<Mutex<()>>,
}

#[derive(Clone)]
struct Tables {
    database: Database,
    keyspace: Keyspace,
}

impl FjallEngine {
    /// Opens the database in `directory`, or makes it. The directory is locked while a handle lives.
    ///
    /// # Errors
    /// If the disk fails, the directory is open elsewhere, or what is there cannot be read.
    pub fn open(directory: &Path, options: FjallOptions) -> Result<Self, EngineError> {
        empty_journals(directory).map_err(|error| EngineError::new("empty journals", error))?;
        let database = Database::builder(directory)
            .manual_journal_persist(true)
            .journal_compression(CompressionType::None)
            .cache_size(options.cache_bytes)
            .worker_threads(WORKER_THREADS)
            .open()
            .map_err(|error| EngineError::new("open database", error))?;
        let create = || KeyspaceCreateOptions::default().manual_journal_persist(true);
        let keyspace =
            database.keyspace(KEYSPACE, create).map_err(|error| EngineError::new("open keyspace", error))?;
        sync_folders(directory).map_err(|error| EngineError::new("sync folders", error))?;
        let (tables, recent) = (Tables { database, keyspace }, Arc::new(Recent::default()));
        let to = tables.clone();
        let flusher = Flusher::start(Arc::clone(&recent), move |layer| to.add(layer))?;
        Ok(Self { tables, recent, flusher: Arc::new(flusher), writer: Arc::default() })
    }

    /// Makes an empty database in `directory`, which must not be there yet, for rows to be ingested into. If anything
    /// fails or the process dies before the ingestion is finished, the directory is to be removed.
    ///
    /// # Errors
    /// If the disk fails or the directory is there.
    pub fn fresh(directory: &Path, options: FjallOptions) -> Result<FjallFresh, EngineError> {
        fs::create_dir(directory).map_err(|error| EngineError::new("create directory", error))?;
        Ok(FjallFresh { engine: Self::open(directory, options)? })
    }

    /// How much its tables take on disk, in bytes. What is in memory alone is not counted.
    pub fn disk_bytes(&self) -> u64 {
        self.tables.keyspace.disk_space()
    }

    /// A check of the files that hold its rows now.
    pub fn file_check(&self) -> FileCheck {
        let version = self.tables.keyspace.tree.current_version();
        let file = |path: &Path, checksum| WrittenFile { path: path.to_owned(), checksum };
        let files = version.iter_tables().map(|table| file(&table.path, table.checksum().into_u128()));
        FileCheck::new(files.collect(), version)
    }

    /// Whether the store still works, its background threads included. It may be called from any thread, also while a
    /// commit hangs because of what it reports.
    ///
    /// # Errors
    /// If a write, a flush or a compaction failed: the node ends.
    pub fn check(&self) -> Result<(), EngineError> {
        self.flusher.check()?;
        // The one public call that looks at fjall's poison flag; it writes a buffer of at most 8 KiB and syncs nothing.
        let checked = self.tables.database.persist(PersistMode::Buffer);
        checked.map_err(|error| EngineError::new("background work", error))
    }

    /// Has the newest layer become tables.
    fn seal(&self) {
        let _between_commits = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.flusher.seal();
    }
}

impl Tables {
    /// Adds tables that hold the rows of a layer, all of them in one step.
    fn add(&self, layer: &Layer) -> Result<(), EngineError> {
        let write = || {
            let mut rows = self.keyspace.start_ingestion()?;
            layer.try_for_each(|key, value| match value {
                Some(value) => rows.write(key, value.clone()),
                None => rows.write_tombstone(key),
            })?;
            rows.finish()
        };
        write().map_err(|error| EngineError::new("ingest", error))
    }
}

/// The file that fjall writes when it has made a database, before anything is in it.
const COMPLETE_MARK: &str = "version";

/// Empties fjall's journals before it reads them; see the module. An empty file, not none: without any journal fjall
/// would take the sequence numbers in its tables for unused. It needs no sync, for the next start does it again, and if
/// the database is open elsewhere it does no harm there: nothing but a start reads a journal.
///
/// A crash while the database was made leaves a journal without the mark; fjall would stumble over it for ever.
fn empty_journals(directory: &Path) -> io::Result<()> {
    let files = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        files => files?,
    };
    let complete = directory.join(COMPLETE_MARK).try_exists()?;
    for file in files {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "jnl") {
            continue;
        }
        if complete {
            OpenOptions::new().write(true).open(path)?.set_len(0)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// See [`EngineError::is_damage`].
pub(super) fn is_damage(error: &fjall::Error) -> bool {
    match error {
        // Another program wrote it.
        fjall::Error::Storage(LsmError::InvalidVersion(_)) => false,
        // What the tables say is an error of theirs, unless the file system is its cause.
        fjall::Error::Storage(error) => match error.source() {
            None => true,
            Some(cause) => cause.downcast_ref().is_some_and(is_unreadable),
        },
        fjall::Error::Io(error) => is_unreadable(error),
        fjall::Error::InvalidTag(_) | fjall::Error::InvalidTrailer | fjall::Error::Decompress(_) => true,
        _ => false,
    }
}

/// The folders whose files fjall writes once and only removes then.
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
        } else if entry.extension().is_some_and(|extension| extension == "jnl") {
            // Nothing in it counts.
            File::create_new(&shadow)?;
        } else {
            fs::copy(&entry, &shadow)?;
        }
    }
    Ok(())
}

/// The folder in which fjall makes one for each keyspace.
const KEYSPACES: &str = "keyspaces";

/// Makes durable the names that fjall leaves unsynced when it makes a database: those of the keyspaces' folders, and that
/// of the database itself.
fn sync_folders(directory: &Path) -> io::Result<()> {
    let sync = |folder: &Path| File::open(folder)?.sync_all();
    sync(&directory.join(KEYSPACES))?;
    sync(directory)?;
    match directory.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync(Path::new(".")),
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

/// A database that was just made and holds nothing.
pub struct FjallFresh {
    engine: FjallEngine,
}

impl FjallFresh {
    /// Begins to take in rows.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn ingest(&self) -> Result<FjallIngest<'_>, EngineError> {
        let rows = self.engine.tables.keyspace.start_ingestion();
        let mut rows = Some(rows.map_err(|error| EngineError::new("start ingestion", error))?);
        let step = move |row: Option<Row>| match row {
            Some((key, value)) => rows.as_mut().map_or(Ok(()), |rows| rows.write(key, value)),
            None => rows.take().map_or(Ok(()), |rows| rows.finish()),
        };
        Ok(FjallIngest { engine: &self.engine, step: Box::new(step) })
    }
}

/// Rows on their way into a [`FjallFresh`]. It stays on the thread that began it: fjall's ingestion is not `Send`.
pub struct FjallIngest<'a> {
    engine: &'a FjallEngine,
    /// Adds a row, or finishes: fjall does not export the type of its ingestion, so that only a closure can hold it.
    step: Box<dyn FnMut(Option<Row>) -> fjall::Result<()> + 'a>,
}

impl Ingest for FjallIngest<'_> {
    type Engine = FjallEngine;

    fn add(&mut self, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        (self.step)(Some((key, value))).map_err(|error| EngineError::new("ingest", error))
    }

    fn finish(mut self) -> Result<FjallEngine, EngineError> {
        (self.step)(None).map_err(|error| EngineError::new("finish ingestion", error))?;
        self.engine.check()?;
        Ok(self.engine.clone())
    }
}

impl Engine for FjallEngine {
    type Snapshot = FjallSnapshot;

    fn snapshot(&self) -> FjallSnapshot {
        let (recent, snapshot) = self.recent.view(|| self.tables.database.snapshot());
        FjallSnapshot { recent, snapshot, keyspace: self.tables.keyspace.clone() }
    }

    fn commit(&self, batch: Vec<RowChange>) -> Result<(), EngineError> {
        self.flusher.wait_for_room()?;
        let between_seals = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.recent.commit(&batch);
        drop(between_seals);
        if bytes >= LAYER_BYTES {
            self.seal();
        }
        Ok(())
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.seal();
        self.flusher.wait_for_all()
    }
}

/// A view of a [`FjallEngine`].
#[derive(Clone)]
pub struct FjallSnapshot {
    recent: View,
    snapshot: fjall::Snapshot,
    keyspace: Keyspace,
}

impl Snapshot for FjallSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if let Some(value) = self.recent.get(key) {
            return Ok(value);
        }
        let value = self.snapshot.get(&self.keyspace, key).map_err(|error| EngineError::new("get", error))?;
        Ok(value.map(Bytes::from))
    }

    fn range(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<Row, EngineError>> + Send + 'static {
        let recent = self.recent.ranges(start, end).map(|rows| -> Source { Box::new(rows.map(Ok)) });
        // fjall panics at a range whose end is before its start.
        let tables = (start < end).then(|| -> Source {
            Box::new(self.snapshot.range(&self.keyspace, start..end).map(|guard| {
                let (key, value): (Slice, Slice) =
                    guard.into_inner().map_err(|error| EngineError::new("range", error))?;
                Ok((key.into(), Some(value.into())))
            }))
        });
        Merged::new(recent.chain(tables))
    }
}
