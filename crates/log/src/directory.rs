//! The data directory: made once, crash-safe, and open in one process at a time.
//!
//! ```text
//! DIR/identity            who this node is; its name is given last, and makes the directory one
//! DIR/init-unfinished     there while `init` is at work
//! DIR/fenced              there once no server may start here any more, and why
//! DIR/lock                locked while a process has the directory open
//! DIR/group-1/hard-state
//! DIR/group-1/segment-000000000001 …
//! DIR/group-1/aside/      copies of what was cut from the log
//! ```

use std::io;
use std::path::{Path, PathBuf};

use raftmap_raft::{Base, GroupId, HardState};

use crate::batch::LogIds;
use crate::block::BLOCK_BYTES;
use crate::disk::{Disk, DiskFile};
use crate::error::{IdentityError, InitError, LogError, OpenError};
use crate::hard_state::HardStateFile;
use crate::identity::Identity;
use crate::options::LogOptions;
use crate::repair::beginning_at;
use crate::segment::SegmentFolder;

const IDENTITY: &str = "identity";
const IDENTITY_NEW: &str = "identity.new";
const UNFINISHED: &str = "init-unfinished";
const FENCED: &str = "fenced";
const FENCED_NEW: &str = "fenced.new";
const FENCED_BYTES_MAX: u64 = 4 << 10;
const LOCK: &str = "lock";
const HARD_STATE: &str = "hard-state";
const FIRST_SEGMENT: u64 = 1;
const FIRST_SEQUENCE: u64 = 1;
const IDENTITY_BYTES_MAX: u64 = 1 << 20;

/// The path of a group's hard state.
pub(crate) fn hard_state_path(dir: &Path, group: GroupId) -> PathBuf {
    group_path(dir, group).join(HARD_STATE)
}

/// The folder of a group.
pub(crate) fn group_path(dir: &Path, group: GroupId) -> PathBuf {
    dir.join(format!("group-{group}"))
}

/// What every block of a node's log says.
pub(crate) fn log_ids(identity: &Identity, group: GroupId) -> LogIds {
    LogIds { cluster: identity.cluster(), node: identity.node(), group }
}

/// Makes a data directory.
pub(crate) fn init<D: Disk>(
    disk: &D,
    dir: &Path,
    identity: &Identity,
    options: &LogOptions,
) -> Result<(), InitError> {
    init_at(disk, dir, identity, options, None, || Ok(()))
}

/// Makes a data directory whose log begins at `base`, if there is one, with all that `make_state` puts there. Only the last
/// name makes it a data directory.
pub(crate) fn init_at<D: Disk, E: From<InitError>>(
    disk: &D,
    dir: &Path,
    identity: &Identity,
    options: &LogOptions,
    base: Option<&Base>,
    make_state: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    begin(disk, dir, options)?;
    make_group(disk, dir, identity, options, base).map_err(InitError::Log)?;
    make_state()?;
    Ok(finish(disk, dir, identity).map_err(InitError::Log)?)
}

/// Takes an empty folder, and says that something is being made there.
fn begin<D: Disk>(disk: &D, dir: &Path, options: &LogOptions) -> Result<(), InitError> {
    options.check().map_err(InitError::Options)?;
    disk.create_dir(dir).map_err(LogError::io("create", dir))?;
    check_empty(disk, dir)?;
    let unfinished = dir.join(UNFINISHED);
    disk.create(&unfinished, 0).map_err(LogError::io("create", &unfinished))?;
    Ok(disk.sync_dir(dir).map_err(LogError::io("sync", dir))?)
}

fn make_group<D: Disk>(
    disk: &D,
    dir: &Path,
    identity: &Identity,
    options: &LogOptions,
    base: Option<&Base>,
) -> Result<(), LogError> {
    let (group, ids) = (options.group, log_ids(identity, options.group));
    let (bytes, content) = match base {
        None => (options.segment_bytes, Vec::new()),
        Some(base) => {
            let (at, batch, _) = beginning_at(ids, options, base, FIRST_SEGMENT, FIRST_SEQUENCE);
            (u64::from(at.segment_blocks) * BLOCK_BYTES as u64, batch.to_vec())
        }
    };
    SegmentFolder { disk: disk.clone(), path: group_path(dir, group) }.create(bytes, &content)?;
    // No entry may follow in an earlier term.
    let term = base.map(|base| base.position.term).unwrap_or_default();
    let hard_state = HardState { term, ..HardState::default() };
    HardStateFile::create(disk, &hard_state_path(dir, group), ids, hard_state)?;
    let folder = group_path(dir, group);
    disk.sync_dir(&folder).map_err(LogError::io("sync", &folder))?;
    let lock = dir.join(LOCK);
    disk.create(&lock, 0).map(drop).map_err(LogError::io("create", &lock))
}

/// Gives the folder its identity, when everything else is there.
fn finish<D: Disk>(disk: &D, dir: &Path, identity: &Identity) -> Result<(), LogError> {
    let new = dir.join(IDENTITY_NEW);
    make_text(disk, &new, &identity.to_text())?;
    disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        disk.sync_dir(parent).map_err(LogError::io("sync", parent))?;
    }
    disk.rename(&new, &dir.join(IDENTITY)).map_err(LogError::io("rename", &new))?;
    disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
    remove_marker(disk, dir)
}

fn make_text<D: Disk>(disk: &D, path: &Path, text: &str) -> Result<(), LogError> {
    let file = disk.create(path, text.len() as u64).map_err(LogError::io("create", path))?;
    file.write_at(text.as_bytes(), 0).map_err(LogError::io("write", path))?;
    file.sync_data().map_err(LogError::io("sync", path))
}

