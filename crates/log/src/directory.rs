//! The data directory: made once, crash-safe, and open in one process at a time.
//!
//! ```text
//! DIR/identity            who this node is; its name is given last, and makes the directory one
//! DIR/init-unfinished     there while `init` is at work
//! DIR/lock                locked while a process has the directory open
//! DIR/group-1/hard-state
//! DIR/group-1/segment-000000000001 …
//! DIR/group-1/aside/      copies of what was cut from the log
//! ```

use std::io;
use std::path::{Path, PathBuf};

use raftmap_raft::GroupId;

use crate::batch::LogIds;
use crate::disk::{Disk, DiskFile};
use crate::error::{IdentityError, InitError, LogError, OpenError};
use crate::hard_state::HardStateFile;
use crate::identity::Identity;
use crate::options::LogOptions;
use crate::segment::SegmentFolder;

const IDENTITY: &str = "identity";
const IDENTITY_NEW: &str = "identity.new";
const UNFINISHED: &str = "init-unfinished";
const LOCK: &str = "lock";
const HARD_STATE: &str = "hard-state";
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
    options.check().map_err(InitError::Options)?;
    disk.create_dir(dir).map_err(LogError::io("create", dir))?;
    check_empty(disk, dir)?;
    let unfinished = dir.join(UNFINISHED);
    disk.create(&unfinished, 0).map_err(LogError::io("create", &unfinished))?;
    disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;

    let group = options.group;
    SegmentFolder { disk: disk.clone(), path: group_path(dir, group) }.create(options.segment_bytes)?;
    HardStateFile::create(disk, &hard_state_path(dir, group), log_ids(identity, group))?;
    let folder = group_path(dir, group);
    disk.sync_dir(&folder).map_err(LogError::io("sync", &folder))?;
    let lock = dir.join(LOCK);
    disk.create(&lock, 0).map_err(LogError::io("create", &lock))?;

    let (text, new) = (identity.to_text(), dir.join(IDENTITY_NEW));
    let file = disk.create(&new, text.len() as u64).map_err(LogError::io("create", &new))?;
    file.write_at(text.as_bytes(), 0).map_err(LogError::io("write", &new))?;
    file.sync_data().map_err(LogError::io("sync", &new))?;
    disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        disk.sync_dir(parent).map_err(LogError::io("sync", parent))?;
    }
    disk.rename(&new, &dir.join(IDENTITY)).map_err(LogError::io("rename", &new))?;
    disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
    remove_marker(disk, dir)?;
    Ok(())
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

/// Locks a data directory and reads whose it is.
pub(crate) fn open<D: Disk>(disk: &D, dir: &Path) -> Result<(D::Lock, Identity), OpenError> {
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
    if there(UNFINISHED) {
        // Its sync makes the name durable, too, that made this a data directory.
        remove_marker(disk, dir)?;
    }
    Ok((lock, identity))
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
    let file = disk.open(&path).map_err(LogError::io("open", &path))?;
    let len = file.size_bytes().map_err(LogError::io("look at", &path))?.min(IDENTITY_BYTES_MAX);
    let mut text = vec![0; usize::try_from(len).expect("at most 1 MiB")];
    file.read_at(&mut text, 0).map_err(LogError::io("read", &path))?;
    let text = String::from_utf8(text).map_err(|_| refused(IdentityError::Checksum))?;
    Identity::parse(&text).map_err(refused)
}