/// Keeps every server from starting on the data directory at `dir` from now on, for `reason`, durably. What is there stays as
/// it is. It does nothing if the directory is fenced already.
///
/// # Errors
/// If the disk fails. Then the directory is fenced or not.
pub fn fence<D: Disk>(disk: &D, dir: &Path, reason: &str) -> Result<(), LogError> {
    let (new, fenced) = (dir.join(FENCED_NEW), dir.join(FENCED));
    let names = disk.list(dir).map_err(LogError::io("list", dir))?;
    if names.iter().any(|name| name == FENCED) {
        return disk.sync_dir(dir).map_err(LogError::io("sync", dir));
    }
    if names.iter().any(|name| name == FENCED_NEW) {
        disk.remove(&new).map_err(LogError::io("remove", &new))?;
    }
    make_text(disk, &new, reason)?;
    disk.rename(&new, &fenced).map_err(LogError::io("rename", &new))?;
    disk.sync_dir(dir).map_err(LogError::io("sync", dir))
}

/// Why the data directory is fenced, if it is. A reason that cannot be read fences, too.
pub(crate) fn fenced<D: Disk>(disk: &D, dir: &Path, names: &[String]) -> Result<Option<String>, OpenError> {
    if !names.iter().any(|name| name == FENCED) {
        return Ok(None);
    }
    let text = read_text(disk, &dir.join(FENCED), FENCED_BYTES_MAX)?;
    Ok(Some(text.unwrap_or_else(|| "for a reason that cannot be read".to_owned())))
}

fn check_empty<D: Disk>(disk: &D, dir: &Path) -> Result<(), InitError> {
    let names = disk.list(dir).map_err(LogError::io("list", dir))?;
    let path = dir.to_owned();
    if names.iter().any(|name| name == IDENTITY) {
        return Err(match read_identity(disk, dir) {
            Ok(identity) => InitError::AlreadyInitialised { path, node: identity.node() },
            Err(_) => InitError::NotEmpty { path, found: IDENTITY.to_owned() },
        });
    }
    if names.iter().any(|name| name == UNFINISHED) {
        return Err(InitError::CutShort(path));
    }
    match names.into_iter().next() {
        Some(found) => Err(InitError::NotEmpty { path, found }),
        None => Ok(()),
    }
}

/// A data directory that is locked.
pub(crate) struct Locked<D: Disk> {
    pub(crate) lock: D::Lock,
    pub(crate) identity: Identity,
    /// What stands in it.
    pub(crate) names: Vec<String>,
}

/// Locks a data directory that a server is to start on, and reads whose it is.
pub(crate) fn open<D: Disk>(disk: &D, dir: &Path) -> Result<(D::Lock, Identity), OpenError> {
    let Locked { lock, identity, names } = lock(disk, dir)?;
    if let Some(reason) = fenced(disk, dir, &names)? {
        return Err(OpenError::Fenced { path: dir.to_owned(), reason });
    }
    if names.iter().any(|name| name == UNFINISHED) {
        // Its sync makes the name durable, too, that made this a data directory.
        remove_marker(disk, dir)?;
    }
    Ok((lock, identity))
}

/// Locks a data directory and reads whose it is. Nothing is changed, unless the file that is locked was lost.
pub(crate) fn lock<D: Disk>(disk: &D, dir: &Path) -> Result<Locked<D>, OpenError> {
    let names = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::NotInitialised(dir.to_owned()));
        }
        names => names.map_err(LogError::io("list", dir))?,
    };
    let there = |name: &str| names.iter().any(|there| there == name);
    if !there(IDENTITY) {
        let path = dir.to_owned();
        let cut_short = there(UNFINISHED);
        return Err(if cut_short { OpenError::InitCutShort(path) } else { OpenError::NotInitialised(path) });
    }
    let path = dir.join(LOCK);
    let lock = match disk.lock(&path) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(OpenError::Locked(dir.to_owned()));
        }
        lock => lock.map_err(LogError::io("lock", &path))?,
    };
    let identity = read_identity(disk, dir)?;
    Ok(Locked { lock, identity, names })
}

fn remove_marker<D: Disk>(disk: &D, dir: &Path) -> Result<(), LogError> {
    let unfinished = dir.join(UNFINISHED);
    disk.remove(&unfinished).map_err(LogError::io("remove", &unfinished))?;
    disk.sync_dir(dir).map_err(LogError::io("sync", dir))
}

fn read_identity<D: Disk>(disk: &D, dir: &Path) -> Result<Identity, OpenError> {
    let path = dir.join(IDENTITY);
    let refused = |source| match source {
        IdentityError::UnknownVersion(version) => {
            OpenError::UnknownVersion { path: path.clone(), version, known: Identity::VERSION }
        }
        source => OpenError::Identity { path: path.clone(), source },
    };
    let text = read_text(disk, &path, IDENTITY_BYTES_MAX)?;
    let text = text.ok_or_else(|| refused(IdentityError::Checksum))?;
    Identity::parse(&text).map_err(refused)
}

/// What a file says, as far as `bytes_max`; `None`: it is no text.
fn read_text<D: Disk>(disk: &D, path: &Path, bytes_max: u64) -> Result<Option<String>, LogError> {
    let file = disk.open(path).map_err(LogError::io("open", path))?;
    let len = file.size_bytes().map_err(LogError::io("look at", path))?.min(bytes_max);
    let mut text = vec![0; usize::try_from(len).expect("at most 1 MiB")];
    file.read_at(&mut text, 0).map_err(LogError::io("read", path))?;
    Ok(String::from_utf8(text).ok())
}
